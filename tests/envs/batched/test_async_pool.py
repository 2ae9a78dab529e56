"""Environments that answer as they finish: the same numbers, in another order, and no ends left."""

import os
import pickle
import threading
import time

import pytest
import torch
from tensordict import LazyStackedTensorDict, TensorDict

from torchrl._core.errors import WorkerError
from torchrl.data import Bounded, Composite, Unbounded
from torchrl.envs import (
    AsyncEnvPool,
    EnvBase,
    GymEnv,
    ProcessorAsyncEnvPool,
    SerialEnv,
    ThreadingAsyncEnvPool,
    check_env_specs,
)
from torchrl.envs.base import next_seed
from torchrl.testing.env import assert_same
from torchrl.testing.mocks import MultiAgentEnv, TextEnv

GATES: dict[str, threading.Event] = {}


class Gate(EnvBase):
    """Counts its steps; the ``at``-th waits for its gate, or goes wrong."""

    def __init__(self, gate="", fault="", at=2, width=1):
        super().__init__()
        self.gate, self.fault, self.at, self.width = gate, fault, at, width
        self.observation_spec = Composite(count=Unbounded((width,)))
        self.action_spec = Bounded(-1, 1, (width,))

    def _reset(self, td):
        return TensorDict(count=torch.zeros(self.width))

    def _step(self, td):
        count = td["count"] + 1
        if count[0] == self.at:
            if self.gate:
                GATES[self.gate].wait(10)
            if self.fault == "raise":
                raise ValueError("a bad step")
            if self.fault == "exit":
                os._exit(3)
            if self.fault == "hang":
                time.sleep(3)
        return TensorDict(count=count, reward=td["action"].sum(-1, True), terminated=count[:1] == 3)

    def _set_seed(self, seed):
        pass


def cartpole():
    return GymEnv("CartPole-v1", max_episode_steps=9)


WAYS = [
    {"backend": "threading"},
    {"backend": "threading", "exchange": "queue", "stack": "maybe_dense"},
    {"backend": "multiprocessing", "envs_per_worker": 2},
    {"backend": "multiprocessing", "exchange": "queue", "stack": "lazy"},
]


@pytest.fixture
def closing():
    pools = []
    yield lambda pool: pools.append(pool) or pool
    for pool in pools:
        pool.close()


@pytest.mark.parametrize("way", WAYS, ids=lambda way: "-".join(map(str, way.values())))
def test_each_environment_lives_its_own_life(way, closing):
    """Records go out and come back in any order; each environment does as it does alone."""
    pool = closing(AsyncEnvPool([cartpole] * 3, **way))
    pool.set_seed(3)
    lives = [[], [], []]
    pool.async_reset_send()
    roots = pool.async_reset_recv(min_get=3)
    assert sorted(roots["env_index"].tolist()) == [0, 1, 2]
    for _ in range(30):
        pool.async_step_and_maybe_reset_send(pool.rand_action(roots))
        steps, roots = pool.async_step_and_maybe_reset_recv(min_get=1)
        for step in steps.unbind(0):
            lives[int(step["env_index"])].append(step.exclude("env_index").to_tensordict())
        assert steps["env_index"].tolist() == roots["env_index"].tolist()
    rest = sum(kind is not None for kind in pool._dispatcher.pending)
    assert rest + len(roots) == 3
    seed = 3
    for life in lives:
        env = cartpole()
        env.set_seed(seed)
        life = torch.stack(life)
        assert_same(life, env.rollout(99, actions=life["action"], break_when_any_done=False))
        seed = next_seed(seed)
    assert torch.cat([torch.stack(life)["next", "done"] for life in lives]).any()


@pytest.mark.parametrize("way", WAYS, ids=lambda way: "-".join(map(str, way.values())))
def test_as_a_whole_it_is_an_environment(way, closing):
    pool = closing(AsyncEnvPool([cartpole] * 3, **way))
    check_env_specs(pool)
    batches = []
    for env in (pool, SerialEnv(3, cartpole)):
        torch.manual_seed(1)
        env.set_seed(1)
        batches.append(env.rollout(20, break_when_any_done=False))
    assert_same(*batches)
    assert pool.env_name == ["CartPole-v1"] * 3
    twin = closing(pickle.loads(pickle.dumps(pool)))
    assert twin.is_closed
    assert twin.rollout(2).batch_size == (3, 2)


def test_slow_environments_hold_nobody_up(closing):
    GATES["slow"] = threading.Event()
    pool = closing(AsyncEnvPool([lambda: Gate("slow", at=1), Gate, Gate]))
    pool.async_reset_send()
    root = pool.async_reset_recv(min_get=3)
    pool.async_step_send(pool.rand_action(root))
    quick = pool.async_step_recv(min_get=2)
    assert sorted(quick["env_index"].tolist()) == [1, 2]
    assert torch.equal(quick["next", "reward"], quick["action"])
    with pytest.raises(TimeoutError, match=r"async_step_recv: 0 of 1 environments .* 0.01 s; they"):
        pool.async_step_recv(timeout=0.01)
    again = pool.step_mdp(quick)
    pool.async_step_send(pool.rand_action(again))
    assert len(pool.async_step_recv(max_get=1)) == 1
    GATES["slow"].set()
    rest = pool.async_step_recv(min_get=2)
    assert 0 in rest["env_index"].tolist()


def test_environments_are_named_in_three_ways(closing):
    pool = closing(AsyncEnvPool([Gate] * 4, envs_per_worker=2))
    pool.async_reset_send(env_index=2)
    assert pool.async_reset_recv()["env_index"].tolist() == [2]
    pool.async_reset_send(env_index=[0, 3])
    assert sorted(pool.async_reset_recv(min_get=2)["env_index"].tolist()) == [0, 3]
    pool.async_reset_send(env_index=torch.tensor([1]))
    root = pool.async_reset_recv()[0]
    pool.async_step_send(root.exclude("env_index").set("action", torch.ones(1)), env_index=1)
    assert pool.async_step_recv()["next", "reward"].tolist() == [[1.0]]
    with pytest.raises(IndexError, match=r"'env_index' names .* from 0 to 3, found \[4\]"):
        pool.async_reset_send(env_index=4)
    with pytest.raises(ValueError, match=r"a record for each of environments \[0, 1\], found 1"):
        pool.async_step_send(root.unsqueeze(0), env_index=[0, 1])


def test_what_was_sent_must_be_received(closing):
    pool = closing(AsyncEnvPool([Gate] * 2))
    with pytest.raises(ValueError, match=r"cannot wait .* 0 were sent for, found 1\. Call async_"):
        pool.async_reset_recv()
    pool.async_reset_send()
    with pytest.raises(ValueError, match="min_get from 1 to 2, as 2 were sent for, found 3"):
        pool.async_reset_recv(min_get=3)
    with pytest.raises(RuntimeError, match=r"Environments \[1\] have not been received"):
        pool.async_reset_send(env_index=1)
    with pytest.raises(RuntimeError, match=r"environments \[0, 1\] have not been received"):
        pool.reset()
    pool.async_reset_recv(min_get=2)
    assert pool.reset()["count"].shape == (2, 1)


def test_the_last_observation_stays(closing):
    pool = closing(AsyncEnvPool([lambda: Gate(at=9)]))
    pool.async_reset_send()
    root, counts = pool.async_reset_recv(), []
    for _ in range(5):
        pool.async_step_and_maybe_reset_send(pool.rand_action(root))
        step, root = pool.async_step_and_maybe_reset_recv()
        counts.append((step["next", "count"].item(), root["count"].item(), root["done"].item()))
    assert counts == [(1, 1, 0), (2, 2, 0), (3, 0, 0), (1, 1, 0), (2, 2, 0)]


def test_environments_may_differ(closing):
    makers = [Gate, lambda: Gate(width=2)]
    pool = closing(AsyncEnvPool(makers, stack="lazy"))
    pool.async_reset_send()
    root = pool.async_reset_recv(min_get=2)
    assert isinstance(root, LazyStackedTensorDict)
    pool.async_step_send(pool.rand_action(root))
    widths = {row["action"].shape for row in pool.async_step_recv(min_get=2).unbind(0)}
    assert widths == {(1,), (2,)}
    assert pool.rollout(2).batch_size == (2, 2)


def test_groups_and_words_travel(closing):
    agents = closing(AsyncEnvPool([MultiAgentEnv] * 2, backend="multiprocessing"))
    agents.async_reset_send()
    agents.async_step_send(agents.rand_action(agents.async_reset_recv(min_get=2)))
    assert agents.async_step_recv(min_get=2)["next", "agents", "observation"].eq(1).all()
    words = closing(AsyncEnvPool([TextEnv] * 2))
    words.async_reset_send()
    words.async_step_send(words.rand_action(words.async_reset_recv(min_get=2)))
    assert list(words.async_step_recv(min_get=2)["next", "text"]) == ["1", "1"]


FAULTS = [
    ("threading", "raise", "worker 1 failed at environment 1: ValueError: a bad step"),
    ("threading", "hang", "worker 1 did not answer within 0.5 s and was abandoned, at env"),
    ("multiprocessing", "raise", "worker 1 failed at environment 1: ValueError: a bad step"),
    ("multiprocessing", "exit", "worker 1 ended with exit code 3, at environment 1"),
    pytest.param("multiprocessing", "hang", "worker 1 did not answer within 0.5 s and was killed",
                 marks=pytest.mark.slow),
]  # fmt: skip


@pytest.mark.parametrize(("backend", "fault", "words"), FAULTS)
@pytest.mark.parametrize("how", ["async", "all"])
def test_the_error_says_who_and_why(backend, fault, words, how, closing):
    makers = [Gate, lambda: Gate(fault=fault)]
    pool = closing(AsyncEnvPool(makers, backend=backend, timeout=0.5, shutdown_timeout=0.1).start())
    with pytest.raises(WorkerError, match=words) as caught:  # noqa: PT012
        if how == "all":
            pool.rollout(5)
        pool.async_reset_send()
        root = pool.async_reset_recv(min_get=2)
        for _ in range(2):
            pool.async_step_send(pool.rand_action(root))
            root = pool.step_mdp(pool.async_step_recv(min_get=2))
    assert fault == "exit" or "Its own traceback" in str(caught.value)
    assert pool._pool.is_closed
    if backend == "multiprocessing":
        assert not any(worker.is_alive() for worker in pool._pool.workers)
    assert pool.async_reset_send() is None  # it begins anew
    assert len(pool.async_reset_recv(min_get=2)) == 2


def test_names_for_the_kinds(closing):
    assert closing(ThreadingAsyncEnvPool([Gate])).backend == "threading"
    assert closing(ProcessorAsyncEnvPool([Gate])).backend == "multiprocessing"
    assert closing(AsyncEnvPool(Gate)).rollout(2).batch_size == (1, 2)
    for wrong in ({"backend": "ray"}, {"stack": "wide"}, {"exchange": "fax"}):
        with pytest.raises(ValueError, match="to be one of"):
            AsyncEnvPool([Gate], **wrong)
    with pytest.raises(ValueError, match="envs_per_worker must be at least 1"):
        AsyncEnvPool([Gate], envs_per_worker=0)
    with pytest.raises(ValueError, match="for each of 2 workers, found 1"):
        AsyncEnvPool([Gate] * 2, worker_affinity=[0])


class Where(Gate):
    """Says on which cores it runs."""

    def cores(self):
        return sorted(os.sched_getaffinity(0))


@pytest.mark.parametrize("backend", ["threading", "multiprocessing"])
def test_workers_stay_on_their_cores(backend, closing):
    core = min(os.sched_getaffinity(0))
    before = os.sched_getaffinity(0)
    pool = closing(AsyncEnvPool([Where] * 2, backend=backend, worker_affinity=[core, [core]]))
    assert pool.start().cores() == [[core], [core]]
    assert os.sched_getaffinity(0) == before
