"""What a policy writes under "next" reaches the environments of a batch as it reaches one alone."""

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule

from torchrl._core.errors import DTypeError, ShapeError
from torchrl._core.records.flat_record import FlatRecord
from torchrl.collectors import Collector, MultiAsyncCollector, MultiSyncCollector
from torchrl.data import Binary, Bounded, Composite, NonTensor, Unbounded
from torchrl.envs import (
    AsyncEnvPool,
    Compose,
    EnvBase,
    InitTracker,
    ParallelEnv,
    SerialEnv,
    StepCounter,
    TensorDictPrimer,
    TransformedEnv,
)
from torchrl.testing.env import assert_same

LENGTHS = (3, 5, 4)
STEPS = 11


class Count(EnvBase):
    """Counts its steps; row ``b`` ends after ``last + b`` of them; may show a word, too."""

    supports_flat_records = True

    def __init__(self, last=3, width=1, batch_size=(), word=None):
        super().__init__(batch_size=batch_size)
        rows = torch.arange(self.batch_size.numel()).reshape(*batch_size, 1)
        self.last, self.n, self.word = last + rows, torch.zeros_like(rows), word
        self.observation_spec = Composite(
            count=Unbounded((*batch_size, width)),
            **({} if word is None else {"word": NonTensor(batch_size, example_data="a")}),
            shape=batch_size,
        )
        self.action_spec = Bounded(0, 1, (*batch_size, 1))
        self.reward_spec = Unbounded((*batch_size, 1))

    def _observed(self, like):
        count = self.n.expand(self.observation_spec["count"].shape).float().clone()
        td = FlatRecord() if isinstance(like, FlatRecord) else TensorDict({}, self.batch_size)
        td.set("count", count)
        return td if self.word is None else td.set("word", self.word)

    def _reset(self, td, **kwargs):
        mask = None if td is None else td.get("_reset", None)
        rows = torch.ones_like(self.n, dtype=torch.bool) if mask is None else mask
        self.n = torch.where(rows, 0, self.n)
        return self._observed(td)

    def _step(self, td):
        self.n = self.n + 1
        over = self.n >= self.last
        record = self._observed(td)
        for key in ("terminated", "done"):
            record.set(key, over.clone())
        return record.set("reward", td["action"] + self.n)

    def _set_seed(self, seed):
        pass


class Plain(Count):
    """The same, always on tensordicts."""

    supports_flat_records = False


def primed(last, make=Count, **kwargs):
    """Return an environment with three entries, of other dtypes and depths, for a policy."""
    specs = Composite(
        memory=Unbounded((2,)),
        mind=Composite(number=Unbounded((), dtype=torch.int64)),
        flag=Binary(1, dtype=torch.bool),
    )
    start = {"memory": 7.0, ("mind", "number"): 2}
    primer = TensorDictPrimer(dict(specs.items(True, True)), default_value=start, expand_specs=True)
    return TransformedEnv(make(last, **kwargs), Compose(InitTracker(), primer))


def remember(count, memory, number, flag, is_init):
    action = (memory[..., :1] + number.unsqueeze(-1)) % 2 / 2
    total = count.sum(-1, keepdim=True)
    return action, memory / 2 + total, number + 1 + is_init.squeeze(-1), ~flag


NUMBER = ("mind", "number")
IN_KEYS = ["count", "memory", NUMBER, "flag", "is_init"]
OUT_KEYS = ["action", ("next", "memory"), ("next", *NUMBER), ("next", "flag")]
policy = TensorDictModule(remember, IN_KEYS, OUT_KEYS)

MAKERS = [lambda last=last: primed(last, Plain if last == 4 else Count) for last in LENGTHS]
BATCHES = {
    "serial": lambda: SerialEnv(3, MAKERS),
    "serial, blocks of their own": lambda: SerialEnv(3, MAKERS, share_individual_td=True),
    "serial, records": lambda: SerialEnv(3, MAKERS, use_buffers=False),
    "serial of serial": lambda: SerialEnv(3, [lambda m=m: SerialEnv(1, m) for m in MAKERS]),
    "serial, transformed twice": lambda: SerialEnv(3, [lambda m=m: TransformedEnv(m(), StepCounter()) for m in MAKERS]),
    "transformed": lambda: TransformedEnv(SerialEnv(3, MAKERS), StepCounter()),
    "transformed, not flat": lambda: TransformedEnv(SerialEnv(3, MAKERS), lambda td: td),
    "fork": lambda: ParallelEnv(3, MAKERS, mp_start_method="fork"),
    "fork, blocks of their own": lambda: ParallelEnv(3, MAKERS, mp_start_method="fork", share_individual_td=True),
    "fork, pickled": lambda: ParallelEnv(3, MAKERS, mp_start_method="fork", use_buffers=False),
    "fork, pickled by entry": lambda: ParallelEnv(
        3, MAKERS, mp_start_method="fork", use_buffers=False, consolidate=False
    ),
    "fork, file": lambda: ParallelEnv(3, MAKERS, mp_start_method="fork", memmap=True),
    "parallel of serial": lambda: ParallelEnv(3, [lambda m=m: SerialEnv(1, m) for m in MAKERS], mp_start_method="fork"),
    "threads": lambda: AsyncEnvPool(MAKERS),
    "threads, records": lambda: AsyncEnvPool(MAKERS, exchange="queue"),
    "processes": lambda: AsyncEnvPool(MAKERS, backend="multiprocessing", mp_start_method="fork", envs_per_worker=2),
    "view": lambda: SerialEnv(4, [*MAKERS, MAKERS[0]])[:3],
    "view of records": lambda: SerialEnv(4, [*MAKERS, MAKERS[0]], use_buffers=False)[:3],
}


@pytest.fixture
def closing():
    envs = []
    yield lambda env: envs.append(env) or env
    for env in envs:
        env.close(raise_if_closed=False)


def by_rollout(env):
    return env.rollout(STEPS, policy, break_when_any_done=False)


def by_tensordicts(env):
    return env.rollout(STEPS, policy, break_when_any_done=False, storing_device="cpu")


def by_collector(env):
    collector = Collector(env, policy, frames_per_batch=STEPS * env.batch_size.numel())
    return collector.rollout().exclude("collector")


def by_step_and_maybe_reset(env):
    td, rows = env.reset(), []
    for _ in range(STEPS):
        row, td = env.step_and_maybe_reset(policy(td))
        rows.append(row)
    return torch.stack(rows, len(env.batch_size))


def by_step_and_reset(env):
    td, rows = env.reset(), []
    for _ in range(STEPS):
        rows.append(env.step(policy(td)).copy())
        td = env.step_mdp(rows[-1])
        if env.any_done(td):
            td = env.reset(td)
    return torch.stack(rows, len(env.batch_size))


DRIVES = [by_rollout, by_tensordicts, by_collector, by_step_and_maybe_reset, by_step_and_reset]


def known(batch):
    """Return the entries that all wrappers have, in one batch dimension before time."""
    entries = [*IN_KEYS, "action", "done", "terminated", "reward"]
    keys = [key for key in entries if key != "reward"]
    next_root = [("next", *((key,) if isinstance(key, str) else key)) for key in entries]
    names = [*keys, *(key for key in next_root if key != ("next", "action"))]
    return batch.select(*names).contiguous().reshape(-1, batch.shape[-1])


def alone(drive=by_rollout):
    return torch.stack([known(drive(make()))[0] for make in MAKERS])


@pytest.mark.parametrize("drive", DRIVES, ids=lambda drive: drive.__name__)
@pytest.mark.parametrize("name", BATCHES)
def test_batches_carry_what_a_policy_writes_as_single_environments_do(name, drive, closing):
    """Every wrapper gives, however it is driven, the numbers of its environments one by one."""
    expected = alone()
    assert expected["memory"].unique().numel() > 4
    assert expected["next", "done"].any(1).all()
    assert_same(known(drive(closing(BATCHES[name]()))), expected)


@pytest.mark.slow
def test_spawned_workers_carry_what_a_policy_writes(closing):
    """Workers that share nothing with this process give the same numbers."""
    env = closing(ParallelEnv(len(MAKERS), MAKERS, mp_start_method="spawn"))
    for drive in (by_rollout, by_step_and_reset):
        assert_same(known(drive(env)), alone())


@pytest.mark.parametrize("name", BATCHES)
def test_those_that_run_on_keep_what_they_remember(name, closing):
    """With break_when_all_done, rows that have ended stand still and the others remember."""
    batch = known(closing(BATCHES[name]()).rollout(9, policy, break_when_all_done=True))
    assert batch.shape[-1] == max(LENGTHS)
    for row, make, length in zip(batch, MAKERS, LENGTHS, strict=True):
        assert_same(row[:length], known(make().rollout(9, policy))[0])


@pytest.mark.parametrize("name", BATCHES)
def test_a_rollout_goes_on_from_what_was_remembered(name, closing):
    """A rollout that begins with the root of another one reads what that one wrote."""
    env = closing(BATCHES[name]())
    first = env.rollout(2, policy)
    root = env.step_mdp(first[..., -1])
    options = {"auto_reset": False, "tensordict": root, "break_when_any_done": False}
    second = env.rollout(STEPS - 2, policy, **options)
    assert_same(torch.cat([known(first), known(second)], 1), alone())


@pytest.mark.parametrize("name", ["serial", "serial, records", "fork", "threads", "view"])
def test_policies_with_and_without_memory_may_take_turns(name, closing):
    """What one policy writes is not found by the next one, which writes less."""
    env = closing(BATCHES[name]())
    forgetful = TensorDictModule(remember, IN_KEYS, ["action", ("next", "memory"), "_", "_"])
    drives = (policy, forgetful, None, policy)
    for each in drives:
        torch.manual_seed(0)
        batch = env.rollout(STEPS, each, break_when_any_done=False)
        if each is not None:
            singles = [make().rollout(STEPS, each, break_when_any_done=False) for make in MAKERS]
            assert_same(known(batch), torch.stack([known(row)[0] for row in singles]))
        else:
            assert (batch["memory"] == 7).all()
            assert (batch["next"][NUMBER] == 2).all()


@pytest.mark.parametrize("kind", ["serial", "records", "fork", "threads"])
def test_rows_within_environments_remember_each_for_itself(kind, closing):
    """In a batch of environments of two rows, a row that ends alone begins with the defaults."""
    make = lambda: primed(3, batch_size=(2,))
    makers = {
        "serial": lambda: SerialEnv(2, make),
        "records": lambda: SerialEnv(2, make, use_buffers=False),
        "fork": lambda: ParallelEnv(2, make, mp_start_method="fork"),
        "threads": lambda: AsyncEnvPool([make, make]),
    }
    for drive in DRIVES:
        expected = drive(make())
        for row in drive(closing(makers[kind]())):
            assert_same(row, expected)


@pytest.mark.parametrize("buffers", [None, False], ids=["buffers", "records"])
@pytest.mark.parametrize("kind", ["serial", "fork"])
@pytest.mark.parametrize(
    ("first", "second"),
    [({"width": 2}, {}), ({"word": "yes"}, {"word": "no"}), ({"word": "yes"}, {})],
    ids=["width", "words", "one word"],
)
def test_environments_that_differ_remember(kind, buffers, first, second, closing):
    """Environments with entries of other shapes, or with words, carry what a policy writes."""
    makers = [lambda: primed(3, Plain, **first), lambda: primed(4, Plain, **second)]
    make = SerialEnv if kind == "serial" else ParallelEnv
    method = {} if kind == "serial" else {"mp_start_method": "fork"}
    env = closing(make(2, makers, use_buffers=buffers, **method))
    batch = env.rollout(STEPS, _by_row, break_when_any_done=False)
    for row, maker in zip(batch.unbind(0), makers, strict=True):
        expected = maker().rollout(STEPS, policy, break_when_any_done=False)
        assert_same(known(row), known(expected))


def _by_row(td):
    """Act on each row alone: rows that differ cannot be read whole."""
    rows = [policy(row.copy()) for row in td.unbind(0)]
    for key in OUT_KEYS:
        td.set(key, torch.stack([row[key] for row in rows]))
    return td


@pytest.mark.parametrize("name", ["threads", "threads, records", "processes"])
@pytest.mark.parametrize("resets", [False, True])
def test_pools_that_are_out_of_step_remember(name, resets, closing):
    """Environments that answer one by one read what the policy wrote for them."""
    pool, rows = closing(BATCHES[name]()), [[] for _ in MAKERS]
    pool.async_reset_send()
    names = [*IN_KEYS, "done", "terminated", "env_index"]
    roots = list(pool.async_reset_recv(min_get=3).select(*names).unbind(0))
    while any(len(row) < STEPS for row in rows):
        roots.sort(key=lambda root: len(rows[int(root["env_index"])]))
        batch = policy(torch.stack(roots[:2]))
        roots = roots[2:]
        if resets:
            pool.async_step_and_maybe_reset_send(batch)
            steps, next_root = pool.async_step_and_maybe_reset_recv(min_get=2)
        else:
            pool.async_step_send(batch)
            steps = pool.async_step_recv(min_get=2)
            next_root = [pool.compiled_specs.step_mdp(step) for step in steps.unbind(0)]
            for i, root in enumerate(next_root):
                if root["done"].any():
                    env = int(root["env_index"])
                    pool.async_reset_send(root.unsqueeze(0), [env])
                    next_root[i] = root.update(pool.async_reset_recv()[0])
            next_root = torch.stack(next_root)
        for step, root in zip(steps.unbind(0), next_root.unbind(0), strict=True):
            rows[int(step["env_index"])].append(step)
            roots.append(root.select(*names))
    found = torch.stack([torch.stack(row[:STEPS]) for row in rows])
    assert_same(known(found), alone())


@pytest.mark.parametrize("make", [MultiSyncCollector, MultiAsyncCollector])
def test_workers_of_collectors_remember(make, closing):
    """The environments of each worker carry what the policy writes."""
    batch = lambda: SerialEnv(3, MAKERS)
    options = {"cat_results": "stack"} if make is MultiSyncCollector else {}
    frames = 3 * STEPS * (2 if make is MultiSyncCollector else 1)
    collector = make([batch] * 2, policy, frames_per_batch=frames, total_frames=2 * frames, **options)
    try:
        data = next(iter(collector)).exclude("collector")
    finally:
        collector.shutdown()
    for worker in data if make is MultiSyncCollector else [data]:
        assert_same(known(worker), alone())


class Hidden(Count):
    """Has a state that it writes at a reset, and leaves to others at a step."""

    def __init__(self, last=3):
        super().__init__(last)
        self.state_spec = Composite(wind=Unbounded((1,)))

    def _reset(self, td, **kwargs):
        return super()._reset(td).set("wind", torch.ones(1))

    def _step(self, td):
        td_ = super()._step(td)
        return td_.set("reward", td_["reward"] + td["wind"])


@pytest.mark.parametrize("buffers", [None, False], ids=["buffers", "records"])
@pytest.mark.parametrize("kind", ["serial", "fork"])
def test_states_that_a_policy_writes_for_the_environment(kind, buffers, closing):
    """A state that a policy updates and the environment does not is that of the next step."""
    blow = TensorDictModule(lambda wind: (wind % 1, wind * 1.5), ["wind"], ["action", ("next", "wind")])
    makers = [lambda last=last: Hidden(last) for last in LENGTHS]
    method = {} if kind == "serial" else {"mp_start_method": "fork"}
    make = SerialEnv if kind == "serial" else ParallelEnv
    env = closing(make(3, makers, use_buffers=buffers, **method))
    for each in (None, blow, None, blow):
        actions = env.rollout(STEPS, each, break_when_any_done=False)
        if each is not None:
            singles = [make().rollout(STEPS, each, break_when_any_done=False) for make in makers]
            assert_same(actions, torch.stack(singles))


@pytest.mark.parametrize("kind", [SerialEnv, lambda *args: ParallelEnv(*args)])
@pytest.mark.parametrize(
    ("wrong", "error"), [(lambda memory: memory[..., :1], ShapeError), (lambda memory: memory.double(), DTypeError)]
)
def test_what_does_not_fit_the_environments_is_refused(kind, wrong, error, closing):
    """An entry of another shape or dtype than the primer's is an error, as in one environment."""
    act = TensorDictModule(lambda memory: (memory[..., :1] * 0, wrong(memory)), ["memory"], ["action", OUT_KEYS[1]])
    for env in (MAKERS[0](), closing(kind(2, MAKERS[0]))):
        with pytest.raises(error, match="memory"):
            env.rollout(2, act)


def test_steps_without_presets_are_sent_as_before(closing, monkeypatch):
    """Workers are told what a policy writes when that changes, and at no other step."""
    env = closing(ParallelEnv(len(MAKERS), MAKERS, mp_start_method="fork"))
    env.reset()
    told, scatter = [], type(env._pool).scatter
    monkeypatch.setattr(
        type(env._pool), "scatter", lambda self, name, *args: told.append(name) or scatter(self, name, *args)
    )
    for each, expected in ((None, 0), (policy, 1), (policy, 0), (None, 1)):
        env.rollout(2, each)
        assert told.count("set_presets") == expected
        told.clear()
