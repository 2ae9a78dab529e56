"""MuJoCo: the normalisation that the field has agreed on for continuous control."""

from __future__ import annotations

from tensordict import NestedKey

from torchrl.envs.transforms.action import ClipTransform
from torchrl.envs.transforms.compose import Compose
from torchrl.envs.transforms.dtype import DoubleToFloat
from torchrl.envs.transforms.return_norm import ReturnNorm
from torchrl.envs.transforms.vecnorm import VecNormV2


def MujocoPreprocessing(  # noqa: N802 - to its users it is one more transform
    *,
    gamma: float = 0.99,
    clip: float = 10.0,
    normalize_observation: bool = True,
    normalize_reward: bool = True,
    observation_key: NestedKey = "observation",
    reward_key: NestedKey = "reward",
) -> Compose:
    """Return the preprocessing of continuous control that the field compares itself by.

    Observations are brought to running mean 0 and deviation 1, rewards divided by the running
    deviation of the discounted return, and both are clipped. For an evaluation, take
    ``frozen_copy()`` of the first part, and leave the reward as it is.

    Args:
        gamma: Discount factor, that of the algorithm.
        clip: Largest normalised number.
        normalize_observation: Normalise and clip observations.
        normalize_reward: Scale and clip rewards.
        observation_key: The observation.
        reward_key: The reward.

    Source: Engstrom et al., 2020, https://arxiv.org/abs/2005.12729; Andrychowicz et al., 2021,
        https://arxiv.org/abs/2006.05990.

    >>> from torchrl.envs import GymEnv, TransformedEnv
    >>> env = TransformedEnv(GymEnv("InvertedPendulum-v5"), MujocoPreprocessing())
    >>> bool(env.rollout(20)["next", "observation"].abs().max() <= 10)
    True
    """
    preset = Compose(DoubleToFloat())
    if normalize_observation:
        preset.append(VecNormV2([observation_key], decay=1.0, reduce_batch_dims=True))
        preset.append(ClipTransform([observation_key], low=-clip, high=clip))
    if normalize_reward:
        preset.append(ReturnNorm(gamma, [reward_key]))
        preset.append(ClipTransform([reward_key], low=-clip, high=clip))
    return preset
