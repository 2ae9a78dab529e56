"""Old names of losses and their helpers."""

OLD: dict[str, str] = {}
