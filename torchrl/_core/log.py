"""The library logger. A library logs and never prints: handlers are the application's choice."""

from __future__ import annotations

import logging

logger = logging.getLogger("torchrl")
logger.addHandler(logging.NullHandler())
