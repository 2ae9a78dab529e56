"""Files of `torch.save`, read without running their code."""

from __future__ import annotations

import collections
import pickle
import sys
from enum import Enum
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from tensordict import LazyStackedTensorDict, TensorDict, is_tensorclass

from torchrl._core.errors import UntrustedFileError, describe
from torchrl._core.files import damaged

CONTAINERS: dict[str, type] = {
    "builtins:dict": dict,
    "builtins:list": list,
    "builtins:tuple": tuple,
    "tensordict._td:TensorDict": TensorDict,
    "tensordict:TensorDict": TensorDict,
    "tensordict._lazy:LazyStackedTensorDict": LazyStackedTensorDict,
    "collections:OrderedDict": collections.OrderedDict,
}
Source = Path | IO[bytes]
_multiarray: Any = (vars(np).get("_core") or vars(np)["core"]).multiarray  # of numpy 2, or 1

# What torch itself does not load, and what is no more than data: numpy's arrays and numbers.
_DATA: list[Any] = [frozenset, slice, np.ndarray, np.dtype]
_DATA += [kind for kind in vars(np.dtypes).values() if isinstance(kind, type)]
_DATA += [  # under the names of numpy 1 and numpy 2
    (getattr(_multiarray, name), f"numpy.{module}.multiarray.{name}")
    for name in ("_reconstruct", "scalar")
    for module in ("core", "_core")
]
_DATA_NAMES = {each[1] if isinstance(each, tuple) else f"{each.__module__}.{each.__qualname__}" for each in _DATA}


def container_name(kind: type) -> str:
    """Return the name under which :func:`find_container` finds a class.

    >>> container_name(dict)
    'builtins:dict'
    """
    return f"{kind.__module__}:{kind.__qualname__}"


def find_container(name: str, owner: object) -> type:
    """Return the class of a container that a file names; nothing is imported for it.

    Known are dictionaries, lists, tuples and tensordicts, and the named tuples and tensorclasses of
    modules that this program has imported.

    Raises:
        UntrustedFileError: if it is none of these.
    """
    kind = CONTAINERS.get(name) or _program_class(*name.partition(":")[::2])
    if kind is None or not _is_container(kind):
        raise UntrustedFileError(
            describe(
                owner,
                f"the save names the class {name!r}",
                expected="a dict, list, tuple or TensorDict, or a named tuple or tensorclass that "
                "this program has imported",
                hint="Import its module first.",
            )
        )
    return kind


def find_dtype(name: str, owner: object) -> torch.dtype:
    """Return the dtype that a file names.

    Raises:
        UntrustedFileError: if there is none of that name.

    >>> find_dtype("float32", "Storage")
    torch.float32
    """
    dtype = vars(torch).get(name)
    if not isinstance(dtype, torch.dtype):
        raise UntrustedFileError(describe(owner, f"the save names the dtype {name!r}"))
    return dtype


def load_file(file: Source, *, trust: bool = False, map_location: Any = None) -> Any:
    """Return what :func:`torch.save` wrote to a file.

    Tensors, tensordicts, numbers, texts, numpy arrays and what holds them are loaded without
    running code, so are named tuples, tensorclasses and enums that the program has imported.

    Args:
        file: The file, or a stream of it.
        trust: Unpickle other objects, too, which runs whatever code the file holds.
        map_location: Where tensors go, as for :func:`torch.load`.

    Raises:
        FileNotFoundError: if there is no such file.
        UntrustedFileError: if it holds other objects, and ``trust`` is false.
        DamagedFileError: if it cannot be read at all.
    """
    try:
        return _load_data(file, map_location)
    except pickle.UnpicklingError as error:
        reason: Exception = error
    except (RuntimeError, EOFError, ValueError, TypeError, KeyError, IndexError) as error:
        raise damaged(file, found=_one_line(error)) from error
    if not trust:
        raise UntrustedFileError(
            describe(
                str(file),
                "the file holds objects that can only be unpickled, which runs code from the file",
                found=_globals(file) or _one_line(reason),
                hint="Pass trust=True if you know who wrote it.",
            )
        ) from reason
    try:
        return torch.load(file, map_location=map_location, weights_only=False)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise damaged(file, found=_one_line(error)) from error


def is_data(file: Source) -> bool:
    """Return whether :func:`load_file` needs no trust in what :func:`torch.save` wrote."""
    names = set(_globals(file))
    allowed = _DATA_NAMES | {f"{kind.__module__}.{kind.__qualname__}" for kind in _known(file)}
    return names <= allowed


def _load_data(file: Source, map_location: Any) -> Any:
    """Load data alone; look for classes of the program only if that is not enough."""
    try:
        with torch.serialization.safe_globals(_DATA):
            return torch.load(file, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError:
        known = _known(file)
        if not known:
            raise
    with torch.serialization.safe_globals([*_DATA, *known]):
        return torch.load(_rewound(file), map_location=map_location, weights_only=True)


def _rewound(file: Source) -> Source:
    if not isinstance(file, Path):
        file.seek(0)
    return file


def _one_line(error: object) -> str:
    return " ".join(str(error).split())[:200]


def _globals(file: Source) -> list[str]:
    """Return the names ``module.name`` that a file wants to import, beyond those of torch."""
    try:
        found = torch.serialization.get_unsafe_globals_in_checkpoint(_rewound(file))
    except Exception:  # not a checkpoint of torch: loading it raises
        return []
    finally:
        _rewound(file)
    return sorted(found)


def _known(file: Source) -> list[type]:
    """Return the classes that a file names which are containers or enums of this program."""
    found = (_program_class(*name.rpartition(".")[::2]) for name in _globals(file))
    return [kind for kind in found if kind is not None and (_is_container(kind) or issubclass(kind, Enum))]


def _program_class(module: str, name: str) -> type | None:
    """Return a class by the place where it was defined, if the program has imported that."""
    found: object = sys.modules.get(module)
    for part in name.split("."):
        found = vars(found).get(part) if hasattr(found, "__dict__") else None
    return found if isinstance(found, type) else None


def _is_container(kind: type) -> bool:
    named_tuple = issubclass(kind, tuple) and hasattr(kind, "_fields")
    return kind in CONTAINERS.values() or named_tuple or is_tensorclass(kind)
