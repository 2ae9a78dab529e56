"""Random calls of replay buffers give what a list in plain Python gives.

``TORCHRL_FUZZ=500`` runs as many sequences of calls for each kind of buffer.
"""

import os
import shutil
import tempfile
from pathlib import Path

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from tensordict import TensorDict

from torchrl.data import (
    LazyMemmapStorage,
    LazyTensorStorage,
    ListStorage,
    PrioritizedSampler,
    RandomSampler,
    ReplayBuffer,
    RoundRobinWriter,
    SamplerWithoutReplacement,
    TensorDictMaxValueWriter,
    TensorDictReplayBuffer,
)

EXAMPLES = int(os.environ.get("TORCHRL_FUZZ", "4"))
SIZE = 12
STORAGES = {"tensor": LazyTensorStorage, "memmap": LazyMemmapStorage, "list": ListStorage}
SAMPLERS = {
    "random": RandomSampler,
    "without replacement": SamplerWithoutReplacement,
    "prioritized": lambda: PrioritizedSampler(SIZE, 0.7, 0.9),
}
WRITERS = {"ring": RoundRobinWriter, "maximum": lambda: TensorDictMaxValueWriter(rank_key="x")}


class Calls(RuleBasedStateMachine):
    """A buffer, and the numbers that it should hold: by slot, or the greatest for the writer of maxima."""

    storage, sampler, writer = "tensor", "random", "ring"

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.buffer, self.held, self.saved = self.make(), [], {}
        self.count, self.written = 0, 0
        self.home = Path(tempfile.mkdtemp())

    def teardown(self):
        shutil.rmtree(self.home)

    def make(self):
        kind = TensorDictReplayBuffer if self.writer == "maximum" else ReplayBuffer
        parts = {"sampler": SAMPLERS[self.sampler], "writer": WRITERS[self.writer]}
        return kind(storage=STORAGES[self.storage](SIZE), batch_size=3, **parts)

    def rows(self, number):
        x = torch.arange(self.count, self.count + number) * 7919 % 10007  # all different
        self.count += number
        return TensorDict(x=x.double(), twice=torch.stack([x, 2 * x], -1), batch_size=[number])

    def note(self, rows):
        for x in rows["x"].tolist():
            if self.writer == "maximum":
                self.held = sorted([*self.held, x])[-SIZE:]
            elif len(self.held) < SIZE:
                self.held.append(x)
            else:
                self.held[self.written % SIZE] = x
            self.written += 1

    @rule(number=st.integers(1, 2 * SIZE))
    def extend(self, number):
        rows = self.rows(number)
        self.buffer.extend(rows)
        self.note(rows)

    @rule()
    def add(self):
        rows = self.rows(1)
        self.buffer.add(rows[0])
        self.note(rows)

    @precondition(lambda self: self.held)
    @rule(number=st.integers(1, 20))
    def sample(self, number):
        batch = self.buffer.sample(number)
        assert set(batch["x"].tolist()) <= set(self.held)
        assert (batch["twice"][:, 1] == 2 * batch["x"]).all()
        if self.sampler != "without replacement":
            assert len(batch) == number

    @precondition(lambda self: self.held and self.sampler == "prioritized")
    @rule(slots=st.lists(st.integers(0, SIZE - 1), min_size=1), priority=st.floats(0.01, 100))
    def rate(self, slots, priority):
        self.buffer.update_priority(torch.tensor([slot % len(self.held) for slot in slots]), priority)

    @precondition(lambda self: self.held and self.sampler == "prioritized")
    @rule(slot=st.integers(0, SIZE - 1))
    def rate_one_above_all(self, slot):
        slot %= len(self.held)
        self.buffer.update_priority(torch.arange(len(self.held)), 1e-9)
        self.buffer.update_priority(slot, 1e9)
        wanted = self.buffer[slot]["x"].item()
        assert (self.buffer.sample(8)["x"] == wanted).all()

    @rule()
    def empty(self):
        self.buffer.empty()
        self.held, self.written = [], 0

    @rule(place=st.sampled_from("ab"))
    def save(self, place):
        self.buffer.dumps(self.home / place)
        self.saved[place] = list(self.held), self.written

    @precondition(lambda self: self.saved)
    @rule(data=st.data(), new=st.booleans())
    def load(self, data, new):
        place = data.draw(st.sampled_from(sorted(self.saved)))
        if new:
            self.buffer = self.make()
        self.buffer.loads(self.home / place)
        held, self.written = self.saved[place]
        self.held = list(held)

    @invariant()
    def holds_the_same(self):
        assert len(self.buffer) == len(self.held)
        if self.held:
            found = [row["x"].item() for row in (self.buffer[slot] for slot in range(len(self.held)))]
            assert (sorted(found) if self.writer == "maximum" else found) == self.held


KINDS = [
    (storage, sampler, writer)
    for storage in STORAGES
    for sampler in SAMPLERS
    for writer in WRITERS
    if writer == "ring" or (storage == "tensor" and sampler != "without replacement")
]


@pytest.mark.timeout(60 * EXAMPLES)
@pytest.mark.parametrize(("storage", "sampler", "writer"), KINDS)
def test_a_buffer_is_a_list(storage, sampler, writer):
    machine = type("Calls", (Calls,), {"storage": storage, "sampler": sampler, "writer": writer})
    options = {"suppress_health_check": list(HealthCheck), "database": None, "derandomize": EXAMPLES < 20}
    run_state_machine_as_test(
        machine, settings=settings(max_examples=EXAMPLES, stateful_step_count=20, deadline=None, **options)
    )
