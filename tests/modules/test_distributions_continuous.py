"""Continuous distributions against scipy, numeric integration and samples."""

import math

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensordict import TensorDict
from tensordict.nn import CompositeDistribution
from torch import distributions as d

from torchrl.modules import IndependentNormal, OneHotCategorical, TanhDelta, TanhNormal, TruncatedNormal
from torchrl.modules.distributions import (
    Delta,
    composite_entropy,
    distributions_maps,
    has_analytic_entropy,
    has_analytic_kl,
    rsample_and_log_prob,
    sample_and_log_prob,
)
from torchrl.modules.distributions.continuous import tanh_moment
from torchrl.modules.distributions.utils import safeatanh, safetanh

RANGES = [(-1.0, 1.0), (-2.0, 2.0), (-0.1, 0.3), (99.0, 101.0)]
numbers = st.floats(-3, 3, allow_nan=False)
widths = st.floats(0.05, 3)


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


def one(distribution, loc, scale, low, high, dtype=torch.float64):
    return distribution(torch.tensor([loc], dtype=dtype), torch.tensor([scale], dtype=dtype), low=low, high=high)


def integrate(dist, low, high, f=lambda y, p: p):
    def integrand(y):
        return f(y, float(dist.log_prob(tensor(y)).exp()))

    edge = (high - low) * 1e-12
    return scipy.integrate.quad(integrand, low + edge, high - edge, limit=400)[0]


@pytest.mark.parametrize(("low", "high"), RANGES)
@pytest.mark.parametrize("distribution", [TanhNormal, TruncatedNormal])
def test_density_integrates_to_one_and_to_the_mean(distribution, low, high):
    middle, half = (low + high) / 2, (high - low) / 2
    loc, scale = (0.3, 0.4) if distribution is TanhNormal else (middle + 0.3 * half, 0.4 * half)
    dist = one(distribution, loc, scale, low, high)
    assert integrate(dist, low, high) == pytest.approx(1, abs=1e-6)
    assert integrate(dist, low, high, lambda y, p: y * p) == pytest.approx(float(dist.mean), abs=1e-4 * half)
    second = integrate(dist, low, high, lambda y, p: (y - float(dist.mean)) ** 2 * p)
    assert second == pytest.approx(float(dist.variance), rel=1e-3)


@settings(max_examples=30, deadline=None)
@given(loc=numbers, scale=widths, x=st.floats(-4, 4))
def test_tanh_normal_log_prob_is_the_change_of_variables(loc, scale, x):
    dist = one(TanhNormal, loc, scale, -3.0, 1.0)
    y = -1 + 2 * math.tanh(x)
    slope = math.log(2) - 2 * math.log(math.cosh(x))
    expected = scipy.stats.norm.logpdf(x, loc, scale) - slope
    assert float(dist.log_prob(tensor(y))) == pytest.approx(expected, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("low_high", RANGES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tanh_normal_log_prob_is_finite_next_to_and_on_the_bounds(low_high, dtype):
    low, high = low_high
    dist = one(TanhNormal, 0.5, 1.0, low, high, dtype)
    for gap in (0.0, 1e-12, 1e-9, 1e-7, 1e-6):
        for value in (low + gap, high - gap):
            action = torch.tensor([value], dtype=dtype, requires_grad=True)
            log_prob = dist.log_prob(action)
            log_prob.backward()
            assert log_prob.isfinite()
            assert action.grad.isfinite()


@pytest.mark.parametrize("gap", [1e-5, 1e-6, 3e-7])
def test_tanh_normal_log_prob_keeps_its_precision_next_to_the_bounds(gap):
    value = torch.tensor([1 - gap])  # what a float32 makes of it is what is scored
    exact = one(TanhNormal, 0.5, 2.0, -1.0, 1.0).log_prob(value.double())
    found = one(TanhNormal, 0.5, 2.0, -1.0, 1.0, torch.float32).log_prob(value)
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", ["rsample_and_log_prob", "sample_and_log_prob"])
def test_tanh_normal_scores_its_own_draws(method):
    loc, scale = torch.randn(100, 3, dtype=torch.float64), torch.rand(100, 3).double() + 0.1
    dist = TanhNormal(loc, scale, low=torch.tensor([-1, -2, 0]), high=torch.tensor([1, 2, 0.5]))
    value, log_prob = getattr(dist, method)((7,))
    assert value.shape == (7, 100, 3)
    assert log_prob.shape == (7, 100)
    torch.testing.assert_close(log_prob, dist.log_prob(value), rtol=1e-6, atol=1e-6)


def test_a_saturated_draw_is_scored_before_it_is_rounded():
    loc = torch.full((1,), 20.0)
    value, log_prob = TanhNormal(loc, torch.ones(1)).rsample_and_log_prob()
    assert value < 1
    assert log_prob > 30  # log N(x) + 2 x - 2 log 2 with x near 20
    assert torch.isfinite(log_prob)


@pytest.mark.parametrize("distribution", [TanhNormal, TruncatedNormal, TanhDelta])
@pytest.mark.parametrize("low_high", RANGES, ids=str)
def test_values_stay_in_the_range(distribution, low_high):
    low, high = low_high
    param = torch.tensor([-1e3, -9.0, 0.0, 9.0, 1e3]).unsqueeze(-1)
    args = (param,) if distribution is TanhDelta else (param, torch.ones(5, 1))
    dist = distribution(*args, low=low, high=high)
    for value in (dist.sample((50,)), dist.rsample((50,)), dist.mode, dist.mean):
        # bounds as a spec of float32 has them
        assert (value >= torch.tensor(low)).all()
        assert (value <= torch.tensor(high)).all()
        assert value.isfinite().all()


@pytest.mark.parametrize("loc_scale", [(0.0, 1.0), (0.7, 0.3), (-2.0, 2.5)], ids=str)
@pytest.mark.parametrize("distribution", [TanhNormal, TruncatedNormal])
def test_samples_pass_a_kolmogorov_smirnov_test(distribution, loc_scale):
    dist = one(distribution, *loc_scale, -2.0, 1.0)
    samples = dist.sample((4000,)).flatten()
    cdf = lambda y: dist.cdf(torch.as_tensor(y).unsqueeze(-1)).flatten().numpy()
    assert scipy.stats.kstest(samples.numpy(), cdf).pvalue > 1e-3


@pytest.mark.parametrize("distribution", [TanhNormal, TruncatedNormal])
def test_icdf_inverts_cdf(distribution):
    dist = one(distribution, 0.3, 0.8, -2.0, 1.0)
    probability = torch.linspace(0.01, 0.99, 50, dtype=torch.float64).unsqueeze(-1)
    torch.testing.assert_close(dist.cdf(dist.icdf(probability)), probability)


@pytest.mark.parametrize("distribution", [TanhNormal, TruncatedNormal])
def test_gradient_of_the_mean_of_samples(distribution):
    """The pathwise gradient agrees with the derivative of the mean."""
    loc, scale = tensor(0.3).requires_grad_(), tensor(0.6).requires_grad_()
    dist = distribution(loc, scale, low=-2.0, high=1.0)
    sampled = torch.autograd.grad(dist.rsample((200_000,)).mean(), (loc, scale), retain_graph=True)
    exact = torch.autograd.grad(dist.mean.sum(), (loc, scale))
    for found, expected in zip(sampled, exact, strict=True):
        torch.testing.assert_close(found, expected, rtol=0.05, atol=0.02)


@settings(max_examples=40, deadline=None)
@given(loc=st.floats(-6, 6), scale=st.floats(0.02, 30), order=st.sampled_from([1, 2]))
def test_moments_of_a_squashed_normal(loc, scale, order):
    def integrand(z):
        return math.tanh(loc + scale * z) ** order * scipy.stats.norm.pdf(z)

    kink = -loc / scale
    points = [kink] if abs(kink) < 10 else None
    expected = scipy.integrate.quad(integrand, -10, 10, points=points, limit=400)[0]
    assert float(tanh_moment(tensor(loc), tensor(scale), order)) == pytest.approx(expected, abs=2e-4)


def test_tanh_normal_mode_is_the_image_of_the_location():
    loc = torch.randn(4, 2)
    dist = TanhNormal(loc, torch.ones(4, 2), low=-2, high=0)
    torch.testing.assert_close(dist.mode, -1 + loc.tanh())
    torch.testing.assert_close(dist.deterministic_sample, dist.mode)
    torch.testing.assert_close(dist.median, dist.mode)


def test_tanh_loc_keeps_the_location_within_upscale():
    loc = torch.tensor([-100.0, 0.5, 100.0])
    for distribution in (TanhNormal, IndependentNormal, TruncatedNormal):
        dist = distribution(loc, torch.ones(3), upscale=2.0, tanh_loc=True)
        torch.testing.assert_close(dist.loc, 2 * (loc / 2).tanh())
        torch.testing.assert_close(distribution(loc, torch.ones(3), upscale=2.0).loc, loc)


@pytest.mark.parametrize("event_dims", [0, 1, 2])
def test_tanh_normal_event_dims(event_dims):
    dist = TanhNormal(torch.zeros(5, 4, 3), 1.0, event_dims=event_dims)
    assert dist.log_prob(torch.zeros(5, 4, 3)).shape == (5, 4, 3)[: 3 - event_dims]
    assert dist.rsample_and_log_prob((2,))[1].shape == (2, *(5, 4, 3)[: 3 - event_dims])
    assert TanhNormal(torch.tensor(0.0), torch.tensor(1.0)).event_shape == ()


def test_safe_tanh_off_may_reach_the_bounds():
    dist = TanhNormal(torch.full((3,), 50.0), torch.ones(3), safe_tanh=False)
    assert (dist.sample() == 1).all()
    assert (TanhNormal(torch.full((3,), 50.0), torch.ones(3)).sample() < 1).all()


def test_old_names_of_the_bounds():
    for distribution in (TanhNormal, TruncatedNormal):
        dist = distribution(torch.zeros(1), torch.ones(1), min=-3.0, max=2.0)
        assert (dist.low, dist.high) == (-3.0, 2.0)
    with pytest.raises(TypeError, match="both 'low' and its old name 'min'"):
        TanhNormal(torch.zeros(1), torch.ones(1), min=-3.0, low=-3.0)


@pytest.mark.parametrize("distribution", [TanhNormal, TruncatedNormal])
def test_an_empty_range_is_refused(distribution):
    with pytest.raises(ValueError, match=r"empty range; expected low < high, found \(1, -1\)"):
        distribution(torch.zeros(1), torch.ones(1), low=1, high=-1)
    with pytest.raises(ValueError, match="empty range"):
        TanhDelta(torch.zeros(1), low=0.0, high=0.0)


def test_values_out_of_range_are_refused_where_asked():
    dist = TanhNormal(torch.zeros(1), torch.ones(1), validate_args=True)
    with pytest.raises(ValueError, match="within the support"):
        dist.log_prob(torch.tensor([1.5]))
    with pytest.raises(ValueError, match="empty range"):
        TanhNormal(torch.zeros(1), torch.ones(1), low=torch.ones(1), high=torch.zeros(1), validate_args=True)


def test_tanh_normal_entropy_has_no_closed_form_and_kl_has():
    p = TanhNormal(torch.zeros(2, 3), torch.ones(2, 3))
    q = TanhNormal(torch.ones(2, 3), torch.ones(2, 3))
    assert not has_analytic_entropy(p)
    assert has_analytic_kl(p, q)
    torch.testing.assert_close(d.kl_divergence(p, q), torch.full((2,), 1.5))
    assert not has_analytic_kl(p, TanhNormal(torch.zeros(2, 3), torch.ones(2, 3), low=-2))


def test_expand_keeps_everything():
    dist = TanhNormal(torch.zeros(3), torch.ones(3), low=-2, high=5).expand((4,))
    assert dist.batch_shape == (4,)
    assert (dist.low, dist.high) == (-2.0, 5.0)
    assert dist.sample().shape == (4, 3)


@pytest.mark.parametrize("loc_low_high", [(0.0, -1, 1), (9.0, -1, 1), (-12.0, 0, 2), (0.5, -9, 9)])
def test_truncated_normal_against_scipy(loc_low_high):
    loc, low, high = loc_low_high
    scale = 0.9
    dist = one(TruncatedNormal, loc, scale, low, high)
    reference = scipy.stats.truncnorm((low - loc) / scale, (high - loc) / scale, loc, scale)
    inside = np.linspace(low + 0.01, high - 0.01, 7)
    found = dist.log_prob(torch.as_tensor(inside).unsqueeze(-1))
    np.testing.assert_allclose(found, reference.logpdf(inside), rtol=1e-6, atol=1e-6)
    assert float(dist.mean) == pytest.approx(reference.mean(), rel=1e-5, abs=1e-5)
    assert float(dist.variance) == pytest.approx(reference.var(), rel=1e-2, abs=1e-6)
    entropy = integrate(dist, low, high, lambda y, p: -p * math.log(p) if p else 0.0)
    assert float(dist.entropy()) == pytest.approx(entropy, rel=1e-4, abs=1e-4)
    assert float(dist.mode) == min(max(loc, low), high)
    outside = dist.log_prob(tensor(low - 0.1))
    assert outside == -math.inf


def test_independent_normal_is_the_sum_of_normals():
    loc, scale = torch.randn(5, 3), torch.rand(5, 3) + 0.1
    dist = IndependentNormal(loc, scale)
    value = torch.randn(5, 3)
    expected = scipy.stats.norm.logpdf(value, loc, scale).sum(-1)
    np.testing.assert_allclose(dist.log_prob(value), expected, rtol=1e-4)
    entropy = scipy.stats.norm.entropy(loc, scale).sum(-1)
    np.testing.assert_allclose(dist.entropy(), entropy, rtol=1e-4)
    torch.testing.assert_close(dist.mode, loc)
    torch.testing.assert_close(dist.deterministic_sample, loc)
    assert d.kl_divergence(dist, dist).abs().max() < 1e-6


@pytest.mark.parametrize("distribution", [TanhNormal, TruncatedNormal, IndependentNormal])
def test_update_equals_a_new_distribution(distribution):
    dist = distribution(torch.zeros(3), torch.ones(3), tanh_loc=True)
    loc, scale, value = torch.randn(3), torch.rand(3) + 0.1, torch.rand(3) - 0.5
    dist.update(loc, scale)
    expected = distribution(loc, scale, tanh_loc=True).log_prob(value)
    torch.testing.assert_close(dist.log_prob(value), expected)


def test_delta_knows_its_point():
    dist = Delta(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), atol=1e-3)
    value = torch.tensor([[1.0, 2.0005], [3.0, 5.0]])
    assert dist.log_prob(value).tolist() == [math.inf, -math.inf]
    assert dist.sample((5,)).shape == (5, 2, 2)
    assert dist.expand((3, 2)).batch_shape == (3, 2)


def test_tanh_delta_squashes_and_lets_gradients_through():
    param = torch.randn(4, 2, requires_grad=True)
    dist = TanhDelta(param, low=torch.tensor([-1.0, 0.0]), high=torch.tensor([1.0, 4.0]))
    expected = param.tanh() * torch.tensor([1.0, 2.0]) + torch.tensor([0.0, 2.0])
    torch.testing.assert_close(dist.rsample(), expected)
    assert not dist.sample().requires_grad
    dist.mode.sum().backward()
    assert (param.grad > 0).all()
    assert TanhDelta(param, event_dims=2).log_prob(param.tanh()).shape == ()


def test_sample_and_log_prob_of_any_distribution():
    torch.manual_seed(0)
    normal = d.Normal(torch.zeros(3), torch.ones(3))
    value, log_prob = sample_and_log_prob(normal, (2,))
    torch.testing.assert_close(log_prob, normal.log_prob(value))
    loc = torch.zeros(3, requires_grad=True)
    assert rsample_and_log_prob(TanhNormal(loc, 1.0))[0].requires_grad
    assert not sample_and_log_prob(TanhNormal(loc, 1.0))[0].requires_grad


def test_the_entropy_of_several_actions_is_the_sum_of_theirs():
    loc, scale, logits = torch.randn(3, 2), torch.rand(3, 2) + 0.1, torch.randn(3, 4)
    params = TensorDict(
        move={"loc": loc, "scale": scale}, press={"logits": logits}, turn={"loc": loc, "scale": scale}, batch_size=[3]
    )
    heads = {"move": d.Normal, "press": OneHotCategorical, "turn": TanhNormal}
    both = CompositeDistribution(params.exclude("turn"), {k: heads[k] for k in ("move", "press")})
    exact = d.Normal(loc, scale).entropy().sum(-1) + d.Categorical(logits=logits).entropy()
    torch.testing.assert_close(composite_entropy(both), exact)
    dist = CompositeDistribution(params, heads)
    squashed = -TanhNormal(loc, scale).rsample_and_log_prob((40_000,))[1].mean(0)
    torch.testing.assert_close(composite_entropy(dist, samples_mc=40_000), exact + squashed, rtol=0, atol=0.05)


def test_the_map_knows_every_distribution_by_its_name():
    assert distributions_maps["tanhnormal"] is TanhNormal
    assert all(name == cls.__name__.lower() for name, cls in distributions_maps.items())


RANGED = {
    "tanh normal": lambda low, high: TanhNormal(torch.zeros(3, 2), torch.ones(3, 2), low=low, high=high),
    "truncated normal": lambda low, high: TruncatedNormal(torch.zeros(3, 2), torch.ones(3, 2), low=low, high=high),
    "tanh delta": lambda low, high: TanhDelta(torch.randn(3, 2), low=low, high=high),
}


@pytest.mark.parametrize("make", RANGED.values(), ids=RANGED)
@pytest.mark.parametrize("high", [2, 2.0, torch.tensor([2.0, 3.0])], ids=["int", "float", "tensor"])
def test_ends_of_a_range_are_tensors(make, high):
    """Whatever was given; those of an expanded distribution, too."""
    for dist in (make(-1, high), make(-1, high).expand((4, 3))):
        assert torch.equal(dist.high, torch.as_tensor(high, dtype=torch.float32))
        assert dist.low == -1
        assert (dist.low.dtype, dist.low.device, dist.device) == (torch.float32, dist.device, torch.device("cpu"))


@pytest.mark.parametrize("bounds", [(-1.0, 1.0), (-2.0, 5.0), (torch.tensor([-1.0, 0.0]), torch.tensor([1.0, 3.0]))])
@pytest.mark.parametrize("safe", [False, True])
def test_squashed_distributions_are_transformed_ones(bounds, safe):
    low, high = bounds
    dist = TanhNormal(torch.randn(3, 2), torch.rand(3, 2) + 0.1, low=low, high=high, safe_tanh=safe)
    chained = torch.distributions.TransformedDistribution(dist.base_dist, dist.transforms)
    sample = dist.sample()
    torch.testing.assert_close(chained.log_prob(sample), dist.log_prob(sample), rtol=1e-3, atol=1e-3)
    assert torch.equal(dist.root_dist.loc, dist.loc)
    point = TanhDelta(torch.randn(3, 2), low=low, high=high, safe=safe)
    value = point.base_dist.sample()
    for transform in point.transforms:
        value = transform(value)
    torch.testing.assert_close(value, point.sample())


@pytest.mark.parametrize("scale", [0.1, 0.7, 1.5, 3.0])
@pytest.mark.parametrize("loc", [-1.0, 0.0, 0.4, 2.0])
def test_point_of_highest_density(loc, scale):
    """For a wide normal it is next to a bound, where the squashed mode is a minimum."""
    dist = TanhNormal(torch.tensor([loc]), torch.tensor([scale]), low=-2.0, high=3.0)
    grid = dist.squash(torch.linspace(loc - 15 * scale, loc + 15 * scale, 20001)).unsqueeze(-1)
    top = dist.log_prob(dist.get_mode())
    assert top >= dist.log_prob(dist.mode) - 1e-5
    assert top >= dist.log_prob(grid[(grid > -1.99999).squeeze() & (grid < 2.99999).squeeze()]).max() - 1e-2


@pytest.mark.parametrize("eps", [1e-3, 1e-6])
def test_safe_tanh_and_its_inverse(eps):
    x = torch.tensor([-60.0, -0.5, 0.0, 0.5, 60.0], requires_grad=True)
    y = safetanh(x, eps)
    assert y.abs().max() <= 1 - eps + 1e-7
    torch.testing.assert_close(torch.autograd.grad(y.sum(), x)[0], 1 - x.tanh() ** 2)
    ends = torch.tensor([-1.0, 1.0], requires_grad=True)
    z = safeatanh(ends, eps)
    assert torch.autograd.grad(z.sum(), ends)[0].isfinite().all()
    torch.testing.assert_close(safetanh(safeatanh(y, eps), eps), y)


@pytest.mark.parametrize("make", [Delta, TanhDelta])
def test_shape_of_a_draw_by_either_name(make):
    dist = make(torch.randn(3, 2))
    for draw in (dist.sample, dist.rsample):
        assert draw((4,)).shape == draw(sample_shape=(4,)).shape == draw(size=torch.Size([4])).shape == (4, 3, 2)
