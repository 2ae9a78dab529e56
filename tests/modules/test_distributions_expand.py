"""What every distribution keeps when it is expanded to a larger batch."""

import pytest
import torch

from torchrl.modules import (
    Delta,
    FactorizedCategorical,
    FactorizedOneHotCategorical,
    IndependentBernoulli,
    IndependentNormal,
    MaskedCategorical,
    MaskedOneHotCategorical,
    OneHotCategorical,
    OneHotOrdinal,
    Ordinal,
    TanhDelta,
    TanhNormal,
    TruncatedNormal,
)

LOC, SCALE, SCORES = torch.randn(3, 2), torch.rand(3, 2) + 0.1, torch.randn(3, 4)
MASK = torch.tensor([True, False, True, True]).expand(3, 4)
RANGE = {"low": -2.0, "high": torch.tensor([3.0, 5.0])}
MAKE = {
    "normal": lambda: IndependentNormal(LOC, SCALE, tanh_loc=True),
    "two dimensions of events": lambda: IndependentNormal(LOC, SCALE, event_dim=2),
    "tanh normal": lambda: TanhNormal(LOC, SCALE, tanh_loc=True, **RANGE),
    "truncated normal": lambda: TruncatedNormal(LOC, SCALE, tanh_loc=True, **RANGE),
    "delta": lambda: Delta(LOC),
    "tanh delta": lambda: TanhDelta(LOC, **RANGE),
    "one-hot": lambda: OneHotCategorical(SCORES),
    "masked": lambda: MaskedCategorical(SCORES, mask=MASK),
    "masked one-hot": lambda: MaskedOneHotCategorical(SCORES, mask=MASK),
    "several choices": lambda: FactorizedCategorical(SCORES, nvec=[3, 1]),
    "masked several choices": lambda: FactorizedCategorical(SCORES, nvec=[3, 1], mask=MASK),
    "several one-hot choices": lambda: FactorizedOneHotCategorical(SCORES, nvec=[3, 1]),
    "Bernoulli": lambda: IndependentBernoulli(SCORES),
    "ordinal": lambda: Ordinal(SCORES),
    "one-hot ordinal": lambda: OneHotOrdinal(SCORES),
}


@pytest.mark.parametrize("name", MAKE)
def test_an_expanded_distribution_is_the_same_many_times(name):
    dist = MAKE[name]()
    many = dist.expand((5, *dist.batch_shape))
    assert many.batch_shape == (5, *dist.batch_shape)
    assert many.event_shape == dist.event_shape
    draws = many.sample()
    assert draws.shape == (5, *dist.batch_shape, *dist.event_shape)
    torch.testing.assert_close(many.log_prob(draws), torch.stack([*map(dist.log_prob, draws)]))
    torch.testing.assert_close(many.deterministic_sample[3], dist.deterministic_sample)


@pytest.mark.parametrize("name", ["normal", "tanh normal", "truncated normal"])
def test_new_locations_are_squashed_as_before(name):
    dist = MAKE[name]()
    many = dist.expand((5, 3))
    for one, batch in ((dist, (3, 2)), (many, (5, 3, 2))):
        one.update(torch.full(batch, 7.0), torch.ones(batch))
    torch.testing.assert_close(many.deterministic_sample[0], dist.deterministic_sample)


def test_masks_expand_too():
    many = MAKE["masked"]().expand((5, 3))
    assert torch.equal(many.mask, MASK.expand(5, 3, 4))
