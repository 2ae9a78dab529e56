"""A small world model with its policy and its values, and batches to learn them from."""

import torch
from tensordict import TensorDict
from tensordict.nn import (
    NormalParamExtractor,
    ProbabilisticTensorDictModule,
    ProbabilisticTensorDictSequential,
    TensorDictModule,
    TensorDictSequential,
)
from torch import nn

from torchrl.data import Bounded
from torchrl.envs import DreamerEnv
from torchrl.modules import MLP, RSSMPosterior, RSSMPrior, RSSMRollout, WorldModelWrapper
from torchrl.objectives import DreamerActorLoss, DreamerModelLoss, DreamerValueLoss
from torchrl.testing.networks import tanh_normal

S, BELIEF, OBS = 4, 8, 1
LATENT = ["state", "belief"]


def under_next(*names):
    return [("next", name) for name in names]


class Head(nn.Module):
    """Location and scale of an action."""

    def __init__(self, net):
        super().__init__()
        self.net, self.extract = net, NormalParamExtractor()

    def forward(self, *x):
        return self.extract(self.net(*x))


class Models:
    """A small world model, a policy and values."""

    def __init__(self, hidden=16):
        torch.manual_seed(0)
        size = S + BELIEF
        kw = {"hidden_dim": hidden, "state_dim": S, "rnn_hidden_dim": BELIEF}
        prior = RSSMPrior(action_dim=1, **kw)
        posterior = RSSMPosterior(obs_embed_dim=OBS, **kw)
        reward, decoder, value = (MLP(size, out, num_cells=[hidden], activation_class=nn.ELU) for out in (1, OBS, 1))
        scan = RSSMRollout(
            TensorDictModule(
                prior, [*LATENT, "action"], [*under_next("prior_mean", "prior_std"), "_", ("next", "belief")]
            ),
            TensorDictModule(
                posterior,
                under_next("belief", "encoded_latents"),
                under_next("posterior_mean", "posterior_std", "state"),
            ),
        )
        self.model = TensorDictSequential(
            TensorDictModule(nn.Identity(), under_next("observation"), under_next("encoded_latents")),
            scan,
            TensorDictModule(decoder, under_next(*LATENT), under_next("reco")),
            TensorDictModule(reward, under_next(*LATENT), under_next("reward")),
        )
        self.env = DreamerEnv(
            WorldModelWrapper(
                TensorDictModule(prior, [*LATENT, "action"], ["_", "_", *LATENT]),
                TensorDictModule(reward, LATENT, ["reward"]),
            ),
            [S],
            [BELIEF],
            obs_decoder=TensorDictModule(decoder, LATENT, ["reco"]),
        )
        self.env.action_spec = Bounded(-1, 1, (1,))
        head = Head(MLP(size, 2, num_cells=[hidden]))
        self.actor = ProbabilisticTensorDictSequential(
            TensorDictModule(head, LATENT, ["loc", "scale"]),
            ProbabilisticTensorDictModule(["loc", "scale"], ["action"], distribution_class=tanh_normal),
        )
        self.value = TensorDictModule(value, LATENT, ["state_value"])

    def losses(self, **kw):
        model = DreamerModelLoss(self.model, **kw)
        model.set_keys(pixels="observation", reco_pixels="reco")
        return (model, DreamerActorLoss(self.actor, self.value, self.env), DreamerValueLoss(self.value))


def rows(batch=6, steps=5):
    """One number is seen all along; the reward is how near the action is to it."""
    goal = (torch.rand(batch, 1, 1) - 0.5).expand(batch, steps, 1)
    action = torch.rand(batch, steps, 1) * 2 - 1
    after = TensorDict(observation=goal, reward=-((action - goal) ** 2), batch_size=[batch, steps])
    return TensorDict(
        state=torch.zeros(batch, steps, S),
        belief=torch.zeros(batch, steps, BELIEF),
        action=action,
        next=after,
        batch_size=[batch, steps],
    )


def latents(*size):
    """Latent states, and returns that were imagined from them."""
    td = TensorDict(lambda_target=torch.randn(*size, 1), batch_size=size)
    td["state"], td["belief"] = torch.randn(*size, S), torch.randn(*size, BELIEF)
    return td
