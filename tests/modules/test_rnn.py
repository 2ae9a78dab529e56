"""Recurrent networks against torch's, and sequences against single steps."""

import threading

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn

from torchrl._core.errors import MissingKeyError, ShapeError
from torchrl._core.recurrence import matmul_precision
from torchrl.modules import (
    GRU,
    LSTM,
    Actor,
    GRUCell,
    GRUModule,
    LSTMCell,
    LSTMModule,
    canonicalize_rnn_subset,
    get_recurrent_matmul_precision,
    recurrent_mode,
    set_recurrent_matmul_precision,
    set_recurrent_mode,
)
from torchrl.testing import module as contract
from torchrl.testing.module import ModuleCase

B, T, F, H, L = 4, 9, 3, 5, 2
MODULES = {"lstm": LSTMModule, "gru": GRUModule}
STATES = {"lstm": ["recurrent_state_h", "recurrent_state_c"], "gru": ["recurrent_state"]}
BACKENDS = {"fused": {}, "fused, step by step": {"recurrent_backend": "scan"}, "plain": {"python_based": True}}


@pytest.fixture(params=MODULES, ids=MODULES)
def kind(request):
    return request.param


@pytest.fixture(params=BACKENDS.values(), ids=BACKENDS)
def backend(request):
    return request.param


def make(kind, num_layers=L, **kwargs):
    return MODULES[kind](F, H, num_layers, in_key="observation", out_key="hidden", **kwargs)


def sequence(*batch, resets=0.3):
    is_init = torch.rand(*batch, 1) < resets
    return TensorDict(observation=torch.randn(*batch, F), is_init=is_init, batch_size=batch)


def step_by_step(module, data, kind):
    """The same data, one step at a time, as an environment hands it out."""
    shape = (*data.shape[:-1], module.rnn.num_layers, H)
    outs, state = [], {key: torch.zeros(shape) for key in STATES[kind]}
    for t in range(data.shape[-1]):
        td = data[..., t].select("observation", "is_init").update(state)
        td = module(td)
        state = {key: td["next", key] for key in STATES[kind]}
        outs.append(td)
    return torch.stack(outs, -1)


@pytest.mark.parametrize("num_layers", [1, 2, 3])
@pytest.mark.parametrize("resets", [0.0, 0.3, 1.0])
def test_a_sequence_equals_its_steps(kind, backend, num_layers, resets):
    module, data = make(kind, num_layers, **backend), sequence(B, T, resets=resets)
    expected = step_by_step(module, data, kind)
    with set_recurrent_mode():
        found = module(data.clone())
    torch.testing.assert_close(found["hidden"], expected["hidden"], rtol=1e-5, atol=1e-5)
    for key in STATES[kind]:
        assert found["next", key].shape == (B, T, num_layers, H)
        torch.testing.assert_close(found["next", key], expected["next", key], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("resets", [0.0, 0.3, 1.0])
def test_gradients_of_a_sequence_equal_those_of_its_steps(kind, backend, bias, resets):
    module, data = make(kind, bias=bias, **backend), sequence(B, T, resets=resets)
    data["observation"].requires_grad_()
    weight = torch.randn(B, T, H)
    leaves = [data["observation"], *module.parameters()]
    expected = torch.autograd.grad((step_by_step(module, data, kind)["hidden"] * weight).sum(), leaves)
    with set_recurrent_mode():
        found = torch.autograd.grad((module(data.copy())["hidden"] * weight).sum(), leaves)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("discard", ["selected", "named"])
def test_states_that_nobody_keeps_are_not_made(kind, backend, discard, monkeypatch):
    module, data = make(kind, **backend), sequence(B, T)
    with set_recurrent_mode():
        expected = module(data.clone())["hidden"]
    if discard == "selected":
        module.select_out_keys("hidden")
    else:
        module.out_keys = ["hidden", *("_" for _ in STATES[kind])]
    monkeypatch.delattr("torchrl.modules.tensordict_module.rnn_cells._cells")
    with set_recurrent_mode():
        found = module(data.clone())
    assert found["hidden"].equal(expected)
    assert set(found.keys(True, True)) == {"observation", "is_init", "hidden"}


def test_a_restart_empties_the_state_whatever_was_in_it(kind):
    module, data = make(kind, 1), sequence(2, T, resets=0.0)
    data["is_init"][:, 4] = True
    with torch.no_grad(), set_recurrent_mode():
        for parameter in module.parameters():
            parameter.mul_(50)  # gates wide open or shut
        found = module(data.clone())
        torch.testing.assert_close(found["hidden"][:, 4:], module(data[:, 4:].clone())["hidden"])


def test_a_sequence_goes_on_from_the_state_that_was_stored(kind, backend):
    module, data = make(kind, **backend), sequence(B, T, resets=0.0)
    whole = step_by_step(module, data, kind)
    half = whole[:, 4:].exclude("hidden", "next")
    with set_recurrent_mode():
        found = module(half)
    torch.testing.assert_close(found["hidden"], whole["hidden"][:, 4:], rtol=1e-5, atol=1e-5)


def test_any_batch_dimensions(kind, backend):
    module = make(kind, **backend)
    for batch in ((), (3,), (3, 2)):
        td = module(sequence(*batch))
        assert td["hidden"].shape == (*batch, H)
        assert td["next", STATES[kind][0]].shape == (*batch, L, H)
        with set_recurrent_mode():
            data = sequence(*batch, T)
            flat = module(data.reshape(-1, T)) if batch else module(data.unsqueeze(0))
            torch.testing.assert_close(module(data.clone())["hidden"].reshape(-1, T, H), flat["hidden"])


@pytest.mark.parametrize("recurrent", [True, False])
def test_a_missing_flag_is_refused_by_its_name(kind, recurrent):
    """Without the flag the state would be carried across the ends of episodes, or lost."""
    module, data = make(kind), sequence(B, T, resets=0.0)
    data = (data if recurrent else data[:, 0]).exclude("is_init")
    before = data.clone()
    with set_recurrent_mode(recurrent), pytest.raises(KeyError, match=r"is_init.*InitTracker"):
        module(data)
    assert set(data.keys(True)) == set(before.keys(True))


def test_a_step_without_state_writes_the_empty_state_that_it_began_with(kind):
    """The first step of a batch has the same entries as the others, with or without a primer."""
    module = make(kind)
    td = sequence(B, T)[:, 0].exclude(*module.in_keys[1:-1])
    out = module(td.clone())
    for key, after in zip(module.in_keys[1:-1], module.out_keys[1:], strict=True):
        assert out[key].shape == out[after].shape
        assert not out[key].any()
    primed = module(td.clone().update(out.select(*module.in_keys[1:-1])))
    assert primed["hidden"].equal(out["hidden"])


def test_plain_and_fused_networks_swap(kind):
    module, data = make(kind), sequence(B, T)
    with set_recurrent_mode():
        fused = module(data.clone())["hidden"]
        assert module.make_python_based() is module
        assert isinstance(module.rnn, (LSTM, GRU))
        plain = module(data.clone())["hidden"]
        module.make_cudnn_based()
        assert isinstance(module.rnn, (nn.LSTM, nn.GRU))
        again = module(data.clone())["hidden"]
    torch.testing.assert_close(plain, fused, rtol=1e-5, atol=1e-6)
    assert again.equal(fused)


@pytest.mark.filterwarnings("ignore:LSTM with projections")  # a word of torch about speed
@pytest.mark.parametrize("resets", [0.0, 0.4])
def test_a_projected_sequence_equals_its_steps(backend, resets):
    module = make("lstm", proj_size=2, **backend)
    data, outs = sequence(B, T, resets=resets), []
    state = module.state_spec.zero().expand(B)
    for t in range(T):
        step = module(data[:, t].select("observation", "is_init").update(state))
        state = {key: step["next", key] for key in STATES["lstm"]}
        outs.append(step)
    expected = torch.stack(outs, -1)
    with set_recurrent_mode():
        found = module(data.clone())
    for key, shape in (
        ("hidden", (B, T, 2)),
        (("next", "recurrent_state_h"), (B, T, L, 2)),
        (("next", "recurrent_state_c"), (B, T, L, H)),
    ):
        assert found[key].shape == shape
        torch.testing.assert_close(found[key], expected[key], rtol=1e-5, atol=1e-5)
    assert module.state_spec["recurrent_state_h"].shape == (L, 2)
    assert module.state_spec["recurrent_state_c"].shape == (L, H)
    python_based = module.make_python_based()
    with set_recurrent_mode():
        torch.testing.assert_close(python_based(data.clone())["hidden"], found["hidden"], rtol=1e-5, atol=1e-5)


def test_both_directions_of_each_episode_equal_torch_s(kind, backend):
    """Each stretch between restarts, by itself, through torch's own bidirectional network."""
    module, data = make(kind, bidirectional=True, **backend), sequence(B, T)
    theirs = {"lstm": nn.LSTM, "gru": nn.GRU}[kind](F, H, L, batch_first=True, bidirectional=True)
    theirs.load_state_dict(module.rnn.state_dict())
    with set_recurrent_mode():
        found = module(data.clone())
    assert found["hidden"].shape == (B, T, 2 * H)
    assert found["next", STATES[kind][0]].shape == (B, T, 2 * L, H)
    for row in range(B):
        cuts = [t for t in range(1, T) if data["is_init"][row, t]]
        for start, stop in zip([0, *cuts], [*cuts, T], strict=True):
            expected = theirs(data["observation"][row, start:stop])[0]
            torch.testing.assert_close(found["hidden"][row, start:stop], expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match=r"a single step has no later inputs.*set_recurrent_mode"):
        module(data[:, 0])


def test_a_network_of_one_s_own(kind):
    rnn = {"lstm": nn.LSTM, "gru": nn.GRU}[kind](F, H, batch_first=True)
    module = MODULES[kind](**{kind: rnn}, in_key="observation", out_key="hidden")
    assert module.rnn is rnn
    wrong = {"lstm": nn.LSTM, "gru": nn.GRU}[kind](F, H)
    with pytest.raises(ValueError, match=f"cannot run this {kind}; expected batch_first"):
        MODULES[kind](**{kind: wrong}, in_key="observation", out_key="hidden")


def test_own_names():
    module = LSTMModule(F, H, in_keys=["obs", "h", ("rnn", "c"), "start"], out_keys=["out", "h2", ("next", "c")])
    td = module(TensorDict(obs=torch.zeros(3, F), start=torch.ones(3, 1).bool(), batch_size=[3]))
    assert td["h2"].shape == (3, 1, H)
    assert set(module.state_spec.keys(True, True)) == {"h", ("rnn", "c")}
    short = GRUModule(F, H, in_keys=["obs", "h"], out_keys=["out", ("next", "h")])
    assert short.in_keys == ["obs", "h", "is_init"]


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"needs \['input_size', 'hidden_size'\]. Or give lstm"):
        LSTMModule(in_key="a", out_key="b")
    with pytest.raises(ValueError, match="needs one of in_key and in_keys"):
        LSTMModule(F, H, out_key="b")
    with pytest.raises(ValueError, match=r"reads the input.*expected \(4, 3\), found \(2, 3\)"):
        LSTMModule(F, H, in_keys=["a", "b"], out_key="b")
    with pytest.raises(ValueError, match=r"no such backend.*found triton"):
        GRUModule(F, H, in_key="a", out_key="b", recurrent_backend="triton")
    with pytest.raises(ValueError, match="cannot run this gru; expected batch_first"):
        GRUModule(F, H, in_key="a", out_key="b", batch_first=False)
    with pytest.raises(ValueError, match=r"no such mode.*found sometimes"):
        set_recurrent_mode("sometimes")
    module = make("gru")
    with pytest.raises(MissingKeyError, match=r"'observation' is read but absent.*'obs'"):
        module(TensorDict(obs=torch.zeros(F)))
    with set_recurrent_mode(), pytest.raises(ValueError, match="'observation' has no time dimension"):
        module(sequence())


def test_modes():
    assert recurrent_mode() is None
    with set_recurrent_mode():
        assert recurrent_mode() is True
        with set_recurrent_mode("sequential"):
            assert recurrent_mode() is False
        seen = []
        thread = threading.Thread(target=lambda: seen.append(recurrent_mode()))
        thread.start()
        thread.join()
        assert seen == [None]
    assert recurrent_mode() is None

    @set_recurrent_mode("recurrent")
    def inside():
        return recurrent_mode()

    assert inside() is True
    always = make("gru", default_recurrent_mode=True)
    assert always(sequence(B, T))["hidden"].shape == (B, T, H)
    with set_recurrent_mode(False):
        assert always(sequence(B))["hidden"].shape == (B, H)


def test_state_spec_is_that_of_one_environment(kind):
    spec = make(kind).state_spec
    assert set(spec.keys()) == set(STATES[kind])
    assert all(leaf.shape == (L, H) for leaf in spec.values())


def test_dropout_between_layers_is_on_in_training_only(kind, backend):
    module, data = make(kind, dropout=0.5, **backend), sequence(B, T)
    with set_recurrent_mode():
        assert not module(data.clone())["hidden"].equal(module(data.clone())["hidden"])
        module.eval()
        assert module(data.clone())["hidden"].equal(module(data.clone())["hidden"])


@pytest.mark.filterwarnings("ignore:LSTM with projections")  # a word of torch about speed
@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(("ours", "theirs", "proj_size"), [(LSTM, nn.LSTM, 0), (LSTM, nn.LSTM, 3), (GRU, nn.GRU, 0)])
def test_plain_networks_equal_torch_s(ours, theirs, proj_size, bidirectional, num_layers, batch_first, bias):
    sizes = {"num_layers": num_layers, "batch_first": batch_first, "bias": bias}
    sizes["bidirectional"] = bidirectional
    if proj_size:
        sizes["proj_size"] = proj_size
    one, other = ours(F, H, **sizes), theirs(F, H, **sizes)
    one.load_state_dict(other.state_dict())
    x = torch.randn(B, T, F)
    lead = num_layers * (1 + bidirectional), B if batch_first else T
    start, cell = torch.randn(*lead, proj_size or H), torch.randn(*lead, H)
    for hx in (None, (start, cell) if theirs is nn.LSTM else start):
        torch.testing.assert_close(one(x, hx), other(x, hx), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(one(x[0]), other(x[0]), rtol=1e-5, atol=1e-6)


def test_plain_networks_vectorise_compile_and_name_wrong_inputs():
    net = LSTM(F, H)
    x = torch.randn(B, T, F)
    expected = net(x)[0]
    torch.testing.assert_close(torch.vmap(lambda row: net(row)[0])(x), expected)
    compiled = torch.compile(net, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x)[0], expected)
    with pytest.raises(ShapeError, match=r"expected \['\*', 'T', 3\], found \[4, 9, 7\]"):
        net(torch.zeros(B, T, 7))


@pytest.mark.parametrize(("ours", "theirs"), [(LSTMCell, nn.LSTMCell), (GRUCell, nn.GRUCell)])
def test_cells_equal_torch_s(ours, theirs):
    one, other = ours(F, H), theirs(F, H)
    one.load_state_dict(other.state_dict())
    x, h = torch.randn(B, F), torch.randn(B, H)
    for hx in (None, (h, h.tanh()) if theirs is nn.LSTMCell else h):
        torch.testing.assert_close(one(x, hx), other(x, hx), rtol=1e-5, atol=1e-6)


CASES = {
    f"{kind}, {name}": ModuleCase(
        lambda kind=kind, options=options: TensorDictSequential(
            make(kind, **options), Actor(nn.Linear(H, 2), ["hidden"])
        ),
        {
            "observation": (F,),
            "is_init": lambda batch: torch.zeros(*batch, 1, dtype=torch.bool),
            **dict.fromkeys(STATES[kind], (L, H)),
        },
        {"hidden": (H,), "action": (2,), ("next", STATES[kind][0]): (L, H)},
        ("action",),
        compiles="python_based" in options,
    )
    for kind in MODULES
    for name, options in BACKENDS.items()
    if name != "fused, step by step"
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_contract(case):
    contract.check_keys_and_shapes(case)
    contract.check_state_dict(case)
    contract.check_dtypes(case)
    contract.check_gradients(case)
    contract.check_compiled_equals_call(case)


@pytest.mark.parametrize("case", [c for c in CASES.values() if c.compiles], ids=["lstm", "gru"])
def test_plain_modules_compile(case):
    contract.check_compiles(case)


@pytest.mark.parametrize("resets", [0.0, 0.3])
@pytest.mark.parametrize("kind", MODULES)
@pytest.mark.parametrize(
    "options",
    [
        {"recurrent_backend": "auto"},
        {"recurrent_backend": "auto", "recurrent_recompute": "full"},
        {"recurrent_backend": "scan", "recurrent_recompute": "full"},
        {"recurrent_recompute": "none", "recurrent_matmul_precision": "tf32"},
        {"recurrent_compute_dtype": torch.float64},
        {"recurrent_compute_dtype": torch.float64, "recurrent_backend": "scan", "recurrent_recompute": "full"},
    ],
    ids=str,
)
def test_options_of_sequences_give_the_same_numbers(kind, options, resets):
    torch.manual_seed(0)
    plain, other, data = make(kind, 2), make(kind, 2, **options), sequence(B, T, resets=resets)
    other.load_state_dict(plain.state_dict())
    grads = []
    with set_recurrent_mode():
        for module in (plain, other):
            out = module(data.clone())["hidden"]
            assert out.dtype == torch.float32
            grads.append([out, *torch.autograd.grad(out.square().sum(), list(module.parameters()))])
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-5)


def test_a_recomputed_sequence_keeps_less(monkeypatch):
    torch.manual_seed(0)
    sizes = []
    for recompute in ("none", "full"):
        module = make("gru", 1, recurrent_backend="scan", recurrent_recompute=recompute)
        kept = []

        def pack(x, kept=kept):
            kept.append(x.numel())
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x), set_recurrent_mode():
            module(sequence(B, 50))
        sizes.append(sum(kept))
    assert sizes[1] < sizes[0] / 3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", MODULES)
def test_sequences_in_a_lower_precision(kind, dtype):
    torch.manual_seed(0)
    plain, other, data = make(kind), make(kind, recurrent_compute_dtype=dtype), sequence(B, T)
    other.load_state_dict(plain.state_dict())
    with set_recurrent_mode():
        exact, rounded = plain(data.clone())["hidden"], other(data.clone())["hidden"]
    assert rounded.dtype == torch.float32
    assert 0 < (exact - rounded).abs().max() < 0.05


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"recurrent_recompute": "half"}, "has no such recompute"),
        ({"recurrent_recompute": "full"}, "cannot recompute the fused kernel"),
        ({"recurrent_matmul_precision": "sloppy"}, "has no such precision"),
    ],
)
@pytest.mark.parametrize("kind", MODULES)
def test_options_that_are_refused(kind, options, match):
    with pytest.raises(ValueError, match=match):
        make(kind, **options)


def test_precision_of_all_recurrent_modules(monkeypatch):
    """It is set while a sequence runs on a GPU, to the value of the module or to that of all."""
    assert get_recurrent_matmul_precision() is None
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    place = torch.backends.cuda.matmul
    before = place.fp32_precision
    try:
        set_recurrent_matmul_precision("tf32")
        for own, device, found in ((None, cuda, "tf32"), ("ieee", cuda, "ieee"), (None, cpu, before)):
            with matmul_precision(own, device):
                assert place.fp32_precision == found
            assert place.fp32_precision == before
    finally:
        set_recurrent_matmul_precision(None)
    with pytest.raises(ValueError, match="has no such precision"):
        set_recurrent_matmul_precision("half")


@pytest.mark.parametrize("layout", ["batch first", "time first", "single"])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("kind", [LSTM, GRU])
def test_padding_leaves_the_state_as_it_is(kind, bidirectional, layout):
    """In both directions, so that each row ends as the sequence without its padding does."""
    torch.manual_seed(0)
    net = kind(3, 4, num_layers=2, batch_first=layout != "time first", bidirectional=bidirectional)
    x, lengths = torch.randn(3, 6, 3), [6, 4, 1]
    mask = torch.arange(6) < torch.tensor(lengths).unsqueeze(1)
    if layout == "single":
        out, state = net(x[1], mask=mask[1])
        rows, states = [out], [state[0] if kind is LSTM else state]
        lengths, x = lengths[1:2], x[1:2]
    else:
        first = layout == "batch first"
        out, state = net(x if first else x.transpose(0, 1), None, mask if first else mask.t())
        rows = list(out if first else out.transpose(0, 1))
        states = list((state[0] if kind is LSTM else state).unbind(1))
    for i, length in enumerate(lengths):
        cut = x[i : i + 1, :length]
        expected, end = net(cut if layout != "time first" else cut.transpose(0, 1))
        torch.testing.assert_close(rows[i][:length], expected.reshape(length, -1))
        torch.testing.assert_close(states[i], (end[0] if kind is LSTM else end)[:, 0])
    assert [net.use_scan, kind(3, 4, use_scan=True).use_scan] == [False, True]
    with pytest.raises(TypeError, match="use_scan is a flag; expected True or False, found no"):
        kind(3, 4, use_scan="no")
    with pytest.raises(ShapeError, match="has a mask of the wrong shape"):
        net(torch.zeros(3, 6, 3), mask=torch.ones(3, 5))


def test_inputs_are_made_contiguous():
    """Of modules within policies too; the tensordict that is passed is unchanged."""
    rnn = make("lstm")
    policy = TensorDictSequential(rnn, TensorDictModule(nn.Linear(H, 1), ["hidden"], ["action"]))
    td = TensorDict({k: torch.randn(T, B, F).transpose(0, 1) for k in ("observation", "other")}, [B, T])
    for out in (rnn.canonicalize(td), canonicalize_rnn_subset(td, [policy])):
        assert (out == td).all()
        assert [out[key].is_contiguous() for key in ("observation", "other")] == [True, False]
    assert not td["observation"].is_contiguous()
    with pytest.raises(TypeError, match="takes a list of out_keys"):
        GRUModule(F, H, in_key="a", out_keys="abc")
