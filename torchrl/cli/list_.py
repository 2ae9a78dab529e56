"""``torchrl list``: algorithms, and where tuned settings are."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from fnmatch import fnmatch

from torchrl.cli.arguments import parse
from torchrl.cli.tables import show_table
from torchrl.trainers.algorithms import ALGORITHMS
from torchrl.trainers.algorithms.defaults import FAMILIES, TUNED


@dataclass
class ListArgs:
    """List the algorithms with the actions that they fit, and the environments with tuned settings."""


def run(argv: list[str]) -> None:
    """List algorithms and tuned settings."""
    parse(ListArgs, argv, command="list")
    rows = []
    for name, trainer in sorted(ALGORITHMS.items()):
        about = (sys.modules[trainer.__module__].__doc__ or "").partition("\n")[0].rstrip(".")
        rows.append([name, ", ".join(trainer.action_kinds), about])
    show_table(["algorithm", "actions", ""], rows)
    print()
    tasks = {family: [name.rstrip("-*") for name in names] for family, names in FAMILIES.items()}
    rows = [[family, ", ".join(tasks[family]), ", ".join(tuned_for(family)) or "-"] for family in FAMILIES]
    show_table(["family", "environments", "tuned settings for"], rows)
    print("\ntorchrl train ALGO ENV --help shows the settings of an algorithm and their defaults for an environment.")


def tuned_for(family: str) -> list[str]:
    """Return the algorithms that have settings for a family, or for some of its environments.

    >>> "ppo" in tuned_for("classic")
    True
    """
    patterns = FAMILIES[family]

    def fits(key: str) -> bool:
        return key == family or any(fnmatch(key, pattern) or key == pattern for pattern in patterns)

    return [name for name, table in sorted(TUNED.items()) if name in ALGORITHMS and any(map(fits, table))]
