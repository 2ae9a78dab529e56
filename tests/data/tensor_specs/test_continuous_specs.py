"""Numbers within bounds, or without."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torchrl._core.errors import DTypeError, ShapeError, SpecError
from torchrl.data import Bounded, BoundedContinuous, BoundedDiscrete, Unbounded, UnboundedContinuous, UnboundedDiscrete

inf = math.inf
FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
INTS = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32]


@pytest.mark.parametrize(
    ("make", "cls"),
    [
        (lambda: Bounded(0, 1), BoundedContinuous),
        (lambda: Bounded(0, 1, dtype=torch.int64), BoundedDiscrete),
        (lambda: Bounded(0, 1, domain="discrete"), BoundedDiscrete),
        (lambda: Bounded(torch.tensor(0), torch.tensor(1)), BoundedDiscrete),
        (lambda: Bounded(np.zeros(2, np.uint8), np.ones(2, np.uint8)), BoundedDiscrete),
        (lambda: BoundedContinuous(torch.tensor(0), torch.tensor(1)), BoundedContinuous),
        (lambda: BoundedDiscrete(0, 1), BoundedDiscrete),
        (Unbounded, UnboundedContinuous),
        (lambda: Unbounded(dtype=torch.bool), UnboundedDiscrete),
        (lambda: Unbounded(domain="discrete"), UnboundedDiscrete),
    ],
)
def test_the_dtype_chooses_the_class(make, cls):
    spec = make()
    assert type(spec) is cls
    assert isinstance(spec, Bounded | Unbounded)
    assert spec.domain == ("discrete" if "Discrete" in cls.__name__ else "continuous")


def test_defaults():
    spec = Bounded(-1, 1)
    assert (spec.shape, spec.dtype, spec.device) == ((), torch.float32, torch.device("cpu"))
    assert BoundedDiscrete(0, 3).dtype == torch.int64
    assert (Unbounded().shape, Unbounded().dtype) == ((1,), torch.float32)
    assert UnboundedDiscrete().dtype == torch.int64
    assert Bounded(np.zeros(3), np.ones(3)).dtype == torch.float64


def test_bounds_give_the_shape_and_may_be_read_under_old_names():
    low, high = -torch.ones(3), torch.ones(3)
    spec = Bounded(low, high)
    assert spec.shape == (3,)
    assert torch.equal(spec.low, low)
    assert torch.equal(spec.space.maximum, high)
    assert torch.equal(spec.minimum, spec.space.low)
    assert torch.equal(spec.maximum, spec.high)
    assert Bounded(minimum=-1, maximum=1, shape=(3,)) == spec
    assert Bounded(torch.zeros(4, 1), 1, (4, 2)).low.shape == (4, 2)


class TestDraws:
    @settings(max_examples=30, deadline=None)
    @given(
        dtype=st.sampled_from(FLOATS),
        low=st.floats(-6e4, 6e4, width=16),
        width=st.floats(0, 6e4, width=16),
        apart=st.booleans(),
    )
    def test_floats_stay_inside(self, dtype, low, width, apart):
        bounds = torch.tensor([low, low + width]).to(dtype).sort().values
        lows, highs = bounds[:1].expand(2), bounds[1:].expand(2)
        if apart:
            lows = torch.stack([bounds[0], bounds[0] - 1])
        if not bool(highs.isfinite().all()):
            return
        spec = Bounded(lows, highs)
        value = spec.rand((500,))
        assert bool((value >= lows).all())
        assert bool((value <= highs).all())
        assert value.dtype == dtype

    @settings(max_examples=30, deadline=None)
    @given(data=st.data(), dtype=st.sampled_from(INTS))
    def test_integers_stay_inside(self, data, dtype):
        info = torch.iinfo(dtype)
        numbers = st.integers(info.min, info.max)
        low = sorted([data.draw(numbers), data.draw(numbers)])
        high = sorted([data.draw(numbers), data.draw(numbers)])
        as_dtype = [torch.tensor(pair).to(dtype) for pair in ([low[0], high[0]], [low[1], high[1]])]
        value = Bounded(*as_dtype).rand((200,)).tolist()
        assert all(low[0] <= a <= low[1] and high[0] <= b <= high[1] for a, b in value)

    @pytest.mark.parametrize("dtype", INTS)
    def test_extremes_are_drawn(self, dtype):
        most = torch.iinfo(dtype).max
        for low, high in ((most - 1, most), (torch.iinfo(dtype).min, torch.iinfo(dtype).min + 1)):
            drawn = Bounded(low, high, (200,), dtype=dtype).rand().tolist()
            assert set(drawn) == {low, high}

    def test_both_ends_of_different_ranges_are_drawn(self):
        low, high = torch.tensor([0, 5, 2**62]), torch.tensor([2, 5, 2**62 + 1])
        drawn = Bounded(low, high).rand((400,))
        for column, (least, most) in enumerate(zip(low.tolist(), high.tolist(), strict=True)):
            assert set(drawn[:, column].tolist()) == set(range(least, most + 1))

    def test_floats_are_uniform(self):
        for spec in (Bounded(-2, 6, (4000,)), Bounded(torch.tensor([-2.0, 0]), torch.tensor([6, 8]))):
            value = (spec.rand((2000,)) - spec.low) / 8
            assert abs(float(value.mean()) - 0.5) < 0.02
            assert abs(float(value.var()) - 1 / 12) < 0.01

    def test_infinite_bounds(self):
        low, high = torch.tensor([-inf, 3.0, -inf, 0.0]), torch.tensor([inf, inf, -2.0, 1.0])
        value = Bounded(low, high).rand((20_000,))
        assert bool(value.isfinite().all())
        assert bool(((value >= low) & (value <= high)).all())
        mean, deviation = value.mean(0), value.std(0)
        torch.testing.assert_close(mean, torch.tensor([0.0, 4.0, -3.0, 0.5]), atol=0.05, rtol=0)
        torch.testing.assert_close(deviation, torch.tensor([1.0, 1.0, 1.0, 12**-0.5]), atol=0.05, rtol=0)

    def test_infinite_bounds_of_integers_are_the_limits_of_the_dtype(self):
        spec = Bounded(-inf, inf, dtype=torch.int16)
        assert (spec.low.item(), spec.high.item()) == (-(2**15), 2**15 - 1)

    def test_widest_floats(self):
        value = Bounded(-3.4e38, 3.4e38, (1000,)).rand()
        assert bool(value.isfinite().all())
        assert float(value.double().std()) > 1e38

    def test_unbounded_is_standard_normal_and_all_integers(self):
        value = Unbounded((10_000,)).rand()
        assert abs(float(value.mean())) < 0.05
        assert abs(float(value.std()) - 1) < 0.05
        assert Unbounded((5000,), dtype=torch.uint8).rand().unique().numel() == 256


class TestMembership:
    @pytest.mark.parametrize(
        ("shape", "expected"),
        [
            ((4, 1), True),
            ((4, 20, 1), True),
            ((20, 4, 1), True),
            ((4, 20, 5, 1), True),
            ((20, 1), False),
            ((4, 20, 2), False),
            ((4, 1, 20), False),
            ((4,), False),
            ((1,), False),
            ((), False),
            ((4, 0, 1), True),
        ],
    )
    def test_extra_dimensions(self, shape, expected):
        assert Bounded(-1, 1, (4, 1)).is_in(torch.zeros(shape)) is expected
        assert Unbounded((4, 1)).is_in(torch.zeros(shape)) is expected

    def test_bounds_follow_the_dimension_they_belong_to(self):
        spec = Bounded(torch.tensor([[0.0], [10.0]]), torch.tensor([[1.0], [11.0]]))  # [2, 1]
        rollout = torch.tensor([0.5, 10.5]).reshape(2, 1, 1).expand(2, 3, 1)
        assert spec.is_in(rollout)
        assert spec.is_in(rollout.transpose(0, 1))
        assert not spec.is_in(rollout.flip(0))
        assert torch.equal(spec.project(rollout.flip(0)), torch.tensor([[[1.0]] * 3, [[10.0]] * 3]))

    def test_other_dtypes_are_cast_where_they_belong(self):
        spec = BoundedDiscrete(torch.tensor([[0], [10]]), torch.tensor([[1], [11]]))  # [2, 1]
        projected = spec.project(torch.full((2, 3, 1), 5.0))
        assert projected.flatten().tolist() == [1, 1, 1, 10, 10, 10]
        with pytest.raises(ShapeError, match="wrong shape"):
            spec.project(torch.zeros(3, 3))

    def test_a_member_in_one_reading_is_left_alone(self):
        spec = Bounded(torch.tensor([[0.0], [10.0]]), torch.tensor([[1.0], [11.0]]))  # [2, 1]
        rollout = torch.tensor([0.5, 10.5]).reshape(2, 1, 1).expand(2, 2, 1)
        assert torch.equal(spec.project(rollout), rollout)

    def test_both_bounds_belong_and_nan_does_not(self):
        spec = Bounded(-1, 1, (1,))
        for value, expected in ((-1, True), (1, True), (1.0001, False), (inf, False)):
            assert spec.is_in(torch.tensor([float(value)])) is expected
        assert not spec.is_in(torch.tensor([math.nan]))
        assert torch.tensor([0.5]) in spec

    def test_other_dtypes_do_not_belong(self):
        assert not Bounded(-1, 1, (1,)).is_in(torch.zeros(1, dtype=torch.float64))
        assert not BoundedDiscrete(0, 1, (1,)).is_in(torch.zeros(1))

    def test_a_size_that_varies(self):
        spec = Unbounded((3, -1))
        assert spec.is_in(torch.zeros(3, 7))
        assert spec.is_in(torch.zeros(2, 3, 0))
        assert not spec.is_in(torch.zeros(4, 7))
        assert spec.rand().shape == (3, 1)
        assert spec.expand(2, 3, -1).shape == (2, 3, -1)
        assert spec.unsqueeze(0)[:, 1].shape == (1, -1)


class TestProjection:
    def test_clamps_and_places_what_is_no_number(self):
        spec = Bounded(torch.tensor([-1.0, 2.0, -inf]), torch.tensor([1.0, 3.0, inf]))
        value = torch.tensor([[9.0, -9.0, 9.0], [math.nan, math.nan, math.nan], [-inf, inf, -inf]])
        expected = torch.tensor([[1.0, 2.0, 9.0], [0.0, 2.0, 0.0], [-1.0, 3.0, -inf]])
        assert torch.equal(spec.project(value), expected)

    @pytest.mark.parametrize("dtype", INTS)
    def test_floats_saturate_in_integers(self, dtype):
        info = torch.iinfo(dtype)
        spec = Bounded(-inf, inf, (4,), dtype=dtype)
        value = torch.tensor([1e30, -1e30, math.nan, 3.0])
        assert spec.project(value).tolist() == [info.max, info.min, max(0, info.min), 3]

    def test_wrong_shapes_cannot_be_projected(self):
        with pytest.raises(ShapeError, match=r"wrong shape; expected \[3\] after .* found \[2\]"):
            Bounded(-1, 1, (3,)).project(torch.zeros(2))


class TestConversion:
    def test_encoding_casts_and_reshapes(self):
        spec = Bounded(-1, 1, (1,))
        for value in (0.5, [0.5], np.float64(0.5), np.array([0.5]), torch.tensor(0.5)):
            encoded = spec.encode(value)
            assert (encoded.dtype, encoded.tolist()) == (torch.float32, [0.5])
        assert spec.encode(np.zeros((3, 1))).shape == (3, 1)

    def test_unusual_arrays(self):
        spec = Unbounded((3,), dtype=torch.float64)
        array = np.array([1.0, 2.0, 3.0])
        frozen = array.copy()
        frozen.flags.writeable = False
        for odd in (array[::-1][::-1], array[::-1].copy()[::-1], frozen, array.astype(">f8")):
            assert spec.encode(odd).tolist() == [1.0, 2.0, 3.0]
        assert spec.encode([torch.tensor(1.0), torch.tensor(2.0), 3]).tolist() == [1.0, 2.0, 3.0]

    def test_memory_is_shared_with_an_array_of_the_dtype(self):
        array = np.zeros(3, np.float32)
        encoded = Unbounded((3,)).encode(array)
        array[0] = 7
        assert encoded[0] == 7

    def test_what_does_not_fit_is_named(self):
        with pytest.raises(ShapeError, match=r"cannot encode .* expected \[3\], found \[2\]"):
            Unbounded((3,)).encode(np.zeros(2))

    def test_safe_to_numpy_checks(self):
        spec = Bounded(-1, 1, (1,))
        assert spec.to_numpy(torch.tensor([2.0])).tolist() == [2.0]
        with pytest.raises(SpecError, match="lies outside"):
            spec.to_numpy(torch.tensor([2.0]), safe=True)

    def test_memo_is_not_shared_with_its_users(self):
        spec = Bounded(-1, 1, (2,))
        spec.memoize_encode()
        spec.encode([0.0, 1.0]).fill_(9)
        assert spec.encode([0.0, 1.0]).tolist() == [0.0, 1.0]
        spec.memoize_encode(False)
        assert spec.encode([0.0, 1.0]).tolist() == [0.0, 1.0]

    def test_to_another_dtype(self):
        spec = Bounded(-1, 2, (2,)).to(torch.int32)
        assert spec == BoundedDiscrete(-1, 2, (2,), dtype=torch.int32)
        assert spec.to(torch.float32) == Bounded(-1, 2, (2,))
        assert Unbounded((2,)).to(torch.int64) == UnboundedDiscrete((2,))


class TestCounting:
    def test_cardinality(self):
        assert Bounded(0, 1).cardinality() == inf
        assert Unbounded().cardinality() == inf
        assert BoundedDiscrete(torch.tensor([0, 5]), torch.tensor([1, 7])).cardinality() == 6

    def test_enumeration(self):
        spec = BoundedDiscrete(torch.tensor([0, 5]), torch.tensor([1, 7]))
        assert spec.enumerate().tolist() == [[0, 5], [0, 6], [0, 7], [1, 5], [1, 6], [1, 7]]

    @pytest.mark.parametrize("spec", [Bounded(0, 1), Unbounded()])
    def test_the_infinite_cannot_be_enumerated(self, spec):
        with pytest.raises(SpecError, match=r"infinitely many values. Draw from it with rand\(\)"):
            spec.enumerate()


class TestMistakes:
    @pytest.mark.parametrize(
        ("make", "error", "words"),
        [
            (lambda: Bounded(0), SpecError, r"Bounded\w*: needs both bounds; .*high=None"),
            (lambda: Bounded(1, 0), SpecError, "lower bound above its upper bound"),
            (lambda: Bounded(0, math.nan), SpecError, "cannot express.*found nan"),
            (lambda: Bounded(-1, 255, dtype=torch.uint8), SpecError, "cannot express.*found -1"),
            (lambda: BoundedDiscrete(0, 0.5), SpecError, "cannot express.*found 0.5"),
            (lambda: Bounded(torch.zeros(2), torch.ones(3)), ShapeError, "do not fit its shape"),
            (lambda: Bounded(torch.zeros(2), 1, (3,)), ShapeError, r"expected \[3\].*low \[2\]"),
            (
                lambda: BoundedDiscrete(0, 1, dtype=torch.float32),
                DTypeError,
                "is discrete, and its dtype is not.*found torch.float32",
            ),
            (lambda: UnboundedContinuous(dtype=torch.int64), DTypeError, "is continuous, and its dtype is not"),
            (lambda: Bounded(0, 1, minimum=0), TypeError, "low"),
            (lambda: Bounded(0, 1, (2,)).unsqueeze(5), ShapeError, "has no dimension 5"),
            (lambda: Bounded(0, 1, (2,))[0, 0], IndexError, "2 indices for a spec of 1 dim"),
        ],
    )
    def test_is_named(self, make, error, words):
        with pytest.raises(error, match=words):
            make()

    @pytest.mark.parametrize(
        ("value", "error", "words"),
        [
            (
                torch.tensor([3.0, -5.0]),
                SpecError,
                r"'action' lies outside its spec; expected values from -1.0 to 1.0, "
                r"found \[3.0, -5.0\]. Bring it back with project\(\)",
            ),
            (torch.full((3, 3, 2), 4.0), SpecError, "found values from 4.0 to 4.0"),
            (torch.full((9, 2), math.nan), SpecError, "found 18 NaN among 18 values"),
            (torch.zeros(3), ShapeError, r"'action' has the wrong shape; expected \[2\] after"),
            (torch.zeros(2).double(), DTypeError, "expected torch.float32, found torch.float64"),
            (np.zeros(2), DTypeError, r"found ndarray. Convert it with encode\(\)"),
        ],
    )
    def test_a_value_outside_is_described(self, value, error, words):
        with pytest.raises(error, match=words):
            Bounded(-1, 1, (2,)).assert_is_in(value, "action")

    def test_bounds_that_differ_are_listed(self):
        low, high = torch.tensor([0.0, -1.0]), torch.tensor([1.0, 2.0])
        with pytest.raises(SpecError, match=r"values from \[0.0, -1.0\] to \[1.0, 2.0\]"):
            Bounded(low, high).assert_is_in(torch.tensor([5.0, 5.0]))
        with pytest.raises(SpecError, match=r"values from -1.0 to 2.0, found"):
            Bounded(low.repeat(9), high.repeat(9)).assert_is_in(torch.full((18,), 5.0))

    def test_type_check(self):
        Bounded(-1, 1).type_check(torch.zeros(()))
        with pytest.raises(DTypeError, match="'obs' has the wrong dtype"):
            Bounded(-1, 1).type_check(torch.zeros((), dtype=torch.int64), "obs")


def test_an_expanded_spec_keeps_its_bounds_small():
    spec = Bounded(0, 255, (84, 84, 3), dtype=torch.uint8).expand(64, 84, 84, 3).clone()
    assert spec.low.untyped_storage().nbytes() == 1
