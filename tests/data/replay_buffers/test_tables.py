"""Buffers as Parquet files and as datasets of Hugging Face, and back, with nothing lost."""

import json

import numpy as np
import pytest
import torch
from tensordict import LazyStackedTensorDict, NonTensorStack, TensorDict
from torch.utils._pytree import tree_leaves

from torchrl._core.errors import DTypeError, ShapeError
from torchrl.data import (
    LazyMemmapStorage,
    LazyStackStorage,
    LazyTensorStorage,
    ListStorage,
    PrioritizedReplayBuffer,
    ReplayBuffer,
    SliceSampler,
    TensorDictReplayBuffer,
)
from torchrl.data.datasets import TableExperienceReplay, load_dataset
from torchrl.testing.mocks import CountingEnv

arrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'torchrl[offline]'")
parquet = pytest.importorskip("pyarrow.parquet")
FORMATS = ["parquet", "huggingface"]
DTYPES = [
    torch.bool,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.complex64,
]


@pytest.fixture(params=FORMATS)
def format(request):
    if request.param == "huggingface":
        pytest.importorskip("datasets", reason="datasets is not installed: pip install 'torchrl[offline]'")
    return request.param


@pytest.fixture
def there_and_back(format, tmp_path):
    """Return what a buffer of these items is, and what it is after it was written and read."""

    def run(buffer, **kwargs):
        buffer.export(tmp_path / "table", format)
        return load_dataset(tmp_path / "table", root=tmp_path / "cache", **kwargs)

    return run


def steps(count=7):
    """Items with everything: nested, flags, masks, images, texts, matrices, every dtype."""
    torch.manual_seed(0)
    numbers = torch.arange(count)
    td = TensorDict(
        observation=torch.randn(count, 3),
        pixels=torch.randint(0, 256, (count, 3, 5, 4), dtype=torch.uint8),
        task=NonTensorStack(*[f"go {i % 2}" for i in range(count)]),
        collector=TensorDict(mask=numbers < count - 1, traj_ids=numbers // 3, batch_size=[count]),
        empty=torch.zeros(count, 0),
        next=TensorDict(
            observation=torch.randn(count, 3),
            reward=torch.randn(count, 1),
            done=(numbers % 3 == 2).unsqueeze(-1),
            batch_size=[count],
        ),
        batch_size=[count],
    )
    td["observation"][0, 0] = float("nan")
    for dtype in DTYPES:
        td["dtypes", str(dtype)] = (torch.randn(count, 2) * 3).to(dtype)
    return td


def assert_equal(found, expected):
    assert found.batch_size == expected.batch_size
    assert set(found.keys(True, True)) == set(expected.keys(True, True))
    for key in expected.keys(True, True):
        left, right = found.get(key), expected.get(key)
        if isinstance(right, torch.Tensor):
            assert left.dtype is right.dtype, key
            torch.testing.assert_close(left, right, rtol=0, atol=0, equal_nan=True)
        else:
            assert left.tolist() == right.tolist(), key


STORAGES = {
    "list": ListStorage,
    "lazy stack": LazyStackStorage,
    "tensors": LazyTensorStorage,
    "files": LazyMemmapStorage,
}


@pytest.mark.parametrize("storage", STORAGES.values(), ids=STORAGES)
def test_items_of_every_storage_come_back(storage, there_and_back):
    buffer = TensorDictReplayBuffer(storage=storage(10), batch_size=4)
    buffer.extend(steps())
    dataset = there_and_back(buffer, batch_size=4)
    assert_equal(dataset[:], buffer[:])
    assert_equal(dataset[:].exclude("index"), steps())
    assert len(dataset.sample()) == 4
    with pytest.raises(RuntimeError, match="read-only"):
        dataset.extend(steps())


def test_a_full_buffer_is_written_from_its_oldest_item(there_and_back):
    buffer = ReplayBuffer(storage=LazyTensorStorage(5))
    for first in (0, 4):
        buffer.extend(TensorDict(a=torch.arange(first, first + 4), batch_size=[4]))
    assert there_and_back(buffer)[:]["a"].tolist() == [3, 4, 5, 6, 7]


@pytest.mark.parametrize("dim_extend", [0, 1])
def test_dimensions_of_items_come_back(dim_extend, there_and_back):
    torch.manual_seed(0)
    rows = TensorDict(observation=torch.randn(2, 5, 3), ends=torch.rand(2, 5, 1) < 0.3, batch_size=[2, 5])
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(20, ndim=2), dim_extend=dim_extend)
    buffer.extend(rows)
    dataset = there_and_back(buffer, sampler=SliceSampler(slice_len=2, end_key="ends"), batch_size=8)
    assert_equal(dataset[:], buffer[:])
    assert_equal(dataset[:].exclude("index"), rows)
    assert dataset.ndim == 2
    assert len(dataset) == 10
    if dim_extend == 1:
        batch = dataset.sample().reshape(4, 2)
        places = [(rows["observation"] == o).all(-1).nonzero()[0].tolist() for o in batch["observation"].flatten(0, 1)]
        assert all(after == [env, step + 1] for (env, step), after in zip(places[::2], places[1::2], strict=True))


@pytest.mark.parametrize(
    "items",
    [
        torch.arange(12.0).reshape(4, 3),
        torch.arange(4),
        {"a": torch.arange(4), "b": (torch.ones(4, 2), torch.zeros(4, dtype=torch.bool))},
        [torch.arange(4), torch.ones(4, 1)],
        LazyStackedTensorDict(
            TensorDict(a=torch.arange(4), batch_size=[4]), TensorDict(a=torch.ones(4, 2), batch_size=[4]), stack_dim=1
        ),
    ],
    ids=["tensors", "numbers", "dict", "list", "ragged"],
)
def test_items_that_are_no_tensordicts_come_back(items, format, tmp_path):
    buffer = ReplayBuffer(storage=LazyTensorStorage(4))
    buffer.extend(items)
    buffer.export(tmp_path / "table", format)
    found = load_dataset(tmp_path / "table", root=tmp_path / "cache")[:]
    left, right = (tree_leaves([*x.tensordicts] if hasattr(x, "tensordicts") else x) for x in (found, items))
    assert type(found) is type(items)
    for one, other in zip(left, right, strict=True):
        assert (one == other).all()


def test_texts_and_other_objects_come_back(there_and_back):
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(4))
    said = [{"role": "user", "n": [1, 2.5, None]}, None, "go", 3]
    td = TensorDict(said=NonTensorStack(*said), a=torch.zeros(4), batch_size=[4])
    buffer.extend(td)
    assert there_and_back(buffer)[:].get("said").tolist() == said


def test_objects_that_no_file_keeps_are_named(tmp_path):
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(1))
    buffer.extend(TensorDict(said=NonTensorStack(object()), batch_size=[1]))
    with pytest.raises(DTypeError, match="holds an object that files cannot keep"):
        buffer.export(tmp_path / "table")
    assert not (tmp_path / "table").exists()
    with pytest.raises(ValueError, match=r"expected one of \['parquet', 'huggingface'\], found csv"):
        buffer.export(tmp_path / "table", "csv")


def test_a_rollout_is_readable_for_others(tmp_path):
    buffer = PrioritizedReplayBuffer(alpha=0.7, beta=0.5, storage=LazyTensorStorage(100))
    rollout = CountingEnv().rollout(3)
    buffer.extend(rollout)
    buffer.export(tmp_path / "table")
    table = parquet.read_table(tmp_path / "table" / "rows.parquet")
    assert {"observation", "action", "next.observation", "next.reward", "next.done"} <= set(table.column_names)
    assert np.array(table["next.reward"].to_pylist()).tolist() == rollout["next", "reward"].tolist()
    datasets = pytest.importorskip("datasets", reason="datasets is not installed: pip install 'torchrl[offline]'")
    buffer.export(tmp_path / "hub", "huggingface")
    dataset = datasets.load_from_disk(str(tmp_path / "hub"))
    assert dataset[1]["next.reward"] == rollout[1]["next", "reward"].tolist()
    shuffled = dataset.select([2, 0])
    shuffled.save_to_disk(str(tmp_path / "some"))
    found = load_dataset(tmp_path / "some", root=tmp_path / "cache")[:]
    assert_equal(found.select("observation"), rollout[[2, 0]].select("observation"))


def test_tables_of_others_are_read_by_names_and_types(tmp_path):
    (tmp_path / "data").mkdir()
    for part in range(2):
        table = arrow.table(
            {
                "observation.state": [[1.0 + part, 2.0], [3.0, 4.0]],
                "next.reward": [0.5, float(part)],
                "next.done": [False, True],
                "info": [{"speed": 1, "deep": {"x": 2.0}}, {"speed": 3, "deep": {"x": 4.0}}],
                "task": ["push", None],
                "index": [2 * part, 2 * part + 1],
            }
        )
        parquet.write_table(table, tmp_path / "data" / f"part-{part}.parquet")
    for path in (tmp_path, tmp_path / "data" / "part-0.parquet"):
        found = load_dataset(path, root=tmp_path / "cache")[:]
        assert found["observation", "state"].shape == (len(found), 2)
        assert found["next", "reward"].shape == found["next", "done"].shape == (len(found), 1)
        assert found["info", "deep", "x"][:2].tolist() == [2.0, 4.0]
        assert found.get("task").tolist()[:2] == ["push", None]
        assert found["index"].tolist() == [*range(len(found))]


@pytest.mark.parametrize(
    ("column", "error", "message"),
    [
        ([[1.0], [1.0, 2.0]], ShapeError, "'speed' has lists of several lengths"),
        ([1.0, None], DTypeError, "'speed' is a column that is no tensor.*1 of them missing"),
        ([b"\x00", b"\x01"], DTypeError, "found binary"),
    ],
)
def test_columns_that_are_no_entries_are_named(column, error, message, tmp_path):
    parquet.write_table(arrow.table({"speed": column}), tmp_path / "some.parquet")
    with pytest.raises(error, match=message):
        load_dataset(tmp_path / "some.parquet", root=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_several_datasets_and_none_are_told_apart(tmp_path):
    with pytest.raises(FileNotFoundError, match="no Parquet files"):
        TableExperienceReplay(tmp_path / "nothing")
    datasets = pytest.importorskip("datasets", reason="datasets is not installed: pip install 'torchrl[offline]'")
    part = datasets.Dataset.from_dict({"a": [1.0, 2.0]})
    datasets.DatasetDict(train=part, test=part).save_to_disk(str(tmp_path / "both"))
    with pytest.raises(ValueError, match=r"expected one of \['test', 'train'\]"):
        load_dataset(tmp_path / "both", root=tmp_path / "cache")
    assert load_dataset(tmp_path / "both" / "train", root=tmp_path / "cache")[:]["a"].tolist() == [1.0, 2.0]


def test_a_table_that_changed_is_read_again(tmp_path):
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(4))
    for number in range(2):
        buffer.extend(TensorDict(a=torch.full((2,), number), batch_size=[2]))
        buffer.export(tmp_path / "table")
        assert len(load_dataset(f"parquet:{tmp_path / 'table'}", root=tmp_path / "cache")) == 2 * (number + 1)
    notes = next((tmp_path / "cache").glob("*/dataset.json"))
    assert "source" in json.loads(notes.read_text())
