"""Which value estimator: by name, with its defaults."""

from __future__ import annotations

from enum import Enum
from typing import Any

from torchrl._core.errors import describe, nearest
from torchrl.objectives.value.base import ValueEstimatorBase
from torchrl.objectives.value.gae import GAE, MultiAgentGAE
from torchrl.objectives.value.td import TD0Estimator, TD1Estimator, TDLambdaEstimator
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
                mend=nearest(value, names),
            )
        )


CLASSES: dict[ValueEstimators, type[ValueEstimatorBase]] = {
    ValueEstimators.TD0: TD0Estimator,
    ValueEstimators.TD1: TD1Estimator,
    ValueEstimators.TDLambda: TDLambdaEstimator,
    ValueEstimators.GAE: GAE,
    ValueEstimators.MAGAE: MultiAgentGAE,
    ValueEstimators.VTrace: VTrace,
}
_WITH_LMBDA = {ValueEstimators.TDLambda, ValueEstimators.GAE, ValueEstimators.MAGAE}


def default_value_kwargs(value_type: ValueEstimators | str) -> dict[str, Any]:
    """Return the arguments with which a loss builds an estimator unless told otherwise.

    >>> default_value_kwargs(ValueEstimators.TDLambda)
    {'gamma': 0.99, 'differentiable': True, 'lmbda': 0.95}
    """
    kwargs: dict[str, Any] = {"gamma": 0.99, "differentiable": True}
    if ValueEstimators(value_type) in _WITH_LMBDA:
        kwargs["lmbda"] = 0.95
    return kwargs
