"""Which value estimator: by name, with its defaults."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from torchrl._core.errors import describe, nearest
from torchrl.objectives.value.estimators import (
    GAE,
    MultiAgentGAE,
    TD0Estimator,
    TD1Estimator,
    TDLambdaEstimator,
    ValueEstimatorBase,
)
from torchrl.objectives.value.vtrace import VTrace


class ValueEstimators(Enum):
    """The estimators that a loss can build, by their names.

    >>> ValueEstimators("gae")
    <ValueEstimators.GAE: 'gae'>
    """

    TD0 = "td0"
    TD1 = "td1"
    TDLambda = "td_lambda"
    GAE = "gae"
    MAGAE = "magae"
    VTrace = "vtrace"

    @classmethod
    def _missing_(cls, value: object) -> ValueEstimators:
        plain = {"".join(c for c in m.value if c.isalnum()): m for m in cls}
        name = "".join(c for c in str(value).lower() if c.isalnum())
        if name in plain:
            return plain[name]
        names = [member.value for member in cls]
        raise ValueError(
            describe(
                "ValueEstimators",
                "has no such estimator",
                expected=f"one of {names}",
                found=repr(value),
                hint=nearest(value, names),
            )
        )


class UnsupportedEstimatorError(NotImplementedError, ValueError):
    """A loss cannot use the value estimator that was chosen."""


@dataclass(frozen=True)
class ValueEstimatorEntry:
    """An estimator that losses can build by name."""

    cls: type[ValueEstimatorBase]
    default_kwargs: dict[str, Any]


_GAMMA = {"gamma": 0.99, "differentiable": True}
_GAMMA_LMBDA = {**_GAMMA, "lmbda": 0.95}
_REGISTRY: dict[ValueEstimators | str, ValueEstimatorEntry] = {
    ValueEstimators.TD0: ValueEstimatorEntry(TD0Estimator, _GAMMA),
    ValueEstimators.TD1: ValueEstimatorEntry(TD1Estimator, _GAMMA),
    ValueEstimators.TDLambda: ValueEstimatorEntry(TDLambdaEstimator, _GAMMA_LMBDA),
    ValueEstimators.GAE: ValueEstimatorEntry(GAE, _GAMMA_LMBDA),
    ValueEstimators.MAGAE: ValueEstimatorEntry(MultiAgentGAE, _GAMMA_LMBDA),
    ValueEstimators.VTrace: ValueEstimatorEntry(VTrace, _GAMMA),
}
Kind = type[ValueEstimatorBase]


def register_value_estimator(
    value_type: ValueEstimators | str, *, default_kwargs: Mapping[str, Any] | None = None
) -> Callable[[Kind], Kind]:
    """Let losses build a class of estimators by a name.

    Args:
        value_type: A new name, or a member of :class:`ValueEstimators`, whose class is replaced.
        default_kwargs: Arguments with which a loss builds it unless told otherwise; by default
            ``gamma=0.99, differentiable=True``.

    >>> @register_value_estimator("td_half")
    ... class HalfEstimator(TDLambdaEstimator):
    ...     def __init__(self, **options):
    ...         super().__init__(lmbda=0.5, **options)
    >>> get_value_estimator_entry("td_half").cls is HalfEstimator
    True
    """

    def register(cls: Kind) -> Kind:
        _REGISTRY[value_type] = ValueEstimatorEntry(cls, dict(default_kwargs or _GAMMA))
        return cls

    return register


def get_value_estimator_entry(value_type: ValueEstimators | str) -> ValueEstimatorEntry:
    """Return the class and the default arguments of an estimator.

    Args:
        value_type: Name of the estimator.

    Raises:
        ValueError: if there is none of that name.

    >>> entry = get_value_estimator_entry("gae")
    >>> entry.cls.__name__, entry.default_kwargs
    ('GAE', {'gamma': 0.99, 'differentiable': True, 'lmbda': 0.95})
    """
    return _REGISTRY[_name(value_type)]


def default_value_kwargs(value_type: ValueEstimators | str) -> dict[str, Any]:
    """Return the arguments with which a loss builds an estimator unless told otherwise.

    Args:
        value_type: Name of the estimator.

    >>> default_value_kwargs(ValueEstimators.TDLambda)
    {'gamma': 0.99, 'differentiable': True, 'lmbda': 0.95}
    """
    return dict(get_value_estimator_entry(value_type).default_kwargs)


def build_value_estimator(
    loss_module: Any, value_type: ValueEstimators | str | Kind, **hyperparams: Any
) -> ValueEstimatorBase:
    """Build an estimator on the networks of a loss.

    Args:
        loss_module: Gives its critic and, for V-trace, its policy, and the discounts that it was
            built with.
        value_type: Name or class of the estimator.
        hyperparams: Arguments that win over those of the loss and the defaults.

    >>> from tensordict.nn import TensorDictModule
    >>> from torchrl.modules import MLP, make_actor
    >>> from torchrl.objectives import A2CLoss
    >>> from torchrl.envs import GymEnv
    >>> critic = TensorDictModule(MLP(3, 1), ["observation"], ["state_value"])
    >>> loss = A2CLoss(make_actor(GymEnv("Pendulum-v1"), num_cells=(16,)), critic, gamma=0.9)
    >>> estimator = build_value_estimator(loss, "gae", lmbda=0.8)
    >>> estimator.gamma, estimator.lmbda
    (0.9, 0.8)
    """
    networks, given = loss_module.value_networks(), loss_module._value_kwargs
    classes = {entry.cls: name for name, entry in _REGISTRY.items()}
    if isinstance(value_type, type) and value_type not in classes:
        return value_type(**{"value_network": networks["value_network"], **given, **hyperparams})
    name: Any = classes[value_type] if isinstance(value_type, type) else value_type
    entry = get_value_estimator_entry(name)
    if not issubclass(entry.cls, VTrace):
        networks.pop("actor_network", None)
    given = {name: value for name, value in given.items() if name in entry.default_kwargs}
    return entry.cls(**{**entry.default_kwargs, **given, **networks, **hyperparams})


def dispatch_value_estimator(
    loss_module: Any,
    value_type: ValueEstimators | str | Kind | ValueEstimatorBase | None,
    *,
    supported: Collection[ValueEstimators],
    tensor_keys: Mapping[str, Any] | None = None,
    **hyperparams: Any,
) -> Any:
    """Give a loss its value estimator: what ``make_value_estimator`` of a loss does.

    Args:
        loss_module: Gets the estimator, and is returned.
        value_type: Name, class or a built estimator; by default what suits the loss.
        supported: Which of the named ones the loss can use; those of users are trusted.
        tensor_keys: Names of entries that the estimator takes over; by default those of the loss.
        hyperparams: Arguments of the estimator.

    Raises:
        UnsupportedEstimatorError: if the loss cannot use such an estimator; a NotImplementedError
            and a ValueError.

    >>> from tensordict.nn import TensorDictModule
    >>> from torchrl.objectives import DQNLoss
    >>> net = TensorDictModule(lambda obs: obs, ["observation"], ["action_value"])
    >>> loss = DQNLoss(net, action_space="categorical")
    >>> dispatch_value_estimator(loss, "td_lambda", supported=list(ValueEstimators), lmbda=0.5) is loss
    True
    >>> type(loss.value_estimator).__name__
    'TDLambdaEstimator'
    """
    if value_type is None:
        value_type = loss_module.default_value_estimator
    if isinstance(value_type, ValueEstimatorBase):
        estimator = value_type
    else:
        name = value_type if isinstance(value_type, type | None) else _name(value_type)
        if name is None or (isinstance(name, ValueEstimators) and name not in supported):
            raise UnsupportedEstimatorError(
                describe(
                    loss_module,
                    "cannot use this value estimator",
                    expected=f"one of {[member.value for member in supported]}",
                    found=value_type,
                )
            )
        estimator = build_value_estimator(loss_module, name, **hyperparams)
    names = loss_module._shared_keys() if tensor_keys is None else tensor_keys
    estimator.set_keys(**names)
    # not a submodule: it shares the networks of the loss
    loss_module.__dict__["_value_estimator"] = estimator
    return loss_module


def _name(value_type: ValueEstimators | str) -> ValueEstimators | str:
    return value_type if value_type in _REGISTRY else ValueEstimators(value_type)
