"""The collectors, under the path where older code looks for them."""

from torchrl._core.legacy import old_names
from torchrl.collectors._legacy import OLD
from torchrl.collectors.base import BaseCollector
from torchrl.collectors.single import Collector

__getattr__ = old_names(__name__, OLD)
__all__ = ["BaseCollector", "Collector"]
