"""Several choices side by side."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torchrl._core.errors import ShapeError, SpecError
from torchrl.data import BoxList, CategoricalBox, MultiCategorical, MultiOneHot

# The first choice may be 0 or 2, the second only 1.
MASK = torch.tensor([True, False, True, False, True])


@settings(max_examples=25, deadline=None)
@given(
    nvec=st.lists(st.integers(1, 4), min_size=2, max_size=4),
    batch=st.lists(st.integers(1, 3), max_size=2),
    seed=st.integers(0, 99),
)
def test_both_forms_say_the_same(nvec, batch, seed):
    torch.manual_seed(seed)
    numbers = MultiCategorical(nvec, (*batch, len(nvec)), remove_singleton=False)
    hot = MultiOneHot(nvec, (*batch, sum(nvec)))
    mask = torch.cat([torch.rand(*batch, n) < 0.5 for n in nvec], -1)
    for part in mask.split(nvec, -1):
        part[..., 0] |= ~part.any(-1)
    for legal in (None, mask):
        numbers.update_mask(legal)
        hot.update_mask(legal)
        value = hot.rand((3,))
        index = hot.to_categorical(value)
        assert hot.is_in(value)
        assert numbers.is_in(index)
        assert torch.equal(numbers.to_one_hot(index), value)
        assert hot.to_categorical_spec() == numbers
        assert numbers.to_one_hot_spec() == hot
        by_hand = torch.cat([torch.eye(n)[index[..., i]].bool() for i, n in enumerate(nvec)], -1)
        assert torch.equal(value, by_hand)
        anything = torch.randint(-2, 6, (3, *batch, len(nvec)))
        assert numbers.is_in(numbers.project(anything))
        assert hot.is_in(hot.project(torch.randn(3, *batch, sum(nvec))))


@pytest.mark.parametrize("batch", [[], [2]])
def test_one_choice_converts_into_either_form(batch):
    hot, numbers = MultiOneHot([5], (*batch, 5)), MultiCategorical([5], (*batch, 1))
    assert hot.to_categorical_spec() == numbers
    assert numbers.to_one_hot_spec() == hot
    value = hot.rand((3,))
    assert numbers.is_in(hot.to_categorical(value))
    assert torch.equal(numbers.to_one_hot(hot.to_categorical(value)), value)


@pytest.mark.parametrize("counts", [[[2, 3], [4, 5]], torch.tensor([[[1, 2]], [[3, 4]]]), np.array([[7], [2]])])
def test_a_grid_of_choices(counts):
    torch.manual_seed(0)
    grid = torch.as_tensor(counts)
    spec = MultiCategorical(counts)
    assert spec.shape == grid.shape
    assert spec.nvec.tolist() == grid.tolist()
    draws = spec.rand((200,))
    assert draws.shape == (200, *grid.shape)
    assert spec.is_in(draws)
    assert (draws.amax(0) == grid - 1).all()
    assert not spec.is_in(grid)
    assert (spec.project(torch.full_like(grid, 99)) == grid - 1).all()
    assert spec.cardinality() == grid.prod()
    assert spec.expand(3, *grid.shape)[0] == spec
    assert spec.is_in(spec.encode(spec.to_numpy(draws[0])))
    mask = torch.zeros(int(grid.sum()), dtype=torch.bool)
    mask[grid.flatten().cumsum(0) - 1] = True
    masked = MultiCategorical(counts, mask=mask)
    assert (masked.rand((4,)) == grid - 1).all()
    assert (masked.expand(2, *grid.shape).rand() == grid - 1).all()
    one_hot = spec.to_one_hot(draws)
    assert spec.to_one_hot_spec().is_in(one_hot)
    with pytest.raises(ShapeError, match="another shape than its grid"):
        MultiCategorical(counts, shape=(9, *grid.shape[1:]))
    with pytest.raises(IndexError):
        spec[0]


def test_fields():
    spec = MultiCategorical([3, 2])
    assert spec.space == BoxList([CategoricalBox(3), CategoricalBox(2)])
    assert (spec.shape, spec.dtype, spec.nvec.tolist()) == ((2,), torch.int64, [3, 2])
    assert (MultiOneHot([3, 2]).shape, MultiOneHot([3, 2]).dtype) == ((5,), torch.bool)
    assert MultiCategorical(torch.tensor([3, 2])) == MultiCategorical(np.array([3, 2])) == spec


def test_every_value_is_drawn():
    assert len(MultiCategorical([3, 2]).rand((200,)).unique(dim=0)) == 6
    assert len(MultiOneHot([3, 2]).rand((200,)).unique(dim=0)) == 6


@pytest.mark.parametrize("make", [MultiCategorical, MultiOneHot])
def test_masks(make):
    spec = make([3, 2], mask=MASK)
    drawn = spec.to_categorical(spec.rand((100,)))
    assert set(map(tuple, drawn.tolist())) == {(0, 1), (2, 1)}
    assert spec.to_categorical(spec.enumerate(use_mask=True)).tolist() == [[0, 1], [2, 1]]
    assert spec.cardinality() == 6
    batched = spec.expand(4, *spec.shape)
    assert batched.mask.shape == (4, 5)
    assert torch.equal(batched[0].mask, MASK)
    spec.update_mask(torch.tensor([True, True, True, False, False]))
    with pytest.raises(SpecError, match="forbids every value"):
        spec.rand()
    with pytest.raises(SpecError, match="forbids every value"):
        spec.project(spec.zero())
    with pytest.raises(ShapeError, match=r"expected \[5\], found \[4\]"):
        spec.update_mask(torch.ones(4))


def test_projection_finds_the_closest_legal_values():
    assert MultiCategorical([3, 2], mask=MASK).project(torch.tensor([1, 0])).tolist() == [0, 1]
    hot = MultiOneHot([3, 2], mask=MASK, dtype=torch.int64)
    projected = hot.project(torch.tensor([0.1, 9.0, 0.2, 5.0, -5.0]))
    assert projected.tolist() == [0, 0, 1, 0, 1]


def test_membership():
    numbers, hot = MultiCategorical([3, 2]), MultiOneHot([3, 2], dtype=torch.int64)
    assert not numbers.is_in(torch.tensor([0, 2]))
    assert not numbers.is_in(torch.tensor([-1, 0]))
    assert hot.is_in(torch.tensor([1, 0, 0, 0, 1]))
    assert not hot.is_in(torch.tensor([1, 0, 0, 1, 1]))
    assert not hot.is_in(torch.tensor([1, 1, 0, 0, 0]))
    assert not hot.is_in(torch.tensor([2, 0, 0, 0, 1]))


def test_split_and_index():
    numbers, hot = MultiCategorical([3, 2]), MultiOneHot([3, 2])
    value = torch.tensor([2, 0])
    assert [part.tolist() for part in numbers.split(value)] == [2, 0]
    assert [p.int().tolist() for p in hot.split(numbers.to_one_hot(value))] == [[0, 0, 1], [1, 0]]
    scores = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0])
    assert numbers.index(value, scores).tolist() == [2.0, 3.0]
    assert hot.index(numbers.to_one_hot(value), scores).tolist() == [2.0, 3.0]


def test_a_lone_choice():
    assert MultiCategorical([4]).rand().shape == ()
    assert MultiCategorical([4]).to_one_hot(torch.tensor(2)).int().tolist() == [0, 0, 1, 0]
    assert MultiCategorical([4], remove_singleton=False).rand().shape == (1,)
    assert MultiCategorical([4], (3, 1)).rand().shape == (3, 1)


def test_encoding():
    hot = MultiOneHot([3, 2], dtype=torch.int64)
    assert hot.encode(np.array([1, 1])).tolist() == [0, 1, 0, 0, 1]
    assert hot.to_numpy(torch.tensor([0, 1, 0, 0, 1])).tolist() == [1, 1]
    assert MultiCategorical([3, 2], dtype=torch.int32).encode([1, 1]).dtype == torch.int32
    with pytest.raises(SpecError, match=r"does not have; expected .*\[3, 2\]"):
        hot.encode([0, 2])


def test_registers_number_what_appears_for_each_choice():
    spec = MultiOneHot([2, 2], use_register=True)
    assert spec.encode(["up", 7]).int().tolist() == [1, 0, 1, 0]
    assert spec.encode([["down", 7], ["up", 9]]).int().tolist() == [[0, 1, 1, 0], [1, 0, 0, 1]]
    assert spec.to_numpy(torch.tensor([0, 1, 0, 1]).bool()).tolist() == ["down", 9]
    assert spec != MultiOneHot([2, 2])
    with pytest.raises(SpecError, match=r"no category left.*\['up', 'down'\], found 'left'"):
        spec.encode(["left", 7])


@pytest.mark.parametrize("make", [MultiCategorical, MultiOneHot])
def test_mistakes_are_named(make):
    for nvec in ([], [0, 2], *([[[1, 2]]] if make is MultiOneHot else [[[1, 0]]])):
        with pytest.raises(SpecError, match="needs the number of categories of each choice"):
            make(nvec)
    with pytest.raises(ShapeError, match="a shape that ends with"):
        make([3, 2], (7,))
    with pytest.raises(ShapeError, match="cannot give up its last dimension"):
        make([3, 2], (4, make([3, 2]).shape[-1]))[..., 0]
