"""Atari: lives, and the preprocessing that the field has agreed on."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import NestedKey
from torch import Tensor

from torchrl._core.errors import ShapeError, describe
from torchrl._core.keys import as_keys
from torchrl._core.mdp import DONE, TERMINATED
from torchrl.data import Composite, Unbounded
from torchrl.envs.spec_access import flag_spec
from torchrl.envs.step_plan import expand_flag
from torchrl.envs.transforms.base import Transform
from torchrl.envs.transforms.compose import Compose
from torchrl.envs.transforms.history import CatFrames, TimeMaxPool
from torchrl.envs.transforms.inside import Inside, Reset, Step, begin_events, step_rows, take_rows
from torchrl.envs.transforms.pixels import GrayScale, Resize, ToTensorImage
from torchrl.envs.transforms.resets import FireReset, NoopResetEnv, numbered
from torchrl.envs.transforms.reward import SignTransform
from torchrl.envs.transforms.stepping import FrameSkipTransform


class EndOfLifeTransform(Transform):
    """Tells how many lives are left, and when one was lost.

    Each game of a batch has its own lives: those of a :class:`~torchrl.envs.SerialEnv` or
    :class:`~torchrl.envs.ParallelEnv`, of a vector environment, of a pool.

    ``done`` stays as it is: give ``end-of-life`` to a loss as its end, or append
    :class:`EpisodicLife`.

    Args:
        eol_key: Name of the flag that a life was lost.
        lives_key: Name of the number of lives.
        done_key: End of the game.
        eol_attribute: Where the environment tells the number of lives; looked up, and called.
            Where games cannot be asked one by one, their infos tell it, by its last name.

    Reads: ``done [*B, 1]`` and the lives of the step before.
    Writes: ``lives [*B, 1]`` (int64) and ``end-of-life [*B, 1]`` (bool), which is also true where
        the game ends.

    Raises:
        AttributeError: if the environment does not know of lives.
        ShapeError: if it tells one number of lives for several games.

    >>> EndOfLifeTransform().out_keys
    ['end-of-life', 'lives']
    """

    entrywise = True
    asks_environment = True
    _base: Any
    _batch_size = torch.Size()

    def __init__(
        self,
        eol_key: NestedKey = "end-of-life",
        lives_key: NestedKey = "lives",
        done_key: NestedKey = DONE,
        eol_attribute: str = "unwrapped.ale.lives",
    ) -> None:
        super().__init__()
        self.out_keys = [*as_keys(eol_key), *as_keys(lives_key)]
        self.done_key, self.eol_attribute = as_keys(done_key)[0], eol_attribute
        self.__dict__["_base"] = None

    def _lives(self, like: Tensor) -> Tensor:
        """Return the lives ``[*B, 1]`` that the environment tells."""
        if self._base is None:
            self.__dict__["_base"] = self._environment()
        found = self._base.read_attribute(self.eol_attribute)
        lives = torch.as_tensor(found, device=like.device).to(torch.int64)
        if lives.numel() not in (self._batch_size.numel(), like.numel()):
            raise ShapeError(
                describe(
                    self,
                    "is not told the lives of each game",
                    key=self.eol_attribute,
                    expected=f"numbers {tuple(self._batch_size)}",
                    found=f"numbers {tuple(lives.shape)}",
                    hint="Give eol_attribute, or append the transform to each game.",
                )
            )
        if lives.numel() == like.numel():
            return lives.reshape(like.shape)
        return expand_flag(lives.reshape(*self._batch_size, 1), like.shape)

    def event_flags(self) -> dict[NestedKey, bool]:
        """Return the flag that a life was lost."""
        return {self.out_keys[0]: False}

    def _step(self, tensordict: Any, next_tensordict: Any) -> Any:
        eol_key, lives_key = self.out_keys
        before, done = tensordict.get(lives_key, None), next_tensordict.get(self.done_key)
        if before is None:
            raise self._missing(lives_key, tensordict)
        lives = self._lives(done)
        if (moving := tensordict.get("_step", None)) is not None:
            lives = torch.where(moving, lives, before)
        next_tensordict.set(lives_key, lives)
        return next_tensordict.set(eol_key, (lives < before) | done)

    def _reset(self, tensordict: Any, tensordict_reset: Any) -> Any:
        eol_key, lives_key = self.out_keys
        done = tensordict_reset.get(self.done_key)
        tensordict_reset.set(eol_key, torch.zeros_like(done))
        return tensordict_reset.set(lives_key, self._lives(done))

    def forward(self, tensordict: Any) -> Any:
        """Refuse: a lone record has no game to ask."""
        raise RuntimeError("EndOfLifeTransform asks a running game; append it to an environment.")

    def reset_parent(self) -> None:
        """Leave the environment."""
        super().reset_parent()
        self.__dict__["_base"] = None

    def transform_specs(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        """Add the lives and the flag."""
        self._batch_size = specs["done"].shape
        done = specs["done"][self.done_key]
        eol_key, lives_key = self.out_keys
        specs["observation"][eol_key] = flag_spec(done.shape, done.device)
        specs["observation"][lives_key] = Unbounded(
            done.shape, dtype=torch.int64, device=done.device
        )
        return specs


class EpisodicLife(Transform):
    """Ends an episode where a life is lost; the game is reset only when it is over.

    Between two lives of a game, a reset is one step with an action that does nothing. Append it
    after :class:`EndOfLifeTransform`.

    Args:
        eol_key: The flag that a life was lost.
        noop_action: The number of the action that does nothing.

    Reads: ``end-of-life [*B, 1]``.
    Writes: ``terminated`` and ``done``, raised where a life is lost.

    Source: the environment wrappers of https://github.com/openai/baselines.

    >>> EpisodicLife().eol_key
    'end-of-life'
    """

    entrywise = True
    _inside: Inside
    _over: Tensor | None
    _last: Any = None  # as the environment inside showed it: later transforms may change entries

    def __init__(self, eol_key: NestedKey = "end-of-life", noop_action: int = 0) -> None:
        super().__init__()
        self.eol_key, self.noop_action = as_keys(eol_key)[0], noop_action
        self.__dict__["_over"] = None

    def _step(self, tensordict: Any, next_tensordict: Any) -> Any:
        lost, over = next_tensordict.get(self.eol_key, None), next_tensordict.get(DONE)
        if lost is None:
            raise self._missing(self.eol_key, next_tensordict)
        last = next_tensordict.copy()
        if (moving := tensordict.get("_step", None)) is not None and self._over is not None:
            over = torch.where(moving, over, self._over)
            last = last if self._last is None else take_rows(last, self._last, moving)
        self.__dict__.update(_over=over, _last=last)
        next_tensordict.set(TERMINATED, lost | next_tensordict.get(TERMINATED))
        return next_tensordict.set(DONE, lost | next_tensordict.get(DONE))

    def _around_reset(self, reset: Reset, step: Step, tensordict: Any) -> Any:
        """Reset the games that are over (or abandoned); step the others once."""
        inside, over, last = self._inside, self._over, self._last
        rows = inside.being_reset(tensordict)
        if tensordict is None or over is None or last is None:
            root = reset(tensordict)
            self.__dict__["_over"] = torch.zeros_like(inside.over(root))
            return root
        rows = torch.ones_like(over) if rows is None else rows
        lost = last.get(self.eol_key) & rows & ~over
        root, fresh = last.copy(), rows & ~lost
        for key in inside.rewards:
            root.pop(key)
        if bool(lost.any()):
            root, ended = self._step_once(step, inside.root_after(tensordict, root), root, lost)
            fresh = fresh | ended
        if bool(fresh.any()):
            whole = bool(fresh.all())
            begun = reset(None if whole else inside.select_reset(tensordict, fresh))
            root = begun if whole else take_rows(begun, root, fresh)
        self.__dict__["_over"] = over & ~rows
        return self._begun(root, rows, step)

    def _step_once(self, step: Step, acting: Any, root: Any, rows: Tensor) -> tuple[Any, Tensor]:
        for key, spec in self._inside.actions.items():
            acting.set(key, numbered(spec, self._inside.lead(rows), self.noop_action))
        following = take_rows(step_rows(step, acting, rows), root, rows)
        for key in self._inside.rewards:
            following.pop(key)
        return following, self._inside.over(following) & rows

    def get_extra_state(self) -> Any:
        """Return which games are over, and what they showed last."""
        return {"over": self._over, "last": self._last}

    def set_extra_state(self, state: Any) -> None:
        """Go on from there."""
        self.__dict__.update(_over=state["over"], _last=state["last"])

    def _begun(self, root: Any, rows: Tensor, step: Step) -> Any:
        for key in (DONE, TERMINATED, self.eol_key):
            root.set(key, root.get(key) & ~rows)
        return begin_events(root, step, rows)

    def transform_specs(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        """Note how the environment is stepped; the specs stay."""
        self.__dict__["_inside"] = inside = Inside(specs)
        if inside.dones != [DONE]:
            raise ValueError(
                describe(
                    self, "needs one end flag, at the root", expected=[DONE], found=inside.dones
                )
            )
        if self.eol_key not in list(specs["observation"].keys(True, True)):
            raise self._missing(self.eol_key, list(specs["observation"].keys(True, True)))
        return specs


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
    """Return the preprocessing of Atari games that the field compares itself by.

    Up to ``noop_max`` steps without action begin a game; an action is repeated ``frame_skip``
    times, and the last two of those frames are joined by their maximum; a life lost in any of them
    ends an episode for the learner; games that wait for a button get it; frames are gray, small and
    stacked; rewards keep their sign only.

    The order counts. What stands before :class:`FrameSkipTransform` sees single frames
    (:class:`TimeMaxPool` joins them), what stands after it sees steps: rewards are signed once they
    are summed, and stacks hold one frame a step. :class:`EndOfLifeTransform` may stand on either
    side. It stands before :class:`EpisodicLife`, which ends the episode, and that one before what
    acts at the beginning of an episode, as :class:`FireReset` does. A recurrent policy's
    :class:`InitTracker` and primers may stand anywhere.

    Args:
        noop_max: Largest number of steps without action; 0 takes none.
        frame_skip: How often an action is taken. The environment itself must not repeat actions.
        screen_size: Height and width, pixels.
        terminal_on_life_loss: End episodes with lives. Leave it out of evaluations.
        fire_reset: Press the button after a reset.
        grayscale: Turn colours to gray.
        sign_reward: Replace rewards by their sign. Leave it out of evaluations.
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
