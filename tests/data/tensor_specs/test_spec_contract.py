"""Every public spec passes every check of ``torchrl.testing.spec``."""

import pytest
import torch

import torchrl.data.tensor_specs as specs
from torchrl.data import (
    Binary,
    Bounded,
    BoundedContinuous,
    BoundedDiscrete,
    Categorical,
    Choice,
    Composite,
    MultiCategorical,
    MultiOneHot,
    NonTensor,
    OneHot,
    Stacked,
    StackedComposite,
    TensorSpec,
    Unbounded,
    UnboundedContinuous,
    UnboundedDiscrete,
)
from torchrl.testing.spec import (
    CHECKS,
    COMPOSITE_CHECKS,
    check_memoized_encoding,
    check_numpy_round_trip,
    check_operations_commute_with_membership,
)

inf = float("inf")
MASK = torch.tensor([True, False, True])

SPECS = {
    "bounded": lambda: Bounded(-1, 2, (3,)),
    "bounded tensors": lambda: Bounded(torch.tensor([-1.0, 0.0]), torch.tensor([1.0, 5.0])),
    "bounded scalar": lambda: Bounded(0.0, 1.0),
    "bounded half": lambda: Bounded(-3, 7, (4,), dtype=torch.float16),
    "bounded bfloat16": lambda: Bounded(-3, 7, (4,), dtype=torch.bfloat16),
    "bounded wide": lambda: Bounded(-3e38, 3e38, (4,)),
    "bounded on the cpu": lambda: BoundedContinuous(-1, 1, (2, 2), "cpu", torch.float64),
    "bounded point": lambda: Bounded(2, 2, (2,)),
    "half open": lambda: Bounded(torch.tensor([-inf, 0.0, -inf, 1.0]), torch.tensor([0.0, inf, inf, 2.0])),
    "open": lambda: Bounded(-inf, inf, (2,)),
    "pixels": lambda: Bounded(0, 255, (2, 3, 3), dtype=torch.uint8),
    "die": lambda: BoundedDiscrete(1, 6),
    "integers": lambda: Bounded(torch.tensor([-3, 0]), torch.tensor([5, 2])),
    "all of int64": lambda: Bounded(-inf, inf, (2,), dtype=torch.int64),
    "most of int64": lambda: Bounded(torch.tensor([-(2**63), 0]), torch.tensor([2**63 - 2, 2**63 - 1])),
    "uint16": lambda: Bounded(0, 2**16 - 1, (3,), dtype=torch.uint16),
    "uint16 apart": lambda: Bounded(torch.tensor([0, 9]), torch.tensor([7, 2**16 - 1]), dtype=torch.uint16),
    "bounded bool": lambda: Bounded(0, 1, (3,), dtype=torch.bool),
    "unbounded": lambda: Unbounded((3, 4)),
    "unbounded default": UnboundedContinuous,
    "unbounded integers": lambda: UnboundedDiscrete((2,)),
    "unbounded uint8": lambda: Unbounded((2,), dtype=torch.uint8),
    "unbounded bool": lambda: Unbounded((2,), dtype=torch.bool),
    "unbounded scalar": lambda: Unbounded(()),
    "categorical": lambda: Categorical(3),
    "categorical flag": lambda: Categorical(2, (1,), dtype=torch.bool),
    "categorical batch": lambda: Categorical(3, (2,), dtype=torch.int32),
    "categorical masked": lambda: Categorical(3, mask=MASK),
    "categorical masks": lambda: Categorical(3, (2,), mask=torch.stack([MASK, ~MASK])),
    "one-hot": lambda: OneHot(3),
    "one-hot int64": lambda: OneHot(3, device="cpu", dtype=torch.int64),
    "one-hot float batch": lambda: OneHot(3, (2, 3), dtype=torch.float32),
    "one-hot of one": lambda: OneHot(1),
    "one-hot large": lambda: OneHot(300),
    "one-hot masked": lambda: OneHot(3, mask=MASK),
    "one-hot masks": lambda: OneHot(3, (2, 3), mask=torch.stack([MASK, ~MASK])),
    "multi-categorical": lambda: MultiCategorical([3, 5]),
    "multi-categorical batch": lambda: MultiCategorical([2, 2], (3, 2)),
    "multi-categorical lone": lambda: MultiCategorical([4]),
    "multi-categorical singleton": lambda: MultiCategorical([4], remove_singleton=False),
    "multi-categorical masked": lambda: MultiCategorical([3, 2], mask=torch.tensor([True, False, True, False, True])),
    "multi-categorical lone masked": lambda: MultiCategorical([3], mask=MASK),
    "multi-one-hot": lambda: MultiOneHot([2, 3]),
    "multi-one-hot int8": lambda: MultiOneHot([2, 3], (2, 5), dtype=torch.int8),
    "multi-one-hot masked": lambda: MultiOneHot([3, 2], mask=torch.tensor([True, False, True, False, True])),
    "binary": lambda: Binary(3),
    "binary batch": lambda: Binary(shape=(2, 3), dtype=torch.bool),
    "binary bit": lambda: Binary(shape=()),
    "object": lambda: NonTensor(example_data="hello"),
    "objects": lambda: NonTensor((2,), example_data="hello", batched=True),
    "object without shape": lambda: NonTensor((), example_data=(1, 2)),
    "choice": lambda: Choice([Bounded(0, 1, (2,)), Bounded(2, 3, (2,))]),
    "choice of objects": lambda: Choice(["left", "right"]),
    "stacked": lambda: Stacked(Categorical(2), Categorical(9), dim=0),
    "stacked last": lambda: Stacked(Bounded(0, 1, (3, 2)), Bounded(2, 3, (3, 2)), dim=1),
    "composite": lambda: Composite(
        action=OneHot(2),
        nothing=None,
        agents={"torque": Bounded(-1, 1, (2,)), "id": Categorical(4, (1,))},
        device="cpu",
    ),
    "composite batch": lambda: Composite(
        {("a", "b"): Unbounded((4, 3)), "flag": Categorical(2, (4,), dtype=torch.bool)}, shape=(4,), names=["envs"]
    ),
    "composite small": lambda: Composite(a=Categorical(2), b=OneHot(3)),
    "composite of an object": lambda: Composite(name=NonTensor(example_data="Ada")),
    "composite of a stack": lambda: Composite(a=Stacked(Bounded(0, 1, (3,)), Bounded(2, 3, (3,)), dim=0), shape=(2,)),
    "composite empty": Composite,
}
# Their values cannot be put into one tensor, or carry entries of their own.
RAGGED = {
    "stacked composites": lambda: StackedComposite(
        Composite(a=Unbounded((2,)), b=Categorical(3)), Composite(a=Unbounded((2,))), dim=0
    ),
    "stacked composites of other sizes": lambda: StackedComposite(
        Composite(a=Bounded(0, 1, (4, 2)), shape=(4,)), Composite(a=Bounded(0, 2, (4, 3)), shape=(4,)), dim=1
    ),
}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("make", SPECS.values(), ids=SPECS)
def test_law(make, check):
    check(make)


@pytest.mark.parametrize(
    "check",
    [
        check
        for check in CHECKS
        if check not in (check_numpy_round_trip, check_operations_commute_with_membership, check_memoized_encoding)
    ],
    ids=lambda check: check.__name__,
)
@pytest.mark.parametrize("make", RAGGED.values(), ids=RAGGED)
def test_law_of_ragged_specs(make, check):
    check(make)


@pytest.mark.parametrize("check", COMPOSITE_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", [name for name in SPECS if name.startswith("composite")])
def test_composites_are_mappings(name, check):
    check(SPECS[name])


def test_every_public_spec_is_listed():
    public = {
        value
        for name in specs.__all__
        if isinstance(value := getattr(specs, name), type) and issubclass(value, TensorSpec)
    }
    listed = {type(make()) for make in (*SPECS.values(), *RAGGED.values())}
    assert public - {TensorSpec, Bounded, Unbounded} == listed
    assert BoundedContinuous in listed
