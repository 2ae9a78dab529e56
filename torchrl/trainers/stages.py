"""The stages of the training loop at which hooks run, and how each kind of stage runs them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from torchrl._core.errors import describe, nearest

Op = Callable[..., Any]

ACTS, CHANGES, LOGS = "acts", "changes", "logs"

# In the order of the loop. ACTS: called without arguments. CHANGES: gets a value and returns it,
# changed or not. LOGS: gets a batch and returns metrics by name, or None.
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
    """The registered operations of each stage, in the order of their registration.

    >>> stages = Stages()
    >>> stages.add("batch_process", lambda batch: batch + 1)
    >>> stages.change("batch_process", 1)
    2
    """

    def __init__(self) -> None:
        self._ops: dict[str, list[Op]] = {stage: [] for stage in STAGES}

    def __getitem__(self, stage: str) -> list[Op]:
        return self._ops[stage]

    def add(self, stage: str, op: Op, **kwargs: object) -> None:
        """Add an operation, with keyword arguments for each call.

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
                describe("Trainer", f"what is registered at {stage!r} must be callable", found=type(op).__name__)
            )
        self._ops[stage].append(partial(op, **kwargs) if kwargs else op)

    def act(self, stage: str) -> None:
        """Call the operations of a stage without arguments."""
        for op in self._ops[stage]:
            op()

    def change(self, stage: str, value: object, *, before: tuple[object, ...] = ()) -> Any:
        """Pass a value through the operations of a stage; return the result of the last one.

        Args:
            stage: The stage.
            value: The argument of the first operation.
            before: Arguments before it, the same for each operation.

        Raises:
            TypeError: if an operation returns nothing.
        """
        for op in self._ops[stage]:
            changed = op(*before, value)
            if changed is None:
                hint = "Return the argument, changed or not."
                raise TypeError(describe("Trainer", f"{owner(op)} of {stage!r} returned nothing", hint=hint))
            value = changed
        return value

    def log(self, stage: str, batch: object) -> Iterator[dict[str, Any]]:
        """Yield the metrics by name of each operation that returns some.

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
    """Return the name of the class or function of an operation."""
    while isinstance(op, partial):
        op = op.func
    target = getattr(op, "__self__", op)
    return getattr(target, "__name__", type(target).__name__)
