"""`Checkpoint`: save and load the parts of an experiment together; states of random generators."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import platform
import shutil
import sys
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torchrl._core.errors import DamagedFileError, TorchRLError, UntrustedFileError, describe, nearest
from torchrl._core.files import (
    NewerFormatError,
    check_files,
    check_version,
    damaged,
    replaced,
    restore,
    write_checksums,
)
from torchrl._core.log import logger
from torchrl.checkpoint.adapters import Adapted, CheckpointAdapter, CheckpointOptions
from torchrl.checkpoint.serialization import (
    Loading,
    MapLocation,
    kind_of,
    load_component,
    loading_of,
    read_component,
    write_component,
)
from torchrl.data.replay_buffers.data_types import State

MANIFEST, PARTS, VERSION = "manifest.json", "components", 2
PACKAGES = ("torchrl", "torch", "tensordict", "numpy", "gymnasium", "ale_py", "mujoco")  # named in manifests
FORMATS = ("directory", "archive")
# What zipfile raises for damaged bytes; RuntimeError where they call for a password or a method of compression.
_BROKEN_ARCHIVE = (zipfile.BadZipFile, KeyError, EOFError, zlib.error, RuntimeError, ValueError, OverflowError)
STRICTNESS = ("error", "warn", "ignore")
COMPRESSIONS = {"stored": zipfile.ZIP_STORED, "deflated": zipfile.ZIP_DEFLATED}


@dataclass
class CheckpointLoadResult:
    """The result of loading a checkpoint.

    Args:
        loaded: Names of the components that were loaded.
        missing: Those that were requested and are not in the checkpoint.
        incompatible: Those whose state could not be loaded, and why.
        unrequested: Those in the checkpoint that were not requested.
        values: The saved values of components without a state, such as numbers and settings.
        manifest: The manifest of the checkpoint, ``metadata`` included.

    >>> import tempfile
    >>> path = Checkpoint(frames=10, step=2).save(tempfile.mkdtemp() + "/first")
    >>> result = Checkpoint(frames=0).load(path)
    >>> result.values, result.unrequested
    ({'frames': 10}, ['step'])
    """

    loaded: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    incompatible: dict[str, str] = field(default_factory=dict)
    unrequested: list[str] = field(default_factory=list)
    values: dict[str, object] = field(default_factory=dict)
    manifest: State = field(default_factory=dict)


class CheckpointError(TorchRLError, RuntimeError):
    """Components are missing from a checkpoint, or cannot be loaded from it.

    Args:
        message: Which, and why.
        result: The result of loading.

    >>> import tempfile
    >>> path = Checkpoint(frames=10).save(tempfile.mkdtemp() + "/first")
    >>> try:
    ...     Checkpoint(step=0).load(path)
    ... except CheckpointError as error:
    ...     print(error.result.missing)
    ['step']
    """

    def __init__(self, message: str, result: CheckpointLoadResult | None = None) -> None:
        super().__init__(message)
        self.result = result


class Checkpoint:
    """Save the components of an experiment together, and load them.

    A component has a ``state_dict`` and a ``load_state_dict``, or ``dumps`` and ``loads`` as replay
    buffers have, or is a value: numbers, texts, tensors, and containers of them. A checkpoint is a
    folder, with a ``manifest.json`` and a folder for each component, or one file with the same
    content. It holds text and tensors, and what replay buffers write, so that loading one runs no
    code from it. A save that is interrupted, by the end of the process or a power failure, leaves
    the last one in place; a file that changed since is an error that names it, found by checksums.
    The manifest has the versions of packages that are imported, and the commit of the git repository
    of the working directory; differences are logged when it is loaded.

    Args:
        format: ``"directory"``, or ``"archive"`` for one file.
        strict: What happens if a component cannot be loaded: ``"error"``, ``"warn"`` (it is logged)
            or ``"ignore"``.
        archive_compression: ``"stored"`` or ``"deflated"``.
        save_components: Names of the components to save; all of them if ``None``.
        **components: The components, by name.

    Raises:
        ValueError: for an unknown option or name.

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

    def register(
        self,
        name: str,
        component: object,
        *,
        adapter: CheckpointAdapter | None = None,
        options: CheckpointOptions | None = None,
    ) -> Checkpoint:
        """Add a component, or replace the one of that name; return the checkpoint.

        Args:
            name: Its name.
            component: As for the constructor; with an adapter, anything.
            adapter: How it is written and read. A component with an adapter is loaded after those without.
            options: Arguments of the methods that save and load it.
        """
        if adapter is not None or options is not None:
            component = Adapted(component, adapter, options)
        if self.save_components == list(self.components):
            self.save_components = [*dict.fromkeys([*self.save_components, name])]
        self.components[name] = component
        return self

    @staticmethod
    def manifest(path: str | Path) -> dict[str, Any]:
        """Return the manifest of a checkpoint: names and kinds of its components, metadata.

        Raises:
            FileNotFoundError: if there is none.
            DamagedFileError: if it has changed since it was written.
        """
        return read_manifest(path)

    @staticmethod
    def is_checkpoint(path: str | Path) -> bool:
        """Return whether a path holds a checkpoint, complete or not."""
        path = Path(path)
        if path.is_dir():
            return (path / MANIFEST).is_file()
        if not zipfile.is_zipfile(path):
            return False
        with zipfile.ZipFile(path) as archive:
            return MANIFEST in archive.namelist()

    def _chosen(self, names: Iterable[str] | None) -> list[str]:
        """Return names of components after checking that they exist."""
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
        metadata: Mapping[str, object] | None = None,
        *,
        base: str | Path | None = None,
    ) -> Path:
        """Write a checkpoint; an existing one at that path is replaced.

        Args:
            path: Its folder, or its file.
            components: Names of the components; those of ``save_components`` if ``None``.
            metadata: JSON for the manifest, such as frames and scores.
            base: An earlier checkpoint that is a folder; the one at ``path`` if ``None``. Files of
                rows of replay buffers that did not change since are hard links to those there.

        Returns: the path.

        Raises:
            TypeError: if a component holds a value that is neither text nor tensor; nothing is
                written then.
        """
        names = self.save_components if components is None else self._chosen(components)
        with replaced(path) as draft:
            folder = draft if self.format == "directory" else draft.with_name("contents")
            folder.mkdir()
            self._fill(folder, names, dict(metadata or {}), Path(path if base is None else base))
            if self.format == "archive":
                self._pack(folder, draft)
        return Path(path)

    def _fill(self, folder: Path, names: list[str], metadata: dict[str, object], base: Path) -> None:
        kinds = {
            name: write_component(self.components[name], folder / PARTS / name, base / PARTS / name) for name in names
        }
        manifest = {"version": VERSION, "components": kinds, "metadata": metadata, "software": software()}
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
        map_location: MapLocation = None,
        strict: str | None = None,
        trust: bool = False,
    ) -> CheckpointLoadResult:
        """Load components from a checkpoint: all of them, or none if one fails as an error.

        Args:
            path: Its folder, or its file.
            components: Names of the components; all of them if ``None``.
            map_location: Where tensors are loaded, as for :func:`torch.load`.
            strict: In place of that of the constructor.
            trust: Unpickle the objects that a replay buffer holds, too, which runs whatever code
                the checkpoint holds.

        Raises:
            FileNotFoundError: if there is no checkpoint.
            DamagedFileError: if one of its files has changed since it was written.
            NewerFormatError: if a newer version of the library has written it in another format.
            UntrustedFileError: if there are such objects, and ``trust`` is false.
            CheckpointError: with ``strict="error"``, if components are missing, of another kind, or
                cannot be loaded. Components are unchanged then, except for those with ``loads``,
                which are loaded last.
        """
        strict = self.strict if strict is None else _choose("strict", strict, STRICTNESS)
        names = self._chosen(components)
        manifest = read_manifest(path)
        _report_software(path, manifest)
        with _opened(Path(path)) as folder:
            result = self._compare(names, manifest)
            _report(self, result, strict)
            names = [n for n in names if n not in result.missing and n not in result.incompatible]
            check_files(folder, [f"{PARTS}/{name}" for name in names])
            found: dict[str, object] = {}
            for name in names:
                if isinstance(component := self.components[name], Adapted):
                    component.map_location = map_location
                with _noting_failure(name, result):
                    found[name] = read_component(self.components[name], folder / PARTS / name, map_location, trust)
            self._load_found(found, result, strict)
        _report(self, result, strict)
        return result

    def _load_found(self, found: dict[str, object], result: CheckpointLoadResult, strict: str) -> None:
        """Load what was read; if one component fails as an error, the others are unchanged."""
        kinds = {name: loading_of(self.components[name]) for name in found}
        checked = [name for name in found if kinds[name] is Loading.CHECKED]
        for name in checked:
            with _noting_failure(name, result):
                self.components[name].check_state(found[name])
        undo = contextlib.ExitStack()
        with undo:
            for kind in (Loading.UNDONE, Loading.ALONE):
                for name in (name for name in found if kinds[name] is kind):
                    if result.incompatible and strict == "error":
                        break
                    with _noting_failure(name, result):
                        undo.callback(load_component(self.components[name], found[name]))
            if not (result.incompatible and strict == "error"):
                undo.pop_all()
                for name in checked:
                    if name not in result.incompatible:
                        self.components[name].load_state_dict(found[name])
        for name in found:
            if name not in result.incompatible:
                result.loaded.append(name)
                component = self.components[name]
                if kinds[name] is Loading.VALUE:
                    result.values[name] = found[name]
                elif isinstance(component, Adapted) and component.value is not None:
                    result.values[name] = component.value

    def _compare(self, names: list[str], manifest: State) -> CheckpointLoadResult:
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
def _noting_failure(name: str, result: CheckpointLoadResult) -> Iterator[None]:
    """Record in the result why a component cannot be loaded."""
    try:
        yield
    except (DamagedFileError, NewerFormatError, UntrustedFileError):
        raise
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        text = " ".join(str(error).split())  # torch's fills several lines
        result.incompatible[name] = f"cannot take what was saved ({text.rstrip('.')})"


def read_manifest(path: str | Path) -> State:
    """Return the manifest of a checkpoint.

    Raises:
        FileNotFoundError: if there is none.
        DamagedFileError: if it has changed since it was written.
    """
    path = Path(path)
    restore(path)
    if path.is_file():
        try:
            with zipfile.ZipFile(path) as archive:
                text = archive.read(MANIFEST)
        except _BROKEN_ARCHIVE as error:
            raise damaged(path, found=str(error)) from error
        return _manifest(text, path)
    if (path / MANIFEST).is_file():
        check_files(path, [MANIFEST])
        return _manifest((path / MANIFEST).read_bytes(), path / MANIFEST)
    fact, hint = f"there is no checkpoint at {path}", "Give the path that save() returned."
    raise FileNotFoundError(describe("Checkpoint", fact, hint=hint))


def _manifest(text: bytes, file: Path) -> State:
    try:
        manifest = json.loads(text)
        check_version(file, manifest["version"], VERSION)
        _ = {**manifest["components"]}, {**manifest["metadata"]}, {**manifest.get("software", {})}
    except (ValueError, KeyError, TypeError) as error:
        raise damaged(file, found=f"{type(error).__name__}: {error}") from error
    return manifest


def software() -> dict[str, str]:
    """Return the versions of the packages that are imported, and the commit of the working directory.

    >>> import torch
    >>> software()["torch"] == torch.__version__
    True
    """
    found = {name: str(getattr(sys.modules[name], "__version__", "?")) for name in PACKAGES if name in sys.modules}
    commit = _commit(os.getcwd())
    return {"python": platform.python_version(), **found, **({"commit": commit} if commit else {})}


@functools.cache
def _commit(folder: str) -> str:
    """Return the commit of the git repository that a folder is in; no program is started for it."""
    with contextlib.suppress(OSError, StopIteration):
        git = next(each / ".git" for each in (Path(folder), *Path(folder).parents) if (each / ".git").exists())
        if git.is_file():  # of another working tree
            git = git.parent / git.read_text().partition("gitdir:")[2].strip()
        kind, _, name = (git / "HEAD").read_text().strip().rpartition(" ")
        if not kind:
            return name
        if (git / "commondir").is_file():
            git = git / (git / "commondir").read_text().strip()
        if (git / name).is_file():
            return (git / name).read_text().strip()
        lines = (git / "packed-refs").read_text().splitlines()
        return next(line.partition(" ")[0] for line in lines if line.endswith(f" {name}"))
    return ""


def _report_software(path: str | Path, manifest: State) -> None:
    """Log, in one line, what a checkpoint was saved with that differs now."""
    saved, now = manifest.get("software", {}), software()
    differ = [name for name in saved if name in now and saved[name] != now[name]]
    if differ:
        level = logging.INFO if differ == ["commit"] else logging.WARNING  # every change of a program is a commit
        text = ", ".join(f"{name} {saved[name]}, now {now[name]}" for name in differ)
        logger.log(level, "Checkpoint: %s was saved with %s", path, text)


@contextmanager
def _opened(path: Path) -> Iterator[Path]:
    """Yield the folder of a checkpoint, unpacked if it is a file."""
    if not path.is_file():
        yield path
        return
    with TemporaryDirectory() as place:
        try:
            shutil.unpack_archive(path, place, "zip")
        except (shutil.ReadError, *_BROKEN_ARCHIVE) as error:
            raise damaged(path, found=str(error)) from error
        yield Path(place)


def _report(who: Checkpoint, result: CheckpointLoadResult, strict: str) -> None:
    """Raise, or log, which components are missing or cannot be loaded."""
    problems = [f"{name!r} is missing" for name in result.missing]
    problems += [f"{name!r} {reason}" for name, reason in result.incompatible.items()]
    if not problems or strict == "ignore":
        return
    found = list(result.manifest["components"])
    text = describe(
        who, "; ".join(problems), found=found, hint="Name what to load in components, or pass strict='ignore'."
    )
    if strict == "error":
        raise CheckpointError(text, result)
    logger.warning(text)


def _choose(name: str, value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        raise ValueError(
            f"Checkpoint: expected {name} to be one of {list(known)}, found {value!r}. {nearest(value, known)}".rstrip()
        )
    return value
