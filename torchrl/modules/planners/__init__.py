"""Policies that plan in a model of the environment."""

from torchrl.modules.planners.cem import CEMPlanner
from torchrl.modules.planners.common import MPCPlannerBase
from torchrl.modules.planners.mppi import MPPIPlanner

__all__ = ["CEMPlanner", "MPCPlannerBase", "MPPIPlanner"]
