"""Looking at a buffer as a whole, making its parts late, hooks of saves."""

import pickle

import pytest

from torchrl.data import (
    CompactStorage,
    ConsumingSampler,
    LazyMemmapStorage,
    LazyTensorStorage,
    ListStorage,
    PrioritizedReplayBuffer,
    PrioritizedSliceSampler,
    ReplayBuffer,
    SliceSampler,
    TensorDictReplayBuffer,
)
from torchrl.testing.buffer import assert_same, transitions

STORAGES = {
    "list": lambda: ListStorage(6),
    "tensor": lambda: LazyTensorStorage(6),
    "compact": lambda: CompactStorage(LazyTensorStorage(6)),
}


@pytest.mark.parametrize("make", STORAGES.values(), ids=STORAGES)
def test_all_rows_are_read_in_order_and_replaced(make):
    buffer = ReplayBuffer(storage=make())
    buffer.extend(transitions(0, 4))
    assert buffer.read_all_in_order()["item"].tolist() == [0, 1, 2, 3]
    buffer.extend(transitions(4, 5))
    assert buffer.read_all_in_order()["item"].tolist() == [3, 4, 5, 6, 7, 8]
    assert buffer.write_all(transitions(20, 3)).tolist() == [0, 1, 2]
    assert buffer.read_all_in_order()["item"].tolist() == [20, 21, 22]


def test_stats_say_what_a_buffer_is_and_holds():
    buffer = ReplayBuffer(storage=LazyTensorStorage(6))
    buffer.extend(transitions(0, 8))
    assert buffer.stats() == {
        "items": 6,
        "max_size": 6,
        "write_count": 8,
        "storage": "LazyTensorStorage",
        "sampler": "RandomSampler",
        "writer": "RoundRobinWriter",
    }


def test_a_buffer_says_whether_it_can_be_sampled():
    for sampler in (SliceSampler(slice_len=3), PrioritizedSliceSampler(9, 1.0, 1.0, slice_len=3)):
        buffer = ReplayBuffer(storage=LazyTensorStorage(9), sampler=sampler, batch_size=3)
        assert not buffer.can_sample()
        buffer.extend(transitions(0, 2))
        assert not buffer.can_sample()
        with pytest.raises(RuntimeError, match="no stored episode has 3 steps"):
            buffer.sample()
        buffer.extend(transitions(2, 2))
        assert buffer.can_sample()
        assert len(buffer.sample()) == 3


def test_items_are_consumed():
    buffer = ReplayBuffer(consume_after_n_samples=2, batch_size=2)
    assert isinstance(buffer.sampler, ConsumingSampler)
    buffer.extend(["a", "b"])
    assert buffer.can_sample()
    assert sorted(buffer.sample() + buffer.next()) == ["a", "a", "b", "b"]
    assert not buffer.can_sample()
    with pytest.raises(TypeError, match="takes sampler or consume_after_n_samples, not both"):
        ReplayBuffer(consume_after_n_samples=2, sampler=ConsumingSampler())


def test_parts_are_made_when_they_are_needed(tmp_path):
    made = []

    def storage():
        made.append(1)
        return LazyTensorStorage(6)

    buffer = TensorDictReplayBuffer(storage=storage, delayed_init=True, batch_size=2)
    assert not made
    buffer.extend(transitions(0, 4))
    buffer.sample()
    assert made == [1]
    with pytest.raises(AttributeError, match="no attribute 'smaple'"):
        buffer.smaple()
    rated = PrioritizedReplayBuffer(alpha=1.0, beta=1.0, storage=storage, delayed_init=True)
    assert made == [1]
    assert rated.sampler.max_capacity == 6
    for late in ({"storage": LazyTensorStorage(6)}, {"shared": True}):
        with pytest.raises(TypeError, match=r"delayed_init makes the parts later.*existsok=True"):
            ReplayBuffer(delayed_init=True, **late)


class Folder:
    """Makes a storage that every process finds."""

    def __init__(self, path):
        self.path = path

    def __call__(self):
        return LazyMemmapStorage(6, scratch_dir=self.path, existsok=True)


def test_a_buffer_without_parts_travels_light_and_finds_its_rows(tmp_path):
    buffer = ReplayBuffer(storage=Folder(tmp_path), delayed_init=True)
    other = pickle.loads(pickle.dumps(buffer))
    buffer.extend(transitions(0, 4))
    assert_same(other[:], buffer[:])


@pytest.mark.parametrize("make", STORAGES.values(), ids=STORAGES)
def test_hooks_change_what_is_saved_and_back(make, tmp_path):
    def build():
        buffer = ReplayBuffer(storage=make())
        buffer.register_save_hook(lambda td: td.exclude("observation"))
        buffer.register_save_hook(lambda td: seen.append(td) or td.set("item", -td["item"]))
        buffer.register_load_hook(
            lambda td: td.set("observation", (td["item"] * 1.0).double().unsqueeze(1).expand(-1, 2))
        )
        buffer.register_load_hook(lambda td: td.set("item", -td["item"]))
        return buffer

    seen, first, second = [], build(), build()
    first.dumps(tmp_path / "empty")
    first.extend(transitions(0, 9))
    first.dumps(tmp_path / "full")
    assert "observation" not in seen[0]
    second.loads(tmp_path / "full")
    assert_same(second[:], first[:])
    assert second.write_count == 9
    for buffer in (first, second):
        buffer.extend(transitions(9, 2))
    assert_same(second[:], first[:])
    second.loads(tmp_path / "empty")
    assert len(second) == 0
