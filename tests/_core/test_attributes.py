"""A class with a ``__getattr__`` does not hide the AttributeError that a property raises."""

import importlib
import inspect
import pkgutil

import pytest
import torch
from torch import nn

import torchrl
from torchrl._core.attributes import module_attribute
from torchrl.data import RayReplayBuffer, RemoteReplayBuffer, ReplayBuffer, TensorDictReplayBuffer
from torchrl.envs import Compose, DoubleToFloat, EnvBase, GymEnv, SerialEnv, StepCounter, TransformedEnv
from torchrl.envs.batched.view import EnvView
from torchrl.modules import MLP, QValueActor, ValueOperator
from torchrl.objectives import DQNLoss
from torchrl.objectives.value import GAE
from torchrl.testing.mocks import CountingEnv


def with_property(base):
    """Return a subclass with a property whose getter fails, at the second of two levels."""

    class Broken(base):
        @property
        def outer(self):
            return self.planted

        @property
        def planted(self):
            raise AttributeError("inner")

    return Broken


def make_dqn(kind):
    return kind(QValueActor(MLP(2, 2, num_cells=[4]), action_space="one-hot"))


def make_copy(kind):
    """Return a buffer as it is in another process, without an actor."""
    copy = kind.__new__(kind)
    RemoteReplayBuffer.__init__(copy, None)
    return copy


MAKERS = {
    "ReplayBuffer": lambda kind=ReplayBuffer: with_property(kind)(),
    "TensorDictReplayBuffer": lambda kind=TensorDictReplayBuffer: with_property(kind)(delayed_init=True),
    "RemoteReplayBuffer": lambda kind=RemoteReplayBuffer: with_property(kind)(None),
    "RayReplayBuffer": lambda kind=RayReplayBuffer: make_copy(with_property(kind)),
    "EnvBase": lambda kind=CountingEnv: with_property(kind)(),
    "GymWrapper": lambda kind=GymEnv: with_property(kind)("CartPole-v1"),
    "TransformedEnv": lambda kind=TransformedEnv: with_property(kind)(CountingEnv()),
    "TransformedEnv, base": lambda kind=CountingEnv: TransformedEnv(TransformedEnv(with_property(kind)())),
    "wrapped": lambda kind=CountingEnv: TransformedEnv(with_property(kind)(), StepCounter()),
    "SerialEnv": lambda kind=SerialEnv: with_property(kind)(2, CountingEnv),
    "SerialEnv, inside": lambda kind=SerialEnv: started(kind(2, with_property(CountingEnv))),
    "EnvView": lambda kind=EnvView: with_property(kind)(SerialEnv(2, CountingEnv), slice(1)),
    "Transform": lambda kind=DoubleToFloat: with_property(kind)(),
    "Compose": lambda kind=Compose: with_property(kind)(DoubleToFloat()),
    "LossModule": lambda kind=DQNLoss: make_dqn(with_property(kind)),
    "ValueEstimatorBase": lambda kind=GAE: with_property(kind)(
        gamma=0.9, lmbda=0.9, value_network=ValueOperator(MLP(2, 1, num_cells=[4]))
    ),
}
# Read any name, as an entry or from an actor; they have no subclasses and no properties.
EXCEPT = {"torchrl.data.trajectory_query._Start", "torchrl.data.replay_buffers.ray_buffer.RemotePart"}


def started(env):
    env.reset()
    return env


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize("name", ["planted", "outer"])
def test_the_error_of_a_property_arrives(make, name):
    component = make()
    with pytest.raises(AttributeError, match="inner"):
        getattr(component, name)
    with pytest.raises(AttributeError, match="absent"):
        _ = component.absent
    if isinstance(component, EnvBase):
        component.close()


def test_every_class_with_a_lookup_of_its_own_is_tested():
    owners, tested = set(), set()
    for info in pkgutil.walk_packages(torchrl.__path__, "torchrl."):
        for kind in vars(importlib.import_module(info.name)).values():
            lookup = vars(kind).get("__getattr__") if inspect.isclass(kind) else None
            if lookup is not None and lookup.__module__.startswith("torchrl."):
                owners.add(kind)
    for make in MAKERS.values():
        tested.update(inspect.signature(make).parameters["kind"].default.__mro__)
    assert {f"{kind.__module__}.{kind.__qualname__}" for kind in owners - tested} == EXCEPT


def test_lookups_of_submodules_parameters_and_buffers():
    class Net(nn.Linear):
        __getattr__ = module_attribute

    net = Net(2, 1)
    net.register_buffer("count", torch.zeros(()))
    net.inner = nn.Identity()
    assert net.weight.shape == (1, 2)
    assert (net.count, net.inner) == (torch.zeros(()), net._modules["inner"])
