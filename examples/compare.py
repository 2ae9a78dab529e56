"""Plot the learning curves of several runs in one image.

python examples/compare.py curves.png runs/sac_Pendulum-v1_seed*
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

from torchrl.record import plot_curves


def read(run: Path) -> tuple[str, list[tuple[int, float]]]:
    """Return the label of a run, with its score if it has one, and ``(frames, return)`` pairs."""
    settings = json.loads((run / "hparams.json").read_text())
    scores = run / "scalars/eval/return.csv"
    name = f"seed {settings['seed']}"
    if scores.exists():
        name += f": {float(scores.read_text().split(',')[-1]):.1f}"
    with (run / "scalars/train/episode_return.csv").open() as file:
        return name, [(int(frames), float(value)) for frames, value in csv.reader(file)]


def main(argv: list[str] | None = None) -> None:
    """Read the command line and plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("image", type=Path, help="where the plot is written")
    parser.add_argument("runs", type=Path, nargs="+", help="folders of the runs")
    args = parser.parse_args(argv)
    title = args.runs[0].name.rpartition("_seed")[0].replace("_", " on ", 1)
    plot_curves(dict(read(run) for run in args.runs), args.image, title)


if __name__ == "__main__":
    main()
