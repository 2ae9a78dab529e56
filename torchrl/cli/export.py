"""``torchrl export RUN``: write an agent for other programs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torchrl.cli.arguments import parse
from torchrl.cli.tasks import load_agent


@dataclass
class ExportArgs:
    """Write the agent of a run as a file that other programs can run, with normalisation and memory inside."""

    run: Path  # folder of a run, or file of an agent
    format: Literal["onnx", "torch"] = "onnx"  # onnx: for ONNX runtimes; torch: a program of torch.export
    out: Path | None = None  # the file; None: agent.onnx or agent.pt2 beside the agent
    best: bool = False  # the agent with the best evaluation, not the last one


def run(argv: list[str]) -> None:
    """Export the agent of a run as a program of ONNX or PyTorch."""
    args = parse(ExportArgs, argv, command="export")
    folder = args.run if args.run.is_dir() else args.run.parent
    out = args.out or folder / ("agent.onnx" if args.format == "onnx" else "agent.pt2")
    print(load_agent(args.run, best=args.best).export(args.format, out))
