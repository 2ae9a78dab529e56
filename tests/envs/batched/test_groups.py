"""Groups of agents keep their batch size in environments, collectors and buffers."""

import pytest
import torch
from tensordict import TensorDict, is_tensor_collection
from tensordict.nn import TensorDictModule

from torchrl._core.records.flat_record import FlatRecord
from torchrl.collectors import Collector, MultiAsyncCollector, MultiSyncCollector
from torchrl.data import (
    Composite,
    LazyMemmapStorage,
    LazyTensorStorage,
    ListStorage,
    ReplayBuffer,
    SliceSampler,
    Unbounded,
)
from torchrl.data.trajectories import split_trajectories
from torchrl.envs import AsyncEnvPool, EnvBase, ParallelEnv, RewardSum, SerialEnv, StepCounter, TransformedEnv


class Flock(EnvBase):
    """Three agents in one group that hold two eyes each; ends after ``last`` steps."""

    def __init__(self, last=3, batch_size=()):
        super().__init__(batch_size=batch_size)
        self.last, self.n, size = last, 0, (*batch_size, 3)
        eyes = Composite(seen=Unbounded((*size, 2, 4)), shape=(*size, 2))
        birds = Composite(place=Unbounded((*size, 2)), eyes=eyes, shape=size)
        self.observation_spec = Composite(birds=birds, shape=batch_size)
        move = Composite(move=Unbounded((*size, 2)), shape=size)
        self.action_spec = Composite(birds=move, shape=batch_size)
        reward = Composite(reward=Unbounded((*size, 1)), shape=size)
        self.reward_spec = Composite(birds=reward, shape=batch_size)

    def _observed(self, place):
        eyes = TensorDict(seen=place.unsqueeze(-1).repeat(1, 1, 4), batch_size=[3, 2])
        return TensorDict(place=place, eyes=eyes, batch_size=[3])

    def _reset(self, td):
        self.n = 0
        return TensorDict(birds=self._observed(torch.zeros(3, 2)))

    def _step(self, td):
        assert td["birds"].batch_size == (3,)
        self.n += 1
        move = td["birds"]["move"]
        birds = self._observed(move.clone()).set("reward", move.sum(-1, keepdim=True))
        return TensorDict(birds=birds, terminated=torch.tensor([self.n >= self.last]))

    def _set_seed(self, seed):
        pass


class FlatFlock(Flock):
    """The same on flat records."""

    supports_flat_records = True

    def _observed(self, place):
        seen = place.unsqueeze(-1).repeat(1, 1, 4)
        return FlatRecord({("birds", "place"): place, ("birds", "eyes", "seen"): seen})

    def _reset(self, td):
        self.n = 0
        root = self._observed(torch.zeros(3, 2))
        return root if isinstance(td, FlatRecord) else self._nested(root)

    def _nested(self, entries):
        td = TensorDict(dict(entries))
        td["birds"].batch_size = [3]
        td["birds", "eyes"].batch_size = [3, 2]
        return td

    def _step(self, td):
        self.n += 1
        move = td.get(("birds", "move"))
        record = self._observed(move.clone())
        record["birds", "reward"] = move.sum(-1, keepdim=True)
        for key in ("done", "terminated"):
            record[key] = torch.tensor([self.n >= self.last])
        return record if isinstance(td, FlatRecord) else self._nested(record)


def assert_groups(td, batch=None):
    """Assert that the agents, and their eyes, have the batch size of the record and their own."""
    batch = tuple(td.batch_size) if batch is None else batch
    assert tuple(td.batch_size) == batch
    sides = [td] if td.get("next", None) is None else [td, td["next"]]
    for side in sides:
        assert tuple(side.batch_size) == batch
        assert tuple(side["birds"].batch_size) == (*batch, 3)
        if side["birds"].get("eyes", None) is not None:
            assert tuple(side["birds"]["eyes"].batch_size) == (*batch, 3, 2)


MAKERS = {
    "one": Flock,
    "flat": FlatFlock,
    "serial": lambda: SerialEnv(2, Flock),
    "serial, flat inside": lambda: SerialEnv(2, FlatFlock),
    "blocks of their own": lambda: SerialEnv(2, Flock, share_individual_td=True),
    "records": lambda: SerialEnv(2, Flock, use_buffers=False),
    "serial of serial": lambda: SerialEnv(2, lambda: SerialEnv(2, Flock)),
    "transformed outside": lambda: TransformedEnv(SerialEnv(2, Flock), StepCounter()),
    "transformed inside": lambda: SerialEnv(2, lambda: TransformedEnv(Flock(), _returns())),
    "any function": lambda: TransformedEnv(SerialEnv(2, Flock), lambda td: td),
    "parallel": lambda: ParallelEnv(2, Flock, mp_start_method="fork"),
    "pickled": lambda: ParallelEnv(2, Flock, mp_start_method="fork", use_buffers=False),
    "threads": lambda: AsyncEnvPool([Flock, Flock]),
    "threads, records": lambda: AsyncEnvPool([Flock, Flock], exchange="queue"),
    "view": lambda: SerialEnv(3, Flock)[:2],
}


def _returns():
    return RewardSum(in_keys=[("birds", "reward")], out_keys=[("birds", "episode_reward")])


@pytest.fixture
def closing():
    envs = []
    yield lambda env: envs.append(env) or env
    for env in envs:
        env.close(raise_if_closed=False)


def act(place):
    return place + 1.0, place[..., 0]


policy = TensorDictModule(act, [("birds", "place")], [("birds", "move"), ("birds", "value")])


@pytest.mark.parametrize("each", [None, policy], ids=["random", "policy"])
@pytest.mark.parametrize("name", MAKERS)
def test_groups_keep_their_batch_size_however_an_environment_is_driven(name, each, closing):
    """Resets, steps, partial resets, rollouts and collectors give groups ``[*B, (T,) agents]``."""
    env = closing(MAKERS[name]())
    size = tuple(env.batch_size)
    choose = env.rand_action if each is None else each
    assert_groups(env.fake_tensordict(), size)
    td = env.reset()
    assert_groups(td, size)
    for _ in range(4):
        step, td = env.step_and_maybe_reset(choose(td))
        assert_groups(step, size)
        assert_groups(td, size)
    assert_groups(env.step_mdp(env.step(choose(td))), size)
    if size:
        mask = torch.zeros(*size, 1, dtype=torch.bool)
        mask[0] = True
        assert_groups(env.reset(td.set("_reset", mask)), size)
    for options in ({}, {"break_when_any_done": False}, {"storing_device": "cpu"}):
        batch = env.rollout(5, each, **options)
        assert_groups(batch, (*size, batch.shape[-1]))
    count = max(torch.Size(size).numel(), 1)
    collector = Collector(env, each, frames_per_batch=5 * count, total_frames=10 * count)
    for batch in collector:
        assert_groups(batch, (*size, 5))
        assert_groups(split_trajectories(batch))


@pytest.mark.parametrize("make", [MultiSyncCollector, MultiAsyncCollector])
def test_groups_keep_their_batch_size_in_workers_of_collectors(make):
    """Batches of worker processes have groups ``[*B, T, agents]``."""
    collector = make([lambda: SerialEnv(2, Flock)] * 2, None, frames_per_batch=16, total_frames=32)
    try:
        for batch in collector:
            assert_groups(batch)
    finally:
        collector.shutdown()


@pytest.mark.parametrize("name", ["serial", "flat", "parallel"])
@pytest.mark.parametrize("storage", [ListStorage, LazyTensorStorage, LazyMemmapStorage])
def test_groups_keep_their_batch_size_in_buffers(name, storage, closing):
    """Rows and slices of a buffer have groups ``[N, agents]``."""
    data = closing(MAKERS[name]()).rollout(8, break_when_any_done=False).reshape(-1)
    buffer = ReplayBuffer(storage=storage(20), batch_size=4)
    buffer.extend(data)
    assert_groups(buffer.sample(), (4,))
    assert_groups(buffer[:])
    slices = ReplayBuffer(
        storage=storage(20), sampler=SliceSampler(slice_len=2, end_key=("next", "done")), batch_size=4
    )
    slices.extend(data)
    assert_groups(slices.sample(), (4,))


def test_agents_of_an_environment_with_rows_come_behind_them(closing):
    """In a batch ``[N, *B]`` of environments with rows the groups are ``[N, *B, T, agents]``."""

    class Rows(Flock):
        def __init__(self):
            super().__init__(batch_size=(2,))

        def _observed(self, place):
            seen = place.unsqueeze(-1).repeat(1, 1, 1, 4)
            eyes = TensorDict(seen=seen, batch_size=[2, 3, 2])
            return TensorDict(place=place, eyes=eyes, batch_size=[2, 3])

        def _reset(self, td):
            self.n = 0
            return TensorDict(birds=self._observed(torch.zeros(2, 3, 2)), batch_size=[2])

        def _step(self, td):
            self.n += 1
            move = td["birds"]["move"]
            birds = self._observed(move.clone()).set("reward", move.sum(-1, keepdim=True))
            over = torch.full((2, 1), self.n >= self.last)
            return TensorDict(birds=birds, terminated=over, batch_size=[2])

    for make in (SerialEnv, lambda *args: ParallelEnv(*args, mp_start_method="fork")):
        env = closing(make(2, Rows))
        assert_groups(env.reset(), (2, 2))
        assert_groups(env.rollout(5, break_when_any_done=False), (2, 2, 5))


def test_what_a_policy_adds_need_not_be_there_for_each_agent():
    """An entry among those of the agents that all share does not end a rollout."""
    out_keys = [("birds", "move"), ("birds", "shared")]
    add = TensorDictModule(lambda place: (place, place.sum((-1, -2))), policy.in_keys, out_keys)
    batch = SerialEnv(2, Flock).rollout(3, add)
    assert batch["birds", "shared"].shape == (2, 3)
    assert tuple(batch["next"]["birds"].batch_size) == (2, 3, 3)


def _vmas():
    pytest.importorskip("vmas")
    from torchrl.envs import VmasEnv

    return VmasEnv("balance", num_envs=2, n_agents=3, max_steps=3)


def _pettingzoo():
    pytest.importorskip("pettingzoo")
    from torchrl.envs import PettingZooEnv

    return PettingZooEnv("rps_v2", parallel=True, max_cycles=3)


@pytest.mark.parametrize("kind", ["serial", "records", "parallel", "threads"])
@pytest.mark.parametrize("make", [_vmas, _pettingzoo])
def test_simulators_of_agents_run_in_batches(make, kind, closing):
    """PettingZoo and VMAS have in batches the groups that they have alone."""
    alone = make().rollout(5, break_when_any_done=False)
    makers = {
        "serial": lambda: SerialEnv(2, make),
        "records": lambda: SerialEnv(2, make, use_buffers=False),
        "parallel": lambda: ParallelEnv(2, make, mp_start_method="fork"),
        "threads": lambda: AsyncEnvPool([make, make]),
    }
    batch = closing(makers[kind]()).rollout(5, break_when_any_done=False)
    assert batch["next", "done"].any()
    for key in alone.keys(True):
        if is_tensor_collection(alone[key]):
            assert tuple(batch[key].batch_size) == (2, *alone[key].batch_size), key
        else:
            assert batch[key].shape == (2, *alone[key].shape), key
