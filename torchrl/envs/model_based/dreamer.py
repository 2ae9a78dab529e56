"""The latent environment of Dreamer: states of a recurrent world model."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase

from torchrl._core.devices import check_devices
from torchrl._core.errors import describe
from torchrl.data import Composite, Unbounded
from torchrl.envs.base import EnvBase
from torchrl.envs.model_based.common import ModelBasedEnvBase


class DreamerEnv(ModelBasedEnvBase):
    """An environment whose observations are ``state`` and ``belief`` of a world model.

    An episode starts from the latent state in the argument of ``reset``; absent entries are zero.

    Args:
        world_model: Reads ``state``, ``belief`` and ``action``, writes the next ``state`` and
            ``belief``, and ``reward``, such as a :class:`~torchrl.modules.WorldModelWrapper`.
        prior_shape: Shape of ``state``.
        belief_shape: Shape of ``belief``.
        obs_decoder: Reads ``state`` and ``belief``, writes what they would look like.
        device: Where it computes.
        batch_size: Number of imagined processes; any if empty.

    Source: Hafner et al., 2019, https://arxiv.org/abs/1912.01603, section 3.

    >>> import torch
    >>> from tensordict.nn import TensorDictModule
    >>> from torchrl.data import Bounded
    >>> from torchrl.modules import RSSMPrior, WorldModelWrapper
    >>> prior = RSSMPrior(action_dim=2, hidden_dim=8, rnn_hidden_dim=8, state_dim=3)
    >>> step = TensorDictModule(
    ...     prior, ["state", "belief", "action"], ["_", "_", "state", "belief"]
    ... )
    >>> worth = TensorDictModule(lambda state: state.sum(-1, True), ["state"], ["reward"])
    >>> env = DreamerEnv(WorldModelWrapper(step, worth), [3], [8])
    >>> env.action_spec = Bounded(-1, 1, (2,))
    >>> env.rollout(5)["next", "belief"].shape
    torch.Size([5, 8])
    """

    def __init__(
        self,
        world_model: TensorDictModuleBase,
        prior_shape: Sequence[int],
        belief_shape: Sequence[int],
        obs_decoder: TensorDictModuleBase | None = None,
        device: torch.device | str | int | None = "cpu",
        batch_size: torch.Size | tuple[int, ...] | None = None,
    ) -> None:
        check_devices(self, device=device)
        super().__init__(world_model, device=device, batch_size=batch_size)
        self.obs_decoder = obs_decoder
        batch = self.batch_size
        self.observation_spec = Composite(
            state=Unbounded((*batch, *prior_shape), device=self.device),
            belief=Unbounded((*batch, *belief_shape), device=self.device),
            shape=batch,
            device=self.device,
        )

    def set_specs_from_env(self, env: EnvBase) -> None:
        """Copy the specs of actions and rewards of a real environment."""
        for name in ("full_action_spec", "full_reward_spec"):
            spec = getattr(env, f"{name}_unbatched").to(self.device)
            setattr(self, name, spec.expand(*self.batch_size, *spec.shape))

    def decode_obs(self, tensordict: TensorDictBase, compute_latents: bool = False) -> TensorDictBase:
        """Write the decoded observations of the latent states of ``tensordict``.

        Args:
            tensordict: Latent states.
            compute_latents: Run the world model first; a missing action is zero.

        Raises:
            ValueError: without a decoder.
        """
        if self.obs_decoder is None:
            raise ValueError(describe(self, "has no obs_decoder", hint="Give it one."))
        if compute_latents:
            for key in self.action_keys:
                if tensordict.get(key, None) is None:
                    spec = self.full_action_spec[key]
                    tensordict.set(key, spec.zero(tensordict.batch_size[len(self.batch_size) :]))
            tensordict = self.world_model(tensordict)
        return self.obs_decoder(tensordict)

    def _reset(self, tensordict: TensorDictBase | None, **_: object) -> TensorDictBase:
        spec = self.observation_spec
        if tensordict is not None and not self.batch_size:
            spec = spec.expand(tensordict.batch_size)
        start = spec.zero()
        if tensordict is not None:
            start.update(tensordict.select(*start.keys(), strict=False))
        return start
