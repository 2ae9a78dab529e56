"""Registration of our environments in gymnasium."""

from __future__ import annotations

import string
from collections.abc import Callable, Collection, Sequence
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
import torch
from tensordict import NestedKey, TensorDict, TensorDictBase, is_leaf_nontensor
from torch import Tensor

from torchrl._core.errors import SpecError, describe
from torchrl._core.keys import as_keys
from torchrl.data import Binary, Categorical, Composite, MultiCategorical, MultiOneHot, NonTensor, OneHot, TensorSpec
from torchrl.envs.libs.gym.backend import gym_backend, set_gym_backend
from torchrl.envs.libs.gym.spaces import choice_index
from torchrl.envs.specs import leaf_names

_MAX_TEXT = 4096


def space_from_spec(spec: TensorSpec) -> Any:
    """Return the gymnasium space of a spec: what :func:`spec_from_space` undoes.

    Args:
        spec: One-hot and categorical specs become ``Discrete`` or ``MultiDiscrete``, bits
            ``MultiBinary``, composites ``Dict``, text ``Text`` and all other numbers ``Box``.

    Raises:
        SpecError: for a spec of objects other than text.

    >>> from torchrl.data import OneHot
    >>> space_from_spec(OneHot(3))
    Discrete(3)
    """
    spaces = gym_backend("spaces")
    if isinstance(spec, Composite):
        return spaces.Dict({str(name): space_from_spec(leaf) for name, leaf in spec.items()})
    if isinstance(spec, MultiOneHot | MultiCategorical):
        nvec = [int(n) for n in spec.nvec]
        return spaces.MultiDiscrete(np.broadcast_to(nvec, (*spec.shape[:-1], len(nvec))))
    if isinstance(spec, Binary):
        return spaces.MultiBinary(tuple(spec.shape))
    is_flag = spec.dtype is torch.bool and not isinstance(spec, OneHot)
    if isinstance(spec, OneHot | Categorical) and not is_flag:
        shape = spec.shape[:-1] if isinstance(spec, OneHot) else spec.shape
        n = int(spec.n)
        return spaces.MultiDiscrete(np.full(shape, n)) if shape else spaces.Discrete(n)
    if isinstance(spec, NonTensor):
        if not isinstance(spec.example_data, str):
            raise SpecError(
                describe(
                    "space_from_spec",
                    "gymnasium has no space of any objects",
                    expected="NonTensor with a text as example_data",
                    found=spec.example_data,
                    hint="Leave the entry out of the observations with info_keys.",
                )
            )
        return spaces.Text(_MAX_TEXT, min_length=0, charset=string.printable)
    return _box(spaces, spec)


def _box(spaces: Any, spec: TensorSpec) -> object:
    dtype = torch.empty((), dtype=spec.dtype).numpy().dtype
    if spec.dtype is torch.bool:
        return spaces.Box(0, 1, tuple(spec.shape), np.bool_)
    space = spec.space
    low, high = (np.broadcast_to(end.numpy(force=True), spec.shape).astype(dtype) for end in (space.low, space.high))
    if dtype.kind == "f":  # where a spec has no bound it names the largest number
        limit = np.finfo(dtype)
        low = np.where(low <= limit.min, -np.inf, low).astype(dtype)
        high = np.where(high >= limit.max, np.inf, high).astype(dtype)
    return spaces.Box(low, high, tuple(spec.shape), dtype)


def _to_numpy(value: Any, spec: TensorSpec, space: Any) -> object:
    """Return a value of a spec in the form that its space contains."""
    if isinstance(spec, Composite):
        return {str(name): _to_numpy(value.get(name), leaf, space[str(name)]) for name, leaf in spec.items()}
    if isinstance(spec, NonTensor):
        return value.data
    array = choice_index(value, spec).numpy(force=True).astype(space.dtype)
    return array[()] if type(space).__name__ == "Discrete" else array.copy()


def _to_tensor(value: Any, spec: TensorSpec) -> object:
    """Return a value of a space as one of its spec."""
    if isinstance(spec, Composite):
        entries = {name: _to_tensor(value[str(name)], leaf) for name, leaf in spec.items()}
        return TensorDict(entries, spec.shape, device=spec.device)
    if isinstance(spec, NonTensor):
        return spec.encode(value)
    tensor = torch.as_tensor(np.array(value), device=spec.device)
    if isinstance(spec, OneHot):
        return torch.nn.functional.one_hot(tensor.long(), int(spec.n)).to(spec.dtype)
    if isinstance(spec, MultiOneHot):
        parts = zip(tensor.long().unbind(-1), spec.nvec, strict=True)
        hots = [torch.nn.functional.one_hot(part, int(n)) for part, n in parts]
        return torch.cat(hots, -1).to(spec.dtype)
    return tensor.to(spec.dtype).reshape(spec.shape)


def _lone(spec: Composite, name: str | None = None) -> TensorSpec:
    """Return the only leaf of a composite, if it is called ``name``, else the composite."""
    leaves = leaf_names(spec)
    lone = len(leaves) == 1 and name in (None, leaves[0])
    return spec[leaves[0]] if lone else spec


@cache
def _view_class(backend: str) -> type:
    """Return the class of environments that :func:`register_gym` registers.

    It derives from a class of the backend, which is not imported before it is needed.
    """
    with set_gym_backend(backend):
        base: Any = gym_backend().Env

    class GymnasiumView(base):
        """One of our environments, with the interface of gymnasium.

        Args:
            env: The environment, without batch dimensions.
            info_keys: Observations that go into the info instead.
            to_numpy: Return arrays; else tensors.
        """

        metadata: dict[str, object] = {"render_modes": []}

        def __init__(self, env: Any, info_keys: Sequence[NestedKey], to_numpy: bool) -> None:
            _check(env)
            self.env, self._to_numpy = env, to_numpy
            self.render_mode = None
            self._info_keys = as_keys(list(info_keys))
            observation = env.full_observation_spec.clone().unlock_()
            for key in self._info_keys:
                del observation[key]
            self._observation = _lone(observation, "observation")
            self._action = _lone(env.full_action_spec)
            with set_gym_backend(backend):
                self.observation_space = space_from_spec(self._observation)
                self.action_space = space_from_spec(self._action)
            self._root: Any = None
            self._known = {*leaf_names(observation), *env.done_keys, *env.reward_keys}
            self._known |= {*env.action_keys}

        def _outputs(self, record: Any) -> tuple[Any, dict]:
            spec = self._observation
            value = record if isinstance(spec, Composite) else record.get("observation")
            info = _infos(record, self._known, self._to_numpy)
            if self._to_numpy:
                return _to_numpy(value, spec, self.observation_space), info
            return (value.select(*leaf_names(spec)).to_dict() if isinstance(spec, Composite) else value), info

        def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple:
            """Start an episode; ``options`` are the keywords of our reset."""
            super().reset(seed=seed)
            if seed is not None:
                self.env.set_seed(seed)
            self._root = self.env.reset(**(options or {}))
            return self._outputs(self._root)

        def step(self, action: object) -> tuple:
            """Take a step."""
            value = _to_tensor(action, self._action)
            if isinstance(self._action, Composite):
                root = self._root.update(value)
            else:
                root = self._root.set(self.env.action_key, value)
            next_root = self.env.step(root).get("next")
            self._root = self.env.step_mdp(root)
            group = self.env.compiled_specs.groups[0]
            done, terminated = (bool(next_root.get(group.done)), bool(next_root.get(group.terminated)))
            observation, info = self._outputs(next_root)
            reward = float(next_root.get(self.env.reward_key))
            return observation, reward, terminated, done and not terminated, info

        def close(self) -> None:
            """Close the environment."""
            self.env.close(raise_if_closed=False)

    return GymnasiumView


def _infos(record: TensorDictBase, known: Collection[NestedKey], to_numpy: bool) -> dict[str, Any]:
    """Return the entries of a step that are not known; dots join nested names."""
    info: dict[str, Any] = {}
    for key in record.keys(True, True, is_leaf=is_leaf_nontensor):
        name = key if isinstance(key, str) else ".".join(key)
        if key not in known and not name.startswith("_"):
            entry = record.get(key)
            if not isinstance(entry, Tensor):
                info[name] = entry.tolist()
            else:
                info[name] = entry.numpy(force=True).copy() if to_numpy else entry
    return info


def _check(env: Any) -> None:
    flags = env.compiled_specs.groups
    facts = (
        (not env.batch_size, "batch size", "no batch dimensions", tuple(env.batch_size)),
        (len(env.reward_keys) == 1, "rewards", "one reward", env.reward_keys),
        (len(flags) == 1 and flags[0].shape.numel() == 1, "end flags", "one done flag", env.done_keys),
    )
    for holds, what, expected, found in facts:
        if not holds:
            raise SpecError(
                describe(
                    env,
                    f"cannot be an environment of gymnasium: its {what} do not fit",
                    expected=expected,
                    found=found,
                    hint="Bring it into that form with a transform.",
                )
            )


def register_gym(
    make: Callable[..., Any],
    id: str,
    *,
    transform: Any = None,
    info_keys: Sequence[NestedKey] | None = (),
    backend: str | ModuleType | None = None,
    to_numpy: bool = False,
    reward_threshold: float | None = None,
    nondeterministic: bool = False,
    max_episode_steps: int | None = None,
    order_enforce: bool = True,
    disable_env_checker: bool = False,
    **kwargs: object,
) -> None:
    """Register environments under a name of gymnasium.

    ``gymnasium.make(id)`` then gives an environment that takes and returns what gymnasium does, or tensors. What a step
    writes beside observation, reward and end flags is in its info; dots join nested names.

    Args:
        make: Builds the environment.
        id: Its name, such as ``"Walk-v0"``.
        transform: Seen through it; each environment gets a copy of its own.
        info_keys: Observations that go into the info instead.
        backend: The package to register with, see :class:`set_gym_backend`; the active one if
            ``None``.
        to_numpy: Return observations and infos as arrays, as programs written for gymnasium expect;
            else as the tensors of the environment, without gymnasium's checker, which refuses them.
        reward_threshold: Mean return at which the task counts as solved.
        nondeterministic: Whether the environment differs between runs of one seed.
        max_episode_steps: Truncate episodes after this many steps.
        order_enforce: Refuse a step before the first reset.
        disable_env_checker: Skip gymnasium's checker.
        kwargs: Default keyword arguments of ``make``; those of ``gymnasium.make`` add to them.

    >>> import gymnasium
    >>> from torchrl.testing.mocks import CountingEnv
    >>> register_gym(CountingEnv, "Count-v0", to_numpy=True, horizon=5)
    >>> env = gymnasium.make("Count-v0")
    >>> _ = env.reset()
    >>> observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
    >>> observation.shape, observation.dtype
    ((2,), dtype('float32'))
    """

    def build(**given: object) -> Any:
        env = make(**given)
        if transform is not None:
            env = env.append_transform(getattr(transform, "clone", lambda: transform)())
        return _view_class(chosen.backend)(env, info_keys or (), to_numpy)

    chosen = set_gym_backend(gym_backend() if backend is None else backend)
    with chosen:
        gym_backend("envs.registration").register(
            id=id,
            entry_point=build,
            kwargs=kwargs,
            reward_threshold=reward_threshold,
            nondeterministic=nondeterministic,
            max_episode_steps=max_episode_steps,
            order_enforce=order_enforce,
            disable_env_checker=disable_env_checker or not to_numpy,
        )
