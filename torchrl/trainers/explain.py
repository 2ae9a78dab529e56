"""`explain`: which entry is written and read by which component of a training program."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase, unravel_key
from tensordict.nn import TensorDictSequential
from torch import Tensor, nn

from torchrl._core.exploration import set_exploration_type
from torchrl._core.keys import as_keys, leaf_keys, next_key
from torchrl._core.mdp import last_name
from torchrl._core.records.policies import input_keys
from torchrl.collectors import BaseCollector
from torchrl.data import Composite, PrioritizedSampler, ReplayBuffer, TensorDictReplayBuffer
from torchrl.envs import EnvBase, Transform, TransformedEnv
from torchrl.envs.specs import leaf_names
from torchrl.envs.stepping.rollout import as_tensordict_policy
from torchrl.objectives import LossModule
from torchrl.objectives.value import ValueEstimatorBase
from torchrl.trainers.explanation import END_FLAGS, Component, Described, Explanation, covered

PLAIN = ("TensorDictModule", "SafeModule", "ObservationPolicy", "SafeSequential", "TensorDictSequential")


def explain(
    env: EnvBase | None = None,
    policy: Any = None,
    loss: nn.Module | None = None,
    *,
    collector: BaseCollector | None = None,
    replay_buffer: ReplayBuffer | None = None,
    transforms: Sequence[Callable[..., Any]] = (),
    value_estimator: ValueEstimatorBase | None = None,
) -> Explanation:
    """Follow the entries of the data from the reset of an environment to the loss.

    The components are those of a training program in the order of the data flow: the reset, each transform,
    each module of the policy, the step, the collector, the transforms of the replay buffer, the value
    estimator, the networks of the loss and the loss. What they read and write follows from specs and from
    ``in_keys`` and ``out_keys``; copies of the policy's modules run once, on data of zeros, for shapes and
    for policies without such keys. Nothing that is passed is changed.

    Args:
        env: The environment; that of the collector if ``None``. Without both, whatever no other component
            writes is taken to come from the environment.
        policy: The policy; that of the collector, or the one that the loss trains, if ``None``.
        loss: The loss.
        collector: The collector.
        replay_buffer: The buffer, whose transforms, sampler and priorities count.
        transforms: Transforms that are applied to a batch besides, in their order.
        value_estimator: What computes advantages from a batch, if the loss is not left to do it.

    Returns: An :class:`~torchrl.trainers.explanation.Explanation`: ``problems`` is empty if all fits; ``text()``,
    ``mermaid()`` and ``html()`` show everything; Jupyter shows the HTML.

    Raises:
        ValueError: without env, policy, loss and collector.

    >>> from torchrl.envs import CartPoleEnv
    >>> from torchrl.modules import MLP, QValueActor
    >>> from torchrl.objectives import DQNLoss
    >>> env = CartPoleEnv()
    >>> policy = QValueActor(MLP(4, 2), in_keys=["observations"], spec=env.action_spec)
    >>> print(*explain(env, policy).problems)
    missing: observations is read by QValueActor: MLP and written by no component; nearest: observation.
    >>> policy = QValueActor(MLP(4, 2), spec=env.action_spec)
    >>> explanation = explain(env, policy, DQNLoss(policy))
    >>> explanation.problems, explanation.size("action_value"), explanation.readers("action_value")
    ((), 'float32 [2]', ('QValueActor: QValueModule',))
    """
    if collector is not None:
        env = getattr(collector, "env", None) if env is None else env
        policy = getattr(collector, "policy", None) if policy is None else policy
    if env is None and policy is None and loss is None:
        raise ValueError("explain: there is nothing to explain. Pass env, policy, loss or collector.")
    if policy is None and loss is not None:  # the one that it trains
        actor, value = getattr(loss, "actor_network", None), getattr(loss, "value_network", None)
        policy = actor if actor is not None else value if "action" in getattr(value, "out_keys", ()) else None
    flow = DataFlow(env)
    if env is not None:
        flow.add_reset(env)
    if policy is not None:
        flow.add_policy(policy)
    elif env is not None:
        flow.add(Component("random actions", "policy", writes=tuple(env.action_keys)))
    if env is not None:
        flow.add_step(env)
    if collector is not None:
        flow.add(Component(type(collector).__name__, "collect", writes=(("collector", "traj_ids"),)))
    flow.add_samples(replay_buffer, transforms)
    if value_estimator is not None:
        flow.add_values(value_estimator)
    if loss is not None:
        flow.add_loss(loss)
    if isinstance(replay_buffer, TensorDictReplayBuffer) and isinstance(replay_buffer.sampler, PrioritizedSampler):
        keys: tuple[NestedKey, ...] = ("index", replay_buffer.priority_key)
        flow.add(Component("update of the priorities", "update", reads=keys))
    return flow.explanation(unread_is_known=loss is not None)


def named_modules_of(module: Any, owner: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the modules that a policy calls one after the other, each with its name.

    >>> from torchrl.modules import QValueActor
    >>> [name for name, _ in named_modules_of(QValueActor(nn.Linear(4, 2), action_space="one_hot"))]
    ['QValueActor: Linear', 'QValueActor: QValueModule']
    """
    kind = getattr(module, "__name__", type(module).__name__)
    if isinstance(module, TensorDictSequential):
        for part in module.module:
            yield from named_modules_of(part, owner if kind in PLAIN else f"{kind}: ")
        return
    inner = getattr(module, "module", None)
    if kind in PLAIN and inner is not None:
        kind = getattr(inner, "__name__", type(inner).__name__)
    yield f"{owner}{kind}", module


class DataFlow:
    """Collects components in the order of the data flow, with shapes.

    Args:
        env: The environment; entries that no component writes are taken to be its own if ``None``.
    """

    def __init__(self, env: EnvBase | None) -> None:
        self.env = env
        self.components: list[Component] = []
        self.described: dict[NestedKey, Described] = {}
        self.failures: dict[str, str] = {}
        self._root: TensorDictBase | None = None
        if env is not None:
            fake = env.fake_tensordict()
            self._describe(fake)
            self._root = fake.exclude("next", *env.action_keys)
            for key in leaf_keys(self._root):  # masks allow every choice, not none
                value = self._root.get(key)
                if isinstance(value, Tensor) and value.dtype is torch.bool and last_name(key) not in END_FLAGS:
                    self._root.set(key, torch.ones_like(value))

    def _describe(self, td: TensorDictBase) -> None:
        for key in leaf_keys(td):
            value = td.get(key)
            if isinstance(value, Tensor):
                self.described.setdefault(key, (tuple(value.shape), value.dtype))

    def add(self, component: Component) -> None:
        """Append a component."""
        self.components.append(component)

    @property
    def written(self) -> list[NestedKey]:
        """Every entry that is written so far."""
        return [key for part in self.components for key in part.writes]

    def explanation(self, *, unread_is_known: bool) -> Explanation:
        """Return what was collected."""
        components = self.components
        if self.env is None:
            written = self.written
            reads = dict.fromkeys(key for part in components for key in part.reads if not covered(key, written))
            outside = Component("environment, which was not passed", "reset", writes=tuple(reads))
            components = [outside, *components]
        return Explanation(tuple(components), self.described, self.failures, unread_is_known)

    # --- environment -----------------------------------------------------------------------------

    def add_reset(self, env: EnvBase) -> None:
        """Add the reset of the innermost environment, and each transform."""
        base, layers = _layers(env)
        self.add(Component(type(base).__name__, "reset", writes=tuple(_outputs(base, reward=False))))
        for layer in layers:
            self.add(Component(layer.name, "reset", *layer.changes(reward=False)))

    def add_step(self, env: EnvBase) -> None:
        """Add the inverse of each transform, the step of the innermost environment, and each transform."""
        base, layers = _layers(env)
        known, carried = _inputs(env), self.written  # a primer leaves states that the policy writes as they are
        inside: dict[NestedKey, NestedKey] = {}  # names inside of what is read outside
        for layer in reversed(layers):
            part = layer.transform
            reads = tuple(key for key in part.out_keys_inv if key in known or covered(key, self.written))
            if reads:
                self.add(Component(f"{layer.name}, inverse", "step", reads))
            for inner, outer in zip(part.in_keys_inv, part.out_keys_inv, strict=True):
                inside[inner] = inside.get(outer, outer)
        keys = dict.fromkeys(inside.get(key, key) for key in _inputs(base))
        reads = tuple(key for key in keys if key in known or covered(key, self.written))
        self.add(Component(type(base).__name__, "step", reads, tuple(map(next_key, _outputs(base)))))
        for layer in layers:
            changed = layer.changes()
            new = tuple(key for key in map(next_key, changed[1]) if key not in carried)
            if changed[0] or new:
                self.add(Component(layer.name, "step", tuple(map(next_key, changed[0])), new))

    # --- policy ----------------------------------------------------------------------------------

    def add_policy(self, policy: Any) -> None:
        """Add each module of a policy, and run a copy of it for the shapes of what it writes."""
        if self.env is not None and not hasattr(policy, "in_keys"):
            policy = as_tensordict_policy(self.env, policy)
        for name, module in named_modules_of(policy):
            if hasattr(module, "in_keys"):
                reads, writes = as_keys(list(module.in_keys)), as_keys(list(module.out_keys))
            else:
                reads, writes = self._probe(module)
            states = tuple(key for key in reads if next_key(key) in writes and not covered(key, self.written))
            self._run(name, module, [key for key in reads if key not in states])
            kept = tuple(key for key in writes if key != "_")
            self.add(Component(name, "policy", tuple(reads), kept, in_place=False))

    def _run(self, name: str, module: Any, reads: Sequence[NestedKey]) -> None:
        """Run a copy of a module on the entries so far; note the shapes of what it writes, or its error."""
        root = self._root
        if root is None or not all(covered(key, leaf_keys(root)) for key in reads):
            return
        try:
            module = copy.deepcopy(module)
        except Exception:  # what cannot be copied is not run: that might change it
            return
        try:
            self._root = _called(module, root)
            self._describe(self._root)
        except Exception as error:  # whatever it is, it is reported
            self.failures[name] = f"{type(error).__name__}: {error}".partition("\n")[0]

    def _probe(self, function: Callable[..., Any]) -> tuple[list[NestedKey], list[NestedKey]]:
        """Return what a function of a tensordict reads and writes: it is called without each entry in turn."""
        if self._root is None or not _runs(function, self._root):
            return [], []
        out = _called(function, self._root)
        before = leaf_keys(self._root)
        reads = [key for key in before if not _runs(function, self._root.exclude(key))]
        changed = [key for key in leaf_keys(out) if key not in before or out.get(key) is not self._root.get(key)]
        return reads, changed

    # --- learning --------------------------------------------------------------------------------

    def add_samples(self, buffer: ReplayBuffer | None, transforms: Iterable[Callable[..., Any]]) -> None:
        """Add what a replay buffer and transforms write into samples."""
        parts = [*transforms]
        if buffer is not None:
            writes: list[NestedKey] = ["index"] if isinstance(buffer, TensorDictReplayBuffer) else []
            if isinstance(buffer.sampler, PrioritizedSampler) and writes:
                writes.append("priority_weight")
            name = f"{type(buffer).__name__}: {type(buffer.sampler).__name__}"
            self.add(Component(name, "sample", writes=tuple(writes)))
            inner: Any = buffer.transform
            parts = [*(step for step, _ in inner.steps), *parts]
        for part in parts:
            for leaf in part.leaves() if isinstance(part, Transform) else [part]:
                keys = as_keys(list(getattr(leaf, "in_keys", ())))
                written = self.written
                after = {unravel_key(key[1:]) for key in written if isinstance(key, tuple) and key[0] == "next"}
                # a transform of rewards names them without "next"
                reads = [key for key in keys if covered(key, written) or key not in after]
                optional = [key for key in keys if key not in reads]
                writes = as_keys(list(getattr(leaf, "out_keys", ())))
                self.add(Component(type(leaf).__name__, "sample", tuple(reads), tuple(writes), tuple(optional)))

    def add_values(self, estimator: ValueEstimatorBase) -> None:
        """Add a value estimator."""
        keys: Any = estimator.in_keys, estimator.out_keys
        reads, writes = map(as_keys, map(list, keys))
        self._add_learner(str(type(estimator).__name__), "values", reads, writes)
        reward = self.described.get(next_key(estimator.tensor_keys.reward))
        if reward is not None:
            self.described |= {key: reward for key in writes if key not in self.described}

    def _add_learner(
        self,
        name: str,
        phase: str,
        reads: Sequence[NestedKey],
        writes: Sequence[NestedKey],
        returns: Sequence[str] = (),
    ) -> None:
        """Add a component that reads a batch, in which ``done`` may replace ``terminated``."""
        written = self.written
        ends = {"terminated": "done", "done": "terminated"}
        found: list[NestedKey] = []
        for key in reads:
            if not covered(key, written) and isinstance(key, tuple) and key[-1] in ends:
                other = (*key[:-1], ends[key[-1]])
                key = other if covered(other, written) else key
            found.append(key)
        self.add(Component(name, phase, tuple(dict.fromkeys(found)), tuple(writes), returns=tuple(returns)))

    def add_loss(self, loss: nn.Module) -> None:
        """Add each network of a loss, the estimate of its advantages, and the loss."""
        kind = type(loss).__name__
        if not isinstance(loss, LossModule):
            reads = as_keys(list(getattr(loss, "in_keys", ())))
            self._add_learner(kind, "loss", reads, [], [str(key) for key in getattr(loss, "out_keys", ())])
            return
        names = loss.tensor_keys
        by_networks: set[NestedKey] = set()
        parts: list[Component] = []
        for name, network in loss.named_networks().items():
            first = network if hasattr(network, "in_keys") else next(iter(network), None)
            places = loss.network_inputs.get(name, "")
            inputs = [] if first is None else input_keys(first)
            keys = [*(inputs if "root" in places else []), *(map(next_key, inputs) if "next" in places else [])]
            keys = [key for key in map(unravel_key, keys) if key in loss.in_keys]
            by_networks.update(keys)
            if keys:
                parts.append(Component(f"{kind}: {name}", "loss", tuple(keys)))
        chosen = [getattr(names, name, None) for name in ("advantage", "value_target")]
        estimated: list[NestedKey] = [key for key in chosen if key is not None and key in loss.in_keys]
        has_estimator = any(part.phase == "values" for part in self.components)
        if estimated and getattr(loss, "has_critic", False) and not has_estimator:
            ends = [getattr(names, name) for name in ("reward", "done", "terminated")]
            self._add_learner(f"{kind}: value estimator", "values", [*map(next_key, ends)], estimated)
        self.components += parts
        own = [key for key in map(unravel_key, loss.in_keys) if key not in by_networks]
        replaced = []
        for key in own:
            others = [other for other in loss.alternatives(key) if covered(other, self.written)]
            replaced.append(key if covered(key, self.written) or not others else others[0])
        priority = getattr(names, "priority", None)
        writes = [] if priority is None else [priority]
        returns = tuple(str(key) for key in loss.out_keys)
        reads = list(dict.fromkeys(replaced))
        self.add(Component(kind, "loss", tuple(reads), tuple(writes), self._weights(loss), returns))

    def _weights(self, loss: LossModule) -> tuple[NestedKey, ...]:
        """Return the entry of importance weights, if the data have it and the loss reads it."""
        key: NestedKey = getattr(loss.tensor_keys, "priority_weight", "priority_weight")
        return (key,) if loss.use_prioritized_weights and covered(key, self.written) else ()


@torch.no_grad()
def _called(function: Callable[..., Any], td: TensorDictBase) -> TensorDictBase:
    """Return the tensordict that a policy returns for a copy of ``td``; random generators stay as they are."""
    with torch.random.fork_rng(devices=[]), set_exploration_type("random"):
        found: TensorDictBase = function(td.copy())
    return found


@dataclass(frozen=True)
class Layer:
    """A transform, and the environment without it and with it.

    Args:
        transform: The transform.
        inner: The environment seen through the transforms before.
        outer: The environment seen through this transform too.
    """

    transform: Transform
    inner: EnvBase
    outer: EnvBase

    @property
    def name(self) -> str:
        """The name of the class of the transform."""
        return type(self.transform).__name__

    def changes(self, *, reward: bool = True) -> tuple[tuple[NestedKey, ...], tuple[NestedKey, ...]]:
        """Return what the transform reads and writes of the outputs of the environment, by specs and keys."""
        before, after = _outputs(self.inner, reward=reward), _outputs(self.outer, reward=reward)
        reads = tuple(key for key in self.transform.in_keys if covered(key, before))
        changed = [key for key, spec in after.items() if key not in before or spec != before[key]]
        in_place = [key for key in self.transform.out_keys if reads and covered(key, after)]
        return reads, tuple(dict.fromkeys([*changed, *in_place]))


def _runs(function: Callable[..., Any], td: TensorDictBase) -> bool:
    """Return whether a policy runs on a copy of ``td``."""
    try:
        _called(function, td)
    except Exception:  # whatever it is: an entry that it needs may be absent
        return False
    return True


def _layers(env: EnvBase) -> tuple[EnvBase, list[Layer]]:
    """Return the innermost environment, and all transforms around it, the innermost first."""
    layers: list[Layer] = []
    while isinstance(env, TransformedEnv):
        parts = env.transform.leaves()
        seen: list[Any] = [*(part.parent for part in parts), env]
        layers = [*map(Layer, parts, seen[:-1], seen[1:]), *layers]
        env = env.base_env
    return env, layers


def _leaves(spec: Composite) -> list[NestedKey]:
    return [unravel_key(key) for key in leaf_names(spec)]


def _outputs(env: EnvBase, *, reward: bool = True) -> dict[NestedKey, Any]:
    """Return the specs of what an environment writes by entry; at a reset there is no reward."""
    groups = [env.full_observation_spec, env.full_done_spec, *([env.full_reward_spec] if reward else [])]
    return {key: spec[key] for spec in groups for key in _leaves(spec)}


def _inputs(env: EnvBase) -> list[NestedKey]:
    """Return what an environment reads at a step: actions and states."""
    return [*_leaves(env.full_action_spec), *_leaves(env.full_state_spec)]
