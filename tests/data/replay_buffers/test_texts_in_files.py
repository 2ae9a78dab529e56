"""Texts and other objects of rows in files: each different one once, in a table beside the rows."""

import pickle

import pytest
import torch
from tensordict import NonTensorData, NonTensorStack, TensorDict

from torchrl._core.errors import DamagedFileError, DTypeError
from torchrl.data import LazyMemmapStorage, ReplayBuffer, TensorDictReplayBuffer

OBJECTS = ["go", "stop", "", None, 5, 2.5, True, ["a", 1], {"k": [None]}, "a\nline", "\u00fc"]


def rows(objects, **more):
    x = torch.arange(len(objects))
    return TensorDict(x=x, note=NonTensorStack(*objects), **more, batch_size=[len(objects)])


def test_objects_come_back():
    buffer = ReplayBuffer(storage=LazyMemmapStorage(20), batch_size=8)
    buffer.extend(rows(OBJECTS))
    assert buffer[:]["note"] == OBJECTS
    sample = buffer.sample()
    assert [OBJECTS[x] for x in sample["x"].tolist()] == list(sample["note"])
    assert [buffer[i]["note"] for i in range(len(OBJECTS))] == OBJECTS
    buffer.extend(rows(OBJECTS))
    table = buffer.storage.path / "objects.jsonl"
    assert len(table.read_text().splitlines()) == len(OBJECTS) - 1  # None is not written
    buffer[2] = rows(["new", "more"])[1]
    assert buffer[2]["note"] == "more"
    buffer.empty()
    buffer.extend(rows(["again"]))
    assert list(buffer[:]["note"]) == ["again"]


def test_objects_that_all_rows_share():
    buffer = TensorDictReplayBuffer(storage=LazyMemmapStorage(9), batch_size=4)
    buffer.extend(TensorDict(x=torch.arange(3), task="reach", deep={"who": "ann"}, batch_size=[3]))
    buffer.add(TensorDict(x=torch.tensor(3), task="push", deep={"who": "ann"}))
    assert [buffer[i]["task"] for i in range(4)] == ["reach"] * 3 + ["push"]
    assert buffer.sample()["deep", "who"] in ("ann", ["ann"] * 4)


def test_objects_of_grids():
    buffer = ReplayBuffer(storage=LazyMemmapStorage(12, ndim=2), batch_size=4)
    td = TensorDict(x=torch.arange(6).view(2, 3), batch_size=[2, 3])
    td["note"] = NonTensorStack(NonTensorStack("a", "b", "c"), NonTensorStack("d", "e", "f"))
    buffer.extend(td)
    assert buffer[:].get("note").tolist() == [["a", "b", "c"], ["d", "e", "f"]]
    sample = buffer.sample()
    assert ["abcdef"[x] for x in sample["x"].tolist()] == sample.get("note").tolist()


def test_other_processes_read_what_was_added(tmp_path):
    first, second = (ReplayBuffer(storage=LazyMemmapStorage(9, scratch_dir=tmp_path, existsok=True)) for _ in range(2))
    first.extend(rows(["a", "b"]))
    assert list(second[:]["note"]) == ["a", "b"]
    second.extend(rows(["c", "a"]))
    first.extend(rows(["d"]))
    for buffer in (first, second, pickle.loads(pickle.dumps(second))):
        assert list(buffer[:]["note"]) == ["a", "b", "c", "a", "d"]


def test_a_save_holds_the_objects(tmp_path):
    buffer, other = (ReplayBuffer(storage=LazyMemmapStorage(9)) for _ in range(2))
    buffer.extend(rows(["a", "b"]))
    buffer.dumps(tmp_path)
    other.loads(tmp_path)
    assert list(other[:]["note"]) == ["a", "b"]


@pytest.mark.parametrize("bad", [{1, 2}, (1, 2), object(), {1: 2}])
def test_what_json_does_not_give_back_is_refused(bad):
    buffer = ReplayBuffer(storage=LazyMemmapStorage(9))
    buffer.extend(rows(["a"]))
    note = NonTensorData(bad, batch_size=[1])
    with pytest.raises(DTypeError, match="holds an object that files cannot keep"):
        buffer.extend(TensorDict(x=torch.zeros(1, dtype=torch.int64), note=note, batch_size=[1]))
    assert len(buffer) == 1


def test_a_damaged_table_is_named(tmp_path):
    buffer = ReplayBuffer(storage=LazyMemmapStorage(9, scratch_dir=tmp_path, existsok=True))
    buffer.extend(rows(["a"]))
    table = buffer.storage.path / "objects.jsonl"
    table.write_text("{broken\n")
    with pytest.raises(DamagedFileError, match=r"objects\.jsonl"):
        ReplayBuffer(storage=LazyMemmapStorage(9, scratch_dir=tmp_path, existsok=True))[:]
