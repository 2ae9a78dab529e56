"""Write ``old_names.md`` from the tables of old names, keywords and attributes.

python docs/old_names.py
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import Any

import torchrl
from torchrl._legacy import OLD_PATHS

PAGE = Path(__file__).with_name("old_names.md")
GONE = "taken and not needed"
HEAD = """# Old names

Names, keywords, attributes and paths of earlier releases keep working, silently and for life. Our own code and
documentation use the new ones. This page is made from the tables in the source: `make docs`.
"""


def tables() -> dict[str, dict[str, str]]:
    """Return old name to new by subpackage; a name stands with the shortest path to it."""
    modules = [m.name for m in pkgutil.walk_packages(torchrl.__path__, "torchrl.")]
    named = [name.rpartition(".")[0] for name in modules if name.endswith("._legacy")]
    found: dict[str, dict[str, str]] = {}
    seen: set[tuple[str, str]] = set()
    for package in sorted(named, key=lambda name: (name.count("."), name)):
        root = ".".join(package.split(".")[:2])
        table = importlib.import_module(f"{package}._legacy").OLD
        new = {old: name for old, name in table.items() if (root, old) not in seen}
        seen.update((root, old) for old in new)
        found[package] = dict(sorted(new.items()))
    return {package: table for package, table in found.items() if table}


def paths() -> Iterator[tuple[str, str]]:
    """Yield old path and new, of modules whose whole content lives elsewhere now."""
    for old, new in OLD_PATHS.items():
        yield f"torchrl.{old}", f"torchrl.{new}".rstrip(".")


def keywords() -> Iterator[tuple[str, str, str]]:
    """Yield callable, old keyword and new."""
    for module in pkgutil.walk_packages(torchrl.__path__, "torchrl."):
        for name, function in renaming(importlib.import_module(module.name)):
            for old, new in function.old_keywords.items():
                yield re.sub(r"\.__(init|new)__$", "", name), old, new or GONE


def attributes() -> Iterator[tuple[str, str, str]]:
    """Yield class, old attribute and new."""
    for module in pkgutil.walk_packages(torchrl.__path__, "torchrl."):
        for thing in vars(importlib.import_module(module.name)).values():
            if isinstance(thing, type) and _home(thing) == module.name:
                for old, new in vars(thing).get("old_attributes", {}).items():
                    yield thing.__qualname__, old, new


def renaming(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """Yield the functions and methods of a module that answer to old keywords, by their names."""
    own = [thing for thing in vars(module).values() if _home(thing) == module.__name__]
    methods = [vars(thing).values() for thing in own if isinstance(thing, type)]
    for thing in chain(own, *methods):
        function = getattr(thing, "__func__", thing)  # of static methods and those of a class
        if "old_keywords" in getattr(function, "__dict__", {}):
            yield function.__qualname__, function


def _home(thing: Any) -> Any:
    return getattr(thing, "__module__", None)


def page() -> str:
    """Return the page."""
    lines = [HEAD]
    for package, table in tables().items():
        lines += [f"## {package}", "", "| old | new |", "| --- | --- |"]
        lines += [f"| `{old}` | `{new.replace(':', '.')}` |" for old, new in table.items()]
        lines.append("")
    lines += ["## Keywords", "", "| of | old | new |", "| --- | --- | --- |"]
    for owner, old, new in sorted(set(keywords())):
        lines.append(f"| `{owner}` | `{old}` | {new if new == GONE else f'`{new}`'} |")
    lines += ["", "## Attributes", "", "| of | old | new |", "| --- | --- | --- |"]
    lines += [f"| `{owner}` | `{old}` | `{new}` |" for owner, old, new in sorted(attributes())]
    lines += ["", "## Paths", "", "| old | new |", "| --- | --- |"]
    lines += [f"| `{old}` | `{new}` |" for old, new in paths()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
