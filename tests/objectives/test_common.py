"""The base of all losses: networks, names, weights, masks, and losses that users write."""

import copy
import pickle
from dataclasses import dataclass

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn

from torchrl._core.errors import MissingKeyError
from torchrl._core.keys import read
from torchrl.objectives import DDPGLoss, DQNLoss, LossModule, PPOLoss, SACLoss, ValueEstimators
from torchrl.testing import loss as contract
from torchrl.testing.networks import (
    OBS,
    advantage_batch,
    critic,
    deterministic_actor,
    gaussian_actor,
    q_critic,
    q_network,
    transitions,
)


class Regression(LossModule):
    """A loss written with hooks."""

    @dataclass
    class _AcceptedKeys:
        target: str = read("target")

    network_inputs = {"net": "root"}

    def __init__(self, net, **options):
        super().__init__(**options)
        self.convert_to_functional(net, "net")
        self.out_keys = ["loss_fit", "error"]

    def losses(self, td):
        error = self.net(td.select(*self.net.in_keys))["state_value"] - td[self.tensor_keys.target]
        return {"loss_fit": error.square(), "error": error}


class ByHand(LossModule):
    """A loss of another generation: its own keys, its own forward, functional calls."""

    in_keys = ["observation", "target"]
    out_keys = ["loss"]

    def __init__(self, net):
        super().__init__()
        self.convert_to_functional(net, "net", create_target_params=True)

    def forward(self, tensordict):
        with self.net_params.to_module(self.net):
            value = self.net(tensordict.select("observation"))["state_value"]
        with torch.no_grad(), self.target_net_params.to_module(self.net):
            old = self.net(tensordict.select("observation"))["state_value"]
        return TensorDict(loss=((value - old - tensordict["target"]) ** 2).mean())


def examples():
    return TensorDict(observation=torch.ones(6, OBS), target=torch.ones(6, 1), batch_size=[6])


@pytest.mark.parametrize("check", contract.CHECKS, ids=lambda check: check.__name__)
def test_a_loss_that_a_user_writes_keeps_the_contract(check):
    check(lambda: Regression(critic()), examples)


def test_a_loss_with_its_own_forward():
    loss = ByHand(critic())
    out = loss(examples())["loss"]
    torch.testing.assert_close(out, torch.tensor(1.0))
    out.backward()
    assert all(p.grad is not None for p in loss.net.parameters())
    assert loss.in_keys == ["observation", "target"]


def test_a_loss_without_losses_says_so():
    class Empty(LossModule):
        pass

    with pytest.raises(TypeError, match=r"Empty: has neither its own losses\(\) nor its own forwa"):
        Empty()(examples())
    with pytest.raises(ValueError, match=r"unknown reduction.*'sum'.*found 'average'"):
        Regression(critic(), reduction="average")


def test_parameters_as_tensordicts_are_views_of_the_networks():
    loss = SACLoss(gaussian_actor(), q_critic())
    for name in ("actor_network", "qvalue_network"):
        leaves = list(getattr(loss, f"{name}_params").flatten_keys().values())
        assert {id(p) for p in leaves} == {id(p) for n, p in loss.named_parameters() if n.startswith(f"{name}_params.")}
        torch.optim.Adam(leaves)  # leaves of the graph, such as an optimiser needs
    names = [name for name, _ in loss.named_parameters()]
    assert len(names) == len(set(names)) == 2 + 4 + 1
    targets = loss.target_qvalue_network_params
    assert not any(p.requires_grad for p in targets.values(True, True))
    with pytest.raises(AttributeError, match="no_such_network_params"):
        loss.no_such_network_params  # noqa: B018


def test_parameters_of_another_loss_are_spared():
    trunk, head = nn.Linear(OBS, OBS), nn.Linear(OBS, 1)
    value = TensorDictModule(nn.Sequential(trunk, head), ["observation"], ["state_value"])

    class Critic(LossModule):
        def __init__(self, value):
            super().__init__()
            self.convert_to_functional(value, "value", compare_against=trunk.parameters())

    loss = Critic(value)
    for critic_loss in (loss, copy.deepcopy(loss)):
        with critic_loss.value_params.to_module(critic_loss.value):
            critic_loss.value(examples())["state_value"].sum().backward()
        shared, own = critic_loss.value.module
        assert all(p.grad is None for p in shared.parameters())
        assert all(p.grad is not None for p in own.parameters())


def test_how_networks_of_an_ensemble_draw():
    loss = SACLoss(gaussian_actor(), q_critic())
    with pytest.raises(ValueError, match=r"SACLoss: has no such randomness.*'same' or 'error', found 'equal'"):
        loss.set_vmap_randomness("equal")


def test_an_ensemble_is_drawn_or_given():
    first, second = q_critic(), q_critic()
    loss = SACLoss(gaussian_actor(), [first, second])
    for given, held in zip((first, second), loss.network("qvalue_network"), strict=True):
        assert all(map(torch.equal, given.parameters(), held.parameters()))
    with pytest.raises(ValueError, match=r"wrong number of networks for qvalue_network.*2, found 1"):
        SACLoss(gaussian_actor(), [first])


@pytest.mark.parametrize("how", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_losses_can_be_copied(how):
    loss = DDPGLoss(deterministic_actor(), q_critic())
    twin = how(loss)
    torch.testing.assert_close(twin(transitions()), loss(transitions()))
    with torch.no_grad():
        next(twin.parameters()).add_(1.0)
    assert twin(transitions())["loss_actor"] != loss(transitions())["loss_actor"]


def test_losses_move_with_their_targets():
    loss = SACLoss(gaussian_actor(), q_critic()).double()
    td = transitions().apply(lambda x: x.double() if x.is_floating_point() else x)
    out = loss(td)
    assert all(value.dtype == torch.float64 for value in out.values())


def test_importance_weights():
    td = transitions(3, discrete=True)
    weight = torch.rand(6)
    build = lambda mode: DQNLoss(net, action_space="one_hot", reduction="none", use_prioritized_weights=mode)
    net = q_network()
    plain = build("auto")(td)["loss"]
    with pytest.raises(MissingKeyError, match=r"'priority_weight'.*Sample from a prioritised buffer"):
        build(True)(td)
    for shape in ((6,), (6, 1)):
        td["priority_weight"] = weight.reshape(shape)
        for mode in ("auto", True):
            torch.testing.assert_close(build(mode)(td)["loss"], weight * plain)
        torch.testing.assert_close(build(False)(td)["loss"], plain)
    td["w"] = 2 * weight
    loss = build("auto")
    loss.set_keys(priority_weight="w")
    torch.testing.assert_close(loss(td)["loss"], 2 * weight * plain)


def test_masks():
    td = advantage_batch(batch=(2, 5))
    mask = torch.arange(5).expand(2, 5) < torch.tensor([[5], [2]])
    loss = PPOLoss(gaussian_actor(), critic())
    expected = loss(td[mask])
    poisoned = td.clone()
    for key in ("advantage", "value_target", "action_log_prob"):
        poisoned[key][~mask] = -torch.inf
    for key in (("collector", "mask"), "learning_mask", "my_mask"):
        if key == "my_mask":
            loss.loss_mask_key = "my_mask"
            with pytest.raises(MissingKeyError, match="my_mask"):
                loss(td)
        masked = poisoned.clone().set(key, mask)
        out = loss(masked)
        for name in ("loss_objective", "loss_critic", "loss_entropy", "kl_approx", "entropy"):
            torch.testing.assert_close(out[name], expected[name])
        torch.testing.assert_close(out["explained_variance"], expected["explained_variance"])
        out.backward()
        assert all(p.grad.isfinite().all() for p in loss.parameters())
        loss.zero_grad()


@pytest.mark.parametrize(
    "make",
    [
        lambda: DQNLoss(q_network(2), action_space="one_hot"),
        lambda: DDPGLoss(deterministic_actor(), q_critic()),
        lambda: SACLoss(gaussian_actor(), q_critic()),
    ],
)
def test_rewards_of_padding_do_not_spoil_gradients(make):
    loss, td = make(), transitions(discrete=isinstance(make(), DQNLoss))
    mask = torch.arange(6) < 4
    td["next", "reward"][~mask] = torch.inf
    td["collector", "mask"] = mask
    loss(td).backward()
    assert all(p.grad.isfinite().all() for p in loss.parameters())


def test_unknown_names_and_keywords_are_refused():
    loss = DQNLoss(q_network(), action_space="one_hot")
    with pytest.raises(ValueError, match=r"DQNLoss: has no entry called 'actoin'.*Did you mean 'action'"):
        loss.set_keys(actoin="a")
    with pytest.raises(TypeError, match="no_such_option"):
        DQNLoss(q_network(), action_space="one_hot", no_such_option=1)
    with pytest.raises(MissingKeyError, match=r"DQNLoss: entry 'action' is read.*Did you mean 'acton'"):
        loss(transitions(3, discrete=True).rename_key_("action", "acton"))


def test_discounts():
    assert DQNLoss(q_network(), action_space="one_hot").value_estimator.gamma == 0.99
    loss = DQNLoss(q_network(), action_space="one_hot", gamma=0.5)
    assert loss.value_estimator.gamma == 0.5
    loss.make_value_estimator(ValueEstimators.TD0, gamma=0.7)
    assert loss.value_estimator.gamma == 0.7


def test_keywords_of_one_dimension_keep_their_samples():
    """Observation, action and reward [B, 1] must not be taken for a batch of [B, 1]."""
    actor = TensorDictModule(nn.Linear(1, 1), ["observation"], ["action"])
    q = TensorDictModule(nn.Bilinear(1, 1, 1), ["observation", "action"], ["state_action_value"])
    loss = DDPGLoss(actor, q)
    one, flag = torch.randn(6, 1), torch.zeros(6, 1, dtype=torch.bool)
    entries = dict(observation=one, action=one * 2, next_observation=one + 1, next_reward=one)
    got = loss(**entries, next_done=flag, next_terminated=flag)
    after = TensorDict(observation=one + 1, reward=one, done=flag, terminated=flag, batch_size=[6])
    expected = loss(TensorDict(observation=one, action=one * 2, next=after, batch_size=[6]))
    for name, value in zip(loss.out_keys, got, strict=True):
        torch.testing.assert_close(value, expected[name])
