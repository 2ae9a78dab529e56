"""Distributions over choices, as an index or one-hot, some of them forbidden.

``*B`` batch dimensions, ``N`` choices.
"""

from __future__ import annotations

import math
from enum import Enum
from typing import Any

import torch
from torch import Size, Tensor
from torch import distributions as d
from torch.distributions.utils import lazy_property
from torch.nn.functional import cross_entropy, logsigmoid

from torchrl._core.errors import describe
from torchrl._core.records.ended_rows import without_choice
from torchrl.modules.distributions.continuous import Shape


class ReparamGradientStrategy(Enum):
    """Where the gradient of a one-hot ``rsample`` comes from.

    ``PassThrough``: of the probabilities (straight-through). ``RelaxedOneHot``: of a Gumbel-softmax
    sample with temperature 1.

    Source: Bengio et al., 2013, https://arxiv.org/abs/1308.3432; Jang et al., 2016,
    https://arxiv.org/abs/1611.01144.

    >>> logits = torch.zeros(3, requires_grad=True)
    >>> dist = OneHotCategorical(logits=logits, grad_method=ReparamGradientStrategy.RelaxedOneHot)
    >>> dist.rsample().requires_grad
    True
    """

    PassThrough = "pass_through"
    RelaxedOneHot = "relaxed_one_hot"


def one_hot(index: Tensor, num_choices: int, dtype: torch.dtype = torch.int64) -> Tensor:
    """Return ``index [*B, 1]`` as one-hot vectors ``[*B, N]``; the range is not checked."""
    zeros = index.new_zeros((*index.shape[:-1], num_choices), dtype=dtype)
    return zeros.scatter(-1, index, 1)  # not in place, so that it vectorises


def probs_to_logits(probs: Tensor) -> Tensor:
    """Return logarithms whose gradient is finite where a probability is zero."""
    return probs.clamp_min(torch.finfo(probs.dtype).tiny).log()


def index_of(value: Tensor) -> Tensor:
    """Return the choice ``[*B, 1]`` of one-hot vectors ``[*B, N]``."""
    if value.dtype is torch.bool:
        value = value.byte()
    return value.argmax(-1, keepdim=True)


class OneHotCategorical(d.Categorical):
    """A choice among ``N``, as a one-hot vector.

    Args:
        logits: Unnormalised log-probabilities ``[*B, N]``.
        probs: Probabilities up to a factor ``[*B, N]``, instead.
        grad_method: Gradient of :meth:`rsample`.
        dtype: Dtype of the vectors, such as that of their spec.
        **kwargs: ``validate_args``; off by default.

    Raises:
        ValueError: unless exactly one of ``logits`` and ``probs`` is given.

    >>> dist = OneHotCategorical(logits=torch.tensor([0.0, 2.0, 2.0]))
    >>> dist.mode, dist.log_prob(torch.tensor([0, 1, 0]))
    (tensor([0, 1, 0]), tensor(-0.7586))
    """

    # Actions have the dtype of their spec, an integer: modules draw with sample(). rsample(), for
    # gradients, returns floats.
    has_rsample = False
    num_params = 1

    def __init__(
        self,
        logits: Tensor | None = None,
        probs: Tensor | None = None,
        grad_method: ReparamGradientStrategy = ReparamGradientStrategy.PassThrough,
        dtype: torch.dtype = torch.int64,
        **kwargs: Any,
    ) -> None:
        if (logits is None) == (probs is None):
            raise ValueError(describe(self, "needs exactly one of 'logits' and 'probs'"))
        # Normalised at the first use: drawing alone does not need it.
        if logits is None:
            assert probs is not None
            logits = probs_to_logits(probs)
        self._param = logits
        self._num_events, self.grad_method, self.dtype = logits.shape[-1], grad_method, dtype
        kwargs.setdefault("validate_args", False)
        d.Distribution.__init__(self, logits.shape[:-1], logits.shape[-1:], **kwargs)

    @lazy_property
    def logits(self) -> Tensor:
        """Log-probabilities ``[*B, N]``."""
        return self._param.log_softmax(-1)

    @lazy_property
    def probs(self) -> Tensor:
        """Probabilities ``[*B, N]``."""
        return self._param.softmax(-1)

    def expand(self, batch_shape: Shape, _instance: object = None) -> OneHotCategorical:
        """Return the distribution with the batch shape ``batch_shape``."""
        logits = self.logits.expand((*batch_shape, self._num_events))
        return OneHotCategorical(logits=logits, grad_method=self.grad_method, dtype=self.dtype)

    def sample(self, sample_shape: Shape = ()) -> Tensor:
        """Draw ``[*sample_shape, *B, N]``."""
        return one_hot(self._draw_index(sample_shape), self._num_events, self.dtype)

    def rsample(self, sample_shape: Shape = ()) -> Tensor:
        """Draw one-hot vectors of floats whose gradient is that of ``grad_method``."""
        if self.grad_method is ReparamGradientStrategy.RelaxedOneHot:
            relaxed = d.RelaxedOneHotCategorical(self.logits.new_ones(()), logits=self.logits, validate_args=False)
            soft = relaxed.rsample(Size(sample_shape))
            hard = one_hot(index_of(soft), self._num_events)
        else:
            soft, hard = self.probs, self.sample(sample_shape)
        return hard + (soft - soft.detach())

    def sample_and_log_prob(self, sample_shape: Shape = ()) -> tuple[Tensor, Tensor]:
        """Return samples and their log-probabilities."""
        index = self._draw_index(sample_shape)
        return one_hot(index, self._num_events, self.dtype), self._log_prob_of(index)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-probability ``[*B]`` of one-hot vectors ``[*B, N]``."""
        index = (value.byte() if value.dtype is torch.bool else value).argmax(-1, keepdim=True)
        if index.shape[:-1] == self.batch_shape:
            return self.logits.gather(-1, index).squeeze(-1)
        return self._log_prob_of(index)

    @property
    def support(self) -> d.constraints.Constraint:
        """One-hot vectors."""
        return d.constraints.one_hot

    @property
    def mode(self) -> Tensor:
        """The most likely choice; the first of several."""
        return one_hot(self._param.argmax(-1, keepdim=True), self._num_events, self.dtype)

    deterministic_sample = mode

    @property
    def mean(self) -> Tensor:
        """The probabilities."""
        return self.probs

    @property
    def variance(self) -> Tensor:
        """The variance of each component of the one-hot vector."""
        return self.probs * (1 - self.probs)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """Return every choice: ``[N, *B, N]``, or ``[N, *1, N]`` unless ``expand``."""
        n, batch = self._num_events, self.batch_shape
        choices = torch.eye(n, dtype=torch.int64, device=self._param.device)
        choices = choices.view(n, *(1,) * len(batch), n)
        return choices.expand(n, *batch, n) if expand else choices

    def _draw_index(self, sample_shape: Shape) -> Tensor:
        # The largest of log p + Gumbel noise is a draw from p; a choice without mass stays at -inf.
        noise = self._param.new_empty((*sample_shape, *self._param.shape)).exponential_()
        least = torch.finfo(noise.dtype).tiny
        return (self._param.detach() - noise.clamp_min_(least).log_()).argmax(-1, keepdim=True)

    def _log_prob_of(self, index: Tensor) -> Tensor:
        logits = self.logits
        if logits.shape[:-1] != index.shape[:-1]:
            shape = torch.broadcast_shapes(logits.shape[:-1], index.shape[:-1])
            logits = logits.expand(*shape, logits.shape[-1])
            index = index.expand(*shape, 1)
        return logits.gather(-1, index).squeeze(-1)


def masked_logits(
    owner: object,
    logits: Tensor | None,
    probs: Tensor | None,
    mask: Tensor | None,
    indices: Tensor | None,
    neg_inf: float | Tensor,
    padding_value: int | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the logits, the mask of what is allowed, and whether it allows anything ``[*B, 1]``.

    Forbidden choices have the logit ``neg_inf``.

    Where nothing is allowed the logits stay as they are.

    Raises:
        ValueError: unless exactly one of ``logits`` and ``probs``, and of ``mask`` and
            ``indices``, is given; if ``padding_value`` comes without ``indices``.
    """
    if (logits is None) == (probs is None):
        raise ValueError(describe(owner, "needs exactly one of 'logits' and 'probs'"))
    if (mask is None) == (indices is None):
        raise ValueError(describe(owner, "needs exactly one of 'mask' (true where allowed) and 'indices'"))
    if padding_value is not None and indices is None:
        raise ValueError(describe(owner, "pads 'indices'", hint="Drop 'padding_value'."))
    if logits is None:
        assert probs is not None
        logits = probs_to_logits(probs)
    if mask is None:
        assert indices is not None
        mask = _mask_from_indices(logits, indices, padding_value)
    if mask.dtype is not torch.bool:
        mask = mask.bool()
    allowed, has_choice = usable(mask)
    return logits.masked_fill(~allowed, float(neg_inf)), mask, has_choice


class NoChoiceError(ValueError):
    """A mask allows no action in a row that needs one."""


def usable(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return a mask ``[*B, N]`` that allows everything where the given one allows nothing.

    Where an episode has ended, and in padding, masks are often false throughout. Values of such
    rows are not used, but must be finite.

    Returns: the mask, and whether the given one allows anything ``[*B, 1]``.
    """
    has_choice = mask.any(-1, keepdim=True)
    return mask | ~has_choice, has_choice


def require_choice(owner: object, has_choice: Tensor) -> None:
    """Raise NoChoiceError if a mask allows nothing in a row, unless compiled or vectorised.

    Rows that have ended (:func:`~torchrl._core.records.ended_rows.ended_rows`) need no choice.

    Args:
        owner: The component that chooses, for the message.
        has_choice: Whether the mask allows anything, ``[*B, 1]``.
    """
    if torch.compiler.is_compiling():
        return
    try:
        stuck = without_choice(has_choice)
    except RuntimeError:  # under torch.vmap values cannot be read
        return
    if stuck is None:
        return
    rows = stuck.nonzero().tolist()
    raise NoChoiceError(
        describe(
            owner,
            "was asked to choose where its mask allows no action",
            expected="a mask with a true entry in every row whose episode goes on",
            found=f"none in rows {rows[:5]}" if rows[0] else "none",
            hint="Mark states without a legal action as done, or allow one that does nothing.",
        )
    )


def _mask_from_indices(logits: Tensor, indices: Tensor, padding_value: int | None) -> Tensor:
    real = torch.ones_like(indices, dtype=torch.bool)
    if padding_value is not None:
        real = indices != padding_value
        indices = indices.masked_fill(~real, 0)
    batch = torch.broadcast_shapes(indices.shape[:-1], logits.shape[:-1])
    indices, real = indices.expand(*batch, -1), real.expand(*batch, -1)
    counts = torch.zeros((*batch, logits.shape[-1]), dtype=torch.int64, device=logits.device)
    return counts.scatter_add_(-1, indices, real.long()) > 0


class HasPadding:
    """Mixin of distributions whose allowed choices may be padded indices."""

    num_params = 1
    _padding_value: int | None
    padding_side: str

    def _set_padding(self, value: int | None, side: str) -> None:
        if side not in ("left", "right"):
            raise ValueError(describe(self, "has no such padding_side", expected=["left", "right"], found=side))
        self._padding_value, self.padding_side = value, side

    @property
    def padding_value(self) -> int:
        """Element of ``indices`` that means "none"; 0 where no element does."""
        return 0 if self._padding_value is None else self._padding_value


class MaskedCategorical(HasPadding, d.Categorical):
    """A choice among those that are allowed, as an index.

    Args:
        logits: Unnormalised log-probabilities ``[*B, N]``.
        probs: Probabilities up to a factor ``[*B, N]``, instead.
        mask: True where a choice is allowed, ``[*B, N]``.
        indices: The allowed choices ``[*B, K]``, instead of a mask.
        neg_inf: Logit of forbidden choices.
        padding_value: Element of ``indices`` that means "none"; the log-probability of such a
            value is 0.
        padding_side: ``"left"`` or ``"right"``, for readers of this attribute; padding is recognised by
            its value on either side.
        use_cross_entropy: Use the fused kernel of the cross-entropy; the result is the same.

    Raises:
        ValueError: unless exactly one of ``logits`` and ``probs``, and of ``mask`` and
            ``indices``, is given; when it draws, if a row of the mask allows nothing. Log-
            probabilities of such a row are those without a mask.

    >>> dist = MaskedCategorical(logits=torch.zeros(3), mask=torch.tensor([True, False, True]))
    >>> dist.probs, dist.log_prob(torch.tensor(1))
    (tensor([0.5000, 0.0000, 0.5000]), tensor(-inf))
    """

    def __init__(
        self,
        logits: Tensor | None = None,
        probs: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        indices: Tensor | None = None,
        neg_inf: float | Tensor = -math.inf,
        padding_value: int | None = None,
        padding_side: str = "left",
        use_cross_entropy: bool = True,
    ) -> None:
        self._set_padding(padding_value, padding_side)
        allowed, self.mask, self._has_choice = masked_logits(self, logits, probs, mask, indices, neg_inf, padding_value)
        self.use_cross_entropy = use_cross_entropy
        super().__init__(logits=allowed, validate_args=False)

    def sample(self, sample_shape: Shape = ()) -> Tensor:
        """Draw ``[*sample_shape, *B]``."""
        require_choice(self, self._has_choice)
        return super().sample(Size(sample_shape))

    @property
    def mode(self) -> Tensor:
        """The most likely allowed choice; the first of several."""
        require_choice(self, self._has_choice)
        return self.logits.argmax(-1)

    deterministic_sample = mode

    def expand(self, batch_shape: Shape, _instance: object = None) -> MaskedCategorical:
        """Return the distribution with the batch shape ``batch_shape``."""
        new = super().expand(batch_shape, MaskedCategorical.__new__(MaskedCategorical))
        new.mask = self.mask.expand((*batch_shape, self._num_events))
        new._has_choice = self._has_choice.expand((*batch_shape, 1))
        new._set_padding(self._padding_value, self.padding_side)
        new.use_cross_entropy = self.use_cross_entropy
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-probability ``[*B]`` of choices ``[*B]``."""
        value = value.long()
        padded = None
        if self._padding_value is not None:
            padded = value == self._padding_value
            value = value.masked_fill(padded, 0)
        shape = torch.broadcast_shapes(value.shape, self.batch_shape)
        logits = self.logits.expand(*shape, self._num_events)
        value = value.expand(shape)
        if self.use_cross_entropy:
            flat = logits.reshape(-1, self._num_events)
            score = -cross_entropy(flat, value.reshape(-1), reduction="none").reshape(shape)
        else:
            score = logits.gather(-1, value.unsqueeze(-1)).squeeze(-1)
        return score if padded is None else score.masked_fill(padded, 0.0)


class MaskedOneHotCategorical(HasPadding, OneHotCategorical):
    """A choice among those that are allowed, as a one-hot vector.

    Args:
        logits: Unnormalised log-probabilities ``[*B, N]``.
        probs: Probabilities up to a factor ``[*B, N]``, instead.
        mask: True where a choice is allowed, ``[*B, N]``.
        indices: The allowed choices ``[*B, K]``, instead of a mask.
        neg_inf: Logit of forbidden choices.
        padding_value: Element of ``indices`` that means "none".
        padding_side: See :class:`MaskedCategorical`.
        dtype: Dtype of the vectors, such as that of their spec.
        grad_method: Gradient of ``rsample``.

    Raises:
        ValueError: unless exactly one of ``logits`` and ``probs``, and of ``mask`` and
            ``indices``, is given; when it draws, if a row of the mask allows nothing. Log-
            probabilities of such a row are those without a mask.

    >>> dist = MaskedOneHotCategorical(torch.zeros(3), mask=torch.tensor([False, True, False]))
    >>> dist.sample()
    tensor([0, 1, 0])
    """

    def __init__(
        self,
        logits: Tensor | None = None,
        probs: Tensor | None = None,
        mask: Tensor | None = None,
        indices: Tensor | None = None,
        neg_inf: float | Tensor = -math.inf,
        padding_value: int | None = None,
        grad_method: ReparamGradientStrategy = ReparamGradientStrategy.PassThrough,
        padding_side: str = "left",
        dtype: torch.dtype = torch.int64,
    ) -> None:
        self._set_padding(padding_value, padding_side)
        allowed, self.mask, self._has_choice = masked_logits(self, logits, probs, mask, indices, neg_inf, padding_value)
        super().__init__(logits=allowed, grad_method=grad_method, dtype=dtype)

    @property
    def mode(self) -> Tensor:
        """The most likely allowed choice; the first of several."""
        require_choice(self, self._has_choice)
        return one_hot(self._param.argmax(-1, keepdim=True), self._num_events, self.dtype)

    deterministic_sample = mode

    def rsample(self, sample_shape: Shape = ()) -> Tensor:
        """Draw one-hot vectors of floats whose gradient is that of ``grad_method``."""
        require_choice(self, self._has_choice)
        return super().rsample(sample_shape)

    def _draw_index(self, sample_shape: Shape) -> Tensor:
        require_choice(self, self._has_choice)
        return super()._draw_index(sample_shape)


def ordinal_logits(scores: Tensor) -> Tensor:
    r"""Return logits that make neighbouring choices alike: scores ``[*B, N]`` to ``[*B, N]``.

    .. math:: l_i = \sum_{j \le i} \log \sigma(s_j) + \sum_{j > i} \log (1 - \sigma(s_j))

    Source: Tang and Agrawal, 2020, https://arxiv.org/abs/1901.10500, eq. 4.

    >>> ordinal_logits(torch.tensor([9.0, 9.0, -9.0])).argmax()
    tensor(1)
    """
    up_to, beyond = logsigmoid(scores).cumsum(-1), logsigmoid(-scores)
    return up_to + beyond.sum(-1, keepdim=True) - beyond.cumsum(-1)


class Ordinal(d.Categorical):
    """A choice among ordered values, as an index: see :func:`ordinal_logits`.

    Args:
        scores: One for each choice, ``[*B, N]``.

    >>> Ordinal(torch.tensor([9.0, 9.0, -9.0])).deterministic_sample
    tensor(1)
    """

    num_params = 1

    def __init__(self, scores: Tensor) -> None:
        super().__init__(logits=ordinal_logits(scores), validate_args=False)

    def expand(self, batch_shape: Shape, _instance: object = None) -> Ordinal:
        """Return the distribution with the batch shape ``batch_shape``."""
        new = super().expand(batch_shape, Ordinal.__new__(Ordinal))
        return new

    @property
    def deterministic_sample(self) -> Tensor:
        """The most likely choice; the first of several."""
        return self.logits.argmax(-1)


class OneHotOrdinal(OneHotCategorical):
    """A choice among ordered values, as a one-hot vector: see :func:`ordinal_logits`.

    Args:
        scores: One for each choice, ``[*B, N]``.

    >>> OneHotOrdinal(torch.tensor([9.0, 9.0, -9.0])).mode
    tensor([0, 1, 0])
    """

    def __init__(self, scores: Tensor) -> None:
        super().__init__(logits=ordinal_logits(scores))
