"""Policies compiled to plans: when there is one, and that it equals the call.

Equality over every module of the library is in ``tests/modules/test_modules_contract.py``.
"""

import pytest
import torch
from tensordict import NonTensorData, TensorDict
from tensordict.nn import (
    ProbabilisticTensorDictModule,
    ProbabilisticTensorDictSequential,
    TensorDictModule,
    TensorDictModuleBase,
    TensorDictSequential,
    set_interaction_type,
    set_skip_existing,
)
from tensordict.nn.probabilistic import interaction_type
from torch import nn

from torchrl._core.errors import MissingKeyError, ShapeError
from torchrl._core.records.flat_record import FlatRecord
from torchrl._core.records.policies import compile_policy, input_keys, inputs_of


def linear(read="a", write="b", **kwargs):
    return TensorDictModule(nn.Linear(3, 3), in_keys=[read], out_keys=[write], **kwargs)


class Supporting(TensorDictModuleBase):
    """Writes the name of the exploration type that it sees, as a number."""

    supports_flat_records = True

    def __init__(self):
        super().__init__()
        self.in_keys, self.out_keys = ["a"], ["seen"]

    def forward(self, tensordict):
        self._run(tensordict)
        return tensordict

    def _run(self, td):
        td.set("seen", torch.tensor(len(str(interaction_type()))))


class Drawing(ProbabilisticTensorDictModule):
    """A draw on flat records."""

    supports_flat_records = True

    def forward(self, tensordict, **kwargs):
        self._run(tensordict)
        return tensordict

    def _run(self, td):
        td.set("x", self.get_dist(td).mean)


def drawing(**kwargs):
    return Drawing(["b"], ["x"], distribution_class=MeanOf, **kwargs)


class MeanOf(torch.distributions.Normal):
    def __init__(self, b):
        super().__init__(b, 1.0)


def assert_equal(policy, **inputs):
    td, entries = TensorDict(inputs), FlatRecord(inputs)
    compile_policy(policy)(entries)
    expected = policy(td)
    assert set(entries) == set(expected.keys(True, True))
    for key, value in entries.items():
        assert value.equal(expected.get(key)), key


def test_modules_and_sequences_of_tensordict():
    assert_equal(linear(), a=torch.randn(4, 3))
    assert_equal(TensorDictSequential(linear(), linear("b", "c")), a=torch.randn(3))
    nested = TensorDictSequential(linear(), TensorDictSequential(linear("b", ("n", "c"))))
    assert_equal(nested, a=torch.randn(3))
    assert_equal(TensorDictSequential({"x": linear(), "y": linear("b", "a")}), a=torch.randn(3))
    shared = linear("a", "a")
    assert_equal(TensorDictSequential(shared, shared), a=torch.randn(3))


def test_outputs_of_every_kind():
    def two(a):
        return a + 1, a + 2

    for out_keys in (["b", "c"], ["b", "_"], ["_", ("n", "c")]):
        assert_equal(TensorDictModule(two, ["a"], out_keys), a=torch.randn(3))
    assert_equal(TensorDictModule(lambda a: {"b": a + 1}, ["a"], ["b"]), a=torch.randn(3))
    assert_equal(TensorDictModule(lambda a: TensorDict(b=a, c=a), ["a"], ["c", "b"]), a=torch.randn(3))
    assert_equal(TensorDictModule(lambda a: a + 1, ["a"], ["_"]), a=torch.randn(3))
    assert_equal(TensorDictModule(lambda a: nn.Parameter(a), ["a"], ["b"]), a=torch.randn(3))
    assert_equal(TensorDictModule(lambda: torch.ones(2), [], ["b"]), a=torch.randn(3))


def test_inputs_that_are_no_tensors_are_unwrapped():
    entries = FlatRecord(a=NonTensorData("left"))
    compile_policy(TensorDictModule(lambda a: torch.tensor(len(a)), ["a"], ["b"]))(entries)
    assert entries["b"] == 4


def test_too_few_or_too_many_outputs_are_named():
    with pytest.raises(RuntimeError, match=r"returned 2 tensors for out_keys \['b'\]"):
        compile_policy(TensorDictModule(lambda a: (a, a), ["a"], ["b"]))(FlatRecord(a=torch.ones(1)))


class Changed(TensorDictModule):
    def forward(self, tensordict):
        return super().forward(tensordict).set("b", torch.zeros(3))


class ChangedSupporting(Supporting):
    def forward(self, tensordict):
        return tensordict.set("seen", torch.tensor(-1))


def hooked():
    module = linear()
    module.register_forward_hook(lambda module, args, out: out)
    return module


def hooked_before():
    module = linear()
    module.register_forward_pre_hook(lambda module, args: args)
    return module


def selected_module():
    module = TensorDictModule(lambda a: (a, a), ["a"], ["b", "c"])
    return module.select_out_keys("b")


def overridden():
    module = linear()
    module.forward = lambda td: td
    return module


def compiled():
    module = linear()
    module.compile(backend="eager")
    return module


def withdrawn():
    module = Supporting()
    module.supports_flat_records = False
    return module


def drawing_sequence(*modules, **kwargs):
    return ProbabilisticTensorDictSequential(*modules, **kwargs)


UNPLANNED = {
    "a function": lambda: lambda td: td,
    "a subclass": lambda: Changed(nn.Linear(3, 3), ["a"], ["b"]),
    "a subclass that overrides the call": ChangedSupporting,
    "an instance that withdraws": withdrawn,
    "a hook": hooked,
    "a hook before": hooked_before,
    "selected outputs": selected_module,
    "a forward of its own": overridden,
    "a compiled call": compiled,
    "keyword inputs": lambda: TensorDictModule(nn.Linear(3, 3), {"input": "a"}, ["b"]),
    "not in place": lambda: linear(inplace=False),
    "a method": lambda: linear(method="forward"),
    "a strict module": lambda: linear(strict=True),
    "a part without": lambda: TensorDictSequential(linear(), lambda td: td),
    "selected outputs of a sequence": lambda: TensorDictSequential(linear(), linear("b", "c"), selected_out_keys=["c"]),
    "a tolerant sequence": lambda: TensorDictSequential(linear(), partial_tolerant=True),
    "a sequence not in place": lambda: TensorDictSequential(linear(), inplace=False),
    "an action that is there": lambda: drawing_sequence(linear(), linear("b", "x"), drawing()),
    "two draws": lambda: drawing_sequence(linear(), drawing(), drawing()),
    "no draw at the end": lambda: drawing_sequence(linear(), drawing(), linear("x", "y")),
    "tensordict's own draw": lambda: ProbabilisticTensorDictModule(["b"], ["x"], distribution_class=MeanOf),
}


@pytest.mark.parametrize("make", UNPLANNED.values(), ids=UNPLANNED.keys())
def test_there_is_none_where_only_the_call_will_do(make):
    assert compile_policy(make()) is None
    assert compile_policy(TensorDictSequential(make())) is None


def test_there_is_none_while_modules_skip_what_exists():
    with set_skip_existing(True):
        assert compile_policy(linear()) is None
    assert compile_policy(linear()) is not None


def test_there_is_none_under_a_hook_on_every_module():
    handle = nn.modules.module.register_module_forward_hook(lambda *args: None)
    try:
        assert compile_policy(linear()) is None
    finally:
        handle.remove()


def test_a_callable_that_takes_flat_records_is_called():
    class Policy:
        supports_flat_records = True

        def __call__(self, td):
            td.set("action", torch.ones(2))

    entries = FlatRecord()
    compile_policy(Policy())(entries)
    assert entries["action"].equal(torch.ones(2))


@pytest.mark.parametrize("kind", [None, "random", "mode"])
@pytest.mark.parametrize("default", ["mean", "random"])
def test_what_runs_before_a_draw_sees_what_the_draw_sees(kind, default):
    policy = drawing_sequence(linear(), Supporting(), drawing(default_interaction_type=default))
    with set_interaction_type(kind):
        assert_equal(policy, a=torch.randn(3))
        assert interaction_type() == kind


def test_a_sequence_that_ends_in_a_draw():
    assert_equal(drawing_sequence(linear(), drawing()), a=torch.randn(3))


def test_parameters_are_read_at_each_call():
    module = linear()
    run, entries = compile_policy(module), FlatRecord(a=torch.ones(3))
    nn.init.zeros_(module.module.weight), nn.init.constant_(module.module.bias, 7.0)
    run(entries)
    assert (entries["b"] == 7).all()


def test_errors_are_those_of_the_library():
    run = compile_policy(linear("obs", "b"))
    with pytest.raises(MissingKeyError, match=r"TensorDictModule\(Linear\): entry 'obs'.*'obss'"):
        run(FlatRecord(obss=torch.ones(3)))
    with pytest.raises(ShapeError, match="'obs' has the wrong last dimension; expected 3, found 5"):
        run(FlatRecord(obs=torch.ones(5)))
    with pytest.raises(ShapeError, match="wrong last dimension"):
        run(TensorDict(obs=torch.ones(2, 5)))


def by_group(sequence=TensorDictSequential):
    """Return a network whose second module reads, as a whole, a group that the first writes."""
    first = TensorDictModule(nn.Linear(3, 3), ["a"], [("group", "x")])
    return sequence(first, TensorDictModule(lambda group: group["x"], ["group"], ["b"]))


@pytest.mark.parametrize("wrap", [lambda net: net, lambda net: TensorDictSequential(net)])
def test_a_group_that_is_read_as_a_whole_has_no_plan(wrap):
    """A flat record has no groups, so that reading one would find an old one or none."""
    assert compile_policy(wrap(by_group())) is None
    whole_first = TensorDictSequential(
        TensorDictModule(lambda a: TensorDict(x=a), ["a"], ["group"]), linear(("group", "x"), "b")
    )
    assert compile_policy(wrap(whole_first)) is None


def test_input_keys_are_what_no_earlier_module_writes():
    """A group whose entries are written first need not be given; one that is read first must be."""
    assert input_keys(by_group()) == ["a"]
    assert input_keys(TensorDictSequential(by_group(), linear("b", "c"))) == ["a"]
    reads_first = TensorDictModule(lambda group: group["y"], ["group"], [("group", "x")])
    assert input_keys(reads_first) == ["group"]
    assert input_keys(TensorDictSequential(reads_first)) == ["group"]


def test_inputs_of_a_network_are_without_its_outputs_and_share_no_group():
    """Run again on what it wrote, a network neither reads nor replaces its own outputs."""
    network = by_group()
    td = network(TensorDict(a=torch.ones(2, 3), batch_size=[2])).detach()
    td["group", "y"] = torch.zeros(2)
    old = td["group", "x"].clone()
    inputs = inputs_of(network, td)
    assert set(inputs.keys(True, True)) == {"a", ("group", "y")}
    with torch.no_grad():
        network[0].module.bias.add_(1.0)
    torch.testing.assert_close(network(inputs)["b"].detach(), old + 1)
    torch.testing.assert_close(td["group", "x"], old)
