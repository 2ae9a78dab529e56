"""`TrainerHookBase`: one thing that happens at one point of the training loop."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from torchrl.trainers.trainer import Trainer


class TrainerHookBase(ABC):
    """What runs at a stage of the training loop, and is saved with it.

    A hook names its stage and the attributes that make its state; those that have a state of their
    own, such as optimizers, are saved through it.

    Hooks:
        __call__: what happens; the stage says what it is handed and returns, see
            :class:`~torchrl.trainers.Trainer`.
        register: may be overridden where one thing belongs to several stages.

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
        """Join a trainer.

        Args:
            trainer: Runs this hook from now on.
            name: Under which its state is saved; that of its kind, with a number if there are
                several, when ``None``.
        """
        trainer.register_op(self.stage, self)
        self._save_with(trainer, name)

    def _save_with(self, trainer: Trainer, name: str | None) -> None:
        if self.saved:
            trainer.register_module(name or trainer.free_name(self.name), self)

    def state_dict(self) -> dict[str, Any]:
        """Return what must be saved."""
        state = {}
        for name in self.saved:
            value = getattr(self, name)
            state[name] = value.state_dict() if hasattr(value, "state_dict") else value
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what :meth:`state_dict` returned."""
        for name in self.saved:
            value = getattr(self, name)
            if hasattr(value, "load_state_dict"):
                value.load_state_dict(state_dict[name])
            else:
                setattr(self, name, state_dict[name])
