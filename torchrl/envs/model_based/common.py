"""Base class of environments whose dynamics are a world model."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase

from torchrl._core.devices import check_devices
from torchrl.envs.base import EnvBase


class ModelBasedEnvBase(EnvBase):
    """Steps a world model.

    Gradients flow through its steps, and records may have any batch size. Set the specs in
    ``__init__`` and write ``_reset``, which returns the first state of an imagined episode.

    Args:
        world_model: Reads a root and an action and writes the next observations, under the same
            names, the reward and, if episodes can end, their flags.
        params: Its parameters, instead of its own; may be changed in place between steps.
        buffers: Its buffers, likewise.
        device: Device of the computation.
        batch_size: Batch size of the imagined episodes; any if empty.
        run_type_checks: Validate every step against the specs, not the first alone.
        allow_done_after_reset: Accept an episode that has ended at its start.

    Hooks:
        _reset: ``td | None -> td``; the first states.

    Reads: the in_keys of the model.
    Writes: the entries of the specs; flags that the model does not write are false.

    >>> from tensordict import TensorDict
    >>> from tensordict.nn import TensorDictModule, TensorDictSequential
    >>> from torchrl.data import Composite, Unbounded
    >>> class Dream(ModelBasedEnvBase):
    ...     def __init__(self, world_model):
    ...         super().__init__(world_model)
    ...         self.observation_spec = Composite(latent=Unbounded((4,)))
    ...         self.action_spec = Unbounded((1,))
    ...     def _reset(self, td):
    ...         shape = () if td is None else td.batch_size
    ...         return TensorDict(latent=torch.zeros(*shape, 4), batch_size=shape)
    >>> move = TensorDictModule(
    ...     lambda latent, action: torch.tanh(latent + action), ["latent", "action"], ["latent"]
    ... )
    >>> value = TensorDictModule(lambda latent: latent.sum(-1, True), ["latent"], ["reward"])
    >>> Dream(TensorDictSequential(move, value)).rollout(5)["next", "reward"].shape
    torch.Size([5, 1])
    """

    def __init__(
        self,
        world_model: TensorDictModuleBase,
        params: TensorDictBase | None = None,
        buffers: TensorDictBase | None = None,
        device: torch.device | str | int | None = "cpu",
        batch_size: torch.Size | tuple[int, ...] | None = None,
        run_type_checks: bool = False,
        allow_done_after_reset: bool = False,
    ) -> None:
        check_devices(self, device=device)
        super().__init__(
            device=device,
            batch_size=batch_size,
            run_type_checks=run_type_checks,
            allow_done_after_reset=allow_done_after_reset,
        )
        self.world_model = world_model.to(self.device)
        self.world_model_params, self.world_model_buffers = params, buffers

    batch_locked = False

    def _weights(self) -> Any:
        params, buffers = self.world_model_params, self.world_model_buffers
        if params is None and buffers is None:
            return contextlib.nullcontext()
        weights = params if buffers is None else buffers
        if params is not None and buffers is not None:
            weights = params.copy().update(buffers)
        assert weights is not None
        return weights.to_module(self.world_model)

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        flags = [key for group in self.compiled_specs.groups for key in group.keys]
        with self._weights():
            imagined = self.world_model(tensordict.exclude("next", *self.reward_keys, *flags))
        names = (*self.observation_keys, *self.reward_keys, *flags)
        return imagined.select(*names, strict=False)

    def _set_seed(self, seed: int | None) -> None:
        """Seed torch itself: a model draws from its default generator."""
        if seed is None:
            torch.seed()
        else:
            torch.manual_seed(seed)
