"""Modules that draw from a distribution whose parameters are entries."""

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
    interaction_type,
    set_interaction_type,
)
from torch import Size
from torch import distributions as d

from torchrl._core.keys import as_keys
from torchrl._core.plan import Record, explain, inputs_of, members
from torchrl.modules.distributions import Delta, distributions_maps
from torchrl.modules.distributions.utils import draw, draw_and_score, is_discrete
from torchrl.modules.tensordict_module.calls import (
    choose,
    is_common,
    is_plain,
    on_tensordict,
    run_in_turn,
)
from torchrl.modules.tensordict_module.common import HasSpec, Spec
from torchrl.modules.tensordict_module.sequence import SafeSequential

_DRAWS = (ProbabilisticTensorDictModule, ProbabilisticTensorDictSequential)


class SafeProbabilisticModule(HasSpec, ProbabilisticTensorDictModule):
    """Draws a value from a distribution whose parameters are entries.

    How it is drawn, the exploration type says; where none is set, ``default_interaction_type``.
    With ``return_log_prob`` a draw comes with its log-probability, which is that of the draw
    itself even where rounding would hide it (a saturated :class:`~torchrl.modules.TanhNormal`).

    Args:
        in_keys: Entries with the parameters, named as they are; or ``{parameter: entry}``.
        out_keys: Where the draw goes.
        spec: Spec of the draw: a composite, or the spec of the first entry.
        safe: Project the draw on its spec.
        default_interaction_type: How to draw where no exploration type is set.
        distribution_class: The distribution, or its name in lower case.
        distribution_kwargs: Parameters that are no entries.
        return_log_prob: Write the log-probability too.
        log_prob_keys: Where it goes, for each draw; ``<out_key>_log_prob`` by default.
        log_prob_key: The same for a single draw.
        cache_dist: Build the distribution of the draws once and replace its parameters at each
            call. For distributions with ``update``; :meth:`get_dist` always builds another one.
        n_empirical_estimate: Number of samples in a mean that has no closed form.
        num_samples: Draw this many values along new first dimensions.
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

    entrywise = True

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
        self.entrywise = (
            num_samples is None
            and generator is None
            and len(self.dist_sample_keys) == 1
            and self.dist_sample_keys != ["_"]
            and distribution_class is not CompositeDistribution
        )
        self._score_key = self.log_prob_key if self.entrywise else None
        self.register_spec(spec, safe)

    def get_dist(self, tensordict: TensorDictBase) -> d.Distribution:
        """Return the distribution whose parameters ``tensordict`` holds."""
        return self._build(tensordict, {name: tensordict.get(key) for name, key in self._params})

    build_dist_from_params = get_dist

    def _build(self, tensordict: TensorDictBase, params: Mapping[str, Any]) -> d.Distribution:
        try:
            return self.distribution_class(**params, **self.distribution_kwargs)
        except Exception as error:
            values = list(params.values())
            explained = explain(self, self.in_keys, values, tensordict, error)
            if explained is None:
                raise
            raise explained from None

    def _cached_dist(self, td: Record) -> d.Distribution:
        """Return the distribution of the last call with the parameters of this one."""
        params = {name: td.get(key) for name, key in self._params}
        cached = self._cached
        if cached is None or _shape_of(params) != cached.batch_shape + cached.event_shape:
            self._cached = self._build(td, params)
        else:
            cached.update(**params)
        return self._cached

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cached": None}  # a copy has no part in it

    @on_tensordict
    def forward(
        self,
        tensordict: TensorDictBase,
        tensordict_out: TensorDictBase | None = None,
        _requires_sample: bool = True,
    ) -> TensorDictBase:
        """Build the distribution, draw, write, project if safe."""
        if self.entrywise and tensordict_out is None and _requires_sample:
            self._run(tensordict)
            return tensordict
        call = partial(super().forward, tensordict, tensordict_out, _requires_sample)
        out = choose(tensordict, self.in_keys, call)
        self.project(out)
        return out

    def _draw_dist_sample(
        self, dist: Any, kind: InteractionType | None = None, *, generator: Any = None
    ) -> Any:
        """Return what an exploration type asks for; ``MEAN`` of a discrete head is its mode."""
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
        sample_key = self.out_keys_source[0]
        if self.return_log_prob:
            score = partial(draw_and_score, dist, kind, self.n_empirical_estimate)
            value, log_prob = choose(td, self.in_keys, score)
            td.set(sample_key, value)
            td.set(self._score_key, log_prob)
        else:
            sample = partial(draw, dist, kind, self.n_empirical_estimate)
            td.set(sample_key, choose(td, self.in_keys, sample))
        if self._projected:
            self.project(td)


def _shape_of(params: Mapping[str, Any]) -> Size:
    shapes = [value.shape for value in params.values()]
    return torch.broadcast_shapes(*shapes)


class SafeProbabilisticTensorDictSequential(ProbabilisticTensorDictSequential, SafeSequential):
    """Modules that end in a draw: a stochastic policy.

    ``get_dist(td)`` is the distribution, computed from the observations; its parameters are
    written to ``td`` (:func:`distribution_of` writes nothing).
    ``log_prob(td)`` is the log-probability of the draws that ``td`` holds, by ``get_dist``;
    ``build_dist_from_params(td)`` is the distribution of the parameters that ``td`` holds.

    Args:
        *modules: Modules of tensordicts, the last of them probabilistic.
        partial_tolerant: Skip modules whose inputs are absent.

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

    entrywise = True

    def get_dist(
        self,
        tensordict: TensorDictBase,
        tensordict_out: TensorDictBase | None = None,
        **kwargs: Any,
    ) -> d.Distribution:
        """Return the distribution, after running all that comes before it.

        With ``return_composite``, that of every draw; where ``tensordict`` holds the draws, each
        given those before it.
        """
        if self.return_composite:
            given = _given_draws(self, tensordict)
            return super().get_dist(tensordict, tensordict_out) if given is None else given
        last = members(self)[-1]
        if not isinstance(last, ProbabilisticTensorDictSequential):
            return super().get_dist(tensordict, tensordict_out, **kwargs)
        return last.get_dist(self.get_dist_params(tensordict, tensordict_out, **kwargs))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the modules in turn; as a :class:`ProbabilisticTensorDictSequential` does."""
        *head, last = members(self)
        if not (is_common(args, kwargs) and is_plain(self) and self._draws_once(last)):
            return super().forward(*args, **kwargs)
        if interaction_type() is not None:
            return last(run_in_turn(head, args[0]))
        # What runs before the draw sees the draw's own exploration type.
        with set_interaction_type(last.default_interaction_type):
            td = run_in_turn(head, args[0])
        return last(td)

    def _draws_once(self, last: Any) -> bool:
        """Return whether a call is: all modules but the last, then a draw; and nothing else."""
        return (
            isinstance(last, ProbabilisticTensorDictModule)
            and self._requires_sample
            and not self.return_composite
            and type(self).get_dist_params is ProbabilisticTensorDictSequential.get_dist_params
        )


def distribution_of(policy: Any, td: TensorDictBase) -> d.Distribution:
    """Return the distribution of a policy over its actions, computed from the observations.

    What the policy wrote into the batch as it was collected, such as the parameters of several
    heads, is neither read nor replaced: the distribution is that of the policy as it is now. Of a
    chain of draws (``return_composite``) it is that of each draw given those before it in ``td``.

    Args:
        policy: Has ``get_dist``.
        td: Batch ``[*B]`` that holds what the policy reads.

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
    """Return whether a later head of a policy follows from what an earlier one has drawn."""
    drawn: set[NestedKey] = set()
    for module in members(policy) if getattr(policy, "return_composite", False) else ():
        if not drawn.isdisjoint(getattr(module, "in_keys", ())):
            return True
        drawn.update(getattr(module, "dist_sample_keys", ()))
    return False


def _given_draws(policy: Any, td: TensorDictBase) -> d.Distribution | None:
    """Return the distributions of all draws, given those that ``td`` holds; none if it does not."""
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
