"""``python -m torchrl.cli``."""

import sys

from torchrl.cli.program import main

if __name__ == "__main__":
    sys.exit(main())
