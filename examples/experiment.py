"""What every example does beside its algorithm: arguments, progress, records, score, curve, video.

What a run leaves behind stands in ``<log_dir>/<algorithm>_<env>_seed<seed>/``: the settings, the
numbers as CSV files, the learning curve, a video of the trained policy and its weights.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from tensordict import TensorDictBase
from torch import Tensor, nn
from tqdm import tqdm

from torchrl.envs import GymEnv, TransformedEnv, set_exploration_type
from torchrl.record import CSVLogger, VideoRecorder

MakeEnv = Callable[[], TransformedEnv]
Curve = list[tuple[int, float]]  # (frames, mean return of the episodes that ended then)
A = TypeVar("A")


class Settings(Protocol):
    """What the ``Args`` of every example have."""

    env: str
    seed: int
    total_frames: int
    eval_episodes: int
    video: bool
    log_dir: str


def parse(
    kind: type[A],
    doc: str,
    argv: list[str] | None = None,
    tasks: dict[str, dict[str, Any]] | None = None,
) -> A:
    """Read a dataclass of settings from the command line.

    Args:
        kind: The dataclass; each field has a default.
        doc: Description, of which the first line is shown.
        argv: Arguments; those of the process if ``None``.
        tasks: What an environment (its name without version) changes; the command line wins.
    """
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    for field in fields(kind):  # type: ignore[arg-type]
        parser.add_argument(
            f"--{field.name}", type=_convert(type(field.default)), default=argparse.SUPPRESS
        )
    given = vars(parser.parse_args(argv))
    name = given.get("env", getattr(kind, "env", "")).rpartition("-v")[0]
    return kind(**{**(tasks or {}).get(name, {}), **given})


def _convert(kind: type) -> Any:
    return (lambda text: text.lower() in ("1", "true", "yes")) if kind is bool else kind


class Experiment:
    """One training run: seeds torch, counts frames, keeps numbers, ends with a score.

    Args:
        algorithm: Its name.
        args: The settings; all of them are kept.
    """

    def __init__(self, algorithm: str, args: Settings) -> None:
        torch.manual_seed(args.seed)
        torch.set_num_threads(1)  # small networks are faster so
        if "DISPLAY" not in os.environ:
            os.environ.setdefault("MUJOCO_GL", "egl")  # simulators then draw without a screen
            os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
        self.args = args
        self.title = f"{algorithm.upper()} on {args.env}, seed {args.seed}"
        name = _unused(Path(args.log_dir), f"{algorithm}_{args.env}_seed{args.seed}")
        self.logger = CSVLogger(name, args.log_dir, video_format="gif")
        self.logger.log_hparams(args)
        self.folder: Path = self.logger.experiment
        self.curve: Curve = []
        self.frames, self.start, self.start_of_work = 0, time.perf_counter(), time.process_time()
        self.bar = tqdm(total=args.total_frames, unit=" frames", unit_scale=True)

    def log(self, batch: TensorDictBase, **metrics: float | Tensor) -> None:
        """Count a collected batch, and keep its returns and other numbers.

        Reads: ``next.reward``, ``next.done``, ``next.episode_reward``, all ``[*B, 1]``.
        """
        self.frames += batch.numel()
        elapsed = time.perf_counter() - self.start
        metrics |= {
            "reward": batch["next", "reward"].mean(),
            "frames_per_second": self.frames / elapsed,
        }
        returns = batch["next", "episode_reward"][batch["next", "done"]]
        if len(returns):
            metrics["episode_return"] = returns.mean()
            self.curve.append((self.frames, returns.mean().item()))
            recent = [value for _, value in self.curve[-10:]]
            self.bar.set_postfix_str(f"return {sum(recent) / len(recent):.1f}")
        self.bar.update(batch.numel())
        self.logger.log_metrics({"train": metrics}, self.frames)

    def finish(
        self, env: TransformedEnv, policy: nn.Module, make_test: MakeEnv | None = None
    ) -> float:
        """Write score, curve, video and weights; return the mean return of the evaluation.

        Args:
            env: The training environment, whose transforms are used again.
            policy: What is judged, and saved.
            make_test: Returns an environment of ``eval_episodes`` rows that shows them as
                ``pixels``, for a task that gymnasium does not have.
        """
        self.bar.close()
        minutes = (time.process_time() - self.start_of_work) / 60
        returns = evaluate(env, policy, self.args, make_test)
        score = returns.mean().item()
        self.logger.log_metrics({"eval": {"return": score, "minutes": minutes}}, self.frames)
        plot({f"seed {self.args.seed}": self.curve}, self.folder / "learning_curve.png", self.title)
        torch.save(policy.state_dict(), self.folder / "policy.pt")
        if self.args.video:
            self._film(env, policy, make_test)
        print(f"results in {self.folder}")
        print(
            f"evaluation: {score:.1f} ± {returns.std():.1f} over {len(returns)} deterministic "
            f"episodes of {self.args.env}, after {minutes:.1f} minutes of processor time"
        )
        return score

    def _film(self, env: TransformedEnv, policy: nn.Module, make_test: MakeEnv | None) -> None:
        try:
            film(env, policy, self.logger, self.args, make_test)
        except Exception as error:  # a machine that cannot draw has trained a policy all the same
            print(f"no video: {error}")


def _unused(folder: Path, name: str) -> str:
    """Return the name, numbered if there is something of that name already."""
    names = [name, *(f"{name}_{i}" for i in range(2, 1000))]
    return next(free for free in names if not (folder / free).exists())


def twin(env: TransformedEnv, args: Settings, **options: Any) -> TransformedEnv:
    """Return the task of ``env`` once more, seen in the same way; ``options`` of ``GymEnv``."""
    return TransformedEnv(GymEnv(args.env, **options), env.transform.clone())


@torch.no_grad()
def evaluate(
    env: TransformedEnv, policy: nn.Module, args: Settings, make_test: MakeEnv | None = None
) -> Tensor:
    """Return the returns ``[N]`` of deterministic episodes, all run at once."""
    test_env = make_test() if make_test else twin(env, args, num_envs=args.eval_episodes)
    test_env.set_seed(args.seed + 1_000_000)
    with set_exploration_type("deterministic"):
        episodes = test_env.rollout(100_000, policy, break_when_all_done=True)
    test_env.close()
    return episodes["next", "episode_reward"][:, -1, 0]


@torch.no_grad()
def film(
    env: TransformedEnv,
    policy: nn.Module,
    logger: CSVLogger,
    args: Settings,
    make_test: MakeEnv | None = None,
) -> None:
    """Write a video of one deterministic episode, or of all rows of a test environment."""
    camera = make_test() if make_test else twin(env, args, from_pixels=True, pixels_only=False)
    recorder = VideoRecorder(logger, "policy", skip=1 if make_test else 2, max_frames=250)
    camera.append_transform(recorder)
    camera.set_seed(args.seed + 1_000_000)
    with set_exploration_type("deterministic"):
        camera.rollout(500, policy)
    recorder.dump(step=args.total_frames)
    camera.close()


def plot(curves: dict[str, Curve], path: Path, title: str) -> None:
    """Draw returns against frames: each point faintly, the mean of the last twentieth on top."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - only the plot needs it

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for i, (name, curve) in enumerate(curves.items()):
        frames = [frame for frame, _ in curve]
        returns = [value for _, value in curve]
        window = max(5, len(returns) // 20)
        parts = [returns[max(0, end - window) : end] for end in range(1, len(returns) + 1)]
        axes.plot(frames, returns, color=f"C{i}", alpha=0.2)
        axes.plot(frames, [sum(part) / len(part) for part in parts], color=f"C{i}", label=name)
    axes.set(xlabel="frames", ylabel="episode return", title=title)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=100)
