"""Settings by algorithm and task: those of the literature, where it has some.

Settings of a family hold for all its tasks; those of a task are added to them. What is in neither is the
default of the algorithm, which is that of its paper. Not every entry has been trained to the end with this
library.
"""

from __future__ import annotations

from fnmatch import fnmatch
from typing import Any

Settings = dict[str, Any]

# Names of tasks, as in gymnasium.
FAMILIES = {
    "classic": ("CartPole-*", "Acrobot-*", "MountainCar-*", "MountainCarContinuous-*", "Pendulum-*"),
    "box2d": ("LunarLander*", "BipedalWalker*", "CarRacing*"),
    "mujoco": (
        *("HalfCheetah-*", "Hopper-*", "Walker2d-*", "Ant-*", "Humanoid-*", "HumanoidStandup-*", "Swimmer-*"),
        *("InvertedPendulum-*", "InvertedDoublePendulum-*", "Reacher-*", "Pusher-*"),
    ),
    "minatar": ("MinAtar/*",),
    "atari": ("ALE/*",),
}

# "zoo" is after https://github.com/DLR-RM/rl-baselines3-zoo, hyperparams/*.yml; learning rates fall to 0 where it
# says lin_.
TUNED: dict[str, dict[str, Settings]] = {
    "ppo": {
        # zoo
        "CartPole-*": {
            "total_frames": 100_000,
            "num_envs": 8,
            "frames_per_batch": 8 * 32,
            "minibatch_size": 256,
            "num_epochs": 20,
            "lr": 1e-3,
            "gamma": 0.98,
            "lmbda": 0.8,
        },
        # zoo, without its state-dependent exploration; a learning rate that falls and the discount are chosen here
        "Pendulum-*": {"total_frames": 100_000, "num_envs": 4, "frames_per_batch": 4 * 1024, "lr": 1e-3, "gamma": 0.95},
        # zoo
        "Acrobot-*": {
            "total_frames": 300_000,
            "num_envs": 16,
            "frames_per_batch": 16 * 256,
            "num_epochs": 4,
            "anneal_lr": False,
            "lmbda": 0.94,
            "normalize_observations": True,
            "normalize_rewards": True,
        },
        # zoo
        "LunarLander*": {
            "total_frames": 1_000_000,
            "num_envs": 16,
            "frames_per_batch": 16 * 1024,
            "num_epochs": 4,
            "anneal_lr": False,
            "gamma": 0.999,
            "lmbda": 0.98,
            "entropy_coeff": 0.01,
        },
        # Huang et al., 2022, "details" of continuous control
        "mujoco": {"total_frames": 1_000_000, "normalize_observations": True, "normalize_rewards": True},
        # zoo's for Atari, with fewer copies and without its clipping of the reward
        "minatar": {
            "total_frames": 2_000_000,
            "num_cells": 0,
            "activation": "relu",
            "num_envs": 8,
            "frames_per_batch": 8 * 128,
            "minibatch_size": 256,
            "num_epochs": 4,
            "lr": 5e-4,
            "entropy_coeff": 0.01,
        },
        # zoo
        "atari": {
            "total_frames": 10_000_000,
            "num_cells": 0,
            "activation": "relu",
            "num_envs": 8,
            "frames_per_batch": 8 * 128,
            "minibatch_size": 256,
            "num_epochs": 4,
            "lr": 2.5e-4,
            "clip_epsilon": 0.1,
            "entropy_coeff": 0.01,
        },
    },
    "a2c": {
        # zoo
        "CartPole-*": {
            "total_frames": 500_000,
            "num_envs": 8,
            "frames_per_batch": 8 * 5,
            "anneal_lr": False,
            "entropy_coeff": 0.0,
        },
        # zoo
        "Acrobot-*": {
            "total_frames": 500_000,
            "num_envs": 16,
            "anneal_lr": False,
            "entropy_coeff": 0.0,
            "normalize_observations": True,
            "normalize_rewards": True,
        },
        # zoo, without its state-dependent exploration
        "Pendulum-*": {
            "total_frames": 1_000_000,
            "num_envs": 8,
            "frames_per_batch": 8 * 8,
            "gamma": 0.9,
            "lmbda": 0.9,
            "entropy_coeff": 0.0,
            "normalize_observations": True,
            "normalize_rewards": True,
        },
        # zoo
        "LunarLander*": {
            "total_frames": 200_000,
            "num_envs": 8,
            "frames_per_batch": 8 * 5,
            "lr": 8.3e-4,
            "gamma": 0.995,
            "entropy_coeff": 1e-5,
        },
        # zoo, without its state-dependent exploration
        "mujoco": {
            "total_frames": 1_000_000,
            "num_envs": 4,
            "frames_per_batch": 4 * 8,
            "lr": 9.6e-4,
            "lmbda": 0.9,
            "entropy_coeff": 0.0,
            "normalize_observations": True,
            "normalize_rewards": True,
        },
        "minatar": {"total_frames": 5_000_000, "num_cells": 0, "activation": "relu"},
        # Mnih et al., 2016
        "atari": {"total_frames": 10_000_000, "num_cells": 0, "activation": "relu"},
    },
    "reinforce": {
        # chosen here
        "CartPole-*": {"total_frames": 300_000}
    },
    "impala": {
        # chosen here, after A2C
        "CartPole-*": {
            "total_frames": 500_000,
            "num_envs": 8,
            "frames_per_batch": 8 * 5,
            "minibatch_size": 8 * 5,
            "lr": 7e-4,
            "anneal_lr": False,
            "rms_eps": 3e-3,
            "entropy_coeff": 0.0,
            "max_grad_norm": 0.5,
        },
        "minatar": {"total_frames": 5_000_000, "num_cells": 0, "activation": "relu"},
        # Espeholt et al., 2018
        "atari": {"total_frames": 10_000_000, "num_cells": 0, "activation": "relu"},
    },
    "dqn": {
        # zoo, whose interval of the target is shorter than a batch: it is copied once in 128 gradient steps; a
        # learning rate that falls is chosen here: the last network plays as well as the best one
        "CartPole-*": {
            "total_frames": 50_000,
            "num_cells": 256,
            "frames_per_batch": 256,
            "updates_per_frame": 0.5,
            "learning_starts": 1_000,
            "target_interval": 128,
            "buffer_size": 100_000,
            "batch_size": 64,
            "lr": 2.3e-3,
            "anneal_lr": True,
            "eps_end": 0.04,
            "eps_frames": 8_000,
        },
        # zoo
        "Acrobot-*": {
            "total_frames": 100_000,
            "num_cells": 256,
            "updates_per_frame": 1.0,
            "learning_starts": 1_000,
            "target_interval": 250,
            "buffer_size": 50_000,
            "batch_size": 128,
            "lr": 6.3e-4,
            "eps_frames": 12_000,
        },
        # zoo
        "LunarLander-*": {
            "total_frames": 100_000,
            "num_cells": 256,
            "updates_per_frame": 1.0,
            "learning_starts": 1_000,
            "target_interval": 250,
            "buffer_size": 50_000,
            "batch_size": 128,
            "lr": 6.3e-4,
            "eps_frames": 12_000,
        },
        # Young and Tian, 2019, https://arxiv.org/abs/1903.03176, with Adam
        "minatar": {
            "total_frames": 500_000,
            "num_cells": 0,
            "learning_starts": 5_000,
            "target_interval": 250,
            "buffer_size": 100_000,
            "lr": 2.5e-4,
            "eps_frames": 100_000,
        },
        # zoo
        "atari": {"total_frames": 10_000_000, "num_cells": 0, "buffer_size": 100_000, "learning_starts": 100_000},
    },
    "qr_dqn": {
        # zoo, whose interval of the target is shorter than a batch: it is copied once in 128 gradient steps; a
        # learning rate that falls is chosen here: the last network plays as well as the best one
        "CartPole-*": {
            "total_frames": 50_000,
            "num_cells": 256,
            "num_quantiles": 10,
            "frames_per_batch": 256,
            "updates_per_frame": 0.5,
            "learning_starts": 1_000,
            "target_interval": 128,
            "buffer_size": 100_000,
            "batch_size": 64,
            "lr": 2.3e-3,
            "anneal_lr": True,
            "eps_end": 0.04,
            "eps_frames": 8_000,
        },
        # zoo
        "Acrobot-*": {
            "total_frames": 100_000,
            "num_cells": 256,
            "num_quantiles": 25,
            "updates_per_frame": 1.0,
            "learning_starts": 1_000,
            "target_interval": 250,
            "buffer_size": 50_000,
            "batch_size": 128,
            "lr": 6.3e-4,
            "eps_end": 0.1,
            "eps_frames": 12_000,
        },
        # zoo
        "LunarLander-*": {
            "total_frames": 100_000,
            "num_cells": 256,
            "num_quantiles": 170,
            "learning_starts": 10_000,
            "updates_per_frame": 0.25,
            "target_interval": 250,
            "buffer_size": 100_000,
            "batch_size": 128,
            "lr": 1.5e-3,
            "gamma": 0.995,
            "eps_end": 0.018,
            "eps_frames": 24_000,
        },
        # Young and Tian, 2019, as for DQN
        "minatar": {
            "total_frames": 500_000,
            "num_cells": 0,
            "learning_starts": 5_000,
            "updates_per_frame": 0.25,
            "target_interval": 250,
            "buffer_size": 100_000,
            "lr": 2.5e-4,
            "eps_frames": 100_000,
        },
        # Dabney et al., 2018, with a buffer that fits into memory
        "atari": {"total_frames": 10_000_000, "num_cells": 0, "buffer_size": 100_000},
    },
    "discrete_sac": {
        # chosen here
        "CartPole-*": {
            "total_frames": 50_000,
            "learning_starts": 1_000,
            "updates_per_frame": 1.0,
            "buffer_size": 100_000,
            "lr_actor": 1e-3,
            "lr_critic": 1e-3,
            "lr_alpha": 1e-3,
            "target_entropy_weight": 0.3,
        },
        "minatar": {"total_frames": 1_000_000, "num_cells": 0, "learning_starts": 5_000, "buffer_size": 100_000},
        # Christodoulou, 2019, with a buffer that fits into memory
        "atari": {"total_frames": 10_000_000, "num_cells": 0, "buffer_size": 100_000},
    },
    "ddpg": {
        # zoo; learning_starts: chosen here
        "Pendulum-*": {"total_frames": 20_000, "learning_starts": 1_000, "gamma": 0.98, "batch_size": 256},
        "mujoco": {"total_frames": 1_000_000},
    },
    "td3": {
        # zoo; learning_starts: chosen here
        "Pendulum-*": {
            "total_frames": 20_000,
            "learning_starts": 1_000,
            "gamma": 0.98,
            "lr_actor": 1e-3,
            "lr_critic": 1e-3,
        },
        # zoo
        "mujoco": {"total_frames": 1_000_000, "lr_actor": 1e-3, "lr_critic": 1e-3},
        # zoo
        "LunarLanderContinuous-*": {
            "total_frames": 300_000,
            "gamma": 0.98,
            "buffer_size": 200_000,
            "lr_actor": 1e-3,
            "lr_critic": 1e-3,
        },
    },
    "tqc": {
        # zoo, with smaller critics, that learn this task as well
        "Pendulum-*": {
            "total_frames": 20_000,
            "learning_starts": 100,
            "lr_actor": 1e-3,
            "lr_critic": 1e-3,
            "lr_alpha": 1e-3,
            "num_critics": 2,
            "critic_cells": 256,
            "critic_depth": 2,
        },
        # Kuznetsov et al., 2020, table 4
        "mujoco": {"total_frames": 1_000_000},
        "Hopper-*": {"dropped_quantiles": 5},
        "HalfCheetah-*": {"dropped_quantiles": 0},
    },
    "crossq": {
        # chosen here: a small critic learns this task as well
        "Pendulum-*": {"total_frames": 20_000, "learning_starts": 500, "critic_cells": 256},
        # Bhatt et al., 2024
        "mujoco": {"total_frames": 1_000_000},
    },
    "redq": {
        # chosen here: one gradient step per environment step is enough
        "Pendulum-*": {
            "total_frames": 12_000,
            "learning_starts": 500,
            "frames_per_batch": 50,
            "updates_per_frame": 1.0,
            "policy_delay": 1,
            "num_critics": 5,
            "batch_size": 128,
            "lr_actor": 1e-3,
            "lr_critic": 1e-3,
            "lr_alpha": 1e-3,
            "gamma": 0.98,
        },
        # Chen et al., 2021
        "mujoco": {"total_frames": 300_000},
    },
    "sac": {
        # zoo; learning_starts is the default of Stable-Baselines3
        "Pendulum-*": {
            "total_frames": 20_000,
            "learning_starts": 100,
            "lr_actor": 1e-3,
            "lr_critic": 1e-3,
            "lr_alpha": 1e-3,
        },
        "mujoco": {"total_frames": 1_000_000},
    },
    # Offline: gradient steps, fewer than those of the papers, whose tasks are harder; chosen here
    "bc": {"classic": {"total_frames": 5_000}},
    "td3_bc": {
        "classic": {"total_frames": 10_000},
        "Pendulum-*": {
            "total_frames": 7_000,
            "alpha": 20.0,
            "lr_actor": 1e-3,
            "lr_critic": 1e-3,
            "anneal_lr": True,
            "gamma": 0.98,
            "tau": 0.02,
        },
    },
    # chosen here: the values of 500 steps must reach the first of them within fewer gradient steps
    "iql": {
        # temperature and expectile: Kostrikov et al., 2021, for AntMaze; a shorter horizon is chosen here: in CartPole
        # actions hardly differ in what follows later, and errors of the critics would outweigh it
        "classic": {"total_frames": 10_000, "temperature": 10.0, "expectile": 0.9, "gamma": 0.95}
    },
    # chosen here, as are the next ones: with learning rates that fall, the last policy is closer to the best one
    "cql": {"classic": {"total_frames": 10_000, "anneal_lr": True}},
    "decision_transformer": {
        "classic": {"total_frames": 2_000, "context": 10, "num_cells": 64, "depth": 2, "lr": 1e-3, "anneal_lr": True}
    },
    # chosen here
    "offline_to_online": {
        "Pendulum-*": {
            "total_frames": 5_000,
            "learning_starts": 500,
            "updates_per_frame": 1.0,
            "num_critics": 5,
            "batch_size": 128,
            "lr_actor": 1e-3,
            "lr_critic": 1e-3,
            "lr_alpha": 1e-3,
            "gamma": 0.98,
        }
    },
}


def tuned_settings(algorithm: str, task: object) -> Settings:
    """Return the settings of the table for a task; none if its name is not there.

    Args:
        algorithm: Name of the algorithm, such as ``"sac"``.
        task: Name of the task; anything else than a name has no settings.

    >>> tuned_settings("sac", "HalfCheetah-v5")
    {'total_frames': 1000000}
    """
    table, found = TUNED.get(algorithm, {}), {}
    if isinstance(task, str):
        for family, patterns in FAMILIES.items():
            if any(fnmatch(task, pattern) for pattern in patterns):
                found.update(table.get(family, {}))
        for pattern, settings in table.items():
            if fnmatch(task, pattern):
                found.update(settings)
    return found
