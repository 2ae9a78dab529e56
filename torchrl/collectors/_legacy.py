"""Old names of this subpackage, and what they are called now."""

OLD = {
    "DataCollectorBase": "BaseCollector",
    "MultiAsyncDataCollector": "MultiAsyncCollector",
    "MultiSyncDataCollector": "MultiSyncCollector",
    "MultiaSyncDataCollector": "MultiAsyncCollector",
    "SyncDataCollector": "Collector",
    "aSyncDataCollector": "AsyncCollector",
}
