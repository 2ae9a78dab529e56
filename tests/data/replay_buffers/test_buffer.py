"""`ReplayBuffer`: what the contract does not say."""

import pickle
import threading

import pytest
import torch
from tensordict import TensorDict
from torch import nn

from torchrl._core.errors import MissingKeyError, ShapeError
from torchrl.data import (
    LazyMemmapStorage,
    LazyTensorStorage,
    ListStorage,
    PrioritizedSampler,
    ReplayBuffer,
    RoundRobinWriter,
    SamplerWithoutReplacement,
    TensorDictReplayBuffer,
)
from torchrl.testing.buffer import assert_same, transitions


def test_plain_objects():
    buffer = ReplayBuffer(collate_fn=lambda x: x)
    assert buffer.add(1) == 0
    assert buffer.sample(1) == [1]
    assert buffer.extend([2, 3]).tolist() == [1, 2]
    assert set(buffer.sample(30)) == {1, 2, 3}
    assert buffer[1] == 2
    buffer[1] = "two"
    assert buffer[:] == [1, "two", 3]


def test_a_batched_tensordict_is_one_item_to_add():
    buffer = ReplayBuffer(collate_fn=torch.stack)
    buffer.add(TensorDict(a=torch.zeros(7, 2), batch_size=[7]))
    assert len(buffer) == 1
    assert buffer.sample(3).batch_size == (3, 7)


def test_stored_rows_do_not_follow_the_caller():
    for storage in (ListStorage(4), LazyTensorStorage(4)):
        buffer, td = ReplayBuffer(storage=storage), TensorDict(a=torch.zeros(2, 1), batch_size=[2])
        buffer.extend(td)
        td["a"].fill_(7)
        assert (buffer[:]["a"] == 0).all()
        buffer.sample(2)["a"].fill_(7)
        assert (buffer[:]["a"] == 0).all()


def test_plain_samples_have_no_index_and_tensordict_samples_do():
    plain = ReplayBuffer(storage=LazyTensorStorage(4))
    plain.extend(transitions(0, 4))
    assert "index" not in plain.sample(2)
    _, info = plain.sample(2, return_info=True)
    assert info["index"].shape == (2,)
    kind = TensorDictReplayBuffer(storage=LazyTensorStorage(4))
    kind.extend(transitions(0, 4))
    assert kind.sample(3)["index"].shape == (3,)
    assert kind[2]["index"] == 2


def test_items_with_batch_dimensions_get_an_index_each():
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(4))
    buffer.extend(TensorDict(a=torch.zeros(3, 5), batch_size=[3, 5]).exclude())
    sample = buffer.sample(2)
    assert sample.batch_size == (2, 5)
    assert sample["index"].shape == (2, 5)
    assert (sample["index"] == sample["index"][:, :1]).all()


def test_unpacking_a_sample_gives_its_rows():
    buffer = ReplayBuffer(storage=LazyTensorStorage(10))
    buffer.extend(transitions(0, 10))
    first, *rest = buffer.sample(4)
    assert first.batch_size == ()
    assert len(rest) == 3


def test_ten_times_the_whole_storage_without_replacement():
    buffer = ReplayBuffer(storage=LazyTensorStorage(1000), sampler=SamplerWithoutReplacement())
    for epoch in range(10):
        buffer.extend(transitions(1000 * epoch, 1000))
        items = torch.cat([buffer.sample(64)["item"] for _ in range(15)])
        assert len(set(items.tolist())) == 15 * 64
        assert items.min() >= 1000 * epoch
        assert len(buffer) == 1000


def test_one_pass_without_replacement():
    for drop_last, sizes in ((False, [4, 4, 2]), (True, [4, 4])):
        buffer = ReplayBuffer(
            storage=LazyTensorStorage(10), sampler=SamplerWithoutReplacement(drop_last=drop_last), batch_size=4
        )
        buffer.extend(transitions(0, 10))
        for _ in range(2):
            batches = [batch["item"] for batch in buffer]
            assert [len(batch) for batch in batches] == sizes
            assert len(set(torch.cat(batches).tolist())) == sum(sizes)


def test_a_pass_ends_in_time_although_batches_are_made_ahead():
    buffer = ReplayBuffer(sampler=SamplerWithoutReplacement(), batch_size=4, prefetch=3)
    buffer.extend(torch.arange(10))
    for _ in range(3):
        assert sorted(torch.cat(list(buffer)).tolist()) == list(range(10))


def test_drop_last_that_drops_all_is_refused():
    buffer = ReplayBuffer(sampler=SamplerWithoutReplacement(drop_last=True), batch_size=2)
    buffer.extend([1, 2])
    with pytest.raises(ValueError, match=r"drop_last leaves out the only batch.*at most 2.*found 3"):
        buffer.sample(3)


def test_a_growing_buffer_restarts_the_pass():
    buffer = ReplayBuffer(sampler=SamplerWithoutReplacement(shuffle=False), batch_size=3)
    buffer.extend(torch.arange(4))
    assert buffer.sample().tolist() == [0, 1, 2]
    buffer.extend(torch.arange(4, 6))
    assert buffer.sample().tolist() == [0, 1, 2]
    assert buffer.sample().tolist() == [3, 4, 5]


def test_sample_needs_a_size_and_items():
    buffer = ReplayBuffer()
    with pytest.raises(ValueError, match=r"size of a sample is not known.*Give one to sample\(\)"):
        buffer.sample()
    with pytest.raises(RuntimeError, match=r"RandomSampler: the replay buffer is empty"):
        buffer.sample(2)


def test_uniform_frequencies():
    buffer = ReplayBuffer(storage=LazyTensorStorage(20))
    buffer.extend(torch.arange(20))
    counts = torch.bincount(buffer.sample(40_000), minlength=20)
    chi2 = ((counts - 2000.0) ** 2 / 2000.0).sum()
    assert chi2 < 43.8  # 99.9 % of chi-squared with 19 degrees of freedom


def test_a_generator_is_all_the_randomness_there_is():
    samples = []
    for seed in (3, 3, 4):
        generator = torch.Generator().manual_seed(seed)
        buffer = ReplayBuffer(generator=generator)
        buffer.extend(torch.arange(50))
        torch.rand(1)
        samples.append(buffer.sample(20))
    assert torch.equal(samples[0], samples[1])
    assert not torch.equal(samples[0], samples[2])


def test_the_generator_travels_with_the_state():
    buffers = [ReplayBuffer(generator=torch.Generator().manual_seed(s)) for s in (1, 2)]
    buffers[0].extend(torch.arange(50))
    buffers[0].sample(7)
    buffers[1].load_state_dict(buffers[0].state_dict())
    assert torch.equal(buffers[0].sample(20), buffers[1].sample(20))


class Doubled:
    """Stores halves."""

    def __call__(self, td):
        return td.set("a", td["a"] * 2)

    def inv(self, td):
        return td.set("a", td["a"] / 2)


def test_transforms_run_forward_on_samples_and_inverse_on_what_comes_in():
    buffer = ReplayBuffer(storage=LazyTensorStorage(4), transform=Doubled())
    data = TensorDict(a=torch.full((4,), 8.0), batch_size=[4])
    buffer.extend(data)
    assert (data["a"] == 8).all()
    assert (buffer.storage.get(slice(None))["a"] == 4).all()
    assert (buffer.sample(3)["a"] == 8).all()
    assert (buffer[:]["a"] == 8).all()
    assert (buffer.storage.get(slice(None))["a"] == 4).all()
    buffer.append_transform(lambda td: td.set("a", td["a"] + 1))
    assert (buffer.sample(3)["a"] == 9).all()
    buffer.insert_transform(0, Doubled(), invert=True)
    assert (buffer.sample(3)["a"] == 5).all()


def test_rows_are_loaded_without_transforms_that_have_no_state():
    saved = ReplayBuffer(storage=LazyTensorStorage(4), transform=nn.Identity())
    saved.extend(torch.arange(3))
    plain = ReplayBuffer(storage=LazyTensorStorage(4))
    plain.load_state_dict(saved.state_dict())
    assert plain[:].tolist() == [0, 1, 2]
    saved.append_transform(nn.BatchNorm1d(1))
    with pytest.raises(ValueError, match=r"expected 2 transforms, found \[\]\. Append the same"):
        plain.load_state_dict(saved.state_dict())


@pytest.mark.parametrize("storage", [ListStorage, LazyTensorStorage])
def test_a_full_ring_is_not_loaded_into_one_of_another_size(storage):
    def buffer(size):
        return ReplayBuffer(storage=storage(size), collate_fn=torch.as_tensor)

    full, wider = buffer(3), buffer(5)
    full.extend(torch.arange(3))
    wider.load_state_dict(full.state_dict())  # it was never wrapped
    wider.extend(torch.arange(3, 5))
    assert list(wider[:]) == [0, 1, 2, 3, 4]
    full.extend(torch.arange(3, 5))
    with pytest.raises(ShapeError, match="full ring of another size; expected 5 rows, found 3"):
        wider.load_state_dict(full.state_dict())
    wider.write_all(full.read_all_in_order())
    wider.extend(torch.arange(5, 7))
    assert list(wider[:]) == [2, 3, 4, 5, 6]


def test_priorities_are_loaded_into_a_wider_buffer():
    def buffer(size):
        sampler = PrioritizedSampler(size, alpha=1.0, beta=1.0)
        return ReplayBuffer(storage=LazyTensorStorage(size), sampler=sampler)

    narrow, wide = buffer(2), buffer(4)
    narrow.extend(torch.arange(2))
    narrow.update_priority([0, 1], torch.tensor([0.0, 2.0]))
    wide.load_state_dict(narrow.state_dict())
    wide.extend(torch.arange(2, 4))
    assert wide.sample(300).unique().tolist() == [1, 2, 3]
    small = ReplayBuffer(storage=LazyTensorStorage(4), sampler=PrioritizedSampler(2, 1.0, 1.0))
    with pytest.raises(IndexError, match=r"max_capacity is smaller .* at least 4, found 2"):
        small.extend(torch.arange(4))


def test_states_of_other_parts_are_refused():
    plain = ReplayBuffer(storage=LazyTensorStorage(2))
    plain.extend(torch.arange(2))
    state = plain.state_dict()
    prioritized = PrioritizedSampler(2, 1.0, 1.0)
    for storage, sampler in [(ListStorage(2), None), (LazyTensorStorage(2), prioritized)]:
        buffer = ReplayBuffer(storage=storage, sampler=sampler)
        with pytest.raises(MissingKeyError, match="of another kind of part: it lacks"):
            buffer.load_state_dict(state)


@pytest.mark.parametrize("kind", [ReplayBuffer, TensorDictReplayBuffer])
@pytest.mark.parametrize("storage", [ListStorage, LazyTensorStorage])
def test_one_row_is_added_not_extended(kind, storage):
    row = TensorDict(a=torch.zeros(3))
    with pytest.raises(ShapeError, match=r"too few dimensions.* add\(\) takes one row"):
        kind(storage=storage(4)).extend(row)


def test_parts_are_parts():
    with pytest.raises(TypeError, match=r"expected a Storage or a function .* found \[1, 2\]"):
        ReplayBuffer(storage=[1, 2])


def test_transform_or_factory():
    buffer = ReplayBuffer(transform_factory=lambda: lambda x: x + 1)
    buffer.extend(torch.zeros(3))
    assert (buffer.sample(3) == 1).all()
    with pytest.raises(TypeError, match="transform or transform_factory, not both"):
        ReplayBuffer(transform=abs, transform_factory=abs)


def test_parts_may_be_functions_that_make_them():
    buffer = ReplayBuffer(
        storage=lambda: LazyTensorStorage(3), sampler=SamplerWithoutReplacement, writer=RoundRobinWriter
    )
    assert isinstance(buffer.storage, LazyTensorStorage)
    assert isinstance(buffer.sampler, SamplerWithoutReplacement)
    assert isinstance(buffer.writer, RoundRobinWriter)


def test_prefetch_serves_the_size_that_was_asked_for():
    buffer = ReplayBuffer(storage=LazyTensorStorage(50), prefetch=4)
    buffer.extend(transitions(0, 50))
    assert [len(buffer.sample(n)) for n in (8, 8, 3, 8)] == [8, 8, 3, 8]


def test_prefetch_draws_what_no_prefetch_draws():
    batches = []
    for prefetch in (None, 3):
        buffer = ReplayBuffer(
            storage=LazyTensorStorage(50), prefetch=prefetch, generator=torch.Generator().manual_seed(0)
        )
        buffer.extend(transitions(0, 50))
        batches.append(torch.cat([buffer.sample(8)["item"] for _ in range(10)]))
    assert torch.equal(*batches)


def test_two_dimensions_are_read_as_they_were_written():
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(12, ndim=2))
    data = TensorDict(a=torch.arange(12).view(3, 4), batch_size=[3, 4])  # 3 envs, 4 steps
    assert buffer.extend(data).tolist() == [[env, t] for env in range(3) for t in range(4)]
    assert buffer[:].batch_size == (3, 4)
    assert (buffer[:]["a"] == data["a"]).all()
    assert (buffer.storage.get(slice(None))["a"] == data["a"].T).all()
    sample = buffer.sample(30)
    env, t = sample["index"].unbind(-1)
    assert (sample["a"] == data["a"][env, t]).all()
    assert len(buffer) == buffer.write_count == 12


@pytest.mark.parametrize("make", [LazyTensorStorage, LazyMemmapStorage, ListStorage])
def test_pickle(make):
    buffer = TensorDictReplayBuffer(storage=make(10), batch_size=4, prefetch=2)
    buffer.extend(transitions(0, 7))
    buffer.sample()
    twin = pickle.loads(pickle.dumps(buffer))
    assert_same(twin[:], buffer[:])
    assert twin.sample().batch_size == (4,)


def test_threads_never_see_a_torn_row():
    buffer = ReplayBuffer(storage=LazyTensorStorage(64), batch_size=32)
    buffer.extend(transitions(0, 64))
    errors, stop = [], threading.Event()

    def write(first):
        while not stop.is_set():
            buffer.extend(transitions(first, 40))

    writers = [threading.Thread(target=write, args=(1000 * i,)) for i in range(2)]
    for writer in writers:
        writer.start()
    for _ in range(200):
        sample = buffer.sample()
        if (sample["observation"] != sample["item"].unsqueeze(-1)).any():
            errors.append(sample)
    stop.set()
    for writer in writers:
        writer.join()
    assert not errors


def test_repr():
    buffer = ReplayBuffer(batch_size=3)
    buffer.extend([1, 2])
    assert repr(buffer) == "ReplayBuffer(ListStorage, RandomSampler, RoundRobinWriter, items=2, batch_size=3)"


def test_sampler_may_be_replaced():
    buffer = ReplayBuffer(batch_size=2)
    buffer.extend(torch.arange(4))
    buffer.set_sampler(SamplerWithoutReplacement(shuffle=False))
    assert buffer.sample().tolist() == [0, 1]
    buffer.set_storage(LazyTensorStorage(2))
    buffer.extend(torch.arange(5))
    assert buffer[:].tolist() == [4, 3]


@pytest.mark.parametrize("index", [2, -1, slice(1, 3), [0, 3], torch.tensor([True, False] * 2)])
def test_replaced_rows_know_their_slots(index):
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(6))
    rows = TensorDict(a=torch.arange(4), batch_size=[4])
    buffer.extend(rows)
    buffer[index] = (rows + 10)[index]
    expected = rows["a"].clone()
    expected[index] += 10
    assert torch.equal(buffer[:]["a"], expected)
    assert torch.equal(buffer[:]["index"], torch.arange(4))
