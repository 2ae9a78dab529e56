"""Old names of the library itself."""

OLD = {"torchrl_logger": "logger"}
