"""Old names of this subpackage."""

OLD = {
    "ACTIVATIONS": "torchrl.modules.models.layers:ACTIVATIONS",
    "NormalParamsWrapper": "NormalParamWrapper",
    "ProbabilisticTDModule": "SafeProbabilisticModule",
    "SafeProbabilisticSequential": "SafeProbabilisticTensorDictSequential",
    "TDModule": "SafeModule",
    "TDSequence": "SafeSequential",
}

# Names that are found in these modules, too, as in earlier releases.
ACTORS = (
    "DecisionTransformerInferenceWrapper",
    "DistributionalQValueActor",
    "DistributionalQValueHook",
    "DistributionalQValueModule",
    "MultiStepActorWrapper",
    "QValueActor",
    "QValueHook",
    "QValueModule",
)
EXPLORATION = ("RandomPolicy",)


def elsewhere(names: tuple[str, ...]) -> dict[str, str]:
    """Return the table of old names of a module that are now in ``torchrl.modules``."""
    return {name: f"torchrl.modules:{name}" for name in names}
