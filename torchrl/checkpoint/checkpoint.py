"""`Checkpoint`: the parts of an experiment, saved and loaded together."""

from __future__ import annotations

import contextlib
import json
import shutil
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torchrl._core.errors import (
    DamagedFileError,
    TorchRLError,
    UntrustedFileError,
    describe,
    nearest,
)
from torchrl._core.files import check_files, damaged, replaced, restore, write_checksums
from torchrl._core.log import logger
from torchrl.checkpoint.components import (
    Loading,
    kind_of,
    load_component,
    loading_of,
    read_component,
    write_component,
)

MANIFEST, PARTS, VERSION = "manifest.json", "components", 1
FORMATS = ("directory", "archive")
STRICTNESS = ("error", "warn", "ignore")
COMPRESSIONS = {"stored": zipfile.ZIP_STORED, "deflated": zipfile.ZIP_DEFLATED}


@dataclass
class CheckpointLoadResult:
    """What came of a load.

    Args:
        loaded: Names of the components that were loaded.
        missing: Those that were asked for and are not in the checkpoint.
        incompatible: Those that could not take what is there, and why.
        unrequested: Those that are there and were not asked for.
        values: What was written of those that are values, such as numbers and settings.
        manifest: What the checkpoint says of itself, ``metadata`` included.
    """

    loaded: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    incompatible: dict[str, str] = field(default_factory=dict)
    unrequested: list[str] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)
    manifest: dict[str, Any] = field(default_factory=dict)


class CheckpointError(TorchRLError, RuntimeError):
    """A checkpoint and what is to be loaded from it do not go together.

    Args:
        message: In which way.
        result: What was found out.
    """

    def __init__(self, message: str, result: CheckpointLoadResult | None = None) -> None:
        super().__init__(message)
        self.result = result


class Checkpoint:
    """Saves the parts of an experiment together, and loads them.

    A part has a ``state_dict`` and a ``load_state_dict``, or ``dumps`` and ``loads`` as replay
    buffers have, or is a value: numbers, texts, tensors, and what holds them. A checkpoint is a
    folder, with a ``manifest.json`` and a folder for each part, or one file with the same inside.
    It holds text and tensors, and what replay buffers write, so that loading one runs no code from
    it. A save that is cut short, by a death of the process or a power cut, leaves the last one in
    place; a file that changed since is found by its checksum, and named.

    Args:
        format: ``"directory"``, or ``"archive"`` for one file.
        strict: What happens if a part cannot be loaded: ``"error"``, ``"warn"`` (it is logged) or
            ``"ignore"``.
        archive_compression: ``"stored"`` or ``"deflated"``.
        save_components: Names of the parts to save; all of them if ``None``.
        **components: The parts, by name.

    Raises:
        ValueError: for an option or a name that there is not.

    >>> import tempfile, torch
    >>> policy = torch.nn.Linear(2, 1)
    >>> checkpoint = Checkpoint(policy=policy, settings={"lr": 0.1})
    >>> path = checkpoint.save(tempfile.mkdtemp() + "/first", metadata={"frames": 100})
    >>> result = Checkpoint(policy=torch.nn.Linear(2, 1), settings={}).load(path)
    >>> result.loaded, result.values, result.manifest["metadata"]
    (['policy', 'settings'], {'settings': {'lr': 0.1}}, {'frames': 100})
    """

    def __init__(
        self,
        *,
        format: str = "directory",
        strict: str = "error",
        archive_compression: str = "stored",
        save_components: Iterable[str] | None = None,
        **components: Any,
    ) -> None:
        _choose("format", format, FORMATS)
        _choose("strict", strict, STRICTNESS)
        _choose("archive_compression", archive_compression, tuple(COMPRESSIONS))
        self.format, self.strict, self.components = format, strict, dict(components)
        self.archive_compression = archive_compression
        self.save_components = self._chosen(save_components)

    def _chosen(self, names: Iterable[str] | None) -> list[str]:
        """Return names of components, after a look at whether there are such."""
        chosen = list(self.components if names is None else names)
        for name in chosen:
            if name not in self.components:
                fact, hint = f"there is no component {name!r}", nearest(name, self.components)
                known = list(self.components)
                raise ValueError(describe(self, fact, expected=f"one of {known}", hint=hint))
        return chosen

    # --- saving ----------------------------------------------------------------------------------

    def save(
        self,
        path: str | Path,
        components: Iterable[str] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Path:
        """Write a checkpoint, in the place of one that stands there.

        Args:
            path: Its folder, or its file.
            components: Names of the parts; those of ``save_components`` if ``None``.
            metadata: JSON that is noted beside, such as frames and scores.

        Returns: the path.

        Raises:
            TypeError: if a part holds what is neither text nor tensor; nothing is written then.
        """
        names = self.save_components if components is None else self._chosen(components)
        with replaced(path) as draft:
            folder = draft if self.format == "directory" else draft.with_name("contents")
            folder.mkdir()
            self._fill(folder, names, dict(metadata or {}))
            if self.format == "archive":
                self._pack(folder, draft)
        return Path(path)

    def _fill(self, folder: Path, names: list[str], metadata: dict[str, Any]) -> None:
        kinds = {
            name: write_component(self.components[name], folder / PARTS / name) for name in names
        }
        manifest = {"version": VERSION, "components": kinds, "metadata": metadata}
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
        write_checksums(folder)

    def _pack(self, folder: Path, path: Path) -> None:
        with zipfile.ZipFile(path, "w", COMPRESSIONS[self.archive_compression]) as archive:
            for file in sorted(folder.rglob("*")):
                archive.write(file, file.relative_to(folder))

    # --- loading ---------------------------------------------------------------------------------

    def load(
        self,
        path: str | Path,
        components: Iterable[str] | None = None,
        map_location: Any = None,
        strict: str | None = None,
        trust: bool = False,
    ) -> CheckpointLoadResult:
        """Load parts from a checkpoint: all of them, or none if one fails and that is an error.

        Args:
            path: Its folder, or its file.
            components: Names of the parts; all of them if ``None``.
            map_location: Where tensors go, as for :func:`torch.load`.
            strict: Instead of that of the constructor.
            trust: Unpickle the objects that a replay buffer holds, too, which runs whatever code
                the checkpoint holds.

        Raises:
            FileNotFoundError: if there is no checkpoint.
            DamagedFileError: if one of its files is not what was written.
            UntrustedFileError: if there are such objects, and ``trust`` is false.
            CheckpointError: if parts are missing or of another kind; or if one cannot take what is
                there. Only if ``strict`` is ``"error"``. Parts are as before then, but for those
                that have a ``loads`` of their own, which come last.
        """
        strict = self.strict if strict is None else _choose("strict", strict, STRICTNESS)
        names = self._chosen(components)
        manifest = read_manifest(path)
        with _opened(Path(path)) as folder:
            result = self._compare(names, manifest)
            _complain(self, result, strict)
            names = [n for n in names if n not in result.missing and n not in result.incompatible]
            check_files(folder, [f"{PARTS}/{name}" for name in names])
            found: dict[str, Any] = {}
            for name in names:
                with _told(name, result):
                    found[name] = read_component(
                        self.components[name], folder / PARTS / name, map_location, trust
                    )
            self._load_found(found, result, strict)
        _complain(self, result, strict)
        return result

    def _load_found(self, found: dict[str, Any], result: CheckpointLoadResult, strict: str) -> None:
        """Load what was read; if one part fails and that is an error, the others stay as before."""
        kinds = {name: loading_of(self.components[name]) for name in found}
        checked = [name for name in found if kinds[name] is Loading.CHECKED]
        for name in checked:
            with _told(name, result):
                self.components[name].check_state(found[name])
        undo = contextlib.ExitStack()
        with undo:
            for kind in (Loading.UNDONE, Loading.ALONE):
                for name in (name for name in found if kinds[name] is kind):
                    if result.incompatible and strict == "error":
                        break
                    with _told(name, result):
                        undo.callback(load_component(self.components[name], found[name]))
            if not (result.incompatible and strict == "error"):
                undo.pop_all()
                for name in checked:
                    if name not in result.incompatible:
                        self.components[name].load_state_dict(found[name])
        for name in found:
            if name not in result.incompatible:
                result.loaded.append(name)
                if kinds[name] is Loading.VALUE:
                    result.values[name] = found[name]

    def _compare(self, names: list[str], manifest: dict[str, Any]) -> CheckpointLoadResult:
        saved = manifest["components"]
        result = CheckpointLoadResult(manifest=manifest)
        result.missing = [name for name in names if name not in saved]
        result.unrequested = [name for name in saved if name not in names]
        for name in names:
            kind = kind_of(self.components[name])
            if saved.get(name, kind) != kind:
                result.incompatible[name] = f"was saved as a {saved[name]}, and is a {kind} here"
        return result


@contextmanager
def _told(name: str, result: CheckpointLoadResult) -> Iterator[None]:
    """Note why a component cannot take what was saved."""
    try:
        yield
    except (DamagedFileError, UntrustedFileError):
        raise
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        text = " ".join(str(error).split())  # torch's fills several lines
        result.incompatible[name] = f"cannot take what was saved ({text.rstrip('.')})"


def read_manifest(path: str | Path) -> dict[str, Any]:
    """Return what a checkpoint says of itself.

    Raises:
        FileNotFoundError: if there is none.
        DamagedFileError: if it is not what was written.
    """
    path = Path(path)
    restore(path)
    try:
        if path.is_file():
            with zipfile.ZipFile(path) as archive:
                return _manifest(archive.read(MANIFEST), path)
        if (path / MANIFEST).is_file():
            check_files(path, [MANIFEST])
            return _manifest((path / MANIFEST).read_bytes(), path / MANIFEST)
    except (zipfile.BadZipFile, KeyError, EOFError, zlib.error) as error:
        raise damaged(path, found=str(error)) from error
    fact, hint = f"there is no checkpoint at {path}", "Give the path that save() returned."
    raise FileNotFoundError(describe("Checkpoint", fact, hint=hint))


def _manifest(text: bytes, file: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(text)
        _ = {**manifest["components"]}, {**manifest["metadata"]}
    except (ValueError, KeyError, TypeError) as error:
        raise damaged(file, found=f"{type(error).__name__}: {error}") from error
    return manifest


@contextmanager
def _opened(path: Path) -> Iterator[Path]:
    """Hold the folder of a checkpoint, unpacked if it is a file."""
    if not path.is_file():
        yield path
        return
    with TemporaryDirectory() as place:
        try:
            shutil.unpack_archive(path, place, "zip")
        except (shutil.ReadError, zipfile.BadZipFile, EOFError, zlib.error) as error:
            raise damaged(path, found=str(error)) from error
        yield Path(place)


def _complain(who: Checkpoint, result: CheckpointLoadResult, strict: str) -> None:
    """Raise, or log, what is missing and what does not fit."""
    problems = [f"{name!r} is missing" for name in result.missing]
    problems += [f"{name!r} {reason}" for name, reason in result.incompatible.items()]
    if not problems or strict == "ignore":
        return
    found = list(result.manifest["components"])
    text = describe(
        who,
        "; ".join(problems),
        found=found,
        hint="Name what to load in components, or pass strict='ignore'.",
    )
    if strict == "error":
        raise CheckpointError(text, result)
    logger.warning(text)


def _choose(name: str, value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        raise ValueError(
            f"Checkpoint: expected {name} to be one of {list(known)}, found {value!r}. "
            f"{nearest(value, known)}".rstrip()
        )
    return value
