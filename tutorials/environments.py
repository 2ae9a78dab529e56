"""Environments, records and policies
===================================

What you will learn: what an environment returns, how a policy is used, how a transform changes
both, and how a batch of steps is laid out. Five minutes to read, a second to run.
"""

import torch
from tensordict.nn import TensorDictModule

from torchrl.envs import GymEnv, RewardSum, StepCounter, TransformedEnv, set_exploration_type
from torchrl.modules import MLP, OneHotCategorical, ProbabilisticActor

# %%
# An environment returns a tensordict: tensors by key, with one batch size. ``reset`` gives the root
# of a first step.

torch.manual_seed(0)
env = GymEnv("CartPole-v1")
env.set_seed(0)
root = env.reset()
print(sorted(root.keys()))  # ['done', 'observation', 'terminated', 'truncated']

# %%
# A step reads the action and writes what came of it under ``"next"``. ``terminated`` ends the
# future, ``truncated`` ends our looking; ``done`` is either.

root = env.rand_action(root)
step = env.step(root)
print(sorted(step["next"].keys()))  # ['done', 'observation', 'reward', 'terminated', 'truncated']

# %%
# Specs say what to expect of each entry: they draw values, check them and project them.

print(env.action_spec.shape, env.action_spec.is_in(step["action"]))  # torch.Size([2]) True

# %%
# A policy is a module that reads some keys and writes others. This one reads ``observation`` and
# writes ``logits``, ``action`` and, because the loss will ask for it, ``action_log_prob``.

logits = TensorDictModule(MLP(4, 2, num_cells=[64]), ["observation"], ["logits"])
policy = ProbabilisticActor(
    logits, in_keys=["logits"], spec=env.action_spec, distribution_class=OneHotCategorical, return_log_prob=True
)

# %%
# A transform changes what the environment emits, and its specs with it.

env = TransformedEnv(env, StepCounter(max_steps=50))
env.append_transform(RewardSum())

# %%
# ``rollout`` drives both. Time is the last batch dimension; the root of a step is what stood under
# ``"next"`` one step before, until an episode ends.

with set_exploration_type("random"), torch.no_grad():
    steps = env.rollout(100, policy, break_when_any_done=False)
print(steps.batch_size, steps.names)  # torch.Size([100]) ['time']

going_on = ~steps["next", "done"][:-1].squeeze(-1)
same = steps["observation"][1:][going_on] == steps["next", "observation"][:-1][going_on]
print(same.all().item())  # True

# %%
# The last observation of an episode is never lost: it stays under ``"next"``, beside the return.

ends = steps["next", "done"].squeeze(-1)
returns, lengths = steps["next", "episode_reward"][ends], steps["next", "step_count"][ends]
print((returns == lengths).all().item())  # True

# %%
# Read next: ``examples/ppo.py`` for a whole training run, ``docs/architecture.md`` for the layout
# of the data and the layers of the library.
