"""Items that vanish after some samples."""

from collections import Counter

import pytest
import torch

from torchrl.data import ConsumingSampler, LazyTensorStorage, ReplayBuffer


@pytest.mark.parametrize("count", [1, 3])
def test_every_item_is_sampled_as_often_as_it_may(count):
    sampler = ConsumingSampler(count)
    buffer = ReplayBuffer(storage=LazyTensorStorage(10), sampler=sampler, batch_size=4)
    buffer.extend(torch.arange(7))
    seen = Counter()
    for batch in buffer:
        assert len(set(batch.tolist())) == len(batch)
        seen.update(batch.tolist())
    assert seen == dict.fromkeys(range(7), count)
    with pytest.raises(RuntimeError, match=r"every item was consumed. Store new ones"):
        buffer.sample()
    buffer.extend(torch.arange(7, 12))
    seen = Counter(item for batch in buffer for item in batch.tolist())
    assert seen == dict.fromkeys(range(7, 12), count)


def test_goes_on_where_it_stood():
    buffers = []
    for _ in range(2):
        buffer = ReplayBuffer(storage=LazyTensorStorage(10), sampler=ConsumingSampler())
        buffer.extend(torch.arange(10))
        buffers.append(buffer)
    first = buffers[0].sample(6)
    buffers[1].load_state_dict(buffers[0].state_dict())
    rest = buffers[1].sample(6)
    assert sorted(first.tolist() + rest.tolist()) == list(range(10))


def test_at_least_one():
    with pytest.raises(ValueError, match="max_sample_count must be a whole number, 1 or more; found 0"):
        ConsumingSampler(0)
