"""Keeps what a benchmark measured, for the table of the documentation."""

from __future__ import annotations

import json
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
Row = dict[str, "str | float"]


def keep(name: str, rows: list[Row]) -> None:
    """Write the rows of a table, each by column, as ``results/<name>.json``; the last run counts."""
    RESULTS.mkdir(exist_ok=True)
    lines = ",\n".join(json.dumps(row) for row in rows)
    (RESULTS / f"{name}.json").write_text(f"[\n{lines}\n]\n")
