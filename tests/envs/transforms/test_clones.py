"""Clones share statistics, copies do not; transformed environments unwrap; modes; parents."""

import copy
import pickle

import pytest
import torch
from tensordict.nn import TensorDictModule
from torch import nn

from torchrl.envs import (
    CatFrames,
    Compose,
    EnvCreator,
    InitTracker,
    ModuleTransform,
    ObservationNorm,
    ReturnNorm,
    RewardScaling,
    RewardSum,
    RNDTransform,
    SerialEnv,
    StepCounter,
    TimeMaxPool,
    TrajCounter,
    TransformedEnv,
    VecNorm,
    VecNormV2,
)
from torchrl.record import VideoRecorder
from torchrl.testing.env import assert_same, make_seeded
from torchrl.testing.mocks import CountingEnv, FlatCountingEnv, MultiAgentEnv

ON = {"break_when_any_done": False}


class Ten(CountingEnv):
    """A subclass, whose transformed environments are unwrapped, too."""


# --- clones --------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [
    lambda: ObservationNorm(torch.zeros(2), torch.ones(2), ["observation"]),
    lambda: RewardScaling(torch.zeros(1), torch.ones(1)),
], ids=["observation", "reward"])  # fmt: skip
@pytest.mark.parametrize("nested", [False, True])
def test_a_clone_reads_the_buffers_of_its_original(make, nested):
    norm = make()
    clone = Compose(norm).clone()[0] if nested else norm.clone()
    apart = copy.deepcopy(norm)
    norm.loc += 3.0
    assert (clone.loc == 3).all()
    assert (apart.loc == 0).all()


@pytest.mark.parametrize("kind", [VecNorm, VecNormV2])
def test_an_evaluation_environment_follows_the_statistics_of_training(kind):
    env = make_seeded(lambda: TransformedEnv(FlatCountingEnv(), kind(["observation"])))
    other = TransformedEnv(FlatCountingEnv(), env.transform.clone())
    other.eval()
    env.rollout(20, **ON)
    before = env.transform.loc["observation"].clone()
    assert torch.equal(other.transform.loc["observation"], before)
    other.rollout(20, **ON)
    assert torch.equal(env.transform.loc["observation"], before)
    apart = copy.deepcopy(env)
    env.rollout(20, **ON)
    assert torch.equal(apart.transform.loc["observation"], before)


def test_modules_inside_are_shared_and_memory_is_not():
    norm = ReturnNorm()
    assert norm.clone().statistics is norm.statistics
    module = TensorDictModule(nn.Linear(2, 1), ["observation"], ["value"])
    assert ModuleTransform(module=module).clone().module is module
    env = make_seeded(lambda: TransformedEnv(FlatCountingEnv(9), CatFrames(3, -1, ["observation"])))
    root = env.step_mdp(env.rollout(2)[..., -1])
    other = TransformedEnv(copy.deepcopy(env.base_env), env.transform.clone())
    other.rollout(4)
    following = env.step(root.set("action", torch.zeros(1)))["next", "observation"]
    assert following.reshape(3, 2)[:, 0].tolist() == [1.0, 2.0, 3.0]


def test_a_slice_of_a_chain_shares_its_buffers():
    chain = Compose(StepCounter(), RewardScaling(0.0, 1.0))
    chain[1:][-1].scale += 1.0
    assert chain[-1].scale == 2.0
    assert chain[1:][-1].container is not chain


def test_a_frozen_copy_needs_data():
    norm = VecNorm(["observation"])
    with pytest.raises(RuntimeError, match="no data"):
        norm.frozen_copy()
    env = TransformedEnv(CountingEnv(), norm)
    for copied in (norm.frozen_copy, norm.to_observation_norm):
        with pytest.raises(RuntimeError, match="no data"):
            copied()
    env.rollout(3)
    frozen, before = norm.frozen_copy(), norm.loc["observation"].clone()
    env.rollout(9, **ON)
    assert torch.equal(frozen.loc["observation"], before)
    assert not torch.equal(norm.loc["observation"], before)


# --- modes ---------------------------------------------------------------------------------------


def test_transforms_of_an_environment_do_not_train_until_told_to():
    env = TransformedEnv(CountingEnv(), Compose(RewardScaling(0.0, 2.0), Compose(RewardSum())))
    env.append_transform(StepCounter())
    env.insert_transform(0, InitTracker())
    env.transform.append(TrajCounter())
    assert not any(part.training for part in env.transform.leaves())
    env.train()
    assert all(part.training for part in env.transform.leaves())
    env.transform = RewardSum()
    assert not env.transform.training


@pytest.mark.parametrize("make", [
    lambda: VecNorm(["observation"]),
    lambda: VecNormV2(["observation"]),
    lambda: ReturnNorm(),
    lambda: RNDTransform(nn.Linear(2, 3), nn.Linear(2, 3)),
], ids=["norm", "rows", "return", "novelty"])  # fmt: skip
def test_statistics_are_updated_unless_eval_was_called(make):
    env = make_seeded(lambda: TransformedEnv(FlatCountingEnv(), make()))

    def statistics():
        return torch.cat([b.flatten().double() for _, b in env.transform.named_buffers()])

    env.rollout(6, **ON)
    first = statistics().clone()
    env.rollout(6, **ON)
    second = statistics().clone()
    assert not torch.equal(first, second)
    env.eval()
    env.rollout(6, **ON)
    assert torch.equal(statistics(), second)
    env.train()
    env.rollout(6, **ON)
    assert not torch.equal(statistics(), second)


# --- transformed environments --------------------------------------------------------------------


@pytest.mark.parametrize("base", [CountingEnv, FlatCountingEnv, Ten, lambda: SerialEnv(2, CountingEnv)])
def test_a_transformed_environment_has_no_transformed_base(base):
    inner = TransformedEnv(TransformedEnv(base(), RewardSum()), Compose(StepCounter(9), InitTracker()))
    env = TransformedEnv(inner, RewardScaling(0.0, 2.0))
    assert not isinstance(env.base_env, TransformedEnv)
    assert env.base_env is inner.base_env
    assert [type(t) for t in env.transform] == [RewardSum, StepCounter, InitTracker, RewardScaling]
    assert len(inner.transform) == 3  # it keeps its own
    assert isinstance(TransformedEnv(env).transform, Compose)
    assert len(TransformedEnv(env).transform) == 4


@pytest.mark.parametrize("parts", [
    (RewardSum, lambda: StepCounter(2)),
    (lambda: TimeMaxPool(["observation"], T=2), lambda: VecNorm(["observation"])),
], ids=["sums", "frames"])  # fmt: skip
def test_nested_or_not_rollouts_are_the_same(parts):
    def nested(unwrap):
        env = FlatCountingEnv()
        for make in parts:
            env = TransformedEnv(env, make(), auto_unwrap=unwrap)
        return env

    kept = make_seeded(lambda: nested(False))
    assert isinstance(kept.base_env, TransformedEnv)
    expected = kept.rollout(9, **ON)
    assert_same(make_seeded(lambda: nested(None)).rollout(9, **ON), expected)
    once = make_seeded(lambda: TransformedEnv(FlatCountingEnv(), Compose(*(make() for make in parts))))
    assert_same(once.rollout(9, **ON), expected)


def test_a_subclass_is_not_unwrapped():
    class Own(TransformedEnv):
        pass

    own = Own(CountingEnv(), RewardSum())
    assert TransformedEnv(own, StepCounter()).base_env is own


@pytest.mark.parametrize("old", [RewardSum, lambda: Compose(RewardSum(), StepCounter())])
def test_a_parent_is_one_object_until_the_transforms_change(old):
    env = TransformedEnv(CountingEnv(), Compose(InitTracker(), old()))
    part = env.transform[1]
    parent = part.parent
    assert part.parent is parent
    assert "is_init" in parent.observation_keys
    pickle.loads(pickle.dumps(env))
    env.insert_transform(0, StepCounter(step_count_key="first"))
    assert part.parent is not parent
    assert "first" in part.parent.observation_keys
    chain = env.transform
    env.transform = lambda td: td.set("twice", 2 * td["observation"])
    assert chain.parent is None
    following = env.rollout(3)["next"]
    assert (following["twice"] == 2 * following["observation"]).all()


def test_what_is_closed_is_the_base():
    env = TransformedEnv(CountingEnv(), RewardSum())
    assert not env.is_closed
    env.base_env.close()
    assert env.is_closed
    other = TransformedEnv(CountingEnv(), RewardSum())
    other.close()
    assert other.base_env.is_closed
    assert other.is_closed


def test_whether_records_are_locked_is_told_to_the_base():
    env = TransformedEnv(CountingEnv(), RewardSum())
    with pytest.raises(RuntimeError, match="batch_locked"):
        env.batch_locked = False


def test_a_chain_dumps_what_its_parts_recorded():
    class Recorder(RewardSum):
        dumped = None

        def dump(self, suffix=None):
            self.dumped = suffix

    parts = Recorder(), StepCounter(), Recorder()
    Compose(parts[0], Compose(*parts[1:])).dump(suffix="late")
    assert [parts[0].dumped, parts[2].dumped] == ["late", "late"]
    assert VideoRecorder.dump is not RewardSum.dump


# --- counters ------------------------------------------------------------------------------------


def numbered(horizon=3):
    return TransformedEnv(CountingEnv(horizon), TrajCounter())


def test_environments_of_one_maker_give_each_episode_a_number_of_its_own():
    maker = EnvCreator(numbered)
    env = SerialEnv(3, [maker, maker.make_variant(horizon=2), EnvCreator(maker)])
    data = env.rollout(14, **ON)
    rows = [set(row["traj_count"].flatten().tolist()) for row in data]
    assert sum(map(len, rows)) == len(set.union(*rows))
    assert min(set.union(*rows)) == 0


def test_other_makers_count_from_zero():
    for _ in range(2):
        assert EnvCreator(numbered)().rollout(2)["traj_count"][0] == 0


def test_keys_of_counters_are_public():
    env = TransformedEnv(CountingEnv(), Compose(StepCounter(3), InitTracker(), RewardSum()))
    counter, tracker, returns = env.transform
    assert returns.reset_keys == ["_reset"]
    assert RewardSum(reset_keys=["_mask"]).reset_keys == ["_mask"]
    groups = TransformedEnv(MultiAgentEnv(), RewardSum())
    assert len(groups.transform.reset_keys) == len(groups.reward_keys)
    assert counter.step_count_keys == ["step_count"]
    assert counter.truncated_keys == ["truncated"]
    assert counter.done_keys == ["done"]
    assert counter.reset_keys == tracker.reset_keys == ["_reset"]
    assert tracker.init_keys == ["is_init"]
