"""The base class of batched environments: specs, start and close, steps, access to each one."""

from __future__ import annotations

import weakref
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase

from torchrl._core.attributes import is_class_attribute
from torchrl._core.devices import check_devices
from torchrl._core.errors import CountError, MissingKeyError, ResetError, SimulatorStateError, SpecError, describe
from torchrl._core.keys import leaf_keys
from torchrl._core.records.flat_record import Record
from torchrl.data import Composite, TensorSpec
from torchrl.data.tensor_specs.categorical import Masked
from torchrl.data.tensor_specs.stacked import StackedComposite, stack_specs
from torchrl.envs.base import EnvBase
from torchrl.envs.batched.pools import BatchOptions, EnvPool
from torchrl.envs.batched.transport import RecordTransport, SharedMemoryTransport, Transport, stack_rows
from torchrl.envs.batched.view import EnvView
from torchrl.envs.batched.worker import METHOD, MISSING
from torchrl.envs.env_creator import EnvCreator
from torchrl.envs.metadata import EnvMeta, meta_of
from torchrl.envs.specs import GROUPS, fake_step, leaf_names
from torchrl.envs.stepping.compiled_specs import legal

Factory = Callable[..., EnvBase] | EnvBase


class BatchedEnvBase(EnvBase):
    """Several environments stepped as one, batch size ``[N, *B]``.

    Until :meth:`start`, or the first reset, it is a recipe: it holds no environment, and can be
    pickled and passed to several owners. Closing makes it a recipe again. A copy is always one.

    Its arguments are those of :class:`~torchrl.envs.ParallelEnv`.

    Hooks:
        _make_pool: ``[recipe] -> pool``; build the environments.
        _memory_kind: kind of the memory of their rows, see :class:`~.shared_memory.Memory`.

    An attribute that it lacks is that of its environments, a list with one value for each; a method
    calls that of each environment and returns such a list.

    >>> from torchrl.envs import GymEnv, SerialEnv
    >>> env = SerialEnv(2, lambda: GymEnv("CartPole-v1"))
    >>> env.is_closed  # still a recipe
    True
    >>> env.rollout(3).shape
    torch.Size([2, 3])
    >>> env.close()
    """

    _workers_step_several = True  # whether there may be more environments than workers
    _workers_step_as_many = False  # whether each worker must have as many

    def __init__(
        self,
        num_workers: int,
        create_env_fn: Factory | Sequence[Factory],
        *,
        create_env_kwargs: dict[str, object] | Sequence[dict[str, object]] | None = None,
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
        given = locals()
        check_devices(self, device=device)
        super().__init__(device=device)
        self._options = BatchOptions(**{field.name: given[field.name] for field in fields(BatchOptions)})
        self.num_workers = num_workers
        self._recipes = _recipes(self, num_workers, create_env_fn, create_env_kwargs)
        self._own_device = self._device
        self._threads_before: int | None = None
        self._metas: list[EnvMeta] | None = None
        self._pending_state: dict[int, dict[str, object]] = {}
        self._idle()

    def _idle(self) -> None:
        if (finalizer := self.__dict__.get("_finalizer")) is not None:
            finalizer.detach()
        self._finalizer: weakref.finalize | None = None
        self._pool: EnvPool | None = None
        self._transport: Transport | None = None
        self._resets_in_step = False
        self.is_closed = True

    # --- hooks -----------------------------------------------------------------------------------

    @abstractmethod
    def _make_pool(self, recipes: Sequence[EnvCreator | EnvBase]) -> EnvPool: ...

    @abstractmethod
    def _memory_kind(self) -> str: ...

    # --- metadata and specs ----------------------------------------------------------------------

    @property
    def num_envs(self) -> int:
        """Number of environments."""
        return len(self._recipes)

    def _find_metas(self) -> list[EnvMeta]:
        """Return the metadata of the environments, which is read from them once."""
        if self._metas is None and self._options.metadata_from_workers:
            self.start()
        if self._metas is None:
            known: dict[int, EnvMeta] = {}
            for recipe in self._recipes:
                if id(recipe) not in known:
                    known[id(recipe)] = meta_of(recipe) if isinstance(recipe, EnvBase) else recipe.meta_data
            self._set_metas([known[id(recipe)] for recipe in self._recipes])
        assert self._metas is not None
        return self._metas

    def _set_metas(self, metas: list[EnvMeta]) -> None:
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
        metas = self._find_metas()
        if all(meta.specs == metas[0].specs for meta in metas[1:]):
            return super().fake_tensordict()
        device = self.device
        rows = [fake_step(meta.specs, meta.batch_size, meta.device) for meta in metas]
        return stack_rows(rows if device is None else [row.to(device) for row in rows])

    def _get_specs(self) -> dict[str, Composite]:
        self._find_metas()
        return super()._get_specs()

    def _set_specs(self, specs: dict[str, Any]) -> None:
        self._find_metas()
        super()._set_specs(specs)

    @property
    def batch_size(self) -> torch.Size:
        """Number of environments, then the batch size of each."""
        self._find_metas()
        return self._batch_size

    @batch_size.setter
    def batch_size(self, value: object) -> None:
        raise AttributeError(f"{type(self).__name__}: the batch size is that of the environments inside.")

    @property
    def device(self) -> torch.device | None:
        """Device of what is returned."""
        if self._own_device is None:
            self._find_metas()
        return self._device

    @property
    def share_individual_td(self) -> bool:
        """Whether each environment has buffers of its own, or they have rows of common ones."""
        wanted = self._options.share_individual_td
        return not self._agree() if wanted is None else wanted

    def _agree(self) -> bool:
        """Return whether the environments have equal specs, or entries of equal shapes if that is enough."""
        first, *others = self._find_metas()
        if self._options.share_individual_td is False:
            return all(meta.layout() == first.layout() for meta in others)
        return all(meta.specs == first.specs for meta in others)

    def is_flat(self) -> bool:
        """Return whether steps may be flat records: one block for each entry, and tensors only."""
        return (
            self._options.buffers is not False
            and not self._options.share_individual_td
            and all(meta.is_fixed() for meta in self._find_metas())
            and self._agree()
        )

    def entries_read(self) -> set[NestedKey] | None:
        """Return the entries that any of the environments may read."""
        metas = self._find_metas()
        return {key for meta in metas for key in meta.input_names}

    @property
    def event_flags(self) -> dict[NestedKey, bool]:
        """The flags that mark events of a step of any of the environments."""
        metas = self._find_metas()
        return {key: value for meta in metas for key, value in meta.event_flags.items()}

    @property
    def repeats_per_step(self) -> int:
        """Largest number of times that a step repeats its action."""
        return int(self.read_attribute("repeats_per_step").max())

    # --- start and close -------------------------------------------------------------------------

    def start(self) -> Any:
        """Build the environments, unless it is started already; return this environment.

        Raises:
            WorkerError: if one of them cannot be built.
        """
        if self._pool is not None and not self._pool.is_closed:
            return self
        self._idle()
        if self._options.num_threads is not None:
            self._threads_before = torch.get_num_threads()
            torch.set_num_threads(self._options.num_threads)
        pool = self._make_pool(self._recipes)
        try:
            self._check_metas(pool.metas)
            self._transport = self._make_transport(pool)
            if self._pending_state:
                states = [self._pending_state.get(i, {}) for i in range(self.num_envs)]
                pool.scatter("load_state_dict", states)
                self._pending_state = {}
        except BaseException:
            pool.close()
            raise
        self._pool, self.is_closed = pool, False
        self._finalizer = weakref.finalize(self, pool.close)
        return self

    def _check_metas(self, metas: list[EnvMeta]) -> None:
        if self._metas is None:
            self._set_metas(metas)
            return
        for i, (promised, found) in enumerate(zip(self._metas, metas, strict=True)):
            if promised.specs != found.specs or promised.batch_size != found.batch_size:
                raise _other_specs(self, i, promised, found)

    def _make_transport(self, pool: EnvPool) -> Transport:
        flat, options = self.is_flat(), self._options
        fixed = all(meta.is_fixed() for meta in pool.metas)
        if options.share_individual_td is False and not self._agree():
            raise SpecError(
                describe(
                    self,
                    "cannot keep environments with entries of different shapes or dtypes in common buffers",
                    hint="Leave share_individual_td out, or set it to True.",
                )
            )
        if options.buffers is False or not fixed:
            return RecordTransport(pool, self.device, options)
        return SharedMemoryTransport(pool, self.device, options, individual=not flat, kind=self._memory_kind())

    def close(self, *, raise_if_closed: bool = False) -> None:
        """Close the environments and release everything; it is a recipe again.

        Raises:
            RuntimeError: if it is closed already and ``raise_if_closed``.
        """
        if self.is_closed and raise_if_closed:
            raise RuntimeError(f"{type(self).__name__} is closed already.")
        pool = self._pool
        self._idle()
        if pool is not None:
            pool.close()
        if self._threads_before is not None:
            torch.set_num_threads(self._threads_before)
            self._threads_before = None

    def configure_parallel(self, **options: Any) -> Any:
        """Change how the environments are run, before the start; return this environment.

        Args:
            options: Those of :class:`~torchrl.envs.ParallelEnv`, by name.

        Raises:
            RuntimeError: if it is started already.
            TypeError: for an unknown option.
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

    def __getstate__(self) -> dict[str, object]:
        state = self.__dict__.copy()
        for name in ("_compiled_specs", "_trusted"):
            state.pop(name, None)
        state.update(_pool=None, _transport=None, _finalizer=None)
        state.update(_resets_in_step=False, is_closed=True)
        return state

    def update_kwargs(self, kwargs: dict[str, object] | Sequence[dict[str, object]]) -> None:
        """Replace some arguments of the functions that build the environments.

        Args:
            kwargs: For all, or one for each environment.

        Raises:
            RuntimeError: if it is started already.
        """
        self._refuse_started()
        each = [kwargs] * self.num_envs if isinstance(kwargs, dict) else list(kwargs)
        if len(each) != self.num_envs:
            raise CountError(
                f"{type(self).__name__}.update_kwargs: expected kwargs for each of {self.num_envs} environments, "
                f"found {len(each)}."
            )
        recipes = [recipe for recipe in self._recipes if isinstance(recipe, EnvCreator)]
        if len(recipes) < self.num_envs:
            raise TypeError(f"{type(self).__name__}: an environment that is built already takes no arguments.")
        self._recipes = [recipe.make_variant(**own) for recipe, own in zip(recipes, each, strict=True)]
        self._metas = None
        self.__dict__.pop("_specs", None)
        self.empty_cache()

    # --- random actions --------------------------------------------------------------------------

    @property
    def action_masks(self) -> dict[NestedKey, NestedKey]:
        """The entry of the root that masks the legal choices of an action, by action."""
        metas = self._find_metas()
        return {key: mask for meta in metas for key, mask in meta.action_masks.items()}

    @property
    def draws_from_spec(self) -> bool:
        """Whether random actions are draws from the spec, because no mask forbids any."""
        metas = self._find_metas()
        return all(meta.draws_from_spec and not meta.action_masks for meta in metas)

    def rand_action(self, tensordict: TensorDictBase | None = None) -> TensorDictBase:
        """Write a random action that is legal in ``tensordict``, or any into a new one.

        Where an environment draws random actions in a way of its own, its method is called.
        """
        if tensordict is None or self.draws_from_spec:
            return super().rand_action(tensordict)
        if self._masks_are_enough():
            action = draw_legal(self.full_action_spec, tensordict, self.action_masks)
            return tensordict.update(action)
        if self._transport is None:
            raise ResetError(describe(self, "cannot draw an action: it is not started", hint="Call reset()."))
        return tensordict.update(self._transport.random_actions(tensordict))

    def draw_for_rows(self, spec: TensorSpec, record: TensorDictBase) -> TensorDictBase:
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
        """Return whether specs and masks determine which actions are legal."""
        return all(
            all(isinstance(meta.specs["action"][action], Masked) for action in meta.action_masks)
            and (meta.draws_from_spec or meta.action_masks)
            for meta in self._find_metas()
        )

    # --- stepping --------------------------------------------------------------------------------

    def reset(self, tensordict: TensorDictBase | None = None, **kwargs: Any) -> TensorDictBase:
        """Start if needed, and start new episodes; see :meth:`EnvBase.reset`.

        Args:
            tensordict: Updated and returned, if given; ``_reset`` masks the rows to reset.
            kwargs: Those of :meth:`EnvBase.reset`, and for the ``reset`` of each environment;
                ``list_of_kwargs`` holds what differs, one dictionary for each environment.
        """
        self.start()
        return super().reset(tensordict, **kwargs)

    def expect_resets(self, expected: bool) -> None:
        """Let environments reset in the step that ends an episode: one request instead of two."""
        self.__dict__["_resets_in_step"] = expected

    def step_and_maybe_reset(self, tensordict: TensorDictBase) -> tuple[TensorDictBase, TensorDictBase]:
        """Step; return the step and the root of the next one, reset where an episode has ended."""
        self.expect_resets(True)
        try:
            return super().step_and_maybe_reset(tensordict)
        finally:
            self.expect_resets(False)

    def _step(self, tensordict: Record) -> Any:
        transport = self._transport
        if transport is None or transport.pool.is_closed:
            raise ResetError(describe(self, "cannot step: it is not started", hint="Call reset() first."))
        return transport.step(tensordict, self._resets_in_step, self.compiled_specs)

    def _reset(
        self, tensordict: Any, list_of_kwargs: Sequence[dict[str, object]] | None = None, **kwargs: object
    ) -> Any:
        self.start()
        transport, num_envs = self._transport, self.num_envs
        assert transport is not None
        each = [kwargs] * num_envs
        if list_of_kwargs is not None:
            if len(list_of_kwargs) != num_envs:
                raise ValueError(
                    f"{type(self).__name__}: expected {num_envs} list_of_kwargs, one an "
                    f"environment, found {len(list_of_kwargs)}."
                )
            each = [{**kwargs, **own} for own in list_of_kwargs]
        return transport.reset(tensordict, each, self.compiled_specs, expected=self._resets_in_step)

    def reset_entries(self, root: TensorDictBase) -> TensorDictBase:
        """Reset the rows that have ended, in a flat record of the stepping loop."""
        transport = self._transport
        if self._resets_in_step and transport is not None and transport.merge_new_roots(root):
            return root
        return super().reset_entries(root)

    def _set_state(self, tensordict: TensorDictBase) -> TensorDictBase:
        return self._reset(tensordict, set_state=True)

    def _check_batch(self, tensordict: TensorDictBase) -> None:
        self._find_metas()
        super()._check_batch(tensordict)

    def to(self, device: Any) -> BatchedEnvBase:  # type: ignore[override]  # devices only
        """Return results on another device; the environments stay where they are."""
        check_devices(self, device=device)
        device = torch.device(device)
        self._own_device = self._device = device
        if self._metas is not None:
            self._set_metas(self._metas)
        if self._transport is not None:
            self._transport.device = device
        return self

    # --- access to the environments --------------------------------------------------------------

    def set_seed(self, seed: int | None = None, static_seed: bool = False) -> int | None:
        """Seed each environment with the seed that follows that of the one before it.

        Args:
            seed: Seed of the first environment; ``None`` for fresh randomness in all.
            static_seed: Give all the same seed.

        Returns: the seed that follows that of the last environment.
        """
        self.start()
        assert self._pool is not None
        return self._pool.chain("set_seed", seed, static_seed)

    def _set_seed(self, seed: int | None) -> None:
        self.set_seed(seed)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("_") or "_recipes" not in self.__dict__ or is_class_attribute(self, name):
                raise
        return self.attribute_of(range(self.num_envs), name)

    def attribute_of(self, numbers: Sequence[int], name: str) -> Any:
        """Return an attribute of some environments, a list; for a method, a function that calls it.

        Raises:
            AttributeError: if one of them has none of that name, or they are not started yet.
        """
        pool = self.__dict__.get("_pool")
        if pool is None or pool.is_closed:
            raise AttributeError(
                f"{type(self).__name__} has no {name!r}, and cannot ask its environments before start() or reset()."
            )
        wanted = [number in numbers for number in range(self.num_envs)]

        def scatter(method: str, *args: object) -> list[object]:
            found = pool.scatter(method, wanted, *args)
            return [found[number] for number in numbers]

        values = scatter("get_attribute", name)
        kinds = [value if isinstance(value, str) else "" for value in values]
        for number, kind in zip(numbers, kinds, strict=True):
            if kind.startswith(MISSING):
                cause = kind.removeprefix(MISSING)
                raise AttributeError(
                    f"neither {type(self).__name__} nor environment {number} of it has {name!r}: {cause}"
                )
        if METHOD not in kinds:
            return values
        return lambda *args, **kwargs: scatter("call_method", name, args, kwargs)

    def read_attribute(self, path: str) -> torch.Tensor:
        """Return an attribute of each environment, numbers ``[N, ...]``; see :class:`EnvBase`."""
        values = self.attribute_of(range(self.num_envs), "read_attribute")(path)
        return torch.stack([torch.as_tensor(value) for value in values])

    def __getitem__(self, index: object) -> EnvView:
        """Return some of the environments as an environment; see :class:`~.view.EnvView`."""
        return EnvView(self, index)

    def simulator_state(self) -> list[dict[str, Any]]:
        """Return the state of each simulator, and of the generators of worker processes; see :meth:`EnvBase`.

        Raises:
            SimulatorStateError: if one of them cannot be saved.
        """
        self.start()
        assert self._pool is not None
        states = self._pool.scatter("simulator_state", None, self._pool.is_remote)
        if missing := [state["missing"] for state in states if "missing" in state]:
            raise SimulatorStateError(missing[0])
        return states

    def load_simulator_state(self, states: Sequence[dict[str, Any]]) -> None:
        """Restore the state of each simulator.

        Raises:
            CountError: if there were more of them, or fewer.
        """
        if len(states) != self.num_envs:
            raise CountError(
                describe(self, "has another number of environments", expected=len(states), found=self.num_envs)
            )
        self.reset()
        assert self._pool is not None
        self._pool.scatter("load_simulator_state", states)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        states: Any = list(self._pending_state.items())
        if self._pool is not None and not self._pool.is_closed:
            states = enumerate(self._pool.scatter("state_dict", None))
        for i, state in states:
            for key, value in state.items():
                destination[f"{prefix}worker{i}.{key}"] = value

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: object) -> None:
        states: dict[int, dict[str, object]] = {}
        for i in range(self.num_envs):
            own = f"{prefix}worker{i}."
            found = {k[len(own) :]: v for k, v in state_dict.items() if k.startswith(own)}
            if found:
                states[i] = found
        if self._pool is None or self._pool.is_closed:
            self._pending_state = states  # loaded at the start
        elif states:
            self._pool.scatter("load_state_dict", [states.get(i, {}) for i in range(self.num_envs)])

    def __repr__(self) -> str:
        size = tuple(self._batch_size) if self._metas is not None else (self.num_envs, "...")
        return (
            f"{type(self).__name__}(num_envs={self.num_envs}, num_workers={self.num_workers}, "
            f"batch_size={size}, device={self._device})"
        )


def draw_legal(spec: Any, record: TensorDictBase, masks: dict[NestedKey, NestedKey]) -> TensorDictBase:
    """Return random actions ``[*B]`` that the masks of a root allow.

    Args:
        spec: Of all actions, ``[*B]``.
        record: The root, ``[*B]``. Where an episode has ended any action is legal.
        masks: The entry that masks the legal choices of an action, by action.

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
    env: EnvBase,
    num_workers: int,
    create_env_fn: Factory | Sequence[Factory],
    create_env_kwargs: dict[str, object] | Sequence[dict[str, object]] | None,
) -> list[EnvCreator | EnvBase]:
    name = type(env).__name__
    _check_number(name, num_workers)
    if isinstance(create_env_fn, EnvBase) or callable(create_env_fn):
        if isinstance(create_env_fn, EnvBase) and num_workers > 1:
            raise TypeError(
                f"{name}: one environment cannot be stepped {num_workers} times; pass a function that builds it."
            )
        factories: list[Any] = [create_env_fn] * num_workers
    else:
        factories = list(create_env_fn)
    if num_workers > len(factories) or (num_workers < len(factories) and not env._workers_step_several):
        several = "at least " if env._workers_step_several else ""
        raise CountError(
            f"{name}: expected {several}one environment for each of {num_workers} workers, found {len(factories)}."
        )
    if env._workers_step_as_many and len(factories) % num_workers:  # a slip more often than a wish
        raise CountError(
            f"{name}: expected environments for {num_workers} workers that each step as many, found {len(factories)}. "
            f"Write {name}({len(factories)}, ...) for one environment a worker."
        )
    if create_env_kwargs is None or isinstance(create_env_kwargs, dict):
        kwargs = [create_env_kwargs or {}] * len(factories)
    else:
        kwargs = list(create_env_kwargs)
    if len(kwargs) != len(factories):
        raise CountError(
            f"{name}: expected one create_env_kwargs for each of {len(factories)} environments, found {len(kwargs)}."
        )
    made: dict[tuple[int, int], Any] = {}
    for factory, own in zip(factories, kwargs, strict=True):
        if isinstance(factory, EnvBase):
            if own:
                raise TypeError(f"{name}: create_env_kwargs are for functions, not environments.")
            made[id(factory), id(own)] = factory
        elif isinstance(factory, EnvCreator) and not own:
            made[id(factory), id(own)] = factory  # it may have its metadata
        else:
            shares = isinstance(factory, EnvCreator)
            recipe = EnvCreator(factory, own, share_memory=shares)
            made.setdefault((id(factory), id(own)), recipe)
    recipes = [made[id(factory), id(own)] for factory, own in zip(factories, kwargs, strict=True)]
    built = [recipe for recipe in recipes if isinstance(recipe, EnvBase)]
    if len(built) != len({id(recipe) for recipe in built}):
        raise TypeError(f"{name}: the same environment is in create_env_fn more than once.")
    return recipes


def _other_specs(env: EnvBase, number: int, promised: EnvMeta, found: EnvMeta) -> SpecError:
    return SpecError(
        describe(
            env,
            f"environment {number} has other specs than its recipe gave before",
            expected=promised.specs,
            found=found.specs,
            hint="Let create_env_fn build the same environment each time.",
        )
    )
