"""Old names of this subpackage."""

OLD = {
    "NormalParamsWrapper": "NormalParamWrapper",
    "ProbabilisticTDModule": "SafeProbabilisticModule",
    "SafeProbabilisticSequential": "SafeProbabilisticTensorDictSequential",
    "TDModule": "SafeModule",
    "TDSequence": "SafeSequential",
}
