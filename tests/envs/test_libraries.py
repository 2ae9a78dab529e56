"""What is installed, and what is said of what is not."""

import importlib

import pytest

from torchrl.envs import (
    BraxEnv,
    DMControlEnv,
    GymEnv,
    JumanjiEnv,
    MultiThreadedEnv,
    OpenSpielEnv,
    PettingZooEnv,
    VmasEnv,
    get_available_libraries,
)
from torchrl.envs.wrapper import LIBRARIES

BUILD = {
    "dm_control": (lambda: DMControlEnv("cartpole", "swingup"), "DMControlEnv", "dm_control"),
    "pettingzoo": (lambda: PettingZooEnv("rps_v2", True), "PettingZooEnv", "marl"),
    "vmas": (lambda: VmasEnv("balance", num_envs=1), "VmasEnv", "marl"),
    "envpool": (lambda: MultiThreadedEnv(1, "CartPole-v1"), "MultiThreadedEnv", "envpool"),
    "pyspiel": (lambda: OpenSpielEnv("chess"), "OpenSpielEnv", "open_spiel"),
    "brax": (lambda: BraxEnv("ant"), "BraxEnv", "brax"),
    "jumanji": (lambda: JumanjiEnv("Snake-v1"), "JumanjiEnv", "jumanji"),
    "ale_py": (lambda: GymEnv("ALE/Pong-v5"), r"GymEnv\('ALE/Pong-v5'\)", "atari"),
    "minigrid": (lambda: GymEnv("MiniGrid-Empty-5x5-v0"), "GymEnv", "minigrid"),
}


@pytest.mark.parametrize("package", BUILD)
def test_a_missing_library_is_named_with_the_extra_that_brings_it(package, monkeypatch):
    real = importlib.import_module

    def without(name, *args):
        if name.partition(".")[0] == package:
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)
        return real(name, *args)

    monkeypatch.setattr(importlib, "import_module", without)
    build, who, extra = BUILD[package]
    with pytest.raises(ImportError, match=rf'{who}.* needs {package}: pip install "torchrl.{extra}'):
        build()


def test_libraries_at_hand_are_those_that_can_be_imported(monkeypatch):
    assert set(get_available_libraries()) <= set(LIBRARIES)
    assert "gymnasium" in get_available_libraries()
    monkeypatch.setitem(LIBRARIES, "brax", "no_such_package")
    assert "brax" not in get_available_libraries()


def test_looking_imports_nothing(fresh_python):
    code = (
        "import sys; from torchrl.envs.utils import get_available_libraries as look; look();"
        f"print([m for m in {sorted(LIBRARIES.values())} if m in sys.modules])"
    )
    assert fresh_python(code).strip() in ("[]", "['gymnasium']")
