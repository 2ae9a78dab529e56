"""Draw the learning curves of several runs into one picture.

python examples/compare.py picture.png runs/sac_Pendulum-v1_seed*
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

from experiment import Curve, plot


def read(run: Path) -> tuple[str, Curve]:
    """Return the name of a run, with its score if it has one, and its curve."""
    settings = json.loads((run / "hparams.json").read_text())
    scores = run / "scalars/eval/return.csv"
    name = f"seed {settings['seed']}"
    if scores.exists():
        name += f": {float(scores.read_text().split(',')[-1]):.1f}"
    with (run / "scalars/train/episode_return.csv").open() as file:
        return name, [(int(frames), float(value)) for frames, value in csv.reader(file)]


def main(argv: list[str] | None = None) -> None:
    """Draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("picture", type=Path)
    parser.add_argument("runs", type=Path, nargs="+")
    args = parser.parse_args(argv)
    title = args.runs[0].name.rpartition("_seed")[0].replace("_", " on ", 1)
    plot(dict(read(run) for run in args.runs), args.picture, title)


if __name__ == "__main__":
    main()
