"""Statistics and plots of training runs: means over seeds with bootstrap intervals, IQM over tasks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from torchrl._core.errors import describe, nearest
from torchrl._core.optional import require_package
from torchrl.trainers.runs import Array, Folders, Run, grouped, read_run, read_runs

__all__ = ["Run", "bootstrap_interval", "iqm", "iqm_interval", "plot_runs", "read_run", "read_runs"]

# Returns of a random policy and of a policy that solves the task, by which scores are normalised.
# The second is the reward_threshold of gymnasium where there is one.
SCORES: dict[str, tuple[float, float]] = {
    "CartPole-v1": (22.0, 475.0),
    "Acrobot-v1": (-500.0, -100.0),
    "MountainCar-v0": (-200.0, -110.0),
    "MountainCarContinuous-v0": (-33.0, 90.0),
    "Pendulum-v1": (-1230.0, -150.0),  # the best scores published for it
    "LunarLander-v3": (-180.0, 200.0),
    "LunarLanderContinuous-v3": (-180.0, 200.0),
    "BipedalWalker-v3": (-100.0, 300.0),
}
POINTS = 200  # of a curve


def bootstrap_interval(
    values: ArrayLike, level: float = 0.95, *, resamples: int = 2000, seed: int = 0
) -> tuple[Array, Array]:
    """Return the percentile bootstrap interval of the mean.

    Args:
        values: One number a run, ``[N]``, or several, ``[N, *S]``: an interval of each.
        level: Probability that the interval covers.
        resamples: Number of samples of ``N`` runs, drawn with replacement.
        seed: Of these samples.

    Returns: The ends of the interval, both ``[*S]``.

    Raises:
        ValueError: without runs, or if ``level`` is not between 0 and 1.

    Source: Efron, 1979, https://doi.org/10.1214/aos/1176344552.

    >>> low, high = bootstrap_interval([1.0, 2.0, 3.0, 4.0])
    >>> float(low), float(high)
    (1.5, 3.5)
    """
    data = np.asarray(values, dtype=np.float64)  # [N, *S]
    if data.ndim == 0 or not len(data):
        raise ValueError(describe("bootstrap_interval", "needs at least one run"))
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(data), size=(resamples, len(data)))  # [R, N]
    counts = np.apply_along_axis(np.bincount, 1, drawn, minlength=len(data))  # [R, N]
    means = np.tensordot(counts / len(data), data, 1)  # [R, *S]
    return _percentiles("bootstrap_interval", means, level)


def _percentiles(who: str, statistics: Array, level: float) -> tuple[Array, Array]:
    if not 0 < level < 1:
        raise ValueError(describe(who, "got a level that is no probability", expected="0 < level < 1", found=level))
    low, high = np.percentile(statistics, [50 * (1 - level), 50 * (1 + level)], axis=0)
    return low, high


def iqm(scores: ArrayLike) -> float:
    """Return the interquartile mean: the mean of the scores without the lowest and highest quarter.

    Args:
        scores: Normalised scores, of any shape, such as ``[runs, tasks]``: all count alike; NaN is left out.

    Source: Agarwal et al., 2021, https://arxiv.org/abs/2108.13264.

    >>> iqm([0.0, 1.0, 2.0, 9.0])
    1.5
    """
    data = np.asarray(scores, dtype=np.float64).ravel()
    data = np.sort(data[~np.isnan(data)])  # [N]
    cut = int(0.25 * len(data))
    return float(data[cut : len(data) - cut].mean())


def iqm_interval(
    scores: ArrayLike, level: float = 0.95, *, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Return the stratified bootstrap interval of the interquartile mean.

    Runs are drawn with replacement for each task separately.

    Args:
        scores: Normalised scores ``[runs, tasks]``; NaN where a task has fewer runs.
        level: Probability that the interval covers.
        resamples: Number of samples.
        seed: Of these samples.

    Raises:
        ValueError: if the scores have another shape, a task has no run, or ``level`` is not between 0 and 1.

    Source: Agarwal et al., 2021, https://arxiv.org/abs/2108.13264, section 4.1.

    >>> iqm_interval([[0.5, 0.1], [0.5, 0.1]])
    (0.3, 0.3)
    """
    data = np.asarray(scores, dtype=np.float64)
    if data.ndim != 2:
        fact = "needs one row a run, one column a task"
        raise ValueError(describe("iqm_interval", fact, expected="[runs, tasks]", found=list(data.shape)))
    rng = np.random.default_rng(seed)
    columns = []
    for column in data.T:
        known = column[~np.isnan(column)]
        if not len(known):
            raise ValueError(describe("iqm_interval", "got a task without a run"))
        columns.append(rng.choice(known, size=(resamples, len(known))))  # [R, N of this task]
    drawn = np.sort(np.concatenate(columns, 1), 1)  # [R, N]
    cut = int(0.25 * drawn.shape[1])
    low, high = _percentiles("iqm_interval", drawn[:, cut : drawn.shape[1] - cut].mean(1), level)
    return float(low), float(high)


def smoothed(values: Array) -> Array:
    """Return the mean of each value ``[N]`` and those of the last twentieth before it, of five at least."""
    window = max(5, len(values) // 20)
    total = np.concatenate([[0.0], np.cumsum(values)])
    end = np.arange(1, len(values) + 1)
    start = np.maximum(0, end - window)
    return (total[end] - total[start]) / (end - start)


def plot_runs(
    folders: Folders,
    path: str | Path,
    metric: str = "episode_return",
    *,
    level: float = 0.95,
    scores: Mapping[str, tuple[float, float]] = SCORES,
    title: str | None = None,
) -> Path:
    """Plot a metric of several runs against frames: the mean over seeds, and its bootstrap interval.

    Runs with the same algorithm and environment are seeds of one curve: each seed faintly, smoothed over a
    twentieth of its values; their mean on the frames that all of them reached; its interval as a band.
    Several environments get a panel each, and, if all their scores can be normalised, one of the
    interquartile mean over the tasks, of the algorithms that were run on all of them.

    Args:
        folders: Folders of runs, or of several runs each.
        path: Where the image is written; its suffix is the format.
        metric: Its name, with or without its group.
        level: Of the intervals.
        scores: By environment, the returns of a random policy and of one that solves the task: those are
            0 and 1 of the normalised scores.
        title: Above all panels.

    Returns: The path of the image.

    Raises:
        FileNotFoundError: if a folder holds no run.
        ValueError: if a run has no such metric, or for another level than one between 0 and 1.
        ImportError: if matplotlib is not installed.

    >>> import tempfile
    >>> from torchrl.record import CSVLogger
    >>> folder = tempfile.mkdtemp()
    >>> for seed in range(3):
    ...     with CSVLogger(f"ppo_CartPole-v1_seed{seed}", folder) as logger:
    ...         for step in range(0, 1000, 100):
    ...             logger.log_scalar("train/episode_return", step / 10 + seed, step=step)
    >>> plot_runs(folder, f"{folder}/returns.png").name
    'returns.png'
    """
    if not 0 < level < 1:
        raise ValueError(
            describe("plot_runs", "level is out of range", expected="more than 0, less than 1", found=level)
        )
    runs = read_runs(folders)
    curves = {id(run): _curve(run, metric) for run in runs}
    groups = grouped(runs)
    algorithms = list(dict.fromkeys(algorithm for algorithm, _ in groups))
    environments = list(dict.fromkeys(env for _, env in groups))
    colors = {algorithm: f"C{i % 10}" for i, algorithm in enumerate(algorithms)}
    # an IQM over some of the tasks cannot be compared with one over all
    complete = [a for a in algorithms if all((a, env) in groups for env in environments)]
    with_iqm = len(environments) > 1 and all(env in scores for env in environments) and bool(complete)
    figure, panels = _panels(len(environments) + with_iqm)
    for axes, env in zip(panels, environments, strict=False):
        for (algorithm, each), members in groups.items():
            if each == env:
                seeds = [curves[id(run)] for run in members]
                _draw(axes, seeds, colors[algorithm], f"{algorithm} ({len(seeds)} seed{'s' * (len(seeds) > 1)})", level)
        _label(axes, env or "runs", metric.rpartition("/")[2].replace("_", " "))
        if len(environments) == 1 or len(algorithms) > 1:
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncol=2, frameon=False, fontsize="small")
    if with_iqm:
        axes = panels[len(environments)]
        for algorithm in complete:
            of_tasks = [([curves[id(run)] for run in groups[algorithm, env]], scores[env]) for env in environments]
            num_runs = sum(len(seeds) for seeds, _ in of_tasks)
            _draw_iqm(axes, of_tasks, colors[algorithm], f"{algorithm} ({num_runs} runs)", level)
        _label(axes, f"IQM over {len(environments)} tasks", "normalised score")
        axes.set_xlabel("share of the frames")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncol=2, frameon=False, fontsize="small")
    if title is not None:
        figure.suptitle(title)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return path


def _curve(run: Run, metric: str) -> Array:
    """Return steps and smoothed values ``[N, 2]`` of a metric, without those that are not finite."""
    series = run.series(metric)
    if series is not None:
        series = series[np.isfinite(series).all(1)]
    if series is None or not len(series):
        known = [name for name, values in run.metrics.items() if np.isfinite(values).all(1).any()]
        hint = nearest(metric, [name.rpartition("/")[2] for name in known] + known) or f"It has {sorted(known)}."
        raise ValueError(describe("plot_runs", f"{run.folder} has no metric {metric!r}", hint=hint))
    return np.stack([series[:, 0], smoothed(series[:, 1])], 1)


def _panels(number: int) -> tuple[Any, list[Any]]:
    """Return a figure, and that many axes in it, in rows of three."""
    matplotlib = require_package("matplotlib.figure", needed_by="plot_runs", extra="rendering")
    columns = min(number, 3)
    rows = -(-number // columns)
    size = (7.0, 4.6) if number == 1 else (4.6 * columns, 4.0 * rows)
    figure = matplotlib.Figure(figsize=size, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.08)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels[number:]:
        axes.set_visible(False)
    return figure, list(panels)


def _on_grid(seeds: list[Array]) -> tuple[Array, Array]:
    """Return common steps ``[P]`` and the values ``[N, P]`` of each seed there."""
    start = max(curve[0, 0] for curve in seeds)
    end = min(curve[-1, 0] for curve in seeds)
    if start > end:  # no step in common
        start = end = min(curve[-1, 0] for curve in seeds)
    grid = np.linspace(start, end, POINTS)
    return grid, np.stack([np.interp(grid, curve[:, 0], curve[:, 1]) for curve in seeds])


def _draw(axes: Any, seeds: list[Array], color: str, label: str, level: float) -> None:
    grid, values = _on_grid(seeds)  # [P], [N, P]
    if len(seeds) > 1:
        for curve in seeds:
            axes.plot(curve[:, 0], curve[:, 1], color=color, alpha=0.25, linewidth=0.8)
        low, high = bootstrap_interval(values, level)
        axes.fill_between(grid, low, high, color=color, alpha=0.2, linewidth=0)
    axes.plot(grid, values.mean(0), color=color, linewidth=1.8, label=label)


def _draw_iqm(
    axes: Any, of_tasks: list[tuple[list[Array], tuple[float, float]]], color: str, label: str, level: float
) -> None:
    """Draw the interquartile mean over runs and tasks, at the same share of the frames of each task."""
    values = [(_on_grid(seeds)[1] - low) / (high - low) for seeds, (low, high) in of_tasks]  # of each task [N, P]
    most = max(map(len, values))
    table = np.full((most, len(values), POINTS), np.nan)  # [runs, tasks, P]
    for task, each in enumerate(values):
        table[: len(each), task] = each
    share = np.linspace(0, 1, POINTS)
    some = np.linspace(0, POINTS - 1, 40).astype(int)  # an interval each
    ends = np.array([iqm_interval(table[:, :, i], level, resamples=500) for i in some])  # [40, 2]
    axes.fill_between(share[some], ends[:, 0], ends[:, 1], color=color, alpha=0.2, linewidth=0)
    axes.plot(share, [iqm(table[:, :, i]) for i in range(POINTS)], color=color, linewidth=1.8, label=label)


def _label(axes: Any, title: str, ylabel: str) -> None:
    ticker = require_package("matplotlib.ticker", needed_by="plot_runs", extra="rendering")
    axes.set(title=title, xlabel="frames", ylabel=ylabel)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_xlim()[1] > 1.1:
        axes.xaxis.set_major_locator(ticker.MaxNLocator(6))
        axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda x, _: short_number(x)))


def short_number(x: float) -> str:
    """Return a number with the suffix k or M.

    >>> short_number(0), short_number(2500), short_number(1_000_000), short_number(12_500_000)
    ('0', '2.5k', '1M', '12.5M')
    """
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(x) >= size:
            return f"{x / size:.4g}{suffix}"
    return f"{x:.4g}"
