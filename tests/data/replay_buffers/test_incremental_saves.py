"""Saves write the rows that changed; files of the others are hard links, and each save is whole by itself."""

import os
import signal
import sys

import pytest
import torch
from tensordict import TensorDict

from torchrl._core import files
from torchrl._core.errors import DamagedFileError
from torchrl.checkpoint import Checkpoint, CheckpointRotation
from torchrl.data import LazyMemmapStorage, LazyTensorStorage, ReplayBuffer, TensorDictPrioritizedReplayBuffer
from torchrl.data.replay_buffers import checkpointers
from torchrl.testing.buffer import assert_same, assert_same_state

SIZE = 320  # rows, in files of ten


@pytest.fixture(autouse=True)
def small_files(monkeypatch):
    monkeypatch.setattr(checkpointers, "CHUNK_BYTES", 1)


def rows(first, count):
    x = torch.arange(first, first + count)
    return TensorDict(x=x, pixels=x[:, None].expand(-1, 5).to(torch.uint8), done=x % 7 == 0, batch_size=[count])


def make(storage=LazyTensorStorage, size=SIZE):
    return ReplayBuffer(storage=storage(size))


def check(buffer, folder):
    again = make()
    again.loads(folder)
    assert len(again) == len(buffer)
    if len(buffer):
        assert_same(again[:], buffer[:])
    assert again.write_count == buffer.write_count


def written(folder, save):
    """Return how many files of rows a save wrote, after it; the others are those that there were."""
    before = {file.stat().st_ino for file in folder.rglob("*_*.bin")}
    save()
    after = {file.stat().st_ino for file in folder.rglob("*_*.bin")}
    return len(after - before), len(after)


def edit(buffer):
    buffer.set_at_("x", torch.tensor([-1]), [35])


def edit_view(buffer):
    buffer[:]["pixels"][35:37].fill_(9)


def replace(buffer):
    buffer[35] = rows(1000, 1)[0]


@pytest.mark.parametrize(
    ("change", "number"),
    [
        (lambda buffer: None, 0),
        (lambda buffer: buffer.extend(rows(500, 15)), 2),  # from slot 50 on
        (lambda buffer: [buffer.add(rows(500, 1)[0]) for _ in range(3)], 1),
        (lambda buffer: buffer.extend(rows(500, 280)), 28),  # past the end of the ring
        (lambda buffer: buffer.extend(rows(500, SIZE + 20)), 32),
        (edit, 1),
        (edit_view, 1),
        (replace, 1),
    ],
)
@pytest.mark.parametrize("storage", [LazyTensorStorage, LazyMemmapStorage])
def test_only_files_with_changed_rows_are_written(tmp_path, storage, change, number):
    buffer = make(storage)
    buffer.extend(rows(0, SIZE + 50))
    assert written(tmp_path, lambda: buffer.dumps(tmp_path)) == (32, 32)
    for _ in range(2):  # the second time after a save that linked files
        change(buffer)
        assert written(tmp_path, lambda: buffer.dumps(tmp_path))[0] <= number
        check(buffer, tmp_path)


def test_a_buffer_that_grows_and_is_emptied(tmp_path):
    buffer = make()
    for count, new in ((5, 1), (3, 1), (2, 1), (25, 3)):
        buffer.extend(rows(len(buffer), count))
        assert written(tmp_path, lambda: buffer.dumps(tmp_path))[0] == new
        check(buffer, tmp_path)
    buffer.empty()
    buffer.dumps(tmp_path)
    check(buffer, tmp_path)
    assert not list(tmp_path.rglob("*_*.bin"))
    buffer.extend(rows(0, 11))
    buffer.dumps(tmp_path)
    check(buffer, tmp_path)


def test_another_buffer_in_the_same_folder(tmp_path):
    """What one buffer knows of its last save does not hold for the save of another."""
    one, other = make(), make()
    one.extend(rows(0, 300))
    other.extend(rows(0, 150))
    other.extend(rows(900, 150))
    one.dumps(tmp_path)
    number, _ = written(tmp_path, lambda: other.dumps(tmp_path))
    assert number == 15  # compared with the files: the first half is the same
    check(other, tmp_path)
    one.dumps(tmp_path)
    check(one, tmp_path)
    wide = ReplayBuffer(storage=LazyTensorStorage(SIZE))
    wide.extend(TensorDict(y=torch.zeros(300, 7), batch_size=[300]))
    wide.dumps(tmp_path)
    again = ReplayBuffer(storage=LazyTensorStorage(SIZE))
    again.loads(tmp_path)
    assert_same(again[:], wide[:])


def test_a_buffer_that_was_loaded_goes_on_from_the_files(tmp_path):
    buffer, again = make(), make()
    buffer.extend(rows(0, SIZE))
    buffer.dumps(tmp_path)
    again.loads(tmp_path)
    again.extend(rows(700, 12))
    assert written(tmp_path, lambda: again.dumps(tmp_path))[0] == 2
    check(again, tmp_path)


def test_changed_priorities_are_saved(tmp_path):
    make = lambda: TensorDictPrioritizedReplayBuffer(alpha=0.6, beta=0.4, storage=LazyTensorStorage(SIZE))
    buffer, again = make(), make()
    buffer.extend(rows(0, SIZE))
    buffer.dumps(tmp_path)
    buffer.update_priority(torch.arange(SIZE), torch.rand(SIZE))
    assert written(tmp_path, lambda: buffer.dumps(tmp_path))[0] == 0
    again.loads(tmp_path)
    assert_same_state(again.state_dict(), buffer.state_dict())


def test_checkpoints_of_a_rotation_share_files_and_outlive_each_other(tmp_path):
    buffer = make()
    buffer.extend(rows(0, SIZE))
    rotation = CheckpointRotation(tmp_path, keep_last=2)
    checkpoint = Checkpoint(buffer=buffer)
    kept = {}
    for step in range(5):
        buffer.extend(rows(1000 * step, 15))
        number, total = written(tmp_path, lambda step=step: rotation.save(checkpoint, step))
        assert number <= 3 or step == 0
        kept[step] = buffer[:].clone()
        again = make()
        for path in rotation.paths():
            Checkpoint(buffer=again).load(path)
            assert_same(again[:], kept[int(path.name.split("_")[1])])
    assert total < 64  # two whole ones would have 64
    path = rotation.latest()
    assert written(path, lambda: checkpoint.save(path)) == (0, 32)
    Checkpoint(buffer=again).load(path)
    assert_same(again[:], buffer[:])


@pytest.mark.parametrize("damage", ["cut", "flip", "replace", "remove"])
def test_a_file_that_was_damaged_is_not_taken_over(tmp_path, damage):
    buffer = make()
    buffer.extend(rows(0, SIZE))
    for _ in range(2):
        buffer.dumps(tmp_path)
        file = next(tmp_path.rglob("rows_3.bin"))
        whole = file.read_bytes()
        changed = whole[:-1] if damage == "cut" else bytes([whole[0] ^ 1]) + whole[1:]
        if damage in ("replace", "remove"):
            file.unlink()
        if damage != "remove":
            file.write_bytes(changed)
        with pytest.raises(DamagedFileError, match=r"rows_3\.bin"):
            make().loads(tmp_path)
        assert written(tmp_path, lambda: buffer.dumps(tmp_path))[0] == 1
        check(buffer, tmp_path)


def test_folders_without_hard_links_are_written_whole(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError("no hard links here")

    buffer = make()
    buffer.extend(rows(0, SIZE))
    rotation = CheckpointRotation(tmp_path, keep_last=2)
    rotation.save(Checkpoint(buffer=buffer), 0)
    monkeypatch.setattr(os, "link", refuse)
    assert written(tmp_path, lambda: rotation.save(Checkpoint(buffer=buffer), 1)) == (32, 64)
    again = make()
    rotation.load_latest(Checkpoint(buffer=again))
    assert_same(again[:], buffer[:])


def die_after(calls):
    """Let this process be killed at one of its next calls that change the file system."""
    count = iter(range(calls, -1, -1))

    def wrap(real):
        def dying(*args, **kwargs):
            if next(count, 0) == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        return dying

    for name in ("link", "replace", "rename", "unlink", "rmdir", "fsync", "mkdir"):
        setattr(os, name, wrap(getattr(os, name)))


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
def test_a_save_that_is_killed_anywhere_leaves_the_last_one_or_the_new_one(tmp_path):
    """Also the checkpoints whose files it was about to share."""
    buffer = make()
    buffer.extend(rows(0, SIZE))
    rotation = CheckpointRotation(tmp_path, keep_last=2)
    rotation.save(Checkpoint(buffer=buffer), 0)
    first = buffer[:].clone()
    buffer.extend(rows(5000, 15))
    for step in range(0, 400, 7):
        pid = os.fork()
        if not pid:
            try:
                die_after(step)
                rotation.save(Checkpoint(buffer=buffer), 1)
            finally:
                os._exit(9)
        _, status = os.waitpid(pid, 0)
        again = make()
        Checkpoint(buffer=again).load(tmp_path / "checkpoint_0")
        assert_same(again[:], first)
        rotation.load_latest(Checkpoint(buffer=again))
        assert again[:]["x"].tolist() in (first["x"].tolist(), buffer[:]["x"].tolist())
        if not os.WIFSIGNALED(status):
            break
    assert not os.WIFSIGNALED(status)
    rotation.save(Checkpoint(buffer=buffer), 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint_0", "checkpoint_1"]


def test_files_of_earlier_saves_are_not_flushed_again(tmp_path, monkeypatch):
    flushed = []
    real = files.flush
    for module in (files, checkpointers):
        monkeypatch.setattr(module, "flush", lambda path: (flushed.append(path.name), real(path)))
    buffer = make()
    buffer.extend(rows(0, SIZE))
    buffer.dumps(tmp_path)
    assert sum(name.startswith("rows_") for name in flushed) == 32
    flushed.clear()
    buffer.extend(rows(0, 5))
    buffer.dumps(tmp_path)
    assert [name for name in flushed if name.startswith("rows_")] == ["rows_0.bin"]
