"""Specs that differ along a dimension."""

import pytest
import torch
from tensordict import LazyStackedTensorDict, TensorDict

from torchrl._core.errors import DTypeError, MissingKeyError, ShapeError, SpecError
from torchrl.data import (
    Bounded,
    Categorical,
    Composite,
    OneHot,
    Stacked,
    StackedComposite,
    Unbounded,
    check_no_exclusive_keys,
    consolidate_spec,
    contains_lazy_spec,
)


def tasks():
    """Two tasks, one of which has an entry of its own; stacked after a batch of 4."""
    return torch.stack(
        [
            Composite(a=Bounded(0, 1, (4, 2)), b=Categorical(3, (4,)), shape=(4,)),
            Composite(a=Bounded(2, 3, (4, 2)), shape=(4,)),
        ],
        1,
    )


class TestStacked:
    def test_equal_specs_make_one(self):
        spec = torch.stack([Bounded(0, 1, (3,))] * 2, -1)
        assert spec == Bounded(0, 1, (3, 2))
        assert torch.stack([OneHot(3), OneHot(3)]) == OneHot(3, (2, 3))

    @pytest.mark.parametrize("dim", [0, 1, 2, -1])
    def test_each_slice_has_its_spec(self, dim):
        specs = [Bounded(i, i + 1, (3, 2)) for i in range(4)]
        spec = torch.stack(specs, dim)
        assert isinstance(spec, Stacked)
        assert spec.shape == torch.stack([s.rand() for s in specs], dim).shape
        assert spec.unbind(dim) == tuple(specs)
        for i, part in enumerate(spec.rand((5,)).unbind(dim + 1 if dim >= 0 else dim)):
            assert specs[i].is_in(part)
        assert spec.is_in(spec.project(torch.randn(spec.shape)))
        wrong = torch.stack([s.rand() for s in reversed(specs)], dim)
        assert not spec.is_in(wrong)
        with pytest.raises(SpecError, match=r"lies outside its spec; expected values from 0.0 to 1.0"):
            spec.assert_is_in(wrong)

    def test_indices_choose_reorder_and_repeat(self):
        specs = [Categorical(n, (3,)) for n in (2, 5, 9)]
        spec = torch.stack(specs)  # [3, 3]
        assert spec[1] == specs[1]
        assert spec[torch.tensor([2, 0])].specs == [specs[2], specs[0]]
        assert spec[1:].specs == specs[1:]
        assert spec[1:2] == specs[1].unsqueeze(0)
        assert spec[:, 1].specs == [s[1] for s in specs]
        assert spec[:, 1].dim == 0
        assert spec[..., None].shape == (3, 3, 1)
        assert spec.unsqueeze(0).dim == 1
        assert spec.unsqueeze(0).squeeze(0) == spec
        assert spec.expand(7, 3, 3).dim == 1
        assert spec.expand(7, 3, 3)[:, 2] == specs[2].expand(7, 3)
        assert spec[torch.tensor([True, False, True])].specs == [specs[0], specs[2]]

    def test_the_stacked_dimension_does_not_mix(self):
        with pytest.raises(ShapeError, match=r"cannot mix its stacked dimension with others"):
            torch.stack([Categorical(n) for n in (2, 3, 4, 5)]).reshape(2, 2)

    def test_the_stacked_dimension_may_be_flattened(self):
        spec = torch.stack([Categorical(2, (2,)), Categorical(9, (2,))]).flatten()
        assert [part.n for part in spec.specs] == [2, 2, 9, 9]

    def test_a_rollout_of_a_stack(self):
        spec = torch.stack([Bounded(0, 1, (2,)), Bounded(2, 3, (2,))])  # [2, 2]
        rollout = torch.stack([spec.rand() for _ in range(5)], 1)  # [2, T, 2]
        assert spec.is_in(rollout)
        assert spec.is_in(rollout.transpose(0, 1))
        assert torch.equal(spec.project(rollout), rollout)

    def test_sizes_that_vary(self):
        spec = torch.stack([Unbounded((2,)), Unbounded((3,))])
        assert spec.shape == (2, -1)
        value = spec.rand()
        assert value.is_nested
        assert [part.shape for part in value.unbind(0)] == [(2,), (3,)]
        assert spec.is_in(value)
        assert spec[1].shape == (3,)
        assert spec.unsqueeze(0).shape == (1, 2, -1)
        with pytest.raises(ShapeError, match="cannot put values of different shapes into one"):
            spec.rand((4,))

    def test_cardinality_and_enumeration(self):
        spec = torch.stack([Categorical(2), Categorical(3)])
        assert spec.cardinality() == 6
        assert spec.enumerate().tolist() == [[a, b] for a in range(2) for b in range(3)]

    def test_conversion(self):
        spec = torch.stack([OneHot(3), OneHot(3, mask=torch.tensor([True, False, True]))])
        assert spec.encode([1, 2]).int().tolist() == [[0, 1, 0], [0, 0, 1]]
        assert spec.to_numpy(spec.encode([1, 2])).tolist() == [1, 2]
        assert spec.zero().shape == spec.one().shape == (2, 3)

    def test_mistakes_are_named(self):
        with pytest.raises(DTypeError, match="stacks leaf specs of one dtype; found"):
            torch.stack([Unbounded((2,)), Categorical(2, (2,))])
        with pytest.raises(ShapeError, match="different numbers of dimensions"):
            torch.stack([Unbounded((2,)), Unbounded((2, 3))])
        with pytest.raises(SpecError, match="needs specs"):
            Stacked(dim=0)


class TestStackedComposite:
    def test_it_holds_what_all_have(self):
        spec = tasks()
        assert isinstance(spec, StackedComposite)
        assert isinstance(spec, Composite)
        assert (spec.shape, list(spec)) == ((4, 2), ["a"])
        assert isinstance(spec["a"], Stacked)
        assert spec["a"].shape == (4, 2, 2)
        assert spec[:, 0]["b"] == Categorical(3, (4,))
        assert spec[2].shape == (2,)
        with pytest.raises(MissingKeyError, match="'b' is absent"):
            spec["b"]

    def test_values_are_lazy_stacks(self):
        spec = tasks()
        td = spec.rand((3,))
        assert isinstance(td, LazyStackedTensorDict)
        assert (td.batch_size, td.stack_dim) == ((3, 4, 2), 2)
        assert spec.is_in(td)
        assert spec.is_in(spec.zero()) is False  # zeros are outside [2, 3]
        assert spec.is_in(spec.project(spec.zero()))
        assert "b" in td[..., 0]
        rollout = torch.stack([spec[0].rand() for _ in range(5)], 1)
        assert spec[0].is_in(rollout)
        td[..., 0]["b"].fill_(7)
        with pytest.raises(SpecError, match="'b' lies outside"):
            spec.assert_is_in(td)
        with pytest.raises(MissingKeyError, match="'a' is absent"):
            spec.assert_is_in(TensorDict(batch_size=[4, 2]))
        with pytest.raises(ShapeError, match="wrong shape"):
            spec.assert_is_in(TensorDict(batch_size=[4, 3]))

    def test_entries_are_set_in_each(self):
        spec = tasks()
        spec["c"] = torch.stack([Categorical(2, (4,)), Categorical(3, (4,))], 1)
        spec["d", "e"] = Unbounded((4, 2, 5))
        spec.set("f", None)
        assert spec[:, 1]["c"] == Categorical(3, (4,))
        assert spec["d", "e"] == Unbounded((4, 2, 5))
        assert spec["f"] is None
        spec.update({"g": Unbounded((4, 2, 1))})
        del spec["a"]
        assert spec.pop("c").shape == (4, 2)
        assert set(spec) == {"d", "f", "g"}
        assert list(spec.empty()) == []
        assert spec.is_in(spec.rand())

    def test_locks(self):
        spec = tasks().lock_()
        with pytest.raises(RuntimeError, match="is locked"):
            spec["x"] = Unbounded((4, 2))
        with pytest.raises(RuntimeError, match="is locked"):
            spec.specs[0]["x"] = Unbounded((4,))
        spec.unlock_()["x"] = Unbounded((4, 2))

    def test_operations(self):
        spec = tasks()
        assert spec.expand(5, 4, 2).dim == 2
        assert spec.expand(5, 4, 2)[0] == spec
        assert spec[1:3].shape == (2, 2)
        assert spec.unbind(1) == tuple(spec.specs)
        assert spec.to("cpu").device == torch.device("cpu")
        assert spec.clone() == spec
        td = spec.expand(5, 4, 2).rand()
        assert spec.expand(5, 4, 2)[:, 1:, 1].is_in(td[:, 1:, 1])

    def test_its_shape_is_fixed(self):
        with pytest.raises(ShapeError, match="cannot take another shape"):
            tasks().shape = (4,)

    def test_numpy(self):
        spec = torch.stack([Composite(a=Categorical(2)), Composite(a=Categorical(5))])
        td = spec.encode([{"a": 1}, {"a": 4}])
        assert td["a"].tolist() == [1, 4]
        assert spec.to_numpy(td)["a"].tolist() == [1, 4]

    def test_numpy_of_entries_that_differ(self):
        spec = torch.stack([Composite(a=Unbounded((2,)), b={"c": Categorical(3)}), Composite(a=Unbounded((3,)))])
        values = spec.to_numpy(spec.rand())
        assert [value.shape for value in values["a"]] == [(2,), (3,)]
        assert values["b"][0]["c"] in (0, 1, 2)
        assert values["b"][1] is None
        assert spec.is_in(spec.encode(values))
        same = torch.stack([Composite(a={"c": Unbounded((2,))}), Composite(a={"c": Unbounded((2,))}, d=Unbounded())])
        assert same.to_numpy(same.rand((4,)))["a"]["c"].shape == (4, 2, 2)


class TestLaziness:
    def test_contains_lazy_spec(self):
        assert contains_lazy_spec(tasks())
        assert contains_lazy_spec(Composite(a={"b": tasks()}, c=None))
        assert contains_lazy_spec(Composite(a=tasks()["a"]))
        assert not contains_lazy_spec(Composite(a=Unbounded(), b=None))
        assert not contains_lazy_spec(Unbounded())

    def test_check_no_exclusive_keys(self):
        assert not check_no_exclusive_keys(tasks())
        assert check_no_exclusive_keys(tasks()[:, :1])
        assert check_no_exclusive_keys(Unbounded())
        inner = [Composite(x={"a": Unbounded()}), Composite(x={"b": Unbounded()})]
        assert not check_no_exclusive_keys(torch.stack(inner))
        assert check_no_exclusive_keys(torch.stack(inner), recurse=False)
        assert not check_no_exclusive_keys(Composite(t=tasks()))

    def test_consolidation_adds_what_is_missing(self):
        spec = Composite(
            t=torch.stack(
                [
                    Composite(a=Unbounded((4, 2)), n={"x": Unbounded((4, 3, 5))}, shape=(4,)),
                    Composite(a=Unbounded((4, 2)), k=Categorical(3, (4,)), shape=(4,)),
                ]
            )
        )
        whole = consolidate_spec(spec)
        assert check_no_exclusive_keys(whole)
        assert not check_no_exclusive_keys(spec)
        assert whole["t"][1]["n", "x"].shape == (4, 0, 0)
        assert whole["t"][0]["k"].shape == (4,)
        assert whole["t"][0]["k"].dtype == torch.int64
        assert whole["t"][0]["a"] == Unbounded((4, 2))
        assert whole.is_in(whole.rand())
        untouched = consolidate_spec(spec, recurse_through_entries=False)
        assert untouched == spec


@pytest.mark.parametrize(
    ("other", "error"), [(Unbounded((3,), dtype=torch.int64), DTypeError), (Unbounded(()), ShapeError)]
)
def test_entries_that_cannot_be_one_are_named(other, error):
    spec = torch.stack([Composite(a=Unbounded((3,))), Composite(a=other)])
    with pytest.raises(error, match=r"entry 'a' cannot be one entry.*found \[.*names of their own"):
        spec["a"]


def test_an_entry_of_some_alone_is_found_by_indexing():
    spec = torch.stack([Composite(a=Unbounded()), Composite(a=Unbounded(), b=Unbounded())])
    with pytest.raises(MissingKeyError, match=r"Those at \[1\] alone have 'b': index first"):
        spec["b"]
    assert spec[1]["b"].shape == (1,)
