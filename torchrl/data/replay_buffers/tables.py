"""Items as tables, one row each: Parquet files, and datasets of Hugging Face.

A table is a folder of files of its format and ``torchrl.json``: the ``lead`` dimensions of the items,
their ``schema``, and for each entry its ``column`` and what it holds. Names of nested entries are joined
with dots, ``next.reward``; entries ``[*F]`` of a row are lists of lists. An entry whose dtype the
format lacks is in a wider one. A folder without that file is read by the names and types of its columns.

Legend: ``N`` rows, ``*F`` the feature shape of an entry.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor

from torchrl._core.errors import DTypeError, ShapeError, describe
from torchrl._core.files import naming, replaced
from torchrl._core.optional import require_package
from torchrl.data.replay_buffers.data_types import Data
from torchrl.data.replay_buffers.storages.object_column import text_of
from torchrl.data.replay_buffers.storages.schema import Schema, non_tensor, transpose_entries

META = "torchrl.json"
FORMATS = ("parquet", "huggingface")
WIDER = {torch.bfloat16: torch.float32, torch.float8_e4m3fn: torch.float32, torch.float8_e5m2: torch.float32}
FLAGS = ("reward", "done", "terminated", "truncated")


class Table(NamedTuple):
    """Items ``[*lead]`` and which of their dimensions is time, ``N`` of them."""

    items: Data
    lead: tuple[int, ...]
    time_dim: int


def write_table(table: Table, path: str | Path, format: str, owner: object) -> Path:
    """Write items to a folder, which replaces what was there; return it.

    Args:
        table: The items.
        path: The folder.
        format: One of ``FORMATS``.
        owner: The component that errors name.

    Raises:
        ValueError: if the format is not known.
        DTypeError: if an item holds an object that is no tensor, text, number, or list of them.
    """
    if format not in FORMATS:
        raise ValueError(describe(owner, "unknown format", expected=f"one of {list(FORMATS)}", found=format))
    arrow = require_package("pyarrow", needed_by=owner, extra="offline")
    schema = Schema(owner, table.items, len(table.lead))
    values, entries = schema.read(table.items, table.lead), [*schema.leaves, *reversed(schema.objects)]
    columns: dict[str, Any] = {}
    kinds = []
    for entry, value in zip(entries, values, strict=True):
        name = ".".join(map(str, entry.key)) or "value"
        while name in columns:
            name += "_"
        is_text = entry.dtype is object
        columns[name], kind = _texts(arrow, value, entry, owner) if is_text else (_numbers(arrow, value, entry), None)
        kinds.append([name, kind])
    content = arrow.table(columns)
    meta = {"lead": list(table.lead), "time_dim": table.time_dim, "schema": schema.state(), "columns": kinds}
    with replaced(path) as draft:
        if format == "huggingface":
            datasets = require_package("datasets", needed_by=owner, extra="offline")
            with _without_progress(datasets):
                datasets.Dataset(content).save_to_disk(draft)
        else:
            draft.mkdir()
            require_package("pyarrow.parquet", needed_by=owner).write_table(content, draft / "rows.parquet")
        (draft / META).write_text(json.dumps(meta))
    return Path(path)


def is_table(path: Path) -> bool:
    """Return whether there is something that :func:`read_table` reads."""
    return bool(_parquet_files(path)) or (path / "state.json").exists() or (path / "dataset_dict.json").exists()


def table_files(path: Path) -> list[Path]:
    """Return the files of a table: one file, or all in its folder."""
    return [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())


def read_table(path: Path, owner: object) -> Table:
    """Return the items of a folder that :func:`write_table` wrote, or of any table of numbers and texts.

    Raises:
        ValueError: if it is a dictionary of datasets.
        ShapeError: if a list has another length in some rows.
        DTypeError: if a column has no numbers or texts, or misses some.
        DamagedFileError: if a file cannot be read.
    """
    content = _content_of(path, owner)
    note = path / META
    if not note.is_file():
        items = _items_of(content, owner)
        return Table(items, tuple(items.batch_size), 0)
    with naming(note):
        meta = json.loads(note.read_text())
        schema, lead = Schema.from_state(owner, meta["schema"]), tuple(meta["lead"])
        values: list[Any] = []
        for entry, (name, kind) in zip([*schema.leaves, *reversed(schema.objects)], meta["columns"], strict=True):
            column = content.column(name)
            if kind is not None:
                values.append(_objects_in(column, kind, (*lead, *entry.shape)))
                continue
            shape = (*lead, *entry.shape, 2) if entry.dtype.is_complex else (*lead, *entry.shape)
            number = torch.zeros(shape) if not math.prod(shape) else _tensor_in(column, name, owner).reshape(shape)
            values.append(torch.view_as_complex(number) if entry.dtype.is_complex else number.to(entry.dtype))
        return Table(schema.build(values, lead), lead, meta["time_dim"])


def in_order_of_rows(table: Table) -> Data:
    """Return items with the dimension of time first, as storages keep them."""
    return transpose_entries(table.items, table.time_dim) if table.time_dim else table.items


# --- writing -------------------------------------------------------------------------------------


def _numbers(arrow: Any, value: Tensor, entry: Any) -> Any:
    """Return an entry ``[*lead, *F]`` as a column of ``N`` numbers, or of lists of lists of them."""
    value = value.to("cpu", WIDER.get(value.dtype, value.dtype))
    shape = [*entry.shape]
    if value.is_complex():
        value, shape = torch.view_as_real(value), [*shape, 2]
    if not math.prod(shape):
        return arrow.nulls(value.numel() if not shape else math.prod(value.shape[: value.ndim - len(shape)]))
    column = arrow.array(value.contiguous().view(-1).numpy())
    for size in reversed(shape):
        column = arrow.FixedSizeListArray.from_arrays(column, size)
    return column


def _texts(arrow: Any, objects: np.ndarray, entry: Any, owner: object) -> tuple[Any, str]:
    """Return objects ``[*lead, *F]`` as a column of ``N`` texts, and whether these are JSON."""
    rows = objects.reshape(-1, *entry.shape).tolist()
    if all(row is None or isinstance(row, str) for row in rows):
        return arrow.array(rows, arrow.string()), "text"
    return arrow.array([text_of(row, owner) for row in rows], arrow.string()), "json"


@contextmanager
def _without_progress(datasets: Any) -> Iterator[None]:
    """Keep the library of Hugging Face from printing inside the block."""
    shows = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shows:
            datasets.enable_progress_bars()


# --- reading -------------------------------------------------------------------------------------


def _parquet_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path] if path.suffix == ".parquet" else []
    return [file for file in table_files(path) if file.suffix == ".parquet"]


def _content_of(path: Path, owner: object) -> Any:
    """Return the table of arrow that is in a folder or a file."""
    if (path / "dataset_dict.json").exists():
        splits = sorted(child.name for child in path.iterdir() if child.is_dir())
        raise ValueError(
            describe(owner, f"{path} holds several datasets", expected=f"one of {splits}", hint=f"Load {path}/NAME.")
        )
    if (path / "state.json").exists():
        datasets = require_package("datasets", needed_by=owner, extra="offline")
        with naming(path):
            dataset = datasets.load_from_disk(str(path))
            return (dataset if dataset._indices is None else dataset.flatten_indices()).data.table
    arrow = require_package("pyarrow", needed_by=owner, extra="offline")
    parquet = require_package("pyarrow.parquet", needed_by=owner)
    tables = []
    for file in _parquet_files(path):
        with naming(file):
            tables.append(parquet.read_table(file, partitioning=None))
    return arrow.concat_tables(tables)


def _tensor_in(column: Any, name: str, owner: object) -> Tensor:
    """Return a column of ``N`` numbers, or of lists of lists of them, as a tensor ``[N, *F]``."""
    arrow = require_package("pyarrow", needed_by=owner, extra="offline")
    whole, shape = column.combine_chunks(), [len(column)]
    values = whole.chunk(0) if hasattr(whole, "chunk") else whole
    while arrow.types.is_list(values.type) or arrow.types.is_large_list(values.type) or _is_fixed(arrow, values):
        inner = values.flatten()
        size, rest = divmod(len(inner), max(len(values), 1))
        lengths = None if _is_fixed(arrow, values) else np.diff(values.offsets.to_numpy())
        if rest or values.null_count or (lengths is not None and (lengths != size).any()):
            raise ShapeError(
                describe(
                    owner,
                    "has lists of several lengths",
                    key=name,
                    hint="Pad them, or write one row for each step of an episode.",
                )
            )
        shape.append(size)
        values = inner
    kind = arrow.types
    if values.null_count or not (
        kind.is_integer(values.type) or kind.is_floating(values.type) or kind.is_boolean(values.type)
    ):
        raise DTypeError(
            describe(
                owner,
                "is a column that is no tensor",
                key=name,
                expected="numbers, flags or texts, in each row",
                found=f"{values.type}, {values.null_count} of them missing",
                hint="Leave the column out, or convert it.",
            )
        )
    return torch.from_numpy(values.to_numpy(zero_copy_only=False).copy()).reshape(shape)


def _is_fixed(arrow: Any, values: Any) -> bool:
    return arrow.types.is_fixed_size_list(values.type)


def _objects_in(column: Any, kind: str, shape: Sequence[int]) -> np.ndarray:
    """Return the objects of a column of texts as an array ``[*lead, *F]``."""
    rows: list[Any] = column.to_pylist()
    if kind == "json":
        rows = [json.loads(text) for text in rows]
    objects = np.empty(math.prod(shape), dtype=object)
    objects[:] = rows if len(rows) == len(objects) else list(_flat(rows, len(objects)))
    return objects.reshape(tuple(shape))


def _flat(rows: Iterable[Any], count: int) -> list[Any]:
    """Return the objects of nested lists, which are ``count``."""
    found = list(rows)
    while len(found) < count:
        found = [value for row in found for value in row]
    return found


def _items_of(content: Any, owner: object) -> TensorDict:
    """Return the items ``[N]`` of a table that tells nothing about them but names and types."""
    arrow = require_package("pyarrow", needed_by=owner, extra="offline")
    while any(arrow.types.is_struct(field.type) for field in content.schema):
        content = content.flatten()
    items = TensorDict({}, [content.num_rows])
    for name, column in zip(content.column_names, content.columns, strict=True):
        key = tuple(name.split("."))
        if arrow.types.is_string(column.type) or arrow.types.is_large_string(column.type):
            items.set(key, non_tensor(_objects_in(column, "text", [content.num_rows])))
            continue
        value = _tensor_in(column, name, owner)
        items.set(key, value.unsqueeze(-1) if value.ndim == 1 and key[-1] in FLAGS else value)
    return items
