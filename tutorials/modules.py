"""Modules: networks that know their keys
=======================================

What you will learn: how a network learns to read and write entries, how modules are chained, how a
policy draws actions, and who decides whether it explores. Five minutes to read, a second to run.
"""

import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn

torch.manual_seed(0)

# %%
# Keys
# ----
#
# ``TensorDictModule`` wraps any function or ``nn.Module``. The network sees tensors; the record
# passes through and keeps what it had.

encoder = TensorDictModule(nn.Linear(3, 8), in_keys=["observation"], out_keys=["hidden"])
record = encoder(TensorDict(observation=torch.randn(5, 3), batch_size=[5]))
print(sorted(record.keys()), record["hidden"].shape)  # ['hidden', 'observation'] torch.Size([5, 8])

# %%
# A sequence of modules is a module. What it must be given follows from its parts: ``hidden`` is
# written on the way, so it is not asked for.

head = TensorDictModule(nn.Linear(8, 2), in_keys=["hidden"], out_keys=["score"])
network = TensorDictSequential(encoder, head)
print(network.in_keys, network.out_keys)  # ['observation'] ['hidden', 'score']

# %%
# Keys are also keyword arguments, for when there is no tensordict at hand. The outputs come back in
# the order of ``out_keys``.

hidden, score = network(observation=torch.zeros(3))
print(score.shape)  # torch.Size([2])

# %%
# Ready-made networks
# -------------------
#
# ``MLP``, ``ConvNet``, recurrent and dueling networks, and more. Sizes that are left out are
# inferred from the first input; several inputs are joined.

from torchrl.modules import MLP, ConvNet

print(MLP(3, 2, num_cells=[32, 32])(torch.zeros(5, 3)).shape)  # torch.Size([5, 2])
print(MLP(out_features=1, num_cells=[32])(torch.zeros(5, 3), torch.zeros(5, 1)).shape)  # torch.Size([5, 1])
print(ConvNet(num_cells=[16, 32], kernel_sizes=3)(torch.zeros(5, 3, 32, 32)).shape)  # torch.Size([5, 25088])

# %%
# Policies
# --------
#
# The deterministic kind: ``Actor`` writes the action itself. Given a spec it can be asked to keep
# within it.

from torchrl.data import Bounded
from torchrl.modules import Actor

spec = Bounded(-1, 1, shape=(2,))
actor = Actor(MLP(3, 2, num_cells=[32]), spec=spec, safe=True)
print(spec.is_in(actor(record)["action"]))  # True

# %%
# The stochastic kind: a network writes the parameters of a distribution, ``ProbabilisticActor``
# turns them into an action. ``NormalParamExtractor`` splits an output in two, a mean and a positive
# scale; ``TanhNormal`` keeps draws within the bounds.

from torchrl.modules import NormalParamExtractor, ProbabilisticActor, TanhNormal

parameters = nn.Sequential(MLP(3, 4, num_cells=[32]), NormalParamExtractor())
policy = ProbabilisticActor(
    TensorDictModule(parameters, in_keys=["observation"], out_keys=["loc", "scale"]),
    in_keys=["loc", "scale"],
    spec=spec,
    distribution_class=TanhNormal,
    return_log_prob=True,
)
print(policy.out_keys)  # ['loc', 'scale', 'action', 'action_log_prob']
print(policy(record)["action_log_prob"].shape)  # torch.Size([5])

# %%
# Does it explore?
# ----------------
#
# The context decides that, not the policy. The same holds for modules whose only purpose is noise,
# so that training and evaluation use one and the same object.

from torchrl.envs import set_exploration_type
from torchrl.modules import AdditiveGaussianModule

noisy = TensorDictSequential(actor, AdditiveGaussianModule(spec, sigma_init=0.3, sigma_end=0.3))


def repeats(module, kind):
    """Return whether a module gives the same twice."""
    with set_exploration_type(kind):
        first, second = (module(record.clone())["action"] for _ in range(2))
    return first.equal(second)


print([repeats(module, "random") for module in (policy, noisy)])  # [False, False]
print([repeats(module, "deterministic") for module in (policy, noisy)])  # [True, True]

# %%
# Values
# ------
#
# ``ValueOperator`` names its output after its inputs: ``state_value``, or ``state_action_value`` if
# it reads an action too.

from torchrl.modules import ValueOperator

value = ValueOperator(MLP(3, 1, num_cells=[32]), in_keys=["observation"])
q_value = ValueOperator(MLP(5, 1, num_cells=[32]), in_keys=["observation", "action"])
print(value.out_keys, q_value.out_keys)  # ['state_value'] ['state_action_value']

# %%
# A policy and a value function that share their first layers are one object with two faces; a loss
# takes the faces, and the body is trained once.

from torchrl.modules import ActorValueOperator

both = ActorValueOperator(
    TensorDictModule(MLP(3, 16, num_cells=[32]), ["observation"], ["hidden"]),
    Actor(nn.Linear(16, 2), in_keys=["hidden"], spec=spec),
    ValueOperator(nn.Linear(16, 1), in_keys=["hidden"]),
)
faces = both.get_policy_operator(), both.get_value_operator()
print([face.in_keys for face in faces])  # [['observation'], ['observation']]
shared = set(faces[0].parameters()) & set(faces[1].parameters())
print(len(shared))  # 4

# %%
# Memory
# ------
#
# A recurrent module reads its state from the record and writes the next one under ``"next"``, where
# the next step reads it. ``is_init`` marks where an episode starts.

from torchrl.modules import GRUModule

memory = GRUModule(input_size=3, hidden_size=8, in_key="observation", out_key="hidden")
print(memory.in_keys)  # ['observation', 'recurrent_state', 'is_init']
print(memory.out_keys)  # ['hidden', ('next', 'recurrent_state')]

# %%
# Read next: ``losses.py``, for what is done with all these outputs, and ``docs/exploration.md``,
# for what explores where.
