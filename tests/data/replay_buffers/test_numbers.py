"""Numbers that samplers take: finite and in range, at construction and when they are set later."""

import math

import pytest
import torch
from tensordict import TensorDict

from torchrl.data import (
    CompactStorage,
    ConsumingSampler,
    LazyMemmapStorage,
    LazyTensorStorage,
    ListStorage,
    PrioritizedReplayBuffer,
    PrioritizedSampler,
    PrioritizedSliceSampler,
    RandomSampler,
    ReplayBuffer,
    SamplerEnsemble,
    SliceSampler,
    SliceSamplerWithoutReplacement,
    StalenessAwareSampler,
    StreamingSliceSampler,
    TensorDictPrioritizedReplayBuffer,
    TensorDictReplayBuffer,
)

BAD = [math.nan, math.inf, -1.0]


def exponents(**given):
    return {"alpha": 0.6, "beta": 0.4, "eps": 1e-8, **given}


PRIORITIZED = {
    "items": lambda **numbers: PrioritizedSampler(10, **numbers),
    "slices": lambda **numbers: PrioritizedSliceSampler(10, slice_len=2, **numbers),
    "buffer": lambda **numbers: PrioritizedReplayBuffer(**numbers).sampler,
    "tensordict buffer": lambda **numbers: TensorDictPrioritizedReplayBuffer(**numbers).sampler,
}


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("name", ["alpha", "beta", "eps"])
@pytest.mark.parametrize("make", PRIORITIZED.values(), ids=PRIORITIZED.keys())
def test_exponents_are_finite_and_not_negative(make, name, value):
    with pytest.raises(ValueError, match=name):
        make(**exponents(**{name: value}))
    sampler = make(**exponents())
    with pytest.raises(ValueError, match=name):
        setattr(sampler, name, value)
    assert getattr(sampler, name) == exponents()[name]


def test_a_new_eps_counts_for_all_items():
    sampler = PrioritizedSampler(4, alpha=1.0, beta=1.0, eps=0.0)
    buffer = ReplayBuffer(sampler=sampler, batch_size=4)
    buffer.extend([0, 1])
    buffer.update_priority(torch.arange(2), torch.tensor([0.0, 1.0]))
    sampler.eps = 1.0
    buffer.sample()
    assert list(sampler._sum_tree)[:2] == [1.0, 2.0]


@pytest.mark.parametrize("value", [math.nan, math.inf, -2, 0, 1.5])
@pytest.mark.parametrize("name", ["slice_len", "num_slices"])
@pytest.mark.parametrize("kind", [SliceSampler, SliceSamplerWithoutReplacement])
def test_sizes_of_slices_are_whole_numbers(kind, name, value):
    with pytest.raises(ValueError, match=name):
        kind(**{name: value})


@pytest.mark.parametrize("value", [math.nan, math.inf, 0, -1, 0.5])
def test_counts_of_samples_are_whole_numbers(value):
    with pytest.raises(ValueError, match="max_sample_count"):
        ConsumingSampler(value)
    sampler = ConsumingSampler()
    with pytest.raises(ValueError, match="max_sample_count"):
        sampler.max_sample_count = value


@pytest.mark.parametrize("value", [math.nan, math.inf, -2, 0.5])
def test_staleness_is_a_whole_number(value):
    with pytest.raises(ValueError, match="max_staleness"):
        StalenessAwareSampler(value)
    sampler = StalenessAwareSampler(1)
    with pytest.raises(ValueError, match="max_staleness"):
        sampler.max_staleness = value


@pytest.mark.parametrize("value", BAD)
def test_weights_of_staleness_and_odds_of_buffers_are_finite(value):
    sampler = StalenessAwareSampler(staleness_weight_fn=lambda x: torch.full_like(x, value))
    buffer = ReplayBuffer(storage=LazyTensorStorage(3), sampler=sampler, batch_size=2)
    buffer.extend(TensorDict(policy_version=torch.arange(3), batch_size=[3]))
    with pytest.raises(ValueError, match="weights"):
        buffer.sample()
    with pytest.raises(ValueError, match="odds"):
        SamplerEnsemble(RandomSampler(), RandomSampler(), p=[value, 1.0])


SPANS = [3, (0, 5), (3, 0), -1, (0, -1), 1.5, math.nan, (1, 1, 1)]


@pytest.mark.parametrize("span", SPANS)
@pytest.mark.parametrize("kind", [SliceSampler, SliceSamplerWithoutReplacement, StreamingSliceSampler])
def test_a_span_leaves_a_step_of_a_slice(kind, span):
    with pytest.raises(ValueError, match="span"):
        kind(slice_len=3, span=span)


@pytest.mark.parametrize("how", ["number of slices", "attribute"])
def test_a_span_is_compared_with_the_slices_that_are_sampled(how):
    if how == "attribute":
        sampler = SliceSampler(slice_len=3, traj_key="episode")
        sampler.span = 3
    else:
        sampler = SliceSampler(num_slices=2, traj_key="episode", span=3)
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(20), sampler=sampler, batch_size=6)
    buffer.extend(TensorDict(episode=torch.arange(4).repeat_interleave(5), batch_size=[20]))
    with pytest.raises(ValueError, match="span"):
        buffer.sample()
    sampler.span = 2
    for _ in range(20):
        assert len(buffer.sample())


INTERLEAVED = {
    "slices": lambda: SliceSampler(slice_len=3, traj_key="which"),
    "slices of flags": lambda: SliceSampler(slice_len=3),
    "without replacement": lambda: SliceSamplerWithoutReplacement(slice_len=3, traj_key="which"),
    "streaming": lambda: StreamingSliceSampler(slice_len=3, traj_key="which"),
    "prioritized": lambda: PrioritizedSliceSampler(20, 1.0, 1.0, slice_len=3, traj_key="which"),
}


@pytest.mark.parametrize("interleaved", [True, False])
@pytest.mark.parametrize("make", INTERLEAVED.values(), ids=INTERLEAVED.keys())
def test_rows_in_turns_are_not_called_short_episodes(make, interleaved):
    which = torch.arange(4).repeat(5) if interleaved else torch.arange(10).repeat_interleave(2)
    done = torch.ones(20, 1, dtype=torch.bool) if interleaved else which.diff(append=which[-1:] + 1)
    rows = TensorDict(which=which, batch_size=[20])
    rows["next", "done"] = done.reshape(20, 1).bool()
    rows["collector", "traj_ids"] = which
    buffer = ReplayBuffer(storage=LazyTensorStorage(20), sampler=make(), batch_size=12)
    buffer.extend(rows)
    with pytest.raises(RuntimeError, match="no stored episode has 3 steps") as caught:
        buffer.sample()
    assert ("ndim=2" in str(caught.value)) == interleaved


STORAGES = [LazyTensorStorage, LazyMemmapStorage, ListStorage, "compact", "shared"]


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("storage", STORAGES)
def test_entries_of_size_zero_are_stored(storage, beside, tmp_path):
    kinds = {
        "compact": lambda: CompactStorage(LazyTensorStorage(5)),
        "shared": lambda: LazyTensorStorage(5, shared_init=True),
    }
    make = kinds.get(storage, lambda: storage(5))
    rows = TensorDict(nothing=torch.zeros(3, 0), batch_size=[3])
    if beside or storage == "compact":
        rows["x"] = torch.arange(3)
        rows["next"] = TensorDict(x=torch.arange(3), nothing=torch.zeros(3, 0), batch_size=[3])
    buffer = ReplayBuffer(storage=make(), batch_size=2)
    buffer.extend(rows)
    buffer.extend(rows)
    buffer.add(rows[0])
    assert len(buffer) == 5
    assert buffer.sample()["nothing"].shape == (2, 0)
    other = ReplayBuffer(storage=make(), batch_size=2)
    other.load_state_dict(buffer.state_dict())
    assert other[:]["nothing"].shape == (5, 0)
    if storage != "compact":
        buffer.dumps(tmp_path)
        other.loads(tmp_path)
        assert other[:]["nothing"].shape == (5, 0)


@pytest.mark.parametrize(
    "columns",
    [
        {"first": torch.zeros(3), "second": torch.zeros(2)},
        {"deep": {"first": torch.zeros(3), "second": [1, 2]}},
        (torch.zeros(3), torch.zeros(2)),
    ],
)
def test_columns_of_unequal_length_are_named(columns):
    buffer = ReplayBuffer(storage=ListStorage(5))
    with pytest.raises(ValueError, match=r"entry 'second'|entry 1"):
        buffer.extend(columns)
    assert len(buffer) == 0
