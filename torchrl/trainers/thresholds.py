"""`Thresholds`: the numbers beyond which :func:`~torchrl.trainers.doctor` reports a finding."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Thresholds:
    """The limits of all rules; pass ``Thresholds(kl_high=0.1)`` to change one.

    "late" is the last fifth of the logged values, "early" the first. A limit whose comment ends with
    "chosen here" has no published value: the source says why one looks at the number at all.

    >>> Thresholds(kl_high=0.1).kl_high
    0.1
    """

    # PPO stops an epoch at a target of 0.01 to 0.03 (Spinning Up, 2018; 37 details, 2022); twice that is too far.
    kl_high: float = 0.06
    # Below, the policy is the same after the update: no learning rate, no gradient; chosen here.
    kl_low: float = 1e-7
    # Share of samples out of the clip's reach; 0.1 to 0.3 is usual (37 details, 2022).
    clip_fraction_high: float = 0.35
    # Late entropy over its largest value: the policy does not explore any more (Ahmed et al., 2019); chosen here.
    entropy_share: float = 0.05
    # Fall of a differential entropy, in nats, by the middle of the run (Ahmed et al., 2019); chosen here.
    entropy_fall: float = 10.0
    # Explained variance: at 0 the critic is as good as a constant, below it is worse (Andrychowicz et al., 2021).
    explained_variance_low: float = 0.0
    # Predicted value above what was earned, as a share of the scale of returns (van Hasselt et al., 2016); chosen here.
    q_excess: float = 0.5
    # The same, where it cannot be a bias any more but divergence (van Hasselt et al., 2018); chosen here.
    q_divergence: float = 10.0
    # Share of units that are zero on the whole batch (Sokar et al., 2023; Lyle et al., 2022); chosen here.
    dead_units_high: float = 0.5
    # Growth of that share since the start, where it may be large for inputs that vary little; chosen here.
    dead_units_growth: float = 0.2
    # Late over early median of the gradient's norm (Pascanu et al., 2013); chosen here.
    grad_norm_growth: float = 100.0
    # Median of the gradient's norm; below, nothing is learned (Pascanu et al., 2013); chosen here.
    grad_norm_low: float = 1e-6
    # Share of steps whose gradient was clipped: the limit, not the loss, sets the step (Andrychowicz et al., 2021).
    clipped_share: float = 0.98
    # Share of the time of one of collecting and optimising (Stooke and Abbeel, 2018); chosen here.
    time_share: float = 0.85
    # Late frames per second over those of the second fifth, or over the median of the other seeds; chosen here.
    speed_share: float = 0.5
    # Width of the 95 % interval of the mean return over seeds, as a share of its size (Henderson et al., 2018).
    interval_width: float = 0.5
    # Largest gap between the returns of two seeds, as a share of their range (Henderson et al., 2018); chosen here.
    seed_gap: float = 0.6
    # Fall of the return from its best, as a share of what had been gained (Nikishin et al., 2022); chosen here.
    return_fall: float = 0.4
    # Values of the return that a rule about its course needs; chosen here.
    fewest_returns: int = 20
    # Share of the run at which the learning rate may be zero (37 details, 2022: it reaches zero at the end).
    lr_zero_share: float = 0.9
    # Late exploration over its first value, of one that is not small (Mnih et al., 2015: 1 to 0.1); chosen here.
    exploration_share: float = 0.95
    # Probability of random actions, or noise, that need not fall (Mnih et al., 2015: 0.1; Lillicrap, 2016: 0.2).
    exploration_small: float = 0.2
    # Late over early temperature of the entropy, which is tuned to a target (Haarnoja et al., 2018b); chosen here.
    alpha_growth: float = 10.0
