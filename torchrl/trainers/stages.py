"""The points of the training loop at which hooks run, and how each kind of them is run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from torchrl._core.errors import describe, nearest

Op = Callable[..., Any]

ACTS, CHANGES, LOGS = "acts", "changes", "logs"

# In the order of the loop. What acts is handed nothing; what changes returns what it was handed,
# changed or not; what logs is handed a batch and returns numbers by name, or nothing.
STAGES = {
    "setup": ACTS,
    "batch_process": CHANGES,  # batch
    "pre_steps_log": LOGS,
    "pre_optim_steps": ACTS,
    "pre_epoch_log": LOGS,
    "pre_epoch": CHANGES,  # batch
    "process_optim_batch": CHANGES,  # batch -> sub-batch
    "post_loss": CHANGES,  # sub-batch
    "process_loss": CHANGES,  # (sub-batch, losses) -> losses
    "optimizer": CHANGES,  # (losses, clip_grad_norm, clip_norm, index) -> losses
    "optimizer_step": ACTS,  # once all gradients are known
    "post_optim": ACTS,
    "post_optim_log": LOGS,  # of the sub-batch
    "post_epoch_log": LOGS,
    "post_epoch": ACTS,
    "post_optim_complete_log": LOGS,
    "post_steps": ACTS,
    "post_steps_log": LOGS,
    "shutdown": ACTS,
}


class Stages:
    """The operations that are registered, by stage, in the order of their registration.

    >>> stages = Stages()
    >>> stages.add("batch_process", lambda batch: batch + 1)
    >>> stages.change("batch_process", 1)
    2
    """

    def __init__(self) -> None:
        self._ops: dict[str, list[Op]] = {stage: [] for stage in STAGES}

    def __getitem__(self, stage: str) -> list[Op]:
        return self._ops[stage]

    def add(self, stage: str, op: Op, **kwargs: Any) -> None:
        """Add an operation, with keyword arguments that it gets at each call.

        Raises:
            ValueError: if there is no such stage.
            TypeError: if the operation cannot be called.
        """
        if stage not in STAGES:
            raise ValueError(
                f"Trainer: there is no stage {stage!r}; expected one of {list(STAGES)}. "
                f"{nearest(stage, STAGES)}".rstrip()
            )
        if not callable(op):
            raise TypeError(
                describe(
                    "Trainer",
                    f"what is registered at {stage!r} must be callable",
                    found=type(op).__name__,
                )
            )
        self._ops[stage].append(partial(op, **kwargs) if kwargs else op)

    def act(self, stage: str) -> None:
        """Run what is handed nothing."""
        for op in self._ops[stage]:
            op()

    def change(self, stage: str, value: Any, *, before: tuple[Any, ...] = ()) -> Any:
        """Hand a value from one operation to the next; return what the last one returned.

        Args:
            stage: Where.
            value: What is handed on.
            before: What each operation is handed ahead of it.

        Raises:
            TypeError: if an operation returns nothing.
        """
        for op in self._ops[stage]:
            changed = op(*before, value)
            if changed is None:
                hint = "Return what you were handed, changed or not."
                raise TypeError(
                    describe("Trainer", f"{owner(op)} of {stage!r} returned nothing", hint=hint)
                )
            value = changed
        return value

    def log(self, stage: str, batch: Any) -> Iterator[dict[str, Any]]:
        """Yield the numbers by name of each operation that has some, one after the other.

        Raises:
            TypeError: if an operation returns something else.
        """
        for op in self._ops[stage]:
            values = op(batch)
            if values is None:
                continue
            if not isinstance(values, Mapping):
                what = f"{owner(op)} of {stage!r} must return numbers by name, or nothing"
                raise TypeError(describe("Trainer", what, found=type(values).__name__))
            yield dict(values)


def owner(op: Op) -> str:
    """Return the name of what runs: a class or a function."""
    while isinstance(op, partial):
        op = op.func
    target = getattr(op, "__self__", op)
    return getattr(target, "__name__", type(target).__name__)
