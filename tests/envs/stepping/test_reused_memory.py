"""Steps keep what they held, whatever their makers do with the memory that they handed over."""

import re

import gymnasium
import numpy as np
import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn

from torchrl._core.errors import SpecError
from torchrl._core.records.flat_record import FlatRecord
from torchrl.collectors import Collector, MultiSyncCollector
from torchrl.data import Composite, Unbounded
from torchrl.envs import (
    ActionDiscretizer,
    AsyncEnvPool,
    Compose,
    EnvBase,
    GymEnv,
    GymWrapper,
    ParallelEnv,
    RewardSum,
    SerialEnv,
    StepCounter,
    TransformedEnv,
    check_env_specs,
)
from torchrl.envs.check import SpecCheckError
from torchrl.envs.stepping import reused_memory
from torchrl.envs.stepping.reused_memory import WATCHED, MemoryWatch
from torchrl.testing.env import assert_same, check_hooks_leave_other_steps_alone

STEPS = 2 * WATCHED + 5


class Walk(EnvBase):
    """Adds its action to a place; the reward is the action; ends every fifth step."""

    copies = True

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        batch = self.batch_size
        self.observation_spec = Composite(
            place=Unbounded((*batch, 2)), agents=Composite(seen=Unbounded((*batch, 3)), shape=batch), shape=batch
        )
        self.action_spec = Unbounded((*batch, 1))
        self.n = 0

    def _set_seed(self, seed):
        pass

    def entries(self):
        shape = (*self.batch_size, 2)
        return {
            "place": torch.full(shape, float(self.n)),
            ("agents", "seen"): torch.full((*self.batch_size, 3), 10.0 + self.n),
        }

    def _reset(self, td=None, **kwargs):
        self.n = 0
        return TensorDict(self.entries(), self.batch_size)

    def _step(self, td):
        self.n += 1
        over = torch.full((*self.batch_size, 1), self.n == 5)
        rest = {"reward": td["action"].clone(), "terminated": over, "done": over.clone()}
        return TensorDict({**self.entries(), **rest}, self.batch_size)


class InOneMemory(Walk):
    """Writes into the same tensors again, one of ``size`` sets in turn."""

    size, names = 1, None

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.memory, self.turn = {}, 0

    def _same(self, td):
        self.turn = (self.turn + 1) % self.size
        for key, value in td.items(True, True):
            if self.names is None or key in self.names:
                own = self.memory.setdefault((self.turn, key), value.clone())
                td.set(key, own.copy_(value))
        return td

    def _reset(self, td=None, **kwargs):
        return self._same(super()._reset(td))

    def _step(self, td):
        return self._same(super()._step(td))


class InTwo(InOneMemory):
    size = 2


class OneReward(InOneMemory):
    names = ("reward",)


class OneFlag(InOneMemory):
    names = ("done", "terminated")


class OneObservation(InOneMemory):
    names = (("agents", "seen"),)


class FromArrays(InOneMemory):
    """The same arrays of numpy, whose tensors are new ones."""

    def _same(self, td):
        for key, value in td.items(True, True):
            own = self.memory.setdefault(key, value.numpy().copy())
            own[...] = value.numpy()
            td.set(key, torch.from_numpy(own))
        return td


class OneRecord(Walk):
    """Returns the same tensordict, with new tensors."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.out = TensorDict({}, self.batch_size)

    def _step(self, td):
        return self.out.update(super()._step(td))


class OneInner(Walk):
    """Returns the same tensordict of a group, with new tensors."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = TensorDict({}, self.batch_size)

    def _step(self, td):
        out = super()._step(td)
        self.inner.update(out.pop("agents"))
        out._tensordict["agents"] = self.inner
        return out


class EditsAction(Walk):
    def _step(self, td):
        out = super()._step(td)
        td["action"].mul_(2)
        return out


class ReplacesAction(Walk):
    def _step(self, td):
        out = super()._step(td)
        td["action"] = 2 * td["action"]
        return out


class EditsLargeActions(Walk):
    def _step(self, td):
        out = super()._step(td)
        array = td["action"].numpy()
        np.clip(array, -1, 1, out=array)
        return out


class EditsRoot(Walk):
    """Moves the place that it is given, and returns it."""

    def _step(self, td):
        return super()._step(td).set("place", td["place"].add_(1))


class Episodes(Walk):
    """Begins at another place in each episode."""

    episode = 0

    def _reset(self, td=None, **kwargs):
        self.episode += 1
        return super()._reset(td).set("place", torch.full((*self.batch_size, 2), -1.0 * self.episode))


class OneReset(Episodes):
    """Resets into the same tensors, one of ``size`` sets in turn; steps into new ones."""

    size = 1

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.memory = {}

    def _reset(self, td=None, **kwargs):
        out = super()._reset(td)
        for key, value in out.items(True, True):
            own = self.memory.setdefault((self.episode % self.size, key), value.clone())
            out.set(key, own.copy_(value))
        return out


class TwoResets(OneReset):
    size = 2


ENVS = [
    InOneMemory,
    InTwo,
    OneReward,
    OneFlag,
    OneObservation,
    FromArrays,
    OneRecord,
    OneInner,
    EditsAction,
    ReplacesAction,
    EditsLargeActions,
    EditsRoot,
]


class Ramp:
    """Acts with 1, 2, 3, ..."""

    def __init__(self):
        self.n = 0

    def __call__(self, td):
        self.n += 1
        return td.set("action", torch.full((*td.shape, 1), float(self.n)))


def transformed(env):
    return TransformedEnv(env, Compose(StepCounter(), RewardSum()))


def rollout(env, policy):
    return env.rollout(STEPS, policy, break_when_any_done=False)


def ended(env, policy):
    return env.rollout(STEPS, policy)


def collected(env, policy):
    with Collector(env, policy, frames_per_batch=STEPS * env.numel(), total_frames=-1) as collector:
        return torch.cat([collector.next() for _ in range(2)], -1).exclude("collector")


def one_by_one(env, policy):
    with Collector(env, policy, frames_per_batch=env.numel(), total_frames=-1) as collector:
        return torch.cat([collector.next() for _ in range(STEPS)], -1).exclude("collector")


def by_hand(env, policy):
    steps, root = [], env.reset()
    for _ in range(STEPS):
        step, root = env.step_and_maybe_reset(policy(root))
        steps.append(step)
    return torch.stack(steps, -1)


WAYS = [rollout, collected, one_by_one, by_hand]
AROUND = {
    "bare": lambda make: make(),
    "rows": lambda make: make(batch_size=[2]),
    "transformed": lambda make: transformed(make()),
    "serial": lambda make: SerialEnv(2, make),
    "serial, records": lambda make: SerialEnv(2, make, use_buffers=False),
    "serial, transformed": lambda make: transformed(SerialEnv(2, lambda: transformed(make()))),
    "pool": lambda make: AsyncEnvPool([make] * 2, exchange="queue"),
}


@pytest.mark.parametrize("around", AROUND.values(), ids=AROUND)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("make", ENVS)
def test_steps_of_an_environment_keep_what_they_held(make, way, around):
    def run(kind):
        env = around(kind)
        EnvBase.numel = lambda self: self.batch_size.numel()
        try:
            return way(env, Ramp())
        finally:
            del EnvBase.numel
            if not env.is_closed:
                env.close()

    assert_same(run(make), run(Walk))


@pytest.mark.parametrize("around", AROUND.values(), ids=AROUND)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("make", [OneReset, TwoResets])
def test_beginnings_of_episodes_keep_what_they_held(make, way, around, monkeypatch):
    monkeypatch.setattr(EnvBase, "numel", lambda self: self.batch_size.numel(), raising=False)
    batches = []
    for kind in (make, Episodes):
        env = around(kind)
        batches.append(way(env, Ramp()))
        env.close(raise_if_closed=False)
    assert_same(*batches)


# --- checks of environments ----------------------------------------------------------------------

FAULTS = {
    InOneMemory: "lies in memory that is written again",
    InTwo: "lies in memory that is written again",
    OneReward: r"('next', 'reward') lies in memory that is written again",
    OneFlag: r"('next', 'done') lies in memory that is written again",
    OneObservation: r"('next', 'agents', 'seen') lies in memory that is written again",
    FromArrays: r"('next', 'place') lies in memory that is written again",
    OneRecord: "writes in _step() into a tensordict that it returned",
    OneInner: "writes in _step() into a tensordict that it returned",
    EditsAction: "entry 'action' is edited by _step()",
    ReplacesAction: "entry 'action' is edited by _step()",
    EditsRoot: "entry 'place' is edited by _step()",
}
UNDER = {
    "bare": lambda make: make(),
    "rows": lambda make: make(batch_size=[2]),
    "transformed": lambda make: transformed(make()),
    "transformed twice": lambda make: TransformedEnv(transformed(make()), StepCounter()),
}


@pytest.mark.parametrize("under", UNDER.values(), ids=UNDER)
@pytest.mark.parametrize("make", FAULTS)
def test_checks_find_hooks_that_write_into_other_steps(make, under):
    words = f"{make.__name__}: .*{re.escape(FAULTS[make])}"
    with pytest.raises(SpecCheckError, match=words):
        check_env_specs(under(make))
    with pytest.raises(AssertionError, match=words):
        check_hooks_leave_other_steps_alone(lambda: under(make))


def test_the_check_of_an_environment_leaves_its_hooks_as_they_were():
    env = transformed(InOneMemory())
    hooks = [dict(e.__dict__) for e in (env, env.base_env)]
    with pytest.raises(SpecCheckError):
        check_env_specs(env)
    for e, before in zip((env, env.base_env), hooks, strict=True):
        assert "_step" not in e.__dict__
        assert "_reset" not in before
    found = rollout(env, Ramp())
    assert_same(found, rollout(transformed(Walk()), Ramp()))


def test_a_constant_that_is_never_written_may_be_returned_at_each_step():
    class Constant(Walk):
        one = torch.ones(1)

        def _step(self, td):
            return super()._step(td).set("reward", self.one)

    check_env_specs(Constant())


# --- policies ------------------------------------------------------------------------------------


def moves(td, n):
    return torch.full((*td.shape, 1), float(n))


class OneTensor:
    """Writes its action and its memory into the same tensors."""

    def __init__(self, size=1, start=0):
        self.n, self.size, self.own = start, size, {}

    def entry(self, name, value):
        own = self.own.setdefault((self.n % self.size, name), torch.empty_like(value))
        return own.copy_(value)

    def __call__(self, td):
        self.n += 1
        td.set("action", self.entry("action", moves(td, self.n)))
        return td.set("log_prob", self.entry("log_prob", moves(td, -self.n).squeeze(-1)))


class NewTensors(OneTensor):
    def entry(self, name, value):
        return value


class OneOutput(nn.Module):
    def __init__(self, fresh):
        super().__init__()
        self.n, self.fresh = 0, fresh
        self.register_buffer("out", torch.zeros(1))

    def forward(self, place):
        self.n += 1
        out = self.out.fill_(self.n).expand(*place.shape[:-1], 1)
        return (out.clone(), -out) if self.fresh else (out, -out)


def module(fresh):
    return TensorDictModule(OneOutput(fresh), ["place"], ["action", "hidden"])


class Flat(Walk):
    """Vouches for flat records; writes into the same tensors if told to."""

    supports_flat_records = True
    same = False

    def _record(self, td, entries):
        return FlatRecord(entries) if isinstance(td, FlatRecord) else TensorDict(entries, self.batch_size)

    def _reset(self, td=None, **kwargs):
        self.n = 0
        return self._record(td, self._own(self.entries()))

    def _own(self, entries):
        if not self.same:
            return entries
        memory = self.__dict__.setdefault("_memory", {})
        return {k: memory.setdefault(k, v.clone()).copy_(v) for k, v in entries.items()}

    def _step(self, td):
        self.n += 1
        over = torch.full((*self.batch_size, 1), self.n == 5)
        rest = {"reward": td["action"].clone(), "terminated": over, "done": over.clone()}
        if self.same:
            td["action"].mul_(2)
        return self._record(td, self._own({**self.entries(), **rest}))


class FlatInOneMemory(Flat):
    supports_flat_records = True
    same = True


@pytest.mark.parametrize("around", AROUND.values(), ids=AROUND)
@pytest.mark.parametrize("way", [rollout, one_by_one])
@pytest.mark.parametrize(
    "pair",
    [(OneTensor, NewTensors), (lambda: OneTensor(2), NewTensors), (lambda: module(False), lambda: module(True))],
    ids=["one", "two in turn", "module"],
)
@pytest.mark.parametrize("make", [Walk, Flat])
def test_steps_keep_what_a_policy_wrote(make, pair, way, around):
    def run(policy):
        env = around(make)
        EnvBase.numel = lambda self: self.batch_size.numel()
        try:
            return way(env, policy())
        finally:
            del EnvBase.numel
            if not env.is_closed:
                env.close()

    assert_same(run(pair[0]), run(pair[1]))


@pytest.mark.parametrize("way", [rollout, ended])
def test_flat_steps_keep_what_they_held(way):
    new = module(True)
    assert_same(way(FlatInOneMemory(), module(False)), way(Flat(), new))


@pytest.mark.parametrize("make", [Walk, Flat])
def test_a_policy_may_edit_what_it_reads(make):
    """What the step before led to stays."""

    def policy(td):
        td["place"].mul_(0)
        return td.set("action", moves(td, 1))

    batch = make().rollout(4, policy)
    assert batch["next", "place"][:, 0].tolist() == [1, 2, 3, 4]


def test_an_edit_that_begins_later_is_refused_by_the_name_of_the_policy():
    class Late(Ramp):
        def __call__(self, td):
            if self.n == 2:
                td["place"].mul_(0)
            return super().__call__(td)

    with pytest.raises(SpecError, match=r"^Late: entry 'place' is edited in place"):
        Walk().rollout(5, Late())


def test_long_rings_of_memory_are_refused_by_the_name_of_their_maker():
    class InTwenty(InOneMemory):
        size = 20

    with pytest.raises(SpecError, match=r"^InTwenty: entry .* was overwritten"):
        InTwenty().rollout(30, Ramp(), break_when_any_done=False)
    with pytest.raises(SpecError, match=r"^OneTensor: entry 'action' was overwritten"):
        Walk().rollout(30, OneTensor(20), break_when_any_done=False)


def test_views_of_a_table_are_no_reused_memory():
    class Table(Walk):
        def __init__(self):
            super().__init__()
            self.table = torch.arange(12.0).reshape(6, 2)

        def entries(self):
            return {**super().entries(), "place": self.table[self.n]}

    batch = Table().rollout(STEPS, Ramp(), break_when_any_done=False)
    assert batch["next", "place"][:5, 0].tolist() == [2, 4, 6, 8, 10]


def test_a_gradient_flows_through_the_steps_that_are_copied():
    weight = torch.ones(1, requires_grad=True)
    batch = Walk().rollout(3, lambda td: td.set("action", weight * 2))
    batch["next", "reward"].sum().backward()
    assert weight.grad.tolist() == [6.0]


# --- simulators ----------------------------------------------------------------------------------


class Doubles(gymnasium.Env):
    """Doubles the action in its own memory; is rewarded with what it was."""

    observation_space = gymnasium.spaces.Box(-9, 9, (1,))

    def __init__(self, space):
        self.action_space = space

    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}

    def step(self, action):
        parts = action.values() if isinstance(action, dict) else [action]
        reward = float(sum(part.sum() for part in parts))
        for part in parts:
            part *= 2
        return np.zeros(1, np.float32), reward, False, False, {}


BOX = gymnasium.spaces.Box(-1, 1, (2,))
SPACES = {
    "box": BOX,
    "double": gymnasium.spaces.Box(-1, 1, (2,), np.float64),
    "bits": gymnasium.spaces.MultiBinary(3),
    "numbers": gymnasium.spaces.MultiDiscrete([3, 4]),
    "dict": gymnasium.spaces.Dict(a=BOX, b=gymnasium.spaces.MultiBinary(2)),
}


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
@pytest.mark.parametrize("kind", ["bare", "tensors", "serial", "parallel", "pool", "workers"])
def test_a_simulator_may_edit_its_action(space, kind):
    def make():
        return GymWrapper(Doubles(space), convert_actions_to_numpy=kind != "tensors")

    if kind == "tensors" and not isinstance(space, gymnasium.spaces.Box):
        pytest.skip("tensors are handed over as they are encoded")
    if kind == "workers":
        with MultiSyncCollector([make], frames_per_batch=8, total_frames=8) as collector:
            batch = next(iter(collector))
    else:
        envs = {
            "serial": lambda: SerialEnv(2, make),
            "parallel": lambda: ParallelEnv(2, make),
            "pool": lambda: AsyncEnvPool([make] * 2, exchange="queue"),
        }
        env = envs.get(kind, make)()
        batch = env.rollout(6)
        env.close()
    keys = ["a", "b"] if isinstance(space, gymnasium.spaces.Dict) else ["action"]
    if isinstance(space, gymnasium.spaces.MultiDiscrete):
        parts = batch["action"].split([3, 4], -1)
        taken = sum(part.long().argmax(-1) for part in parts).float()
    else:
        taken = sum(batch[key].float().sum(-1) for key in keys)
    torch.testing.assert_close(taken, batch["next", "reward"].squeeze(-1))


def test_an_environment_and_a_policy_are_watched_once(monkeypatch):
    made = []
    monkeypatch.setattr(reused_memory, "MemoryWatch", lambda *args: made.append(args) or MemoryWatch(*args))
    env, policy = Walk(), OneTensor()
    for steps in (2, 2, 9):
        batch = env.rollout(steps, policy)
        assert batch["action"].unique().numel() == len(batch)
    assert len(made) == 1
    env.rollout(2, Ramp())
    env.rollout(2)
    env.rollout(2)
    assert len(made) == 3


def test_what_was_refused_is_refused_again():
    class InTwenty(InOneMemory):
        size = 20

    env, policy = InTwenty(), Ramp()
    for _ in range(2):
        with pytest.raises(SpecError, match=r"^InTwenty: "):
            env.rollout(30, policy, break_when_any_done=False)


@pytest.mark.parametrize("storing_device", [None, "cpu"], ids=["flat", "nested"])
def test_what_a_transform_writes_into_the_root_stays(storing_device):
    make = lambda: TransformedEnv(GymEnv("Pendulum-v1"), ActionDiscretizer(5, out_action_key="n"))
    env = make()
    env.set_seed(0)
    first = env.rollout(3, storing_device=storing_device)
    root = env.step_mdp(first[..., -1])
    choose = lambda td: td.set("n", torch.zeros(1, dtype=torch.int64))
    going_on = env.rollout(3, choose, auto_reset=False, tensordict=root)
    assert (going_on["action"] == going_on["action"][0]).all()
    assert going_on["action"][0] < -1.5
