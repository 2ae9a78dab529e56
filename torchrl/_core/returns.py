"""Returns and advantages as pure functions of tensors.

Every tensor is ``[*B, T, F]`` (``F`` is mostly 1): index ``t`` is the transition
``s_t, a_t -> r_t, s_{t+1}``; ``time_dim`` says where ``T`` stands. Three ends, never confused:
``terminated`` stops the bootstrap, ``done`` cuts the recursion, and the end of the data cuts the
recursion and bootstraps. A discount may be a number or a tensor that broadcasts to the rewards.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from torchrl._core.errors import ShapeError, describe

# Where each form of the scan is the fastest, measured on one CPU thread.
_SHORT = 16  # steps: up to here a plain loop
_SMALL = 20_000  # elements: up to here one scan over the row, beyond it blocks
_BLOCK = 32  # steps of a block
_WIDE = 128  # rows: a loop where there are this many and more rows than steps


def discounted_scan(decay: Tensor, x: Tensor, time_dim: int = -2, vectorized: bool | None = None) -> Tensor:
    """Solve ``y_t = x_t + decay_t * y_{t+1}`` backwards in time, with ``y_T = 0``.

    Where a decay is zero nothing passes, not even NaN. The form is chosen by shape: a loop over few
    steps, a scan of logarithmic depth over few elements, and a scan over blocks, looped inside,
    over many. All are differentiable.

    Args:
        decay: ``[*B, T, F]``, the last one is never used.
        x: ``[*B, T, F]``.
        time_dim: Where ``T`` is.
        vectorized: Choose the form: a loop over all steps (``False``) or one of the two scans
            (``True``), instead of the fastest.

    Returns: ``y [*B, T, F]``.

    >>> discounted_scan(torch.full((3, 1), 0.5), torch.ones(3, 1)).squeeze(-1)
    tensor([1.7500, 1.5000, 1.0000])
    """
    decay, x = decay.movedim(time_dim, 0), x.movedim(time_dim, 0)  # [T, *B, F]
    steps, size = x.shape[0], x.numel()
    if vectorized is None:
        vectorized = steps > _SHORT and size < steps * max(_WIDE, 8 * steps)
    if not vectorized:
        scan = _loop_scan
    else:
        decay, x = decay.contiguous(), x.contiguous()
        scan = _log_scan if size <= _SMALL or torch.compiler.is_compiling() else _block_scan
    # Products are the fastest, and right but for zero times NaN or infinity.
    if x.device.type == "cpu" and not torch.compiler.is_compiling():
        y = scan(decay, x, torch.addcmul)
        if steps and not _is_finite(y[0]):  # where products carry NaN, whatever the decays
            y = scan(decay, x, _add_passed)
    else:  # a look at the values would wait for the device, or break the graph
        y = scan(decay, x, _add_passed)
    return y.movedim(0, time_dim)


Add = Callable[[Tensor, Tensor, Tensor], Tensor]


def _add_passed(x: Tensor, decay: Tensor, later: Tensor) -> Tensor:
    """Return ``x + decay * later``, and ``x`` itself where ``decay`` is zero."""
    return torch.addcmul(x, decay, later.masked_fill(decay == 0, 0.0))


def _is_finite(x: Tensor) -> bool:
    """Return whether all is finite; no where that cannot be known, as under ``torch.vmap``."""
    try:
        return math.isfinite(x.detach().sum().item())
    except RuntimeError:
        return False


def _loop_scan(decay: Tensor, x: Tensor, add: Add = torch.addcmul) -> Tensor:
    """Loop over the steps: few operations where steps are few."""
    if not len(x):
        return x.clone()
    decays, rows = decay.unbind(), list(x.unbind())
    for t in range(len(rows) - 2, -1, -1):
        rows[t] = add(rows[t], decays[t], rows[t + 1])
    return torch.stack(rows)


def _log_scan(decay: Tensor, x: Tensor, add: Add = torch.addcmul) -> Tensor:
    """Let every step see twice as far at each pass (Hillis and Steele, 1986)."""
    stride, steps = 1, len(x)
    while stride < steps:
        seen = add(x[:-stride], decay[:-stride], x[stride:])
        x = torch.cat([seen, x[-stride:]])
        if 2 * stride < steps:
            decay = torch.cat([decay[:-stride] * decay[stride:], decay[-stride:]])
        stride *= 2
    return x


def _block_scan(decay: Tensor, x: Tensor, add: Add = torch.addcmul) -> Tensor:
    """Scan all blocks at once, then the first steps of the blocks, then tell each its future."""
    steps = len(x)
    if pad := -steps % _BLOCK:
        zeros = x.new_zeros(pad, *x.shape[1:])
        decay, x = torch.cat([decay, zeros]), torch.cat([x, zeros])
    decays = list(decay.unflatten(0, (-1, _BLOCK)).unbind(1))  # [K, *B, F], one a step of a block
    rows = list(x.unflatten(0, (-1, _BLOCK)).unbind(1))
    for t in range(_BLOCK - 2, -1, -1):
        rows[t] = add(rows[t], decays[t], rows[t + 1])
        decays[t] = decays[t] * decays[t + 1]
    first = _log_scan(decays[0], rows[0], add)  # [K, *B, F]
    future = torch.cat([first[1:], torch.zeros_like(first[:1])]).unsqueeze(1)
    y = add(torch.stack(rows, 1), torch.stack(decays, 1), future)
    return y.flatten(0, 1)[:steps]


def reward2go(reward: Tensor, done: Tensor, gamma: float | Tensor = 1.0, *, time_dim: int = -2) -> Tensor:
    """Discounted sum of the rewards from each step to the end of its episode; no bootstrap.

    Args:
        reward: ``[*B, T, F]``.
        done: ``[*B, T, F]``, ends of episodes.
        gamma: Discount factor.
        time_dim: Where ``T`` is.

    >>> reward2go(torch.ones(4, 1), torch.tensor([[0], [1], [0], [0]], dtype=torch.bool)).T
    tensor([[2., 1., 2., 1.]])
    """
    _same_shapes("reward2go", reward=reward, done=done)
    return discounted_scan((~done).to(reward.dtype) * gamma, reward, time_dim)


def td0_return_estimate(
    gamma: float | Tensor,
    next_state_value: Tensor,
    reward: Tensor,
    terminated: Tensor | None = None,
    *,
    done: Tensor | None = None,
) -> Tensor:
    """One-step return ``r + gamma (1 - terminated) V'``.

    Args:
        gamma: Discount factor.
        next_state_value: ``V' [*B, T, F]``.
        reward: ``[*B, T, F]``.
        terminated: ``[*B, T, F]``; ``done`` if it is not given.
        done: ``[*B, T, F]``.

    >>> ended = torch.tensor([[False], [True]])
    >>> td0_return_estimate(0.5, torch.full((2, 1), 4.0), torch.ones(2, 1), ended).T
    tensor([[3., 1.]])
    """
    if terminated is None:
        terminated = _ends("td0_return_estimate", done, None)[1]
    terminated = terminated.bool()
    if not next_state_value.shape == reward.shape == terminated.shape:
        _same_shapes("td0_return_estimate", next_state_value=next_state_value, reward=reward, terminated=terminated)
    return _one_step(gamma, next_state_value, reward, terminated)


def td0_advantage_estimate(
    gamma: float | Tensor,
    state_value: Tensor,
    next_state_value: Tensor,
    reward: Tensor,
    done: Tensor,
    terminated: Tensor | None = None,
) -> Tensor:
    """One-step return minus ``state_value``: the temporal-difference error."""
    target = td0_return_estimate(gamma, next_state_value, reward, terminated, done=done)
    return target - state_value


def td_lambda_return_estimate(
    gamma: float | Tensor,
    lmbda: float | Tensor,
    next_state_value: Tensor,
    reward: Tensor,
    done: Tensor,
    terminated: Tensor | None = None,
    rolling_gamma: bool | None = None,
    *,
    time_dim: int = -2,
    vectorized: bool | None = None,
) -> Tensor:
    r"""Lambda-return.

    .. math:: G_t = r_t + \gamma_t (1 - e_t) \big((1 - \lambda) V'_t + \lambda G_{t+1}\big)

    where :math:`G_{t+1}` is :math:`V'_t` at the end of an episode and of the data.

    Args:
        gamma: Discount factor, or one a step.
        lmbda: From 0 (one step) to 1 (the whole episode).
        next_state_value: ``V' [*B, T, F]``.
        reward: ``[*B, T, F]``.
        done: ``[*B, T, F]``, cuts the recursion.
        terminated: ``[*B, T, F]``, stops the bootstrap; ``done`` if it is not given.
        rolling_gamma: With one discount a step: discount each reward by the product of the
            discounts on the way to it (``True``, the default), or all that follows step ``t`` by
            powers of its own discount (``False``; takes memory of order ``T ** 2``).
        time_dim: Where ``T`` is.
        vectorized: See :func:`discounted_scan`.

    Source: Sutton and Barto, Reinforcement Learning, 2nd edition, 2018, eq. 12.18.

    >>> value, reward = torch.full((2, 1), 4.0), torch.ones(2, 1)
    >>> td_lambda_return_estimate(0.5, 1.0, value, reward, torch.zeros(2, 1, dtype=torch.bool)).T
    tensor([[2.5000, 3.0000]])
    """
    name = "td_lambda_return_estimate"
    done, terminated = _ends(name, done, terminated)
    _same_shapes(name, next_state_value=next_state_value, reward=reward, done=done, terminated=terminated)
    if rolling_gamma is not None and not isinstance(gamma, Tensor):
        raise ValueError(
            describe(
                name,
                "got rolling_gamma with one discount for all steps",
                expected="a tensor gamma",
                found=gamma,
                hint="Leave rolling_gamma out.",
            )
        )
    if rolling_gamma is False:
        return _own_gamma_return(gamma, lmbda, next_state_value, reward, done, terminated, time_dim=time_dim)
    follows = _cut_last(done, time_dim).to(reward.dtype) * lmbda  # how far G_{t+1} counts
    alone = (1 - follows) * next_state_value  # what V' adds to it
    x = _one_step(gamma, alone, reward, terminated)
    return discounted_scan(follows * gamma, x, time_dim, vectorized)


def _own_gamma_return(
    gamma: float | Tensor,
    lmbda: float | Tensor,
    next_state_value: Tensor,
    reward: Tensor,
    done: Tensor,
    terminated: Tensor,
    *,
    time_dim: int,
) -> Tensor:
    """Lambda-return in which all that follows step ``t`` is discounted by ``gamma_t``."""
    gamma = torch.as_tensor(gamma).expand(reward.shape).movedim(time_dim, 0)  # [T, *B, F]
    lmbda = torch.as_tensor(lmbda).expand(reward.shape).movedim(time_dim, 0)
    entries = (next_state_value, reward, done, terminated)
    value, reward, done, terminated = (x.movedim(time_dim, 0) for x in entries)
    follows = _cut_last(done, 0).to(reward.dtype) * lmbda
    alive = gamma.unsqueeze(1) * ~terminated  # [start, T, *B, F]
    value = value.masked_fill(terminated, 0.0)
    x = torch.addcmul(reward.expand_as(alive), alive * (1 - follows), value.expand_as(alive))
    every = discounted_scan(follows * alive, x, 1)  # [start, T, *B, F]
    own = every.diagonal(dim1=0, dim2=1).movedim(-1, 0)  # [T, *B, F]
    return own.movedim(0, time_dim)


def td_lambda_advantage_estimate(
    gamma: float | Tensor,
    lmbda: float | Tensor,
    state_value: Tensor,
    next_state_value: Tensor,
    reward: Tensor,
    done: Tensor,
    terminated: Tensor | None = None,
    rolling_gamma: bool | None = None,
    time_dim: int = -2,
) -> Tensor:
    """Lambda-return minus ``state_value``."""
    target = td_lambda_return_estimate(
        gamma, lmbda, next_state_value, reward, done, terminated, rolling_gamma, time_dim=time_dim
    )
    return target - state_value


def td1_return_estimate(
    gamma: float | Tensor,
    next_state_value: Tensor,
    reward: Tensor,
    done: Tensor,
    terminated: Tensor | None = None,
    rolling_gamma: bool | None = None,
    time_dim: int = -2,
) -> Tensor:
    """Discounted return to the end of the episode: the lambda-return with ``lmbda = 1``.

    It bootstraps where the episode was truncated and where the data ends. Arguments as in
    :func:`td_lambda_return_estimate`.

    >>> reward, done = torch.ones(3, 1), torch.tensor([[False], [False], [True]])
    >>> td1_return_estimate(0.5, torch.full((3, 1), 8.0), reward, done, terminated=done).T
    tensor([[1.7500, 1.5000, 1.0000]])
    """
    return td_lambda_return_estimate(
        gamma, 1.0, next_state_value, reward, done, terminated, rolling_gamma, time_dim=time_dim
    )


def td1_advantage_estimate(
    gamma: float | Tensor,
    state_value: Tensor,
    next_state_value: Tensor,
    reward: Tensor,
    done: Tensor,
    terminated: Tensor | None = None,
    rolling_gamma: bool | None = None,
    time_dim: int = -2,
) -> Tensor:
    """Discounted return to the end of the episode minus ``state_value``."""
    target = td1_return_estimate(gamma, next_state_value, reward, done, terminated, rolling_gamma, time_dim=time_dim)
    return target - state_value


def generalized_advantage_estimate(
    gamma: float | Tensor,
    lmbda: float | Tensor,
    state_value: Tensor,
    next_state_value: Tensor,
    reward: Tensor,
    done: Tensor,
    terminated: Tensor | None = None,
    *,
    time_dim: int = -2,
    vectorized: bool | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Generalized advantage estimates and their value targets.

    .. math:: A_t = \delta_t + \gamma \lambda (1 - d_t) A_{t+1}, \quad
        \delta_t = r_t + \gamma (1 - e_t) V'_t - V_t, \quad \text{target}_t = A_t + V_t

    Args:
        gamma: Discount factor, or one a step.
        lmbda: Bias-variance trade-off, from 0 (one step) to 1 (the whole episode).
        state_value: ``V [*B, T, F]``.
        next_state_value: ``V' [*B, T, F]``.
        reward: ``[*B, T, F]``.
        done: ``[*B, T, F]``, cuts the recursion.
        terminated: ``[*B, T, F]``, stops the bootstrap; ``done`` if it is not given.
        time_dim: Where ``T`` is.
        vectorized: See :func:`discounted_scan`.

    Returns: ``advantage [*B, T, F]``, ``value_target [*B, T, F]``.

    Source: Schulman et al., 2016, https://arxiv.org/abs/1506.02438, eq. 16.

    >>> value, reward = torch.zeros(2, 1), torch.ones(2, 1)
    >>> alive = torch.zeros(2, 1, dtype=torch.bool)
    >>> generalized_advantage_estimate(0.5, 1.0, value, value, reward, alive)[0].T
    tensor([[1.5000, 1.0000]])
    """
    name = "generalized_advantage_estimate"
    done, terminated = _ends(name, done, terminated)
    _same_shapes(
        name,
        state_value=state_value,
        next_state_value=next_state_value,
        reward=reward,
        done=done,
        terminated=terminated,
    )
    delta = _one_step(gamma, next_state_value, reward, terminated) - state_value
    decay = (~done).to(reward.dtype) * (gamma * lmbda)
    advantage = discounted_scan(decay, delta, time_dim, vectorized)
    return advantage, advantage + state_value


def vtrace_advantage_estimate(
    gamma: float | Tensor,
    log_pi: Tensor,
    log_mu: Tensor,
    state_value: Tensor,
    next_state_value: Tensor,
    reward: Tensor,
    done: Tensor,
    terminated: Tensor | None = None,
    rho_thresh: float | Tensor = 1.0,
    c_thresh: float | Tensor = 1.0,
    time_dim: int = -2,
) -> tuple[Tensor, Tensor]:
    r"""V-trace advantages and targets, for data of another policy.

    .. math:: v_t = V_t + \delta_t + \gamma (1 - d_t) c_t (v_{t+1} - V_{t+1}), \quad
        \delta_t = \rho_t (r_t + \gamma (1 - e_t) V'_t - V_t)
    .. math:: A_t = \rho_t (r_t + \gamma (1 - e_t) v'_t - V_t)

    where :math:`v'_t` is :math:`v_{t+1}` inside an episode and :math:`V'_t` at its end and at the
    end of the data, :math:`\rho_t = \min(\bar\rho, \pi / \mu)` and
    :math:`c_t = \min(\bar c, \pi / \mu)`.

    Args:
        gamma: Discount factor, or one a step.
        log_pi: Log-probability of the action under the policy being learnt, ``[*B, T, F]``.
        log_mu: The same under the policy that acted, ``[*B, T, F]``.
        state_value: ``V [*B, T, F]``.
        next_state_value: ``V' [*B, T, F]``.
        reward: ``[*B, T, F]``.
        done: ``[*B, T, F]``, cuts the recursion.
        terminated: ``[*B, T, F]``, stops the bootstrap; ``done`` if it is not given.
        rho_thresh: Clips the weight of each temporal difference.
        c_thresh: Clips the weight of what follows; at most ``rho_thresh``.
        time_dim: Where ``T`` is.

    Returns: ``advantage [*B, T, F]``, ``value_target [*B, T, F]``.

    Raises:
        ValueError: if ``c_thresh`` exceeds ``rho_thresh``.

    Source: Espeholt et al., 2018, https://arxiv.org/abs/1802.01561, eq. 1 and section 4.2.
    """
    name = "vtrace_advantage_estimate"
    done, terminated = _ends(name, done, terminated)
    _same_shapes(
        name,
        log_pi=log_pi,
        log_mu=log_mu,
        state_value=state_value,
        next_state_value=next_state_value,
        reward=reward,
        done=done,
        terminated=terminated,
    )
    ratio = (log_pi - log_mu).exp()
    rho, c = _at_most(ratio, rho_thresh), _at_most(ratio, c_thresh)
    delta = rho * (_one_step(gamma, next_state_value, reward, terminated) - state_value)
    decay = (gamma * c).masked_fill(done, 0.0)
    correction = discounted_scan(decay, delta, time_dim)  # v_t - V_t
    # v_{t+1} = V'_t + (v_{t+1} - V_{t+1}) holds also where V'_t is not the value of the next row
    moved = correction.movedim(time_dim, 0)
    later = torch.cat([moved[1:], torch.zeros_like(moved[:1])]).movedim(0, time_dim).masked_fill(done, 0.0)
    target = _one_step(gamma, next_state_value + later, reward, terminated)
    advantage = rho * (target - state_value)
    return advantage, correction + state_value


def _one_step(gamma: float | Tensor, next_value: Tensor, reward: Tensor, terminated: Tensor) -> Tensor:
    """Return ``r + gamma (1 - e) V'``; what is said to follow an end may be anything, even NaN."""
    ahead = next_value.masked_fill(terminated, 0.0)
    if isinstance(gamma, Tensor):
        return reward + gamma * ahead
    return torch.add(reward, ahead, alpha=gamma)


def _at_most(ratio: Tensor, threshold: float | Tensor) -> Tensor:
    if isinstance(threshold, Tensor):
        return torch.minimum(ratio, threshold.to(ratio))
    return ratio.clamp_max(threshold)


def _cut_last(done: Tensor, time_dim: int) -> Tensor:
    """Say where a step is followed by another of its episode: not where done, nor at the end."""
    follows = (~done).movedim(time_dim, 0)
    return torch.cat([follows[:-1], torch.zeros_like(follows[:1])]).movedim(0, time_dim)


def _ends(name: str, done: Tensor | None, terminated: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return both flags: a missing one is the other; what terminates is done."""
    if terminated is None:
        if done is None:
            raise TypeError(describe(name, "got neither terminated nor done", hint="Pass one of them."))
        return done.bool(), done.bool()
    terminated = terminated.bool()
    return (terminated if done is None else done.bool() | terminated), terminated


def _same_shapes(name: str, **tensors: Tensor) -> None:
    """Raise :class:`ShapeError`, naming each tensor's shape, unless all are of one shape."""
    first = next(iter(tensors.values())).shape
    for tensor in tensors.values():
        if tensor.shape == first:
            continue
        shapes = {key: list(tensor.shape) for key, tensor in tensors.items()}
        raise ShapeError(
            describe(
                name,
                "got tensors of different shapes",
                expected="one shape [*batch, time, feature]",
                found=shapes,
                hint="Rewards, values and flags keep their last dimension: unsqueeze(-1).",
            )
        )


vec_generalized_advantage_estimate = generalized_advantage_estimate
vec_td1_return_estimate = td1_return_estimate
vec_td1_advantage_estimate = td1_advantage_estimate
vec_td_lambda_return_estimate = td_lambda_return_estimate
vec_td_lambda_advantage_estimate = td_lambda_advantage_estimate
