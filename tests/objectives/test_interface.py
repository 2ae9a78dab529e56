"""What scripts rely on when they build and call losses: arguments, names, orders, kinds of errors."""

import functools
import importlib

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import (
    CompositeDistribution,
    NormalParamExtractor,
    TensorDictModule,
    TensorDictSequential,
    set_composite_lp_aggregate,
)
from torch import nn

from tests.objectives.dreams import Models
from tests.objectives.test_losses_contract import LOSSES
from torchrl.data import Bounded, Categorical, Composite, MultiOneHot, OneHot
from torchrl.modules import ProbabilisticActor, QValueModule, SafeSequential, TanhNormal, ValueOperator, VDNMixer
from torchrl.modules.tensordict_module.action_space import ActionSpace
from torchrl.objectives import (
    A2CLoss,
    ClipPPOLoss,
    DDPGLoss,
    DiscreteIQLLoss,
    DiscreteSACLoss,
    DQNLoss,
    DreamerActorLoss,
    IQLLoss,
    KLPENPPOLoss,
    PPOLoss,
    QMixerLoss,
    REDQLoss,
    ReinforceLoss,
    SACLoss,
    SoftUpdate,
    TD3Loss,
    TQCLoss,
    ValueEstimators,
)
from torchrl.objectives.off_policy import CriticLoss
from torchrl.testing.networks import (
    OBS,
    Concat,
    advantage_batch,
    critic,
    deterministic_actor,
    discrete_actor,
    gaussian_actor,
    q_critic,
    q_network,
    tanh_normal,
    transitions,
)

# ------------------------------------------------------------------ estimators

OFF_POLICY = [name for name, (make, _) in LOSSES.items() if isinstance(make(), CriticLoss)]
ADVANTAGES = [ValueEstimators.GAE, ValueEstimators.MAGAE, ValueEstimators.VTrace, "gae", "vtrace"]


@pytest.mark.parametrize("kind", ADVANTAGES)
@pytest.mark.parametrize("name", OFF_POLICY)
def test_temporal_difference_losses_have_no_advantages(name, kind):
    loss = LOSSES[name][0]()
    for error in (NotImplementedError, ValueError):
        with pytest.raises(error, match="cannot use this value estimator"):
            loss.make_value_estimator(kind)
    loss.make_value_estimator(ValueEstimators.TD0)


@pytest.mark.parametrize("kind", [ValueEstimators.TD1, ValueEstimators.TDLambda])
@pytest.mark.parametrize("name", ["c51", "qr-dqn"])
def test_distributions_of_returns_have_one_step_targets(name, kind):
    with pytest.raises(NotImplementedError):
        LOSSES[name][0]().make_value_estimator(kind)


@pytest.mark.parametrize("kind", [ValueEstimators.GAE, ValueEstimators.VTrace])
def test_dreams_have_no_advantages(kind):
    loss = Models().losses()[1]
    assert isinstance(loss, DreamerActorLoss)
    with pytest.raises(NotImplementedError):
        loss.make_value_estimator(kind)


@pytest.mark.parametrize("name", ["ddpg", "td3", "td3+bc"])
@pytest.mark.parametrize("kind", ["td0", "td1", "td_lambda"])
def test_the_estimator_of_a_critic_of_actions_has_its_name(name, kind):
    loss = LOSSES[name][0]()
    loss.set_keys(state_action_value="worth")
    loss.make_value_estimator(kind)
    assert loss.value_estimator.tensor_keys.value == "worth"
    loss.set_keys(state_action_value="price")
    assert loss.value_estimator.tensor_keys.value == "price"


# ------------------------------------------------------------------ what a call returns

FIVE = ["loss_actor", "loss_qvalue", "loss_alpha", "alpha", "entropy"]
TD3 = ["loss_actor", "loss_qvalue", "pred_value", "state_action_value_actor", "next_state_value", "target_value"]
RETURNS = {
    "dqn": ["loss"],
    "ddpg": ["loss_actor", "loss_value", "pred_value", "target_value", "pred_value_max", "target_value_max"],
    "td3": TD3,
    "td3+bc": [*TD3[:2], "bc_loss", "lmbd", *TD3[2:]],
    "sac": FIVE,
    "sac, first version": [*FIVE, "loss_value"],
    "crossq": FIVE,
    "tqc": FIVE,
    "cql": ["loss_actor", "loss_actor_bc", "loss_qvalue", "loss_cql", "loss_alpha", "alpha", "entropy"],
    "iql": ["loss_actor", "loss_qvalue", "loss_value", "entropy"],
    "a2c": ["loss_objective", "loss_critic", "entropy", "loss_entropy"],
    "a2c, no critic": ["loss_objective", "entropy", "loss_entropy"],
    "ppo": ["loss_objective", "entropy", "loss_entropy", "loss_critic"],
    "clip ppo": ["loss_objective", "clip_fraction", "entropy", "loss_entropy", "loss_critic", "ESS"],
    "kl ppo": ["loss_objective", "kl", "entropy", "loss_entropy", "loss_critic"],
    "reinforce": ["loss_actor", "loss_value"],
}


@pytest.mark.parametrize("name", RETURNS)
def test_a_call_with_tensors_returns_terms_in_order(name):
    make, batch = LOSSES[name]
    loss, td = make(), batch()
    names = {"_".join(key) if isinstance(key, tuple) else key: td[key] for key in loss.in_keys}
    torch.manual_seed(0)
    found = loss(**names)
    torch.manual_seed(0)
    out = make_same(make)(td)
    assert list(loss.out_keys) == RETURNS[name]
    found = found if isinstance(found, tuple) else (found,)
    assert len(found) == len(RETURNS[name])
    assert all(value.shape == out[key].shape for key, value in zip(RETURNS[name], found, strict=True))


def make_same(make):
    torch.manual_seed(1)
    return make()


@pytest.mark.parametrize("dist", [tanh_normal, None], ids=["no closed form", "closed form"])
def test_implicit_q_learning_draws_nothing(dist):
    actor = gaussian_actor(2, dist) if dist else gaussian_actor()
    loss = IQLLoss(actor, q_critic(), critic())
    before = torch.get_rng_state()
    out = loss(transitions())
    assert torch.equal(before, torch.get_rng_state())
    assert out["entropy"].isfinite()
    if dist:
        td = transitions()
        expected = -actor.get_dist(td.clone()).log_prob(td["action"]).mean()
        torch.testing.assert_close(out["entropy"], expected.detach())


@pytest.mark.parametrize("cls", [A2CLoss, PPOLoss, ClipPPOLoss, ReinforceLoss])
def test_unreduced_terms_are_as_large_as_the_batch(cls):
    td = advantage_batch().unsqueeze(-1).repeat(1, 4)
    out = cls(gaussian_actor(), critic(), reduction="none")(td)
    for key in filter(lambda key: key.startswith("loss"), out.keys()):
        assert out[key].shape == (6, 4), key


# ------------------------------------------------------------------ masks


@pytest.mark.parametrize("name", ["ddpg", "dqn", "a2c", "bc", "iql"])
def test_the_mask_can_be_switched_off(name):
    make, batch = LOSSES[name]
    loss, td = make(), batch()
    assert loss.loss_mask_key == "auto"
    td["collector", "mask"] = torch.arange(6) < 4
    terms = [key for key in loss.out_keys if key.startswith("loss")]
    masked = loss(td.clone())
    torch.testing.assert_close(masked.select(*terms), loss(td[:4]).select(*terms))
    loss.loss_mask_key = None
    torch.testing.assert_close(loss(td.clone()).select(*terms), loss(batch()).select(*terms))
    loss.loss_mask_key = "auto"
    torch.testing.assert_close(loss(td.clone()).select(*terms), masked.select(*terms))


SKIPPING = {
    "sac": lambda **kw: (SACLoss(gaussian_actor(), q_critic(), **kw), False),
    "discrete sac": lambda **kw: (
        DiscreteSACLoss(discrete_actor(), q_network(), action_space="one_hot", num_actions=3, **kw),
        True,
    ),
    "tqc": lambda **kw: (TQCLoss(gaussian_actor(), q_critic(2, 5), **kw), False),
}


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", SKIPPING)
def test_critics_do_not_learn_from_truncated_steps_whose_future_is_unknown(name, masked, reduction):
    torch.manual_seed(0)
    loss, discrete = SKIPPING[name](skip_done_states=True, reduction=reduction)
    td = transitions(3 if discrete else 2, discrete=discrete)
    td["next", "terminated"][:] = False
    td["next", "done"][:] = False
    kept = td[:4].clone()
    td["next", "done"][4:] = True
    td["next", "observation"][4:] = float("nan")
    if masked:
        td["collector", "mask"] = torch.arange(6) > 0
        kept = kept[1:]
    torch.manual_seed(1)
    found = loss(td)
    assert all(value.isfinite().all() for value in found.values())
    found["loss_qvalue"].sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in loss.parameters())
    if discrete and reduction != "none":  # which draws nothing
        torch.testing.assert_close(found["loss_qvalue"], loss(kept)["loss_qvalue"])


# ------------------------------------------------------------------ arguments


@pytest.mark.parametrize("given", [{}, {"action_spec": Bounded(-1, 1, (2,)), "bounds": (-1, 1)}])
@pytest.mark.parametrize("error", [ValueError, TypeError])
def test_one_range_of_actions(given, error):
    with pytest.raises(error, match="needs to know the range of the actions once"):
        TD3Loss(deterministic_actor(), q_critic(), **given)


@pytest.mark.parametrize("value", ["much", torch.ones(2), [0.1]])
@pytest.mark.parametrize("cls", [A2CLoss, PPOLoss, ClipPPOLoss, KLPENPPOLoss, ReinforceLoss])
def test_a_clip_value_is_a_number(cls, value):
    with pytest.raises(ValueError, match="clip_value"):
        cls(gaussian_actor(), critic(), clip_value=value)
    for number in (0.5, 1, torch.tensor(0.25), torch.tensor([0.25])):
        loss = cls(gaussian_actor(), critic(), clip_value=number)
        torch.testing.assert_close(loss.clip_value, torch.as_tensor(number, dtype=torch.float).reshape(()))


@pytest.mark.parametrize("value", [True, False])
@pytest.mark.parametrize("cls", [A2CLoss, PPOLoss, KLPENPPOLoss, ReinforceLoss])
def test_a_clip_value_is_no_switch_without_a_range(cls, value):
    with pytest.raises(ValueError, match="clip_value"):
        cls(gaussian_actor(), critic(), clip_value=value)


def test_clip_ppo_clips_values_by_its_own_range():
    loss = ClipPPOLoss(gaussian_actor(), critic(), clip_epsilon=0.35, clip_value=True)
    torch.testing.assert_close(loss.clip_value, torch.tensor(0.35))
    assert not ClipPPOLoss(gaussian_actor(), critic(), clip_value=False).clips_value
    with pytest.raises(ValueError, match="clip_value"):
        ClipPPOLoss(gaussian_actor(), critic(), clip_epsilon=(0.1, 0.2), clip_value=True)


@pytest.mark.parametrize("name", ["REDQLoss_deprecated", "DoubleREDQLoss_deprecated"])
def test_older_losses_are_found(name):
    module = importlib.import_module("torchrl.objectives.deprecated")
    assert getattr(module, name) is REDQLoss


# ------------------------------------------------------------------ action spaces


@pytest.mark.parametrize("name", ["one-hot", "categorical"])
def test_an_action_space_is_its_name(name):
    space = DQNLoss(q_network(), action_space=name).action_space
    assert space == name.replace("-", "_") == str(space)
    assert space in {"one_hot", "categorical"}
    assert space == ActionSpace(name)
    assert space != ActionSpace("mult_one_hot", [2, 3])
    assert space != "binary"


def test_sizes_may_be_a_tensor():
    space = ActionSpace("mult_one_hot", MultiOneHot([2, 3]).nvec)
    assert space.sizes == [2, 3]


def agents(spec):
    names = [("agents", name) for name in ("action", "action_value", "chosen_action_value")]
    choice = QValueModule(action_value_key=names[1], out_keys=names, spec=spec, action_space=None)
    return SafeSequential(TensorDictModule(nn.Linear(OBS, 2), [("agents", "observation")], [names[1]]), choice)


SPACES = {"one_hot": OneHot(2, shape=(3, 2)), "categorical": Categorical(2, shape=(3,))}


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("nested", [True, False])
def test_the_action_space_is_that_of_the_last_module(name, nested):
    leaf = SPACES[name]
    spec = Composite(agents=Composite(action=leaf, shape=(3,))) if nested else leaf
    assert DQNLoss(agents(spec)).action_space == name
    mixer = TensorDictModule(VDNMixer(3, device="cpu"), [("agents", "chosen_action_value")], ["chosen_action_value"])
    assert QMixerLoss(agents(spec), mixer).action_space == name


@pytest.mark.parametrize("written", ["action_value", "state_action_value", "other"])
def test_discrete_iql_reads_values_behind_other_outputs(written):
    trunk = TensorDictModule(nn.Linear(OBS, 9), ["observation"], ["hidden"])
    deep = TensorDictSequential(trunk, TensorDictModule(nn.Linear(9, 3), ["hidden"], [written]))
    loss = DiscreteIQLLoss(discrete_actor(), deep, critic(), action_space="one-hot")
    assert loss.tensor_keys.action_value == written
    assert loss(transitions(3, discrete=True))["loss_qvalue"].isfinite()


# ------------------------------------------------------------------ policies of several heads


@pytest.mark.parametrize("cls", [A2CLoss, PPOLoss, ClipPPOLoss, KLPENPPOLoss, ReinforceLoss])
def test_the_log_probability_has_the_name_that_the_actor_writes(cls):
    net = TensorDictModule(nn.Sequential(nn.Linear(OBS, 4), NormalParamExtractor()), ["observation"], ["loc", "scale"])
    options = {"distribution_class": TanhNormal, "return_log_prob": True, "log_prob_key": "likely"}
    loss = cls(ProbabilisticActor(net, in_keys=["loc", "scale"], **options), critic())
    assert loss.tensor_keys.sample_log_prob == "likely"
    loss.set_keys(sample_log_prob="other")
    assert loss.tensor_keys.sample_log_prob == "other"


BOX = Bounded(-1, 1, (2,))


def heads(names, wrapped=True, spec=None, **options):
    layers = nn.Sequential(nn.Linear(OBS, 4), NormalParamExtractor())
    nets = [TensorDictModule(layers, ["observation"], [("params", n, "loc"), ("params", n, "scale")]) for n in names]
    given = {"distribution_map": dict.fromkeys(names, TanhNormal), "name_map": {n: ("action", n) for n in names}}
    law = {"distribution_class": functools.partial(CompositeDistribution, **given)}
    if not wrapped:
        law = {"distribution_class": CompositeDistribution, "distribution_kwargs": given}
    options = {"return_log_prob": True, "spec": spec, **law, **options}
    return ProbabilisticActor(TensorDictSequential(*nets), in_keys=["params"], **options)


@pytest.mark.parametrize("names", [["wheel"], ["wheel", "pedal"]])
@pytest.mark.parametrize("wrapped", [True, False], ids=["partial", "class"])
@pytest.mark.parametrize("out_keys", ["default", "group", "leaves"])
def test_heads_are_written_where_the_name_map_says(names, wrapped, out_keys):
    given = {"default": {}, "group": {"out_keys": ["action"]}, "leaves": {"out_keys": [("action", n) for n in names]}}
    spec = Composite(action=Composite({name: BOX.clone() for name in names}))
    with set_composite_lp_aggregate(False):
        td = heads(names, wrapped, spec, **given[out_keys])(transitions().select("observation"))
    for name in names:
        assert td["action", name].shape == (6, 2)
        assert td["action", f"{name}_log_prob"].shape == (6,)


@pytest.mark.parametrize("aggregate", [True, False])
@pytest.mark.parametrize("names", [["wheel"], ["wheel", "pedal"]])
@pytest.mark.parametrize("cls", [A2CLoss, PPOLoss, ClipPPOLoss])
def test_on_policy_losses_learn_policies_of_heads(cls, names, aggregate):
    with set_composite_lp_aggregate(aggregate):
        actor = heads(names)
        td = actor(advantage_batch().exclude("action", "action_log_prob")).detach()
        loss = cls(actor, critic())
        if not aggregate:
            scores = [("action", f"{n}_log_prob") for n in names]
            loss.set_keys(action=[("action", n) for n in names], sample_log_prob=scores)
        loss(td)["loss_objective"].backward()
    assert all(p.grad is not None for p in actor.parameters())


def test_a_critic_may_read_the_group_of_actions():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = Concat(OBS + 2)

        def forward(self, observation, action):
            return self.layer(observation, action["wheel"] + action["pedal"])

    value = ValueOperator(Sum(), in_keys=["observation", "action"])
    loss = DDPGLoss(heads(["wheel", "pedal"]), value)
    SoftUpdate(loss, tau=0.1)
    td = transitions().exclude("action")
    td["action"] = TensorDict(wheel=torch.rand(6, 2), pedal=torch.rand(6, 2), batch_size=[6])
    out = loss(td)
    (out["loss_actor"] + out["loss_value"]).backward()
    assert all(p.grad is not None for p in loss.parameters())
