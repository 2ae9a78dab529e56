"""Decision Transformers."""

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule

from torchrl._core.errors import MissingKeyError, ShapeError, UnexpectedKeyError
from torchrl.data import Bounded
from torchrl.modules import (
    DecisionTransformer,
    DecisionTransformerInferenceWrapper,
    DTActor,
    OnlineDTActor,
    ProbabilisticActor,
    TanhNormal,
)
from torchrl.modules.models.decision_transformer import TransformerConfig

S, A, T = 4, 2, 6
CONFIG = {"n_embd": 16, "n_layer": 2, "n_head": 2, "resid_pdrop": 0.0}
KEYS = ["observation", "action", "return_to_go"]


def inputs(*batch):
    return torch.randn(*batch, T, S), torch.randn(*batch, T, A), torch.randn(*batch, T, 1)


def data(*batch):
    return TensorDict(dict(zip(KEYS, inputs(*batch), strict=True)), batch_size=batch)


@pytest.mark.parametrize("batch", [(), (3,), (3, 2)], ids=str)
def test_shapes(batch):
    assert DecisionTransformer(S, A, CONFIG)(*inputs(*batch)).shape == (*batch, T, 16)
    assert DTActor(S, A, CONFIG)(*inputs(*batch)).shape == (*batch, T, A)
    loc, scale = OnlineDTActor(S, A, CONFIG)(*inputs(*batch))
    assert loc.shape == scale.shape == (*batch, T, A)
    assert ((scale >= 0.006) & (scale <= 7.39)).all()


def test_a_step_sees_its_past_and_not_its_future():
    net = DTActor(S, A, CONFIG)
    args = tuple(x.requires_grad_() for x in inputs(3))
    t = 2
    grads = torch.autograd.grad(net(*args)[:, t].sum(), args)
    for name, grad in zip(KEYS, grads, strict=True):
        seen = (grad != 0).any(0).any(-1).tolist()
        last = t if name == "action" else t + 1  # its own action is not known yet
        assert seen == [True] * last + [False] * (T - last), name


def test_positions_and_returns_matter():
    net = DTActor(S, A, CONFIG).eval()
    obs, action, rtg = (x[:1].expand(T, -1) for x in inputs())
    out = net(obs, action, rtg)
    assert not torch.allclose(out[0], out[1])
    assert not torch.allclose(net(obs, action, rtg + 1), out)
    with pytest.raises(ShapeError, match="expected at most 3 steps, found 6"):
        DTActor(S, A, {**CONFIG, "n_positions": 3})(*inputs())
    config = TransformerConfig(n_embd=8, n_inner=12)
    inner = DecisionTransformer(S, A, config).transformer.layers[0].linear1
    assert inner.out_features == 12


def test_state_dict_dtype_gradients_and_compilation():
    one, other = DTActor(S, A, CONFIG), DTActor(S, A, CONFIG)
    other.load_state_dict(one.state_dict())
    args = inputs(3)
    torch.testing.assert_close(one(*args), other(*args))
    one(*args).sum().backward()
    assert all(p.grad is not None for p in one.parameters())
    assert one.double()(*(x.double() for x in args)).dtype is torch.float64
    compiled = torch.compile(other, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(*args), other(*args))


def test_inference_sees_the_last_steps_and_returns_the_last_action():
    net = DTActor(S, A, CONFIG).eval()
    policy = DecisionTransformerInferenceWrapper(
        TensorDictModule(net, KEYS, ["action"]), inference_context=3, spec=Bounded(-1, 1, (A,))
    )
    td = data(5)
    obs, action, rtg = (td[key].clone() for key in KEYS)
    for x in (obs, action, rtg):
        x[:, :3] = 0
    action[:, -1] = 0
    expected = net(obs, action, rtg)[:, -1]
    changed = td.clone()
    changed["observation"][:, :3] += 1
    changed["action"][:, -1] += 1
    for case in (td, changed):
        out = policy(case)
        assert out is case
        torch.testing.assert_close(out["action"], expected)
    assert policy.spec["action"] == Bounded(-1, 1, (A,))


def test_inference_of_a_stochastic_policy():
    actor = ProbabilisticActor(
        TensorDictModule(OnlineDTActor(S, A, CONFIG), KEYS, ["loc", "scale"]),
        ["loc", "scale"],
        distribution_class=TanhNormal,
    )
    policy = DecisionTransformerInferenceWrapper(actor)
    td = policy(data(5))
    assert td["action"].shape == (5, A)
    assert td["loc"].shape == (5, T, A)
    assert set(policy.out_keys) == {"action", "loc", "scale"}


def test_other_names_and_messages():
    actor = TensorDictModule(DTActor(S, A, CONFIG), ["obs", "action", "return_to_go"], ["action"])
    policy = DecisionTransformerInferenceWrapper(actor)
    policy.set_tensor_keys(observation="obs")
    td = data(5)
    assert policy(td.rename_key_("observation", "obs"))["action"].shape == (5, A)
    with pytest.raises(UnexpectedKeyError, match=r"no such entry; expected.*found observations"):
        policy.set_tensor_keys(observations="obs")
    with pytest.raises(MissingKeyError, match=r"'return_to_go' is read but absent.*CatFrames"):
        policy(data(5).rename_key_("observation", "obs").exclude("return_to_go"))


@pytest.mark.parametrize(("kind", "width"), [(DTActor, 128), (OnlineDTActor, 512)])
def test_default_sizes_may_be_changed(kind, width):
    config = kind.default_config()
    assert isinstance(config, DecisionTransformer.DTConfig)
    assert config.n_embd == width
    config.n_embd, config.attn_pdrop, config.n_layer = 16, 0.3, 1
    actor = kind(S, A, transformer_config=config)
    (layer,) = actor.transformer.transformer.layers
    assert (layer.self_attn.dropout, layer.dropout1.p) == (0.3, 0.1)
    assert kind.default_config().n_embd == width
