"""Networks of several agents, and mixers."""

import copy
import itertools

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn

from torchrl._core.errors import ShapeError
from torchrl.modules import Mixer, MultiAgentConvNet, MultiAgentMLP, QMixer, VDNMixer

N, F = 3, 4
WAYS = list(itertools.product([False, True], [False, True], [False, True]))


def mlp(centralized, share_params, use_td_params=True, **kwargs):
    return MultiAgentMLP(
        F,
        2,
        N,
        centralized=centralized,
        share_params=share_params,
        use_td_params=use_td_params,
        num_cells=[8],
        **kwargs,
    )


def conv(centralized, share_params, use_td_params=True):
    return MultiAgentConvNet(
        N, centralized, share_params, in_features=2, num_cells=[4], kernel_sizes=3, use_td_params=use_td_params
    )


@pytest.mark.parametrize(("centralized", "share_params", "use_td_params"), WAYS)
@pytest.mark.parametrize("make", [mlp, conv])
def test_who_sees_and_who_shares(make, centralized, share_params, use_td_params):
    net = make(centralized, share_params, use_td_params)
    shape = (F,) if make is mlp else (2, 7, 7)
    for batch in ((), (5,), (5, 2)):
        assert net(torch.randn(*batch, N, *shape)).shape[: len(batch) + 1] == (*batch, N)

    x = torch.randn(5, N, *shape, requires_grad=True)
    out = net(x)
    first = torch.autograd.grad(out[:, 0].sum(), x, retain_graph=True)[0]
    seen = [bool((first[:, agent] != 0).any()) for agent in range(N)]
    assert seen == ([True] * N if centralized else [True] + [False] * (N - 1))

    same = torch.randn(1, 1, *shape).expand(1, N, *shape)
    one = net(same)[0]
    assert torch.allclose(one[0], one[1], atol=1e-6) is share_params

    parameters = list(net.parameters())
    count = sum(p.numel() for p in parameters)
    single = sum(p.numel() for p in make(centralized, True).parameters())
    assert count == (single if share_params else N * single)
    grads = torch.autograd.grad(out.square().sum(), parameters)
    assert all((g != 0).any() for g in grads)


def test_stacked_networks_equal_a_list_of_them():
    for centralized in (False, True):
        listed, stacked = (mlp(centralized, False, use) for use in (False, True))
        params = TensorDict.from_modules(*listed.nets)
        stacked.params.data.copy_(params.detach())
        x = torch.randn(5, N, F)
        torch.testing.assert_close(stacked(x), listed(x))


def test_one_network_shared_is_that_network():
    net, x = mlp(False, True), torch.randn(5, N, F)
    torch.testing.assert_close(net(x), net.nets[0](x))
    net = mlp(True, True)
    torch.testing.assert_close(net(x), net.nets[0](x.flatten(1)).unsqueeze(1).expand(5, N, 2))


def test_several_inputs_are_joined():
    net, x = mlp(False, False), torch.randn(5, N, F)
    torch.testing.assert_close(net(x[..., :1], x[..., 1:]), net(x))


def test_state_dict_and_compilation():
    one, other, x = mlp(True, False), mlp(True, False), torch.randn(5, N, F)
    other.load_state_dict(one.state_dict())
    torch.testing.assert_close(one(x), other(x))
    compiled = torch.compile(one, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), one(x))
    assert one.double()(x.double()).dtype is torch.float64


def test_inferred_inputs():
    for kwargs in ({"share_params": True}, {"share_params": False, "use_td_params": False}, {"share_params": False}):
        net = MultiAgentMLP(None, 2, N, centralized=True, **kwargs)
        assert net(torch.zeros(5, N, 6)).shape == (5, N, 2)


def lazy(kind, central):
    """A network of own parameters that infers its input, and an input."""
    if kind is MultiAgentMLP:
        return kind(None, 2, N, centralized=central, share_params=False, depth=1), torch.randn(5, N, 4)
    return kind(N, central, False, num_cells=[4], kernel_sizes=3), torch.randn(5, N, 3, 7, 7)


@pytest.mark.parametrize("central", [False, True])
@pytest.mark.parametrize("kind", [MultiAgentMLP, MultiAgentConvNet])
def test_stacked_networks_that_infer_their_input(kind, central):
    """They are drawn at the first call, apart for each agent, and are then as any other."""
    torch.manual_seed(0)
    net, x = lazy(kind, central)
    with pytest.raises(RuntimeError, match="has no parameters before its first call"):
        _ = net.params
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
    copied = copy.deepcopy(net)
    net.reset_parameters()
    y = net(x)
    assert [p.shape[0] for p in net.parameters()] == [N] * len(optimizer.param_groups[0]["params"])
    assert {id(p) for p in net.parameters()} == {id(p) for p in optimizer.param_groups[0]["params"]}
    y.square().sum().backward()
    optimizer.step()
    assert (net(x) != y).all(-1).any()
    assert copied(x).shape == y.shape
    other, _ = lazy(kind, central)
    other(x)
    other.load_state_dict(net.state_dict())
    assert torch.equal(other(x), net(x))


OPTIONS = [{"share_params": True}, {"share_params": False}, {"share_params": False, "use_td_params": False}]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("kind", [MultiAgentMLP, MultiAgentConvNet])
def test_all_parameters_are_seen_set_and_drawn_again(kind, options):
    torch.manual_seed(0)
    if kind is MultiAgentMLP:
        net = kind(F, 2, N, centralized=False, depth=1, **options)
    else:
        net = kind(N, False, in_features=3, num_cells=[4], kernel_sizes=3, **options)
    leaves = list(net.params.values(True, True))
    assert sum(p.numel() for p in leaves) == sum(p.numel() for p in net.parameters())
    before = [p.detach().clone() for p in net.parameters()]
    net.reset_parameters()
    assert all((p != q).all() for p, q in zip(net.parameters(), before, strict=True))
    if net.is_stacked:
        assert all((p[0] != p[1]).all() for p in net.parameters())
    state = copy.deepcopy(net.state_dict())
    saved = copy.deepcopy(net.get_stateful_net())
    for parameter in net.get_stateful_net().parameters():
        parameter.data.fill_(0.25)
    assert all((p == 0.25).all() for p in net.parameters())
    net.from_stateful_net(saved)
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("kind", [MultiAgentMLP, MultiAgentConvNet])
@pytest.mark.parametrize("central", [False, True])
def test_the_other_spelling_of_centralized(kind, central):
    args = (F, 2, N) if kind is MultiAgentMLP else (N,)
    net = kind(*args, centralised=central, share_params=True)
    assert net.centralized is central
    with pytest.raises(TypeError, match="got both 'centralized' and its old name 'centralised'"):
        kind(*args, centralised=central, centralized=central, share_params=True)


def test_what_mixers_read():
    """A mixer of one's own states whether it reads the state, and is checked like the others."""

    class Mean(Mixer):
        def mix(self, chosen_action_value, state=None):
            return chosen_action_value.mean(-2) * (1 if state is None else state)

    values, state = torch.rand(5, N, 1), torch.rand(5, 1)
    for needs in (False, True):
        mixer = Mean(N, needs, (1,))
        given = (state,) if needs else ()
        torch.testing.assert_close(mixer(values, *given), mixer.mix(values, *given))
        with pytest.raises(ValueError, match="state"):
            mixer(values, *(() if needs else (state,)))
    assert [QMixer((6,), 8, N).needs_state, VDNMixer(N).needs_state] == [True, False]


def test_what_does_not_fit_is_named():
    with pytest.raises(ValueError, match="must know; expected centralized and share_params"):
        MultiAgentMLP(F, 2, N, share_params=True)
    with pytest.raises(ShapeError, match=r"agents in dimension -2.*expected 3, found \[5, 2, 4\]"):
        mlp(False, True)(torch.zeros(5, 2, F))
    with pytest.raises(ShapeError, match=r"one value for each agent; expected \['\*', 3, 1\]"):
        VDNMixer(N)(torch.zeros(5, N))
    with pytest.raises(ShapeError, match=r"'state' has the wrong shape; expected \[5, 6\]"):
        QMixer((6,), 8, N)(torch.zeros(5, N, 1), torch.zeros(5, 7))


@pytest.mark.parametrize("batch", [(), (5,), (5, 2)], ids=str)
def test_mixers_as_modules(batch):
    values, state = torch.randn(*batch, N, 1), torch.randn(*batch, 2, 3)
    td = TensorDict(state=state, batch_size=batch).set(("agents", "chosen_action_value"), values)
    key = ("agents", "chosen_action_value")
    vdn = TensorDictModule(VDNMixer(N), [key], ["chosen_action_value"])
    torch.testing.assert_close(vdn(td)["chosen_action_value"], values.sum(-2))
    qmix = TensorDictModule(QMixer((2, 3), 8, N), [key, "state"], ["chosen_action_value"])
    assert qmix(td)["chosen_action_value"].shape == (*batch, 1)


def test_qmix_is_monotonic_and_equals_its_formula():
    mixer = QMixer((6,), 8, N)
    values, state = torch.randn(5, N, 1, requires_grad=True), torch.randn(5, 6)
    out = mixer(values, state)
    assert (torch.autograd.grad(out.sum(), values)[0] >= 0).all()
    for b in range(5):
        w_1 = mixer.hyper_w_1(state[b]).abs().reshape(N, 8)
        hidden = nn.functional.elu(values[b, :, 0] @ w_1 + mixer.hyper_b_1(state[b]))
        expected = hidden @ mixer.hyper_w_2(state[b]).abs() + mixer.value(state[b])
        torch.testing.assert_close(out[b], expected)


def test_other_parameters_may_be_lent_to_stacked_networks():
    net = MultiAgentMLP(3, 2, 4, centralized=False, share_params=False, depth=1)
    lent = TensorDict.from_module(net).data.clone().zero_()
    with lent.to_module(net):
        assert not net(torch.ones(4, 3)).any()
    assert net(torch.ones(4, 3)).any()
