"""What every policy and network must do; point these functions at your own.

``*B`` stands for the batch shapes ``[]``, ``[B]`` and ``[B, T]``, which every module must serve.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase

from torchrl._core.entries import Entries
from torchrl._core.exploration import ExplorationType, set_exploration_type
from torchrl._core.plan import plan

BATCHES = ((), (3,), (3, 4))
KINDS = (None, ExplorationType.RANDOM, ExplorationType.DETERMINISTIC)
Draw = Callable[[tuple[int, ...]], torch.Tensor]


@dataclass
class ModuleCase:
    """A module, what it reads and what it writes.

    Args:
        make: Builds the module.
        reads: Shape ``[*F]`` of each entry that it reads, filled with normal noise; or a function
            from a shape ``[*B]`` to the entry.
        writes: Shape ``[*F]`` of each entry that it writes.
        differentiable: Written entries whose gradient reaches every parameter.
        dtypes: Dtypes that the module serves, beside the default one.
        compiles: Whether it compiles without graph breaks.
    """

    make: Callable[[], TensorDictModuleBase]
    reads: Mapping[NestedKey, tuple[int, ...] | Draw]
    writes: Mapping[NestedKey, tuple[int, ...]]
    differentiable: tuple[NestedKey, ...] = ()
    dtypes: tuple[torch.dtype, ...] = (torch.float64, torch.bfloat16)
    compiles: bool = True
    batches: tuple[tuple[int, ...], ...] = field(default=BATCHES)

    def example(
        self, batch: tuple[int, ...] = (), dtype: torch.dtype = torch.float32
    ) -> TensorDictBase:
        """Return inputs of a batch shape."""
        td = TensorDict({}, batch)
        for key, shape in self.reads.items():
            value = shape(batch) if callable(shape) else torch.randn(*batch, *shape)
            td.set(key, value.to(dtype) if value.is_floating_point() else value)
        return td


def assert_keys_and_shapes(case: ModuleCase) -> None:
    """Check that the module reads and writes what it says, for every batch shape."""
    module = case.make()
    assert set(module.in_keys) <= set(case.reads), (module.in_keys, set(case.reads))
    assert set(case.writes) <= set(module.out_keys), (set(case.writes), module.out_keys)
    for batch in case.batches:
        out = module(case.example(batch))
        for key, shape in case.writes.items():
            assert out[key].shape == (*batch, *shape), (key, batch, out[key].shape)


def assert_every_in_key_is_needed(case: ModuleCase) -> None:
    """Check that an absent entry is named by a :class:`KeyError`."""
    for key in case.make().in_keys:
        message = _complaint(case.make(), case.example((3,)).exclude(key))
        assert repr(key) in message, (key, message)


def _complaint(module: TensorDictModuleBase, td: TensorDictBase) -> str:
    try:
        module(td)
    except KeyError as error:
        return str(error)
    return "none"


def assert_compiles(case: ModuleCase) -> None:
    """Check that the module compiles without graph breaks, to the same results."""
    torch._dynamo.reset()  # what was compiled before counts against its limit
    module, td = case.make(), case.example((3,))
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        expected = module(td.clone())
        compiled = torch.compile(module, fullgraph=True, backend="eager")
        found = compiled(td.clone())
    for key in case.writes:
        torch.testing.assert_close(found[key], expected[key])


def assert_state_dict(case: ModuleCase) -> None:
    """Check that the state of one module makes another one equal to it."""
    one, other, td = case.make(), case.make(), case.example((3,))
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        one(td.clone()), other(td.clone())  # so that lazy parameters exist
        other.load_state_dict(one.state_dict())
        _assert_same(one(td.clone()), other(td.clone()))
        _assert_same(one(td.clone()), copy.deepcopy(one)(td.clone()))


def assert_dtypes(case: ModuleCase) -> None:
    """Check that the module serves other dtypes, and that its floats keep them."""
    for dtype in case.dtypes:
        module = case.make()
        module(case.example((3,)))  # so that lazy parameters exist
        module = module.to(dtype)
        out = module(case.example((3,), dtype))
        for key in case.writes:
            assert not out[key].is_floating_point() or out[key].dtype is dtype, (
                key,
                out[key].dtype,
            )
            assert not out[key].isnan().any(), key


def assert_gradients(case: ModuleCase) -> None:
    """Check that every entry that promises a gradient hands one to every parameter."""
    for key in case.differentiable:
        module = case.make()
        with set_exploration_type(ExplorationType.RANDOM):
            out = module(case.example((3,)))
        out[key].sum().backward()
        for name, parameter in module.named_parameters():
            assert parameter.grad is not None, (key, name)
            assert parameter.grad.isfinite().all(), (key, name)


def assert_plan_equals_call(case: ModuleCase) -> None:
    """Check that the compiled plan, where there is one, equals the call bit for bit."""
    module = case.make()
    module(case.example((3,)))  # so that lazy parameters exist
    for kind in KINDS:
        with set_exploration_type(kind):
            run = plan(module)
            assert run is not None, "the module has no plan"
            td = case.example()
            entries = Entries({key: td[key] for key in td.keys(True, True)})
            torch.manual_seed(0)
            expected = module(td)
            torch.manual_seed(0)
            run(entries)
        assert set(entries) == set(expected.keys(True, True)), (set(entries), expected)
        for key, value in entries.items():
            same = value.dtype is expected[key].dtype and value.equal(expected[key])
            assert same, (kind, key, value, expected[key])


def _assert_same(one: TensorDictBase, other: TensorDictBase) -> None:
    for key in one.keys(True, True):
        torch.testing.assert_close(one[key], other[key], rtol=0, atol=0, equal_nan=True)
