"""Multi-step returns of rewards and flags without a last dimension, masks, and checked arguments."""

import numpy as np
import pytest
import torch
from tensordict import TensorDict

from torchrl.data import MultiStep


def steps(size, ended, flat, mask=None):
    torch.manual_seed(0)
    reward, done = torch.rand(size), torch.zeros(size, dtype=torch.bool)
    done[..., ended] = True
    if not flat:
        reward, done = reward.unsqueeze(-1), done.unsqueeze(-1)
    time = torch.arange(size[-1]).expand(size)
    td = TensorDict(batch_size=size)
    td["next"] = TensorDict(time=time + 1, reward=reward, done=done, terminated=done.clone(), batch_size=size)
    return td if mask is None else td.set(("collector", "mask"), mask)


@pytest.mark.parametrize("n_steps", [1, 2, 4])
@pytest.mark.parametrize("size", [(6,), (2, 6), (2, 3, 6)])
def test_flat_rewards_are_summed_as_others_are(size, n_steps):
    post = MultiStep(0.7, n_steps)
    flat, other = (post(steps(size, [2], flat)) for flat in (True, False))
    for key in (("next", "reward"), ("next", "original_reward"), "steps_to_next_obs", "gamma", "nonterminal"):
        assert flat[key].shape == size
        torch.testing.assert_close(flat[key].unsqueeze(-1), other[key])
    assert torch.equal(flat["next", "time"], other["next", "time"])


@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("key", [("collector", "mask"), "valid", ("deep", "valid")])
def test_padding_ends_windows_and_is_terminal(key, flat):
    mask = torch.tensor([[True] * 3 + [False] * 2, [True] * 5])
    post, td = MultiStep(0.5, 3), steps((2, 5), [], flat)
    post.mask_key = key
    for shaped in (mask, mask.unsqueeze(-1)):
        out = post(td.copy().set(key, shaped))
        assert out["steps_to_next_obs"].reshape(2, 5)[0, :3].tolist() == [3, 2, 1]
        assert (out["nonterminal"].reshape(2, 5) == mask).all()
    post.mask_key = None
    assert post(td.copy().set(key, mask))["steps_to_next_obs"].reshape(2, 5)[0, 1] == 3


@pytest.mark.parametrize("gamma", [0, -0.1, 1.1, float("nan")])
def test_a_discount_has_a_range(gamma):
    with pytest.raises(ValueError, match="gamma is a discount"):
        MultiStep(gamma, 2)
    MultiStep(1, 2)


@pytest.mark.parametrize("n_steps", [2.0, "2", None])
def test_a_number_of_steps_is_whole(n_steps):
    with pytest.raises(TypeError, match="n_steps is a whole number"):
        MultiStep(0.9, n_steps)
    assert MultiStep(0.9, np.int64(2)).n_steps == 2
    with pytest.raises(ValueError, match="n_steps must be at least 1"):
        MultiStep(0.9, 0)
