"""Several choices at once against a product of torch's distributions, and against enumeration."""

import itertools

import pytest
import scipy.stats
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import distributions as d
from torch import nn

from torchrl.data import Binary, MultiCategorical, MultiOneHot
from torchrl.modules import (
    FactorizedCategorical,
    FactorizedOneHotCategorical,
    IndependentBernoulli,
    ProbabilisticActor,
    distributions_maps,
)

NVEC = [2, 4, 3]
LOGITS = torch.randn(5, 9, generator=torch.Generator().manual_seed(0)) * 2
MASK = torch.tensor([1, 1, 0, 1, 1, 0, 0, 0, 1], dtype=torch.bool).expand(5, 9)
BOTH = [FactorizedCategorical, FactorizedOneHotCategorical]
both = pytest.mark.parametrize("kind", BOTH)
masks = pytest.mark.parametrize("mask", [None, MASK], ids=["no mask", "mask"])


def parts(logits=LOGITS, mask=None):
    if mask is not None:
        logits = logits.masked_fill(~mask, -1e9)
    return [d.Categorical(logits=part) for part in logits.split(NVEC, -1)]


def numbers(kind, value):
    if kind is FactorizedCategorical:
        return value
    return torch.stack([part.argmax(-1) for part in value.split(NVEC, -1)], -1)


@both
@masks
def test_log_prob_and_entropy_are_sums_over_choices(kind, mask):
    dist, factors = kind(LOGITS, nvec=NVEC, mask=mask), parts(mask=mask)
    value = dist.sample((7,))
    index = numbers(kind, value)
    assert index.shape == (7, 5, 3)
    expected = sum(factor.log_prob(i) for factor, i in zip(factors, index.unbind(-1), strict=True))
    torch.testing.assert_close(dist.log_prob(value), expected)
    torch.testing.assert_close(dist.entropy(), sum(factor.entropy() for factor in factors))
    torch.testing.assert_close(numbers(kind, dist.mode), torch.stack([f.probs.argmax(-1) for f in factors], -1))
    torch.testing.assert_close(dist.probs, torch.cat([f.probs for f in factors], -1))
    torch.testing.assert_close(dist.probs.log(), dist.logits)
    assert dist.batch_shape == (5,)
    assert dist.event_shape == value.shape[2:]


@both
@masks
def test_samples_have_their_probabilities(kind, mask):
    dist = kind(LOGITS[0], nvec=NVEC, mask=None if mask is None else mask[0])
    value, log_prob = dist.sample_and_log_prob((20_000,))
    torch.testing.assert_close(log_prob, dist.log_prob(value))
    index = numbers(kind, value)
    for chosen, factor in zip(index.unbind(-1), parts(LOGITS[0], None if mask is None else mask[0]), strict=True):
        counts, possible = torch.bincount(chosen, minlength=len(factor.probs)), factor.probs > 0
        assert counts.sum() == 20_000
        assert (counts[~possible] == 0).all()
        share = factor.probs[possible].double()
        if len(share) > 1:
            assert scipy.stats.chisquare(counts[possible], share / share.sum() * 20_000).pvalue > 1e-3


@both
def test_probabilities_of_all_values_sum_to_one(kind):
    values = torch.tensor([*itertools.product(*map(range, NVEC))])  # [24, 3]
    if kind is FactorizedOneHotCategorical:
        values = torch.cat([nn.functional.one_hot(v, n) for v, n in zip(values.unbind(-1), NVEC, strict=True)], -1)
    for mask in (None, MASK[0]):
        dist = kind(LOGITS[0], nvec=NVEC, mask=mask)
        torch.testing.assert_close(dist.log_prob(values).exp().sum(), torch.tensor(1.0))


@both
@masks
def test_divergence_and_gradients(kind, mask):
    logits = LOGITS.clone().requires_grad_()
    one, other = kind(logits, nvec=NVEC, mask=mask), kind(LOGITS.flip(0), nvec=NVEC, mask=mask)
    expected = sum(
        (p.probs * (p.logits - q.logits)).sum(-1)
        for p, q in zip(parts(mask=mask), parts(LOGITS.flip(0), mask), strict=True)
    )
    found = d.kl_divergence(one, other)
    torch.testing.assert_close(found, expected)
    (found.sum() + one.entropy().sum() + one.log_prob(one.sample()).sum()).backward()
    assert logits.grad.isfinite().all()
    if mask is not None:
        assert (logits.grad[~mask] == 0).all()
        unlimited = d.kl_divergence(kind(LOGITS, nvec=NVEC), kind(LOGITS, nvec=NVEC, mask=mask))
        assert unlimited.isinf().all()


@both
def test_a_forbidden_value_is_impossible(kind):
    dist = kind(LOGITS, nvec=NVEC, mask=MASK)
    value = torch.tensor([0, 0, 2]) if kind is FactorizedCategorical else torch.eye(9).long()[[0, 2, 8]].sum(0)
    assert dist.log_prob(value.expand(5, -1)).isneginf().all()
    assert not dist.has_rsample


@both
def test_a_choice_without_an_allowed_value_is_an_error_when_drawn(kind):
    mask = MASK.clone()
    mask[2, 2:6] = False
    dist = kind(LOGITS, nvec=NVEC, mask=mask)
    with pytest.raises(ValueError, match=r"no action; .*none in rows \[\[2"):
        dist.sample()
    with pytest.raises(ValueError, match="allows no action"):
        _ = dist.mode
    free = MASK.clone()
    free[2, 2:6] = True
    torch.testing.assert_close(dist.entropy()[2], kind(LOGITS, nvec=NVEC, mask=free).entropy()[2])


@both
def test_probabilities_instead_of_logits(kind):
    one, other = kind(LOGITS, nvec=NVEC), kind(probs=LOGITS.exp(), nvec=NVEC)
    torch.testing.assert_close(one.probs, other.probs)
    for wrong in ({}, {"logits": LOGITS, "probs": LOGITS}):
        with pytest.raises(ValueError, match="exactly one of 'logits' and 'probs'"):
            kind(**wrong, nvec=NVEC)
    with pytest.raises(ValueError, match=r"expected \[\*B, 9\].*found \[5, 9, 1\]"):
        kind(LOGITS.unsqueeze(-1), nvec=NVEC)
    with pytest.raises(ValueError, match="at least one value"):
        kind(LOGITS, nvec=[9, 0])


@both
def test_dtypes(kind):
    assert kind(LOGITS, nvec=NVEC).sample().dtype is torch.int64
    dist = kind(LOGITS, nvec=NVEC, dtype=torch.int32)
    assert dist.sample().dtype is dist.mode.dtype is torch.int32
    dist = FactorizedOneHotCategorical(LOGITS, nvec=NVEC, dtype=torch.bool)
    torch.testing.assert_close(dist.log_prob(dist.mode), dist.log_prob(dist.mode.float()))


def test_a_grid_of_choices():
    nvec = torch.tensor([[2, 4], [3, 3]])
    dist = FactorizedCategorical(torch.randn(5, 12), nvec=nvec)
    value = dist.sample()
    assert value.shape == (5, 2, 2)
    assert (value < nvec).all()
    flat = FactorizedCategorical(dist.logits, nvec=[2, 4, 3, 3])
    torch.testing.assert_close(dist.log_prob(value), flat.log_prob(value.flatten(1)))
    many = dist.expand((6, 5))
    assert many.sample().shape == (6, 5, 2, 2)


@both
def test_vmap_and_compile(kind):
    def score(logits):
        dist = kind(logits, nvec=NVEC)
        return dist.log_prob(dist.mode) + dist.entropy()

    expected = score(LOGITS)
    torch.testing.assert_close(torch.vmap(score)(LOGITS), expected)


def test_independent_bernoulli_agrees_with_torch():
    logits = torch.randn(5, 4)
    dist, reference = IndependentBernoulli(logits), d.Independent(d.Bernoulli(logits=logits), 1)
    value = dist.sample((3,))
    assert value.dtype is torch.int64
    torch.testing.assert_close(dist.log_prob(value), reference.log_prob(value.float()))
    torch.testing.assert_close(dist.entropy(), reference.entropy())
    assert torch.equal(dist.mode, (logits > 0).long())
    other = IndependentBernoulli(probs=torch.rand(5, 4))
    assert torch.allclose(
        d.kl_divergence(dist, other), d.kl_divergence(dist.base_dist, other.base_dist).sum(-1), atol=1e-5
    )
    assert (IndependentBernoulli(torch.zeros(4)).mode == 0).all()
    with pytest.raises(ValueError, match="exactly one"):
        IndependentBernoulli()


@pytest.mark.parametrize(
    ("spec", "kind", "kwargs", "size"),
    [
        (MultiCategorical(NVEC), "factorizedcategorical", {"nvec": NVEC}, 9),
        (MultiOneHot(NVEC), "factorizedonehotcategorical", {"nvec": NVEC, "dtype": torch.bool}, 9),
        (Binary(4), "independentbernoulli", {"dtype": torch.int8}, 4),
    ],
)
def test_a_policy_draws_values_of_its_spec(spec, kind, kwargs, size):
    assert kind in distributions_maps
    net = TensorDictModule(nn.Linear(3, size), ["observation"], ["logits"])
    actor = ProbabilisticActor(
        net,
        ["logits"],
        spec=spec,
        distribution_class=kind,
        distribution_kwargs=kwargs,
        return_log_prob=True,
        default_interaction_type="random",
    )
    td = actor(TensorDict(observation=torch.randn(20, 3), batch_size=[20]))
    assert all(spec.is_in(value) for value in td["action"])
    assert td["action"].dtype == spec.dtype
    torch.testing.assert_close(td["action_log_prob"], actor.log_prob(td.clone()))
