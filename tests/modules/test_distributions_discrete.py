"""Discrete distributions against frequencies, torch's own and definitions."""

import math

import pytest
import scipy.stats
import torch
from torch import distributions as d

from torchrl.modules import (
    MaskedCategorical,
    MaskedOneHotCategorical,
    OneHotCategorical,
    OneHotOrdinal,
    Ordinal,
    ReparamGradientStrategy,
)
from torchrl.modules.distributions.discrete import ordinal_logits

LOGITS = torch.tensor([[0.0, 1.0, -1.0, 0.5], [2.0, 2.0, 0.0, 0.0]])
MASK = torch.tensor([[True, False, True, True], [False, True, True, False]])


def frequencies(samples):
    """Counts ``[B, N]`` of one-hot samples ``[S, B, N]``."""
    return samples.sum(0)


def assert_frequencies(counts, probs):
    for row, expected in zip(counts, probs, strict=True):
        assert (row[expected == 0] == 0).all()
        possible = expected > 0
        share = expected[possible].double()
        test = scipy.stats.chisquare(row[possible], share / share.sum() * row.sum())
        assert test.pvalue > 1e-3


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32])
def test_one_hot_vectors_have_the_dtype_asked_for(dtype):
    for dist in (OneHotCategorical(LOGITS, dtype=dtype), MaskedOneHotCategorical(LOGITS, mask=MASK, dtype=dtype)):
        many = dist.expand((3, 2))
        for value in (dist.sample(), dist.mode, dist.sample_and_log_prob()[0], many.sample(), many.mode):
            assert value.dtype is dtype
            assert (value.sum(-1) == 1).all()
        assert dist.rsample().is_floating_point()


def test_one_hot_agrees_with_torch():
    ours, theirs = OneHotCategorical(logits=LOGITS), d.OneHotCategorical(logits=LOGITS)
    choice = torch.eye(4, dtype=torch.int64)[[1, 3]]
    torch.testing.assert_close(ours.log_prob(choice), theirs.log_prob(choice.float()))
    torch.testing.assert_close(ours.entropy(), theirs.entropy())
    torch.testing.assert_close(ours.probs, theirs.probs)
    torch.testing.assert_close(ours.mean, theirs.mean)
    torch.testing.assert_close(ours.variance, theirs.variance)
    assert ours.batch_shape == theirs.batch_shape
    assert ours.event_shape == theirs.event_shape
    assert ours.enumerate_support().shape == theirs.enumerate_support().shape
    other = OneHotCategorical(logits=LOGITS.flip(-1))
    reference = d.kl_divergence(theirs, d.OneHotCategorical(logits=LOGITS.flip(-1)))
    torch.testing.assert_close(d.kl_divergence(ours, other), reference)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float32])
def test_one_hot_scores_any_dtype_and_leading_dimension(dtype):
    dist = OneHotCategorical(logits=LOGITS)
    choices = dist.sample((5,)).to(dtype)
    assert dist.log_prob(choices).shape == (5, 2)
    expected = (choices.float() * dist.logits).sum(-1)
    torch.testing.assert_close(dist.log_prob(choices), expected)


def test_one_hot_from_probabilities():
    probs = torch.tensor([0.2, 0.0, 0.8])
    dist = OneHotCategorical(probs=3 * probs)
    torch.testing.assert_close(dist.probs, probs)
    assert frequencies(dist.sample((500, 1)))[0, 1] == 0
    with pytest.raises(ValueError, match="exactly one of 'logits' and 'probs'"):
        OneHotCategorical(logits=LOGITS, probs=LOGITS.exp())


def test_one_hot_samples_follow_the_probabilities():
    dist = OneHotCategorical(logits=LOGITS)
    samples = dist.sample((4000,))
    assert samples.dtype is torch.int64
    assert (samples.sum(-1) == 1).all()
    assert_frequencies(frequencies(samples), dist.probs)


def test_one_hot_mode_is_one_choice_even_of_several():
    assert OneHotCategorical(logits=LOGITS).mode.tolist() == [[0, 1, 0, 0], [1, 0, 0, 0]]
    assert OneHotCategorical(logits=torch.zeros(5)).deterministic_sample.sum() == 1


def test_one_hot_expands_as_a_distribution():
    assert OneHotCategorical(logits=LOGITS).expand((3, 2)).sample().shape == (3, 2, 4)


def test_one_hot_scores_its_own_draws():
    dist = OneHotCategorical(logits=LOGITS.clone().requires_grad_())
    sample, log_prob = dist.sample_and_log_prob((6,))
    torch.testing.assert_close(log_prob, dist.log_prob(sample))
    assert log_prob.requires_grad


@pytest.mark.parametrize("strategy", ReparamGradientStrategy)
def test_one_hot_rsample_has_a_gradient(strategy):
    logits = LOGITS.clone().requires_grad_()
    sample = OneHotCategorical(logits=logits, grad_method=strategy).rsample((7,))
    torch.testing.assert_close(sample.max(-1).values, torch.ones(7, 2))
    torch.testing.assert_close(sample.sum(-1), torch.ones(7, 2))
    (sample * torch.arange(4)).sum().backward()
    assert (logits.grad != 0).all()


def test_pass_through_gradient_is_that_of_the_probabilities():
    logits = LOGITS.clone().requires_grad_()
    weight = torch.randn(2, 4)
    sample = OneHotCategorical(logits=logits).rsample()
    found = torch.autograd.grad((sample * weight).sum(), logits)[0]
    expected = torch.autograd.grad((logits.softmax(-1) * weight).sum(), logits)[0]
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("distribution", [MaskedCategorical, MaskedOneHotCategorical])
@pytest.mark.parametrize("given", ["logits", "probs"])
@pytest.mark.parametrize("how", ["mask", "indices"])
def test_masked_choices(distribution, given, how):
    allowed = {"mask": MASK} if how == "mask" else {"indices": torch.tensor([[0, 2, 3], [1, 2, 1]])}
    params = {"logits": LOGITS} if given == "logits" else {"probs": LOGITS.exp()}
    dist = distribution(**params, **allowed)
    expected = LOGITS.exp() * MASK
    expected = expected / expected.sum(-1, keepdim=True)
    torch.testing.assert_close(dist.probs, expected)
    samples = dist.sample((3000,))
    if distribution is MaskedCategorical:
        samples = torch.nn.functional.one_hot(samples, 4)
    assert_frequencies(frequencies(samples), expected)
    plogp = torch.where(MASK, expected * expected.log(), torch.zeros(()))
    torch.testing.assert_close(dist.entropy(), -plogp.sum(-1))
    best = torch.tensor([3, 1])
    mode = dist.mode if distribution is MaskedCategorical else dist.mode.argmax(-1)
    assert mode.tolist() == best.tolist()


@pytest.mark.parametrize("use_cross_entropy", [True, False])
def test_masked_categorical_scores(use_cross_entropy):
    dist = MaskedCategorical(logits=LOGITS, mask=MASK, use_cross_entropy=use_cross_entropy)
    value = torch.tensor([[0, 1], [1, 2]])
    log_prob = dist.log_prob(value)
    assert log_prob.shape == (2, 2)
    torch.testing.assert_close(log_prob[0], dist.probs[[0, 1], [0, 1]].log())
    assert log_prob[1, 0] == -math.inf


@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_masked_categorical_pads_its_indices_on_any_side(padding_side):
    indices = torch.tensor([[0, 2, -1], [1, -1, -1]])
    if padding_side == "left":
        indices = indices.flip(-1)
    dist = MaskedCategorical(logits=LOGITS, indices=indices, padding_value=-1, padding_side=padding_side)
    assert (dist.probs > 0).tolist() == [[True, False, True, False], [False, True, False, False]]
    assert dist.log_prob(torch.tensor([-1, 1])).tolist() == [0.0, 0.0]


def test_a_finite_neg_inf_keeps_forbidden_scores_finite():
    dist = MaskedOneHotCategorical(LOGITS, mask=MASK, neg_inf=-100.0)
    assert dist.log_prob(torch.tensor([[0, 1, 0, 0], [1, 0, 0, 0]])).isfinite().all()


def test_gradients_pass_a_mask():
    logits = LOGITS.clone().requires_grad_()
    dist = MaskedOneHotCategorical(logits, mask=MASK)
    (dist.log_prob(dist.sample()).sum() + dist.entropy().sum()).backward()
    assert logits.grad.isfinite().all()
    assert (logits.grad[~MASK] == 0).all()


def test_what_masked_distributions_refuse():
    with pytest.raises(ValueError, match="exactly one of 'mask'"):
        MaskedCategorical(logits=LOGITS)
    with pytest.raises(ValueError, match="exactly one of 'logits' and 'probs'"):
        MaskedOneHotCategorical(mask=MASK)
    with pytest.raises(ValueError, match="pads 'indices'"):
        MaskedCategorical(logits=LOGITS, mask=MASK, padding_value=0)


def test_ordinal_logits_are_the_sums_of_the_definition():
    scores = torch.randn(3, 5)
    chance = scores.sigmoid()
    for i in range(5):
        expected = chance[:, : i + 1].log().sum(-1) + (1 - chance[:, i + 1 :]).log().sum(-1)
        torch.testing.assert_close(ordinal_logits(scores)[:, i], expected)


def test_ordinal_distributions_agree():
    scores = torch.randn(3, 5)
    index, vector = Ordinal(scores), OneHotOrdinal(scores)
    assert vector.mode.argmax(-1).equal(index.mode)
    assert index.deterministic_sample.equal(index.mode)
    torch.testing.assert_close(index.log_prob(index.mode), vector.log_prob(vector.mode))


@pytest.mark.parametrize("kind", [MaskedCategorical, MaskedOneHotCategorical])
def test_padding_can_be_read(kind):
    logits, indices = torch.zeros(2, 4), torch.tensor([[0, 1, -1], [2, 3, 1]])
    plain = kind(logits=logits, indices=indices[1:].expand(2, 3))
    assert (plain.padding_value, plain.padding_side) == (0, "left")
    padded = kind(logits=logits, indices=indices, padding_value=-1, padding_side="right")
    assert (padded.padding_value, padded.padding_side) == (-1, "right")
    with pytest.raises(ValueError, match="has no such padding_side"):
        kind(logits=logits, indices=indices, padding_side="top")
    both = kind(logits=logits, indices=torch.tensor([[0, 1], [2, 3]]))
    assert both.mask[0].tolist() == [True, True, False, False]  # 0 is no padding unless given
