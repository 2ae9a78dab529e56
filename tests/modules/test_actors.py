"""Policies and value functions: specs, ranges, keys, messages."""

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import CompositeDistribution, TensorDictModule, set_skip_existing
from torch import nn
from torch.distributions import Categorical, Normal

from torchrl._core.errors import MissingKeyError, ShapeError, SpecError
from torchrl._core.exploration import set_exploration_type
from torchrl.data import Bounded, Composite, OneHot, RandomPolicy, Unbounded
from torchrl.modules import (
    MLP,
    Actor,
    ActorCriticOperator,
    ActorCriticWrapper,
    ActorValueOperator,
    Delta,
    NormalParamExtractor,
    ProbabilisticActor,
    SafeModule,
    SafeProbabilisticModule,
    SafeProbabilisticTensorDictSequential,
    SafeSequential,
    TanhDelta,
    TanhNormal,
    TruncatedNormal,
    ValueOperator,
    tensordict_module,
)


def params(size=2):
    net = nn.Sequential(nn.Linear(3, 2 * size), NormalParamExtractor())
    return TensorDictModule(net, ["observation"], ["loc", "scale"])


def actor(spec=None, distribution_class=TanhNormal, **kwargs):
    return ProbabilisticActor(params(), ["loc", "scale"], spec=spec, distribution_class=distribution_class, **kwargs)


def data(*batch):
    return TensorDict(observation=torch.randn(*batch, 3), batch_size=batch)


def test_a_leaf_spec_is_that_of_the_first_output():
    spec = Bounded(-1, 1, (2,))
    module = SafeModule(nn.Linear(3, 2), ["observation"], [("agents", "action")], spec=spec)
    assert module.spec["agents", "action"] == spec


def test_safe_projects_and_unsafe_does_not():
    spec = Bounded(-0.1, 0.1, (2,))
    far = TensorDict(observation=torch.full((5, 3), 100.0), batch_size=[5])
    net = nn.Linear(3, 2)
    safe = Actor(net, spec=spec, safe=True)(far.clone())["action"]
    free = Actor(net, spec=spec)(far.clone())["action"]
    assert (safe.abs() <= 0.1).all()
    torch.testing.assert_close(safe, free.clamp(-0.1, 0.1))
    assert (free.abs() > 0.1).any()


def test_safe_needs_a_spec_and_a_spec_needs_an_output():
    with pytest.raises(TypeError, match=r"entries of tensordicts; found Linear\. Wrap it"):
        ProbabilisticActor(nn.Linear(3, 2), in_keys=["loc", "scale"])
    with pytest.raises(SpecError, match="Actor: is safe only with a spec"):
        Actor(nn.Linear(3, 2), safe=True)
    with pytest.raises(SpecError, match=r"'acton' has a spec but is not written.*'action'\?"):
        Actor(nn.Linear(3, 2), spec=Composite(acton=Bounded(-1, 1, (2,))))


def test_random_outputs_come_from_the_spec():
    spec = Bounded(4, 5, (2,))
    module = Actor(nn.Linear(3, 2), spec=spec)
    td = module.random(data(7))
    assert td["action"].shape == (7, 2)
    assert spec.is_in(td["action"])
    with pytest.raises(SpecError, match="draws from its spec"):
        Actor(nn.Linear(3, 2)).random(data(7))


def test_a_sequence_has_the_specs_of_its_parts():
    first = SafeModule(nn.Linear(3, 4), ["observation"], ["hidden"], spec=Unbounded((4,)))
    second = SafeModule(nn.Linear(4, 2), ["hidden"], ["action"], spec=Bounded(-1, 1, (2,)))
    sequence = SafeSequential(first, second)
    assert set(sequence.spec.keys()) == {"hidden", "action"}
    assert SafeSequential(TensorDictModule(nn.Linear(3, 4), ["a"], ["b"])).spec is None
    with pytest.raises(SpecError, match="has the specs of its modules"):
        sequence.spec = Composite()


@pytest.mark.parametrize("distribution", [TanhNormal, TruncatedNormal])
def test_the_range_comes_from_the_spec(distribution):
    low, high = torch.tensor([-1.0, 0.0]), torch.tensor([1.0, 4.0])
    policy = actor(Composite(action=Bounded(low, high)), distribution)
    policy.module[0].module[0].bias.data[2:] = 4.0  # a wide scale
    with set_exploration_type("random"):
        actions = policy(data(2000))["action"]
    assert (actions >= low).all()
    assert (actions <= high).all()
    assert (actions.amax(0) > high - 0.3).all()
    assert (actions.amin(0) < low + 0.3).all()


def test_a_batch_of_environments_has_one_range():
    spec = Bounded(torch.tensor([[-1.0, -2.0]]).expand(4, 2), torch.tensor([[1.0, 2.0]]).expand(4, 2))
    policy = actor(spec)
    for batch in ((4,), (9, 4), (36,)):  # a step, a rollout, a flat sample of it
        assert policy(data(*batch))["action"].shape == (*batch, 2)
    assert actor(Bounded(-2, 2, (4, 2))).module[-1].distribution_kwargs == {"low": -2.0, "high": 2.0}


def test_tanh_delta_takes_the_range_too():
    policy = ProbabilisticActor(
        TensorDictModule(nn.Linear(3, 2), ["observation"], ["param"]),
        ["param"],
        spec=Bounded(-3, 3, (2,)),
        distribution_class=TanhDelta,
    )
    assert policy.get_dist(data(5)).high == 3.0


@pytest.mark.parametrize("names", [("low", "high"), ("min", "max")])
def test_the_same_range_may_be_named(names):
    spec = Bounded(-2, 2, (2,))
    kwargs = dict(zip(names, (spec.space.low, spec.space.high), strict=True))
    dist = actor(spec, distribution_kwargs=kwargs).get_dist(data(5))
    assert (dist.low, dist.high) == (-2.0, 2.0)


@pytest.mark.parametrize("kwargs", [{"low": -1}, {"max": torch.tensor([2.0, 3.0])}, {"low": torch.zeros(3)}])
def test_another_range_is_refused(kwargs):
    with pytest.raises(SpecError, match="has another range in the TanhNormal than in its spec"):
        actor(Bounded(-2, 2, (2,)), distribution_kwargs=kwargs)


def test_an_infinite_range_is_refused():
    with pytest.raises(SpecError, match="whose range is finite; expected a spec with a finite high"):
        actor(Bounded(torch.zeros(2), torch.tensor([1.0, float("inf")])))


def test_without_a_bounded_spec_the_range_is_the_distribution_s():
    assert actor().get_dist(data(5)).high == 1.0
    assert actor(Unbounded((2,)), distribution_kwargs={"high": 3}).get_dist(data(5)).high == 3.0


def test_where_the_log_prob_goes():
    assert actor(return_log_prob=True)(data(5))["action_log_prob"].shape == (5,)
    named = actor(return_log_prob=True, log_prob_key="sample_log_prob")
    assert named(data(5))["sample_log_prob"].shape == (5,)
    factorised = actor(distribution_class=Normal, return_log_prob=True)
    assert factorised(data(5))["action_log_prob"].shape == (5, 2)


def test_log_prob_of_what_was_drawn():
    policy = actor(Bounded(-2, 2, (2,)), return_log_prob=True)
    with set_exploration_type("random"):
        td = policy(data(6, 4))
    torch.testing.assert_close(policy.log_prob(td.clone()), td["action_log_prob"], rtol=1e-4, atol=1e-4)
    dist = policy.build_dist_from_params(td)
    torch.testing.assert_close(dist.loc, td["loc"])
    torch.testing.assert_close(policy.get_dist(td).scale, td["scale"])


def test_an_action_that_is_there_is_overwritten_unless_told_otherwise():
    policy = actor()
    td = data(5).set("action", torch.full((5, 2), 9.0))
    with set_skip_existing(True):
        policy_td = SafeSequential(policy)(td.clone().set("loc", torch.zeros(5, 2)))
    assert (policy(td)["action"] < 9).all()
    assert policy_td["action"].shape == (5, 2)


@pytest.mark.parametrize("kind", ["mean", "mode", "median", "deterministic"])
def test_kinds_of_tanh_normal(kind):
    policy = actor(Bounded(-2, 2, (2,)))
    with set_exploration_type(kind):
        td = policy(data(5))
        assert policy(td.clone())["action"].equal(td["action"])
    image = 2 * td["loc"].tanh()
    if kind == "mean":
        assert (td["action"].abs() < image.abs()).all()  # pulled to the middle
    else:
        torch.testing.assert_close(td["action"], image)


def test_default_interaction_type():
    explorer = actor(default_interaction_type="random")
    td = data(5)
    assert not explorer(td.clone())["action"].equal(explorer(td.clone())["action"])


def test_a_missing_mean_is_estimated():
    class Odd(Normal):
        @property
        def mean(self):
            raise NotImplementedError

    policy = actor(distribution_class=Odd, n_empirical_estimate=4000)
    with set_exploration_type("mean"):
        td = policy(data(5).set("observation", torch.zeros(5, 3)))
    torch.testing.assert_close(td["action"], td["loc"], atol=0.15, rtol=0)


def test_a_missing_mode_is_named():
    class Odd(Normal):
        @property
        def mode(self):
            raise NotImplementedError

    with set_exploration_type("mode"), pytest.raises(NotImplementedError, match="Odd has no mode"):
        actor(distribution_class=Odd)(data(5))


def test_num_samples_and_generator():
    draws = SafeProbabilisticModule(
        ["loc", "scale"],
        ["action"],
        distribution_class=Normal,
        num_samples=4,
        generator=torch.Generator().manual_seed(1),
        default_interaction_type="random",
    )
    td = TensorDict(loc=torch.zeros(5, 2), scale=torch.ones(5, 2), batch_size=[5])
    assert draws(td)["action"].shape == (4, 5, 2)


def test_a_distribution_by_name():
    module = SafeProbabilisticModule(["loc", "scale"], "a", distribution_class="TanhNormal")
    assert module.distribution_class is TanhNormal


def test_cached_distributions_follow_their_parameters():
    cached, fresh = actor(cache_dist=True), actor()
    fresh.load_state_dict(cached.state_dict())
    for batch in ((5,), (5,), (3,), (5,)):
        td = data(*batch)
        torch.testing.assert_close(cached(td.clone())["action"], fresh(td.clone())["action"])
        assert cached.module[-1]._cached is not None


def test_a_cached_distribution_does_not_change_what_get_dist_returned():
    """A distribution of the policy as it was stays as it was; the divergence of both is not 0."""
    policy, td = actor(cache_dist=True), data(5)
    before = policy.get_dist(td.copy())
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.5)
    policy(td.copy())
    after = policy.get_dist(td.copy())
    assert not torch.allclose(before.loc, after.loc)


def test_composite_actions():
    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(3, 5)

        def forward(self, obs):
            hidden = self.net(obs)
            move = TensorDict(loc=hidden[..., :2], scale=hidden[..., :2].exp(), batch_size=obs.shape[:-1])
            press = TensorDict(logits=hidden[..., 2:], batch_size=obs.shape[:-1])
            return TensorDict(move=move, press=press, batch_size=obs.shape[:-1])

    policy = ProbabilisticActor(
        TensorDictModule(Heads(), ["observation"], ["params"]),
        ["params"],
        distribution_class=CompositeDistribution,
        distribution_kwargs={"distribution_map": {"move": TanhNormal, "press": Categorical}},
        return_log_prob=True,
    )
    with set_exploration_type("random"):
        td = policy(data(5))
    assert td["move"].shape == (5, 2)
    assert td["press"].shape == (5,)
    assert td["move_log_prob"].shape == td["press_log_prob"].shape == (5,)


def operators(**kwargs):
    trunk = SafeModule(nn.Linear(3, 4), ["observation"], ["hidden"])
    head = SafeProbabilisticTensorDictSequential(
        SafeModule(nn.Sequential(nn.Linear(4, 4), NormalParamExtractor()), ["hidden"], ["loc", "scale"]),
        SafeProbabilisticModule(["loc", "scale"], ["action"], distribution_class=TanhNormal),
    )
    return trunk, head


def test_actor_value_operator_hands_out_its_parts():
    whole = ActorValueOperator(*operators(), nn.Linear(4, 1))
    td = data(5)
    everything = whole(td.clone())
    policy, value = whole.get_policy_operator(), whole.get_value_operator()
    torch.testing.assert_close(policy(td.clone())["action"], everything["action"])
    torch.testing.assert_close(value(td.clone())["state_value"], everything["state_value"])
    assert "state_value" not in policy(td.clone())
    assert "action" not in value(td.clone())
    assert policy.get_dist(td.clone()).batch_shape == (5,)
    hidden = everything.select("hidden")
    torch.testing.assert_close(whole.get_value_head()(hidden)["state_value"], everything["state_value"])
    torch.testing.assert_close(whole.get_policy_head()(hidden)["action"], everything["action"])
    assert {id(p) for p in policy.parameters()} < {id(p) for p in whole.parameters()}


def test_actor_critic_operator_needs_the_action():
    whole = ActorCriticOperator(*operators(), MLP(6, 1))
    assert whole.get_critic_operator()(data(5))["state_action_value"].shape == (5, 1)
    for name in ("get_value_operator", "get_value_head"):
        with pytest.raises(RuntimeError, match=rf"no {name}\(\).*Use get_critic_operator"):
            getattr(whole, name)()


def test_actor_critic_wrapper_keeps_them_apart():
    policy, value = actor(), ValueOperator(nn.Linear(3, 1))
    both = ActorCriticWrapper(policy, value)
    assert both.get_policy_operator() is both.get_policy_head() is policy
    assert both.get_value_operator() is both.get_value_head() is value


def test_actor_as_a_distribution():
    policy = Actor(nn.Linear(3, 2))
    td = data(5)
    dist = policy.get_dist(td)
    assert isinstance(dist, Delta)
    assert dist.mode.equal(td["action"])


def test_value_operator_names_its_output_after_its_inputs():
    assert ValueOperator(nn.Linear(3, 1)).out_keys == ["state_value"]
    assert ValueOperator(nn.Linear(3, 1), ["observation", "action"]).out_keys == ["state_action_value"]
    assert ValueOperator(nn.Linear(3, 1), out_keys=["v"]).out_keys == ["v"]


def test_random_policy_and_old_names_are_here():
    assert tensordict_module.RandomPolicy is RandomPolicy
    from torchrl import modules

    assert modules.SafeProbabilisticSequential is SafeProbabilisticTensorDictSequential
    assert modules.NormalParamsWrapper is modules.NormalParamWrapper
    assert RandomPolicy(OneHot(3))(TensorDict())["action"].sum() == 1


def test_modules_are_called_with_tensors_too():
    assert Actor(nn.Linear(3, 2))(observation=torch.zeros(4, 3)).shape == (4, 2)
    assert Actor(nn.Linear(3, 2))(torch.zeros(4, 3)).shape == (4, 2)
    out = actor()(observation=torch.zeros(4, 3))
    assert len(out) == 3


def test_networks_with_keyword_inputs_and_outputs_elsewhere():
    module = SafeModule(lambda x, *, y: x + y, {"x": "a", "y": "b"}, ["c"], spec=Bounded(0, 1, (2,)), safe=True)
    td = TensorDict(a=torch.ones(2), b=torch.ones(2))
    assert module(td)["c"].tolist() == [1, 1]
    out = TensorDict()
    Actor(nn.Linear(3, 2), spec=Bounded(0, 0.1, (2,)), safe=True)(data(), tensordict_out=out)
    assert (out["action"] <= 0.1).all()


def test_a_missing_entry_is_named_with_what_is_there():
    td = TensorDict(observations=torch.zeros(3), reward=torch.zeros(1))
    message = (
        r"Actor\(Linear\): entry 'observation' is read but absent; expected one of the entries at "
        r"hand, found \['observations', 'reward'\]\. Did you mean 'observations'\?"
    )
    with pytest.raises(MissingKeyError, match=message):
        Actor(nn.Linear(3, 2))(td)
    with pytest.raises(MissingKeyError, match=r"\(function\): entry 'state' is read but absent"):
        SafeModule(lambda state: state, ["state"], ["action"])(TensorDict())
    with pytest.raises(MissingKeyError, match="'scale' is read but absent"):
        SafeProbabilisticModule(["loc", "scale"], "a", distribution_class=TanhNormal)(TensorDict(loc=torch.zeros(2)))


def test_a_wrong_width_is_named_with_its_entry():
    message = (
        r"Actor\(Linear\): entry 'observation' has the wrong last dimension; expected 4, found 3\. "
        "Give the network 3 input features"
    )
    with pytest.raises(ShapeError, match=message):
        Actor(nn.Linear(4, 2))(data(5))
    with pytest.raises(RuntimeError, match=r"entry \['observation', 'action'\].*expected 9, found 5"):
        ValueOperator(MLP(9, 1), ["observation", "action"])(data(5).set("action", torch.zeros(5, 2)))
    inner = nn.Sequential(nn.Linear(3, 8), nn.Linear(7, 2))
    with pytest.raises(RuntimeError, match=r"two layers that do not fit.*expected 7, found 8"):
        Actor(inner)(data(5))


def test_other_failures_of_a_network_are_its_own():
    def fails(observation):
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        Actor(fails)(data(5))
    with pytest.raises(RuntimeError, match=r"returned 2 tensors for out_keys \['action'\]"):
        Actor(lambda obs: (obs, obs))(data(5))
