"""What steps the environments: several in turn, in this process or in a worker.

A :class:`Team` is the hot path of batched environments. Whether it runs here or elsewhere, and
with how many environments, makes no difference to what they do.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor

from torchrl._core.entries import Entries, is_entrywise, nested_tensordict
from torchrl._core.errors import DTypeError, ShapeError, describe, summary
from torchrl._core.keys import next_key
from torchrl._core.processes import Channel, check_parent
from torchrl.envs.batched_envs.buffers import (
    INPUT,
    OUTCOME,
    PRESET,
    ROOT,
    SIGNAL,
    Block,
    Memory,
    num_bytes,
    rows_of,
)
from torchrl.envs.batched_envs.gym_rows import GymRows
from torchrl.envs.common import EnvBase
from torchrl.envs.metadata import EnvMeta, build, meta_of

STEP, STEP_RESET, STEP_SOME, STEP_SOME_RESET = b"s", b"r", b"t", b"u"
STEPS = {  # code: (only rows with a true "_step", reset the rows that end)
    STEP: (False, False),
    STEP_RESET: (False, True),
    STEP_SOME: (True, False),
    STEP_SOME_RESET: (True, True),
}
DONE, ENDED, RESULT = b"k", b"e", b"R"  # done; done, and an episode has ended; with a result
CALL, FAILED, ATTACH, QUIT = b"C", b"E", b"M", b"q"
Recipe = Callable[[], EnvBase]
Request = tuple[TensorDictBase | None, dict[str, Any]]


class Seat:
    """One environment, and the rows it reads and writes.

    Args:
        env: The environment.
        number: Its place in the batch.
    """

    def __init__(self, env: EnvBase, number: int) -> None:
        self.env, self.number = env, number
        self.meta = meta_of(env)
        self._flat = is_entrywise(env)
        self._device = env.device if env.device is not None and env.device.type != "cpu" else None
        self._optional = set(self.meta.optional_names)
        self._preset_keys: Sequence[NestedKey] = ()
        self._presets: list[tuple[NestedKey, NestedKey]] = []  # (entry, the same under "next")
        self.written: list[NestedKey] = []  # the optional entries of the last step

    def attach(self, blocks: Sequence[Block], memory: Memory) -> None:
        """Take the rows of a memory."""
        inputs, self._preset, self._outcome, self._root = (
            rows_of(blocks, memory, self.number, part) for part in (INPUT, PRESET, OUTCOME, ROOT)
        )
        self._mask = inputs.pop("_step")  # [*S, 1]
        self._inputs = self._own_inputs = list(inputs.items())
        self._ended = rows_of(blocks, memory, self.number, SIGNAL)["ended"].numpy()
        self._gym = GymRows.of(self.env, inputs, self._outcome, self._root)

    @property
    def is_array(self) -> bool:
        """Whether the environment computes with numpy."""
        return self._gym is not None

    def take_presets(self, keys: Sequence[NestedKey]) -> None:
        """Read, at each step from now on, these entries that the policy writes under ``"next"``."""
        if keys == self._preset_keys:
            return
        self._preset_keys, self._presets = keys, [(key, next_key(key)) for key in keys]
        preset = [(following, self._preset[key]) for key, following in self._presets]
        self._inputs = [*self._own_inputs, *preset]

    def is_wanted(self) -> bool:
        """Return whether the mask of a partial step names any of our rows."""
        self._ended[()] = False
        return bool(self._mask.any())

    def step(self, resets: bool, some: bool = False) -> bool:
        """Step from the input rows into the outcome rows, and on into the root rows.

        Args:
            resets: Begin anew where an episode ends.
            some: Hand the mask of the rows that step to the environment.

        Returns: whether an episode has ended.
        """
        if self._gym is not None and "_trusted" in self.env.__dict__:
            ended = self._gym.step()
            if ended and resets:
                self._gym.reset()
        else:
            ended = self._step(resets, some)
        self._ended[()] = ended
        return ended

    def _step(self, resets: bool, some: bool) -> bool:
        record = self._read()
        if some and self.meta.batch_size:
            record.set("_step", self._mask.clone())
        step = self._step_entries if self._flat else self._step_tensordict
        outcome, root = step(record, resets)
        self.written = self._write(self._outcome, outcome)
        if root is not None:
            self._write(self._root, root)
        return self.env.plan.ended(outcome)

    def _step_entries(self, record: Entries, resets: bool) -> tuple[Any, Any]:
        env, plan = self.env, self.env.plan
        outcome = env.outcome_of(record)
        for key, following in self._presets:
            outcome.setdefault(key, record.pop(following))
        if not (resets and plan.ended(outcome)):
            return outcome, None
        # Copies: a reset may write into the memory of the step.
        outcome = Entries((key, value.clone()) for key, value in outcome.items())
        root = outcome.copy()
        for key in plan.left_behind:
            del root[key]
        for key, value in record.items():
            if key not in plan.not_carried and key not in root:
                root[key] = value
        return outcome, env.reset_entries(root)

    def _step_tensordict(self, record: Any, resets: bool) -> tuple[Any, Any]:
        env = self.env
        td = env.step(record)
        outcome = td.get("next")
        if not (resets and env.plan.ended(outcome)):
            return outcome, None
        outcome = outcome.clone()  # a reset may write into the memory of the step
        return outcome, env.maybe_reset(env.step_mdp(td.set("next", outcome)))

    def _read(self) -> Any:
        # Copies: an environment may keep what it is given, and the rows change at the next step.
        if self._device is None:
            entries = Entries((key, row.clone()) for key, row in self._inputs)
        else:
            entries = Entries((key, row.to(self._device)) for key, row in self._inputs)
        if self._flat:
            return entries
        return nested_tensordict(
            entries, self.meta.batch_size, self.env.device, self.env.plan.nested
        )

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

    def step_record(
        self, record: TensorDictBase, resets: bool
    ) -> tuple[TensorDictBase, TensorDictBase | None]:
        """Return the outcome of a step and, if an episode has ended and we reset, the next root."""
        outcome, root = self._step_tensordict(record, resets)
        return outcome, None if root is None else self._own(root)

    def reset_record(self, request: Request) -> TensorDictBase:
        """Return the root after a reset."""
        record, kwargs = request
        return self._own(self.env.reset(record, **kwargs))

    def _own(self, root: TensorDictBase) -> TensorDictBase:
        """Return what is ours of a root that may hold what it was given."""
        return root.select(*self.meta.root_names, strict=False)


def fitted(key: NestedKey, value: Tensor, row: Tensor, source: object) -> Tensor:
    """Return an entry in the dtype of its row.

    Raises:
        ShapeError: if it has another shape, to which copying would stretch it.
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


class Team:
    """Environments that take turns.

    Args:
        first: Number of the first of them in the batch.
        consolidate: Return each record as one block of memory.
    """

    def __init__(self, first: int = 0, *, consolidate: bool = False) -> None:
        self.first, self.consolidate = first, consolidate
        self.seats: list[Seat] = []
        self._at: Any = None  # tells other processes whose turn it is
        self.turn = first

    def _take_turns(self) -> Any:
        at = self._at
        for seat in self.seats:
            self.turn = seat.number
            if at is not None:
                at[()] = seat.number
            yield seat

    def build(self, recipes: Sequence[Recipe | EnvBase]) -> list[EnvMeta]:
        """Build the environments; return what is known of each."""
        for number, recipe in enumerate(recipes, self.first):
            self.turn = number
            self.seats.append(Seat(build(recipe), number))
        return self.metas()

    def metas(self) -> list[EnvMeta]:
        """Return what is known of each environment."""
        return [seat.meta for seat in self.seats]

    def attach(self, blocks: Sequence[Block], memory: Memory) -> None:
        """Take the rows of a memory."""
        self._at = rows_of(blocks, memory, self.first, SIGNAL)["at"].numpy()
        for seat in self._take_turns():
            seat.attach(blocks, memory)

    def step(self, code: bytes) -> bool:
        """Step all environments from their rows into their rows; see :data:`STEPS`.

        Returns: whether an episode has ended.
        """
        some, resets = STEPS[code]
        ended = False
        with torch.no_grad():
            for seat in self._take_turns():
                if not some or seat.is_wanted():
                    ended |= seat.step(resets, some)
        return ended

    def step_and_tell(self, code: bytes) -> list[list[NestedKey]]:
        """Step, and return which of the optional entries each environment wrote."""
        self.step(code)
        return [seat.written for seat in self.seats]

    def reset(self, requests: Sequence[Request | None]) -> list[list[NestedKey]]:
        """Reset the environments that have a request, into their rows."""
        with torch.no_grad():
            return [
                [] if request is None else seat.reset(request)
                for seat, request in zip(self._take_turns(), requests, strict=True)
            ]

    def step_records(
        self, records: Sequence[TensorDictBase | None], resets: bool
    ) -> list[tuple[Any, Any]]:
        """Step the environments that have a record."""
        return [
            (None, None) if record is None else self._packed(*seat.step_record(record, resets))
            for seat, record in zip(self._take_turns(), records, strict=True)
        ]

    def reset_records(self, requests: Sequence[Request | None]) -> list[TensorDictBase | None]:
        """Reset the environments that have a request."""
        return [
            None if request is None else self._packed(seat.reset_record(request))[0]
            for seat, request in zip(self._take_turns(), requests, strict=True)
        ]

    def random_actions(self, records: Sequence[TensorDictBase]) -> list[TensorDictBase]:
        """Return the action that each environment draws for its record."""
        return [
            seat.env.rand_action(record.copy()).select(*seat.env.action_keys)
            for seat, record in zip(self._take_turns(), records, strict=True)
        ]

    def _take_turn(self, number: int) -> Seat:
        """Return one environment, which is on from now."""
        self.turn = number
        if self._at is not None:
            self._at[()] = number
        return self.seats[number - self.first]

    def are_arrays(self) -> list[bool]:
        """Say of each environment whether its numbers are no tensors, so that no gradient flows."""
        return [seat.is_array for seat in self.seats]

    def take_presets(self, keys: Sequence[Sequence[NestedKey]]) -> list[None]:
        """Tell each environment what the policy writes under ``"next"`` from now on."""
        for seat, own in zip(self.seats, keys, strict=True):
            seat.take_presets(own)
        return [None] * len(self.seats)

    def step_one(
        self, number: int, resets: bool, presets: Sequence[NestedKey]
    ) -> tuple[bool, list[NestedKey]]:
        """Step one environment; return whether it ended, and which optional entries it wrote."""
        seat = self._take_turn(number)
        seat.take_presets(presets)
        with torch.no_grad():
            return seat.step(resets), seat.written

    def reset_one(self, number: int, request: Request) -> list[NestedKey]:
        """Reset one environment into its rows."""
        with torch.no_grad():
            return self._take_turn(number).reset(request)

    def step_record_one(
        self, number: int, record: TensorDictBase, resets: bool
    ) -> tuple[TensorDictBase, TensorDictBase | None]:
        """Step one environment from its record."""
        return self._packed(*self._take_turn(number).step_record(record, resets))

    def reset_record_one(self, number: int, request: Request) -> TensorDictBase:
        """Reset one environment."""
        return self._packed(self._take_turn(number).reset_record(request))[0]

    def _packed(self, *records: TensorDictBase | None) -> tuple[Any, ...]:
        if not self.consolidate:
            return records
        return tuple(None if record is None else record.consolidate() for record in records)

    def pin(self, cpus: Sequence[int]) -> None:
        """Run on these processor cores only."""
        os.sched_setaffinity(0, cpus)

    def set_seed(self, seed: int | None, static_seed: bool) -> int | None:
        """Seed one environment after the other, each with the seed that the last one returned."""
        for seat in self._take_turns():
            seed = seat.env.set_seed(seed, static_seed=static_seed)
        return seed

    def seed_some(self, seeds: Sequence[tuple[int | None] | None]) -> list[None]:
        """Seed the environments that have a seed."""
        for seat, seed in zip(self._take_turns(), seeds, strict=True):
            if seed is not None:
                seat.env.set_seed(*seed)
        return [None] * len(self.seats)

    def get_attribute(self, wanted: Sequence[bool], name: str) -> list[Any]:
        """Return an attribute of each: :data:`METHOD` for a method, :data:`MISSING` for none."""
        values = [
            getattr(seat.env, name, MISSING) if want else None
            for seat, want in zip(self._take_turns(), wanted, strict=True)
        ]
        return [METHOD if callable(value) else value for value in values]

    def call_method(
        self, wanted: Sequence[bool], name: str, args: tuple, kwargs: dict[str, Any]
    ) -> list[Any]:
        """Call a method of each."""
        return [
            getattr(seat.env, name)(*args, **kwargs) if want else None
            for seat, want in zip(self._take_turns(), wanted, strict=True)
        ]

    def state_dict(self) -> list[dict[str, Any]]:
        """Return the state of each environment."""
        return [seat.env.state_dict() for seat in self._take_turns()]

    def load_state_dict(self, states: Sequence[dict[str, Any]]) -> list[None]:
        """Load the state of each environment."""
        for seat, state in zip(self._take_turns(), states, strict=True):
            seat.env.load_state_dict(state)
        return [None] * len(self.seats)

    def close(self) -> None:
        """Close the environments, whatever they say to it."""
        for seat in self.seats:
            with contextlib.suppress(Exception):
                if not seat.env.is_closed:
                    seat.env.close()
        self.seats = []


METHOD, MISSING = "<method>", "<missing>"


def serve(
    channel: Channel,
    first: int,
    recipes: Sequence[Recipe | EnvBase],
    daemon: bool,
    consolidate: bool,
) -> None:
    """Run a team and do what the channel says, until it says :data:`QUIT` or closes."""
    multiprocessing.current_process()._config["daemon"] = daemon  # type: ignore[attr-defined]  # no other way
    team = Team(first, consolidate=consolidate)
    tick = check_parent(os.getppid())

    def answer(work: Callable[[], Any]) -> None:
        try:
            result = work()
            message = Channel.message(DONE if result is None else RESULT, result)
        except BaseException as error:
            message = Channel.message(FAILED, complaint(team, error))
        channel.send_message(message, tick)

    def attach(blocks: Sequence[Block]) -> None:
        memory = Memory(num_bytes(blocks), file=channel.receive_file())
        team.attach(blocks, memory)
        memory.close()

    try:
        answer(lambda: team.build(recipes))
        while True:
            code = _step_until_another_code(channel, team, tick)
            code, payload = channel.resume(code, tick)
            if code == CALL:
                name, args = payload
                answer(partial(getattr(team, name), *args))
            elif code == ATTACH:
                answer(partial(attach, payload))
            else:
                return
    finally:
        team.close()


def _step_until_another_code(channel: Channel, team: Team, tick: Callable[[], None]) -> bytes:
    """Step for as long as we are asked to; return the first code that asks for something else."""
    receive, send, step = channel.sock.recv, channel.sock.send, team.step
    while True:
        try:
            code = receive(1)
        except BlockingIOError:
            tick()
            continue
        except ConnectionError:
            return b""
        if code not in STEPS:
            return code
        try:
            ended = step(code)
        except BaseException as error:
            channel.send(FAILED, complaint(team, error), tick)
        else:
            send(ENDED if ended else DONE)


def complaint(team: Team, error: BaseException) -> tuple[int, str, str]:
    """Return which environment an error comes from, the error in a line, and its traceback."""
    return team.turn, *summary(error)
