"""The base class of environments: reset, step, and what can be known from the specs."""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import Any

import numpy as np
import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from torch import Tensor, nn

from torchrl._core.capabilities import supports
from torchrl._core.devices import check_devices
from torchrl._core.entries import Entries, is_entrywise
from torchrl._core.errors import ResetError, describe
from torchrl.data.tensor_specs.tools import as_device
from torchrl.envs.env_options import EnvOptions
from torchrl.envs.env_tools import EnvTools
from torchrl.envs.hook_wrappers import AutoReset
from torchrl.envs.partial_reset import (
    hold_rows,
    is_void,
    keep_rows,
    pop_masks,
    refuse_done,
    step_mask,
)
from torchrl.envs.postponed import Postponed
from torchrl.envs.record_checks import check_given, check_returned, placed, wrong_batch
from torchrl.envs.reused_memory import MemoryWatch, own_actions
from torchrl.envs.rollout import rollout
from torchrl.envs.spec_owner import SpecOwner


def next_seed(seed: int) -> int:
    """Return the seed that follows ``seed`` in the chain that every environment uses.

    >>> next_seed(0)
    795726461
    """
    return int.from_bytes(np.random.default_rng(seed).bytes(8), "big") % (2**32 - 1)


class EnvBase(SpecOwner, EnvTools, EnvOptions, nn.Module, ABC):  # type: ignore[misc]  # compile, to
    """One or many Markov decision processes that read and write tensordicts.

    Name the specs in ``__init__`` (``observation_spec``, ``action_spec``, and where they differ
    from a float ``reward [*B, 1]`` and a ``done [*B, 1]``, ``reward_spec`` and ``done_spec``), then
    fill the hooks.

    Args:
        device: Device of what the environment returns; ``None`` leaves tensors where they are.
        batch_size: Number of processes run at once, ``[*B]``.
        run_type_checks: Validate every step against the specs, not the first alone.
        allow_done_after_reset: Accept an episode that is over when it begins.
        spec_locked: Refuse edits inside ``input_spec`` and ``output_spec``; assigning a whole spec
            (``env.action_spec = ...``) is always possible.
        auto_reset: The environment begins anew within the step that ends an episode, and shows the
            first observation of the next one; from outside, it then waits to be told.
        auto_reset_replace: Fill the last observation of an episode, which is not shown, with NaN.

    Every subclass answers to the last three, to ``compile`` (``True``, or keywords of
    :meth:`compile`) and to ``policy`` (see :class:`~.env_options.EnvOptions`), also if its
    constructor names none of them.

    Hooks:
        _reset: ``td | None -> td`` with the first observations; always a new record.
        _step: ``td -> td`` with observation, reward, and the end flags that can rise.
        _set_seed: seed every source of chance.
        _set_state: ``td -> td``; restore the state found in ``td``, for ``reset(set_state=True)``.
        _follow: move to :attr:`device` what is neither a module nor a parameter nor a spec.

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

    batch_locked = True
    # Whether a partial _reset returns the other rows as they are; all flags stand at one level.
    resets_rows_alone = False
    # Whether a step reads nothing of its root but the action, and a reset nothing but its mask.
    reads_action_only = False
    entrywise: Any = False

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
        self.is_closed = False
        self._moves = 0
        if auto_reset:
            AutoReset(self, replace=auto_reset_replace).install()

    # --- hooks -----------------------------------------------------------------------------------

    @abstractmethod
    def _reset(self, tensordict: TensorDictBase | None, **kwargs: Any) -> TensorDictBase: ...

    @abstractmethod
    def _step(self, tensordict: TensorDictBase) -> TensorDictBase: ...

    @abstractmethod
    def _set_seed(self, seed: int | None) -> Any: ...

    def _set_state(self, tensordict: TensorDictBase) -> TensorDictBase:
        raise ResetError(
            describe(
                self,
                "cannot restore a state",
                hint="Call reset() without set_state, or write the hook _set_state(td).",
            )
        )

    # --- what it is ------------------------------------------------------------------------------

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

    # --- reset -----------------------------------------------------------------------------------

    def reset(
        self,
        tensordict: Any = None,
        *,
        set_state: bool | None = None,
        **kwargs: Any,
    ) -> TensorDictBase:
        """Start new episodes; return their first root.

        Args:
            tensordict: Updated and returned, if given. A boolean ``_reset`` beside a ``done`` (and
                of its shape) says which rows begin anew; the others keep what ``tensordict`` holds.
            set_state: Begin from the state that ``tensordict`` holds, if the environment can.
            kwargs: Handed to the environment's ``_reset``.

        Raises:
            ResetError: if an episode is over when it begins, if a row that is not reset is not in
                ``tensordict``, or if the environment cannot ``set_state``.
        """
        plan = self.plan
        if tensordict is not None:
            check_given(self, tensordict, "reset")
        masks = {} if tensordict is None else pop_masks(self, tensordict)
        if masks and is_void(self, masks):
            return tensordict
        self.count_move()
        if set_state:
            if tensordict is None:
                raise ResetError(describe(self, "cannot set a state without a tensordict"))
            root = self._set_state(tensordict)
        else:
            root = self._reset_rows(tensordict, masks, **kwargs)
        check_returned(self, root, tensordict, "_reset")
        root = placed(root, self.device)
        if self.batch_locked and root.batch_size != self._batch_size:
            raise wrong_batch(self, "returned from _reset() a tensordict", root.batch_size)
        plan.complete_reset(root)
        if self._is_checked_now():
            plan.check_outcome(root, ("observation", "done"))
        if masks:
            keep_rows(self, tensordict, root, masks)
        if not self._allow_done_after_reset:
            refuse_done(self, root, masks)
        return root if tensordict is None else tensordict.update(root)

    def _reset_rows(self, record: Any, masks: dict[NestedKey, Tensor], **kwargs: Any) -> Any:
        if not masks:
            return self._reset(record, **kwargs)
        for key, mask in masks.items():
            record.set(key, mask)
        root = self._reset(record, **kwargs)
        for key in masks:
            record.pop(key)
        return root

    @property
    def moves(self) -> int:
        """How often a reset, a step or a rollout was asked for.

        A loop that keeps a root looks here whether someone else has moved the environment since.
        """
        return self._moves

    def count_move(self) -> None:
        """Say that the environment is about to leave the state where others may believe it."""
        self.__dict__["_moves"] += 1

    def maybe_reset(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Reset, in place, the rows whose episode has ended."""
        plan = self.plan
        if plan.ended(tensordict):
            for key, mask in plan.reset_masks(tensordict).items():
                tensordict.set(key, mask)
            return self.reset(tensordict)
        return tensordict

    def any_done(self, tensordict: TensorDictBase) -> bool:
        """Return whether any episode has ended; if so, write ``_reset`` masks beside the flags."""
        ended = self.plan.ended(tensordict)
        if ended:
            for key, mask in self.plan.reset_masks(tensordict).items():
                tensordict.set(key, mask)
        return ended

    def reset_entries(self, root: Entries) -> Entries:
        """Reset the rows that have ended; for the stepping loop, which trusts the outcome."""
        plan = self.plan
        masks = plan.reset_masks(root)
        whole = plan.is_single or all(bool(mask.all()) for mask in masks.values())
        fresh = plan.complete_reset(self._reset_rows(root, {} if whole else masks))
        if not (whole or supports(self, "resets_rows_alone")):
            keep_rows(self, root, fresh, masks)
        root.update(fresh)
        return root

    def expect_resets(self, expected: bool) -> None:
        """Be told whether the rows that end in the coming steps will be reset right after.

        An environment to which every call is a journey can then begin anew on the way back.
        """

    def entries_read(self) -> set[NestedKey] | None:
        """Return the entries of a root that a step or a reset may read; ``None`` if unknown."""
        plan = self.plan
        if supports(self, "reads_action_only"):
            return set(plan.action_keys)
        return {*plan.action_keys, *plan.state_keys, *plan.observation_keys, *plan.done_keys}

    def postpone(self, touched: Collection[NestedKey]) -> list[Postponed]:
        """Leave out, until :meth:`resume`, entries that can be written into all steps at once.

        Args:
            touched: Entries that others read or write while steps are taken.

        Returns: what is left out, to be written in this order.
        """
        return []

    def resume(self) -> None:
        """Leave nothing out any more."""

    # --- step ------------------------------------------------------------------------------------

    def step(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write the outcome of the action under ``"next"`` and return ``tensordict``.

        Args:
            tensordict: A root ``[*B]`` with its action. A boolean ``_step [*B, 1]`` or
                ``[*B]`` says which rows step; the others keep their values. Entries that already
                stand under ``"next"`` stay there unless the environment writes them.

        Raises:
            ShapeError, DTypeError, MissingKeyError: if the first step does not keep to the specs.
        """
        self._check_batch(tensordict)
        self.count_move()
        mask = step_mask(self, tensordict)
        preset = tensordict.get("next", None)
        following = self._step_rows(tensordict, mask)
        if preset is not None:
            following = preset.copy().update(following) if len(preset.keys()) else following
        return tensordict.set("next", following)

    def _step_rows(self, tensordict: TensorDictBase, mask: Tensor | None) -> TensorDictBase:
        if self._is_checked_now():
            self.plan.check_action(tensordict, values=True)
        actions = own_actions(tensordict, self.plan.action_keys)  # for us to edit
        following = self.outcome_of(tensordict)
        for holder, name, action in actions:
            holder.set(name, action)
        if mask is not None:
            tensordict.pop("_step", None)
            hold_rows(tensordict, following, mask)
        return following

    def outcome_of(self, record: Any) -> Any:
        """Return what ``_step`` makes of a record, with every flag; the first is held to the specs.

        An entry-wise environment whose first outcome was complete is trusted from then on.
        """
        following = self._step(record)
        if self._is_checked_now():
            check_returned(self, following, record, "_step")
            following = placed(following, self.device)
            trusted = is_entrywise(self) and self.plan.is_complete(following)
            if not trusted:
                self.plan.complete_step(following)
            self.plan.check_outcome(following, ("observation", "reward", "done"))
            self.__dict__["_trusted"] = trusted
        elif not self._trusted:
            following = placed(following, self.device)
            self.plan.complete_step(following)
        return following

    _trusted = False

    @property
    def checks_every_step(self) -> bool:
        """Whether every step is held against the specs, not the first alone."""
        return self._run_type_checks

    def _is_checked_now(self) -> bool:
        return "_trusted" not in self.__dict__ or self._run_type_checks

    def _check_batch(self, tensordict: TensorDictBase) -> None:
        check_given(self, tensordict, "step")
        found = tensordict.batch_size
        if found != self._batch_size and (self.batch_locked or self._batch_size):
            raise wrong_batch(self, "was handed a tensordict", found)

    def step_mdp(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Return the root of the next step: as :func:`~torchrl.envs.step_mdp`, with the action."""
        return self.plan.step_mdp(tensordict)

    def step_and_maybe_reset(
        self, tensordict: TensorDictBase
    ) -> tuple[TensorDictBase, TensorDictBase]:
        """Step; return the step and the root of the next one, reset where an episode has ended.

        The last observation of an episode stays in ``tensordict["next"]``, also if the environment
        returns the same tensors at each step.
        """
        if self._loop_watch is None:
            self.__dict__["_loop_watch"] = MemoryWatch(self, "policy")
        watch: Any = self._loop_watch
        tensordict = self.step(tensordict) if watch.is_over else watch.step(self.step, tensordict)
        root = self.step_mdp(tensordict)
        if self.plan.ended(root):
            root = watch.around_reset(self.maybe_reset)(root)
        return tensordict, root

    _loop_watch: MemoryWatch | None = None

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

    # --- the rest --------------------------------------------------------------------------------

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

    def to(self, device: Any) -> EnvBase:  # type: ignore[override]  # nn.Module's casts, too
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

    def _follow(self) -> None:
        """Move what is not a module, a parameter or a spec, once :attr:`device` has changed."""

    def close(self, *, raise_if_closed: bool = True) -> None:
        """Release what the environment holds.

        Raises:
            RuntimeError: if it is closed already and ``raise_if_closed``.
        """
        if self.is_closed and raise_if_closed:
            raise RuntimeError(f"{type(self).__name__} is closed already.")
        self.is_closed = True

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Same as :meth:`step`."""
        return self.step(tensordict)

    def read_attribute(self, path: str) -> Any:
        """Return an attribute, and what it returns if it can be called.

        Args:
            path: Its name, or several with dots between: ``"unwrapped.ale.lives"``.

        Returns: one value, or one for each row, ``[*B, ...]``.
        """
        found: Any = self
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
