"""Noise whose draw is kept with the data: consistent dropout and gSDE."""

import math

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn

from torchrl._core.errors import MissingKeyError
from torchrl._core.exploration import set_exploration_type
from torchrl.modules import ConsistentDropout, ConsistentDropoutModule, LazygSDEModule, SafeModule, gSDEModule
from torchrl.testing import module as contract
from torchrl.testing.module import ModuleCase

CASE = ModuleCase(
    lambda: TensorDictSequential(
        SafeModule(nn.Linear(3, 8), ["observation"], ["hidden"]), ConsistentDropoutModule(0.5, ["hidden"])
    ),
    {"observation": (3,), "mask_hidden": lambda batch: 2.0 * torch.ones(*batch, 8)},
    {"hidden": (8,), "mask_hidden": (8,)},
    ("hidden",),
)


def test_contract():
    contract.check_keys_and_shapes(CASE)
    contract.check_state_dict(CASE)
    contract.check_dtypes(CASE)
    contract.check_gradients(CASE)
    contract.check_compiled_equals_call(CASE)
    contract.check_compiles(CASE)


def test_dropout_keeps_the_mean_and_drops_its_share():
    layer, x = ConsistentDropout(0.3), torch.ones(40_000)
    out, mask = layer(x)
    assert float((out == 0).float().mean()) == pytest.approx(0.3, abs=0.01)
    assert float(out.mean()) == pytest.approx(1, abs=0.02)
    assert layer(2 * x, mask)[0].equal(2 * out)
    assert layer.eval()(x) is x
    with pytest.raises(ValueError, match="expected 0 <= p < 1, found 1"):
        ConsistentDropout(1)


def test_a_policy_is_evaluated_again_as_it_acted():
    module = CASE.make()
    td = module(TensorDict(observation=torch.randn(6, 3), batch_size=[6]))
    again = module(td.select("observation", "mask_hidden"))
    assert again["hidden"].equal(td["hidden"])
    fresh = module(td.select("observation"))
    assert not fresh["hidden"].equal(td["hidden"])
    module.eval()
    assert "mask_hidden" not in module(td.select("observation"))


def test_dropout_names_and_primer():
    module = ConsistentDropoutModule(0.5, [("a", "x"), "m"], ["y", "m2"], input_shape=(4,))
    td = module(TensorDict(a=TensorDict(x=torch.ones(4))))
    assert td["y"].equal(td["m2"])
    assert ConsistentDropoutModule(0.5, [("a", "x")]).in_keys == [("a", "x"), ("a", "mask_x")]
    primer = module.make_tensordict_primer()
    assert primer.primers["m"].shape == (4,)
    assert set(primer.default_value().tolist()) <= {0.0, 2.0}
    with pytest.raises(ValueError, match="Give input_shape"):
        ConsistentDropoutModule(0.5, "x").make_tensordict_primer()
    with pytest.raises(MissingKeyError, match="'x' is read but absent"):
        ConsistentDropoutModule(0.5, "x")(TensorDict())


@pytest.mark.parametrize("lazy", [True, False])
@pytest.mark.parametrize("learn_sigma", [True, False])
def test_gsde_is_a_linear_function_of_the_state(lazy, learn_sigma):
    options = {"sigma_init": 0.4, "learn_sigma": learn_sigma}
    module = LazygSDEModule(**options) if lazy else gSDEModule(2, 3, **options)
    mu, state = torch.randn(5, 2), torch.randn(5, 3)
    _, std, action, eps = module(mu, state)
    sigma = 0.4 / state.square().sum(-1).mean().sqrt() if lazy else 0.4  # the action starts with a spread of 0.4
    torch.testing.assert_close(action, mu + torch.einsum("bas,bs->ba", sigma * eps, state))
    torch.testing.assert_close(std, sigma * state.norm(dim=-1, keepdim=True).expand(5, 2))
    same = module(mu, state, eps)
    assert same[2].equal(action)
    assert same[3] is eps
    with set_exploration_type("mode"):
        assert module(mu, state, eps)[2].equal(mu)
    assert len(list(module.parameters())) == learn_sigma
    assert type(module) is gSDEModule


def test_gsde_spread_is_what_it_says():
    module, state = gSDEModule(2, 3), torch.tensor([0.5, -1.0, 2.0])
    _, std, action, _ = module(torch.zeros(20_000, 2), state.expand(20_000, 3))
    torch.testing.assert_close(action.std(0), std[0].detach(), rtol=0.03, atol=0)
    torch.testing.assert_close(std[0, 0].detach(), state.norm() / math.sqrt(3))
    loose = gSDEModule(2, 3, sigma_init=50.0, scale_max=2.0)
    assert (loose.sigma == 2).all()


def test_gsde_transform_and_gradients():
    module = gSDEModule(2, 3, transform=torch.distributions.transforms.TanhTransform())
    td_module = TensorDictModule(module, ["mu", "state", "_eps_gSDE"], ["loc", "scale", "action", "_eps_gSDE"])
    td = td_module(TensorDict(mu=torch.randn(5, 2), state=torch.randn(5, 3), batch_size=[5]))
    assert (td["action"].abs() <= 1).all()
    assert td["_eps_gSDE"].shape == (5, 2, 3)
    (td["action"].square() + td["scale"]).sum().backward()
    assert (module.log_sigma.grad != 0).all()
    compiled = torch.compile(module, fullgraph=True, backend="eager")
    args = td["mu"], td["state"], td["_eps_gSDE"]
    for one, other in zip(compiled(*args), module(*args), strict=True):
        torch.testing.assert_close(one, other)
