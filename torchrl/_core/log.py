"""The logger of the library. Handlers are chosen by the application; nothing is printed."""

from __future__ import annotations

import logging

#: The logger of the library's messages, a child of the root logger of Python's :mod:`logging`.
logger = logging.getLogger("torchrl")
logger.setLevel(logging.INFO)  # handlers still choose what is shown
logger.addHandler(logging.NullHandler())
