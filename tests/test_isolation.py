"""Each subpackage imports, in a fresh process, without those that it must not need."""

import importlib.util
import subprocess
import sys

import pytest

# What must not be loaded along with any subpackage.
HEAVY = {
    "matplotlib",
    "imageio",
    "pygame",
    "mujoco",
    "tensorboard",
    "wandb",
    "mlflow",
    "ray",
    "tyro",
    "optuna",
    "yaml",
    "rich",
}
LAYERS = [
    {"torchrl._core"},
    {"torchrl.data"},
    {"torchrl.envs", "torchrl.modules", "torchrl.weight_update", "torchrl.checkpoint"},
    {"torchrl.record"},
    {"torchrl.collectors", "torchrl.objectives"},
    {"torchrl.trainers"},
    {"torchrl.cli"},
    {"torchrl.testing"},
]
# Only environments may load gymnasium, and what is built on environments.
LOAD_GYMNASIUM = {
    *("torchrl.envs", "torchrl.record", "torchrl.collectors", "torchrl.trainers"),
    *("torchrl.cli", "torchrl.testing"),
}
# Losses use tensors and modules; collectors use environments and call any policy.
INDEPENDENT_OF = {"torchrl.objectives": {"torchrl.envs", "torchrl.record"}, "torchrl.collectors": set()}
NAMES = sorted(name for layer in LAYERS for name in layer)
# Imports each subpackage in a process of its own, forked from one that has imported tensordict.
FORKS = """
import importlib, os, sys
import tensordict
for name in sys.argv[1:]:
    sys.stdout.flush()
    if not os.fork():
        importlib.import_module(name)
        print(name, *sys.modules, flush=True)
        os._exit(0)
    assert os.wait()[1] == 0, name
"""


def forbidden_for(name):
    level = next(i for i, layer in enumerate(LAYERS) if name in layer)
    above = set().union(*LAYERS[level:]) - {name}
    if name == "torchrl.testing":
        above = set()
    gymnasium = set() if name in LOAD_GYMNASIUM else {"gymnasium"}
    return above | HEAVY | gymnasium | INDEPENDENT_OF.get(name, set())


@pytest.fixture(scope="module")
def loaded():
    """Return the modules that each subpackage loads."""
    command = [sys.executable, "-W", "error", "-c", FORKS, *NAMES]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    return {name: set(modules) for name, *modules in lines}


@pytest.mark.parametrize("name", NAMES)
def test_imports_without_what_it_must_not_need(name, loaded):
    assert importlib.util.find_spec(name) is not None
    assert name in loaded[name]
    assert not loaded[name] & forbidden_for(name)
