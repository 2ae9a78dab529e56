"""Old module paths are imported like modules, whoever asks for them."""

import importlib.util
import pickle
import pydoc

import pytest

import torchrl
from torchrl._core.legacy import old_paths


def test_each_form_of_import(fresh_python):
    script = """
import torchrl.envs.vec_env
import torchrl.trainers.helpers.models
from torchrl.envs import common
from torchrl.envs.transforms.transforms import *
assert torchrl.envs.vec_env.ParallelEnv is torchrl.envs.ParallelEnv
assert torchrl.trainers.helpers.models.MLP is torchrl.modules.MLP
assert common.EnvBase is torchrl.envs.EnvBase
assert RewardScaling is torchrl.envs.RewardScaling
"""
    assert fresh_python(script) == ""


def test_nothing_is_imported_before_it_is_asked_for(fresh_python):
    script = "import sys, torchrl; print([m for m in sys.modules if m.startswith('torchrl.envs')])"
    assert fresh_python(script).strip() == "[]"


def test_pickles_of_old_paths_load():
    pickled = b"ctorchrl.envs.common\nEnvBase\n."
    assert pickle.loads(pickled) is torchrl.envs.EnvBase


def test_a_name_that_is_in_neither_is_refused_by_both():
    with pytest.raises(ImportError, match="cannot import name 'EnvBas'"):
        exec("from torchrl.envs.common import EnvBas", {})
    with pytest.raises(ModuleNotFoundError, match=r"torchrl\.envs\.commons"):
        importlib.import_module("torchrl.envs.commons")


def test_help_names_the_new_path():
    module = importlib.import_module("torchrl.envs.vec_env")
    assert "Old path of ``torchrl.envs.batched``" in pydoc.render_doc(module)


def test_a_path_that_leads_nowhere_says_so(monkeypatch):
    monkeypatch.setattr("sys.meta_path", [*__import__("sys").meta_path])
    old_paths("torchrl", {"nowhere": "not_there"})
    module = importlib.import_module("torchrl.nowhere")
    with pytest.raises(ModuleNotFoundError, match="not_there"):
        _ = module.anything
