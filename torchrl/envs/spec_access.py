"""The specs of an environment: five groups, each seen whole, by its only leaf, or unbatched."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from tensordict import NestedKey

from torchrl._core.errors import ShapeError, describe
from torchrl._core.keys import sibling
from torchrl._core.mdp import DONE, DONE_NAMES, TERMINATED, last_name
from torchrl.data import Categorical, Composite, TensorSpec, Unbounded

INPUTS, OUTPUTS = ("action", "state"), ("observation", "reward", "done")
GROUPS = (*INPUTS, *OUTPUTS)


def leaf_names(spec: Composite) -> list[NestedKey]:
    """Return the keys of the leaves of a composite, nested ones as tuples."""
    return list(spec.keys(include_nested=True, leaves_only=True))


def nested_groups(
    specs: Mapping[str, Composite], batch_size: torch.Size
) -> list[tuple[tuple[str, ...], torch.Size]]:
    """Return the nested composites with a batch size of their own, outer ones first.

    Returns: where each stands, and what follows the batch size of the environment there.
    """
    sizes: dict[tuple[str, ...], torch.Size] = {}
    for spec in specs.values():
        for key in spec.keys(include_nested=True):
            if isinstance(part := spec[key], Composite):
                path: tuple[Any, ...] = (key,) if isinstance(key, str) else key
                tail = part.shape[len(batch_size) :]
                sizes[path] = max(tail, sizes.get(path, tail), key=len)
    found = [(path, tail) for path, tail in sizes.items() if len(tail) and -1 not in tail]
    return sorted(found, key=lambda each: len(each[0]))


def default_spec(env: Any, group: str) -> Composite:
    """Return the specs that an environment has when it names none: a float reward, a done flag."""
    spec = Composite(shape=env.batch_size, device=env.device)
    shape = (*env.batch_size, 1)
    if group == "reward":
        spec["reward"] = Unbounded(shape, device=env.device or "cpu")
    if group == "done":
        spec["done"] = flag_spec(shape, env.device)
        spec["terminated"] = flag_spec(shape, env.device)
    return spec


def flag_spec(shape: Any, device: Any) -> Categorical:
    """Return the spec of an end flag."""
    return Categorical(2, shape=shape, dtype=torch.bool, device=device or "cpu")


def complete_group(env: Any, group: str, value: TensorSpec | None) -> Composite:
    """Return the composite that a user's assignment means.

    A leaf gets the name of its group; rewards and flags get their trailing 1, and every ``done``
    its ``terminated`` twin.

    Raises:
        ShapeError: if a spec does not start with the batch size of the environment.
    """
    if value is None:
        return Composite(shape=env.batch_size, device=env.device)
    if not isinstance(value, Composite):
        _check_batch(env, group, value)
        value = Composite({group: value}, shape=env.batch_size)
    else:
        value = value.clone()
        if value.shape != env.batch_size and value.shape == env.batch_size[: len(value.shape)]:
            for key in leaf_names(value):
                _check_batch(env, key, value[key])
            value.shape = env.batch_size
    if env.device is not None:
        value = value.to(env.device)
    for key in leaf_names(value):
        _check_batch(env, key, value[key])
        if group in ("reward", "done") and value[key].shape == env.batch_size:
            value[key] = value[key].unsqueeze(-1)
    return complete_flags(value) if group == "done" else value


def _check_batch(env: Any, key: NestedKey, spec: TensorSpec) -> None:
    if spec.shape[: len(env.batch_size)] != env.batch_size:
        raise ShapeError(
            describe(
                env,
                "has a spec without the environment's batch size",
                key=key,
                expected=f"a shape that starts with {tuple(env.batch_size)}",
                found=tuple(spec.shape),
                hint=f"Use spec.expand({tuple(env.batch_size)} + spec.shape).",
            )
        )


def complete_flags(spec: Composite) -> Composite:
    """Add the flags that must stand beside those of ``spec``: done and terminated."""
    for key in leaf_names(spec):
        if last_name(key) in DONE_NAMES:
            for name in (DONE, TERMINATED):
                twin = sibling(key, name)
                if twin not in leaf_names(spec):
                    spec[twin] = spec[key].clone()
    return spec


class FullSpec:
    """Descriptor: one group of specs as a composite, ``full_<group>_spec``."""

    def __init__(self, group: str) -> None:
        self.group = group

    def __get__(self, env: Any, owner: type | None = None) -> Any:
        if env is None:
            return self
        return env._get_specs()[self.group]

    def __set__(self, env: Any, value: TensorSpec) -> None:
        env._set_specs({self.group: value})


class LeafSpec(FullSpec):
    """Descriptor: the only leaf of a group, ``<group>_spec``, or the composite of several."""

    def __get__(self, env: Any, owner: type | None = None) -> Any:
        spec = super().__get__(env, owner)
        if env is None:
            return spec
        leaves = leaf_names(spec)
        return spec[leaves[0]] if len(leaves) == 1 else spec


class SideSpec:
    """Descriptor: the groups of one side as a composite, ``input_spec`` and ``output_spec``."""

    def __init__(self, groups: tuple[str, ...]) -> None:
        self.groups = groups

    def __get__(self, env: Any, owner: type | None = None) -> Any:
        if env is None:
            return self
        specs = env._get_specs()
        side = Composite(
            {f"full_{group}_spec": specs[group] for group in self.groups},
            shape=env.batch_size,
            device=env.device,
        )
        return side.lock_() if env._spec_locked else side

    def __set__(self, env: Any, value: Composite) -> None:
        env._set_specs({group: value.get(f"full_{group}_spec", None) for group in self.groups})


class Unbatched:
    """Descriptor: another spec property without the batch dimensions, ``<name>_unbatched``."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, env: Any, owner: type | None = None) -> Any:
        if env is None:
            return self
        spec = getattr(env, self.name)
        return spec[(0,) * len(env.batch_size)] if env.batch_size else spec

    def __set__(self, env: Any, value: TensorSpec) -> None:
        setattr(env, self.name, value.expand(*env.batch_size, *value.shape))


class SpecAccess:
    """The spec properties of an environment; mixed into :class:`~torchrl.envs.EnvBase`."""

    full_action_spec = FullSpec("action")
    full_state_spec = FullSpec("state")
    full_observation_spec = FullSpec("observation")
    full_reward_spec = FullSpec("reward")
    full_done_spec = FullSpec("done")

    action_spec = LeafSpec("action")
    reward_spec = LeafSpec("reward")
    done_spec = LeafSpec("done")
    observation_spec = FullSpec("observation")
    state_spec = FullSpec("state")

    input_spec = SideSpec(INPUTS)
    output_spec = SideSpec(OUTPUTS)

    action_spec_unbatched = Unbatched("action_spec")
    reward_spec_unbatched = Unbatched("reward_spec")
    done_spec_unbatched = Unbatched("done_spec")
    observation_spec_unbatched = Unbatched("observation_spec")
    state_spec_unbatched = Unbatched("state_spec")
    full_action_spec_unbatched = Unbatched("full_action_spec")
    full_state_spec_unbatched = Unbatched("full_state_spec")
    full_observation_spec_unbatched = Unbatched("full_observation_spec")
    full_reward_spec_unbatched = Unbatched("full_reward_spec")
    full_done_spec_unbatched = Unbatched("full_done_spec")
    input_spec_unbatched = Unbatched("input_spec")
    output_spec_unbatched = Unbatched("output_spec")
