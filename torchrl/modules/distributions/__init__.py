"""Distributions of actions, and the modules that make their parameters."""

from tensordict.nn import biased_softplus, inv_softplus, mappings
from tensordict.nn.distributions import AddStateIndependentNormalScale, NormalParamExtractor
from torch.distributions import Categorical

from torchrl._core.legacy import old_names
from torchrl.modules.distributions.continuous import Delta, IndependentNormal, TanhDelta, TanhNormal, TruncatedNormal
from torchrl.modules.distributions.discrete import (
    MaskedCategorical,
    MaskedOneHotCategorical,
    OneHotCategorical,
    OneHotOrdinal,
    Ordinal,
    ReparamGradientStrategy,
)
from torchrl.modules.distributions.factorized import (
    FactorizedCategorical,
    FactorizedOneHotCategorical,
    IndependentBernoulli,
)
from torchrl.modules.distributions.utils import (
    NormalParamWrapper,
    composite_entropy,
    has_analytic_entropy,
    has_analytic_kl,
    rsample_and_log_prob,
    sample_and_log_prob,
)

#: Distributions by their names in lower case.
distributions_maps = {
    cls.__name__.lower(): cls
    for cls in (
        Categorical,
        Delta,
        FactorizedCategorical,
        FactorizedOneHotCategorical,
        IndependentBernoulli,
        IndependentNormal,
        MaskedCategorical,
        MaskedOneHotCategorical,
        OneHotCategorical,
        OneHotOrdinal,
        Ordinal,
        TanhDelta,
        TanhNormal,
        TruncatedNormal,
    )
}

__all__ = [
    "AddStateIndependentNormalScale",
    "Delta",
    "FactorizedCategorical",
    "FactorizedOneHotCategorical",
    "IndependentBernoulli",
    "IndependentNormal",
    "MaskedCategorical",
    "MaskedOneHotCategorical",
    "NormalParamExtractor",
    "NormalParamWrapper",
    "OneHotCategorical",
    "OneHotOrdinal",
    "Ordinal",
    "ReparamGradientStrategy",
    "TanhDelta",
    "TanhNormal",
    "TruncatedNormal",
    "biased_softplus",
    "composite_entropy",
    "distributions_maps",
    "has_analytic_entropy",
    "has_analytic_kl",
    "inv_softplus",
    "mappings",
    "rsample_and_log_prob",
    "sample_and_log_prob",
]

__getattr__ = old_names(__name__, {"NormalParamsWrapper": "NormalParamWrapper"})
