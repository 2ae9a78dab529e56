"""Standard preprocessing of Atari and MuJoCo environments."""

from __future__ import annotations

from tensordict import NestedKey

from torchrl.envs.transforms.action.repeat import FrameSkipTransform
from torchrl.envs.transforms.action.scaling import ClipTransform
from torchrl.envs.transforms.base import Transform
from torchrl.envs.transforms.casting import DoubleToFloat
from torchrl.envs.transforms.compose import Compose
from torchrl.envs.transforms.episode.resets import FireReset, NoopResetEnv
from torchrl.envs.transforms.episode.termination import EndOfLifeTransform, EpisodicLife
from torchrl.envs.transforms.observation.history import CatFrames, TimeMaxPool
from torchrl.envs.transforms.observation.normalization import VecNormV2
from torchrl.envs.transforms.observation.pixels import GrayScale, Resize, ToTensorImage
from torchrl.envs.transforms.reward.scaling import ReturnNorm, SignTransform


def AtariPreprocessing(  # noqa: N802 - to its users it is one more transform
    *,
    noop_max: int = 30,
    frame_skip: int = 4,
    screen_size: int = 84,
    terminal_on_life_loss: bool = True,
    fire_reset: bool = True,
    grayscale: bool = True,
    sign_reward: bool = True,
    num_stack: int = 4,
    pixels_key: NestedKey = "pixels",
) -> Compose:
    """Return the preprocessing of Atari games that is standard in the literature.

    A game starts with up to ``noop_max`` no-op steps; an action is repeated ``frame_skip`` times,
    and the observation is the maximum of the last two frames; a life lost in any frame ends an
    episode; the fire button is pressed after a reset; frames are gray, resized and stacked; rewards
    are replaced by their sign.

    The order matters. Transforms before :class:`FrameSkipTransform` process single frames
    (:class:`TimeMaxPool` takes their maximum), those after it process steps: rewards are signed
    after they are summed, and a stack has one frame for each step. :class:`EndOfLifeTransform` may
    come before or after it. It comes before :class:`EpisodicLife`, which ends the episode, and that
    one before transforms that step at the start of an episode, as :class:`FireReset`.
    :class:`InitTracker` and the primers of a recurrent policy may be anywhere.

    Args:
        noop_max: Largest number of no-op steps.
        frame_skip: Number of times that an action is taken. The environment itself must not repeat
            actions.
        screen_size: Height and width, pixels.
        terminal_on_life_loss: End an episode with each life. Not for evaluations.
        fire_reset: Press the fire button after a reset.
        grayscale: Convert colours to gray.
        sign_reward: Replace rewards by their sign. Not for evaluations.
        num_stack: Number of frames stacked.
        pixels_key: The screen ``[210, 160, 3]`` (uint8).

    Writes: ``pixels [num_stack, screen_size, screen_size]`` between 0 and 1.

    Source: Machado et al., 2018, https://arxiv.org/abs/1709.06009, and Mnih et al., 2015,
        https://doi.org/10.1038/nature14236.

    >>> [type(part).__name__ for part in AtariPreprocessing(fire_reset=False)][:3]
    ['TimeMaxPool', 'EndOfLifeTransform', 'NoopResetEnv']
    """
    keys = [pixels_key]
    parts: list[Transform] = [TimeMaxPool(keys, T=min(2, frame_skip))]
    if terminal_on_life_loss:
        parts.append(EndOfLifeTransform())
    if noop_max:
        parts.append(NoopResetEnv(noop_max, noop_action=0))
    parts.append(FrameSkipTransform(frame_skip))
    if terminal_on_life_loss:
        parts.append(EpisodicLife())
    if fire_reset:
        parts.append(FireReset())
    parts.append(ToTensorImage(in_keys=keys))
    if grayscale:
        parts.append(GrayScale(keys))
    parts.append(Resize(screen_size, interpolation="area", in_keys=keys))
    if sign_reward:
        parts.append(SignTransform())
    parts.append(CatFrames(num_stack, -3, keys))
    return Compose(*parts)


def MujocoPreprocessing(  # noqa: N802 - to its users it is one more transform
    *,
    gamma: float = 0.99,
    clip: float = 10.0,
    normalize_observation: bool = True,
    normalize_reward: bool = True,
    observation_key: NestedKey = "observation",
    reward_key: NestedKey = "reward",
) -> Compose:
    """Return the preprocessing of continuous control that is standard in the literature.

    Observations are normalised to running mean 0 and deviation 1, rewards are divided by the
    running deviation of the discounted return, and both are clipped. For an evaluation, use a
    ``frozen_copy()`` of the normalisation of observations and do not change the reward.

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
