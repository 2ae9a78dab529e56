"""One choice among several, as a number and as a one-hot vector; bits."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torchrl._core.errors import ShapeError, SpecError
from torchrl.data import Binary, Categorical, OneHot

MASKS = torch.tensor([[True, False, True], [False, True, False]])


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 12), batch=st.lists(st.integers(1, 3), max_size=2), seed=st.integers(0, 99))
def test_both_forms_say_the_same(n, batch, seed):
    torch.manual_seed(seed)
    index, hot = Categorical(n, batch), OneHot(n, (*batch, n))
    mask = torch.rand(*batch, n) < 0.5
    mask[..., 0] |= ~mask.any(-1)
    for legal in (None, mask):
        index.update_mask(legal)
        hot.update_mask(legal)
        value = hot.rand((4,))
        number = hot.to_categorical(value)
        assert hot.is_in(value)
        assert index.is_in(number)
        assert torch.equal(index.to_one_hot(number), value)
        assert torch.equal(index.to_categorical(number), number)
        assert torch.equal(hot.to_one_hot(value), value)
        assert hot.to_categorical_spec() == index
        assert index.to_one_hot_spec() == hot
        assert hot.to_one_hot_spec() is hot
        assert index.to_categorical_spec() is index
        assert torch.equal(hot.encode(hot.to_numpy(value)), value)
        anything = torch.randint(-2, n + 2, (4, *batch))
        projected = index.project(anything)
        assert index.is_in(projected)
        assert index.is_in(anything) == torch.equal(projected, anything)


def test_defaults():
    assert (Categorical(3).shape, Categorical(3).dtype, Categorical(3).n) == ((), torch.int64, 3)
    assert (OneHot(3).shape, OneHot(3).dtype, OneHot(3).space.n) == ((3,), torch.bool, 3)
    assert (Binary(3).shape, Binary(3).dtype, Binary(3).n) == ((3,), torch.int8, 3)
    assert Binary(shape=(2, 4)).n == 4


@pytest.mark.parametrize("make", [Categorical, OneHot])
def test_draws_are_uniform(make):
    spec = make(4)
    index = spec.to_categorical(spec.rand((8000,)))
    counts = torch.bincount(index, minlength=4).float()
    assert float(((counts - 2000) ** 2 / 2000).sum()) < 20  # chi-squared, 3 degrees of freedom


@pytest.mark.parametrize("make", [Categorical, OneHot])
def test_masked_draws_are_uniform_over_what_is_legal(make):
    spec = make(4, mask=torch.tensor([True, False, True, True]))
    index = spec.to_categorical(spec.rand((9000,)))
    counts = torch.bincount(index, minlength=4).float()
    assert counts[1] == 0
    assert float(((counts[[0, 2, 3]] - 3000) ** 2 / 3000).sum()) < 20


class TestMasks:
    def test_each_row_has_its_own(self):
        spec = Categorical(3, (2,), mask=MASKS)
        assert set(map(tuple, spec.rand((100,)).tolist())) == {(0, 1), (2, 1)}
        assert spec.is_in(torch.tensor([2, 1]))
        assert not spec.is_in(torch.tensor([1, 1]))
        assert spec.is_in(torch.tensor([[2, 0, 0], [1, 1, 1]]))  # a rollout [2, T]
        assert spec.project(torch.tensor([1, 2])).tolist() == [0, 1]
        assert spec.project(torch.tensor([9, -9])).tolist() == [2, 1]

    def test_one_mask_serves_a_batch(self):
        spec = OneHot(3, (5, 3), mask=torch.tensor([False, False, True]))
        assert torch.equal(spec.rand(), torch.tensor([[False, False, True]]).expand(5, 3))

    def test_masks_are_renewed_and_dropped(self):
        spec = Categorical(3)
        spec.update_mask(torch.tensor([False, True, False]))
        assert spec.rand() == 1
        spec.update_mask(torch.tensor([0, 0, 1]))
        assert spec.rand() == 2
        spec.update_mask(None)
        assert spec.is_in(torch.tensor(0))

    def test_the_best_legal_score_wins(self):
        spec = OneHot(3, mask=torch.tensor([True, False, True]))
        assert spec.project(torch.tensor([0.1, 9.0, 0.2])).tolist() == [False, False, True]
        assert spec.project(torch.full((3,), -torch.inf)).tolist() == [True, False, False]
        assert spec.project(torch.full((3,), torch.nan)).tolist() == [True, False, False]

    def test_they_follow_indices_and_shapes(self):
        for spec in (Categorical(3, (2,), mask=MASKS), OneHot(3, (2, 3), mask=MASKS)):
            assert torch.equal(spec[1].mask, MASKS[1])
            assert spec.unsqueeze(0).mask.shape == (1, 2, 3)
            assert spec.expand(4, *spec.shape).mask.shape == (4, 2, 3)
            assert spec.expand(4, *spec.shape).flatten(0, 1).mask.shape == (8, 3)
            assert spec != type(spec)(3, spec.shape)
            assert spec != type(spec)(3, spec.shape, mask=~MASKS)

    def test_enumeration_may_respect_them(self):
        spec = Categorical(3, (2,), mask=MASKS)
        assert (spec.cardinality(), len(spec.enumerate())) == (9, 9)
        assert spec.enumerate(use_mask=True).tolist() == [[0, 1], [2, 1]]

    @pytest.mark.parametrize("spec", [Categorical(3), OneHot(3)])
    def test_a_mask_must_leave_something(self, spec):
        spec.update_mask(torch.zeros(3, dtype=torch.bool))
        with pytest.raises(SpecError, match=r"forbids every value.*Pass update_mask\(\)"):
            spec.rand()
        with pytest.raises(SpecError, match="forbids every value"):
            spec.project(spec.zero())

    def test_a_mask_must_fit(self):
        with pytest.raises(ShapeError, match=r"mask of this shape; expected \[3\], found \[4\]"):
            Categorical(3, mask=torch.ones(4))
        with pytest.raises(ShapeError, match=r"expected \[2, 3\], found \[5, 3\]"):
            OneHot(3, (2, 3)).update_mask(torch.ones(5, 3))

    def test_a_forbidden_value_is_described(self):
        with pytest.raises(SpecError, match=r"'action' .*n=3\), where the mask is true, found 1"):
            Categorical(3, mask=MASKS[0]).assert_is_in(torch.tensor(1), "action")


class TestCategorical:
    def test_membership(self):
        spec = Categorical(3, (4,))
        assert spec.is_in(torch.tensor([0, 1, 2, 0]))
        assert not spec.is_in(torch.tensor([0, 1, 3, 0]))
        assert not spec.is_in(torch.tensor([0, -1, 2, 0]))
        assert spec.is_in(torch.zeros(4, 20, dtype=torch.int64))  # a rollout

    def test_projection_rounds(self):
        spec = Categorical(4)
        for value, expected in ((1.6, 2), (-3.0, 0), (1e30, 3), (float("nan"), 0)):
            assert spec.project(torch.tensor(value)) == expected

    def test_a_number_of_categories_that_varies(self):
        spec = Categorical(-1)
        with pytest.raises(SpecError, match=r"varies. Tell it with set_provisional_n\(\)"):
            spec.rand()
        assert spec.is_in(torch.tensor(100))
        assert not spec.is_in(torch.tensor(-1))
        spec.set_provisional_n(2)
        assert set(spec.rand((50,)).tolist()) == {0, 1}
        assert not spec.is_in(torch.tensor(2))
        spec.set_provisional_n(5)
        assert spec.cardinality() == 5

    def test_it_picks_from_a_tensor(self):
        values = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
        assert Categorical(2).index(torch.tensor([1, 0]), values).tolist() == [[2.0], [3.0]]
        hot = OneHot(2, dtype=torch.int64)
        assert hot.index(torch.tensor([[0, 1], [1, 0]]), values).tolist() == [[2.0], [3.0]]

    @pytest.mark.parametrize("n", [0, -2])
    def test_it_needs_categories(self, n):
        with pytest.raises(SpecError, match=f"needs a number of categories.*found {n}"):
            Categorical(n)


class TestOneHot:
    @pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32, torch.uint8])
    def test_membership(self, dtype):
        spec = OneHot(3, dtype=dtype)
        assert spec.is_in(torch.tensor([0, 1, 0]).to(dtype))
        assert not spec.is_in(torch.tensor([0, 1, 1]).to(dtype))
        assert not spec.is_in(torch.tensor([0, 0, 0]).to(dtype))
        if dtype != torch.bool:
            assert not spec.is_in(torch.tensor([0, 2, 0]).to(dtype))
            assert not spec.is_in(torch.tensor([1, 2, 0]).to(dtype))

    @settings(max_examples=25, deadline=None)
    @given(st.lists(st.sampled_from([0.0, 1.0, -1.0, float("nan"), float("inf")]), min_size=3, max_size=3))
    def test_projection_sets_exactly_one(self, scores):
        for dtype in (torch.bool, torch.int64):
            projected = OneHot(3, dtype=dtype).project(torch.tensor(scores))
            assert projected.sum() == 1
            assert projected.dtype == dtype
            best = [-np.inf if np.isnan(s) else s for s in scores]
            assert int(projected.int().argmax()) == best.index(max(best))

    @pytest.mark.parametrize("number", [1, np.int64(1), np.array(1), torch.tensor(1)])
    def test_numbers_are_encoded(self, number):
        assert OneHot(3, dtype=torch.int64).encode(number).tolist() == [0, 1, 0]

    def test_drawn_vectors_are_not_shared(self):
        spec = OneHot(1, dtype=torch.int64)
        spec.rand().zero_()
        spec.encode(0).zero_()
        assert spec.rand().tolist() == [1]

    def test_batches_are_encoded(self):
        spec = OneHot(3, (2, 3), dtype=torch.int64)
        assert spec.encode([2, 0]).tolist() == [[0, 0, 1], [1, 0, 0]]
        assert spec.encode(np.zeros((4, 2), np.int64)).shape == (4, 2, 3)
        assert OneHot(3).encode([1, 2]).int().tolist() == [[0, 1, 0], [0, 0, 1]]
        assert torch.equal(spec.encode(spec.encode([2, 0])), spec.encode([2, 0]))

    def test_numpy_has_the_number(self):
        value = OneHot(3).to_numpy(torch.tensor([False, True, False]))
        assert isinstance(value, np.integer)
        assert value == 1
        assert OneHot(3, (2, 3)).to_numpy(torch.eye(3)[:2].bool()).tolist() == [0, 1]

    def test_a_register_numbers_what_appears(self):
        spec = OneHot(2, use_register=True)
        assert spec.use_register
        assert spec.encode("up").tolist() == [True, False]
        assert spec.encode("down").tolist() == [False, True]
        assert spec.encode("up").tolist() == [True, False]
        assert spec.to_numpy(torch.tensor([False, True])) == "down"
        with pytest.raises(SpecError, match=r"no category left.*\['up', 'down'\], found 'left'"):
            spec.encode("left")

    def test_a_register_serves_rows(self):
        spec = OneHot(2, (3, 2), use_register=True)
        value = spec.encode(["up", "down", "up"])
        assert value.int().tolist() == [[1, 0], [0, 1], [1, 0]]
        assert spec.to_numpy(value).tolist() == ["up", "down", "up"]

    def test_its_last_dimension_stays(self):
        spec = OneHot(3, (3, 3))
        assert spec[0].shape == (3,)
        for change in (
            lambda: spec[..., 0],
            lambda: spec.flatten(),
            lambda: spec.unsqueeze(-1),
            lambda: spec[:, torch.tensor([1, 0, 2])],
        ):
            with pytest.raises(ShapeError, match="cannot give up its last dimension"):
                change()

    def test_mistakes_are_named(self):
        with pytest.raises(SpecError, match="needs a number of categories"):
            OneHot(-1)
        with pytest.raises(ShapeError, match=r"a shape that ends with 3, found \[2, 4\]"):
            OneHot(3, (2, 4))
        with pytest.raises(SpecError, match=r"does not have; expected .*below 3, found 3"):
            OneHot(3).encode(3)
        with pytest.raises(ShapeError, match=r"cannot encode categories.*\[2\], found \[3\]"):
            OneHot(3, (2, 3)).encode([0, 1, 2])

    def test_it_is_printed_with_its_fields(self):
        assert repr(OneHot(2, device="cpu", dtype=torch.int64)) == (
            "OneHot(\n"
            "    shape=torch.Size([2]),\n"
            "    space=CategoricalBox(n=2),\n"
            "    device=cpu,\n"
            "    dtype=torch.int64,\n"
            "    domain=discrete)"
        )

    def test_other_dtypes(self):
        spec = OneHot(2).to(torch.float32)
        assert spec == OneHot(2, dtype=torch.float32)
        assert spec.is_in(spec.rand())


class TestBinary:
    def test_membership_and_projection(self):
        spec = Binary(3)
        assert spec.is_in(torch.tensor([0, 1, 1], dtype=torch.int8))
        assert not spec.is_in(torch.tensor([0, 2, 1], dtype=torch.int8))
        assert spec.project(torch.tensor([0.4, 0.6, float("nan")])).tolist() == [0, 1, 0]

    def test_all_values(self):
        assert Binary(2).enumerate().tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
        assert Binary(shape=(2, 3)).cardinality() == 64

    def test_indices_take_bits(self):
        spec = Binary(3, (2, 3))[:, :2]
        assert (spec.shape, spec.n) == ((2, 2), 2)

    def test_mistakes_are_named(self):
        with pytest.raises(SpecError, match="needs a number of bits or a shape"):
            Binary()
        with pytest.raises(ShapeError, match="a shape that ends with 3"):
            Binary(3, (2,))
        with pytest.raises(SpecError, match="lies outside its spec; expected zeros and ones"):
            Binary(1).assert_is_in(torch.tensor([7], dtype=torch.int8))
