"""Post-processing against loops over steps."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensordict import TensorDict

from torchrl._core.errors import MissingKeyError
from torchrl.data import DensifyReward, MultiStep


def batch(shape, seed, end=0.3):
    generator = torch.Generator().manual_seed(seed)
    terminated = torch.rand(*shape, 1, generator=generator) < end
    truncated = torch.rand(*shape, 1, generator=generator) < end / 2
    next_root = TensorDict(
        observation=torch.randn(*shape, 2, generator=generator),
        reward=torch.randn(*shape, 1, generator=generator),
        done=terminated | truncated,
        terminated=terminated,
        truncated=truncated,
        batch_size=shape,
    )
    return TensorDict(observation=torch.randn(*shape, 2), next=next_root, batch_size=shape)


def by_hand(td, gamma, n, mask=None):
    """Walk ahead from every step of one row, until something stops the walk."""
    rows = []
    length = td.shape[0]
    for t in range(length):
        total, k = 0.0, 0
        while True:
            total += gamma**k * td["next", "reward"][t + k].item()
            last = t + k
            stop = k + 1 == n or td["next", "done"][last] or last + 1 == length
            if stop or (mask is not None and not mask[last + 1]):
                break
            k += 1
        rows.append((total, last, k + 1))
    return rows


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.integers(0, 1000), st.integers(1, 12), st.integers(1, 5), st.integers(1, 3))
def test_multi_step_is_a_walk_ahead(seed, length, n, rows):
    gamma, td = 0.9, batch([rows, length], seed)
    before = td.clone()
    out = MultiStep(gamma, n)(td)
    assert (td == before).all()
    for b in range(rows):
        for t, (total, last, steps) in enumerate(by_hand(td[b], gamma, n)):
            step, end = out[b, t], td[b, last]
            assert step["next", "reward"].item() == pytest.approx(total, abs=1e-5)
            for key in ("observation", "done", "terminated", "truncated"):
                assert (step["next", key] == end["next", key]).all()
            assert step["steps_to_next_obs"] == steps
            assert step["gamma"].item() == pytest.approx(gamma**steps)
            assert step["nonterminal"] == ~end["next", "terminated"]
            assert step["next", "original_reward"] == td[b, t]["next", "reward"]
            assert (step["observation"] == td[b, t]["observation"]).all()


def test_a_window_that_ends_on_a_terminal_step_does_not_bootstrap():
    done = torch.tensor([[False], [False], [True]])
    next_root = TensorDict(reward=torch.ones(3, 1), done=done, terminated=done, value=torch.full((3, 1), 100.0))
    td = TensorDict(next=next_root, batch_size=[3]).auto_batch_size_(1)
    out = MultiStep(0.5, 3)(td)
    target = out["next", "reward"] + out["gamma"] * out["nonterminal"] * out["next", "value"]
    assert target.flatten().tolist() == [1.75, 1.5, 1.0]
    going = ~out["next", "terminated"]
    assert torch.equal(out["nonterminal"], going)


def test_padding_is_not_walked_over():
    td = batch([1, 8], 0, end=0.0)
    mask = torch.tensor([[True] * 5 + [False] * 3])
    td["collector"] = TensorDict(mask=mask, batch_size=[1, 8])
    out = MultiStep(0.9, 4)(td)
    expected = [steps for _, _, steps in by_hand(td[0], 0.9, 4, mask[0])]
    assert out["steps_to_next_obs"].flatten().tolist()[:5] == expected[:5] == [4, 4, 3, 2, 1]


def test_multi_step_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="n_steps must be at least 1; found 0"):
        MultiStep(0.9, 0)
    with pytest.raises(MissingKeyError, match=r"\('next', 'reward'\) is read but absent"):
        MultiStep(0.9, 2)(batch([2, 3], 0).exclude(("next", "reward")))


@pytest.mark.parametrize("discount", [1.0, 0.7])
def test_densify_is_the_discounted_sum_of_what_is_to_come(discount):
    td = batch([3, 9], 1)
    reward, done = td["next", "reward"].clone(), td["next", "done"]
    out = DensifyReward(discount=discount, reward_key_out="to_go")(td)["next", "to_go"]
    for b in range(3):
        for t in range(9):
            total, k = 0.0, t
            while True:
                total += discount ** (k - t) * reward[b, k].item()
                if done[b, k] or k == 8:
                    break
                k += 1
            assert out[b, t].item() == pytest.approx(total, abs=1e-5)
    assert torch.equal(td["next", "reward"], reward)


def test_densify_along_another_dimension():
    td = batch([9, 3], 1)
    turned = DensifyReward(time_dim=0)(td.clone())["next", "reward"]
    straight = DensifyReward()(td.transpose(0, 1).clone())["next", "reward"]
    np.testing.assert_allclose(turned.transpose(0, 1), straight)
