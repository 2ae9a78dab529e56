"""Dreamer's state-space model."""

import copy

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn

from torchrl._core.errors import MissingKeyError
from torchrl.data import Bounded
from torchrl.modules import DreamerActor, ObsDecoder, ObsEncoder, RSSMPosterior, RSSMPrior, RSSMRollout

S, H, A, E = 5, 7, 2, 6
NEXT = {k: ("next", k) for k in ("prior_mean", "prior_std", "belief", "state", "encoded_latents")}


@pytest.mark.parametrize("batch", [(3,), (3, 2)], ids=str)
def test_images_in_and_out(batch):
    encoder = ObsEncoder(channels=8, in_channels=3)
    assert encoder(torch.zeros(*batch, 3, 64, 64)).shape == (*batch, 64 * 2 * 2)
    decoder = ObsDecoder(channels=4, latent_dim=S + H, out_channels=1)
    assert decoder(torch.zeros(*batch, S), torch.zeros(*batch, H)).shape == (*batch, 1, 64, 64)
    decoder(torch.zeros(*batch, S), torch.zeros(*batch, H)).sum().backward()
    assert ObsEncoder(depth=8).encoder.num_cells == [8, 16, 32, 64]
    with pytest.raises(ValueError, match=r"one kernel size for each layer; expected 4, found \[5, 5\]"):
        ObsDecoder(kernel_sizes=[5, 5])


def test_prior_is_a_gru_and_a_gaussian():
    prior = RSSMPrior(Bounded(-1, 1, (A,)), 8, H, S, scale_lb=0.3)
    state, belief, action = torch.randn(4, S), torch.randn(4, H), torch.randn(4, A)
    mean, std, draw, after = prior(state, belief, action)
    hidden = prior.action_state_projector(torch.cat([state, action], -1))
    torch.testing.assert_close(after, prior.rnn(hidden, belief))
    raw = prior.rnn_to_prior[0](after)
    torch.testing.assert_close(mean, raw[..., :S])
    torch.testing.assert_close(std, nn.functional.softplus(raw[..., S:]).clamp_min(0.3))
    assert (draw != mean).all()
    batched = prior(*(x.unsqueeze(1).expand(4, 3, -1) for x in (state, belief, action)))
    torch.testing.assert_close(batched[3][:, 2], after)
    with pytest.raises(ValueError, match="must know the number of actions"):
        RSSMPrior()


def test_posterior_sizes_are_inferred_or_given():
    for kwargs in ({}, {"rnn_hidden_dim": H, "obs_embed_dim": E}):
        posterior = RSSMPosterior(8, S, **kwargs)
        mean, std, draw = posterior(torch.randn(4, 3, H), torch.randn(4, 3, E))
        assert mean.shape == std.shape == draw.shape == (4, 3, S)


def rollout(**kwargs):
    prior = TensorDictModule(
        RSSMPrior(None, 8, H, S, action_dim=A),
        ["state", "belief", "action"],
        [NEXT["prior_mean"], NEXT["prior_std"], "_", NEXT["belief"]],
    )
    posterior = TensorDictModule(
        RSSMPosterior(8, S, rnn_hidden_dim=H, obs_embed_dim=E),
        [NEXT["belief"], NEXT["encoded_latents"]],
        [("next", "posterior_mean"), ("next", "posterior_std"), NEXT["state"]],
    )
    return RSSMRollout(prior, posterior, **kwargs)


def data(*batch):
    return TensorDict(
        state=torch.randn(*batch, S),
        belief=torch.randn(*batch, H),
        action=torch.randn(*batch, A),
        next=TensorDict(encoded_latents=torch.randn(*batch, E), batch_size=batch),
        batch_size=batch,
    )


@pytest.mark.parametrize("resets", [False, True])
def test_rollout_advances_its_state(resets):
    module, td = rollout(), data(3, 6)
    if resets:
        td["is_init"] = torch.rand(3, 6, 1) < 0.4
    start = td.clone()
    torch.manual_seed(1)
    out = module(td)
    assert out is td
    torch.manual_seed(1)
    state, belief = start["state"][:, 0], start["belief"][:, 0]
    for t in range(6):
        if resets:
            keep = ~start["is_init"][:, t]
            state, belief = state * keep, belief * keep
        torch.testing.assert_close(out["state"][:, t], state)
        torch.testing.assert_close(out["belief"][:, t], belief)
        mean, _, _, belief = module.rssm_prior.module(state, belief, start["action"][:, t])
        _, _, state = module.rssm_posterior.module(belief, start["next", "encoded_latents"][:, t])
        torch.testing.assert_close(out["next", "prior_mean"][:, t], mean)
        torch.testing.assert_close(out["next", "belief"][:, t], belief)
        torch.testing.assert_close(out["next", "state"][:, t], state)


def test_rollout_hands_gradients_through_time_and_names_what_is_missing():
    module, td = rollout(), data(3, 6)
    td["state"].requires_grad_()
    module(td)
    td["next", "state"][:, -1].sum().backward()
    module_grads = [p.grad for p in module.rssm_prior.module.rnn.parameters()]
    assert all((g != 0).any() for g in module_grads)
    assert module.in_keys == ["state", "belief", "action", NEXT["encoded_latents"]]
    with pytest.raises(MissingKeyError, match="'action' is read but absent"):
        module(data(3, 6).exclude("action"))


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # dynamo looks at what is no leaf
def test_a_compiled_step_is_the_same():
    one, td = rollout(), data(2, 3)
    other = copy.deepcopy(rollout(use_scan=True, compile_step=True, compile_backend="eager"))
    other.load_state_dict(one.state_dict())
    torch.manual_seed(0)
    expected = one(td.clone())
    torch.manual_seed(0)
    torch.testing.assert_close(other(td.clone())["next", "state"], expected["next", "state"])


def test_dreamer_actor_starts_wide():
    actor = DreamerActor(A, depth=2, num_cells=8, std_bias=5.0)
    loc, scale = actor(torch.zeros(4, 3, S), torch.zeros(4, 3, H))
    assert loc.shape == scale.shape == (4, 3, A)
    for p in actor.parameters():
        p.data.zero_()
    torch.testing.assert_close(actor(torch.zeros(S), torch.zeros(H))[1], torch.full((A,), 5.0))


@pytest.mark.parametrize("absent", [["belief"], ["state"], ["state", "belief"]])
def test_a_rollout_starts_from_zeros(absent):
    """Where an entry is absent; it is written like that of every other step."""
    keys = [("next", "prior_mean"), ("next", "prior_std"), "_", ("next", "belief")]
    prior = TensorDictModule(RSSMPrior(None, 8, 6, 3, action_dim=2), ["state", "belief", "action"], keys)
    written = [("next", "posterior_mean"), ("next", "posterior_std"), ("next", "state")]
    posterior = TensorDictModule(RSSMPosterior(8, 3), [("next", "belief"), ("next", "encoded_latents")], written)
    rollout = RSSMRollout(prior, posterior)
    td = TensorDict({"action": torch.randn(4, 5, 2), ("next", "encoded_latents"): torch.randn(4, 5, 7)}, [4, 5])
    zeros = {"state": torch.zeros(4, 5, 3), "belief": torch.zeros(4, 5, 6)}
    rollout(td.clone().update(zeros))  # infers sizes
    results = []
    for given in (zeros, {key: value for key, value in zeros.items() if key not in absent}):
        torch.manual_seed(0)
        results.append(rollout(td.clone().update(given)))
    assert (results[0] == results[1]).all()
