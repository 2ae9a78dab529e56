"""The rules of :func:`~torchrl.trainers.doctor`, each one function of the numbers of a run.

A rule gets a :class:`~torchrl.trainers.runs.Run`, or all seeds of one experiment, and the
:class:`~torchrl.trainers.thresholds.Thresholds`, and returns what it measured, or ``None``. A new rule is
such a function and its entry in :data:`RULES`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from torchrl.trainers.plots import bootstrap_interval, smoothed
from torchrl.trainers.runs import Array, Run
from torchrl.trainers.thresholds import Thresholds

SEVERITIES = ("error", "warning", "note")  # most severe first
RETURNS = ("episode_return", "eval/return", "total_r_evaluation", "r_evaluation", "episode_reward")
EXPLORATION = ("eps", "epsilon", "sigma", "exploration")
PREDICTED = ("q_value", "pred_value", "q_mean", "state_action_value_actor")
CLIP_NORM = ("max_grad_norm", "clip_norm", "clip_grad_norm", "grad_clip")

DETAILS_37 = (
    "Huang et al., 2022, The 37 Implementation Details of PPO, "
    "https://iclr-blog-track.github.io/2022/03/25/ppo-implementation-details/"
)
ENGSTROM = "Engstrom et al., 2020, https://arxiv.org/abs/2005.12729"
ANDRYCHOWICZ = "Andrychowicz et al., 2021, https://arxiv.org/abs/2006.05990"
HENDERSON = "Henderson et al., 2018, https://arxiv.org/abs/1709.06560"
HASSELT = "van Hasselt et al., 2016, https://arxiv.org/abs/1509.06461; Fujimoto et al., 2018, https://arxiv.org/abs/1802.09477"
SOKAR = "Sokar et al., 2023, https://arxiv.org/abs/2302.12902; Lyle et al., 2022, https://arxiv.org/abs/2204.09560"
NIKISHIN = "Nikishin et al., 2022, https://arxiv.org/abs/2205.07802"
PASCANU = "Pascanu et al., 2013, https://arxiv.org/abs/1211.5063"
STOOKE = "Stooke and Abbeel, 2018, https://arxiv.org/abs/1803.02811"
MNIH = "Mnih et al., 2015, https://doi.org/10.1038/nature14236"
AHMED = "Ahmed et al., 2019, https://arxiv.org/abs/1811.11214"
HAARNOJA = "Haarnoja et al., 2018, https://arxiv.org/abs/1812.05905"


class Measured(NamedTuple):
    """What a rule found: the metric, its value, the limit that it crossed, and a sentence about both."""

    metric: str
    value: float
    threshold: float
    fact: str
    severity: str | None = None  # that of the rule if None


OfRun = Callable[[Run, Thresholds], Measured | None]
OfSeeds = Callable[[Sequence[Run], Thresholds], Measured | None]


@dataclass(frozen=True)
class Rule:
    """One thing that can be wrong with a run.

    Args:
        check: Returns what it measured if that is a problem. The name of the rule is its name.
        needs: Metrics, one of which the run must have, ``*`` for any ending; none if any will do.
        severity: ``"error"``, ``"warning"`` or ``"note"``.
        why: Why it matters.
        advice: What to try.
        source: Paper or text.
        of_seeds: Whether ``check`` gets all runs of one algorithm and environment.
    """

    check: OfRun | OfSeeds
    needs: tuple[str, ...]
    severity: str
    why: str
    advice: str
    source: str
    of_seeds: bool = False

    @property
    def name(self) -> str:
        """The name of the function."""
        return self.check.__name__


def early(values: Array) -> Array:
    """Return the first fifth of the values."""
    return values[: max(1, len(values) // 5)]


def late(values: Array) -> Array:
    """Return the last fifth of the values."""
    return values[-max(1, len(values) // 5) :]


def not_finite(run: Run, limits: Thresholds) -> Measured | None:
    """Find a metric that is NaN or infinite anywhere."""
    for name, series in sorted(run.metrics.items()):
        bad = series[~np.isfinite(series[:, 1])]
        if len(bad):
            fact = f"{name} is {bad[0, 1]:g} from step {bad[0, 0]:g} on, {len(bad)} times of {len(series)}"
            return Measured(name, float(bad[0, 1]), 0, fact)
    return None


def kl_too_high(run: Run, limits: Thresholds) -> Measured | None:
    """Compare the median divergence of an update with what the field allows."""
    values = run.values("kl_approx", "kl")
    if values is None or (kl := float(np.median(values))) <= limits.kl_high:
        return None
    return Measured("kl_approx", kl, limits.kl_high, f"an update changes the policy by a KL divergence of {kl:.3g}")


def kl_zero(run: Run, limits: Thresholds) -> Measured | None:
    """Find updates that leave the policy as it is."""
    values = run.values("kl_approx", "kl")
    if values is None or (kl := float(np.median(np.abs(values)))) >= limits.kl_low:
        return None
    return Measured("kl_approx", kl, limits.kl_low, f"an update changes the policy by a KL divergence of {kl:.1g} only")


def clips_too_much(run: Run, limits: Thresholds) -> Measured | None:
    """Find updates of which the clip of PPO hides much."""
    values = run.values("clip_fraction")
    if values is None or (share := float(np.median(values))) <= limits.clip_fraction_high:
        return None
    fact = f"{share:.0%} of the samples are beyond the clip's reach and have no gradient"
    return Measured("clip_fraction", share, limits.clip_fraction_high, fact)


def entropy_collapse(run: Run, limits: Thresholds) -> Measured | None:
    """Compare the entropy at the middle of the run with its largest value."""
    values = run.values("entropy")
    if values is None or len(values) < 5 or run.series("alpha") is not None:  # a tuned temperature holds it
        return None
    highest, middle = float(values.max()), float(np.mean(late(values[: len(values) // 2 + 1])))
    if values.min() < 0:  # of a density
        fall = highest - middle
        fact = f"the entropy has fallen by {fall:.3g} nats in the first half of the run"
        return Measured("entropy", fall, limits.entropy_fall, fact) if fall > limits.entropy_fall else None
    share = middle / max(highest, 1e-12)
    fact = f"the entropy is {share:.1%} of its largest value, {highest:.3g}, by the middle of the run"
    return Measured("entropy", share, limits.entropy_share, fact) if share < limits.entropy_share else None


def critic_explains_nothing(run: Run, limits: Thresholds) -> Measured | None:
    """Find a critic that is worse than a constant, the first fifth of the run aside."""
    values = run.values("explained_variance")
    if values is None:
        return None
    share = float(np.median(values[len(values) // 5 :]))
    if share >= limits.explained_variance_low:
        return None
    fact = f"the explained variance of the critic is {share:.2f} after the first fifth of the run"
    return Measured("explained_variance", share, limits.explained_variance_low, fact)


def q_overestimates(run: Run, limits: Thresholds) -> Measured | None:
    """Compare predicted values with ``discounted_return``, or with the best mean reward forever.

    Where a temperature is tuned, values have the entropy of the policy in them, which is granted too. Values that
    fall from the zero of new networks towards negative returns are on their way, and not yet to be judged.
    """
    predicted, rewards, gamma = run.values(*PREDICTED), run.values("reward"), run.setting("gamma")
    earned = run.values("discounted_return")
    if predicted is None or (earned is None and (rewards is None or gamma is None or gamma >= 1)):
        return None
    if earned is not None:
        best, scale, what = float(late(earned).mean()), float(np.abs(earned).max()), "the discounted returns"
    else:
        assert rewards is not None
        assert gamma is not None
        # an episode may also end at once: no negative reward must go on forever
        best, scale = max(0.0, float(rewards.max())) / (1 - gamma), float(np.abs(rewards).max()) / (1 - gamma)
        what = "the best mean reward, forever,"
    value = float(late(predicted).mean())
    if value < 0 and value < float(early(predicted).mean()):
        return None
    alpha, entropy = run.values("alpha"), run.values("entropy")
    if alpha is not None and entropy is not None and gamma is not None and gamma < 1:
        best += max(0.0, float(late(alpha).mean() * late(entropy).mean())) * gamma / (1 - gamma)
    excess = (value - best) / max(scale, 1e-8)
    if excess <= limits.q_excess:
        return None
    fact = f"the predicted value is {value:.4g}, {what} {best:.4g}: {excess:.2g} times the scale too much"
    severity = "error" if excess > limits.q_divergence else None
    metric = next(name for name in PREDICTED if run.series(name) is not None)
    return Measured(metric, excess, limits.q_excess, fact, severity)


def units_are_dead(run: Run, limits: Thresholds) -> Measured | None:
    """Look at what :class:`~torchrl.trainers.LogDeadUnits` logged."""
    values = run.values("dead_units")
    if values is None:
        return None
    first, last = float(early(values).mean()), float(late(values).mean())
    fact = f"{last:.0%} of the units are zero for every input; {first:.0%} were at the start"
    if last > limits.dead_units_high:
        return Measured("dead_units", last, limits.dead_units_high, fact)
    growth = last - first
    return Measured("dead_units", growth, limits.dead_units_growth, fact) if growth > limits.dead_units_growth else None


def _norms(run: Run) -> dict[str, Array]:
    """Return the norms of gradients by name, without those that are not finite."""
    names = [name for name in run.metrics if "grad_norm" in name]
    found = {name: run.values(name) for name in names}
    return {name: values for name, values in found.items() if values is not None}


def gradients_explode(run: Run, limits: Thresholds) -> Measured | None:
    """Compare the norm of the gradient late in the run with that early."""
    for name, values in _norms(run).items():
        first, last = float(np.median(early(values))), float(np.median(late(values)))
        growth = last / max(first, 1e-12)
        if growth > limits.grad_norm_growth and last > 1:
            fact = f"the norm of the gradient has grown from {first:.3g} to {last:.3g}, {growth:.3g} times"
            return Measured(name, growth, limits.grad_norm_growth, fact)
    return None


def gradients_vanish(run: Run, limits: Thresholds) -> Measured | None:
    """Find gradients that are zero late in the run."""
    for name, values in _norms(run).items():
        if (norm := float(np.median(late(values)))) < limits.grad_norm_low:
            fact = f"the norm of the gradient is {norm:.2g}"
            return Measured(name, norm, limits.grad_norm_low, fact)
    return None


def gradients_always_clipped(run: Run, limits: Thresholds) -> Measured | None:
    """Compare norms with the limit among the settings."""
    limit = run.setting(*CLIP_NORM)
    if limit is None:
        return None
    for name, values in _norms(run).items():
        share = float((values > limit).mean())
        if share > limits.clipped_share and len(values) >= 10:
            median = np.median(values)
            fact = f"{share:.0%} of the gradients are longer than the limit of {limit:g}; the median is {median:.3g}"
            return Measured(name, share, limits.clipped_share, fact)
    return None


def _share_of_collecting(run: Run) -> float | None:
    collecting, optimising = run.values("time/collect"), run.values("time/optimise")
    if collecting is None or optimising is None:
        return None
    return float(collecting[-1] / max(collecting[-1] + optimising[-1], 1e-12))


def environment_bound(run: Run, limits: Thresholds) -> Measured | None:
    """Find a run that spends its time collecting."""
    share = _share_of_collecting(run)
    if share is None or share <= limits.time_share:
        return None
    return Measured("time/collect", share, limits.time_share, f"{share:.0%} of the time is spent collecting")


def learner_bound(run: Run, limits: Thresholds) -> Measured | None:
    """Find a run that spends its time optimising."""
    share = _share_of_collecting(run)
    if share is None or 1 - share <= limits.time_share:
        return None
    return Measured("time/optimise", 1 - share, limits.time_share, f"{1 - share:.0%} of the time is spent optimising")


def speeds(run: Run) -> Array:
    """Return the frames per second between one logged value and the next, ``[N]``, since learning started."""
    series, losses = run.series("frames_per_second"), run.series("loss", "optim_steps")
    if series is None:
        return np.empty(0)
    steps, seconds = series[:, 0], series[:, 0] / np.maximum(series[:, 1], 1e-9)  # what is logged: mean since the start
    rates = np.diff(steps) / np.maximum(np.diff(seconds), 1e-9)
    return rates if losses is None else rates[steps[:-1] >= losses[0, 0]]


def slows_down(run: Run, limits: Thresholds) -> Measured | None:
    """Compare the frames per second late in the run with those when learning started."""
    found = speeds(run)
    if len(found) < 10:
        return None
    before, now = float(np.median(early(found))), float(np.median(late(found)))
    share = now / max(before, 1e-12)
    if share >= limits.speed_share:
        return None
    fact = f"the run does {now:.0f} frames per second, and did {before:.0f} when learning started"
    return Measured("frames_per_second", share, limits.speed_share, fact)


def return_fell(run: Run, limits: Thresholds) -> Measured | None:
    """Compare the return at the end with the best of the run."""
    values = run.values(*RETURNS)
    if values is None or len(values) < limits.fewest_returns:
        return None
    curve = smoothed(values)[4:]  # means of five values at least
    best, last = float(curve.max()), float(late(curve).mean())
    gained, noise = best - float(early(curve).min()), float(np.std(np.diff(values))) / 5**0.5
    fall = (best - last) / max(gained, 1e-12)
    if fall <= limits.return_fall or best - last <= 3 * noise:  # the best of many means is lucky
        return None
    lost = f"{fall:.0%} of what had been gained" if fall < 1 else "all that had been gained"
    fact = f"the return is {last:.4g} at the end and was {best:.4g} at its best: {lost} is lost"
    return Measured("episode_return", fall, limits.return_fall, fact)


def return_did_not_rise(run: Run, limits: Thresholds) -> Measured | None:
    """Compare the return at the end with that at the start, and with its noise."""
    values = run.values(*RETURNS)
    if values is None or len(values) < limits.fewest_returns:
        return None
    first, last = early(values), late(values)
    error = float(np.sqrt(first.var() / len(first) + last.var() / len(last)))
    gain = float(last.mean() - first.mean())
    if gain > 2 * error or (gain >= 0 and error == 0 and first.mean() == values.max()):  # or always the best
        return None
    fact = f"the return is {last.mean():.4g} at the end and was {first.mean():.4g} at the start"
    return Measured("episode_return", gain, 2 * error, fact)


def learning_rate_is_zero(run: Run, limits: Thresholds) -> Measured | None:
    """Find a schedule that ends before the run."""
    series = run.series("lr", "learning_rate", "lr_0")
    if series is None or len(series) < 5:
        return None
    other = np.flatnonzero(series[:, 1] > 1e-6 * max(float(series[:, 1].max()), 1e-30))
    first = int(other[-1]) + 1 if len(other) else 0  # of those at the end; a run that was extended has others
    share = float(series[first, 0] / max(series[-1, 0], 1)) if first < len(series) else 1.0
    if share >= limits.lr_zero_share:
        return None
    fact = f"the learning rate is zero after {share:.0%} of the run"
    return Measured("lr", share, limits.lr_zero_share, fact)


def exploration_never_falls(run: Run, limits: Thresholds) -> Measured | None:
    """Find an exploration that is not annealed."""
    values = run.values(*EXPLORATION)
    if values is None or len(values) < 5:
        return None
    first, last = float(values[0]), float(late(values).mean())
    share = last / max(first, 1e-12)
    if share <= limits.exploration_share or last <= limits.exploration_small:
        return None
    fact = f"the exploration is {last:.3g} at the end and was {first:.3g} at the start"
    return Measured("eps", share, limits.exploration_share, fact)


def temperature_grows(run: Run, limits: Thresholds) -> Measured | None:
    """Compare the temperature of the entropy at the end with that at the start."""
    values = run.values("alpha")
    if values is None or len(values) < 10:
        return None
    growth = float(late(values).mean() / max(float(values[0]), 1e-12))
    if growth <= limits.alpha_growth:
        return None
    fact = f"the temperature has grown from {values[0]:.3g} to {late(values).mean():.3g}"
    return Measured("alpha", growth, limits.alpha_growth, fact)


def _final_returns(runs: Sequence[Run]) -> Array:
    """Return the mean of the last tenth of the returns of each run that has some, ``[N]``."""
    found = [run.values(*RETURNS) for run in runs]
    return np.array([values[-max(1, len(values) // 10) :].mean() for values in found if values is not None])


def seeds_disagree(runs: Sequence[Run], limits: Thresholds) -> Measured | None:
    """Compare the interval of the mean return with the mean."""
    finals = _final_returns(runs)
    if len(finals) < 3:
        return None
    low, high = bootstrap_interval(finals)
    share = float((high - low) / max(abs(finals.mean()), 1e-12))
    if share <= limits.interval_width:
        return None
    fact = (
        f"the mean return of {len(finals)} seeds is {finals.mean():.4g}, with a 95 % interval "
        f"from {low:.4g} to {high:.4g}"
    )
    return Measured("episode_return", share, limits.interval_width, fact)


def seeds_are_bimodal(runs: Sequence[Run], limits: Thresholds) -> Measured | None:
    """Find a gap in the returns of the seeds."""
    finals = np.sort(_final_returns(runs))
    if len(finals) < 4 or np.ptp(finals) <= limits.interval_width * np.abs(finals).max():
        return None
    gaps = np.diff(finals) / np.ptp(finals)
    at = int(gaps.argmax())
    if gaps[at] <= limits.seed_gap:
        return None
    fact = (
        f"{at + 1} of {len(finals)} seeds end at {finals[at]:.4g} or less, the others at {finals[at + 1]:.4g} or more"
    )
    return Measured("episode_return", float(gaps[at]), limits.seed_gap, fact)


def seeds_differ_in_speed(runs: Sequence[Run], limits: Thresholds) -> Measured | None:
    """Find a seed that was much slower than the others."""
    rates = {run.name: values[-1] for run in runs if (values := run.values("frames_per_second")) is not None}
    if len(rates) < 3:
        return None
    name, slowest = min(rates.items(), key=lambda item: item[1])
    median = float(np.median(list(rates.values())))
    share = float(slowest / max(median, 1e-12))
    if share >= limits.speed_share:
        return None
    fact = f"{name} did {slowest:.0f} frames per second, the median of the seeds is {median:.0f}"
    return Measured("frames_per_second", share, limits.speed_share, fact)


RULES: tuple[Rule, ...] = (
    Rule(
        not_finite,
        (),
        "error",
        "From there on the weights are most likely lost: whatever is computed from NaN is NaN.",
        "Look at the metric that went first; lower the learning rate, clip gradients, check rewards and "
        "observations for NaN (check_env), bound log-probabilities and scales away from zero.",
        PASCANU,
    ),
    Rule(
        kl_too_high,
        ("kl_approx", "kl"),
        "warning",
        "The advantages were estimated for the policy that collected the data; far from it they say nothing, "
        "and one bad update can destroy a policy.",
        "Fewer epochs, a lower learning rate, larger minibatches, a smaller clip_epsilon, or stop the epochs of "
        "a batch at a target KL.",
        DETAILS_37,
    ),
    Rule(
        kl_zero,
        ("kl_approx", "kl"),
        "warning",
        "The policy does not change: nothing is learned, or each batch is used for a single step, whose KL is zero.",
        "Check that the optimizer holds the actor's parameters, that the learning rate is not zero, and that the "
        "advantages are not all zero.",
        DETAILS_37,
    ),
    Rule(
        clips_too_much,
        ("clip_fraction",),
        "warning",
        "Clipped samples have no gradient: much of each batch is not used, and the policy has moved far.",
        "Lower the learning rate or the number of epochs; check that the log-probabilities stored are those of "
        "the policy that collected.",
        f"{DETAILS_37}; {ENGSTROM}",
    ),
    Rule(
        entropy_collapse,
        ("entropy",),
        "warning",
        "A policy without entropy tries nothing new; what it has not found by then it will not find.",
        "Raise entropy_coeff, lower the learning rate, normalise advantages and rewards; check the action bounds.",
        AHMED,
    ),
    Rule(
        critic_explains_nothing,
        ("explained_variance",),
        "warning",
        "A critic that is worse than a constant adds variance to the advantages. Where all returns are alike, as "
        "of a solved task, there is nothing to explain, and the number means little.",
        "Normalise observations and value targets, raise the critic's learning rate or its number of epochs, do "
        "not share layers, check gamma and the flags terminated and truncated.",
        ANDRYCHOWICZ,
    ),
    Rule(
        q_overestimates,
        PREDICTED,
        "warning",
        "The maximum over noisy values is too large, targets inherit the error, and the actor goes where the "
        "error is largest.",
        "Use two critics and their minimum, double_dqn, slower target networks, fewer updates per frame, layer "
        "norm in the critic; check that terminal states do not bootstrap.",
        HASSELT,
    ),
    Rule(
        units_are_dead,
        ("dead_units",),
        "warning",
        "Dead units have no gradient: the network has fewer units than it seems, and learns ever more slowly.",
        "Lower the learning rate, fewer updates per frame, layer norm, another activation than ReLU; reset dead "
        "units or last layers from time to time.",
        SOKAR,
    ),
    Rule(
        gradients_explode,
        ("grad_norm*",),
        "warning",
        "The steps are as long as the clip allows, in directions that depend on few samples.",
        "Clip gradients, lower the learning rate, scale rewards, use a Huber loss (smooth_l1) for the critic.",
        PASCANU,
    ),
    Rule(
        gradients_vanish,
        ("grad_norm*",),
        "warning",
        "Without a gradient nothing is learned.",
        "Check for detached tensors, saturated tanh, dead ReLU, a loss whose coefficient is zero, rewards that "
        "are all zero.",
        PASCANU,
    ),
    Rule(
        gradients_always_clipped,
        ("grad_norm*",),
        "note",
        "The limit sets the length of every step: the learning rate no longer does what its number says.",
        "Raise the limit to about the median of the norm, or lower the learning rate with that in mind.",
        f"{ANDRYCHOWICZ}; {ENGSTROM}",
    ),
    Rule(
        environment_bound,
        ("time/collect",),
        "note",
        "The learner waits for data: a faster network or GPU changes nothing.",
        "More environments (GymEnv(num_envs=...), ParallelEnv), MultiCollector, larger batches, or "
        "collection in the background (async_collection).",
        STOOKE,
    ),
    Rule(
        learner_bound,
        ("time/optimise",),
        "note",
        "Faster environments change nothing: time goes into gradient steps.",
        "Larger samples on a GPU, compile_with_warmup, fewer epochs or updates per frame, smaller networks, more "
        "threads of torch.",
        STOOKE,
    ),
    Rule(
        slows_down,
        ("frames_per_second",),
        "note",
        "The same work takes ever longer: memory that grows, a disk that fills, or another process on the machine.",
        "Watch memory; look for lists that keep tensors with their graph (detach), and for storages on a slow disk.",
        "chosen here",
    ),
    Rule(
        return_fell,
        RETURNS,
        "warning",
        "The last policy is not the best one: what was learned has been forgotten, or the policy has collapsed.",
        "Keep the best agent by its evaluations; lower the learning rate towards the end, a smaller KL or clip, a "
        "larger replay buffer, fewer updates per frame.",
        f"{NIKISHIN}; {ENGSTROM}",
    ),
    Rule(
        return_did_not_rise,
        RETURNS,
        "note",
        "Within the noise of its returns the run has learned nothing, or not yet.",
        "Compare with the frames that others need; check rewards, the scale of the observations and the action "
        "bounds; try an environment that is known to be easy with the same code.",
        HENDERSON,
    ),
    Rule(
        learning_rate_is_zero,
        ("lr", "learning_rate", "lr_0"),
        "warning",
        "From there on the run costs time and learns nothing.",
        "Give the schedule the number of its steps: batches for one that is stepped once a batch, optimisation "
        "steps for one that is stepped at each.",
        DETAILS_37,
    ),
    Rule(
        exploration_never_falls,
        EXPLORATION,
        "warning",
        "The policy that collects stays as random as at the start: its returns are low, whatever was learned.",
        "Call step(frames) of the exploration module after each batch, or pass the trainer a greedy_module; check "
        "annealing_num_steps.",
        MNIH,
    ),
    Rule(
        temperature_grows,
        ("alpha",),
        "note",
        "The policy cannot reach the target entropy, and the entropy comes to outweigh the rewards.",
        "Check target_entropy (by default minus the number of action dimensions), the bounds of the scale, and "
        "the scale of the rewards.",
        HAARNOJA,
    ),
    Rule(
        seeds_disagree,
        RETURNS,
        "warning",
        "With an interval that wide, differences between methods or settings are noise.",
        "Run more seeds (5 to 10), report the interval and the IQM, and look at what the bad seeds have in common.",
        HENDERSON,
        of_seeds=True,
    ),
    Rule(
        seeds_are_bimodal,
        RETURNS,
        "warning",
        "Some seeds learn and some do not: the mean describes none of them.",
        "Look for what decides early: exploration, initial weights, the first batches; more learning starts, more "
        "exploration, more environments.",
        HENDERSON,
        of_seeds=True,
    ),
    Rule(
        seeds_differ_in_speed,
        ("frames_per_second",),
        "note",
        "The machine was shared, or one run did other work: wall-clock times cannot be compared.",
        "Compare by frames, or run the seeds one after the other.",
        "chosen here",
        of_seeds=True,
    ),
)
