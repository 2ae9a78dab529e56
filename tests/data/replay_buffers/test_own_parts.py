"""Faults of samplers, storages and writers are errors that name them, and fail their checks."""

import copy

import pytest
import torch

from torchrl._core.errors import DTypeError, ShapeError, TorchRLError
from torchrl.data import (
    ImmutableDatasetWriter,
    LazyTensorStorage,
    ListStorage,
    PrioritizedSampler,
    PrioritizedSliceSampler,
    RandomSampler,
    ReplayBuffer,
    RoundRobinWriter,
    Sampler,
    SamplerWithoutReplacement,
    SliceSampler,
    SliceSamplerWithoutReplacement,
    StalenessAwareSampler,
    StreamingSliceSampler,
    TensorDictMaxValueWriter,
    TensorDictReplayBuffer,
)
from torchrl.testing.buffer import SAMPLER_CHECKS, check_buffer, check_sampler, check_storage, check_writer, transitions
from torchrl.testing.report import ContractError

ROWS = 12
DIMENSIONS = {"one dimension": (), "two dimensions": (2,)}


class Recent(Sampler):
    """Draw from the newest share of the items."""

    def __init__(self, share=0.5):
        self.share = share

    def sample(self, storage, batch_size):
        if not len(storage):
            raise RuntimeError("Recent: the replay buffer is empty")
        newest = max(1, int(self.share * len(storage)))
        age = torch.randint(newest, (batch_size,), generator=self.generator)
        last = storage.written * storage.width - 1
        return (last - age) % (storage.capacity * storage.width), {}


def planted(output):
    """Return a sampler class that passes what another one returns through ``output``."""

    class Planted(RandomSampler):
        def sample(self, storage, batch_size):
            positions, info = super().sample(storage, batch_size)
            return output(positions, info, storage)

    return Planted


def too_high(positions, info, storage):
    return positions + len(storage), info


def beyond_the_memory(positions, info, storage):
    return positions + 1000, info


def negative(positions, info, storage):
    return positions - len(storage), info


FAULTS = {
    "no info": (lambda p, i, s: p, DTypeError, r"return a pair; expected \(positions.*found torch"),
    "three": (lambda p, i, s: (p, i, 1), DTypeError, r"a pair.*found \(torch.int64, dict, int\)"),
    "info is no dict": (lambda p, i, s: (p, None), DTypeError, r"a pair.*NoneType"),
    "a list": (lambda p, i, s: (p.tolist(), i), DTypeError, r"expected torch.int64, found list"),
    "an array": (lambda p, i, s: (p.numpy(), i), DTypeError, r"expected torch.int64, found nda"),
    "floats": (lambda p, i, s: (p.float(), i), DTypeError, r"expected torch.int64, found torch.fl"),
    "a column": (lambda p, i, s: (p[:, None], i), ShapeError, r"expected \[B\], found \[6, 1\]"),
    "a number": (lambda p, i, s: (p[0], i), ShapeError, r"expected \[B\], found \[\]"),
    "coordinates": (lambda p, i, s: (torch.stack([p, p], -1), i), ShapeError, r"found \[6, 2\]"),
    "short info": (
        lambda p, i, s: (p, {"weight": torch.ones(3)}),
        ShapeError,
        r"entry 'weight' of info.*expected \[6, \*\], found \[3\]",
    ),
    "too high": (too_high, IndexError, r"no item is stored; expected \[0, \d+\), found \["),
    "beyond the memory": (beyond_the_memory, IndexError, r"no item is stored"),
    "negative": (negative, IndexError, r"no item is stored"),
}


@pytest.mark.parametrize("row_shape", DIMENSIONS.values(), ids=DIMENSIONS)
@pytest.mark.parametrize(("output", "error", "words"), FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize("kind", [ReplayBuffer, TensorDictReplayBuffer])
@pytest.mark.parametrize("prefetch", [None, 2])
def test_bad_output_of_a_sampler_is_named(output, error, words, row_shape, kind, prefetch):
    width = len(row_shape) + 1
    storage = LazyTensorStorage(ROWS * width, ndim=width)
    sampler = planted(output)()
    buffer = kind(storage=storage, sampler=sampler, batch_size=6, prefetch=prefetch)
    rows = transitions(0, 7, row_shape)
    buffer.extend(rows.transpose(0, buffer.dim_extend))
    with pytest.raises(error, match=rf"^Planted: .*{words}") as caught:
        buffer.sample()
    assert isinstance(caught.value, TorchRLError)


def test_a_replaced_sampler_is_checked_too():
    buffer = ReplayBuffer(storage=ListStorage(9), batch_size=3)
    buffer.extend(list(range(5)))
    for _ in range(200):
        buffer.sample()
    buffer.set_sampler(planted(too_high)())
    with pytest.raises(IndexError, match="Planted"):
        buffer.sample()


def test_a_sampler_of_ones_own_passes():
    check_sampler(Recent)


@pytest.mark.parametrize(
    "make",
    [
        RandomSampler,
        SamplerWithoutReplacement,
        lambda: SamplerWithoutReplacement(shuffle=False),
        lambda: PrioritizedSampler(2 * ROWS, alpha=0.7, beta=0.5),
        lambda: SliceSampler(slice_len=2),
        lambda: PrioritizedSliceSampler(2 * ROWS, 0.7, 0.5, slice_len=1),
        lambda: SliceSamplerWithoutReplacement(slice_len=1),
        lambda: StreamingSliceSampler(slice_len=1),
    ],
)
def test_samplers_of_the_library_pass(make):
    check_sampler(make)


def test_a_sampler_that_reads_an_entry_of_its_own_passes():
    check_sampler(StalenessAwareSampler, extra={"policy_version": lambda batch: torch.randint(3, (*batch, 1))})


def test_storages_writers_and_buffers_of_the_library_pass():
    check_storage(lambda: ListStorage(ROWS))
    check_storage(lambda: LazyTensorStorage(ROWS))
    check_storage(lambda: LazyTensorStorage(2 * ROWS, ndim=2))
    check_writer(RoundRobinWriter)
    check_writer(TensorDictMaxValueWriter)
    check_buffer(lambda: TensorDictReplayBuffer(storage=LazyTensorStorage(ROWS)))
    check_buffer(lambda: ReplayBuffer(storage=LazyTensorStorage(2 * ROWS, ndim=2)))


@pytest.mark.parametrize(("output", "error", "words"), FAULTS.values(), ids=FAULTS)
def test_bad_output_fails_the_check_of_samplers(output, error, words):
    skip = [check.__name__.removeprefix("check_") for check in SAMPLER_CHECKS[1:]]
    with pytest.raises(ContractError, match=r"sampler_output: \w+: Planted"):
        check_sampler(planted(output), skip=skip)


class Counting(RandomSampler):
    """Draw items in order, and lose the place when saved and when emptied."""

    def __init__(self):
        self.next = 0

    def sample(self, storage, batch_size):
        if not len(storage):
            raise RuntimeError("Counting: the replay buffer is empty")
        self.next += 5
        return torch.arange(self.next, self.next + batch_size) % len(storage), {}


class Aliased(LazyTensorStorage):
    """Return the items that precede those of the given positions."""

    def _take(self, positions):
        return super()._take((positions - 1).clamp_min(0))


class Unsaved(LazyTensorStorage):
    def load_state_dict(self, state_dict):
        pass


class ShiftedSlots(RoundRobinWriter):
    def extend(self, data):
        return (super().extend(data) + 1) % ROWS


class WritesFirst(TensorDictMaxValueWriter):
    """Count rows before the storage has accepted them."""

    def extend(self, data):
        self._count += len(data)
        return super().extend(data)


@pytest.mark.parametrize(
    ("check", "make", "names"),
    [
        (check_sampler, Counting, ["continues_exactly", "prefetches_what_is_stored"]),
        (check_storage, lambda: Aliased(ROWS), ["reads_what_was_written"]),
        (check_storage, lambda: Unsaved(ROWS), ["continues_exactly"]),
        (check_writer, ShiftedSlots, ["returned_slots"]),
        (check_writer, WritesFirst, ["bad_rows_change_nothing"]),
        (check_writer, ImmutableDatasetWriter, ["returned_slots"]),
        (check_buffer, lambda: ReplayBuffer(storage=Unsaved(ROWS)), ["continues_exactly"]),
    ],
)
def test_planted_faults_fail_the_checks(check, make, names):
    with pytest.raises(ContractError) as caught:
        check(make)
    assert set(names) <= caught.value.failed.keys()
    kept = copy.copy(caught.value.held)
    assert kept or check is check_writer, "the other checks ran as well"
