"""Segment trees against plain arrays."""

import numpy as np
import pytest

from torchrl.data.replay_buffers.segment_tree import TOP, Extreme, SumTree

SIZES = [1, 2, 3, 7, 1000, TOP, TOP + 1, 5000]


@pytest.mark.parametrize("size", SIZES)
def test_total_is_the_sum_of_all_leaves(size):
    rng, tree, plain = np.random.default_rng(0), SumTree(size), np.zeros(size)
    for _ in range(20):
        index, value = rng.integers(size, size=9), rng.random(9)
        tree.set(index, value)
        for i, v in zip(index, value, strict=True):  # of doubles, the last one counts
            plain[i] = v
        assert np.isclose(tree.total, plain.sum())
    filled = SumTree(size)
    filled.set(np.arange(size), 3.0)
    filled.fill(plain)
    assert np.isclose(filled.total, tree.total)


EXTREMES = {"least": (np.minimum, 0.0, np.inf), "greatest": (np.maximum, -1.0, -1.0)}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("combine", "absent", "neutral"), EXTREMES.values(), ids=EXTREMES)
def test_extreme_is_that_of_all_values_present(size, combine, absent, neutral):
    rng, values = np.random.default_rng(0), np.full(size, absent)
    extreme = Extreme(values, combine, absent, neutral)
    assert extreme.total == neutral
    for _ in range(50):
        index = rng.integers(size, size=9)
        value = np.where(rng.random(9) < 0.3, absent, rng.integers(1, 9, 9))
        values[index] = value
        extreme.update(index, value)
        assert extreme.total == combine.reduce(values[values != absent], initial=neutral)
    values[:] = 5.0
    extreme.refresh()
    assert extreme.total == 5.0


@pytest.mark.parametrize("size", SIZES)
def test_leaves_are_a_sequence(size):
    rng, tree, plain = np.random.default_rng(0), SumTree(size), np.zeros(size)
    index = rng.permutation(size)[:5]
    plain[index] = rng.random(len(index))
    tree.set(index, plain[index])
    assert list(tree) == plain.tolist() == tree.leaves.tolist()
    assert len(tree) == size
    assert tree[int(index[0])] == plain[index[0]]
    assert (tree.take(index) == plain[index]).all()


@pytest.mark.parametrize("size", SIZES)
def test_find_is_a_search_in_the_cumulated_sum(size):
    rng, tree = np.random.default_rng(0), SumTree(size)
    values = rng.random(size) * (rng.random(size) < 0.7)
    values[size // 2] = 1.0
    tree.set(np.arange(size), values)
    quantile = rng.random(2000)
    expected = values.cumsum().searchsorted(quantile * values.sum(), "right")
    found = tree.find(quantile)
    assert (found == expected).mean() > 0.999  # rounding may move a border
    assert (np.abs(found - expected) <= (values == 0).sum() + 1).all()
    assert (values[found] > 0).all()


def test_empty_leaves_are_never_found():
    tree = SumTree(4096)
    tree.set(np.array([5, 4000]), np.array([1e-300, 1e300]))
    edge = np.array([0.0, np.nextafter(1.0, 0.0)])
    assert set(tree.find(edge).tolist()) <= {5, 4000}
    assert tree._find_carefully(np.array([0, 5, 6, 4095])).tolist() == [5, 5, 5, 4000]


@pytest.mark.slow
def test_ten_million_updates_do_not_drift():
    rng, tree = np.random.default_rng(0), SumTree(100_000)
    for _ in range(1000):
        tree.set(rng.integers(100_000, size=10_000), rng.random(10_000) ** 4 * 1e3)
    assert abs(tree.total - tree.leaves.sum()) < 1e-12 * tree.total
