"""Policies whose second action follows from the first: each is scored given the batch's own."""

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import (
    InteractionType,
    NormalParamExtractor,
    ProbabilisticTensorDictModule,
    ProbabilisticTensorDictSequential,
    TensorDictModule,
    TensorDictSequential,
    set_interaction_type,
)
from torch import nn

from torchrl.modules import SafeProbabilisticModule, SafeProbabilisticTensorDictSequential
from torchrl.modules.tensordict_module.probabilistic import distribution_of
from torchrl.objectives import (
    A2CLoss,
    BCLoss,
    ClipPPOLoss,
    IQLLoss,
    KLPENPPOLoss,
    PPOLoss,
    REDQLoss,
    ReinforceLoss,
    SACLoss,
    TQCLoss,
)
from torchrl.testing.networks import critic
from torchrl.testing.networks import independent_normal as normal

PLAIN = (ProbabilisticTensorDictSequential, ProbabilisticTensorDictModule)
OURS = (SafeProbabilisticTensorDictSequential, SafeProbabilisticModule)
KINDS = {"plain": PLAIN, "ours": OURS, "nested": PLAIN}
ACTIONS = ["a", "b"]
ON_POLICY = [PPOLoss, ClipPPOLoss, KLPENPPOLoss, A2CLoss, ReinforceLoss, BCLoss]


class Joined(nn.Module):
    def forward(self, *parts):
        return torch.cat(parts, -1)


def head(name, reads, size, draw):
    net = nn.Sequential(nn.Linear(size, 2), NormalParamExtractor())
    params = [f"loc_{name}", f"scale_{name}"]
    joined = TensorDictModule(Joined(), reads, [f"joined_{name}"])
    layer = TensorDictModule(net, [f"joined_{name}"], params)
    keys = dict(zip(("loc", "scale"), params, strict=True))
    options = {"distribution_class": normal, "return_log_prob": True}
    return [joined, layer, draw(keys, [name], **options)]


def chained(kind):
    sequence, draw = KINDS[kind]
    first, second = head("a", ["observation"], 3, draw), head("b", ["observation", "a"], 4, draw)
    if kind == "nested":
        first, second = [sequence(*first)], [sequence(*second)]
    return sequence(*first, *second, return_composite=True)


def collected(actor):
    td = TensorDict(observation=torch.randn(6, 3), batch_size=[6])
    with set_interaction_type(InteractionType.RANDOM), torch.no_grad():
        return actor(td)


def score(actor, td):
    """Log-probability of both actions by hand, and the layers that gave it."""
    layers = [m for m in actor.modules() if isinstance(m, nn.Sequential)]
    joined = (td["observation"], torch.cat([td["observation"], td["a"]], -1))
    pairs = zip(layers, joined, ACTIONS, strict=True)
    return sum(normal(*layer(x)).log_prob(td[name]) for layer, x, name in pairs)


def moved(actor):
    with torch.no_grad():
        for parameter in actor.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))


@pytest.mark.parametrize("mode", [InteractionType.RANDOM, InteractionType.DETERMINISTIC])
@pytest.mark.parametrize("kind", KINDS)
def test_each_draw_is_scored_given_those_of_the_batch(kind, mode):
    actor = chained(kind)
    td = collected(actor)
    moved(actor)
    with set_interaction_type(mode):
        found = distribution_of(actor, td).log_prob(td)
        own = actor.get_dist(td).log_prob(td) if kind == "ours" else found
    for scores in (found, own):
        torch.testing.assert_close(sum(scores.values(True, True)), score(actor, td))


@pytest.mark.parametrize("cls", ON_POLICY)
@pytest.mark.parametrize("kind", KINDS)
def test_losses_learn_from_the_batchs_own_actions(cls, kind):
    actor = chained(kind)
    td = collected(actor)
    td["advantage"], td["value_target"] = torch.randn(6, 1), torch.randn(6, 1)
    options = {"delay_actor": True} if cls is KLPENPPOLoss else {}
    loss = BCLoss(actor) if cls is BCLoss else cls(actor, critic(), **options)
    if cls is KLPENPPOLoss:
        loss.beta = 0.0
    name = next(key for key in loss.out_keys if key in ("loss_objective", "loss_actor", "loss_bc"))
    with set_interaction_type(InteractionType.RANDOM):
        loss(td)[name].backward()
    grads = [p.grad for p in actor.parameters()]
    actor.zero_grad()
    weight = 1 if cls is BCLoss else td["advantage"].squeeze(-1)
    (-(weight * score(actor, td)).mean()).backward()
    for grad, parameter in zip(grads, actor.parameters(), strict=True):
        torch.testing.assert_close(grad, parameter.grad)


def test_a_penalty_of_divergence_needs_a_delayed_copy_of_a_chain():
    with pytest.raises(TypeError, match="delay_actor=True"):
        KLPENPPOLoss(chained("plain"), critic())


def qvalue():
    reads = ["observation", "a", "b"]
    joined = TensorDictModule(Joined(), reads, ["joined"])
    value = TensorDictModule(nn.Linear(5, 1), ["joined"], ["state_action_value"])
    return TensorDictSequential(joined, value)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cls", [SACLoss, REDQLoss, TQCLoss])
def test_losses_that_draw_all_heads_at_once_refuse_a_chain(cls, kind):
    with pytest.raises(TypeError, match="reads what another has drawn"):
        cls(chained(kind), qvalue())


def test_implicit_q_learning_weighs_the_batchs_own_actions():
    actor = chained("plain")
    td = collected(actor)
    flags = dict.fromkeys(("done", "terminated"), torch.zeros(6, 1, dtype=torch.bool))
    after = {"observation": td["observation"], "reward": torch.zeros(6, 1), **flags}
    td["next"] = TensorDict(after, batch_size=[6])
    loss = IQLLoss(actor, qvalue(), critic(), temperature=0.0)
    with set_interaction_type(InteractionType.RANDOM):
        out = loss(td)
    torch.testing.assert_close(out["loss_actor"], -score(actor, td).mean())
