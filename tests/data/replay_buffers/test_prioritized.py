"""Prioritized sampling against the formulas of Schaul et al., 2016."""

import copy
import pickle

import numpy as np
import pytest
import torch
from tensordict import TensorDict

from torchrl._core.errors import MissingKeyError
from torchrl.data import (
    LazyTensorStorage,
    PrioritizedReplayBuffer,
    PrioritizedSampler,
    ReplayBuffer,
    TensorDictPrioritizedReplayBuffer,
    TensorDictReplayBuffer,
)

N = 20


def buffer_of(priorities, alpha=0.7, beta=0.5, **kwargs):
    buffer = PrioritizedReplayBuffer(alpha=alpha, beta=beta, storage=LazyTensorStorage(len(priorities)), **kwargs)
    buffer.extend(torch.arange(len(priorities)))
    buffer.update_priority(torch.arange(len(priorities)), torch.as_tensor(priorities))
    return buffer


def frequencies_fit(counts, probabilities):
    expected = probabilities * counts.sum()
    chi2 = ((counts - expected) ** 2 / expected).sum()
    return chi2 < 50.8  # 99.99 % of chi-squared with 19 degrees of freedom


@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0, 1.6])
def test_frequencies(alpha):
    priorities = np.random.default_rng(0).random(N) * 5 + 0.1
    buffer = buffer_of(priorities, alpha=alpha)
    counts = np.bincount(buffer.sample(50_000).numpy(), minlength=N)
    assert frequencies_fit(counts, priorities**alpha / (priorities**alpha).sum())


def test_weights_are_the_formula():
    priorities = np.random.default_rng(0).random(N) + 0.1
    for alpha, beta in ((0.7, 0.5), (1.0, 1.0), (0.3, 1.1), (0.5, 0.0)):
        buffer = buffer_of(priorities, alpha, beta, dtype=torch.float64)
        items, info = buffer.sample(100, return_info=True)
        probability = (priorities + 1e-8) ** alpha / ((priorities + 1e-8) ** alpha).sum()
        weight = (N * probability) ** -beta
        np.testing.assert_allclose(info["priority_weight"], (weight / weight.max())[items], 1e-9)


def test_priorities_are_transformed_once():
    buffer = buffer_of([0.5, 2.0, 3.0], alpha=0.6)
    np.testing.assert_allclose(list(buffer._sampler._sum_tree), np.array([0.5, 2, 3]) ** 0.6, 1e-7)
    buffer.add(torch.tensor(3))  # overwrites slot 0 with the highest priority so far
    np.testing.assert_allclose(list(buffer._sampler._sum_tree), np.array([3, 2, 3]) ** 0.6, 1e-7)
    assert buffer.sampler.default_priority == 3.0


def test_new_items_get_the_highest_priority_ever_or_now():
    for within, expected in ((False, 9.0), (True, 2.0)):
        sampler = PrioritizedSampler(4, 1.0, 1.0, max_priority_within_buffer=within)
        buffer = ReplayBuffer(storage=LazyTensorStorage(4), sampler=sampler)
        buffer.extend(torch.arange(2))
        assert sampler.default_priority == 1.0
        buffer.update_priority([0, 1], torch.tensor([9.0, 2.0]))
        buffer.update_priority(0, 0.5)
        assert sampler.default_priority == expected
        buffer.add(torch.tensor(5))
        assert sampler._sum_tree[2] == pytest.approx(expected)


def test_alpha_and_beta_can_be_annealed_exactly():
    priorities = np.random.default_rng(0).random(N) + 0.1
    buffer = buffer_of(priorities, alpha=0.9, dtype=torch.float64)
    for alpha in np.linspace(0.9, 0.0, 10):
        buffer.sampler.alpha = alpha
        buffer.sample(1)
    buffer.sampler.alpha, buffer.sampler.beta = 0.5, 1.0
    fresh = buffer_of(priorities, alpha=0.5, beta=1.0, dtype=torch.float64)
    samples = []
    for each in (buffer, fresh):
        torch.manual_seed(0)
        samples.append(each.sample(50, return_info=True))
    assert torch.equal(samples[0][0], samples[1][0])
    assert torch.equal(samples[0][1]["priority_weight"], samples[1][1]["priority_weight"])


def test_slots_where_nothing_is_stored_are_left_alone():
    buffer = PrioritizedReplayBuffer(alpha=0.7, beta=1.1, collate_fn=lambda x: x)
    buffer.add(1)
    buffer.update_priority(1, 0.5)
    buffer.update_priority(torch.tensor([0, 7, -1]), torch.tensor([1.0, 99.0, 99.0]))
    assert buffer.sample(50) == [1] * 50
    assert buffer.sampler.default_priority == 1.0


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_priorities_are_finite_and_not_negative(value):
    buffer = buffer_of([1.0, 2.0])
    before = list(buffer._sampler._sum_tree)
    with pytest.raises(ValueError, match=r"must be finite and not negative.*Pass the absolute error"):
        buffer.update_priority([0, 1], torch.tensor([1.0, value]))
    assert list(buffer._sampler._sum_tree) == before
    with pytest.raises(IndexError, match=r"position out of range; expected \[0, 2\), found 2"):
        buffer.update_priority(2, 1.0)


def test_arguments_are_in_range():
    with pytest.raises(ValueError, match=r"unknown reduction"):
        PrioritizedSampler(3, 0.5, 0.5, reduction="sum")
    with pytest.raises(ValueError, match=r"alpha must be a finite number"):
        PrioritizedSampler(3, -0.5, 0.5)
    with pytest.raises(TypeError, match=r"makes its own sampler"):
        PrioritizedReplayBuffer(alpha=1.0, beta=1.0, sampler=None)


def steps(n, **entries):
    return TensorDict(a=torch.arange(n), batch_size=[n], **entries)


def test_tensordict_buffer_reads_and_updates_priorities():
    buffer = TensorDictPrioritizedReplayBuffer(
        alpha=1.0, beta=1.0, eps=0.0, storage=LazyTensorStorage(6), priority_key="error"
    )
    buffer.extend(steps(4, error=torch.tensor([[1.0], [2.0], [3.0], [4.0]])))
    assert list(buffer._sampler._sum_tree) == [1, 2, 3, 4, 0, 0]
    buffer.add(TensorDict(a=torch.tensor(4), error=torch.tensor([7.0])))
    assert buffer._sampler._sum_tree[4] == 7
    buffer.extend(steps(1, error=torch.ones(1, 1)), update_priority=False)
    assert buffer._sampler._sum_tree[5] == 7
    sample = buffer.sample(64)
    assert sample["priority_weight"].shape == sample["index"].shape == (64,)
    sample["error"] = sample["index"].float() + 10
    buffer.update_tensordict_priority(sample)
    for index in sample["index"].unique().tolist():
        assert buffer._sampler._sum_tree[index] == index + 10
    with pytest.raises(MissingKeyError, match=r"'error' is read but absent"):
        buffer.update_tensordict_priority(sample.exclude("error"))
    with pytest.raises(MissingKeyError, match=r"'error' is read but absent"):
        buffer.extend(steps(1), update_priority=True)
    assert buffer.write_count == 6


@pytest.mark.parametrize(("reduction", "expected"), [("max", 9), ("min", 1), ("mean", 4), ("median", 2)])
def test_priorities_of_items_with_time_are_reduced(reduction, expected):
    buffer = TensorDictPrioritizedReplayBuffer(
        alpha=1.0, beta=1.0, eps=0.0, reduction=reduction, storage=LazyTensorStorage(4)
    )
    buffer.extend(TensorDict(a=torch.zeros(4, 3), batch_size=[4, 3]))
    sample = buffer.sample(5)
    sample["td_error"] = torch.tensor([2.0, 9.0, 1.0]).expand(5, 3).unsqueeze(-1)
    buffer.update_tensordict_priority(sample)
    for index in sample["index"][:, 0].unique().tolist():
        assert buffer._sampler._sum_tree[index] == expected


def test_two_dimensions():
    sampler = PrioritizedSampler(10, 1.0, 1.0, eps=0.0)
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(10, ndim=2), sampler=sampler)
    data = TensorDict(a=torch.arange(6).view(2, 3), batch_size=[2, 3])
    data["td_error"] = data["a"] + 1.0
    buffer.extend(data)
    assert list(sampler._sum_tree)[:6] == [1, 4, 2, 5, 3, 6]
    sample = buffer.sample(40)
    buffer.update_tensordict_priority(sample.set("td_error", sample["a"] + 20.0))
    stored = buffer[:]["a"].T.flatten()
    for position in buffer.storage.positions(sample["index"]).unique().tolist():
        assert sampler._sum_tree[position] == stored[position] + 20


def test_slices_in_a_batch_are_rated_item_by_item():
    buffer = TensorDictPrioritizedReplayBuffer(alpha=1.0, beta=1.0, eps=0.0, storage=LazyTensorStorage(6))
    buffer.extend(steps(6))
    windows = buffer[:].view(2, 3).clone()
    buffer.update_tensordict_priority(windows.set("td_error", windows["a"] + 1.0))
    assert list(buffer._sampler._sum_tree) == [1, 2, 3, 4, 5, 6]


def test_items_written_by_others_are_noticed():
    storage = LazyTensorStorage(5)
    reader = ReplayBuffer(storage=storage, sampler=PrioritizedSampler(5, 1.0, 1.0))
    writer = ReplayBuffer(storage=storage)
    writer.extend(torch.arange(3))
    assert set(reader.sample(60).tolist()) == {0, 1, 2}
    reader.update_priority([0, 1, 2], torch.zeros(3))
    writer.extend(torch.arange(3, 7))
    assert set(reader.sample(60).tolist()) == {3, 4, 5, 6}


@pytest.mark.parametrize("make_copy", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_has_priorities_of_its_own(make_copy):
    first = buffer_of([1.0, 2.0, 4.0], generator=torch.Generator().manual_seed(0))
    second = make_copy(first)
    for buffer in (first, second):
        buffer.update_priority(torch.tensor([0]), torch.tensor(8.0))
    for _ in range(3):
        mine, theirs = (buffer.sample(9, return_info=True)[1] for buffer in (first, second))
        assert torch.equal(mine["priority_weight"], theirs["priority_weight"])
    assert mine["priority_weight"].max() == 1
