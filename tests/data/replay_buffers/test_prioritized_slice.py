"""Prioritized slices: starts in proportion to priority, among those that leave room."""

import numpy as np
import pytest
import torch
from tensordict import TensorDict

from torchrl.data import LazyTensorStorage, PrioritizedSliceSampler, TensorDictReplayBuffer

LENGTHS = [4, 2, 7]


def buffer_of(lengths=LENGTHS, alpha=0.8, **kwargs):
    n = sum(lengths)
    sampler = PrioritizedSliceSampler(n, alpha, 0.6, **kwargs)
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(n), sampler=sampler)
    done = torch.cat([torch.arange(k) == k - 1 for k in lengths]).unsqueeze(-1)
    buffer.extend(
        TensorDict(item=torch.arange(n), next=TensorDict(done=done, batch_size=[n]), batch_size=[n])
    )
    return buffer


def test_frequencies_and_weights():
    buffer = buffer_of(slice_len=3, dtype=torch.float64)
    priority = np.random.default_rng(0).random(13) * 3 + 0.2
    buffer.update_priority(torch.arange(13), torch.from_numpy(priority))
    sample = buffer.sample(3 * 20_000).view(-1, 3)
    assert (sample["item"].diff(dim=1) == 1).all()
    starts = sample["item"][:, 0]
    valid = np.array([0, 1, 6, 7, 8, 9, 10])
    mass = priority[valid] ** 0.8
    counts = np.bincount(starts, minlength=13)
    assert counts.sum() == counts[valid].sum()
    expected = mass / mass.sum() * 20_000
    assert ((counts[valid] - expected) ** 2 / expected).sum() < 22.5  # 99.9 %, 6 degrees of freedom
    every = (priority + 1e-8) ** 0.8
    weight = (every / every.min()) ** -0.6
    for step in range(3):
        np.testing.assert_allclose(sample["priority_weight"][:, step], weight[starts])
    assert sample["next", "truncated"].squeeze(-1).tolist() == [[False, False, True]] * 20_000


def test_rare_starts_are_found_all_the_same():
    buffer = buffer_of([1] * 4000 + [3], slice_len=3)
    assert buffer.sample(6)["item"].tolist() == [4000, 4001, 4002] * 2
    with pytest.raises(RuntimeError, match="no stored episode has 4 steps"):
        buffer_of(slice_len=4, lengths=[3, 3]).sample(4)


def test_shorter_slices():
    buffer = buffer_of(slice_len=3, strict_length=False)
    sample = buffer.sample(300)
    ends = sample["next", "truncated"].squeeze(-1).nonzero().squeeze(-1) + 1
    lengths = {len(piece) for piece in sample["item"].tensor_split(ends)[:-1]}
    assert lengths == {1, 2, 3}
    assert len(sample["priority_weight"]) == len(sample)
    padded = buffer_of(slice_len=3, strict_length=False, pad_output=True).sample(300)
    assert len(padded) == len(padded["collector", "mask"]) == 300


def test_no_span():
    with pytest.raises(TypeError, match="takes no span"):
        PrioritizedSliceSampler(3, 1.0, 1.0, slice_len=2, span=True)
