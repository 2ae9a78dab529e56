"""World models: Dreamer, small
============================

What you will learn:

- what a recurrent state-space model (RSSM) is made of, and how it is trained on sequences;
- to look at what a model imagines, before trusting it;
- to turn the model into an environment, with :class:`~torchrl.envs.DreamerEnv`;
- to train a policy inside it, without a step of the real task.

Six minutes to read, less than a minute to run.

The task is to swing up a pendulum, from images of 16 x 16 pixels. One image does not show how fast the
pendulum turns, so a policy needs a memory; the recurrent state of a world model is one. This tutorial
takes one round of Dreamer (Hafner et al., 2019, https://arxiv.org/abs/1912.01603): random episodes, a model
of them, a policy from the model. ``examples/dreamer.py`` repeats the round and solves the task.
"""

import os

import torch
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn

from torchrl.data import LazyTensorStorage, SliceSampler, TensorDictReplayBuffer, Unbounded
from torchrl.envs import (
    BatchSizeTransform,
    Compose,
    FrameSkipTransform,
    PendulumEnv,
    RewardScaling,
    StepCounter,
    TensorDictPrimer,
    TransformedEnv,
    UnaryTransform,
)

torch.manual_seed(0)
torch.set_num_threads(1)
is_short = os.environ.get("FRAMES") == "0"  # as the tests run it
size, state_dim, belief_dim, cells = 16, 16, 64, 64

# %%
# The task
# --------
#
# The pendulum of this library computes in torch, and so does the picture of it: no simulator, no
# renderer. A ``belief`` of zeros at each reset is where the memory starts.


def draw(angle):
    """Return images ``[*B, 1, 16, 16]`` of pendulums ``[*B]``: a white rod on black."""
    line = torch.linspace(-1.2, 1.2, size)
    x, y = line, -line.unsqueeze(-1)
    angle = angle[..., None, None, None]
    along = (x * angle.sin() + y * angle.cos()).clamp(0, 1)  # nearest point of the rod
    distance = torch.hypot(x - along * angle.sin(), y - along * angle.cos())
    return (-(distance / 0.14).square()).exp()


def make_env(rows):
    """Return pendulums whose episodes have 50 frames, of two steps each."""
    transforms = Compose(
        BatchSizeTransform(batch_size=[rows]),
        FrameSkipTransform(2),
        UnaryTransform(["th"], ["pixels"], fn=draw),
        StepCounter(50),
        RewardScaling(loc=0.0, scale=0.1),
        TensorDictPrimer(belief=Unbounded((belief_dim,)), expand_specs=True),
    )
    return TransformedEnv(PendulumEnv(), transforms)


env = make_env(40)
env.set_seed(0)
episodes = env.rollout(50)  # random actions
print(episodes["pixels"].shape)  # torch.Size([40, 50, 1, 16, 16])

# %%
# A model is trained on stretches of episodes. ``SliceSampler`` draws them; none crosses an end.

buffer = TensorDictReplayBuffer(
    storage=LazyTensorStorage(2_000), sampler=SliceSampler(slice_len=20, end_key=("next", "done")), batch_size=16 * 20
)
buffer.extend(episodes.reshape(-1))

# %%
# The world model
# ---------------
#
# Its state has two parts: ``belief``, a recurrent vector that remembers, and ``state``, a sample that says
# what memory cannot know. The *prior* advances both by an action, blindly; the *posterior* corrects the sample by
# the image that came. Two more networks turn the pair into an image and a reward.

from torchrl.modules import MLP, RSSMPosterior, RSSMPrior, RSSMRollout

net = {"num_cells": [cells] * 2, "activation_class": nn.ELU}
latent_dim = state_dim + belief_dim
encoder = nn.Sequential(nn.Flatten(-3), MLP(size * size, cells, **net))
decoder = MLP(latent_dim, (1, size, size), **net)
reward = MLP(latent_dim, 1, **net)
prior = RSSMPrior(env.action_spec_unbatched, cells, belief_dim, state_dim)
posterior = RSSMPosterior(cells, state_dim, rnn_hidden_dim=belief_dim, obs_embed_dim=cells)

# %%
# The names of entries say what reads what. ``RSSMRollout`` runs prior and posterior over the time of a batch.

latent, next_latent = ["state", "belief"], [("next", "state"), ("next", "belief")]
rollout = RSSMRollout(
    TensorDictModule(
        prior, [*latent, "action"], [("next", "prior_mean"), ("next", "prior_std"), "_", ("next", "belief")]
    ),
    TensorDictModule(
        posterior,
        [("next", "belief"), ("next", "encoded_latents")],
        [("next", "posterior_mean"), ("next", "posterior_std"), ("next", "state")],
    ),
)
world_model = TensorDictSequential(
    TensorDictModule(encoder, [("next", "pixels")], [("next", "encoded_latents")]),
    rollout,
    TensorDictModule(decoder, next_latent, [("next", "reco_pixels")]),
    TensorDictModule(reward, next_latent, [("next", "reward")]),
)

# %%
# The loss has three terms: images, rewards, and the divergence of prior and posterior, which teaches the
# prior to foresee what the image will say. A divergence below ``free_nats`` costs nothing.

from torchrl.objectives import DreamerModelLoss

model_loss = DreamerModelLoss(world_model, free_nats=1.0)
optimizer = torch.optim.Adam(model_loss.parameters(), lr=1e-3)
history = []
for _ in range(20 if is_short else 300):
    sequences = buffer.sample().reshape(-1, 20)  # [16, 20]
    sequences["state"] = torch.zeros(16, 20, state_dim)  # where the first step of each starts
    losses, sequences = model_loss(sequences)
    optimizer.zero_grad()
    losses.backward()
    nn.utils.clip_grad_norm_(model_loss.parameters(), 100.0)
    optimizer.step()
    history.append(losses["loss_model_reco"].item())
print(history[-1] < history[0])  # True

# %%
# What it imagines
# ----------------
#
# Never trust a world model that you have not watched. The model sees five frames of an episode, and then
# only the actions: from there on, each image is imagined from the one before.

dream_step = TensorDictModule(prior, [*latent, "action"], ["_", "_", *latent])
seen, shown = 5, 20
test = make_env(8)
test.set_seed(1)
true = test.rollout(shown)  # [8, 20]
with torch.no_grad():
    warm = true[:, :seen].set("state", torch.zeros(8, seen, state_dim))
    warm = world_model(warm)
    step = warm[:, -1]["next"].select(*latent)
    images = [*warm["next", "reco_pixels"].unbind(1)]
    for t in range(seen, shown):
        step = dream_step(step.set("action", true[:, t]["action"]))
        images.append(decoder(step["state"], step["belief"]))
imagined = torch.stack(images, 1)  # [8, 20, 1, 16, 16]

error = (imagined - true["next", "pixels"]).square().mean((0, 2, 3, 4))  # [20]
still = (true["next", "pixels"][:, seen - 1 : seen] - true["next", "pixels"]).square().mean((0, 2, 3, 4))  # [20]

# %%
# Above what happened, below what the model says; right of the line it is blind. After so few gradient steps the rod
# is blurred, for the model is not sure of it. Yet it goes on turning, and no single image shows how fast: that is in
# the belief.

import matplotlib.pyplot as plt

figure, axes = plt.subplots(2, 1, figsize=(9, 1.6), layout="constrained")
for panel, video, name in ((axes[0], true["next", "pixels"], "true"), (axes[1], imagined, "imagined")):
    panel.imshow(torch.cat([*video[0, :, 0]], -1).clamp(0, 1), cmap="gray", vmin=0, vmax=1)
    panel.axvline(seen * size - 0.5, color="tab:red")
    panel.set_ylabel(name)
    panel.set_xticks([])
    panel.set_yticks([])
plt.show()

# %%
# Compared with the guess that nothing moves, over the five frames after the line:

if not is_short:
    assert error[seen : seen + 5].mean() < 0.7 * still[seen : seen + 5].mean()

# %%
# The model as an environment
# ---------------------------
#
# With the prior and the network of the reward, ``DreamerEnv`` is an environment like any other: it has specs, resets
# and rollouts. It starts wherever we tell it to.

from torchrl.envs import DreamerEnv
from torchrl.modules import WorldModelWrapper

dream = DreamerEnv(
    WorldModelWrapper(dream_step, TensorDictModule(reward, latent, ["reward"])),
    prior_shape=[state_dim],
    belief_shape=[belief_dim],
)
dream.set_specs_from_env(env)
print(dream.rollout(3)["next", "reward"].shape)  # torch.Size([3, 1])

# %%
# A policy from dreams
# --------------------
#
# From every step of the sequences the policy acts in imagination, fifteen steps far. Since the model is a network, the
# gradient of the imagined return goes through the model into the policy. The value network says what comes after the
# horizon.

from torchrl.modules import DreamerActor, ProbabilisticActor, TanhNormal
from torchrl.objectives import DreamerActorLoss, DreamerValueLoss

actor = ProbabilisticActor(
    TensorDictModule(DreamerActor(1, depth=2, num_cells=cells, std_bias=1.0), latent, ["loc", "scale"]),
    in_keys=["loc", "scale"],
    spec=env.action_spec_unbatched,
    distribution_class=TanhNormal,
    distribution_kwargs={"tanh_loc": True},
)
value = TensorDictModule(MLP(latent_dim, 1, **net), latent, ["state_value"])
start = sequences.select("next")["next"].select(*latent).reshape(-1).detach()  # [320]
actor(start[:1].clone())  # initialises its lazy layers

actor_loss = DreamerActorLoss(actor, value, dream, imagination_horizon=15, gamma=0.98, lmbda=0.95)
value_loss = DreamerValueLoss(value, gamma=0.98)
optimizers = {
    actor_loss: torch.optim.Adam(actor_loss.parameters(), lr=5e-4),
    value_loss: torch.optim.Adam(value_loss.parameters(), lr=1e-3),
}
imagined_reward = []
for _ in range(5 if is_short else 150):
    of_actor, fantasy = actor_loss(start.clone())
    of_value, _ = value_loss(fantasy)
    for loss_module, losses in ((actor_loss, of_actor), (value_loss, of_value)):
        optimizers[loss_module].zero_grad()
        losses.backward()
        nn.utils.clip_grad_norm_(loss_module.parameters(), 100.0)
        optimizers[loss_module].step()
    imagined_reward.append(fantasy["next", "reward"].mean().item())

figure, axes = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
axes[0].plot(history)
axes[0].set(title="world model", xlabel="gradient step", ylabel="loss of the images", yscale="log")
axes[1].plot(imagined_reward, color="tab:green")
axes[1].set(title="policy", xlabel="gradient step", ylabel="imagined reward per step")
plt.show()

if not is_short:
    assert sum(imagined_reward[-10:]) > sum(imagined_reward[:10])

# %%
# That is the reward *according to the model*, and a policy finds what a model gets wrong. So Dreamer goes back to the
# task with the new policy, adds what it saw to the buffer, and repeats: ``examples/dreamer.py`` reaches a return of
# -160 to -178 after 8 000 frames, in five minutes on one core.
#
# Read next:
#
# - ``examples/dreamer.py``: the whole algorithm in one file;
# - ``data.py``: slices and other samplers;
# - ``recurrent_ppo.py``: memory without a model;
# - ``custom_environment.py``: environments like the pendulum of this page.
