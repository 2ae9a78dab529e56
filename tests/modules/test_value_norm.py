"""Normalisers of values against their definitions."""

import pytest
import torch

from torchrl._core.errors import ShapeError
from torchrl.modules import PercentileValueNorm, PopArtValueNorm, RunningValueNorm

KINDS = [PopArtValueNorm, RunningValueNorm, PercentileValueNorm]


@pytest.mark.parametrize("kind", KINDS)
def test_normalised_values_can_be_had_back_and_are_saved(kind):
    norm, x = kind(shape=(2,)), 5 + 3 * torch.randn(4, 50, 2)
    torch.testing.assert_close(norm.normalize(x), x)  # knows nothing yet
    norm.update(x)
    assert not torch.allclose(norm.normalize(x), x)
    torch.testing.assert_close(norm.denormalize(norm.normalize(x)), x)
    other = kind(shape=(2,))
    other.load_state_dict(norm.state_dict())
    torch.testing.assert_close(other.normalize(x), norm.normalize(x))
    with pytest.raises(ShapeError, match=kind.__name__ + r".*expected \[\.\.\., 2\], found \[4, 3\]"):
        norm.update(torch.zeros(4, 3))


def test_running_statistics_are_those_of_everything():
    norm, batches = RunningValueNorm(), [100 + torch.randn(n, 1) for n in (1, 7, 30)]
    for batch in batches:
        norm.update(batch)
    every = torch.cat(batches)
    expected = (every - every.mean()) / every.std(correction=0)
    torch.testing.assert_close(norm.normalize(every), expected, atol=1e-3, rtol=1e-3)


def test_popart_forgets_exponentially_without_a_bias_of_the_start():
    norm, batches, beta = PopArtValueNorm(beta=0.8), torch.randn(5, 9, 1) + 3, 0.8
    for batch in batches:
        norm.update(batch)
    weights = torch.tensor([0.2 * beta ** (4 - i) for i in range(5)])
    weights = weights / weights.sum()
    mean = (weights * batches.mean((1, 2))).sum()
    square = (weights * batches.square().mean((1, 2))).sum()
    expected = (batches - mean) / (square - mean**2).sqrt()
    torch.testing.assert_close(norm.normalize(batches), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("center", [False, True])
def test_percentiles(center):
    norm = PercentileValueNorm(quantiles=(0.1, 0.9), rate=0.25, center=center)
    first, second = torch.randn(100, 1) * 9, torch.randn(100, 1) * 3 + 5
    norm.update(first)
    norm.update(second)
    q = [torch.quantile(x, torch.tensor([0.1, 0.9])) for x in (first, second)]
    low, high = 0.75 * q[0] + 0.25 * q[1]
    expected = (second - (low if center else 0)) / (high - low)
    torch.testing.assert_close(norm.normalize(second), expected)
    small = PercentileValueNorm(min_scale=2.0)
    small.update(torch.zeros(4, 1))
    torch.testing.assert_close(small.normalize(torch.ones(1)), torch.tensor([0.5]))
