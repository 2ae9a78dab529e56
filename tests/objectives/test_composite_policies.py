"""Losses of policies with several heads, on batches that hold what the policy wrote then."""

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import CompositeDistribution, TensorDictModule, TensorDictSequential, set_composite_lp_aggregate
from torch import nn
from torch.distributions import Categorical

from torchrl._core.records.policies import input_keys
from torchrl.modules import ProbabilisticActor
from torchrl.objectives import (
    A2CLoss,
    BCLoss,
    ClipPPOLoss,
    CQLLoss,
    DDPGLoss,
    IPPOLoss,
    IQLLoss,
    KLPENPPOLoss,
    LossModule,
    MAPPOLoss,
    PPOLoss,
    REDQLoss,
    ReinforceLoss,
    SACLoss,
    TQCLoss,
)
from torchrl.objectives.value import GAE, TD0Estimator, VTrace
from torchrl.testing import loss as contract
from torchrl.testing.networks import Concat, advantage_batch, composite_actor, critic
from torchrl.testing.networks import independent_normal as normal

ACTIONS = [("action", "grip"), ("action", "move")]
LOG_PROBS = [("action", "grip_log_prob"), ("action", "move_log_prob")]
POLICY_GRADIENTS = [A2CLoss, PPOLoss, ClipPPOLoss, KLPENPPOLoss, ReinforceLoss, MAPPOLoss, IPPOLoss]


def split(hidden):
    return hidden[..., :3], hidden[..., 3:5], hidden[..., 5:].exp()


def two_heads():
    """Return a policy that grips by a categorical and moves by a normal distribution."""
    torch.manual_seed(0)
    layer = nn.Linear(3, 7)
    keys = [("params", "grip", "logits"), ("params", "move", "loc"), ("params", "move", "scale")]
    net = TensorDictSequential(
        TensorDictModule(layer, ["observation"], ["hidden"]), TensorDictModule(split, ["hidden"], keys)
    )
    heads = {
        "distribution_map": {"grip": Categorical, "move": normal},
        "name_map": {"grip": ACTIONS[0], "move": ACTIONS[1]},
    }
    actor = ProbabilisticActor(
        net,
        in_keys=["params"],
        distribution_class=CompositeDistribution,
        distribution_kwargs=heads,
        return_log_prob=True,
    )
    return actor, layer


def likelihood(layer, td, names=ACTIONS):
    logits, loc, scale = split(layer(td["observation"]))
    grip = Categorical(logits=logits).log_prob(td[names[0]])
    return grip + normal(loc, scale).log_prob(td[names[1]])


def collected(actor, *shape):
    """Return a batch with all that the policy wrote, and advantages."""
    torch.manual_seed(1)
    td = TensorDict(observation=torch.randn(*shape, 3), batch_size=shape)
    with torch.no_grad():
        actor(td)
    never = torch.zeros(*shape, 1, dtype=torch.bool)
    after = TensorDict(observation=torch.randn(*shape, 3), batch_size=shape)
    after.update({"reward": torch.randn(*shape, 1), "done": never, "terminated": never})
    td.set("next", after).set("advantage", torch.randn(*shape, 1))
    return td.set("value_target", torch.randn(*shape, 1))


def without_extras(cls):
    if cls is ReinforceLoss:
        return {}
    options = {"entropy_bonus": False}
    return options | {"normalize_advantage": False} if issubclass(cls, MAPPOLoss) else options


@pytest.mark.parametrize("aggregate", [True, False])
@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("shape", [(6,), (2, 3)])
@pytest.mark.parametrize("cls", POLICY_GRADIENTS)
def test_the_gradient_is_that_of_the_policy_as_it_is_now(cls, shape, named, aggregate):
    """The stored parameters of the heads are not taken for those of the policy."""
    with set_composite_lp_aggregate(aggregate):
        actor, layer = two_heads()
        td = collected(actor, *shape)
        (-likelihood(layer, td) * td["advantage"].squeeze(-1)).mean().backward()
        expected, layer.weight.grad = layer.weight.grad, None
        loss = cls(actor, critic(), **without_extras(cls))
        if named:
            names = ACTIONS, "sample_log_prob" if aggregate else LOG_PROBS
            loss.set_keys(action=names[0], sample_log_prob=names[1])
        if cls is KLPENPPOLoss:
            loss.beta.fill_(0.0)
        before = td.clone()
        loss(td)["loss_actor" if cls is ReinforceLoss else "loss_objective"].backward()
    torch.testing.assert_close(layer.weight.grad, expected)
    torch.testing.assert_close(td, before)


@pytest.mark.parametrize("aggregate", [True, False])
def test_ratios_are_those_of_heads_that_moved(aggregate):
    with set_composite_lp_aggregate(aggregate):
        actor, layer = two_heads()
        td = collected(actor, 6)
        before = likelihood(layer, td).detach()
        with torch.no_grad():
            layer.bias.add_(0.3)
        out = PPOLoss(actor, critic(), entropy_bonus=False)(td)
    ratio = (likelihood(layer, td).detach() - before).exp()
    expected = -(ratio * td["advantage"].squeeze(-1)).mean()
    torch.testing.assert_close(out["loss_objective"].detach(), expected)


@pytest.mark.parametrize("loss", [BCLoss, lambda a: IQLLoss(a, q_of_group(), critic())])
def test_heads_are_cloned_from_a_batch_that_holds_their_parameters(loss):
    with set_composite_lp_aggregate(False):
        actor, layer = two_heads()
        td = collected(actor, 6)
        loss = loss(actor)
        if isinstance(loss, IQLLoss):
            loss.temperature = 0.0  # all weights are one
        (-likelihood(layer, td)).mean().backward()
        expected, layer.weight.grad = layer.weight.grad, None
        out = loss(td)
        out["loss_actor" if isinstance(loss, IQLLoss) else "loss_bc"].backward()
    torch.testing.assert_close(layer.weight.grad, expected)


@pytest.mark.parametrize("cls", [PPOLoss, A2CLoss, BCLoss])
def test_a_list_of_other_names_stands_for_the_heads_in_their_order(cls):
    with set_composite_lp_aggregate(False):
        actor, layer = two_heads()
        td = collected(actor, 6)
        names = ["grip", ("arm", "move")]
        for old, new in zip(ACTIONS, names, strict=True):
            td.set(new, td[old])
        td = td.exclude("action", "params")
        logs = ["grip_score", "move_score"]
        logits, loc, scale = split(layer(td["observation"]).detach())
        td["grip_score"] = Categorical(logits=logits).log_prob(td["grip"])
        td["move_score"] = normal(loc, scale).log_prob(td["arm", "move"])
        loss = BCLoss(actor) if cls is BCLoss else cls(actor, critic(), entropy_bonus=False)
        loss.set_keys(action=names)
        if cls is not BCLoss:
            loss.set_keys(sample_log_prob=logs)
        out = loss(td)
        weight = 1.0 if cls is BCLoss else td["advantage"].squeeze(-1)
        out["loss_bc" if cls is BCLoss else "loss_objective"].backward()
        grad, layer.weight.grad = layer.weight.grad, None
        (-likelihood(layer, td, names) * weight).mean().backward()
    torch.testing.assert_close(grad, layer.weight.grad)


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("aggregate", [True, False])
def test_v_trace_weighs_heads_as_they_are_now(aggregate, named):
    with set_composite_lp_aggregate(aggregate):
        actor, layer = two_heads()
        td = collected(actor, 6)
        with torch.no_grad():
            layer.bias.add_(0.3)
        estimator = VTrace(gamma=0.9, actor_network=actor, value_network=critic())
        if named:
            estimator.set_keys(sample_log_prob="sample_log_prob" if aggregate else LOG_PROBS)
        with_params = estimator(td.clone())["advantage"]
        without = estimator(td.exclude("params", "hidden"))["advantage"]
    torch.testing.assert_close(with_params, without)


def grouped(out_key="state_value"):
    """Return a critic that writes two features and reads them as one group."""
    features = TensorDictModule(nn.Linear(3, 4), ["observation"], ["half"])
    pieces = TensorDictModule(
        lambda half: (half[..., :2], half[..., 2:]), ["half"], [("features", "a"), ("features", "b")]
    )
    net = nn.Linear(4, 1)
    head = TensorDictModule(lambda f: net(torch.cat([f["a"], f["b"]], -1)), ["features"], [out_key])
    sequence = TensorDictSequential(features, pieces, head)
    sequence.add_module("net", net)
    return sequence


@pytest.mark.parametrize("make", [GAE, TD0Estimator])
@pytest.mark.parametrize("shifted", [True, False])
def test_features_that_a_critic_stored_as_a_group_are_not_its_features_now(make, shifted):
    torch.manual_seed(0)
    net = grouped()
    actor, _ = two_heads()
    td = collected(actor, 2, 3)
    options = {"lmbda": 0.9} if make is GAE else {}
    expected = make(gamma=0.9, value_network=net, shifted=shifted, **options)(td.clone())
    stale = TensorDict(a=torch.zeros(2, 3, 2), b=torch.ones(2, 3, 2), batch_size=[2, 3])
    td["features"] = stale.clone()
    out = make(gamma=0.9, value_network=net, shifted=shifted, **options)(td)
    torch.testing.assert_close(out["advantage"], expected["advantage"])
    torch.testing.assert_close(td["features"], stale)


class GroupCritic(nn.Module):
    def __init__(self, out=1):
        super().__init__()
        self.net = Concat(6, out)

    def forward(self, observation, action):
        grip = action["grip"].unsqueeze(-1).to(observation.dtype)
        return self.net(observation, grip, action["move"])


def q_of_group():
    return TensorDictModule(GroupCritic(), ["observation", "action"], ["state_action_value"])


class PairCritic(nn.Module):
    def __init__(self, out=1):
        super().__init__()
        self.net = Concat(5, out)

    def forward(self, observation, action):
        return self.net(observation, action["a"], action["b"])


def continuous_heads():
    net = composite_actor()[0]
    return ProbabilisticActor(
        net,
        in_keys=["params"],
        distribution_class=CompositeDistribution,
        distribution_kwargs={
            "distribution_map": {"a": normal, "b": normal},
            "name_map": {"a": ("action", "a"), "b": ("action", "b")},
        },
    )


@pytest.mark.parametrize("as_list", [True, False])
@pytest.mark.parametrize("cls", [SACLoss, REDQLoss, TQCLoss])
def test_a_critic_that_reads_all_heads_as_one_group_values_what_was_drawn(cls, as_list):
    """The policy's actions, not those of the batch, reach a critic that reads the group."""
    torch.manual_seed(0)
    quantiles = 5 if cls is TQCLoss else 1
    net = TensorDictModule(PairCritic(quantiles), ["observation", "action"], ["state_action_value"])
    loss = cls(continuous_heads(), net, fixed_alpha=True, alpha_init=0.1)
    if as_list:
        loss.set_keys(action=[("action", "a"), ("action", "b")])
    td = advantage_batch()
    action = TensorDict(a=td["action"][:, :1], b=td["action"][:, 1:], batch_size=[6])
    td["action"] = action.clone()
    torch.manual_seed(3)
    one = loss(td)["loss_actor"]
    one.backward()
    torch.testing.assert_close(td["action"], action)
    td["action"] = action * 0
    torch.manual_seed(3)
    torch.testing.assert_close(loss(td)["loss_actor"], one)
    assert loss.actor_network[0].module.net.weight.grad.abs().sum() > 0


def test_lists_are_refused_where_one_entry_is_read():
    actor, _ = two_heads()
    deterministic = TensorDictModule(nn.Linear(3, 2), ["observation"], ["action"])
    value = TensorDictModule(Concat(5), ["observation", "action"], ["state_action_value"])
    with pytest.raises(ValueError, match="DDPGLoss: got 2 entries for action"):
        DDPGLoss(deterministic, value).set_keys(action=ACTIONS)
    with pytest.raises(ValueError, match="A2CLoss: got 2 entries for advantage"):
        A2CLoss(actor).set_keys(advantage=["a", "b"])
    with pytest.raises(ValueError, match="got 0 entries for action"):
        A2CLoss(actor).set_keys(action=[])
    loss = BCLoss(actor)
    loss.set_keys(action=["a", "b", "c"])
    td = collected(actor, 6)
    for name in "abc":
        td[name] = torch.zeros(6)
    with pytest.raises(ValueError, match="does not fit the heads"):
        loss(td)
    with pytest.raises(ValueError, match="CQLLoss: got 2 entries"):
        CQLLoss(deterministic_normal(), value).set_keys(action=ACTIONS)


def deterministic_normal():
    from torchrl.testing.networks import gaussian_actor

    return gaussian_actor()


class Faulty(LossModule):
    """A loss that takes the parameters in the batch for those of its policy."""

    def __init__(self, actor):
        super().__init__()
        self.convert_to_functional(actor, "actor_network")
        self.in_keys = ["observation", "a", "b"]
        self.out_keys = ["loss"]

    def losses(self, td):
        actor = self.actor_network
        if td.get("params", None) is None:
            td = actor.get_dist_params(td.copy())
        dist = actor.build_dist_from_params(td)
        zero = 0 * sum(p.sum() for p in actor.parameters())
        return {"loss": zero - sum(h.log_prob(td[k]) for k, h in dist.dists.items())}


def test_the_contract_catches_a_loss_that_reads_stored_parameters():
    def batch():
        torch.manual_seed(0)
        return TensorDict(observation=torch.randn(6, 3), a=torch.randn(6, 1), b=torch.randn(6, 1), batch_size=[6])

    with pytest.raises(AssertionError):
        contract.stored_outputs_do_not_matter(lambda: Faulty(composite_actor()), batch)
    contract.stored_outputs_do_not_matter(lambda: BCLoss(composite_actor()), batch)


def test_what_agents_read_beside_what_their_policy_writes_is_an_input():
    """A mask in the group in which a policy writes its logits is read from the batch."""
    logits = TensorDictModule(nn.Linear(3, 2), [("agents", "seen")], [("agents", "logits")])
    mask = TensorDictModule(torch.where, [("agents", "mask"), ("agents", "logits"), "low"], [("agents", "masked")])
    keys = input_keys(TensorDictSequential(logits, mask))
    assert keys == [("agents", "seen"), ("agents", "mask"), "low"]
