"""Recurrent policies in collectors: what is added to environments, and what batches hold."""

import pytest
import torch
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn

from torchrl.collectors import Collector, MultiAsyncCollector, MultiSyncCollector
from torchrl.collectors.env_factories import with_needs_of
from torchrl.data import LazyTensorStorage, ReplayBuffer, SliceSampler
from torchrl.envs import BurnInTransform, Compose, InitTracker, ParallelEnv, SerialEnv, StepCounter, TransformedEnv
from torchrl.envs.policy_needs import transforms_for
from torchrl.modules import GRUModule, LSTMModule, set_recurrent_mode
from torchrl.modules.utils import get_primers_from_module
from torchrl.testing.mocks import CountingEnv

KINDS = {"gru": GRUModule, "lstm": LSTMModule}


def head(reads="hidden"):
    return TensorDictModule(nn.Sequential(nn.Linear(4, 1), nn.Tanh()), [reads], ["action"])


def policy_of(kind, flag="is_init"):
    torch.manual_seed(0)
    states = KINDS[kind].state_names
    rnn = KINDS[kind](
        2, 4, in_keys=["observation", *states, flag], out_keys=["hidden", *(("next", key) for key in states)]
    )
    return TensorDictSequential(rnn, head())


def two_recurrent(kind="gru"):
    """Return a policy of two recurrent modules with states of their own."""
    torch.manual_seed(0)
    low = GRUModule(2, 4, in_keys=["observation", "a"], out_keys=["low", ("next", "a")])
    high = LSTMModule(4, 4, in_keys=["low", "b", "c"], out_keys=["hidden", ("next", "b"), ("next", "c")])
    return TensorDictSequential(low, high, head())


def by_hand(policy, observations, begins):
    """Return the last hidden features [T, 4] of cells in a row, from zero at each beginning."""
    outputs = observations
    for module in policy.module[:-1]:
        state, outs = None, []
        for x, new in zip(outputs, begins, strict=True):
            y, state = module.rnn(x.view(1, 1, -1), None if new else state)
            outs.append(y.view(-1))
        outputs = torch.stack(outs)
    return outputs.detach()


def begins_of(row):
    """Return where a new episode begins in a row of a batch [T], whose first step begins one."""
    ended = row["next", "done"].squeeze(-1)
    return torch.cat([torch.ones_like(ended[:1]), ended[:-1]])


def assert_remembers(policy, batch):
    for row in batch.reshape(-1, batch.shape[-1]):
        right = by_hand(policy, row["observation"], begins_of(row))
        torch.testing.assert_close(row["hidden"], right)


POLICIES = {
    "gru": lambda: policy_of("gru"),
    "lstm": lambda: policy_of("lstm"),
    "a flag of another name": lambda: policy_of("gru", "begins"),
    "two": two_recurrent,
}
ENVS = {
    "one": lambda: CountingEnv(3),
    "serial": lambda: SerialEnv(2, lambda: CountingEnv(3)),
    "parallel": lambda: ParallelEnv(2, lambda: CountingEnv(3)),
    "transformed": lambda: TransformedEnv(CountingEnv(3), StepCounter()),
}


def collect(kind, make, policy, **options):
    """Return the batches of a collector of 16 frames each, with one worker."""
    recipe = make if kind is Collector else [make]
    collector = kind(recipe, policy, frames_per_batch=16, total_frames=48, **options)
    try:
        return [batch.clone() for batch in collector]
    finally:
        collector.shutdown()


@pytest.mark.parametrize("kind", [Collector, MultiSyncCollector, MultiAsyncCollector])
@pytest.mark.parametrize("name", POLICIES)
def test_a_collector_registers_what_a_recurrent_policy_needs(name, kind):
    """Flags and states of every recurrent module are added, and carried as by hand."""
    policy = POLICIES[name]()
    options = {"auto_register_policy_transforms": True}
    batches = collect(kind, ENVS["one"], policy, **options)
    assert_remembers(policy, torch.cat(batches, -1))
    assert len({frozenset(batch.keys(True, True)) for batch in batches}) == 1


@pytest.mark.parametrize("name", POLICIES)
def test_what_an_environment_has_already_is_not_added_again(name):
    """Neither trackers nor primers stand twice; a second call adds nothing."""
    policy = POLICIES[name]()
    env = with_needs_of(policy, ENVS["one"]())
    assert with_needs_of(policy, env) is env
    half = TransformedEnv(ENVS["one"](), policy.module[0].make_tensordict_primer())
    added = transforms_for(policy, half)
    assert len(added) == len(policy.module) - 1  # a tracker, and primers of all but the first
    assert set(with_needs_of(policy, half).observation_keys) == set(env.observation_keys)


@pytest.mark.parametrize("make", ENVS.values(), ids=ENVS)
@pytest.mark.parametrize("name", POLICIES)
def test_without_a_primer_all_batches_have_the_same_entries(name, make):
    """Batches go into one buffer, and the state is carried as by hand."""
    policy = POLICIES[name]()
    flag = policy.module[0].init_key
    tracked = lambda: TransformedEnv(make(), InitTracker(init_key=flag))
    batches = collect(Collector, tracked, policy)
    buffer = ReplayBuffer(storage=LazyTensorStorage(100, ndim=batches[0].ndim))
    for batch in batches:
        buffer.extend(batch)
    assert len(buffer) == 48
    assert_remembers(policy, torch.cat(batches, -1))


@pytest.mark.parametrize("name", POLICIES)
def test_rollouts_without_a_primer_go_on(name):
    """A rollout that goes on from another one has the entries of the first."""
    policy = POLICIES[name]()
    env = TransformedEnv(CountingEnv(99), InitTracker(init_key=policy.module[0].init_key))
    with torch.no_grad():
        first = env.rollout(3, policy)
        second = env.rollout(3, policy, auto_reset=False, tensordict=env.step_mdp(first[-1]))
    assert_remembers(policy, torch.cat([first, second]))


@pytest.mark.parametrize("make", ENVS.values(), ids=ENVS)
@pytest.mark.parametrize("name", POLICIES)
def test_without_a_tracker_a_policy_is_refused_by_the_name_of_the_flag(name, make):
    """The error names the flag and the transform that writes it; primers make no difference."""
    policy = POLICIES[name]()
    flag = policy.module[0].init_key
    for primed in (False, True):
        env = make()
        if primed:
            env = TransformedEnv(env, get_primers_from_module(policy))
        with pytest.raises(KeyError, match=rf"{flag}.*InitTracker"):
            env.rollout(5, policy)
        with pytest.raises(KeyError, match=rf"{flag}.*InitTracker"):
            list(Collector(env, policy, frames_per_batch=8, total_frames=8))
        env.close(raise_if_closed=False)


@pytest.mark.parametrize("whole", [True, False], ids=["policy", "modules"])
@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("mode", [None, True, False])
@pytest.mark.parametrize("horizon", [2, 99])
def test_burn_in_gives_the_state_of_a_run_over_the_sequence(name, whole, mode, horizon):
    """The state after the burn-in is that of the steps, whatever the mode is."""
    policy = POLICIES[name]()
    env = with_needs_of(policy, CountingEnv(horizon))
    with torch.no_grad():
        td = env.rollout(8, policy, break_when_any_done=False)
    states = [key for module in policy.module[:-1] for key in module.in_keys[1:-1]]
    right = {key: td[key][3].clone() for key in states}
    for key in states:
        td[key][1:] = 9.0  # stale
    burn_in = BurnInTransform(policy if whole else list(policy.module[:-1]), burn_in=3)
    if mode is None:
        late = burn_in(td.unsqueeze(0))
    else:
        with set_recurrent_mode(mode):
            late = burn_in(td.unsqueeze(0))
    for key in states:
        torch.testing.assert_close(late[key][0, 0], right[key])
        assert (late[key][0, 1:] == 9.0).all()


def test_burn_in_refuses_modules_without_a_state_among_their_outputs():
    """A module that writes no next state would leave the stored one as it is."""
    rnn = policy_of("gru").module[0].select_out_keys("hidden")
    with pytest.raises(ValueError, match="no state to refresh"):
        BurnInTransform(rnn, burn_in=2)


@pytest.mark.parametrize("init_key", [None, "is_init"])
@pytest.mark.parametrize("kind", KINDS)
def test_slices_go_on_from_the_stored_state_unless_their_starts_are_marked(kind, init_key):
    """With ``init_key=None`` a slice repeats what acting wrote; else it begins with no memory."""
    policy = policy_of(kind)
    needs = [InitTracker(), get_primers_from_module(policy)]
    env = TransformedEnv(CountingEnv(7), Compose(*needs))
    sampler = SliceSampler(slice_len=3, end_key=("next", "done"), init_key=init_key)
    buffer = ReplayBuffer(storage=LazyTensorStorage(42), sampler=sampler, batch_size=36)
    buffer.extend(next(iter(Collector(env, policy, frames_per_batch=42, total_frames=42))))
    rows = buffer.sample().reshape(12, 3)
    with torch.no_grad(), set_recurrent_mode(True):
        hidden = policy.module[0](rows.exclude("hidden"))["hidden"]
    if init_key is None:
        torch.testing.assert_close(hidden, rows["hidden"])
    else:
        begins = [True, False, False]
        expected = [by_hand(policy, row["observation"], begins) for row in rows]
        torch.testing.assert_close(hidden, torch.stack(expected).detach())
