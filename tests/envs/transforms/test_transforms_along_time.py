"""What is computed along time as a buffer is extended is sampled as it was stored."""

import pytest
import torch
from tensordict import TensorDict

from torchrl.data import (
    CompactStorage,
    LazyMemmapStorage,
    LazyTensorStorage,
    ListStorage,
    PrioritizedSampler,
    RandomSampler,
    SamplerWithoutReplacement,
    SliceSampler,
    TensorDictReplayBuffer,
)
from torchrl.envs.transforms import CatFrames, Compose, MultiStepTransform, Reward2GoTransform

RETURNS = [2.75, 3.5, 3.0, 8.0, 8.0, 6.0]  # of the rewards 1 ... 6, discounted by one half
TWO_STEPS = [2.0, 3.5, 3.0, 6.5, 8.0, 6.0]


def two_episodes():
    """Return two episodes of three steps each."""
    done = torch.tensor([0, 0, 1, 0, 0, 1], dtype=torch.bool).unsqueeze(-1)
    reward = torch.arange(1.0, 7.0).unsqueeze(-1)
    after = TensorDict(reward=reward, done=done, terminated=done.clone(), x=reward + 1, batch_size=[6])
    rows = TensorDict(t=torch.arange(6), episode=torch.arange(6) // 3, x=reward.clone(), next=after)
    return rows.auto_batch_size_(1)


def in_place():
    return Reward2GoTransform(gamma=0.5)


def beside():
    return Reward2GoTransform(gamma=0.5, out_keys=["sum"])


TRANSFORMS = {
    "in place": (in_place, ("next", "reward"), RETURNS),
    "beside": (beside, "sum", RETURNS),
    "in a row": (lambda: Compose(beside()), "sum", RETURNS),
    "several steps": (lambda: MultiStepTransform(2, 0.5), ("next", "reward"), TWO_STEPS),
    "frames": (
        lambda: CatFrames(2, -1, ["x"], ["frames"], as_inverse=True),
        "frames",
        [[1, 1], [1, 2], [2, 3], [4, 4], [4, 5], [5, 6]],
    ),
}
SAMPLERS = {
    "random": RandomSampler,
    "without replacement": SamplerWithoutReplacement,
    "slices": lambda: SliceSampler(slice_len=2, traj_key="episode"),
    "prioritized": lambda: PrioritizedSampler(12, 1.0, 1.0),
}
STORAGES = {
    "tensor": lambda: (1, LazyTensorStorage(6)),
    "list": lambda: (1, ListStorage(6)),
    "memmap": lambda: (1, LazyMemmapStorage(6)),
    "compact": lambda: (1, CompactStorage(LazyTensorStorage(6), ["x"])),
    "two environments": lambda: (2, LazyTensorStorage(12, ndim=2)),
}


@pytest.mark.parametrize("prefetch", [None, 2])
@pytest.mark.parametrize("storage", STORAGES.values(), ids=STORAGES.keys())
@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS.keys())
@pytest.mark.parametrize("case", TRANSFORMS.values(), ids=TRANSFORMS.keys())
def test_what_is_sampled_was_computed_from_whole_episodes(case, sampler, storage, prefetch):
    make, key, expected = case
    ndim, kept = storage()
    transform = make()
    buffer = TensorDictReplayBuffer(
        storage=kept, sampler=sampler(), transform=transform, batch_size=4, prefetch=prefetch
    )
    rows = two_episodes()
    buffer.extend(rows if ndim == 1 else torch.stack([rows, rows]))
    if isinstance(transform, MultiStepTransform):
        expected = expected[:-1]  # the last step waits for what follows
    for _ in range(3):
        sample = buffer.sample().reshape(-1)
        found = sample[key].reshape(len(sample), -1).squeeze(-1).tolist()
        assert found == [expected[t] for t in sample["t"].flatten().tolist()]
    stored = buffer[:] if ndim == 1 else buffer[1]
    assert stored[key].reshape(len(stored), -1).squeeze(-1).tolist() == expected


def test_a_single_step_has_no_return_to_go():
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(6), transform=in_place())
    with pytest.raises(ValueError, match="single step"):
        buffer.add(two_episodes()[5])
    assert len(buffer) == 0
