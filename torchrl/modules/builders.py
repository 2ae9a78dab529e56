"""Actors and critics whose networks, distributions and bounds follow from the specs of an environment.

An environment here is anything with ``observation_spec``, ``action_spec``, ``action_key`` and ``device``. ``*B``
batch dimensions, ``A`` numbers of an action, ``N`` values of a discrete one, ``K`` those of several choices
together, ``Z`` atoms or quantiles.

What all builders do with observations: vectors are concatenated, in the sorted order of their keys; a number among
``n`` becomes one-hot; images go through a :class:`~torchrl.modules.ConvNet`, bytes divided by 255 before it; its
output is concatenated with the vectors. Masks, statistics (``step_count``, ``episode_reward``, ``is_init``) and
recurrent states are no observations, unless ``in_keys`` names them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from tensordict import NestedKey
from tensordict.nn import TensorDictModuleBase
from torch import Tensor, nn

from torchrl._core.errors import describe
from torchrl.data import Bounded, Categorical, OneHot, Unbounded
from torchrl.data.tensor_specs import MultiCategorical, MultiOneHot
from torchrl.modules.action_heads import DISCRETE, Reshape, continuous_head, discrete_head, is_bounded
from torchrl.modules.encoders import Activation, Body, Cells, Device, Keys, Problem, initialize, joined
from torchrl.modules.models.decision_transformer import DTActor, TransformerConfig
from torchrl.modules.models.dqn import _Dueling
from torchrl.modules.models.exploration import NoisyLinear
from torchrl.modules.models.layers import BatchRenorm1d, Layers
from torchrl.modules.tensordict_module.actors import ProbabilisticActor, TanhModule, ValueOperator
from torchrl.modules.tensordict_module.decision_transformer import DecisionTransformerPolicy, action_size
from torchrl.modules.tensordict_module.probabilistic import SafeProbabilisticModule
from torchrl.modules.tensordict_module.qvalue import DistributionalQValueActor, QuantileQValueActor, QValueActor
from torchrl.modules.tensordict_module.sequence import SafeSequential

__all__ = ["make_actor", "make_critic", "make_decision_transformer", "make_deterministic_actor", "make_q_actor"]

Support = Tensor | tuple[float, float, int]


def make_actor(
    env: Any,
    *,
    num_cells: Cells = None,
    activation: Activation = "tanh",
    recurrent: str | None = None,
    hidden_size: int = 64,
    scale: str = "free",
    squash: bool | None = None,
    init_scale: float = 1.0,
    gain: float | None = 2**0.5,
    last_gain: float = 0.01,
    in_keys: Keys = None,
    action_key: NestedKey | None = None,
    return_log_prob: bool = True,
    device: Device = None,
) -> ProbabilisticActor:
    """Return a stochastic policy whose network, distribution and bounds follow from the specs of an environment.

    The distribution of discrete actions is categorical or one-hot as the spec is; of several choices
    :class:`~torchrl.modules.FactorizedCategorical` or its one-hot form; with the mask in ``"action_mask"``, beside
    the action or at the root, where the environment has one. Binary actions are independent. Bounded continuous
    actions have a :class:`~torchrl.modules.TanhNormal`, others a normal distribution.

    Args:
        env: The environment; its batch size does not matter.
        num_cells: Width of each hidden layer; ``None`` for (64, 64), or after images the layer of 512 units of
            Mnih et al., 2015, if they have 36 pixels or more on each side, else that of 128 of Young and Tian, 2019.
        activation: Name (``"tanh"``, ``"relu"``, ...) or class of the activations.
        recurrent: ``"lstm"`` or ``"gru"`` for a recurrent layer after the hidden ones. The environment then needs
            the flag ``is_init`` of :class:`~torchrl.envs.InitTracker`.
        hidden_size: Size of the recurrent state.
        scale: ``"free"`` for one trained scale of each number of the action, the same in all states, as PPO is
            usually run; ``"network"`` for one that the network computes, as in SAC, its logarithm in [-20, 2].
        squash: Whether continuous actions are squashed into their bounds by a hyperbolic tangent; true by default
            where there are bounds. Andrychowicz et al., 2021, https://arxiv.org/abs/2006.05990, find squashing best
            for PPO too, and actions are always legal. Reference implementations of PPO have ``False``: actions then
            may leave the bounds, of which the environment warns once, and it must clip them.
        init_scale: Initial scale, for ``"free"``.
        gain: Gain of the orthogonal initialisation, biases being zero, as usual for PPO (Engstrom et al., 2020,
            https://arxiv.org/abs/2005.12729); ``None`` for the default initialisation of torch, as usual for SAC.
        last_gain: Gain of the last layer.
        in_keys: Observations to read; all of them by default.
        action_key: The action, if there are several.
        return_log_prob: Write the log-probability of the action.
        device: Where the parameters live; where the environment is by default.

    Reads: the observations, the mask if there is one, and the recurrent state.
    Writes: parameters of the distribution (``logits``, or ``loc`` and ``scale``), the action, ``action_log_prob [*B]``
        (named after the action), the recurrent state under ``"next"``.

    Raises:
        SpecError: if an entry is missing, belongs to several agents, or has a spec that does not fit.
        ValueError: for an unknown activation, recurrent layer or scale.

    >>> from torchrl.envs import GymEnv
    >>> env = GymEnv("Pendulum-v1")
    >>> actor = make_actor(env, num_cells=(256, 256), activation="relu", scale="network", gain=None)  # for SAC
    >>> sorted(env.rollout(5, actor).exclude("next", "done", "terminated", "truncated").keys())
    ['action', 'action_log_prob', 'loc', 'observation', 'scale']
    """
    problem = Problem("make_actor", env, in_keys, action_key, device)
    is_discrete = isinstance(problem.action_spec, DISCRETE)
    head = discrete_head(problem) if is_discrete else continuous_head(problem, scale, squash, init_scale)
    body = Body(problem.owner, problem.observations, num_cells, activation, problem.device, recurrent, hidden_size)
    net = body.build(lambda width: [nn.Linear(width, head.size, device=body.device), *head.layers], [*head.params])
    initialize(net, gain, last_gain)
    reads = {name: name for name in head.params} | ({} if head.mask_key is None else {"mask": head.mask_key})
    return ProbabilisticActor(
        net,
        reads,
        [problem.action_key],  # type: ignore[list-item]  # not None any more
        spec=problem.action_spec,
        distribution_class=head.kind,
        distribution_kwargs=head.kwargs,
        return_log_prob=return_log_prob,
    )


def make_deterministic_actor(
    env: Any,
    *,
    num_cells: Cells = None,
    activation: Activation = "relu",
    recurrent: str | None = None,
    hidden_size: int = 64,
    gain: float | None = None,
    last_gain: float = 0.01,
    in_keys: Keys = None,
    action_key: NestedKey | None = None,
    device: Device = None,
) -> SafeSequential:
    """Return a deterministic policy of continuous actions, squashed into their bounds: for DDPG and TD3.

    Args:
        env: The environment.
        num_cells: See :func:`make_actor`, as for all other arguments.
        activation: Name or class of the activations.
        recurrent: ``"lstm"``, ``"gru"`` or ``None``.
        hidden_size: Size of the recurrent state.
        gain: Gain of an orthogonal initialisation; that of torch by default.
        last_gain: Gain of the last layer.
        in_keys: Observations to read; all of them by default.
        action_key: The action, if there are several.
        device: Where the parameters live.

    Reads: the observations. Writes: the action ``[*B, A]``.

    Raises:
        SpecError: if the action is not continuous, or as :func:`make_actor`.

    Source: Fujimoto et al., 2018, https://arxiv.org/abs/1802.09477.

    >>> from torchrl.envs import GymEnv
    >>> env = GymEnv("Pendulum-v1")
    >>> bool((env.rollout(5, make_deterministic_actor(env))["action"].abs() <= 2).all())
    True
    """
    problem = Problem("make_deterministic_actor", env, in_keys, action_key, device)
    spec, key = problem.action_spec, problem.action_key
    assert key is not None
    if not isinstance(spec, Bounded | Unbounded) or not (spec.dtype or torch.int64).is_floating_point:
        raise problem.misfit("continuous numbers", "Use make_q_actor for discrete actions.")
    body = Body(problem.owner, problem.observations, num_cells, activation, problem.device, recurrent, hidden_size)
    shape = tuple(spec.shape)

    def head(width: int) -> list[nn.Module]:
        last = nn.Linear(width, math.prod(shape), device=body.device)
        return [last] if len(shape) == 1 else [last, Reshape(shape)]

    net = body.build(head, [key])
    initialize(net, gain, last_gain)
    if not is_bounded(spec):
        return SafeSequential(net)
    return SafeSequential(net, TanhModule([key], spec=spec).to(problem.device))


def make_q_actor(
    env: Any,
    *,
    num_cells: Cells = None,
    activation: Activation = "relu",
    dueling: bool = False,
    noisy: bool = False,
    support: Support | None = None,
    num_quantiles: int | None = None,
    recurrent: str | None = None,
    hidden_size: int = 64,
    in_keys: Keys = None,
    action_key: NestedKey | None = None,
    device: Device = None,
) -> QValueActor | DistributionalQValueActor | QuantileQValueActor:
    """Return a network of action values and the choice of the best action: for DQN and its relatives.

    Forbidden actions are left out where the environment has an ``"action_mask"``. Weights have torch's default
    initialisation.

    Args:
        env: The environment, with discrete actions. The value of several choices is the sum of their values.
        num_cells: See :func:`make_actor`.
        activation: Name or class of the activations.
        dueling: Have two streams, for the value of the state and for the advantages; each has the last of the
            hidden layers of its own. Source: Wang et al., 2016, https://arxiv.org/abs/1511.06581.
        noisy: Have noise on the weights of all linear layers, instead of an exploration module. Source: Fortunato et
            al., 2018, https://arxiv.org/abs/1706.10295.
        support: Values of the atoms of a distribution of values, ``[Z]``, or lowest, highest and their number:
            for :class:`~torchrl.objectives.DistributionalDQNLoss`.
        num_quantiles: Number of quantiles of the value, for :class:`~torchrl.objectives.QRDQNLoss`.
        recurrent: ``"lstm"``, ``"gru"`` or ``None``.
        hidden_size: Size of the recurrent state.
        in_keys: Observations to read; all of them by default.
        action_key: The action, if there are several.
        device: Where the parameters live.

    Reads: the observations, and the mask if there is one.
    Writes: the action, ``action_value [*B, N]`` (``[*B, Z, N]`` with atoms or quantiles), and but with atoms
        ``chosen_action_value [*B, 1]``.

    Raises:
        SpecError: if the action is not discrete, or is several choices with atoms or quantiles.
        ValueError: if both atoms and quantiles are asked for.

    >>> from torchrl.envs import GymEnv
    >>> env = GymEnv("CartPole-v1")
    >>> env.rollout(3, make_q_actor(env, dueling=True))["action_value"].shape
    torch.Size([3, 2])
    >>> make_q_actor(env, support=(-10, 10, 51))(env.reset())["action_value"].shape
    torch.Size([51, 2])
    """
    problem = Problem("make_q_actor", env, in_keys, action_key, device)
    spec, key, mask_key = problem.action_spec, problem.action_key, problem.mask_key
    count, is_product = _count_values(problem)
    if support is not None and num_quantiles is not None:
        raise ValueError(describe(problem.owner, "has either atoms or quantiles", hint="Drop one of the two."))
    if is_product and (support is not None or num_quantiles is not None):
        raise problem.misfit("a single choice for a distribution of values", "Leave out support and num_quantiles.")
    sizes = (num_cells, activation, problem.device, recurrent, hidden_size)
    body = Body(problem.owner, problem.observations, *sizes, linear=NoisyLinear if noisy else nn.Linear)
    atoms = None
    if support is not None:
        atoms = support if isinstance(support, Tensor) else torch.linspace(*support)
        atoms = atoms.to(problem.device or atoms.device)
    rows = len(atoms) if atoms is not None else num_quantiles
    shape = (count,) if rows is None else (rows, count)
    net = body.build(_value_head(body, shape, dueling), ["action_value"])
    options: dict[str, Any] = {"spec": spec, "action_key": key, "action_mask_key": mask_key}
    if atoms is not None:
        return DistributionalQValueActor(net, atoms, **options)
    return QValueActor(net, **options) if num_quantiles is None else QuantileQValueActor(net, **options)


def _value_head(body: Body, shape: tuple[int, ...], dueling: bool) -> Callable[[int], list[nn.Module]]:
    """Return the function from the width of the hidden layers to the layers that compute values.

    Args:
        body: The hidden layers; two streams take over the last of them, unless it is before a recurrent one.
        shape: Shape of the values, ``[N]`` or ``[Z, N]``.
        dueling: Whether there are two streams.
    """
    stream = []
    if dueling and body.recurrent is None and body.cells:
        *body.cells, last = body.cells
        stream = [last]

    def values(width: int, shape: tuple[int, ...]) -> nn.Module:
        hidden = body.layers(stream, width)
        last = body.linear([width, *stream][-1], math.prod(shape), device=body.device)
        return Layers(*hidden, last) if len(shape) == 1 else Layers(*hidden, last, Reshape(shape))

    def head(width: int) -> list[nn.Module]:
        if not dueling:
            return [values(width, shape)]
        return [_Dueling(nn.Identity(), values(width, shape), values(width, (*shape[:-1], 1)))]

    return head


def _count_values(problem: Problem) -> tuple[int, bool]:
    """Return how many values a discrete action has, all choices together, and whether there are several choices.

    Raises:
        SpecError: if the action is not discrete.
    """
    spec = problem.action_spec
    hint = "Use make_actor or make_deterministic_actor for other actions."
    if isinstance(spec, MultiCategorical | MultiOneHot):
        if spec.nvec.ndim > 1:
            raise problem.misfit("choices side by side", "Flatten the action.")
        return sum(spec.counts), True
    if isinstance(spec, Categorical | OneHot) and len(spec.shape) == isinstance(spec, OneHot):
        return spec.space.n, False
    raise problem.misfit("a discrete action", hint)


def make_critic(
    env: Any,
    *,
    with_action: bool = False,
    values_of_actions: bool = False,
    num_cells: Cells = None,
    activation: Activation = "tanh",
    recurrent: str | None = None,
    hidden_size: int = 64,
    num_quantiles: int | None = None,
    batch_norm: bool | str = False,
    layer_norm: bool = False,
    gain: float | None = 2**0.5,
    last_gain: float = 1.0,
    out_key: NestedKey | None = None,
    in_keys: Keys = None,
    action_key: NestedKey | None = None,
    device: Device = None,
) -> TensorDictModuleBase:
    """Return a value function whose network follows from the specs of an environment.

    Args:
        env: The environment.
        with_action: Value observation and action, ``Q(s, a)``; discrete actions go in as one-hot vectors.
        values_of_actions: Value each of the discrete actions, ``Q(s, .)``.
        num_cells: See :func:`make_actor`, as for all arguments that are not listed here.
        activation: Name or class of the activations.
        recurrent: ``"lstm"``, ``"gru"`` or ``None``; the state has other names than that of an actor. To have it in
            the batch, collect with ``ActorCriticWrapper(actor, critic)``.
        hidden_size: Size of the recurrent state.
        num_quantiles: Number of quantiles of ``Q(s, a)``, for :class:`~torchrl.objectives.TQCLoss`.
        batch_norm: ``"renorm"`` for :class:`~torchrl.modules.BatchRenorm1d` before the first layer and after each
            activation, for :class:`~torchrl.objectives.CrossQLoss`. Source: Bhatt et al., 2024,
            https://arxiv.org/abs/1902.05605.
        layer_norm: Have a layer normalisation before each activation.
        gain: Gain of an orthogonal initialisation, as usual for PPO; ``None`` for that of torch, as for SAC.
        last_gain: Gain of the last layer.
        out_key: Name of the value.
        in_keys: Observations to read; all of them by default.
        action_key: The action, if there are several.
        device: Where the parameters live.

    Reads: the observations, and the action with ``with_action``.
    Writes: ``state_value [*B, 1]``; ``state_action_value [*B, 1]``, or ``[*B, Z]`` of quantiles;
        ``action_value [*B, N]``.

    Raises:
        SpecError: if the action is not a single choice, for ``values_of_actions``.
        ValueError: if arguments contradict each other.

    >>> from torchrl.envs import GymEnv
    >>> env = GymEnv("CartPole-v1")
    >>> make_critic(env)(env.reset())["state_value"].shape
    torch.Size([1])
    >>> make_critic(env, values_of_actions=True)(env.reset())["action_value"].shape
    torch.Size([2])
    """
    owner = "make_critic"
    _check_critic(owner, with_action, values_of_actions, num_quantiles, batch_norm)
    problem = Problem(owner, env, in_keys, action_key, device)
    inputs, size, name = problem.observations, num_quantiles or 1, "state_value"
    if with_action:
        assert problem.action_key is not None
        inputs, name = {**inputs, problem.action_key: problem.action_spec}, "state_action_value"
    elif values_of_actions:
        (size, is_product), name = _count_values(problem), "action_value"
        if is_product:
            raise problem.misfit("a single choice, each of which is valued")
    sizes = (num_cells, activation, problem.device, recurrent, hidden_size)
    norms: dict[str, Any] = {
        "norm": nn.LayerNorm if layer_norm else None,
        "batch_norm": BatchRenorm1d if batch_norm else None,
    }
    body = Body(owner, inputs, *sizes, prefix="critic_", **norms)
    key = name if out_key is None else out_key
    net = body.build(lambda width: [nn.Linear(width, size, device=body.device)], [key], ValueOperator)
    initialize(net, gain, last_gain)
    return net


def _check_critic(
    owner: str, with_action: bool, values_of_actions: bool, num_quantiles: int | None, batch_norm: bool | str
) -> None:
    """Raise ValueError if these arguments of a critic contradict each other."""
    if with_action and values_of_actions:
        raise ValueError(describe(owner, "reads the action or values all", hint="Drop one of the two arguments."))
    if num_quantiles is not None and not with_action:
        raise ValueError(describe(owner, "has quantiles of Q(s, a) only", hint="Add with_action=True."))
    if batch_norm not in (False, "renorm"):
        raise ValueError(
            describe(owner, "has no such batch_norm", expected="False or 'renorm'", found=repr(batch_norm))
        )


def make_decision_transformer(
    env: Any,
    *,
    context: int = 20,
    num_cells: int = 128,
    num_layers: int = 3,
    num_heads: int = 1,
    activation: str = "relu",
    dropout: float = 0.1,
    desired_return: float = 0.0,
    return_scale: float = 1.0,
    in_keys: Keys = None,
    device: Device = None,
) -> DecisionTransformerPolicy:
    """Return a Decision Transformer that acts, for one discrete choice or continuous actions.

    Args:
        env: The environment.
        context: Number ``K`` of last steps that the policy sees.
        num_cells: Width of the transformer.
        num_layers: Its layers.
        num_heads: Its attention heads.
        activation: ``"relu"`` or ``"gelu"``.
        dropout: Share of numbers dropped, of sequences in training.
        desired_return: The return to reach.
        return_scale: Returns are divided by it.
        in_keys: Observations to read; all of them by default.
        device: Where the parameters live.

    Reads: the observations, the mask of a discrete action if there is one, ``is_init``, the state, the last reward.
    Writes: the action; ``logits [*B, N]`` of discrete actions; the state. Continuous actions are squashed into their
        bounds by a hyperbolic tangent.

    Raises:
        SpecError: if the action is neither continuous nor one choice.

    Source: Chen et al., 2021, https://arxiv.org/abs/2106.01345, whose sizes for MuJoCo are the defaults.

    >>> from torchrl.envs import Compose, GymEnv, InitTracker, TransformedEnv
    >>> env = GymEnv("Pendulum-v1")
    >>> policy = make_decision_transformer(env, context=4)
    >>> env = TransformedEnv(env, Compose(InitTracker(), policy.make_tensordict_primer()))
    >>> env.rollout(6, policy)["context_observation"].shape
    torch.Size([6, 4, 3])
    """
    problem = Problem("make_decision_transformer", env, in_keys, None, device)
    spec, key = problem.action_spec, problem.action_key
    assert key is not None
    body = Body(problem.owner, problem.observations, (), activation, problem.device)
    size = action_size(spec)
    head: TensorDictModuleBase | None = None
    param_key = key
    if isinstance(spec, Bounded | Unbounded) and (spec.dtype or torch.int64).is_floating_point:
        if is_bounded(spec):
            head = TanhModule([key], spec=spec).to(problem.device)
    elif isinstance(spec, Categorical | OneHot) and len(spec.shape) == isinstance(spec, OneHot):
        head, param_key = _choice(problem), "logits"
    else:
        raise problem.misfit("continuous numbers, or one choice", "Flatten several choices into one.")
    sizes = TransformerConfig(num_cells, num_layers, num_heads, None, activation, context, dropout)
    return DecisionTransformerPolicy(
        joined(body.encoders, Layers()),
        DTActor(body.width, size, sizes, device=body.device),
        head,
        observation_keys=list(problem.observations),
        action_spec=spec,
        num_features=body.width,
        context=context,
        desired_return=desired_return,
        return_scale=return_scale,
        param_key=param_key,
        action_key=key,
    )


def _choice(problem: Problem) -> SafeProbabilisticModule:
    """Return the module that draws a discrete action from ``logits``, and the mask if there is one."""
    head = discrete_head(problem)
    reads: dict[str, NestedKey] = {"logits": "logits"} | ({} if head.mask_key is None else {"mask": head.mask_key})
    assert problem.action_key is not None
    return SafeProbabilisticModule(
        reads, [problem.action_key], problem.action_spec, distribution_class=head.kind, distribution_kwargs=head.kwargs
    )
