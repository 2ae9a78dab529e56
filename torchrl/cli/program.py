"""`main`: find the command, run it, report what goes wrong in one line."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Sequence

import gymnasium
from tqdm import tqdm

import torchrl
from torchrl._core.errors import TorchRLError, nearest
from torchrl._core.log import logger
from torchrl.cli import doctor, eject, evaluate, export, list_, plot, record, resume, train, tune

COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "train": train.run,
    "eval": evaluate.run,
    "plot": plot.run,
    "record": record.run,
    "resume": resume.run,
    "doctor": doctor.run,
    "tune": tune.run,
    "export": export.run,
    "eject": eject.run,
    "list": list_.run,
}
BAD_INPUT, INTERRUPTED = 2, 130  # exit codes
# What input can cause: reported in one line. Any other error is a fault, and shown with its traceback.
EXPECTED = (TorchRLError, ValueError, OSError, ImportError, gymnasium.error.Error)
USAGE = """usage: torchrl COMMAND ... [--help] [--traceback]

{commands}

options:
  --help       of a command: its arguments, with their defaults
  --version    print the version
  --traceback  show the traceback of an error

examples:
  torchrl train ppo CartPole-v1
  torchrl train sac Pendulum-v1 --seeds 3 --total-frames 20000
  torchrl plot runs/sac_Pendulum-v1_seed*"""


class _StderrHandler(logging.Handler):
    """Show messages on stderr, above a progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    """Show a warning in a line, without the source that caused it."""
    tqdm.write(f"torchrl: {' '.join(str(message).split())}", file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: Its name and arguments; those of the process if ``None``.

    Returns: the exit code: 0, 2 after bad input, 130 after Ctrl-C.

    >>> main(["--version"])
    0.1.0
    0
    """
    args = list(sys.argv[1:] if argv is None else argv)
    with_traceback = "--traceback" in args
    args = [arg for arg in args if arg != "--traceback"]
    if not args or args[0] in ("-h", "--help", "help"):
        summaries = [f"  {name:11}{(command.__doc__ or '').partition('.')[0]}" for name, command in COMMANDS.items()]
        print(USAGE.format(commands="\n".join(["commands:", *summaries])))
        return 0
    if args[0] == "--version":
        print(torchrl.__version__)
        return 0
    handler = _StderrHandler(logging.WARNING)
    logger.addHandler(handler)
    try:
        return _run(args, with_traceback)
    finally:
        logger.removeHandler(handler)


def _run(args: list[str], with_traceback: bool) -> int:
    try:
        if args[0] not in COMMANDS:
            hint = nearest(args[0], COMMANDS) or f"Commands: {', '.join(COMMANDS)}."
            raise ValueError(f"no such command: {args[0]!r}. {hint}")
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            warnings.filterwarnings("ignore", ".*is not a multiple of the .* frames of a batch")
            COMMANDS[args[0]](args[1:])
    except KeyboardInterrupt:
        return INTERRUPTED
    except SystemExit as end:  # --help of a command
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BrokenPipeError:  # as in `torchrl list | head`
        sys.stderr.close()
        return 0
    except EXPECTED as error:
        if with_traceback:
            raise
        text = str(error)
        # What the system raises says only what it found; a download that failed has no strerror.
        if isinstance(error, OSError) and error.filename is not None and error.strerror:
            text = f"{args[0]}: cannot use {error.filename}: {error.strerror}. Pass a path that exists and is writable."
        print(f"torchrl: {' '.join(text.split())}", file=sys.stderr)
        return BAD_INPUT
    return 0
