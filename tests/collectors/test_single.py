"""The collector in the calling process."""

import copy
import pickle

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import InteractionType, TensorDictModule, set_interaction_type
from tensordict.nn.probabilistic import interaction_type
from torch import nn

from torchrl._core.errors import DTypeError, MissingKeyError, ShapeError
from torchrl.collectors import Collector, SyncDataCollector
from torchrl.collectors.collectors import SyncDataCollector as OldPath
from torchrl.envs import EnvCreator, GymEnv, RewardSum, StepCounter, TransformedEnv
from torchrl.testing.env import assert_same
from torchrl.testing.mocks import CountingEnv, FlatCountingEnv, LyingEnv, MultiAgentEnv


def linear(out=1):
    return TensorDictModule(nn.Linear(2, out), in_keys=["observation"], out_keys=["action"])


def ids(batch):
    return batch["collector", "traj_ids"]


# --- frames --------------------------------------------------------------------------------------


def test_frames():
    collector = Collector(CountingEnv(batch_size=[3]), frames_per_batch=12, total_frames=24)
    assert [batch.shape for batch in collector] == [(3, 4), (3, 4)]
    assert collector.frames_per_batch == 12


def test_frames_that_rows_do_not_divide_are_rounded_up():
    with pytest.warns(UserWarning, match=r"frames_per_batch=10 .* batches have 12 frames"):
        collector = Collector(CountingEnv(batch_size=[3]), frames_per_batch=10, total_frames=24)
    assert collector.frames_per_batch == 12
    assert collector.requested_frames_per_batch == 10
    assert [batch.numel() for batch in collector] == [12, 12]


def test_the_last_batch_is_whole_and_the_overshoot_is_told_once():
    with pytest.warns(UserWarning, match=r"total_frames=100 .* 30 frames.*overshoots it by 20") as w:
        collector = Collector(CountingEnv(), frames_per_batch=30, total_frames=100)
    assert len(w) == 1
    assert [batch.numel() for batch in collector] == [30] * 4
    assert len(collector) == 4


def test_a_collector_may_never_end():
    collector = Collector(CountingEnv(), frames_per_batch=5)
    batches = iter(collector)
    assert sum(next(batches).numel() for _ in range(10)) == 50
    assert collector.next().numel() == 5
    with pytest.raises(TypeError, match="never ends"):
        len(collector)


def test_a_batch_has_frames():
    with pytest.raises(ValueError, match="frames_per_batch must be at least 1, found 0"):
        Collector(CountingEnv(), frames_per_batch=0)


# --- trajectories --------------------------------------------------------------------------------


def test_numbers_of_trajectories():
    collector = Collector(CountingEnv(2, batch_size=[2]), frames_per_batch=10, total_frames=20)
    first, second = collector
    assert ids(first).tolist() == [[0, 0, 2, 2, 4], [1, 1, 1, 3, 3]]
    assert ids(second)[0, 0] == 4
    assert ids(second)[1, 0] == 3
    whole = torch.cat([ids(first), ids(second)], 1)
    assert whole[0].unique_consecutive().numel() == whole[0].unique().numel() == 5
    assert not set(whole[0].tolist()) & set(whole[1].tolist())


@pytest.mark.parametrize("make", [CountingEnv, FlatCountingEnv])
@pytest.mark.parametrize("how", ["rollout", "continued", "seen through another", "step"])
def test_an_evaluation_on_the_same_environment_ends_our_episodes(make, how):
    env = TransformedEnv(make(5, batch_size=[2]), RewardSum())
    collector = Collector(env, frames_per_batch=6)
    first = collector.next()
    last = first[..., -1]
    if how == "rollout":
        env.rollout(4, break_when_any_done=False)
    elif how == "continued":
        root = env.step_mdp(last.exclude("collector"))
        env.rollout(2, auto_reset=False, tensordict=root)
    elif how == "step":
        env.base_env.rand_step(env.step_mdp(last))
    else:
        TransformedEnv(env.base_env, StepCounter()).rollout(1)
    second = collector.next()
    assert (second["observation"][:, 0, 0] == 0).all()
    assert (second["episode_reward"][:, 0] == 0).all()
    assert not set(ids(first).flatten().tolist()) & set(ids(second).flatten().tolist())
    third = collector.next()
    assert torch.equal(third["observation"][:, 0], second["next", "observation"][:, -1])
    assert torch.equal(ids(third)[:, 0], ids(second)[:, -1])


def test_a_step_that_failed_ends_our_episodes():
    fails = []

    def policy(td):
        if fails:
            raise RuntimeError("no")
        return td.set("action", torch.zeros(1))

    collector = Collector(FlatCountingEnv(9), policy, frames_per_batch=2)
    first = collector.next()
    fails.append(1)
    with pytest.raises(RuntimeError, match="no"):
        collector.next()
    fails.clear()
    second = collector.next()
    assert second["observation"][0, 0] == 0
    assert ids(second)[0] > ids(first)[-1]


def test_a_reset_at_each_iteration():
    collector = Collector(CountingEnv(9), frames_per_batch=4, total_frames=8, reset_at_each_iter=True)
    first, second = collector
    assert first["observation"][:, 0].tolist() == second["observation"][:, 0].tolist() == [0, 1, 2, 3]
    assert ids(first).unique().tolist() == [0]
    assert ids(second).unique().tolist() == [1]


def test_episodes_can_be_cut():
    collector = Collector(CountingEnv(99), frames_per_batch=10, total_frames=10, max_frames_per_traj=4)
    (batch,) = collector
    assert batch["step_count"].flatten().tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]
    assert batch["next", "truncated"].flatten().nonzero().flatten().tolist() == [3, 7]
    assert not batch["next", "terminated"].any()
    counted = TransformedEnv(CountingEnv(), StepCounter())
    with pytest.raises(ValueError, match="counts steps under 'step_count', which the environment"):
        Collector(counted, frames_per_batch=10, max_frames_per_traj=4)
    untouched = Collector(CountingEnv(), frames_per_batch=10, max_frames_per_traj=-1)
    assert "step_count" not in untouched.next()


def test_trajectories_can_be_split():
    collector = Collector(CountingEnv(2, batch_size=[2]), frames_per_batch=10, split_trajs=True)
    batch = collector.next()
    mask = batch["collector", "mask"]
    assert mask.sum(-1).tolist() == [2, 2, 1, 3, 2]
    assert mask.sum() == 10
    for piece, kept in zip(batch, mask, strict=True):
        assert ids(piece)[kept].unique().numel() == 1
        assert not piece["next", "reward"][~kept].any()
    assert (batch["observation"][:, 0, 0] == 0).all()


def test_the_last_step_of_a_batch_can_be_marked_as_truncated():
    env = CountingEnv(99, cut=98)
    collector = Collector(env, frames_per_batch=4, total_frames=8, set_truncated=True)
    first, second = collector
    for batch in (first, second):
        assert batch["next", "truncated"].flatten().tolist() == [False, False, False, True]
        assert batch["next", "done"].flatten().tolist() == [False, False, False, True]
    assert second["observation"][0, 0] == 4  # the episode goes on all the same
    assert not second["done"].any()


def test_agents():
    collector = Collector(MultiAgentEnv(num_agents=2), frames_per_batch=7)
    batch = collector.next()
    assert ids(batch).tolist() == [0, 0, 0, 1, 1, 1, 2]


# --- acting --------------------------------------------------------------------------------------


def test_what_is_collected_is_what_a_rollout_returns():
    policy = linear()

    def env():
        env = TransformedEnv(FlatCountingEnv(batch_size=[2]), RewardSum())
        env.set_seed(0)
        return env

    with torch.no_grad():
        expected = env().rollout(12, policy, break_when_any_done=False)
    batches = list(Collector(env(), policy, frames_per_batch=8, total_frames=24))
    found = torch.cat(batches, -1).exclude("collector")
    assert_same(found, expected)


def test_a_policy_explores_without_gradients():
    seen = []

    def policy(td):
        seen.append((interaction_type(), torch.is_grad_enabled()))
        return td.set("action", torch.zeros(1))

    Collector(CountingEnv(), policy, frames_per_batch=2).next()
    assert set(seen) == {(InteractionType.RANDOM, False)}
    assert torch.is_grad_enabled()
    seen.clear()
    with set_interaction_type("mode"):
        Collector(CountingEnv(), policy, frames_per_batch=2, exploration_type="mean").next()
        assert interaction_type() == InteractionType.MODE
    assert {kind for kind, _ in seen} == {InteractionType.MEAN}


def test_the_first_frames_can_be_random():
    policy = lambda td: td.set("action", torch.full((1,), 0.5))
    collector = Collector(CountingEnv(), policy, frames_per_batch=5, total_frames=25, init_random_frames=8)
    constant = [bool((batch["action"] == 0.5).all()) for batch in collector]
    assert constant == [False, False, True, True, True]


@pytest.mark.parametrize("wrap", [lambda policy: policy, lambda policy: lambda td: policy(td)])
def test_random_frames_have_the_entries_of_the_others(wrap):
    network = TensorDictModule(lambda x: (x[..., :1] * 0 + 0.5, x + 1), ["observation"], ["action", "more"])
    env = CountingEnv(horizon=5)
    collector = Collector(env, wrap(network), frames_per_batch=4, total_frames=8, init_random_frames=4)
    at_random, acting = collector
    assert set(at_random.keys(True)) == set(acting.keys(True))
    assert not (at_random["action"] == 0.5).any()
    assert (acting["action"] == 0.5).all()
    torch.testing.assert_close(at_random["more"], at_random["observation"] + 1)


def test_a_policy_can_be_built_here():
    collector = Collector(CountingEnv(), policy_factory=linear, frames_per_batch=2)
    assert isinstance(collector.policy, TensorDictModule)
    collector.next()
    with pytest.raises(TypeError, match="either a policy or a policy_factory, not both"):
        Collector(CountingEnv(), linear(), policy_factory=linear, frames_per_batch=2)


def test_a_plain_module_maps_observations_to_actions():
    batch = Collector(CountingEnv(), nn.Linear(2, 1), frames_per_batch=2).next()
    assert batch["action"].shape == (2, 1)


def test_private_entries_are_left_out():
    def policy(td):
        td["_secret"], td["a", "_b"], td["a", "c"] = torch.ones(1), torch.ones(1), torch.ones(1)
        return td.set("action", torch.zeros(1))

    batch = Collector(CountingEnv(), policy, frames_per_batch=2).next()
    assert not {k for k in batch.keys(True) if "_secret" in k or "_b" in k}
    assert ("a", "c") in batch.keys(True)


def test_batches_can_be_processed():
    collector = Collector(CountingEnv(), frames_per_batch=4, postproc=lambda td: td.set("twice", 2 * td["action"]))
    batch = collector.next()
    assert torch.equal(batch["twice"], 2 * batch["action"])


@pytest.mark.parametrize("base", [CountingEnv, FlatCountingEnv])
def test_a_policy_that_writes_a_wrong_shape_is_refused(base):
    with pytest.raises(ShapeError, match=r"'action' has another shape.*\(1,\), found \(3,\)"):
        Collector(base(), linear(3), frames_per_batch=4).next()


@pytest.mark.parametrize(
    ("lie", "error"), [("float64", DTypeError), ("shape", ShapeError), ("reward", MissingKeyError)]
)
def test_an_environment_that_breaks_its_specs_is_refused(lie, error):
    buffer = []
    collector = Collector(LyingEnv(lie), frames_per_batch=4, replay_buffer=buffer)
    with pytest.raises(error, match=r"LyingEnv: entry '(observation|reward)'"):
        collector.next()
    assert buffer == []


# --- what surrounds it ---------------------------------------------------------------------------


def test_environments_come_in_every_form():
    for form in (CountingEnv(4), CountingEnv, lambda: CountingEnv(4), EnvCreator(CountingEnv, {})):
        assert Collector(form, frames_per_batch=2).next().shape == (2,)
    collector = Collector(CountingEnv, frames_per_batch=2, create_env_kwargs={"horizon": 1})
    assert collector.next()["next", "done"].all()
    with pytest.raises(TypeError, match=r"expected create_env_fn .* found int"):
        Collector(lambda: 3, frames_per_batch=2)


class Buffer(list):
    """What a collector asks of a buffer."""

    ndim = 1

    def extend(self, batch):
        assert batch.ndim == 1
        super().extend(batch.unbind(0))


def test_a_buffer_is_filled():
    buffer = Buffer()
    env = CountingEnv(batch_size=[2])
    collector = Collector(env, frames_per_batch=6, total_frames=12, replay_buffer=buffer)
    assert list(collector) == [None, None]
    assert len(buffer) == 12
    buffer = Buffer()
    collector = Collector(env, frames_per_batch=6, total_frames=6, replay_buffer=buffer, extend_buffer=False)
    (batch,) = collector
    assert batch.shape == (2, 3)
    assert buffer == []


def test_batches_are_kept_where_they_are_wanted():
    collector = Collector(CountingEnv(), frames_per_batch=2, storing_device="meta")
    assert collector.next().device == torch.device("meta")
    batch = Collector(CountingEnv(), frames_per_batch=2, device="cpu").next()
    assert batch.device == torch.device("cpu")


def test_a_policy_here_is_the_one_that_acts():
    policy = linear()
    collector = Collector(CountingEnv(), policy, frames_per_batch=2)
    nn.init.zeros_(policy.module.weight)
    nn.init.constant_(policy.module.bias, 0.5)
    collector.update_policy_weights_()
    assert (collector.next()["action"] == 0.5).all()


@pytest.mark.parametrize("form", ["module", "tensordict", "state dict"])
def test_weights_can_be_given(form):
    policy, other = linear(), linear()
    collector = Collector(CountingEnv(), policy, frames_per_batch=2)
    forms = {"module": other, "tensordict": TensorDict.from_module(other), "state dict": other.state_dict()}
    collector.update_policy_weights_(forms[form])
    for mine, theirs in zip(policy.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)
        assert mine is not theirs
        assert mine.requires_grad


def test_a_policy_without_parameters_has_no_weights():
    collector = Collector(CountingEnv(), lambda td: td, frames_per_batch=2)
    with pytest.raises(TypeError, match=r"policy without parameters .* has no weights to update"):
        collector.update_policy_weights_(linear())


def test_a_policy_elsewhere_acts_by_a_copy():
    policy = linear()
    collector = Collector(CountingEnv(), policy, frames_per_batch=2, policy_device="meta")
    assert next(policy.parameters()).device.type == "cpu"
    acting = collector.state_dict()["policy_state_dict"]
    assert {weight.device.type for weight in acting.values()} == {"meta"}


def test_seeds():
    def batch(seed):
        collector = Collector(FlatCountingEnv(), linear, frames_per_batch=5)
        assert collector.set_seed(0) == 795726461
        collector.set_seed(seed)
        return collector.next()["observation"]

    def linear(td):
        return td.set("action", torch.zeros(1))

    assert torch.equal(batch(3), batch(3))
    assert not torch.equal(batch(3), batch(4))


def test_state():
    env = lambda: TransformedEnv(CountingEnv(2), RewardSum())
    kwargs = {"frames_per_batch": 4, "total_frames": 16}
    first = Collector(env(), linear(), **kwargs)
    first.next()
    batch = first.next()
    state = first.state_dict()
    assert set(state) == {
        "policy_state_dict", "policy_version", "env_state_dict", "episodes", "frames", "iter", "traj_pool",
    }  # fmt: skip
    assert state["frames"] == 8
    assert state["iter"] == 2
    second = Collector(env(), linear(), **kwargs)
    second.load_state_dict(state)
    for mine, theirs in zip(second.policy.parameters(), first.policy.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    rest = list(second)
    assert len(rest) == 2
    assert ids(rest[0])[0] > ids(batch).max()


def test_shutting_down():
    env = CountingEnv(horizon=5)
    collector = Collector(env, frames_per_batch=2)
    collector.next()
    collector.shutdown()
    assert env.is_closed
    collector.shutdown()
    with pytest.raises(RuntimeError, match="Collector: it was shut down; build a new one"):
        collector.next()
    env = CountingEnv(horizon=5)
    with Collector(env, frames_per_batch=2) as collector:
        collector.next()
    assert env.is_closed
    env = CountingEnv(horizon=5)
    Collector(env, frames_per_batch=2).shutdown(close_env=False)
    assert not env.is_closed


def test_old_names():
    assert SyncDataCollector is OldPath is Collector


def test_on_a_real_environment():
    env = TransformedEnv(GymEnv("CartPole-v1", num_envs=2), StepCounter())
    collector = Collector(env, frames_per_batch=100, total_frames=300)
    collector.set_seed(0)
    count, steps = 0, 0
    for batch in collector:
        count += int(batch["next", "done"].sum())
        steps += batch.numel()
        assert torch.equal(batch["step_count"][:, 1:] == 0, batch["next", "done"][:, :-1])
    assert steps == 300
    assert count > 5


def test_the_environment_knows_who_drives_it():
    env = TransformedEnv(CountingEnv(), RewardSum())
    collector = Collector(env, frames_per_batch=4)
    assert env.collector is env.base_env.collector is collector
    assert copy.deepcopy(env).collector is pickle.loads(pickle.dumps(env)).collector is None
    next_root = Collector(env, frames_per_batch=4)
    assert env.collector is next_root
    del next_root
    assert env.collector is None


def test_what_is_no_environment_or_policy_is_refused():
    with pytest.raises(TypeError, match=r"found str\. GymEnv\('CartPole-v1'\) makes a gymnasium"):
        Collector("CartPole-v1", frames_per_batch=5)
    with pytest.raises(TypeError, match=r"found Linear\. Pass an instance, or .* policy_factory"):
        Collector(CountingEnv(), nn.Linear, frames_per_batch=5)
