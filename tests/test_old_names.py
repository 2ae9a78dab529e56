"""Names, keywords and paths of earlier releases work, without a word, and mean what is now."""

import importlib
import inspect
import pkgutil
import re
import runpy
from pathlib import Path

import pytest
import torch

import torchrl
from torchrl._core.errors import nearest
from torchrl._legacy import OLD_PATHS
from torchrl.envs import PendulumEnv, SerialEnv, TransformedEnv
from torchrl.envs._legacy import OLD_ATTRIBUTES

renaming = runpy.run_path(Path(__file__).parents[1] / "docs/old_names.py")["renaming"]
MODULES = [module.name for module in pkgutil.walk_packages(torchrl.__path__, "torchrl.")]
TABLES = {name.rpartition(".")[0]: importlib.import_module(name).OLD for name in MODULES if name.endswith("._legacy")}
NAMES = [(package, old, new) for package, table in TABLES.items() for old, new in table.items()]

# Scripts of earlier releases import these; today's home of the same object.
PATHS = {
    "torchrl.collectors.collectors:SyncDataCollector": "torchrl.collectors:Collector",
    "torchrl.collectors.collectors:MultiSyncDataCollector": "torchrl.collectors:MultiSyncCollector",
    "torchrl.collectors.collectors:MultiaSyncDataCollector": ("torchrl.collectors:MultiAsyncCollector"),
    "torchrl.collectors.utils:split_trajectories": "torchrl.data.trajectories:split_trajectories",
    "torchrl.data.postprocs.postprocs:MultiStep": "torchrl.data:MultiStep",
    "torchrl.data.replay_buffers.replay_buffers:ReplayBuffer": "torchrl.data:ReplayBuffer",
    "torchrl.data.replay_buffers.samplers:SamplerWithoutReplacement": ("torchrl.data:SamplerWithoutReplacement"),
    "torchrl.data.replay_buffers.storages:LazyMemmapStorage": "torchrl.data:LazyMemmapStorage",
    "torchrl.data.replay_buffers.writers:RoundRobinWriter": "torchrl.data:RoundRobinWriter",
    "torchrl.data.tensor_specs:CompositeSpec": "torchrl.data:Composite",
    "torchrl.envs.base:EnvBase": "torchrl.envs:EnvBase",
    "torchrl.envs.env_creator:EnvCreator": "torchrl.envs:EnvCreator",
    "torchrl.envs.gym_like:GymLikeEnv": "torchrl.envs:GymLikeEnv",
    "torchrl.envs.libs.gym:GymEnv": "torchrl.envs:GymEnv",
    "torchrl.envs.transforms.transforms:RewardScaling": "torchrl.envs:RewardScaling",
    "torchrl.envs.utils:RandomPolicy": "torchrl.data.random_policy:RandomPolicy",
    "torchrl.envs.utils:set_exploration_mode": "torchrl.envs:set_exploration_type",
    "torchrl.envs.utils:step_mdp": "torchrl._core.mdp:step_mdp",
    "torchrl.envs.vec_env:ParallelEnv": "torchrl.envs:ParallelEnv",
    "torchrl.envs.vec_envs:SerialEnv": "torchrl.envs:SerialEnv",
    "torchrl.modules.distributions.continuous:TanhNormal": "torchrl.modules:TanhNormal",
    "torchrl.modules.distributions.discrete:OneHotCategorical": "torchrl.modules:OneHotCategorical",
    "torchrl.modules.models.exploration:NoisyLinear": "torchrl.modules:NoisyLinear",
    "torchrl.modules.models.models:MLP": "torchrl.modules:MLP",
    "torchrl.modules.models.utils:SquashDims": "torchrl.modules.models.layers:SquashDims",
    "torchrl.modules.tensordict_module.actors:ActorValueOperator": ("torchrl.modules:ActorValueOperator"),
    "torchrl.modules.tensordict_module.actors:QValueModule": "torchrl.modules:QValueModule",
    "torchrl.modules.tensordict_module.common:SafeModule": "torchrl.modules:SafeModule",
    "torchrl.modules.tensordict_module.exploration:EGreedyWrapper": ("torchrl.modules:EGreedyWrapper"),
    "torchrl.modules.tensordict_module.probabilistic:SafeProbabilisticModule": (
        "torchrl.modules:SafeProbabilisticModule"
    ),
    "torchrl.modules.tensordict_module.sequence:SafeSequential": "torchrl.modules:SafeSequential",
    "torchrl.objectives.costs:DQNLoss": "torchrl.objectives:DQNLoss",
    "torchrl.objectives.returns.functional:vec_td_lambda_return_estimate": (
        "torchrl._core.returns:vec_td_lambda_return_estimate"
    ),
    "torchrl.objectives.returns:GAE": "torchrl.objectives.value:GAE",
    "torchrl.objectives.utils:SoftUpdate": "torchrl.objectives:SoftUpdate",
    "torchrl.objectives.value.advantages:GAE": "torchrl.objectives.value:GAE",
    "torchrl.objectives.value.functional:vec_td_lambda_return_estimate": (
        "torchrl._core.returns:vec_td_lambda_return_estimate"
    ),
    "torchrl.objectives.value.pg:GAE": "torchrl.objectives.value:GAE",
    "torchrl.objectives.value.vtrace:VTrace": "torchrl.objectives.value:VTrace",
    "torchrl._utils:timeit": "torchrl._core.timing:timeit",
    "torchrl.record.loggers.common:Logger": "torchrl.record:Logger",
    "torchrl.record.recorder:VideoRecorder": "torchrl.record:VideoRecorder",
    "torchrl.trainers.helpers.collectors:SyncDataCollector": "torchrl.collectors:Collector",
    "torchrl.trainers.helpers.envs:ParallelEnv": "torchrl.envs:ParallelEnv",
    "torchrl.trainers.helpers.loggers:get_logger": "torchrl.record:get_logger",
    "torchrl.trainers.helpers.losses:SoftUpdate": "torchrl.objectives:SoftUpdate",
    "torchrl.trainers.helpers.models:ActorValueOperator": "torchrl.modules:ActorValueOperator",
    "torchrl.trainers.helpers.replay_buffer:ReplayBuffer": "torchrl.data:ReplayBuffer",
    "torchrl.trainers.helpers.trainers:Trainer": "torchrl.trainers:Trainer",
    "torchrl.trainers.loggers.common:Logger": "torchrl.record:Logger",
    "torchrl.trainers.loggers.csv:CSVLogger": "torchrl.record:CSVLogger",
    "torchrl.trainers.loggers.mlflow:MLFlowLogger": "torchrl.record:MLFlowLogger",
    "torchrl.trainers.loggers.tensorboard:TensorboardLogger": "torchrl.record:TensorboardLogger",
    "torchrl.trainers.loggers.wandb:WandbLogger": "torchrl.record:WandbLogger",
    "torchrl.trainers.loggers:get_logger": "torchrl.record:get_logger",
    "torchrl.trainers.trainers:Recorder": "torchrl.trainers:LogValidationReward",
    "torchrl.trainers.trainers:Trainer": "torchrl.trainers:Trainer",
}

# Every module that the tree of an earlier release shows.
TREE_BY_PACKAGE = {
    "collectors": "collectors",
    "data": "tensor_specs",
    "data.postprocs": "postprocs",
    "data.replay_buffers": "replay_buffers storages",
    "envs": "common env_creator gym_like vec_env",
    "envs.libs": "dm_control gym",
    "envs.transforms": "functional transforms",
    "modules.distributions": "continuous discrete",
    "modules.models": "models exploration",
    "modules.tensordict_module": "actors common exploration probabilistic sequence",
    "objectives": "common ddpg dqn functional ppo redq reinforce sac utils",
    "objectives.value": "advantages functional pg utils vtrace",
    "record": "recorder",
    "trainers.loggers": "common csv mlflow tensorboard wandb",
    "trainers": "trainers",
    "trainers.helpers": "collectors envs loggers losses models replay_buffer trainers",
}
TREE = [f"torchrl.{package}.{name}" for package, names in TREE_BY_PACKAGE.items() for name in names.split()]


def find(path):
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


@pytest.mark.parametrize(("package", "old", "new"), NAMES)
def test_every_name_in_a_table_is_todays(package, old, new):
    home = new if ":" in new else f"{package}:{new}"
    assert find(f"{package}:{old}") is find(home)


@pytest.mark.parametrize(("path", "home"), PATHS.items())
def test_every_old_path_leads_to_todays_object(path, home):
    assert find(path) is find(home)


@pytest.mark.parametrize(("path", "home"), OLD_PATHS.items())
def test_a_path_that_moved_holds_all_that_its_home_does(path, home):
    path, home = f"torchrl.{path}", f"torchrl.{home}".rstrip(".")
    new = importlib.import_module(home)
    for name in getattr(new, "__all__", []):
        if not inspect.ismodule(getattr(new, name)):  # a path may have modules of its own
            assert find(f"{path}:{name}") is getattr(new, name)
    scope = {}
    exec(f"from {path} import *", scope)
    assert set(getattr(new, "__all__", [])) <= set(scope)
    with pytest.raises(AttributeError, match="qqqqqqqq"):
        find(f"{path}:qqqqqqqq")


@pytest.mark.parametrize("path", TREE)
def test_every_module_of_the_tree_is_there(path):
    importlib.import_module(path)


def test_a_script_of_three_generations_says_nothing(fresh_python):
    """Warnings are errors there, and anything on stderr fails."""
    lines = [f"from {package} import {old}" for package, old, _ in NAMES]
    lines += ["from {} import {}".format(*path.split(":")) for path in PATHS]
    lines += [f"import {path}" for path in TREE]
    assert fresh_python("\n".join(lines)) == ""


@pytest.mark.parametrize("package", TABLES)
def test_old_names_are_not_offered_anew(package):
    module = importlib.import_module(package)
    assert not set(TABLES[package]) & set(getattr(module, "__all__", []))


WATCHED = {"torchrl.envs", "torchrl.record", "torchrl.record.loggers"}


@pytest.mark.parametrize("package", sorted({*TABLES, *WATCHED}))
def test_a_misspelt_name_is_told_the_right_one(package):
    module = importlib.import_module(package)
    table = TABLES.get(package, {})
    public = next(name for name in module.__all__ if len(name) > 5)
    for name in (*list(table)[:1], public):
        known = [*vars(module), *table]
        hint = nearest(name + "x", known)
        assert hint
        with pytest.raises(AttributeError, match=re.escape(hint.rstrip("?"))):
            getattr(module, name + "x")
    with pytest.raises(AttributeError, match=r"has no attribute 'qqqqqqqq'$"):
        getattr(module, "qqqqqqqq")  # noqa: B009


RENAMING = [found for name in MODULES for found in renaming(importlib.import_module(name))]


@pytest.mark.parametrize(("name", "function"), RENAMING)
def test_every_old_keyword_names_an_argument(name, function):
    arguments = inspect.signature(function).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in arguments.values())
    # None: a choice that is gone
    names = {new for new in function.old_keywords.values() if new is not None}
    assert takes_any or names <= set(arguments)
    assert not set(function.old_keywords) & set(arguments)


def test_keywords_are_found_by_those_who_list_them():
    names = [name for name, _ in RENAMING]
    assert {"MLP.__init__", "Bounded.__new__", "PPOLoss.__init__"} <= set(names)


@pytest.mark.parametrize(("old", "new"), OLD_ATTRIBUTES.items())
def test_every_environment_has_its_specs_under_their_old_names(old, new):
    env = TransformedEnv(SerialEnv(2, PendulumEnv))
    assert getattr(env, old) == getattr(env, new) == getattr(env.base_env[0], new)
    assert env.unbatched_action_spec["action"].shape == (1,)
    assert getattr(PendulumEnv(), old) == getattr(PendulumEnv(), new)


def test_what_a_bound_was_called():
    from torchrl.data import Bounded, BoundedTensorSpec

    spec = BoundedTensorSpec(minimum=torch.zeros(3), maximum=torch.ones(3))
    assert spec == Bounded(torch.zeros(3), torch.ones(3))
    assert torch.equal(spec.space.minimum, spec.space.low)
    assert torch.equal(spec.space.maximum, spec.space.high)


def test_what_coefficients_were_called():
    from torchrl.objectives import ClipPPOLoss
    from torchrl.testing.networks import critic, discrete_actor

    loss = ClipPPOLoss(
        actor=discrete_actor(),
        critic=critic(),
        advantage_key="adv",
        value_target_key="target",
        entropy_coef=0.5,
        critic_coef=0.25,
        gamma=0.9,
    )
    assert (loss.tensor_keys.advantage, loss.tensor_keys.value_target) == ("adv", "target")
    assert (float(loss.entropy_coeff), float(loss.critic_coeff)) == (0.5, 0.25)
