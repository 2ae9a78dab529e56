"""From action values to actions."""

import pytest
import torch
from tensordict import TensorDict
from torch import nn

from torchrl._core.errors import MissingKeyError, ShapeError, SpecError
from torchrl.data import Bounded, Categorical, Composite, MultiCategorical, MultiOneHot, OneHot
from torchrl.modules import (
    MLP,
    DistributionalQValueActor,
    DistributionalQValueHook,
    DistributionalQValueModule,
    QValueActor,
    QValueHook,
    QValueModule,
)
from torchrl.modules.tensordict_module.action_space import ActionSpace

VALUES = torch.tensor([[1.0, 5.0, 5.0, 2.0, -1.0], [0.0, 0.0, 0.0, 0.0, 3.0]])


def choose(module, values=VALUES, **entries):
    td = TensorDict(action_value=values, **entries, batch_size=values.shape[:1])
    return module(td)


def test_ties_choose_one_action():
    td = choose(QValueModule("one_hot"), torch.zeros(4, 6))
    assert (td["action"].sum(-1) == 1).all()


@pytest.mark.parametrize(
    ("spec", "expected", "value"),
    [
        (OneHot(5), [[0, 1, 0, 0, 0], [0, 0, 0, 0, 1]], [5, 3]),
        (OneHot(5, dtype=torch.int64), [[0, 1, 0, 0, 0], [0, 0, 0, 0, 1]], [5, 3]),
        (Categorical(5), [1, 4], [5, 3]),
        (MultiOneHot([2, 3]), [[0, 1, 1, 0, 0], [1, 0, 0, 0, 1]], [10, 3]),
        (MultiCategorical([2, 3]), [[1, 0], [0, 2]], [10, 3]),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, (OneHot, Categorical)) else None,
)
def test_every_space_by_spec(spec, expected, value):
    td = choose(QValueModule(spec=spec))
    assert td["action"].long().tolist() == expected
    assert td["action"].dtype is spec.dtype
    assert td["chosen_action_value"].tolist() == [[v] for v in value]
    assert spec.is_in(td["action"])
    chosen = QValueModule(spec=spec).action_space.value_of(VALUES, td["action"])
    torch.testing.assert_close(chosen, td["chosen_action_value"])


def test_a_spec_may_come_as_the_action_space_or_in_a_composite():
    for module in (QValueModule(OneHot(5)), QValueModule(spec=Composite(action=OneHot(5)))):
        assert module.action_space.name == "one_hot"
        assert module.spec["action"] == OneHot(5)
    for name in ("mult_one_hot", "mult-one-hot"):
        assert QValueModule(name, var_nums=[2, 3]).action_space.sizes == [2, 3]


def test_what_is_no_choice_is_refused():
    with pytest.raises(SpecError, match=r"a choice among finitely many.*found BoundedContinuous"):
        QValueModule(spec=Bounded(-1, 1, (2,)))
    with pytest.raises(ValueError, match="QValueModule: needs an action space"):
        QValueModule()
    with pytest.raises(ValueError, match="'binary' is unknown"):
        QValueModule("binary")
    with pytest.raises(ValueError, match="Give var_nums"):
        QValueModule("mult_one_hot")
    with pytest.raises(ShapeError, match="one value for each choice; expected 4, found 5"):
        choose(QValueModule("mult_one_hot", var_nums=[2, 2]))


@pytest.mark.parametrize("space", [OneHot(5), Categorical(5), MultiOneHot([2, 3])], ids=repr)
def test_forbidden_actions_are_never_chosen(space):
    mask = torch.tensor([[True, False, False, True, True], [True, True, True, True, False]])
    module = QValueModule(spec=space, action_mask_key="mask")
    td = choose(module, mask=mask)
    assert module.in_keys == ["action_value", "mask"]
    index = module.action_space.index(td["action"])
    offset = torch.tensor([0, 2])[: index.shape[-1]]
    assert mask.gather(-1, index + offset).all()
    assert td["action_value"].equal(VALUES)
    assert td["chosen_action_value"].isfinite().all()


def test_other_names():
    module = QValueModule("one_hot", action_value_key=("agents", "q"), out_keys=["a", "values", ("agents", "v")])
    td = module(TensorDict(agents=TensorDict(q=VALUES, batch_size=[2]), batch_size=[2]))
    assert td["values"].equal(VALUES)
    assert td["agents", "v"].shape == (2, 1)
    assert td["a"].shape == (2, 5)


def test_missing_entries_are_named():
    with pytest.raises(MissingKeyError, match=r"QValueModule: entry 'action_value'.*'action_values'"):
        QValueModule("one_hot")(TensorDict(action_values=VALUES[0]))
    with pytest.raises(MissingKeyError, match=r"entry 'mask' is read but absent.*Add an ActionMask"):
        choose(QValueModule("one_hot", action_mask_key="mask"))


def test_actor_takes_a_network_or_a_module():
    spec = OneHot(5)
    td = QValueActor(nn.Linear(3, 5), in_keys=["pixels"], spec=spec)(TensorDict(pixels=torch.zeros(3)))
    assert set(td.keys()) == {"pixels", "action_value", "action", "chosen_action_value"}
    named = QValueActor(
        nn.Linear(3, 5), spec=Composite(a=spec), action_key="a", chosen_action_value_key="v", action_value_key="q"
    )
    assert set(named(TensorDict(observation=torch.zeros(3))).keys()) == {"observation", "q", "a", "v"}
    assert QValueActor(nn.Linear(3, 5), spec=spec).spec["action"] == spec


def test_a_network_that_does_not_fit_is_named():
    actor = QValueActor(nn.Linear(3, 5), spec=OneHot(5))
    with pytest.raises(MissingKeyError, match=r"SafeModule\(Linear\): entry 'observation'"):
        actor(TensorDict(pixels=torch.zeros(3)))
    with pytest.raises(ShapeError, match="wrong last dimension; expected 3, found 4"):
        actor(TensorDict(observation=torch.zeros(4)))


@pytest.mark.parametrize("spec", [OneHot(4), Categorical(4), MultiOneHot([2, 2])], ids=str)
def test_one_value_for_each_choice(spec):
    values = TensorDict(action_value=torch.zeros(3, 5), batch_size=[3])
    with pytest.raises(ShapeError, match="one value for each choice; expected 4, found 5"):
        QValueModule(spec=spec)(values.copy())
    if not isinstance(spec, MultiOneHot):
        loose = QValueActor(nn.Linear(3, 5), spec=spec, strict_shape=False)
        assert loose(TensorDict(observation=torch.zeros(3)))["action_value"].shape == (5,)


SUPPORT = torch.tensor([-1.0, 0.0, 2.0])


def test_distributional_choice_maximises_the_expectation():
    logits = torch.randn(7, 3, 5)
    log_probs = logits.log_softmax(-2)
    td = choose(DistributionalQValueModule("categorical", SUPPORT), log_probs)
    expected = (log_probs.exp() * SUPPORT[:, None]).sum(-2).argmax(-1)
    assert td["action"].equal(expected)
    assert td["action_value"].equal(log_probs)
    assert td["action_value"].shape == (7, 3, 5)


def test_distributional_chosen_atoms_and_mask():
    log_probs = torch.randn(7, 3, 5).log_softmax(-2)
    mask = torch.tensor([True, False, True, False, False]).expand(7, 5)
    module = DistributionalQValueModule(
        "one_hot", SUPPORT, action_mask_key="mask", out_keys=["action", "action_value", "chosen"]
    )
    td = choose(module, log_probs, mask=mask)
    index = td["action"].argmax(-1)
    assert mask[0][index].all()
    torch.testing.assert_close(td["chosen"], log_probs[torch.arange(7), :, index])


def test_distributional_atoms_must_be_the_support_s():
    with pytest.raises(ShapeError, match=r"one row for each atom; expected \[2, 3, 5\], found \[2, 4, 5\]"):
        choose(DistributionalQValueModule("one_hot", SUPPORT), torch.zeros(2, 4, 5))


def test_distributional_actor_normalises():
    raw = MLP(3, (3, 5), depth=1)
    actor = DistributionalQValueActor(raw, SUPPORT, spec=OneHot(5))
    td = actor(TensorDict(observation=torch.randn(4, 3), batch_size=[4]))
    torch.testing.assert_close(td["action_value"].exp().sum(-2), torch.ones(4, 5))
    assert actor.support.equal(SUPPORT)
    unnormalised = DistributionalQValueActor(raw, SUPPORT, spec=OneHot(5), make_log_softmax=False)
    td = unnormalised(td.select("observation"))
    torch.testing.assert_close(td["action_value"], raw(td["observation"]))
    assert "support" in "".join(actor.state_dict())


def test_hooks_equal_modules():
    net = nn.Linear(3, 5)
    x = torch.randn(4, 3)
    values = net(x)
    handle = net.register_forward_hook(QValueHook("one_hot"))
    action, same, chosen = net(x)
    td = choose(QValueModule("one_hot"), values)
    assert action.equal(td["action"])
    assert same.equal(values)
    assert chosen.equal(td["chosen_action_value"])
    handle.remove()

    deep = MLP(3, (3, 5))
    log_probs = deep(x)
    deep.register_forward_hook(DistributionalQValueHook("categorical", SUPPORT))
    action, same = deep(x)
    expected = choose(DistributionalQValueModule("categorical", SUPPORT), log_probs)["action"]
    assert action.equal(expected)
    with pytest.raises(ValueError, match="does not support masks"):
        QValueHook("one_hot", action_mask_key="mask")


@pytest.mark.parametrize("spec", [OneHot(4), Categorical(4), MultiOneHot([2, 2])], ids=repr)
def test_random_choices_are_uniform_over_what_is_allowed(spec):
    mask = torch.tensor([True, True, False, True]).expand(4000, 4)
    space = ActionSpace.of(spec)
    index = space.index(space.random(mask))
    counts = torch.bincount(index[:, 0], minlength=4)
    allowed = mask[0] if not space.is_product else mask[0, :2]
    expected = 4000 / allowed.sum()
    assert (counts[: len(allowed)][allowed] > expected * 0.85).all()
    assert (counts[: len(allowed)][~allowed] == 0).all()


@pytest.mark.parametrize("name", ["one_hot", "mult_one_hot", "categorical", "mult_categorical"])
def test_choices_vectorise(name):
    space = ActionSpace(name, [2, 3])
    values = torch.randn(4, 5)
    torch.testing.assert_close(torch.vmap(space.greedy)(values), space.greedy(values))
    mask = torch.tensor([True, False, False, True, False])
    draw = torch.vmap(lambda v: space.random(mask & (v == v)), randomness="different")
    found = space.index(draw(values))
    expected = [[0, 1]] * 4 if space.is_product else None
    assert found.tolist() == expected or bool(mask[found].all())


@pytest.mark.parametrize("name", ["multi_one_hot", "multi-one-hot", "mult-one-hot", "mult_one_hot"])
def test_spellings_of_products(name):
    action, _, value = QValueModule(name, var_nums=[2, 3])(torch.tensor([1.0, 0.0, 0.0, 3.0, 1.0]))
    assert (action.tolist(), value.item()) == ([1, 0, 0, 1, 0], 4)
    index = name.replace("one", "categorical").replace("_hot", "").replace("-hot", "")
    assert QValueModule(index, var_nums=[2, 3])(torch.tensor([1.0, 0.0, 0.0, 3.0, 1.0]))[0].tolist() == [0, 1]


SPACES = {
    "one_hot": OneHot(4),
    "categorical": Categorical(4),
    "mult_one_hot": MultiOneHot([2, 2]),
    "mult_categorical": MultiCategorical([2, 2]),
}


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("of", SPACES)
@pytest.mark.parametrize("nested", [False, True])
def test_a_name_and_a_spec_must_agree(name, of, nested):
    spec = Composite(action=SPACES[of]) if nested else SPACES[of]
    makers = (
        lambda: QValueModule(name, var_nums=[2, 2], spec=spec),
        lambda: QValueActor(nn.Linear(3, 4), action_space=name, var_nums=[2, 2], spec=spec),
        lambda: DistributionalQValueModule(name, torch.ones(2), var_nums=[2, 2], spec=spec),
    )
    for make in makers:
        if name == of:
            make()
            continue
        with pytest.raises(ValueError, match=f"another action space than its spec; expected {of}, found {name}"):
            make()
