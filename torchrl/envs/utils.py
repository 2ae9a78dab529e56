"""The helpers of environments, under the path where users look for them."""

from torchrl._core.exploration import (
    ExplorationType,
    exploration_mode,
    exploration_type,
    set_exploration_mode,
    set_exploration_type,
)
from torchrl._core.mdp import step_mdp, terminated_or_truncated
from torchrl.data import RandomPolicy, make_composite_from_td
from torchrl.envs.check import check_env_specs
from torchrl.envs.marl import MarlGroupMapType, check_marl_grouping
from torchrl.envs.wrapper import get_available_libraries

__all__ = [
    "ExplorationType",
    "MarlGroupMapType",
    "RandomPolicy",
    "check_env_specs",
    "check_marl_grouping",
    "exploration_mode",
    "exploration_type",
    "get_available_libraries",
    "make_composite_from_td",
    "set_exploration_mode",
    "set_exploration_type",
    "step_mdp",
    "terminated_or_truncated",
]
