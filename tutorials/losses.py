"""Losses: from a batch to gradients
==================================

What you will learn: what a loss reads and returns, where advantages and targets come from, how
entries are renamed, and what is said when one is missing. Five minutes to read, a second to run.
"""

import torch
from tensordict.nn import TensorDictModule
from torch import nn

from torchrl.envs import GymEnv
from torchrl.modules import MLP, NormalParamExtractor, ProbabilisticActor, TanhNormal, ValueOperator

torch.manual_seed(0)
env = GymEnv("Pendulum-v1")
env.set_seed(0)
parameters = nn.Sequential(MLP(3, 2, num_cells=[32]), NormalParamExtractor())
actor = ProbabilisticActor(
    TensorDictModule(parameters, in_keys=["observation"], out_keys=["loc", "scale"]),
    in_keys=["loc", "scale"],
    spec=env.action_spec,
    distribution_class=TanhNormal,
    return_log_prob=True,
)
batch = env.rollout(50, actor).detach()

# %%
# Policy gradients
# ----------------
#
# They need to know how much better an action was than expected. ``GAE`` reads rewards, ends and the
# critic's values, and writes ``advantage`` and ``value_target``. A step that terminates ends the
# future; one that is only truncated is continued by the critic.

from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

critic = ValueOperator(MLP(3, 1, num_cells=[32]), in_keys=["observation"])
advantage = GAE(gamma=0.99, lmbda=0.95, value_network=critic)
advantage(batch)
print(batch["advantage"].shape, batch["value_target"].shape)  # torch.Size([50, 1]) torch.Size([50, 1])

# %%
# A loss returns its terms under names of their own. Those that start with ``loss`` carry gradients,
# and their sum is what to minimise; the others are for the log.

ppo = ClipPPOLoss(actor, critic, clip_epsilon=0.2, entropy_coeff=1e-3)
terms = ppo(batch)
losses = {key: term for key, term in terms.items() if key.startswith("loss")}
print(list(losses))  # ['loss_objective', 'loss_entropy', 'loss_critic']

terms.backward()
print(all(parameter.grad is not None for parameter in ppo.parameters()))  # True

# %%
# Temporal differences
# --------------------
#
# Off-policy losses look one step ahead, with the help of networks that lag behind. The loss makes
# them, and an updater moves them; the optimizer never sees them.

from torchrl.objectives import SACLoss, SoftUpdate

q_value = ValueOperator(MLP(4, 1, num_cells=[32]), in_keys=["observation", "action"])
sac = SACLoss(actor, q_value, num_qvalue_nets=2)
target_update = SoftUpdate(sac, tau=0.005)
terms = sac(batch)
print(sorted(terms.keys()))  # ['alpha', 'entropy', 'loss_actor', 'loss_alpha', 'loss_qvalue']

# %%
# Each term can have an optimizer of its own. The critics are constant in the loss of the policy.

terms["loss_actor"].backward(retain_graph=True)
print(any(parameter.grad is not None for parameter in sac.qvalue_network.parameters()))  # False

optimizer = torch.optim.Adam(sac.parameters(), lr=1e-3)
optimizer.zero_grad()
terms.backward()
optimizer.step()
target_update.step()

# %%
# The distance of each sample from its target is written into the batch, as its priority.

print(batch["td_error"].shape)  # torch.Size([50])

# %%
# How to look ahead is a choice. The default is one step; ``make_value_estimator`` takes another.

from torchrl.objectives import ValueEstimators

sac.make_value_estimator(ValueEstimators.TDLambda, gamma=0.98, lmbda=0.9)
print(type(sac.value_estimator).__name__)  # TDLambdaEstimator

# %%
# Names
# -----
#
# ``in_keys`` lists what a loss reads. Entries with other names are set once.

print(ppo.in_keys[:3])  # ['advantage', 'value_target', 'action']
ppo.set_keys(advantage="gain")
renamed = batch.rename_key_("advantage", "gain")
print("gain" in ppo.in_keys, ppo(renamed)["loss_objective"].shape)  # True torch.Size([])

# %%
# What is missing is named, with who missed it and what was there instead.

try:
    ppo(renamed.exclude("action"))
except KeyError as error:
    message = str(error)
print(message.partition(";")[0])  # ClipPPOLoss: entry 'action' is read but absent

# %%
# Read next: ``first_training.py`` puts it all together.
