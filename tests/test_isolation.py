"""Each subpackage imports, in a fresh interpreter, without those that it may not need."""

import importlib.util

import pytest

# From the floor plan: what must not come along with each subpackage.
HEAVY = {"matplotlib", "imageio", "pygame", "mujoco", "tensorboard", "wandb", "mlflow", "ray"}
FLOORS = [
    {"torchrl._core"},
    {"torchrl.data"},
    {"torchrl.envs", "torchrl.modules", "torchrl.weight_update", "torchrl.checkpoint"},
    {"torchrl.record"},
    {"torchrl.collectors", "torchrl.objectives"},
    {"torchrl.trainers"},
    {"torchrl.testing"},
]
# Only environments may bring gymnasium, and only what stands on environments.
BRING_GYMNASIUM = {
    "torchrl.envs",
    "torchrl.record",
    "torchrl.collectors",
    "torchrl.trainers",
    "torchrl.testing",
}
# Losses know tensors and modules; collectors know environments and call any policy.
STRANGERS = {
    "torchrl.objectives": {"torchrl.envs", "torchrl.record"},
    "torchrl.collectors": set(),
}
NAMES = sorted(name for floor in FLOORS for name in floor)


def strangers_of(name):
    level = next(i for i, floor in enumerate(FLOORS) if name in floor)
    above = set().union(*FLOORS[level:]) - {name}
    if name == "torchrl.testing":
        above = set()
    gymnasium = set() if name in BRING_GYMNASIUM else {"gymnasium"}
    return above | HEAVY | gymnasium | STRANGERS.get(name, set())


@pytest.mark.parametrize("name", NAMES)
def test_imports_without_its_strangers(name, fresh_python):
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"there is no {name} yet")
    loaded = set(fresh_python(f"import sys, {name}; print(*sys.modules)").split())
    assert name in loaded
    assert not loaded & strangers_of(name)
