"""``import torchrl`` does nothing that can be seen: no output, no warning, no optional package."""

import importlib
import pkgutil

import pytest

import torchrl

OPTIONAL = ("gymnasium", "matplotlib", "imageio", "scipy", "tensorboard", "wandb", "mlflow")
MODULES = ["torchrl", *(m.name for m in pkgutil.walk_packages(torchrl.__path__, "torchrl."))]


def test_is_silent_and_light(fresh_python):
    """Warnings are errors there, and none of ours may come from what tensordict brings."""
    loaded = fresh_python(
        "import tensordict, sys; before = set(sys.modules); import torchrl;print(*sorted(set(sys.modules) - before))"
    ).split()
    assert "torchrl" in loaded
    assert not {name.partition(".")[0] for name in loaded} & set(OPTIONAL)


@pytest.mark.parametrize("name", MODULES)
def test_every_module_imports_and_keeps_its_promises(name):
    module = importlib.import_module(name)
    exported = getattr(module, "__all__", [])
    assert len(set(exported)) == len(exported)
    for item in exported:
        getattr(module, item)


def test_has_a_version():
    assert torchrl.__version__.count(".") >= 2


def test_offers_its_logger():
    import logging

    assert torchrl.logger is logging.getLogger("torchrl")
