"""An environment seen through transforms."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cached_property
from itertools import chain
from typing import Any

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase

from torchrl._core.capabilities import supports
from torchrl._core.devices import check_devices
from torchrl._core.entries import is_entrywise
from torchrl._core.legacy import old_keywords
from torchrl.data import Composite, TensorSpec
from torchrl.data.tensor_specs import Stacked, StackedComposite
from torchrl.data.tensor_specs.masks import Masked
from torchrl.envs.common import EnvBase
from torchrl.envs.postponed import Postponed
from torchrl.envs.spec_access import GROUPS, complete_flags, leaf_names
from torchrl.envs.transforms.base import Transform
from torchrl.envs.transforms.compose import Compose
from torchrl.envs.transforms.waiting import waiting


class TransformedEnv(EnvBase):
    """An environment seen through a transform.

    Its specs, batch size and device are those that the transform shows; attributes that it lacks
    are looked up in ``base_env``.

    Args:
        base_env: The environment inside.
        transform: A transform or a function ``td -> td``; more can be appended.
        device: Moves ``base_env`` there first.

    >>> from torchrl.envs import GymEnv, StepCounter
    >>> env = TransformedEnv(GymEnv("CartPole-v1"), StepCounter(max_steps=5))
    >>> env.rollout(10)["next", "step_count"].max().item()
    5
    """

    @old_keywords(env="base_env")
    def __init__(
        self,
        base_env: EnvBase,
        transform: Transform | Callable[[TensorDictBase], TensorDictBase] | None = None,
        *,
        device: torch.device | str | None = None,
    ) -> None:
        check_devices(self, device=device)
        if not isinstance(base_env, EnvBase):
            raise TypeError(
                f"TransformedEnv: expected an EnvBase, found {type(base_env).__name__}. Wrap a "
                "gymnasium environment in GymWrapper first."
            )
        super().__init__(
            spec_locked=base_env._spec_locked,
            allow_done_after_reset=base_env._allow_done_after_reset,
            run_type_checks=base_env._run_type_checks,
        )
        self.base_env = base_env if device is None else base_env.to(device)
        self.transform: Any = transform  # a mistyped key is an error here, not at the first step

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "transform":
            self._replace_transform(value)
        else:
            super().__setattr__(name, value)

    def _replace_transform(self, transform: Any) -> None:
        """Use another transform; if it does not fit, go on with the one before."""
        if not isinstance(transform, Transform):
            transform = Compose() if transform is None else Compose(transform)
        before = self._modules.get("transform")
        transform.set_container(self)
        try:
            super().__setattr__("transform", transform)
            self.empty_cache()
            self._get_specs()
        except Exception:
            transform.reset_parent()
            if before is not None:
                super().__setattr__("transform", before)
                self.empty_cache()
            raise
        if isinstance(before, Transform):
            before.reset_parent()

    @property
    def entrywise(self) -> bool:
        """Whether both the environment and the transform take flat records."""
        return is_entrywise(self.base_env) and is_entrywise(self.transform)

    def empty_cache(self) -> None:
        """Forget what was decided from the specs of the environment inside and the transforms."""
        super().empty_cache()
        self.__dict__.pop("_specs", None)
        self.__dict__.pop("_flow", None)
        if "_modules" in self.__dict__ and "transform" in self._modules:
            # Modules are looked up slowly; a step looks nothing up.
            self.__dict__["_inner"] = (self.base_env, self.transform)
            self.__dict__["_nested"] = nest(self.base_env, self.transform)
            self.__dict__["_resets_rows_alone"] = self._nested is None and all(
                supports(part, "resets_rows_alone") for part in leaves(self.transform)
            )
            self._device = self.transform.transform_env_device(self.base_env.device)
            self._batch_size = self.transform.transform_env_batch_size(self.base_env.batch_size)

    @property
    def batch_locked(self) -> bool:  # type: ignore[override]  # that of the environment inside
        """Whether records must have the batch size of the environment."""
        return self.base_env.batch_locked

    @property
    def resets_rows_alone(self) -> bool:  # type: ignore[override]  # that of the environment inside
        """Whether a reset of some rows returns the others as they are."""
        return self._resets_rows_alone and supports(self._inner[0], "resets_rows_alone")

    def _get_specs(self) -> dict[str, Composite]:
        specs = self.__dict__.get("_specs")
        if specs is None:
            inner = self.base_env._get_specs()
            specs = {group: inner[group].clone().unlock_() for group in GROUPS}
            before, clones = _leaves_of(specs["action"]), [*choices(specs["action"])]
            specs = self.transform.transform_specs(specs)
            left = {id(spec) for spec in choices(specs["action"])}
            pairs = zip(choices(inner["action"]), clones, strict=True)
            self.__dict__["_choices"] = [pair for pair in pairs if id(pair[1]) in left]
            self.__dict__["_same_actions"] = before == _leaves_of(specs["action"])
            complete_flags(specs["done"])
            specs = self.__dict__["_specs"] = {g: self._lock(spec) for g, spec in specs.items()}
        return specs

    def _set_specs(self, specs: dict[str, TensorSpec | None]) -> None:
        raise AttributeError(
            f"TransformedEnv: the specs follow from those of {type(self.base_env).__name__} and "
            "the transforms; assign them to base_env and call empty_cache()."
        )

    def add_truncated_keys(self) -> TransformedEnv:
        """Give every level of end flags of the environment inside a ``truncated``."""
        self.base_env.add_truncated_keys()
        self.empty_cache()
        return self

    # --- data ------------------------------------------------------------------------------------

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        outcome_of = self._outcome_of if self._nested is None else self._nested.step
        following = outcome_of(tensordict)
        self._show_masks()
        return following

    @property
    def draws_from_spec(self) -> bool:
        """Whether any action of the spec may be a random action; not so for a class's own draw."""
        self._get_specs()
        return not self._same_actions or self._inner[0].draws_from_spec

    @property
    def action_masks(self) -> dict[NestedKey, NestedKey]:
        """The entry of the root that says which choices of an action are legal, by action."""
        self._get_specs()
        masks = dict(self._inner[0].action_masks) if self._same_actions else {}
        for part in leaves(self.transform):
            masks.update(part.action_masks)
        return {action: mask for action, mask in masks.items() if mask in self.observation_keys}

    def rand_action(self, tensordict: TensorDictBase | None = None) -> TensorDictBase:
        """Write a random action, drawn by the environment inside if it has a way of its own."""
        if self.draws_from_spec:
            return super().rand_action(tensordict)
        if tensordict is None:
            tensordict = TensorDict({}, self.batch_size, device=self.device)
        return self._inner[0].rand_action(tensordict)

    _same_actions = False  # whether no transform changes them

    def _show_masks(self) -> None:
        """Allow the choices that the environment inside allows now."""
        for inside, ours in self._choices:
            ours.mask = inside.mask

    _choices: Sequence[tuple[Masked, Masked]] = ()  # of actions that no transform changes

    def _outcome_of(self, tensordict: TensorDictBase) -> TensorDictBase:
        flow = self._late_flow or self._flow or self._plan_flow()
        inner = tensordict
        if flow.inverses:
            inner = tensordict.copy()
            for inverse in flow.inverses:
                inner = inverse(inner)
        following = flow.outcome_of(inner)
        for step in flow.steps:
            following = step(tensordict, following)
        return following

    def _plan_flow(self) -> Flow:
        self._get_specs()  # some learn from the specs which entries concern them
        flow = self.__dict__["_flow"] = Flow(self.base_env, leaves(self.transform))
        return flow

    _flow: Flow | None = None  # with all transforms
    _late_flow: Flow | None = None  # without those that wait

    def entries_read(self) -> set[NestedKey] | None:
        """Return what the environment inside may read, and all that the transforms touch."""
        inside, ours = self.base_env.entries_read(), self._entries_touched()
        return None if inside is None or ours is None else {*inside, *ours}

    def _entries_touched(self) -> set[NestedKey] | None:
        touched: set[NestedKey] = set()
        for part in leaves(self.transform):
            own = part.entries_touched()
            if own is None:
                return None
            touched |= own
        return touched

    def postpone(self, touched: Collection[NestedKey]) -> list[Postponed]:
        """Leave out, until :meth:`resume`, entries that can be written into all steps at once."""
        inside, ours = self.base_env.entries_read(), self._entries_touched()
        if inside is None or ours is None or self._nested is not None or not self._trusted:
            return []
        inner = self.base_env.postpone({*ours, *touched})
        late = waiting(leaves(self.transform), {*inside, *touched}, self.plan)
        if late:
            flow = Flow(self.base_env, leaves(self.transform), late)
            self.__dict__["_late_flow"] = flow
        return [*inner, *chain.from_iterable(late.values())]

    def resume(self) -> None:
        """Leave nothing out any more."""
        self.__dict__.pop("_late_flow", None)
        self.base_env.resume()

    def _reset(self, tensordict: TensorDictBase | None, **kwargs: Any) -> TensorDictBase:
        if self._nested is not None:
            root = self._nested.reset(tensordict, **kwargs)
        else:
            flow = self._late_flow or self._flow or self._plan_flow()
            inner = tensordict
            if tensordict is not None:
                for inverse in flow.reset_inverses:
                    inner = inverse(inner)
            root = flow.plan.complete_reset(flow.env._reset(inner, **kwargs))
            for reset in flow.resets:
                root = reset(tensordict, root)
        self._show_masks()
        return root

    def _set_state(self, tensordict: TensorDictBase) -> TensorDictBase:
        env, transform = self._inner
        inner = tensordict
        for part in _inverting_at_reset(env, leaves(transform)):
            inner = part._inv_reset(inner)
        root = transform._reset(tensordict, env.plan.complete_reset(env._set_state(inner)))
        self._show_masks()
        return root

    def _set_seed(self, seed: int | None) -> None:
        self.base_env.set_seed(seed)

    def set_seed(self, seed: int | None = None, static_seed: bool = False) -> int | None:
        """Seed the environment inside; return the seed for the next one."""
        return self.base_env.set_seed(seed, static_seed=static_seed)

    @property
    def moves(self) -> int:
        """How often this or the environment inside was moved."""
        return self._inner[0].moves

    def count_move(self) -> None:
        """Say that the environment inside is about to move."""
        self._inner[0].count_move()

    def expect_resets(self, expected: bool) -> None:
        """Pass it on, unless the transform may see to it that ended rows are not reset."""
        env, transform = self._inner
        waits = self._nested is None and is_entrywise(transform)
        waits = waits and not any(part.asks_environment for part in leaves(transform))
        env.expect_resets(expected and waits)

    def read_attribute(self, path: str) -> Any:
        """Return an attribute of the environment inside; see :class:`EnvBase`."""
        return self._inner[0].read_attribute(path)

    @property
    def event_flags(self) -> dict[NestedKey, bool]:
        """The flags that tell what happened in a step, those of the transforms, too."""
        self._get_specs()
        return events_of(self.base_env, leaves(self.transform))

    @property
    def repeats_per_step(self) -> int:
        """How often a step takes its action."""
        parts = [getattr(part, "frame_skip", 1) for part in leaves(self.transform)]
        return self._inner[0].repeats_per_step * math.prod(parts)

    # --- transforms ------------------------------------------------------------------------------

    def append_transform(self, transform: Any) -> TransformedEnv:
        """Add a transform on the outside, in place, and return the environment."""
        return self.insert_transform(len(self._as_compose()), transform)

    def insert_transform(self, index: int, transform: Any) -> TransformedEnv:
        """Add a transform before the one at ``index``, in place, and return the environment."""
        parts = self._as_compose()
        place = index if index >= 0 else len(parts) + index
        parts.insert(index, transform)
        return self._checked(place)

    def _as_compose(self) -> Compose:
        transform: Any = self.transform
        if not isinstance(transform, Compose):
            transform.reset_parent()
            transform = Compose(transform)
            transform.set_container(self)
            super().__setattr__("transform", transform)
        return transform

    def _checked(self, index: int) -> TransformedEnv:
        """Derive the specs; a transform that does not fit is taken out again."""
        self.empty_cache()
        try:
            self._get_specs()
        except Exception:
            self._as_compose().pop(index)
            raise
        return self

    def before(self, transform: Transform, earlier: tuple[Transform, ...] = ()) -> TransformedEnv:
        """Return the environment inside, seen through ``earlier`` transforms of ours."""
        shared = Compose()
        for part in earlier:
            part = copy.copy(part)
            part.reset_parent()
            shared.append(part)
        return TransformedEnv(self.base_env, shared)

    # --- the rest --------------------------------------------------------------------------------

    def to(self, device: Any) -> TransformedEnv:  # type: ignore[override]  # no dtypes
        """Move the environment inside and the transforms to a device."""
        check_devices(self, device=device)
        self.base_env.to(device)
        self.transform.to(device)
        self.empty_cache()
        return self

    def close(self, *, raise_if_closed: bool = True) -> None:
        """Close the environment inside and the transforms."""
        self.base_env.close(raise_if_closed=raise_if_closed)
        self.transform.close()
        self.is_closed = True

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("_") or "base_env" not in self.__dict__.get("_modules", {}):
                raise
            try:
                return getattr(self.base_env, name)
            except AttributeError:
                raise AttributeError(
                    f"neither TransformedEnv nor {type(self.base_env).__name__} has {name!r}"
                ) from None

    def __repr__(self) -> str:
        return f"TransformedEnv(\n    env={self.base_env},\n    transform={self.transform})"


class Flow:
    """Which transforms change anything on the way in, on the way out, and at a reset.

    Args:
        env: The environment inside.
        parts: The transforms, in order.
        late: Those that are left out on the way out.
    """

    def __init__(
        self, env: EnvBase, parts: Sequence[Transform], late: Collection[Transform] = ()
    ) -> None:
        self.env, self.plan, self.outcome_of = env, env.plan, env.outcome_of
        acting = [part for part in parts if part not in late]
        self.inverses = [part._inv_call for part in reversed(parts) if _acts(part, "inv")]
        self.reset_inverses = [part._inv_reset for part in _inverting_at_reset(env, parts)]
        self.steps = [part._step for part in acting if _acts(part, "step")]
        self.resets = [part._reset for part in acting if _acts(part, "reset")]


class Nest:
    """Step and reset through transforms of which one drives what is inside of it.

    Otherwise one pass in and one pass out are enough; here each transform is handed the step of the
    environment seen through those before it.

    Args:
        env: The environment inside.
        chain: The transforms, in order.
    """

    def __init__(self, env: EnvBase, chain: Sequence[Transform]) -> None:
        self.env, self.chain = env, chain
        self._inverting: list[Transform] | None = None
        self._inner_steps = [InnerStep(self, level) for level in range(len(chain))]

    def step(self, td: Any, level: int = -1) -> Any:
        """Step the environment seen through the first ``level`` transforms, or all."""
        if level == 0:
            return self.env.outcome_of(td)
        inner = level - 1 if level > 0 else len(self.chain) - 1
        return self.chain[inner]._around_step(self._inner_steps[inner], td)

    def reset(self, td: Any, level: int = -1, **kwargs: Any) -> Any:
        """Reset the environment seen through the first ``level`` transforms, or all."""
        if level == 0:
            return self.env.plan.complete_reset(self.env._reset(td, **kwargs))
        if self._inverting is None:
            self._inverting = _inverting_at_reset(self.env, self.chain)
        inner = level - 1 if level > 0 else len(self.chain) - 1
        part = self.chain[inner]
        inverts = part in self._inverting

        def reset(td: Any) -> Any:
            given = part._inv_reset(td) if inverts and td is not None else td
            return self.reset(given, inner, **kwargs)

        return part._around_reset(reset, self._inner_steps[inner], td)


class InnerStep:
    """Steps the environment seen through the first transforms of a nest.

    Args:
        nest: The nest.
        level: How many transforms.
    """

    def __init__(self, nest: Nest, level: int) -> None:
        self._nest, self._level = nest, level

    def __call__(self, td: Any) -> Any:
        return self._nest.step(td, self._level)

    @cached_property
    def event_flags(self) -> dict[NestedKey, bool]:
        """The flags that tell what happened in such a step."""
        return events_of(self._nest.env, self._nest.chain[: self._level])


def events_of(env: EnvBase, chain: Sequence[Transform]) -> dict[NestedKey, bool]:
    """Return the flags that tell what happened in a step, and their value after a reset."""
    found = dict(env.event_flags)
    for part in chain:
        renamed = dict(zip(part.in_keys, part.out_keys, strict=False))
        found = {renamed.get(key, key): value for key, value in found.items()} | part.event_flags()
    return found


def nest(env: EnvBase, transform: Transform) -> Nest | None:
    """Return what steps ``env`` through a transform that drives it; ``None`` if it does not."""
    chain = leaves(transform)
    return Nest(env, chain) if any(part.drives for part in chain) else None


def _inverting_at_reset(env: EnvBase, parts: Sequence[Transform]) -> list[Transform]:
    """Return the transforms that act on what reset() is given, the outermost first.

    Those that change only actions do not: a reset has none. Nor does any, around an environment
    whose reset reads nothing but its mask.
    """
    if supports(env, "reads_action_only"):
        return []
    actions = set(leaf_names(env._get_specs()["action"]))
    found = []
    for part in parts:
        if part.inverts_at_reset(actions):
            found.append(part)
        pairs = zip(part.in_keys_inv, part.out_keys_inv, strict=True)
        actions.update([outer for inner, outer in pairs if inner in actions])
    return found[::-1]


def choices(spec: TensorSpec) -> Iterator[Masked]:
    """Find the specs, in the leaves of a spec, whose categories can be forbidden by a mask."""
    if isinstance(spec, Stacked | StackedComposite):
        for part in spec.specs:
            yield from choices(part)
    elif isinstance(spec, Composite):
        for part in spec.values():
            yield from choices(part)
    elif isinstance(spec, Masked):
        yield spec


def _leaves_of(spec: Composite) -> dict[NestedKey, int]:
    """Return the identity of each leaf."""
    return {key: id(leaf) for key, leaf in spec.items(True, True)}


def leaves(transform: Transform) -> list[Transform]:
    """Return the transforms that a composition is made of, or the only one."""
    return transform.leaves() if isinstance(transform, Compose) else [transform]


def _acts(transform: Transform, way: str) -> bool:
    if way == "inv":
        return bool(transform.in_keys_inv) or transform.overrides("_inv_call")
    return bool(transform.in_keys) or transform.overrides(f"_{way}", "_call")
