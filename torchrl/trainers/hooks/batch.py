"""What of a batch goes on: the entries that are wanted, the rows that are no padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tensordict import NestedKey, TensorDictBase
from torch import Tensor

from torchrl._core.keys import as_keys, require
from torchrl.trainers.hooks.base import TrainerHookBase

MASK = ("collector", "mask")


def rows(batch: TensorDictBase) -> Tensor | None:
    """Return the mask ``[*B]`` of the rows of a batch that are no padding; ``None`` if all are."""
    return batch.get(MASK, None)


def mask_batch(batch: TensorDictBase) -> TensorDictBase:
    """Return the rows ``[N]`` that are no padding; a batch without padding as it is.

    Reads: ``("collector", "mask") [*B]``, if it is there.
    """
    mask = rows(batch)
    return batch if mask is None else batch[mask]


def num_frames(batch: TensorDictBase) -> int:
    """Return the number of frames of a batch, padding left out."""
    mask = rows(batch)
    return batch.numel() if mask is None else int(mask.sum())


def entry_name(key: NestedKey) -> str:
    """Return what a number that stands for an entry is called.

    >>> entry_name(("next", "reward")), entry_name(("agents", "speed"))
    ('reward', 'agents/speed')
    """
    parts: tuple[Any, ...] = (key,) if isinstance(key, str) else key
    return "/".join(parts[parts[0] == "next" :])


class SelectKeys(TrainerHookBase):
    """Keeps these entries of each batch, so that a buffer stores no more than what is used.

    Args:
        keys: The entries to keep.

    Raises:
        MissingKeyError: if one is absent.

    >>> import torch
    >>> from tensordict import TensorDict
    >>> batch = TensorDict(action=torch.zeros(2), junk=torch.zeros(2), batch_size=[2])
    >>> list(SelectKeys(["action"])(batch).keys())
    ['action']
    """

    stage, name = "batch_process", "select_keys"

    def __init__(self, keys: Sequence[NestedKey]) -> None:
        self.keys = as_keys(keys)

    def __call__(self, batch: TensorDictBase) -> TensorDictBase:
        require(batch, self.keys, self, "Collect that entry, or do not ask for it.")
        return batch.select(*self.keys)
