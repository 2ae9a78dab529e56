"""``torchrl doctor RUN...``: find what looks wrong."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from torchrl.cli.arguments import parse
from torchrl.trainers.doctor import doctor


@dataclass
class DoctorArgs:
    """Read the numbers of runs, and report what looks wrong: what was measured, why it matters, what to try."""

    runs: tuple[Path, ...]  # folders of runs, or folders that hold several
    json: bool = False  # print JSON


def run(argv: list[str]) -> None:
    """Diagnose runs: what looks wrong in their numbers, and what to try."""
    args = parse(DoctorArgs, argv, command="doctor")
    if not args.runs:
        raise ValueError("doctor: needs a run. As in: torchrl doctor runs/ppo_CartPole-v1_seed0")
    report = doctor(args.runs)
    print(report.json() if args.json else report.text(min(100, shutil.get_terminal_size().columns)))
