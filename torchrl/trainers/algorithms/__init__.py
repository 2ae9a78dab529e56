"""Algorithms: the settings, builder and trainer of each, one file an algorithm.

Collector, loss, optimizer and buffer of a trainer are built by the caller, or by its ``from_env``.
"""

from torchrl.trainers.algorithms.a2c import A2CConfig, A2CTrainer
from torchrl.trainers.algorithms.bc import BCConfig, BCTrainer
from torchrl.trainers.algorithms.common import AlgorithmTrainer, action_kind
from torchrl.trainers.algorithms.config import AlgorithmConfig, with_settings
from torchrl.trainers.algorithms.cql import CQLConfig, CQLTrainer
from torchrl.trainers.algorithms.crossq import CrossQConfig, CrossQTrainer
from torchrl.trainers.algorithms.ddpg import DDPGConfig, DDPGTrainer
from torchrl.trainers.algorithms.decision_transformer import DecisionTransformerConfig, DecisionTransformerTrainer
from torchrl.trainers.algorithms.defaults import tuned_settings
from torchrl.trainers.algorithms.discrete_sac import DiscreteSACConfig, DiscreteSACTrainer
from torchrl.trainers.algorithms.dqn import DQNConfig, DQNTrainer
from torchrl.trainers.algorithms.environments import make_env, mask_key
from torchrl.trainers.algorithms.impala import IMPALAConfig, IMPALATrainer
from torchrl.trainers.algorithms.iql import IQLConfig, IQLTrainer
from torchrl.trainers.algorithms.off_policy import OffPolicyConfig, OffPolicyTrainer, half_range
from torchrl.trainers.algorithms.offline import DatasetReader, OfflineConfig, SequenceReader
from torchrl.trainers.algorithms.offline_to_online import OfflineToOnlineConfig, OfflineToOnlineTrainer
from torchrl.trainers.algorithms.on_policy import OnPolicyConfig, OnPolicyTrainer
from torchrl.trainers.algorithms.ppo import PPOConfig, PPOTrainer
from torchrl.trainers.algorithms.qr_dqn import QRDQNConfig, QRDQNTrainer
from torchrl.trainers.algorithms.redq import REDQConfig, REDQTrainer
from torchrl.trainers.algorithms.reinforce import ReinforceConfig, ReinforceTrainer
from torchrl.trainers.algorithms.sac import SACConfig, SACTrainer
from torchrl.trainers.algorithms.td3 import DelayedActorStepper, TD3Config, TD3Trainer
from torchrl.trainers.algorithms.td3_bc import TD3BCConfig, TD3BCTrainer
from torchrl.trainers.algorithms.tqc import TQCConfig, TQCTrainer

#: The trainer of each algorithm, by its name on the command line and in :func:`torchrl.train`.
ALGORITHMS: dict[str, type[AlgorithmTrainer]] = {
    trainer.algorithm: trainer
    for trainer in (
        A2CTrainer,
        BCTrainer,
        CQLTrainer,
        CrossQTrainer,
        DDPGTrainer,
        DQNTrainer,
        DecisionTransformerTrainer,
        DiscreteSACTrainer,
        IMPALATrainer,
        IQLTrainer,
        OfflineToOnlineTrainer,
        PPOTrainer,
        QRDQNTrainer,
        REDQTrainer,
        ReinforceTrainer,
        SACTrainer,
        TD3BCTrainer,
        TD3Trainer,
        TQCTrainer,
    )
}

__all__ = [
    "TD3BCTrainer",
    "TD3BCConfig",
    "OfflineToOnlineTrainer",
    "OfflineToOnlineConfig",
    "OfflineConfig",
    "DatasetReader",
    "IQLConfig",
    "CQLConfig",
    "BCTrainer",
    "BCConfig",
    "A2CConfig",
    "A2CTrainer",
    "ALGORITHMS",
    "AlgorithmConfig",
    "AlgorithmTrainer",
    "CQLTrainer",
    "CrossQConfig",
    "CrossQTrainer",
    "DDPGConfig",
    "DDPGTrainer",
    "DQNConfig",
    "DQNTrainer",
    "DecisionTransformerConfig",
    "DecisionTransformerTrainer",
    "DelayedActorStepper",
    "DiscreteSACConfig",
    "DiscreteSACTrainer",
    "IMPALAConfig",
    "IMPALATrainer",
    "IQLTrainer",
    "OffPolicyConfig",
    "OffPolicyTrainer",
    "OnPolicyConfig",
    "OnPolicyTrainer",
    "PPOConfig",
    "PPOTrainer",
    "QRDQNConfig",
    "QRDQNTrainer",
    "REDQConfig",
    "REDQTrainer",
    "ReinforceConfig",
    "ReinforceTrainer",
    "SACConfig",
    "SACTrainer",
    "SequenceReader",
    "TD3Config",
    "TD3Trainer",
    "TQCConfig",
    "TQCTrainer",
    "action_kind",
    "half_range",
    "make_env",
    "mask_key",
    "tuned_settings",
    "with_settings",
]
