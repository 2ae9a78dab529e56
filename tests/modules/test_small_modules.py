"""TanhModule, VmapModule, WorldModelWrapper, EnsembleModule, primers of policies."""

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn

from torchrl._core.errors import MissingKeyError, MissingSpecError, SpecError
from torchrl._core.math import signed_hyperbolic, signed_parabolic, symexp, symlog
from torchrl.data import Bounded, Categorical, Composite
from torchrl.modules import (
    MLP,
    Actor,
    ConsistentDropoutModule,
    EnsembleModule,
    GRUModule,
    LSTMModule,
    SafeModule,
    TanhModule,
    VmapModule,
    WorldModelWrapper,
)
from torchrl.modules.tensordict_module.common import ensure_tensordict_compatible, is_tensordict_compatible
from torchrl.modules.utils import get_env_transforms_from_module, get_primers_from_module
from torchrl.testing import module as contract
from torchrl.testing.module import ModuleCase

CASES = {
    "TanhModule": ModuleCase(
        lambda: TensorDictSequential(
            Actor(nn.Linear(3, 2)), TanhModule(["action"], spec=Bounded(-2, 3, (2,)), clamp=True)
        ),
        {"observation": (3,)},
        {"action": (2,)},
        ("action",),
    ),
    "WorldModelWrapper": ModuleCase(
        lambda: WorldModelWrapper(
            SafeModule(MLP(5, 3, depth=1), ["state", "action"], [("next", "state")]),
            SafeModule(MLP(3, 1, depth=1), [("next", "state")], [("next", "reward")]),
        ),
        {"state": (3,), "action": (2,)},
        {("next", "state"): (3,), ("next", "reward"): (1,)},
        (("next", "reward"),),
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_contract(case):
    contract.check_keys_and_shapes(case)
    contract.check_state_dict(case)
    contract.check_dtypes(case)
    contract.check_gradients(case)
    contract.check_compiled_equals_call(case)
    contract.check_compiles(case)


def test_tanh_module_ranges():
    value = torch.tensor([-100.0, 0.0, 0.5, 100.0])
    td = TensorDict(a=value)
    assert TanhModule("a")(td.clone())["a"].tolist() == value.tanh().tolist()
    low, high = torch.tensor([0.0, 1, 2, 3]), torch.tensor([1.0, 2, 4, 9])
    out = TanhModule("a", "b", spec=Composite(b=Bounded(low, high)))(td.clone())
    expected = low + (high - low) * (value.tanh() + 1) / 2
    torch.testing.assert_close(out["b"], expected)
    assert out["a"].equal(value)
    clamped = TanhModule("a", low=-1, high=1, clamp=True)(td.clone())["a"]
    assert (clamped.abs() < 1).all()
    both = TanhModule(["a", ("n", "c")], low=0)(td.clone().set(("n", "c"), value))
    assert (both["n", "c"] >= 0).all()


def test_what_tanh_module_refuses():
    with pytest.raises(SpecError, match=r"another range than its spec; expected high=3\.0, found high=2"):
        TanhModule("action", spec=Bounded(-2, 3, (2,)), high=2)
    with pytest.raises(SpecError, match="has no range; expected a Bounded spec"):
        TanhModule("action", spec=Categorical(3))
    with pytest.raises(ValueError, match="empty range"):
        TanhModule("action", low=3)
    with pytest.raises(MissingKeyError, match="'action' is read but absent"):
        TanhModule("action")(TensorDict(actions=torch.zeros(2)))


@pytest.mark.parametrize("mock", [True, False])
@pytest.mark.parametrize("dim", [None, 1, -1])
def test_vmap_hides_a_batch_dimension(mock, dim):
    seen = []

    def net(a):
        seen.append(a.shape)
        return a @ torch.eye(3)

    module = VmapModule(TensorDictModule(net, ["a"], ["b"]), dim, mock=mock)
    td = TensorDict(a=torch.randn(4, 5, 3), batch_size=[4, 5])
    out = module(td)
    assert out is td
    torch.testing.assert_close(out["b"], td["a"])
    assert seen[0] == ((5, 3) if dim is None else (4, 3))
    assert len(seen) == (1 if not mock else 4 if dim is None else 5)


def test_world_model_hands_out_its_parts():
    step, worth = (CASES["WorldModelWrapper"].make().module[i] for i in range(2))
    model = WorldModelWrapper(step, worth)
    assert model.get_transition_model_operator() is step
    assert model.get_reward_operator() is worth


def test_ensembles_of_value_networks():
    net = TensorDictModule(MLP(3, 1, depth=1), ["observation"], ["value"])
    td = EnsembleModule(net, num_copies=4)(TensorDict(observation=torch.randn(5, 3), batch_size=[5]))
    assert td["value"].shape == (4, 5, 1)
    assert td["value"].std(0).min() > 0


def test_primers_of_policies():
    rnn = LSTMModule(3, 4, 2, in_key="observation", out_key="hidden")
    primer = rnn.make_tensordict_primer()
    assert {k: s.shape for k, s in primer.primers.items()} == {"recurrent_state_h": (2, 4), "recurrent_state_c": (2, 4)}
    other = GRUModule(4, 4, in_key="hidden", out_key="deep")
    policy = TensorDictSequential(rnn, other)
    assert len(get_primers_from_module(policy)) == 2
    assert len(get_env_transforms_from_module(policy)) == 3 - 1
    plain = Actor(nn.Linear(3, 2))
    assert get_primers_from_module(plain, warn=False, strict=False) is None
    with pytest.warns(UserWarning, match="found nothing in .* that keeps entries"):
        assert get_primers_from_module(plain) is None
    tracker = get_env_transforms_from_module(plain, init_key="begins")
    assert (type(tracker).__name__, tracker.init_key) == ("InitTracker", "begins")
    dropout = ConsistentDropoutModule(0.5, ["hidden"])
    both = TensorDictSequential(policy, dropout)
    for make in (dropout.make_tensordict_primer, lambda: get_primers_from_module(both)):
        with pytest.raises(RuntimeError, match="draws masks of a known shape"):
            make()
    with pytest.warns(UserWarning, match="there is no primer of ConsistentDropoutModule"):
        assert len(get_primers_from_module(both, strict=False)) == 2


@pytest.mark.parametrize(("squash", "stretch"), [(symlog, symexp), (signed_hyperbolic, signed_parabolic)])
def test_maps_of_values_have_inverses(squash, stretch):
    value = torch.tensor([-1e3, -1.0, 0.0, 2.0, 1e4], dtype=torch.float64)
    torch.testing.assert_close(stretch(squash(value)), value)
    assert (squash(value).abs() <= value.abs()).all()


@pytest.mark.parametrize("key", ["steer", ("agents", "steer")])
def test_tanh_module_keeps_its_range_with_its_state(key):
    name = "steer" if key == "steer" else "agents_steer"
    module = TanhModule([key], low=-2.0, high=torch.tensor([1.0, 3.0]))
    assert set(module.state_dict()) == {f"{name}_low", f"{name}_high"}
    td = TensorDict({key: torch.full((2,), 50.0)})
    assert module(td.clone())[key].tolist() == [1.0, 3.0]
    other = TanhModule([key])
    with pytest.raises(RuntimeError, match="size mismatch"):
        other.load_state_dict(module.state_dict())
    other = TanhModule([key], low=0, high=torch.tensor([1.0, 1.0]))
    other.load_state_dict(module.state_dict())
    assert other(td.clone())[key].tolist() == [1.0, 3.0]


def test_what_tanh_module_tells_of_itself():
    spec = Composite(left=Bounded(-1, 1, (2,)), right=Bounded(0, 1, (2,)))
    module = TanhModule(["a", "b"], ["left", "right"], spec=spec)
    assert module.non_trivial == {"left": False, "right": True}
    assert module.spec["right"] == spec["right"]
    plain = TanhModule(["a"], high=3.0)
    assert (plain.non_trivial, plain.spec["a"]) == ({"a": True}, None)
    for keys in (["c"], ["c", "d", "e"]):
        with pytest.raises(ValueError, match="has one output for each input"):
            TanhModule(["a", "b"], keys)


def test_networks_are_wrapped_with_keys():
    class Net(nn.Module):
        def forward(self, left, right):
            return left + right

    wrapped = ensure_tensordict_compatible(Net(), out_keys=["sum"])
    assert wrapped.in_keys == ["left", "right"]
    assert wrapped(TensorDict(left=torch.ones(1), right=torch.ones(1)))["sum"].item() == 2
    assert ensure_tensordict_compatible(wrapped, ["right", "left"], ["sum"]) is wrapped
    assert [is_tensordict_compatible(each) for each in (wrapped, Net(), lambda td: td)] == [True, False, False]
    safe = ensure_tensordict_compatible(Net(), ["a", "b"], ["c"], safe=True, spec=Bounded(-1, 1, (1,)))
    assert safe(TensorDict(a=torch.ones(1), b=torch.ones(1)))["c"].item() == 1
    plain = ensure_tensordict_compatible(Net(), ["a", "b"], ["c"], wrapper_type=TensorDictModule)
    assert type(plain) is TensorDictModule
    with pytest.raises(TypeError, match="has other out_keys"):
        ensure_tensordict_compatible(wrapped, out_keys=["difference"])
    with pytest.raises(TypeError, match="Give out_keys"):
        ensure_tensordict_compatible(Net(), ["a", "b"])


@pytest.mark.parametrize("kind", [SafeModule, Actor])
def test_specs_that_are_missing_or_not_used(kind):
    for error in (RuntimeError, SpecError):
        with pytest.raises(error, match="is safe only with a spec"):
            kind(nn.Linear(2, 2), in_keys=["x"], out_keys=["y"], safe=True)
    with pytest.raises(MissingSpecError, match="draws from its spec"):
        kind(nn.Linear(2, 2), in_keys=["x"], out_keys=["y"]).random(TensorDict())
    with pytest.warns(UserWarning, match="'_' is never written, so its spec is not used"):
        kind(nn.Linear(2, 2), in_keys=["x"], out_keys=["_", "y"], spec=Composite({"_": Bounded(-1, 1, (2,))}))
