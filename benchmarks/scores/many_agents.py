"""Teams of agents: one run of MAPPO, IPPO, QMIX, MADDPG or MASAC, whose parts ``docs/guide/many_agents.md`` explains.

Agents share weights; critics of all but IPPO see the whole team. Returns are means over the
agents.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from tensordict import TensorDictBase
from tensordict.nn import NormalParamExtractor, TensorDictModule, TensorDictModuleBase, TensorDictSequential
from torch import Tensor, nn

from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
from torchrl.envs import (
    EnvBase,
    ExplorationType,
    PettingZooEnv,
    RewardSum,
    SerialEnv,
    TransformedEnv,
    VmasEnv,
    set_exploration_type,
)
from torchrl.modules import (
    AdditiveGaussianModule,
    EGreedyModule,
    MultiAgentMLP,
    ProbabilisticActor,
    QMixer,
    QValueModule,
    TanhModule,
    TanhNormal,
)
from torchrl.objectives import DDPGLoss, IPPOLoss, LossModule, MAPPOLoss, QMixerLoss, SACLoss, SoftUpdate

ALGORITHMS = ("mappo", "ippo", "qmix", "maddpg", "masac")
EPISODE = {"vmas": 100, "mpe": 25}  # steps


@dataclass(frozen=True)
class Settings:
    """Those of a run."""

    num_envs: int = 60  # worlds that step together
    frames_per_batch: int = 6_000  # environment steps of all worlds between updates
    num_epochs: int = 15  # passes over a batch; on-policy
    minibatch_size: int = 600  # on-policy
    updates: int = 200  # gradient steps after a batch; off-policy
    batch_size: int = 256  # off-policy
    buffer_size: int = 500_000  # off-policy
    lr: float = 3e-4
    gamma: float = 0.99
    lmbda: float = 0.9
    tau: float = 0.005  # share of the trained weights in each update of the targets
    num_cells: int = 128  # units of each of two hidden layers
    max_grad_norm: float = 5.0


def make_env(task: str, num_envs: int, discrete: bool, seed: int) -> TransformedEnv:
    """Return worlds of a task, ``"vmas/..."`` or ``"mpe/..."``, that step together.

    Args:
        task: Its name.
        num_envs: Number of worlds.
        discrete: Whether the agents choose among a few actions.
        seed: Seed of the worlds.
    """
    family, name = task.split("/")
    length = EPISODE[family]
    if family == "vmas":
        env: EnvBase = VmasEnv(name, num_envs=num_envs, continuous_actions=not discrete, max_steps=length, seed=seed)
    else:
        options = {"parallel": True, "max_cycles": length, "continuous_actions": not discrete}
        env = SerialEnv(num_envs, partial(PettingZooEnv, name, categorical_actions=False, **options))
        env.set_seed(seed)
    group = env.action_key[0]
    return TransformedEnv(env, RewardSum(in_keys=[(group, "reward")], out_keys=[(group, "episode_reward")]))


class TeamCritic(nn.Module):
    """Values of each agent, of the observations and actions of the whole team."""

    def __init__(self, net: MultiAgentMLP) -> None:
        super().__init__()
        self.net = net

    def forward(self, observation: Tensor, action: Tensor) -> Tensor:
        """Return values ``[..., agents, 1]``."""
        return self.net(torch.cat([observation, action], -1))


@dataclass
class Team:
    """What an algorithm consists of.

    Attributes:
        policy: Acts for all agents.
        explorer: Acts in training.
        loss: Its loss.
        noise: The module of ``explorer`` that is annealed; none of those that sample.
    """

    policy: TensorDictModuleBase
    explorer: TensorDictModuleBase
    loss: LossModule
    noise: EGreedyModule | AdditiveGaussianModule | None = None


def make_qmix(env: EnvBase, net: Callable[..., MultiAgentMLP], frames: int, gamma: float) -> Team:
    """Return the parts of QMIX; see :func:`make_team`."""
    group = env.action_key[0]
    spec = env.full_action_spec_unbatched[group, "action"]
    count, size = env.observation_spec_unbatched[group, "observation"].shape[-2:]
    entries = [(group, "observation")]
    q_key, chosen = (group, "action_value"), (group, "chosen_action_value")
    policy = TensorDictSequential(
        TensorDictModule(net(size, spec.space.n, centralized=False), entries, [q_key]),
        QValueModule(spec=spec, action_value_key=q_key, out_keys=[(group, "action"), q_key, chosen]),
    )
    mixer = QMixer(state_shape=(count, size), mixing_embed_dim=32, n_agents=count)
    loss: LossModule = QMixerLoss(
        policy, TensorDictModule(mixer, [chosen, *entries], ["chosen_action_value"]), action_space=spec, gamma=gamma
    )
    loss.set_keys(action=(group, "action"), action_value=q_key, local_value=chosen)
    greedy = EGreedyModule(
        spec=spec, eps_init=1.0, eps_end=0.05, annealing_num_steps=frames // 2, action_key=(group, "action")
    )
    return Team(policy, TensorDictSequential(policy, greedy), loss, greedy)


def make_team(algorithm: str, env: EnvBase, frames: int, settings: Settings) -> Team:
    """Return the parts of an algorithm for an environment, whose exploration is annealed over half of the frames."""
    group = env.action_key[0]
    spec = env.full_action_spec_unbatched[group, "action"]
    count, size = env.observation_spec_unbatched[group, "observation"].shape[-2:]
    net = partial(
        MultiAgentMLP,
        n_agents=count,
        share_params=True,
        depth=2,
        num_cells=settings.num_cells,
        activation_class=nn.Tanh if algorithm in ("mappo", "ippo") else nn.ReLU,
    )
    entries = [(group, "observation")]
    keys = {name: (group, name) for name in ("action", "reward")}
    flags = {name: (group, name) for name in ("done", "terminated")}
    if algorithm == "qmix":
        return make_qmix(env, net, frames, settings.gamma)
    choices = spec.shape[-1]
    if algorithm == "maddpg":
        critic = TeamCritic(net(size + choices, 1, centralized=True))
        values = TensorDictModule(critic, [*entries, (group, "action")], [(group, "state_action_value")])
        squash = TanhModule([(group, "action")], spec=spec)
        policy = TensorDictSequential(
            TensorDictModule(net(size, choices, centralized=False), entries, [(group, "action")]), squash
        )
        loss = DDPGLoss(policy, values, loss_function="l2", gamma=settings.gamma)
        loss.set_keys(
            state_action_value=(group, "state_action_value"),
            priority=(group, "td_error"),
            reward=keys["reward"],
            **flags,
        )
        noise = AdditiveGaussianModule(
            spec, sigma_init=0.9, sigma_end=0.1, annealing_num_steps=frames // 2, action_key=(group, "action")
        )
        return Team(policy, TensorDictSequential(policy, noise), loss, noise)
    body = nn.Sequential(net(size, 2 * choices, centralized=False), NormalParamExtractor())
    parameters = [(group, "loc"), (group, "scale")]
    log_prob = (group, "action_log_prob")
    actor = ProbabilisticActor(
        TensorDictModule(body, entries, parameters),
        in_keys=parameters,
        out_keys=[(group, "action")],
        spec=spec,
        distribution_class=TanhNormal,
        distribution_kwargs={"low": spec.space.low, "high": spec.space.high},
        return_log_prob=True,
        log_prob_key=log_prob,
    )
    if algorithm == "masac":
        critic = TeamCritic(net(size + choices, 1, centralized=True))
        values = TensorDictModule(critic, [*entries, (group, "action")], [(group, "state_action_value")])
        loss = SACLoss(actor, values, action_spec=spec, target_entropy=-float(choices), gamma=settings.gamma)
        loss.set_keys(
            state_action_value=(group, "state_action_value"),
            priority=(group, "td_error"),
            log_prob=log_prob,
            **keys,
            **flags,
        )
        return Team(actor, actor, loss)
    values = TensorDictModule(net(size, 1, centralized=algorithm == "mappo"), entries, [(group, "state_value")])
    loss = (MAPPOLoss if algorithm == "mappo" else IPPOLoss)(actor, values, entropy_coeff=0.0)
    loss.set_keys(
        value=(group, "state_value"),
        advantage=(group, "advantage"),
        value_target=(group, "value_target"),
        sample_log_prob=log_prob,
        **keys,
    )
    loss.make_value_estimator(gamma=settings.gamma, lmbda=settings.lmbda)
    return Team(actor, actor, loss)


def complete(batch: TensorDictBase, group: str) -> TensorDictBase:
    """Give each agent the flags of its world, and the world the mean reward of its agents."""
    reward = batch["next", group, "reward"]  # [..., agents, 1]
    for name in ("done", "terminated"):
        batch["next", group, name] = batch["next", name].unsqueeze(-2).expand(reward.shape)
    batch["next", "reward"] = reward.mean(-2)
    return batch


def run(algorithm: str, task: str, frames: int, seed: int, evaluations: int, settings: Settings) -> dict[str, Any]:
    """Train a team and evaluate it; return what ``one_run.run`` keeps of a run.

    Args:
        algorithm: One of ``ALGORITHMS``.
        task: Name of the task, see :func:`make_env`.
        frames: Environment steps of all worlds.
        seed: Seed of the networks and of the worlds.
        evaluations: Number of evaluations during training.
        settings: Those of the run.
    """
    torch.manual_seed(seed)
    start = time.monotonic()
    discrete, steps = algorithm == "qmix", EPISODE[task.split("/")[0]]
    env = make_env(task, settings.num_envs, discrete, seed)
    judge = make_env(task, 100, discrete, seed + 1_000)
    group = env.action_key[0]
    team = make_team(algorithm, env, frames, settings)
    on_policy = isinstance(team.loss, MAPPOLoss)
    collector = Collector(env, team.explorer, frames_per_batch=settings.frames_per_batch, total_frames=frames)
    optimizer = torch.optim.Adam(team.loss.parameters(), lr=settings.lr)
    targets = None if on_policy else SoftUpdate(team.loss, tau=settings.tau)
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(settings.buffer_size), batch_size=settings.batch_size)
    training: list[tuple[int, float]] = []
    judged: list[tuple[int, float]] = []
    for i, batch in enumerate(collector, start=1):
        episodes = batch["next", group, "episode_reward"].mean(-2)[batch["next", "done"]]
        if len(episodes):
            training.append((i * settings.frames_per_batch, episodes.mean().item()))
        if on_policy:
            with torch.no_grad():
                team.loss.value_estimator(batch)
            rows = batch.reshape(-1)
            parts = (part for _ in range(settings.num_epochs) for part in shuffled(rows, settings.minibatch_size))
        else:
            buffer.extend(complete(batch, group).reshape(-1))
            parts = (buffer.sample() for _ in range(settings.updates))
        for part in parts:
            losses = team.loss(part)
            optimizer.zero_grad()
            losses.backward()
            nn.utils.clip_grad_norm_(team.loss.parameters(), settings.max_grad_norm)
            optimizer.step()
            if targets is not None:
                targets.step()
        if team.noise is not None:
            team.noise.step(batch.numel())
        if i * evaluations // len(collector) > len(judged):
            judged.append((i * settings.frames_per_batch, evaluate(team.policy, judge, steps).mean().item()))
    last = evaluate(team.policy, judge, steps)
    return {
        "algorithm": algorithm,
        "task": task,
        "frames": frames,
        "seed": seed,
        "settings": asdict(settings),
        "seconds": time.monotonic() - start,
        "last": {"mean": last.mean().item(), "std": last.std().item()},
        "training": training,
        "evaluations": judged,
    }


def shuffled(rows: TensorDictBase, size: int) -> Sequence[TensorDictBase]:
    """Return the rows in minibatches, in random order."""
    return rows[torch.randperm(len(rows))].split(size)


def evaluate(policy: TensorDictModuleBase, env: EnvBase, steps: int) -> Tensor:
    """Return the returns of one deterministic episode of each world, ``[worlds]``."""
    group = env.action_key[0]
    with torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
        rollout = env.rollout(steps, policy, break_when_any_done=False)
    rewards = rollout["next", group, "reward"].mean((-2, -1))  # [worlds, time]
    over = rollout["next", "done"].squeeze(-1).cumsum(-1)
    first = (over - rollout["next", "done"].squeeze(-1).long()) == 0
    return (rewards * first).sum(-1)
