"""Adapters: how a component of a checkpoint is written and read, where its methods do not tell."""

from __future__ import annotations

import json
import shutil
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch

from torchrl._core.errors import describe
from torchrl._core.safe_load import load_file
from torchrl.checkpoint.serialization import STATE, MapLocation, kind_of, read_tree, write_tree

#: A folder of files, or one file that holds them.
CheckpointFormat = Literal["directory", "archive"]
#: What happens where a checkpoint and what it is loaded into differ.
CheckpointStrictness = Literal["error", "warn", "ignore"]
#: Whether more of a metric is better, or less.
CheckpointMetricMode = Literal["max", "min"]
#: The metric that chooses the best checkpoint, and its direction.
CheckpointBest = tuple[str, CheckpointMetricMode]
#: How the tensors of a state dict are written.
StateDictFormat = Literal["directory", "archive", "consolidated", "torch"]
PAYLOADS = ("directory", "archive", "consolidated", "torch")
COMPRESSIONS = {None: zipfile.ZIP_STORED, "stored": zipfile.ZIP_STORED, "deflated": zipfile.ZIP_DEFLATED}
ARCHIVE, TORCH, JSON = "state.zip", "state.pt", "value.json"


@dataclass(frozen=True)
class CheckpointOptions:
    """Arguments of the methods that save and load a component, such as ``state_dict`` and ``load_state_dict``.

    Args:
        save_args: Of the method that saves.
        save_kwargs: Its keyword arguments.
        load_args: Of the method that loads, after what was saved.
        load_kwargs: Its keyword arguments.

    >>> CheckpointOptions(load_kwargs={"strict": False}).load_kwargs
    {'strict': False}
    """

    save_args: Sequence[Any] = ()
    save_kwargs: Mapping[str, Any] = field(default_factory=dict)
    load_args: Sequence[Any] = ()
    load_kwargs: Mapping[str, Any] = field(default_factory=dict)


class CheckpointAdapter(ABC):
    r"""Base class of the ways to write and read a component; for :meth:`Checkpoint.register`.

    Hooks:
        save: ``(component, folder, options) -> None``; writes files to the folder, which is empty.
        load: ``(component, folder, options, map_location) -> value``; reads them. The component is changed in
            place, and ``None`` returned; or else its value is returned.

    >>> import tempfile
    >>> from torchrl.checkpoint import Checkpoint
    >>> class Lines(CheckpointAdapter):
    ...     def save(self, component, folder, options):
    ...         _ = (folder / "lines.txt").write_text("\n".join(component))
    ...     def load(self, component, folder, options, map_location=None):
    ...         component[:] = (folder / "lines.txt").read_text().split("\n")
    >>> path = Checkpoint().register("log", ["a", "b"], adapter=Lines()).save(tempfile.mkdtemp() + "/first")
    >>> lines = []
    >>> _ = Checkpoint().register("log", lines, adapter=Lines()).load(path)
    >>> lines
    ['a', 'b']
    """

    @abstractmethod
    def save(self, component: object, folder: Path, options: CheckpointOptions) -> None: ...

    @abstractmethod
    def load(
        self, component: object, folder: Path, options: CheckpointOptions, map_location: MapLocation = None
    ) -> object: ...


class StateDictCheckpointAdapter(CheckpointAdapter):
    """Save what ``state_dict`` returns, and load it with ``load_state_dict``.

    Args:
        payload_format: ``"directory"`` writes text and tensors as two files; ``"archive"`` and
            ``"consolidated"`` the same as one; ``"torch"`` a file of :func:`torch.save`, which is read as data alone.
        archive_compression: ``"stored"`` or ``"deflated"``, for ``"archive"``.

    Raises:
        ValueError: for an unknown format or compression, or a compression of another format.

    >>> import tempfile
    >>> from torchrl.checkpoint import Checkpoint
    >>> net, other = torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)
    >>> make = lambda part: Checkpoint().register("net", part, adapter=StateDictCheckpointAdapter("torch"))
    >>> _ = make(other).load(make(net).save(tempfile.mkdtemp() + "/first"))
    >>> torch.equal(net.weight, other.weight)
    True
    """

    def __init__(
        self, payload_format: StateDictFormat = "directory", *, archive_compression: str | None = None
    ) -> None:
        for name, value, known in (
            ("payload_format", payload_format, PAYLOADS),
            ("archive_compression", archive_compression, tuple(COMPRESSIONS)),
        ):
            if value not in known:
                raise ValueError(describe(self, f"has no such {name}", expected=list(known), found=value))
        if archive_compression is not None and payload_format != "archive":
            raise ValueError(describe(self, "compresses archives alone", found=payload_format))
        self.payload_format, self.archive_compression = payload_format, archive_compression

    def save(self, component: Any, folder: Path, options: CheckpointOptions) -> None:
        """Write the state dict."""
        state = component.state_dict(*options.save_args, **options.save_kwargs)
        if self.payload_format == "torch":
            torch.save(state, folder / TORCH)
        elif self.payload_format == "directory":
            write_tree(state, folder)
        else:
            compression = COMPRESSIONS[self.archive_compression]
            with TemporaryDirectory() as place, zipfile.ZipFile(folder / ARCHIVE, "w", compression) as archive:
                write_tree(state, Path(place))
                for file in sorted(Path(place).iterdir()):
                    archive.write(file, file.name)

    def load(
        self, component: Any, folder: Path, options: CheckpointOptions, map_location: MapLocation = None
    ) -> object:
        """Load the state dict, whatever format it has."""
        if (folder / TORCH).exists():
            state = load_file(folder / TORCH, map_location=map_location)
        elif (folder / ARCHIVE).exists():
            with TemporaryDirectory() as place:
                shutil.unpack_archive(folder / ARCHIVE, place, "zip")
                state = read_tree(Path(place), map_location)
        else:
            state = read_tree(folder, map_location)
        component.load_state_dict(state, *options.load_args, **options.load_kwargs)
        return None


class DumpLoadCheckpointAdapter(CheckpointAdapter):
    """Let a component write and read the folder itself: with ``dumps`` and ``loads``, or ``dump`` and ``load``.

    >>> import tempfile
    >>> from torchrl.checkpoint import Checkpoint
    >>> from torchrl.data import LazyTensorStorage, ReplayBuffer
    >>> buffer, other = (ReplayBuffer(storage=LazyTensorStorage(10)) for _ in range(2))
    >>> _ = buffer.extend(torch.arange(5))
    >>> make = lambda part: Checkpoint().register("buffer", part, adapter=DumpLoadCheckpointAdapter())
    >>> _ = make(other).load(make(buffer).save(tempfile.mkdtemp() + "/first"))
    >>> len(other)
    5
    """

    def save(self, component: object, folder: Path, options: CheckpointOptions) -> None:
        """Call ``dumps(folder)``."""
        _method(self, component, "dumps", "dump")(folder, *options.save_args, **options.save_kwargs)

    def load(
        self, component: object, folder: Path, options: CheckpointOptions, map_location: MapLocation = None
    ) -> object:
        """Call ``loads(folder)``."""
        _method(self, component, "loads", "load")(folder, *options.load_args, **options.load_kwargs)
        return None


def _method(owner: object, component: object, *names: str) -> Any:
    found = next((getattr(component, name) for name in names if hasattr(component, name)), None)
    if found is None:
        raise TypeError(describe(owner, f"{type(component).__name__} has none of the methods {names}"))
    return found


class JSONCheckpointAdapter(CheckpointAdapter):
    """Save a value as JSON, and return it when loading.

    Options are those of :func:`json.dumps` and :func:`json.loads`.

    >>> import tempfile
    >>> from torchrl.checkpoint import Checkpoint
    >>> make = lambda value: Checkpoint().register("settings", value, adapter=JSONCheckpointAdapter())
    >>> path = make({"lr": 0.1}).save(tempfile.mkdtemp() + "/first")
    >>> make(None).load(path).values
    {'settings': {'lr': 0.1}}
    """

    def save(self, component: object, folder: Path, options: CheckpointOptions) -> None:
        """Write the value."""
        text = json.dumps(component, *options.save_args, **options.save_kwargs)
        (folder / JSON).write_text(text + "\n", encoding="utf-8")

    def load(
        self, component: object, folder: Path, options: CheckpointOptions, map_location: MapLocation = None
    ) -> object:
        """Return the value."""
        return json.loads((folder / JSON).read_text(encoding="utf-8"), *options.load_args, **options.load_kwargs)


class Adapted:
    """A component with its adapter: writes and reads a folder, as replay buffers do.

    Args:
        component: The component.
        adapter: That of its kind if ``None``.
        options: Of the adapter.
    """

    def __init__(self, component: object, adapter: CheckpointAdapter | None, options: CheckpointOptions | None) -> None:
        if adapter is None:
            kinds = {True: StateDictCheckpointAdapter, False: DumpLoadCheckpointAdapter}
            is_value = kind_of(component) == "value"
            adapter = JSONCheckpointAdapter() if is_value else kinds[kind_of(component) == STATE]()
        self.component, self.adapter, self.options = component, adapter, options or CheckpointOptions()
        self.map_location: MapLocation = None  # of the load at hand
        self.value: object = None  # that was loaded

    def dumps(self, folder: Path) -> None:
        """Write the component."""
        self.adapter.save(self.component, folder, self.options)

    def loads(self, folder: Path) -> None:
        """Read the component, or its value."""
        self.value = self.adapter.load(self.component, folder, self.options, self.map_location)
