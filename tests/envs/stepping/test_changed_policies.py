"""A policy that is changed between two rollouts acts as it is then."""

import pytest
import torch
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn

from torchrl.envs import ExplorationType, GymEnv
from torchrl.modules import NormalParamExtractor, ProbabilisticActor, TanhNormal


class Constant(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, observation):
        return torch.full((*observation.shape[:-1], 1), self.value)


def actions_of(env, policy):
    """The actions of a rollout, which are those of one call with each root."""
    batch = env.rollout(4, policy)
    again = policy(batch.exclude("action", "next"))["action"]
    assert env.compiled_specs.takes_flat_records
    assert torch.equal(batch["action"], again)
    return batch["action"]


def replace_network(policy):
    policy.module[0].module = Constant(0.5)


def replace_part(policy):
    policy.module[0] = TensorDictModule(Constant(0.5), ["observation"], ["action"])


def rename_output(policy):
    policy.module[1] = TensorDictModule(Constant(0.5), ["observation"], ["action"])


def add_hook(policy):
    policy.module[0].module.register_forward_hook(lambda module, args, out: out + 0.25)


def add_hook_of_tensordicts(policy):
    policy.module[0].register_forward_hook(lambda module, args, out: out.set("action", out["action"] + 0.25))


def replace_forward(policy):
    policy.module[0].forward = lambda td: td.set("action", torch.full((*td.shape, 1), 0.75))


CHANGES = [replace_network, replace_part, rename_output, add_hook, add_hook_of_tensordicts, replace_forward]


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_a_policy_is_seen_by_the_next_rollout(change):
    env = GymEnv("Pendulum-v1")
    policy = TensorDictSequential(
        TensorDictModule(Constant(0.25), ["observation"], ["action"]),
        TensorDictModule(Constant(1.0), ["observation"], ["unused"]),
    )
    before = actions_of(env, policy)
    change(policy)
    after = actions_of(env, policy)
    assert before.eq(0.25).all()
    assert after.ne(0.25).all()


def test_the_default_exploration_type_may_change():
    env = GymEnv("Pendulum-v1")
    net = nn.Sequential(nn.Linear(3, 2), NormalParamExtractor())
    params = TensorDictModule(net, ["observation"], ["loc", "scale"])
    policy = ProbabilisticActor(params, ["loc", "scale"], distribution_class=TanhNormal, spec=env.action_spec)
    batches = []
    for kind in (ExplorationType.DETERMINISTIC, ExplorationType.RANDOM, ExplorationType.DETERMINISTIC):
        policy.module[-1].default_interaction_type = kind
        batches.append(env.rollout(3, policy))
    modes = [torch.allclose(b["action"], policy.get_dist(b.clone()).deterministic_sample) for b in batches]
    assert modes == [True, False, True]
