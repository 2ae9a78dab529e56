"""Sequences and modules of ours called in every way, against tensordict's own."""

import copy

import pytest
import torch
from tensordict import LazyStackedTensorDict, TensorDict, TensorDictParams, lazy_stack
from tensordict.nn import (
    InteractionType,
    ProbabilisticTensorDictModule,
    ProbabilisticTensorDictSequential,
    TensorDictModule,
    TensorDictSequential,
    set_skip_existing,
)
from tensordict.nn.probabilistic import interaction_type
from torch import nn

from torchrl.modules import (
    IndependentNormal,
    SafeModule,
    SafeProbabilisticModule,
    SafeProbabilisticTensorDictSequential,
    SafeSequential,
)

FIRST, SECOND = nn.Linear(3, 4), nn.Linear(4, 2)
LATENT = ("latent", "hidden")


def ours(**options):
    return build(SafeModule, SafeSequential, options)


def theirs(**options):
    return build(TensorDictModule, TensorDictSequential, options)


def build(module, sequence, options):
    first, second = copy.deepcopy((FIRST, SECOND))
    return sequence(module(first, ["observation"], [LATENT]), module(second, [LATENT], ["value"]), **options)


def observed(*batch):
    return TensorDict(observation=torch.ones(*batch, 3), batch_size=batch)


def assert_equal(one, other):
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor | tuple):
        torch.testing.assert_close(one, other)
        return
    assert one.batch_size == other.batch_size
    assert set(one.keys(True, True)) == set(other.keys(True, True))
    for key in one.keys(True, True):
        torch.testing.assert_close(one[key], other[key])


def into_another(policy):
    source, target = observed(2), TensorDict(kept=torch.zeros(2), batch_size=[2])
    out = policy(source, tensordict_out=target)
    assert out is target
    assert list(source.keys()) == ["observation"]
    return out


def of_a_selection(policy):
    return policy.select_out_keys("value")(observed(2))


def of_a_selecting_member(policy):
    policy[0].select_out_keys()
    with pytest.raises(KeyError):
        policy(observed(2))
    return torch.zeros(())


def with_a_hook(policy):
    policy[1].register_forward_hook(lambda module, args, out: out.set("seen", torch.zeros(2)))
    policy.register_forward_pre_hook(lambda module, args: args[0].set("called", torch.ones(2)))
    return policy(observed(2))


def with_existing_entries(policy):
    td = observed(2).set(LATENT, torch.full((2, 4), 7.0))
    with set_skip_existing(True):
        return policy(td)


def with_all_entries(policy):
    td = policy(observed(2)).set("value", torch.full((2, 2), 7.0))
    with set_skip_existing(["value", LATENT]):
        return policy(td)


def of_other_parameters(policy):
    params = TensorDictParams(TensorDict.from_module(policy).data * 2)
    with params.to_module(policy):
        return policy(observed(2))


def vectorised(policy):
    params = torch.stack([TensorDict.from_module(policy).data * i for i in range(3)])

    def run(td, params):
        with params.to_module(policy):
            return policy(td)

    return torch.vmap(run, (None, 0))(observed(2), params)


def returned_as_input(policy):
    td = observed(2)
    assert policy(td) is td
    return td


CALLS = {
    "a tensordict": returned_as_input,
    "no batch": lambda policy: policy(observed()),
    "by keyword": lambda policy: policy(tensordict=observed(2)),
    "a tensor": lambda policy: policy(torch.ones(2, 3)),
    "a named tensor": lambda policy: policy(observation=torch.ones(2, 3)),
    "into another": into_another,
    "of a selection": of_a_selection,
    "of a selecting member": of_a_selecting_member,
    "with a hook": with_a_hook,
    "with existing entries": with_existing_entries,
    "with all entries": with_all_entries,
    "of a lazy stack": lambda policy: policy(lazy_stack([observed(2), observed(2)])),
    "of other parameters": of_other_parameters,
    "vectorised": vectorised,
    "compiled": lambda policy: torch.compile(policy, fullgraph=True, backend="eager")(observed(2)),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_sequences_answer_to_every_call_as_tensordict_s(call):
    assert_equal(call(ours()), call(theirs()))


@pytest.mark.parametrize("options", [{"inplace": False}, {"inplace": "empty"}, {"inplace": True}])
def test_sequences_write_where_they_are_told(options):
    assert_equal(ours(**options)(observed(2)), theirs(**options)(observed(2)))


def test_partial_sequences_skip_members_without_inputs():
    td = TensorDict({LATENT: torch.ones(2, 4)}, [2])
    policy = ours(partial_tolerant=True)
    assert_equal(policy(td.clone()), theirs(partial_tolerant=True)(td.clone()))
    stack = LazyStackedTensorDict(observed(2), td, stack_dim=0)
    assert "value" in policy(stack)[1]


def test_wrong_batch_sizes_are_refused():
    with pytest.raises(RuntimeError, match="batch dimension mismatch"):
        ours()(TensorDict(observation=torch.ones(3), batch_size=[3]))


def test_gradients_reach_input_and_parameters():
    td = observed(2)
    td["observation"].requires_grad_()
    policy = ours()
    policy(td)["value"].sum().backward()
    assert td["observation"].grad is not None
    assert all(p.grad is not None for p in policy.parameters())


@pytest.mark.parametrize("options", [{}, {"return_composite": True}])
@pytest.mark.parametrize("kind", [InteractionType.MEAN, InteractionType.RANDOM])
def test_what_runs_before_a_draw_sees_its_exploration_type(options, kind):
    seen = []

    def look(observation):
        seen.append(interaction_type())
        return observation, torch.ones_like(observation)

    for safe in (True, False):
        draw = (SafeProbabilisticModule if safe else ProbabilisticTensorDictModule)(
            ["loc", "scale"],
            ["action"],
            distribution_class=IndependentNormal,
            default_interaction_type=kind,
            return_log_prob=True,
        )
        head = (SafeModule if safe else TensorDictModule)(look, ["observation"], ["loc", "scale"])
        kinds = SafeProbabilisticTensorDictSequential, ProbabilisticTensorDictSequential
        policy = kinds[not safe](head, draw, **options)
        torch.manual_seed(0)
        out = policy(observed(2))
        if safe:
            first = out
    assert_equal(first, out)
    assert seen == [None, None] if options else seen == [kind, kind]


def test_a_draw_that_the_head_made_is_scored_and_kept():
    head = SafeModule(lambda x: (x, torch.ones_like(x), x + 1), ["observation"], ["loc", "scale", "action"])
    draw = SafeProbabilisticModule(
        ["loc", "scale"], ["action"], distribution_class=IndependentNormal, return_log_prob=True
    )
    out = SafeProbabilisticTensorDictSequential(head, draw)(observed(2))
    torch.testing.assert_close(out["action"], torch.full((2, 3), 2.0))
    expected = torch.distributions.Normal(1.0, 1.0).log_prob(torch.tensor(2.0)) * 3
    torch.testing.assert_close(out["action_log_prob"], expected.expand(2))


def test_a_policy_may_make_its_parameters_in_its_own_way():
    class Centred(SafeProbabilisticTensorDictSequential):
        def get_dist_params(self, tensordict, tensordict_out=None, **kwargs):
            td = super().get_dist_params(tensordict, tensordict_out, **kwargs)
            return td.set("loc", torch.zeros_like(td["loc"]))

    head = SafeModule(lambda x: (x, torch.ones_like(x)), ["observation"], ["loc", "scale"])
    draw = SafeProbabilisticModule(["loc", "scale"], ["action"], distribution_class=IndependentNormal)
    assert (Centred(head, draw)(observed(2))["action"] == 0).all()
