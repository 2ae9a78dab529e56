"""Parameters, target copies, ensembles and lazy networks, of every loss and of those that users write."""

import copy
import pickle
import warnings
from contextlib import nullcontext

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn

from tests.objectives.test_losses_contract import LOSSES
from torchrl.envs.utils import ExplorationType, exploration_type, set_exploration_type
from torchrl.modules import MultiAgentMLP, recurrent_mode, set_recurrent_mode
from torchrl.objectives import (
    ClipPPOLoss,
    DDPGLoss,
    DQNLoss,
    HardUpdate,
    LossModule,
    REDQLoss,
    RNDLoss,
    SACLoss,
    SoftUpdate,
    TD3Loss,
)
from torchrl.objectives.networks import Ensemble, stack_networks
from torchrl.testing.networks import critic, deterministic_actor, gaussian_actor, q_critic, q_network, transitions

WITH_TARGETS = [name for name, (make, _) in LOSSES.items() if make().has_targets]


def told_of_targets(call):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        call()
    return [str(w.message) for w in seen if "no updater" in str(w.message)]


# ------------------------------------------------------------------ names


@pytest.mark.parametrize("name", LOSSES)
def test_parameters_are_registered_under_the_names_of_their_tensordicts(name):
    loss = LOSSES[name][0]()
    parameters, state = dict(loss.named_parameters()), loss.state_dict()
    for network in loss.named_networks():
        for key, leaf in getattr(loss, f"{network}_params").flatten_keys(".").items():
            full = f"{network}_params.{key}"
            assert full in state
            if leaf.requires_grad:
                assert parameters.pop(full) is leaf
            elif full in parameters:  # which another loss trains
                assert torch.equal(leaf, parameters.pop(full))
    assert not any("network" in key for key in parameters), list(parameters)


@pytest.mark.parametrize("name", [n for n in LOSSES if "critics" in n or any(k in n for k in ("td3", "sac", "iql"))])
def test_parameters_of_ensembles_are_stacked(name):
    loss = LOSSES[name][0]()
    for target in ("", "target_"):
        params = getattr(loss, f"{target}qvalue_network_params")
        assert params.batch_size == torch.Size([2])
        for index, member in enumerate(loss.network("qvalue_network") if not target else loss.target("qvalue_network")):
            for key, leaf in TensorDict.from_module(member).items(True, True):
                assert torch.equal(leaf, params[key][index])


def test_the_network_of_an_ensemble_holds_the_parameters_that_are_trained():
    loss = SACLoss(gaussian_actor(), q_critic())
    expected = {id(p) for n, p in loss.named_parameters() if n.startswith("qvalue_network_params.")}
    assert {id(p) for p in loss.qvalue_network.parameters()} == expected
    assert not list(loss.target_qvalue_network.parameters())
    for mode in (False, True):
        loss.train(mode)
        members = [loss.qvalue_network, *loss.network("qvalue_network"), *loss.target("qvalue_network")]
        assert all(part.training is mode for member in [loss.actor_network, *members] for part in member.modules())


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_of_losses_with_ensembles_are_apart(copied):
    loss = SACLoss(gaussian_actor(), q_critic(), delay_actor=True)
    loss(transitions())
    twin = copied(loss)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert all((p == 0).all() for member in twin.network("qvalue_network") for p in member.parameters())
    assert all((p == 0).all() for p in twin.actor_network.parameters())
    assert not all((p == 0).all() for p in loss.parameters())


@pytest.mark.parametrize("name", LOSSES)
def test_delayed_networks_can_be_read_back(name):
    loss = LOSSES[name][0]()
    delayed = {network.split("_")[0] for network in loss.target_pairs()} & {"actor", "qvalue", "value"}
    for short in delayed:
        assert getattr(loss, f"delay_{short}") is True, short
    for flag in ("delay_actor", "delay_value", "delay_qvalue"):
        assert getattr(loss, flag, None) in (None, True, False)


@pytest.mark.parametrize("name", LOSSES)
def test_default_names_do_not_change(name):
    loss = LOSSES[name][0]()
    names = vars(loss.default_keys())
    if names:
        first = next(iter(names))
        loss.set_keys(**{first: "renamed"})
        assert vars(loss.default_keys()) == names
        assert getattr(loss.tensor_keys, first) == "renamed"
    assert loss.reset() is None


# ------------------------------------------------------------------ targets


@pytest.mark.parametrize("updater", [lambda loss: SoftUpdate(loss, tau=0.1), lambda loss: HardUpdate(loss)])
@pytest.mark.parametrize("name", WITH_TARGETS)
def test_targets_without_an_updater_are_told_of_once(name, updater):
    make, batch = LOSSES[name]
    loss = make()
    (message,) = told_of_targets(lambda: loss(batch()))
    assert "SoftUpdate(loss" in message
    assert not told_of_targets(lambda: loss(batch()))
    network = next(iter(loss.target_pairs()))
    assert told_of_targets(lambda: getattr(loss, f"target_{network}_params"))
    updater(loss)
    assert not told_of_targets(lambda: getattr(loss, f"target_{network}_params"))
    other = make()
    updater(other)
    assert not told_of_targets(lambda: other(batch()))


@pytest.mark.parametrize("name", ["td3, not delayed", "dqn, not delayed", "crossq"])
def test_losses_without_targets_are_silent(name):
    make, batch = LOSSES[name]
    assert not told_of_targets(lambda: make()(batch()))


@pytest.mark.parametrize("updater", [HardUpdate, lambda loss: SoftUpdate(loss, eps=0.9)])
def test_what_an_updater_refuses_is_of_both_kinds(updater):
    with pytest.raises(ValueError, match="got a module that is no loss"):
        updater(nn.Linear(2, 2))
    for kind in (RuntimeError, ValueError):
        with pytest.raises(kind, match="no target network"):
            updater(DDPGLoss(deterministic_actor(), q_critic(), delay_value=False))


@pytest.mark.parametrize("dtype", [torch.double, torch.bfloat16])
def test_parameters_handed_out_follow_a_cast(dtype):
    loss = SACLoss(gaussian_actor(), q_critic())
    SoftUpdate(loss, tau=0.1)
    handles = loss.target_qvalue_network_params, loss.qvalue_network_params, loss.target_actor_network_params
    loss.to(dtype)
    for handle in handles:
        assert {leaf.dtype for leaf in handle.values(True, True)} == {dtype}
    with torch.no_grad():
        loss.network("qvalue_network").stacked.module.net[0].weight.fill_(7.0)
    assert (handles[1]["module", "net", "0", "weight"] == 7).all()


# ------------------------------------------------------------------ separate losses, shared parameters


@pytest.mark.parametrize(
    ("make", "network"),
    [
        (lambda actor, value, q: DDPGLoss(actor(), q(), separate_losses=True), "value_network"),
        (lambda actor, value, q: TD3Loss(actor(), q(), bounds=(-1, 1), separate_losses=True), "qvalue_network"),
    ],
)
def test_separate_losses_show_in_the_parameters(make, network):
    trunk = TensorDictModule(nn.Linear(3, 4), ["observation"], ["hidden"])

    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(6, 1)

        def forward(self, *x):
            return self.layer(torch.cat(x, -1))

    from tensordict.nn import TensorDictSequential

    def actor():
        return TensorDictSequential(trunk, TensorDictModule(nn.Linear(4, 2), ["hidden"], ["action"]))

    def q():
        return TensorDictSequential(trunk, TensorDictModule(Head(), ["hidden", "action"], ["state_action_value"]))

    loss = make(actor, None, q)
    params = getattr(loss, f"{network}_params")
    assert sorted(p.requires_grad for p in params.values(True, True)) == [False, False, True, True]
    loss(transitions())["loss_value" if network == "value_network" else "loss_qvalue"].backward()
    assert trunk.module.weight.grad is None
    with torch.no_grad():
        trunk.module.weight.fill_(3.0)
    shared = getattr(loss, f"{network}_params")["module", "0", "module", "weight"]
    assert (shared == 3).all()  # what is shared stays shared


def test_networks_of_another_structure_make_no_ensemble():
    for kind in (RuntimeError, ValueError):
        with pytest.raises(kind, match="networks of different structures"):
            stack_networks([nn.Linear(2, 3), nn.Linear(2, 4)])
    with pytest.raises(RuntimeError, match="wrong number of networks"):
        SACLoss(gaussian_actor(), [q_critic(), q_critic(), q_critic()])


@pytest.mark.parametrize(
    "net",
    [
        lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)),
        lambda: nn.LSTM(3, 4, batch_first=True),
        lambda: MultiAgentMLP(3, 2, 5, centralized=False, share_params=False, depth=1, num_cells=4),
    ],
    ids=["batch norm", "lstm", "own parameters of agents"],
)
def test_members_of_an_ensemble_are_the_networks_that_were_stacked(net):
    networks = [net(), net(), net()]
    x = torch.randn(6, 5, 3) if not isinstance(networks[0], nn.Sequential) else torch.randn(6, 3)
    stacked, _ = stack_networks(networks)
    ensemble = Ensemble(stacked, 3)
    first = lambda out: out[0] if isinstance(out, tuple) else out
    total = torch.zeros(())
    for one, member in zip(networks, ensemble, strict=True):
        expected, found = first(one(x)), first(member(x))
        torch.testing.assert_close(found, expected)
        total = total + found.square().sum()
    total.backward()
    if isinstance(networks[0], nn.Sequential):
        assert (stacked[1].num_batches_tracked == 1).all()
        torch.testing.assert_close(stacked[1].running_mean[2], networks[2][1].running_mean)
    for network in networks:
        first(network(x)).square().sum().backward()
    grads = [dict(network.named_parameters()) for network in networks]
    for name, parameter in stacked.named_parameters():
        torch.testing.assert_close(parameter.grad, torch.stack([g[name].grad for g in grads]), rtol=1e-3, atol=1e-4)


# ------------------------------------------------------------------ losses of one's own


class Own(LossModule):
    """Written as for the base class of the reference: all in ``forward`` and ``..._loss``."""

    net: TensorDictModule
    net_params: TensorDict
    target_net_params: TensorDict

    def __init__(self, net, **options):
        super().__init__()
        self.convert_to_functional(net, "net", **options)

    def _modes(self):
        return recurrent_mode(), exploration_type()

    def forward(self, tensordict):
        self.seen = self._modes()
        return TensorDict()

    def actor_loss(self, tensordict):
        self.seen = self._modes()
        return TensorDict()


def net():
    return TensorDictModule(nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)), ["x"], ["y"])


@pytest.mark.parametrize("method", ["forward", "__call__", "actor_loss"])
@pytest.mark.parametrize("mode", [None, False, True])
def test_methods_of_a_loss_run_recurrent_and_deterministic(method, mode):
    loss = Own(net())
    with nullcontext() if mode is None else set_recurrent_mode(mode), set_exploration_type(ExplorationType.RANDOM):
        getattr(loss, method)(None)
        assert exploration_type() is ExplorationType.RANDOM
    assert loss.seen == (True, ExplorationType.DETERMINISTIC)
    loss.deterministic_sampling_mode = ExplorationType.MEAN
    getattr(loss, method)(None)
    assert loss.seen[1] is ExplorationType.MEAN
    loss.deterministic_sampling_mode = None
    with set_exploration_type(ExplorationType.RANDOM):
        getattr(loss, method)(None)
    assert loss.seen[1] is ExplorationType.RANDOM


@pytest.mark.parametrize("target", [False, True])
@pytest.mark.parametrize("given", ["one", "list"])
def test_vmap_maps_a_network_over_stacked_parameters(given, target):
    nets = [net() for _ in range(4)]
    loss = Own(nets if given == "list" else nets[0], expand_dim=4, create_target_params=True)
    SoftUpdate(loss, eps=0.9)
    td = TensorDict(x=torch.randn(7, 3), batch_size=[7])

    def call(params):
        with params.to_module(loss.net):
            return loss.net(td.clone())["y"]

    out = torch.vmap(call)(loss.target_net_params if target else loss.net_params)
    if given == "list":
        torch.testing.assert_close(out, torch.stack([one(td.clone())["y"] for one in nets]))
    torch.testing.assert_close(out[0], nets[0](td.clone())["y"])
    assert out.shape == (4, 7, 2)
    assert out.requires_grad is not target
    if not target:
        out.sum().backward()
        assert len(list(loss.parameters())) == 4
        assert all(p.grad is not None for p in loss.parameters())


def test_a_module_without_keys_can_be_held():
    loss = Own(nn.BatchNorm1d(6), create_target_params=True)
    SoftUpdate(loss, eps=0.9)
    names = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}
    assert set(loss.net_params.keys()) == set(loss.target_net_params.keys()) == names
    assert not any(p.requires_grad for p in loss.target_net_params.values())


def test_what_is_held_can_be_initialised_in_place():
    for loss in (Own(net()), Own(net(), expand_dim=3)):
        for parameter in loss.get_stateful_net("net").parameters():
            parameter.data.fill_(0.25)
        assert all((p == 0.25).all() for p in loss.parameters())
        other = copy.deepcopy(loss.get_stateful_net("net"))
        for parameter in other.parameters():
            parameter.data.fill_(0.5)
        loss.from_stateful_net("net", other)
        assert all((p == 0.5).all() for p in loss.parameters())


def test_an_estimator_of_ones_own_is_no_submodule():
    from torchrl.objectives.value import TD0Estimator

    loss = Own(net())
    loss._value_estimator = TD0Estimator(gamma=0.5, value_network=critic())
    assert loss.value_estimator.gamma == 0.5
    assert not any("estimator" in name for name, _ in loss.named_parameters())


# ------------------------------------------------------------------ randomness of ensembles


def noisy():
    return TensorDictModule(nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5)), ["x"], ["y"])


def drawn(loss, td):
    return [member(td.clone())["y"] for member in loss.network("net")]


def test_randomness_follows_the_layers_and_can_be_chosen():
    loss, td = Own([noisy(), noisy()], expand_dim=2), TensorDict(x=torch.ones(64, 3), batch_size=[64])
    with torch.no_grad():
        loss.network("net").stacked.module[0].weight.fill_(1.0)
    assert (loss.vmap_randomness, Own(net(), expand_dim=2).vmap_randomness) == ("different", "error")
    one, two = drawn(loss, td)
    assert ((one == 0) != (two == 0)).any()
    loss.set_vmap_randomness("same")
    for same in (loss, copy.deepcopy(loss)):
        assert same.vmap_randomness == "same"
        one, two = drawn(same, td)
        assert ((one == 0) == (two == 0)).all()
    loss.set_vmap_randomness("error")
    with pytest.raises(RuntimeError, match="drew random numbers"):
        drawn(loss, td)


# ------------------------------------------------------------------ lazy networks


LINEAR = nn.Linear
# which read entries of a tensordict of parameters, or run inside an environment
NEVER_LAZY = {"dreamer's policy", "gail, penalty"}


@pytest.mark.parametrize("before", [True, False], ids=["updater first", "loss first"])
@pytest.mark.parametrize("name", [name for name in LOSSES if name not in NEVER_LAZY])
def test_networks_may_infer_their_inputs(name, before, monkeypatch):
    make, batch = LOSSES[name]
    expected = {key: p.shape for key, p in make().named_parameters()}
    if "dreamer" not in name:
        monkeypatch.setattr(nn, "Linear", lambda inputs, outputs, **kw: nn.LazyLinear(outputs, **kw))
    loss = make()
    optimizer = torch.optim.Adam(loss.parameters())
    updater = SoftUpdate(loss, tau=0.5) if before and loss.has_targets else None
    td = batch()
    out = loss(td)
    out = out[0] if isinstance(out, tuple) else out
    assert {key: p.shape for key, p in loss.named_parameters()} == expected
    sum(value for key, value in out.items() if key.startswith("loss")).backward()
    assert all(p.grad is not None for p in loss.parameters() if p.requires_grad)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in loss.parameters()}
    if loss.has_targets:
        updater = updater or SoftUpdate(loss, tau=0.5)
        for network in loss.target_pairs():
            online, target = getattr(loss, f"{network}_params"), getattr(loss, f"target_{network}_params")
            for one, other in zip(online.values(True, True), target.values(True, True), strict=True):
                assert torch.equal(one, other)
        optimizer.step()
        updater.step()


# ------------------------------------------------------------------ plain networks


@pytest.mark.parametrize("make", [lambda net: DQNLoss(net, action_space="one-hot")])
@pytest.mark.parametrize("double", [False, True])
def test_q_learning_takes_a_plain_network(make, double):
    plain = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 3))
    loss = DQNLoss(plain, action_space="one-hot", double_dqn=double)
    wrapped = DQNLoss(
        TensorDictModule(plain, ["observation"], ["action_value"]), action_space="one-hot", double_dqn=double
    )
    td = transitions(3, discrete=True)
    assert "observation" in loss.in_keys
    torch.testing.assert_close(loss(td.clone())["loss"], wrapped(td.clone())["loss"])


def test_novelty_takes_plain_networks():
    loss = RNDLoss(nn.Linear(3, 4), nn.Linear(3, 4), update_fraction=1.0)
    loss(transitions())["loss_predictor"].backward()
    assert [name.split(".")[0] for name, _ in loss.named_parameters()] == ["predictor_network_params"] * 2


def test_all_critics_make_the_target_where_there_are_few():
    loss = REDQLoss(gaussian_actor(), q_critic(), num_qvalue_nets=1, sub_sample_len=2)
    assert loss(transitions())["loss_qvalue"].isfinite()


def test_a_network_can_be_replaced():
    loss = DQNLoss(q_network(), action_space="one_hot")
    other = q_network()
    loss.value_network = other
    assert loss.network("value_network") is other
    assert {id(p) for p in loss.parameters()} == {id(p) for p in other.parameters()}


def test_ppo_with_a_plain_critic_is_still_refused():
    with pytest.raises(TypeError, match="without in_keys"):
        ClipPPOLoss(gaussian_actor(), nn.Linear(3, 1))
