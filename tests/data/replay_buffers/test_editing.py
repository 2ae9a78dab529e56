"""What is stored changes in place, and nothing else does."""

import pytest
import torch
from tensordict import TensorDict

from torchrl._core.errors import DTypeError, MissingKeyError, ShapeError
from torchrl.data import (
    CompactStorage,
    CompressedListStorage,
    ImmutableDatasetWriter,
    LazyMemmapStorage,
    LazyTensorStorage,
    ListStorage,
    PrioritizedSampler,
    ReplayBuffer,
    RoundRobinWriter,
    SliceSampler,
    TensorDictReplayBuffer,
    TensorDictRoundRobinWriter,
    TensorStorage,
    traj,
)
from torchrl.testing.buffer import assert_same, transitions

STORAGES = {
    "list": ListStorage,
    "compressed": CompressedListStorage,
    "lazy": LazyTensorStorage,
    "memmap": LazyMemmapStorage,
    "compact": lambda size: CompactStorage(LazyTensorStorage(size)),
    "given": lambda size: TensorStorage(transitions(0, size)),
}


@pytest.fixture(params=STORAGES.values(), ids=STORAGES)
def buffer(request):
    buffer = ReplayBuffer(storage=request.param(8))
    buffer.extend(transitions(0, 8))
    return buffer


OBSERVATION = torch.arange(16.0, dtype=torch.float64).view(8, 2)
INDICES = {
    "slot": 3,
    "last": -1,
    "slice": slice(2, 7, 2),
    "list": [1, 5],
    "tensor": torch.tensor([7, 0, 3]),
    "mask": torch.arange(8) % 3 == 0,
}


@pytest.mark.parametrize("index", INDICES.values(), ids=INDICES)
def test_an_entry_changes_where_it_is_told_to(buffer, index):
    expected = buffer[:].clone()
    for key, value in (("observation", OBSERVATION), (("next", "reward"), -torch.ones(8, 1))):
        expected[key][index] = value[index]
        buffer.set_at_(key, value[index], index)
    assert_same(buffer[:].contiguous(), expected)


def test_an_entry_changes_everywhere(buffer):
    expected = buffer[:].clone().set("observation", OBSERVATION)
    buffer.set_("observation", OBSERVATION)
    assert_same(buffer[:].contiguous(), expected)


def test_several_entries_change_at_once(buffer):
    changed = TensorDict(observation=OBSERVATION, next=TensorDict(reward=torch.ones(8, 1)), batch_size=[8])
    expected = buffer[:].clone().update(changed)
    buffer.update_(changed[2:4], slice(2, 4))
    buffer.update_(changed)
    assert_same(buffer[:].contiguous(), expected)


@pytest.mark.parametrize(
    ("entries", "error", "words"),
    [
        ({"observations": OBSERVATION}, MissingKeyError, "'observations'"),
        ({"observation": OBSERVATION[:, :1]}, ShapeError, "'observation' has the wrong shape"),
        ({"observation": OBSERVATION.float()}, DTypeError, "'observation' has the wrong dtype"),
        ({"observation": OBSERVATION, "item": torch.ones(8)}, DTypeError, "'item' has the wrong"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(buffer, entries, error, words):
    before = buffer[:].clone()
    with pytest.raises(error, match=words):
        buffer.update_(TensorDict(entries, batch_size=[8]))
    assert_same(buffer[:].contiguous(), before)


def test_rows_of_several_dimensions():
    buffer = ReplayBuffer(storage=LazyTensorStorage(8, ndim=2))
    buffer.extend(transitions(0, 4, [2]).transpose(0, 1))
    index = torch.tensor([1, 0]), torch.tensor([0, 3])
    buffer.set_at_("item", torch.tensor([-1, -2]), index)
    assert buffer[:]["item"].T.flatten().tolist() == [0, -1, 2, 3, 4, 5, -2, 7]
    with pytest.raises(IndexError, match="holds no row"):
        buffer.set_at_("item", torch.tensor([[1, 2]]), [4])


def test_dictionaries_change_too():
    buffer = ReplayBuffer(storage=ListStorage(3))
    buffer.extend([{"a": {"b": torch.tensor(i)}} for i in range(3)])
    buffer.set_(("a", "b"), torch.tensor([5, 6, 7]))
    assert [buffer[i]["a"]["b"].item() for i in range(3)] == [5, 6, 7]


def test_priorities_stay_and_new_ends_count():
    buffer = ReplayBuffer(storage=LazyTensorStorage(9), sampler=PrioritizedSampler(9, 1.0, 1.0), batch_size=4)
    buffer.extend(transitions(0, 9))
    buffer.update_priority(torch.arange(9), torch.arange(9.0))
    buffer.set_("observation", torch.zeros(9, 2, dtype=torch.float64))
    assert buffer.sampler._raw.tolist() == list(range(9))
    buffer.set_sampler(SliceSampler(slice_len=2, truncated_key=None))
    assert buffer.sample(2)["item"].diff().item() == 1
    buffer.set_(("next", "done"), torch.ones(9, 1, dtype=torch.bool))
    assert not buffer.can_sample()


def test_read_only_data_stay_as_they_are():
    storage = TensorStorage(transitions(0, 3))
    buffer = ReplayBuffer(storage=storage, writer=ImmutableDatasetWriter())
    rows = buffer[:].clone()
    for change in (
        lambda: buffer.set_("item", torch.zeros(3)),
        lambda: buffer.set_at_("item", torch.tensor(0), 0),
        lambda: buffer.update_(rows),
        lambda: buffer.__setitem__(0, rows[0]),
        lambda: buffer.update_if_present(rows.set("index", rows["item"]).set("generation", rows["item"])),
    ):
        with pytest.raises(RuntimeError, match="this buffer is read-only"):
            change()


# --- generations ---------------------------------------------------------------------------------


@pytest.mark.parametrize("ndim", [1, 2])
@pytest.mark.parametrize("kind", [ReplayBuffer, TensorDictReplayBuffer])
def test_only_items_that_are_still_there_are_updated(kind, ndim):
    shape = [2] * (ndim - 1)
    make = RoundRobinWriter if kind is ReplayBuffer else TensorDictRoundRobinWriter
    buffer = kind(
        storage=LazyTensorStorage(6 * ndim, ndim=ndim), writer=make(track_generations=True), dim_extend=0, batch_size=40
    )
    first = 0
    for size in (4, 3, 6, 1, 20):
        buffer.extend(transitions(first, size, shape))
        first += size
        sample, info = buffer.sample(return_info=True)
        assert ("generation" in sample) == (kind is TensorDictReplayBuffer)
        sample["index"], sample["generation"] = info["index"], info["generation"]
        buffer.extend(transitions(first, 2, shape))
        first += 2
        there = torch.isin(sample["item"], buffer[:]["item"].flatten())
        changed = sample.select("index", "generation").set("td_error", -sample["item"].float())
        before = buffer[:].clone()
        result = buffer.update_if_present(changed)
        assert result.version_rejected is None
        assert torch.equal(result.updated, there)
        after = buffer[:]
        hit = torch.isin(after["item"], sample["item"])
        assert torch.equal(after["td_error"][hit], -after["item"][hit].float())
        assert torch.equal(after["td_error"][~hit], before["td_error"][~hit])


def test_items_of_an_emptied_buffer_are_not_taken_for_new_ones():
    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(4), writer=TensorDictRoundRobinWriter(track_generations=True), batch_size=4
    )
    for size in (3, 4, 2):
        buffer.extend(transitions(0, size))
        old = buffer.sample().select("index", "generation", "td_error")
        buffer.empty()
        buffer.extend(transitions(0, 4))
        assert not buffer.update_if_present(old).updated.any()
        kept = buffer.sample()
        buffer.load_state_dict(buffer.state_dict())
        assert buffer.update_if_present(kept.exclude("item")).updated.all()


def test_newer_versions_stay():
    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(4), writer=TensorDictRoundRobinWriter(track_generations=True)
    )
    buffer.extend(TensorDict(value=torch.zeros(4), version=torch.arange(4), batch_size=[4]))
    sample = buffer.sample(32)
    sample["value"], sample["version"] = torch.ones(32), torch.full((32,), 1)
    result = buffer.update_if_present(sample, "version")
    assert torch.equal(result.version_rejected, sample["index"] > 1)
    assert torch.equal(result.updated, sample["index"] <= 1)
    assert buffer[:]["version"].tolist() == [1, 1, 2, 3]
    assert buffer[:]["value"].tolist() == [1, 1, 0, 0]


def test_generations_have_to_be_counted():
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(4))
    buffer.extend(transitions(0, 4))
    with pytest.raises(MissingKeyError, match=r"'generation' .*track_generations=True"):
        buffer.update_if_present(buffer.sample(2))


# --- queries -------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", STORAGES.values(), ids=STORAGES)
def test_stored_trajectories_are_found(make):
    buffer = ReplayBuffer(storage=make(8))
    buffer.empty()
    assert buffer.query() == []
    buffer.extend(transitions(0, 10))  # episodes of three; the first has lost two of its steps
    found = [one.data["item"].tolist() for one in buffer.query()]
    assert found == [[2], [3, 4, 5], [6, 7, 8], [9]]
    late = buffer.query((traj.length == 3) & (traj.item.max() > 6))
    assert [one.data["item"].tolist() for one in late] == [[6, 7, 8]]
    assert_same(late[0].data.contiguous(), transitions(0, 10)[6:9])


@pytest.mark.parametrize("key", [None, "number"])
def test_numbers_tell_trajectories_apart(key):
    buffer = ReplayBuffer(storage=LazyTensorStorage(20, ndim=2))
    rows = transitions(0, 6, [2]).set(("collector", "traj_ids"), torch.arange(12).view(6, 2) // 8)
    rows["number"] = rows["collector", "traj_ids"]
    buffer.extend(rows.transpose(0, 1))
    found = {tuple(one.data["item"].tolist()) for one in buffer.query(trajectory_key=key)}
    assert found == {(0, 2, 4, 6), (1, 3, 5, 7), (8, 10), (9, 11)}
