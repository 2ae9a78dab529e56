"""`CheckpointRotation`: keep the latest checkpoints and the best one, delete the others."""

from __future__ import annotations

import contextlib
import math
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torchrl._core.errors import DamagedFileError, describe
from torchrl._core.files import NewerFormatError
from torchrl._core.log import logger
from torchrl.checkpoint.checkpoint import Checkpoint, CheckpointLoadResult, read_manifest
from torchrl.data.replay_buffers.data_types import State


class CheckpointRotation:
    """Keep the latest checkpoints of a folder and, optionally, the best one.

    Replay buffers save the rows that changed since the latest checkpoint; the files of others are
    hard links, so that a file that is damaged on the disk is damaged in each checkpoint that has it.

    Args:
        directory: The folder.
        keep_last: How many of the latest to keep.
        keep_best: The name of a score in the metadata, and ``"max"`` or ``"min"``.
        prefix: Checkpoints are called ``<prefix>_<step>``.

    Raises:
        ValueError: if ``keep_last`` is less than one, or ``keep_best`` has another mode.

    >>> import tempfile
    >>> rotation = CheckpointRotation(tempfile.mkdtemp(), keep_last=1, keep_best=("score", "max"))
    >>> for step, score in enumerate([1.0, 5.0, 2.0, 3.0]):
    ...     _ = rotation.save(Checkpoint(step=step), step, metadata={"score": score})
    >>> rotation.best().name, rotation.latest().name, len(rotation.paths())
    ('checkpoint_1', 'checkpoint_3', 2)
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        keep_last: int,
        keep_best: tuple[str, str] | None = None,
        prefix: str = "checkpoint",
    ) -> None:
        if keep_last < 1:
            raise ValueError(f"CheckpointRotation: keep_last must be at least 1, found {keep_last}.")
        if keep_best is not None and keep_best[1] not in ("max", "min"):
            raise ValueError(f"CheckpointRotation: keep_best ends with 'max' or 'min', found {keep_best[1]!r}.")
        self.directory, self.prefix = Path(directory), prefix
        self.keep_last, self.keep_best = keep_last, keep_best

    def save(
        self,
        checkpoint: Checkpoint,
        step: int,
        components: Iterable[str] | None = None,
        metadata: Mapping[str, object] | None = None,
    ) -> Path:
        """Save a checkpoint of some step, and remove those that are not kept.

        Args:
            checkpoint: What to save.
            step: Number of frames, for example; the latest checkpoint has the greatest.
            components: Names of the components; those of the checkpoint if ``None``.
            metadata: JSON for the manifest, to which the step is added.

        Returns: its path.

        Raises:
            ValueError: if ``keep_best`` names a number that is not in the metadata.
        """
        noted = {**(metadata or {}), "step": step}
        if self.keep_best is not None and self.keep_best[0] not in noted:
            raise ValueError(
                describe(
                    self,
                    f"keeps the best by {self.keep_best[0]!r}, which is not in the metadata",
                    found=sorted(noted),
                    hint="Pass metadata={...} to save().",
                )
            )
        path = checkpoint.save(self.directory / f"{self.prefix}_{step}", components, noted, base=self.latest())
        self._prune(path)
        return path

    def paths(self) -> list[Path]:
        """Return the paths in the folder that are named as checkpoints, the latest last."""
        named = re.compile(rf"{re.escape(self.prefix)}_(-?\d+)")
        found = [(named.fullmatch(path.name), path) for path in self.directory.glob("*")]
        return [path for _, path in sorted((int(m[1]), path) for m, path in found if m)]

    def _manifests(self) -> dict[Path, State]:
        """Return the manifests of the checkpoints whose manifest can be read."""
        found = {}
        for path in self.paths():
            with contextlib.suppress(FileNotFoundError, DamagedFileError, NewerFormatError):
                found[path] = read_manifest(path)
        return found

    def latest(self) -> Path | None:
        """Return the latest checkpoint that can be read, if there is one."""
        return next(reversed(self._manifests()), None)

    def best(self) -> Path | None:
        """Return the best checkpoint, the earliest of several, if there is one.

        Those that cannot be read, or whose score is missing, NaN or not a number, are skipped.

        Raises:
            ValueError: without ``keep_best``.
        """
        if self.keep_best is None:
            raise ValueError(describe(self, "does not know what is best", hint="Pass keep_best."))
        return self._best_of(self._manifests(), *self.keep_best)

    def _best_of(self, manifests: Mapping[Path, State], metric: str, mode: str) -> Path | None:
        scores = {path: each["metadata"].get(metric) for path, each in manifests.items()}
        ranked = {
            path: score for path, score in scores.items() if isinstance(score, int | float) and not math.isnan(score)
        }
        choose = max if mode == "max" else min
        return choose(ranked, key=ranked.__getitem__, default=None)

    def load_latest(self, checkpoint: Checkpoint, **kwargs: Any) -> CheckpointLoadResult | None:
        """Load the latest checkpoint, with the arguments of :meth:`Checkpoint.load`, if any.

        One that is damaged or incomplete is skipped, with a warning in the log, and the one before
        it is loaded.

        Raises:
            DamagedFileError: if there are checkpoints, and all are damaged.
        """
        damage: list[Exception] = []
        for path in reversed(self.paths()):
            with self._skipping(path, damage):
                return checkpoint.load(path, **kwargs)
        if damage:
            raise damage[0]
        return None

    @contextlib.contextmanager
    def _skipping(self, path: Path, damage: list[Exception]) -> Iterator[None]:
        """Record the damage of a checkpoint that cannot be read; a missing one is not damaged."""
        try:
            yield
        except (DamagedFileError, OSError) as error:
            if not isinstance(error, FileNotFoundError):
                damage.append(error)
            logger.warning("%s: %s is skipped: %s", type(self).__name__, path, error)

    def prune(self) -> list[Path]:
        """Remove the checkpoints that are not kept; return their paths.

        Checkpoints that cannot be read are kept.
        """
        return self._prune(None)

    def _prune(self, saved: Path | None) -> list[Path]:
        """Remove those that are not kept; the one that was just saved is kept."""
        manifests = self._manifests()
        kept = {*list(manifests)[-self.keep_last :], saved}
        if self.keep_best is not None:
            kept.add(self._best_of(manifests, *self.keep_best))
        gone = [path for path in manifests if path not in kept]
        for path in gone:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        return gone
