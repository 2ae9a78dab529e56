"""Methods that compute one loss of several: they equal the same loss of a call, and report what belongs to it."""

import pytest
import torch

from tests.objectives.test_losses_contract import LOSSES
from torchrl.objectives import CrossQLoss, DDPGLoss, SACLoss, TD3BCLoss
from torchrl.objectives.off_policy import CriticLoss
from torchrl.testing.networks import deterministic_actor, gaussian_actor, q_critic, transitions

# In the order in which a call computes them; those of one group share their random draws.
GROUPS = (("qvalue_loss", "loss_value"), ("actor_loss", "loss_actor"), ("actor_bc_loss",), ("cql_loss",))
SHARED = {"actor_loss": "value_loss", "cql_loss": "alpha_prime_loss"}
TERMS = {
    "qvalue_loss": "loss_qvalue",
    "loss_value": "loss_value",
    "actor_loss": "loss_actor",
    "loss_actor": "loss_actor",
    "actor_bc_loss": "loss_actor_bc",
    "cql_loss": "loss_cql",
    "alpha_prime_loss": "loss_alpha_prime",
    "alpha_loss": "loss_alpha",
    "value_loss": "loss_value",
}
METHODS = {"loss_actor", "loss_value", "actor_loss", "qvalue_loss"}
SPLIT = [name for name, (make, _) in LOSSES.items() if METHODS & {*dir(type(make()))}]


def one_by_one(loss, td, out):
    """Return every loss that a method computes alone, with the draws of a call, and what they report."""
    terms, report = {}, {}
    torch.manual_seed(1)
    for group in GROUPS:
        for method in group:
            if not hasattr(loss, method):
                continue
            state = torch.get_rng_state()
            terms[TERMS[method]], metadata = getattr(loss, method)(td)
            other = SHARED.get(method)
            if other is not None and f"{TERMS[other]}" in out and hasattr(loss, other):
                after = torch.get_rng_state()
                torch.set_rng_state(state)
                terms[TERMS[other]], _ = getattr(loss, other)(td)
                torch.set_rng_state(after)
            if method == "actor_loss" and hasattr(loss, "alpha_loss"):
                terms["loss_alpha"], _ = loss.alpha_loss(metadata)
            report.update(metadata)
    return terms, report


@pytest.mark.parametrize("is_padded", [False, True], ids=["", "padded"])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("name", SPLIT)
def test_each_equals_the_term_of_a_call(name, reduction, is_padded):
    make, batch = LOSSES[name]
    loss, td = make(), batch()
    loss.reduction = reduction
    if is_padded:
        td["collector", "mask"] = torch.arange(td.numel()).reshape(td.shape) < td.numel() - 2
    torch.manual_seed(1)
    called, alone = td.copy(), td.copy()
    out = loss(called)
    terms, report = one_by_one(loss, alone, out)
    assert {*terms} == {key for key in [*out.keys()] if key.startswith("loss")}
    for key, value in terms.items():
        torch.testing.assert_close(value, out[key], rtol=0, atol=0, msg=f"{name}: {key}")
    priority = loss.tensor_keys.priority
    assert (alone[priority] == called[priority]).all()
    for key in {*out.keys()} - {*terms}:
        assert (report[key] == out[key]).all(), key
        assert not report[key].requires_grad
    assert "td_error" in report


@pytest.mark.parametrize("name", SPLIT)
def test_each_reaches_the_parameters_that_it_reaches_in_a_call(name):
    make, batch = LOSSES[name]
    loss, td = make(), batch()
    torch.manual_seed(1)
    out = loss(td)
    terms, _ = one_by_one(loss, td, out)
    for key, value in terms.items():
        parameters = list(loss.parameters())
        if not out[key].requires_grad:
            assert not value.requires_grad
            continue
        expected = torch.autograd.grad(out[key], parameters, allow_unused=True, retain_graph=True)
        found = torch.autograd.grad(value, parameters, allow_unused=True, retain_graph=True)
        for one, other in zip(found, expected, strict=True):
            one, other = (torch.zeros(()) if g is None else g for g in (one, other))
            assert (one == other).all(), key


def test_every_loss_with_an_actor_and_a_critic_of_actions_has_them():
    without = {
        kind.__name__
        for make, _ in LOSSES.values()
        for kind in [type(make())]
        if issubclass(kind, CriticLoss) and not METHODS & {*dir(kind)}
    }
    assert without == {"DQNLoss", "DistributionalDQNLoss", "QRDQNLoss", "QMixerLoss", "OnlineDTLoss"}


def test_names_of_the_methods_of_one_algorithm_hold():
    td = transitions()
    loss = TD3BCLoss(deterministic_actor(), q_critic(), bounds=(-1.0, 1.0))
    _, report = loss.actor_loss(td)
    assert {*report} == {"state_action_value_actor", "bc_loss", "lmbd"}
    torch.manual_seed(0)
    value, report = loss.value_loss(td)
    torch.manual_seed(0)
    assert value == loss.qvalue_loss(td)[0]
    assert {*report} == {"td_error", "next_state_value", "pred_value", "target_value"}
    ddpg = DDPGLoss(deterministic_actor(), q_critic())
    assert ddpg.loss_actor(td)[1] == {}
    assert {*ddpg.loss_value(td)[1]} >= {"td_error", "pred_value", "target_value"}


def test_a_temperature_is_learnt_from_log_probabilities_or_from_a_batch():
    loss, td = CrossQLoss(gaussian_actor(), q_critic()), transitions()
    torch.manual_seed(0)
    _, report = loss.actor_loss(td)
    alone = loss.alpha_loss(log_prob=report["log_prob"])
    torch.manual_seed(0)
    of_batch, metadata = loss.alpha_loss(td)
    assert alone == of_batch == loss.alpha_loss(report)[0]
    assert metadata["alpha"] == loss.alpha
    assert alone.requires_grad


def test_what_a_loss_does_not_have_is_named():
    loss, td = SACLoss(gaussian_actor(), q_critic()), transitions()
    with pytest.raises(TypeError, match="no value network"):
        loss.value_loss(td)
    cql, batch = LOSSES["cql"]
    with pytest.raises(TypeError, match="with_lagrange=True"):
        cql().alpha_prime_loss(batch())
