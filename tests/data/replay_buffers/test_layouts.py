"""Layouts that store what follows a step once hold the same rows, bit for bit."""

import pytest
import torch
from tensordict import TensorDict

from torchrl._core.errors import MissingKeyError
from torchrl.data import (
    CompactStorage,
    Flat2TED,
    FlatStorageCheckpointer,
    H5Combine,
    H5Split,
    H5StorageCheckpointer,
    LazyTensorStorage,
    ListStorage,
    Nested2TED,
    NestedStorageCheckpointer,
    ReplayBuffer,
    TED2Flat,
    TED2Nested,
)
from torchrl.testing.buffer import assert_same, transitions

LAYOUTS = {"flat": (TED2Flat, Flat2TED), "nested": (TED2Nested, Nested2TED), "pieces": (H5Split, H5Combine)}


@pytest.mark.parametrize(("there", "back"), LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("row_shape", [[], [2]])
@pytest.mark.parametrize("count", [1, 8])
def test_there_and_back(there, back, row_shape, count):
    rows = transitions(1, count, row_shape)
    assert_same(back()(there()(rows)), rows)


def test_what_follows_is_stored_once():
    rows = transitions(1, 8)  # episodes of two steps, three, and three
    flat = TED2Flat()(rows)
    assert flat["lengths"].tolist() == [2, 3, 3]
    expected = [1, 2, 2.5, 3, 4, 5, 5.5, 6, 7, 8, 8.5]
    assert flat["states", "observation"][:, 0].tolist() == expected
    assert set(flat["states"].keys()) == {"observation"}
    assert flat["steps", "next", "reward"].flatten().tolist() == list(range(1, 9))
    pieces = H5Split()(rows)
    assert pieces["piece_1", "states", "observation"][:, 0].tolist() == [3, 4, 5, 5.5]
    assert pieces["piece_0", "steps", "item"].tolist() == [1, 2]
    nested = TED2Nested()(rows)
    assert [len(piece) for piece in nested["states", "observation"].unbind()] == [3, 4, 4]


def test_lanes_stay_apart():
    assert TED2Flat()(transitions(0, 3, [2]))["lengths"].tolist() == [3, 3]


def test_rows_without_next_are_refused():
    with pytest.raises(MissingKeyError, match=r"TED2Flat: entry 'next' is read but absent"):
        TED2Flat()(TensorDict(a=torch.zeros(3), batch_size=[3]))


CHECKPOINTERS = [FlatStorageCheckpointer, NestedStorageCheckpointer, H5StorageCheckpointer]
STORAGES = {
    "tensor": lambda: LazyTensorStorage(8),
    "two lanes": lambda: LazyTensorStorage(16, ndim=2),
    "list": lambda: ListStorage(8),
    "compact": lambda: CompactStorage(LazyTensorStorage(8)),
}


@pytest.mark.parametrize("checkpointer", CHECKPOINTERS)
@pytest.mark.parametrize("make", STORAGES.values(), ids=STORAGES)
def test_a_loaded_buffer_goes_on(checkpointer, make, tmp_path):
    first, second = (ReplayBuffer(storage=make(), checkpointer=checkpointer()) for _ in range(2))
    first.dumps(tmp_path / "empty")
    lanes = [2] if first.storage.ndim == 2 else []

    def extend(buffer, start, count):
        rows = transitions(start, count, lanes)
        buffer.extend(rows.transpose(0, 1) if lanes else rows)

    extend(first, 0, 5)
    extend(first, 5, 6)
    first.dumps(tmp_path / "full")
    second.loads(tmp_path / "full")
    for buffer in (first, second):
        extend(buffer, 11, 2)
    assert_same(first[:], second[:])
    second.loads(tmp_path / "empty")
    assert len(second) == 0
