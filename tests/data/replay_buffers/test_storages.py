"""Storages: layouts in memory and on disk, indexing, refusals."""

import errno
import io
import os
import pickle
import subprocess
import sys
from typing import NamedTuple

import pytest
import torch
from tensordict import TensorDict, tensorclass

from torchrl._core.errors import DTypeError, MissingKeyError, ShapeError
from torchrl.data import (
    CompactStorage,
    CompressedListStorage,
    LazyMemmapStorage,
    LazyStackStorage,
    LazyTensorStorage,
    ListStorage,
    ReplayBuffer,
    TensorStorage,
)
from torchrl.data.replay_buffers.lock import ProcessLock
from torchrl.data.replay_buffers.storages.packed import FEW
from torchrl.testing.buffer import transitions

LAZY = {"tensor": LazyTensorStorage, "memmap": LazyMemmapStorage}
DTYPES = [
    torch.bool,
    torch.uint8,
    torch.int16,
    torch.int64,
    torch.float16,
    torch.float32,
    torch.float64,
    torch.complex64,
]


def mixed(count, extra=(), seed=0):
    generator = torch.Generator().manual_seed(seed)
    td = TensorDict(batch_size=[count])
    for i, dtype in enumerate([*DTYPES, *extra]):
        for shape in ((), (1,), (3,), (2, 3)):
            value = torch.randint(0, 2 if dtype is torch.bool else 100, (count, *shape), generator=generator)
            td[f"{i}", f"{len(shape)}{sum(shape)}"] = value.to(dtype)
    td["pixels"] = torch.randint(0, 255, (count, 3, 20, 20), generator=generator).to(torch.uint8)
    td["empty"] = torch.zeros(count, 0)
    return td


@pytest.mark.parametrize("make", LAZY.values(), ids=LAZY)
@pytest.mark.parametrize("extra", [(), (torch.bfloat16,)], ids=["numpy dtypes", "bfloat16"])
@pytest.mark.parametrize("count", [8, 40, 3000])
def test_every_dtype_and_shape_comes_back(make, extra, count):
    storage = make(count + 7)
    buffer, data = ReplayBuffer(storage=storage), mixed(count, extra)
    buffer.extend(mixed(7, extra, seed=1))
    buffer.extend(data)
    buffer.extend(data)
    assert (buffer[: count + 7] == torch.cat([data, data])[-count - 7 :].roll(count, 0)).all()
    for size in (20, 1, FEW + 1):
        positions = torch.randint(count, (size,))
        sample = storage.take(positions)
        assert (sample == buffer[:][positions]).all()
        assert all(leaf[0].is_contiguous() for leaf in sample.values(True, True))
        torch.save(sample, file := io.BytesIO())
        assert (torch.load(io.BytesIO(file.getvalue()), weights_only=False) == sample).all()


class Point(NamedTuple):
    x: torch.Tensor
    y: dict


@tensorclass
class Step:
    a: torch.Tensor
    b: TensorDict


@pytest.mark.parametrize("make", LAZY.values(), ids=LAZY)
def test_rows_of_any_structure(make):
    n = 4
    structures = [
        torch.arange(n),
        {"a": torch.arange(n), "b": (torch.ones(n, 2), [torch.zeros(n)])},
        Point(torch.arange(n), {"z": torch.ones(n)}),
        Step(a=torch.arange(n), b=TensorDict(c=torch.ones(n, 2), batch_size=[n, 2]), batch_size=[n]),
    ]
    for rows in structures:
        buffer = ReplayBuffer(storage=make(8))
        buffer.extend(rows)
        sample = buffer.sample(3)
        assert type(sample) is type(rows)
        again = ReplayBuffer(storage=make(8))
        again.load_state_dict(buffer.state_dict())
        assert type(again[0]) is type(rows)
    step = ReplayBuffer(storage=make(8))
    step.extend(structures[-1])
    assert step.sample(3).b.batch_size == (3, 2)


def test_rows_of_numbers_become_tensors():
    buffer = ReplayBuffer(storage=LazyTensorStorage(4))
    buffer.add({"a": 1.5, "b": [1, True]})
    assert buffer[0]["a"] == 1.5
    assert buffer[0]["b"][1].dtype is torch.bool


def test_objects_are_refused_by_tensor_storages():
    buffer = ReplayBuffer(storage=LazyTensorStorage(4))
    with pytest.raises(DTypeError, match=r"'a' is not a tensor.*found str\. ListStorage"):
        buffer.add({"a": "text"})
    assert len(buffer) == 0


def test_a_row_is_not_a_batch():
    buffer = ReplayBuffer(storage=LazyTensorStorage(4))
    with pytest.raises(ShapeError, match=r"too few dimensions.*add\(\) takes one row"):
        buffer.extend(TensorDict(a=torch.tensor(1)))
    with pytest.raises(DTypeError, match=r"extend\(\) takes several rows.*found int"):
        ReplayBuffer().extend(3)


def test_containers_and_leaves_are_told_apart():
    buffer = ReplayBuffer(storage=LazyTensorStorage(4))
    buffer.add(TensorDict(a=TensorDict(b=torch.zeros(2))))
    with pytest.raises(ShapeError, match=r"'a' is not a container.*found Tensor"):
        buffer.add(TensorDict(a=torch.zeros(2)))
    with pytest.raises(DTypeError, match=r"\('a', 'b'\) has the wrong dtype.*found TensorDict"):
        buffer.add(TensorDict(a=TensorDict(b=TensorDict(c=torch.zeros(2)))))


def test_missing_key_suggests_the_near_miss():
    buffer = ReplayBuffer(storage=LazyTensorStorage(4))
    buffer.add(TensorDict(observation=torch.zeros(2)))
    with pytest.raises(MissingKeyError, match=r"Did you mean 'observatoin'\? Nothing was written"):
        buffer.add(TensorDict(observatoin=torch.zeros(2)))


def test_the_width_of_a_two_dimensional_storage_is_fixed():
    buffer = ReplayBuffer(storage=LazyTensorStorage(12, ndim=2))
    buffer.extend(TensorDict(a=torch.zeros(3, 4), batch_size=[3, 4]))
    with pytest.raises(ShapeError, match=r"rows have the wrong shape; expected \[3\], found \[2\]"):
        buffer.extend(TensorDict(a=torch.zeros(2, 4), batch_size=[2, 4]))


STORAGES = {
    "list": ListStorage,
    "tensor": LazyTensorStorage,
    "memmap": LazyMemmapStorage,
    "lazy stack": LazyStackStorage,
    "compressed": CompressedListStorage,
}


@pytest.mark.parametrize("make", STORAGES.values(), ids=STORAGES)
def test_indexing(make):
    storage = make(10)
    rows = TensorDict(a=torch.arange(6), batch_size=[6])
    storage.set(slice(0, 6), rows)
    assert storage.get(-1)["a"] == 5
    assert storage.get(slice(1, 3))["a"].tolist() == [1, 2]
    assert storage.get([0, -1])["a"].tolist() == [0, 5]
    assert storage.get(torch.arange(6) > 3)["a"].tolist() == [4, 5]
    for wrong in (6, -7, [0, 6], torch.tensor([-7])):
        with pytest.raises(IndexError, match=r"holds no row"):
            storage.get(wrong)
    storage.set([0, 2], rows[4:])
    storage.set(-1, rows[0])
    assert storage.get(slice(None))["a"].tolist() == [4, 1, 5, 3, 4, 0]
    with pytest.raises(IndexError, match=r"would stay empty below.*Fill the slots in order"):
        storage.set(8, rows[0])
    with pytest.raises(IndexError, match=r"out of range"):
        storage.set(10, rows[0])
    with pytest.raises(ShapeError, match=r"as many slots as rows.*expected \[6\], found \[2\]"):
        storage.set([0, 1], rows)
    storage.set([6, 7], rows[:2])
    assert len(storage) == 8


def test_entry_reads_one_column():
    for make in (ListStorage, LazyTensorStorage):
        storage = make(4)
        storage.set(slice(0, 3), TensorDict(a=torch.arange(3), b=TensorDict(c=torch.ones(3, 2)), batch_size=[3]))
        assert storage.entry("a", slice(0, 3)).tolist() == [0, 1, 2]
        assert storage.entry(("b", "c"), torch.tensor([2])).shape == (1, 2)
        with pytest.raises(MissingKeyError, match=r"'d' is not"):
            storage.entry("d", slice(0, 3))


def test_given_tensors_are_written_in_place():
    column = torch.zeros(4, 2)
    buffer = ReplayBuffer(storage=TensorStorage(TensorDict(a=column, batch_size=[4])))
    assert len(buffer) == 4
    buffer.add(TensorDict(a=torch.ones(2)))
    assert column.tolist() == [[1, 1], [0, 0], [0, 0], [0, 0]]
    with pytest.raises(ShapeError, match=r"max_size is not the size.*expected 4, found 5"):
        TensorStorage(column, max_size=5)


def test_memmap_files_are_reopened(tmp_path):
    buffer = ReplayBuffer(storage=LazyMemmapStorage(10, scratch_dir=tmp_path))
    buffer.extend(TensorDict(a=torch.arange(13), batch_size=[13]))
    del buffer
    again = ReplayBuffer(storage=LazyMemmapStorage(10, scratch_dir=tmp_path, existsok=True))
    assert again[:]["a"].tolist() == [10, 11, 12, 3, 4, 5, 6, 7, 8, 9]
    assert again.add(TensorDict(a=torch.tensor(13))) == 3
    with pytest.raises(ShapeError, match=r"has another size; expected .*\(11, 1\), found \(10, 1\)"):
        LazyMemmapStorage(11, scratch_dir=tmp_path, existsok=True)


def test_memmap_storages_below_one_folder_do_not_clash(tmp_path):
    storages = [LazyMemmapStorage(3, scratch_dir=tmp_path) for _ in range(3)]
    for number, storage in enumerate(storages):
        storage.set(slice(0, 3), torch.full((3,), number))
    assert [storage.get(0).item() for storage in storages] == [0, 1, 2]
    assert len({storage.path for storage in storages}) == 3


@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize("before", [{}, {"existsok": True}, {"existsok": False}])
@pytest.mark.parametrize("alive", [True, False])
def test_a_folder_that_is_taken_is_refused_before_anything_is_written(tmp_path, before, alive, compact):
    steps = TensorDict(a=torch.arange(4), next=TensorDict(a=torch.arange(4) + 1, batch_size=[4]), batch_size=[4])

    def make(**kwargs):
        storage = LazyMemmapStorage(10, scratch_dir=tmp_path, **kwargs)
        return ReplayBuffer(storage=CompactStorage(storage) if compact else storage)

    early = make(existsok=False, auto_cleanup=True)  # made before the other one writes
    first = make(**before)
    if not compact:
        first.extend(steps)
    else:
        first.storage._inner.write_run(0, *first.storage._inner.prepare(steps, True))
    path = tmp_path / "storage"
    kept = {file.name: file.read_bytes() for file in path.iterdir() if file.name != "lock"}
    if not alive:
        del first
    for second in (early, make(existsok=False, auto_cleanup=True)):
        assert len(second) == 0
        for write in (second.extend, lambda rows, second=second: second.add(rows[0])):
            with pytest.raises(RuntimeError, match=r"exists in .*existsok is False.*existsok=True"):
                write(steps + 100)
        with pytest.raises(RuntimeError, match="cannot be shared" if compact else "exists in"):
            second.share()
    del early, second
    assert {f.name: f.read_bytes() for f in path.iterdir() if f.name != "lock"} == kept


def test_a_folder_of_its_own_is_written_with_existsok_false(tmp_path):
    steps = TensorDict(a=torch.arange(4), batch_size=[4])
    steps["next"] = steps + 1
    for number, wrap in enumerate((lambda storage: storage, CompactStorage)):
        folder = tmp_path / str(number)
        buffer = ReplayBuffer(storage=wrap(LazyMemmapStorage(10, scratch_dir=folder, existsok=False)), batch_size=3)
        buffer.extend(steps)
        buffer.add(steps[0])
        assert len(buffer) == 5
        assert buffer.sample()["a"].shape == (3,)
        assert buffer[:]["a"].tolist() == [0, 1, 2, 3, 0]
    again = ReplayBuffer(storage=LazyMemmapStorage(10, scratch_dir=tmp_path / "0", existsok=True))
    assert again[:]["a"].tolist() == [0, 1, 2, 3, 0]
    copied = pickle.loads(pickle.dumps(again))
    copied.add(steps[1])
    assert again[:]["a"].tolist() == [0, 1, 2, 3, 0, 1]


def test_a_folder_that_is_written_alone_is_not_shared(tmp_path):
    alone = ReplayBuffer(storage=LazyMemmapStorage(10, scratch_dir=tmp_path))
    alone.extend(torch.arange(4))
    shares = ReplayBuffer(storage=LazyMemmapStorage(10, scratch_dir=tmp_path, existsok=True))
    assert shares[:].tolist() == [0, 1, 2, 3]
    with pytest.raises(RuntimeError, match=r"opened without existsok=True is writing.*everywhere"):
        shares.add(torch.tensor(9))
    assert alone[:].tolist() == [0, 1, 2, 3]
    alone.add(torch.tensor(4))
    del alone
    shares.add(torch.tensor(5))
    assert shares[:].tolist() == [0, 1, 2, 3, 4, 5]


class Disk:
    """A disk of some bytes, that files take as they are reserved."""

    def __init__(self, size):
        self.left, self.files = size, {}

    def __call__(self, file, start, stop):
        taken = self.files.setdefault(file, 0)
        if stop > taken:
            if stop - taken > self.left:
                raise OSError(errno.ENOSPC, "No space left on device")
            self.left -= stop - taken
            self.files[file] = stop


@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize("how", ["extend", "add", "set", "load"])
def test_a_full_disk_is_an_error_and_the_rows_before_are_whole(tmp_path, monkeypatch, how, compact):
    def row(i):
        return TensorDict(a=torch.full((512,), float(i)), next=TensorDict(a=torch.full((512,), i + 1.0)))

    disk = Disk(4 * 2048)
    monkeypatch.setattr("torchrl.data.replay_buffers.storages.memmap.reserve", disk)
    storage = LazyMemmapStorage(100, scratch_dir=tmp_path)
    buffer = ReplayBuffer(storage=CompactStorage(storage, ["a"]) if compact else storage)
    rows = 4 if compact else 2

    def write(i):
        if how == "add" or (how == "load" and i != rows):
            buffer.add(row(i))
        elif how == "extend":
            buffer.extend(torch.stack([row(i)]))
        elif how == "set":
            buffer.storage.set(i, row(i))
        else:
            other = LazyTensorStorage(100)
            other = CompactStorage(other, ["a"]) if compact else other
            other.set(slice(0, 50), torch.stack([row(100 + j) for j in range(50)]))
            buffer.storage.load_state_dict(other.state_dict())

    for i in range(rows):
        write(i)
    with pytest.raises(OSError, match="No space left"):
        write(rows)
    assert len(buffer) == rows
    assert buffer[:]["a"][:, 0].tolist() == list(range(rows))
    assert buffer[:]["next", "a"][:, 0].tolist() == list(range(1, rows + 1))
    buffer.storage.repair_after_crash()  # nothing was begun
    assert len(buffer) == rows
    disk.left = 1 << 20
    if how != "load":
        write(rows)
        assert buffer[:]["a"][:, 0].tolist() == list(range(rows + 1))


WRITERS = """
import os, sys, torch
from tensordict import TensorDict
from torchrl.data import LazyMemmapStorage, TensorDictReplayBuffer

ROWS = 400

def make():
    return LazyMemmapStorage(3 * ROWS, scratch_dir=sys.argv[1], existsok=True)

kind = TensorDictReplayBuffer
parent = kind(storage=make, delayed_init=True)
pids = []
for number in range(2):
    pid = os.fork()
    if not pid:
        buffer = kind(storage=make, delayed_init=True)
        for i in range(0, ROWS, 4):
            rows = TensorDict(who=torch.full((4,), number), i=torch.arange(i, i + 4))
            rows.batch_size = [4]
            if number:
                buffer.extend(rows)
            else:
                for row in rows:
                    buffer.add(row)
        os._exit(0)
    pids.append(pid)
codes = [os.waitpid(pid, 0)[1] for pid in pids]
assert codes == [0, 0], codes
found = parent[:]
assert len(found) == 2 * ROWS, len(found)
for number in range(2):
    assert found["i"][found["who"] == number].tolist() == list(range(ROWS))
assert found["index"].tolist() == list(range(2 * ROWS))
"""


def test_the_first_write_of_delayed_parts_holds_the_lock_of_the_folder(tmp_path):
    """Parts that are made under another lock would write their first rows beside other processes."""

    def make():
        return LazyMemmapStorage(10, scratch_dir=tmp_path, existsok=True)

    buffer = ReplayBuffer(storage=make, delayed_init=True)
    assert isinstance(buffer._writing(), ProcessLock)
    copied = pickle.loads(pickle.dumps(ReplayBuffer(storage=ListStorage, delayed_init=True)))
    assert not copied.initialized
    copied.extend(TensorDict(a=torch.zeros(3), batch_size=[3]))
    assert len(copied) == 3


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_processes_that_share_a_folder_lose_no_row(tmp_path):
    subprocess.run([sys.executable, "-c", WRITERS, str(tmp_path)], check=True, timeout=100)


def test_temporary_files_go_and_named_ones_stay(tmp_path):
    for kwargs, stays in (
        ({}, False),
        ({"auto_cleanup": True, "scratch_dir": tmp_path}, False),
        ({"scratch_dir": tmp_path}, True),
    ):
        storage = LazyMemmapStorage(3, **kwargs)
        storage.set(0, torch.zeros(2))
        path = storage.path
        del storage
        assert path.exists() == stays


def test_saved_rows_that_do_not_fit_are_refused():
    full = LazyTensorStorage(8)
    full.set(slice(0, 8), torch.arange(8))
    small = LazyTensorStorage(4)
    with pytest.raises(ShapeError, match=r"saved rows do not fit; expected at most 4 rows"):
        small.load_state_dict(full.state_dict())
    other = LazyTensorStorage(8)
    other.set(0, torch.zeros(2))
    with pytest.raises(ShapeError, match=r"saved rows do not fit"):
        other.load_state_dict(full.state_dict())
    source = ListStorage(2)
    source.set(slice(0, 2), [1, 2])
    with pytest.raises(ValueError, match=r"saved rows do not fit; expected 1, found 2"):
        ListStorage(1).load_state_dict(source.state_dict())


@pytest.mark.parametrize("size", [0, -1])
def test_sizes_are_positive(size):
    with pytest.raises(ValueError, match="must be positive"):
        ListStorage(size)


def test_lists_cannot_be_shared():
    with pytest.raises(RuntimeError, match=r"ListStorage: cannot be shared.*LazyMemmapStorage can"):
        ReplayBuffer(shared=True)


def test_only_tensordicts_are_stacked_lazily():
    with pytest.raises(DTypeError, match=r"only tensordicts can be stacked lazily; found int"):
        ReplayBuffer(storage=LazyStackStorage(3)).add(3)


@pytest.mark.parametrize("make", STORAGES.values(), ids=STORAGES)
def test_entries_set_in_a_sample_are_not_set_in_the_storage(make):
    buffer = ReplayBuffer(storage=make(4))
    buffer.extend(TensorDict(a=torch.zeros(3), b=TensorDict(c=torch.zeros(3)), batch_size=[3]))
    for data in (buffer.sample(3), buffer[0], buffer[:]):
        data["a"] = torch.ones_like(data["a"])
        data["b", "c"] = torch.ones_like(data["b", "c"])
    assert (buffer[:]["a"] == 0).all()
    assert (buffer[:]["b", "c"] == 0).all()


def test_compression_of_ones_own():
    calls = []

    def pack(data):
        calls.append(len(data))
        return data[::-1]

    buffer = ReplayBuffer(storage=CompressedListStorage(4, compression_fn=pack, decompression_fn=lambda d: d[::-1]))
    buffer.extend(["a", {"b": torch.ones(2)}])
    assert len(calls) == 2
    assert buffer[0] == "a"
    assert buffer[1]["b"].tolist() == [1, 1]
    assert buffer.storage.nbytes == sum(calls)
    with pytest.raises(TypeError, match="both functions of a compression, or none"):
        CompressedListStorage(4, compression_fn=pack)


@pytest.mark.parametrize("device", [None, "cpu"])
def test_rows_on_a_device_are_copies_of_their_own(device):
    batch = TensorDict(image=torch.zeros(100, 64, dtype=torch.uint8), batch_size=[100])
    listed = ReplayBuffer(storage=ListStorage(100, device=device))
    listed.extend(batch)
    packed = CompressedListStorage(100, device=device or "cpu", compression_fn=bytes, decompression_fn=bytes)
    ReplayBuffer(storage=packed).extend(batch)
    assert packed.nbytes < 100 * 5000  # of one row, not of the batch for each row
    batch["image"].fill_(1)
    assert listed[7]["image"].sum() == 0


@pytest.mark.parametrize("make", STORAGES.values(), ids=STORAGES)
def test_rows_come_in_many_shapes(make):
    dense = TensorDict(a=torch.arange(3.0), b=TensorDict(c=torch.zeros(3, 2)), batch_size=[3])
    graph = dense.clone()
    graph["a"].requires_grad_()
    rows = [
        dense,
        TensorDict.lazy_stack(list(dense.unbind(0))),
        list(dense.unbind(0)),
        dense.clone().lock_(),
        graph,
        torch.stack([dense, dense], 1)[:, 0],
    ]
    buffer = ReplayBuffer(storage=make(3))
    for data in rows:
        buffer.extend(data)
        buffer.add(data[0])
        assert sorted(buffer[:]["a"].tolist()) == [0, 1, 2]
        assert not buffer[:]["a"].requires_grad
        buffer.empty()


@pytest.mark.parametrize("storage", [LazyMemmapStorage, ListStorage])
def test_text_in_a_tensordict_is_kept(storage):
    row = TensorDict(a=torch.zeros(2), name="text")
    keeps = ReplayBuffer(storage=storage(3))
    keeps.add(row)
    assert keeps[0]["name"] == "text"


def test_items_of_several_dimensions_in_one():
    storage = LazyTensorStorage(12, ndim=2)
    storage.set(slice(0, 4), transitions(0, 4, [2]))
    flat = storage.flatten()
    assert flat.shape == (8,)
    assert flat.get(slice(None))["item"].tolist() == list(range(8))
    flat.set(3, transitions(9, 1)[0])
    assert storage.get(1)["item"].tolist() == [2, 9]
    assert flat.flatten() is flat
    compact = CompactStorage(LazyTensorStorage(12, ndim=2))
    compact.set(slice(0, 4), transitions(0, 4, [2]))
    assert compact.flatten().get(slice(None))["item"].tolist() == list(range(8))


def test_a_row_whose_bytes_are_not_its_numbers():
    """Conjugates and negatives that torch has only marked as such."""
    numbers = torch.tensor([1 + 2j, 3 - 4j])
    for row in (TensorDict(a=numbers.conj()), TensorDict(a=numbers.conj().imag[:1])):
        buffer = ReplayBuffer(storage=LazyTensorStorage(4))
        for _ in range(2):
            buffer.add(row)
        assert buffer[1]["a"].tolist() == row["a"].tolist()
