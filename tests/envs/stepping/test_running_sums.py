"""Sums written after the steps are those that a sum step by step gives, to the last bit."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torchrl.envs.transforms.episode.tracking import running_sum


def by_hand(first, added, ends):
    before, after, total = [], [], first
    for t in range(added.shape[-2]):
        before.append(total)
        total = total + added[..., t, :]
        after.append(total)
        total = torch.where(ends[..., t, :], torch.zeros_like(total), total)
    return torch.stack(before, -2), torch.stack(after, -2)


@settings(max_examples=60, deadline=None)
@given(
    batch=st.sampled_from([(), (1,), (3,), (2, 2)]),
    steps=st.integers(1, 40),
    rate=st.sampled_from([0.0, 0.1, 0.9]),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.int64, torch.bfloat16]),
    seed=st.integers(0, 10_000),
)
def test_a_running_sum_is_a_sum_step_by_step(batch, steps, rate, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    first = (torch.randn(*batch, 1, generator=generator) * 10).to(dtype)
    added = (torch.randn(*batch, steps, 1, generator=generator) * 10).to(dtype)
    ends = torch.rand(*batch, steps, 1, generator=generator) < rate
    given_values = added.clone()
    before, after = running_sum(first, added, ends)
    expected_before, expected_after = by_hand(first, added, ends)
    assert torch.equal(before, expected_before)
    assert torch.equal(after, expected_after)
    assert torch.equal(added, given_values)


def test_gradients_pass_through_a_running_sum():
    added = torch.randn(2, 5, 1, requires_grad=True, dtype=torch.float64)
    ends = torch.tensor([[0, 1, 0, 0, 0], [0, 0, 0, 1, 0]], dtype=torch.bool).unsqueeze(-1)
    _, after = running_sum(torch.zeros(2, 1, dtype=torch.float64), added, ends)
    grad = torch.autograd.grad(after[..., -1, :].sum(), added)[0]
    assert grad.squeeze(-1).tolist() == [[0, 0, 1, 1, 1], [0, 0, 0, 0, 1]]
