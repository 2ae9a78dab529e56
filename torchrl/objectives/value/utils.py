"""What estimators are built from, under a path of their own."""

from torchrl._core.returns import discounted_scan
from torchrl.objectives.masks import standardized

__all__ = ["discounted_scan", "standardized"]
