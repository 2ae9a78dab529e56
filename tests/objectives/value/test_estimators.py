"""Value estimators: the contract, closed forms, and every option against its definition."""

import copy

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn

from torchrl._core import returns as R
from torchrl._core.errors import MissingKeyError, ShapeError, TorchRLError
from torchrl.objectives import A2CLoss, ValueEstimators, default_value_kwargs
from torchrl.objectives.value import GAE, MultiAgentGAE, TD0Estimator, TD1Estimator, TDLambdaEstimator, VTrace, registry
from torchrl.testing import value as contract
from torchrl.testing.networks import OBS, advantage_batch, critic, gaussian_actor

CRITIC, ACTOR = critic(), gaussian_actor()
MAKE = {
    "td0": lambda **kw: TD0Estimator(gamma=0.9, value_network=CRITIC, **kw),
    "td1": lambda **kw: TD1Estimator(gamma=0.9, value_network=CRITIC, **kw),
    "td_lambda": lambda **kw: TDLambdaEstimator(gamma=0.9, lmbda=0.8, value_network=CRITIC, **kw),
    "gae": lambda **kw: GAE(gamma=0.9, lmbda=0.8, value_network=CRITIC, **kw),
    "magae": lambda **kw: MultiAgentGAE(gamma=0.9, lmbda=0.8, value_network=CRITIC, **kw),
    "vtrace": lambda **kw: VTrace(gamma=0.9, actor_network=ACTOR, value_network=CRITIC, **kw),
}
PURE = {
    "td0": lambda v, nv, r, d, e: R.td0_return_estimate(0.9, nv, r, e),
    "td1": lambda v, nv, r, d, e: R.td1_return_estimate(0.9, nv, r, d, e),
    "td_lambda": lambda v, nv, r, d, e: R.td_lambda_return_estimate(0.9, 0.8, nv, r, d, e),
    "gae": lambda v, nv, r, d, e: R.generalized_advantage_estimate(0.9, 0.8, v, nv, r, d, e)[1],
}


def rows(batch=(2, 7)):
    td = advantage_batch(batch=batch)
    return td.exclude("advantage", "value_target", "state_value", "loc", "scale")


def ends_of(td):
    return [td["next", key] for key in ("reward", "done", "terminated")]


@pytest.mark.parametrize("check", contract.CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("options", [{}, {"shifted": True}, {"skip_existing": True}], ids=str)
@pytest.mark.parametrize("name", MAKE)
def test_contract(name, options, check):
    check(lambda: copy.deepcopy(MAKE[name](**options)), rows)


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("name", PURE)
@pytest.mark.parametrize("batch", [(9,), (3, 4), (2, 3, 5)])
def test_equals_the_pure_function_of_the_critics_values(name, shifted, batch):
    td = rows(batch)
    if shifted:  # roots follow from what came before, but where an episode ended
        obs, after = td["observation"], td["next", "observation"]
        inside = ~td["next", "done"].expand_as(obs)[..., :-1, :]
        obs[..., 1:, :] = torch.where(inside, after[..., :-1, :], obs[..., 1:, :])
    value = CRITIC.module(td["observation"])
    next_value = CRITIC.module(td["next", "observation"])
    target = PURE[name](value, next_value, *ends_of(td))
    out = MAKE[name](shifted=shifted)(td)
    torch.testing.assert_close(out["value_target"], target.detach())
    torch.testing.assert_close(out["advantage"], (target - value).detach())
    torch.testing.assert_close(out["state_value"], value.detach())
    torch.testing.assert_close(out["next", "state_value"], next_value.detach())


def test_vtrace_equals_the_pure_function():
    td = rows()
    value, next_value = (CRITIC.module(o) for o in (td["observation"], td["next", "observation"]))
    log_pi = ACTOR.get_dist(td.copy()).log_prob(td["action"]).unsqueeze(-1)
    log_mu = td["action_log_prob"].unsqueeze(-1)
    advantage, target = R.vtrace_advantage_estimate(0.9, log_pi, log_mu, value, next_value, *ends_of(td))
    out = MAKE["vtrace"]()(td)
    torch.testing.assert_close(out["advantage"], advantage.detach())
    torch.testing.assert_close(out["value_target"], target.detach())
    old = rows().rename_key_("action_log_prob", "sample_log_prob")
    torch.testing.assert_close(MAKE["vtrace"]()(old)["advantage"], advantage.detach())


@pytest.mark.parametrize("name", [*PURE, "vtrace"])
def test_gradients_only_where_they_are_asked_for(name):
    td = rows().set("unused", torch.zeros(2, 7))
    seen = td["observation"].requires_grad_(), td["next", "reward"].requires_grad_()
    td["observation"], td["next", "reward"] = seen
    out = MAKE[name](differentiable=True)(td)
    params = [*CRITIC.parameters()]
    gradients = torch.autograd.grad(out["advantage"].sum(), [*seen, *params], allow_unused=True)
    assert all(g.abs().sum() > 0 for g in gradients[:2])
    assert all(g is None for g in gradients[2:])
    out = MAKE[name](differentiable=True)(rows(), params=TensorDict.from_module(CRITIC))
    gradients = torch.autograd.grad(out["advantage"].sum(), params)
    assert all(g.abs().sum() > 0 for g in gradients)
    assert not MAKE[name]()(rows())["advantage"].requires_grad


@pytest.mark.parametrize("name", ["gae", "vtrace"])
def test_advantages_can_be_standardised(name):
    option = {"gae": "average_gae", "vtrace": "average_adv"}[name]
    plain, out = MAKE[name]()(rows()), MAKE[name](**{option: True})(rows())
    a = plain["advantage"]
    torch.testing.assert_close(out["advantage"], (a - a.mean()) / a.std())
    torch.testing.assert_close(out["value_target"], plain["value_target"])


@pytest.mark.parametrize("name", ["td0", "td1", "td_lambda"])
def test_rewards_can_be_standardised(name):
    td = rows()
    r = td["next", "reward"]
    expected = MAKE[name]()(rows().set(("next", "reward"), (r - r.mean()) / r.std()))
    out = MAKE[name](average_rewards=True)(td)
    torch.testing.assert_close(out["value_target"], expected["value_target"])
    torch.testing.assert_close(out["next", "reward"], r)


def test_values_of_the_data_instead_of_the_critics():
    td = rows()
    td["state_value"] = torch.zeros(2, 7, 1)
    td["next", "state_value"] = torch.ones(2, 7, 1)
    expected = td["next", "reward"] + 0.9 * ~td["next", "terminated"]
    for estimator in (
        TD0Estimator(gamma=0.9, value_network=None),
        TD0Estimator(gamma=0.9, value_network=CRITIC, skip_existing=True),
    ):
        torch.testing.assert_close(estimator(td.clone())["advantage"], expected)
    recomputed = TD0Estimator(gamma=0.9, value_network=CRITIC)(td)
    assert (recomputed["state_value"] != 0).all()
    with pytest.raises(MissingKeyError, match=r"'state_value'.*Give the estimator a value_network"):
        TD0Estimator(gamma=0.9, value_network=None)(rows())


def test_parameters_from_outside():
    other = critic()
    params, frozen = TensorDict.from_module(other), TensorDict.from_module(critic())
    expected = TD0Estimator(gamma=0.9, value_network=other)(rows())
    out = MAKE["td0"]()(rows(), params=params)
    torch.testing.assert_close(out["advantage"], expected["advantage"])
    out = MAKE["td0"]()(rows(), target_params=frozen)
    torch.testing.assert_close(out["state_value"], MAKE["td0"]()(rows())["state_value"])
    assert (out["next", "state_value"] != MAKE["td0"]()(rows())["next", "state_value"]).all()


def test_steps_of_several_frames_are_discounted_by_their_number():
    td = rows()
    steps = torch.randint(1, 4, (2, 7, 1))
    td["steps_to_next_obs"] = steps
    next_value = CRITIC.module(td["next", "observation"])
    expected = td["next", "reward"] + 0.9**steps * ~td["next", "terminated"] * next_value
    torch.testing.assert_close(MAKE["td0"]()(td)["value_target"], expected.detach())


def test_time_is_found_by_name_or_given():
    td = rows((7, 2))
    expected = MAKE["gae"]()(td.transpose(0, 1).clone())["advantage"].transpose(0, 1)
    assert not torch.allclose(MAKE["gae"]()(td.clone())["advantage"], expected)
    torch.testing.assert_close(MAKE["gae"](time_dim=0)(td.clone())["advantage"], expected)
    named = td.clone()
    named.names = ["time", None]
    torch.testing.assert_close(MAKE["gae"]()(named)["advantage"], expected)


def test_a_discount_for_each_step_and_on_the_device_of_the_module():
    gamma = torch.rand(2, 7, 1)
    estimator = TD0Estimator(gamma=gamma, value_network=CRITIC)
    td = estimator(rows())
    target = R.td0_return_estimate(gamma, td["next", "state_value"], td["next", "reward"], td["next", "terminated"])
    torch.testing.assert_close(td["value_target"], target)
    assert "gamma" in dict(estimator.named_buffers())


def test_discounts_as_tensors_on_a_device():
    estimator = MAKE["gae"](device="cpu")
    buffers = dict(estimator.named_buffers())
    assert {"gamma", "lmbda"} <= set(buffers)
    expected = MAKE["gae"]()(rows())["advantage"]
    torch.testing.assert_close(estimator(rows())["advantage"], expected)
    assert not dict(MAKE["td_lambda"]().named_buffers())


def test_environments_that_keep_no_last_observation():
    td = rows()
    value, next_value = (CRITIC.module(o) for o in (td["observation"], td["next", "observation"]))
    reward, done, terminated = ends_of(td)
    expected = R.generalized_advantage_estimate(
        0.9, 0.8, value, torch.where(done, value, next_value), reward, done, terminated
    )[0]
    out = MAKE["gae"](auto_reset_env=True)(td)
    torch.testing.assert_close(out["advantage"], expected.detach())


def test_rewards_of_a_team():
    """Three agents with a value each, one reward and one end."""
    values = torch.randn(2, 2, 7, 3, 1)
    td = TensorDict(state_value=values[0], next=rows()["next"].set("state_value", values[1]), batch_size=[2, 7])
    out = MultiAgentGAE(gamma=0.9, lmbda=0.8, value_network=None)(td)
    for agent in range(3):
        expected, _ = R.generalized_advantage_estimate(
            0.9, 0.8, values[0, ..., agent, :], values[1, ..., agent, :], *ends_of(td)
        )
        torch.testing.assert_close(out["advantage"][..., agent, :], expected)


def test_recurrent_critics_see_whole_sequences():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.GRU(OBS, 1, batch_first=True)

        def forward(self, observation):
            return self.rnn(observation)[0]

    net = TensorDictModule(Recurrent(), ["observation"], ["state_value"])
    td = GAE(gamma=0.9, lmbda=0.8, value_network=net)(rows())
    torch.testing.assert_close(td["state_value"], net.module(td["observation"]).detach())


def test_what_is_refused():
    with pytest.raises(TorchRLError, match=r"GAE: needs a time dimension.*found \[\]"):
        MAKE["gae"]()(rows()[0, 0])
    with pytest.raises(ShapeError, match=r"td0_return_estimate.*'reward': \[2, 7\]"):
        MAKE["td0"]()(rows().set(("next", "reward"), torch.zeros(2, 7)))
    with pytest.raises(ValueError, match=r"has no entry called 'advntage'.*Did you mean 'advantage'"):
        MAKE["gae"]().set_keys(advntage="a")
    with pytest.raises(MissingKeyError, match=r"GAE: entry \('next', 'reward'\) is read but absent"):
        MAKE["gae"]()(rows().exclude(("next", "reward")))


def test_old_ways_to_name_entries():
    estimator = MAKE["gae"](advantage_key="a", value_target_key="t")
    assert (estimator.advantage_key, estimator.value_target_key) == ("a", "t")
    assert MAKE["gae"]().value_target_key == "value_target"
    value = TensorDictModule(nn.Linear(OBS, 1), ["observation"], ["my_value"])
    td = GAE(gamma=0.9, lmbda=0.9, value_network=value)(rows())
    assert "my_value" in td


def test_estimators_by_name():
    assert ValueEstimators("TD-Lambda") is ValueEstimators.TDLambda
    assert ValueEstimators("gae") is ValueEstimators.GAE
    assert default_value_kwargs("td0") == {"gamma": 0.99, "differentiable": True}
    with pytest.raises(ValueError, match=r"no such estimator.*found 'gea'.*Did you mean 'gae'"):
        ValueEstimators("gea")


def test_old_names():
    import torchrl.objectives.value as package

    assert package.TDLambdaEstimate is TDLambdaEstimator
    assert package.TD0Estimate is TD0Estimator


@pytest.mark.parametrize(
    "options",
    [{"value_chunk_size": 2}, {"num_chunks": 3}, {"num_chunk": 2}, {"value_chunk_size": 3, "value_chunk_dim": -1}],
    ids=str,
)
@pytest.mark.parametrize("shifted", [False, True])
def test_values_in_pieces(options, shifted):
    sizes = []
    net = TensorDictModule(lambda x: (sizes.append(len(x)), CRITIC.module(x))[1], ["observation"], ["state_value"])
    expected = MAKE["gae"](shifted=shifted)(rows((4, 7)))
    out = GAE(gamma=0.9, lmbda=0.8, value_network=net, shifted=shifted, **options)(rows((4, 7)))
    torch.testing.assert_close(out["advantage"], expected["advantage"])
    assert len(sizes) > (1 if shifted else 2)
    with pytest.raises(ValueError, match="got both value_chunk_size and num_chunks"):
        GAE(gamma=0.9, lmbda=0.8, value_network=net, value_chunk_size=2, num_chunks=2)


@pytest.mark.parametrize("name", ["gae", "td_lambda"])
@pytest.mark.parametrize("vectorized", [True, False])
@pytest.mark.parametrize("steps", [3, 40])
def test_looped_or_scanned(name, vectorized, steps):
    out = MAKE[name](vectorized=vectorized)(rows((2, steps)))
    expected = MAKE[name]()(rows((2, steps)))
    torch.testing.assert_close(out["value_target"], expected["value_target"])


def test_estimators_of_users(monkeypatch):
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))

    @registry.register_value_estimator("half", default_kwargs={"gamma": 0.9, "lmbda": 0.5})
    class Half(TDLambdaEstimator):
        pass

    actor, value = gaussian_actor(), critic()
    loss = A2CLoss(actor, value)
    loss.make_value_estimator("half", gamma=0.8)
    assert type(loss.value_estimator) is Half
    assert (loss.value_estimator.gamma, loss.value_estimator.lmbda) == (0.8, 0.5)
    assert registry.get_value_estimator_entry("half").cls is Half
    assert default_value_kwargs("half") == {"gamma": 0.9, "lmbda": 0.5}
    built = registry.build_value_estimator(loss, "td0", gamma=0.7)
    assert (type(built), built.gamma, built.value_network) == (TD0Estimator, 0.7, value)
    supported = [ValueEstimators.TD0]
    with pytest.raises(ValueError, match=r"cannot use this value estimator.*\['td0'\]"):
        registry.dispatch_value_estimator(loss, "gae", supported=supported)
    registry.dispatch_value_estimator(loss, "td0", supported=supported, tensor_keys={"reward": "gain"})
    assert loss.value_estimator.tensor_keys.reward == "gain"


@pytest.mark.parametrize("name", MAKE)
def test_unknown_names_are_errors_of_both_kinds(name):
    for error in (KeyError, ValueError):
        with pytest.raises(error, match="no entry called 'prize'"):
            MAKE[name]().set_keys(prize="gain")


@pytest.mark.parametrize("name", MAKE)
def test_names_can_be_read_and_their_defaults_stay(name):
    estimator = MAKE[name]()
    assert estimator.reward_key == "reward"
    before = vars(estimator.default_keys())
    names = {key: f"{key}_of_mine" for key in before}
    estimator.set_keys(**names)
    assert {key: getattr(estimator, f"{key}_key") for key in before} == names
    assert vars(estimator.default_keys()) == before
    with pytest.raises(AttributeError, match="price_key"):
        estimator.price_key  # noqa: B018
    estimator.set_keys(sample_log_prob=["one", "two"])
    assert estimator.sample_log_prob_key == ["one", "two"]


@pytest.mark.parametrize("name", MAKE)
def test_a_call_with_tensors_returns_advantage_and_target(name):
    estimator, td = MAKE[name](), rows()
    tensors = {key if isinstance(key, str) else "_".join(key): td[key] for key in estimator.in_keys}
    advantage, target = estimator(**tensors)
    found = estimator(td)
    assert estimator.out_keys == ["advantage", "value_target"]
    torch.testing.assert_close((advantage, target), (found["advantage"], found["value_target"]))


@pytest.mark.parametrize("name", MAKE)
@pytest.mark.parametrize("dim", [0, -2])
def test_time_may_be_given_with_the_data(name, dim):
    estimator, td = MAKE[name](), rows((7, 3))
    turned = td.transpose(0, 1).contiguous()
    expected = estimator.value_estimate(turned).transpose(0, 1)
    torch.testing.assert_close(estimator.value_estimate(td, time_dim=dim), expected)
    advantage = estimator(turned)["advantage"].transpose(0, 1)
    torch.testing.assert_close(estimator(td, time_dim=dim)["advantage"], advantage)
    assert estimator.time_dim is None
