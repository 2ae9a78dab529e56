"""Metrics of a trainer: the latest values, means of losses, the progress bar."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from tensordict import TensorDictBase
from torch import Tensor

from torchrl.record import Logger

with warnings.catch_warnings():  # a notebook without ipywidgets gets a bar of text
    warnings.simplefilter("ignore")
    from tqdm.auto import tqdm

BAR = "{percentage:3.0f}%|{bar}| {n_fmt} [{remaining} left, {rate_noinv_fmt}{postfix}]"  # fits into 80 columns


class Metrics:
    """The latest value of each metric, logged at intervals.

    Args:
        logger: The logger; none if ``None``.
        interval: Fewest frames between two logged values of one metric.

    >>> metrics = Metrics(None, interval=10)
    >>> metrics.take({"reward": 1.0}, frames=5, on_bar=True)
    >>> metrics.latest, metrics.on_bar
    ({'reward': 1.0}, {'reward': 1.0})
    """

    def __init__(self, logger: Logger | None, interval: int) -> None:
        self.logger, self.interval = logger, interval
        self.latest: dict[str, float | Tensor] = {}
        self.on_bar: dict[str, float | Tensor] = {}
        self._logged: dict[str, int] = {}  # number of frames when each was last logged

    def take(self, values: Mapping[str, float | Tensor], frames: int, *, on_bar: bool) -> None:
        """Keep values; log those whose last logged value is ``interval`` frames old."""
        self.latest.update(values)
        if on_bar:
            self.on_bar.update(values)
        due = {name: value for name, value in values.items() if self.is_due(name, frames)}
        self._logged.update(dict.fromkeys(due, frames))
        if self.logger is not None and due:
            self.logger.log_scalars(due, frames)

    def is_due(self, name: str, frames: int) -> bool:
        """Return whether a value of this metric would be logged now."""
        return name not in self._logged or frames - self._logged[name] >= self.interval

    def state_dict(self) -> dict[str, object]:
        """Return the latest values, and the number of frames when each was last logged."""
        latest = {name: float(value) for name, value in self.latest.items()}
        return {"latest": latest, "logged": dict(self._logged)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what :meth:`state_dict` returned."""
        self.latest, self._logged = dict(state_dict["latest"]), dict(state_dict["logged"])


class Means:
    """Means of losses over optimisation steps, kept on their device to avoid synchronisation.

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
        """Add the losses of one step."""
        for name, value in losses.items():
            assert isinstance(value, Tensor)
            mean = value if value.ndim == 0 else value.float().mean()
            self._sums[name] = self._sums[name] + mean if name in self._sums else mean
            self._counts[name] = self._counts.get(name, 0) + 1

    def values(self) -> dict[str, Tensor]:
        """Return the means by name."""
        return {name: total / self._counts[name] for name, total in self._sums.items()}


class Progress:
    """A progress bar, or none: frames, time left, frames per second, and values such as returns.

    In a notebook with ipywidgets it is one of its widgets.

    Args:
        total: Frames in all.
        done: Frames so far.
        shown: Whether there is a bar.

    >>> with Progress(100, 0, shown=False) as progress:
    ...     progress.show(10, {"reward": 1.0})
    """

    def __init__(self, total: int, done: int, *, shown: bool) -> None:
        self._bar = tqdm(
            total=total,
            initial=done,
            unit=" frames",
            unit_scale=True,
            disable=not shown,
            dynamic_ncols=True,
            bar_format=BAR,
        )
        self._done = done

    def show(self, done: int, values: Mapping[str, float | Tensor]) -> None:
        """Move the bar to ``done`` frames and show values beside it."""
        if not self._bar.disable:
            numbers = {name.removeprefix("episode_"): float(value) for name, value in values.items()}
            parts = [f"{name} {x:.0f}" if abs(x) >= 100 else f"{name} {x:.3g}" for name, x in numbers.items()]
            self._bar.set_postfix_str(", ".join(parts).replace("eval_return", "eval"), refresh=False)
            self._bar.total = max(self._bar.total, done)  # the last batch may overshoot
        self._bar.update(done - self._done)
        self._done = done

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exc: object) -> None:
        self._bar.close()
