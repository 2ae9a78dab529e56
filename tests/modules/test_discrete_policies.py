"""Discrete policies: what each exploration type gives, and masks that allow nothing."""

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import CompositeDistribution, TensorDictModule
from torch import distributions as d
from torch import nn

from torchrl.data import Binary, Bounded, Categorical, MultiOneHot, OneHot
from torchrl.envs.utils import ExplorationType, set_exploration_type
from torchrl.modules import (
    EGreedyModule,
    MaskedCategorical,
    MaskedOneHotCategorical,
    OneHotCategorical,
    OneHotOrdinal,
    Ordinal,
    ProbabilisticActor,
    QValueModule,
    SafeModule,
)
from torchrl.objectives.distributions import distribution


def bits(logits):
    return d.Independent(d.Bernoulli(logits=logits), 1)


def allowed(logits):
    return torch.ones_like(logits, dtype=torch.bool)


LAWS = {
    "torch": (d.Categorical, Categorical(4)),
    "torch, one-hot": (d.OneHotCategorical, OneHot(4)),
    "one-hot": (OneHotCategorical, OneHot(4)),
    "masked": (lambda logits: MaskedCategorical(logits=logits, mask=allowed(logits)), Categorical(4)),
    "masked, one-hot": (lambda logits: MaskedOneHotCategorical(logits=logits, mask=allowed(logits)), OneHot(4)),
    "ordinal": (lambda logits: Ordinal(scores=logits), Categorical(4)),
    "ordinal, one-hot": (lambda logits: OneHotOrdinal(scores=logits), OneHot(4)),
    "bits": (bits, Binary(4)),
}
KINDS = [ExplorationType.MEAN, ExplorationType.MODE, ExplorationType.DETERMINISTIC]


def observations():
    return TensorDict(observation=torch.randn(7, 3), batch_size=[7])


@pytest.mark.parametrize("score", [True, False])
@pytest.mark.parametrize("options", [{}, {"generator": 0}], ids=["plain", "generator"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("law", "spec"), LAWS.values(), ids=LAWS)
def test_a_discrete_policy_without_noise_takes_its_mode(law, spec, kind, options, score):
    """MEAN, MODE and DETERMINISTIC of a discrete policy are the likeliest of its actions."""
    torch.manual_seed(0)
    net = TensorDictModule(nn.Linear(3, 4), ["observation"], ["logits"])
    options = {"distribution_class": law, "return_log_prob": score, **options}
    policy = ProbabilisticActor(net, ["logits"], **options)
    with set_exploration_type(kind), torch.no_grad():
        action = policy(observations())["action"]
    assert spec.expand(7, *spec.shape).is_in(action.to(spec.dtype))
    with set_exploration_type(kind), torch.no_grad():
        td = policy(observations())
        dist = distribution(policy, td)
    assert (dist.log_prob(td["action"]) >= dist.log_prob(dist.sample((50,))) - 1e-6).all()


@pytest.mark.parametrize("law", [d.Categorical, OneHotCategorical])
def test_a_discrete_policy_without_a_median_says_so(law):
    net = TensorDictModule(nn.Linear(3, 4), ["observation"], ["logits"])
    policy = ProbabilisticActor(net, ["logits"], distribution_class=law)
    with set_exploration_type(ExplorationType.MEDIAN), pytest.raises(NotImplementedError, match="median"):
        policy(observations())


def test_the_mean_of_several_heads_is_the_mode_of_those_that_are_discrete():
    """A composite policy acts by the mean of its continuous heads and the mode of the others."""

    def split(x):
        return x[..., :3], x[..., 3:5], x[..., 5:].exp()

    keys = [("params", "grip", "logits"), ("params", "move", "loc"), ("params", "move", "scale")]
    torch.manual_seed(0)
    layer = nn.Linear(3, 7)
    heads = {"distribution_map": {"grip": d.Categorical, "move": d.Normal}}
    policy = ProbabilisticActor(
        TensorDictModule(lambda x: split(layer(x)), ["observation"], keys),
        ["params"],
        distribution_class=CompositeDistribution,
        distribution_kwargs=heads,
    )
    with set_exploration_type(ExplorationType.MEAN), torch.no_grad():
        td = policy(observations())
    logits, loc, _ = split(layer(td["observation"]))
    torch.testing.assert_close(td["grip"], logits.argmax(-1))
    torch.testing.assert_close(td["move"], loc.detach())


def test_bits_that_are_as_likely_as_not_are_no_nan():
    """The mode of a fair coin is 0, not the NaN of torch: a head of zeros gives legal actions."""
    net = TensorDictModule(lambda x: torch.zeros(*x.shape[:-1], 4), ["observation"], ["logits"])
    policy = ProbabilisticActor(net, ["logits"], distribution_class=bits)
    for kind in KINDS:
        with set_exploration_type(kind):
            assert not policy(observations())["action"].any()


# --- masks that allow nothing --------------------------------------------------------------------

MASK = torch.tensor([[True, True, False, True], [False, False, False, False]])
ZEROS = torch.zeros(2, 4)
PADDED = torch.tensor([[0, 1, 3], [-1, -1, -1]])


def explore(spec=None, action=None):
    module = EGreedyModule(spec=spec or Categorical(4), eps_init=1.0, action_mask_key="mask")
    action = torch.zeros(2, dtype=torch.int64) if action is None else action
    return module(TensorDict(action=action, mask=MASK, batch_size=[2]))


def greedy(space):
    module = QValueModule(action_space=space, action_mask_key="mask")
    return module(TensorDict(action_value=ZEROS, mask=MASK, batch_size=[2]))


def index(**kwargs):
    return MaskedCategorical(logits=ZEROS, **kwargs)


def one_hot(**kwargs):
    return MaskedOneHotCategorical(logits=ZEROS, **kwargs)


CHOICES = {
    "index": lambda: index(mask=MASK).sample(),
    "index, many": lambda: index(mask=MASK).sample((3,)),
    "index, mode": lambda: index(mask=MASK).mode,
    "index, likeliest": lambda: index(mask=MASK).deterministic_sample,
    "index, finite": lambda: index(mask=MASK, neg_inf=-1e9).sample(),
    "indices": lambda: index(indices=PADDED, padding_value=-1).sample(),
    "one-hot": lambda: one_hot(mask=MASK).sample(),
    "one-hot, mode": lambda: one_hot(mask=MASK).mode,
    "one-hot, scored": lambda: one_hot(mask=MASK).sample_and_log_prob(),
    "one-hot, rsample": lambda: one_hot(mask=MASK).rsample(),
    "epsilon": explore,
    "epsilon, one-hot": lambda: explore(OneHot(4), torch.zeros(2, 4, dtype=torch.int64)),
    "epsilon, product": lambda: explore(MultiOneHot([2, 2]), torch.zeros(2, 4, dtype=torch.int64)),
    "values": lambda: greedy("categorical"),
    "values, one-hot": lambda: greedy("one_hot"),
}


@pytest.mark.parametrize("choose", CHOICES.values(), ids=CHOICES)
def test_a_mask_that_allows_nothing_is_refused_by_name(choose):
    """No forbidden action is taken, and the error speaks of the mask and of the row."""
    with pytest.raises(ValueError, match=r"mask allows no action.*none in rows \[\[1\]"):
        choose()


def test_log_probabilities_need_no_legal_action():
    """Rows that are padded may be scored together with others."""
    assert index(mask=MASK).log_prob(torch.zeros(2, dtype=torch.int64))[0].isfinite()


# --- specs of other rows -------------------------------------------------------------------------


def test_a_policy_made_for_other_rows_names_the_spec_of_one_row():
    """A safe policy over the spec of four rows says in two of them which spec fits both."""
    spec = Bounded(-1, 1, (4, 1))
    policy = SafeModule(nn.Linear(3, 1), ["observation"], ["action"], spec=spec, safe=True)
    with pytest.raises(ValueError, match=r"'action'.*action_spec_unbatched"):
        policy(TensorDict(observation=torch.zeros(2, 3), batch_size=[2]))
