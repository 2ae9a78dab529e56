"""Batches of whole trajectories, assembled from batches of steps."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor

from torchrl._core.mdp import DONE, last_name
from torchrl.data.trajectories import split_trajectories

FORMATS = ("padded", "cat")


class TrajectoryAssembler:
    """Keeps steps until their trajectories have ended; returns these in batches.

    Args:
        count: Number of trajectories ``N`` in a batch.
        form: ``"padded"`` gives ``[N, L]``, ``L`` the longest, with the mask
            ``("collector", "mask")``; ``"cat"`` gives all steps one after the other, ``[S]``.
        keeps_open: Whether trajectories continue in the next batch; else the rest is dropped.

    Reads: ``("collector", "traj_ids") [*B, T]``, the ``done`` flags of the result, and
        ``("collector", "mask")``, if there is one.

    Raises:
        ValueError: for another form, or no trajectories.
    """

    def __init__(self, count: int, form: str | None = None, *, keeps_open: bool = True) -> None:
        form = form or FORMATS[0]
        if count < 1 or form not in FORMATS:
            raise ValueError(
                f"trajs_per_batch must be positive and traj_format one of {FORMATS}, found {count}, {form!r}."
            )
        self.count, self.form, self.keeps_open = count, form, keeps_open
        self._open: dict[int, list[TensorDictBase]] = {}
        self._whole: deque[TensorDictBase] = deque()

    def gather(self, batches: Iterator[TensorDictBase]) -> Iterator[TensorDictBase]:
        """Yield batches of whole trajectories; the last may have fewer."""
        for batch in batches:
            yield from self.add(batch)
        yield from self.rest()

    def add(self, batch: TensorDictBase) -> Iterator[TensorDictBase]:
        """Keep the steps of a batch; yield the trajectories that are whole now, ``N`` at a time."""
        self._sort(batch)
        if not self.keeps_open:
            self.reset()
        while len(self._whole) >= self.count:
            yield self._take(self.count)

    def rest(self) -> Iterator[TensorDictBase]:
        """Yield the whole trajectories that are left, fewer than ``N``, if there are any."""
        if self._whole:
            yield self._take(len(self._whole))

    def _sort(self, batch: TensorDictBase) -> None:
        for row in batch.reshape(-1, batch.shape[-1]).unbind(0):
            mask = row.get(("collector", "mask"), None)
            steps = row if mask is None else row[mask].exclude(("collector", "mask"))
            if not steps.shape[0]:
                continue
            number = steps["collector", "traj_ids"]  # [T]
            cuts = (number[1:] != number[:-1]).nonzero().flatten() + 1
            lengths = cuts.diff(prepend=cuts.new_zeros(1), append=cuts.new_tensor([steps.shape[0]]))
            for piece in steps.split(lengths.tolist()):
                self._join(int(piece["collector", "traj_ids"][0]), piece)

    def _join(self, number: int, piece: TensorDictBase) -> None:
        pieces = self._open.setdefault(number, [])
        pieces.append(piece)
        if bool(_ended(piece)[-1]):
            parts: Any = self._open.pop(number)
            whole: Any = torch.cat(parts, 0)
            self._whole.append(whole)

    def _take(self, count: int) -> TensorDictBase:
        pieces: Any = [self._whole.popleft() for _ in range(count)]
        steps: Any = torch.cat(pieces, 0)
        return split_trajectories(steps, prefix="collector") if self.form == "padded" else steps

    def state_dict(self) -> dict[str, object]:
        """Return the steps that are kept."""
        return {"open": {number: list(pieces) for number, pieces in self._open.items()}, "whole": list(self._whole)}

    def load_state_dict(self, state_dict: dict) -> None:
        """Go on with these steps."""
        self._open = {number: list(pieces) for number, pieces in state_dict["open"].items()}
        self._whole = deque(state_dict["whole"])

    def reset(self) -> None:
        """Drop the trajectories that have not ended."""
        self._open.clear()


def _ended(steps: TensorDictBase) -> Tensor:
    """Return where an episode ended ``[T]``, of any agent."""
    result = steps.get("next")
    flags = [result.get(key) for key in result.keys(True, True) if last_name(key) == DONE]
    ended = [flag.reshape(flag.shape[0], -1).any(-1) for flag in flags]
    return torch.stack(ended).any(0)
