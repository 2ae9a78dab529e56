"""Target networks follow by their rule, exactly."""

import copy

import pytest
import torch
from tensordict.nn import TensorDictModule
from torch import nn

from torchrl.objectives import DDPGLoss, DQNLoss, HardUpdate, SACLoss, SoftUpdate
from torchrl.testing.networks import OBS, deterministic_actor, gaussian_actor, q_critic, q_network, transitions


def ddpg():
    return DDPGLoss(deterministic_actor(), q_critic(), delay_actor=True)


def shifted(loss):
    with torch.no_grad():
        for p in loss.parameters():
            p.add_(1.0)
    return loss


@pytest.mark.parametrize("arguments", [{"eps": 0.9}, {"tau": 0.1}], ids=str)
def test_soft_update_is_a_moving_average(arguments):
    loss = ddpg()
    updater = SoftUpdate(loss, **arguments)
    shifted(loss)
    names = ["value_network", "actor_network"]
    old = {n: getattr(loss, f"target_{n}_params").detach().clone() for n in names}
    online = {n: getattr(loss, f"{n}_params").detach().clone() for n in names}
    updater.step()
    for name in names:
        new = getattr(loss, f"target_{name}_params").detach()
        expected = old[name] * 0.9 + online[name] * 0.1
        torch.testing.assert_close(new.flatten_keys("."), expected.flatten_keys("."))


def test_hard_update_copies_every_k_steps_exactly():
    loss = ddpg()
    updater = HardUpdate(loss, value_network_update_interval=3)
    shifted(loss)
    same = []
    for step in range(7):
        updater.step()
        online, target = loss.value_network_params, loss.target_value_network_params
        same.append(bool((online.detach() == target.detach()).all()))
        if step == 2:
            shifted(loss)
    assert same == [False, False, True, False, False, True, True]


def test_hard_update_remembers_its_count():
    loss = ddpg()
    one = HardUpdate(loss, value_network_update_interval=3)
    one.step()
    one.step()
    other = HardUpdate(loss, value_network_update_interval=3)
    other.load_state_dict(one.state_dict())
    shifted(loss)
    other.step()
    assert (loss.value_network_params.detach() == loss.target_value_network_params.detach()).all()


def test_building_an_updater_aligns_the_targets():
    loss = shifted(ddpg())
    assert (loss.value_network_params.detach() != loss.target_value_network_params.detach()).any()
    SoftUpdate(loss, eps=0.99)
    assert (loss.value_network_params.detach() == loss.target_value_network_params.detach()).all()


def test_ensembles_statistics_and_counts_follow():
    net = nn.Sequential(nn.Linear(OBS + 2, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = copy.deepcopy(net)

        def forward(self, *x):
            return self.net(torch.cat(x, -1))

    critic = TensorDictModule(Net(), ["observation", "action"], ["state_action_value"])
    loss = SACLoss(gaussian_actor(), critic)
    updater = SoftUpdate(loss, tau=0.5)
    loss(transitions())["loss_qvalue"].backward()
    online, target = (n[1].module.net[1] for n in (loss.network("qvalue_network"), loss.target("qvalue_network")))
    mean = (online.running_mean + target.running_mean) / 2
    updater.step()
    torch.testing.assert_close(target.running_mean, mean)
    assert target.num_batches_tracked == online.num_batches_tracked > 0


def test_targets_follow_after_a_move():
    loss = ddpg()
    updater = SoftUpdate(loss, tau=1.0)
    loss.double()
    shifted(loss)
    updater.step()
    torch.testing.assert_close(
        loss.target_value_network_params.detach().flatten_keys("."),
        loss.value_network_params.detach().flatten_keys("."),
    )


def test_what_is_refused():
    loss = DQNLoss(q_network(), action_space="one_hot", delay_value=False)
    with pytest.raises(ValueError, match=r"SoftUpdate: got a DQNLoss that has no target network"):
        SoftUpdate(loss, eps=0.99)
    with pytest.raises(ValueError, match=r"got both eps and tau\. tau is 1 - eps"):
        SoftUpdate(ddpg(), eps=0.99, tau=0.01)
    with pytest.raises(ValueError, match=r"expected 0 to 1, found 1\.5"):
        SoftUpdate(ddpg(), eps=1.5)


def test_a_weight_that_is_likely_the_other_one_warns():
    with pytest.warns(UserWarning, match=r"keeps little of.*eps=0\.005.*give tau=0\.005"):
        assert SoftUpdate(ddpg(), eps=0.005).eps == 0.005
    SoftUpdate(ddpg(), tau=0.9)  # said in so many words


def test_without_a_target_the_target_parameters_are_the_detached_ones():
    loss = DDPGLoss(deterministic_actor(), q_critic())
    target = loss.target_actor_network_params.flatten_keys(".")
    online = loss.actor_network_params.flatten_keys(".")
    assert (target == online.detach()).all()
    assert not any(p.requires_grad for p in target.values())
    assert {id(p) for p in online.values()} == {id(p) for p in loss.actor_network.parameters()}


def test_resetting_draws_networks_anew_and_their_targets_follow():
    loss = ddpg()
    before = loss.value_network_params.detach().clone()
    loss.reset_parameters_recursive()
    now = loss.value_network_params.detach()
    assert (before.flatten_keys(".") != now.flatten_keys(".")).any()
    assert (now == loss.target_value_network_params.detach()).all()


def test_networks_out_and_in():
    loss = ddpg()
    net = copy.deepcopy(loss.get_stateful_net("value_network"))
    shifted(net)
    assert (loss.value_network_params.detach() == loss.target_value_network_params.detach()).all()
    loss.from_stateful_net("value_network", net)
    assert loss.value_network.module.net[0].weight.eq(net.module.net[0].weight).all()
