"""The base class of environments: specs, reset, step, and what follows from them."""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from torch import Tensor, nn
from typing_extensions import Self

from torchrl._core.attributes import module_attribute
from torchrl._core.devices import check_devices
from torchrl._core.errors import MissingKeyError, ResetError, describe
from torchrl._core.generators import next_seed
from torchrl._core.keys import next_key
from torchrl._core.legacy import old_attributes
from torchrl._core.mdp import DONE, last_name
from torchrl._core.records.capabilities import supports
from torchrl._core.records.flat_record import Record, takes_flat_records
from torchrl.data import Composite, TensorSpec
from torchrl.data.tensor_specs.helpers import as_device
from torchrl.envs._legacy import OLD_ATTRIBUTES
from torchrl.envs.construction import ReadOnly, Reference, accept_options, names_argument
from torchrl.envs.simulator_state import load_simulator_state, simulator_state
from torchrl.envs.specs import (
    GROUPS,
    INPUTS,
    OUTPUTS,
    FullSpec,
    Keys,
    LeafSpec,
    SideSpec,
    Unbatched,
    complete_group,
    default_spec,
    fake_step,
    flag_spec,
    infer_specs,
)
from torchrl.envs.stepping.compiled_hooks import compile_hooks, restore_hooks
from torchrl.envs.stepping.compiled_specs import CompiledSpecs
from torchrl.envs.stepping.deferred import Deferred
from torchrl.envs.stepping.partial_reset import freeze_rows, is_void, pop_masks, restore_rows, step_mask
from torchrl.envs.stepping.reused_memory import MemoryWatch, own_actions
from torchrl.envs.stepping.rollout import rollout
from torchrl.envs.stepping.validation import check_given, check_returned, placed, wrong_batch

if TYPE_CHECKING:
    from torchrl.envs.batched import ParallelEnv


@old_attributes(OLD_ATTRIBUTES)
class EnvBase(nn.Module, ABC):
    """One or many Markov decision processes that read and write tensordicts.

    Name the specs in ``__init__`` (``observation_spec``, ``action_spec``, and where they differ
    from a float ``reward [*B, 1]`` and a ``done [*B, 1]``, ``reward_spec`` and ``done_spec``), then
    fill the hooks. Specs can be edited in place until ``__init__`` returns, and an environment
    without batch size may name them before it calls ``super().__init__()``. One whose first step
    has no reward, and that names none, has none.

    Args:
        device: Device of what the environment returns; ``None`` leaves tensors where they are.
        batch_size: Number of processes run at once, ``[*B]``.
        run_type_checks: Validate every step against the specs, not the first alone.
        allow_done_after_reset: Accept an episode that is over after a reset.
        spec_locked: Refuse edits inside ``input_spec`` and ``output_spec``; assigning a whole spec
            (``env.action_spec = ...``) is always possible.
        auto_reset: The environment resets itself within the step that ends an episode, and returns
            the first observation of the next one; the caller resets it all the same. What is built
            is then an :class:`~torchrl.envs.AutoResetEnv` around it.
        auto_reset_replace: Fill the last observation of an episode, which such an environment does
            not return, with NaN; otherwise the first one of the next episode is in its place.

    The constructor of every subclass also takes the last three, ``compile`` (``True``, or keywords
    of :meth:`compile`) and ``policy`` (a recurrent policy; the transforms that it needs are added),
    whether it names them or not: ``__init_subclass__`` wraps it once, when the class is made.

    Hooks:
        _reset: ``td | None -> td`` with the first observations; always a new record.
        _step: ``td -> td`` with observation, reward, and the end flags that can rise; all others are
            false.
        _set_seed: seed every source of chance.
        _set_state: ``td -> td``; restore the state found in ``td``, for ``reset(set_state=True)``.
        _follow: move to :attr:`device` what is neither a module nor a parameter nor a spec.
        simulator_state, load_simulator_state: the state in the middle of an episode, if it is not in attributes.
        configuration: names of attributes that hold no such state.

    Reads: the action, and what ``state_spec`` names.
    Writes: at the root what ``observation_spec`` and ``done_spec`` name; under ``"next"`` the same
        and the reward.

    >>> from torchrl.data import Bounded, Composite, Unbounded
    >>> class Walk(EnvBase):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.observation_spec = Composite(position=Unbounded((1,)))
    ...         self.action_spec = Bounded(-1, 1, (1,))
    ...     def _reset(self, td):
    ...         return TensorDict(position=torch.zeros(1))
    ...     def _step(self, td):
    ...         position = td["position"] + td["action"]
    ...         far = position.abs() > 3
    ...         return TensorDict(position=position, reward=-position.abs(), terminated=far)
    ...     def _set_seed(self, seed):
    ...         torch.manual_seed(seed)
    >>> Walk().rollout(3)["next", "reward"].shape
    torch.Size([3, 1])
    """

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

    batch_locked: Any = ReadOnly(True)
    is_closed = False
    _batch_size = torch.Size([])
    _device: torch.device | None = None
    _spec_locked = True
    # Whether a partial _reset returns the other rows as they are; all flags are at one level.
    partial_reset_safe = False
    # Whether a step reads nothing of its root but the action, and a reset nothing but its mask.
    reads_action_only = False
    supports_flat_records: Any = False
    omitted_next: tuple[NestedKey, ...] = ()  # entries that batches have at the root only
    _holds_transforms = False  # whether append_transform() changes the environment itself
    # Whether steps and resets are checked against the specs: the first ones are.
    _checks_now = True
    _trusted = False  # whether _step returns complete records
    _loop_watch: MemoryWatch | None = None
    _collector: Callable[[], object] | None = None

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        if isinstance(locked := vars(cls).get("batch_locked"), bool):
            cls.batch_locked = ReadOnly(locked)
        if "__init__" in vars(cls):
            cls.__init__ = accept_options(cls.__init__)  # type: ignore[method-assign]  # decorated

    def __new__(
        cls, *args: Any, policy: Any = None, auto_reset: bool = False, auto_reset_replace: bool = True, **kwargs: Any
    ) -> Any:
        if (other := cls._built_instead(args, kwargs)) is not None:
            return other
        if auto_reset and not cls._holds_transforms:
            options = {**kwargs, "policy": policy}
            return cls(*args, **options)._resetting_itself(auto_reset_replace)
        if policy is None or cls._holds_transforms or names_argument(cls.__init__, "policy"):
            return super().__new__(cls)
        return cls(*args, **kwargs)._with_needs_of(policy)

    @classmethod
    def _built_instead(cls, args: tuple, kwargs: dict[str, Any]) -> EnvBase | None:
        """Return an environment to build in place of one of this class."""
        return None

    if TYPE_CHECKING:  # set by envs/convenience.py, which imports this module

        def append_transform(self, transform: object) -> EnvBase: ...
        def check_env_specs(self, *args: object, **kwargs: object) -> None: ...
        @classmethod
        def make_parallel(
            cls, create_env_fn: object, *, num_envs: int = 1, **parallel_kwargs: object
        ) -> ParallelEnv: ...
        @classmethod
        def register_gym(cls, id: str, **options: Any) -> None: ...
        def _apply_options(self, **options: Any) -> None: ...
        def _with_needs_of(self, policy: Any) -> EnvBase: ...
        def _resetting_itself(self, replace: bool) -> EnvBase: ...

    def __getattr__(self, name: str) -> Any:
        return module_attribute(self, name)

    def __init__(
        self,
        *,
        device: torch.device | str | int | None = None,
        batch_size: torch.Size | tuple[int, ...] | list[int] | None = None,
        run_type_checks: bool = False,
        allow_done_after_reset: bool = False,
        spec_locked: bool = True,
        auto_reset: bool = False,
        auto_reset_replace: bool = True,
    ) -> None:
        check_devices(self, device=device)
        super().__init__()
        self._device = as_device(device)
        self._batch_size = torch.Size(batch_size or ())
        self._run_type_checks = run_type_checks
        self._allow_done_after_reset = allow_done_after_reset
        self._spec_locked = spec_locked
        self._state_counter = [0]  # of resets, steps and rollouts; shared by wrappers
        if "_specs" in self.__dict__:  # named before this call, without batch size and device
            self._set_specs(dict(self.__dict__["_specs"]))
        if auto_reset:  # the constructor of the class itself has been passed it, and wraps the environment
            hint = f"Pass it where the environment is built, or use AutoResetEnv({type(self).__name__}())."
            raise ValueError(describe(self, "cannot pass auto_reset to super().__init__()", hint=hint))

    @abstractmethod
    def _reset(self, tensordict: TensorDictBase | None, **kwargs: Any) -> TensorDictBase: ...

    @abstractmethod
    def _step(self, tensordict: TensorDictBase) -> TensorDictBase: ...

    @abstractmethod
    def _set_seed(self, seed: int | None) -> object: ...

    def _set_state(self, tensordict: TensorDictBase) -> TensorDictBase:
        raise ResetError(
            describe(
                self, "cannot restore a state", hint="Call reset() without set_state, or write the hook _set_state(td)."
            )
        )

    @property
    def device(self) -> torch.device | None:
        """Device of what the environment returns."""
        return self._device

    @property
    def batch_size(self) -> torch.Size:
        """Number of processes run at once, ``[*B]``."""
        return self._batch_size

    @batch_size.setter
    def batch_size(self, value: torch.Size | tuple[int, ...]) -> None:
        self._batch_size = torch.Size(value)
        self.empty_cache()

    @property
    def shape(self) -> torch.Size:
        """Same as ``batch_size``."""
        return self.batch_size

    def _get_specs(self) -> dict[str, Composite]:
        """Return the five groups of specs, completed at the first call."""
        specs = self.__dict__.setdefault("_specs", {})
        if len(specs) < len(GROUPS):
            groups = [group for group in GROUPS if group not in specs]
            self.__dict__["_unnamed"] = set(groups)
            names_any = bool(specs)
            for group in groups:
                specs[group] = self._lock(default_spec(self, group, has_reward=names_any))
        return specs

    def _set_specs(self, specs: dict[str, TensorSpec | None]) -> None:
        own = self.__dict__.setdefault("_specs", {})
        for group, spec in specs.items():
            own[group] = self._lock(complete_group(self, group, spec))
        self.__dict__.get("_unnamed", set()).difference_update(specs)
        self.empty_cache()

    def _lock(self, spec: Composite) -> Composite:
        """Lock a spec, if specs are locked and the constructors have returned."""
        return spec.lock_() if self._spec_locked and not self.__dict__.get("_constructors") else spec

    def _close_specs(self) -> None:
        """Complete and lock the specs that the constructors named and edited."""
        specs: dict[str, Composite] | None = self.__dict__.get("_specs")
        if specs is not None:
            unnamed = self.__dict__.get("_unnamed", set())
            self._set_specs({group: spec for group, spec in specs.items() if group not in unnamed})
            for group in unnamed:
                self._lock(specs[group])

    def _drop_default_reward(self, next_root: Record) -> None:
        """Stop promising a reward that was not named if the first step has none."""
        if "reward" in self.__dict__.get("_unnamed", ()) and next_root.get("reward", None) is None:
            self._set_specs({"reward": None})

    @property
    def is_spec_locked(self) -> bool:
        """Whether the specs refuse edits in place."""
        return self._spec_locked

    def set_spec_lock_(self, mode: bool = True) -> Self:
        """Lock or unlock the specs against edits in place; call :meth:`empty_cache` after edits."""
        self._spec_locked = mode
        for spec in self._get_specs().values():
            spec.lock_() if mode else spec.unlock_()
        self.empty_cache()
        return self

    def empty_cache(self) -> None:
        """Forget what was decided from the specs; the next step decides it again."""
        self.__dict__.pop("_compiled_specs", None)
        self.__dict__.pop("_trusted", None)
        self.__dict__.pop("_checks_now", None)

    @property
    def compiled_specs(self) -> CompiledSpecs:
        """What is known from the specs: keys, shapes, checks."""
        compiled = self.__dict__.get("_compiled_specs")
        if compiled is None:
            compiled = self.__dict__["_compiled_specs"] = CompiledSpecs(self)
        return compiled

    @property
    def specs(self) -> Composite:
        """Both sides in one composite: ``input_spec`` and ``output_spec``."""
        return Composite(input_spec=self.input_spec, output_spec=self.output_spec, shape=self.batch_size)

    @property
    def action_keys(self) -> list[NestedKey]:
        """Names of the actions, flat ones first."""
        return self.compiled_specs.action_keys

    @property
    def action_key(self) -> NestedKey:
        """Name of the only action."""
        return self._only(self.action_keys, "action")

    @property
    def reward_keys(self) -> list[NestedKey]:
        """Names of the rewards."""
        return self.compiled_specs.reward_keys

    @property
    def reward_key(self) -> NestedKey:
        """Name of the only reward."""
        return self._only(self.reward_keys, "reward")

    @property
    def done_keys(self) -> list[NestedKey]:
        """Names of all end flags: ``done``, ``terminated`` and, if it can happen, ``truncated``."""
        return self.compiled_specs.done_keys

    @property
    def done_key(self) -> NestedKey:
        """Name of the only ``done`` flag."""
        return self._only([key for key in self.done_keys if last_name(key) == DONE], "done flag")

    @property
    def done_keys_groups(self) -> list[list[NestedKey]]:
        """Names of the end flags, grouped by nesting level."""
        return [group.keys for group in self.compiled_specs.groups]

    @property
    def reset_keys(self) -> list[NestedKey]:
        """Names of the ``_reset`` masks, one a nesting level of the flags."""
        return self.compiled_specs.reset_keys

    @property
    def observation_keys(self) -> list[NestedKey]:
        """Names of the observations."""
        return self.compiled_specs.observation_keys

    @property
    def state_keys(self) -> list[NestedKey]:
        """Names of what a step reads besides the action."""
        return self.compiled_specs.state_keys

    def _only(self, keys: list[NestedKey], what: str) -> NestedKey:
        if len(keys) != 1:
            raise MissingKeyError(describe(self, f"has {len(keys)} {what}s", found=keys, hint="Use the plural."))
        return keys[0]

    def add_truncated_keys(self) -> EnvBase:
        """Give every level of end flags a ``truncated`` beside its ``done``."""
        spec = self.full_done_spec.clone()
        for group in self.compiled_specs.groups:
            if not group.has_truncated:
                spec[group.truncated] = flag_spec(group.shape, self.device)
        self.full_done_spec = spec
        return self

    def auto_specs_(
        self,
        policy: Callable[[TensorDictBase], TensorDictBase],
        *,
        tensordict: TensorDictBase | None = None,
        action_key: Keys = "action",
        done_key: Keys | None = None,
        observation_key: Keys | None = None,
        reward_key: Keys = "reward",
    ) -> EnvBase:
        """Give the environment the specs that one reset and one step suggest; return it.

        Shapes and dtypes are known then, bounds are not.

        Args:
            policy: Writes the actions, ``td -> td``.
            tensordict: Passed to the reset.
            action_key: The actions.
            done_key: The end flags; every ``done``, ``terminated`` and ``truncated`` if ``None``.
            observation_key: The observations; all that a reset or a step writes beside flags and
                rewards if ``None``. What is left of a root is a state.
            reward_key: The rewards.

        Raises:
            MissingKeyError: if an entry that is named here is not written.

        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl.envs import EnvBase
        >>> class Count(EnvBase):
        ...     def _reset(self, td):
        ...         return TensorDict(count=torch.zeros(1))
        ...     def _step(self, td):
        ...         count = td["count"] + td["move"]
        ...         return TensorDict(count=count, reward=count, done=count > 3)
        ...     def _set_seed(self, seed): ...
        >>> env = Count().auto_specs_(lambda td: td.set("move", torch.ones(1)), action_key="move")
        >>> env.action_keys, env.observation_keys, env.rollout(3).shape
        (['move'], ['count'], torch.Size([3]))
        """
        keys = (action_key, done_key, observation_key, reward_key)
        self._set_specs(dict(infer_specs(self, policy, tensordict, *keys)))
        return self

    def fake_tensordict(self) -> TensorDictBase:
        """Return a step of zeros, with every entry that a real step has."""
        step = fake_step(self._get_specs(), self.batch_size, self.device)
        return step.exclude(*map(next_key, self.omitted_next)) if self.omitted_next else step

    def all_actions(self, tensordict: TensorDictBase | None = None) -> TensorDictBase:
        """Return every action that can be taken now, ``[N, *B]``; masks leave out what cannot.

        Args:
            tensordict: Passed to a reset first, if given.

        Raises:
            SpecError: if there are infinitely many.

        >>> from torchrl.envs import GymEnv
        >>> GymEnv("CartPole-v1").all_actions()["action"]
        tensor([[1, 0],
                [0, 1]])
        """
        if tensordict is not None:
            self.reset(tensordict)
        return self.full_action_spec.enumerate(use_mask=True)

    def cardinality(self, tensordict: TensorDictBase | None = None) -> float:
        """Return the number of actions, those under a mask counted; infinite for a continuous one.

        Args:
            tensordict: Passed to a reset first, if given.
        """
        if tensordict is not None:
            self.reset(tensordict)
        return self.full_action_spec.cardinality()

    # --- reset -----------------------------------------------------------------------------------

    def reset(self, tensordict: Any = None, *, set_state: bool | None = None, **kwargs: object) -> TensorDictBase:
        """Start new episodes; return their first root.

        Args:
            tensordict: Updated and returned, if given. A boolean ``_reset`` beside a ``done`` (and
                of its shape) is true where a row is reset; the others keep their values.
            set_state: Restore the state that ``tensordict`` holds, if the environment can.
            kwargs: Passed to the environment's ``_reset``.

        Raises:
            ResetError: if an episode is over after the reset, if a row that is not reset is not in
                ``tensordict``, or if the environment cannot ``set_state``.
        """
        compiled = self.compiled_specs
        masks: dict[NestedKey, Tensor] = {}
        if tensordict is not None:
            check_given(self, tensordict, "reset")
            masks = pop_masks(self, tensordict)
            if masks and is_void(self, masks):
                return tensordict
        self._state_counter[0] += 1
        if set_state and tensordict is None:
            raise ResetError(describe(self, "cannot set a state without a tensordict"))
        if set_state:
            root = self._set_state(tensordict)
        elif masks:
            root = self._reset_rows(tensordict, masks, **kwargs)
        else:
            root = self._reset(tensordict, **kwargs)
        if root is tensordict or not isinstance(root, TensorDictBase):
            check_returned(self, root, tensordict, "_reset")
        if compiled.device is not None and root.device != compiled.device:
            root = placed(root, compiled.device)
        if compiled.has_batch_lock and root.batch_size != self._batch_size:
            raise wrong_batch(self, "returned from _reset() a tensordict", root.batch_size)
        compiled.complete_reset(root)
        if self._checks_now:
            compiled.check_result(root, ("observation", "done"))
        if masks:
            restore_rows(self, tensordict, root, masks)
        if not self._allow_done_after_reset:
            compiled.check_alive(root, masks)
        return root if tensordict is None else tensordict.update(root)

    def _reset_rows(self, record: TensorDictBase, masks: dict[NestedKey, Tensor], **kwargs: object) -> TensorDictBase:
        for key, mask in masks.items():
            record.set(key, mask)
        root = self._reset(record, **kwargs)
        for key in masks:
            record.pop(key)
        return root

    @property
    def state_version(self) -> int:
        """Number of resets, steps and rollouts so far, by which a loop knows a stale root."""
        return self._state_counter[0]

    def bump_state_version(self) -> None:
        """Count a reset, a step or a rollout: roots that others keep are stale from now on."""
        self._state_counter[0] += 1

    def maybe_reset(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Reset, in place, the rows whose episode has ended."""
        return self.reset(tensordict) if EnvBase.any_done(self, tensordict) else tensordict

    def any_done(self, tensordict: TensorDictBase) -> bool:
        """Return whether any episode has ended; if so, write ``_reset`` masks beside the flags."""
        ended = self.compiled_specs.ended(tensordict)
        if ended:
            for key, mask in self.compiled_specs.reset_masks(tensordict).items():
                tensordict.set(key, mask)
        return ended

    def reset_entries(self, root: Any) -> TensorDictBase:
        """Reset the rows that have ended, without checks; for the stepping loop."""
        compiled = self.compiled_specs
        masks = {} if compiled.is_single else compiled.reset_masks(root)
        if compiled.is_single or all(bool(mask.all()) for mask in masks.values()):
            fresh = compiled.complete_reset(self._reset(root))
        else:
            fresh = compiled.complete_reset(self._reset_rows(root, masks))
            if not supports(self, "partial_reset_safe"):
                restore_rows(self, root, fresh, masks)
        root.update(fresh)
        return root

    def expect_resets(self, expected: bool) -> None:
        """Note whether the rows that end in the coming steps will be reset right after.

        An environment in other processes can then reset them within the same message.
        """

    def entries_read(self) -> set[NestedKey] | None:
        """Return the entries of a root that a step or a reset may read; ``None`` if unknown."""
        compiled = self.compiled_specs
        if supports(self, "reads_action_only"):
            return set(compiled.action_keys)
        inputs = {*compiled.action_keys, *compiled.state_keys}
        return inputs.union(compiled.observation_keys, compiled.done_keys)

    def defer(self, touched: Collection[NestedKey]) -> list[Deferred]:
        """Leave out, until :meth:`resume`, entries that can be written into all steps at once.

        Args:
            touched: Entries that others read or write while steps are taken.

        Returns: what is left out, to be written in this order.
        """
        return []

    def resume(self) -> None:
        """Write every entry at each step again."""

    # --- step ------------------------------------------------------------------------------------

    def step(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write the result of the action under ``"next"`` and return ``tensordict``.

        Args:
            tensordict: A root ``[*B]`` with its action. A boolean ``_step [*B, 1]`` or
                ``[*B]`` says which rows step; the others keep their values. Entries that are
                under ``"next"`` already stay there unless the environment writes them.

        Raises:
            ShapeError, DTypeError, MissingKeyError: if the first step does not keep to the specs.
        """
        self._check_batch(tensordict)
        self.bump_state_version()
        mask = step_mask(self, tensordict)
        preset = tensordict.get("next", None)
        next_root = self._step_rows(tensordict, mask)
        if preset is not None:
            next_root = preset.copy().update(next_root) if len(preset.keys()) else next_root
        return tensordict.set("next", next_root)

    def _step_rows(self, tensordict: TensorDictBase, mask: Tensor | None) -> TensorDictBase:
        if self._checks_now:
            self.compiled_specs.check_action(tensordict, values=True)
        actions = own_actions(tensordict, self.compiled_specs.action_keys)  # for us to edit
        next_root = self.result_of(tensordict)
        for holder, name, action in actions:
            holder.set(name, action)
        if mask is not None:
            tensordict.pop("_step", None)
            freeze_rows(tensordict, next_root, mask)
        return next_root

    def result_of(self, record: Any) -> Any:
        """Return the result of ``_step``, with every flag; check the first one against the specs.

        An environment that supports flat records and whose first result was complete is trusted
        from then on.
        """
        next_root = self._step(record)
        if self._checks_now:
            check_returned(self, next_root, record, "_step")
            next_root = placed(next_root, self.device)
            self._drop_default_reward(next_root)
            trusted = takes_flat_records(self) and self.compiled_specs.is_complete(next_root)
            if not trusted:
                self.compiled_specs.complete_step(next_root)
            self.compiled_specs.check_result(next_root, ("observation", "reward", "done"))
            self.__dict__.update(_trusted=trusted, _checks_now=self._run_type_checks)
        elif not self._trusted:
            next_root = placed(next_root, self.device)
            self.compiled_specs.complete_step(next_root)
        return next_root

    def _check_batch(self, tensordict: TensorDictBase) -> None:
        check_given(self, tensordict, "step")
        found = tensordict.batch_size
        if found != self._batch_size and (self.batch_locked or self._batch_size):
            raise wrong_batch(self, "was given a tensordict", found)

    def step_mdp(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Return the root of the next step: as :func:`~torchrl.envs.step_mdp`, with the action."""
        return self.compiled_specs.step_mdp(tensordict)

    def step_and_maybe_reset(self, tensordict: TensorDictBase) -> tuple[TensorDictBase, TensorDictBase]:
        """Step; return the step and the root of the next one, reset where an episode has ended.

        The last observation of an episode stays in ``tensordict["next"]``, also if the environment
        returns the same tensors at each step.
        """
        watch = self._loop_watch
        if watch is None:
            watch = self.__dict__["_loop_watch"] = MemoryWatch(self, "policy")
        tensordict = self.step(tensordict) if watch.is_over else watch.step(self.step, tensordict)
        root = self.step_mdp(tensordict)
        if self.compiled_specs.ended(root):
            root = self.maybe_reset(root)
            watch.after_reset(root)
        return tensordict, root

    def rand_action(self, tensordict: TensorDictBase | None = None) -> TensorDictBase:
        """Write a random action of the spec into ``tensordict``, or into a new one."""
        spec = self.full_action_spec
        if tensordict is None:
            tensordict = TensorDict({}, self.batch_size, device=self.device)
        lead = tensordict.batch_size[: tensordict.ndim - len(self.batch_size)]
        return tensordict.update(spec.rand(lead if not self.batch_size else ()))

    @property
    def draws_from_spec(self) -> bool:
        """Whether any action of the spec may be a random action; not so for a class's own draw."""
        return type(self).rand_action is EnvBase.rand_action

    @property
    def action_masks(self) -> dict[NestedKey, NestedKey]:
        """The entry of the root that says which choices of an action are legal, by action.

        Environments that hold others draw random actions by it.
        """
        return {}

    def rand_step(self, tensordict: TensorDictBase | None = None) -> TensorDictBase:
        """Step with a random action."""
        return self.step(self.rand_action(tensordict))

    rollout = rollout
    simulator_state = simulator_state
    load_simulator_state = load_simulator_state
    configuration: Collection[str] = ()

    def set_seed(self, seed: int | None = None, static_seed: bool = False) -> int | None:
        """Seed the environment; return the seed for the next one.

        Args:
            seed: The seed; ``None`` asks the environment for fresh randomness.
            static_seed: Return ``seed`` itself.
        """
        if seed is not None:
            seed = operator.index(seed)  # numpy's integers are numbers too
        self._set_seed(seed)
        return seed if static_seed or seed is None else next_seed(seed)

    def to(self, device: torch.device | str | int | None) -> EnvBase:  # type: ignore[override]  # nn.Module's casts, too
        """Move the environment, its specs and what it returns to a device."""
        check_devices(self, device=device)
        device = as_device(device)
        if device != self._device:
            self._device = device
            super().to(device)
            specs = self._get_specs()
            self._set_specs({group: spec.to(device) for group, spec in specs.items()})
            self._follow()
        return self

    def cpu(self) -> EnvBase:
        """Move the environment to the CPU; return it."""
        return self.to("cpu")

    def cuda(self, device: torch.device | str | int | None = None) -> EnvBase:
        """Move the environment to a CUDA device, the current one if ``None``; return it."""
        return self.to("cuda" if device is None else f"cuda:{device}")

    def _follow(self) -> None:
        """Move what is not a module, a parameter or a spec, once :attr:`device` has changed."""

    def close(self, *, raise_if_closed: bool = False) -> None:
        """Release what the environment holds; one that is closed stays so.

        Raises:
            RuntimeError: if it is closed already and ``raise_if_closed``.
        """
        if self.is_closed and raise_if_closed:
            raise RuntimeError(f"{type(self).__name__} is closed already.")
        self.is_closed = True

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Same as :meth:`step`."""
        return self.step(tensordict)

    def compile(self, **kwargs: object) -> EnvBase:  # type: ignore[override]  # returns itself
        """Compile what the environment computes in a step and a reset; return the environment.

        For environments written in torch. A copy in another process is compiled there.

        Args:
            kwargs: Those of :func:`torch.compile`.
        """
        compile_hooks(self, kwargs)
        return self

    def eager(self) -> EnvBase:
        """Undo :meth:`compile`; return the environment."""
        restore_hooks(self)
        return self

    def register_collector(self, collector: object) -> None:
        """Let the environment and its transforms find the collector that drives it."""
        self.__dict__["_collector"] = Reference(collector)

    @property
    def collector(self) -> Any:
        """The collector that drives this environment, ``None`` if there is none."""
        return None if self._collector is None else self._collector()

    def read_attribute(self, path: str) -> Any:
        """Return an attribute, and what it returns if it can be called.

        Args:
            path: Its name, or several with dots between: ``"unwrapped.ale.lives"``.

        Returns: one value, or one for each row, ``[*B, ...]``.
        """
        found = self
        for name in path.split("."):
            found = getattr(found, name)
        return found() if callable(found) else found

    @property
    def event_flags(self) -> dict[NestedKey, bool]:
        """The flags that tell what happened in a step, and their value after a reset.

        What takes several steps as one, such as :class:`~torchrl.envs.FrameSkipTransform`, raises
        such a flag if any of the steps did.
        """
        return {}

    @property
    def repeats_per_step(self) -> int:
        """How often a step takes its action."""
        return 1

    def __repr__(self) -> str:
        return f"{type(self).__name__}(batch_size={self.batch_size}, device={self.device})"
