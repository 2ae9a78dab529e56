"""Tables on the terminal: with rich if it is installed, aligned text otherwise."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence

from torchrl._core.optional import require_package


def show_table(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> None:
    """Print a table; words of a cell are wrapped where the terminal is too narrow, if rich is installed.

    >>> show_table(["name", "score"], [["a", "1"]], title="Scores")  # doctest: +SKIP
    """
    if importlib.util.find_spec("rich") is None or not sys.stdout.isatty():
        print(plain_table(columns, rows, title))
        return
    table = require_package("rich.table", needed_by="tables").Table(title=title or None, title_justify="left")
    for name in columns:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*row)
    require_package("rich.console", needed_by="tables").Console(highlight=False, markup=False).print(table)


def plain_table(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> str:
    """Return a table as aligned text.

    >>> print(plain_table(["name", "score"], [["ppo", "500"], ["dqn", "9.5"]]))
    name  score
    ppo   500
    dqn   9.5
    """
    lines = [columns, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join(([title] if title else []) + text)
