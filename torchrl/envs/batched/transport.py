"""How records reach the environments of a batch, and how results and roots come back.

A transport writes a record where the environments of a pool read it, lets them step or reset, and
returns what they wrote: through rows of a memory, or as whole records.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from tensordict import LazyStackedTensorDict, NestedKey, TensorDictBase
from torch import Tensor

from torchrl._core.devices import check_devices
from torchrl._core.errors import DTypeError, ResetError, ShapeError, describe
from torchrl._core.keys import next_key, sibling
from torchrl._core.records.flat_record import FlatRecord, Record, nested_tensordict
from torchrl._core.records.rows import entry_names
from torchrl.envs.batched.pools import BatchOptions, EnvPool
from torchrl.envs.batched.shared_rows import INPUT, PRESET, RESULTS, ROOT, SIGNAL, make_rows, plan_blocks
from torchrl.envs.batched.worker import STEPS, Request
from torchrl.envs.metadata import EnvMeta
from torchrl.envs.specs import GROUPS
from torchrl.envs.stepping.compiled_specs import CompiledSpecs

_CODES = {what: code for code, what in STEPS.items()}


class Transport(ABC):
    """Steps and resets the environments of a pool with records of the whole batch.

    Args:
        pool: The environments.
        device: Device of what is returned; where it is made if ``None``.
        options: How it is copied.

    Hooks:
        _send: ``record, mask [N, *B, 1] | None, resets -> result``; step.
        _reset_some: ``[request | None]``; reset the environments that have a request.
        _collect: ``like -> root``; the roots of all environments, in the form of ``like``.
        call_step: ``env, row, resets -> (name, *args)``; the call that steps one environment.
        call_reset: ``env, row, kwargs -> (name, *args)``; the call that resets one environment.
        step_answer: ``env, answer -> (result, next root | None)``; read the answer to a step.
        reset_answer: ``env, answer -> root``; read the answer to a reset.
        merge_new_roots: ``root -> bool``; complete a root without a reset, if possible.
    """

    is_flat = False

    def __init__(self, pool: EnvPool, device: torch.device | None, options: BatchOptions) -> None:
        check_devices(self, device=device)
        self.pool, self.device, self.options = pool, device, options
        self._pins = options.pin_memory and torch.accelerator.is_available()
        self.metas = pool.metas
        self._groups = [meta.nested for meta in pool.metas]
        self.batch_size = torch.Size([len(self.metas), *self.metas[0].batch_size])
        self._reads_root = not all(meta.reads_action_only for meta in self.metas)
        # Environments [N] that were reset in the last step; their new roots are not returned yet.
        self._fresh: Tensor | None = None
        self._fresh_masks: dict[NestedKey, Tensor] = {}  # the same, as reset masks

    def step(self, record: Record, resets: bool, compiled: CompiledSpecs) -> Record:
        """Step all rows, or those that ``_step`` names.

        Args:
            record: The root, with actions.
            resets: Reset the rows that end, at once; the next :meth:`reset` returns their roots.
            compiled: Compiled specs of the whole batch.
        """
        if self._fresh is not None:
            raise _missed_reset(self._fresh)
        result = self._send(record, record.get("_step", None), resets)
        if self._fresh is not None:
            self._fresh_masks = compiled.reset_masks(result)
        return result

    def reset(
        self, record: Record, kwargs: list[dict[str, object]], compiled: CompiledSpecs, *, expected: bool
    ) -> Record:
        """Reset the rows that ``_reset`` names, or all; return the roots of all.

        Args:
            record: The root, or ``None``.
            kwargs: For the ``reset`` of each environment.
            compiled: Compiled specs of the whole batch.
            expected: Whether this reset is the one for which rows were reset in the last step.
        """
        num_envs = len(self.metas)
        fresh, self._fresh = self._fresh, None
        masks = {} if record is None else _masks(record, compiled)
        if not expected:
            if masks and fresh is not None and bool((fresh & ~_any_row(masks)).any()):
                raise _missed_reset(fresh & ~_any_row(masks))
            fresh = None
        if not masks and fresh is not None:
            masks = {key: torch.ones_like(own) for key, own in self._fresh_masks.items()}
        if not masks:
            requests = self._requests([{}] * num_envs, [True] * num_envs, record, kwargs)
            self._reset_some([*map(self._sealed, requests)])
            return self._collect(record)
        wanted = _any_row(masks)  # [N]
        if fresh is not None:
            if bool((fresh & ~wanted).any()):
                raise _missed_reset(fresh & ~wanted)
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
            self._update_fresh(requests, fresh)
            self._reset_some([*map(self._sealed, requests)])
        return self._collect(record)

    def merge_new_roots(self, root: FlatRecord) -> bool:
        """Write the roots of rows that were reset in the last step into ``root``, if possible.

        Returns: whether it was done; a reset is needed otherwise.
        """
        return False

    def _requests(
        self, masks: list[dict[NestedKey, Tensor]], wanted: list[bool], record: Record, kwargs: list[dict[str, object]]
    ) -> list[Request | None]:
        """Return a request with its row of the record and its masks for each wanted environment."""
        records: list[Any] = [None] * len(wanted)
        if record is not None and (self._reads_root or any(masks) or any(map(_sets, kwargs))):
            records = self._rows(record)
            for row, parts in zip(records, masks, strict=True):
                for key, mask in parts.items():
                    row.set(key, mask.clone())
        return [(row, own) if want else None for want, row, own in zip(wanted, records, kwargs, strict=True)]

    def _update_fresh(self, requests: list[Request | None], fresh: Tensor | None) -> None:
        """Put the new roots of environments that were reset in part into their requests."""
        if fresh is None:
            return
        roots = self._collect(None).unbind(0)
        for request, is_fresh, root in zip(requests, fresh.tolist(), roots, strict=True):
            if request is not None and is_fresh and request[0] is not None:
                request[0].update(root)

    def _rows(self, record: Any) -> list[TensorDictBase]:
        """Return the row of each environment, a copy on the device of that environment."""
        if isinstance(record, FlatRecord):
            record = self._nested(record, self.batch_size)
        return [self._row(row, meta) for row, meta in zip(record.unbind(0), self.metas, strict=True)]

    def _nested(self, entries: Mapping[NestedKey, object], size: torch.Size, env: int = 0) -> TensorDictBase:
        """Return a tensordict of the entries of all environments, or of one."""
        return nested_tensordict(entries, size, self.device, self._groups[env])

    def _row(self, row: TensorDictBase, meta: EnvMeta) -> TensorDictBase:
        preset = map(next_key, meta.preset_names)
        row = row.select(*meta.names(*GROUPS), "_step", *preset, strict=False)
        if self.pool.is_remote:  # a pickled view would include all that it views
            row = row.clone() if row.device is None else row.to("cpu").clone()
        return row if meta.device in (None, row.device) else row.to(meta.device)

    def _packed(self, row: Any) -> TensorDictBase:
        """Return a record as it is pickled; entries cannot be added to it."""
        packs = row is not None and self.pool.is_remote and self.options.consolidate
        return row.consolidate() if packs else row

    def _sealed(self, request: Request | None) -> Request | None:
        return None if request is None else (self._packed(request[0]), request[1])

    def random_actions(self, record: TensorDictBase) -> TensorDictBase:
        """Return a random action of each environment for its row of a root."""
        rows = [self._packed(row) for row in self._rows(record)]
        actions = stack_rows(self.pool.scatter("random_actions", rows))
        return actions if self.device is None else actions.to(self.device)

    # --- single environments ---------------------------------------------------------------------

    def _request(self, env: int, row: TensorDictBase, kwargs: dict[str, object]) -> Request:
        if row is None:
            return None, kwargs
        own = self._row(row, self.metas[env])
        for key in {sibling(key, "_reset") for key in self.metas[env].names("done")}:
            if (mask := row.get(key, None)) is not None:
                own.set(key, mask.clone())
        return self._packed(own), kwargs

    # --- hooks -----------------------------------------------------------------------------------

    @abstractmethod
    def _send(self, record: Record, mask: Tensor | None, resets: bool) -> Any: ...

    @abstractmethod
    def _reset_some(self, requests: list[Request | None]) -> None: ...

    @abstractmethod
    def _collect(self, like: Any) -> TensorDictBase: ...

    @abstractmethod
    def call_step(self, env: int, row: Record, resets: bool) -> tuple[Any, ...]: ...

    @abstractmethod
    def call_reset(self, env: int, row: Record, kwargs: dict[str, object]) -> tuple[Any, ...]: ...

    @abstractmethod
    def step_answer(self, env: int, answer: Record) -> tuple[object, object]: ...

    @abstractmethod
    def reset_answer(self, env: int, answer: Record) -> Any: ...

    def _take(self, block: Tensor) -> Tensor:
        """Return a copy on the right device of a block, which the next step changes."""
        copy = block.pin_memory() if self._pins else block.clone()
        if self.device is None or self.device.type == "cpu":
            return copy
        return copy.to(self.device, non_blocking=self.options.non_blocking)


def _masks(record: Record, compiled: CompiledSpecs) -> dict[NestedKey, Tensor]:
    found = ((key, record.get(key, None)) for key in compiled.reset_keys)
    return {key: mask for key, mask in found if mask is not None}


def _any_row(masks: dict[NestedKey, Tensor]) -> Tensor:
    rows = [mask.flatten(1).any(1) for mask in masks.values()]
    return rows[0] if len(rows) == 1 else torch.stack(rows).any(0)


def _sets(kwargs: dict[str, object]) -> bool:
    return bool(kwargs.get("set_state"))


def _missed_reset(rows: Tensor) -> ResetError:
    return ResetError(
        f"Environments {rows.nonzero().flatten().tolist()} have been reset, and their new roots "
        "were not read; call reset before the next step."
    )


class SharedMemoryTransport(Transport):
    """Rows in a memory that all processes see: numbers are copied, never pickled.

    Args:
        pool: The environments.
        device: Device of what is returned.
        options: How it is copied.
        individual: Give each environment blocks of its own; what is returned is then stacked.
        kind: Kind of the memory.
    """

    def __init__(
        self, pool: EnvPool, device: torch.device | None, options: BatchOptions, *, individual: bool, kind: str
    ) -> None:
        check_devices(self, device=device)
        super().__init__(pool, device, options)
        memory = make_rows(plan_blocks(self.metas, individual=individual), kind)
        pool.attach(memory)
        # Gradients flow through environments of this process that compute with tensors.
        self._flows = not (pool.is_remote or all(pool.scatter("are_arrays", None)))
        memory.close()
        self.is_flat = not individual
        self._parts: list[dict[str, dict[NestedKey, Tensor]]] = []  # of all, or of each environment
        for block, rows in memory.tensors.items():
            if block.part == SIGNAL:
                if block.key == "ended":
                    self._ended = rows
                continue
            index = block.first if individual else 0
            if index == len(self._parts):
                self._parts.append({INPUT: {}, PRESET: {}, RESULTS: {}, ROOT: {}})
            self._parts[index][block.part][block.key] = rows if self.is_flat else rows[0]
        self._optional = [set(meta.optional_names) for meta in self.metas]
        self._action_keys = {key for meta in self.metas for key in meta.names("action")}
        self._masks = [part[INPUT].pop("_step") for part in self._parts]
        # Whether it is known which of the optional entries the environments write.
        self._is_known = {RESULTS: not any(self._optional), ROOT: not any(self._optional)}
        self._inputs = list(self._parts[0][INPUT].items())
        self._presets = [[(key, next_key(key), block) for key, block in part[PRESET].items()] for part in self._parts]
        # The entries under "next" that the environments of each part read; None if unknown.
        self._sent_presets: list[list[NestedKey]] | None = [[] for _ in self._parts]
        self._used = {name: [list(part[name].items()) for part in self._parts] for name in (RESULTS, ROOT)}

    def step(self, record: Record, resets: bool, compiled: CompiledSpecs) -> Record:
        """As :meth:`Transport.step`; with whole records where gradients flow."""
        if not (self._flows and torch.is_grad_enabled() and self._needs_gradient(record)):
            return super().step(record, resets, compiled)
        if self._fresh is not None:
            raise _missed_reset(self._fresh)
        found = self._records().step(self._whole(record), False, compiled)
        return self._like(record, found)

    def reset(
        self, record: Record, kwargs: list[dict[str, object]], compiled: CompiledSpecs, *, expected: bool
    ) -> Record:
        """As :meth:`Transport.reset`; with whole records where gradients flow."""
        flows = self._flows and record is not None and self._fresh is None
        if not (flows and torch.is_grad_enabled() and self._needs_gradient(record)):
            return super().reset(record, kwargs, compiled, expected=expected)
        found = self._records().reset(self._whole(record), kwargs, compiled, expected=expected)
        return self._like(record, found)

    def _records(self) -> RecordTransport:
        return RecordTransport(self.pool, self.device, self.options)

    def _whole(self, record: Record) -> Record:
        return self._nested(record, self.batch_size) if isinstance(record, FlatRecord) else record

    @staticmethod
    def _like(record: Record, found: Any) -> Record:
        return FlatRecord(found.items(True, True)) if isinstance(record, FlatRecord) else found

    def _needs_gradient(self, record: Any) -> bool:
        """Return whether an entry that the environments read requires a gradient."""
        rows = [record] if self.is_flat else record.unbind(0)
        for part, presets, row in zip(self._parts, self._presets, rows, strict=True):
            keys = [*part[INPUT], *(at for _, at, _ in presets)]
            values = (row.get(key, None) for key in keys)
            if any(value is not None and value.requires_grad for value in values):
                return True
        return False

    def _send(self, record: Record, mask: Tensor | None, resets: bool) -> object:
        if torch.is_grad_enabled():
            with torch.no_grad():  # the blocks have no history
                self._write_inputs(record, mask)
        else:
            self._write_inputs(record, mask)
        code = _CODES[mask is not None, resets]
        if self._is_known[RESULTS]:
            ended = self.pool.step(code)
        else:
            self._note_written(RESULTS, self.pool.scatter("step_and_list", None, code))
            ended = bool(self._ended.any())
        if ended and resets:
            self._fresh = self._ended.clone()
        return self._form(RESULTS, record)

    def _write_inputs(self, record: Any, mask: Tensor | None) -> None:
        if self.is_flat:
            for key, block in self._inputs:
                self._fill(key, block, record.get(key, None))
            presets = [_fill_presets(self._presets[0], record)]
        else:
            presets = []
            for i, (part, row) in enumerate(zip(self._parts, record.unbind(0), strict=True)):
                for key, block in part[INPUT].items():
                    self._fill(key, block, row.get(key, None))
                presets.append(_fill_presets(self._presets[i], row))
        if presets != self._sent_presets:
            self.pool.scatter("set_presets", presets * (len(self.metas) // len(presets)))
            self._sent_presets = presets
            self._is_known[RESULTS] = not any(self._optional)
        if mask is not None:
            mask = mask.reshape(*self.batch_size, 1)
            if self.is_flat:
                self._masks[0].copy_(mask)
            else:
                for block, own in zip(self._masks, mask, strict=True):
                    block.copy_(own)

    def merge_new_roots(self, root: FlatRecord) -> bool:
        """Write the roots of rows that were reset in the last step into ``root``, if possible.

        It is where every row is reset as a whole.
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

    def _reset_some(self, requests: list[Request | None]) -> None:
        written = self.pool.scatter("reset", requests)
        if not self._is_known[ROOT]:
            self._note_written(ROOT, written)

    def _fill(self, key: NestedKey, block: Tensor, value: Tensor | None) -> None:
        """Copy an entry; one that is absent, or reshaped by a transform around, becomes zero.

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

    def _note_written(self, name: str, written: list[list[NestedKey]]) -> None:
        """Do not return the optional entries that the environments do not write."""
        self._is_known[name] = True
        found = {key for keys in written for key in keys}
        self._used[name] = [
            [(key, row) for key, row in part[name].items() if key in found or key not in optional]
            for part, optional in zip(self._parts, self._optional, strict=False)
        ]

    def _collect(self, like: Record) -> TensorDictBase:
        return self._form(ROOT, like)

    @torch.no_grad()
    def call_step(self, env: int, row: Record, resets: bool) -> tuple:
        """Fill the input rows of one environment; return the call that steps it."""
        for key, block in self._rows_of(INPUT, env):
            self._fill(key, block, row.get(key, None))
        preset = [(key, next_key(key), block) for key, block in self._rows_of(PRESET, env)]
        self._sent_presets = None
        return "step_one", env, resets, _fill_presets(preset, row)

    def call_reset(self, env: int, row: Any, kwargs: dict[str, object]) -> tuple:
        """Return the call that resets one environment into its rows."""
        return "reset_one", env, self._request(env, row, kwargs)

    def step_answer(self, env: int, answer: Any) -> tuple[object, object]:
        """Return the result of one environment and, where it was reset, its root."""
        was_reset, written = answer
        root = self._read(ROOT, env, written) if was_reset else None
        return self._read(RESULTS, env, written), root

    def reset_answer(self, env: int, answer: Any) -> Any:
        """Return the root of one environment."""
        return self._read(ROOT, env, answer)

    def _rows_of(self, part: str, env: int) -> list[tuple[NestedKey, Tensor]]:
        if self.is_flat:
            return [(key, block[env]) for key, block in self._parts[0][part].items()]
        return list(self._parts[env][part].items())

    def _read(self, part: str, env: int, written: list[NestedKey]) -> TensorDictBase:
        absent = self._optional[env] - set(written)
        rows = {k: self._take(row) for k, row in self._rows_of(part, env) if k not in absent}
        return self._nested(rows, self.metas[env].batch_size, env)

    def _form(self, name: str, like: Record) -> Any:
        if self.is_flat:
            entries = FlatRecord((key, self._take(block)) for key, block in self._used[name][0])
            if isinstance(like, FlatRecord):
                return entries
            return self._nested(entries, self.batch_size)
        rows = [
            self._nested({key: self._take(row) for key, row in used}, self.batch_size[1:], env)
            for env, used in enumerate(self._used[name])
        ]
        return stack_rows(rows)


class RecordTransport(Transport):
    """Whole records, for environments whose entries have no fixed shape or are no tensors.

    In this process records are passed as they are, and gradients flow through them; for a worker
    process they are pickled.
    """

    _roots: list[Any]

    def _send(self, record: Any, mask: Tensor | None, resets: bool) -> object:
        rows: list[Any] = self._rows(record)
        if mask is not None:
            wanted = mask.reshape(len(rows), -1).any(-1).tolist()
            rows = [row if w else None for row, w in zip(rows, wanted, strict=True)]
        answers = self.pool.scatter("step_records", [*map(self._packed, rows)], resets)
        before = record.unbind(0)
        results = [
            old.exclude("next", "_step") if new is None else new for (new, _), old in zip(answers, before, strict=True)
        ]
        fresh = torch.tensor([root is not None for _, root in answers])
        if fresh.any():
            self._fresh = fresh
            self._roots = [root for _, root in answers]
        else:
            self._roots = [None] * len(answers)
        return self._stacked(self._completed(results))

    def _completed(self, results: list[TensorDictBase]) -> list[TensorDictBase]:
        """Return rows of which those that did not step have zeros for the entries of the others."""
        model = next((row for row in results if "reward" in row.keys()), None)  # noqa: SIM118 - else rows
        if model is None:
            return results
        for row in results:
            for key in entry_names(model):
                if row.get(key, None) is None:
                    new = model.get(key)  # other values have no zero
                    row.set(key, torch.zeros_like(new) if isinstance(new, Tensor) else new)
        return results

    def _reset_some(self, requests: list[Request | None]) -> None:
        answers = self.pool.scatter("reset_records", requests)
        old = getattr(self, "_roots", answers)
        self._roots = [o if a is None else a for a, o in zip(answers, old, strict=True)]

    def _collect(self, like: TensorDictBase) -> TensorDictBase:
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

    def call_reset(self, env: int, row: Any, kwargs: dict[str, object]) -> tuple:
        """Return the call that resets one environment."""
        return "reset_record_one", env, self._request(env, row, kwargs)

    def step_answer(self, env: int, answer: Any) -> tuple[object, object]:
        """Return the result of one environment and, where it was reset, its root."""
        result, root = answer
        return self._placed(result), None if root is None else self._placed(root)

    def reset_answer(self, env: int, answer: Record) -> Any:
        """Return the root of one environment."""
        return self._placed(answer)

    def _placed(self, record: Any) -> TensorDictBase:
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


def _fill_presets(presets: list[tuple[NestedKey, NestedKey, Tensor]], record: Record) -> list[NestedKey]:
    """Copy the entries under ``"next"`` into their blocks; return which there are."""
    if isinstance(record, FlatRecord):
        found = [(key, block, record[at]) for key, at, block in presets if at in record]
    else:
        next_root = record.get("next", None) if presets else None
        if next_root is None:
            return []
        values = ((key, block, next_root.get(key, None)) for key, _, block in presets)
        found = [(key, block, value) for key, block, value in values if value is not None]
    return [key for key, block, value in found if _fill_preset(record, key, block, value)]


def _fill_preset(record: Record, key: NestedKey, block: Tensor, value: Tensor) -> bool:
    """Copy one entry, unless a transform around has reshaped it; return whether it was copied.

    Raises:
        ShapeError, DTypeError: if it differs from the entry of the root that the policy read.
    """
    if value.shape != block.shape or value.dtype != block.dtype:
        read = record.get(key, None)
        for error, name in ((ShapeError, "shape"), (DTypeError, "dtype")):
            found, expected = getattr(value, name), getattr(block, name)
            if found != expected and (read is None or getattr(read, name) == expected):
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
