"""One training run: seeds, progress bar, CSV files, evaluation, learning curve, video, weights.

What a training script needs beside its algorithm::

    args = parse_args(Args, __doc__)
    run = Experiment("sac", args)
    for batch in collector:
        ...
        run.log(batch, **losses)
    score = run.finish(env, policy)
"""

from __future__ import annotations

import argparse
import copy
import inspect
import os
import random
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from tensordict import TensorDictBase
from torch import Tensor, nn
from tqdm import tqdm

from torchrl._core.exploration import set_exploration_type
from torchrl._core.keys import require
from torchrl._core.log import logger as log
from torchrl._core.optional import require_package
from torchrl.envs import EnvBase, GymEnv, TransformedEnv
from torchrl.record.loggers import CSVLogger
from torchrl.record.recorder import VideoRecorder

Curve = list[tuple[int, float]]  # (frames, mean return of the episodes that ended since)
A = TypeVar("A")

EVAL_SEED = 1_000_000  # added to the seed of a run, for episodes that training did not see


class Settings(Protocol):
    """The settings of a run that :class:`Experiment` reads; a dataclass with these fields."""

    env: str
    seed: int
    total_frames: int
    eval_episodes: int
    video: bool
    log_dir: str


def parse_args(kind: type[A], description: str | None = None, argv: list[str] | None = None) -> A:
    """Read a dataclass from the command line: ``--name value`` for each of its fields.

    ``--help`` lists the fields with their defaults and the comments behind them in the source.

    Args:
        kind: The dataclass. Each field has a default: a bool, an int, a float or a str.
        description: Its first line is shown by ``--help``.
        argv: The arguments; those of the process if ``None``.

    >>> from dataclasses import dataclass
    >>> @dataclass
    ... class Args:
    ...     lr: float = 1e-3
    ...     video: bool = True
    >>> parse_args(Args, argv=["--lr", "0.01", "--video", "false"])
    Args(lr=0.01, video=False)
    """
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    try:
        comments = dict(re.findall(r"^ +(\w+):.*?  # (.+)$", inspect.getsource(kind), re.MULTILINE))
    except (OSError, TypeError):  # defined at a prompt
        comments = {}
    for field in fields(kind):  # type: ignore[arg-type]
        comment = comments.get(field.name, "").replace("%", "%%")
        convert = type(field.default)
        parser.add_argument(
            f"--{field.name}",
            type=_boolean if convert is bool else convert,
            default=field.default,
            metavar=convert.__name__,
            help=f"{comment} (default: {field.default})".lstrip(),
        )
    return kind(**vars(parser.parse_args(argv)))


def _boolean(text: str) -> bool:
    values = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    if text.lower() not in values:
        raise argparse.ArgumentTypeError(f"expected true or false, found {text!r}")
    return values[text.lower()]


class Experiment:
    """The record of one training run, in the folder ``<log_dir>/<algorithm>_<env>_seed<seed>``.

    ======================  ========================================================
    ``hparams.json``        the settings
    ``scalars/train``       a CSV file for each number that :meth:`log` is given
    ``scalars/eval``        mean return of the evaluation, minutes of processor time
    ``learning_curve.png``  the returns of training, if matplotlib is installed
    ``videos``              an episode of the trained policy, if ``args.video``
    ``policy.pt``           the state dict of the policy
    ======================  ========================================================

    A second run of the same name gets a number behind it. Constructing an experiment seeds Python,
    numpy and torch with ``args.seed`` and, on a machine without a display, sets ``MUJOCO_GL`` and
    ``SDL_VIDEODRIVER`` such that simulators render offscreen.

    Args:
        algorithm: Its name.
        args: The settings, a dataclass that has those of :class:`Settings` among its fields.
        num_threads: Threads of torch. One is fastest for small networks; ``None`` changes nothing.

    Attributes:
        frames: Number of frames logged so far.
        curve: ``(frames, mean return)`` of each batch in which an episode ended.
        folder: Path of the folder.
        logger: The :class:`~torchrl.record.CSVLogger` of the folder.

    >>> import tempfile
    >>> from dataclasses import dataclass
    >>> from torchrl.envs import RewardSum
    >>> @dataclass
    ... class Args:
    ...     env: str = "CartPole-v1"
    ...     seed: int = 0
    ...     total_frames: int = 100
    ...     eval_episodes: int = 2
    ...     video: bool = False
    ...     log_dir: str = tempfile.mkdtemp()
    >>> run = Experiment("random", Args())
    >>> env = TransformedEnv(GymEnv("CartPole-v1"), RewardSum())
    >>> run.log(env.rollout(100, break_when_any_done=False), loss=0.5)
    >>> run.frames, run.folder.name
    (100, 'random_CartPole-v1_seed0')
    """

    def __init__(self, algorithm: str, args: Settings, num_threads: int | None = 1) -> None:
        random.seed(args.seed)
        np.random.seed(args.seed)
        torch.manual_seed(args.seed)
        if num_threads is not None:
            torch.set_num_threads(num_threads)
        if "DISPLAY" not in os.environ:
            os.environ.setdefault("MUJOCO_GL", "egl")
            os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
        self.args = args
        self.title = f"{algorithm.upper()} on {args.env}, seed {args.seed}"
        first = f"{algorithm}_{args.env}_seed{args.seed}"
        names = (first, *(f"{first}_{i}" for i in range(2, 1000)))
        name = next(name for name in names if not Path(args.log_dir, name).exists())
        self.logger = CSVLogger(name, args.log_dir, video_format="gif")
        self.logger.log_hparams(args)
        self.folder: Path = self.logger.experiment
        self.curve: Curve = []
        self.frames, self._start, self._cpu_start = 0, time.perf_counter(), time.process_time()
        rate = "{l_bar}{bar}| {n_fmt} [{remaining} left, {rate_noinv_fmt}{postfix}]"  # never seconds a frame
        self._bar = tqdm(total=args.total_frames, unit=" frames", unit_scale=True, bar_format=rate)

    def log(self, batch: TensorDictBase, **metrics: float | Tensor) -> None:
        """Count the frames of a collected batch; log its rewards, returns and other numbers.

        Args:
            batch: Steps ``[*B]``.
            **metrics: Numbers by name, such as the output of a loss: ``**losses``. The sum of the
                terms ``loss_*`` is logged as ``loss``, a tensor of several elements by its mean.

        Reads: ``next.reward``, ``next.done``, ``next.episode_reward``, all ``[*B, 1]``.
        """
        self.frames += batch.numel()
        terms = [value for name, value in metrics.items() if name.startswith("loss_")]
        if terms and "loss" not in metrics:
            metrics["loss"] = sum(terms)
        for name, value in metrics.items():
            if isinstance(value, Tensor) and value.numel() > 1:
                metrics[name] = value.float().mean()
        metrics["reward"] = batch["next", "reward"].mean()
        metrics["frames_per_second"] = self.frames / (time.perf_counter() - self._start)
        returns = batch["next", "episode_reward"][batch["next", "done"]]  # [N] ended episodes
        if len(returns):
            metrics["episode_return"] = returns.mean()
            self.curve.append((self.frames, returns.mean().item()))
            recent = [value for _, value in self.curve[-10:]]
            self._bar.set_postfix_str(f"return {sum(recent) / len(recent):.1f}")
        self._bar.update(batch.numel())
        self.logger.log_metrics({"train": metrics}, self.frames)

    def finish(
        self, env: TransformedEnv, policy: nn.Module, make_eval_env: Callable[[], TransformedEnv] | None = None
    ) -> float:
        """Evaluate the policy, write score, learning curve, weights and video; return the score.

        The score is the mean return of ``args.eval_episodes`` deterministic episodes.

        Args:
            env: The training environment. A copy of its transforms, around new environments
                ``GymEnv(args.env)``, is what the policy is evaluated in.
            policy: The policy, without exploration.
            make_eval_env: For tasks that are not of gymnasium: return an environment of
                ``args.eval_episodes`` rows, with their images under ``pixels``.
        """
        self._bar.close()
        args, minutes = self.args, (time.process_time() - self._cpu_start) / 60

        def eval_env(**options: Any) -> TransformedEnv:
            test = (
                TransformedEnv(GymEnv(args.env, device=env.device, **options), copy.deepcopy(env.transform.clone()))
                if make_eval_env is None
                else make_eval_env()
            )
            test.set_seed(args.seed + EVAL_SEED)
            return test

        test = eval_env(num_envs=args.eval_episodes)
        returns = evaluate_policy(test, policy)
        test.close()
        score = returns.mean().item()
        self.logger.log_metrics({"eval": {"return": score, "minutes": minutes}}, self.frames)
        torch.save(policy.state_dict(), self.folder / "policy.pt")
        try:
            plot_curves({f"seed {args.seed}": self.curve}, self.folder / "learning_curve.png", self.title)
        except ImportError as error:
            log.warning("Experiment: no learning curve: %s", error)
        if args.video:
            try:
                # one episode, or one of each row of an environment that has several
                skip = 2 if make_eval_env is None else 1
                recorder = VideoRecorder(self.logger, "policy", skip=skip, max_frames=250)
                camera = eval_env(from_pixels=True, pixels_only=False)
                camera.append_transform(recorder)
                evaluate_policy(camera, policy, max_steps=500)
                recorder.dump(step=args.total_frames)
                camera.close()
            except Exception as error:  # a machine that cannot render has trained the policy
                log.warning("Experiment: no video: %s", error)
        tqdm.write(
            f"results in {self.folder}\n"
            f"evaluation: {score:.1f} ± {returns.std():.1f} over {len(returns)} deterministic "
            f"episodes of {args.env}, after {minutes:.1f} minutes of processor time"
        )
        return score


@torch.no_grad()
def evaluate_policy(env: EnvBase, policy: Callable[..., object] | None, max_steps: int = 100_000) -> Tensor:
    """Return the returns ``[N]`` of one deterministic episode in each row of an environment.

    Args:
        env: An environment of batch size ``[N]`` that writes ``next.episode_reward [N, 1]``, as
            :class:`~torchrl.envs.RewardSum` does; without a batch size, one episode.
        policy: The policy; random actions if ``None``.
        max_steps: Most steps of an episode.

    Raises:
        MissingKeyError: if the environment does not sum its rewards.

    >>> from torchrl.envs import RewardSum
    >>> env = TransformedEnv(GymEnv("CartPole-v1", num_envs=3), RewardSum())
    >>> evaluate_policy(env, None).shape
    torch.Size([3])
    """
    with set_exploration_type("deterministic"):
        episodes = env.rollout(max_steps, policy, break_when_all_done=True)
    require(episodes, [("next", "episode_reward")], "evaluate_policy", "Append RewardSum() to the environment.")
    return episodes["next", "episode_reward"][..., -1, 0].reshape(-1)


def plot_curves(curves: Mapping[str, Curve], path: str | Path, title: str) -> None:
    """Plot returns against frames: each return faintly, the mean of the last twentieth opaquely.

    Args:
        curves: ``(frames, return)`` of each run, by its label.
        path: Where the image is written.
        title: Title of the plot.

    Raises:
        ImportError: if matplotlib is not installed.

    >>> import tempfile
    >>> path = f"{tempfile.mkdtemp()}/returns.png"
    >>> plot_curves({"seed 0": [(0, 10.0), (100, 50.0), (200, 90.0)]}, path, "CartPole-v1")
    """
    matplotlib = require_package("matplotlib.figure", needed_by="plot_curves", extra="rendering")
    figure = matplotlib.Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for i, (label, curve) in enumerate(curves.items()):
        frames = [frame for frame, _ in curve]
        returns = [value for _, value in curve]
        window = max(5, len(returns) // 20)
        parts = [returns[max(0, end - window) : end] for end in range(1, len(returns) + 1)]
        axes.plot(frames, returns, color=f"C{i}", alpha=0.2)
        marker = "o" if len(curve) == 1 else ""  # a line of one point is not seen
        axes.plot(frames, [sum(part) / len(part) for part in parts], color=f"C{i}", label=label, marker=marker)
    axes.set(xlabel="frames", ylabel="episode return", title=title)
    axes.grid(alpha=0.3)
    if curves:  # a short run ends no episode
        axes.legend()
    figure.savefig(path, dpi=100)
