"""Dreamer in one file: a policy learns in the imagination of a world model.

    python examples/dreamer.py

The task is a pendulum that swings up, as images of 16 x 16 pixels: how fast it turns is seen in
none of them and must be remembered. Task, pictures and world model are all torch.

PendulumEnv: mean return -160, -160, -178 of 100 deterministic episodes of 200 steps after 8 000
frames (each two steps of the task), seeds 0, 1, 2; about 5 minutes each on one core.

Source: Hafner et al., 2019, https://arxiv.org/abs/1912.01603; smaller than there.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from experiment import Experiment, parse
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import Tensor, nn

from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, SliceSampler, TensorDictReplayBuffer, Unbounded
from torchrl.envs import (
    BatchSizeTransform,
    Compose,
    DreamerEnv,
    FrameSkipTransform,
    PendulumEnv,
    RewardScaling,
    RewardSum,
    StepCounter,
    TensorDictPrimer,
    TransformedEnv,
    UnaryTransform,
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

    env: str = "PendulumEnv"
    seed: int = 0
    image_size: int = 16
    episode_len: int = 200  # steps of the task
    frame_skip: int = 2  # times that an action is repeated; a frame below is that many of the task
    num_envs: int = 4  # pendulums at once; a batch is one episode of each
    total_frames: int = 8_000
    learning_starts: int = 2_000
    updates_per_batch: int = 100
    slice_len: int = 20
    slices_per_batch: int = 16
    imagination_horizon: int = 15
    exploration_noise: float = 0.6
    state_dim: int = 16
    belief_dim: int = 64
    num_cells: int = 64
    free_nats: float = 1.0
    lr_model: float = 1e-3
    lr_actor: float = 5e-4
    lr_value: float = 1e-3
    gamma: float = 0.98
    lmbda: float = 0.95
    max_grad_norm: float = 100.0
    eval_episodes: int = 100
    video: bool = True
    log_dir: str = "runs"


def draw(angle: Tensor, size: int) -> Tensor:
    """Return images ``[*B, 1, size, size]`` of pendulums ``[*B]``: a bright rod in the dark."""
    line = torch.linspace(-1.2, 1.2, size)
    x, y = line, -line.unsqueeze(-1)
    angle = angle[..., None, None, None]
    tip_x, tip_y = angle.sin(), angle.cos()
    along = (x * tip_x + y * tip_y).clamp(0, 1)  # where on the rod each pixel is nearest to it
    distance = torch.hypot(x - along * tip_x, y - along * tip_y)
    return (-(distance / 0.14).square()).exp()


def make_env(args: Args, num_envs: int) -> TransformedEnv:
    """Return the task, whose episodes begin with an empty belief."""
    env = TransformedEnv(
        PendulumEnv(),
        Compose(
            BatchSizeTransform(batch_size=[num_envs]),
            FrameSkipTransform(args.frame_skip),
            UnaryTransform(["th"], ["pixels"], fn=partial(draw, size=args.image_size)),
            StepCounter(args.episode_len // args.frame_skip),
            RewardSum(),
            RewardScaling(loc=0.0, scale=0.1),
            TensorDictPrimer(belief=Unbounded((args.belief_dim,)), expand_specs=True),
        ),
    )
    env.set_seed(args.seed)
    return env


class Networks:
    """All networks, and the three ways in which they are put together.

    ``policy`` acts in the task, ``world_model`` is trained on what happened there, ``dream`` goes
    on from where it stands without looking; ``actor`` and ``value`` know latent states only.
    """

    def __init__(self, env: TransformedEnv, args: Args) -> None:
        image, spec = (1, args.image_size, args.image_size), env.action_spec_unbatched
        cells = {"num_cells": [args.num_cells] * 2, "activation_class": nn.ELU}
        latent_dim = args.state_dim + args.belief_dim
        encoder = nn.Sequential(nn.Flatten(-3), MLP(args.image_size**2, args.num_cells, **cells))
        decoder, reward = MLP(latent_dim, image, **cells), MLP(latent_dim, 1, **cells)
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
            TensorDictModule(encoder, [("next", "pixels")], [("next", "encoded_latents")]),
            rollout,
            TensorDictModule(decoder, NEXT_LATENT, [("next", "reco_pixels")]),
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
        actor_net = DreamerActor(spec.shape[-1], depth=2, num_cells=args.num_cells, std_bias=1.0)
        self.actor = ProbabilisticActor(
            TensorDictModule(actor_net, LATENT, ["loc", "scale"]),
            in_keys=["loc", "scale"],
            spec=spec,
            distribution_class=TanhNormal,
            distribution_kwargs={"tanh_loc": True},  # keeps the gradient from vanishing at a bound
        )
        self.value = TensorDictModule(MLP(latent_dim, 1, **cells), LATENT, ["state_value"])

        # In the task: look, act, remember
        look = TensorDictSequential(
            TensorDictModule(encoder, ["pixels"], ["encoded_latents"]),
            TensorDictModule(posterior, ["belief", "encoded_latents"], ["state", "_", "_"]),
        )
        remember = TensorDictModule(prior, [*LATENT, "action"], ["_", "_", "_", ("next", "belief")])
        noise = AdditiveGaussianModule(
            spec, sigma_init=args.exploration_noise, sigma_end=args.exploration_noise
        )
        self.policy = TensorDictSequential(look, self.actor, noise, remember)


def main(args: Args) -> float:
    """Train; return the mean return of the evaluation."""
    run = Experiment("dreamer", args)
    env = make_env(args, args.num_envs)
    nets = Networks(env, args)
    nets.actor(env.reset().set("state", torch.zeros(args.num_envs, args.state_dim)))  # lazy layers

    # Data: stretches of episodes
    collector = Collector(
        env,
        nets.policy,
        frames_per_batch=args.num_envs * args.episode_len // args.frame_skip,
        total_frames=args.total_frames,
    )
    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(args.total_frames),
        sampler=SliceSampler(slice_len=args.slice_len, traj_key=("collector", "traj_ids")),
        batch_size=args.slices_per_batch * args.slice_len,
    )

    # Losses
    model_loss = DreamerModelLoss(nets.world_model, free_nats=args.free_nats)
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

    def descend(
        loss_module: nn.Module, data: TensorDictBase
    ) -> tuple[dict[str, Tensor], TensorDictBase]:
        """Take a step along the gradient of a loss; return its parts, and what it saw."""
        losses, seen = loss_module(data)
        optimizers[loss_module].zero_grad()
        sum(losses.values()).backward()
        nn.utils.clip_grad_norm_(loss_module.parameters(), args.max_grad_norm)
        optimizers[loss_module].step()
        return losses.detach().to_dict(), seen

    # Training: see, then imagine from everything that was seen
    for batch in collector:
        buffer.extend(batch.reshape(-1))
        metrics = {}
        if run.frames >= args.learning_starts:
            for _ in range(args.updates_per_batch):
                stretches = buffer.sample().reshape(-1, args.slice_len)
                of_model, seen = descend(model_loss, stretches)
                of_actor, imagined = descend(actor_loss, seen.select(*LATENT))
                of_value, _ = descend(value_loss, imagined)
            metrics = of_model | of_actor | of_value
        run.log(batch, **metrics)
    collector.shutdown()
    return run.finish(env, nets.policy, partial(make_env, args, args.eval_episodes))


if __name__ == "__main__":
    main(parse(Args, __doc__))
