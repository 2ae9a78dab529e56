"""Environments whose ``step(action)`` returns a tuple of observation, reward, flags and info."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from tensordict import NonTensorData, TensorDict, TensorDictBase
from torch import Tensor

from torchrl._core.errors import DTypeError, ShapeError, describe
from torchrl._core.mdp import DONE_NAMES
from torchrl._core.records.flat_record import FlatRecord, as_constant
from torchrl.data import Composite, TensorSpec, Unbounded
from torchrl.envs.wrapper import EnvWrapper

InfoReader = Callable[[dict, TensorDictBase], Any]


class default_info_dict_reader:  # noqa: N801 - a public name
    """Copies entries of the info dictionary into the record.

    Args:
        keys: Names to copy; every name that the first info holds if ``None``.
        spec: Their specs, as a composite, a sequence or a mapping; inferred from the first
            info if ``None``.
        ignore_private: Leave out names that start with an underscore.

    Writes: each name, with the shape and dtype of its spec; zeros where an info lacks it.

    >>> reader = default_info_dict_reader(["lives"])
    >>> reader({"lives": 3}, TensorDict())["lives"]
    tensor(3)
    """

    def __init__(
        self,
        keys: Sequence[str] | None = None,
        spec: Composite | Sequence[TensorSpec] | Mapping[str, TensorSpec] | None = None,
        ignore_private: bool = True,
    ) -> None:
        self.keys = None if keys is None else list(keys)
        self.ignore_private = ignore_private
        self.info_spec: dict[str, TensorSpec] = {}
        if spec is not None:
            if isinstance(spec, Composite | Mapping):
                self.info_spec = {str(name): leaf for name, leaf in spec.items()}
                self.keys = list(self.info_spec) if self.keys is None else self.keys
            elif self.keys is None or len(self.keys) != len(spec):
                raise ValueError("default_info_dict_reader: give one key for each spec.")
            else:
                self.info_spec = dict(zip(self.keys, spec, strict=True))

    @property
    def is_open(self) -> bool:
        """Whether there may be names whose specs are not known."""
        return self.keys is None or any(name not in self.info_spec for name in self.keys)

    def infer(self, info: dict, batch_size: torch.Size) -> None:
        """Learn the specs of the names that have none from a first info."""
        for name in list(info) if self.keys is None else self.keys:
            private = isinstance(name, str) and name.startswith("_") and self.ignore_private
            if name in self.info_spec or private or name not in info:
                continue
            value = as_tensor(info[name])
            if value is not None and value.shape[: len(batch_size)] == batch_size:
                self.info_spec[name] = Unbounded(value.shape, dtype=value.dtype)

    def __call__(self, info: dict, tensordict: TensorDictBase) -> TensorDictBase:
        if not self.info_spec:
            self.infer(info, tensordict.batch_size)
        for name, spec in self.info_spec.items():
            value = as_tensor(info[name]) if name in info else None
            if value is None:
                value = spec.zero()
            tensordict.set(name, value.to(spec.dtype).reshape(spec.shape))
        return tensordict


def as_tensor(value: object) -> Tensor | None:
    """Return a number or an array of numbers as a tensor of its own; ``None`` for other things."""
    if isinstance(value, Tensor):
        return value
    array = np.array(value) if isinstance(value, bool | int | float | np.generic | np.ndarray) else None
    if array is None or array.dtype.kind not in "biuf":
        return None
    return torch.from_numpy(array)


class GymLikeEnv(EnvWrapper):
    """An environment with a ``step`` tuple.

    Args:
        frame_skip: Number of times each action is repeated; rewards add up, and the end of an
            episode cuts the repetition short.
        kwargs: As in :class:`~torchrl.envs.wrapper.EnvWrapper`.

    Hooks:
        _output_transform: what ``step`` returned ``-> (observation, reward, terminated, truncated,
            done, info)``.
        _reset_output_transform: what ``reset`` returned ``-> (observation, info)``.
        read_action, read_obs: between tensors and what the foreign environment speaks.

    Writes: the observations, ``reward [*B, 1]``, ``terminated``, ``truncated`` and ``done``
        ``[*B, 1]``, and what the info readers add.

    >>> from torchrl.data import Unbounded
    >>> class Walk:
    ...     def reset(self, seed=None):
    ...         self.place = 0
    ...         return np.zeros(1), {}
    ...
    ...     def step(self, action):
    ...         self.place += 1
    ...         return np.full(1, float(self.place)), 1.0, self.place == 3, False, {}
    >>> class WalkEnv(GymLikeEnv):
    ...     def _build_env(self, env):
    ...         return env
    ...
    ...     def _make_specs(self, env):
    ...         self.observation_spec = Unbounded(1)
    ...         self.action_spec = Unbounded(1)
    ...         self.reward_spec = Unbounded(1)
    ...
    ...     def _set_seed(self, seed):
    ...         pass
    >>> WalkEnv(env=Walk()).rollout(10)["next", "observation"].T
    tensor([[1., 2., 3.]])
    """

    configuration: Collection[str] = ("_flags", "_info_readers", "frame_skip")

    def __init__(self, *, frame_skip: int | None = None, **kwargs: Any) -> None:
        if frame_skip is not None and frame_skip < 1:
            raise ValueError(
                f"{type(self).__name__}: frame_skip counts the repetitions of an action and must "
                f"be at least 1, found {frame_skip}."
            )
        self.frame_skip = frame_skip or 1
        self._info_readers: list[InfoReader] = []
        super().__init__(**kwargs)
        self._make_flags()

    @property
    def repeats_per_step(self) -> int:
        """How often a step takes its action: the environment inside may repeat it, too."""
        env: Any = self._env
        own = getattr(getattr(env, "unwrapped", env), "_frameskip", None)  # of Atari games
        if own is None:
            kwargs = getattr(getattr(env, "spec", None), "kwargs", None) or {}
            own = kwargs.get("frameskip", 1)
        return self.frame_skip * int(np.max(own))

    def _make_flags(self) -> None:
        self._flags = tuple(
            as_constant(torch.full((*self.batch_size, 1), flag, device=self.device)) for flag in (False, True)
        )

    def _follow(self) -> None:
        self._make_flags()

    def _output_transform(self, step_out: tuple) -> tuple:
        try:
            observation, reward, terminated, truncated, info = step_out
        except ValueError:
            names = "(observation, reward, terminated, truncated, info)"
            raise self._old_api("step", names, f"{len(step_out)} values") from None
        return observation, reward, terminated, truncated, terminated | truncated, info

    def _reset_output_transform(self, reset_out: tuple) -> tuple:
        if not isinstance(reset_out, tuple):
            raise self._old_api("reset", "(observation, info)", type(reset_out).__name__)
        observation, info = reset_out
        return observation, info

    def _old_api(self, method: str, expected: str, found: str) -> TypeError:
        """Return the error of an environment that does not speak gymnasium."""
        return TypeError(
            describe(
                self,
                f"got something else from {method}() of the environment",
                expected=expected,
                found=found,
                hint="Environments of the old gym run through gymnasium's GymV21Environment-v0 and "
                "GymV26Environment-v0.",
            )
        )

    def _call_step(self, action: Any) -> tuple:
        return self._env.step(action)

    def _call_reset(self, mask: np.ndarray | None, **kwargs: Any) -> tuple:
        return self._env.reset(**kwargs)

    def _repeat_step(self, action: Any) -> tuple:
        """Take an action ``frame_skip`` times, or to the end of the episode; rewards add up."""
        result = self._output_transform(self._call_step(action))
        for _ in range(self.frame_skip - 1):
            _, total, *flags, _ = result
            if any(flag if isinstance(flag, bool) else np.any(flag) for flag in flags):
                break
            observation, reward, *rest = self._output_transform(self._call_step(action))
            result = (observation, total + reward, *rest)
        return result

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        action = self.read_action(tensordict)
        observation, reward, terminated, truncated, done, info = self._repeat_step(action)
        entries = self.read_obs(observation)
        entries["reward"] = self.read_reward(reward)
        entries["done"] = self.read_flag(done)
        entries["terminated"] = self.read_flag(terminated)
        entries["truncated"] = self.read_flag(truncated)
        if isinstance(tensordict, FlatRecord) and not self._info_readers:
            return entries  # type: ignore[return-value]  # in the form of what was given
        return self._record(entries, info, tensordict)

    def _reset(self, tensordict: TensorDictBase | None, **kwargs: Any) -> TensorDictBase:
        mask = None if tensordict is None else tensordict.get("_reset", None)
        rows = None if mask is None else mask.reshape(self._batch_size).numpy(force=True)
        observation, info = self._reset_output_transform(self._call_reset(rows, **kwargs))
        return self._record(self.read_obs(observation), info, tensordict)

    def _record(self, entries: FlatRecord, info: dict, like: object) -> Any:
        """Return the entries in the form of the record that was given, info added."""
        flat = isinstance(like, FlatRecord)
        if flat and not self._info_readers:
            return entries
        for key in DONE_NAMES:
            if key in entries:
                entries[key] = entries[key].clone()
        record = TensorDict(dict(entries), self._batch_size, device=self._device)
        for reader in self._info_readers:
            out = reader(info, record)
            record = record if out is None else out
        return FlatRecord(record.items(True, True)) if flat else record

    # --- reading ---------------------------------------------------------------------------------

    def read_action(self, tensordict: TensorDictBase) -> Any:
        """Return the action in the foreign environment's own form."""
        key = self.action_key
        # A copy: the environment may edit what it is given.
        return self.full_action_spec[key].to_numpy(tensordict.get(key).clone())

    def read_obs(self, observation: object) -> FlatRecord:
        """Return the observations as tensors by key; a lone one is called ``observation``."""
        items = dict(observation) if isinstance(observation, Mapping) else {self.observation_keys[0]: observation}
        specs, entries = self.full_observation_spec, FlatRecord()
        for key, value in items.items():
            try:
                entries[key] = specs[key].encode(value)
            except (DTypeError, ShapeError) as error:  # noqa: PERF203 - costs nothing if all is well
                text = describe(self, "cannot be read from the environment", key=key)
                raise type(error)(f"{text} {error}") from None
        return entries

    def read_reward(self, reward: Any) -> Tensor:
        """Return the reward ``[*B, 1]``."""
        tensor = torch.from_numpy(np.array(reward, np.float32)[..., None])
        return tensor if self._device is None else tensor.to(self._device)

    def read_flag(self, flag: Any) -> Tensor:
        """Return an end flag ``[*B, 1]``."""
        if not self._batch_size:
            return self._flags[bool(flag)]  # shared: records that leave the loop get copies
        tensor = torch.from_numpy(np.array(flag, bool)[..., None])
        return tensor if self._device is None else tensor.to(self._device)

    # --- info ------------------------------------------------------------------------------------

    def set_info_dict_reader(
        self, info_dict_reader: InfoReader | None = None, ignore_private: bool = True
    ) -> GymLikeEnv:
        """Copy entries of the info dictionary into the record, and their specs into ours.

        Args:
            info_dict_reader: ``(info, td) -> td``, with an ``info_spec`` if it names its specs; all
                numbers in the info if ``None``.
            ignore_private: Leave out names that start with an underscore, in that case.

        >>> from torchrl.envs import GymEnv
        >>> env = GymEnv("CartPole-v1").set_info_dict_reader(default_info_dict_reader(["lives"]))
        """
        if info_dict_reader is None:
            info_dict_reader = default_info_dict_reader(ignore_private=ignore_private)
        if isinstance(info_dict_reader, default_info_dict_reader) and info_dict_reader.is_open:
            self._probe(info_dict_reader)
        return self._add_reader(info_dict_reader)

    def _add_infos(self) -> None:
        """Write the numbers in the infos, if there are any."""
        reader = default_info_dict_reader()
        self._probe(reader)
        if reader.info_spec:
            self._add_reader(reader)

    def _add_reader(self, info_dict_reader: InfoReader) -> GymLikeEnv:
        self._info_readers.append(info_dict_reader)
        # The info of a partial reset speaks of the rows that are reset.
        self.partial_reset_safe = False
        spec = self.full_observation_spec.clone()
        for name, leaf in getattr(info_dict_reader, "info_spec", {}).items():
            spec[name] = leaf.to(self.device) if self.device is not None else leaf
        self.full_observation_spec = spec
        return self

    def auto_register_info_dict(self, ignore_private: bool = True) -> GymLikeEnv:
        """Add every number that the info of a reset and of a random step holds."""
        return self.set_info_dict_reader(default_info_dict_reader(ignore_private=ignore_private))

    def _probe(self, reader: default_info_dict_reader) -> None:
        """Show a reader the infos of a reset and of a random step; seeds stay as they were set."""
        self.bump_state_version()
        with torch.random.fork_rng(devices=[]), self._seeds_kept():
            _, info = self._reset_output_transform(self._call_reset(None))
            reader.infer(info, self.batch_size)
            action = self.read_action(self.rand_action())
            *_, info = self._output_transform(self._call_step(action))
            reader.infer(info, self.batch_size)
            self._call_reset(None)

    def _seeds_kept(self) -> AbstractContextManager:
        """Return a context that leaves, at its end, the seeds of the next reset as they are."""
        return nullcontext()


def non_tensor(value: object, batch_size: torch.Size) -> NonTensorData:
    """Return any Python object as an entry."""
    return NonTensorData(value, batch_size=batch_size)
