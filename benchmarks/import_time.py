"""What ``import torchrl`` costs above ``import tensordict``; the target is 0.15 s.

python benchmarks/import_time.py
"""

from __future__ import annotations

import subprocess
import sys

CODE = """
import time
import tensordict
start = time.perf_counter()
import {name}
print(time.perf_counter() - start)
"""
NAMES = ["torchrl", "torchrl.data", "torchrl.modules", "torchrl.objectives", "torchrl.envs"]


def seconds(name: str, repeat: int = 5) -> float:
    """Return the seconds that an import takes in a fresh interpreter, the best of several."""
    command = [sys.executable, "-c", CODE.format(name=name)]
    return min(float(subprocess.check_output(command)) for _ in range(repeat))


def main() -> None:
    for name in NAMES:
        print(f"import {name:24s} {seconds(name):6.3f} s above tensordict")


if __name__ == "__main__":
    main()
