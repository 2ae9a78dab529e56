"""`TrainerHookBase`: the base class of hooks of the training loop."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from torchrl.trainers.trainer import Trainer


class TrainerHookBase(ABC):
    """An operation of the training loop, whose state is saved with the trainer.

    A hook names its stage, and the attributes that are its state; attributes with a ``state_dict``,
    such as optimizers, are saved by it.

    Hooks:
        __call__: the operation; its arguments and return value depend on the stage, see
            :meth:`~torchrl.trainers.Trainer.register_op`.
        register: may be overridden to register at several stages.

    >>> from torchrl.trainers import Trainer
    >>> class CountBatches(TrainerHookBase):
    ...     stage, name, saved = "post_steps", "count_batches", ("count",)
    ...
    ...     def __init__(self):
    ...         self.count = 0
    ...
    ...     def __call__(self):
    ...         self.count += 1
    >>> hook = CountBatches()
    >>> hook()
    >>> hook.state_dict()
    {'count': 1}
    """

    stage: ClassVar[str]
    name: ClassVar[str]
    saved: ClassVar[tuple[str, ...]] = ()
    ends_epochs: bool = False  # by raising StopIteration at "process_optim_batch"

    @abstractmethod
    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...

    def register(self, trainer: Trainer, name: str | None = None) -> None:
        """Register with a trainer.

        Args:
            trainer: The trainer.
            name: Name of its state in a save; ``self.name`` if ``None``, with a number if that is
                taken.
        """
        trainer.register_op(self.stage, self)
        self._save_with(trainer, name)

    def _save_with(self, trainer: Trainer, name: str | None) -> None:
        trainer.register_module(name or trainer.free_name(self.name), self)

    def state_dict(self) -> dict[str, object]:
        """Return the state: the attributes of ``saved`` by name."""
        state: dict[str, object] = {}
        for name in self.saved:
            value = getattr(self, name)
            state[name] = value.state_dict() if hasattr(value, "state_dict") else value
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what :meth:`state_dict` returned."""
        for name in self.saved:
            value = getattr(self, name)
            if hasattr(value, "load_state_dict"):
                value.load_state_dict(state_dict[name])
            else:
                setattr(self, name, state_dict[name])
