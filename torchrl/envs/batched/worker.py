"""The worker's side of batched environments: environments that read and write rows of a memory.

An :class:`EnvSlot` is one environment and its rows, an :class:`EnvGroup` several of them that are
stepped in turn, and :func:`serve` runs a group in a worker process.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor

from torchrl._core.errors import DTypeError, ShapeError, SimulatorStateError, describe
from torchrl._core.generators import GlobalRNGState
from torchrl._core.keys import next_key
from torchrl._core.records.flat_record import FlatRecord, nested_tensordict, takes_flat_records
from torchrl._core.workers.pool import RequestHandler
from torchrl._core.workers.protocol import (
    CALL,
    DONE,
    ENDED,
    MEMORY,
    STEP,
    STEP_RESET,
    STEP_SOME,
    STEP_SOME_RESET,
    Channel,
)
from torchrl.envs.base import EnvBase
from torchrl.envs.batched.shared_rows import INPUT, PRESET, RESULTS, ROOT, SIGNAL, Block, Rows, make_rows, rows_of
from torchrl.envs.metadata import EnvMeta, build, meta_of

STEPS = {  # code: (only rows with a true "_step", reset the rows that end)
    STEP: (False, False),
    STEP_RESET: (False, True),
    STEP_SOME: (True, False),
    STEP_SOME_RESET: (True, True),
}
METHOD, MISSING = "<method>", "<missing>"  # for an attribute that is a method, or is not there
Recipe = Callable[[], EnvBase]
Request = tuple[TensorDictBase | None, dict[str, Any]]  # what a reset gets: record, keywords


class EnvSlot:
    """One environment, and the rows it reads and writes.

    Args:
        env: The environment.
        number: Its place in the batch.
    """

    def __init__(self, env: EnvBase, number: int) -> None:
        self.env, self.number = env, number
        self.meta = meta_of(env)
        self._flat = takes_flat_records(env)
        self._device = env.device if env.device is not None and env.device.type != "cpu" else None
        self._optional = set(self.meta.optional_names)
        self._preset_keys: Sequence[NestedKey] = ()
        self._presets: list[tuple[NestedKey, NestedKey]] = []  # (entry, the same under "next")
        self.written: list[NestedKey] = []  # the optional entries of the last step

    def attach(self, rows: Rows) -> None:
        """Use the rows of this environment in a memory."""
        inputs, self._preset, self._result, self._root = (
            rows_of(rows, self.number, part) for part in (INPUT, PRESET, RESULTS, ROOT)
        )
        self._mask = inputs.pop("_step")  # [*B, 1]
        self._inputs = self._own_inputs = list(inputs.items())
        self._ended = rows_of(rows, self.number, SIGNAL)["ended"].numpy()
        # Looked up in the class: wrappers pass attributes of the inner environment on.
        make = getattr(type(self.env), "row_stepper", None)
        self._stepper = None if make is None else make(self.env, inputs, self._result, self._root)

    @property
    def is_array(self) -> bool:
        """Whether the environment computes with numpy, so that no gradient flows through it."""
        return self._stepper is not None

    def set_presets(self, keys: Sequence[NestedKey]) -> None:
        """Read, from the next step on, these entries that the policy writes under ``"next"``."""
        if keys == self._preset_keys:
            return
        self._preset_keys, self._presets = keys, [(key, next_key(key)) for key in keys]
        preset = [(name, self._preset[key]) for key, name in self._presets]
        self._inputs = [*self._own_inputs, *preset]

    def is_wanted(self) -> bool:
        """Return whether the mask of a partial step names a row of this environment."""
        self._ended[()] = False
        return bool(self._mask.any())

    def step(self, resets: bool, some: bool = False) -> bool:
        """Step from the input rows into the result rows.

        Args:
            resets: If the episode ends, reset, into the root rows.
            some: Pass the mask of a partial step to the environment.

        Returns: whether an episode has ended.
        """
        if self._stepper is not None and "_trusted" in self.env.__dict__:  # its specs are checked
            ended = self._stepper.step()
            if ended and resets:
                self._stepper.reset()
        else:
            record = self._read()
            if some and self.meta.batch_size:
                record.set("_step", self._mask.clone())
            step = self._step_flat if self._flat else self._step_tensordict
            result, root = step(record, resets)
            self.written = self._write(self._result, result)
            if root is not None:
                self._write(self._root, root)
            ended = self.env.compiled_specs.ended(result)
        self._ended[()] = ended
        return ended

    def _step_flat(self, record: FlatRecord, resets: bool) -> tuple[Any, Any]:
        env, compiled = self.env, self.env.compiled_specs
        result = env.result_of(record)
        for key, name in self._presets:
            result.setdefault(key, record.pop(name))
        if not (resets and compiled.ended(result)):
            return result, None
        # Copies: a reset may write into the memory of the step.
        result = FlatRecord((key, value.clone()) for key, value in result.items())
        root = result.copy()
        for key in compiled.dropped:
            del root[key]
        for key, value in record.items():
            if key not in compiled.not_carried and key not in root:
                root[key] = value
        return result, env.reset_entries(root)

    def _step_tensordict(self, record: Any, resets: bool) -> tuple[Any, Any]:
        env = self.env
        td = env.step(record)
        result = td.get("next")
        if not (resets and env.compiled_specs.ended(result)):
            return result, None
        result = result.clone()  # a reset may write into the memory of the step
        return result, env.maybe_reset(env.step_mdp(td.set("next", result)))

    def _read(self) -> Any:
        # Copies: an environment may keep its inputs, and the rows change at the next step.
        if self._device is None:
            entries = FlatRecord((key, row.clone()) for key, row in self._inputs)
        else:
            entries = FlatRecord((key, row.to(self._device)) for key, row in self._inputs)
        if self._flat:
            return entries
        return nested_tensordict(entries, self.meta.batch_size, self.env.device, self.env.compiled_specs.nested)

    def _write(self, rows: dict[NestedKey, Tensor], record: Any) -> list[NestedKey]:
        written = []
        for key, row in rows.items():
            value = record.get(key, None)
            if value is not None:
                if value.shape != row.shape or value.dtype is not row.dtype:
                    value = fitted(key, value, row, self.env)
                row.copy_(value)
                if key in self._optional:
                    written.append(key)
        return written

    def reset(self, request: Request) -> list[NestedKey]:
        """Reset into the root rows; return the optional entries that were written."""
        return self._write(self._root, self.reset_record(request))

    # --- without rows ----------------------------------------------------------------------------

    def step_record(self, record: TensorDictBase, resets: bool) -> tuple[TensorDictBase, TensorDictBase | None]:
        """Step a record; return the result and, if the environment was reset, the next root."""
        result, root = self._step_tensordict(record, resets)
        return result, None if root is None else self._root_entries(root)

    def reset_record(self, request: Request) -> TensorDictBase:
        """Return the root after a reset."""
        record, kwargs = request
        return self._root_entries(self.env.reset(record, **kwargs))

    def _root_entries(self, root: TensorDictBase) -> TensorDictBase:
        """Return a root without the entries that only the record before the reset had."""
        return root.select(*self.meta.root_names, strict=False)


def fitted(key: NestedKey, value: Tensor, row: Tensor, source: object) -> Tensor:
    """Return an entry in the dtype of its row.

    Raises:
        ShapeError: if it has another shape, which a copy might broadcast.
        DTypeError: if it has numbers that the dtype of the row does not have.
    """
    if value.shape != row.shape:
        raise ShapeError(
            describe(
                source,
                "has another shape than its spec promises",
                key=key,
                expected=tuple(row.shape),
                found=tuple(value.shape),
                hint="Give it the same shape at every step.",
            )
        )
    cast = value.to(row.dtype)
    if not row.dtype.is_floating_point and bool((cast != value).any()):
        raise DTypeError(
            describe(
                source,
                "does not fit the dtype that its spec promises",
                key=key,
                expected=row.dtype,
                found=value.dtype,
                hint="Give the spec a dtype that holds what the environment returns.",
            )
        )
    return cast


class EnvGroup:
    """Environments that are stepped in turn.

    Args:
        first: Number of the first of them in the batch.
        consolidate: Return each record as one block of memory.

    Attributes:
        current: Number of the environment that is stepped or called now, for error messages.
    """

    def __init__(self, first: int = 0, *, consolidate: bool = False) -> None:
        self.first, self.consolidate = first, consolidate
        self.slots: list[EnvSlot] = []
        self._at: Any = None  # holds ``current``, too, in memory that other processes see
        self.current = first

    def place(self) -> str:
        """Return which environment is stepped or called now, for error messages."""
        return f" at environment {self.current}"

    def _in_turn(self) -> Iterator[EnvSlot]:
        at = self._at
        for slot in self.slots:
            self.current = slot.number
            if at is not None:
                at[()] = slot.number
            yield slot

    def _slot(self, number: int) -> EnvSlot:
        """Return the slot of one environment, which is the current one from now on."""
        self.current = number
        if self._at is not None:
            self._at[()] = number
        return self.slots[number - self.first]

    def build(self, recipes: Sequence[Recipe | EnvBase]) -> list[EnvMeta]:
        """Build the environments; return the metadata of each."""
        for number, recipe in enumerate(recipes, self.first):
            self.current = number
            self.slots.append(EnvSlot(build(recipe), number))
        return [slot.meta for slot in self.slots]

    def attach(self, rows: Rows) -> None:
        """Let the environments use the rows of a memory."""
        self._at = rows_of(rows, self.first, SIGNAL)["at"].numpy()
        for slot in self._in_turn():
            slot.attach(rows)

    def attach_file(self, blocks: Sequence[Block], file: int) -> None:
        """Let the environments use the rows of a memory of another process."""
        rows = make_rows(blocks, file=file)
        self.attach(rows)
        rows.close()

    # --- from rows to rows -----------------------------------------------------------------------

    def step(self, code: bytes) -> bool:
        """Step all environments from their rows into their rows; see :data:`STEPS`.

        Returns: whether an episode has ended.
        """
        some, resets = STEPS[code]
        ended = False
        with torch.no_grad():
            for slot in self._in_turn():
                if not some or slot.is_wanted():
                    ended |= slot.step(resets, some)
        return ended

    def step_and_list(self, code: bytes) -> list[list[NestedKey]]:
        """Step, and return which of the optional entries each environment wrote."""
        self.step(code)
        return [slot.written for slot in self.slots]

    def reset(self, requests: Sequence[Request | None]) -> list[list[NestedKey]]:
        """Reset the environments that have a request; return the optional entries they wrote."""
        with torch.no_grad():
            return [
                [] if request is None else slot.reset(request)
                for slot, request in zip(self._in_turn(), requests, strict=True)
            ]

    def set_presets(self, keys: Sequence[Sequence[NestedKey]]) -> list[None]:
        """Set, for each environment, what the policy writes under ``"next"`` from now on."""
        for slot, own in zip(self.slots, keys, strict=True):
            slot.set_presets(own)
        return [None] * len(self.slots)

    def are_arrays(self) -> list[bool]:
        """Return, for each environment, whether it computes with numpy."""
        return [slot.is_array for slot in self.slots]

    # --- from records to records -----------------------------------------------------------------

    def step_records(self, records: Sequence[TensorDictBase | None], resets: bool) -> list[tuple[Any, Any]]:
        """Step the environments that have a record; return results and next roots."""
        return [
            (None, None) if record is None else self._packed(*slot.step_record(record, resets))
            for slot, record in zip(self._in_turn(), records, strict=True)
        ]

    def reset_records(self, requests: Sequence[Request | None]) -> list[TensorDictBase | None]:
        """Reset the environments that have a request; return their roots."""
        return [
            None if request is None else self._packed(slot.reset_record(request))[0]
            for slot, request in zip(self._in_turn(), requests, strict=True)
        ]

    def random_actions(self, records: Sequence[TensorDictBase]) -> list[TensorDictBase]:
        """Return the random action of each environment for its record."""
        return [
            slot.env.rand_action(record.copy()).select(*slot.env.action_keys)
            for slot, record in zip(self._in_turn(), records, strict=True)
        ]

    def _packed(self, *records: TensorDictBase | None) -> tuple[Any, ...]:
        if not self.consolidate:
            return records
        return tuple(None if record is None else record.consolidate() for record in records)

    # --- one environment -------------------------------------------------------------------------

    def step_one(self, number: int, resets: bool, presets: Sequence[NestedKey]) -> tuple[bool, list[NestedKey]]:
        """Step one environment; return whether it ended, and which optional entries it wrote."""
        slot = self._slot(number)
        slot.set_presets(presets)
        with torch.no_grad():
            return slot.step(resets), slot.written

    def reset_one(self, number: int, request: Request) -> list[NestedKey]:
        """Reset one environment into its rows; return the optional entries that it wrote."""
        with torch.no_grad():
            return self._slot(number).reset(request)

    def step_record_one(
        self, number: int, record: TensorDictBase, resets: bool
    ) -> tuple[TensorDictBase, TensorDictBase | None]:
        """Step one environment from its record; return its result and its next root."""
        return self._packed(*self._slot(number).step_record(record, resets))

    def reset_record_one(self, number: int, request: Request) -> TensorDictBase:
        """Reset one environment; return its root."""
        return self._packed(self._slot(number).reset_record(request))[0]

    # --- access ----------------------------------------------------------------------------------

    def pin(self, cpus: Sequence[int]) -> None:
        """Run on these processor cores only."""
        os.sched_setaffinity(0, cpus)

    def set_seed(self, seed: int | None, static_seed: bool) -> int | None:
        """Seed one environment after the other, each with the seed that the last one returned."""
        for slot in self._in_turn():
            seed = slot.env.set_seed(seed, static_seed=static_seed)
        return seed

    def seed_some(self, seeds: Sequence[tuple[int | None] | None]) -> list[None]:
        """Seed the environments that have a seed."""
        for slot, seed in zip(self._in_turn(), seeds, strict=True):
            if seed is not None:
                slot.env.set_seed(*seed)
        return [None] * len(self.slots)

    def get_attribute(self, wanted: Sequence[bool], name: str) -> list[Any]:
        """Return an attribute of each: :data:`METHOD` for a method, :data:`MISSING` and the error for none."""
        values: list[Any] = []
        for slot, want in zip(self._in_turn(), wanted, strict=True):
            try:
                value = getattr(slot.env, name) if want else None
            except AttributeError as error:
                value = f"{MISSING}{error}"
            values.append(METHOD if callable(value) else value)
        return values

    def call_method(self, wanted: Sequence[bool], name: str, args: tuple, kwargs: dict[str, Any]) -> list[Any]:
        """Call a method of each; return what it returns."""
        return [
            getattr(slot.env, name)(*args, **kwargs) if want else None
            for slot, want in zip(self._in_turn(), wanted, strict=True)
        ]

    def state_dict(self) -> list[dict[str, Any]]:
        """Return the state of each environment."""
        return [slot.env.state_dict() for slot in self._in_turn()]

    def load_state_dict(self, states: Sequence[dict[str, Any]]) -> list[None]:
        """Load the state of each environment."""
        for slot, state in zip(self._in_turn(), states, strict=True):
            slot.env.load_state_dict(state)
        return [None] * len(self.slots)

    def simulator_state(self, own_process: bool) -> list[dict[str, object]]:
        """Return the state of each simulator, or why there is none; with the generators of a process of its own."""
        states = [_state_of(slot.env) for slot in self._in_turn()]
        if own_process and states:
            states[-1]["generators"] = GlobalRNGState().state_dict()
        return states

    def load_simulator_state(self, states: Sequence[dict[str, Any]]) -> list[None]:
        """Restore the state of each simulator, then that of the generators."""
        for slot, state in zip(self._in_turn(), states, strict=True):
            slot.env.load_simulator_state(state["simulator"])
        for state in states:
            if "generators" in state:
                GlobalRNGState().load_state_dict(state["generators"])
        return [None] * len(self.slots)

    def close(self) -> None:
        """Close the environments, whatever they raise."""
        for slot in self.slots:
            with contextlib.suppress(Exception):
                if not slot.env.is_closed:
                    slot.env.close()
        self.slots = []


def _state_of(env: EnvBase) -> dict[str, object]:
    try:
        return {"simulator": env.simulator_state()}
    except SimulatorStateError as error:
        return {"missing": str(error)}


def serve(channel: Channel, first: int, recipes: Sequence[Recipe | EnvBase], daemon: bool, consolidate: bool) -> None:
    """Build a group in a worker process and answer requests, until the pool ends the worker."""
    multiprocessing.current_process()._config["daemon"] = daemon  # type: ignore[attr-defined]  # no other way
    env_group = EnvGroup(first, consolidate=consolidate)
    handler = RequestHandler(channel, env_group.place)
    try:
        handler.answer(env_group.build, recipes)
        while True:
            first_byte = _step_until_another_code(channel, handler, env_group)
            code, payload = channel.resume(first_byte, handler.tick)
            if code == CALL:
                handler.call(env_group, *payload)
            elif code == MEMORY:
                handler.answer(env_group.attach_file, *payload)
            else:
                return
    finally:
        env_group.close()


def _step_until_another_code(channel: Channel, handler: RequestHandler, env_group: EnvGroup) -> bytes:
    """Step as long as the pool sends codes for steps; return the first other code."""
    receive, send, step = channel.sock.recv, channel.sock.send, env_group.step
    while True:
        try:
            code = receive(1)
        except BlockingIOError:
            handler.tick()
            continue
        except ConnectionError:
            return b""
        if code not in STEPS:
            return code
        try:
            ended = step(code)
        except BaseException as error:
            handler.fail(error)
        else:
            send(ENDED if ended else DONE)
