"""PPO in one file: CartPole-v1 in half a minute, or a MuJoCo task with its own arguments.

    python examples/ppo.py
    python examples/ppo.py --env InvertedDoublePendulum-v5 --total_frames 50000

Writes ``runs/<name>/`` with the numbers as CSV, a learning curve and a video of the trained policy,
and prints the mean return of 100 deterministic episodes.

Source: Schulman et al., 2017, https://arxiv.org/abs/1707.06347.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from tensordict import TensorDictBase
from tensordict.nn import NormalParamExtractor, TensorDictModule
from torch import nn
from tqdm import tqdm

from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, SamplerWithoutReplacement, TensorDictReplayBuffer
from torchrl.envs import (
    Compose,
    DoubleToFloat,
    GymEnv,
    ObservationNorm,
    RewardSum,
    StepCounter,
    TransformedEnv,
    set_exploration_type,
)
from torchrl.modules import MLP, OneHotCategorical, ProbabilisticActor, TanhNormal, ValueOperator
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE
from torchrl.record import CSVLogger, VideoRecorder

Curve = list[tuple[int, float]]  # (frames, return of the episodes that ended then)


@dataclass
class Args:
    """Everything one may want to change; the defaults solve CartPole-v1."""

    env: str = "CartPole-v1"
    seed: int = 0
    total_frames: int = 100_000
    num_envs: int = 8
    frames_per_batch: int = 400
    minibatch_size: int = 100
    num_epochs: int = 10
    lr: float = 1e-3
    gamma: float = 0.98
    lmbda: float = 0.9
    clip_epsilon: float = 0.2
    entropy_coeff: float = 0.0
    critic_coeff: float = 0.5
    max_grad_norm: float = 0.5
    num_cells: int = 64
    depth: int = 2
    normalize_observations: bool = False
    eval_episodes: int = 100
    log_dir: str = "runs"


TASKS = {  # what another task changes
    "InvertedDoublePendulum": {
        "total_frames": 50_000,
        "num_envs": 1,
        "frames_per_batch": 1000,
        "minibatch_size": 64,
        "lr": 3e-4,
        "gamma": 0.99,
        "lmbda": 0.95,
        "entropy_coeff": 1e-4,
        "critic_coeff": 1.0,
        "max_grad_norm": 1.0,
        "num_cells": 256,
        "depth": 3,
        "normalize_observations": True,
    }
}


def make_env(args: Args) -> TransformedEnv:
    """Return the training environment, ``num_envs`` copies in one."""
    env = TransformedEnv(
        GymEnv(args.env, num_envs=args.num_envs),
        Compose(DoubleToFloat(), StepCounter(), RewardSum()),
    )
    env.set_seed(args.seed)
    if args.normalize_observations:
        norm = ObservationNorm(in_keys=["observation"])
        env.append_transform(norm)
        norm.init_stats(1000, reduce_dim=(0, 1))
    return env


def make_networks(env: TransformedEnv, args: Args) -> tuple[ProbabilisticActor, ValueOperator]:
    """Return the policy, which writes ``action``, and the critic, which writes ``state_value``."""
    spec = env.action_spec_unbatched
    num_obs = env.observation_spec["observation"].shape[-1]
    cells = [args.num_cells] * args.depth
    discrete = spec.domain == "discrete"
    num_out = spec.shape[-1] if discrete else 2 * spec.shape[-1]
    actor_net: nn.Module = MLP(num_obs, num_out, num_cells=cells, activation_class=nn.Tanh)
    if not discrete:
        actor_net = nn.Sequential(actor_net, NormalParamExtractor())
    params = ["logits"] if discrete else ["loc", "scale"]
    actor = ProbabilisticActor(
        TensorDictModule(actor_net, in_keys=["observation"], out_keys=params),
        in_keys=params,
        spec=spec,
        distribution_class=OneHotCategorical if discrete else TanhNormal,
        return_log_prob=True,
    )
    critic_net = MLP(num_obs, 1, num_cells=cells, activation_class=nn.Tanh)
    return actor, ValueOperator(critic_net, in_keys=["observation"])


@torch.no_grad()
def evaluate(env: TransformedEnv, actor: ProbabilisticActor, args: Args) -> torch.Tensor:
    """Return the returns ``[N]`` of deterministic episodes, all run at once."""
    test_env = GymEnv(args.env, num_envs=args.eval_episodes)
    test_env = TransformedEnv(test_env, env.transform.clone())
    test_env.set_seed(args.seed + 1_000_000)
    with set_exploration_type("deterministic"):
        episodes = test_env.rollout(100_000, actor, break_when_all_done=True)
    test_env.close()
    return episodes["next", "episode_reward"][:, -1, 0]


@torch.no_grad()
def film(env: TransformedEnv, actor: ProbabilisticActor, logger: CSVLogger, args: Args) -> None:
    """Write a video of one deterministic episode."""
    camera = TransformedEnv(
        GymEnv(args.env, from_pixels=True, pixels_only=False), env.transform.clone()
    )
    recorder = VideoRecorder(logger, "policy", skip=2, max_frames=250)
    camera.append_transform(recorder)
    with set_exploration_type("deterministic"):
        camera.rollout(500, actor)
    recorder.dump(step=args.total_frames)
    camera.close()


def plot(curve: Curve, path: Path, args: Args) -> None:
    """Draw the return of the episodes that ended in each batch against the frames."""
    import matplotlib  # noqa: PLC0415 - only the plot needs it

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt  # noqa: PLC0415

    frames, returns = zip(*curve, strict=True) if curve else ((), ())
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    axes.plot(frames, returns)
    axes.set(xlabel="frames", ylabel="episode return", title=f"PPO on {args.env}, seed {args.seed}")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def ended(batch: TensorDictBase) -> torch.Tensor:
    """Return the returns of the episodes that ended in a batch."""
    return batch["next", "episode_reward"][batch["next", "done"]]


def train(env: TransformedEnv, loss_module: ClipPPOLoss, logger: CSVLogger, args: Args) -> Curve:
    """Train actor and critic in place; return the learning curve."""
    actor, critic = loss_module.actor_network, loss_module.critic_network
    advantage = GAE(gamma=args.gamma, lmbda=args.lmbda, value_network=critic)
    collector = Collector(
        env, actor, frames_per_batch=args.frames_per_batch, total_frames=args.total_frames
    )
    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(args.frames_per_batch),
        sampler=SamplerWithoutReplacement(),
        batch_size=args.minibatch_size,
    )
    optimizer = torch.optim.Adam(loss_module.parameters(), lr=args.lr, eps=1e-5)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, len(collector))

    curve: Curve = []
    frames, start = 0, time.perf_counter()
    bar = tqdm(total=args.total_frames, unit=" frames", unit_scale=True)
    for batch in collector:
        advantage(batch)
        buffer.extend(batch.reshape(-1))
        for _ in range(args.num_epochs):
            for minibatch in buffer:
                losses = loss_module(minibatch)
                loss = losses["loss_objective"] + losses["loss_critic"] + losses["loss_entropy"]
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(loss_module.parameters(), args.max_grad_norm)
                optimizer.step()
        scheduler.step()

        frames += batch.numel()
        metrics = {
            "train/reward": batch["next", "reward"].mean().item(),
            "train/max_step_count": batch["next", "step_count"].max().item(),
            "train/loss": loss.item(),
            "train/frames_per_second": frames / (time.perf_counter() - start),
        }
        returns = ended(batch)
        if len(returns):
            metrics["train/episode_return"] = returns.mean().item()
            curve.append((frames, metrics["train/episode_return"]))
            bar.set_postfix_str(f"return {curve[-1][1]:.1f}")
        bar.update(batch.numel())
        logger.log_scalars(metrics, frames)
    bar.close()
    collector.shutdown()
    return curve


def report(
    env: TransformedEnv, loss_module: ClipPPOLoss, curve: Curve, logger: CSVLogger, args: Args
) -> float:
    """Write evaluation, video, curve and weights; return the mean evaluation return."""
    actor = loss_module.actor_network
    returns = evaluate(env, actor, args)
    logger.log_scalar("eval/return", returns.mean(), args.total_frames)
    try:
        film(env, actor, logger, args)
    except Exception as error:  # a machine that cannot draw has trained a policy all the same
        print(f"no video: {error}")
    plot(curve, Path(logger.experiment) / "learning_curve.png", args)
    torch.save(loss_module.state_dict(), Path(logger.experiment) / "model.pt")
    print(f"results in {logger.experiment}")
    print(
        f"evaluation: {returns.mean():.1f} ± {returns.std():.1f} "
        f"over {len(returns)} deterministic episodes of {args.env}"
    )
    return returns.mean().item()


def main(args: Args) -> float:
    """Train, write the results, and return the mean evaluation return."""
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)  # small networks are faster so
    if "DISPLAY" not in os.environ:
        os.environ.setdefault("MUJOCO_GL", "egl")  # MuJoCo then draws without a screen

    env = make_env(args)
    actor, critic = make_networks(env, args)
    loss_module = ClipPPOLoss(
        actor,
        critic,
        clip_epsilon=args.clip_epsilon,
        entropy_coeff=args.entropy_coeff,
        critic_coeff=args.critic_coeff,
        loss_critic_type="l2",
        normalize_advantage=True,
    )
    logger = CSVLogger(f"ppo_{args.env}_seed{args.seed}", args.log_dir, video_format="gif")
    logger.log_hparams(args)
    curve = train(env, loss_module, logger, args)
    return report(env, loss_module, curve, logger, args)


def parse(argv: list[str] | None = None) -> Args:
    """Read the command line; a task's own values come before the defaults."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for field in fields(Args):
        kind = type(field.default)
        convert = (lambda text: text.lower() in ("1", "true", "yes")) if kind is bool else kind
        parser.add_argument(f"--{field.name}", type=convert, default=argparse.SUPPRESS)
    given = vars(parser.parse_args(argv))
    name = given.get("env", Args.env).rpartition("-v")[0]
    return Args(**{**TASKS.get(name, {}), **given})


if __name__ == "__main__":
    main(parse())
