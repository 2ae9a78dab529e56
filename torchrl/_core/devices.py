"""Names of devices, as arguments."""

from __future__ import annotations

from typing import Any

import torch

from torchrl._core.errors import DeviceError, describe, nearest

_KINDS = ("cpu", "cuda", "mps", "xpu", "meta")
_OTHER_NAMES = {"gpu": "cuda", "nvidia": "cuda", "processor": "cpu"}


def is_present(device: object) -> bool:
    """Return whether this machine has a device, as far as torch tells without starting to use it.

    >>> is_present("cpu"), is_present("cuda:99")
    (True, False)
    """
    found = torch.device(device)  # type: ignore[call-overload]
    if found.type == "cuda":
        return 0 <= (found.index or 0) < torch.cuda.device_count()
    return found.type != "mps" or torch.backends.mps.is_available()


def check_devices(owner: object, **devices: object) -> None:
    """Refuse what is no device.

    Args:
        owner: The component, or its name, for the message.
        **devices: By the name of the argument: a device, its name, its index, ``None``, or a list
            of these.

    Raises:
        DeviceError: if torch knows no such device.

    >>> check_devices("Collector", device="cpu", env_device=None)
    >>> check_devices("Collector", device="gpu")
    Traceback (most recent call last):
    torchrl._core.errors.DeviceError: Collector: argument 'device' is no device; expected 'cpu', ...
    """
    for name, device in devices.items():
        if isinstance(device, list | tuple):
            for i, each in enumerate(device):
                check_devices(owner, **{f"{name}[{i}]": each})
        elif device is not None and not isinstance(device, torch.device | int):
            _check(owner, name, device)


def _check(owner: object, name: str, device: Any) -> None:
    try:
        torch.device(device)
    except (RuntimeError, TypeError):
        kind, colon, index = str(device).strip().lower().partition(":")
        meant = _OTHER_NAMES.get(kind, kind)
        if meant in _KINDS:
            meant = f"{meant}:{index if index.isdigit() else 0}" if colon and meant != "cpu" else meant
            hint = f"Did you mean {meant!r}?"
        else:
            hint = nearest(kind, _KINDS)
        raise DeviceError(
            describe(
                owner,
                f"argument {name!r} is no device",
                expected="'cpu', 'cuda', 'cuda:0', or another device of torch",
                found=repr(device),
                hint=hint,
            )
        ) from None
