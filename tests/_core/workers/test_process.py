"""Channels and worker processes."""

import os
import signal
import sys
import threading
import time
from types import SimpleNamespace

import pytest
import torch

from torchrl._core.workers import process as processes
from torchrl._core.workers.process import Channel, Launcher, WorkerProcess, start_method, stop_all


@pytest.fixture
def ends():
    here, there = Channel.pair()
    yield here, there
    here.close()
    there.close()


def test_large_payloads_arrive_whole(ends):
    here, there = ends
    payload = torch.arange(3_000_000)
    thread = threading.Thread(target=here.send, args=(b"C", {"x": payload}))
    thread.start()
    code, received = there.receive()
    thread.join()
    assert code == b"C"
    assert torch.equal(received["x"], payload)


def test_functions_travel_by_value(ends):
    here, there = ends
    two = 2
    here.send(b"C", lambda x: x + two)
    assert there.receive()[1](3) == 5


def test_the_end_of_the_other_side(ends):
    here, there = ends
    here.send(b"s")
    here.close()
    assert there.receive() == (b"s", None)
    with pytest.raises(EOFError):
        there.receive()
    with pytest.raises(BrokenPipeError):
        there.send(b"s")


def test_what_is_pending_stays(ends):
    here, there = ends
    assert there.pending() == b""
    here.send(b"C", 1)
    assert there.pending() == there.pending() == b"C"
    assert there.receive() == (b"C", 1)


@pytest.mark.slow
def test_ticks_while_nothing_comes(ends):
    class Enough(Exception):
        pass

    def tick():
        raise Enough

    with pytest.raises(Enough):
        ends[0].receive(tick)
    with pytest.raises(Enough):
        ends[0].send(b"C", bytes(10_000_000), tick)


def test_files_travel(ends, tmp_path):
    here, there = ends
    with open(tmp_path / "x", "w+b") as file:
        here.send_file(file.fileno())
        copy = there.receive_file()
        os.write(copy, b"hello")
        os.close(copy)
        file.seek(0)
        assert file.read() == b"hello"


def test_a_payload_that_cannot_be_pickled_sends_nothing(ends):
    here, there = ends
    with pytest.raises(TypeError, match="pickle"):
        here.send(b"C", threading.Lock())
    assert there.pending() == b""


def draw(channel):
    numbers = [torch.rand(()).item(), torch.get_num_threads()]
    channel.send(b"C", numbers)
    channel.receive()


def test_workers_draw_numbers_of_their_own():
    drawn = []
    for _ in range(2):
        torch.manual_seed(5)
        launcher = Launcher("fork")
        workers = [WorkerProcess(draw, (), launcher, number=n) for n in range(2)]
        drawn.append([worker.channel.receive()[1] for worker in workers])
        stop_all(workers)
    assert drawn[0] == drawn[1]
    assert drawn[0][0][0] != drawn[0][1][0]
    assert drawn[0][0][1] == 1


def sleep(channel):
    channel.receive()
    time.sleep(100)


def test_a_stuck_worker_tells_where_it_is_and_is_killed():
    worker = WorkerProcess(sleep, (), Launcher("fork"), number=0)
    worker.channel.send(b"s")
    assert worker.is_alive()
    time.sleep(0.1)
    assert "in sleep" in worker.traceback()
    start = time.monotonic()
    worker.stop(0.1)
    assert time.monotonic() - start < 2
    assert worker.ending() == "was killed by SIGKILL"


def test_how_a_worker_ended():
    for end, words in (
        (lambda: os._exit(3), "ended with exit code 3"),
        (lambda: os.kill(os.getpid(), signal.SIGTERM), "was killed by SIGTERM"),
        (lambda: None, "ended with exit code 0"),
    ):
        worker = WorkerProcess(lambda channel, end=end: end(), (), Launcher("fork"), number=0)
        with pytest.raises(EOFError):
            worker.channel.receive()
        assert worker.ending() == words
        worker.stop()


def test_start_method(monkeypatch):
    assert start_method("fork") == "fork"
    set_by_user = ["spawn"]
    monkeypatch.setattr(processes.multiprocessing, "get_start_method", lambda allow_none: set_by_user[0])
    assert start_method() == "spawn"
    assert start_method("fork") == "fork"
    set_by_user[0] = None
    monkeypatch.setattr(processes.sys, "platform", "darwin")
    assert start_method() == "spawn"
    monkeypatch.setattr(processes.sys, "platform", "linux")
    assert start_method() == "fork"
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: True))
    assert start_method() == "spawn"
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: False))
    assert start_method() == "fork"
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    assert start_method() == "spawn"
    with pytest.raises(ValueError, match="expected 'fork' or 'spawn', found 'threads'"):
        start_method("threads")
