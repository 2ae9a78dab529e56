"""Samplers: select the items of a sample."""

from torchrl.data.replay_buffers.samplers.base import Sampler, SamplerEnsemble
from torchrl.data.replay_buffers.samplers.episodes import find_start_stop_traj
from torchrl.data.replay_buffers.samplers.prioritized import PrioritizedSampler
from torchrl.data.replay_buffers.samplers.random import ConsumingSampler, RandomSampler, SamplerWithoutReplacement
from torchrl.data.replay_buffers.samplers.slice import (
    PrioritizedSliceSampler,
    SliceSampler,
    SliceSamplerWithoutReplacement,
    StreamingSliceSampler,
)
from torchrl.data.replay_buffers.samplers.staleness import StalenessAwareSampler

__all__ = [
    "ConsumingSampler",
    "PrioritizedSampler",
    "PrioritizedSliceSampler",
    "RandomSampler",
    "Sampler",
    "SamplerEnsemble",
    "SamplerWithoutReplacement",
    "SliceSampler",
    "SliceSamplerWithoutReplacement",
    "StalenessAwareSampler",
    "StreamingSliceSampler",
    "find_start_stop_traj",
]
