"""Environments seen through transforms."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cached_property
from operator import attrgetter
from typing import Any

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from torch import nn

from torchrl._core.attributes import is_class_attribute
from torchrl._core.devices import check_devices
from torchrl._core.errors import DTypeError, MissingKeyError, ShapeError, describe
from torchrl._core.legacy import old_keywords
from torchrl._core.records.capabilities import supports
from torchrl._core.records.flat_record import Record, takes_flat_records
from torchrl._core.script_tools import auto_unwrap_transformed_env
from torchrl.data import Composite, TensorSpec
from torchrl.data.tensor_specs import Stacked, StackedComposite
from torchrl.data.tensor_specs.categorical import Masked
from torchrl.envs.base import EnvBase
from torchrl.envs.construction import ReadOnly
from torchrl.envs.simulator_state import load_attributes, save_attributes
from torchrl.envs.specs import GROUPS, complete_flags, leaf_names
from torchrl.envs.stepping.compiled_specs import CompiledSpecs, differs_within
from torchrl.envs.stepping.deferred import Deferred
from torchrl.envs.stepping.validation import check_returned
from torchrl.envs.transforms.base import Transform
from torchrl.envs.transforms.compose import Compose

# Of every transform: where it stands, and which entries it reads and writes.
_OF_TRANSFORMS = {*vars(nn.Module()), "_container", "_promised", "inner"}
_OF_TRANSFORMS |= {"in_keys", "in_keys_inv", "out_keys", "out_keys_inv"}


class TransformedEnv(EnvBase):
    """An environment seen through a transform.

    Its specs, batch size and device are those that the transform derives; attributes that it lacks
    are those of ``base_env``.

    A step runs the inverses of the transforms in reverse order on the action, then the step of
    ``base_env``, then ``_step`` of the transforms in order. In the first step, and the first reset,
    the result of each transform is compared with the specs that it derived.

    Args:
        base_env: The environment to transform.
        transform: A transform or a function ``td -> td``; more can be appended. Transforms of an
            environment are in evaluation mode until ``env.train()`` is called.
        auto_unwrap: Whether a ``base_env`` that is a :class:`TransformedEnv` is replaced by its own
            ``base_env``, with clones of its transforms before the new one. ``None`` is
            true unless :class:`torchrl.set_auto_unwrap_transformed_env` has set it to false.
        device: Device to move ``base_env`` to first.

    >>> from torchrl.envs import GymEnv, StepCounter
    >>> env = TransformedEnv(GymEnv("CartPole-v1"), StepCounter(max_steps=5))
    >>> env.rollout(10)["next", "step_count"].max().item()
    5
    """

    _holds_transforms = True

    @old_keywords(env="base_env")
    def __init__(
        self,
        base_env: EnvBase,
        transform: Transform | Callable[[TensorDictBase], TensorDictBase] | None = None,
        *,
        auto_unwrap: bool | None = None,
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
        if auto_unwrap is None:
            auto_unwrap = auto_unwrap_transformed_env(allow_none=True)
        if auto_unwrap is not False and type(base_env) is TransformedEnv:
            inner: Any = base_env
            transform = Compose(*_parts(inner.transform.clone()), *_parts(transform))
            base_env = inner.base_env
        self.base_env = base_env if device is None else base_env.to(device)
        self.transform: Any = transform  # derives the specs: a wrong key is an error here

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "transform":
            self._replace_transform(value)
        else:
            super().__setattr__(name, value)

    def _replace_transform(self, transform: Any) -> None:
        """Use another transform; keep the one before if it does not fit."""
        if not isinstance(transform, Transform):
            transform = Compose() if transform is None else Compose(transform)
        before = self._modules.get("transform")
        _place(transform, self)
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

    # --- decided once ----------------------------------------------------------------------------

    _base: EnvBase
    _parents: dict[tuple[int, ...], TransformedEnv]  # environments before transforms, by those applied
    _parts: list[Transform]  # of the transform, flat
    _nested: NestedPipeline | None
    _pipeline: TransformPipeline | None = None  # with all transforms
    _deferred_pipeline: TransformPipeline | None = None  # in use; without those deferred
    _deferral: Any = None  # the last one
    _deferrable: list[Transform]
    _transforms_take_flat: bool
    _parts_reset_rows: bool
    _may_skip_resets: bool
    _choices: Sequence[tuple[Masked, Masked]] = ()  # specs of actions that no transform changes
    _same_actions = False  # whether no transform changes them

    def empty_cache(self) -> None:
        """Discard what was derived from the specs of ``base_env`` and the transforms."""
        super().empty_cache()
        self.__dict__.pop("_specs", None)
        self.__dict__.pop("_pipeline", None)
        self.__dict__.pop("_deferral", None)
        self.__dict__["_parents"] = {}
        if "_modules" not in self.__dict__ or "transform" not in self._modules:
            return
        # Modules are looked up slowly; a step reads these instead.
        env, transform = self.base_env, self.transform
        parts = transform.leaves()
        nested = NestedPipeline(env, parts) if any(part.drives for part in parts) else None
        takes_flat = takes_flat_records(transform)
        self.__dict__.update(
            _base=env,
            _state_counter=env._state_counter,
            _parts=parts,
            _nested=nested,
            _deferrable=[part for part in parts if supports(part, "deferrable")],
            _transforms_take_flat=takes_flat,
            _parts_reset_rows=nested is None and all(supports(part, "partial_reset_safe") for part in parts),
            _may_skip_resets=nested is None and takes_flat and not any(part.asks_environment for part in parts),
        )
        self._device = transform.transform_env_device(env.device)
        self._batch_size = transform.transform_env_batch_size(env.batch_size)

    @property
    def supports_flat_records(self) -> bool:
        """Whether both the environment and the transform take flat records."""
        return self._transforms_take_flat and takes_flat_records(self._base)

    @property
    def batch_locked(self) -> bool:  # that of base_env
        """Whether records must have the batch size of the environment."""
        return self._base.batch_locked

    @batch_locked.setter
    def batch_locked(self, value: object) -> None:
        ReadOnly.refuse(self)

    @property
    def partial_reset_safe(self) -> bool:  # type: ignore[override]  # that of base_env
        """Whether a reset of some rows returns the others unchanged."""
        return self._parts_reset_rows and supports(self._base, "partial_reset_safe")

    def _get_specs(self) -> dict[str, Composite]:
        specs = self.__dict__.get("_specs")
        if specs is None:
            inner = self.base_env._get_specs()
            specs = {group: inner[group].clone().unlock_() for group in GROUPS}
            before, clones = _leaf_ids(specs["action"]), [*choices(specs["action"])]
            specs = self.transform.derive_specs(specs)
            left = {id(spec) for spec in choices(specs["action"])}
            pairs = zip(choices(inner["action"]), clones, strict=True)
            self.__dict__["_choices"] = [pair for pair in pairs if id(pair[1]) in left]
            self.__dict__["_same_actions"] = before == _leaf_ids(specs["action"])
            complete_flags(specs["done"])
            specs = self.__dict__["_specs"] = {g: self._lock(spec) for g, spec in specs.items()}
        return specs

    def simulator_state(self) -> dict[str, Any]:
        """Return the state of the base environment, and what transforms of others keep; see :meth:`EnvBase`.

        The memory of a transform is part of ``state_dict()``, if it has ``get_extra_state()``; the attributes of one
        that was written elsewhere, and has none, are saved here.
        """
        own = {}
        for i, part in enumerate(self._parts):
            has_state = type(part).get_extra_state is not nn.Module.get_extra_state
            if not (has_state or type(part).__module__.startswith("torchrl.")):
                own[str(i)] = save_attributes(part, _OF_TRANSFORMS)
        return {"base_env": self.base_env.simulator_state(), "transforms": own}

    def load_simulator_state(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`simulator_state` returned."""
        self.base_env.load_simulator_state(state["base_env"])
        for number, attributes in state["transforms"].items():
            load_attributes(self._parts[int(number)], attributes)

    def _close_specs(self) -> None:
        """Lock the specs, which were derived in the constructor."""
        for spec in self._get_specs().values():
            self._lock(spec)

    def _drop_default_reward(self, next_root: Record) -> None:
        if not self._base.reward_keys and self.reward_keys:
            self.empty_cache()  # it was dropped there; derive the specs again

    def _set_specs(self, specs: dict[str, TensorSpec | None]) -> None:
        raise AttributeError(
            f"TransformedEnv: the specs follow from those of {type(self.base_env).__name__} and "
            "the transforms; assign them to base_env and call empty_cache()."
        )

    def add_truncated_keys(self) -> TransformedEnv:
        """Add ``truncated`` to every level of end flags of ``base_env``."""
        self.base_env.add_truncated_keys()
        self.empty_cache()
        return self

    # --- steps -----------------------------------------------------------------------------------

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        if self._nested is not None:
            checks = OutputChecks(self.compiled_specs, "_step") if self._checks_now else None
            next_root = self._nested.step(tensordict, checks)
        else:
            pipeline = self._deferred_pipeline or self._pipeline or self._compile_pipeline()
            inner = tensordict
            if pipeline.inverses:
                inner = tensordict.copy()
                for inverse in pipeline.inverses:
                    inner = inverse(inner)
            next_root = pipeline.result_of(inner)
            if self._checks_now:
                self._drop_default_reward(next_root)
                checks = OutputChecks(self.compiled_specs, "_step")
                for part in pipeline.stepping:
                    next_root = checks.checked(part, part._step(tensordict, next_root))
                checks.finish(next_root)
            else:
                for step in pipeline.steps:
                    next_root = step(tensordict, next_root)
        for inner_spec, spec in self._choices:  # the base environment masks illegal actions
            spec.mask = inner_spec.mask
        return next_root

    def _compile_pipeline(self) -> TransformPipeline:
        self._get_specs()  # some transforms take their keys from the specs
        pipeline = self.__dict__["_pipeline"] = TransformPipeline(self._base, self._parts)
        return pipeline

    def _reset(self, tensordict: TensorDictBase | None, **kwargs: Any) -> TensorDictBase:
        if self._nested is not None:
            checks = OutputChecks(self.compiled_specs, "_reset") if self._checks_now else None
            root = self._nested.reset(tensordict, checks, **kwargs)
        else:
            pipeline = self._deferred_pipeline or self._pipeline or self._compile_pipeline()
            inner = tensordict
            if inner is not None:
                for inverse in pipeline.reset_inverses:
                    inner = inverse(inner)
            root = pipeline.compiled_specs.complete_reset(pipeline.env._reset(inner, **kwargs))
            if self._checks_now:
                checks = OutputChecks(self.compiled_specs, "_reset")
                for part in pipeline.resetting:
                    root = checks.checked(part, part._reset(tensordict, root))
                checks.finish(root)
            else:
                for reset in pipeline.resets:
                    root = reset(tensordict, root)
        for inner_spec, spec in self._choices:
            spec.mask = inner_spec.mask
        return root

    def _set_state(self, tensordict: TensorDictBase) -> TensorDictBase:
        env, inner = self._base, tensordict
        for part in _inverting_at_reset(env, self._parts):
            inner = part._inv_reset(inner)
        root = env.compiled_specs.complete_reset(env._set_state(inner))
        for part in self._parts:
            root = part._reset(tensordict, root)
        for inner_spec, spec in self._choices:
            spec.mask = inner_spec.mask
        return root

    @property
    def draws_from_spec(self) -> bool:
        """Whether a random action is any action of the spec, not drawn by ``base_env`` itself."""
        self._get_specs()
        return not self._same_actions or self._base.draws_from_spec

    @property
    def action_masks(self) -> dict[NestedKey, NestedKey]:
        """The entry of the root that masks the illegal choices of each action."""
        self._get_specs()
        masks = dict(self._base.action_masks) if self._same_actions else {}
        for part in self._parts:
            masks.update(part.action_masks)
        return {action: mask for action, mask in masks.items() if mask in self.observation_keys}

    def rand_action(self, tensordict: TensorDictBase | None = None) -> TensorDictBase:
        """Write a random action, drawn by ``base_env`` if it has a method of its own."""
        if self.draws_from_spec:
            return super().rand_action(tensordict)
        if tensordict is None:
            tensordict = TensorDict({}, self.batch_size, device=self.device)
        return self._base.rand_action(tensordict)

    # --- deferred entries ------------------------------------------------------------------------

    def entries_read(self) -> set[NestedKey] | None:
        """Return what ``base_env`` may read and all that the transforms read or write."""
        entries = self.base_env.entries_read()
        for part in self._parts:
            touched = part.entries_touched()
            if entries is None or touched is None:
                return None
            entries = entries | touched
        return entries

    def defer(self, touched: Collection[NestedKey]) -> list[Deferred]:
        """Leave out, until :meth:`resume`, entries that can be written into all steps at once."""
        plan = self._deferral
        is_valid = plan is not None and plan.touched == touched
        for part, own in plan.late.items() if is_valid else ():
            is_valid = is_valid and part.deferred() == own  # its options are as before
        if not is_valid:
            plan = self.__dict__["_deferral"] = Deferral(self, touched)
        if plan.pipeline is None or not self._trusted:
            return []
        found = self._base.defer(plan.inner_touched)
        if plan.late:
            self.__dict__["_deferred_pipeline"] = plan.pipeline
        for own in plan.late.values():
            found = [*found, *own]
        return found

    def resume(self) -> None:
        """Write every entry in every step again."""
        self.__dict__.pop("_deferred_pipeline", None)
        self._base.resume()

    # --- passed on to base_env -------------------------------------------------------------------

    def _set_seed(self, seed: int | None) -> None:
        self.base_env.set_seed(seed)

    def set_seed(self, seed: int | None = None, static_seed: bool = False) -> int | None:
        """Seed ``base_env``; return the seed for the next environment."""
        return self.base_env.set_seed(seed, static_seed=static_seed)

    def expect_resets(self, expected: bool) -> None:
        """Pass on whether ended rows are always reset, unless a transform may skip resets."""
        self._base.expect_resets(expected and self._may_skip_resets)

    def read_attribute(self, path: str) -> Any:
        """Return an attribute of ``base_env``; see :class:`EnvBase`."""
        return self._base.read_attribute(path)

    @property
    def omitted_next(self) -> tuple[NestedKey, ...]:  # type: ignore[override]  # that of the parts
        """Entries that batches have at the root only; those of the transforms included."""
        return (*self.base_env.omitted_next, *(key for part in self._parts for key in part.omitted_next))

    @property
    def event_flags(self) -> dict[NestedKey, bool]:
        """The flags of events in a step, those of the transforms included."""
        self._get_specs()
        return events_of(self.base_env, self._parts)

    @property
    def repeats_per_step(self) -> int:
        """Number of times that a step takes its action."""
        parts = [getattr(part, "frame_skip", 1) for part in self._parts]
        return self._base.repeats_per_step * math.prod(parts)

    # --- transforms ------------------------------------------------------------------------------

    def append_transform(self, transform: Any) -> TransformedEnv:
        """Append a transform in place; return the environment."""
        return self.insert_transform(len(self._as_compose()), transform)

    def insert_transform(self, index: int, transform: Any) -> TransformedEnv:
        """Insert a transform before the one at ``index``, in place; return the environment."""
        parts = self._as_compose()
        place = index if index >= 0 else len(parts) + index
        parts.insert(index, transform)
        _place(parts[place])
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
        """Derive the specs; remove the new transform if it does not fit."""
        self.empty_cache()
        try:
            self._get_specs()
        except Exception:
            self._as_compose().pop(index)
            raise
        return self

    def before(self, transform: Transform, earlier: Sequence[Transform] = ()) -> TransformedEnv:
        """Return ``base_env`` seen through the transforms before a part of :attr:`transform`.

        Args:
            transform: The transform of this environment.
            earlier: Transforms inside ``transform`` that are applied; copied.
        """
        before = tuple(map(id, earlier))
        if before not in self._parents:
            shared = Compose()
            for part in earlier:
                part = copy.copy(part)
                part.reset_parent()
                shared.append(part)
            self._parents[before] = TransformedEnv(self.base_env, shared, auto_unwrap=False)
        return self._parents[before]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_parents": {}}

    # --- as of every environment -----------------------------------------------------------------

    def to(self, device: torch.device | None) -> TransformedEnv:  # type: ignore[override]  # no dtypes
        """Move ``base_env`` and the transforms to a device."""
        check_devices(self, device=device)
        self.base_env.to(device)
        self.transform.to(device)
        self.empty_cache()
        return self

    @property
    def is_closed(self) -> bool:  # type: ignore[override]  # that of base_env
        """Whether ``base_env`` is closed."""
        return self.base_env.is_closed

    def close(self, *, raise_if_closed: bool = False) -> None:
        """Close ``base_env`` and the transforms."""
        self.base_env.close(raise_if_closed=raise_if_closed)
        self.transform.close()

    def __getattr__(self, name: str) -> Any:
        try:
            return nn.Module.__getattr__(self, name)
        except AttributeError:
            inside = self.__dict__.get("_modules", {}).get("base_env")
            if not is_class_attribute(self, name) and (name.startswith("_") or inside is None):
                raise
        if is_class_attribute(self, name):
            return object.__getattribute__(self, name)  # raises the error of a property
        try:
            return getattr(inside, name)
        except AttributeError:
            while isinstance(inside, TransformedEnv) and not is_class_attribute(inside, name):
                inside = inside.base_env
            if is_class_attribute(inside, name):
                raise
        raise AttributeError(f"neither TransformedEnv nor {type(self.base_env).__name__} has {name!r}")

    def __repr__(self) -> str:
        return f"TransformedEnv(\n    env={self.base_env},\n    transform={self.transform})"


def _parts(transform: Any) -> list[Any]:
    """Return the parts of a composition, free to be used elsewhere, or a transform itself."""
    if not isinstance(transform, Compose):
        return [] if transform is None else [transform]
    transform.set_container(None)  # refuses one that is used already
    return [transform.pop(0) for _ in range(len(transform))]


def _place(transform: Transform, env: TransformedEnv | None = None) -> None:
    """Give a transform its environment; it does not train until the environment is told to."""
    if env is not None:
        transform.set_container(env)
    for module in transform.modules():
        if isinstance(module, Transform):
            module.training = False


class TransformPipeline:
    """The hooks of transforms that change anything: in steps, in resets, and the inverses.

    Args:
        env: The base environment.
        parts: The transforms, in order.
        late: Transforms whose outputs are left out.
    """

    def __init__(self, env: EnvBase, parts: Sequence[Transform], late: Collection[Transform] = ()) -> None:
        self.env, self.compiled_specs, self.result_of = env, env.compiled_specs, env.result_of
        self.inverses = [part._inv_call for part in reversed(parts) if part.in_keys_inv or part.overrides("_inv_call")]
        self.reset_inverses = [part._inv_reset for part in _inverting_at_reset(env, parts)]
        acting = [part for part in parts if part not in late]
        self.stepping = [p for p in acting if p.in_keys or p.overrides("_step", "_call")]
        self.resetting = [p for p in acting if p.in_keys or p.overrides("_reset", "_call")]
        self.steps = [part._step for part in self.stepping]
        self.resets = [part._reset for part in self.resetting]


class Deferral:
    """The transforms of an environment that are deferred, and the pipeline of the others.

    Args:
        env: The environment.
        touched: Entries that others read or write while steps are taken.
    """

    def __init__(self, env: TransformedEnv, touched: Collection[NestedKey]) -> None:
        self.touched = touched
        self.late: dict[Transform, list[Deferred]] = {}
        self.pipeline: TransformPipeline | None = None  # None where nothing can be deferred
        self.inner_touched: set[NestedKey] = set(touched)
        read = env._base.entries_read()
        if read is None or env._nested is not None:
            return
        entries: dict[Transform, set[NestedKey]] = {}
        for part in env._parts:
            own = part.entries_touched()
            if own is None:
                return
            entries[part] = own
        self.inner_touched.update(*entries.values())
        compiled = env.compiled_specs
        self.late = _deferred_parts(env._deferrable, entries, {*read, *touched}, compiled)
        self.pipeline = TransformPipeline(env._base, env._parts, tuple(self.late))


class NestedPipeline:
    """Steps and resets through transforms of which one steps or resets what is inside it itself.

    One inverse and one forward pass are not enough then: each transform gets the step of the
    environment seen through the transforms before it.

    Args:
        env: The base environment.
        parts: The transforms, in order.
    """

    def __init__(self, env: EnvBase, parts: Sequence[Transform]) -> None:
        self.env, self.parts = env, parts
        self._inverting: list[Transform] | None = None
        self._inner_steps = [InnerStep(self, level) for level in range(len(parts))]
        self._step_checks: OutputChecks | None = None

    def step(self, td: Any, checks: OutputChecks | None = None) -> Any:
        """Step the environment seen through all transforms.

        Args:
            td: The root.
            checks: Compares the result of each transform with its specs.
        """
        self._step_checks = checks
        try:
            result = self.step_inner(td, len(self.parts))
        finally:
            self._step_checks = None
        if checks is not None:
            checks.finish(result)
        return result

    def step_inner(self, td: Any, level: int) -> Any:
        """Step the environment seen through the first ``level`` transforms."""
        if level == 0:
            return self.env.result_of(td)
        part = self.parts[level - 1]
        result = part._around_step(self._inner_steps[level - 1], td)
        return result if self._step_checks is None else self._step_checks.checked(part, result)

    def reset(self, td: Any, checks: OutputChecks | None = None, **kwargs: Any) -> Any:
        """Reset the environment seen through all transforms; see :meth:`step`."""
        if self._inverting is None:
            self._inverting = _inverting_at_reset(self.env, self.parts)
        root = self._reset_inner(td, len(self.parts), checks, kwargs)
        if checks is not None:
            checks.finish(root)
        return root

    def _reset_inner(self, td: Any, level: int, checks: OutputChecks | None, kwargs: dict[str, Any]) -> Any:
        if level == 0:
            return self.env.compiled_specs.complete_reset(self.env._reset(td, **kwargs))
        part = self.parts[level - 1]
        inverts = part in (self._inverting or ())

        def reset(td: Any) -> Any:
            given = part._inv_reset(td) if inverts and td is not None else td
            return self._reset_inner(given, level - 1, checks, kwargs)

        root = part._around_reset(reset, self._inner_steps[level - 1], td)
        return root if checks is None else checks.checked(part, root)


class InnerStep:
    """Steps the environment seen through the first ``level`` transforms of a nested pipeline."""

    def __init__(self, pipeline: NestedPipeline, level: int) -> None:
        self._pipeline, self._level = pipeline, level

    def __call__(self, td: Any) -> Any:
        return self._pipeline.step_inner(td, self._level)

    @cached_property
    def event_flags(self) -> dict[NestedKey, bool]:
        """The flags of events in such a step."""
        return events_of(self._pipeline.env, self._pipeline.parts[: self._level])


class OutputChecks:
    """Finds the transform whose output differs from the specs that it derived.

    Args:
        compiled: Those of the environment outside.
        hook: ``"_step"`` or ``"_reset"``; a reset has no reward.
    """

    def __init__(self, compiled: CompiledSpecs, hook: str) -> None:
        self._compiled, self._hook = compiled, hook
        self._groups = ("observation", "reward") if hook == "_step" else ("observation",)
        self._errors: dict[tuple[str, NestedKey], Exception] = {}

    def checked(self, part: Transform, record: Any) -> Any:
        """Return the output of a transform; note which entries differ from its specs from here."""
        check_returned(part, record, None, self._hook)
        for group in self._groups:
            for key, spec in part._promised[group].items():
                error = self._compare(part, record, key, spec)
                if error is None:
                    self._errors.pop((group, key), None)
                else:
                    self._errors.setdefault((group, key), error)
        return record

    def finish(self, record: Record) -> None:
        """Raise the error of an entry that differs in the record outside, too."""
        for (group, key), error in self._errors.items():
            specs = self._compiled.specs[group]
            if key in leaf_names(specs) and self._compare(None, record, key, specs[key]):
                raise error

    def _compare(self, part: Transform | None, record: Record, key: NestedKey, spec: TensorSpec) -> Exception | None:
        if differs_within(record, key, spec):
            return None
        value = record.get(key, None)
        if value is None:
            hint = f"Return it from {self._hook}(), or delete its spec in transform_specs()."
            fact = "is in the specs of this transform but not in its output"
            return MissingKeyError(describe(part, fact, key=key, hint=hint))
        if not isinstance(value, torch.Tensor) or spec.dtype is None:
            return None
        shape = self._compiled.expected(spec.shape, record)
        fact, hint = (
            "differs from the spec of this transform",
            ("Override _transform_spec() or transform_specs() so that the spec describes the output."),
        )
        if value.shape != shape and -1 not in shape:
            expected, found = tuple(shape), tuple(value.shape)
            return ShapeError(describe(part, fact, key=key, expected=expected, found=found, hint=hint))
        if value.dtype != spec.dtype:
            return DTypeError(describe(part, fact, key=key, expected=spec.dtype, found=value.dtype, hint=hint))
        return None


def _deferred_parts(
    candidates: Sequence[Transform],
    entries: Mapping[Transform, set[NestedKey]],
    touched: set[NestedKey],
    compiled: CompiledSpecs,
) -> dict[Transform, list[Deferred]]:
    """Return the transforms that can be deferred, in order, with what writes their entries.

    The entries of such a transform are read and written by no other that is not deferred.

    Args:
        candidates: Transforms that may be deferred.
        entries: What each transform reads or writes.
        touched: What policy and environment read or write in a step.
        compiled: Those of the environment seen through the transforms.
    """
    always = touched.union(compiled.done_keys)
    for part in entries:
        always.update(part.in_keys_inv, part.out_keys_inv)
    late = {}
    for part in candidates:
        if deferred := part.deferred():
            late[part] = deferred
    number = -1
    while len(late) != number:
        number, busy = len(late), set(always)
        keys: list[NestedKey] = []
        for part, own in entries.items():
            if part not in late:
                busy |= own
        for deferred in late.values():
            keys.extend(map(attrgetter("key"), deferred))
        for part, deferred in list(late.items()):
            for one in deferred:
                is_busy = one.key in busy or one.source in busy
                is_double = one.follows_itself and keys.count(one.key) > 1
                if is_busy or is_double or not one.fits(compiled):
                    late.pop(part, None)
    return late


def events_of(env: EnvBase, parts: Sequence[Transform]) -> dict[NestedKey, bool]:
    """Return the flags of events in a step, and their value after a reset."""
    found = dict(env.event_flags)
    for part in parts:
        renamed = dict(zip(part.in_keys, part.out_keys, strict=False))
        found = {renamed.get(key, key): value for key, value in found.items()} | part.event_flags()
    return found


def _inverting_at_reset(env: EnvBase, parts: Sequence[Transform]) -> list[Transform]:
    """Return the transforms that invert the argument of ``reset()``, the last first.

    Those that change only actions do not: a reset has none. None does if the reset of the
    environment reads nothing but its mask.
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
    """Yield the leaves of a spec whose categories a mask can forbid."""
    if isinstance(spec, Stacked | StackedComposite):
        for part in spec.specs:
            yield from choices(part)
    elif isinstance(spec, Composite):
        for part in spec.values():
            yield from choices(part)
    elif isinstance(spec, Masked):
        yield spec


def _leaf_ids(spec: Composite) -> dict[NestedKey, int]:
    return {key: id(leaf) for key, leaf in spec.items(True, True)}
