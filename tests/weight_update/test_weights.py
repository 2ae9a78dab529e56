"""Weights on their way from a learner to those who act."""

import pytest
import torch
from tensordict import TensorDict
from torch import nn

from torchrl._core.errors import MissingKeyError, ShapeError
from torchrl._core.workers.shared_memory import Memory
from torchrl.weight_update import SharedMemReceiver, SharedMemSender, layout_of, weights_of


def network():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2, bias=False))


@pytest.fixture
def pair():
    learner, actor = network(), network()
    sender = SharedMemSender(layout_of(learner))
    yield learner, actor, sender, SharedMemReceiver(actor, sender.layout, sender.file)
    sender.close()
    sender.close()


def same(first, second):
    return all(torch.equal(a, b) for a, b in zip(first.values(), second.values(), strict=True))


SOURCES = {
    "module": lambda module: module,
    "state dict": lambda module: module.state_dict(),
    "tensordict": lambda module: TensorDict.from_module(module),
}


@pytest.mark.parametrize("form", SOURCES.values(), ids=SOURCES)
def test_all_weights_and_buffers_arrive(pair, form):
    learner, actor, sender, receiver = pair
    learner[1].running_mean.fill_(3.0)
    learner[1].num_batches_tracked.fill_(7)
    assert not same(learner.state_dict(), actor.state_dict())
    assert sender.send(form(learner)) == 1
    assert receiver.poll()
    assert same(learner.state_dict(), actor.state_dict())
    assert receiver.version == 1


def test_nothing_new_is_not_taken_twice(pair):
    learner, actor, sender, receiver = pair
    assert not receiver.poll()
    sender.send(learner)
    assert receiver.poll()
    actor[0].weight.data.zero_()
    assert not receiver.poll()
    assert not actor[0].weight.any()


def test_only_the_newest_is_taken(pair):
    learner, actor, sender, receiver = pair
    for number in range(1, 4):
        learner[0].weight.data.fill_(number)
        assert sender.send(learner) == number
    assert receiver.poll()
    assert receiver.version == 3
    assert (actor[0].weight == 3).all()


def test_what_all_begin_with_is_version_zero(pair):
    learner, actor, sender, receiver = pair
    sender.start(learner)
    assert receiver.poll()
    assert receiver.version == 0
    assert same(learner.state_dict(), actor.state_dict())


def test_half_written_weights_are_left_alone(pair):
    learner, actor, sender, receiver = pair
    before = {name: value.clone() for name, value in actor.state_dict().items()}
    sender._header[0] += 1  # as in the middle of writing
    assert not receiver.poll()
    assert same(before, actor.state_dict())
    sender._header[0] -= 1
    sender.send(learner)
    assert receiver.poll()


def test_weights_written_while_they_are_read_are_left_alone(pair, monkeypatch):
    learner, actor, sender, receiver = pair
    before = {name: value.clone() for name, value in actor.state_dict().items()}
    sender.send(learner)

    class Overtaken:
        def __getattr__(self, name):
            sender._header[0] += 2
            return Memory.__getattribute__(memory, name)

    memory, receiver._memory = receiver._memory, Overtaken()
    assert not receiver.poll()
    assert same(before, actor.state_dict())
    receiver._memory = memory
    assert receiver.poll()
    assert same(learner.state_dict(), actor.state_dict())


def test_what_an_actor_wrote_before_stays_as_it_was(pair):
    learner, actor, sender, receiver = pair
    written = actor[0].weight.detach()[:1].expand(5, 3)
    before = written.clone()
    sender.send(learner)
    assert receiver.poll()
    assert torch.equal(written, before)


def test_dtypes_are_kept():
    assert {dtype for _, dtype in layout_of(network()).values()} == {torch.float32, torch.int64}


def test_a_missing_weight_is_named(pair):
    learner, _, sender, _ = pair
    weights = learner.state_dict()
    weights["0.weigth"] = weights.pop("0.weight")
    with pytest.raises(MissingKeyError, match=r"entry '0\.weight' is missing"):
        sender.send(weights)
    assert sender.version == 0


def test_another_shape_is_named(pair):
    _, _, sender, _ = pair
    other = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 2, bias=False))
    with pytest.raises(ShapeError, match=r"'0.weight'.*expected \[4, 3\], found \[4, 5\]"):
        sender.send(other)


def test_other_sources_are_refused():
    with pytest.raises(TypeError, match="expected a module, a tensordict or a state dict"):
        weights_of([1, 2])


def test_a_plain_callable_has_no_weights():
    assert layout_of(lambda td: td) == {}
