"""What is not a number stays in its episode, in every function of returns and in every form."""

import inspect

import pytest
import torch

from torchrl._core import returns
from torchrl._core.returns import discounted_scan
from torchrl.objectives.value import functional

STEPS, CUT, BAD = 40, 12, 30  # the first episode ends with step 12, the second is hit at step 30
ESTIMATES = [name for name in functional.__all__ if name != "td0_return_estimate"]
LAYOUTS = {
    "flat": ((STEPS, 1), -2),
    "batch": ((3, STEPS, 1), -2),
    "agents": ((STEPS, 3, 1), -3),
    "wide": ((700, STEPS, 1), -2),  # blocks
}
SPOILT = [("reward", "nan"), ("reward", "inf"), ("state_value", "nan"), ("next_state_value", "nan")]


def estimate(name, layout, spoilt=None, value=None, **options):
    """Return what a function gives, time first, and whether it reads the entry that is spoilt."""
    shape, time = LAYOUTS[layout]
    torch.manual_seed(0)
    data = {key: torch.randn(shape) for key in ("reward", "state_value", "next_state_value")}
    done = torch.zeros(shape, dtype=torch.bool)
    done.movedim(time, 0)[CUT] = True
    if spoilt is not None:
        data[spoilt].movedim(time, 0)[BAD].view(-1)[0] = float(value)
    data |= {"done": done, "terminated": done.clone(), "gamma": 0.9, "lmbda": 0.8, "time_dim": time}
    data |= {"log_pi": torch.full(shape, 0.1), "log_mu": torch.zeros(shape), **options}
    known = inspect.signature(getattr(functional, name)).parameters
    out = getattr(functional, name)(**{k: v for k, v in data.items() if k in known})
    out = out if isinstance(out, tuple) else (out,)
    return [x.movedim(time, 0).flatten(1) for x in out], spoilt in known


@pytest.mark.parametrize(("spoilt", "value"), SPOILT)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ESTIMATES)
def test_other_episodes_and_rows_keep_their_values(name, layout, spoilt, value):
    good, _ = estimate(name, layout)
    bad, reads = estimate(name, layout, spoilt, value)
    for one, other in zip(good, bad, strict=True):
        torch.testing.assert_close(other[: CUT + 1], one[: CUT + 1])
        torch.testing.assert_close(other[:, 1:], one[:, 1:])
        assert reads == (not other[CUT + 1 :].isfinite().all())


@pytest.mark.parametrize("vectorized", [True, False])
@pytest.mark.parametrize("name", ["generalized_advantage_estimate", "td_lambda_return_estimate"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_form_of_the_scan_keeps_them(name, layout, vectorized):
    good, _ = estimate(name, layout)
    bad, _ = estimate(name, layout, "reward", "nan", vectorized=vectorized)
    for one, other in zip(good, bad, strict=True):
        torch.testing.assert_close(other[: CUT + 1], one[: CUT + 1])


@pytest.mark.parametrize("rolling", [True, False])
@pytest.mark.parametrize(("spoilt", "value"), SPOILT)
def test_a_discount_of_each_step_keeps_them(rolling, spoilt, value):
    options = {"gamma": torch.linspace(0.5, 0.99, STEPS).unsqueeze(-1), "rolling_gamma": rolling}
    good, _ = estimate("td_lambda_return_estimate", "flat", **options)
    bad, _ = estimate("td_lambda_return_estimate", "flat", spoilt, value, **options)
    torch.testing.assert_close(bad[0][: CUT + 1], good[0][: CUT + 1])


@pytest.mark.parametrize("rolling", [True, False])
def test_what_is_said_to_follow_a_terminal_step_may_be_nan(rolling):
    value, reward = torch.zeros(3, 1), torch.ones(3, 1)
    value[1] = torch.nan
    end = torch.tensor([[False], [True], [False]])
    gamma = torch.full((3, 1), 0.5)
    out = functional.td_lambda_return_estimate(gamma, 0.9, value, reward, end, end, rolling)
    assert out.isfinite().all()


def by_hand(decay, x):
    rows, next_root = [], torch.zeros_like(x[0])
    for d, row in zip(reversed(decay), reversed(x), strict=True):
        next_root = torch.where(d == 0, row, row + d * next_root)
        rows.append(next_root)
    return torch.stack(rows[::-1])


@pytest.mark.parametrize("size", [3, 100, 40_000])
def test_gradients_stop_where_nothing_passes(size):
    """Of a sum over the first episode no gradient reaches the NaN behind it, nor is it NaN."""
    torch.manual_seed(0)
    decay = torch.full((30, size // 3), 0.9)
    decay[10] = 0.0
    x = torch.randn(30, size // 3)
    x[20] = torch.nan
    grads = []
    for scan in (by_hand, lambda d, x: discounted_scan(d, x, 0)):
        d, y = decay.clone().requires_grad_(), x.clone().requires_grad_()
        scan(d, y)[:11].sum().backward()
        grads.append((d.grad, y.grad))
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(other[:10], one[:10])
    torch.testing.assert_close(grads[1][1][11:], torch.zeros_like(x[11:]))


def test_it_holds_where_values_cannot_be_looked_at():
    """Under torch.vmap and torch.compile the scan is the same."""
    decay, x = torch.full((2, 20, 1), 0.9), torch.ones(2, 20, 1)
    decay[:, 5], x[1, 10] = 0.0, torch.nan
    expected = torch.stack([by_hand(d, y) for d, y in zip(decay, x, strict=True)])
    mapped = torch.vmap(lambda d, y: discounted_scan(d, y, 0))(decay, x)
    torch.testing.assert_close(mapped, expected, equal_nan=True)
    torch._dynamo.reset()
    compiled = torch.compile(discounted_scan, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(decay, x), expected, equal_nan=True)


def test_nothing_is_scanned_twice_where_all_is_finite(monkeypatch):
    monkeypatch.setattr(returns, "_add_passed", None)
    assert discounted_scan(torch.ones(20, 1), torch.ones(20, 1))[0] == 20
