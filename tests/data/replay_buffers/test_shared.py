"""Several processes write to one buffer while another samples from it."""

import multiprocessing
import os
import pickle
import signal
import threading
import time
from functools import partial

import cloudpickle
import pytest
import torch
from tensordict import TensorDict

from torchrl._core.errors import WorkerError
from torchrl.data import (
    LazyMemmapStorage,
    LazyTensorStorage,
    PrioritizedSampler,
    RandomSampler,
    ReplayBuffer,
    SliceSampler,
)
from torchrl.data.replay_buffers.lock import ProcessLock
from torchrl.data.replay_buffers.storages.base import OUT_OF_ORDER, PENDING

FORK = multiprocessing.get_context("fork")


def rows(count, generator):
    """Rows whose entries add up to their checksum, in episodes of five steps."""
    wide = torch.randint(0, 1000, (count, 300), generator=generator)  # a block of its own
    narrow = torch.randint(0, 1000, (count, 20), generator=generator)
    done = (torch.arange(count) % 5 == 4).unsqueeze(-1)
    return TensorDict(
        wide=wide,
        narrow=narrow,
        checksum=wide.sum(1) + narrow.sum(1),
        next=TensorDict(done=done, batch_size=[count]),
        batch_size=[count],
    )


def write(buffer, seed, stop):
    generator = torch.Generator().manual_seed(seed)
    while not stop.is_set():
        buffer.extend(rows(5 * int(torch.randint(1, 30, (), generator=generator)), generator))


def whole(sample):
    return (sample["checksum"] == sample["wide"].sum(1) + sample["narrow"].sum(1)).all()


SAMPLERS = {
    "random": RandomSampler,
    "prioritized": lambda: PrioritizedSampler(200, 0.7, 0.5),
    "slices": lambda: SliceSampler(slice_len=4),
}


@pytest.mark.parametrize("seconds", [1, pytest.param(12, marks=pytest.mark.slow)])
@pytest.mark.parametrize("make_sampler", SAMPLERS.values(), ids=SAMPLERS)
@pytest.mark.parametrize("make_storage", [LazyMemmapStorage, LazyTensorStorage])
def test_no_row_is_torn(make_storage, make_sampler, seconds):
    if seconds == 12 and (make_storage, make_sampler) != (LazyMemmapStorage, RandomSampler):
        pytest.skip("one long run is enough")
    buffer = ReplayBuffer(storage=make_storage(200), sampler=make_sampler(), shared=True)
    stop = FORK.Event()
    writers = [FORK.Process(target=write, args=(buffer, seed, stop)) for seed in (1, 2)]
    for writer in writers:
        writer.start()
    try:
        while buffer.write_count < 1000:
            time.sleep(0.01)
        end, samples = time.monotonic() + seconds, 0
        while time.monotonic() < end:
            assert whole(buffer.sample(64))
            samples += 1
    finally:
        stop.set()
        for writer in writers:
            writer.join(10)
    assert samples > 10
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert len(buffer) == 200
    assert whole(buffer[:])


class Dies(LazyMemmapStorage):
    """Kills its process half way through the rows that it writes."""

    def _put(self, place, rows, part):
        if os.getpid() != self.home:
            half = slice(place.start, (place.start + place.stop) // 2)
            for column, leaf in zip(self._columns, rows, strict=True):
                column[half] = leaf[: half.stop - half.start]
            self._columns[0][half.stop] = 7  # and half of a row
            os.kill(os.getpid(), signal.SIGKILL)
        super()._put(place, rows, part)


@pytest.mark.parametrize("before", [0, 50, 100, 130])
def test_a_process_killed_while_it_writes_leaves_no_lock_and_no_torn_row(before):
    storage = Dies(100)
    storage.home = os.getpid()
    buffer = ReplayBuffer(storage=storage, shared=True, batch_size=20)
    if before:
        buffer.extend(rows(before, None))
    old = min(before, 100)
    writer = FORK.Process(target=write_once, args=(buffer,))
    writer.start()
    writer.join(10)
    assert writer.exitcode == -signal.SIGKILL
    assert len(buffer) == old
    if before:
        assert whole(buffer.sample())
    assert whole(buffer[:]) or not before
    buffer.extend(rows(30, None))
    assert len(buffer) == min(100, old + 30)
    assert whole(buffer[:])


def test_rows_replaced_by_a_process_that_died_are_not_trusted():
    buffer = ReplayBuffer(storage=LazyMemmapStorage(10), shared=True)
    buffer.extend(rows(5, None))
    buffer.storage._counts[PENDING] = OUT_OF_ORDER
    for _ in range(2):
        with pytest.raises(WorkerError, match=r"half written. Load a save into a new buffer"):
            buffer.sample(2)


def hold(lock, held):
    lock.acquire()
    held.set()
    time.sleep(60)


def test_a_lock_is_free_once_its_holder_is_killed():
    looks = []
    lock, held = ProcessLock(look=lambda: looks.append(1)), FORK.Event()
    holder = FORK.Process(target=hold, args=(lock, held))
    holder.start()
    assert held.wait(10)
    waits = threading.Thread(target=lock.acquire, daemon=True)
    waits.start()
    waits.join(0.1)
    assert waits.is_alive()
    holder.kill()
    waits.join(10)
    assert not waits.is_alive()
    assert looks == [1]
    holder.join(10)


def test_threads_take_turns():
    lock, inside, seen = ProcessLock(), [], []

    def enter():
        for _ in range(50):
            with lock, lock:
                inside.append(1)
                time.sleep(1e-5)
                seen.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=enter) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(seen) == {1}


def hand_over(thing, out):
    out.put(pickle.dumps(thing()))


@pytest.mark.parametrize("thing", [ProcessLock, lambda: ReplayBuffer(storage=LazyTensorStorage(3), shared=True)])
def test_what_is_shared_is_gone_with_its_maker(thing):
    out = FORK.Queue()
    maker = FORK.Process(target=hand_over, args=(thing, out))
    maker.start()
    pickled = out.get(timeout=10)
    maker.join(10)
    with pytest.raises(WorkerError, match=r"the process that made the memory has ended"):
        pickle.loads(pickled)


def write_once(buffer):
    buffer.extend(rows(10, None))


@pytest.mark.parametrize(
    "make_storage", [LazyMemmapStorage, LazyTensorStorage, partial(LazyTensorStorage, shared_init=True)]
)
def test_what_another_process_wrote_first_can_be_saved_and_read(make_storage):
    buffers = [ReplayBuffer(storage=make_storage(20), shared=True) for _ in range(2)]
    for buffer in buffers:
        writer = FORK.Process(target=write_once, args=(buffer,))
        writer.start()
        writer.join(10)
    assert len(buffers[0].state_dict()["_storage"]["columns"][0]) == 10
    assert buffers[1].storage.has_entry("wide")
    assert whole(buffers[1][:])


def read(buffer, out):
    out.put((os.getpid(), buffer[:]["narrow"].sum().item(), len(buffer)))


@pytest.mark.parametrize("dumps", [pickle.dumps, cloudpickle.dumps])
@pytest.mark.parametrize("first", ["rows", "share", "shared_init"])
def test_pickled_copies_of_a_shared_buffer_are_the_same_buffer(dumps, first):
    storage = LazyTensorStorage(20, shared_init=first == "shared_init")
    buffer = ReplayBuffer(storage=storage, sampler=SliceSampler(slice_len=5))
    if first == "rows":
        buffer.extend(rows(5, None))
    buffer.share()
    copy = pickle.loads(dumps(buffer))
    for step, writer in enumerate((copy, buffer, copy)):
        writer.extend(rows(5, None))
        assert len(buffer) == len(copy) == min(20, 5 * (step + 1) + 5 * (first == "rows"))
        assert (buffer[:] == copy[:]).all()
    copy[0] = rows(1, None)[0]
    assert (buffer[0] == copy[0]).all()
    assert whole(buffer.sample(10))
    buffer.empty()
    assert len(copy) == 0


def test_a_buffer_that_is_not_shared_is_copied():
    buffer = ReplayBuffer(storage=LazyTensorStorage(20))
    buffer.extend(rows(5, None))
    copy = pickle.loads(pickle.dumps(buffer))
    copy.extend(rows(5, None))
    assert (len(buffer), len(copy)) == (5, 10)


@pytest.mark.slow
@pytest.mark.parametrize("make_storage", [LazyMemmapStorage, LazyTensorStorage])
def test_a_spawned_process_sees_the_same_rows(make_storage):
    buffer = ReplayBuffer(storage=make_storage(20), shared=True)
    buffer.extend(rows(10, None))
    spawn = multiprocessing.get_context("spawn")
    out = spawn.Queue()
    process = spawn.Process(target=read, args=(buffer, out))
    process.start()
    other, total, length = out.get(timeout=60)
    process.join(10)
    assert other != os.getpid()
    assert (total, length) == (buffer[:]["narrow"].sum().item(), 10)
