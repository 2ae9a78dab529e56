"""``torchrl resume RUN``: go on with a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torchrl.cli.arguments import parse
from torchrl.cli.tasks import check_task, run_folder
from torchrl.cli.train import Result
from torchrl.trainers import RunFolder, resume


@dataclass
class ResumeArgs:
    """Go on with a run from its last checkpoint, to the same numbers as if it had not been stopped, or beyond."""

    run: Path  # folder of the run
    total_frames: int = 0  # frames in all, those until now among them; 0: as many as the run was to have
    progress_bar: bool = True  # show one


def run(argv: list[str]) -> None:
    """Resume a run from its last checkpoint."""
    args = parse(ResumeArgs, argv, command="resume")
    folder = run_folder(args.run)
    before = RunFolder.open(folder)
    check_task(before.algorithm, before.task)
    resume(folder, total_frames=args.total_frames or None, progress_bar=args.progress_bar)
    result = Result.of(RunFolder.open(folder))
    print(f"{result}\nfolder: {result.folder}")
