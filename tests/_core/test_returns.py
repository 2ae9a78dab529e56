"""Returns and advantages against plain loops and closed forms."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torchrl._core import returns as R
from torchrl._core.errors import ShapeError

F64 = torch.float64


def data(batch, steps, seed=0, p=0.2, dtype=F64):
    g = torch.Generator().manual_seed(seed)
    size = (*batch, steps, 1)
    value, next_value, reward = (torch.randn(size, generator=g, dtype=dtype) for _ in range(3))
    terminated = torch.rand(size, generator=g) < p
    truncated = torch.rand(size, generator=g) < p
    return value, next_value, reward, terminated | truncated, terminated


def rows(*tensors):
    """Every row of time as lists of numbers."""
    flat = [t.expand(tensors[0].shape).reshape(-1, tensors[0].shape[-2]).tolist() for t in tensors]
    return zip(*flat, strict=True)


def like(lists, tensor):
    return torch.tensor(lists, dtype=tensor.dtype).reshape(tensor.shape)


def slow_gae(gamma, lmbda, value, next_value, reward, done, terminated):
    out = []
    for v, nv, r, d, e in rows(value, next_value, reward, done, terminated):
        row, carry = [0.0] * len(v), 0.0
        for t in reversed(range(len(v))):
            if d[t]:
                carry = 0.0
            bootstrap = 0.0 if e[t] else nv[t]
            carry = r[t] + gamma * bootstrap - v[t] + gamma * lmbda * carry
            row[t] = carry
        out.append(row)
    return like(out, value)


def slow_lambda_return(gamma, lmbda, next_value, reward, done, terminated):
    out = []
    gammas = torch.as_tensor(gamma, dtype=F64).expand(reward.shape)
    for nv, r, d, e, g in rows(next_value, reward, done, terminated, gammas):
        row = [0.0] * len(r)
        for t in reversed(range(len(r))):
            if e[t]:
                row[t] = r[t]
            elif d[t] or t == len(r) - 1:
                row[t] = r[t] + g[t] * nv[t]
            else:
                row[t] = r[t] + g[t] * ((1 - lmbda) * nv[t] + lmbda * row[t + 1])
        out.append(row)
    return like(out, reward)


def slow_vtrace(gamma, log_pi, log_mu, value, next_value, reward, done, terminated, rho, c):
    """By the definition: a sum over the steps ahead, not a recursion."""
    targets, advantages = [], []
    for lp, lm, v, nv, r, d, e in rows(log_pi, log_mu, value, next_value, reward, done, terminated):
        ratio = [math.exp(a - b) for a, b in zip(lp, lm, strict=True)]
        boot = [0.0 if e[t] else nv[t] for t in range(len(v))]
        correction = []
        for s in range(len(v)):
            total, weight = 0.0, 1.0
            for t in range(s, len(v)):
                total += weight * min(rho, ratio[t]) * (r[t] + gamma * boot[t] - v[t])
                if d[t]:
                    break
                weight *= gamma * min(c, ratio[t])
            correction.append(total)
        target = [v[s] + correction[s] for s in range(len(v))]
        advantage = []
        for s in range(len(v)):
            inside = s + 1 < len(v) and not d[s]
            next_root = boot[s] + (correction[s + 1] if inside else 0.0)
            advantage.append(min(rho, ratio[s]) * (r[s] + gamma * next_root - v[s]))
        targets.append(target)
        advantages.append(advantage)
    return like(advantages, value), like(targets, value)


SHAPES = [((), 1), ((), 7), ((3,), 1), ((2, 3), 40), ((1,), 300), ((90,), 260), ((600,), 24)]


@pytest.mark.parametrize(("batch", "steps"), SHAPES)
def test_gae_equals_a_plain_loop(batch, steps):
    value, next_value, reward, done, terminated = data(batch, steps)
    advantage, target = R.generalized_advantage_estimate(0.95, 0.9, value, next_value, reward, done, terminated)
    expected = slow_gae(0.95, 0.9, value, next_value, reward, done, terminated)
    torch.testing.assert_close(advantage, expected)
    torch.testing.assert_close(target, expected + value)


@pytest.mark.parametrize(("batch", "steps"), SHAPES)
@pytest.mark.parametrize("lmbda", [0.0, 0.7, 1.0])
def test_lambda_return_equals_a_plain_loop(batch, steps, lmbda):
    _, next_value, reward, done, terminated = data(batch, steps)
    got = R.td_lambda_return_estimate(0.95, lmbda, next_value, reward, done, terminated)
    expected = slow_lambda_return(0.95, lmbda, next_value, reward, done, terminated)
    torch.testing.assert_close(got, expected)
    if lmbda == 1.0:
        got = R.td1_return_estimate(0.95, next_value, reward, done, terminated)
        torch.testing.assert_close(got, expected)
    if lmbda == 0.0:
        got = R.td0_return_estimate(0.95, next_value, reward, terminated)
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize(("rho", "c"), [(1.0, 1.0), (2.0, 0.5), (1e9, 1e9)])
def test_vtrace_equals_its_definition(rho, c):
    value, next_value, reward, done, terminated = data((2, 3), 20)
    log_pi, log_mu = torch.randn(2, *value.shape, dtype=F64) * 0.5
    got = R.vtrace_advantage_estimate(0.9, log_pi, log_mu, value, next_value, reward, done, terminated, rho, c)
    expected = slow_vtrace(0.9, log_pi, log_mu, value, next_value, reward, done, terminated, rho, c)
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_vtrace_on_its_own_policy_gives_the_lambda_return():
    """With weights of 1 and values that form a chain, v is the return to the end."""
    value = torch.randn(8, 1, dtype=F64)
    next_value, reward = torch.roll(value, -1, 0), torch.randn(8, 1, dtype=F64)
    done = torch.zeros(8, 1, dtype=torch.bool)
    same = torch.zeros(8, 1, dtype=F64)
    _, target = R.vtrace_advantage_estimate(0.9, same, same, value, next_value, reward, done, done)
    expected = slow_lambda_return(0.9, 1.0, next_value, reward, done, done)
    torch.testing.assert_close(target, expected)


@settings(max_examples=40, deadline=None)
@given(
    steps=st.integers(1, 120),
    width=st.sampled_from([1, 3, 200]),
    seed=st.integers(0, 1000),
    p=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
)
def test_every_form_of_the_scan_is_the_same_function(steps, width, seed, p):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(steps, width, 1, generator=g, dtype=F64)
    decay = torch.rand(steps, width, 1, generator=g, dtype=F64)
    decay = decay * (torch.rand(steps, width, 1, generator=g) >= p)
    expected = torch.zeros_like(x)
    carry = torch.zeros(width, 1, dtype=F64)
    for t in reversed(range(steps)):
        carry = x[t] + decay[t] * carry
        expected[t] = carry
    for form in (R._loop_scan, R._log_scan, R._block_scan):
        torch.testing.assert_close(form(decay, x), expected)
    torch.testing.assert_close(R.discounted_scan(decay, x, time_dim=0), expected)
    torch.testing.assert_close(
        R.discounted_scan(decay.movedim(0, 1), x.movedim(0, 1), time_dim=1).movedim(1, 0), expected
    )


@pytest.mark.parametrize("width", [1, 64])
def test_ten_thousand_steps_in_single_precision(width):
    value, next_value, reward, done, terminated = data((width,), 10_000, p=0.001)
    expected = slow_lambda_return(0.99, 0.95, next_value, reward, done, terminated)
    got = R.td_lambda_return_estimate(0.99, 0.95, next_value.float(), reward.float(), done, terminated)
    torch.testing.assert_close(got, expected.float(), atol=1e-5, rtol=1e-5)
    expected = slow_gae(0.99, 0.95, value, next_value, reward, done, terminated)
    got, _ = R.generalized_advantage_estimate(
        0.99, 0.95, value.float(), next_value.float(), reward.float(), done, terminated
    )
    torch.testing.assert_close(got, expected.float(), atol=1e-5, rtol=1e-5)


def test_a_discount_for_each_step():
    _, next_value, reward, done, terminated = data((3,), 12)
    gamma = torch.rand(3, 12, 1, dtype=F64)
    expected = slow_lambda_return(gamma, 0.8, next_value, reward, done, terminated)
    for rolling in (None, True):
        got = R.td_lambda_return_estimate(gamma, 0.8, next_value, reward, done, terminated, rolling)
        torch.testing.assert_close(got, expected)


def test_a_discount_of_its_own_for_each_step():
    """Without rolling, what follows step t is discounted by powers of its own gamma."""
    _, next_value, reward, done, terminated = data((3,), 9)
    gamma = torch.rand(3, 9, 1, dtype=F64)
    got = R.td1_return_estimate(gamma, next_value, reward, done, terminated, False)
    for b in range(3):
        for t in range(9):
            g = gamma[b, t].item()
            every = slow_lambda_return(g, 1.0, next_value[b], reward[b], done[b], terminated[b])
            torch.testing.assert_close(got[b, t], every[t])


def test_rolling_gamma_needs_a_tensor():
    _, next_value, reward, done, _ = data((), 3)
    with pytest.raises(ValueError, match=r"got rolling_gamma with one discount.*found 0\.9"):
        R.td1_return_estimate(0.9, next_value, reward, done, rolling_gamma=True)


def test_advantages_are_returns_minus_values():
    value, next_value, reward, done, terminated = data((2,), 6)
    pairs = [
        (
            R.td0_advantage_estimate(0.9, value, next_value, reward, done, terminated),
            R.td0_return_estimate(0.9, next_value, reward, terminated),
        ),
        (
            R.td1_advantage_estimate(0.9, value, next_value, reward, done, terminated),
            R.td1_return_estimate(0.9, next_value, reward, done, terminated),
        ),
        (
            R.td_lambda_advantage_estimate(0.9, 0.5, value, next_value, reward, done, terminated),
            R.td_lambda_return_estimate(0.9, 0.5, next_value, reward, done, terminated),
        ),
    ]
    for advantage, target in pairs:
        torch.testing.assert_close(advantage, target - value)


def test_reward_to_go():
    reward = torch.tensor([1.0, 2.0, 3.0, 4.0]).unsqueeze(-1)
    done = torch.tensor([False, True, False, False]).unsqueeze(-1)
    assert R.reward2go(reward, done, 0.5).squeeze(-1).tolist() == [2.0, 2.0, 5.0, 4.0]


def test_terminated_is_done_if_it_is_not_given():
    value, next_value, reward, done, _ = data((2,), 5)
    one = R.generalized_advantage_estimate(0.9, 0.9, value, next_value, reward, done)
    other = R.generalized_advantage_estimate(0.9, 0.9, value, next_value, reward, done, done)
    torch.testing.assert_close(one, other)


def test_time_may_be_any_dimension():
    value, next_value, reward, done, terminated = data((4,), 30)
    expected = R.generalized_advantage_estimate(0.9, 0.8, value, next_value, reward, done, terminated)[0]
    moved = [x.movedim(1, 0) for x in (value, next_value, reward, done, terminated)]
    got = R.generalized_advantage_estimate(0.9, 0.8, *moved, time_dim=0)[0]
    torch.testing.assert_close(got.movedim(0, 1), expected)


@pytest.mark.parametrize("steps", [5, 18])
def test_gradients(steps):
    value, next_value, reward, done, terminated = data((2,), steps)
    value, next_value, reward = (x.clone().requires_grad_() for x in (value, next_value, reward))
    log_pi, log_mu = 0.3 * torch.randn(2, 2, steps, 1, dtype=F64)

    def gae(value, next_value, reward):
        return R.generalized_advantage_estimate(0.9, 0.8, value, next_value, reward, done, terminated)

    def returns(next_value, reward):
        return R.td_lambda_return_estimate(0.9, 0.8, next_value, reward, done, terminated)

    def vtrace(value, next_value, reward):
        return R.vtrace_advantage_estimate(0.9, log_pi, log_mu, value, next_value, reward, done, terminated)

    assert torch.autograd.gradcheck(gae, (value, next_value, reward))
    assert torch.autograd.gradcheck(returns, (next_value, reward))
    assert torch.autograd.gradcheck(vtrace, (value, next_value, reward))
    decay = torch.rand(40, 2, dtype=F64, requires_grad=True)
    x = torch.rand(40, 2, dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(R._block_scan, (decay, x))


# the chain: rewards 1, discount 1/2, values 4 everywhere; three steps, the last one ends
ENDS = {"terminated": (True, True), "truncated": (True, False), "cut": (False, False)}
CLOSED = {  # target of each step, with V' = 4: r + V' / 2 = 3 where it bootstraps at once
    ("td0", "terminated"): [3.0, 3.0, 1.0],
    ("td0", "truncated"): [3.0, 3.0, 3.0],
    ("td0", "cut"): [3.0, 3.0, 3.0],
    ("td1", "terminated"): [1.75, 1.5, 1.0],
    ("td1", "truncated"): [2.25, 2.5, 3.0],
    ("td1", "cut"): [2.25, 2.5, 3.0],
    # lambda = 1/2: 1 + (4 / 2 + G' / 2) / 2
    ("td_lambda", "terminated"): [2.5625, 2.25, 1.0],
    ("td_lambda", "truncated"): [2.6875, 2.75, 3.0],
    ("td_lambda", "cut"): [2.6875, 2.75, 3.0],
    ("gae", "terminated"): [2.5625, 2.25, 1.0],
    ("gae", "truncated"): [2.6875, 2.75, 3.0],
    ("gae", "cut"): [2.6875, 2.75, 3.0],
    ("vtrace", "terminated"): [1.75, 1.5, 1.0],
    ("vtrace", "truncated"): [2.25, 2.5, 3.0],
    ("vtrace", "cut"): [2.25, 2.5, 3.0],
}


@pytest.mark.parametrize(("estimator", "end"), CLOSED, ids="-".join)
def test_closed_forms_on_a_chain(estimator, end):
    reward, value = torch.ones(3, 1), torch.full((3, 1), 4.0)
    done, terminated = (torch.tensor([[False], [False], [flag]]) for flag in ENDS[end])
    same = torch.zeros(3, 1)
    target = {
        "td0": lambda: R.td0_return_estimate(0.5, value, reward, terminated),
        "td1": lambda: R.td1_return_estimate(0.5, value, reward, done, terminated),
        "td_lambda": lambda: R.td_lambda_return_estimate(0.5, 0.5, value, reward, done, terminated),
        "gae": lambda: R.generalized_advantage_estimate(0.5, 0.5, value, value, reward, done, terminated)[1],
        "vtrace": lambda: R.vtrace_advantage_estimate(0.5, same, same, value, value, reward, done, terminated)[1],
    }[estimator]()
    assert target.squeeze(-1).tolist() == CLOSED[estimator, end]


def test_shapes_must_agree():
    value, next_value, reward, done, terminated = data((2,), 5)
    with pytest.raises(ShapeError, match=r"generalized_advantage_estimate.*'reward': \[2, 5\]"):
        R.generalized_advantage_estimate(0.9, 0.9, value, next_value, reward.squeeze(-1), done, terminated)
    with pytest.raises(TypeError, match="neither terminated nor done"):
        R.td0_return_estimate(0.9, next_value, reward)


def test_old_and_vectorised_names_are_the_same_functions():
    for name in (
        "generalized_advantage_estimate",
        "td1_return_estimate",
        "td1_advantage_estimate",
        "td_lambda_return_estimate",
        "td_lambda_advantage_estimate",
    ):
        assert getattr(R, f"vec_{name}") is getattr(R, name)
