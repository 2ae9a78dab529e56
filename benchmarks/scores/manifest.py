"""What the tables of scores are made of: algorithms, tasks, frames, seeds, and the returns to reach.

An algorithm has the settings that ``torchrl.train`` has for the task, see ``torchrl/trainers/algorithms/defaults.py``,
but for those that a row names. A return is reached if the 95 % interval of the mean over seeds reaches it. Rows run in
this order, so those that take little time come first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

ZOO = "rl-baselines3-zoo, benchmark.md"
TIANSHOU = "Tianshou, examples/mujoco"
GYM = "gymnasium counts it as solved"
PEER = "Stable-Baselines3, run here"
BENCHMARL = "curves of BenchMARL, which publishes no numbers at these frames"
MINATAR = "curves of Young and Tian, 2019, which publishes no numbers at these frames"


@dataclass(frozen=True)
class Row:
    """An algorithm on a task.

    Args:
        group: The part of the table.
        algorithm: Its name in ``torchrl.train``.
        task: Name of a gymnasium task; ``one_run.py`` registers some.
        frames: Environment steps; gradient steps of algorithms that learn from a data set.
        seeds: Number of seeds.
        goal: Return to reach; that of the peer, or what ``source`` says, if ``None``.
        source: Where the goal is from.
        settings: Settings other than those of ``torchrl.train``.
        label: Added to the name, of rows that differ in their settings alone.
        measure: What is compared with the goal: ``"last"``, deterministic episodes of the last agent, or
            ``"training"``, the last tenth of the episodes of training.
        data: The task whose data set is learned from; none if empty.
        peer: Whether Stable-Baselines3 trains it too, with the same settings.
    """

    group: str
    algorithm: str
    task: str
    frames: int
    seeds: int
    goal: float | None
    source: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    label: str = ""
    measure: str = "last"
    data: str = ""
    peer: bool = False

    @property
    def name(self) -> str:
        """The name of its files: algorithm, task, frames and label."""
        parts = [self.algorithm, self.task.replace("/", "-"), f"{self.frames:_}", self.label]
        return "_".join(part for part in parts if part)


RAINBOW = {"rainbow": True, "value_min": 0.0, "value_max": 100.0}  # returns of CartPole: 1 / (1 - 0.99) at most

SMALL = [
    Row("small", "ppo", "CartPole-v1", 100_000, 3, 475, GYM),
    Row("small", "dqn", "CartPole-v1", 50_000, 3, 475, GYM),
    Row("small", "qr_dqn", "CartPole-v1", 50_000, 3, 475, GYM),
    Row("small", "reinforce", "CartPole-v1", 300_000, 3, 475, GYM),
    Row("small", "a2c", "CartPole-v1", 500_000, 3, 475, GYM),
    Row("small", "impala", "CartPole-v1", 500_000, 3, 475, GYM),
    Row("small", "discrete_sac", "CartPole-v1", 50_000, 3, 475, GYM),
    Row("small", "ppo", "Acrobot-v1", 300_000, 3, -90, ZOO),
    Row("small", "ppo", "Pendulum-v1", 100_000, 3, -180, ZOO),
    Row("small", "ddpg", "Pendulum-v1", 20_000, 3, -160, ZOO),
    Row("small", "td3", "Pendulum-v1", 20_000, 3, -160, ZOO),
    Row("small", "sac", "Pendulum-v1", 10_000, 3, -160, ZOO),
    Row("small", "crossq", "Pendulum-v1", 10_000, 3, -160, ZOO),
    Row("small", "tqc", "Pendulum-v1", 10_000, 3, -160, ZOO),
    Row("small", "redq", "Pendulum-v1", 6_000, 3, -160, ZOO),
    Row("small", "bc", "CartPole-v1", 5_000, 3, 100, "mean return of the data", data="CartPole-v1"),
    Row("small", "iql", "CartPole-v1", 10_000, 3, 450, "0.9 of the best episodes of the data", data="CartPole-v1"),
    Row("small", "cql", "CartPole-v1", 10_000, 3, 450, "0.9 of the best episodes of the data", data="CartPole-v1"),
    Row(
        *("small", "decision_transformer", "CartPole-v1", 2_000, 3, 450, "0.9 of the best episodes of the data"),
        data="CartPole-v1",
    ),
    Row("small", "td3_bc", "Pendulum-v1", 7_000, 3, -180, "0.9 of the best episodes of the data", data="Pendulum-v1"),
    Row("small", "offline_to_online", "Pendulum-v1", 5_000, 3, -160, ZOO, data="Pendulum-v1"),
    Row("small", "ppo", "LunarLander-v3", 1_000_000, 3, 200, GYM),
    Row("small", "dqn", "MinAtar/Breakout-v1", 500_000, 3, 3.8, "ten times a random policy"),
]

CLASSIC = [
    Row("classic", "ppo", "CartPole-v1", 100_000, 10, 500, ZOO, peer=True),
    Row("classic", "dqn", "CartPole-v1", 50_000, 10, 500, ZOO),
    Row("classic", "qr_dqn", "CartPole-v1", 50_000, 10, 500, ZOO),
    Row("classic", "dqn", "CartPole-v1", 50_000, 10, 500, ZOO, RAINBOW, "rainbow"),
    Row("classic", "a2c", "CartPole-v1", 100_000, 10, 500, ZOO),
    Row("classic", "ppo", "Acrobot-v1", 300_000, 5, -80, ZOO, peer=True),
    Row("classic", "dqn", "Acrobot-v1", 100_000, 5, -77, ZOO),
    Row("classic", "ppo", "Pendulum-v1", 100_000, 5, -172, ZOO, peer=True),
    Row("classic", "ddpg", "Pendulum-v1", 20_000, 5, -152, ZOO),
    Row("classic", "td3", "Pendulum-v1", 20_000, 5, -152, ZOO),
    Row("classic", "sac", "Pendulum-v1", 20_000, 5, -157, ZOO, peer=True),
    Row("classic", "crossq", "Pendulum-v1", 20_000, 5, -157, "as SAC"),
    Row("classic", "tqc", "Pendulum-v1", 20_000, 5, -151, ZOO),
    Row("classic", "redq", "Pendulum-v1", 12_000, 3, -157, "as SAC"),
]

BOX2D = [
    Row("Box2D", "ppo", "LunarLander-v3", 1_000_000, 5, 242, ZOO, peer=True),
    Row("Box2D", "ppo", "LunarLanderContinuous-v3", 1_000_000, 5, 271, ZOO),
    Row("Box2D", "dqn", "LunarLander-v3", 300_000, 5, 200, GYM),
    Row("Box2D", "sac", "LunarLanderContinuous-v3", 200_000, 3, 260, ZOO),
]

MUJOCO_PPO = [
    Row("MuJoCo, PPO", "ppo", "InvertedDoublePendulum-v5", 1_000_000, 5, 8_000, TIANSHOU),
    Row("MuJoCo, PPO", "ppo", "Hopper-v5", 1_000_000, 5, 2_600, TIANSHOU),
    Row("MuJoCo, PPO", "ppo", "HalfCheetah-v5", 1_000_000, 5, 5_800, TIANSHOU, peer=True),
    Row("MuJoCo, PPO", "ppo", "Walker2d-v5", 1_000_000, 5, 3_600, TIANSHOU),
    Row("MuJoCo, PPO", "ppo", "Ant-v5", 1_000_000, 5, 1_300, ZOO),
]

MUJOCO_OFF_POLICY = [
    *(
        Row("MuJoCo, off-policy", algorithm, f"{task}-v5", 100_000, 3, None, PEER, peer=True)
        for algorithm in ("sac", "td3")
        for task in ("HalfCheetah", "Hopper", "Walker2d")
    ),
    Row("MuJoCo, off-policy", "tqc", "HalfCheetah-v5", 100_000, 3, None, "as SAC"),
    Row("MuJoCo, off-policy", "crossq", "HalfCheetah-v5", 100_000, 3, None, "as SAC"),
    Row("MuJoCo, off-policy", "sac", "HalfCheetah-v5", 500_000, 1, None, PEER),
]

PIXELS = [
    Row("pixels", "ppo", "MinAtar/Breakout-v1", 1_000_000, 3, None, MINATAR, measure="training"),
    Row("pixels", "ppo", "MinAtar/SpaceInvaders-v1", 1_000_000, 3, None, MINATAR, measure="training"),
    Row("pixels", "dqn", "MinAtar/Breakout-v1", 1_000_000, 3, None, MINATAR, measure="training"),
    Row("pixels", "dqn", "MinAtar/SpaceInvaders-v1", 1_000_000, 3, None, MINATAR, measure="training"),
    Row("pixels", "ppo", "MinAtar/Asterix-v1", 2_000_000, 3, None, MINATAR, measure="training"),
    Row("pixels", "ppo", "MinAtar/Freeway-v1", 2_000_000, 3, None, MINATAR, measure="training"),
]

MEMORY = {"num_envs": 8, "frames_per_batch": 8 * 128, "minibatch_size": 256, "num_epochs": 10, "lr": 1e-3}
MEMORY_DQN = {
    "num_cells": 128,
    "frames_per_batch": 64,
    "learning_starts": 2_000,
    "updates_per_frame": 0.25,
    "target_interval": 250,
    "buffer_size": 50_000,
    "lr": 1e-3,
    "anneal_lr": True,
    "eps_end": 0.05,
    "eps_frames": 20_000,
}
SEQUENCES = {"recurrent": "lstm", "sequence_length": 16}

PARTIAL = [
    Row("memory", "ppo", "CartPolePositions-v1", 200_000, 5, 475, GYM, {**MEMORY, "recurrent": "lstm"}, "lstm"),
    Row("memory", "ppo", "CartPolePositions-v1", 200_000, 5, None, "stays below 150", MEMORY, "no memory"),
    Row("memory", "dqn", "CartPolePositions-v1", 100_000, 5, 475, GYM, {**MEMORY_DQN, **SEQUENCES}, "lstm"),
    Row("memory", "dqn", "CartPolePositions-v1", 100_000, 5, None, "stays below 150", MEMORY_DQN, "no memory"),
    Row("memory", "ppo", "RepeatAfter-v1", 300_000, 5, 0.9, "1 is perfect", {**MEMORY, "recurrent": "lstm"}, "lstm"),
    Row("memory", "ppo", "RepeatAfter-v1", 300_000, 5, None, "chance: 0.25", MEMORY, "no memory"),
    Row("memory", "dqn", "RepeatAfter-v1", 100_000, 5, 0.9, "1 is perfect", {**MEMORY_DQN, **SEQUENCES}, "lstm"),
]

OFFLINE = [
    Row("offline", algorithm, "CartPole-v1", frames, 3, goal, "data of two agents", data="CartPole-v1")
    for algorithm, frames, goal in (("bc", 5_000, 100), ("cql", 10_000, 450), ("iql", 10_000, 450))
]
OFFLINE += [
    Row("offline", algorithm, "HalfCheetah-v5", frames, 3, None, "BC < TD3+BC, IQL <= CQL", data="HalfCheetah-v5")
    for algorithm, frames in (
        *(("bc", 20_000), ("td3_bc", 30_000), ("iql", 30_000), ("cql", 20_000)),
        ("decision_transformer", 5_000),
    )
]

MANY_AGENTS = [
    *(
        Row("many agents", algorithm, f"vmas/{task}", 600_000, 3, None, BENCHMARL)
        for task in ("navigation", "balance", "sampling")
        for algorithm in ("mappo", "ippo")
    ),
    *(
        Row("many agents", algorithm, task, 300_000, 3, None, BENCHMARL)
        for task in ("vmas/navigation", "mpe/simple_spread_v3")
        for algorithm in ("qmix", "maddpg", "masac")
    ),
]

ROWS = [*SMALL, *CLASSIC, *PARTIAL, *BOX2D, *OFFLINE, *MANY_AGENTS, *MUJOCO_PPO, *PIXELS, *MUJOCO_OFF_POLICY]
