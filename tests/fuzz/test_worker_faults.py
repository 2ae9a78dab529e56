"""Faults in worker processes: an error that names the worker, within the time limit, and nothing is left.

``TORCHRL_FUZZ=150`` tries as many faults, drawn from all of them, each once before any is repeated.
"""

import contextlib
import ctypes
import faulthandler
import functools
import gc
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from tensordict import NonTensorData, TensorDict

from tests.collectors.failures import are_gone, descendants_of, runs
from torchrl._core.errors import WorkerError
from torchrl.collectors import Evaluator, MultiAsyncCollector, MultiSyncCollector
from torchrl.data import Bounded, Composite, NonTensor, Unbounded
from torchrl.envs import EnvBase, ParallelEnv

LIMIT = 5.0  # seconds after the fault within which the error must come
TIMEOUTS = {"fork": 2.0, "spawn": 10.0}  # of workers that hang; those that spawn import the library first
SHUTDOWN_TIMEOUT = 1.0


class Mute(Exception):
    def __str__(self):
        raise RuntimeError("no text")


class Base(BaseException):
    pass


def throw(error):
    raise error


def hang_with_the_lock():
    while True:  # a signal interrupts the call
        ctypes.PyDLL(None).sleep(1000)


def fill_the_memory():
    bytearray(1 << 60)


def crash():
    faulthandler.disable()  # which would write the whole stack to stderr
    ctypes.string_at(0)


def start_a_thread():
    threading.Thread(target=time.sleep, args=(1000,)).start()


FAULTS = {
    "exception": lambda: throw(ValueError("a fault")),
    "exception without text": lambda: throw(Mute()),
    "exception that cannot be pickled": lambda: throw(ValueError(threading.Lock())),
    "BaseException": lambda: throw(Base("a fault")),
    "KeyboardInterrupt": lambda: throw(KeyboardInterrupt()),
    "EOFError": lambda: throw(EOFError("a fault")),
    "BrokenPipeError": lambda: throw(BrokenPipeError("a fault")),
    "StopIteration": lambda: throw(StopIteration()),
    "RecursionError": lambda: throw(RecursionError("a fault")),
    "SystemExit": lambda: sys.exit(3),
    "exit": lambda: os._exit(3),
    "SIGKILL": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "SIGTERM": lambda: os.kill(os.getpid(), signal.SIGTERM),
    "SIGSEGV": crash,
    "hang": lambda: time.sleep(1000),
    "hang with the lock": hang_with_the_lock,
    "closed descriptors": lambda: os.closerange(3, 1024),
    "no memory": fill_the_memory,
    "thread": start_a_thread,
    "wrong specs": lambda: None,
    "output that cannot be pickled": lambda: None,
}
# What the error says of a fault; others are seen by their consequences.
TOLD = {
    "exception": "ValueError: a fault",
    "exception without text": "Mute: <exception str() failed>",
    "exception that cannot be pickled": "ValueError: <unlocked _thread.lock",
    "BaseException": "Base: a fault",
    "KeyboardInterrupt": "KeyboardInterrupt",
    "EOFError": "EOFError: a fault",
    "BrokenPipeError": "BrokenPipeError: a fault",
    "StopIteration": "StopIteration",
    "RecursionError": "RecursionError: a fault",
    "SystemExit": "SystemExit: 3",
    "exit": "ended with exit code 3",
    "SIGKILL": "was killed by SIGKILL",
    "SIGTERM": "was killed by SIGTERM",
    "SIGSEGV": "was killed by SIGSEGV",
    "hang": "did not answer within",
    "hang with the lock": "did not answer within",
    "no memory": "MemoryError",
}
HANGS = ("hang", "hang with the lock")
NO_FAULT = ("thread",)  # that the caller should see
MOMENTS = ("start", "reset", "step", "close")


class Faulty(EnvBase):
    """Has a fault at one moment.

    Args:
        log: File of the processes of such environments, and of the time of the fault.
        fault: One of ``FAULTS``; none if it is ``None``.
        moment: One of ``MOMENTS``.
    """

    def __init__(self, log, fault=None, moment="step"):
        super().__init__()
        self.log, self.fault, self.moment, self.steps = log, fault, moment, 0
        self.note(f"process {os.getpid()}")
        shape = (2,) if (fault, moment) == ("wrong specs", "start") else (1,)
        self.observation_spec = Composite(count=Unbounded(shape))
        if fault == "output that cannot be pickled":
            self.observation_spec["text"] = NonTensor(shape=())
        self.action_spec = Bounded(-1, 1, (1,))
        self.fail("start")

    def note(self, line):
        with open(self.log, "a") as file:
            file.write(f"{line}\n")

    def fail(self, moment):
        """Have the fault, if this is its moment; return whether this is one of output."""
        if moment != self.moment or self.fault is None:
            return False
        self.note(f"fault {time.monotonic()}")
        FAULTS[self.fault]()
        return True

    def observation(self, is_faulty):
        found = TensorDict(count=torch.zeros(2 if is_faulty and self.fault == "wrong specs" else 1))
        if self.fault == "output that cannot be pickled":
            found["text"] = NonTensorData(threading.Lock() if is_faulty else "text")
        return found

    def _reset(self, td):
        return self.observation(self.fail("reset"))

    def _step(self, td):
        self.steps += 1
        at = 1 if self.fault == "wrong specs" else 3  # only the first step is compared with the specs
        found = self.observation(self.steps == at and self.fail("step"))
        return found.update({"reward": torch.ones(1), "terminated": torch.tensor([False])})

    def _set_seed(self, seed):
        pass

    def close(self, **kwargs):
        self.fail("close")
        super().close(**kwargs)


def use_parallel(bad, good, options):
    with contextlib.closing(ParallelEnv(2, [good, bad], metadata_from_workers=True, **options)) as env:
        env.rollout(6)


def use_collector(kind, bad, good, options):
    collector = kind([bad, good], frames_per_batch=12, total_frames=24, **options)
    try:
        for _ in collector:
            pass
    finally:
        collector.shutdown()


def use_evaluator(bad, good, options):
    evaluator = Evaluator(bad, backend="process", num_trajectories=1, max_steps=6, **options)
    try:
        evaluator.evaluate()
    finally:
        evaluator.shutdown()


def use_nested(bad, good, options):
    inner = functools.partial(ParallelEnv, 2, metadata_from_workers=True, **options)
    makers = [functools.partial(inner, [good, each]) for each in (bad, good)]
    use_collector(MultiSyncCollector, *makers, {**options, "timeout": None, "shutdown_timeout": LIMIT})


# How the workers are used, and what an error must name.
USES = {
    "ParallelEnv": (use_parallel, ["ParallelEnv: worker 1 "]),
    "MultiSyncCollector": (functools.partial(use_collector, MultiSyncCollector), ["MultiSyncCollector: worker 0 "]),
    "MultiAsyncCollector": (functools.partial(use_collector, MultiAsyncCollector), ["MultiAsyncCollector: worker 0 "]),
    "Evaluator": (use_evaluator, ["Evaluator: its process "]),
    "nested": (use_nested, ["MultiSyncCollector: worker 0 ", "ParallelEnv: worker 1 "]),
}
ALL = [
    (use, method, moment, fault)
    for use in USES
    for method in ("fork", "spawn")
    for moment in MOMENTS
    for fault in FAULTS
    if fault != "output that cannot be pickled" or (moment in ("reset", "step") and use != "Evaluator")
    if fault != "wrong specs" or moment != "close"
]
HANDFUL = [
    ("ParallelEnv", "fork", "step", "exception without text"),
    ("ParallelEnv", "fork", "start", "closed descriptors"),
    ("ParallelEnv", "fork", "close", "SystemExit"),
    ("MultiSyncCollector", "fork", "reset", "SIGSEGV"),
    ("MultiSyncCollector", "fork", "step", "EOFError"),
    ("MultiSyncCollector", "fork", "close", "hang with the lock"),
    ("MultiAsyncCollector", "fork", "step", "hang with the lock"),
    ("MultiAsyncCollector", "fork", "start", "BaseException"),
    ("Evaluator", "fork", "step", "no memory"),
    ("Evaluator", "fork", "reset", "exit"),
    ("nested", "fork", "step", "SIGKILL"),
    ("nested", "fork", "reset", "thread"),
]
NUMBER = int(os.environ.get("TORCHRL_FUZZ", "0"))
TRIED = (random.Random(0).sample(ALL, len(ALL)) * (1 + NUMBER // len(ALL)))[:NUMBER] if NUMBER else HANDFUL


def held():
    """Return what this process holds: its processes, threads, open files and shared memory."""
    gc.collect()
    files = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # that of the listing itself
            files.append(os.readlink(f"/proc/self/fd/{name}").split(":")[0])
    shared = [line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "memfd:torchrl" in line]
    return set(descendants_of(os.getpid())), set(threading.enumerate()), sorted(files), shared


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("use", "method", "moment", "fault"), TRIED, ids=map(", ".join, TRIED))
def test_a_fault_is_told_in_time_and_leaves_nothing(use, method, moment, fault, tmp_path):
    log = tmp_path / "log"
    run, names = USES[use]
    options = {
        "mp_start_method": method,
        "timeout": TIMEOUTS[method] if fault in HANGS and moment != "close" else None,
        "shutdown_timeout": SHUTDOWN_TIMEOUT,
    }
    before = held()
    error = None
    try:
        run(functools.partial(Faulty, log, fault, moment), functools.partial(Faulty, log), options)
    except Exception as found:
        error = found
    end = time.monotonic()
    lines = [line.split() for line in log.read_text().splitlines()]
    times = [float(value) for kind, value in lines if kind == "fault"]
    assert times, "there was no fault"
    limit = LIMIT + (options["timeout"] or 0.0)
    assert end - times[0] < limit if moment != "close" else end - times[-1] < 2 * limit
    if fault in NO_FAULT or moment == "close":
        assert error is None or isinstance(error, WorkerError)
    else:
        assert isinstance(error, WorkerError), repr(error)
        assert all(name in str(error) for name in [*names, TOLD.get(fault, "")]), str(error)
    del error
    assert are_gone([int(value) for kind, value in lines if kind == "process"], still=runs)
    deadline = time.monotonic() + LIMIT
    while (after := held()) != before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert after == before
