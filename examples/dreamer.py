"""Dreamer in one file: a policy learns in the imagination of a world model.

    python examples/dreamer.py

The task is the pendulum swing-up from images of 16 x 16 pixels. A single image does not show the
angular velocity, so the policy needs the recurrent state of the world model. Task, images and world
model run in torch.

PendulumEnv: mean return -160, -160, -178 of 100 deterministic episodes of 200 steps after 8 000
frames (each two steps of the task), seeds 0, 1, 2; about 5 minutes each on one core.

Source: Hafner et al., 2019, https://arxiv.org/abs/1912.01603; smaller than there.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
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
from torchrl.record import Experiment, parse_args

LATENT = ["state", "belief"]  # stochastic and recurrent part of the latent state
NEXT_LATENT = [("next", key) for key in LATENT]


@dataclass
class Args:
    """Settings. "paper" is the value of the source; the others were chosen for this task."""

    env: str = "PendulumEnv"  # name of the task, for titles; it is built by make_env
    seed: int = 0  # of Python, numpy, torch and the environment
    device: str = "cpu"  # where environment, networks and data are
    image_size: int = 16  # pixels along each side; paper: 64
    episode_len: int = 200  # steps of the task; paper: 1000
    frame_skip: int = 2  # steps of the task with the same action, which are one frame; paper
    num_envs: int = 4  # copies of the task; a batch is one episode of each; paper: 1
    total_frames: int = 8_000  # frames, of all copies together; paper: 2.5e6
    learning_starts: int = 2_000  # frames before the first gradient step; paper: 5 episodes
    updates_per_batch: int = 100  # gradient steps per batch; paper
    slice_len: int = 20  # frames of a sequence that the world model is trained on; paper: 50
    slices_per_batch: int = 16  # sequences per gradient step; paper: 50
    imagination_horizon: int = 15  # imagined frames from each frame of the sequences; paper
    exploration_noise: float = 0.6  # standard deviation of noise on the action; paper: 0.3
    state_dim: int = 16  # size of the stochastic part of the latent state; paper: 30
    belief_dim: int = 64  # size of its recurrent part; paper: 200
    num_cells: int = 64  # units of a hidden layer; paper: 300
    free_nats: float = 1.0  # Kullback-Leibler divergence that costs nothing, in nats; paper: 3
    lr_model: float = 1e-3  # learning rate of the world model; paper: 6e-4
    lr_actor: float = 5e-4  # learning rate of the policy; paper: 8e-5
    lr_value: float = 1e-3  # learning rate of the value network; paper: 8e-5
    gamma: float = 0.98  # discount per frame; paper: 0.99
    lmbda: float = 0.95  # of the lambda returns; paper
    max_grad_norm: float = 100.0  # limit of the gradient's norm, of each loss; paper
    eval_episodes: int = 100  # episodes after training; their mean return is the score
    video: bool = True  # write a video of the trained policy
    log_dir: str = "runs"  # folder of the run's own folder


def draw(angle: Tensor, size: int) -> Tensor:
    """Return images ``[*B, 1, size, size]`` of pendulums ``[*B]``: a white rod on black."""
    line = torch.linspace(-1.2, 1.2, size, device=angle.device)
    x, y = line, -line.unsqueeze(-1)
    angle = angle[..., None, None, None]
    tip_x, tip_y = angle.sin(), angle.cos()
    along = (x * tip_x + y * tip_y).clamp(0, 1)  # nearest point of the rod, 0 to 1
    distance = torch.hypot(x - along * tip_x, y - along * tip_y)
    return (-(distance / 0.14).square()).exp()


def make_env(args: Args, num_envs: int) -> TransformedEnv:
    """Return the task, whose episodes start with a belief of zeros."""
    env = TransformedEnv(
        PendulumEnv(device=args.device),
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
    """All networks, combined into modules and an environment.

    ``world_model`` is trained on sequences of the task, ``dream`` is an environment of latent
    states that the world model simulates, ``actor`` and ``value`` read latent states, and
    ``policy`` acts in the task: it encodes the image, acts with noise, and updates the belief.
    """

    def __init__(self, env: TransformedEnv, args: Args) -> None:
        image, spec = (1, args.image_size, args.image_size), env.action_spec_unbatched
        cells = {"num_cells": [args.num_cells] * 2, "activation_class": nn.ELU}
        latent_dim = args.state_dim + args.belief_dim
        encoder = nn.Sequential(nn.Flatten(-3), MLP(args.image_size**2, args.num_cells, **cells))
        decoder, reward = MLP(latent_dim, image, **cells), MLP(latent_dim, 1, **cells)
        prior = RSSMPrior(spec, args.num_cells, args.belief_dim, args.state_dim)
        posterior = RSSMPosterior(
            args.num_cells, args.state_dim, rnn_hidden_dim=args.belief_dim, obs_embed_dim=args.num_cells
        )

        # On sequences of the task: prior and posterior of each next state
        rollout = RSSMRollout(
            TensorDictModule(
                prior, [*LATENT, "action"], [("next", "prior_mean"), ("next", "prior_std"), "_", ("next", "belief")]
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
            distribution_kwargs={"tanh_loc": True},  # keeps gradients at the bounds
        )
        self.value = TensorDictModule(MLP(latent_dim, 1, **cells), LATENT, ["state_value"])

        # In the task: encode, act, update the belief
        encode = TensorDictSequential(
            TensorDictModule(encoder, ["pixels"], ["encoded_latents"]),
            TensorDictModule(posterior, ["belief", "encoded_latents"], ["state", "_", "_"]),
        )
        update = TensorDictModule(prior, [*LATENT, "action"], ["_", "_", "_", ("next", "belief")])
        noise = AdditiveGaussianModule(spec, sigma_init=args.exploration_noise, sigma_end=args.exploration_noise)
        self.policy = TensorDictSequential(encode, self.actor, noise, update)


def main(args: Args) -> float:
    """Train; return the mean return of the evaluation."""
    run = Experiment("dreamer", args)
    env = make_env(args, args.num_envs)
    with torch.device(args.device):
        nets = Networks(env, args)
        state = torch.zeros(args.num_envs, args.state_dim)
    nets.actor(env.reset().set("state", state))  # initialises its lazy layers

    # Data: sequences of consecutive frames
    collector = Collector(
        env,
        nets.policy,
        frames_per_batch=args.num_envs * args.episode_len // args.frame_skip,
        total_frames=args.total_frames,
    )
    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(args.total_frames, device=args.device),
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

    def update(loss_module: nn.Module, data: TensorDictBase) -> tuple[dict[str, Tensor], TensorDictBase]:
        """Take one gradient step; return the terms of the loss and the data with its outputs."""
        losses, data = loss_module(data)
        optimizers[loss_module].zero_grad()
        losses.backward()
        nn.utils.clip_grad_norm_(loss_module.parameters(), args.max_grad_norm)
        optimizers[loss_module].step()
        return losses.detach().to_dict(), data

    # Training: world model on the data; policy and value on what it imagines from there
    losses = {}
    for batch in collector:
        buffer.extend(batch.reshape(-1))
        if run.frames >= args.learning_starts:
            for _ in range(args.updates_per_batch):
                sequences = buffer.sample().reshape(-1, args.slice_len)
                of_model, latent = update(model_loss, sequences)
                of_actor, imagined = update(actor_loss, latent.select(*LATENT))
                of_value, _ = update(value_loss, imagined)
            losses = of_model | of_actor | of_value
        run.log(batch, **losses)
    collector.shutdown()
    return run.finish(env, nets.policy, partial(make_env, args, args.eval_episodes))


if __name__ == "__main__":
    main(parse_args(Args, __doc__))
