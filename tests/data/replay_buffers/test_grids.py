"""Buffers of several dimensions are read and written in the order of dimensions of the data."""

import pytest
import torch
from tensordict import TensorDict

from torchrl.data import (
    CompactStorage,
    LazyMemmapStorage,
    LazyTensorStorage,
    PrioritizedSampler,
    RandomSampler,
    ReplayBuffer,
    SamplerWithoutReplacement,
    SliceSampler,
    TensorDictReplayBuffer,
    TensorStorage,
)

STEPS = 6  # in a full ring
STORAGES = {
    "tensor": lambda size, ndim: LazyTensorStorage(size, ndim=ndim),
    "memmap": lambda size, ndim: LazyMemmapStorage(size, ndim=ndim),
    "compact": lambda size, ndim: CompactStorage(LazyTensorStorage(size, ndim=ndim)),
    "given": None,
}


def steps(lead, first, count):
    """Return steps [*lead, T] whose "x" tells environment and time apart."""
    width = torch.Size(lead).numel()
    x = 1000 * torch.arange(width).view(*lead, 1) + torch.arange(first, first + count)
    after = TensorDict(x=x + 1, batch_size=x.shape)
    return TensorDict(x=x, deep=TensorDict(y=x.float(), batch_size=x.shape), next=after).auto_batch_size_(x.ndim)


def grid(storage, lead, kind=ReplayBuffer, **kwargs):
    """Return an empty ring of STEPS steps of each environment."""
    ndim, size = len(lead) + 1, STEPS * torch.Size(lead).numel()
    if storage == "given":
        rows = steps(lead, 0, STEPS).transpose(0, len(lead)).contiguous()
        made = TensorStorage(rows, ndim=ndim)
    else:
        made = STORAGES[storage](size, ndim)
    buffer = kind(storage=made, **kwargs)
    buffer.empty()
    return buffer


def ring(lead, written):
    """Return what a ring holds [*lead, T] after so many steps, by hand."""
    columns = [None] * STEPS
    for step in range(written):
        columns[step % STEPS] = steps(lead, step, 1)["x"]
    return torch.cat([column for column in columns if column is not None], -1)


INDICES = {
    "all": slice(None),
    "one environment": 1,
    "one item": (1, 3),
    "last": (slice(None), -1),
    "part": (1, slice(2, 5)),
    "first steps": (slice(None), slice(0, 3)),
    "pairs": (torch.tensor([0, 1]), torch.tensor([3, 4])),
    "mask": (torch.tensor([False, True]), 2),
    "dots": (..., 2),
    "every second": (slice(None), slice(0, 6, 2)),
    "list": ([1, 0],),
}


@pytest.mark.parametrize("index", INDICES.values(), ids=INDICES.keys())
@pytest.mark.parametrize("lead", [(2,), (2, 3)], ids=["two", "three"])
@pytest.mark.parametrize("storage", STORAGES)
def test_an_index_reads_what_was_written_there(storage, lead, index):
    buffer = grid(storage, lead)
    for first in (0, 4, 8):  # the ring is full and goes on inside
        buffer.extend(steps(lead, first, 4))
    if len(lead) == 2 and isinstance(index, tuple) and len(index) == 2 and index[0] is not ...:
        index = (index[0], slice(None), index[1])
    assert torch.equal(buffer[index]["x"], ring(lead, 12)[index])
    assert torch.equal(buffer[index]["next", "x"], ring(lead, 12)[index] + 1)


@pytest.mark.parametrize("written", [3, 6, 8, 15])
@pytest.mark.parametrize("lead", [(2,), (2, 3)], ids=["two", "three"])
@pytest.mark.parametrize("storage", STORAGES)
def test_a_ring_turns_along_time(storage, lead, written):
    buffer = grid(storage, lead)
    for first in range(0, written, 3):
        buffer.extend(steps(lead, first, min(3, written - first)))
    assert torch.equal(buffer[:]["x"], ring(lead, written))
    oldest = max(written - STEPS, 0)
    in_order = steps(lead, oldest, written - oldest)
    assert torch.equal(buffer.read_all_in_order()["x"], in_order["x"])
    buffer.write_all(buffer.read_all_in_order().clone())
    assert torch.equal(buffer[:]["x"], in_order["x"])


@pytest.mark.parametrize("index", INDICES.values(), ids=INDICES.keys())
@pytest.mark.parametrize("kind", [ReplayBuffer, TensorDictReplayBuffer])
@pytest.mark.parametrize("storage", STORAGES)
def test_writing_by_index_changes_these_items_and_no_other(storage, kind, index):
    if storage == "given" and kind is TensorDictReplayBuffer:
        pytest.skip("the given tensors have no index")
    buffer = grid(storage, (2,), kind)
    buffer.extend(steps((2,), 0, 6))
    expected = ring((2,), 6)
    expected[index] = -expected[index] - 1
    new = buffer[index].clone()
    new["x"] = -new["x"] - 1
    buffer[index] = new.exclude("index")
    assert torch.equal(buffer[:]["x"], expected)
    buffer.set_at_("x", expected[index] + 50, index)
    expected[index] += 50
    assert torch.equal(buffer[:]["x"], expected)
    buffer.update_(buffer[index].select("x").apply(lambda x: x * 2), index)
    expected[index] *= 2
    assert torch.equal(buffer[:]["x"], expected)
    assert torch.equal(buffer[:]["next", "x"], ring((2,), 6) + 1)


@pytest.mark.parametrize("lead", [(2,), (2, 3)], ids=["two", "three"])
def test_a_step_of_all_environments_is_added_by_index(lead):
    buffer = grid("tensor", lead)
    buffer.extend(steps(lead, 0, 2))
    buffer[..., 2] = steps(lead, 2, 1)[..., 0]
    buffer[..., 3:5] = steps(lead, 3, 2)
    assert torch.equal(buffer[:]["x"], ring(lead, 5))


@pytest.mark.parametrize("storage", ["tensor", "memmap", "compact"])
def test_rows_that_do_not_fit_are_refused_by_name(storage):
    buffer = grid(storage, (2,))
    buffer.extend(steps((2,), 0, 6))
    before = buffer[:].clone()
    with pytest.raises(KeyError, match="'x'"):
        buffer[1, 2:4] = steps((2,), 0, 2)[0].exclude("x")
    with pytest.raises(IndexError, match="holds no row"):
        buffer[1, 9]
    with pytest.raises(IndexError, match="too many indices"):
        buffer[1, 2, 3]
    assert (buffer[:] == before).all()


@pytest.mark.parametrize("lead", [(2,), (2, 3)], ids=["two", "three"])
@pytest.mark.parametrize(
    "sampler",
    [
        RandomSampler,
        SamplerWithoutReplacement,
        lambda: PrioritizedSampler(200, 1.0, 1.0),
        lambda: SliceSampler(slice_len=3, traj_key="env"),
    ],
    ids=["random", "without replacement", "prioritized", "slices"],
)
@pytest.mark.parametrize("storage", ["tensor", "memmap", "compact"])
def test_the_index_of_a_sample_leads_back_to_it(storage, sampler, lead):
    buffer = grid(storage, lead, TensorDictReplayBuffer, sampler=sampler(), batch_size=6)
    for first in (0, 4, 8):
        rows = steps(lead, first, 4)
        env = torch.arange(torch.Size(lead).numel()).view(*lead, 1).expand(*lead, 4)
        buffer.extend(rows.set("env", env.contiguous()))
    for _ in range(5):
        sample = buffer.sample()
        index = sample["index"].unbind(-1)
        assert torch.equal(buffer[index]["x"], sample["x"])
        assert torch.equal(buffer[:]["index"][index], sample["index"])
        if isinstance(buffer.sampler, SliceSampler):
            assert (sample["x"].view(-1, 3).diff(dim=1) == 1).all()
    buffer.update_priority(sample["index"], 3.0)
