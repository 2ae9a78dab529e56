"""Functions and modules of one's own, as transforms."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from tensordict import NestedKey, NonTensorData, NonTensorStack, TensorDictBase, is_non_tensor
from torch import Tensor, nn

from torchrl._core.devices import check_devices
from torchrl._core.errors import MissingKeyError
from torchrl._core.keys import as_keys
from torchrl.data import Bounded, Composite, TensorSpec, Unbounded
from torchrl.envs.spec_access import leaf_names
from torchrl.envs.transforms.base import Transform
from torchrl.envs.transforms.images import unbounded_image
from torchrl.envs.transforms.inside import Inside
from torchrl.envs.transforms.pixels import Keys
from torchrl.envs.transforms.running_stats import RunningMeanStd


class UnaryTransform(Transform):
    """Applies a function to each entry.

    Args:
        in_keys: Entries on the way out.
        out_keys: Where to write their images.
        in_keys_inv: Entries written on the way in.
        out_keys_inv: Their names seen from outside.
        fn: ``[*B, *S] -> [*B, *S']``, on the way out. Shape and dtype of its image are found by
            calling it on zeros.
        inv_fn: ``[*B, *S'] -> [*B, *S]``, on the way in.
        use_raw_nontensor: Hand over entries that are no tensors as they stand in the record,
            instead of the Python objects that they hold.

    >>> from torchrl.envs import GymEnv, TransformedEnv
    >>> square = UnaryTransform(["observation"], ["squared"], fn=torch.square)
    >>> TransformedEnv(GymEnv("Pendulum-v1"), square).rollout(2)["squared"].shape
    torch.Size([2, 3])
    """

    entrywise = True

    def __init__(
        self,
        in_keys: Sequence[NestedKey],
        out_keys: Sequence[NestedKey],
        in_keys_inv: Keys = None,
        out_keys_inv: Keys = None,
        *,
        fn: Callable[[Any], Any],
        inv_fn: Callable[[Any], Any] | None = None,
        use_raw_nontensor: bool = False,
    ) -> None:
        super().__init__(in_keys, out_keys, in_keys_inv, out_keys_inv)
        if self.in_keys_inv and inv_fn is None:
            raise ValueError("UnaryTransform: in_keys_inv need an inv_fn.")
        self.fn, self.inv_fn, self.use_raw_nontensor = fn, inv_fn, use_raw_nontensor

    def _apply_transform(self, value: Any) -> Any:
        return self.fn(value if self.use_raw_nontensor else _held(value))

    def _inv_apply_transform(self, value: Any) -> Any:
        if self.inv_fn is None:
            return value
        return self.inv_fn(value if self.use_raw_nontensor else _held(value))

    def _transform_spec(self, spec: TensorSpec) -> TensorSpec:
        return _image(spec, self._apply_transform)

    def _inv_transform_spec(self, spec: TensorSpec) -> TensorSpec:
        # Seen from outside is what inv_fn takes; fn, its inverse, says what that looks like.
        return _image(spec, self._apply_transform)


def _held(value: Any) -> Any:
    """Return the Python objects that an entry holds, or a tensor as it is."""
    return value.tolist() if is_non_tensor(value) else value


def _image(spec: TensorSpec, function: Callable[[Any], Any]) -> TensorSpec:
    return unbounded_image(spec, lambda zero: torch.as_tensor(function(zero)))


class Hash(Transform):
    """Replaces entries by a hash: equal entries have equal hashes, others have others.

    Args:
        in_keys: Entries to hash: text or any other Python object, or tensors ``[*B, *S]``.
        out_keys: Where to write the hashes, ``[*B, 32]`` bytes with the function of the class.
        in_keys_inv: Entries to restore on the way in, from the repertoire.
        out_keys_inv: Their hashes, seen from outside.
        hash_fn: ``object -> tensor``; :meth:`reproducible_hash` if ``None``. It gets a row of a
            tensor as nested lists of numbers.
        seed: Handed to ``hash_fn`` as its second argument, if given.
        use_raw_nontensor: Hand entries that are no tensors to ``hash_fn`` whole, as they stand in
            the record, instead of the Python object of each row.
        repertoire: Known hashes, as tuples of numbers, and what they stand for; filled along the
            way. Kept only if given or if there are ``in_keys_inv``.

    Raises:
        MissingKeyError: on the way in, for a hash that is not in the repertoire.

    >>> from tensordict import TensorDict
    >>> Hash(["a"], ["hash"])(TensorDict(a=torch.zeros(5, 2), batch_size=[5]))["hash"].shape
    torch.Size([5, 32])
    """

    def __init__(
        self,
        in_keys: Keys = None,
        out_keys: Keys = None,
        in_keys_inv: Keys = None,
        out_keys_inv: Keys = None,
        *,
        hash_fn: Callable[..., Tensor] | None = None,
        seed: Any = None,
        use_raw_nontensor: bool = False,
        repertoire: dict[tuple[int, ...], Any] | None = None,
    ) -> None:
        super().__init__(in_keys, out_keys, in_keys_inv, out_keys_inv)
        self.hash_fn = self.reproducible_hash if hash_fn is None else hash_fn
        self.seed, self.use_raw_nontensor = seed, use_raw_nontensor
        self.repertoire = {} if repertoire is None and self.in_keys_inv else repertoire
        self._batch_ndim = 0

    @staticmethod
    def reproducible_hash(value: object, seed: object = None) -> Tensor:
        """Return the SHA-256 of an object's text ``[32]``, the same in every process.

        >>> Hash.reproducible_hash("torch").shape
        torch.Size([32])
        """
        text = f"{value}" if seed is None else f"{seed}{value}"
        digest = hashlib.sha256(text.encode()).digest()
        return torch.frombuffer(bytearray(digest), dtype=torch.uint8)

    def _hash(self, value: Any) -> Tensor:
        hashed = self.hash_fn(value) if self.seed is None else self.hash_fn(value, self.seed)
        if self.repertoire is not None:
            self.repertoire.setdefault(tuple(hashed.tolist()), value)
        return hashed

    def _rows(self, value: Any, depth: int) -> Tensor:
        if depth:
            return torch.stack([self._rows(row, depth - 1) for row in value])
        if isinstance(value, Tensor):
            return self._hash(value.tolist()).to(value.device)
        return self._hash(value)

    def _apply_transform(self, value: Any) -> Tensor:
        if self.use_raw_nontensor and is_non_tensor(value):
            return self._hash(value)
        return self._rows(_held(value), self._batch_ndim)

    def _inv_apply_transform(self, value: Tensor) -> Any:
        known: Any = self.repertoire
        key = tuple(value.tolist())
        if key not in known:
            raise MissingKeyError(
                f"Hash: {value.tolist()} is not in the repertoire of {len(known)}."
            )
        found = known[key]
        return NonTensorData(found) if isinstance(found, str) else torch.as_tensor(found)

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Hash the entries of each row."""
        self._batch_ndim = tensordict.ndim
        return super().forward(tensordict)

    def transform_specs(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        """Return the specs of the hashes."""
        self._batch_ndim = len(specs["observation"].shape)
        return super().transform_specs(specs)

    def _transform_spec(self, spec: TensorSpec) -> TensorSpec:
        example = self._example(spec)
        hashed = self.hash_fn(example) if self.seed is None else self.hash_fn(example, self.seed)
        lead = () if is_non_tensor(example) else spec.shape[: self._batch_ndim]
        shape = (*lead, *hashed.shape)
        if hashed.dtype is torch.uint8:
            return Bounded(0, 255, shape=shape, dtype=torch.uint8, device=spec.device)
        return Unbounded(shape, dtype=hashed.dtype, device=spec.device)

    def _example(self, spec: TensorSpec) -> Any:
        """Return what ``hash_fn`` may be handed: zeros of one row, or an empty text."""
        if spec.dtype is not None:
            row = [max(size, 1) for size in spec.shape[self._batch_ndim :]]
            return torch.zeros(row, dtype=spec.dtype).tolist()
        if not self.use_raw_nontensor:
            return ""
        entry = NonTensorData("")
        for size in reversed(spec.shape[: self._batch_ndim]):
            entry = NonTensorStack(*[entry] * size)
        return entry


class ModuleTransform(Transform):
    """Runs a tensordict module on what comes out, or on what goes in.

    Args:
        module: Reads ``in_keys`` and writes ``out_keys``.
        module_factory: Makes the module, if it is not given; called here.
        no_grad: Run without gradients.
        inverse: Run on the way in instead.
        device: Run there; entries are moved there and back.

    >>> from tensordict.nn import TensorDictModule
    >>> from torchrl.envs import GymEnv, TransformedEnv
    >>> module = TensorDictModule(torch.nn.Linear(3, 2), ["observation"], ["embedding"])
    >>> env = TransformedEnv(GymEnv("Pendulum-v1"), ModuleTransform(module=module, no_grad=True))
    >>> env.rollout(4)["embedding"].shape
    torch.Size([4, 2])
    """

    def __init__(
        self,
        *,
        module: Any = None,
        module_factory: Callable[[], Any] | None = None,
        no_grad: bool = False,
        inverse: bool = False,
        device: torch.device | str | None = None,
    ) -> None:
        check_devices(self, device=device)
        if (module is None) == (module_factory is None):
            raise ValueError("ModuleTransform: give either module or module_factory.")
        made = module if module_factory is None else module_factory()
        keys, out = as_keys(made.in_keys), as_keys(made.out_keys)
        super().__init__()
        self.in_keys, self.out_keys = ([], []) if inverse else (keys, out)
        self.in_keys_inv, self.out_keys_inv = (out, keys) if inverse else ([], [])
        self.module = made if device is None else made.to(device)
        self.no_grad, self.inverse, self.device = no_grad, inverse, device

    def _run(self, tensordict: TensorDictBase) -> TensorDictBase:
        read = tensordict.select(*self.module.in_keys)
        if self.device is not None:
            read = read.to(self.device)
        with torch.no_grad() if self.no_grad else nullcontext():
            written = self.module(read).select(*self.module.out_keys)
        return tensordict.update(written.to(tensordict.device) if self.device else written)

    def _call(self, tensordict: TensorDictBase) -> TensorDictBase:
        if self.inverse:
            return tensordict
        if self.missing_tolerance and any(tensordict.get(k, None) is None for k in self.in_keys):
            return tensordict
        for key in self.in_keys:
            if tensordict.get(key, None) is None:
                raise self._missing(key, tensordict)
        return self._run(tensordict)

    def _inv_call(self, tensordict: TensorDictBase) -> TensorDictBase:
        if not self.inverse:
            return tensordict
        if self.missing_tolerance and any(
            tensordict.get(key, None) is None for key in self.out_keys_inv
        ):
            return tensordict
        return self._run(tensordict)

    def transform_specs(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        """Add the specs of what the module writes, found by running it on zeros."""
        if self.inverse:
            return specs
        self._check_keys(specs)
        zeros = specs["observation"].zero()
        for group in ("reward", "done"):
            zeros.update(specs[group].zero())
        training = self.module.training
        with torch.no_grad():
            out = self._run(zeros) if not training else self._evaluated(zeros)
        for key in self.out_keys:
            value = out.get(key)
            group = "reward" if key in leaf_names(specs["reward"]) else "observation"
            spec = Unbounded(value.shape, dtype=value.dtype, device=value.device)
            specs[group][key] = spec
        return specs

    def _evaluated(self, zeros: TensorDictBase) -> TensorDictBase:
        self.module.eval()
        try:
            return self._run(zeros)
        finally:
            self.module.train()


class RNDTransform(Transform):
    r"""Rewards what is new: the error of a network that learns to predict a random one.

    .. math:: r_t = \lVert \hat f(s_{t+1}) - f(s_{t+1}) \rVert^2

    Args:
        target_network: ``f``, ``[*B, *S] -> [*B, E]``, never trained.
        predictor_network: :math:`\hat f`, of the same shape; train it on what was seen.
        in_keys: The observation; ``observation`` if ``None``.
        out_keys: Where to write the reward; ``intrinsic_reward`` if ``None``.
        normalize_obs: Bring observations to running mean 0 and deviation 1 first, and clip them.
        normalize_reward: Divide by the running deviation of the reward, and clip it.
        obs_clip: Largest normalised observation.
        reward_clip: Largest normalised reward.

    Writes: ``intrinsic_reward [*B, 1]``, that of reaching the observation beside it.

    The statistics follow the data in training mode, and stand still after ``eval()``.

    Source: Burda et al., 2019, https://arxiv.org/abs/1810.12894, sections 2.2 to 2.4.

    >>> from torchrl.envs import GymEnv, TransformedEnv
    >>> nets = torch.nn.Linear(3, 8), torch.nn.Linear(3, 8)
    >>> env = TransformedEnv(GymEnv("Pendulum-v1"), RNDTransform(*nets))
    >>> env.rollout(4)["next", "intrinsic_reward"].shape
    torch.Size([4, 1])
    """

    entrywise = True
    _inside: Inside
    _rows: Tensor | None = None  # those that count, in the call that is under way

    def __init__(
        self,
        target_network: nn.Module,
        predictor_network: nn.Module,
        in_keys: Keys = None,
        out_keys: Keys = None,
        normalize_obs: bool = True,
        normalize_reward: bool = True,
        obs_clip: float = 5.0,
        reward_clip: float = 5.0,
    ) -> None:
        super().__init__(
            ["observation"] if in_keys is None else in_keys,
            ["intrinsic_reward"] if out_keys is None else out_keys,
        )
        self.target_network = target_network.requires_grad_(False)
        self.predictor_network = predictor_network
        self.normalize_obs, self.normalize_reward = normalize_obs, normalize_reward
        self.obs_clip, self.reward_clip = obs_clip, reward_clip
        self.observation_statistics: RunningMeanStd | None = None
        self.reward_statistics = RunningMeanStd()
        self._batch_ndim = 0

    def _allocate(self, shape: torch.Size, device: Any) -> RunningMeanStd:
        if self.observation_statistics is None:
            self.observation_statistics = RunningMeanStd(shape).to(device)
        return self.observation_statistics

    @torch.no_grad()
    def _apply_transform(self, value: Tensor) -> Tensor:
        value = value if value.is_floating_point() else value.to(torch.get_default_dtype())
        if self.normalize_obs:
            statistics = self._allocate(value.shape[self._batch_ndim :], value.device)
            self._follow(statistics, value)
            value = statistics.normalize(value, self.obs_clip)
        error = self.predictor_network(value) - self.target_network(value)  # [*B, E]
        reward = error.square().mean(-1, True)  # [*B, 1]
        if self.normalize_reward:
            self._follow(self.reward_statistics, reward)
            deviation = self.reward_statistics.std.clamp_min(1e-8).to(reward.dtype)
            reward = (reward / deviation).clamp(-self.reward_clip, self.reward_clip)
        return reward

    def _follow(self, statistics: RunningMeanStd, value: Tensor) -> None:
        """Let the statistics follow the rows that have moved, or were reset."""
        if self.training:
            rows = self._rows
            moved = value if rows is None else value[rows.reshape(value.shape[: self._batch_ndim])]
            statistics.update(moved)

    def _of_rows(self, rows: Tensor | None, record: Any) -> Any:
        self.__dict__["_rows"] = rows
        try:
            return self._call(record)
        finally:
            self.__dict__["_rows"] = None

    def _step(self, tensordict: Any, next_tensordict: Any) -> Any:
        return self._of_rows(tensordict.get("_step", None), next_tensordict)

    def _reset(self, tensordict: Any, tensordict_reset: Any) -> Any:
        return self._of_rows(self._inside.being_reset(tensordict), tensordict_reset)

    def prediction_error(self, observation: Tensor) -> Tensor:
        """Return the loss of the predictor ``[*B]``, with gradients; statistics stand still."""
        if self.normalize_obs and self.observation_statistics is not None:
            observation = self.observation_statistics.normalize(observation, self.obs_clip)
        gap = self.predictor_network(observation) - self.target_network(observation).detach()
        return gap.square().mean(-1)

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write the reward of each row."""
        self._batch_ndim = tensordict.ndim
        return super().forward(tensordict)

    def transform_specs(self, specs: dict[str, Composite]) -> dict[str, Composite]:
        """Add the reward to the observations."""
        self.__dict__["_inside"] = Inside(specs)
        self._batch_ndim = len(specs["observation"].shape)
        return super().transform_specs(specs)

    def _transform_spec(self, spec: TensorSpec) -> TensorSpec:
        self._allocate(spec.shape[self._batch_ndim :], spec.device)
        shape = (*spec.shape[: self._batch_ndim], 1)
        dtype = torch.get_default_dtype()
        high = self.reward_clip if self.normalize_reward else torch.inf
        return Bounded(0.0, high, shape=shape, dtype=dtype, device=spec.device)
