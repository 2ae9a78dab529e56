"""The library logger. A library logs and never prints: handlers are the application's choice."""

from __future__ import annotations

import logging

logger = logging.getLogger("torchrl")
logger.setLevel(logging.INFO)  # what is shown is still up to the handlers
logger.addHandler(logging.NullHandler())
