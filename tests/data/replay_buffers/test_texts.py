"""Texts and entries of agents that differ are kept with their rows, or refused by name."""

import copy
import pickle

import pytest
import torch
from tensordict import LazyStackedTensorDict, NonTensorData, NonTensorStack, TensorDict

from torchrl.data import (
    CompactStorage,
    CompressedListStorage,
    FlatStorageCheckpointer,
    LazyMemmapStorage,
    LazyStackStorage,
    LazyTensorStorage,
    ListStorage,
    NestedStorageCheckpointer,
    PrioritizedSampler,
    RandomSampler,
    ReplayBuffer,
    ReplayBufferEnsemble,
    SamplerWithoutReplacement,
    SliceSampler,
    TensorDictReplayBuffer,
)
from torchrl.data.trajectories import split_trajectories

KEEPING = {
    "tensor": lambda: LazyTensorStorage(5),
    "memmap": lambda: LazyMemmapStorage(5),
    "list": lambda: ListStorage(5),
    "compressed": lambda: CompressedListStorage(5),
    "lazy stack": lambda: LazyStackStorage(5),
}
REFUSING = {
    "shared": lambda: LazyTensorStorage(5, shared_init=True),
    "compact": lambda: CompactStorage(LazyTensorStorage(5)),
}


def notes(start, count=3):
    """Return rows with a text of their own under "note" and ("next", "note"), and one for all."""
    words = NonTensorStack(*(f"w{i}" for i in range(start, start + count)))
    after = NonTensorStack(*(f"w{i + 1}" for i in range(start, start + count)))
    x = torch.arange(start, start + count)
    next_root = TensorDict(x=x + 1, note=after, batch_size=[count])
    rows = TensorDict(x=x, note=words, next=next_root, episode=x // 3, batch_size=[count])
    return rows.set("task", NonTensorData("lift", batch_size=[count]))


def text(row, key):
    value = row.get(key)
    return getattr(value, "data", value)


def check(rows):
    for row in rows.unbind(0):
        number = int(row["x"])
        assert text(row, "note") == f"w{number}"
        assert text(row, ("next", "note")) == f"w{number + 1}"
        assert text(row, "task") == "lift"


@pytest.mark.parametrize("prefetch", [None, 2])
@pytest.mark.parametrize(
    "sampler",
    [
        RandomSampler,
        SamplerWithoutReplacement,
        lambda: PrioritizedSampler(5, 1.0, 1.0),
        lambda: SliceSampler(slice_len=1, traj_key="episode", truncated_key=None),
    ],
    ids=["random", "without replacement", "prioritized", "slices"],
)
@pytest.mark.parametrize("kind", [ReplayBuffer, TensorDictReplayBuffer])
@pytest.mark.parametrize("storage", KEEPING)
def test_each_row_has_its_text(storage, kind, sampler, prefetch):
    buffer = kind(storage=KEEPING[storage](), sampler=sampler(), batch_size=4, prefetch=prefetch)
    row = 0
    for size in (3, 1, 4, 0, 7, 2):  # the ring wraps inside of a write
        if size:
            buffer.extend(notes(row, size))
        buffer.add(notes(row + size, 1)[0])
        row += size + 1
        check(buffer.sample())
        check(buffer[:])
        assert sorted(buffer[:]["x"].tolist()) == list(range(max(row - 5, 0), row))
    check(buffer[1].unsqueeze(0))
    check(buffer[torch.tensor([4, 0])])
    buffer[2] = notes(50, 1)[0]
    buffer[torch.tensor([0, 4])] = notes(60, 2)
    buffer[1:3] = notes(70, 2)
    check(buffer[:])
    assert buffer[:]["x"].tolist()[:3] == [60, 70, 71]
    buffer.extend(list(notes(80, 2).unbind(0)))
    check(buffer[:])


def restored(buffer, how, make, path):
    other = ReplayBuffer(storage=make(), batch_size=8)
    if how == "state_dict":
        other.load_state_dict(buffer.state_dict())
    elif how == "files":
        buffer.dumps(path)
        other.loads(path)
    else:
        other = pickle.loads(pickle.dumps(buffer)) if how == "pickle" else copy.deepcopy(buffer)
    return other


@pytest.mark.parametrize("how", ["state_dict", "files", "pickle", "copy"])
@pytest.mark.parametrize("storage", KEEPING)
def test_texts_are_restored_with_their_rows(storage, how, tmp_path):
    buffer = ReplayBuffer(storage=KEEPING[storage](), batch_size=8)
    for start in (0, 4):
        buffer.extend(notes(start, 4))
    other = restored(buffer, how, KEEPING[storage], tmp_path)
    check(other[:])
    other.extend(notes(20, 2))
    buffer.extend(notes(30, 1))
    check(other[:])
    check(buffer[:])
    shared = storage == "memmap" and how in ("pickle", "copy")  # the same files
    assert (other[:]["x"].tolist() == buffer[:]["x"].tolist()) == shared


def test_a_file_refuses_objects_that_it_cannot_give_back(tmp_path):
    buffer = ReplayBuffer(storage=LazyTensorStorage(5))
    buffer.extend(TensorDict(x=torch.zeros(1), what=NonTensorData({1, 2}, batch_size=[1])).auto_batch_size_(1))
    with pytest.raises(TypeError, match="'what'"):
        buffer.dumps(tmp_path)
    assert buffer[0].get("what").data == {1, 2}


@pytest.mark.parametrize("checkpointer", [FlatStorageCheckpointer, NestedStorageCheckpointer])
def test_layouts_of_files_refuse_texts_by_name(checkpointer, tmp_path):
    buffer = ReplayBuffer(storage=LazyTensorStorage(5), checkpointer=checkpointer())
    buffer.extend(notes(0))
    with pytest.raises(TypeError, match=r"note|task"):
        buffer.dumps(tmp_path)


@pytest.mark.parametrize("storage", REFUSING)
def test_texts_are_refused_by_name_before_anything_is_written(storage):
    for write in ("extend", "add"):
        buffer = ReplayBuffer(storage=REFUSING[storage]())
        with pytest.raises(TypeError, match=r"note|task"):
            buffer.extend(notes(0)) if write == "extend" else buffer.add(notes(0)[0])
        assert len(buffer) == 0
        plain = notes(0).select("x", ("next", "x"))
        buffer.extend(plain)
        assert buffer[:]["x"].tolist() == [0, 1, 2]


def test_a_storage_with_texts_is_not_shared():
    buffer = ReplayBuffer(storage=LazyTensorStorage(5))
    buffer.extend(notes(0))
    with pytest.raises(TypeError, match=r"note|task"):
        buffer.share()


def test_rows_without_the_text_or_with_a_number_in_its_place_are_refused():
    buffer = ReplayBuffer(storage=LazyTensorStorage(5))
    buffer.extend(notes(0))
    for rows in (
        notes(3).exclude("note"),
        notes(3).set("note", torch.zeros(3)),
        notes(3).set("x", NonTensorStack("a", "b", "c")),
        notes(3).set("more", NonTensorStack("a", "b", "c")),
    ):
        with pytest.raises((TypeError, KeyError, ValueError), match=r"note|'x'|more"):
            buffer.extend(rows)
        check(buffer[:])
    assert len(buffer) == 3


@pytest.mark.parametrize("ndim", [2, 3])
def test_texts_of_several_dimensions(ndim):
    lead = [2, 3][: ndim - 1]

    def grid(first, steps):
        shape = [*lead, steps]
        x = torch.arange(100 * torch.Size(lead).numel()).view(*lead, 100)[..., first : first + steps]
        words = NonTensorStack.from_list(words_of(x.tolist()))
        return TensorDict(x=x, note=words, batch_size=shape)

    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(5 * torch.Size(lead).numel(), ndim=ndim))
    for first in (0, 3, 6):
        buffer.extend(grid(first, 3))
    for data in (buffer[:], buffer[1], buffer[..., 2], buffer.sample(8), buffer[1, ..., 1:3]):
        assert list_of(data.get("note")) == words_of(data["x"].tolist())
    buffer[1, ..., 1:3] = grid(50, 2)[1]
    data = buffer[:]
    assert list_of(data.get("note")) == words_of(data["x"].tolist())
    assert (data["x"] % 100 >= 50).any()


def words_of(numbers):
    return [words_of(part) for part in numbers] if isinstance(numbers, list) else f"w{numbers}"


def list_of(value):
    return value.tolist()


def test_texts_of_agents():
    rows = TensorDict(x=torch.arange(2), batch_size=[2])
    names = NonTensorStack(NonTensorStack("a", "b"), NonTensorStack("c", "d"))
    rows["agents"] = TensorDict(name=names, batch_size=[2, 2])
    buffer = ReplayBuffer(storage=LazyTensorStorage(4), batch_size=4)
    buffer.extend(rows)
    buffer.add(rows[1])
    assert buffer[:].get(("agents", "name")).tolist() == [["a", "b"], ["c", "d"], ["c", "d"]]
    sample = buffer.sample()
    expected = [[["a", "b"], ["c", "d"]][x] for x in sample["x"].tolist()]
    assert sample.get(("agents", "name")).tolist() == expected


def test_rows_of_texts_alone():
    buffer = ReplayBuffer(storage=LazyTensorStorage(4), batch_size=3)
    buffer.extend(TensorDict(note=NonTensorStack("a", "b"), batch_size=[2]))
    assert buffer[:].get("note").tolist() == ["a", "b"]
    assert set(buffer.sample().get("note").tolist()) <= {"a", "b"}


def test_texts_are_replaced_by_update():
    buffer = ReplayBuffer(storage=LazyTensorStorage(4))
    buffer.extend(notes(0))
    buffer.set_at_("note", NonTensorStack("new", "newer"), slice(1, 3))
    assert buffer[:].get("note").tolist() == ["w0", "new", "newer"]


def test_texts_are_forgotten_with_their_rows():
    buffer = ReplayBuffer(storage=LazyTensorStorage(5), batch_size=4)
    buffer.extend(notes(0))
    buffer.empty()
    buffer.extend(notes(7))
    check(buffer.sample())


def test_ensembles_keep_texts():
    buffers = [ReplayBuffer(storage=LazyTensorStorage(5)) for _ in range(2)]
    for start, buffer in enumerate(buffers):
        buffer.extend(notes(10 * start))
    sample = ReplayBufferEnsemble(*buffers, batch_size=8, sample_from_all=True).sample()
    for part in sample.unbind(0):
        check(part)


def test_split_trajectories_keep_texts():
    rows = notes(0, 6)
    rows["next", "done"] = torch.tensor([0, 0, 1, 0, 0, 1]).bool().unsqueeze(-1)
    split = split_trajectories(rows)
    buffer = ReplayBuffer(storage=LazyTensorStorage(5), batch_size=4)
    buffer.extend(split)
    for part in buffer[:].unbind(0):
        check(part)


# --- agents that differ ---------------------------------------------------------------------------


def agents(start, count=4, extra=True):
    """Return rows of two agents [N, 2], of which only the second has "q"."""
    x = torch.arange(start, start + count)
    wide = x.unsqueeze(-1).float()
    first = TensorDict(p=wide.expand(-1, 2).clone(), batch_size=[count])
    second = TensorDict(p=wide.expand(-1, 3).clone(), batch_size=[count])
    if extra:
        second["q"] = x + 0.5
    pair = LazyStackedTensorDict(first, second, stack_dim=1)
    rows = TensorDict(x=x, agents=pair, batch_size=[count])
    return rows.set("next", TensorDict(agents=pair.clone(), batch_size=[count]))


def check_agents(rows, extra=True):
    for group in (rows["agents"], rows["next", "agents"]):
        for number, width in ((0, 2), (1, 3)):
            part = group[:, number]
            expected = rows["x"].unsqueeze(-1).expand(-1, width).float()
            torch.testing.assert_close(part["p"], expected)
        if extra:
            torch.testing.assert_close(group[:, 1]["q"], rows["x"] + 0.5)


RAGGED = {
    "tensor": lambda: LazyTensorStorage(5),
    "memmap": lambda: LazyMemmapStorage(5),
    "list": lambda: ListStorage(5),
    "shared": lambda: LazyTensorStorage(5, shared_init=True),
}


@pytest.mark.parametrize("extra", [False, True])
@pytest.mark.parametrize("kind", [ReplayBuffer, TensorDictReplayBuffer])
@pytest.mark.parametrize("storage", RAGGED)
def test_agents_that_differ_are_kept(storage, kind, extra, tmp_path):
    make = RAGGED[storage]
    buffer = kind(storage=make(), batch_size=6)
    buffer.extend(agents(0, 4, extra))
    check_agents(buffer.sample(), extra)
    buffer.extend(agents(4, 3, extra))
    buffer.add(agents(9, 1, extra)[0])
    buffer.extend(list(agents(10, 2, extra).unbind(0)))
    check_agents(buffer[:], extra)
    check_agents(buffer.sample(), extra)
    buffer[1:3] = agents(20, 2, extra)
    check_agents(buffer[:], extra)
    other = kind(storage=make(), batch_size=6)
    other.load_state_dict(buffer.state_dict())
    check_agents(other.sample(), extra)
    buffer.dumps(tmp_path)
    other = kind(storage=make(), batch_size=6)
    other.loads(tmp_path)
    check_agents(other.sample(), extra)


def test_rows_whose_agents_look_different_are_refused_by_name():
    buffer = ReplayBuffer(storage=LazyTensorStorage(5))
    buffer.extend(agents(0, 2, extra=True))
    with pytest.raises((KeyError, ValueError), match="'q'"):
        buffer.extend(agents(2, 2, extra=False))
    check_agents(buffer[:])
    assert len(buffer) == 2


def test_an_entry_that_some_rows_lack_is_refused_by_name():
    first = TensorDict(x=torch.zeros(2))
    rows = TensorDict.lazy_stack([first, first.clone().set("more", torch.ones(1))])
    buffer = ReplayBuffer(storage=LazyTensorStorage(5))
    with pytest.raises(ValueError, match="more"):
        buffer.extend(rows)
    assert len(buffer) == 0
