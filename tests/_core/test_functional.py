"""``make_functional``: the parameters leave the module and are handed to each call."""

import copy
import pickle

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn

import torchrl
from torchrl._core.functional import install, make_functional


def sequence():
    return TensorDictSequential(
        TensorDictModule(nn.Linear(3, 4), ["observation"], ["hidden"]),
        TensorDictModule(nn.Linear(4, 1), ["hidden"], ["value"]),
    )


def batch():
    return TensorDict({"observation": torch.randn(5, 3)}, [5])


def test_the_module_is_left_without_parameters_and_without_state():
    module = sequence()
    weights = [p.detach().clone() for p in module.parameters()]
    params = make_functional(module)
    assert not list(module.parameters())
    assert not module.state_dict()
    for given, weight in zip(params.values(True, True), weights, strict=True):
        assert given.requires_grad
        assert torch.equal(given, weight)


def test_calls_use_the_parameters_that_they_get():
    reference, module, td = sequence(), sequence(), batch()
    module.load_state_dict(reference.state_dict())
    params = make_functional(module)
    torch.testing.assert_close(module(td.clone(), params)["value"], reference(td.clone())["value"])
    torch.testing.assert_close(module(td.clone(), params=params)["value"], reference(td.clone())["value"])
    assert (module(td.clone(), params.apply(torch.zeros_like))["value"] == 0).all()
    assert all(b.is_meta for b in module.buffers())  # the call left nothing behind


def test_gradients_reach_the_parameters():
    module = sequence()
    params = make_functional(module)
    module(batch(), params)["value"].sum().backward()
    assert all(p.grad is not None for p in params.values(True, True))


def test_maps_over_sets_of_parameters():
    module, td = sequence(), batch()
    params = make_functional(module)
    sets = torch.stack([params.data, params.data * 2, params.data * 0])
    mapped = torch.vmap(module, (None, 0))(td, sets)
    assert mapped.batch_size == (3, 5)
    for i in range(3):
        expected = module(td.clone(), sets[i])["value"]
        torch.testing.assert_close(mapped["value"][i], expected)


def test_buffers_and_shared_weights_come_along():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = self.other = nn.Linear(3, 3)
            self.register_buffer("shift", torch.tensor(2.0))

        def forward(self, x):
            return self.other(self.one(x)) + self.shift

    module, x = Tied(), torch.randn(2, 3)
    expected = module(x)
    params = make_functional(module)
    torch.testing.assert_close(module(x, params), expected)
    shifted = params.clone()
    shifted["shift"] = torch.tensor(3.0)
    torch.testing.assert_close(module(x, shifted), expected + 1)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_are_functional_and_on_their_own(duplicate):
    module, td = sequence(), batch()
    params = make_functional(module)
    other = duplicate(module)
    assert other.forward.args[0] is other
    torch.testing.assert_close(other(td.clone(), params)["value"], module(td.clone(), params)["value"])


@pytest.mark.parametrize("module", [sequence, lambda: nn.Linear(3, 1)])
def test_a_call_without_parameters_says_so(module):
    module = module()
    make_functional(module)
    td = batch()
    with pytest.raises(TypeError, match="has no parameters of its own"):
        module(td if hasattr(module, "in_keys") else td["observation"])


def test_is_offered_where_scripts_look_for_it(monkeypatch):
    from tensordict.nn import make_functional as offered

    assert torchrl
    assert callable(offered)
    monkeypatch.setattr("tensordict.nn.make_functional", "theirs")
    install()
    import tensordict.nn

    assert tensordict.nn.make_functional == "theirs"
    monkeypatch.delattr("tensordict.nn.make_functional")
    install()
    assert tensordict.nn.make_functional is make_functional
