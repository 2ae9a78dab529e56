"""What ``torchrl tune`` searches: a range for each setting, and the settings of each algorithm.

"zoo" is rl-baselines3-zoo, rl_zoo3/hyperparams_opt.py, https://github.com/DLR-RM/rl-baselines3-zoo: the ranges are
those of its samplers, with learning rates above 0.01 left out, which no algorithm has learned with.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import fields
from typing import Any, NamedTuple

from torchrl.trainers.algorithms import ALGORITHMS, AlgorithmConfig


class Float(NamedTuple):
    """A real number, drawn uniformly, or such that its logarithm is uniform."""

    low: float
    high: float
    log: bool = False


class Complement(NamedTuple):
    """A number of which the distance to 1 is drawn such that its logarithm is uniform, as of a discount."""

    low: float  # of the distance
    high: float


class Integer(NamedTuple):
    """An integer, drawn uniformly."""

    low: int
    high: int


class Share(NamedTuple):
    """A number of environment steps: a share of all, drawn uniformly."""

    low: float
    high: float


class Choice(NamedTuple):
    """One of several values."""

    values: tuple[Any, ...]


FEWEST_BATCHES = 8  # of a trial
Range = Float | Complement | Integer | Share | Choice

RANGES: dict[str, Range] = {
    # optimisation
    "lr": Float(1e-5, 1e-2, log=True),  # zoo, up to 1
    "lr_actor": Float(1e-5, 1e-2, log=True),  # zoo
    "lr_critic": Float(1e-5, 1e-2, log=True),  # zoo
    "anneal_lr": Choice((False, True)),  # zoo: lr_schedule of A2C
    "max_grad_norm": Choice((0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 2.0, 5.0)),  # zoo
    # returns
    "gamma": Complement(1e-4, 0.1),  # zoo: 0.9 to 0.9999
    "lmbda": Choice((0.8, 0.9, 0.92, 0.95, 0.98, 0.99, 1.0)),  # zoo: gae_lambda
    "n_steps": Choice((1, 3, 5)),  # Hessel et al., 2018, figure 5
    # policy-gradient losses
    "entropy_coeff": Float(1e-8, 0.1, log=True),  # zoo: ent_coef
    "critic_coeff": Float(0.0, 1.0),  # zoo: vf_coef
    "clip_epsilon": Choice((0.1, 0.2, 0.3, 0.4)),  # zoo: clip_range
    "normalize_advantage": Choice((False, True)),  # zoo
    # data of on-policy algorithms; zoo has n_steps 8 to 4096 of each copy
    "frames_per_batch": Choice((128, 256, 512, 1024, 2048, 4096, 8192)),
    "minibatch_size": Choice((32, 64, 128, 256, 512, 1024)),  # zoo: batch_size
    "num_epochs": Choice((1, 5, 10, 20)),  # zoo
    # data of off-policy algorithms
    "batch_size": Choice((32, 64, 128, 256, 512)),  # zoo, up to 2048
    "learning_starts": Share(0.01, 0.1),  # zoo: 0 to 20 000 steps
    "updates_per_frame": Choice((0.25, 0.5, 1.0)),  # zoo: train_freq and gradient_steps
    "tau": Choice((0.001, 0.005, 0.01, 0.02, 0.05, 0.08)),  # zoo
    "target_interval": Choice((10, 100, 250, 1000, 5000)),  # zoo: target_update_interval, 1 to 20 000
    "eps_end": Float(0.0, 0.2),  # zoo: exploration_final_eps
    "eps_frames": Share(0.01, 0.5),  # zoo: exploration_fraction
    "num_quantiles": Choice((25, 50, 100, 200)),  # zoo: 5 to 200 of QR-DQN
    # networks
    "num_cells": Choice((64, 256)),  # zoo: net_arch, small and medium
    "activation": Choice(("tanh", "relu")),  # zoo
}

OFF_POLICY = ("lr_actor", "lr_critic", "gamma", "tau", "batch_size", "learning_starts", "num_cells")
Q_LEARNING = (
    *("lr", "gamma", "batch_size", "learning_starts", "updates_per_frame"),
    *("target_interval", "eps_end", "eps_frames", "num_cells"),
)
POLICY_GRADIENT = ("lr", "anneal_lr", "max_grad_norm", "gamma", "lmbda", "entropy_coeff", "num_cells", "activation")
# Those of an algorithm that is not here: all ranges that have the name of one of its settings.
SEARCHED: dict[str, tuple[str, ...]] = {
    "a2c": (*POLICY_GRADIENT, "frames_per_batch", "critic_coeff", "normalize_advantage"),
    "ppo": (*POLICY_GRADIENT, "frames_per_batch", "minibatch_size", "num_epochs", "critic_coeff", "clip_epsilon"),
    "dqn": Q_LEARNING,
    "qr_dqn": (*Q_LEARNING, "num_quantiles"),
    "decision_transformer": ("lr", "batch_size", "num_cells"),
    "ddpg": OFF_POLICY,
    "td3": OFF_POLICY,
    "sac": OFF_POLICY,
    "tqc": OFF_POLICY,
}


def search_space(algorithm: str, fixed: Container[str] = ()) -> dict[str, Range]:
    """Return the ranges of the settings that are searched for an algorithm.

    Args:
        algorithm: Its name.
        fixed: Settings that are not searched.

    >>> list(search_space("sac", fixed=["gamma"]))
    ['lr_actor', 'lr_critic', 'tau', 'batch_size', 'learning_starts', 'num_cells']
    """
    known = {field.name for field in fields(ALGORITHMS[algorithm].config_class)}
    names = SEARCHED.get(algorithm, tuple(RANGES))
    return {name: RANGES[name] for name in names if name in known and name not in fixed}


def suggest(trial: Any, space: Mapping[str, Range], config: AlgorithmConfig) -> dict[str, Any]:
    """Draw settings.

    Args:
        trial: The ``optuna.Trial``.
        space: What is drawn.
        config: The other settings.

    Returns: the settings by name; a minibatch is at most a batch, and a batch a multiple of the copies of the
        environment, at most an eighth of all frames.
    """
    found: dict[str, Any] = {}
    for name, each in space.items():
        if isinstance(each, Float):
            found[name] = trial.suggest_float(name, each.low, each.high, log=each.log)
        elif isinstance(each, Complement):
            found[name] = 1 - trial.suggest_float(f"1 - {name}", each.low, each.high, log=True)
        elif isinstance(each, Integer):
            found[name] = trial.suggest_int(name, each.low, each.high)
        elif isinstance(each, Share):
            share = trial.suggest_float(f"{name} / total_frames", each.low, each.high)
            found[name] = max(1, round(share * config.total_frames))
        else:
            found[name] = trial.suggest_categorical(name, each.values)
    frames = found.get("frames_per_batch")
    if frames is not None:
        frames = min(frames, config.total_frames // FEWEST_BATCHES)
        found["frames_per_batch"] = frames = max(frames - frames % config.num_envs, config.num_envs)
    frames = getattr(config, "frames_per_batch", None) if frames is None else frames
    if "minibatch_size" in found:
        found["minibatch_size"] = min(found["minibatch_size"], frames)
    return found
