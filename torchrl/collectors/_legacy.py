"""Old names of this subpackage, and what they are called now."""

OLD = {
    "DataCollectorBase": "BaseCollector",
    "MultiAsyncDataCollector": "MultiAsyncCollector",
    "MultiSyncDataCollector": "MultiSyncCollector",
    "MultiaSyncDataCollector": "MultiAsyncCollector",
    "SyncDataCollector": "Collector",
    "aSyncDataCollector": "AsyncCollector",
    "sync_async_collector": "torchrl.collectors.grouped:sync_async_collector",
    "sync_sync_collector": "torchrl.collectors.grouped:sync_sync_collector",
}
