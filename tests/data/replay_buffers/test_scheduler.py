"""Schedules against their formulas."""

import pytest

from torchrl.data import (
    LambdaScheduler,
    LinearScheduler,
    PrioritizedReplayBuffer,
    PrioritizedSampler,
    SchedulerList,
    StepScheduler,
)


def run(make, steps, name="beta"):
    sampler = PrioritizedSampler(4, alpha=0.8, beta=0.4)
    scheduler, values = make(sampler), []
    for _ in range(steps):
        scheduler.step()
        values.append(getattr(sampler, name))
    return values


def test_linear():
    values = run(lambda s: LinearScheduler(s, "beta", 1.0, 4), 6)
    assert values == pytest.approx([0.55, 0.7, 0.85, 1.0, 1.0, 1.0])
    assert run(lambda s: LinearScheduler(s, "alpha", 0.0, 2), 2, "alpha") == pytest.approx([0.4, 0])
    assert run(lambda s: LinearScheduler(s, "beta", 1.0, 3), 3)[-1] == 1.0


def test_steps():
    assert run(lambda s: StepScheduler(s, "beta", 0.5, 2), 5) == pytest.approx([0.4, 0.2, 0.2, 0.1, 0.1])
    assert run(lambda s: StepScheduler(s, "beta", 0.25, mode="additive", max_value=1.0), 4) == pytest.approx(
        [0.65, 0.9, 1.0, 1.0]
    )
    assert run(lambda s: StepScheduler(s, "beta", 0.1, min_value=0.1), 2) == [0.1, 0.1]
    with pytest.raises(ValueError, match="mode 'multiplicative' or 'additive'"):
        run(lambda s: StepScheduler(s, "beta", mode="other"), 1)


def test_function():
    assert run(lambda s: LambdaScheduler(s, "beta", lambda t: t / 10), 3) == [0.1, 0.2, 0.3]


def test_a_buffer_stands_for_its_sampler():
    buffer = PrioritizedReplayBuffer(alpha=0.6, beta=0.4)
    both = SchedulerList([LinearScheduler(buffer, "beta", 1.0, 2)])
    both.append(LinearScheduler(buffer, "alpha", 0.0, 2))
    both.step()
    assert (buffer.sampler.beta, buffer.sampler.alpha) == pytest.approx((0.7, 0.3))
    state = both.state_dict()
    other = PrioritizedReplayBuffer(alpha=0.1, beta=0.1)
    twin = SchedulerList([LinearScheduler(other, n, v, 2) for n, v in (("beta", 1), ("alpha", 0))])
    twin.load_state_dict(state)
    twin.step()
    assert (other.sampler.beta, other.sampler.alpha) == (1.0, 0.0)


def test_unknown_names():
    with pytest.raises(AttributeError, match="PrioritizedSampler has no attribute 'gamma'"):
        run(lambda s: LinearScheduler(s, "gamma", 1.0, 4), 1)
    with pytest.raises(ValueError, match="num_steps must be at least 1"):
        run(lambda s: LinearScheduler(s, "beta", 1.0, 0), 1)
