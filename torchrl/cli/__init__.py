"""The command line ``torchrl``: train, look at, compare, tune and export agents; one file a command.

``python -m torchrl.cli`` does the same. The extra ``cli`` installs what it needs.
"""

from torchrl.cli.program import main

__all__ = ["main"]
