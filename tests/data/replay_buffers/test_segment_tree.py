"""Segment trees against plain arrays."""

import copy
import pickle

import numpy as np
import pytest

from torchrl.data.replay_buffers.segment_tree import BLOCK, TOP, Extreme, SumTree

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


@pytest.mark.parametrize(("combine", "absent", "neutral"), EXTREMES.values(), ids=EXTREMES)
def test_extreme_is_found_where_few_blocks_were_written_to(combine, absent, neutral):
    rng, size = np.random.default_rng(0), 100 * BLOCK - 60
    values = rng.random(size) + 1.0
    edges = np.append(np.arange(BLOCK), np.arange(size - 4, size))  # the last block is short
    extreme = Extreme(values, combine, absent, neutral)
    best_of = np.argmin if combine is np.minimum else np.argmax
    for _ in range(300):
        index = np.append(rng.choice(edges, 3), best_of(values))
        value = rng.random(4) * 3
        values[index] = value
        extreme.update(index, value)
        if rng.random() < 0.7:
            assert extreme.total == combine.reduce(values)


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
    found, value = tree.find(quantile)
    assert (found == expected).mean() > 0.999  # rounding may move a border
    assert (np.abs(found - expected) <= (values == 0).sum() + 1).all()
    assert (values[found] > 0).all()
    assert (value == values[found]).all()


@pytest.mark.parametrize("size", SIZES)
def test_every_part_of_the_mass_finds_its_leaf(size):
    rng, tree = np.random.default_rng(0), SumTree(size)
    values = rng.integers(4, size=size)
    total = 1 << int(values.sum()).bit_length()  # so that quantiles are exact
    values[size // 2] += total - values.sum()
    tree.set(rng.permutation(size), 9.0)
    tree.set(np.arange(size), values)
    found, _ = tree.find(np.arange(total) / total)
    assert (found == np.repeat(np.arange(size), values)).all()


@pytest.mark.parametrize("make_copy", [copy.deepcopy, lambda tree: pickle.loads(pickle.dumps(tree))])
def test_a_copy_is_a_tree_of_its_own(make_copy):
    tree = SumTree(5000)
    tree.set(np.arange(5000), 1.0)
    other = make_copy(tree)
    other.set(np.array([3, 4000]), np.array([1e6, 5e6]))
    assert (tree.total, other.total) == (5000, 5000 - 2 + 6e6)
    assert set(other.find(np.array([0.1, 0.5, 0.9]))[0].tolist()) == {3, 4000}


def test_nothing_is_found_where_all_is_zero():
    with pytest.raises(ValueError, match="all values are zero"):
        SumTree(5).find(np.array([0.5]))


def test_empty_leaves_are_never_found():
    tree = SumTree(4096)
    tree.set(np.array([5, 4000]), np.array([1e-300, 1e300]))
    edge = np.array([0.0, np.nextafter(1.0, 0.0)])
    assert set(tree.find(edge)[0].tolist()) <= {5, 4000}
    assert tree._find_carefully(np.array([0, 5, 6, 4095])).tolist() == [5, 5, 5, 4000]


@pytest.mark.slow
def test_ten_million_updates_do_not_drift():
    rng, tree = np.random.default_rng(0), SumTree(100_000)
    for _ in range(1000):
        tree.set(rng.integers(100_000, size=10_000), rng.random(10_000) ** 4 * 1e3)
    assert abs(tree.total - tree.leaves.sum()) < 1e-12 * tree.total
