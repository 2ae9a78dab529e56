"""What losses with a temporal-difference critic share: entries, targets, errors, priorities."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor

from torchrl._core.errors import describe
from torchrl._core.keys import next_key, read, read_next, write
from torchrl._core.legacy import old_keywords
from torchrl._core.mdp import step_mdp
from torchrl._core.records.policies import take
from torchrl._core.recurrence import branch_mode, branches
from torchrl._core.returns import td0_return_estimate
from torchrl.data import TensorSpec
from torchrl.objectives.common import LossModule, distance_loss, known_distance
from torchrl.objectives.networks import frozen
from torchrl.objectives.value.estimators import TD0Estimator
from torchrl.objectives.value.registry import ValueEstimators
from torchrl.objectives.value.sequences import takes_branches


@dataclass
class CriticKeys:
    """Names of the entries of a loss with a temporal-difference critic."""

    action: NestedKey = read("action")
    reward: NestedKey = read_next("reward")
    done: NestedKey = read_next("done")
    terminated: NestedKey = read_next("terminated")
    priority: NestedKey = write("td_error")
    priority_weight: NestedKey = write("priority_weight")
    steps_to_next_obs: NestedKey = write("steps_to_next_obs")


class CriticLoss(LossModule):
    """Base of the losses that regress a critic on what it says one step later.

    Args:
        loss_function: Distance of the critic from its target: ``"l1"``, ``"l2"``, ``"smooth_l1"``.
        gamma: Discount factor of the default value estimator.
        priority_key: Old way to name the priority, like ``set_keys(priority=...)``.
        separate_losses: Keep the errors of critics out of what they share with an actor.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        use_prioritized_weights: See :class:`~torchrl.objectives.LossModule`.
        scalar_output_mode: See there.
    """

    _AcceptedKeys: Any = CriticKeys
    default_value_estimator = ValueEstimators.TD0
    value_estimators: ClassVar[tuple[ValueEstimators, ...]] = (
        ValueEstimators.TD0,
        ValueEstimators.TD1,
        ValueEstimators.TDLambda,
    )

    @old_keywords(deactivate_vmap=None)  # networks are called as they are
    def __init__(
        self,
        *,
        loss_function: str = "smooth_l1",
        gamma: float | None = None,
        priority_key: NestedKey | None = None,
        separate_losses: bool = False,
        reduction: str | None = None,
        use_prioritized_weights: str | bool = "auto",
        scalar_output_mode: str | None = None,
    ) -> None:
        super().__init__(
            reduction=reduction, use_prioritized_weights=use_prioritized_weights, scalar_output_mode=scalar_output_mode
        )
        self.loss_function = known_distance(self, loss_function)
        self.separate_losses = separate_losses
        if gamma is not None:
            self._value_kwargs["gamma"] = gamma
        if priority_key is not None:
            self.set_keys(priority=priority_key)

    def _term(
        self,
        tensordict: TensorDictBase,
        losses: Callable[[TensorDictBase], dict[str, Tensor]],
        name: str,
        has_priority: bool = False,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return one loss of a batch, as a call of the loss has it, and what is reported beside it.

        Args:
            tensordict: A batch ``[*B]`` with the entries ``in_keys``.
            losses: Computes a part of what :meth:`losses` does.
            name: The loss that is returned.
            has_priority: Whether ``losses`` writes the priority, which is reported as ``td_error``.
        """
        key = self.tensor_keys.priority
        terms, mask = self._evaluate(tensordict if has_priority else tensordict.exclude(key), losses)
        report = {key: value.detach() for key, value in terms.items() if not key.startswith("loss")}
        if has_priority:
            report.setdefault("td_error", tensordict.get(key))
        if mask is not None:
            report["mask"] = mask
        return self._reduce(terms[name], mask), report

    def _remembers(self, td: TensorDictBase) -> bool:
        """Return whether what a network makes of a row now follows from the rows before it."""
        return self._may_remember and self.value_estimator.remembers(self, td)

    def _at_next(self, td: TensorDictBase, value: Callable[[TensorDictBase], Tensor]) -> Tensor:
        """Return what ``value`` makes of the next steps, given all that came before each.

        Args:
            td: The batch ``[*B]``; trajectories ``[*B, T]`` for networks with a memory.
            value: ``rows [*B] -> values [*B, ...]``. Networks with a memory see the steps of the
                data first: actions that they judge must pass :meth:`_beside_taken`.
        """
        if not self._remembers(td):
            return value(td.get("next"))
        if takes_branches(self):
            return self._departing(td, td.get("next"), value, "after")
        keys = [key for key in self.in_keys if next_key(key) in self.in_keys]
        return self.value_estimator.in_turn(td, keys, value)[1]

    def _departing(
        self, td: TensorDictBase, others: TensorDictBase, value: Callable[[TensorDictBase], Tensor], where: str
    ) -> Tensor:
        """Return what ``value`` makes of other steps, each in the place of one of the data.

        Args:
            td: Trajectories ``[*B, T]``.
            others: ``[*B, T]``; what they lack and networks do not read of them is filled.
            value: ``rows [*B, 2 T] -> values [*B, 2 T, ...]``; the steps of the data come first.
            where: See :class:`~torchrl._core.recurrence.branches`.
        """
        with branches(where):
            values = value(self._beside(td, others))
        return values.narrow(td.ndim - 1, td.shape[-1], td.shape[-1])

    def _beside(self, td: TensorDictBase, others: TensorDictBase) -> TensorDictBase:
        """Return what networks read of trajectories and of other steps, ``[*B, 2 T]``."""
        keys = [key for key in self.in_keys if isinstance(key, str) or key[0] != "next"]
        line, others = td.select(*keys, strict=False), others.select(*keys, strict=False)
        for key in keys:  # actions, which are drawn; states, which are remembered
            if others.get(key, None) is None and td.get(key, None) is not None:
                others.set(key, td.get(key))
        rows: Any = torch.cat([line, others], td.ndim - 1)
        return rows

    def _beside_taken(self, rows: TensorDictBase, actions: Mapping[NestedKey, Tensor]) -> dict[NestedKey, Tensor]:
        """Return the actions that networks are to judge, after those that were taken, if any.

        Args:
            rows: ``[*B]``, or ``[*B, 2 T]`` that start with the steps of the data.
            actions: Of each row.
        """
        if not self._may_remember or branch_mode() is None:
            return dict(actions)
        time, steps = rows.ndim - 1, rows.shape[-1] // 2
        return {
            key: torch.cat([rows.get(key).narrow(time, 0, steps), action.narrow(time, steps, steps)], time)
            for key, action in actions.items()
        }

    def _judged(self, critics: Any, td: TensorDictBase, key: NestedKey, actions: Mapping[NestedKey, Tensor]) -> Tensor:
        """Return what critics say of other actions ``[*B, F]``, of an ensemble ``[N, *B, F]``.

        What they remember are the actions that were taken.
        """
        if not (self._remembers(td) and takes_branches(critics)):
            return take(critics, td, key, actions)
        others, is_ensemble = td.copy(), isinstance(critics, torch.nn.ModuleList)
        for name, action in actions.items():
            others.set(name, action)

        def value(rows: TensorDictBase) -> Tensor:
            values = take(critics, rows, key)
            return values.movedim(0, -1) if is_ensemble else values

        values = self._departing(td, others, value, "before")
        return values.movedim(-1, 0) if is_ensemble else values

    def _bootstrap(self, td: TensorDictBase, next_value: Tensor) -> Tensor:
        """Return the target ``[*B]`` of a critic, given values ``[*B, 1]`` of the next steps."""
        return self.value_estimator.value_estimate(td, next_value=next_value).squeeze(-1)

    def _bootstrap_each(self, td: TensorDictBase, next_values: Tensor) -> Tensor:
        """Return one-step targets ``[*B, Z]`` of several values ``[*B, Z]`` of the next steps."""
        steps = self.value_estimator.steps(td, None, next_values)
        reward, terminated = (x.expand_as(next_values) for x in (steps.reward, steps.terminated))
        return td0_return_estimate(steps.gamma, next_values, reward, terminated)

    def _errors(self, predicted: Tensor, target: Tensor) -> Tensor:
        """Return the distances of ``predicted [..., *B]`` from ``target [*B]``."""
        return distance_loss(predicted, target.expand_as(predicted), self.loss_function)

    def _prioritise(self, td: TensorDictBase, error: Tensor) -> None:
        """Write how much each sample was off, as its priority."""
        td.set(self.tensor_keys.priority, error.detach())

    @contextmanager
    def _apart(self, critic: Any) -> Iterator[None]:
        """Spare what the critic shares with the actor, if losses are to be separate."""
        if not self.separate_losses:
            yield
            return
        with frozen(critic, only={id(p) for p in self.actor_network.parameters()}):
            yield


@torch.no_grad()
def next_state_value(
    tensordict: TensorDictBase,
    operator: Any = None,
    next_val_key: NestedKey = "state_action_value",
    gamma: float = 0.99,
    pred_next_val: Tensor | None = None,
    **kwargs: Any,
) -> Tensor:
    """One-step target ``r + gamma^n (1 - terminated) V'``, ``[*B]``, without gradient.

    Args:
        tensordict: Transitions ``[*B]`` with reward and ends under ``next``; ``n`` is the entry
            ``steps_to_next_obs``, or 1.
        operator: Called on the next step, writes ``next_val_key [*B, 1]``.
        next_val_key: Where the value is.
        gamma: Discount factor.
        pred_next_val: The values themselves, ``[*B, 1]``, instead of ``operator``.
        kwargs: Further arguments of ``operator``, such as ``params``.

    Raises:
        TypeError: unless exactly one of ``operator`` and ``pred_next_val`` is given.

    >>> from tensordict import TensorDict
    >>> after = TensorDict(reward=torch.ones(1, 1), done=torch.zeros(1, 1).bool(), batch_size=[1])
    >>> td = TensorDict(next=after, batch_size=[1])
    >>> next_state_value(td, gamma=0.5, pred_next_val=torch.full((1, 1), 4.0))
    tensor([3.])
    """
    if (operator is None) == (pred_next_val is None):
        raise TypeError(
            describe(
                "next_state_value",
                "needs the next values once",
                expected="operator or pred_next_val",
                found="neither" if operator is None else "both",
            )
        )
    if pred_next_val is None:
        pred_next_val = operator(step_mdp(tensordict), **kwargs).get(next_val_key)
    estimator = TD0Estimator(gamma=gamma, value_network=None)
    return estimator.value_estimate(tensordict, next_value=pred_next_val).squeeze(-1)


class ActionRangeError(TypeError, ValueError):
    """The range of actions is not given, or given twice."""


def action_bounds(
    loss: object, action_spec: TensorSpec | None, bounds: Sequence | None, key: NestedKey
) -> tuple[Tensor, Tensor]:
    """Return the lowest and the highest action, from a spec or a pair.

    Raises:
        ActionRangeError: unless exactly one of them is given; a TypeError and a ValueError.
    """
    if (action_spec is None) == (bounds is None):
        raise ActionRangeError(
            describe(
                loss,
                "needs to know the range of the actions once",
                expected="action_spec or bounds",
                found="both" if bounds is not None else "neither",
            )
        )
    if bounds is not None:
        low, high = (torch.as_tensor(bound, dtype=torch.float32) for bound in bounds)
        return low, high
    leaf = spec_leaf(action_spec, key)
    return leaf.space.low, leaf.space.high


def spec_leaf(spec: Any, key: NestedKey) -> Any:
    """Return the spec of one entry; a spec that is no composite is that of the entry."""
    if not hasattr(spec, "keys"):
        return spec
    keys = list(spec.keys(True, True))
    return spec[key if key in keys or len(keys) != 1 else keys[0]]
