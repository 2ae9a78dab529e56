"""Old names of this subpackage, and what they are called now."""

OLD = {"SyncDataCollector": "Collector", "DataCollectorBase": "BaseCollector"}
