"""Buffers inside of compiled functions do what they do outside."""

import copy

import pytest
import torch

from torchrl.data import (
    HERReplayBuffer,
    LazyTensorStorage,
    PrioritizedSampler,
    RandomSampler,
    ReplayBuffer,
    SamplerWithoutReplacement,
    TensorDictReplayBuffer,
)
from torchrl.testing.buffer import assert_same, transitions


def make(kind, sampler, ndim):
    return kind(
        storage=LazyTensorStorage(12 * ndim, ndim=ndim),
        sampler=sampler(),
        batch_size=6,
        generator=torch.Generator().manual_seed(0),
        transform=lambda td: td.set("twice", 2 * td["item"]),
        compilable=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "sampler", "ndim"),
    [(ReplayBuffer, RandomSampler, 1), (TensorDictReplayBuffer, lambda: PrioritizedSampler(24, 1.0, 1.0), 2)],
)
def test_one_graph_does_the_same(kind, sampler, ndim):
    shape = [2] * (ndim - 1)
    first = make(kind, sampler, ndim)
    first.extend(transitions(0, 5, shape).transpose(0, ndim - 1))
    second = copy.deepcopy(first)

    def step(buffer, rows):
        slots = buffer.extend(rows)
        buffer.add(rows[..., 0] if ndim > 1 else rows[0])
        sample, info = buffer.sample(return_info=True)
        again = buffer.sample(4)
        buffer.update_priority(info["index"], sample["td_error"])
        if kind is TensorDictReplayBuffer:
            again["td_error"] = again["td_error"] / 2
            buffer.update_tensordict_priority(again)
        return slots, sample, info, again

    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    for i in range(4):
        rows = transitions(5 + 4 * i, 3, shape).transpose(0, ndim - 1)
        mine, theirs = step(first, rows), compiled(second, rows)
        assert torch.equal(mine[0], theirs[0])
        assert_same(mine[1], theirs[1])
        assert mine[2].keys() == theirs[2].keys()
        assert all(torch.equal(mine[2][key], theirs[2][key]) for key in mine[2])
        assert_same(mine[3], theirs[3])
    assert_same(first[:], second[:])
    assert len(first) == len(second) == 12 * ndim


@pytest.mark.parametrize("parts", [{"sampler": SamplerWithoutReplacement()}, {"storage": None}, {"prefetch": 2}])
def test_what_cannot_be_one_operation_is_refused(parts):
    with pytest.raises(TypeError, match="compilable buffers draw samples of one size from tensors"):
        ReplayBuffer(**{"storage": LazyTensorStorage(3), **parts}, compilable=True)


def test_hindsight_is_refused():
    with pytest.raises(TypeError, match="or hindsight"):
        HERReplayBuffer(lambda td: td, storage=LazyTensorStorage(3), compilable=True)
