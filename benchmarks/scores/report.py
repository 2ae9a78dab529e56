"""The tables and plots of scores, from the results of runs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from manifest import Row

from torchrl.trainers import bootstrap_interval

Runs = Mapping[str, Sequence[Mapping[str, Any]]]  # by the names of rows
COLUMNS = (
    *("algorithm", "task", "frames", "to reach", "last agent", "95 % interval", "best agent", "training", "SB3"),
    *("seeds", "minutes"),
)
HEAD = f"| {' | '.join(COLUMNS)} |\n| --- | --- {'| ---: ' * (len(COLUMNS) - 2)}|\n"


def read(folder: Path) -> Runs:
    """Return the results of a folder by the names of their rows, ordered by seed."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for file in sorted(folder.glob("*.json")):
        found.setdefault(file.stem.rpartition("_")[0], []).append(json.loads(file.read_text()))
    return {name: sorted(runs, key=lambda run: run["seed"]) for name, runs in found.items()}


def value(run: Mapping[str, Any], measure: str) -> float | None:
    """Return the return of a run: of its ``"last"`` or ``"best"`` agent, or of the last tenth of ``"training"``."""
    if measure == "training":
        points = [point for point in run.get("training", [])[-10:] if point is not None]
        return mean(points) if points else None
    return run[measure]["mean"] if measure in run else None


def values(runs: Iterable[Mapping[str, Any]], measure: str) -> list[float]:
    """Return those of several runs, of which some may have none."""
    return [found for run in runs if (found := value(run, measure)) is not None]


def goal_of(row: Row, peer: Runs) -> float | None:
    """Return what a row must reach: its goal, or the mean of the peer."""
    found = values(peer.get(row.name, ()), row.measure)
    return row.goal if row.goal is not None or not found else mean(found)


def is_reached(row: Row, runs: Runs, peer: Runs) -> bool | None:
    """Return whether the interval of the mean reaches the goal; ``None`` without a goal or all seeds."""
    found, goal = values(runs.get(row.name, ()), row.measure), goal_of(row, peer)
    if goal is None or len(found) < row.seeds:
        return None
    return bool(bootstrap_interval(found)[1] >= goal)


def table(rows: Sequence[Row], runs: Runs, peer: Runs) -> str:
    """Return a table in Markdown of the rows that have results, with a heading for each group.

    A goal that is not reached is marked by ``!``; a row with fewer seeds than it should have names both numbers.
    """
    text = ""
    for group in dict.fromkeys(row.group for row in rows):
        lines = [line(row, runs, peer) for row in rows if row.group == group and row.name in runs]
        if lines:
            text += f"## {group[0].upper()}{group[1:]}\n\n{HEAD}{''.join(lines)}\n"
    return text


def line(row: Row, runs: Runs, peer: Runs) -> str:
    """Return the line of a row."""
    mine, theirs = runs[row.name], peer.get(row.name, ())
    found, goal = values(mine, row.measure), goal_of(row, peer)
    seeds = min(len(mine), row.seeds)
    low, high = bootstrap_interval(found)
    minutes = mean(run["seconds"] for run in mine) / 60
    ratio = f" ({minutes * 60 / mean(run['seconds'] for run in theirs):.2f} of SB3's)" if theirs else ""
    cells = [
        f"`{row.algorithm}`{f' {row.label}' if row.label else ''}",
        row.task,
        f"{row.frames:,}",
        "" if goal is None else f"{short(goal)}{' !' if is_reached(row, runs, peer) is False else ''}",
        f"**{short(mean(values(mine, 'last')))}**",
        f"{short(low)} to {short(high)}",
        *(short(mean(values(mine, name))) if values(mine, name) else "" for name in ("best", "training")),
        short(mean(values(theirs, row.measure))) if theirs else "",
        f"{seeds}" if seeds == row.seeds else f"{seeds} of {row.seeds}",
        f"{minutes:.1f}{ratio}",
    ]
    return f"| {' | '.join(cells)} |\n"


def short(number: float) -> str:
    """Return a number with as many digits as one looks at.

    >>> short(-152.34), short(2.345), short(5812.7)
    ('-152', '2.3', '5,813')
    """
    return f"{number:.1f}" if abs(number) < 10 else f"{number:,.0f}"


def image_of(folder: Path, group: str) -> Path:
    """Return the file of the plot of a group."""
    return folder / f"{group.lower().replace(', ', '_').replace(' ', '_')}.png"


def plot(rows: Sequence[Row], runs: Runs, peer: Runs, path: Path) -> None:
    """Draw the evaluations during training, mean and range over seeds, with the goals and the peer."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - not needed for the table

    shown = [row for row in rows if any(run.get("evaluations") for run in runs.get(row.name, ()))]
    if not shown:
        return
    tasks = list(dict.fromkeys(row.task for row in shown))
    columns = min(3, len(tasks))
    height = -(-len(tasks) // columns)
    figure = Figure(figsize=(4.5 * columns, 3.2 * height), layout="constrained")
    every = figure.subplots(height, columns, squeeze=False).flat
    for axes in every[len(tasks) :]:
        axes.set_axis_off()
    for axes, task in zip(every, tasks, strict=False):
        here = [row for row in shown if row.task == task]
        for i, row in enumerate(here):
            for style, found in (("-", runs), (":", peer)):
                curves = [run["evaluations"] for run in found.get(row.name, ()) if run.get("evaluations")]
                if not curves:
                    continue
                frames = [frame for frame, _ in min(curves, key=len)]
                points = list(zip(*([value for _, value in curve] for curve in curves), strict=False))
                label = f"{row.algorithm} {row.label}".strip() + (" (SB3)" if found is peer else "")
                axes.plot(frames, list(map(mean, points)), style, color=f"C{i}", label=label)
                axes.fill_between(frames, list(map(min, points)), list(map(max, points)), color=f"C{i}", alpha=0.15)
            if (goal := goal_of(row, peer)) is not None:
                axes.axhline(goal, color=f"C{i}", linewidth=0.8, linestyle="--")
        scale = "log" if len({row.frames for row in here}) > 2 else "linear"
        axes.set(title=task, xscale=scale, xlabel="frames", ylabel="return of 10 episodes")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    figure.savefig(path, dpi=90)
