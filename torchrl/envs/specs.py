"""What an environment promises: its five groups of specs, completed, accessed, inferred."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase

from torchrl._core.errors import MissingKeyError, ShapeError, describe, nearest
from torchrl._core.keys import as_keys, leaf_keys, sibling
from torchrl._core.mdp import DONE, DONE_NAMES, TERMINATED, last_name
from torchrl._core.records.policy_output import with_output
from torchrl.data import Categorical, Composite, TensorSpec, Unbounded, make_composite_from_td

if TYPE_CHECKING:
    from torchrl.envs.base import EnvBase

INPUTS, OUTPUTS = ("action", "state"), ("observation", "reward", "done")
GROUPS = (*INPUTS, *OUTPUTS)
Keys = NestedKey | Sequence[NestedKey]


def leaf_names(spec: Composite) -> list[NestedKey]:
    """Return the keys of the leaves of a composite, nested ones as tuples."""
    return list(spec.keys(include_nested=True, leaves_only=True))


def nested_groups(specs: Mapping[str, Composite], batch_size: torch.Size) -> list[tuple[tuple[str, ...], torch.Size]]:
    """Return the nested composites with a batch size of their own, outer ones first.

    Returns: the path of each, and what follows the batch size of the environment there.
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


def default_spec(env: EnvBase, group: str, *, has_reward: bool) -> Composite:
    """Return the specs of a group that an environment does not name: a float reward, a done flag."""
    spec = Composite(shape=env.batch_size, device=env.device)
    shape = (*env.batch_size, 1)
    if group == "reward" and has_reward:
        spec["reward"] = Unbounded(shape, device=env.device or "cpu")
    if group == "done":
        spec["done"] = flag_spec(shape, env.device)
        spec["terminated"] = flag_spec(shape, env.device)
    return spec


def flag_spec(shape: Any, device: Any) -> Categorical:
    """Return the spec of an end flag."""
    return Categorical(2, shape=shape, dtype=torch.bool, device=device or "cpu")


def flag_specs(
    batch_size: torch.Size, device: torch.device | str | None, names: Sequence[str] = DONE_NAMES
) -> Composite:
    """Return the specs of the end flags of an environment, ``[*B, 1]`` each."""
    return Composite({name: flag_spec((*batch_size, 1), device) for name in names}, shape=batch_size)


def complete_group(env: EnvBase, group: str, value: TensorSpec | None) -> Composite:
    """Return the composite that a user's assignment means.

    A leaf gets the name of its group; rewards and flags get their trailing 1, and every ``done``
    its ``terminated``.

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


def _check_batch(env: EnvBase, key: NestedKey, spec: TensorSpec) -> None:
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
    """Add ``done`` and ``terminated`` beside each flag of ``spec``."""
    for key in leaf_names(spec):
        if last_name(key) in DONE_NAMES:
            for name in (DONE, TERMINATED):
                flag = sibling(key, name)
                if flag not in leaf_names(spec):
                    spec[flag] = spec[key].clone()
    return spec


class FullSpec:
    """Descriptor: one group of specs as a composite, ``full_<group>_spec``."""

    def __init__(self, group: str) -> None:
        self.group = group

    def __get__(self, env: EnvBase | None, owner: type | None = None) -> Any:
        if env is None:
            return self
        return env._get_specs()[self.group]

    def __set__(self, env: EnvBase, value: TensorSpec) -> None:
        env._set_specs({self.group: value})


class LeafSpec(FullSpec):
    """Descriptor: the only leaf of a group, ``<group>_spec``, or the composite of several."""

    def __get__(self, env: EnvBase | None, owner: type | None = None) -> Any:
        spec = super().__get__(env, owner)
        if env is None:
            return spec
        leaves = leaf_names(spec)
        return spec[leaves[0]] if len(leaves) == 1 else spec


class SideSpec:
    """Descriptor: the groups of one side as a composite, ``input_spec`` and ``output_spec``."""

    def __init__(self, groups: tuple[str, ...]) -> None:
        self.groups = groups

    def __get__(self, env: EnvBase | None, owner: type | None = None) -> Any:
        if env is None:
            return self
        specs = env._get_specs()
        side = Composite(
            {f"full_{group}_spec": specs[group] for group in self.groups}, shape=env.batch_size, device=env.device
        )
        return side.lock_() if env._spec_locked else side

    def __set__(self, env: EnvBase, value: Composite) -> None:
        env._set_specs({group: value.get(f"full_{group}_spec", None) for group in self.groups})


class Unbatched:
    """Descriptor: another spec property without the batch dimensions, ``<name>_unbatched``."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, env: EnvBase | None, owner: type | None = None) -> Any:
        if env is None:
            return self
        spec = getattr(env, self.name)
        return spec[(0,) * len(env.batch_size)] if env.batch_size else spec

    def __set__(self, env: EnvBase, value: TensorSpec) -> None:
        setattr(env, self.name, value.expand(*env.batch_size, *value.shape))


def infer_specs(
    env: EnvBase,
    policy: Callable[[TensorDictBase], object],
    tensordict: TensorDictBase | None,
    action_key: Keys,
    done_key: Keys | None,
    observation_key: Keys | None,
    reward_key: Keys,
) -> dict[str, Composite]:
    """Return the five groups of specs that one reset and one step suggest.

    The arguments are those of :meth:`EnvBase.auto_specs_`; each hook of the environment is called
    once.

    Raises:
        MissingKeyError: if an entry that is named is not written.
    """
    root = env._reset(tensordict)
    acting = root.copy()
    acting = with_output(acting, policy(acting), policy)
    next_root = env._step(acting)
    actions, rewards = as_keys(action_key), as_keys(reward_key)
    flags, observations = as_keys(done_key), as_keys(observation_key)
    written = leaf_keys(next_root)
    if done_key is None:
        flags = [key for key in written if last_name(key) in DONE_NAMES]
    named = {*actions, *rewards, *flags}
    if observation_key is None:
        observations = [key for key in written if key not in named]
    states = [key for key in leaf_keys(root) if key not in {*named, *observations}]
    sources = {
        "action": (acting, actions),
        "state": (root, states),
        "observation": (next_root, observations),
        "reward": (next_root, rewards),
        "done": (next_root, flags),
    }
    specs: dict[str, Composite] = {}
    for group, (record, names) in sources.items():
        for key in names:
            if record.get(key, None) is None:
                found = leaf_keys(record)
                raise MissingKeyError(
                    describe(
                        env,
                        "is named in auto_specs_() but not written",
                        key=key,
                        expected="an entry of that name",
                        found=found,
                        hint=nearest(key, found),
                    )
                )
        spec = make_composite_from_td(record.select(*names), unsqueeze_null_shapes=False)
        spec.shape = env.batch_size
        specs[group] = spec
    done = specs["done"] = Composite(shape=env.batch_size, device=env.device)
    for key in flags:
        done[key] = flag_spec(next_root.get(key).shape, env.device)
    return specs


def fake_step(specs: dict[str, Composite], batch_size: torch.Size, device: torch.device | None) -> TensorDictBase:
    """Return a step of zeros of the five groups of specs."""
    root = TensorDict({}, batch_size, device=device)
    next_root = root.copy()
    for group in (*INPUTS, "observation", "done"):
        root.update(specs[group].zero())
    for group in ("observation", "reward", "done"):
        next_root.update(specs[group].zero())
    return root.set("next", next_root)
