"""Workers that raise, die, hang or are interrupted: an error that says so, and nothing left."""

import gc
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from tensordict import TensorDict

from torchrl._core.errors import ResetError, WorkerError
from torchrl.data import Bounded, Composite, Unbounded
from torchrl.envs import EnvBase, ParallelEnv

METHODS = ["fork", pytest.param("spawn", marks=pytest.mark.slow)]


def children():
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == os.getpid():
                found.append(int(entry.name))
    return set(found)


def shared():
    """Memory of ours that is mapped; names in /dev/shm might be those of other programs."""
    maps = Path("/proc/self/maps").read_text()
    return maps.count("memfd:torchrl"), maps.count("/dev/shm")


@pytest.fixture
def nothing_stays():
    gc.collect()
    before = children(), shared(), len(os.listdir("/proc/self/fd"))
    yield
    gc.collect()
    assert (children(), shared(), len(os.listdir("/proc/self/fd"))) == before


class Faulty(EnvBase):
    """Counts its steps, and does something terrible in one of them."""

    def __init__(self, fault="", at=3, pause=0.0):
        super().__init__()
        self.fault, self.at, self.pause, self.steps = fault, at, pause, 0
        self.observation_spec = Composite(count=Unbounded((1,)))
        self.action_spec = Bounded(-1, 1, (1,))
        if fault == "build":
            raise ValueError("cannot be built")

    def _reset(self, td):
        if self.fault == "reset":
            raise ValueError("cannot be reset")
        time.sleep(self.pause)
        return TensorDict(count=torch.zeros(1))

    def _step(self, td):
        self.steps += 1
        time.sleep(self.pause)
        if self.steps == self.at and self.fault:
            self.fail()
        return TensorDict(count=td["count"] + 1, reward=torch.ones(1), terminated=torch.tensor([self.steps % 5 == 0]))

    def fail(self):
        if self.fault == "raise":
            raise ValueError("a bad step")
        if self.fault == "exit":
            os._exit(3)
        if self.fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fault == "hang":
            time.sleep(1000)
        if self.fault == "unpicklable":
            raise type("Local", (Exception,), {})("of its own class")

    def _set_seed(self, seed):
        pass

    def divide(self, by):
        return 1 / by


def parallel(fault, method="fork", **kwargs):
    """Four environments in two workers, of which the third has a fault."""
    good, bad = (lambda: Faulty()), (lambda: Faulty(fault))
    kwargs = {"metadata_from_workers": True, "timeout": 1.0, **kwargs}
    return ParallelEnv(2, [good, good, bad, good], mp_start_method=method, **kwargs)


FAULTS = {
    "build": "worker 1 failed at environment 2: ValueError: cannot be built",
    "reset": "worker 1 failed at environment 2: ValueError: cannot be reset",
    "raise": "worker 1 failed at environment 2: ValueError: a bad step",
    "unpicklable": "worker 1 failed at environment 2: Local: of its own class",
    "exit": "worker 1 ended with exit code 3, at environment 2",
    "kill": "worker 1 was killed by SIGKILL, at environment 2",
    "hang": r"worker 1 did not answer within 1.0 s and was killed, at environment 2",
}


# Spawned workers differ in how they start: one fault while they build, one later of each kind.
FAULTS_OF_METHODS = [
    *((fault, "fork", buffers) for fault in FAULTS for buffers in (None, False)),
    *(("build", "spawn", None), ("raise", "spawn", False), ("kill", "spawn", None)),
]


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "method", "buffers"), FAULTS_OF_METHODS)
def test_the_error_says_who_and_why(fault, method, buffers, nothing_stays):
    env = parallel(fault, method, use_buffers=buffers)
    message = FAULTS[fault].split(", at" if buffers is False else "no such")[0]
    with pytest.raises(WorkerError, match=message) as caught:
        env.rollout(10)
    text = str(caught.value)
    if fault not in ("exit", "kill"):
        assert "Its own traceback" in text
        assert Path(__file__).name in text
    if fault != "build":
        with pytest.raises(ResetError, match="not started"):
            env.step(env.rand_action())
    env.close()
    env.close()


@pytest.mark.parametrize("fault", ["raise", "exit", "kill"])
def test_the_error_comes_at_once(fault, nothing_stays):
    env = parallel(fault, timeout=None)
    env.reset()
    start = time.monotonic()
    with pytest.raises(WorkerError):
        env.rollout(10)
    assert time.monotonic() - start < 5
    env.close()


@pytest.mark.slow
def test_a_death_is_noticed_while_another_worker_is_busy(nothing_stays):
    env = ParallelEnv(2, [lambda: Faulty(pause=60.0), Faulty]).start()
    busy, dying = env._pool.workers
    threading.Timer(0.2, os.kill, (dying.pid, signal.SIGKILL)).start()
    start = time.monotonic()
    with pytest.raises(WorkerError, match="worker 1 was killed by SIGKILL"):
        env.reset()
    assert time.monotonic() - start < 5
    assert not busy.is_alive()
    env.close()


def kill_at_random(num_workers, method, seed):
    rng = random.Random(seed)
    env = ParallelEnv(num_workers, [lambda: Faulty(pause=0.001)] * 8, mp_start_method=method).start()
    victim = rng.choice(env._pool.workers)
    timer = threading.Timer(rng.uniform(0, 0.2), os.kill, (victim.pid, signal.SIGKILL))
    timer.start()
    with pytest.raises(WorkerError, match=f"worker {victim.number} was killed by SIGKILL"):  # noqa: PT012
        while True:
            env.reset()
            env.rollout(10, break_when_any_done=False)
    elapsed = time.monotonic()
    timer.join()
    env.close()
    return elapsed


@pytest.mark.slow
@pytest.mark.parametrize(("num_workers", "method"), [(2, "fork"), (8, "fork"), (2, "spawn")])
def test_kills_at_random_moments(num_workers, method, nothing_stays):
    for seed in range(5 if method == "fork" else 1):
        kill_at_random(num_workers, method, seed)


def test_it_starts_again_after_a_failure(nothing_stays):
    env = parallel("kill")
    with pytest.raises(WorkerError):
        env.rollout(10)
    assert env.rollout(2).batch_size == (4, 2)
    env.close()


def test_a_failing_method_is_an_error_too(nothing_stays):
    env = parallel("").start()
    assert env.divide(2) == [0.5] * 4
    with pytest.raises(WorkerError, match="environment 0: ZeroDivisionError"):
        env.divide(0)
    env.close()


@pytest.mark.parametrize("method", METHODS)
def test_closing_leaves_nothing(method, nothing_stays):
    env = ParallelEnv(3, Faulty, mp_start_method=method)
    env.rollout(3)
    assert len(children()) >= (3 if method == "fork" else 1)
    env.close()
    env.close()
    with pytest.raises(RuntimeError, match="closed already"):
        env.close(raise_if_closed=True)


def test_forgetting_it_closes_it(nothing_stays):
    env = ParallelEnv(2, Faulty)
    env.rollout(2)
    del env
    gc.collect()


def test_a_worker_that_does_not_close_is_killed(nothing_stays):
    class Stubborn(Faulty):
        def close(self, **kwargs):
            time.sleep(100)

    env = ParallelEnv(1, Stubborn, shutdown_timeout=0.2, metadata_from_workers=True)
    env.reset()
    start = time.monotonic()
    env.close()
    assert time.monotonic() - start < 5


SCRIPT = """
import os, signal, sys, time
from torchrl.envs import GymEnv, ParallelEnv
signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs behind a shell may ignore it
env = ParallelEnv(2, lambda: GymEnv("CartPole-v1"), mp_start_method={method!r})
env.reset()
print(*[w.pid for w in env._pool.workers], flush=True)
{then}
"""


def run_script(method, then, poke=None):
    """Run a script, without a guard, in a file of its own; return what it said."""
    path = Path(os.environ.get("TMPDIR", "/tmp")) / f"script_{os.getpid()}.py"
    path.write_text(SCRIPT.format(method=method, then=then))
    process = subprocess.Popen(
        [sys.executable, "-W", "error", path],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        line = process.stdout.readline()
        assert line, process.stderr.read()
        if poke is not None:
            poke(process)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        path.unlink()
    return process.returncode, [int(pid) for pid in line.split()], out, err


def gone(pids, within=5.0):
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        if not any(Path(f"/proc/{pid}").exists() for pid in pids):
            return True
        time.sleep(0.02)
    return False


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_script_without_guard_and_without_close(method):
    code, pids, _, err = run_script(method, "env.rollout(5)")
    assert (code, err) == (0, "")
    assert gone(pids)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_ctrl_c(method):
    def interrupt(process):
        time.sleep(0.3)
        os.killpg(process.pid, signal.SIGINT)

    then = "while True: env.rollout(50, break_when_any_done=False)"
    code, pids, _, err = run_script(method, then, interrupt)
    assert code != 0
    assert err.rstrip().endswith("KeyboardInterrupt")
    assert err.count("Traceback") == 1
    assert gone(pids)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_workers_do_not_outlive_a_killed_parent(method):
    code, pids, *_ = run_script(method, "time.sleep(100)", lambda process: process.kill())
    assert code == -signal.SIGKILL
    assert gone(pids)
