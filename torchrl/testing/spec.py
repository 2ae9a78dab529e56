"""Contract checks of specs: membership, random values, projection, encoding, shape operations.

>>> from torchrl.data import OneHot
>>> check_spec(lambda: OneHot(3))
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import torch
from tensordict import LazyStackedTensorDict, NonTensorData, TensorDictBase, is_non_tensor, is_tensor_collection
from torch import Tensor

from torchrl._core.errors import TorchRLError
from torchrl.data.tensor_specs import Categorical, Composite, TensorSpec
from torchrl.testing.report import run_checks

Make = Callable[[], TensorSpec]
MAX_ENUMERATED = 2000  # specs of more values are not enumerated


def check_random_values_are_members(make: Make) -> None:
    """Random values have the requested shape and are members."""
    spec = make()
    for shape in ((), (3,), (2, 0, 1), torch.Size([2])):
        value = spec.rand(shape)
        assert shape_of(value) == (*shape, *spec.shape), (shape_of(value), spec.shape)
        spec.assert_is_in(value)
        assert spec.is_in(value)
        assert spec.contains(value)
        assert_like(spec, value)
    assert shape_of(spec.sample(4)) == (4, *spec.shape)


def check_same_seed_same_values(make: Make) -> None:
    """Random values are determined by torch's seed."""
    spec = make()
    torch.manual_seed(1)
    first = spec.rand((3,))
    torch.manual_seed(1)
    assert same(first, spec.rand((3,)))


def check_zeros_and_ones(make: Make) -> None:
    """``zero`` and ``one`` have the spec's shape, dtype and device."""
    spec = make()
    for make in (spec.zero, spec.zeros, spec.one, spec.ones):
        assert shape_of(make()) == tuple(spec.shape)
        assert shape_of(make((2, 3))) == (2, 3, *spec.shape)
        assert_like(spec, make())


def check_members_project_to_themselves(make: Make) -> None:
    """Projecting a member returns it unchanged."""
    spec = make()
    value = spec.rand((4,))
    assert same(spec.project(value), value)


def check_projections_are_members(make: Make) -> None:
    """Every projected value is a member, also of NaN and infinities."""
    spec = make()
    for scale in (1.0, 1e3, 1e30):
        for value in (spec.rand((5,)), spec.zero((5,))):
            spec.assert_is_in(spec.project(_disturbed(value, scale)))


def check_extra_leading_dimensions(make: Make) -> None:
    """Leading and time dimensions do not affect membership."""
    spec = make()
    batched = spec.expand(4, *spec.shape)
    assert batched.is_in(batched.rand((2,)))
    if not spec.shape and not isinstance(spec, Categorical | Composite):
        return  # then [4] might as well be four features of one thing
    rollout = torch.stack([batched.rand() for _ in range(3)], 1)  # [4, T, *S]
    assert batched.is_in(rollout)
    assert shape_of(batched.project(rollout)) == (4, 3, *spec.shape)


def check_other_values_are_refused(make: Make) -> None:
    """Values of another shape, dtype or type are no members; ``error_report`` returns the error."""
    spec = make()
    others: list[Any] = [torch.zeros(7, 13, 17, dtype=torch.complex64)]
    if spec.dtype is not None:
        others += [None, "x", 1.5, np.zeros(3), [1], NonTensorData(data="x")]
        if spec.shape:
            others += [torch.zeros(7, 13, 17, dtype=spec.dtype), torch.zeros((), dtype=spec.dtype)]
    for other in others:
        assert spec.is_in(other) is False, other
        assert isinstance(spec.error_report(other), TorchRLError), other


def check_numpy_round_trip(make: Make) -> None:
    """``encode`` undoes ``to_numpy``."""
    spec = make()
    value = spec.rand()
    back = spec.encode(spec.to_numpy(value, safe=True))
    assert same(back, value), (back, value)
    assert_like(spec, back)


def check_memoized_encoding(make: Make) -> None:
    """``memoize_encode`` does not change what ``encode`` returns."""
    spec = make()
    memoized = spec.clone()
    memoized.memoize_encode()
    array = spec.to_numpy(spec.rand())
    first, again = memoized.encode(array), memoized.encode(array)
    assert same(first, again)
    assert same(first, spec.encode(array))


def check_operations_commute_with_membership(make: Make) -> None:
    """An operation applied to a member gives a member of the operation applied to the spec."""
    spec = make()
    batched = spec.expand(2, 3, *spec.shape)
    for operation in OPERATIONS:
        other, value = operation(batched), operation(batched.rand())
        assert type(other) is type(batched)
        assert tuple(other.shape) == shape_of(value), (other.shape, shape_of(value))
        other.assert_is_in(value)
        other.assert_is_in(other.rand())
    assert batched[0, 1] == spec.expand(spec.shape)
    assert batched.flatten(0, 1).unflatten(0, (2, 3)) == batched
    assert batched.unsqueeze(1).squeeze(1) == batched
    assert all(part == batched[:, 0] for part in batched.unbind(1))


def check_torch_functions(make: Make) -> None:
    """``torch.stack`` and similar functions take specs."""
    spec = make()
    wide = torch.unsqueeze(spec, 0)  # type: ignore[arg-type]  # by __torch_function__
    assert torch.squeeze(wide, 0) == spec
    pair = torch.stack([spec, spec.clone()])  # type: ignore[list-item]  # by __torch_function__
    assert pair == spec.expand(2, *spec.shape)
    pair.assert_is_in(torch.stack([spec.rand(), spec.rand()]))  # type: ignore[attr-defined]  # a spec
    assert torch.index_select(pair, 0, torch.tensor([1])) == wide


def check_copies_are_equal_and_independent(make: Make) -> None:
    """Clones, deep copies and pickles are equal to the spec; other specs are not."""
    spec = make()
    for copied in (spec.clone(), copy.deepcopy(spec), pickle.loads(pickle.dumps(spec))):
        assert copied == spec
        assert copied is not spec
        assert type(copied) is type(spec)
        spec.assert_is_in(copied.rand())
    assert spec != spec.expand(7, *spec.shape)
    assert spec != "something else"


def check_device(make: Make) -> None:
    """A spec moves to a device, and forgets it."""
    spec = make()
    there = spec.clone().clear_device_()
    assert there.device in (None, torch.get_default_device())
    there = there.to("cpu")
    assert there.device == torch.device("cpu")
    assert there.cpu() is there
    assert_like(there, there.rand())


def check_enumeration(make: Make) -> None:
    """``enumerate`` returns ``cardinality`` different values, all members."""
    spec = make()
    try:
        count = spec.cardinality()
    except RuntimeError:  # objects, which cannot be counted
        return
    if count > MAX_ENUMERATED:
        return
    values = spec.enumerate()
    assert len(values) == count
    assert all(shape_of(value) == tuple(spec.shape) for value in values)
    allowed = spec.enumerate(use_mask=True)
    members = [value for value in values if spec.is_in(value)]
    assert len(allowed) == len(members)
    assert all(spec.is_in(value) for value in allowed)
    assert not any(same(a, b) for i, a in enumerate(members) for b in members[:i])


def check_repr_names_class_and_shape(make: Make) -> None:
    """The repr names the class and the shape, one field a line."""
    spec = make()
    text = repr(spec)
    assert text.startswith(f"{type(spec).__name__}(\n    ")
    assert f"shape={spec.shape}" in text


def check_composite_is_a_mapping(make: Make) -> None:
    """Keys, items and lengths agree, and every entry is found by its nested key."""
    spec = make()
    assert isinstance(spec, Composite)
    assert set(spec) == set(spec.keys())
    assert len(spec) == len(list(spec.items()))
    for key, inner in spec.items(True):
        assert key in spec
        assert spec[key] == inner


def check_composite_locks(make: Make) -> None:
    """A copy is locked and unlocked."""
    spec = make()
    assert isinstance(spec, Composite)
    assert spec.clone().lock_().is_locked
    assert not spec.clone().lock_().unlock_().is_locked


CHECKS: tuple[Callable[[Make], None], ...] = (
    check_random_values_are_members,
    check_same_seed_same_values,
    check_zeros_and_ones,
    check_members_project_to_themselves,
    check_projections_are_members,
    check_extra_leading_dimensions,
    check_other_values_are_refused,
    check_numpy_round_trip,
    check_memoized_encoding,
    check_operations_commute_with_membership,
    check_torch_functions,
    check_copies_are_equal_and_independent,
    check_device,
    check_enumeration,
    check_repr_names_class_and_shape,
)

COMPOSITE_CHECKS: tuple[Callable[[Make], None], ...] = (check_composite_is_a_mapping, check_composite_locks)

OPERATIONS: tuple[Callable[[Any], Any], ...] = (
    lambda x: x[1],
    lambda x: x[:, 0],
    lambda x: x[None, 0, 1:],
    lambda x: x[torch.tensor([True, False])],
    lambda x: x[:, torch.tensor([2, 0])],
    lambda x: x.unsqueeze(0),
    lambda x: x.unsqueeze(1).unsqueeze(0).squeeze(0),
    lambda x: x.flatten(0, 1),
    lambda x: x.unflatten(1, (3, 1)),
    lambda x: x.expand(5, *x.shape),
    lambda x: x.reshape(3, 2, *x.shape[2:]),
    lambda x: x.unbind(1)[2],
)


def check_spec(make: Make, skip: Collection[str] = ()) -> None:
    """Run all checks of :data:`CHECKS`, of a composite also those of :data:`COMPOSITE_CHECKS`.

    Args:
        make: Makes a new spec.
        skip: Names of checks to leave out.

    Raises:
        ContractError: if a check fails.

    >>> from torchrl.data import Bounded
    >>> check_spec(lambda: Bounded(-1, 1, shape=(3,)))  # raises if a check fails
    """
    spec = make()
    checks = CHECKS + (COMPOSITE_CHECKS if isinstance(spec, Composite) else ())
    run_checks(checks, make, skip=skip, name=type(spec).__name__)


def shape_of(value: Any) -> tuple[int, ...]:
    """Return the shape of a tensor, or the batch size of a tensordict."""
    return tuple(value.batch_size if is_tensor_collection(value) else value.shape)


def same(a: Any, b: Any) -> bool:
    """Return whether two values are equal, entry by entry."""
    if is_non_tensor(a):
        return is_non_tensor(b) and a.tolist() == b.tolist()
    if isinstance(a, LazyStackedTensorDict):
        parts = a.unbind(a.stack_dim), b.unbind(a.stack_dim)
        return a.batch_size == b.batch_size and all(map(same, *parts))
    if is_tensor_collection(a):
        names = set(a.keys())
        return names == set(b.keys()) and all(same(a.get(name), b.get(name)) for name in names)
    return a.dtype == b.dtype and torch.equal(a, b)


def assert_like(spec: TensorSpec, value: Any) -> None:
    """Check dtype and device of a value."""
    if isinstance(value, Tensor):
        assert value.dtype == spec.dtype
    if spec.device is not None:
        assert value.device == spec.device


def _disturbed(value: Any, scale: float) -> Any:
    """Return a value of the same shape that has no reason to be in any set."""
    if is_non_tensor(value):
        return value
    if isinstance(value, LazyStackedTensorDict):
        parts = [_disturbed(part, scale) for part in value.unbind(value.stack_dim)]
        return LazyStackedTensorDict(*parts, stack_dim=value.stack_dim)
    if isinstance(value, TensorDictBase):
        out = value.copy()
        for name in value.keys():  # noqa: SIM118  (a tensordict iterates over its batch)
            out.set(name, _disturbed(value.get(name), scale))
        return out
    if not isinstance(value, Tensor):
        return value
    noise = torch.randn(value.shape, device=value.device) * scale
    if not value.dtype.is_floating_point:
        return noise
    noise[torch.rand(noise.shape) < 0.1] = torch.nan
    noise[torch.rand(noise.shape) < 0.1] = torch.inf
    noise[torch.rand(noise.shape) < 0.1] = -torch.inf
    return noise.to(value.dtype)
