"""What serial and parallel environments share: recipes, specs, seeds, and access to each one."""

from __future__ import annotations

import weakref
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase

from torchrl._core.devices import check_devices
from torchrl._core.errors import MissingKeyError, ResetError, SpecError, describe
from torchrl._core.keys import leaf_keys
from torchrl.data import Composite
from torchrl.data.tensor_specs.masks import Masked
from torchrl.data.tensor_specs.stacked import StackedComposite, stack_specs
from torchrl.envs.batched_envs.access import EnvAccess
from torchrl.envs.batched_envs.crew import Crew
from torchrl.envs.batched_envs.exchange import (
    BlockExchange,
    Exchange,
    RecordExchange,
    stack_rows,
)
from torchrl.envs.batched_envs.options import BatchOptions
from torchrl.envs.common import EnvBase
from torchrl.envs.env_creator import EnvCreator
from torchrl.envs.env_tools import fake_step
from torchrl.envs.metadata import EnvMeta, meta_of
from torchrl.envs.spec_access import GROUPS, leaf_names
from torchrl.envs.step_plan import legal

Factory = Callable[..., EnvBase] | EnvBase


class BatchedEnvBase(EnvAccess, EnvBase):  # type: ignore[misc]  # start, num_envs
    """Several environments stepped as one, batch size ``[N, *B]``.

    Until :meth:`start`, or the first reset, it is a recipe: it holds no environment, and can be
    pickled and handed to several owners. Closing makes it a recipe again. A copy is always one.

    Hooks:
        _make_crew: ``[recipe] -> crew``; build the environments.
        _memory_kind: where their numbers lie, see :class:`~.buffers.Memory`.

    Attributes that it lacks are looked up in the environments, and come as a list with one value an
    environment; a method is called on each and returns such a list.
    """

    def __init__(
        self,
        num_workers: int,
        create_env_fn: Factory | Sequence[Factory],
        *,
        create_env_kwargs: dict[str, Any] | Sequence[dict[str, Any]] | None = None,
        pin_memory: bool = False,
        share_individual_td: bool | None = None,
        shared_memory: bool = True,
        memmap: bool = False,
        device: torch.device | str | int | None = None,
        num_threads: int | None = None,
        num_sub_threads: int = 1,
        serial_for_single: bool = False,
        non_blocking: bool = False,
        mp_start_method: str | None = None,
        use_buffers: bool | None = None,
        metadata_from_workers: bool = False,
        consolidate: bool = True,
        daemon: bool = False,
        timeout: float | None = None,
        shutdown_timeout: float = 10.0,
    ) -> None:
        check_devices(self, device=device)
        super().__init__(device=device)
        self._options = BatchOptions(
            pin_memory,
            share_individual_td,
            shared_memory,
            memmap,
            num_threads,
            num_sub_threads,
            serial_for_single,
            non_blocking,
            mp_start_method,
            use_buffers,
            metadata_from_workers,
            consolidate,
            daemon,
            timeout,
            shutdown_timeout,
        )
        self.num_workers = num_workers
        self._recipes = _recipes(self, num_workers, create_env_fn, create_env_kwargs)
        self._own_device = self._device
        self._threads_before: int | None = None
        self._metas: list[EnvMeta] | None = None
        self._pending_state: dict[int, dict[str, Any]] = {}
        self._idle()

    def _idle(self) -> None:
        if (finalizer := self.__dict__.get("_finalizer")) is not None:
            finalizer.detach()
        self._finalizer: weakref.finalize | None = None
        self._crew: Crew | None = None
        self._exchange: Exchange | None = None
        self._resets_in_step = False
        self.is_closed = True

    # --- hooks -----------------------------------------------------------------------------------

    @abstractmethod
    def _make_crew(self, recipes: Sequence[EnvCreator | EnvBase]) -> Crew: ...

    @abstractmethod
    def _memory_kind(self) -> str: ...

    # --- what the environments are ---------------------------------------------------------------

    @property
    def num_envs(self) -> int:
        """Number of environments."""
        return len(self._recipes)

    def _learn(self) -> None:
        """Find out what the environments are like, without keeping any."""
        if self._metas is None and self._options.metadata_from_workers:
            self.start()
        if self._metas is None:
            known: dict[int, EnvMeta] = {}
            for recipe in self._recipes:
                if id(recipe) not in known:
                    known[id(recipe)] = _glance(recipe)
            self._adopt([known[id(recipe)] for recipe in self._recipes])

    def _adopt(self, metas: list[EnvMeta]) -> None:
        sizes = {meta.batch_size for meta in metas}
        if len(sizes) > 1:
            raise SpecError(
                describe(
                    self,
                    "cannot stack environments of different batch sizes",
                    found=[tuple(meta.batch_size) for meta in metas],
                    hint="Build them with one batch size.",
                )
            )
        self._metas = metas
        if self._own_device is None:
            self._device = metas[0].device
        self._batch_size = torch.Size([len(metas), *metas[0].batch_size])
        self._allow_done_after_reset = any(meta.allow_done_after_reset for meta in metas)
        specs: dict[str, Composite] = {}
        for group in GROUPS:
            spec: Any = stack_specs([meta.specs[group] for meta in metas])
            specs[group] = self._lock(spec if self._device is None else spec.to(self._device))
        self.__dict__["_specs"] = specs
        self.empty_cache()

    def fake_tensordict(self) -> TensorDictBase:
        """Return a step of zeros, with every entry that a real step of each environment has."""
        self._learn()
        assert self._metas is not None
        if all(meta.specs == self._metas[0].specs for meta in self._metas[1:]):
            return super().fake_tensordict()
        device = self.device
        rows = [fake_step(meta.specs, meta.batch_size, meta.device) for meta in self._metas]
        return stack_rows(rows if device is None else [row.to(device) for row in rows])

    def _get_specs(self) -> dict[str, Composite]:
        self._learn()
        return super()._get_specs()

    def _set_specs(self, specs: dict[str, Any]) -> None:
        self._learn()
        super()._set_specs(specs)

    @property
    def batch_size(self) -> torch.Size:
        """Number of environments, then the batch size of each."""
        self._learn()
        return self._batch_size

    @batch_size.setter
    def batch_size(self, value: Any) -> None:
        raise AttributeError(
            f"{type(self).__name__}: the batch size is that of the environments inside."
        )

    @property
    def device(self) -> torch.device | None:
        """Device of what is returned."""
        if self._own_device is None:
            self._learn()
        return self._device

    def is_flat(self) -> bool:
        """Return whether steps may be flat records: one block an entry, and tensors only."""
        self._learn()
        assert self._metas is not None
        first = self._metas[0]
        return (
            self._options.buffers is not False
            and not self._options.share_individual_td
            and first.is_fixed()
            and all(meta.specs == first.specs for meta in self._metas[1:])
        )

    def entries_read(self) -> set[NestedKey] | None:
        """Return what any of the environments may read."""
        self._learn()
        assert self._metas is not None
        return {key for meta in self._metas for key in meta.input_names}

    @property
    def event_flags(self) -> dict[NestedKey, bool]:
        """The flags that tell what happened in a step of any of the environments."""
        self._learn()
        assert self._metas is not None
        return {key: value for meta in self._metas for key, value in meta.event_flags.items()}

    @property
    def repeats_per_step(self) -> int:
        """How often a step takes its action, at most."""
        return int(self.read_attribute("repeats_per_step").max())

    # --- life ------------------------------------------------------------------------------------

    def start(self) -> Any:
        """Build the environments, unless they stand already; return this environment.

        Raises:
            WorkerError: if one of them cannot be built.
        """
        if self._crew is not None and not self._crew.is_closed:
            return self
        self._idle()
        if self._options.num_threads is not None:
            self._threads_before = torch.get_num_threads()
            torch.set_num_threads(self._options.num_threads)
        crew = self._make_crew(self._recipes)
        try:
            self._check_metas(crew.metas)
            self._exchange = self._make_exchange(crew)
            if self._pending_state:
                states = [self._pending_state.get(i, {}) for i in range(self.num_envs)]
                crew.scatter("load_state_dict", states)
                self._pending_state = {}
        except BaseException:
            crew.close()
            raise
        self._crew, self.is_closed = crew, False
        self._finalizer = weakref.finalize(self, crew.close)
        return self

    def _check_metas(self, metas: list[EnvMeta]) -> None:
        if self._metas is None:
            self._adopt(metas)
            return
        for i, (promised, found) in enumerate(zip(self._metas, metas, strict=True)):
            if promised.specs != found.specs or promised.batch_size != found.batch_size:
                raise _other_specs(self, i, promised, found)

    def _make_exchange(self, crew: Crew) -> Exchange:
        flat, options = self.is_flat(), self._options
        fixed = all(meta.is_fixed() for meta in crew.metas)
        if options.buffers and not fixed:
            raise SpecError(
                describe(
                    self,
                    "cannot keep entries without a fixed shape, or that are no tensors, in buffers",
                    hint="Leave use_buffers out, or set it to False.",
                )
            )
        if options.share_individual_td is False and not flat:
            raise SpecError(
                describe(
                    self,
                    "cannot keep environments with different specs in common buffers",
                    hint="Leave share_individual_td out, or set it to True.",
                )
            )
        if options.buffers is False or not fixed:
            return RecordExchange(crew, self.device, options)
        return BlockExchange(
            crew,
            self.device,
            options,
            individual=not flat,
            kind=self._memory_kind(),
        )

    def close(self, *, raise_if_closed: bool = False) -> None:
        """Close the environments and release everything; what stays is a recipe.

        Raises:
            RuntimeError: if it is closed already and ``raise_if_closed``.
        """
        if self.is_closed and raise_if_closed:
            raise RuntimeError(f"{type(self).__name__} is closed already.")
        crew = self._crew
        self._idle()
        if crew is not None:
            crew.close()
        if self._threads_before is not None:
            torch.set_num_threads(self._threads_before)
            self._threads_before = None

    def configure_parallel(self, **options: Any) -> Any:
        """Change how the environments are run, before they are; return this environment.

        Args:
            options: Those of :class:`~torchrl.envs.ParallelEnv`, by name.

        Raises:
            RuntimeError: if the environments stand already.
            TypeError: for an option that there is not.
        """
        self._refuse_started()
        if unknown := options.keys() - {field.name for field in fields(BatchOptions)}:
            raise TypeError(f"{type(self).__name__}.configure_parallel knows no {sorted(unknown)}.")
        self._options = replace(self._options, **options)
        self.empty_cache()
        return self

    def _refuse_started(self) -> None:
        if not self.is_closed:
            raise RuntimeError(f"{type(self).__name__}: close() it before changing its arguments.")

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        for name in ("_plan", "_trusted"):
            state.pop(name, None)
        state.update(_crew=None, _exchange=None, _finalizer=None)
        state.update(_resets_in_step=False, is_closed=True)
        return state

    def update_kwargs(self, kwargs: dict[str, Any] | Sequence[dict[str, Any]]) -> None:
        """Replace some arguments of the functions that build the environments.

        Args:
            kwargs: For all, or one an environment.

        Raises:
            RuntimeError: if the environments stand already.
        """
        self._refuse_started()
        each = [kwargs] * self.num_envs if isinstance(kwargs, dict) else list(kwargs)
        self._recipes = [
            _creator(self, recipe).make_variant(**own)
            for recipe, own in zip(self._recipes, each, strict=True)
        ]
        self._metas = None
        self.__dict__.pop("_specs", None)
        self.empty_cache()

    # --- random actions --------------------------------------------------------------------------

    @property
    def action_masks(self) -> dict[NestedKey, NestedKey]:
        """The entry of the root that says which choices of an action are legal, by action."""
        self._learn()
        assert self._metas is not None
        return {key: mask for meta in self._metas for key, mask in meta.action_masks.items()}

    @property
    def draws_from_spec(self) -> bool:
        """Whether any action of the spec may be a random action; not so if masks forbid some."""
        self._learn()
        assert self._metas is not None
        return all(meta.draws_from_spec and not meta.action_masks for meta in self._metas)

    def rand_action(self, tensordict: TensorDictBase | None = None) -> TensorDictBase:
        """Write a random action that is legal in ``tensordict``, or any into a new one.

        An environment that draws random actions in a way of its own is asked for one.
        """
        if tensordict is None or self.draws_from_spec:
            return super().rand_action(tensordict)
        if self._masks_are_enough():
            action = draw_legal(self.full_action_spec, tensordict, self.action_masks)
            return tensordict.update(action)
        if self._exchange is None:
            raise ResetError(
                describe(self, "cannot draw an action: it is not started", hint="Call reset().")
            )
        return tensordict.update(self._exchange.random_actions(tensordict))

    def draw_for_rows(self, spec: Any, record: TensorDictBase) -> TensorDictBase:
        """Return random legal actions for some of the environments.

        Args:
            spec: Of their actions, ``[*B]``.
            record: Their roots, ``[*B]``.

        Raises:
            RuntimeError: if an environment draws random actions in a way of its own.
        """
        if not (self.draws_from_spec or self._masks_are_enough()):
            raise RuntimeError(
                describe(
                    self,
                    "has environments that draw random actions in a way of their own",
                    hint="Draw for all at once, or give those environments action_masks.",
                )
            )
        return draw_legal(spec, record, self.action_masks)

    def _masks_are_enough(self) -> bool:
        """Return whether specs and masks say all of what a legal action is."""
        assert self._metas is not None
        return all(
            all(isinstance(meta.specs["action"][action], Masked) for action in meta.action_masks)
            and (meta.draws_from_spec or meta.action_masks)
            for meta in self._metas
        )

    # --- stepping --------------------------------------------------------------------------------

    def reset(self, tensordict: Any = None, **kwargs: Any) -> TensorDictBase:
        """Start the environments if need be, and begin new episodes; see :meth:`EnvBase.reset`.

        Args:
            tensordict: Updated and returned, if given; says with ``_reset`` which rows begin anew.
            kwargs: Those of :meth:`EnvBase.reset`, and for the ``reset`` of each environment;
                ``list_of_kwargs`` holds what differs, one dictionary an environment.
        """
        self.start()
        return super().reset(tensordict, **kwargs)

    def expect_resets(self, expected: bool) -> None:
        """Let the environments begin new episodes in the step that ends one: one trip, not two."""
        self.__dict__["_resets_in_step"] = expected

    def step_and_maybe_reset(
        self, tensordict: TensorDictBase
    ) -> tuple[TensorDictBase, TensorDictBase]:
        """Step; return the step and the root of the next one, reset where an episode has ended."""
        self.expect_resets(True)
        try:
            return super().step_and_maybe_reset(tensordict)
        finally:
            self.expect_resets(False)

    def _step(self, tensordict: Any) -> Any:
        exchange = self._exchange
        if exchange is None or exchange.crew.is_closed:
            raise ResetError(
                describe(self, "cannot step: it is not started", hint="Call reset() first.")
            )
        return exchange.step(tensordict, self._resets_in_step, self.plan)

    def _reset(
        self,
        tensordict: Any,
        list_of_kwargs: Sequence[dict[str, Any]] | None = None,
        **kwargs: Any,
    ) -> Any:
        self.start()
        exchange, num_envs = self._exchange, self.num_envs
        assert exchange is not None
        each = [kwargs] * num_envs
        if list_of_kwargs is not None:
            if len(list_of_kwargs) != num_envs:
                raise ValueError(
                    f"{type(self).__name__}: expected {num_envs} list_of_kwargs, one an "
                    f"environment, found {len(list_of_kwargs)}."
                )
            each = [{**kwargs, **own} for own in list_of_kwargs]
        return exchange.reset(tensordict, each, self.plan, expected=self._resets_in_step)

    def reset_entries(self, root: Any) -> Any:
        """Reset the rows that have ended; for the stepping loop, which trusts the outcome."""
        exchange = self._exchange
        if self._resets_in_step and exchange is not None and exchange.take_up(root):
            return root
        return super().reset_entries(root)

    def _set_state(self, tensordict: Any) -> Any:
        return self._reset(tensordict, set_state=True)

    def _check_batch(self, tensordict: TensorDictBase) -> None:
        self._learn()
        super()._check_batch(tensordict)

    def to(self, device: Any) -> BatchedEnvBase:  # type: ignore[override]  # only places
        """Return what the environments make on another device; they stay where they are."""
        check_devices(self, device=device)
        device = torch.device(device)
        self._own_device = self._device = device
        if self._metas is not None:
            self._adopt(self._metas)
        if self._exchange is not None:
            self._exchange.device = device
        return self

    def __repr__(self) -> str:
        size = tuple(self._batch_size) if self._metas is not None else (self.num_envs, "...")
        return (
            f"{type(self).__name__}(num_envs={self.num_envs}, num_workers={self.num_workers}, "
            f"batch_size={size}, device={self._device})"
        )


def draw_legal(spec: Any, record: Any, masks: dict[NestedKey, NestedKey]) -> TensorDictBase:
    """Return random actions ``[*B]`` that the masks of a root allow.

    Args:
        spec: Of all actions, ``[*B]``.
        record: The root, ``[*B]``. Where an episode has ended any action is legal.
        masks: The entry that says which choices of an action are legal, by action.

    Raises:
        MissingKeyError: if a mask is not in the root.
        SpecError: if nothing is legal.
    """
    if isinstance(spec, StackedComposite):
        rows = record.unbind(spec.dim)
        return stack_rows([draw_legal(s, r, masks) for s, r in zip(spec.specs, rows, strict=True)])
    known = leaf_names(spec)
    for action, mask in masks.items():
        if action not in known:
            continue  # of another environment of the batch
        allowed = legal(record, mask)
        if allowed is None:
            raise MissingKeyError(
                describe(
                    "rand_action",
                    "is needed to draw a legal action but absent",
                    key=mask,
                    found=leaf_keys(record),
                    hint="Keep the mask in the record, or pass a policy.",
                )
            )
        spec[action].update_mask(allowed)
    return spec.rand()


def _check_number(name: str, num_workers: int) -> None:
    if not isinstance(num_workers, int):
        raise TypeError(
            f"{name}: num_workers counts the workers and comes first, found "
            f"{type(num_workers).__name__}. Write {name}(2, create_env_fn)."
        )
    if num_workers < 1:
        raise ValueError(f"{name}: num_workers must be at least 1, found {num_workers}.")


def _recipes(
    env: Any,
    num_workers: int,
    create_env_fn: Factory | Sequence[Factory],
    create_env_kwargs: dict[str, Any] | Sequence[dict[str, Any]] | None,
) -> list[EnvCreator | EnvBase]:
    name = type(env).__name__
    _check_number(name, num_workers)
    if isinstance(create_env_fn, EnvBase) or callable(create_env_fn):
        if isinstance(create_env_fn, EnvBase) and num_workers > 1:
            raise TypeError(
                f"{name}: one environment cannot be stepped {num_workers} times; pass a function "
                "that builds it."
            )
        factories: list[Any] = [create_env_fn] * num_workers
    else:
        factories = list(create_env_fn)
    if num_workers > len(factories):
        raise ValueError(
            f"{name}: expected at least one environment for each of {num_workers} workers, found "
            f"{len(factories)}."
        )
    if create_env_kwargs is None or isinstance(create_env_kwargs, dict):
        kwargs = [create_env_kwargs or {}] * len(factories)
    else:
        kwargs = list(create_env_kwargs)
    if len(kwargs) != len(factories):
        raise ValueError(
            f"{name}: expected one create_env_kwargs for each of {len(factories)} environments, "
            f"found {len(kwargs)}."
        )
    made: dict[tuple[int, int], Any] = {}
    for factory, own in zip(factories, kwargs, strict=True):
        if isinstance(factory, EnvBase):
            if own:
                raise TypeError(f"{name}: create_env_kwargs are for functions, not environments.")
            made[id(factory), id(own)] = factory
        elif isinstance(factory, EnvCreator) and not own:
            made[id(factory), id(own)] = factory  # it may know already what it builds
        else:
            shares = isinstance(factory, EnvCreator)
            recipe = EnvCreator(factory, own, share_memory=shares)
            made.setdefault((id(factory), id(own)), recipe)
    recipes = [made[id(factory), id(own)] for factory, own in zip(factories, kwargs, strict=True)]
    built = [recipe for recipe in recipes if isinstance(recipe, EnvBase)]
    if len(built) != len({id(recipe) for recipe in built}):
        raise TypeError(f"{name}: the same environment stands in create_env_fn more than once.")
    return recipes


def _other_specs(env: Any, number: int, promised: EnvMeta, found: EnvMeta) -> SpecError:
    return SpecError(
        describe(
            env,
            f"environment {number} has other specs than its recipe gave before",
            expected=promised.specs,
            found=found.specs,
            hint="Let create_env_fn build the same environment each time.",
        )
    )


def _creator(env: Any, recipe: EnvCreator | EnvBase) -> EnvCreator:
    if isinstance(recipe, EnvBase):
        raise TypeError(
            f"{type(env).__name__}: an environment that is built already takes no arguments."
        )
    return recipe


def _glance(recipe: EnvCreator | EnvBase) -> EnvMeta:
    return meta_of(recipe) if isinstance(recipe, EnvBase) else recipe.meta_data
