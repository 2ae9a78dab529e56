"""Docstrings in the style of the library, as reStructuredText.

They name what a part reads and writes in one paragraph each, and its hooks as a list::

    Reads: ``reward [*B, 1]``,
        and more on the next line.
    Writes: ``advantage [*B, 1]``.

    Hooks, of which a subclass needs one:
        _step: ``td -> td``.

What napoleon knows (``Args:``, ``Raises:``, ...) is left to it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

FIELD = re.compile(
    r"^(Reads|Writes|Reads and writes|Returns|Sources?|Yields|Raises|Differs|Units|See)(\b[^:`]*)?: (\S.*)$"
)
KNOWN = re.compile(r"^(Args|Attributes|Raises|Returns|Yields|Examples?|Notes?|Warning|See Also):$")
ITEM = re.compile(r"^([\w<>*., ()\[\]\"]+?): (.*)$")


def converted(lines: list[str]) -> list[str]:
    """Return the lines of a docstring with fields and lists as reStructuredText has them."""
    out: list[str] = []
    rest = list(lines)
    while rest:
        line = rest.pop(0)
        field = FIELD.match(line)
        is_list = line.endswith(":") and not line.endswith("::") and not KNOWN.match(line) and line[:1].strip()
        if field:
            if out and out[-1].strip() and not out[-1].startswith((":", "    ")):
                out.append("")
            out.append(f":{field[1]}{field[2] or ''}: {field[3]}")
            while rest and rest[0].strip() and not FIELD.match(rest[0]) and not KNOWN.match(rest[0]):
                out.append("    " + rest.pop(0).strip())
            if rest and rest[0].strip() and not FIELD.match(rest[0]):
                out.append("")
        elif is_list and rest and re.match(r"^ +\S", rest[0]):
            out.extend(listed(line, list(taken(rest))))
        else:
            out.append(line)
    return out


def taken(rest: list[str]) -> Iterator[str]:
    """Take the indented lines that come next."""
    while rest and re.match(r"^ +\S", rest[0]):
        yield rest.pop(0)


def listed(head: str, block: list[str]) -> Iterator[str]:
    """Yield a heading and, below it, its names with what is said of each."""
    indent = len(block[0]) - len(block[0].lstrip())
    if not any(ITEM.match(line.strip()) for line in block):
        yield from (head, *block, "")
        return
    yield from ("", head if "`" in head else f"**{head}**", "")
    for line in block:
        item = ITEM.match(line.strip())
        if len(line) - len(line.lstrip()) > indent:
            yield f"  {line.strip()}"
        elif item:
            names = ", ".join(f"``{name.strip()}``" for name in item[1].split(", "))
            yield f"* {names}: {item[2]}"
        else:
            yield f"* {line.strip()}"
    yield ""


def setup(app: Any) -> dict[str, Any]:
    """Convert docstrings before napoleon reads them."""

    def process(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
        lines[:] = converted(lines)

    app.connect("autodoc-process-docstring", process, priority=100)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
