"""A device of another name is refused by the component, the argument, and the name meant."""

import importlib
import inspect
import pkgutil

import pytest
import torch
from tensordict import is_tensorclass

import torchrl
from torchrl._core.devices import check_devices
from torchrl._core.errors import DeviceError
from torchrl.data import Bounded, Composite, NonTensor, OneHot
from torchrl.envs import CartPoleEnv, GymEnv, SerialEnv, StepCounter, TransformedEnv

NAMES = ("device", "storing_device", "policy_device", "env_device", "orig_device")


def public_classes():
    found = {}
    for module in pkgutil.iter_modules(torchrl.__path__, "torchrl."):
        if module.name.rpartition(".")[2].startswith("_") or not module.ispkg:
            continue
        package = importlib.import_module(module.name)
        for name in getattr(package, "__all__", dir(package)):
            try:
                one = getattr(package, name)
            except Exception:  # a library that is not installed
                continue
            if inspect.isclass(one) and one.__module__.startswith("torchrl"):
                found[one.__qualname__] = one
    return found.values()


def cases():
    for one in public_classes():
        if inspect.isabstract(one) or is_tensorclass(one):  # that of tensordict's constructor
            continue
        parameters = inspect.signature(one).parameters.values()
        for name in NAMES:
            if any(p.name == name for p in parameters):
                yield pytest.param(one, name, id=f"{one.__name__}-{name}")


def call(one, **device):
    """Build it; what else it requires is not looked at before."""
    required = {
        p.name: None
        for p in inspect.signature(one).parameters.values()
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    }
    return one(**{**required, **device})


@pytest.mark.parametrize(("one", "name"), list(cases()))
def test_each_class_refuses_what_is_no_device(one, name):
    with pytest.raises(DeviceError, match=f"^{one.__name__}\\w*: argument '{name}' .*'gpu'.*'cuda'"):
        call(one, **{name: "gpu"})


def test_there_are_many_such_classes():
    assert len(list(cases())) > 60


MOVED = {
    "env": CartPoleEnv,
    "transformed": lambda: TransformedEnv(CartPoleEnv(), StepCounter()),
    "serial": lambda: SerialEnv(2, CartPoleEnv),
    "bounded": lambda: Bounded(-1, 1, (2,)),
    "one-hot": lambda: OneHot(3),
    "text": lambda: NonTensor(()),
    "composite": lambda: Composite(a=OneHot(3)),
}


@pytest.mark.parametrize("make", MOVED.values(), ids=MOVED)
def test_moves_refuse_what_is_no_device(make):
    one = make()
    with pytest.raises(DeviceError, match=f"^{type(one).__name__}: argument .*'gpu'.*'cuda'"):
        one.to("gpu")


def test_keywords_that_are_handed_on_are_looked_at():
    with pytest.raises(DeviceError, match=r"^GymEnv: argument 'device'"):
        GymEnv("CartPole-v1", device="gpu")
    with pytest.raises(DeviceError, match=r"argument 'storing_device'"):
        CartPoleEnv().rollout(2, storing_device="gpu")


@pytest.mark.parametrize(
    ("found", "meant"), [("gpu", "cuda"), ("GPU", "cuda"), ("gpu:1", "cuda:1"), ("cud", "cuda"), ("cuda:x", "cuda:0")]
)
def test_the_name_that_is_meant_is_told(found, meant):
    with pytest.raises(DeviceError, match=f"found '{found}'. Did you mean '{meant}'"):
        check_devices("Net", device=found)
    with pytest.raises(DeviceError, match=r"argument 'device\[1\]'"):
        check_devices("Net", device=["cpu", found])


def test_devices_are_accepted_in_all_their_forms():
    for device in (None, "cpu", "cuda", "cuda:1", "meta", 0, torch.device("cpu"), ["cpu", None]):
        check_devices("Net", device=device)
