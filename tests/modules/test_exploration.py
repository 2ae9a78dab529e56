"""Exploration modules: what they do to actions, when, and how they fade."""

import re
from pathlib import Path

import pytest
import scipy.stats
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn

from torchrl._core.errors import MissingKeyError, MissingSpecError, ShapeError, SpecError
from torchrl._core.exploration import ExplorationType, set_exploration_type
from torchrl.data import Binary, Bounded, Categorical, Composite, MultiOneHot, OneHot, Unbounded
from torchrl.modules import (
    Actor,
    AdditiveGaussianModule,
    AdditiveGaussianWrapper,
    EGreedyModule,
    EGreedyWrapper,
    NoisyLinear,
    NormalParamExtractor,
    OrnsteinUhlenbeckProcessModule,
    OrnsteinUhlenbeckProcessWrapper,
    ProbabilisticActor,
    QValueActor,
    TanhNormal,
    gSDEModule,
    set_exploration_modules_spec_from_env,
)

BOX = Bounded(-1, 1, (2,))
WIDE = Unbounded((2,))


def actions(value, *batch):
    return TensorDict(action=value.expand(*batch, *value.shape), batch_size=batch)


def first(*batch):
    return torch.ones(*batch, 1, dtype=torch.bool)


def test_eps_is_the_share_of_random_actions():
    td = actions(torch.tensor([1, 0, 0, 0]), 20_000)
    out = EGreedyModule(OneHot(4), eps_init=0.4, eps_end=0.0)(td)["action"]
    assert (out.sum(-1) == 1).all()
    assert out.dtype is torch.int64
    counts = out.sum(0)
    expected = torch.tensor([0.7, 0.1, 0.1, 0.1], dtype=torch.float64) * 20_000
    assert scipy.stats.chisquare(counts, expected).pvalue > 1e-3


@pytest.mark.parametrize(
    ("spec", "action"),
    [
        (Categorical(4), torch.tensor(3)),
        (Categorical(4, shape=(1,)), torch.tensor([3])),
        (Bounded(-1, 1, (2,)), torch.tensor([5.0, 5.0])),
        (MultiOneHot([2, 3]), torch.tensor([1, 0, 1, 0, 0])),
    ],
    ids=["index", "index of shape [1]", "box", "product"],
)
def test_one_coin_for_each_action(spec, action):
    td = actions(action, 500, 4)
    out = EGreedyModule(spec, eps_init=0.5)(td)["action"]
    changed = (out != action).reshape(500, 4, -1)
    if isinstance(spec, Bounded):
        assert (changed.all(-1) == changed.any(-1)).all()
        assert 0.4 < changed.float().mean() < 0.6
    assert 0.2 < changed.any(-1).float().mean() < 0.6
    moved = out[changed.any(-1)]
    assert spec.to(out.dtype).is_in(moved) if isinstance(spec, MultiOneHot) else spec.is_in(moved)


def test_masked_exploration_stays_allowed():
    mask = torch.tensor([True, False, True, False]).expand(300, 4)
    for spec in (OneHot(4), Categorical(4)):
        start = torch.tensor([1, 0, 0, 0]) if isinstance(spec, OneHot) else torch.tensor(0)
        td = actions(start, 300).set("mask", mask)
        out = EGreedyModule(spec, action_mask_key="mask")(td)["action"]
        index = out.argmax(-1) if isinstance(spec, OneHot) else out
        assert set(index.tolist()) == {0, 2}
    with pytest.raises(MissingKeyError, match="entry 'mask' is read but absent"):
        EGreedyModule(OneHot(4), action_mask_key="mask")(actions(torch.tensor([1, 0, 0, 0])))


def test_a_batch_of_environments_has_one_coin_each():
    spec = Bounded(-1, 1, (400, 2))
    out = EGreedyModule(spec, eps_init=0.5)(actions(torch.tensor([5.0, 5.0]), 400))["action"]
    changed = out != 5
    assert (changed[:, 0] == changed[:, 1]).all()
    assert 0.35 < changed.float().mean() < 0.65


def test_annealing_is_linear_in_frames_whatever_the_strides():
    one, many = (EGreedyModule(BOX, 1.0, 0.2, annealing_num_steps=100) for _ in range(2))
    for _ in range(40):
        one.step()
    many.step(30)
    many.step(10)
    assert float(one.eps) == pytest.approx(1 - 0.8 * 0.4, abs=1e-5)
    assert float(many.eps) == pytest.approx(float(one.eps), abs=1e-5)
    many.step(10**12)
    assert float(many.eps) == pytest.approx(0.2)
    fresh = EGreedyModule(BOX)
    fresh.load_state_dict(one.state_dict())
    assert fresh.eps == one.eps
    sigma = AdditiveGaussianModule(BOX, 1.0, 0.5, annealing_num_steps=10)
    sigma.step(5)
    assert float(sigma.sigma) == pytest.approx(0.75)


def test_annealing_goes_down():
    with pytest.raises(ValueError, match=r"eps_end <= eps_init, found \(1\.0, 0\.1\)"):
        EGreedyModule(BOX, eps_init=0.1, eps_end=1.0)


def test_gaussian_noise_has_its_moments():
    module = AdditiveGaussianModule(WIDE, sigma_init=0.5, mean=2.0, std=3.0)
    out = module(actions(torch.tensor([1.0, 1.0]), 20_000))["action"]
    noise = ((out - 1) / 0.5 - 2) / 3
    assert scipy.stats.kstest(noise.flatten().numpy(), "norm").pvalue > 1e-3


@pytest.mark.parametrize("module", [AdditiveGaussianModule, OrnsteinUhlenbeckProcessModule])
def test_noise_is_projected_and_safe_projects_without_noise(module):
    td = actions(torch.tensor([0.9, 3.0]), 50).set("is_init", first(50))
    for safe in (True, False):
        noisy = module(BOX, safe=safe)
        assert BOX.is_in(noisy(td.clone())["action"])
        with set_exploration_type("mode"):
            quiet = noisy(td.clone())["action"]
        expected = torch.tensor([0.9, 1.0 if safe else 3.0]).expand(50, 2)
        torch.testing.assert_close(quiet, expected)


def ou(**kwargs):
    return OrnsteinUhlenbeckProcessModule(WIDE, **{"theta": 0.5, "sigma": 0.3, "dt": 0.1, **kwargs})


def test_ornstein_uhlenbeck_follows_its_recursion():
    module = ou(mu=0.2, x0=1.0, eps_init=0.7)
    td = actions(torch.zeros(2), 3).set("is_init", first(3))
    torch.manual_seed(1)
    draws = [torch.randn(3, 2) for _ in range(4)]
    torch.manual_seed(1)
    noise = torch.ones(3, 2)
    for t, draw in enumerate(draws):
        noise = noise + 0.5 * (0.2 - noise) * 0.1 + 0.3 * 0.1**0.5 * draw
        out = module(td.set("action", torch.zeros(3, 2)))
        torch.testing.assert_close(out["action"], 0.7 * noise)
        torch.testing.assert_close(out["_ou_prev_noise"], noise)
        assert (out["_ou_steps"] == t + 1).all()
        td.set("is_init", ~first(3))


def test_ornstein_uhlenbeck_starts_anew_only_where_an_episode_starts():
    module = ou(sigma=0.0, x0=1.0)
    td = actions(torch.zeros(2), 2).set("is_init", first(2))
    module(td)
    td.set("is_init", torch.tensor([[False], [True]]))
    module(td)
    decay = 1 - 0.5 * 0.1
    torch.testing.assert_close(td["_ou_prev_noise"][:, 0], torch.tensor([decay**2, decay]))
    assert td["_ou_steps"].flatten().tolist() == [2, 1]


def test_ornstein_uhlenbeck_has_its_stationary_distribution():
    module = ou(theta=1.0, sigma=0.5)
    td = actions(torch.zeros(2), 2000).set("is_init", first(2000))
    for _ in range(100):
        module(td.set("action", torch.zeros(2000, 2)))
        td.set("is_init", ~first(2000))
    spread = (0.5**2 * 0.1 / (1 - 0.9**2)) ** 0.5  # of the discrete recursion
    assert float(td["_ou_prev_noise"].std()) == pytest.approx(spread, rel=0.05)


def test_ornstein_uhlenbeck_sigma_falls_within_an_episode():
    module = ou(sigma=0.3, sigma_min=0.1, n_steps_annealing=10)
    steps = torch.tensor([[0], [5], [10], [99]])
    torch.testing.assert_close(module._sigma(steps).flatten(), torch.tensor([0.3, 0.2, 0.1, 0.1]))


def test_ornstein_uhlenbeck_says_once_that_it_never_restarts():
    module = ou()
    with pytest.warns(UserWarning, match=r"'is_init' is absent.*Add InitTracker\(\)"):
        module(actions(torch.zeros(2), 3))
    module(actions(torch.zeros(2), 3))  # a second warning would be an error here


def test_ornstein_uhlenbeck_for_groups_of_agents():
    module = OrnsteinUhlenbeckProcessModule(WIDE, action_key=("agents", "action"))
    td = TensorDict(agents=TensorDict(action=torch.zeros(5, 3, 2), batch_size=[5, 3]), is_init=first(5), batch_size=[5])
    assert module(td)["agents", "action"].shape == (5, 3, 2)
    assert td["_ou_prev_noise"].shape == (5, 3, 2)


@pytest.mark.parametrize("kind", [AdditiveGaussianModule, OrnsteinUhlenbeckProcessModule])
@pytest.mark.parametrize("exploration", [ExplorationType.RANDOM, ExplorationType.DETERMINISTIC])
def test_noise_without_bounds(kind, exploration):
    module = kind(spec=Composite(action=None))
    assert module.spec is None
    with set_exploration_type(exploration):
        action = module(actions(torch.full((2,), 50.0), 3).set("is_init", first(3)))["action"]
    assert (action > 40).all()
    module.spec = BOX
    assert BOX.is_in(module(actions(torch.full((2,), 50.0), 3).set("is_init", first(3)))["action"])
    with pytest.raises(MissingKeyError):
        kind(spec=Composite(other=None))


def test_spec_may_be_a_composite_or_come_later():
    assert EGreedyModule(Composite(action=BOX)).spec["action"] == BOX
    module = EGreedyModule(None)
    for kind in (SpecError, RuntimeError):
        with pytest.raises(kind, match="has no spec to explore within"):
            module(actions(torch.zeros(2), 3))
    module.spec = BOX
    assert BOX.is_in(module(actions(torch.zeros(2), 3))["action"])
    for noise in (AdditiveGaussianModule, OrnsteinUhlenbeckProcessModule):
        with pytest.raises(MissingSpecError, match="has no spec to explore within"):
            noise(spec=None)

    class Env:
        full_action_spec = Composite(action=BOX)

    policy = TensorDictSequential(Actor(nn.Linear(3, 2)), EGreedyModule(None))
    set_exploration_modules_spec_from_env(policy, Env())
    assert policy[1].spec["action"] == BOX


@pytest.mark.parametrize("make", [AdditiveGaussianModule, OrnsteinUhlenbeckProcessModule])
@pytest.mark.parametrize(
    "spec", [Binary(3, dtype=torch.int8), Binary(3, dtype=torch.bool), Bounded(-2, 3, (3,), dtype=torch.int64)]
)
def test_noise_on_actions_of_whole_numbers(make, spec):
    """It is rounded; actions stay within their spec and explore all of it."""
    torch.manual_seed(0)
    factor = {"sigma_init": 3.0} if make is AdditiveGaussianModule else {"eps_init": 100.0}
    td = TensorDict(action=torch.zeros(300, 3, dtype=spec.dtype), is_init=first(300), batch_size=[300])
    action = make(spec=spec, **factor)(td)["action"]
    assert action.dtype == spec.dtype
    assert spec.is_in(action)
    low, high = (-2, 3) if isinstance(spec, Bounded) and not isinstance(spec, Binary) else (0, 1)
    assert set(action.flatten().tolist()) == set(range(low, high + 1))


def test_what_does_not_fit_is_named():
    with pytest.raises(ShapeError, match=r"'action' has a shape that its spec does not.*found \[3\]"):
        EGreedyModule(BOX)(actions(torch.zeros(3)))
    with pytest.raises(MissingKeyError, match=r"'action' is read but absent.*'actions'\?"):
        EGreedyModule(BOX)(TensorDict(actions=torch.zeros(2)))


def test_wrappers_take_the_policy_s_spec_and_hand_on_step():
    policy = Actor(nn.Linear(3, 2), spec=BOX)
    td = TensorDict(observation=torch.randn(200, 3), is_init=first(200), batch_size=[200])
    plain = policy(td.clone())["action"]
    for wrapper in (EGreedyWrapper, AdditiveGaussianWrapper, OrnsteinUhlenbeckProcessWrapper):
        explorer = wrapper(policy, annealing_num_steps=10)
        assert explorer.policy is policy
        assert not explorer(td.clone())["action"].equal(plain)
        with set_exploration_type("mode"):
            safe = plain if wrapper is EGreedyWrapper else plain.clamp(-1, 1)
            torch.testing.assert_close(explorer(td.clone())["action"], safe)
        value = explorer.sigma if wrapper is AdditiveGaussianWrapper else explorer.eps
        explorer.step(10)
        assert float(value) == pytest.approx(0.1)


TABLE = Path(__file__).parents[2] / "docs" / "exploration.md"
KINDS = {"not set": None, **{k: k for k in ("random", "mode", "mean", "median", "deterministic")}}


def rows():
    """The table of the docs: component, and for each exploration type what it does."""
    text = TABLE.read_text().partition("## What a call site")[0]
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    for line in lines:
        component, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        names = re.findall(r"`([^`]+)`", component)
        yield from ((name, dict(zip(KINDS, cells, strict=True))) for name in names)


def gaussian(**kwargs):
    net = nn.Sequential(nn.Linear(3, 4), NormalParamExtractor())
    return ProbabilisticActor(
        TensorDictModule(net, ["observation"], ["loc", "scale"]),
        ["loc", "scale"],
        distribution_class=TanhNormal,
        **kwargs,
    )


def after(module):
    return TensorDictSequential(Actor(nn.Linear(3, 2)), module)


COMPONENTS = {
    "ProbabilisticActor": lambda: gaussian(),
    'ProbabilisticActor(default_interaction_type="random")': lambda: gaussian(default_interaction_type="random"),
    "Actor": lambda: Actor(nn.Linear(3, 2)),
    "QValueActor": lambda: QValueActor(nn.Linear(3, 2), spec=OneHot(2)),
    "EGreedyModule": lambda: after(EGreedyModule(BOX)),
    "AdditiveGaussianModule": lambda: after(AdditiveGaussianModule(BOX)),
    "OrnsteinUhlenbeckProcessModule": lambda: after(OrnsteinUhlenbeckProcessModule(BOX)),
    "NoisyLinear": lambda: Actor(NoisyLinear(3, 2)),
    "gSDEModule": lambda: TensorDictSequential(
        TensorDictModule(nn.Linear(3, 2), ["observation"], ["mu"]),
        TensorDictModule(gSDEModule(2, 3), ["mu", "observation"], ["loc", "scale", "action", "_eps_gSDE"]),
    ),
}


@pytest.mark.parametrize(("name", "cells"), list(rows()), ids=lambda x: x if isinstance(x, str) else "")
def test_the_table_of_the_docs(name, cells):
    policy = COMPONENTS[name]()
    td = TensorDict(observation=torch.randn(64, 3), is_init=first(64), batch_size=[64])
    for kind, cell in cells.items():
        with set_exploration_type(KINDS[kind]):
            policy.apply(lambda m: m.reset_noise() if hasattr(m, "reset_noise") else None)
            one = policy(td.clone())["action"]
            policy.apply(lambda m: m.reset_noise() if hasattr(m, "reset_noise") else None)
            same = one.equal(policy(td.clone())["action"])
        assert same is not (cell in ("sample", "noise")), (name, kind, cell)


def test_the_table_names_every_component():
    assert {name for name, _ in rows()} == set(COMPONENTS)
