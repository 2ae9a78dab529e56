"""Capabilities are inherited until a subclass overrides something of the declaring class."""

import importlib
import inspect
import pkgutil
from abc import ABC, abstractmethod

import pytest
import torch
from tensordict import TensorDictBase

import torchrl
from torchrl._core.records.capabilities import is_unchanged, supports
from torchrl.envs import GymEnv, RewardScaling, SerialEnv, TransformedEnv
from torchrl.envs.stepping.rollout import Stepper
from torchrl.modules import QValueActor
from torchrl.testing.mocks import FlatCountingEnv

CAPABILITIES = ["supports_flat_records", "deferrable", "partial_reset_safe", "reads_action_only"]


class Reads:
    supports_flat_records = True
    limit = 3

    def read(self):
        return 1


class Inherits(Reads):
    """Adds what `Reads` does not have."""

    def __init__(self):
        self.more = 1

    def __repr__(self):
        return "Inherits()"

    def write(self):
        return 2


class Overrides(Inherits):
    def read(self):
        return 2


class OverridesAnAttribute(Inherits):
    limit = 4


class BelowOverrides(Overrides):
    pass


class DeclaresAgain(Overrides):
    supports_flat_records = True


class Mixin:
    def read(self):
        return 3


class WithMixin(Mixin, Inherits):
    pass


class Unfinished(ABC):
    supports_flat_records = True

    @abstractmethod
    def read(self): ...


class Finished(Unfinished):
    def read(self):
        return 1


class DeclaresWhenFinished(Finished):
    supports_flat_records = True


class ReadsOtherwise(DeclaresWhenFinished):
    def read(self):
        return 2


class Denies(Inherits):
    supports_flat_records = False


class Asks(Inherits):
    supports_flat_records = property(lambda self: self.more == 1)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (Reads, True),
        (Inherits, True),
        (Overrides, False),
        (OverridesAnAttribute, False),
        (BelowOverrides, False),
        (DeclaresAgain, True),
        (WithMixin, False),
        (Finished, True),
        (ReadsOtherwise, False),
        (Denies, False),
        (Asks, True),
        (object, False),
    ],
)
def test_a_capability_is_inherited_until_something_is_overridden(kind, expected):
    assert supports(kind(), "supports_flat_records") is expected


def test_an_instance_may_withdraw_and_not_claim():
    inherits, overrides = Inherits(), Overrides()
    inherits.supports_flat_records, overrides.supports_flat_records = False, True
    assert not supports(inherits, "supports_flat_records")
    assert not supports(overrides, "supports_flat_records")


def test_a_class_is_unchanged_until_something_is_overridden():
    assert is_unchanged(Inherits, Reads)
    assert not is_unchanged(Overrides, Reads)
    assert not is_unchanged(Mixin, Reads)


def declaring_classes():
    """Return the classes of the library that declare a capability, with it."""
    for module in pkgutil.walk_packages(torchrl.__path__, "torchrl."):
        try:
            content = vars(importlib.import_module(module.name))
        except ImportError:
            continue  # of a package that is not installed
        for kind in content.values():
            if inspect.isclass(kind) and kind.__module__ == module.name and not inspect.isabstract(kind):
                for name in CAPABILITIES:
                    if kind.__dict__.get(name, False) is True:
                        yield pytest.param(kind, name, id=f"{kind.__name__}-{name}")


@pytest.mark.parametrize(("kind", "name"), [*declaring_classes()])
def test_each_class_hands_its_capabilities_to_trivial_subclasses_only(kind, name):
    plain = type("Plain", (kind,), {"__init__": lambda self: None, "of_its_own": 1})
    assert supports(object.__new__(type("Deeper", (plain,), {})), name)
    hooks = ["_step", "_reset", "_call", "_inv_call", "_apply_transform", "forward", "__call__"]
    hook = next(hook for hook in hooks if hasattr(kind, hook))
    changed = type("Changed", (plain,), {hook: lambda self, *args: None})
    assert not supports(object.__new__(type("Below", (changed,), {})), name)


class OwnGym(GymEnv):
    """Changes nothing."""


class OwnScaling(RewardScaling):
    """Changes nothing."""


class OwnActor(QValueActor):
    """Changes nothing."""


class OwnSerial(SerialEnv):
    """Changes nothing."""


def overriding(kind, *hooks):
    """Return a subclass whose hooks do what they did, and insist on tensordicts."""

    def same(hook):
        def call(self, *args, **kwargs):
            assert not args or args[0] is None or isinstance(args[0], TensorDictBase)
            return getattr(kind, hook)(self, *args, **kwargs)

        return call

    return type(f"Own{kind.__name__}", (kind,), {hook: same(hook) for hook in hooks})


def played(env, scaling, actor):
    torch.manual_seed(0)
    policy = actor(torch.nn.Linear(4, 2), in_keys=["observation"], spec=env.action_spec)
    env = TransformedEnv(env, scaling(0.0, 2.0))
    env.set_seed(0)
    with torch.no_grad():
        return env.rollout(40, policy, break_when_any_done=False)


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize(
    ("env", "scaling", "actor", "flat"),
    [
        (OwnGym, OwnScaling, OwnActor, True),
        (overriding(GymEnv, "_step"), RewardScaling, QValueActor, False),
        (GymEnv, overriding(RewardScaling, "_call"), QValueActor, False),
        (GymEnv, RewardScaling, overriding(QValueActor, "forward"), False),
    ],
    ids=["trivial", "environment", "transform", "policy"],
)
def test_flat_records_are_kept_by_trivial_subclasses(env, scaling, actor, flat, batched, monkeypatch):
    used = []
    run = Stepper._run_flat
    monkeypatch.setattr(Stepper, "_run_flat", lambda *args: used.append(1) or run(*args))
    make = lambda kind: (
        (OwnSerial if kind is OwnGym else SerialEnv)(2, lambda: kind("CartPole-v1")) if batched else kind("CartPole-v1")
    )
    found = played(make(env), scaling, actor)
    assert bool(used) is (flat or (batched and scaling is RewardScaling and actor is QValueActor))
    assert (found == played(make(GymEnv), RewardScaling, QValueActor)).all()


class ForgetsRows(FlatCountingEnv):
    """Resets more rows than it is asked to."""

    def _reset(self, tensordict, **kwargs):
        return super()._reset(None, **kwargs)


def test_a_reset_that_is_overridden_is_not_trusted_with_other_rows():
    class Alone(FlatCountingEnv):
        partial_reset_safe = True

    class Careless(Alone):
        _reset = ForgetsRows._reset

    assert supports(Alone(), "partial_reset_safe")
    assert not supports(Careless(), "partial_reset_safe")
