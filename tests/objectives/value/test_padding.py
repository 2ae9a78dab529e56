"""Trajectories that were cut and padded give the estimates of the trajectories themselves."""

import pytest
import torch

from tests.objectives.value.test_estimators import MAKE, rows
from torchrl.objectives import ClipPPOLoss, DQNLoss
from torchrl.objectives.value import GAE, TDLambdaEstimator, VTrace
from torchrl.testing.networks import critic, gaussian_actor, q_network, transitions

LENGTHS, STEPS = [4, 7, 1], 7


def trajectories():
    """Of which no end is one of an episode, each padded with what no formula bears."""
    td = rows((len(LENGTHS), STEPS))
    td["next", "done"][:] = td["next", "terminated"][:] = False
    td["observation"][:, 1:] = td["next", "observation"][:, :-1]
    mask = torch.arange(STEPS) < torch.tensor(LENGTHS).unsqueeze(-1)
    padded = td.clone()
    for key in [key for key, x in td.items(True, True) if x.is_floating_point()]:
        padded[key][~mask] = float("nan")
    return td, padded.set(("collector", "mask"), mask), mask


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("name", MAKE)
def test_padding_is_no_data(name, shifted):
    td, padded, _ = trajectories()
    out = MAKE[name](shifted=shifted)(padded)
    for row, length in enumerate(LENGTHS):
        alone = MAKE[name]()(td[row, :length].clone())
        for key in ("advantage", "value_target"):
            torch.testing.assert_close(out[key][row, :length], alone[key])


@pytest.mark.parametrize(
    ("kind", "option"), [(GAE, "average_gae"), (VTrace, "average_adv"), (TDLambdaEstimator, "average_rewards")]
)
def test_averages_are_over_what_is_no_padding(kind, option):
    td, padded, mask = trajectories()
    arguments = {"gamma": 0.0, "value_network": critic()}  # so that no step is that of another
    if kind is VTrace:
        arguments["actor_network"] = gaussian_actor()
    else:
        arguments["lmbda"] = 0.5
    make = lambda: kind(**arguments, **{option: True})
    out, expected = make()(padded), make()(td[mask])
    torch.testing.assert_close(out["advantage"][mask], expected["advantage"])


def test_a_loss_that_estimates_on_padded_trajectories():
    td, padded, _ = trajectories()
    for key in ("observation", ("next", "observation"), "action"):  # gradients meet what is read
        padded[key].nan_to_num_(0.5)
    loss = ClipPPOLoss(gaussian_actor(), critic(), gamma=0.9, lmbda=0.8, normalize_advantage=True)
    parts = [loss.value_estimator(td[row, :length].clone()) for row, length in enumerate(LENGTHS)]
    expected = loss(torch.cat(parts))
    out = loss(padded)
    for key in ("loss_objective", "loss_critic", "loss_entropy", "explained_variance"):
        torch.testing.assert_close(out[key], expected[key])
    out.backward()
    assert all(p.grad.isfinite().all() for p in loss.parameters())


@pytest.mark.parametrize("shape", [(6, 1), (6,)], ids=str)
def test_steps_of_several_lengths_need_no_last_dimension(shape):
    td = transitions(3, discrete=True)
    loss = DQNLoss(q_network(), action_space="one_hot", gamma=0.5)
    count = torch.tensor([1, 2, 3, 1, 2, 3]).reshape(shape)
    ahead = loss.value_network.module(td["next", "observation"]).amax(-1, keepdim=True)
    target = 0.5 ** count.reshape(6, 1) * ahead * ~td["next", "terminated"] + td["next", "reward"]
    taken = (loss.value_network.module(td["observation"]) * td["action"]).sum(-1, keepdim=True)
    out = loss(td.set("steps_to_next_obs", count))
    torch.testing.assert_close(out["loss"], ((taken - target) ** 2).mean())
