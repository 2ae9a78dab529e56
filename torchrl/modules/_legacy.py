"""Old names of this subpackage."""

OLD = {
    "NormalParamsWrapper": "NormalParamWrapper",
    "ProbabilisticTDModule": "SafeProbabilisticModule",
    "SafeProbabilisticSequential": "SafeProbabilisticTensorDictSequential",
    "TDModule": "SafeModule",
    "TDSequence": "SafeSequential",
}

# Modules that once held more than they do: names that are found through them still.
ACTORS = (
    "ActorCriticOperator",
    "ActorCriticWrapper",
    "ActorValueOperator",
    "DecisionTransformerInferenceWrapper",
    "DistributionalQValueActor",
    "DistributionalQValueHook",
    "DistributionalQValueModule",
    "MultiStepActorWrapper",
    "QValueActor",
    "QValueHook",
    "QValueModule",
    "TanhModule",
)
EXPLORATION = (
    "AdditiveGaussianWrapper",
    "EGreedyWrapper",
    "OrnsteinUhlenbeckProcessWrapper",
    "RandomPolicy",
)


def elsewhere(names: tuple[str, ...]) -> dict[str, str]:
    """Return a table of names that ``torchrl.modules`` has, for a module that once had them."""
    return {name: f"torchrl.modules:{name}" for name in names}
