"""The collectors, under the path where older code looks for them."""

from torchrl._core.legacy import old_names
from torchrl.collectors._legacy import OLD
from torchrl.collectors.base import BaseCollector
from torchrl.collectors.multi import MultiCollector
from torchrl.collectors.multi_async import AsyncCollector, MultiAsyncCollector
from torchrl.collectors.multi_sync import MultiSyncCollector
from torchrl.collectors.single import Collector

__getattr__ = old_names(__name__, OLD)
__all__ = [
    "AsyncCollector",
    "BaseCollector",
    "Collector",
    "MultiAsyncCollector",
    "MultiCollector",
    "MultiSyncCollector",
]
