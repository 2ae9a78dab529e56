"""``torchrl eject ALGO ENV``: print the script of a training command."""

from __future__ import annotations

from torchrl.cli.arguments import FileArgs, read_request
from torchrl.cli.script import make_script
from torchrl.cli.tasks import check_task


def run(argv: list[str]) -> None:
    """Eject the training script: one file that gives the same numbers."""
    request = read_request("eject", FileArgs, argv)
    check_task(request.algorithm, request.env)
    command = f"torchrl eject {' '.join(argv)}"
    print(make_script(request.algorithm, request.env, request.config, request.options, command), end="")
