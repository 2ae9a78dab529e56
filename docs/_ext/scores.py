"""Tables of results that lie as JSON beside the benchmarks; nothing where there are none."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from statistics import mean, stdev
from typing import Any

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SCORES = BENCHMARKS / "results" / "scores_small"
HEAD = "| algorithm | task | frames or gradient steps | to reach | mean return | seeds | minutes |\n"
LINE = "| --- | --- | ---: | ---: | ---: | --- | ---: |\n"


def scores(folder: Path = SCORES) -> str:
    """Return a table of the runs in ``folder``, as ``benchmarks/scores_small.py`` writes them; empty without any."""
    runs: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for file in sorted(folder.glob("*.json")):
        run = json.loads(file.read_text())
        if "score" in run:
            runs.setdefault((run["algorithm"], run["task"]), []).append(run)
    goals = {run[:2]: run[2] for run in runpy.run_path(str(BENCHMARKS / "scores_small.py"))["RUNS"]}
    order = {pair: i for i, pair in enumerate(goals)}
    rows = []
    for pair in sorted(runs, key=lambda pair: (order.get(pair, len(order)), pair)):
        found = sorted(runs[pair], key=lambda run: run["seed"])
        values = [run["score"] for run in found]
        spread = f" ± {stdev(values):.0f}" if len(values) > 1 else ""
        minutes = mean(run["seconds"] for run in found) / 60
        numbers = [
            goals.get(pair, ""),
            f"**{mean(values):.0f}**{spread}",
            ", ".join(f"{value:.0f}" for value in values),
        ]
        cells = [f"`{pair[0]}`", pair[1], f"{found[0]['frames']:,}", *numbers, f"{minutes:.0f}"]
        rows.append(f"| {' | '.join(map(str, cells))} |\n")
    return HEAD + LINE + "".join(rows) if rows else ""


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


def scores_in_short(folder: Path = SCORES) -> str:
    """Return the first columns of the table of scores that name what was reached; empty without any."""
    lines = [line.strip("|\n").split("|") for line in scores(folder).splitlines()]
    return "".join(f"|{cells[0]}|{cells[1]}|{cells[3]}|{cells[4]}|\n" for cells in lines)


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
