"""How records become what environments read, and how their answers become records."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from tensordict import LazyStackedTensorDict, NestedKey, TensorDictBase
from torch import Tensor

from torchrl._core.devices import check_devices
from torchrl._core.entries import Entries, nested_tensordict
from torchrl._core.errors import DTypeError, ResetError, ShapeError, describe
from torchrl._core.keys import next_key, sibling
from torchrl.envs.batched_envs.buffers import (
    INPUT,
    OUTCOME,
    PRESET,
    ROOT,
    SIGNAL,
    Memory,
    lay_out,
    num_bytes,
)
from torchrl.envs.batched_envs.crew import Crew
from torchrl.envs.batched_envs.options import BatchOptions
from torchrl.envs.batched_envs.worker import (
    STEP,
    STEP_RESET,
    STEP_SOME,
    STEP_SOME_RESET,
    Request,
)
from torchrl.envs.metadata import EnvMeta
from torchrl.envs.partial_reset import entry_names
from torchrl.envs.spec_access import GROUPS
from torchrl.envs.step_plan import StepPlan

_CODES = {
    (False, False): STEP,
    (False, True): STEP_RESET,
    (True, False): STEP_SOME,
    (True, True): STEP_SOME_RESET,
}


class Exchange(ABC):
    """Carries records to a crew and back.

    Args:
        crew: The environments.
        device: Of what comes back; where it is made if ``None``.
        options: How it travels.

    Hooks:
        _send: ``record, mask [N] | None, resets -> outcome``; step.
        _begin: ``[request | None]``; reset the environments that have one.
        _collect: ``like -> root``; the roots of all environments, in the form of ``like``.
    """

    is_flat = False

    def __init__(self, crew: Crew, device: torch.device | None, options: BatchOptions) -> None:
        check_devices(self, device=device)
        self.crew, self.device, self.options = crew, device, options
        self._pins = options.pin_memory and torch.accelerator.is_available()
        self.metas = crew.metas
        self._groups = [meta.nested for meta in crew.metas]
        self.batch_size = torch.Size([len(self.metas), *self.metas[0].batch_size])
        self._reads_root = not all(meta.reads_action_only for meta in self.metas)
        self._fresh: Tensor | None = None  # rows [N] that began anew in the last step
        self._fresh_masks: dict[NestedKey, Tensor] = {}  # in detail

    def step(self, record: Any, resets: bool, plan: StepPlan) -> Any:
        """Step all rows, or those that ``_step`` names.

        Args:
            record: The root, with actions.
            resets: Reset the rows that end, at once; the next :meth:`reset` then finds them ready.
            plan: That of the whole batch.
        """
        if self._fresh is not None:
            raise _untaken(self._fresh)
        outcome = self._send(record, record.get("_step", None), resets)
        if self._fresh is not None:
            self._fresh_masks = plan.reset_masks(outcome)
        return outcome

    def reset(
        self, record: Any, kwargs: list[dict[str, Any]], plan: StepPlan, *, expected: bool
    ) -> Any:
        """Reset the rows that ``_reset`` names, or all; return the roots of all.

        Args:
            record: The root, or ``None``.
            kwargs: For the ``reset`` of each environment.
            plan: That of the whole batch.
            expected: Rows that began anew in the last step did so for this very reset.
        """
        num_envs = len(self.metas)
        fresh, self._fresh = self._fresh, None
        masks = {} if record is None else _masks(record, plan)
        if not expected:
            if masks and fresh is not None and bool((fresh & ~_any_row(masks)).any()):
                raise _untaken(fresh & ~_any_row(masks))
            fresh = None
        if not masks and fresh is not None:
            masks = {key: torch.ones_like(own) for key, own in self._fresh_masks.items()}
        if not masks:
            requests = self._requests([{}] * num_envs, [True] * num_envs, record, kwargs)
            self._begin([*map(self._sealed, requests)])
            return self._collect(record)
        wanted = _any_row(masks)  # [N]
        if fresh is not None:
            if bool((fresh & ~wanted).any()):
                raise _untaken(fresh & ~wanted)
            own = self._fresh_masks
            masks = {key: mask & ~own[key] for key, mask in masks.items()}
            wanted = _any_row(masks)
        if bool(wanted.any()):
            parts = [
                {}
                if all(bool(mask[i].all()) for mask in masks.values())
                else {key: mask[i] for key, mask in masks.items()}
                for i in range(num_envs)
            ]
            requests = self._requests(parts, wanted.tolist(), record, kwargs)
            self._renew(requests, fresh)
            self._begin([*map(self._sealed, requests)])
        return self._collect(record)

    def take_up(self, root: Entries) -> bool:
        """Complete ``root`` without a reset, if that can be done; return whether it was."""
        return False

    def _requests(
        self,
        masks: list[dict[NestedKey, Tensor]],
        wanted: list[bool],
        record: Any,
        kwargs: list[dict[str, Any]],
    ) -> list[Request | None]:
        """Return, for each environment that is wanted, its row of the record and its masks."""
        records: list[Any] = [None] * len(wanted)
        if record is not None and (self._reads_root or any(masks) or any(map(_sets, kwargs))):
            records = self._rows(record)
            for row, parts in zip(records, masks, strict=True):
                for key, mask in parts.items():
                    row.set(key, mask.clone())
        return [
            (row, own) if want else None
            for want, row, own in zip(wanted, records, kwargs, strict=True)
        ]

    def _renew(self, requests: list[Request | None], fresh: Tensor | None) -> None:
        """Where some rows of an environment are fresh already, let the others join them."""
        if fresh is None:
            return
        roots = self._collect(None).unbind(0)
        for request, is_fresh, root in zip(requests, fresh.tolist(), roots, strict=True):
            if request is not None and is_fresh and request[0] is not None:
                request[0].update(root)

    def _rows(self, record: Any) -> list[Any]:
        """Return the row of each environment, free to be changed, where that environment lives."""
        if isinstance(record, Entries):
            record = self._nested(record, self.batch_size)
        return [
            self._row(row, meta) for row, meta in zip(record.unbind(0), self.metas, strict=True)
        ]

    def _nested(self, entries: Mapping[NestedKey, Any], size: torch.Size, env: int = 0) -> Any:
        """Return a tensordict of the entries of all environments, or of one."""
        return nested_tensordict(entries, size, self.device, self._groups[env])

    def _row(self, row: Any, meta: EnvMeta) -> Any:
        preset = map(next_key, meta.preset_names)
        row = row.select(*meta.names(*GROUPS), "_step", *preset, strict=False)
        if self.crew.is_remote:  # a pickled view takes along everything that it looks at
            row = row.clone() if row.device is None else row.to("cpu").clone()
        return row if meta.device in (None, row.device) else row.to(meta.device)

    def _packed(self, row: Any) -> Any:
        """Return a record as it is pickled; no entry can be added any more."""
        packs = row is not None and self.crew.is_remote and self.options.consolidate
        return row.consolidate() if packs else row

    def _sealed(self, request: Request | None) -> Request | None:
        return None if request is None else (self._packed(request[0]), request[1])

    def random_actions(self, record: Any) -> Any:
        """Return the actions that each environment draws for its row of a root."""
        rows = [self._packed(row) for row in self._rows(record)]
        actions = stack_rows(self.crew.scatter("random_actions", rows))
        return actions if self.device is None else actions.to(self.device)

    # --- single environments ---------------------------------------------------------------------

    def _request(self, env: int, row: Any, kwargs: dict[str, Any]) -> Request:
        if row is None:
            return None, kwargs
        own = self._row(row, self.metas[env])
        for key in {sibling(key, "_reset") for key in self.metas[env].names("done")}:
            if (mask := row.get(key, None)) is not None:
                own.set(key, mask.clone())
        return self._packed(own), kwargs

    @abstractmethod
    def call_step(self, env: int, row: Any, resets: bool) -> tuple:
        """Return the name of the team's method that steps one environment, and its arguments."""

    @abstractmethod
    def call_reset(self, env: int, row: Any, kwargs: dict[str, Any]) -> tuple:
        """Return the name of the team's method that resets one environment, and its arguments."""

    @abstractmethod
    def step_answer(self, env: int, answer: Any) -> tuple[Any, Any]:
        """Return the outcome that a step answered with, and the next root where it has reset."""

    @abstractmethod
    def reset_answer(self, env: int, answer: Any) -> Any:
        """Return the root that a reset answered with."""

    # --- hooks -----------------------------------------------------------------------------------

    @abstractmethod
    def _send(self, record: Any, mask: Tensor | None, resets: bool) -> Any: ...

    @abstractmethod
    def _begin(self, requests: list[Request | None]) -> None: ...

    @abstractmethod
    def _collect(self, like: Any) -> Any: ...

    def _take(self, block: Tensor) -> Tensor:
        """Return a copy of a block, which changes at the next step, on our device."""
        copy = block.pin_memory() if self._pins else block.clone()
        if self.device is None or self.device.type == "cpu":
            return copy
        return copy.to(self.device, non_blocking=self.options.non_blocking)


def _masks(record: Any, plan: StepPlan) -> dict[NestedKey, Tensor]:
    found = ((key, record.get(key, None)) for key in plan.reset_keys)
    return {key: mask for key, mask in found if mask is not None}


def _any_row(masks: dict[NestedKey, Tensor]) -> Tensor:
    rows = [mask.flatten(1).any(1) for mask in masks.values()]
    return rows[0] if len(rows) == 1 else torch.stack(rows).any(0)


def _sets(kwargs: dict[str, Any]) -> bool:
    return bool(kwargs.get("set_state"))


def _untaken(rows: Tensor) -> ResetError:
    return ResetError(
        f"Environments {rows.nonzero().flatten().tolist()} have begun new episodes whose first "
        "observations were not taken up; reset them before the next step."
    )


class BlockExchange(Exchange):
    """Rows in a memory that all sides see: numbers are copied, never pickled.

    Args:
        crew: The environments.
        device: Of what comes back.
        options: How it travels.
        individual: Give each environment blocks of its own; what comes back is then stacked.
        kind: Of the memory.
    """

    def __init__(
        self,
        crew: Crew,
        device: torch.device | None,
        options: BatchOptions,
        *,
        individual: bool,
        kind: str,
    ) -> None:
        check_devices(self, device=device)
        super().__init__(crew, device, options)
        blocks = lay_out(self.metas, individual=individual)
        memory = Memory(num_bytes(blocks), kind)
        crew.attach(blocks, memory)
        # Gradients flow through environments of this process that compute with tensors.
        self._flows = not (crew.is_remote or all(crew.scatter("are_arrays", None)))
        memory.close()
        self.is_flat = not individual
        self._parts: list[dict[str, dict[NestedKey, Tensor]]] = []  # one a group of environments
        for block in blocks:
            rows = memory.rows(block)
            if block.part == SIGNAL:
                if block.key == "ended":
                    self._ended = rows
                continue
            index = block.first if individual else 0
            if index == len(self._parts):
                self._parts.append({INPUT: {}, PRESET: {}, OUTCOME: {}, ROOT: {}})
            self._parts[index][block.part][block.key] = rows if self.is_flat else rows[0]
        self._optional = [set(meta.optional_names) for meta in self.metas]
        self._action_keys = {key for meta in self.metas for key in meta.names("action")}
        self._masks = [part[INPUT].pop("_step") for part in self._parts]
        self._knows = {OUTCOME: not any(self._optional), ROOT: not any(self._optional)}
        self._inputs = list(self._parts[0][INPUT].items())
        self._presets = [
            [(key, next_key(key), block) for key, block in part[PRESET].items()]
            for part in self._parts
        ]
        # What the environments of each part know to be written under "next"; None: to be told.
        self._told: list[list[NestedKey]] | None = [[] for _ in self._parts]
        self._used = {
            name: [list(part[name].items()) for part in self._parts] for name in (OUTCOME, ROOT)
        }

    def step(self, record: Any, resets: bool, plan: StepPlan) -> Any:
        """Step; with whole records where gradients are to flow through environments here."""
        if not (self._flows and torch.is_grad_enabled() and self._needs_gradient(record)):
            return super().step(record, resets, plan)
        if self._fresh is not None:
            raise _untaken(self._fresh)
        found = self._records().step(self._whole(record), False, plan)
        return self._like(record, found)

    def reset(
        self, record: Any, kwargs: list[dict[str, Any]], plan: StepPlan, *, expected: bool
    ) -> Any:
        """Reset; with whole records where gradients are to flow through environments here."""
        flows = self._flows and record is not None and self._fresh is None
        if not (flows and torch.is_grad_enabled() and self._needs_gradient(record)):
            return super().reset(record, kwargs, plan, expected=expected)
        found = self._records().reset(self._whole(record), kwargs, plan, expected=expected)
        return self._like(record, found)

    def _records(self) -> RecordExchange:
        return RecordExchange(self.crew, self.device, self.options)

    def _whole(self, record: Any) -> Any:
        return self._nested(record, self.batch_size) if isinstance(record, Entries) else record

    @staticmethod
    def _like(record: Any, found: Any) -> Any:
        return Entries(found.items(True, True)) if isinstance(record, Entries) else found

    def _needs_gradient(self, record: Any) -> bool:
        """Return whether anything that the environments read requires a gradient."""
        rows = [record] if self.is_flat else record.unbind(0)
        for part, presets, row in zip(self._parts, self._presets, rows, strict=True):
            keys = [*part[INPUT], *(at for _, at, _ in presets)]
            values = (row.get(key, None) for key in keys)
            if any(value is not None and value.requires_grad for value in values):
                return True
        return False

    def _send(self, record: Any, mask: Tensor | None, resets: bool) -> Any:
        if torch.is_grad_enabled():
            with torch.no_grad():  # what the blocks hold has no history
                self._write_inputs(record, mask)
        else:
            self._write_inputs(record, mask)
        code = _CODES[mask is not None, resets]
        if self._knows[OUTCOME]:
            ended = self.crew.step(code)
        else:
            self._learn(OUTCOME, self.crew.scatter("step_and_tell", None, code))
            ended = bool(self._ended.any())
        if ended and resets:
            self._fresh = self._ended.clone()
        return self._form(OUTCOME, record)

    def _write_inputs(self, record: Any, mask: Tensor | None) -> None:
        if self.is_flat:
            for key, block in self._inputs:
                self._fill(key, block, record.get(key, None))
            told = [_fill_presets(self._presets[0], record)]
        else:
            told = []
            for i, (part, row) in enumerate(zip(self._parts, record.unbind(0), strict=True)):
                for key, block in part[INPUT].items():
                    self._fill(key, block, row.get(key, None))
                told.append(_fill_presets(self._presets[i], row))
        if told != self._told:
            self._tell(told)
        if mask is not None:
            self._write_mask(mask)

    def take_up(self, root: Entries) -> bool:
        """Put what the rows that have just begun anew begin with into ``root``; the quick way.

        Only where rows begin and end as a whole. Return whether it was taken.
        """
        fresh = self._fresh
        if fresh is None or not self.is_flat or len(self.batch_size) > 1:
            return False
        if self._fresh_masks.keys() != {"_reset"}:
            return False
        self._fresh = None
        for key, block in self._used[ROOT][0]:
            rows = fresh.view(-1, *(1,) * (block.ndim - 1))
            old = root[key]
            if old.device != block.device:
                rows, block = rows.to(old.device), block.to(old.device)
            root[key] = torch.where(rows, block, old)
        return True

    def _write_mask(self, mask: Tensor) -> None:
        mask = mask.reshape(*self.batch_size, 1)
        if self.is_flat:
            self._masks[0].copy_(mask)
        else:
            for block, row in zip(self._masks, mask, strict=True):
                block.copy_(row)

    def _begin(self, requests: list[Request | None]) -> None:
        written = self.crew.scatter("reset", requests)
        if not self._knows[ROOT]:
            self._learn(ROOT, written)

    def _fill(self, key: NestedKey, block: Tensor, value: Tensor | None) -> None:
        """Copy an entry; one that is absent, or reshaped by a transform outside, reads as zero.

        Raises:
            ShapeError: if it is an action of another shape than its spec.
        """
        if value is not None and value.shape == block.shape:
            block.copy_(value)
        elif value is None or key not in self._action_keys:
            block.zero_()
        else:
            raise ShapeError(
                describe(
                    "step",
                    "has another shape than the action_spec promises",
                    key=key,
                    expected=tuple(block.shape),
                    found=tuple(value.shape),
                    hint="Let the policy write the same shape at every step.",
                )
            )

    def _tell(self, presets: list[list[NestedKey]]) -> None:
        """Tell the environments what the policy writes under ``"next"`` from this step on."""
        self.crew.scatter("take_presets", presets * (len(self.metas) // len(presets)))
        self._told = presets
        self._knows[OUTCOME] = not any(self._optional)

    def _learn(self, name: str, written: list[list[NestedKey]]) -> None:
        """Leave the blocks of states alone that the environments do not write."""
        self._knows[name] = True
        found = {key for keys in written for key in keys}
        self._used[name] = [
            [(key, row) for key, row in part[name].items() if key in found or key not in optional]
            for part, optional in zip(self._parts, self._optional, strict=False)
        ]

    def _collect(self, like: Any) -> Any:
        return self._form(ROOT, like)

    @torch.no_grad()
    def call_step(self, env: int, row: Any, resets: bool) -> tuple:
        """Fill the input rows of one environment; return the call that steps it."""
        for key, block in self._rows_of(INPUT, env):
            self._fill(key, block, row.get(key, None))
        preset = [(key, next_key(key), block) for key, block in self._rows_of(PRESET, env)]
        self._told = None
        return "step_one", env, resets, _fill_presets(preset, row)

    def call_reset(self, env: int, row: Any, kwargs: dict[str, Any]) -> tuple:
        """Return the call that resets one environment."""
        return "reset_one", env, self._request(env, row, kwargs)

    def step_answer(self, env: int, answer: Any) -> tuple[Any, Any]:
        """Return the rows of an outcome and, where one environment began anew, of its root."""
        began_anew, written = answer
        root = self._read(ROOT, env, written) if began_anew else None
        return self._read(OUTCOME, env, written), root

    def reset_answer(self, env: int, answer: Any) -> Any:
        """Return the rows of a root."""
        return self._read(ROOT, env, answer)

    def _rows_of(self, part: str, env: int) -> list[tuple[NestedKey, Tensor]]:
        if self.is_flat:
            return [(key, block[env]) for key, block in self._parts[0][part].items()]
        return list(self._parts[env][part].items())

    def _read(self, part: str, env: int, written: list[NestedKey]) -> TensorDictBase:
        absent = self._optional[env] - set(written)
        rows = {k: self._take(row) for k, row in self._rows_of(part, env) if k not in absent}
        return self._nested(rows, self.metas[env].batch_size, env)

    def _form(self, name: str, like: Any) -> Any:
        if self.is_flat:
            entries = Entries((key, self._take(block)) for key, block in self._used[name][0])
            if isinstance(like, Entries):
                return entries
            return self._nested(entries, self.batch_size)
        rows = [
            self._nested({key: self._take(row) for key, row in used}, self.batch_size[1:], env)
            for env, used in enumerate(self._used[name])
        ]
        return stack_rows(rows)


class RecordExchange(Exchange):
    """Whole records, for environments whose entries have no fixed shape or are no tensors.

    In this process records are handed over as they are, and gradients flow through them; to a
    worker they are pickled.
    """

    _roots: list[Any]

    def _send(self, record: Any, mask: Tensor | None, resets: bool) -> Any:
        rows: list[Any] = self._rows(record)
        if mask is not None:
            wanted = mask.reshape(len(rows), -1).any(-1).tolist()
            rows = [row if w else None for row, w in zip(rows, wanted, strict=True)]
        answers = self.crew.scatter("step_records", [*map(self._packed, rows)], resets)
        before = record.unbind(0)
        outcomes = [
            old.exclude("next", "_step") if new is None else new
            for (new, _), old in zip(answers, before, strict=True)
        ]
        fresh = torch.tensor([root is not None for _, root in answers])
        if fresh.any():
            self._fresh = fresh
            self._roots = [root for _, root in answers]
        else:
            self._roots = [None] * len(answers)
        return self._stacked(self._completed(outcomes))

    def _completed(self, outcomes: list[Any]) -> list[Any]:
        """Give the rows that did not step the entries that the others have."""
        model = next((row for row in outcomes if "reward" in row.keys()), None)  # noqa: SIM118 - else rows
        if model is None:
            return outcomes
        for row in outcomes:
            for key in entry_names(model):
                if row.get(key, None) is None:
                    new = model.get(key)  # what is no tensor has no zero
                    row.set(key, torch.zeros_like(new) if isinstance(new, Tensor) else new)
        return outcomes

    def _begin(self, requests: list[Request | None]) -> None:
        answers = self.crew.scatter("reset_records", requests)
        old = getattr(self, "_roots", answers)
        self._roots = [o if a is None else a for a, o in zip(answers, old, strict=True)]

    def _collect(self, like: Any) -> Any:
        roots = self._roots
        if any(root is None for root in roots) and like is not None:
            before = like.unbind(0)
            roots = [b if r is None else r for r, b in zip(roots, before, strict=True)]
            names = [set(entry_names(root)) for root in roots]
            common = set.intersection(*names)
            if any(name != common for name in names):
                roots = [root.select(*common) for root in roots]
        return self._stacked(roots)

    def call_step(self, env: int, row: Any, resets: bool) -> tuple:
        """Return the call that steps one environment from its record."""
        return "step_record_one", env, self._packed(self._row(row, self.metas[env])), resets

    def call_reset(self, env: int, row: Any, kwargs: dict[str, Any]) -> tuple:
        """Return the call that resets one environment."""
        return "reset_record_one", env, self._request(env, row, kwargs)

    def step_answer(self, env: int, answer: Any) -> tuple[Any, Any]:
        """Return the records of an outcome and of the next root, if there is one."""
        outcome, root = answer
        return self._placed(outcome), None if root is None else self._placed(root)

    def reset_answer(self, env: int, answer: Any) -> Any:
        """Return the record of a root."""
        return self._placed(answer)

    def _placed(self, record: Any) -> Any:
        return record if self.device is None else record.to(self.device)

    def _stacked(self, rows: list[Any]) -> TensorDictBase:
        return self._placed(stack_rows(rows))


def stack_rows(rows: list[Any]) -> Any:
    """Stack records; lazily if they differ in entries or shapes."""
    first = rows[0]
    names = set(entry_names(first))
    if all(set(entry_names(row)) == names for row in rows[1:]):
        try:
            return torch.stack(rows, 0)
        except RuntimeError:
            pass
    return LazyStackedTensorDict.lazy_stack(rows, 0)


def _fill_presets(
    presets: list[tuple[NestedKey, NestedKey, Tensor]], record: Any
) -> list[NestedKey]:
    """Copy the entries under ``"next"``, of those that have a block; return which there are."""
    if isinstance(record, Entries):
        found = [(key, block, record[at]) for key, at, block in presets if at in record]
    else:
        following = record.get("next", None) if presets else None
        if following is None:
            return []
        values = ((key, block, following.get(key, None)) for key, _, block in presets)
        found = [(key, block, value) for key, block, value in values if value is not None]
    return [key for key, block, value in found if _fill_preset(record, key, block, value)]


def _fill_preset(record: Any, key: NestedKey, block: Tensor, value: Tensor) -> bool:
    """Copy one entry, unless a transform outside has reshaped it; return whether it was.

    Raises:
        ShapeError, DTypeError: if it is not like the entry that the policy was shown.
    """
    if value.shape != block.shape or value.dtype != block.dtype:
        shown = record.get(key, None)
        for error, name in ((ShapeError, "shape"), (DTypeError, "dtype")):
            found, expected = getattr(value, name), getattr(block, name)
            if found != expected and (shown is None or getattr(shown, name) == expected):
                raise error(
                    describe(
                        "policy",
                        f"has another {name} than the environments expect",
                        key=next_key(key),
                        expected=expected,
                        found=found,
                        hint=f"Write it as the spec of {key!r} has it.",
                    )
                )
        if value.shape != block.shape:
            return False
    block.copy_(value)
    return True
