"""Modules that read and write entries of tensordicts: policies, value functions, exploration."""

from tensordict.nn import EnsembleModule

from torchrl._core.recurrence import get_recurrent_matmul_precision, set_recurrent_matmul_precision
from torchrl.data import RandomPolicy
from torchrl.modules.tensordict_module.actors import (
    Actor,
    ActorCriticOperator,
    ActorCriticWrapper,
    ActorValueOperator,
    ProbabilisticActor,
    TanhModule,
    ValueOperator,
)
from torchrl.modules.tensordict_module.common import SafeModule, VmapModule
from torchrl.modules.tensordict_module.decision_transformer import DecisionTransformerPolicy
from torchrl.modules.tensordict_module.exploration import (
    AdditiveGaussianModule,
    AdditiveGaussianWrapper,
    EGreedyModule,
    EGreedyWrapper,
    ExplorationModule,
    OrnsteinUhlenbeckProcessModule,
    OrnsteinUhlenbeckProcessWrapper,
    set_exploration_modules_spec_from_env,
)
from torchrl.modules.tensordict_module.policy_wrappers import DecisionTransformerInferenceWrapper, MultiStepActorWrapper
from torchrl.modules.tensordict_module.probabilistic import (
    SafeProbabilisticModule,
    SafeProbabilisticTensorDictSequential,
)
from torchrl.modules.tensordict_module.qvalue import (
    DistributionalQValueActor,
    DistributionalQValueHook,
    DistributionalQValueModule,
    QuantileQValueActor,
    QuantileQValueModule,
    QValueActor,
    QValueHook,
    QValueModule,
)
from torchrl.modules.tensordict_module.rnn import (
    GRUModule,
    LSTMModule,
    canonicalize_rnn_subset,
    recurrent_mode,
    set_recurrent_mode,
)
from torchrl.modules.tensordict_module.rnn_cells import GRU, LSTM, GRUCell, LSTMCell
from torchrl.modules.tensordict_module.sequence import SafeSequential, WorldModelWrapper

__all__ = [
    "Actor",
    "ActorCriticOperator",
    "ActorCriticWrapper",
    "ActorValueOperator",
    "AdditiveGaussianModule",
    "AdditiveGaussianWrapper",
    "DecisionTransformerInferenceWrapper",
    "DecisionTransformerPolicy",
    "DistributionalQValueActor",
    "DistributionalQValueHook",
    "DistributionalQValueModule",
    "EGreedyModule",
    "EGreedyWrapper",
    "EnsembleModule",
    "ExplorationModule",
    "GRU",
    "GRUCell",
    "GRUModule",
    "LSTM",
    "LSTMCell",
    "LSTMModule",
    "MultiStepActorWrapper",
    "OrnsteinUhlenbeckProcessModule",
    "OrnsteinUhlenbeckProcessWrapper",
    "ProbabilisticActor",
    "QValueActor",
    "QValueHook",
    "QValueModule",
    "QuantileQValueActor",
    "QuantileQValueModule",
    "RandomPolicy",
    "SafeModule",
    "SafeProbabilisticModule",
    "SafeProbabilisticTensorDictSequential",
    "SafeSequential",
    "TanhModule",
    "ValueOperator",
    "VmapModule",
    "WorldModelWrapper",
    "canonicalize_rnn_subset",
    "get_recurrent_matmul_precision",
    "recurrent_mode",
    "set_exploration_modules_spec_from_env",
    "set_recurrent_matmul_precision",
    "set_recurrent_mode",
]
