"""Contract checks of samplers pass for correct ones, and find planted faults with a message that says what to do."""

import re

import pytest
import torch

from torchrl._core.errors import DTypeError, TorchRLError
from torchrl.data import LazyTensorStorage, ListStorage, RandomSampler, ReplayBuffer, Sampler, TensorDictReplayBuffer
from torchrl.data.replay_buffers.samplers.base import InfoKeyError
from torchrl.testing import ContractError, check_sampler
from torchrl.testing.buffer import transitions


class Annealed(RandomSampler):
    """Returns a weight that grows with each draw."""

    def __init__(self):
        self.beta = 0.0

    def sample(self, storage, batch_size):
        positions, _ = super().sample(storage, batch_size)
        self.beta += 0.1
        return positions, {"weight": torch.full((batch_size,), self.beta)}

    def state_dict(self):
        return {"beta": self.beta}

    def load_state_dict(self, state_dict):
        self.beta = state_dict["beta"]


class Unsaved(Annealed):
    def state_dict(self):
        return {}

    def load_state_dict(self, state_dict):
        pass


class Unseeded(Sampler):
    def sample(self, storage, batch_size):
        return torch.randint(len(storage), (batch_size,)), {}


class Slots(Sampler):
    """Returns slots in place of positions."""

    def sample(self, storage, batch_size):
        return torch.randint(storage.rows, (batch_size,), generator=self.generator), {}


class InOrder(Sampler):
    """Returns items in their order."""

    def __init__(self):
        self.place = 0

    def sample(self, storage, batch_size):
        first = self.place
        self.place += batch_size
        return torch.arange(first, first + batch_size) % len(storage), {}

    def _empty(self):
        self.place = 0

    def state_dict(self):
        return {"place": self.place}

    def load_state_dict(self, state_dict):
        self.place = state_dict["place"]


class KeepsItsPlace(InOrder):
    def _empty(self):
        pass


class Scored(Sampler):
    """Draws by an entry of the rows."""

    def sample(self, storage, batch_size):
        score = storage.take_entry("score", torch.arange(len(storage))).squeeze(-1)
        positions = torch.multinomial(score, batch_size, True, generator=self.generator)
        return positions, {"chance": score[positions] / score.sum()}


@pytest.mark.parametrize("kind", [Annealed, InOrder])
def test_correct_samplers_pass(kind):
    check_sampler(kind)


@pytest.mark.parametrize(
    ("kind", "check", "words"),
    [
        (Unsaved, "continues_exactly", r"info\['weight'\] is .* in place of .*belongs in state_dict\(\)"),
        (Unsaved, "prefetches_what_is_stored", r"info\['weight'\] is .* in place of .*belongs in state_dict\(\)"),
        (Unseeded, "uses_its_generator", r"generator=self\.generator"),
        (Unseeded, "prefetches_what_is_stored", r"generator=self\.generator"),
        (Slots, "positions_count_items", r"slot \* storage\.width \+ column"),
        (KeepsItsPlace, "empty_forgets", r"in _empty\(\)"),
    ],
)
def test_planted_faults_are_found(kind, check, words):
    with pytest.raises(ContractError) as caught:
        check_sampler(kind)
    message = str(caught.value.failed[check])
    assert re.search(words, message, re.DOTALL), message


def test_extra_entries_are_stored():
    check_sampler(Scored, extra={"score": lambda batch: torch.rand(*batch, 1) + 0.1})
    with pytest.raises(ContractError, match="score"):
        check_sampler(Scored)


def returning(info):
    class Returns(RandomSampler):
        def sample(self, storage, batch_size):
            return super().sample(storage, batch_size)[0], info(batch_size)

    return Returns()


INFO = {
    "a number": (lambda n: {"w": 1.0}, DTypeError, r"Returns: .*'w'.*a tensor.*found float"),
    "a list": (lambda n: {"w": [1.0] * n}, DTypeError, r"Returns: .*'w'.*a tensor.*found list"),
    "a text": (lambda n: {"w": "a"}, DTypeError, r"Returns: .*'w'.*a tensor.*found str"),
    "index": (lambda n: {"index": torch.zeros(n)}, InfoKeyError, r"Returns: .*'index'.*another name"),
    "stored": (lambda n: {"observation": torch.zeros(n)}, InfoKeyError, r"Returns: .*'observation'.*another name"),
    "nested": (
        lambda n: {("next", "reward"): torch.zeros(n, 1)},
        InfoKeyError,
        r"Returns: .*\('next', 'reward'\).*another name",
    ),
}


@pytest.mark.parametrize(("info", "error", "words"), INFO.values(), ids=INFO)
@pytest.mark.parametrize("prefetch", [None, 2])
@pytest.mark.parametrize("storage", [LazyTensorStorage, ListStorage])
@pytest.mark.parametrize("kind", [ReplayBuffer, TensorDictReplayBuffer])
def test_info_that_is_no_tensor_or_replaces_an_entry_is_named(kind, storage, prefetch, info, error, words):
    buffer = kind(storage=storage(12), sampler=returning(info), batch_size=4, prefetch=prefetch)
    buffer.extend(transitions(0, 7))
    with pytest.raises(error, match=words) as caught:
        buffer.sample()
    assert isinstance(caught.value, TorchRLError)


def test_a_sampler_that_declares_it_replaces_entries():
    sampler = returning(lambda n: {"observation": torch.zeros(n)})
    sampler.replaces_entries = True
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(12), sampler=sampler, batch_size=4)
    buffer.extend(transitions(0, 7))
    assert not buffer.sample()["observation"].any()


def test_samples_with_the_info_of_library_samplers_can_be_stored_again():
    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(12), sampler=returning(lambda n: {"priority_weight": torch.ones(n)}), batch_size=4
    )
    buffer.extend(transitions(0, 7).set("priority_weight", torch.zeros(7)).set("index", torch.arange(7)))
    assert buffer.sample()["priority_weight"].all()
