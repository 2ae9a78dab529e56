"""Saves: a loaded buffer goes on bit for bit; a save cut short does no harm."""

import itertools
import multiprocessing
import time

import pytest
import torch

from torchrl._core.errors import ShapeError
from torchrl.data import LazyTensorStorage, ListStorage, ReplayBuffer, TensorDictPrioritizedReplayBuffer
from torchrl.testing.buffer import assert_same, assert_same_state, transitions

FORK = multiprocessing.get_context("fork")


def test_a_save_that_fails_leaves_the_last_good_one(tmp_path, monkeypatch):
    buffer = ReplayBuffer(storage=LazyTensorStorage(20))
    buffer.extend(transitions(0, 5))
    buffer.dumps(tmp_path)
    before = buffer[:].clone()
    buffer.extend(transitions(5, 5))

    def fail(*_):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", fail)
        with pytest.raises(OSError, match="disk full"):
            buffer.dumps(tmp_path)
    again = ReplayBuffer(storage=LazyTensorStorage(20))
    again.loads(tmp_path)
    assert_same(again[:], before)
    buffer.save(tmp_path)
    again.load(tmp_path)
    assert_same(again[:], buffer[:])
    assert len([child for child in tmp_path.iterdir() if child.is_dir()]) == 1


def save_for_ever(folder, steps):
    """Save other rows again and again, and send the number of each save."""
    buffer = ReplayBuffer(storage=LazyTensorStorage(20_000))
    for step in itertools.count():
        buffer.empty()
        buffer.extend(transitions(step, 20_000))
        buffer.dumps(folder)
        steps.send(step)


@pytest.mark.slow
def test_a_killed_save_leaves_the_last_good_one(tmp_path):
    for pause in (0.0, 0.05, 0.11):
        receiver, sender = FORK.Pipe(duplex=False)
        saver = FORK.Process(target=save_for_ever, args=(tmp_path, sender))
        saver.start()
        sender.close()
        done = [receiver.recv() for _ in range(3)][-1]
        time.sleep(pause)
        saver.kill()
        saver.join()
        buffer = ReplayBuffer(storage=LazyTensorStorage(20_000))
        buffer.loads(tmp_path)
        assert len(buffer) == 20_000
        first = buffer[0]["item"].item()
        assert first >= done
        assert_same(buffer[:], transitions(first, 20_000))


def test_no_save_is_said_so(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no save in .*Write one with dumps"):
        ReplayBuffer().loads(tmp_path)


def test_an_empty_buffer_can_be_saved(tmp_path):
    for make in (LazyTensorStorage, ListStorage):
        buffer = ReplayBuffer(storage=make(4))
        buffer.dumps(tmp_path / make.__name__)
        again = ReplayBuffer(storage=make(4))
        again.loads(tmp_path / make.__name__)
        assert len(again) == 0
        again.extend(transitions(0, 3))


def test_priorities_and_objects_travel(tmp_path):
    buffers = [TensorDictPrioritizedReplayBuffer(alpha=0.6, beta=0.4, storage=LazyTensorStorage(8)) for _ in range(2)]
    buffers[0].extend(transitions(0, 11))
    buffers[0].dumps(tmp_path)
    buffers[1].loads(tmp_path)
    assert list(buffers[0].sampler._sum_tree) == list(buffers[0].sampler._sum_tree)
    assert_same_state(buffers[0].state_dict(), buffers[1].state_dict())
    plain = ReplayBuffer()
    plain.extend(["a", {"b": 1}])
    plain.dumps(tmp_path)
    again = ReplayBuffer()
    again.loads(tmp_path)
    assert again[:] == ["a", {"b": 1}]


def test_rows_of_another_kind_are_refused(tmp_path):
    buffer = ReplayBuffer(storage=LazyTensorStorage(8))
    buffer.extend(transitions(0, 8))
    buffer.dumps(tmp_path)
    with pytest.raises(ShapeError, match=r"the saved rows do not fit; expected at most 4 rows"):
        ReplayBuffer(storage=LazyTensorStorage(4)).loads(tmp_path)


def test_a_save_by_another_checkpointer_is_said_so(tmp_path):
    plain, hooked = (ReplayBuffer(storage=LazyTensorStorage(20)) for _ in range(2))
    hooked.register_save_hook(lambda rows: rows)
    for saved, other, name in ((plain, hooked, "storage.json"), (hooked, plain, "converted.pt")):
        saved.extend(transitions(0, 5))
        saved.dumps(tmp_path / name)
        with pytest.raises(FileNotFoundError, match=f"another checkpointer.*found .*'{name}'"):
            other.loads(tmp_path / name)
