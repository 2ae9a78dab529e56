"""Functional parameters, vmap and meta-learning
=============================================

What you will learn:

- to call a network, or a whole loss, with parameters that are not its own;
- to run an ensemble as one call, with ``torch.vmap`` over stacked parameters;
- where losses do this themselves: the critics of SAC, REDQ and their like;
- to differentiate through an update: the inner step of MAML, over many tasks at once.

Five minutes to read, a quarter of a minute to run.

A module of torch carries its parameters. Some algorithms need it the other way round: *one* function,
and parameters as its argument, like data. A TensorDict of parameters does that.
"""

import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn

from torchrl.modules import MLP

torch.manual_seed(0)
torch.set_num_threads(1)

# %%
# Parameters as data
# ------------------
#
# ``TensorDict.from_module`` collects the parameters under the names of their layers. They are the
# parameters themselves, not copies.

net = MLP(1, 1, num_cells=[32, 32], activation_class=nn.Tanh)
params = TensorDict.from_module(net)
print(params["0", "weight"].shape)  # torch.Size([32, 1])
print(params["0", "weight"] is net[0].weight)  # True

# %%
# ``with params.to_module(net)`` puts other parameters in their place, until the end of the block. A
# TensorDict has arithmetic, so "other" may be the result of some.

x = torch.linspace(-3, 3, 100).unsqueeze(-1)  # [100, 1]
with (params * 0).to_module(net):
    print(net(x).abs().max().item())  # 0.0
print(net(x).abs().max().item() > 0)  # True

# %%
# An ensemble in one call
# -----------------------
#
# Stack the parameters of several networks, map over the first dimension, and the Python loop over the
# members is gone. ``(0, None)`` reads: each member its own parameters, all of them the same input.

members = [MLP(1, 1, num_cells=[32, 32], activation_class=nn.Tanh) for _ in range(16)]
stacked = torch.stack([TensorDict.from_module(member).detach() for member in members])


def call(params, x):
    """Return what the network says with these parameters."""
    with params.to_module(net):
        return net(x)


together = torch.vmap(call, (0, None))(stacked, x)
one_by_one = torch.stack([member(x) for member in members])
print(together.shape, torch.allclose(together, one_by_one, atol=1e-6))  # torch.Size([16, 100, 1]) True

# %%
# Losses with several critics hold them in this way: one network, and parameters with a dimension in
# front. Nothing changes for the optimizer, and ten critics cost far less than ten calls.

from torchrl.envs import PendulumEnv
from torchrl.modules import make_actor, make_critic
from torchrl.objectives import SACLoss

env = PendulumEnv()
sac = SACLoss(make_actor(env), make_critic(env, with_action=True, num_cells=(64, 64)), num_qvalue_nets=10)
shapes = [tuple(parameter.shape) for parameter in sac.qvalue_network_params.parameters()]
print(shapes[1], all(shape[0] == 10 for shape in shapes))  # (10, 64) True

# %%
# A loss as a function
# --------------------
#
# A loss is a module too. Here a policy imitates an expert, from pairs of observation and action:

from torchrl.objectives import BCLoss

policy = TensorDictModule(MLP(3, 1, num_cells=[64, 64], activation_class=nn.Tanh), ["observation"], ["action"])
loss_module = BCLoss(policy, loss_function="l2")


def imitation(params, batch):
    """Return the loss of the policy with these parameters."""
    with params.to_module(loss_module):
        return loss_module(batch)["loss_bc"]


# %%
# Every pendulum below has an expert of its own, which weighs angle and velocity in its own way. A task
# is such an expert; a batch has some of what it did, ``[tasks, rows]``.


def demonstrations(tasks, rows, seed):
    """Return what experts do: to learn from and to judge by, each ``[tasks, rows]``."""
    random = torch.Generator().manual_seed(seed)
    gains = torch.rand(tasks, 1, 2, generator=random) * 4 - 2
    angle = (torch.rand(tasks, 2 * rows, generator=random) * 2 - 1) * torch.pi
    velocity = torch.rand(tasks, 2 * rows, generator=random) * 2 - 1
    observation = torch.stack([angle.cos(), angle.sin(), velocity], -1)  # [tasks, 2 * rows, 3]
    action = (gains * observation[..., 1:]).sum(-1, keepdim=True)  # [tasks, 2 * rows, 1]
    batch = TensorDict(observation=observation, action=action, batch_size=[tasks, 2 * rows])
    return batch[:, :rows], batch[:, rows:]


# %%
# With the loss as a function of its parameters, ``torch.func.grad`` is its gradient, a TensorDict like
# the parameters, and a step of gradient descent is one line.


def adapt(params, batch, steps=1, lr=0.1):
    """Return parameters after gradient steps on the demonstrations of a task."""
    for _ in range(steps):
        gradient = torch.func.grad(imitation)(params, batch)
        params = params.apply(lambda parameter, g: parameter - lr * g, gradient)
    return params


# %%
# The inner step of MAML
# ----------------------
#
# MAML (Finn et al., 2017, https://arxiv.org/abs/1703.03400) looks for initial parameters from which *one*
# such step is enough. Its objective is the loss after the step, so the gradient goes through the step. All
# tasks adapt at once, under ``torch.vmap``: each has its own adapted parameters, and none is copied back.


def after_adaptation(params, train, test, steps=1):
    """Return the loss of each task ``[tasks]`` after it has adapted."""

    def of_task(train, test):
        return imitation(adapt(params, train, steps), test)

    return torch.vmap(of_task)(train, test)


initial = TensorDict.from_module(loss_module).detach().clone()  # the module itself is only a function from here on


def meta_train(objective, iterations=400):
    """Return parameters that minimise an objective over random tasks."""
    params = initial.clone().requires_grad_()
    optimizer = torch.optim.Adam(params.values(include_nested=True, leaves_only=True), lr=2e-3)
    for i in range(iterations):
        loss = objective(params, *demonstrations(tasks=16, rows=10, seed=i)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return params.detach()


# %%
# The rival is what one would do without meta-learning: train one policy on the data of all tasks.

trained = {
    "meta-learned": meta_train(after_adaptation),
    "trained on all tasks": meta_train(lambda params, train, test: imitation(params, test.reshape(-1))),
}

# %%
# The judge are 100 experts that neither has seen, of whom ten pairs are shown.

import matplotlib.pyplot as plt

unseen = demonstrations(tasks=100, rows=10, seed=10_000)
curves = {
    name: [after_adaptation(params, *unseen, steps=steps).mean().item() for steps in range(7)]
    for name, params in trained.items()
}
plt.figure(figsize=(6, 4), layout="constrained")
for name, curve in curves.items():
    plt.plot(curve, "o-", label=name)
plt.yscale("log")
plt.xlabel("gradient steps on ten pairs of a new expert")
plt.ylabel("squared error on other pairs")
plt.grid(alpha=0.3)
plt.legend(frameon=False)
plt.show()

meta, joint = curves["meta-learned"], curves["trained on all tasks"]
print(meta[1] < 0.5 * joint[1], meta[1] < 0.3 * meta[0])  # True True

# %%
# Before the first step neither knows whom to imitate, and both are bad. After one, the meta-learned
# policy is where the other one is not after six.
#
# The same works with nearly every loss here: that it can be mapped over its parameters is tested. One that
# draws random numbers takes ``torch.vmap(..., randomness="different")``.
#
# Read next:
#
# - ``losses.py``: what losses read and return;
# - ``custom_loss.py``: a loss of your own, which gets all of this from its base;
# - ``compile_mixed_precision_devices.py``: the same code, faster;
# - the `page of torch.func <https://docs.pytorch.org/docs/stable/func.html>`_.
