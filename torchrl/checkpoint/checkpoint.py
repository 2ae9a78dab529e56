"""`Checkpoint`: the parts of an experiment, saved and loaded together."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torchrl._core.errors import TorchRLError, describe, nearest
from torchrl._core.log import logger
from torchrl.checkpoint.components import VALUE, kind_of, read_component, write_component

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
    It holds text and tensors only, so that loading one runs nobody's code. A save that is cut short
    leaves the last one in place.

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
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as place:
            draft = Path(place, "draft")
            draft.mkdir()
            self._fill(draft, names, dict(metadata or {}))
            if self.format == "archive":
                draft = self._pack(draft, Path(place, "archive"))
            _put(draft, path, Path(place, "before"))
        return path

    def _fill(self, folder: Path, names: list[str], metadata: dict[str, Any]) -> None:
        kinds = {
            name: write_component(self.components[name], folder / PARTS / name) for name in names
        }
        manifest = {"version": VERSION, "components": kinds, "metadata": metadata}
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")

    def _pack(self, folder: Path, path: Path) -> Path:
        with zipfile.ZipFile(path, "w", COMPRESSIONS[self.archive_compression]) as archive:
            for file in sorted(folder.rglob("*")):
                archive.write(file, file.relative_to(folder))
        return path

    # --- loading ---------------------------------------------------------------------------------

    def load(
        self,
        path: str | Path,
        components: Iterable[str] | None = None,
        map_location: Any = None,
        strict: str | None = None,
    ) -> CheckpointLoadResult:
        """Load parts from a checkpoint.

        Args:
            path: Its folder, or its file.
            components: Names of the parts; all of them if ``None``.
            map_location: Where tensors go, as for :func:`torch.load`.
            strict: Instead of that of the constructor.

        Raises:
            FileNotFoundError: if there is no checkpoint.
            CheckpointError: if parts are missing or of another kind, before any is loaded; or if
                one cannot take what is there. Only if ``strict`` is ``"error"``.
        """
        strict = self.strict if strict is None else _choose("strict", strict, STRICTNESS)
        names = self._chosen(components)
        with _opened(Path(path)) as folder:
            result = self._compare(names, read_manifest(folder))
            _complain(self, result, strict)
            for name in names:
                if name not in result.missing and name not in result.incompatible:
                    self._load_one(name, folder / PARTS / name, map_location, result)
        _complain(self, result, strict)
        return result

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

    def _load_one(
        self, name: str, folder: Path, map_location: Any, result: CheckpointLoadResult
    ) -> None:
        component = self.components[name]
        try:
            value = read_component(component, folder, map_location)
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            text = " ".join(str(error).split())  # torch's fills several lines
            result.incompatible[name] = f"cannot take what was saved ({text.rstrip('.')})"
            return
        result.loaded.append(name)
        if kind_of(component) == VALUE:
            result.values[name] = value


def read_manifest(path: str | Path) -> dict[str, Any]:
    """Return what a checkpoint says of itself.

    Raises:
        FileNotFoundError: if there is none.
    """
    with _opened(Path(path)) as folder:
        return json.loads((folder / MANIFEST).read_text())


def _put(draft: Path, path: Path, aside: Path) -> None:
    """Move a save to its path; what stood there is gone only once the save stands there."""
    if not (draft.is_dir() or path.is_dir()):
        draft.replace(path)
        return
    if path.exists():
        path.rename(aside)  # a folder takes the place of nothing else
    try:
        draft.rename(path)
    except BaseException:
        if aside.exists():
            aside.rename(path)
        raise


@contextmanager
def _opened(path: Path) -> Iterator[Path]:
    """Hold the folder of a checkpoint, unpacked if it is a file."""
    if (path / MANIFEST).is_file():
        yield path
        return
    if not path.is_file():
        fact, hint = f"there is no checkpoint at {path}", "Give the path that save() returned."
        raise FileNotFoundError(describe("Checkpoint", fact, hint=hint))
    with TemporaryDirectory() as place:
        shutil.unpack_archive(path, place, "zip")
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
