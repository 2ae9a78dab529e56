"""Modules that read and write entries of tensordicts: policies, value functions, exploration."""

from tensordict.nn import EnsembleModule

from torchrl.data import RandomPolicy
from torchrl.modules.tensordict_module.actor_critic import (
    ActorCriticOperator,
    ActorCriticWrapper,
    ActorValueOperator,
)
from torchrl.modules.tensordict_module.actors import Actor, ProbabilisticActor, ValueOperator
from torchrl.modules.tensordict_module.bounds import TanhModule
from torchrl.modules.tensordict_module.common import SafeModule
from torchrl.modules.tensordict_module.dt_inference import DecisionTransformerInferenceWrapper
from torchrl.modules.tensordict_module.exploration import (
    AdditiveGaussianModule,
    EGreedyModule,
    OrnsteinUhlenbeckProcessModule,
    set_exploration_modules_spec_from_env,
)
from torchrl.modules.tensordict_module.exploration_wrappers import (
    AdditiveGaussianWrapper,
    EGreedyWrapper,
    OrnsteinUhlenbeckProcessWrapper,
)
from torchrl.modules.tensordict_module.multi_step import MultiStepActorWrapper
from torchrl.modules.tensordict_module.probabilistic import (
    SafeProbabilisticModule,
    SafeProbabilisticTensorDictSequential,
)
from torchrl.modules.tensordict_module.qvalue import (
    DistributionalQValueActor,
    DistributionalQValueHook,
    DistributionalQValueModule,
    QValueActor,
    QValueHook,
    QValueModule,
)
from torchrl.modules.tensordict_module.rnn import (
    GRUModule,
    LSTMModule,
    recurrent_mode,
    set_recurrent_mode,
)
from torchrl.modules.tensordict_module.rnn_cells import GRU, LSTM, GRUCell, LSTMCell
from torchrl.modules.tensordict_module.sequence import SafeSequential
from torchrl.modules.tensordict_module.vmap import VmapModule
from torchrl.modules.tensordict_module.world_models import WorldModelWrapper

__all__ = [
    "Actor",
    "ActorCriticOperator",
    "ActorCriticWrapper",
    "ActorValueOperator",
    "AdditiveGaussianModule",
    "AdditiveGaussianWrapper",
    "DecisionTransformerInferenceWrapper",
    "DistributionalQValueActor",
    "DistributionalQValueHook",
    "DistributionalQValueModule",
    "EGreedyModule",
    "EGreedyWrapper",
    "EnsembleModule",
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
    "RandomPolicy",
    "SafeModule",
    "SafeProbabilisticModule",
    "SafeProbabilisticTensorDictSequential",
    "SafeSequential",
    "TanhModule",
    "ValueOperator",
    "VmapModule",
    "WorldModelWrapper",
    "recurrent_mode",
    "set_exploration_modules_spec_from_env",
    "set_recurrent_mode",
]
