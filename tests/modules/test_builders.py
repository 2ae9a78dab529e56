"""Actors and critics from the specs of environments of every kind."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from tensordict import TensorDict
from torch import nn
from torch.nn.functional import one_hot

from torchrl.collectors import Collector
from torchrl.data import Binary, Bounded, Categorical, Composite, MultiCategorical, MultiOneHot, OneHot, Unbounded
from torchrl.envs import (
    ActionMask,
    ExplorationType,
    GymEnv,
    InitTracker,
    RewardSum,
    SerialEnv,
    StepCounter,
    TransformedEnv,
    set_exploration_type,
)
from torchrl.envs.libs.gym import GymWrapper
from torchrl.modules import (
    ActorCriticWrapper,
    BatchRenorm1d,
    DistributionalQValueActor,
    QuantileQValueActor,
    make_actor,
    make_critic,
    make_deterministic_actor,
    make_q_actor,
    set_recurrent_mode,
)
from torchrl.modules.encoders import encoder_of
from torchrl.objectives import (
    A2CLoss,
    ClipPPOLoss,
    CrossQLoss,
    DDPGLoss,
    DiscreteSACLoss,
    DistributionalDQNLoss,
    DQNLoss,
    QRDQNLoss,
    ReinforceLoss,
    SACLoss,
    TD3Loss,
    TQCLoss,
)
from torchrl.objectives.value import GAE
from torchrl.testing.mocks import MaskedEnv, MultiAgentEnv, NestedEnv, TextEnv

VECTOR, CHOICE = spaces.Box(-1, 1, (3,), np.float32), spaces.Discrete(3)
BOX = spaces.Box(np.array([-1, 0], np.float32), np.array([1, 5], np.float32))
SMALL = spaces.Box(0, 255, (10, 10, 4), np.uint8)


class Spaces(gym.Env):
    """Observations are random elements of a space; episodes last five steps."""

    def __init__(self, observation, action):
        self.observation_space, self.action_space = observation, action

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.count = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.count += 1
        return self.observation_space.sample(), float(self.count), self.count == 5, False, {}


def of(observation=VECTOR, action=CHOICE, **kwargs):
    return lambda: GymWrapper(Spaces(observation, action), **kwargs)


def masked(action_space="multi"):
    return TransformedEnv(MaskedEnv(), ActionMask())


DISCRETE = {
    "CartPole": lambda: GymEnv("CartPole-v1"),
    "categorical": of(categorical_action_encoding=True),
    "several choices": of(action=spaces.MultiDiscrete([2, 4, 3])),
    "several numbers": of(action=spaces.MultiDiscrete([2, 4, 3]), categorical_action_encoding=True),
    "masked": masked,
    "batched": lambda: SerialEnv(3, of()),
}
CONTINUOUS = {
    "Pendulum": lambda: GymEnv("Pendulum-v1"),
    "two bounds": of(action=BOX),
    "without bounds": of(action=spaces.Box(-np.inf, np.inf, (2,), np.float32)),
    "matrix": of(action=spaces.Box(-1, 1, (2, 3), np.float32)),
    "nested": lambda: NestedEnv(batch_size=(2,)),
    "batch of continuous": lambda: SerialEnv(3, of(action=BOX)),
}
BINARY = {"binary": of(action=spaces.MultiBinary(4))}
OBSERVED = {
    "dictionary": of(spaces.Dict(b=VECTOR, a=spaces.Box(0, 1, (2,), np.float32))),
    "images and vectors": of(spaces.Dict(pixels=SMALL, vector=VECTOR, number=spaces.Discrete(5))),
    "Atari": of(spaces.Box(0, 255, (4, 84, 84), np.uint8)),
    "MinAtar": of(SMALL),
    "gray image": of(spaces.Box(0, 255, (40, 40), np.uint8)),
    "number": of(spaces.Discrete(5)),
    "numbers": of(spaces.MultiDiscrete([5, 2])),
    "flags": of(spaces.MultiBinary(4)),
    "doubles": of(spaces.Box(-1, 1, (3,), np.float64)),
    "matrix of floats": of(spaces.Box(-1, 1, (3, 2), np.float32)),
    "dictionary in a dictionary": of(spaces.Dict(a=spaces.Dict(b=VECTOR), c=VECTOR)),
}
ENVS = {**DISCRETE, **CONTINUOUS, **BINARY, **OBSERVED}
each_env = pytest.mark.parametrize("make", ENVS.values(), ids=ENVS)


def assert_legal(make, batch):
    """Actions are in the spec of a new environment, which has no mask yet."""
    env = make()
    spec = env.full_action_spec[env.action_key]
    action = batch[env.action_key]
    assert all(spec.is_in(a) for a in action.unbind(batch.ndim - 1))
    assert action.shape == (*batch.shape, *spec.shape[len(env.batch_size) :])


def collect(env, policy, frames=12):
    collector = Collector(env, policy, frames_per_batch=frames, total_frames=frames)
    (batch,) = [*collector]
    collector.shutdown()
    return batch


def assert_all_learn(loss, batch, unused=()):
    """Every parameter gets a gradient, and not all of it zero."""
    loss(batch).backward()
    for name, param in loss.named_parameters():
        if "target" not in name and not any(part in name for part in unused):
            assert param.grad is not None, name
            assert param.grad.isfinite().all(), name
            assert param.grad.abs().sum() > 0, name


def free(critic):
    """Parameters of a first layer with ReLU may be without gradient: give all units a chance."""
    for param in critic.parameters():
        nn.init.normal_(param, std=0.2)


# --- actors ------------------------------------------------------------------------------------


@each_env
def test_an_actor_acts_within_the_spec(make):
    env = make()
    batch = collect(env, make_actor(env))
    assert_legal(make, batch)
    key = env.action_key
    log_prob = batch[(*key[:-1], f"{key[-1]}_log_prob") if isinstance(key, tuple) else f"{key}_log_prob"]
    assert log_prob.shape == batch.shape
    assert log_prob.isfinite().all()
    extra = set(map(str, batch.keys())) - set(map(str, env.fake_tensordict().keys()))
    assert extra <= {"logits", "loc", "scale", "action_log_prob", "collector"}


@each_env
def test_ppo_learns_all_weights(make):
    env = make()
    actor, critic = make_actor(env), make_critic(env)
    free(actor), free(critic)
    batch = collect(env, actor)
    loss = ClipPPOLoss(actor, critic, entropy_coeff=0.01)
    key = env.action_key
    loss.set_keys(action=key)
    if isinstance(key, tuple):
        loss.set_keys(reward=(key[0], "reward"))
    advantage = GAE(gamma=0.9, lmbda=0.9, value_network=critic)
    if isinstance(key, tuple):
        advantage.set_keys(reward=(key[0], "reward"))
    advantage(batch)
    assert_all_learn(loss, batch)


@pytest.mark.parametrize("make", {**DISCRETE, **BINARY}.values(), ids={**DISCRETE, **BINARY})
def test_the_log_probability_is_that_of_the_logits(make):
    env = make()
    actor = make_actor(env, last_gain=1.0)
    batch = collect(env, actor)
    logits, spec = batch["logits"], env.action_spec
    if "mask" in str(batch.keys()):
        logits = logits.masked_fill(~batch["action_mask"], -torch.inf)
    if spec.dtype is torch.int8:  # binary
        expected = -nn.functional.binary_cross_entropy_with_logits(
            logits, batch["action"].float(), reduction="none"
        ).sum(-1)
    else:
        counts = getattr(spec, "counts", None) or [logits.shape[-1]]
        chosen = batch["action"]
        if chosen.shape == logits.shape:
            chosen = torch.stack([part.int().argmax(-1) for part in chosen.split(counts, -1)], -1)
        elif chosen.ndim < logits.ndim:
            chosen = chosen.unsqueeze(-1)
        parts = zip(logits.split(counts, -1), chosen.unbind(-1), strict=True)
        expected = sum(part.log_softmax(-1).gather(-1, i.unsqueeze(-1)).squeeze(-1) for part, i in parts)
    torch.testing.assert_close(batch["action_log_prob"], expected)


def normal_log_prob(x, loc, scale):
    return -((x - loc) ** 2) / (2 * scale**2) - scale.log() - 0.5 * np.log(2 * np.pi)


def test_squashed_and_free_continuous_actors():
    env = of(action=BOX)()
    low, high = torch.tensor([-1.0, 0.0]), torch.tensor([1.0, 5.0])
    for scale in ("free", "network"):
        batch = collect(env, make_actor(env, scale=scale))
        unit = (batch["action"] - low) / (high - low) * 2 - 1
        raw = unit.double().atanh()
        expected = normal_log_prob(raw, batch["loc"], batch["scale"]) - (1 - unit.double() ** 2).log()
        expected = (expected - ((high - low) / 2).log()).sum(-1)
        torch.testing.assert_close(batch["action_log_prob"].double(), expected, rtol=1e-3, atol=1e-3)
        is_same = bool((batch["scale"] == batch["scale"][0]).all())
        assert is_same == (scale == "free")


def test_without_squashing_actions_are_normal():
    env = of(action=BOX)()
    actor = make_actor(env, squash=False, init_scale=0.5)
    td = actor(env.reset())
    torch.testing.assert_close(td["scale"], torch.full((2,), 0.5))
    expected = normal_log_prob(td["action"], td["loc"], td["scale"]).sum()
    torch.testing.assert_close(td["action_log_prob"], expected)


def test_the_scale_of_the_network_is_limited():
    env = of(action=BOX)()
    actor = make_actor(env, scale="network")
    nn.init.constant_(actor.module[0].module[-2].bias, 99.0)
    assert actor(env.reset())["scale"].max() <= np.exp(2) + 1e-4
    nn.init.constant_(actor.module[0].module[-2].bias, -99.0)
    assert actor(env.reset())["scale"].min() > 0


def test_numbers_of_parameters_for_cartpole():
    env = GymEnv("CartPole-v1")

    def count(net):
        return sum(p.numel() for p in net.parameters())

    hidden = 4 * 64 + 64 + 64 * 64 + 64
    assert count(make_actor(env)) == hidden + 64 * 2 + 2
    assert count(make_critic(env)) == hidden + 64 + 1
    assert count(make_critic(env, with_action=True)) == hidden + 2 * 64 + 64 + 1
    assert count(make_q_actor(env)) == hidden + 64 * 2 + 2
    assert count(make_q_actor(env, dueling=True)) == 4 * 64 + 64 + 2 * (64 * 64 + 64) + 64 * 3 + 3
    assert count(make_q_actor(env, support=(0, 1, 5))) == hidden + 64 * 10 + 10
    assert count(make_q_actor(env, noisy=True)) == 2 * (hidden + 64 * 2 + 2)


def test_the_initialisation_is_orthogonal_or_that_of_torch():
    env = GymEnv("CartPole-v1")
    layers = [m for m in make_actor(env).modules() if isinstance(m, nn.Linear)]
    torch.testing.assert_close(layers[1].weight @ layers[1].weight.T, 2 * torch.eye(64), atol=1e-4, rtol=0)
    torch.testing.assert_close(layers[2].weight @ layers[2].weight.T, 1e-4 * torch.eye(2), atol=1e-6, rtol=0)
    assert all((layer.bias == 0).all() for layer in layers)
    layers = [m for m in make_actor(env, gain=None).modules() if isinstance(m, nn.Linear)]
    assert layers[1].weight.abs().max() <= 64**-0.5
    assert (layers[1].bias != 0).all()


@each_env
def test_the_same_seed_gives_the_same_weights(make):
    env = make()

    def weights(build):
        torch.manual_seed(3)
        return build(env).state_dict()

    for build in (make_actor, make_critic):
        one, other = weights(build), weights(build)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one if isinstance(one[name], torch.Tensor))


# --- observations ------------------------------------------------------------------------------


def test_observations_are_read_in_the_order_of_their_names():
    env = OBSERVED["dictionary"]()
    assert make_actor(env).in_keys == ["a", "b"]
    assert make_actor(env, in_keys=["b"]).in_keys == ["b"]
    assert OBSERVED["dictionary in a dictionary"]().observation_keys
    assert make_critic(OBSERVED["dictionary in a dictionary"]()).in_keys == [("a", "b"), "c"]


def test_statistics_masks_and_states_are_not_observed():
    env = TransformedEnv(GymEnv("CartPole-v1"), StepCounter())
    env.append_transform(RewardSum()).append_transform(InitTracker())
    actor = make_actor(env, recurrent="gru")
    for part in actor.modules():
        if hasattr(part, "make_tensordict_primer"):
            env.append_transform(part.make_tensordict_primer())
    assert make_actor(env).in_keys == ["observation"]
    assert make_critic(TransformedEnv(MaskedEnv(), ActionMask())).in_keys == ["count"]


@pytest.mark.parametrize(
    ("shape", "width", "after"),
    [
        ((4, 84, 84), 3136, 512),
        ((84, 84, 4), 3136, 512),
        ((210, 160, 3), 22 * 16 * 64, 512),
        ((10, 10, 4), 8 * 8 * 16, 128),
        ((36, 36), 64, 512),
        ((2, 7), 14, None),
        ((5,), 5, None),
        ((), 1, None),
    ],
)
def test_sizes_of_encoders(shape, width, after):
    spec = Unbounded(shape, dtype=torch.uint8)
    net, *found = encoder_of(spec)
    assert found == [width, after]
    for batch in ((), (3,), (3, 2)):
        assert net(torch.zeros((*batch, *shape), dtype=torch.uint8)).shape == (*batch, width)


def test_bytes_are_divided_by_255_and_channels_found():
    net, _, _ = encoder_of(Unbounded((10, 12, 4), dtype=torch.uint8))
    image = torch.randint(256, (5, 10, 12, 4), dtype=torch.uint8)
    conv = next(m for m in net.modules() if isinstance(m, nn.Conv2d))
    expected = conv((image.float() / 255).permute(0, 3, 1, 2)).relu().flatten(1)
    torch.testing.assert_close(net(image), expected)


def test_numbers_become_one_hot():
    env = of(spaces.MultiDiscrete([5, 2]))()
    actor = make_actor(env, num_cells=())
    td = env.reset()
    numbers = td["observation"]
    if numbers.shape[-1] == 2:
        numbers = torch.cat([one_hot(numbers[0].long(), 5), one_hot(numbers[1].long(), 2)])
    layer = next(m for m in actor.modules() if isinstance(m, nn.Linear))
    torch.testing.assert_close(actor(td)["logits"], layer(numbers.float()))


def test_widths_after_images_are_those_of_the_papers():
    def widths(env):
        return [m.in_features for m in make_q_actor(env()).modules() if isinstance(m, nn.Linear)]

    assert widths(OBSERVED["Atari"]) == [3136, 512]
    assert widths(OBSERVED["MinAtar"]) == [1024, 128]
    assert widths(of()) == [3, 64, 64]


# --- deterministic actors, critics, values of actions ------------------------------------------


@pytest.mark.parametrize("make", CONTINUOUS.values(), ids=CONTINUOUS)
def test_deterministic_actors_and_critics_of_actions(make):
    env = make()
    actor, critic = make_deterministic_actor(env), make_critic(env, with_action=True)
    free(actor), free(critic)
    batch = collect(env, actor)
    assert_legal(make, batch)
    assert critic(batch)["state_action_value"].shape == (*batch.shape, 1)
    if isinstance(env.action_key, str):
        assert_all_learn(DDPGLoss(actor, critic), batch)
        assert_all_learn(TD3Loss(actor, critic, action_spec=env.action_spec_unbatched), batch)


@pytest.mark.parametrize("name", ["Pendulum", "two bounds", "batch of continuous"])
def test_losses_of_soft_actor_critics(name):
    env = CONTINUOUS[name]()

    def networks(**kwargs):
        actor = make_actor(env, scale="network", activation="relu", gain=None)
        critic = make_critic(env, with_action=True, activation="relu", gain=None, **kwargs)
        free(actor), free(critic)
        return actor, critic

    batch = collect(env, networks()[0])
    assert_all_learn(SACLoss(*networks()), batch)
    assert_all_learn(SACLoss(*networks(layer_norm=True)), batch)
    assert_all_learn(TQCLoss(*networks(num_quantiles=25)), batch)
    actor, critic = networks(batch_norm="renorm")
    assert [type(m) for m in critic.module.layers][::3] == [BatchRenorm1d] * 3
    assert_all_learn(CrossQLoss(actor, critic), batch)


@pytest.mark.parametrize("make", DISCRETE.values(), ids=DISCRETE)
def test_q_actors_of_each_kind(make):
    env = make()
    spec = env.action_spec
    kinds = {
        "plain": ({}, DQNLoss),
        "dueling": ({"dueling": True}, DQNLoss),
        "noisy": ({"noisy": True}, DQNLoss),
        "atoms": ({"support": (-10, 10, 5)}, lambda net: DistributionalDQNLoss(net, gamma=0.9)),
        "dueling atoms": (
            {"support": torch.linspace(-1, 1, 5), "dueling": True},
            lambda net: DistributionalDQNLoss(net, gamma=0.9),
        ),
        "quantiles": ({"num_quantiles": 7}, QRDQNLoss),
    }
    is_product = hasattr(spec, "counts")
    for name, (kwargs, loss) in kinds.items():
        if is_product and ("atoms" in name or name == "quantiles"):
            with pytest.raises(ValueError, match=r"does not fit this action space.*single choice"):
                make_q_actor(env, **kwargs)
            continue
        actor = make_q_actor(env, **kwargs)
        for param in actor.parameters():
            nn.init.normal_(param, std=0.2)
        batch = collect(env, actor)
        assert_legal(make, batch)
        assert batch["action"].dtype == spec.dtype
        if env.observation_keys[-1] == "action_mask":
            assert batch["action_mask"].gather(-1, batch["action"].unsqueeze(-1)).all()
        assert_all_learn(loss(actor), batch, unused=("sigma",) if name == "noisy" else ())


def test_the_quantiles_are_those_of_the_best_mean():
    env = GymEnv("CartPole-v1")
    actor = make_q_actor(env, num_quantiles=7)
    assert isinstance(actor, QuantileQValueActor)
    td = actor(env.reset())
    mean = td["action_value"].mean(-2)
    assert td["action_value"].shape == (7, 2)
    torch.testing.assert_close(td["chosen_action_value"], mean.amax(-1, keepdim=True))
    assert td["action"].int().argmax() == mean.argmax()
    assert isinstance(make_q_actor(env, support=(0, 1, 3)), DistributionalQValueActor)


def test_a_dueling_network_adds_value_and_advantage():
    env = GymEnv("CartPole-v1")
    actor = make_q_actor(env, dueling=True, num_cells=(8, 6))
    first, _, last = actor.module[0].module
    td = actor(env.reset())
    hidden = first(td["observation"]).relu()
    value, advantage = last.value(hidden), last.advantage(hidden)
    torch.testing.assert_close(td["action_value"], value + advantage - advantage.mean(-1, keepdim=True))
    assert [layer.out_features for layer in last.value if isinstance(layer, nn.Linear)] == [6, 1]


@pytest.mark.parametrize("name", ["CartPole", "categorical", "masked", "batched"])
def test_discrete_sac(name):
    env = DISCRETE[name]()
    actor, critic = make_actor(env, gain=None), make_critic(env, values_of_actions=True, gain=None)
    batch = collect(env, actor)
    assert critic(batch)["action_value"].shape == batch["logits"].shape
    assert_all_learn(DiscreteSACLoss(actor, critic), batch)


@pytest.mark.parametrize("make", {**DISCRETE, **BINARY}.values(), ids={**DISCRETE, **BINARY})
def test_discrete_actions_go_into_critics_as_one_hot(make):
    env = make()
    critic = make_critic(env, with_action=True, num_cells=())
    batch = collect(env, make_actor(env))
    observation = batch[env.observation_keys[0]]
    layer = next(m for m in critic.modules() if isinstance(m, nn.Linear))
    action, spec = batch["action"], env.action_spec
    if hasattr(spec, "to_one_hot_spec"):
        action = spec.to_one_hot(action)
    torch.testing.assert_close(critic(batch)["state_action_value"], layer(torch.cat([observation, action.float()], -1)))


def test_other_losses_of_policies():
    env = of(action=spaces.MultiDiscrete([2, 4, 3]))()
    actor, critic = make_actor(env), make_critic(env)
    batch = collect(env, actor)
    assert_all_learn(A2CLoss(actor, critic), batch.clone())
    assert_all_learn(ReinforceLoss(actor, critic), batch.clone())


def test_the_gradient_of_ppo_on_several_choices_is_that_of_its_formula():
    env = of(action=spaces.MultiDiscrete([2, 4, 3]), categorical_action_encoding=True)()
    actor, critic = make_actor(env, last_gain=1.0), make_critic(env)
    batch = collect(env, actor, 40)
    batch["advantage"], batch["value_target"] = torch.randn(40, 1), torch.randn(40, 1)
    batch["action_log_prob"] += 0.3 * torch.randn(40)
    loss = ClipPPOLoss(actor, critic, entropy_coeff=0.1, critic_coeff=0.0, clip_epsilon=0.2)
    loss(batch.clone()).backward()
    params = [*actor.parameters()]
    found = torch.cat([p.grad.flatten() for p in params])

    logits = actor.module[0].module(batch["observation"])
    total, entropy = 0, 0
    for part, index in zip(logits.split([2, 4, 3], -1), batch["action"].unbind(-1), strict=True):
        log_p = part.log_softmax(-1)
        total = total + log_p.gather(-1, index.unsqueeze(-1)).squeeze(-1)
        entropy = entropy - (log_p.exp() * log_p).sum(-1)
    ratio, advantage = (total - batch["action_log_prob"]).exp(), batch["advantage"].squeeze(-1)
    gain = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
    wanted = torch.autograd.grad(-(gain + 0.1 * entropy).mean(), params)
    torch.testing.assert_close(found, torch.cat([g.flatten() for g in wanted]))


# --- recurrence --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["lstm", "gru"])
@pytest.mark.parametrize("num", [0, 3])
def test_recurrent_actor_and_critic(kind, num):
    make = of(spaces.Dict(pixels=SMALL, vector=VECTOR), action=BOX)
    env = TransformedEnv(SerialEnv(num, make) if num else make(), InitTracker())
    actor = make_actor(env, recurrent=kind, num_cells=(16,), hidden_size=8)
    critic = make_critic(env, recurrent=kind, num_cells=(16,), hidden_size=8)
    batch = collect(env, ActorCriticWrapper(actor, critic), 24)
    names = {str(key) for key in batch.keys(True, True)}
    assert not any("features" in name or "memory" in name for name in names)
    with set_recurrent_mode():
        log_prob = actor.log_prob(batch.clone())
    torch.testing.assert_close(log_prob, batch["action_log_prob"], rtol=1e-3, atol=1e-4)
    assert set(actor.out_keys).isdisjoint(critic.out_keys)
    with set_recurrent_mode():
        GAE(gamma=0.9, lmbda=0.9, value_network=critic, shifted=True)(batch)
        assert_all_learn(ClipPPOLoss(actor, critic), batch, unused=("conv",))


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_recurrent_values_of_actions(kind):
    env = TransformedEnv(GymEnv("CartPole-v1"), InitTracker())
    actor = make_q_actor(env, recurrent=kind, dueling=True, hidden_size=8)
    batch = collect(env, actor, 24)
    for part in make_deterministic_actor(
        TransformedEnv(GymEnv("Pendulum-v1"), InitTracker()), recurrent=kind
    ).modules():
        assert not isinstance(part, nn.Dropout)
    with set_recurrent_mode():
        assert_all_learn(DQNLoss(actor), batch)


# --- mistakes ----------------------------------------------------------------------------------


def test_mistakes_name_what_fits():
    cartpole, pendulum = GymEnv("CartPole-v1"), GymEnv("Pendulum-v1")
    with pytest.raises(ValueError, match="Did you mean 'relu'"):
        make_actor(cartpole, activation="relux")
    with pytest.raises(ValueError, match=r"no such recurrent layer.*lstm"):
        make_actor(cartpole, recurrent="rnn")
    with pytest.raises(ValueError, match=r"no such scale.*'free' or 'network'"):
        make_actor(pendulum, scale="none")
    with pytest.raises(ValueError, match=r"make_q_actor.*expected a discrete action, found Bounded"):
        make_q_actor(pendulum)
    with pytest.raises(ValueError, match=r"make_deterministic_actor.*continuous.*Use make_q_actor"):
        make_deterministic_actor(cartpole)
    with pytest.raises(ValueError, match="finite bounds"):
        make_actor(CONTINUOUS["without bounds"](), squash=True)
    with pytest.raises(ValueError, match="'nothing' has no spec of a tensor"):
        make_actor(cartpole, in_keys=["nothing"])
    with pytest.raises(ValueError, match=r"belongs to several agents.*MultiAgentMLP"):
        make_actor(MultiAgentEnv())
    with pytest.raises(TypeError, match="need an environment with observation_spec"):
        make_actor("CartPole-v1")
    with pytest.raises(ValueError, match="either atoms or quantiles"):
        make_q_actor(cartpole, support=(0, 1, 2), num_quantiles=3)
    with pytest.raises(ValueError, match="reads the action or values all"):
        make_critic(cartpole, with_action=True, values_of_actions=True)
    with pytest.raises(ValueError, match="quantiles of Q"):
        make_critic(cartpole, num_quantiles=3)
    with pytest.raises(ValueError, match="no such batch_norm"):
        make_critic(cartpole, batch_norm="batch")
    with pytest.raises(ValueError, match="single choice"):
        make_critic(DISCRETE["several choices"](), values_of_actions=True)


def test_text_is_not_observed():
    assert make_actor(TextEnv()).in_keys == ["observation"]


class Described:
    """What builders read of an environment."""

    def __init__(self, observations, action, key="action"):
        self.observation_spec, self.action_key, self.device = Composite(observations), key, None
        self.action_spec = Composite({key: action}) if isinstance(key, tuple) else action


def test_any_object_with_specs_will_do():
    env = Described({"observation": Unbounded((3,))}, Bounded(-1, 1, (2,)))
    td = make_actor(env)(TensorDict(observation=torch.zeros(5, 3), batch_size=[5]))
    assert td["action"].shape == (5, 2)


def test_the_order_of_entries_in_specs_does_not_matter():
    one = Described({"b": Unbounded((3,)), "a": Unbounded((2,)), ("a2", "x"): Unbounded((2,))}, OneHot(2))
    assert make_actor(one).in_keys == make_critic(one).in_keys == ["a", ("a2", "x"), "b"]
    assert make_critic(one, with_action=True).in_keys == ["a", ("a2", "x"), "b", "action"]


@pytest.mark.parametrize("spec", [OneHot(4), Categorical(4), MultiOneHot([1, 3]), MultiCategorical([1, 3])], ids=type)
@pytest.mark.parametrize("nested", [False, True])
def test_masks_beside_the_action_are_found(spec, nested):
    key, mask_key = (("player", "action"), ("player", "action_mask")) if nested else ("action", "action_mask")
    env = Described({"observation": Unbounded((3,)), mask_key: Binary(4, dtype=torch.bool)}, spec, key)
    mask = torch.tensor([True, False, True, False])
    td = TensorDict(observation=torch.randn(50, 3), batch_size=[50]).set(mask_key, mask.expand(50, 4))
    with set_exploration_type(ExplorationType.RANDOM):
        for build in (make_actor, make_q_actor):
            spec.update_mask(None)
            policy = build(env, device="cpu")
            action = policy(td.clone())[key]
            spec.update_mask(mask)
            assert all(spec.is_in(a) for a in action)
    wrong = Described({"observation": Unbounded((3,)), "action_mask": Binary(5, dtype=torch.bool)}, Categorical(4))
    with pytest.raises(ValueError, match=r"mask of another shape; expected \[4\], found \[5\]"):
        make_actor(wrong)


def test_several_choices_among_the_same_number():
    env = Described({"observation": Unbounded((3,))}, Categorical(4, (2, 3)))
    td = make_actor(env)(TensorDict(observation=torch.randn(5, 3), batch_size=[5]))
    assert td["action"].shape == (5, 2, 3)
    assert td["logits"].shape == (5, 24)
    assert td["action_log_prob"].shape == (5,)


def test_parameters_live_where_they_are_told():
    observations = {"pixels": Unbounded((10, 10, 3), dtype=torch.uint8), "number": MultiCategorical([2, 3])}
    discrete, continuous = Described(observations, OneHot(3)), Described(observations, Bounded(-1, 2, (3,)))
    nets = [
        make_actor(discrete, device="meta"),
        make_actor(continuous, device="meta"),
        make_actor(continuous, device="meta", recurrent="lstm", gain=None),
        make_deterministic_actor(continuous, device="meta"),
        make_q_actor(discrete, device="meta", support=(0, 1, 3), noisy=True, dueling=True),
        make_critic(continuous, device="meta", with_action=True, batch_norm="renorm"),
        make_critic(continuous, device="meta", layer_norm=True),
    ]
    for net in nets:
        assert {tensor.device.type for tensor in [*net.parameters(), *net.buffers()]} == {"meta"}


def test_recurrent_layers_are_initialised_too():
    env = Described({"observation": Unbounded((3,))}, OneHot(2))
    for gain in (1.0, None):
        rnn = next(m for m in make_actor(env, recurrent="gru", gain=gain).modules() if isinstance(m, nn.GRU))
        weight = rnn.weight_hh_l0
        is_orthogonal = torch.allclose(weight.T @ weight, torch.eye(64), atol=1e-4)
        assert is_orthogonal == (gain is not None)
        assert bool((rnn.bias_hh_l0 == 0).all()) == (gain is not None)


def test_the_order_of_layers_in_critics():
    env = Described({"observation": Unbounded((3,))}, Bounded(-1, 2, (3,)))

    def kinds(**kwargs):
        return [type(layer).__name__ for layer in make_critic(env, num_cells=(8,), **kwargs).module]

    assert kinds() == ["Linear", "Tanh", "Linear"]
    assert kinds(layer_norm=True, activation=nn.ELU) == ["Linear", "LayerNorm", "ELU", "Linear"]
    assert kinds(batch_norm="renorm") == ["BatchRenorm1d", "Linear", "Tanh", "BatchRenorm1d", "Linear"]
    assert make_critic(env, out_key="worth").out_keys == ["worth"]
