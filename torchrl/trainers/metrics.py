"""Numbers by name: the latest of each, and which of them the logger is due."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tensordict import TensorDictBase
from torch import Tensor

from torchrl.record import Logger


class Metrics:
    """Keeps the latest of each number and hands it on now and then.

    Args:
        logger: Receives the numbers; nobody if ``None``.
        interval: Frames between two numbers of one name, at least.

    >>> metrics = Metrics(None, interval=10)
    >>> metrics.take({"reward": 1.0}, frames=5, on_bar=True)
    >>> metrics.latest, metrics.on_bar
    ({'reward': 1.0}, {'reward': 1.0})
    """

    def __init__(self, logger: Logger | None, interval: int) -> None:
        self.logger, self.interval = logger, interval
        self.latest: dict[str, Any] = {}
        self.on_bar: dict[str, Any] = {}
        self._logged: dict[str, int] = {}  # frames at which each was last handed on

    def take(self, values: Mapping[str, float | Tensor], frames: int, *, on_bar: bool) -> None:
        """Take note of numbers; hand those on that are due."""
        self.latest.update(values)
        if on_bar:
            self.on_bar.update(values)
        due = {name: value for name, value in values.items() if self._is_due(name, frames)}
        self._logged.update(dict.fromkeys(due, frames))
        if self.logger is not None and due:
            self.logger.log_scalars(due, frames)

    def _is_due(self, name: str, frames: int) -> bool:
        return name not in self._logged or frames - self._logged[name] >= self.interval

    def state_dict(self) -> dict[str, Any]:
        """Return the latest numbers, and when they were handed on."""
        latest = {name: float(value) for name, value in self.latest.items()}
        return {"latest": latest, "logged": dict(self._logged)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self.latest, self._logged = dict(state_dict["latest"]), dict(state_dict["logged"])


class Means:
    """Means of losses over optimisation steps, kept on their device so that nothing waits.

    >>> import torch
    >>> from tensordict import TensorDict
    >>> means = Means()
    >>> for value in (1.0, 3.0):
    ...     means.add(TensorDict(loss=torch.tensor(value)))
    >>> means.values()
    {'loss': tensor(2.)}
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, losses: TensorDictBase) -> None:
        """Take in what one step gave."""
        for name, value in losses.items():
            mean: Any = value if value.ndim == 0 else value.float().mean()
            self._sums[name] = self._sums[name] + mean if name in self._sums else mean
            self._counts[name] = self._counts.get(name, 0) + 1

    def values(self) -> dict[str, Tensor]:
        """Return the means by name."""
        return {name: total / self._counts[name] for name, total in self._sums.items()}
