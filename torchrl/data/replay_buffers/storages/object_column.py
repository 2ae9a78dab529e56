"""`ObjectColumn`: texts and other objects of rows in files, as numbers of a table of objects."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from torchrl._core.errors import DTypeError, describe
from torchrl._core.files import damaged


class ObjectTable:
    """The objects that rows of a folder hold, each once, one line of JSON each.

    An object is known by the number of its line; 0 is ``None``. Lines are only ever added.

    Args:
        file: The table; made with the first object.
        owner: The component that errors name.
    """

    def __init__(self, file: Path, owner: object) -> None:
        self.file, self._owner = file, owner
        self._objects: list[Any] = [None]
        self._numbers: dict[str, int] = {"null": 0}
        self._size = 0  # bytes of the file that were read

    def _read_new(self) -> None:
        """Read the lines that were added since, by this process or another."""
        if not self.file.exists() or self.file.stat().st_size <= self._size:
            return
        with self.file.open("rb") as file:
            file.seek(self._size)
            added = file.read()
        whole = added[: added.rfind(b"\n") + 1]  # a line that another process has not finished waits
        for line in whole.splitlines():
            try:
                self._objects.append(json.loads(line))
            except ValueError as error:
                raise damaged(self.file, found=str(error)) from error
            self._numbers[line.decode()] = len(self._objects) - 1
        self._size += len(whole)

    def numbers(self, objects: np.ndarray) -> np.ndarray:
        """Return the numbers, int64, of an array of objects; new ones are added to the table.

        Raises:
            DTypeError: if an object is not the same when it is read from JSON; none is added then.
        """
        texts = [text_of(value, self._owner) for value in objects.ravel().tolist()]
        if any(text not in self._numbers for text in texts):
            self._read_new()
            new = [text for text in dict.fromkeys(texts) if text not in self._numbers]
            if new:
                with self.file.open("a") as file:
                    file.write("".join(f"{text}\n" for text in new))
                self._read_new()
        found = [self._numbers[text] for text in texts]
        return np.array(found, dtype=np.int64).reshape(objects.shape)

    def objects(self, numbers: np.ndarray) -> np.ndarray:
        """Return the array of objects of an array of numbers."""
        if numbers.size and numbers.max() >= len(self._objects):
            self._read_new()
        out = np.empty(numbers.size, dtype=object)
        for place, number in enumerate(numbers.ravel().tolist()):
            out[place] = self._objects[number]
        return out.reshape(numbers.shape)


class ObjectColumn:
    """An array of objects that are kept as numbers; indexed like one of numpy.

    Args:
        numbers: int64 ``[R, *W, *F]``.
        table: The objects.
    """

    def __init__(self, numbers: np.ndarray, table: ObjectTable) -> None:
        self._column, self.table = numbers, table
        self.shape = numbers.shape

    def __getitem__(self, place: Any) -> np.ndarray:
        return self.table.objects(np.asarray(self._column[place]))

    def __setitem__(self, place: Any, values: object) -> None:
        """Write objects, or, as int64, their numbers."""
        given = values if isinstance(values, np.ndarray) else np.empty((), dtype=object)
        if given is not values:
            given[()] = values
        self._column[place] = given if given.dtype == np.int64 else self.table.numbers(given)

    def reshape(self, *shape: int) -> ObjectColumn:
        """Return the same column in another shape."""
        return ObjectColumn(self._column.reshape(shape), self.table)

    def fill(self, value: None) -> None:
        """Forget all objects."""
        self._column.fill(0)


def text_of(value: object, owner: object) -> str:
    """Return an object as JSON, if that gives it back."""
    try:
        text = json.dumps(value)
        if json.loads(text) == value:
            return text
    except (TypeError, ValueError):
        pass
    raise DTypeError(
        describe(
            owner,
            "holds an object that files cannot keep",
            expected="texts, numbers, and lists and dictionaries of them",
            found=value,
            hint="Nothing was written. LazyTensorStorage and ListStorage keep any object.",
        )
    )
