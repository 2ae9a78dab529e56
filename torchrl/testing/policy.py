"""What policies and recurrent modules must do; point these functions at your own.

``*B`` batch dimensions, ``T`` time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import (
    CompositeDistribution,
    TensorDictModuleBase,
    set_composite_lp_aggregate,
)
from torch import Tensor

from torchrl._core.exploration import ExplorationType, set_exploration_type
from torchrl._core.keys import next_key
from torchrl._core.plan import input_keys
from torchrl.modules import set_recurrent_mode


def assert_recurrent(
    module: TensorDictModuleBase,
    data: TensorDictBase,
    *,
    init_key: NestedKey = "is_init",
    rtol: float = 1e-4,
    atol: float = 1e-5,
) -> None:
    """Check that a module carries its state from step to step, and that sequences equal steps.

    A state is an entry that is read under a key and written under ``next`` and that key. Where
    ``is_init`` is true it must count as zero, whatever is in it; and in recurrent mode a sequence
    must give what its steps give one after the other, with restarts inside or without. Restarts
    are placed by this function. Modules without randomness only.

    Args:
        module: The module, of which parameters exist.
        data: What it reads, but states and flags, ``[B, T]`` with ``T >= 4``.
        init_key: The flag of an episode's first step.
        rtol: Relative tolerance.
        atol: Absolute tolerance.

    Raises:
        AssertionError: if one of these does not hold; it says which.
    """
    states = _states_of(module)
    assert states, f"{type(module).__name__} carries no state: {module.in_keys} {module.out_keys}"
    size, length = data.batch_size, data.shape[-1]
    first = torch.zeros(*size, 1, dtype=torch.bool)
    first[..., 0, :] = True
    inside = first.clone()
    inside[0, length // 2] = True
    with torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
        for flags, where in ((first, "without restarts"), (inside, "with restarts inside")):
            steps = _in_turn(module, data.clone().set(init_key, flags), states, init_key)
            _assert_restarts(module, steps, states, init_key, rtol, atol)
            for begin in (0, 1):  # from the start, and from the state that was stored
                part = steps[:, begin:]
                read = part.select(*{*input_keys(module), init_key, *states}, strict=False)
                with set_recurrent_mode():
                    found = module(read)
                for key in _written(module, part):
                    fact = f"{key}: a sequence {where} differs from its steps"
                    _assert_close(found.get(key), part.get(key), fact, rtol, atol)
    _assert_remembers(module, data, states, init_key)


def _states_of(module: TensorDictModuleBase) -> list[NestedKey]:
    keys: Any = module.out_keys
    nexts = [key[1:] for key in keys if isinstance(key, tuple) and key[0] == "next"]
    found = [key[0] if len(key) == 1 else key for key in nexts]
    return [key for key in found if key in module.in_keys]


def _written(module: TensorDictModuleBase, td: TensorDictBase) -> list[NestedKey]:
    return [key for key in module.out_keys if key != "_" and td.get(key, None) is not None]


def _in_turn(
    module: TensorDictModuleBase, data: TensorDictBase, states: list[NestedKey], init_key: Any
) -> TensorDictBase:
    """Return the steps ``[B, T]`` of a module that is called as an environment's policy is."""
    steps: list[TensorDictBase] = []
    state = None
    for row in data.unbind(-1):
        if state is None:
            probe = module(row.clone())  # a first step needs no state
            state = {key: torch.zeros_like(probe[next_key(key)]) for key in states}
        else:
            state = {key: steps[-1][next_key(key)] for key in states}
        td = row.clone()
        for key, value in state.items():
            td.set(key, value)
        steps.append(module(td))
    whole: Any = torch.stack(steps, -1)  # type: ignore[arg-type]  # tensordicts stack too
    return whole


def _assert_restarts(
    module: TensorDictModuleBase,
    steps: TensorDictBase,
    states: list[NestedKey],
    init_key: NestedKey,
    rtol: float,
    atol: float,
) -> None:
    """Check that a first step depends on nothing that stands in its state."""
    row = steps[:, 1].select(*{*input_keys(module), *states}, strict=False)
    row.set(init_key, torch.ones(*row.batch_size, 1, dtype=torch.bool))
    outs = []
    for value in (0.0, 1.0):
        td = row.clone()
        for key in states:
            td.set(key, torch.full_like(td.get(key), value))
        outs.append(module(td))
    for key in _written(module, outs[0]):
        if key not in states:
            fact = f"{key}: the state is not empty where {init_key!r} is true"
            _assert_close(outs[1].get(key), outs[0].get(key), fact, rtol, atol)


def _assert_remembers(
    module: TensorDictModuleBase, data: TensorDictBase, states: list[NestedKey], init_key: Any
) -> None:
    """Check that a step depends on the state, and a later step of a sequence on an earlier one."""
    flags = torch.zeros(*data.batch_size, 1, dtype=torch.bool)
    flags[:, 0] = True
    with torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
        steps = _in_turn(module, data.clone().set(init_key, flags), states, init_key)
        state = steps[next_key(states[0])]
        assert not torch.equal(state[:, 0], state[:, -1]), f"{states[0]}: the state never changes"


def assert_follows_parameters(policy: Any, td: TensorDictBase, rtol: float = 1e-4) -> None:
    """Check that the distribution is that of the policy as it is, not as it was on collection.

    A batch holds what the policy wrote when it acted, the parameters of its distribution among it.
    ``get_dist`` on such a batch must depend on the observations and the policy's parameters alone:
    the log-probability of the actions and its gradient must be those of a batch without these.

    Args:
        policy: Has ``get_dist`` and parameters.
        td: Observations ``[*B]``.
        rtol: Relative tolerance.

    Raises:
        AssertionError: if the distribution or its gradient differs.
    """
    with torch.no_grad(), set_exploration_type(ExplorationType.RANDOM):
        acted = policy(td.clone())
        for parameter in policy.parameters():  # as training does
            parameter.add_(0.1 * torch.randn_like(parameter))
    parameters = [p for p in policy.parameters() if p.requires_grad]
    scores, gradients = [], []
    for batch in (td.clone(), acted):
        with set_composite_lp_aggregate(False):
            score = _score(policy.get_dist(batch.copy()), acted, policy)
        assert score.requires_grad, "the distribution does not depend on the parameters"
        scores.append(score.detach())
        gradients.append(torch.autograd.grad(score, parameters, allow_unused=True))
    fact = "the distribution on a batch with the policy's outputs is that of stored parameters"
    _assert_close(scores[1], scores[0], fact, rtol, 1e-5)
    for fresh, found in zip(*gradients, strict=True):
        assert (fresh is None) == (found is None), f"{fact}: a gradient is missing"
        if fresh is not None:
            _assert_close(found, fresh, f"{fact}: its gradient differs", rtol, 1e-5)


def _score(dist: Any, td: TensorDictBase, policy: Any) -> Tensor:
    """Return the sum of all log-probabilities of the actions."""
    if isinstance(dist, CompositeDistribution):
        heads = [head.log_prob(td[name]).sum() for name, head in dist.dists.items()]
        return torch.stack(heads).sum()
    keys: Sequence[NestedKey] = getattr(policy, "dist_sample_keys", None) or ["action"]
    return dist.log_prob(td[keys[0]]).sum()


def _assert_close(found: Any, expected: Any, fact: str, rtol: float, atol: float) -> None:
    assert found is not None, f"{fact}: it is not written"
    if isinstance(found, Tensor) and found.is_floating_point():
        same = torch.allclose(found, expected, rtol=rtol, atol=atol)
    else:
        same = bool((found == expected).all())
    assert same, fact
