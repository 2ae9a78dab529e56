"""What every storage, sampler and writer has in common: arguments, indices, saves of their own."""

import functools

import pytest
import torch
from tensordict import TensorDict, tensorclass

import torchrl.data as data
from torchrl._core.errors import BatchSizeError, DTypeError, MissingKeyError, UnexpectedKeyError
from torchrl.data import (
    CompactStorage,
    CompressedListStorage,
    ConsumingSampler,
    ImmutableDatasetWriter,
    LazyMemmapStorage,
    LazyStackStorage,
    LazyTensorStorage,
    ListStorage,
    PrioritizedReplayBuffer,
    PrioritizedSampler,
    PrioritizedSliceSampler,
    RandomSampler,
    ReplayBuffer,
    ReplayBufferEnsemble,
    RoundRobinWriter,
    SamplerEnsemble,
    SamplerWithoutReplacement,
    SliceSampler,
    SliceSamplerWithoutReplacement,
    StalenessAwareSampler,
    StreamingSliceSampler,
    TensorDictMaxValueWriter,
    TensorDictReplayBuffer,
    TensorDictRoundRobinWriter,
    TensorStorage,
    WriterEnsemble,
)

STORAGES = {
    "list": ListStorage,
    "lazy stack": LazyStackStorage,
    "compressed": CompressedListStorage,
    "tensor": LazyTensorStorage,
    "memmap": LazyMemmapStorage,
    "given": lambda size, **kwargs: TensorStorage(TensorDict(batch_size=[size]), **kwargs),
    "compact": lambda size, **kwargs: CompactStorage(LazyTensorStorage(size), **kwargs),
}
SAMPLERS = {
    "random": RandomSampler,
    "pass": SamplerWithoutReplacement,
    "consuming": ConsumingSampler,
    "priority": functools.partial(PrioritizedSampler, 20, 0.7, 0.5),
    "slices": functools.partial(SliceSampler, slice_len=2),
    "slices in passes": functools.partial(SliceSamplerWithoutReplacement, slice_len=2),
    "streaming": functools.partial(StreamingSliceSampler, slice_len=2),
    "priority slices": functools.partial(PrioritizedSliceSampler, 20, 0.7, 0.5, slice_len=2),
    "stale": StalenessAwareSampler,
}


def rows(count=6):
    done = (torch.arange(count) % 3 == 2).unsqueeze(-1)
    td = TensorDict(x=torch.arange(count), policy_version=torch.zeros(count), batch_size=[count])
    td["next"] = TensorDict(x=torch.arange(1, count + 1), done=done, batch_size=[count])
    return td


def filled(storage, count=6, cls=ReplayBuffer, **kwargs):
    buffer = cls(storage=storage, **kwargs)
    buffer.extend(rows(count))
    return buffer


@pytest.mark.parametrize("flag", [True, False])
@pytest.mark.parametrize("make", STORAGES.values(), ids=STORAGES)
def test_storages_take_compilable(make, flag):
    storage = make(9, compilable=flag)
    assert storage.compilable is flag
    assert len(filled(storage)) == 6
    with pytest.raises(DTypeError, match="compilable is a flag"):
        make(9, compilable="yes")


@pytest.mark.parametrize(
    "make", [RoundRobinWriter, TensorDictRoundRobinWriter, TensorDictMaxValueWriter, ImmutableDatasetWriter]
)
def test_writers_take_compilable(make):
    assert make(compilable=True).compilable
    assert not make().compilable
    with pytest.raises(DTypeError, match="compilable is a flag"):
        make(compilable=1)


def test_shared_init_of_files(tmp_path):
    storage = LazyMemmapStorage(8, scratch_dir=tmp_path, existsok=False, shared_init=True)
    assert storage.path.exists()
    assert not LazyMemmapStorage(8, scratch_dir=tmp_path / "later", existsok=False).path.exists()
    with pytest.raises(DTypeError, match="shared_init is a flag"):
        LazyMemmapStorage(8, shared_init=None)


@pytest.mark.parametrize("make", STORAGES.values(), ids=STORAGES)
def test_storages_are_indexed_and_iterated_over(make):
    storage = filled(make(9)).storage
    assert storage[4]["x"] == storage[-2]["x"] == 4
    assert storage[1:4]["x"].tolist() == [1, 2, 3]
    assert storage[torch.tensor([5, 0])]["x"].tolist() == [5, 0]
    assert [int(row["x"]) for row in storage] == list(range(6))
    with pytest.raises(IndexError):
        storage[6]


@pytest.mark.parametrize("make", STORAGES.values(), ids=STORAGES)
def test_storages_tell_which_slots_hold_rows(make):
    storage = filled(make(9)).storage
    assert storage.contains(5)
    assert not storage.contains(6)
    assert storage.contains(torch.tensor([[0, 7], [-6, -7]])).tolist() == [[True, False], [True, False]]
    assert storage.contains(slice(4, 8)).tolist() == [True, True, False, False]
    assert 5 in storage
    assert 6 not in storage
    assert [0, 5] in storage
    assert [0, 6] not in storage


@pytest.mark.parametrize("make", STORAGES.values(), ids=STORAGES)
def test_storages_take_assignments(make):
    storage = filled(make(9)).storage
    storage[2] = rows(9)[8]
    storage[torch.tensor([0, 1])] = rows(9)[6:8]
    assert [int(row["x"]) for row in storage] == [6, 7, 8, 3, 4, 5]


@pytest.mark.parametrize("make", [LazyTensorStorage, LazyMemmapStorage, TensorStorage], ids=lambda cls: cls.__name__)
def test_a_tensorclass_that_cannot_be_imported_is_restored(make):
    @tensorclass
    class Step:
        value: torch.Tensor

    def storage(values):
        steps = Step(values, batch_size=[3])
        if make is TensorStorage:
            return TensorStorage(steps)
        found = make(3)
        found.set(slice(0, 3), steps)
        return found

    target = storage(torch.zeros(3))
    target.load_state_dict(storage(torch.arange(3.0)).state_dict())
    assert isinstance(target[:], Step)
    assert target[:].value.tolist() == [0, 1, 2]


def test_a_tensordict_without_entries_gets_those_of_the_first_rows():
    given = TensorDict(batch_size=[2, 3])
    buffer = TensorDictReplayBuffer(storage=TensorStorage(given, ndim=2), batch_size=4)
    assert len(buffer) == 0
    buffer.extend(TensorDict(x=torch.arange(3).view(3, 1), batch_size=[3, 1]))
    assert buffer[:]["x"].tolist() == [[0], [1], [2]]
    assert sorted(given.keys()) == ["index", "x"]
    with pytest.raises(MissingKeyError):
        buffer.extend(TensorDict(y=torch.zeros(3, 1), batch_size=[3, 1]))


@pytest.mark.parametrize("make", [LazyTensorStorage, LazyMemmapStorage, ListStorage], ids=lambda cls: cls.__name__)
def test_a_list_of_nested_rows_is_a_list_of_rows(make):
    def row(i):
        return torch.full((2,), i), {"a": [torch.full((1,), i), (torch.full((), i),)]}

    buffer = ReplayBuffer(storage=make(9))
    buffer.extend([row(i) for i in range(4)])
    assert len(buffer) == 4
    first, second = buffer[1:3]
    assert first.tolist() == [[1, 1], [2, 2]]
    assert second["a"][0].tolist() == [[1], [2]]
    assert second["a"][1][0].tolist() == [1, 2]


def test_lists_of_objects_stay_lists():
    buffer = ReplayBuffer(storage=ListStorage(9))
    buffer.extend([["a", 1], ["b", 2]])
    assert buffer[:] == [["a", 1], ["b", 2]]


@pytest.mark.parametrize("make", SAMPLERS.values(), ids=SAMPLERS)
def test_samplers_take_the_calls_of_a_sampler(make):
    sampler = make()
    buffer = filled(LazyTensorStorage(20), sampler=sampler, batch_size=4)
    sampler.add(index=5)
    sampler.extend(index=torch.arange(3))
    sampler.mark_update(index=torch.arange(3), storage=buffer.storage)
    sampler.update_priority(index=torch.arange(3), priority=2, storage=buffer.storage)
    sampler.update_priority(index=1, priority=0.5)
    buffer.mark_update(torch.arange(2))
    buffer.sample()


@pytest.mark.parametrize("make", SAMPLERS.values(), ids=SAMPLERS)
def test_samplers_are_saved_by_themselves(make, tmp_path):
    source, target = make(), make()
    buffer = filled(LazyTensorStorage(20), count=12, sampler=source, batch_size=4)
    buffer.sample()
    source.dumps(tmp_path / "save")
    source.dumps(tmp_path / "save")
    target.loads(tmp_path / "save")
    for mine, other in zip(source.state_dict().values(), target.state_dict().values(), strict=True):
        assert torch.equal(mine, other) if isinstance(mine, torch.Tensor) else mine == other


def test_a_pass_goes_on_where_it_was_saved(tmp_path):
    source, target = (SamplerWithoutReplacement() for _ in range(2))
    drawn = filled(LazyTensorStorage(6), sampler=source, batch_size=4).sample()["x"].tolist()
    source.dumps(tmp_path)
    target.loads(tmp_path)
    drawn += filled(LazyTensorStorage(6), sampler=target, batch_size=4).sample()["x"].tolist()
    assert sorted(drawn) == list(range(6))


@pytest.mark.parametrize("make", [RoundRobinWriter, TensorDictRoundRobinWriter])
def test_writers_save_their_place(make, tmp_path):
    buffer = filled(LazyTensorStorage(10), writer=make(), count=7)
    buffer.extend(rows(5))
    buffer.writer.dumps(tmp_path)
    other = make()
    other.loads(tmp_path)
    assert other.cursor == buffer.writer.cursor == 2
    assert other.state_dict() == buffer.writer.state_dict()


def test_a_writer_of_the_best_saves_its_ranks(tmp_path):
    buffer = filled(LazyTensorStorage(3), cls=TensorDictReplayBuffer, writer=TensorDictMaxValueWriter("x"))
    buffer.writer.dumps(tmp_path)
    other = filled(LazyTensorStorage(3), cls=TensorDictReplayBuffer, writer=TensorDictMaxValueWriter("x"), count=3)
    other.writer.loads(tmp_path)
    assert other.writer.state_dict() == buffer.writer.state_dict()


def test_ensembles_save_their_parts(tmp_path):
    samplers = SamplerEnsemble(RandomSampler(), RandomSampler(), p=[1, 3])
    writers = WriterEnsemble(RoundRobinWriter(), RoundRobinWriter())
    for writer, count in zip(writers.writers, (2, 3), strict=True):
        writer.register_storage(ListStorage(4))
        writer.extend(["a"] * count)
    for part in (samplers, writers):
        part.dumps(tmp_path)
    other = SamplerEnsemble(RandomSampler(), RandomSampler()), WriterEnsemble(RoundRobinWriter(), RoundRobinWriter())
    for part in other:
        part.loads(tmp_path)
    assert other[0].p.tolist() == [0.25, 0.75]
    assert [writer.cursor for writer in other[1].writers] == [2, 3]


def test_the_place_of_a_row_among_the_best():
    writer = TensorDictMaxValueWriter("score")
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(3), writer=writer)
    buffer.extend(TensorDict(score=torch.tensor([5.0, 1.0]), batch_size=[2]))
    assert writer.get_insert_index(TensorDict(score=torch.tensor(-9.0))) == 2
    buffer.extend(TensorDict(score=torch.tensor([3.0]), batch_size=[1]))
    assert writer.get_insert_index(TensorDict(score=torch.tensor(1.0))) is None
    assert writer.get_insert_index(TensorDict(score=torch.tensor(2.0))) == 1
    assert buffer[:]["score"].tolist() == [5, 1, 3]


@pytest.mark.parametrize("cls", [ReplayBuffer, TensorDictReplayBuffer])
def test_marked_items_are_new_again(cls):
    sampler = PrioritizedSampler(4, 1.0, 1.0, eps=0)
    buffer = filled(LazyTensorStorage(4), count=4, cls=cls, sampler=sampler)
    buffer.update_priority(torch.arange(4), torch.tensor([5.0, 0.0, 0.0, 0.0]))
    buffer.mark_update(torch.tensor([2]))
    assert sampler._raw.tolist() == [5, 0, 5, 0]


@pytest.mark.parametrize("time_dim", [0, 1])
@pytest.mark.parametrize("cls", [ReplayBuffer, TensorDictReplayBuffer])
def test_the_index_of_several_dimensions_leads_to_the_items(cls, time_dim):
    sampler = PrioritizedSampler(24, 1.0, 1.0, eps=0)
    buffer = cls(storage=LazyTensorStorage(24, ndim=2), sampler=sampler, dim_extend=time_dim, batch_size=8)
    data = TensorDict(x=torch.arange(6).view(2, 3), batch_size=[2, 3])
    first, second = buffer.extend(data), buffer.extend(data + 6)
    assert first.shape == second.shape == (6, 2)
    for index, expected in ((first, data), (second, data + 6)):
        assert buffer[index.unbind(-1)]["x"].tolist() == expected["x"].flatten().tolist()
    priority = torch.zeros(6)
    priority[4] = 1
    buffer.update_priority(first, torch.zeros(6))
    buffer.update_priority(second, priority)
    assert buffer.sample()["x"].tolist() == [10] * 8
    row = buffer.add(data.unbind(time_dim)[0])
    assert row.shape == (data.shape[1 - time_dim], 2)


def test_items_that_are_not_kept_have_no_index():
    writer = TensorDictMaxValueWriter("x")
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(2, ndim=2), writer=writer)
    index = buffer.extend(TensorDict(x=torch.tensor([[3, 1], [0, 0]]), batch_size=[2, 2]))
    assert index.tolist() == [[0, 0], [-1, -1], [1, 0], [-1, -1]]


@pytest.mark.parametrize("priority", [2, 2.0, torch.tensor(2.0), torch.full((3,), 2.0)])
@pytest.mark.parametrize("make", [SAMPLERS["priority"], SAMPLERS["priority slices"]])
def test_one_number_is_the_priority_of_all(make, priority):
    sampler = make()
    filled(LazyTensorStorage(20), sampler=sampler)
    sampler.update_priority(torch.arange(3), priority)
    assert sampler._raw[:6].tolist() == [2, 2, 2, 1, 1, 1]
    PrioritizedReplayBuffer(alpha=1.0, beta=1.0).update_priority(torch.arange(0), 1)


@pytest.mark.parametrize("act", [lambda b: next(iter(b)), lambda b: b.sample(), lambda b: b.can_sample(), next])
@pytest.mark.parametrize("kind", [ValueError, RuntimeError, BatchSizeError])
def test_a_missing_batch_size_is_an_error_of_both_kinds(act, kind):
    with pytest.raises(kind, match="size of a sample is not known"):
        act(filled(ListStorage(9)))


@pytest.mark.parametrize("make", [SamplerWithoutReplacement, SAMPLERS["slices in passes"]])
def test_drop_last_needs_a_batch_size(make):
    with pytest.raises(ValueError, match="drop_last of the sampler needs a batch size"):
        ReplayBuffer(sampler=make(drop_last=True))
    ReplayBuffer(sampler=make(drop_last=True), batch_size=4)


@pytest.mark.parametrize("index", [3, -3])
def test_transforms_have_places(index):
    buffer = ReplayBuffer(transform=lambda data: data)
    buffer.append_transform(lambda data: data)
    with pytest.raises(ValueError, match="there is no such place for a transform"):
        buffer.insert_transform(index, lambda data: data)
    buffer.insert_transform(-1, lambda data: data)
    assert len(buffer.transform) == 3


def test_parts_made_later():
    buffer = ReplayBuffer(storage=functools.partial(ListStorage, 3), delayed_init=True)
    assert not buffer.initialized
    buffer.add("a")
    assert buffer.initialized
    assert ReplayBuffer().initialized


@pytest.mark.parametrize("index", [slice(1, 3), torch.tensor([1, 2]), [1, 2]])
@pytest.mark.parametrize("ahead", [LazyTensorStorage, STORAGES["given"], TensorStorage])
def test_an_entry_is_added_by_index(ahead, index):
    storage = TensorStorage(rows().clone()) if ahead is TensorStorage else ahead(9)
    buffer = ReplayBuffer(storage=storage) if ahead is TensorStorage else filled(storage)
    new = rows(9)[7:9]
    new["next", "value"] = torch.ones(2, 3)
    new["flag"] = torch.ones(2, dtype=torch.bool)
    buffer[index] = new
    assert buffer[:]["x"].tolist() == [0, 7, 8, 3, 4, 5]
    assert buffer[:]["next", "value"].sum(-1).tolist() == [0, 3, 3, 0, 0, 0]
    assert buffer[:]["flag"].tolist() == [False, True, True, False, False, False]
    assert len(buffer) == 6
    buffer.extend(new)
    with pytest.raises(MissingKeyError):
        buffer.extend(rows())


def test_an_entry_is_added_to_some_items_of_a_row():
    buffer = ReplayBuffer(storage=LazyTensorStorage(12, ndim=2))
    buffer.extend(TensorDict(x=torch.zeros(2, 3), batch_size=[2, 3]))
    buffer[1, 1:] = TensorDict(x=torch.ones(2), y=torch.tensor([4, 5]), batch_size=[2])
    assert buffer[:]["y"].tolist() == [[0, 0, 0], [0, 4, 5]]
    assert buffer[:]["x"].tolist() == [[0, 0, 0], [0, 1, 1]]


def test_rows_that_do_not_fit_add_no_entry():
    buffer = filled(LazyTensorStorage(9))
    wrong = rows(2).set("flag", torch.ones(2)).exclude("x")
    with pytest.raises(MissingKeyError):
        buffer[0:2] = wrong
    with pytest.raises(DTypeError):
        buffer[0:2] = rows(2).set("flag", torch.ones(2)).set("x", torch.zeros(2))
    with pytest.raises(UnexpectedKeyError):
        buffer.extend(rows(2).set("flag", torch.ones(2)))
    assert buffer[:].get("flag", None) is None
    shared = filled(LazyTensorStorage(9), shared=True)
    with pytest.raises(UnexpectedKeyError):
        shared[0:2] = rows(2).set("flag", torch.ones(2))


def test_an_ensemble_shows_its_parts():
    parts = [filled(LazyTensorStorage(9), transform=lambda td: td.set("seen", td["x"])) for _ in range(2)]
    ensemble = ReplayBufferEnsemble(*parts, batch_size=4)
    assert isinstance(ensemble.storage, data.StorageEnsemble)
    assert isinstance(ensemble.sampler, SamplerEnsemble)
    assert isinstance(ensemble.writer, WriterEnsemble)
    assert ensemble.storage[1, 0:2]["seen"].tolist() == [0, 1]
    assert len(ensemble.storage) == 12
    assert ensemble.writer.writers == [part.writer for part in parts]


@pytest.mark.parametrize("cls", [ReplayBuffer, TensorDictReplayBuffer])
def test_samples_of_an_ensemble_lead_back_to_their_buffers(cls):
    parts = [filled(LazyTensorStorage(9), cls=cls, count=i + 3) for i in range(2)]
    ensemble = ReplayBufferEnsemble(
        *parts, batch_size=8, num_buffer_sampled=4, transform=lambda td: td.set("t", td["x"])
    )
    sample, info = ensemble.sample(return_info=True)
    for index in (sample["index"], info["index"]):
        assert index["buffer_ids"].shape == index["index"].shape == sample.shape == (4, 2)
        columns = (index["buffer_ids"], index["index"], sample["x"])
        for number, place, x in zip(*(column.flatten().tolist() for column in columns), strict=True):
            assert parts[number][place]["x"] == x


@pytest.mark.parametrize("include", [None, True, False])
def test_info_of_a_tensordict_buffer(include):
    buffer = filled(
        LazyTensorStorage(9), cls=TensorDictReplayBuffer, sampler=PrioritizedSampler(9, 1.0, 1.0), batch_size=3
    )
    sample, info = buffer.sample(return_info=True, include_info=include)
    known = {"index", "priority_weight"} & set(sample.keys())
    assert len(known) == (0 if include is False else 2)
    assert "index" in info
    assert buffer.extend(tensordicts=rows(2)).tolist() == [6, 7]


@pytest.mark.parametrize("include", [None, True, False])
def test_info_of_a_plain_buffer_of_tensordicts(include):
    buffer = filled(LazyTensorStorage(9), sampler=PrioritizedSampler(9, 1.0, 1.0), batch_size=3)
    sample, info = buffer.sample(return_info=True, include_info=include)
    known = {"index", "priority_weight"} & set(sample.keys())
    assert len(known) == (2 if include else 0)
    assert not known or (sample["index"] == info["index"]).all()


def test_a_remote_buffer_is_a_buffer_here():
    buffer = data.RemoteTensorDictReplayBuffer(storage=LazyTensorStorage(8), batch_size=3)
    buffer.extend(rows(5))
    assert buffer.sample().shape == (3,)
