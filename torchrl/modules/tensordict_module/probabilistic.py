"""Stochastic policies: modules that draw an action from a distribution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from tensordict.nn import (
    CompositeDistribution,
    InteractionType,
    ProbabilisticTensorDictModule,
    ProbabilisticTensorDictSequential,
    set_interaction_type,
)
from tensordict.nn.probabilistic import interaction_type
from torch import Size, Tensor
from torch import distributions as d

from torchrl._core.keys import as_keys, groups_of
from torchrl._core.records.flat_record import Record
from torchrl._core.records.policies import explain, inputs_of
from torchrl._core.records.torch_private import draws_sample, members
from torchrl.modules.distributions import Delta, distributions_maps
from torchrl.modules.distributions.discrete import NoChoiceError
from torchrl.modules.tensordict_module.common import HasSpec, Spec, choose, is_common, is_plain, on_tensordict
from torchrl.modules.tensordict_module.sequence import SafeSequential

_DRAWS = (ProbabilisticTensorDictModule, ProbabilisticTensorDictSequential)


class SafeProbabilisticModule(HasSpec, ProbabilisticTensorDictModule):
    """Draw a value from a distribution whose parameters are entries.

    The exploration type determines whether it is a sample, the mode or the mean; where none is set,
    ``default_interaction_type`` does. With ``return_log_prob`` the log-probability is that of the
    sample before rounding (which matters for a saturated :class:`~torchrl.modules.TanhNormal`).

    Args:
        in_keys: Entries with the parameters, named as they are; or ``{parameter: entry}``.
        out_keys: Key of the draw.
        spec: Spec of the draw: a composite, or the spec of the first entry.
        safe: Project the draw on its spec.
        default_interaction_type: How to draw where no exploration type is set.
        distribution_class: The distribution, or its name in lower case.
        distribution_kwargs: Parameters that are no entries.
        return_log_prob: Write the log-probability too.
        log_prob_keys: Its key, for each draw; ``<out_key>_log_prob`` by default.
        log_prob_key: The same for a single draw.
        cache_dist: Build the distribution of the draws once and replace its parameters at each
            call. For distributions with ``update``; :meth:`get_dist` always builds another one.
        n_empirical_estimate: Number of samples in a mean that has no closed form.
        num_samples: Number or shape of samples, along new first dimensions.
        generator: Random generator of the draws, or a seed, or the entry that holds one.

    Reads: ``in_keys``. Writes: ``out_keys``, and the log-probability ``[*B]`` (for distributions
    without event dimensions ``[*B, A]``) with ``return_log_prob``.

    Raises:
        SpecError: if ``safe`` comes without a spec.
        MissingKeyError: at a call, if the distribution fails because a parameter is absent.
        ValueError: at a call, if a mask allows nothing in a row that is not ``done``.

    >>> from tensordict import TensorDict
    >>> from torchrl.modules import TanhNormal
    >>> module = SafeProbabilisticModule(
    ...     ["loc", "scale"], "action", distribution_class=TanhNormal, return_log_prob=True
    ... )
    >>> td = module(TensorDict(loc=torch.zeros(2), scale=torch.ones(2)))
    >>> td["action"], td["action_log_prob"].shape
    (tensor([0., 0.]), torch.Size([]))
    """

    supports_flat_records = True

    def __init__(
        self,
        in_keys: NestedKey | Sequence[NestedKey] | Mapping[str, NestedKey],
        out_keys: NestedKey | Sequence[NestedKey] | None = None,
        spec: Spec = None,
        *,
        safe: bool = False,
        default_interaction_type: InteractionType | str = InteractionType.DETERMINISTIC,
        distribution_class: Any = Delta,
        distribution_kwargs: Mapping[str, Any] | None = None,
        return_log_prob: bool = False,
        log_prob_keys: list[NestedKey] | None = None,
        log_prob_key: NestedKey | None = None,
        cache_dist: bool = False,
        n_empirical_estimate: int = 1000,
        num_samples: int | Size | None = None,
        generator: torch.Generator | int | NestedKey | None = None,
    ) -> None:
        if isinstance(distribution_class, str):
            distribution_class = distributions_maps[distribution_class.lower()]
        distribution_class, distribution_kwargs = composite_of(distribution_class, distribution_kwargs)
        if distribution_class is CompositeDistribution:
            out_keys = names_of_heads(distribution_kwargs, out_keys)
        reads: Any = dict(in_keys) if isinstance(in_keys, Mapping) else as_keys(in_keys)
        super().__init__(
            reads,
            None if out_keys is None else as_keys(out_keys),
            default_interaction_type=InteractionType(default_interaction_type),
            distribution_class=distribution_class,
            distribution_kwargs=dict(distribution_kwargs or {}),
            return_log_prob=return_log_prob,
            log_prob_keys=log_prob_keys,
            log_prob_key=log_prob_key,
            n_empirical_estimate=n_empirical_estimate,
            num_samples=num_samples,
            generator=generator,
        )
        self._params = [
            (name if isinstance(name, str) else name[-1], key)
            for name, key in zip(self.dist_keys, self.in_keys, strict=True)
        ]
        self.cache_dist = cache_dist and hasattr(distribution_class, "update")
        self._cached: Any = None  # the distribution of the last call
        self.supports_flat_records = (
            num_samples is None
            and generator is None
            and len(self.dist_sample_keys) == 1
            and self.dist_sample_keys != ["_"]
            and distribution_class is not CompositeDistribution
        )
        self._score_key: Any = self.log_prob_key if self.supports_flat_records else None
        self.register_spec(spec, safe)

    def get_dist(self, tensordict: Record) -> d.Distribution:
        """Return the distribution of the parameters in ``tensordict``."""
        params = {}
        for name, key in self._params:
            params[name] = tensordict.get(key)
        try:
            return self.distribution_class(**params, **self.distribution_kwargs)
        except Exception as error:
            values = list(params.values())
            explained = explain(self, self.in_keys, values, tensordict, error)
            if explained is None:
                raise
            raise explained from None

    build_dist_from_params = get_dist

    def _cached_dist(self, td: Record) -> d.Distribution:
        """Return the distribution of the last call with the parameters of this one."""
        params = {name: td.get(key) for name, key in self._params}
        cached = self._cached
        shape = torch.broadcast_shapes(*(value.shape for value in params.values()))
        if cached is None or shape != cached.batch_shape + cached.event_shape:
            self._cached = self.get_dist(td)
        else:
            cached.update(**params)
        return self._cached

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cached": None}

    @on_tensordict
    def forward(
        self, tensordict: TensorDictBase, tensordict_out: TensorDictBase | None = None, _requires_sample: bool = True
    ) -> TensorDictBase:
        """Build the distribution, draw, write, project if safe."""
        if self.supports_flat_records and tensordict_out is None and _requires_sample:
            self._run(tensordict)
            return tensordict
        call = partial(super().forward, tensordict, tensordict_out, _requires_sample)
        out = choose(tensordict, self.in_keys, call)
        self.project(out)
        return out

    def _draw_dist_sample(self, dist: Any, kind: InteractionType | None = None, *, generator: Any = None) -> Any:
        """Return the value of an exploration type; ``MEAN`` of a discrete head is its mode."""
        kind = self.default_interaction_type if kind is None else kind
        if kind is InteractionType.MEAN:
            if isinstance(dist, CompositeDistribution):
                heads = dist.dists.items()
                drawn = {name: self._draw_dist_sample(head, kind) for name, head in heads}
                return TensorDict(drawn, dist.batch_shape)
            if is_discrete(dist):
                return draw(dist, kind)
        return super()._draw_dist_sample(dist, kind, generator=generator)

    def _run(self, td: Record) -> None:
        dist = self._cached_dist(td) if self.cache_dist else self.get_dist(td)
        kind = interaction_type() or self.default_interaction_type
        try:
            value, log_prob = self._sample(dist, kind)
        except NoChoiceError:  # rows that are done need no legal action
            value, log_prob = choose(td, self.in_keys, partial(self._sample, dist, kind))
        td.set(self.out_keys_source[0], value)
        if log_prob is not None:
            td.set(self._score_key, log_prob)
        if self._projected:
            self.project(td)

    def _sample(self, dist: d.Distribution, kind: InteractionType) -> tuple[Tensor, Tensor | None]:
        """Return a value, and its log-probability if asked for: that of a sample before it is rounded."""
        if kind is InteractionType.RANDOM and self.return_log_prob:
            name = "rsample_and_log_prob" if dist.has_rsample else "sample_and_log_prob"
            both = getattr(dist, name, None)  # without inverting a transform
            if both is not None:
                return both(Size())
        value = draw(dist, kind, self.n_empirical_estimate)
        return value, dist.log_prob(value) if self.return_log_prob else None


def composite_of(kind: object, kwargs: Mapping[str, Any] | None) -> tuple[Any, dict[str, Any]]:
    """Return a distribution class and its arguments; a ``partial`` of a composite one is taken apart.

    >>> composite_of(partial(CompositeDistribution, distribution_map={"a": d.Normal}), None)
    (<class '...CompositeDistribution'>, {'distribution_map': {'a': <class '...Normal'>}})
    """
    given = dict(kwargs or {})
    if isinstance(kind, partial) and kind.func is CompositeDistribution and not kind.args:
        return CompositeDistribution, {**kind.keywords, **given}
    return kind, given


def names_of_heads(
    kwargs: Mapping[str, Any], out_keys: NestedKey | Sequence[NestedKey] | None
) -> NestedKey | Sequence[NestedKey] | None:
    """Return the keys of all draws of a composite distribution where ``out_keys`` name their groups."""
    heads = [*(kwargs.get("name_map") or {}).values()] or [*kwargs.get("distribution_map", ())]
    given = as_keys(out_keys)
    return None if given and groups_of(heads).issuperset(given) else out_keys


class SafeProbabilisticTensorDictSequential(ProbabilisticTensorDictSequential, SafeSequential):
    """A stochastic policy: modules of which the last one draws from a distribution.

    ``get_dist(td)`` is the distribution, computed from the observations; its parameters are
    written to ``td`` (:func:`distribution_of` writes nothing).
    ``log_prob(td)`` is the log-probability, by ``get_dist``, of the actions in ``td``;
    ``build_dist_from_params(td)`` is the distribution of the parameters in ``td``.

    Args:
        *modules: Modules of tensordicts, the last of them probabilistic.
        partial_tolerant: Skip modules whose inputs are absent.
        return_composite: Let ``get_dist`` return the distributions of all draws, not of the last alone.
        inplace: See :class:`tensordict.nn.TensorDictSequential`.
        selected_out_keys: Entries that are written; all if ``None``.

    Reads: what a module reads and no earlier one writes. Writes: what any of them writes.

    >>> from tensordict import TensorDict
    >>> from torchrl.modules import IndependentNormal, NormalParamExtractor, SafeModule
    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 4), NormalParamExtractor())
    >>> policy = SafeProbabilisticTensorDictSequential(
    ...     SafeModule(net, ["obs"], ["loc", "scale"]),
    ...     SafeProbabilisticModule(["loc", "scale"], "a", distribution_class=IndependentNormal),
    ... )
    >>> td = policy(TensorDict(obs=torch.zeros(5, 3), batch_size=[5]))
    >>> policy.get_dist(td).batch_shape, policy.log_prob(td).shape
    (torch.Size([5]), torch.Size([5]))
    """

    supports_flat_records = True

    def get_dist(
        self, tensordict: TensorDictBase, tensordict_out: TensorDictBase | None = None, **kwargs: Any
    ) -> d.Distribution:
        """Return the distribution, after calling the modules before it.

        With ``return_composite``, that of every draw; if ``tensordict`` holds the draws, each is
        conditioned on those before it.
        """
        if self.return_composite:
            given = _given_draws(self, tensordict)
            return super().get_dist(tensordict, tensordict_out) if given is None else given
        last = members(self)[-1]
        if not isinstance(last, ProbabilisticTensorDictSequential):
            return super().get_dist(tensordict, tensordict_out, **kwargs)
        return last.get_dist(self.get_dist_params(tensordict, tensordict_out, **kwargs))

    def forward(self, *args: object, **kwargs: Any) -> Any:
        """Call the modules in turn, as a :class:`ProbabilisticTensorDictSequential` does."""
        *networks, last = members(self)
        if (
            not is_common(args, kwargs)
            or not is_plain(self)
            or not isinstance(last, ProbabilisticTensorDictModule)
            or not draws_sample(self)
            or self.return_composite
            or type(self).get_dist_params is not ProbabilisticTensorDictSequential.get_dist_params
        ):
            return super().forward(*args, **kwargs)
        td = args[0]
        if interaction_type() is None:
            # The networks see the exploration type of the draw.
            with set_interaction_type(last.default_interaction_type):
                for module in networks:
                    td = module(td)
        else:
            for module in networks:
                td = module(td)
        return last(td)


def distribution_of(policy: Any, td: TensorDictBase) -> d.Distribution:
    """Return the distribution of a policy over its actions, computed from the observations.

    Outputs of the policy in the batch, such as the parameters of several heads, are neither read
    nor replaced: the distribution is that of the current policy. Of a chain of draws
    (``return_composite``) it is that of each draw, conditioned on those before it in ``td``.

    Args:
        policy: Has ``get_dist``.
        td: Batch ``[*B]`` with the inputs of the policy.

    >>> from tensordict import TensorDict
    >>> from torchrl.modules import IndependentNormal, NormalParamExtractor, SafeModule
    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 4), NormalParamExtractor())
    >>> policy = SafeProbabilisticTensorDictSequential(
    ...     SafeModule(net, ["obs"], ["loc", "scale"]),
    ...     SafeProbabilisticModule(["loc", "scale"], "a", distribution_class=IndependentNormal),
    ... )
    >>> stale = {"loc": torch.zeros(5, 2), "scale": torch.ones(5, 2)}
    >>> td = TensorDict(obs=torch.zeros(5, 3), **stale, batch_size=[5])
    >>> distribution_of(policy, td).base_dist.loc.requires_grad, td["loc"].requires_grad
    (True, False)
    """
    if getattr(policy, "return_composite", False):
        given = _given_draws(policy, td)
        if given is not None:
            return given
    return _get_dist(policy, inputs_of(policy, td))


def reads_own_draws(policy: Any) -> bool:
    """Return whether a head of a policy is computed from the draw of an earlier one."""
    drawn: set[NestedKey] = set()
    for module in members(policy) if getattr(policy, "return_composite", False) else ():
        if not drawn.isdisjoint(getattr(module, "in_keys", ())):
            return True
        drawn.update(getattr(module, "dist_sample_keys", ()))
    return False


def _given_draws(policy: Any, td: TensorDictBase) -> d.Distribution | None:
    """Return the distributions of all draws, each given those before it in ``td``, if present."""
    record, dists = inputs_of(policy, td).copy(), {}
    *_, last = modules = members(policy)
    for module in modules:
        if not isinstance(module, _DRAWS):
            record = module(record)
            continue
        if module.num_samples not in (None, ()):
            return None
        dist: Any = _get_dist(module, record)
        is_composite = isinstance(dist, CompositeDistribution)
        heads: Any = dist.dists if is_composite else {module.dist_sample_keys[0]: dist}
        for name in heads if module is not last else ():
            value = td.get(name, None)
            if value is None:
                return None
            record.set(name, value)
        dists.update(heads)
    return CompositeDistribution.from_distributions(record, dists)


def _get_dist(policy: Any, inputs: TensorDictBase) -> d.Distribution:
    """Call ``get_dist``; that of tensordict skips the layers of a policy within a sequence."""
    if type(policy) is ProbabilisticTensorDictSequential and not policy.return_composite:
        last = members(policy)[-1]
        if isinstance(last, ProbabilisticTensorDictSequential):
            return _get_dist(last, policy.get_dist_params(inputs))
    return policy.get_dist(inputs)


def draw(dist: d.Distribution, kind: InteractionType, num_empirical: int = 1000) -> Tensor:
    """Return the value of ``dist`` that an exploration type asks for.

    ``DETERMINISTIC`` is ``deterministic_sample`` if the distribution has it, else the mode of a
    discrete and the mean of any other one. ``MEAN`` of a discrete distribution is its mode, since
    the mean is not one of its values. A mean without a closed form is estimated.

    Args:
        dist: The distribution.
        kind: The exploration type.
        num_empirical: Number of samples in an estimated mean.

    Raises:
        NotImplementedError: if the distribution does not have the value.

    >>> draw(d.Categorical(logits=torch.tensor([0.0, 3.0])), InteractionType.DETERMINISTIC)
    tensor(1)
    """
    if kind is InteractionType.RANDOM:
        return dist.rsample() if dist.has_rsample else dist.sample()
    if kind is InteractionType.DETERMINISTIC:
        value = getattr(dist, "deterministic_sample", None)
        if value is not None:
            return value
        base = dist.base_dist if isinstance(dist, d.Independent) else dist
        value = getattr(base, "deterministic_sample", None)
        if value is not None:
            return value
        kind = InteractionType.MODE if base.has_enumerate_support else InteractionType.MEAN
    if kind is InteractionType.MEAN and is_discrete(dist):
        kind = InteractionType.MODE
    try:
        value = getattr(dist, kind.value)
    except (AttributeError, NotImplementedError):
        value = None
    if kind is InteractionType.MODE and value is not None:
        base = dist.base_dist if isinstance(dist, d.Independent) else dist
        if isinstance(base, d.Bernoulli):
            value = value.nan_to_num(0.0)  # torch returns NaN where both values are equally likely
    if value is None and kind is InteractionType.MEAN:
        many = Size((num_empirical,))
        return (dist.rsample(many) if dist.has_rsample else dist.sample(many)).mean(0)
    if value is None:
        raise NotImplementedError(f"{type(dist).__name__} has no {kind.value}.")
    return value


def is_discrete(dist: d.Distribution) -> bool:
    """Return whether a distribution is over finitely or countably many values.

    >>> is_discrete(d.Independent(d.Bernoulli(torch.ones(2)), 1)), is_discrete(d.Normal(0.0, 1.0))
    (True, False)
    """
    try:
        support: Any = dist.support
        return bool(support.is_discrete)
    except (AttributeError, NotImplementedError):
        return bool(dist.has_enumerate_support)
