"""Old names of trainers and their hooks."""

OLD = {"LogReward": "LogScalar", "Recorder": "LogValidationReward"}
