"""Every public class of a kind runs through the contract checks of that kind, or has a reason not to.

The lists of most kinds are compared beside their contract tests, in functions ``test_every_public_...``; what has none
there is compared here, and the last test makes sure that no kind is forgotten.
"""

import ast
from pathlib import Path

import pytest
import torch

import torchrl.trainers
from torchrl.data import datasets
from torchrl.data.replay_buffers import ReplayBuffer
from torchrl.modules import distributions
from torchrl.objectives import value
from torchrl.testing import __all__ as checks

TESTS = Path(__file__).parent
# File with the contract test of a kind, and the test that compares its list with the public classes.
COMPARED = {
    "check_buffer": ("data/replay_buffers/test_buffer_contract.py", "test_every_public_part_is_listed"),
    "check_collector": ("collectors/test_collector_contract.py", "test_every_public_collector_is_listed"),
    "check_env": ("envs/test_env_contract.py", "test_every_public_environment_is_listed"),
    "check_exploration": ("testing/test_module_checks.py", "test_every_exploration_module_is_checked"),
    "check_hook": ("test_contract_lists.py", "test_every_public_hook_is_listed"),
    "check_logger": ("record/loggers/test_loggers.py", "test_every_logger_is_listed"),
    "check_loss": ("objectives/test_losses_contract.py", "test_every_public_loss_is_listed"),
    "check_module": ("modules/test_modules_contract.py", "test_every_public_module_is_listed"),
    "check_sampler": ("data/replay_buffers/test_buffer_contract.py", "test_every_public_part_is_listed"),
    "check_spec": ("data/tensor_specs/test_spec_contract.py", "test_every_public_spec_is_listed"),
    "check_storage": ("data/replay_buffers/test_buffer_contract.py", "test_every_public_part_is_listed"),
    "check_transform": ("envs/transforms/test_transform_contract.py", "test_every_public_transform_is_listed"),
    "check_value_estimator": ("test_contract_lists.py", "test_every_public_value_estimator_is_listed"),
    "check_writer": ("data/replay_buffers/test_buffer_contract.py", "test_every_public_part_is_listed"),
}
HOOKS_ELSEWHERE = {
    "TrainerHookBase": "the base class",
    "OptimizerHook": "is bound to the optimizer of one trainer: trainers/test_hooks.py",
    "LogQValue": "asks the loss of one trainer: trainers/test_q_values.py",
    "LogValidationReward": "needs an environment to evaluate in: trainers/test_hooks.py",
    "ReplayBufferTrainer": "changes what the trainer samples: trainers/test_hooks.py",
    "TargetNetUpdaterHook": "is bound to the loss of one trainer: trainers/test_hooks.py",
    "UTDRHook": "reports on the trainer that it is registered with: trainers/test_hooks.py",
    "UpdateWeights": "is bound to the collector of one trainer: trainers/test_hooks.py",
    "ValueEstimatorHook": "needs a batch of trajectories: trainers/test_hooks.py",
}
DISTRIBUTIONS_ELSEWHERE = {}
DATASETS_ELSEWHERE = {
    "D4RLExperienceReplay": "reads files of a fixed layout: data/datasets/test_d4rl.py",
    "TableExperienceReplay": "reads tables of other libraries: data/replay_buffers/test_tables.py",
}


def load(path):
    """Return the names of a test module, which is no part of a package."""
    names = {"__name__": "listed", "__file__": str(TESTS / path)}
    exec(compile((TESTS / path).read_text(), path, "exec"), names)
    return names


def public(package, base):
    """Return the names of the public classes of a package that inherit from ``base``."""
    found = ((name, getattr(package, name)) for name in package.__all__)
    return {name for name, kind in found if isinstance(kind, type) and issubclass(kind, base)}


def named(makers):
    return {type(make()).__name__ for make in makers}


def test_every_public_hook_is_listed():
    listed = named(load("trainers/test_hook_contract.py")["HOOKS"].values())
    assert public(torchrl.trainers, torchrl.trainers.TrainerHookBase) - listed == set(HOOKS_ELSEWHERE)


def test_every_public_value_estimator_is_listed():
    listed = named(load("objectives/value/test_estimators.py")["MAKE"].values())
    assert public(value, value.ValueEstimatorBase) - listed == {"ValueEstimatorBase"}


def test_every_public_distribution_is_listed():
    listed = named(load("modules/test_distributions_expand.py")["MAKE"].values())
    assert public(distributions, torch.distributions.Distribution) - listed == set(DISTRIBUTIONS_ELSEWHERE)


def test_every_public_dataset_is_listed():
    text = (TESTS / "data/datasets/test_datasets.py").read_text()
    listed = {name for name in public(datasets, ReplayBuffer) if f"{name}(" in text}
    assert public(datasets, ReplayBuffer) - listed == set(DATASETS_ELSEWHERE)


def test_every_contract_check_has_a_list():
    assert set(COMPARED) == {name for name in checks if name.startswith("check_")}


@pytest.mark.parametrize("kind", COMPARED)
def test_the_lists_are_compared(kind):
    path, test = COMPARED[kind]
    tree = ast.parse((TESTS / path).read_text())
    assert test in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
