"""``torchrl plot RUN...``: compare runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torchrl.cli.arguments import parse
from torchrl.trainers.plots import plot_runs


@dataclass
class PlotArgs:
    """Plot a metric of several runs: the mean over seeds, and its 95 % bootstrap interval.

    Several environments get a panel each, and one of the interquartile mean over tasks.
    """

    runs: tuple[Path, ...]  # folders of runs, or folders that hold several
    out: Path = Path("curves.png")  # the image; its suffix is the format
    metric: str = "episode_return"  # as its file below scalars, such as eval/return or loss_objective
    level: float = 0.95  # of the intervals
    title: str | None = None  # above the plot


def run(argv: list[str]) -> None:
    """Plot and compare runs, with intervals over seeds."""
    args = parse(PlotArgs, argv, command="plot")
    if not args.runs:
        raise ValueError("plot: needs a run. As in: torchrl plot runs/ppo_CartPole-v1_seed0")
    print(plot_runs(args.runs, args.out, args.metric, level=args.level, title=args.title))
