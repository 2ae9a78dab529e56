"""Write ``old_names.md`` from the tables of old names and the ``@old_keywords`` of the source.

python docs/old_names.py
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import torchrl

PAGE = Path(__file__).with_name("old_names.md")
SOURCE = Path(torchrl.__path__[0])
GONE = "taken and not needed"
HEAD = """# Old names

Names, keywords and paths of earlier releases keep working, silently and for life. Our own code and
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
    for path in sorted(SOURCE.rglob("*.py")):
        for home in re.findall(
            r'^__getattr__ = moved\(__name__, "(.*)"\)$', path.read_text(), re.M
        ):
            parts = path.relative_to(SOURCE.parent).with_suffix("").parts
            yield ".".join(part for part in parts if part != "__init__"), home


def keywords() -> Iterator[tuple[str, str, str]]:
    """Yield callable, old keyword and new, from the decorators in the source."""
    for path in sorted(SOURCE.rglob("*.py")):
        for owner, function in _functions(ast.parse(path.read_text())):
            makes = function.name in ("__init__", "__new__")
            name = owner if makes else f"{owner}.{function.name}".lstrip(".")
            for decorator in function.decorator_list:
                if (
                    isinstance(decorator, ast.Call)
                    and ast.unparse(decorator.func) == "old_keywords"
                ):
                    for keyword in decorator.keywords:
                        new = ast.literal_eval(keyword.value)
                        yield name, str(keyword.arg), new or GONE


def _functions(tree: ast.Module) -> Iterator[tuple[str, ast.FunctionDef]]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            yield "", node
        elif isinstance(node, ast.ClassDef):
            yield from (
                (node.name, item) for item in node.body if isinstance(item, ast.FunctionDef)
            )


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
    lines += ["", "## Paths", "", "| old | new |", "| --- | --- |"]
    lines += [f"| `{old}` | `{new}` |" for old, new in paths()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
