"""Annealing: parameters of a sampler or buffer that change as training goes on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from torchrl._core.errors import describe
from torchrl.data.replay_buffers.data_types import State


class ParameterScheduler(ABC):
    """Sets an attribute at each :meth:`step`.

    Args:
        obj: A sampler or a replay buffer; of a buffer, the attribute may be its sampler's.
        param_name: Name of the attribute.
        min_value: The attribute never falls below.
        max_value: The attribute never rises above.

    Hooks:
        _value: ``step -> value``, called with 1, 2, ...

    Raises:
        AttributeError: if there is no such attribute.

    >>> from torchrl.data import PrioritizedSampler
    >>> class Halve(ParameterScheduler):
    ...     def _value(self, step):
    ...         return 0.5**step
    >>> sampler = PrioritizedSampler(10, alpha=0.6, beta=1.0)
    >>> Halve(sampler, "beta").step()
    >>> sampler.beta
    0.5
    """

    def __init__(
        self, obj: object, param_name: str, min_value: float | None = None, max_value: float | None = None
    ) -> None:
        if not hasattr(obj, param_name):
            sampler = getattr(obj, "sampler", None)
            if not hasattr(sampler, param_name):
                raise AttributeError(describe(self, f"{type(obj).__name__} has no attribute {param_name!r}"))
            obj = sampler
        self.obj, self.param_name = obj, param_name
        self.min_value, self.max_value = min_value, max_value
        self.initial_value = float(getattr(obj, param_name))
        self._steps = 0

    @abstractmethod
    def _value(self, step: int) -> float: ...

    def step(self) -> None:
        """Set the next value."""
        self._steps += 1
        value = self._value(self._steps)
        if self.min_value is not None:
            value = max(value, self.min_value)
        if self.max_value is not None:
            value = min(value, self.max_value)
        setattr(self.obj, self.param_name, value)

    def state_dict(self) -> State:
        """Return where the schedule stands."""
        return {"steps": self._steps, "initial_value": self.initial_value}

    def load_state_dict(self, state_dict: State) -> None:
        """Go on where the schedule stood whose :meth:`state_dict` this is."""
        self._steps, self.initial_value = state_dict["steps"], state_dict["initial_value"]


class LinearScheduler(ParameterScheduler):
    """Moves an attribute in equal steps from its value to another, and leaves it there.

    Args:
        obj: A sampler or a replay buffer.
        param_name: Name of the attribute.
        final_value: Where it goes.
        num_steps: In how many steps.

    >>> from torchrl.data import PrioritizedSampler
    >>> sampler = PrioritizedSampler(10, alpha=0.6, beta=0.4)
    >>> scheduler = LinearScheduler(sampler, "beta", 1.0, num_steps=2)
    >>> for _ in range(3):
    ...     scheduler.step()
    ...     print(sampler.beta)
    0.7
    1.0
    1.0
    """

    def __init__(self, obj: object, param_name: str, final_value: float, num_steps: int) -> None:
        super().__init__(obj, param_name)
        if num_steps < 1:
            raise ValueError(describe(self, "num_steps must be at least 1", found=num_steps))
        self.final_value, self.num_steps = final_value, num_steps

    def _value(self, step: int) -> float:
        part = min(step / self.num_steps, 1.0)
        return (1 - part) * self.initial_value + part * self.final_value


class StepScheduler(ParameterScheduler):
    """Multiplies an attribute by a factor, or adds to it, every few steps.

    Args:
        obj: A sampler or a replay buffer.
        param_name: Name of the attribute.
        gamma: Factor, or summand.
        n_steps: Every how many steps.
        mode: ``"multiplicative"`` or ``"additive"``.
        min_value: The attribute never falls below.
        max_value: The attribute never rises above.

    >>> from torchrl.data import PrioritizedSampler
    >>> sampler = PrioritizedSampler(10, alpha=0.8, beta=0.4)
    >>> scheduler = StepScheduler(sampler, "alpha", gamma=0.5, n_steps=2)
    >>> for _ in range(4):
    ...     scheduler.step()
    ...     print(sampler.alpha)
    0.8
    0.4
    0.4
    0.2
    """

    def __init__(
        self,
        obj: object,
        param_name: str,
        gamma: float = 0.9,
        n_steps: int = 1,
        mode: str = "multiplicative",
        min_value: float | None = None,
        max_value: float | None = None,
    ) -> None:
        super().__init__(obj, param_name, min_value, max_value)
        if mode not in ("multiplicative", "additive") or n_steps < 1:
            raise ValueError(
                describe(
                    self,
                    "an argument is out of range",
                    expected="mode 'multiplicative' or 'additive', n_steps >= 1",
                    found=(mode, n_steps),
                )
            )
        self.gamma, self.n_steps, self.mode = gamma, n_steps, mode

    def _value(self, step: int) -> float:
        times = step // self.n_steps
        if self.mode == "additive":
            return self.initial_value + self.gamma * times
        return self.initial_value * self.gamma**times


class LambdaScheduler(ParameterScheduler):
    """Sets an attribute to a function of the step.

    Args:
        obj: A sampler or a replay buffer.
        param_name: Name of the attribute.
        lambda_fn: ``step -> value``, called with 1, 2, ...
        min_value: The attribute never falls below.
        max_value: The attribute never rises above.

    >>> from torchrl.data import PrioritizedSampler
    >>> sampler = PrioritizedSampler(10, alpha=0.6, beta=0.4)
    >>> scheduler = LambdaScheduler(sampler, "beta", lambda step: 0.4 + 0.25 * step, max_value=1.0)
    >>> for _ in range(3):
    ...     scheduler.step()
    ...     print(sampler.beta)
    0.65
    0.9
    1.0
    """

    def __init__(
        self,
        obj: object,
        param_name: str,
        lambda_fn: Callable[[int], float],
        min_value: float | None = None,
        max_value: float | None = None,
    ) -> None:
        super().__init__(obj, param_name, min_value, max_value)
        self.lambda_fn = lambda_fn

    def _value(self, step: int) -> float:
        return self.lambda_fn(step)


class SchedulerList:
    """Several schedulers that step together.

    Args:
        schedulers: The schedulers.

    >>> from torchrl.data import PrioritizedSampler
    >>> sampler = PrioritizedSampler(10, alpha=0.8, beta=0.4)
    >>> rise = LinearScheduler(sampler, "beta", final_value=1.0, num_steps=2)
    >>> scheduler = SchedulerList([rise, StepScheduler(sampler, "alpha", gamma=0.5)])
    >>> scheduler.step()
    >>> round(sampler.beta, 2), sampler.alpha
    (0.7, 0.4)
    """

    def __init__(self, schedulers: Sequence[ParameterScheduler]) -> None:
        self.schedulers = list(schedulers)

    def append(self, scheduler: ParameterScheduler) -> None:
        """Add one more."""
        self.schedulers.append(scheduler)

    def step(self) -> None:
        """Set the next value of each."""
        for scheduler in self.schedulers:
            scheduler.step()

    def state_dict(self) -> list[State]:
        """Return where each schedule stands."""
        return [scheduler.state_dict() for scheduler in self.schedulers]

    def load_state_dict(self, state_dict: Sequence[State]) -> None:
        """Go on where the schedules stood whose :meth:`state_dict` this is."""
        for scheduler, state in zip(self.schedulers, state_dict, strict=True):
            scheduler.load_state_dict(state)
