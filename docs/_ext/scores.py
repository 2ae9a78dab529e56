"""Tables of results that lie as JSON beside the benchmarks; nothing where there are none."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
RESULTS = BENCHMARKS / "scores" / "results"
sys.path.insert(0, str(BENCHMARKS / "scores"))  # programs, not a package

import report  # noqa: E402
from manifest import ROWS  # noqa: E402


def scores(folder: Path = RESULTS) -> str:
    """Return tables and plots of the runs in ``folder``, as ``benchmarks/scores`` writes them; empty without any."""
    text = ""
    for group in dict.fromkeys(row.group for row in ROWS):
        text += report.table(
            [row for row in ROWS if row.group == group], report.read(folder), report.read(folder / "sb3")
        )
        if (image := report.image_of(folder, group)).exists():
            text += f"![Evaluations during training](../benchmarks/scores/results/{image.name})\n\n"
    return text


def speeds(folder: Path = BENCHMARKS / "results") -> str:
    """Return a table for each file of records ``[{column: value}]`` in ``folder``; empty without any."""
    text = ""
    for file in sorted(folder.glob("*.json")):
        records = json.loads(file.read_text())
        if not (isinstance(records, list) and records and all(isinstance(record, dict) for record in records)):
            continue
        columns = list(dict.fromkeys(key for record in records for key in record))
        rows = ["| " + " | ".join(shown(record.get(column, "")) for column in columns) + " |\n" for record in records]
        head = "| " + " | ".join(columns) + " |\n" + "| --- " * len(columns) + "|\n"
        text += f"## {file.stem.replace('_', ' ').capitalize()}\n\n{head}{''.join(rows)}\n"
    return text


def scores_in_short(folder: Path = RESULTS) -> str:
    """Return what the small set has reached; empty without any."""
    rows = [row for row in ROWS if row.group == "small"]
    lines = [line.strip("|\n").split("|") for line in report.table(rows, report.read(folder), {}).splitlines()[2:]]
    return "".join(f"|{cells[0]}|{cells[1]}|{cells[3]}|{cells[4]}|\n" for cells in lines if len(cells) > 1)


def speeds_in_short(folder: Path = BENCHMARKS / "results") -> str:
    """Return the ratios of collection and of updates to the same by hand, 1 is as fast; empty without any."""
    rows = []
    for name, column, kind in (("collect", "task", "torchrl"), ("updates", "update", None)):
        file = folder / f"{name}.json"
        for record in json.loads(file.read_text()) if file.exists() else ():
            if kind in (None, record.get("loop")):
                speed = record["ratio"] if name == "collect" else 1 / record["ratio"]
                rows.append(f"| {record[column]} | {speed:.2f} |\n")
    return "| collection and updates | speed, by hand = 1 |\n| --- | ---: |\n" + "".join(rows) if rows else ""


def shown(value: Any) -> str:
    """Return a value as the cell of a table."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


MARKS = {
    "<!-- table of scores -->": scores,
    "<!-- tables of speeds -->": speeds,
    "<!-- scores in short -->": scores_in_short,
    "<!-- speeds in short -->": speeds_in_short,
}


def setup(app: Any) -> dict[str, Any]:
    """Fill the marks of pages."""

    def fill(app: Any, docname: str, source: list[str]) -> None:
        for mark, table in MARKS.items():
            if mark in source[0]:
                source[0] = source[0].replace(mark, table())
                app.env.note_reread()

    app.connect("source-read", fill)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
