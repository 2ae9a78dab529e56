"""Every legal storage x sampler x writer is held against the same contract."""

import importlib
import itertools

import pytest
import torch

import torchrl.data
from torchrl.data import (
    CompactStorage,
    CompressedListStorage,
    LazyMemmapStorage,
    LazyStackStorage,
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
    StreamingSliceSampler,
    TensorDictReplayBuffer,
    TensorDictRoundRobinWriter,
    TensorStorage,
)
from torchrl.testing import buffer as contract

ROWS = 12
STORAGES = {
    "list": lambda: ListStorage(ROWS),
    "compressed": lambda: CompressedListStorage(ROWS),
    "lazy stack": lambda: LazyStackStorage(ROWS),
    "tensor": lambda: LazyTensorStorage(ROWS),
    "memmap": lambda: LazyMemmapStorage(ROWS),
    "compact": lambda: CompactStorage(LazyTensorStorage(ROWS)),
}
SAMPLERS = {
    "random": RandomSampler,
    "without replacement": SamplerWithoutReplacement,
    "prioritized": lambda: PrioritizedSampler(2 * ROWS, alpha=0.7, beta=0.5),
    "slices": lambda: SliceSampler(slice_len=1, truncated_key=None),
    "prioritized slices": lambda: PrioritizedSliceSampler(2 * ROWS, 0.7, 0.5, slice_len=1),
    "slices without replacement": lambda: SliceSamplerWithoutReplacement(slice_len=1),
    "in order": lambda: SamplerWithoutReplacement(shuffle=False),
    "streaming slices": lambda: StreamingSliceSampler(slice_len=1),
}
WRITERS = {
    "round robin": (ReplayBuffer, RoundRobinWriter),
    "tensordict round robin": (TensorDictReplayBuffer, TensorDictRoundRobinWriter),
}
STORAGES_2D = {
    "tensor": lambda: LazyTensorStorage(ROWS * 2, ndim=2),
    "memmap": lambda: LazyMemmapStorage(ROWS * 2, ndim=2),
    "compact": lambda: CompactStorage(LazyMemmapStorage(ROWS * 2, ndim=2)),
}

FLAT = {" / ".join(names): names for names in itertools.product(STORAGES, SAMPLERS, WRITERS)}
GRID = {name: parts for name, parts in FLAT.items() if parts[0] in STORAGES_2D}


def maker(parts, storages=STORAGES, **kwargs):
    storage, sampler, writer = parts
    kind, make_writer = WRITERS[writer]

    def make():
        return kind(storage=storages[storage](), sampler=SAMPLERS[sampler](), writer=make_writer(), **kwargs)

    return make


@pytest.fixture(params=FLAT.values(), ids=FLAT.keys())
def make(request):
    return maker(request.param)


@pytest.fixture(params=GRID.values(), ids=GRID.keys())
def make_2d(request):
    return maker(request.param, STORAGES_2D)


def test_agrees_with_a_queue(make):
    contract.check_agrees_with_a_queue(make)


def test_agrees_with_a_queue_in_two_dimensions(make_2d):
    contract.check_agrees_with_a_queue(make_2d, [2])


def test_continues_exactly(make):
    contract.check_continues_exactly(make)


def test_continues_exactly_from_disk(make, tmp_path):
    def transfer(first, second):
        first.dumps(tmp_path)
        second.loads(tmp_path)

    contract.check_continues_exactly(make, transfer=transfer)


@pytest.mark.parametrize(
    "parts",
    [(storage, "random", "round robin") for storage in STORAGES]
    + [("tensor", sampler, "tensordict round robin") for sampler in SAMPLERS],
    ids=" / ".join,
)
def test_saves_are_safe(parts, tmp_path):
    contract.check_saves_are_safe(maker(parts), folder=tmp_path)


class LoadsRowsFirst(ReplayBuffer):
    """Takes over the rows before it knows whether the sampler can follow."""

    def load_state_dict(self, state_dict):
        self.storage.load_state_dict(state_dict["_storage"])
        self.sampler.load_state_dict(state_dict["_sampler"])


class Unchecked(ReplayBuffer):
    """Reads a save as pickles, and does not look at checksums."""

    def read_save(self, folder, *, trust=False):
        rows = self.storage.checkpointer.read(self.storage, folder / "storage", trust)
        return {**torch.load(folder / "parts.pt", weights_only=False), "_storage": rows}


@pytest.mark.parametrize("kind", [LoadsRowsFirst, Unchecked])
def test_a_buffer_that_loads_carelessly_fails_the_law(kind, tmp_path):
    def make():
        return kind(storage=LazyTensorStorage(ROWS), sampler=PrioritizedSampler(ROWS, 0.7, 0.5))

    with pytest.raises(AssertionError):
        contract.check_saves_are_safe(make, folder=tmp_path)


def test_continues_exactly_in_two_dimensions(make_2d):
    contract.check_continues_exactly(make_2d, [2])


def test_empty_forgets(make):
    contract.check_empty_forgets(make)


@pytest.mark.parametrize("parts", FLAT.values(), ids=FLAT.keys())
def test_prefetched_batches_travel_with_the_state(parts):
    contract.check_continues_exactly(maker(parts, prefetch=3))


def with_prefetching(parts, storages=STORAGES):
    return lambda prefetch, generator: maker(parts, storages, prefetch=prefetch, generator=generator)()


@pytest.mark.parametrize(
    ("storage", "sampler"),
    [
        *itertools.product(["tensor", "list", "compact"], [*SAMPLERS, "consuming"]),
        *itertools.product(["compressed", "lazy stack", "memmap"], ["random"]),
    ],
)
def test_prefetching_returns_what_a_buffer_without_it_returns(storage, sampler):
    parts = storage, sampler, "tensordict round robin"
    if sampler == "consuming":
        return contract.check_prefetches_what_is_stored(
            lambda prefetch, generator: TensorDictReplayBuffer(
                storage=STORAGES[storage](), consume_after_n_samples=2, prefetch=prefetch, generator=generator
            )
        )
    return contract.check_prefetches_what_is_stored(with_prefetching(parts))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_prefetching_in_two_dimensions(sampler):
    parts = "tensor", sampler, "round robin"
    contract.check_prefetches_what_is_stored(with_prefetching(parts, STORAGES_2D), [2], [0])


class InOrder(Sampler):
    """Takes items in the order of their slots."""

    def __init__(self):
        self.start = 0

    def sample(self, storage, batch_size):
        first = self.start % len(storage)
        self.start = first + batch_size
        return torch.arange(first, first + batch_size) % len(storage), {}

    def _empty(self):
        self.start = 0


class InOrderAndSaved(InOrder):
    def state_dict(self):
        return {"start": self.start}

    def load_state_dict(self, state_dict):
        self.start = state_dict["start"]


def own(sampler, storage=LazyTensorStorage):
    return lambda prefetch, generator: ReplayBuffer(
        storage=storage(ROWS), sampler=sampler(), prefetch=prefetch, generator=generator
    )


def test_a_sampler_with_a_state_dict_can_take_back_prepared_batches():
    contract.check_prefetches_what_is_stored(own(InOrderAndSaved))


def test_a_sampler_that_does_not_save_its_pass_is_found():
    with pytest.raises(AssertionError, match=r"prefetching gave the items"):
        contract.check_prefetches_what_is_stored(own(InOrder))


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("storage", ["tensor", "memmap"])
def test_refuses_bad_rows(storage, writer):
    contract.check_refuses_bad_rows(maker((storage, "random", writer)))


def test_refuses_bad_rows_in_given_tensors():
    first = contract.transitions(0, ROWS)
    contract.check_refuses_bad_rows(lambda: ReplayBuffer(storage=TensorStorage(first.clone())))


def test_given_tensors_agree_with_a_queue():
    def make():
        buffer = ReplayBuffer(storage=TensorStorage(contract.transitions(0, ROWS)))
        buffer.empty()
        return buffer

    contract.check_agrees_with_a_queue(make)
    contract.check_continues_exactly(make)


def test_every_public_part_is_listed():
    """What is not held against the contract has a reason here."""
    elsewhere = {
        "TensorStorage": "test_given_tensors_agree_with_a_queue",
        "StalenessAwareSampler": "it needs versions: test_staleness",
        "ConsumingSampler": "its items vanish: test_consuming",
        "TensorDictMaxValueWriter": "it is no queue: test_writers",
        "ImmutableDatasetWriter": "it does not write: test_writers",
    }
    lists = {
        torchrl.data.Storage: [make() for make in STORAGES.values()],
        torchrl.data.Sampler: [make() for make in SAMPLERS.values()],
        torchrl.data.Writer: [make() for _, make in WRITERS.values()],
    }
    for base, parts in lists.items():
        public = (getattr(torchrl.data, name) for name in torchrl.data.__all__)
        kinds = {k for k in public if isinstance(k, type) and issubclass(k, base)} - {base}
        listed = {type(part).__name__ for part in parts}
        assert {kind.__name__ for kind in kinds} - elsewhere.keys() == listed


OLD_PATHS = {
    "replay_buffers": "ReplayBufferEnsemble",
    "utils": "find_start_stop_traj",
    "storages": "StorageEnsemble",
    "samplers": "SamplerEnsemble",
    "writers": "WriterEnsemble",
}


@pytest.mark.parametrize(("path", "name"), OLD_PATHS.items())
def test_old_paths_lead_to_the_same_classes(path, name):
    module = importlib.import_module(f"torchrl.data.replay_buffers.{path}")
    assert getattr(module, name) is getattr(torchrl.data, name)
