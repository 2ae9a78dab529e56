"""Small environments with known behaviour, for tests.

``B`` rows of a batch, ``A`` agents.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tensordict import NestedKey, NonTensorData, NonTensorStack, TensorDict, TensorDictBase
from torch import Tensor

from torchrl._core.records.flat_record import FlatRecord, Record
from torchrl.data import Bounded, Categorical, Composite, NonTensor, OneHot, TensorSpec, Unbounded
from torchrl.envs import EnvBase

Entries = dict[NestedKey, Any]


def flag(shape: Sequence[int]) -> Categorical:
    """Return the spec of an end flag."""
    return Categorical(2, shape=torch.Size(shape), dtype=torch.bool)


class CountingEnv(EnvBase):
    """Counts its steps and sums its actions.

    Row ``b`` terminates after ``horizon + b`` steps and is truncated after ``cut``. At a reset the
    sum starts at a random number, so that seeds matter.

    Args:
        horizon: Steps until the first row terminates.
        cut: Steps until a row is truncated; without it there is no such flag.
        batch_size: Rows.
        kwargs: Those of :class:`~torchrl.envs.EnvBase`.

    Reads: ``action [*B, 1]`` in [-1, 1].
    Writes: ``observation [*B, 2]`` (count, sum), ``reward [*B, 1]`` (the sum), end flags.

    >>> CountingEnv(horizon=2).rollout(9)["next", "observation"][:, 0]
    tensor([1., 2.])
    """

    def __init__(self, horizon: int = 3, cut: int | None = None, batch_size: Sequence[int] = (), **kwargs: Any) -> None:
        super().__init__(batch_size=torch.Size(batch_size), **kwargs)
        batch = self.batch_size
        self.observation_spec = Composite(observation=Unbounded((*batch, 2)), shape=batch)
        self.action_spec = Bounded(-1.0, 1.0, shape=(*batch, 1))
        self.reward_spec = Unbounded((*batch, 1))
        names = ("done", "terminated") if cut is None else ("done", "terminated", "truncated")
        self.done_spec = Composite({name: flag((*batch, 1)) for name in names}, shape=batch)
        self.cut = cut
        self.horizons = horizon + torch.arange(batch.numel()).reshape(*batch, 1)  # [*B, 1]
        self.count = torch.zeros(*batch, 1)
        self.total = torch.zeros(*batch, 1)
        self._generator = torch.Generator().manual_seed(0)

    def _set_seed(self, seed: int | None) -> None:
        self._generator.manual_seed(0 if seed is None else seed)

    def _mask(self, record: Record | None, key: str) -> Tensor:
        mask = None if record is None else record.get(key, None)
        return torch.ones(*self.batch_size, 1, dtype=torch.bool) if mask is None else mask

    def _reset(self, tensordict: TensorDictBase | None, **kwargs: object) -> TensorDictBase:
        rows = self._mask(tensordict, "_reset")
        start = torch.rand(*self.batch_size, 1, generator=self._generator)
        self.count = torch.where(rows, torch.zeros_like(self.count), self.count)
        self.total = torch.where(rows, start, self.total)
        return self._record({"observation": self._observation()}, tensordict)

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        rows = self._mask(tensordict, "_step")
        self.count = torch.where(rows, self.count + 1, self.count)
        self.total = torch.where(rows, self.total + tensordict.get("action"), self.total)
        entries: Entries = {
            "observation": self._observation(),
            "reward": self.total,
            "terminated": self.count >= self.horizons,
        }
        if self.cut is not None:
            entries["truncated"] = self.count >= self.cut
        return self._record(entries, tensordict)

    def _observation(self) -> Tensor:
        return torch.cat([self.count, self.total], -1)  # [*B, 2]

    def _record(self, entries: Entries, like: Record | None) -> Any:
        return TensorDict(entries, self.batch_size, device=self.device)


class FlatCountingEnv(CountingEnv):
    """The same, on flat records.

    >>> FlatCountingEnv(horizon=2).rollout(9)["next", "observation"][:, 0]
    tensor([1., 2.])
    """

    supports_flat_records = True

    def _record(self, entries: Entries, like: Record | None) -> Any:
        return FlatRecord(entries) if isinstance(like, FlatRecord) else super()._record(entries, like)


class NestedEnv(CountingEnv):
    """The same under nested names: ``("body", "push")`` in, ``("body", "pose")`` out.

    Writes: ``("body", "pose") [*B, 2]``, ``("body", "reward") [*B, 1]``, flags at the root.

    >>> NestedEnv(horizon=2).rollout(9)["next", "body", "pose"].shape
    torch.Size([2, 2])
    """

    def __init__(self, horizon: int = 3, batch_size: Sequence[int] = (), **kwargs: Any) -> None:
        super().__init__(horizon, batch_size=batch_size, **kwargs)
        batch = self.batch_size
        inner = {
            "observation_spec": ("pose", Unbounded((*batch, 2))),
            "action_spec": ("push", Bounded(-1.0, 1.0, shape=(*batch, 1))),
            "reward_spec": ("reward", Unbounded((*batch, 1))),
        }
        for name, (key, spec) in inner.items():
            body = Composite({key: spec}, shape=batch)
            setattr(self, name, Composite(body=body, shape=batch))

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        flat = FlatRecord(action=tensordict.get(("body", "push")))
        if (mask := tensordict.get("_step", None)) is not None:
            flat["_step"] = mask
        return super()._step(flat)  # type: ignore[arg-type]  # read like one

    def _record(self, entries: Entries, like: Record | None) -> Any:
        names: dict[NestedKey, NestedKey] = {"observation": ("body", "pose"), "reward": ("body", "reward")}
        return super()._record({names.get(k, k): v for k, v in entries.items()}, like)


class MultiAgentEnv(EnvBase):
    """Agents that each count their steps; agent ``a`` of row ``b`` is done after ``2 + a + b``.

    Args:
        num_agents: ``A``.
        root_done: Write flags at the root too: a row is over when all of its agents are. Otherwise
            each agent is reset on its own.
        batch_size: Rows.

    Reads: ``("agents", "action") [*B, A, 3]``, one-hot.
    Writes: ``("agents", "observation") [*B, A, 1]`` (the agent's count), ``state [*B, 1]`` (steps
    since anything in the row was reset), ``("agents", "reward") [*B, A, 1]`` (the choice made),
    flags.

    >>> MultiAgentEnv(num_agents=2).rollout(9).batch_size
    torch.Size([3])
    """

    def __init__(self, num_agents: int = 3, *, root_done: bool = True, batch_size: Sequence[int] = ()) -> None:
        super().__init__(batch_size=torch.Size(batch_size))
        batch, group = self.batch_size, torch.Size([*batch_size, num_agents])
        self.root_done = root_done

        def agents(**specs: TensorSpec) -> Composite:
            return Composite(agents=Composite(dict(specs), shape=group), shape=batch)

        self.observation_spec = agents(observation=Unbounded((*group, 1)))
        self.observation_spec = Composite(
            state=Unbounded((*batch, 1)), agents=self.observation_spec["agents"].clone(), shape=batch
        )
        self.action_spec = agents(action=OneHot(3, shape=(*group, 3)))
        self.reward_spec = agents(reward=Unbounded((*group, 1)))
        done = agents(done=flag((*group, 1)))
        if root_done:
            done["done"] = flag((*batch, 1))
        self.done_spec = done
        row = torch.arange(batch.numel()).reshape(*batch, 1, 1)
        self.horizons = 2 + row + torch.arange(num_agents).unsqueeze(-1)  # [*B, A, 1]
        self.count = torch.zeros(*group, 1)
        self.state = torch.zeros(*batch, 1)

    def _set_seed(self, seed: int | None) -> None:
        torch.manual_seed(0 if seed is None else seed)

    def _reset(self, tensordict: TensorDictBase | None, **kwargs: object) -> TensorDictBase:
        rows = torch.ones_like(self.count, dtype=torch.bool)
        if tensordict is not None:
            rows = tensordict.get(("agents", "_reset"), rows)
        self.count = torch.where(rows, torch.zeros_like(self.count), self.count)
        self.state = torch.where(rows.any(-2), torch.zeros_like(self.state), self.state)
        return self._record({})

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        self.count, self.state = self.count + 1, self.state + 1
        choice = tensordict.get(("agents", "action")).long().argmax(-1, True)
        done = self.count >= self.horizons
        entries: Entries = {("agents", "reward"): choice.float(), ("agents", "done"): done}
        if self.root_done:
            entries["done"] = done.all(-2)
        return self._record(entries)

    def _record(self, entries: Entries) -> TensorDict:
        entries |= {("agents", "observation"): self.count, "state": self.state}
        return TensorDict(entries, self.batch_size, device=self.device)


class FlagsEnv(EnvBase):
    """An environment that writes given end flags only.

    Args:
        flags: Value of each flag that a step writes.
        spec: Names of the flags in its specs.

    >>> FlagsEnv({"terminated": True}).rollout(9)["next", "done"]
    tensor([[True]])
    """

    def __init__(self, flags: dict[str, bool], spec: Sequence[str] = ("done",)) -> None:
        super().__init__()
        self.observation_spec = Composite(observation=Unbounded((1,)))
        self.action_spec = Bounded(-1.0, 1.0, shape=(1,))
        self.done_spec = Composite({name: flag((1,)) for name in spec})
        self.flags = flags

    def _set_seed(self, seed: int | None) -> None:
        """Do nothing: the environment is not random."""

    def _reset(self, tensordict: TensorDictBase | None, **kwargs: object) -> TensorDictBase:
        return TensorDict(observation=torch.zeros(1))

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        flags = {name: torch.tensor([value]) for name, value in self.flags.items()}
        return TensorDict({"observation": torch.ones(1), "reward": torch.ones(1), **flags})


class LyingEnv(CountingEnv):
    """A :class:`CountingEnv` whose output differs from its specs.

    Args:
        lie: ``"float64"`` or ``"shape"`` (of the observation), ``"reward"`` (none),
            ``"reward_shape"``, ``"done"`` (already at a reset), ``"same_reset"`` or ``"same_step"``
            (returns its input), ``"batch"`` (of what a reset returns), ``"late"`` (float64 from the
            second step on).

    >>> LyingEnv("float64").reset()
    Traceback (most recent call last):
    torchrl._core.errors.DTypeError: LyingEnv: entry 'observation' has another dtype than ...
    """

    def __init__(self, lie: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.lie = lie

    def _reset(self, tensordict: TensorDictBase | None, **kwargs: object) -> TensorDictBase:
        root = self._bend(super()._reset(tensordict, **kwargs))
        if self.lie == "done":
            root.set("done", torch.ones(*self.batch_size, 1, dtype=torch.bool))
        if self.lie == "same_reset" and tensordict is not None:
            return tensordict.update(root)
        if self.lie == "batch":
            root.batch_size = torch.Size([])
        return root

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        next_root = self._bend(super()._step(tensordict))
        if self.lie == "reward":
            del next_root["reward"]
        if self.lie == "reward_shape":
            next_root["reward"] = next_root["reward"].repeat_interleave(2, -1)
        return tensordict.update(next_root) if self.lie == "same_step" else next_root

    def _bend(self, record: TensorDictBase) -> TensorDictBase:
        observation = record["observation"]
        if self.lie == "float64" or (self.lie == "late" and bool((self.count > 1).any())):
            record["observation"] = observation.double()
        if self.lie == "shape":
            record["observation"] = observation[..., :1]
        return record


class StatelessEnv(EnvBase):
    """A walk whose state is in the record: any batch size, and states can be set.

    Reads: ``position [*B, 1]``, ``action [*B, 1]`` in [-1, 1].
    Writes: ``position``, ``reward [*B, 1]`` (minus the distance from 0); terminates beyond 2.

    >>> root = TensorDict(batch_size=[4])
    >>> StatelessEnv().rollout(3, tensordict=root, break_when_any_done=False).batch_size
    torch.Size([4, 3])
    """

    batch_locked = False

    def __init__(self) -> None:
        super().__init__()
        self.observation_spec = Composite(position=Unbounded((1,)))
        self.state_spec = Composite(position=Unbounded((1,)))
        self.action_spec = Bounded(-1.0, 1.0, shape=(1,))
        self._generator = torch.Generator().manual_seed(0)

    def _set_seed(self, seed: int | None) -> None:
        self._generator.manual_seed(0 if seed is None else seed)

    def _reset(self, tensordict: TensorDictBase | None, **kwargs: object) -> TensorDictBase:
        batch = torch.Size([]) if tensordict is None else tensordict.batch_size
        return TensorDict(
            position=torch.rand(*batch, 1, generator=self._generator), batch_size=batch, device=self.device
        )

    def _set_state(self, tensordict: TensorDictBase) -> TensorDictBase:
        return tensordict.select("position")

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        position = tensordict["position"] + tensordict["action"]
        distance = position.abs()
        return TensorDict(
            position=position,
            reward=-distance,
            terminated=distance > 2,
            batch_size=tensordict.batch_size,
            device=self.device,
        )


class TextEnv(CountingEnv):
    """Counts in words: ``text`` holds the count, and no tensor, beside ``observation``.

    >>> TextEnv(horizon=2).rollout(9)["next", "text"]
    LinkedList(['1', '2'])
    """

    def __init__(self, horizon: int = 3, batch_size: Sequence[int] = (), **kwargs: Any) -> None:
        super().__init__(horizon, batch_size=batch_size, **kwargs)
        spec = self.observation_spec.clone()
        spec["text"] = NonTensor(shape=self.batch_size, example_data="0")
        self.observation_spec = spec

    def _record(self, entries: Entries, like: Record | None) -> Any:
        words = [str(int(count)) for count in self.count.flatten()]
        if self.batch_size:
            text: object = NonTensorStack(*words).reshape(self.batch_size)
        else:
            text = NonTensorData(words[0])
        return super()._record({**entries, "text": text}, like)


class MaskedEnv(EnvBase):
    """Allows two choices of four at each count, and shows which.

    Args:
        horizon: Steps until the episode terminates.

    Reads: ``action []``, a number below four.
    Writes: ``count [1]``, ``action_mask [4]``, ``reward [1]`` (one for a legal action), end flags.

    >>> MaskedEnv().reset()["action_mask"]
    tensor([ True,  True, False, False])
    """

    def __init__(self, horizon: int = 5) -> None:
        super().__init__()
        self.horizon, self.count = horizon, 0
        self.observation_spec = Composite(count=Unbounded((1,)), action_mask=Categorical(2, (4,), dtype=torch.bool))
        self.action_spec = Categorical(4)

    def _set_seed(self, seed: int | None) -> None:
        pass

    def _legal(self) -> Tensor:
        return (torch.arange(4) - self.count) % 4 < 2  # [4]

    def _observed(self) -> TensorDict:
        return TensorDict(count=torch.tensor([float(self.count)]), action_mask=self._legal())

    def _reset(self, tensordict: TensorDictBase | None, **kwargs: object) -> TensorDictBase:
        self.count = 0
        return self._observed()

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        reward = self._legal()[tensordict["action"]].float().reshape(1)
        self.count += 1
        over = torch.tensor([self.count >= self.horizon])
        return self._observed().update({"reward": reward, "terminated": over})
