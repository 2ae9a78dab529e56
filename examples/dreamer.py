"""Dreamer in one file: a policy learns in the imagination of a world model.

    python examples/dreamer.py

Pendulum-v1: mean return -322 of 20 deterministic episodes after 10 000 frames,
seed 0; about 3 minutes each on one core.

Source: Hafner et al., 2019, https://arxiv.org/abs/1912.01603. Smaller than there, and it sees three
numbers rather than images.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from experiment import Experiment, parse
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import Tensor, nn

from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, SliceSampler, TensorDictReplayBuffer, Unbounded
from torchrl.envs import (
    Compose,
    DoubleToFloat,
    DreamerEnv,
    FrameSkipTransform,
    GymEnv,
    ObservationNorm,
    RewardScaling,
    RewardSum,
    TensorDictPrimer,
    TransformedEnv,
)
from torchrl.modules import (
    MLP,
    AdditiveGaussianModule,
    DreamerActor,
    ProbabilisticActor,
    RSSMPosterior,
    RSSMPrior,
    RSSMRollout,
    TanhNormal,
    WorldModelWrapper,
)
from torchrl.objectives import DreamerActorLoss, DreamerModelLoss, DreamerValueLoss

LATENT = ["state", "belief"]  # what was drawn, and what the recurrent network remembers
NEXT_LATENT = [("next", key) for key in LATENT]


@dataclass
class Args:
    """Everything one may want to change."""

    env: str = "Pendulum-v1"
    seed: int = 0
    frame_skip: int = 2  # times that an action is repeated; a frame below is that many of the task
    total_frames: int = 10_000
    frames_per_batch: int = 100
    learning_starts: int = 1_000
    updates_per_batch: int = 15
    slice_len: int = 16
    slices_per_batch: int = 16
    imagination_horizon: int = 12
    exploration_noise: float = 0.6
    state_dim: int = 16
    belief_dim: int = 64
    num_cells: int = 64
    lambda_kl: float = 0.1
    free_nats: float = 1.0
    lr_model: float = 1e-3
    lr_actor: float = 2e-4
    lr_value: float = 1e-3
    gamma: float = 0.97
    lmbda: float = 0.95
    max_grad_norm: float = 100.0
    eval_episodes: int = 20
    video: bool = True
    log_dir: str = "runs"


class Networks:
    """All networks, and the three ways in which they are put together.

    ``policy`` acts in the task, ``world_model`` is trained on what happened there, ``dream`` goes
    on from where it stands without looking; ``actor`` and ``value`` know latent states only.
    """

    def __init__(self, env: TransformedEnv, args: Args) -> None:
        num_obs, spec = env.observation_spec["observation"].shape[-1], env.action_spec
        cells = {"num_cells": [args.num_cells] * 2, "activation_class": nn.ELU}
        latent_dim = args.state_dim + args.belief_dim
        encoder = MLP(num_obs, args.num_cells, **cells)
        decoder, reward = MLP(latent_dim, num_obs, **cells), MLP(latent_dim, 1, **cells)
        prior = RSSMPrior(spec, args.num_cells, args.belief_dim, args.state_dim)
        posterior = RSSMPosterior(
            args.num_cells,
            args.state_dim,
            rnn_hidden_dim=args.belief_dim,
            obs_embed_dim=args.num_cells,
        )

        # Along the data: from each state to the next, foreseen and seen
        rollout = RSSMRollout(
            TensorDictModule(
                prior,
                [*LATENT, "action"],
                [("next", "prior_mean"), ("next", "prior_std"), "_", ("next", "belief")],
            ),
            TensorDictModule(
                posterior,
                [("next", "belief"), ("next", "encoded_latents")],
                [("next", "posterior_mean"), ("next", "posterior_std"), ("next", "state")],
            ),
        )
        self.world_model = TensorDictSequential(
            TensorDictModule(encoder, [("next", "observation")], [("next", "encoded_latents")]),
            rollout,
            TensorDictModule(decoder, NEXT_LATENT, [("next", "reco_observation")]),
            TensorDictModule(reward, NEXT_LATENT, [("next", "reward")]),
        )

        # In imagination: the prior alone
        self.dream = DreamerEnv(
            WorldModelWrapper(
                TensorDictModule(prior, [*LATENT, "action"], ["_", "_", *LATENT]),
                TensorDictModule(reward, LATENT, ["reward"]),
            ),
            prior_shape=[args.state_dim],
            belief_shape=[args.belief_dim],
        )
        self.dream.set_specs_from_env(env)
        actor_net = DreamerActor(spec.shape[-1], depth=2, num_cells=args.num_cells)
        self.actor = ProbabilisticActor(
            TensorDictModule(actor_net, LATENT, ["loc", "scale"]),
            in_keys=["loc", "scale"],
            spec=spec,
            distribution_class=TanhNormal,
        )
        self.value = TensorDictModule(MLP(latent_dim, 1, **cells), LATENT, ["state_value"])

        # In the task: look, act, remember
        look = TensorDictSequential(
            TensorDictModule(encoder, ["observation"], ["encoded_latents"]),
            TensorDictModule(posterior, ["belief", "encoded_latents"], ["_", "_", "state"]),
        )
        remember = TensorDictModule(prior, [*LATENT, "action"], ["_", "_", "_", ("next", "belief")])
        noise = AdditiveGaussianModule(
            spec, sigma_init=args.exploration_noise, sigma_end=args.exploration_noise
        )
        self.policy = TensorDictSequential(look, self.actor, noise, remember)


def make_env(args: Args) -> TransformedEnv:
    """Return the task, whose episodes begin with an empty belief."""
    env = TransformedEnv(
        GymEnv(args.env),
        Compose(
            DoubleToFloat(),
            FrameSkipTransform(args.frame_skip),
            RewardSum(),
            RewardScaling(loc=0.0, scale=0.1),
            ObservationNorm(loc=0.0, scale=torch.tensor([1.0, 1.0, 0.25]), in_keys=["observation"]),
            TensorDictPrimer(belief=Unbounded((args.belief_dim,)), expand_specs=True),
        ),
    )
    env.set_seed(args.seed)
    return env


def main(args: Args) -> float:
    """Train; return the mean return of the evaluation."""
    run = Experiment("dreamer", args)
    env = make_env(args)
    nets = Networks(env, args)
    nets.actor(env.reset().set("state", torch.zeros(args.state_dim)))  # sizes of lazy layers

    # Data: stretches of episodes
    collector = Collector(
        env, nets.policy, frames_per_batch=args.frames_per_batch, total_frames=args.total_frames
    )
    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(args.total_frames),
        sampler=SliceSampler(slice_len=args.slice_len, traj_key=("collector", "traj_ids")),
        batch_size=args.slices_per_batch * args.slice_len,
    )

    # Losses
    model_loss = DreamerModelLoss(
        nets.world_model, lambda_kl=args.lambda_kl, free_nats=args.free_nats
    )
    model_loss.set_keys(pixels="observation", reco_pixels="reco_observation")
    actor_loss = DreamerActorLoss(
        nets.actor,
        nets.value,
        nets.dream,
        imagination_horizon=args.imagination_horizon,
        gamma=args.gamma,
        lmbda=args.lmbda,
    )
    value_loss = DreamerValueLoss(nets.value, gamma=args.gamma)
    rates = {model_loss: args.lr_model, actor_loss: args.lr_actor, value_loss: args.lr_value}
    optimizers = {loss: torch.optim.Adam(loss.parameters(), lr=lr) for loss, lr in rates.items()}

    def descend(loss_module: nn.Module, data: TensorDictBase) -> tuple[Tensor, TensorDictBase]:
        """Take a step along the gradient of a loss; return its value, and what it saw."""
        losses, seen = loss_module(data)
        loss = sum(losses.values())
        optimizers[loss_module].zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(loss_module.parameters(), args.max_grad_norm)
        optimizers[loss_module].step()
        return loss.detach(), seen

    # Training: see, then imagine from everything that was seen
    for batch in collector:
        buffer.extend(batch)
        metrics = {}
        if run.frames >= args.learning_starts:
            for _ in range(args.updates_per_batch):
                stretches = buffer.sample().reshape(-1, args.slice_len)
                metrics["loss_model"], seen = descend(model_loss, stretches)
                metrics["loss_actor"], imagined = descend(actor_loss, seen.select(*LATENT))
                metrics["loss_value"], _ = descend(value_loss, imagined)
        run.log(batch, **metrics)
    collector.shutdown()
    return run.finish(env, nets.policy)


if __name__ == "__main__":
    main(parse(Args, __doc__))
