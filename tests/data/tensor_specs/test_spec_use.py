"""How specs are used: shapes of draws, keys, locks, devices, indices, stacks and their members."""

import pickle

import pytest
import torch
from tensordict import NonTensorStack, TensorDict

from torchrl._core.errors import DTypeError, MissingKeyError, ShapeError, SpecError
from torchrl.data import (
    Binary,
    Bounded,
    Categorical,
    Choice,
    Composite,
    MultiCategorical,
    MultiOneHot,
    NonTensor,
    OneHot,
    Unbounded,
)
from torchrl.data.utils import CloudpickleWrapper, check_no_exclusive_keys, consolidate_spec

LEAVES = {
    "bounded": Bounded(-1, 1, (3,)),
    "integers": Bounded(0, 4, (2,), dtype=torch.int64),
    "unbounded": Unbounded((2,)),
    "one-hot": OneHot(4),
    "number": Categorical(5),
    "numbers": MultiCategorical([2, 3]),
    "one-hots": MultiOneHot([2, 3]),
    "bits": Binary(3),
}
ALL = {
    **LEAVES,
    "composite": Composite(a=Bounded(0, 1, (2,)), b={"c": Categorical(3)}),
    "stack": torch.stack([Bounded(0, 1, (2,)), Bounded(0, 2, (2,))]),
    "stacked composites": torch.stack([Composite(a=Bounded(0, 1, (2,))), Composite(a=Bounded(0, 2, (2,)))]),
    "choice": Choice([Bounded(0, 1, (2,)), Bounded(2, 3, (2,))]),
    "text": NonTensor((2,), example_data="a"),
}


@pytest.mark.parametrize("method", ["rand", "sample", "zero", "zeros", "one", "ones"])
@pytest.mark.parametrize("spec", ALL.values(), ids=ALL)
def test_none_is_no_shape(spec, method):
    value = getattr(spec, method)(None)
    assert (value.shape if isinstance(value, torch.Tensor) else value.batch_size) == spec.shape


@pytest.mark.parametrize("spec", LEAVES.values(), ids=LEAVES)
def test_leaves_have_a_device(spec):
    assert spec.device == spec.clone().clear_device_().device == torch.zeros(()).device
    assert spec == spec.to("cpu")
    with torch.device("meta"):
        assert spec.device == torch.device("meta")
    assert Composite(a=spec).device is None


@pytest.mark.parametrize("shape", [(-1, 2), (-1,), (3, -1)])
def test_numbers_are_bounds_of_any_number_of_rows(shape):
    spec = Bounded(-2, 2, shape)
    assert spec.shape == shape
    size = [7 if s == -1 else s for s in shape]
    assert spec.is_in(torch.ones(size))
    assert not spec.is_in(torch.full(size, 3.0))
    assert (spec.project(torch.full(size, 3.0)) == 2).all()
    assert spec.is_in(spec.rand((4,)))
    with pytest.raises(ShapeError):
        Bounded(torch.zeros(5), torch.ones(5), (-1, 2))


@pytest.mark.parametrize("key", ["a", ("a",), ("g", "i"), ("g", ("i",)), ("g", ("i", ("d",))), ("g", "i", "d")])
def test_keys_are_found_in_any_spelling(key):
    spec = Composite(a=Unbounded((1,)), g=Composite(i=Composite(d=Unbounded((1,)))))
    keys = spec.keys(True)
    assert key in keys
    assert "b" not in keys
    assert 3 not in keys
    assert keys == {"a", "g", ("g", "i"), ("g", "i", "d")}
    assert list(spec.keys()) == ["a", "g"]
    keys = spec.keys()
    assert ("a",) in keys
    assert ("g", "i") not in keys


@pytest.mark.parametrize("name", ["shape", "device", "dtype", "space"])
def test_attributes_are_no_entries(name):
    for write in (lambda spec: spec.set(name, Unbounded()), lambda spec: spec.set(("a", name), Unbounded())):
        with pytest.raises(AttributeError, match="has an attribute of this name"):
            write(Composite())


def test_parts_of_a_locked_whole_stay_locked():
    innermost = Composite(x=Unbounded((1,)))
    outer = Composite(inner=Composite(innermost=innermost))
    assert not outer.locked
    outer.lock_()
    for part in (outer["inner"], outer["inner", "innermost"]):
        assert part.locked
        assert part.is_locked
        with pytest.raises(RuntimeError, match="is part of a composite that is locked"):
            part.unlock_()
        assert part.locked
        part.clone().set("y", Unbounded())
    outer.unlock_(recurse=False)
    assert not outer.locked
    assert outer["inner"].locked
    assert not outer["inner"].unlock_().locked
    again = pickle.loads(pickle.dumps(outer.lock_()))
    with pytest.raises(RuntimeError):
        again["inner"].unlock_()
    assert not again.unlock_()["inner"].locked


def test_locks_of_stacks():
    stack = torch.stack([Composite(a=Unbounded((2,))), Composite(a=Unbounded((3,)))])
    stack.lock_()
    with pytest.raises(RuntimeError, match="is part of a composite that is locked"):
        stack[0].unlock_()
    stack.unlock_()
    stack[0].set("b", Unbounded())


@pytest.mark.parametrize("spec", LEAVES.values(), ids=LEAVES)
def test_slices_with_a_negative_step(spec):
    batch = spec.expand(5, 2, *spec.shape)
    for index in (slice(None, None, -1), slice(10, 1, -1), slice(3, None, -2)):
        assert batch[index].shape[0] == len(range(5)[index])
    assert batch[:, ::-1].shape == batch.shape
    assert Bounded(torch.zeros(3), torch.tensor([1.0, 2.0, 3.0]))[::-1].high.tolist() == [3, 2, 1]


@pytest.mark.parametrize("spec", [OneHot(4, (3, 4)), MultiOneHot([1, 3], (3, 4)), MultiCategorical([2] * 4, (3, 4))])
@pytest.mark.parametrize("index", [(0, 1), (slice(None), 2), (..., 0), (0, slice(1, 3))])
def test_one_value_has_no_parts(spec, index):
    with pytest.raises(IndexError) as error:
        spec[index]
    assert isinstance(error.value, ShapeError)


def test_bits_stay_together():
    assert len(Binary(4, (5, 4)).unbind(0)) == 5
    assert len(Binary(shape=()).expand(5).unbind(0)) == 5
    for dim in (-1, 1):
        with pytest.raises(ValueError, match="cannot give up its last dimension"):
            Binary(4, (5, 4)).unbind(dim)


def test_objects_cannot_be_counted():
    for spec in (NonTensor(example_data="a"), Composite(text=NonTensor(example_data="a"))):
        with pytest.raises(RuntimeError, match="has no number of values"):
            spec.cardinality()


# --- choices ---


def test_choices_between_lists_of_objects():
    torch.manual_seed(0)
    spec = Choice([NonTensorStack("a", "b", "c"), NonTensorStack("d", "e", "f")])
    assert {tuple(spec.rand().tolist()) for _ in range(20)} == {("a", "b", "c"), ("d", "e", "f")}
    assert spec.rand((2,)).batch_size == (2, 3)
    assert spec.zero().tolist() == ["a", "b", "c"]
    assert spec.is_in(spec.rand((2, 4)))
    assert not spec.is_in(NonTensorStack("a", "b", "f"))
    assert spec.project(NonTensorStack("x", "y", "z")).tolist() == ["a", "b", "c"]
    assert spec.cardinality() == 2
    assert [value.tolist() for value in spec.enumerate()] == [["a", "b", "c"], ["d", "e", "f"]]
    assert spec.clone() == spec == pickle.loads(pickle.dumps(spec))
    assert spec != Choice([NonTensorStack("a", "b", "c"), NonTensorStack("d", "e", "g")])


@pytest.mark.parametrize("choices", ["yes", {"a": 1}, 3, torch.zeros(2)])
def test_choices_are_a_list(choices):
    with pytest.raises(DTypeError, match="needs a list of choices"):
        Choice(choices)


# --- stacks ---


def stack(dim=0):
    one = Composite(x=Unbounded((3,)), radar=Bounded(0, 1, (2,)), shape=())
    two = Composite(x=Unbounded((3,)), sonar=Bounded(0, 1, (4,)), shape=())
    return torch.stack([one, two], dim), [one, two]


def test_the_members_of_a_stack_are_those_that_were_stacked():
    whole, parts = stack()
    assert whole[0] is whole[-2] is whole[0, ...] is parts[0]
    assert whole[1] is parts[1]
    assert [a is b for a, b in zip(whole.unbind(0), parts, strict=True)] == [True, True]
    with pytest.raises(IndexError, match="has no such member"):
        whole[2]
    leaves = [Bounded(0, 1, (2,)), Bounded(0, 2, (2,))]
    along = torch.stack(leaves, 1)
    assert along[:, 1] is leaves[1]
    assert along[0].shape == (2,)
    assert len(whole) == len(whole.rand()) == 2


def test_changes_of_a_member_are_changes_of_the_stack():
    whole, _ = stack()
    other, _ = stack()
    assert whole == other
    del other[0]["radar"]
    assert whole != other
    other[1].set("more", Unbounded())
    assert other[1].get("more").shape == (1,)


def test_entries_are_deleted_from_all_members_that_have_them():
    whole, parts = stack()
    del whole["radar"]
    assert list(parts[0].keys()) == list(parts[1].keys() - {"sonar"}) == ["x"]
    del whole["x"]
    assert whole.is_empty()
    for key in ("x", "radar", "never"):
        with pytest.raises(MissingKeyError):
            del whole[key]


def test_dtypes_of_a_stack():
    whole = torch.stack([Composite(a=Unbounded((2,)), b=Unbounded((1,))), Composite(a=Unbounded((5,)))])
    whole.type_check(whole.rand((3,)))
    wrong = whole.rand()
    wrong.tensordicts[1]["a"] = torch.zeros(5, dtype=torch.int64)
    with pytest.raises(DTypeError):
        whole.type_check(wrong)


def test_stacks_are_projected_in_place():
    whole = torch.stack([Composite(a=Bounded(0, 1, (2,))), Composite(a=Bounded(0, 2, (3,)))])
    td = whole.rand()
    td.tensordicts[1]["a"] = torch.full((3,), 9.0)
    assert whole.project(td) is td
    assert td[1]["a"].tolist() == [2, 2, 2]


@pytest.mark.parametrize(
    "parts",
    [
        (Unbounded((2,)), Unbounded((2,), dtype=torch.float64)),
        (OneHot(3), Binary(3)),
        (Categorical(3), Categorical(4, dtype=torch.int32)),
    ],
)
def test_specs_of_several_dtypes_do_not_stack(parts):
    with pytest.raises(RuntimeError, match="leaf specs of one dtype") as error:
        torch.stack(parts)
    assert isinstance(error.value, DTypeError)


def test_consolidated_entries_have_any_number_of_dimensions():
    one = Composite(shared=Unbounded((2,)), own=Composite(eye=Unbounded((4, 4))))
    two = Composite(shared=Unbounded((2,)), ear=Composite(tone=Unbounded(())))
    whole = torch.stack([one, two])
    assert not check_no_exclusive_keys(whole)
    assert check_no_exclusive_keys(consolidate_spec(whole))
    assert set(consolidate_spec(whole).keys()) == {"shared", "own", "ear"}


# --- errors ---


@pytest.mark.parametrize(
    ("value", "kind"),
    [(torch.full((2,), 3.0), SpecError), (torch.zeros(3), ShapeError), (torch.zeros(2, dtype=torch.int64), DTypeError)],
)
def test_values_outside_are_assertion_errors(value, kind):
    spec = Bounded(-1, 1, (2,))
    for act in (spec.assert_is_in, lambda v: spec.to_numpy(v, safe=True)):
        with pytest.raises(AssertionError) as error:
            act(value)
        assert isinstance(error.value, kind)
    with pytest.raises(AssertionError) as error:
        Composite(a=spec).assert_is_in(TensorDict())
    assert isinstance(error.value, KeyError)


def test_functions_pickle_by_value():
    offset = torch.ones(2)
    wrapped = CloudpickleWrapper(CloudpickleWrapper(lambda x, scale=1: x * scale + offset))
    assert not isinstance(wrapped.fn, CloudpickleWrapper)
    assert pickle.loads(pickle.dumps(wrapped))(offset, scale=3).tolist() == [4, 4]
