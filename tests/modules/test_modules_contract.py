"""What every module of tensordicts must do."""

import pytest
import torch
from tensordict.nn import TensorDictModule, TensorDictModuleBase, TensorDictSequential
from torch import nn

from torchrl import modules
from torchrl.data import Binary, Bounded, Categorical, Composite, MultiCategorical, MultiOneHot, OneHot, Unbounded
from torchrl.modules import (
    MLP,
    Actor,
    ActorCriticOperator,
    ActorCriticWrapper,
    ActorValueOperator,
    AdditiveGaussianModule,
    AdditiveGaussianWrapper,
    ConvNet,
    Delta,
    DistributionalQValueActor,
    EGreedyModule,
    EGreedyWrapper,
    FactorizedCategorical,
    FactorizedOneHotCategorical,
    IndependentBernoulli,
    IndependentNormal,
    MaskedCategorical,
    MaskedOneHotCategorical,
    NoisyLinear,
    NormalParamExtractor,
    OneHotCategorical,
    OrnsteinUhlenbeckProcessModule,
    OrnsteinUhlenbeckProcessWrapper,
    ProbabilisticActor,
    QuantileQValueActor,
    QValueActor,
    QValueModule,
    SafeModule,
    SafeProbabilisticModule,
    SafeProbabilisticTensorDictSequential,
    SafeSequential,
    TanhDelta,
    TanhNormal,
    TruncatedNormal,
    ValueOperator,
    make_actor,
)
from torchrl.testing import module as contract
from torchrl.testing.module import ModuleCase

OBS = {"observation": (3,)}
BOX = Bounded(-2, 2, (2,))


def mask(batch):
    return torch.tensor([True, False, True, True]).expand(*batch, 4)


def first_step(batch):
    return torch.ones(*batch, 1, dtype=torch.bool)


def one_hot_action(batch):
    return torch.nn.functional.one_hot(torch.randint(4, batch), 4)


def normal_params(size=2):
    net = nn.Sequential(MLP(3, 2 * size, num_cells=[8]), NormalParamExtractor())
    return TensorDictModule(net, ["observation"], ["loc", "scale"])


def gaussian(distribution, **kwargs):
    return ProbabilisticActor(normal_params(), ["loc", "scale"], spec=BOX, distribution_class=distribution, **kwargs)


def choosing(distribution, in_keys=("logits",), **kwargs):
    net = TensorDictModule(MLP(3, 4, num_cells=[8]), ["observation"], ["logits"])
    return ProbabilisticActor(net, list(in_keys), distribution_class=distribution, **kwargs)


def trunk():
    return SafeModule(nn.Linear(3, 4), ["observation"], ["hidden"])


def stochastic_head():
    return SafeProbabilisticTensorDictSequential(
        SafeModule(nn.Sequential(nn.Linear(4, 4), NormalParamExtractor()), ["hidden"], ["loc", "scale"]),
        SafeProbabilisticModule(["loc", "scale"], "action", distribution_class=TanhNormal),
    )


def q_net():
    return MLP(3, 4, num_cells=[8])


def several(batch):
    return torch.tensor([True, False, True, True, True, False, True]).expand(*batch, 7)


def image(batch):
    return torch.randint(255, (*batch, 6, 6, 3), dtype=torch.uint8)


def number(batch):
    return torch.randint(5, batch)


class Specs:
    """What a builder of networks reads of an environment."""

    observation_spec = Composite(
        image=Unbounded((6, 6, 3), dtype=torch.uint8), number=Categorical(5), action_mask=Binary(7, dtype=torch.bool)
    )
    action_spec, action_key, device = MultiCategorical([3, 4]), "action", None


NORMAL = {"loc": (2,), "scale": (2,), "action": (2,)}
CHOICE = {"action_value": (4,), "action": (4,), "chosen_action_value": (1,)}

CASES = {
    "SafeModule": ModuleCase(lambda: SafeModule(nn.Linear(3, 2), ["observation"], ["a"]), OBS, {"a": (2,)}, ("a",)),
    "safe SafeModule": ModuleCase(
        lambda: SafeModule(nn.Linear(3, 2), ["observation"], ["a"], spec=BOX, safe=True), OBS, {"a": (2,)}, dtypes=()
    ),
    "SafeModule with two outputs": ModuleCase(
        lambda: SafeModule(
            nn.Sequential(nn.Linear(3, 4), NormalParamExtractor()), ["observation"], [("agents", "loc"), "_"]
        ),
        OBS,
        {("agents", "loc"): (2,)},
    ),
    "SafeSequential": ModuleCase(
        lambda: SafeSequential(trunk(), SafeModule(nn.Linear(4, 2), ["hidden"], ["a"])),
        OBS,
        {"hidden": (4,), "a": (2,)},
        ("a",),
    ),
    "Actor": ModuleCase(lambda: Actor(MLP(3, 2, depth=1)), OBS, {"action": (2,)}, ("action",)),
    "lazy Actor": ModuleCase(lambda: Actor(MLP(out_features=2)), OBS, {"action": (2,)}),
    "ValueOperator": ModuleCase(
        lambda: ValueOperator(MLP(5, 1, depth=1), ["observation", "action"]),
        {**OBS, "action": (2,)},
        {"state_action_value": (1,)},
        ("state_action_value",),
    ),
    "convolutional ValueOperator": ModuleCase(
        lambda: ValueOperator(nn.Sequential(ConvNet(3, num_cells=[4], kernel_sizes=3), nn.Linear(64, 1)), ["pixels"]),
        {"pixels": (3, 6, 6)},
        {"state_value": (1,)},
        ("state_value",),
    ),
    "TanhNormal actor": ModuleCase(
        lambda: gaussian(TanhNormal, return_log_prob=True),
        OBS,
        {**NORMAL, "action_log_prob": ()},
        ("action", "action_log_prob"),
    ),
    "TanhNormal actor at random": ModuleCase(
        lambda: gaussian(TanhNormal, default_interaction_type="random"), OBS, NORMAL, ("action",)
    ),
    "TanhNormal actor that caches": ModuleCase(
        lambda: gaussian(TanhNormal, cache_dist=True, return_log_prob=True), OBS, {**NORMAL, "action_log_prob": ()}
    ),
    "IndependentNormal actor": ModuleCase(
        lambda: gaussian(IndependentNormal, return_log_prob=True), OBS, {**NORMAL, "action_log_prob": ()}, ("action",)
    ),
    "torch Normal actor": ModuleCase(
        lambda: gaussian(torch.distributions.Normal, return_log_prob=True),
        OBS,
        {**NORMAL, "action_log_prob": (2,)},
        ("action",),
    ),
    "TruncatedNormal actor": ModuleCase(
        lambda: gaussian(TruncatedNormal, return_log_prob=True),
        OBS,
        {**NORMAL, "action_log_prob": ()},
        ("action",),
        dtypes=(torch.float64,),  # the normal distribution function has no bfloat16 kernel
    ),
    "OneHotCategorical actor": ModuleCase(
        lambda: choosing(OneHotCategorical, return_log_prob=True),
        OBS,
        {"logits": (4,), "action": (4,), "action_log_prob": ()},
        ("action_log_prob",),
    ),
    "torch Categorical actor": ModuleCase(
        lambda: choosing(torch.distributions.Categorical, return_log_prob=True),
        OBS,
        {"logits": (4,), "action": (), "action_log_prob": ()},
        ("action_log_prob",),
        dtypes=(torch.float64,),
    ),
    "MaskedOneHotCategorical actor": ModuleCase(
        lambda: choosing(MaskedOneHotCategorical, ("logits", "mask"), return_log_prob=True),
        {**OBS, "mask": mask},
        {"logits": (4,), "action": (4,), "action_log_prob": ()},
        ("action_log_prob",),
    ),
    "FactorizedCategorical actor": ModuleCase(
        lambda: choosing(FactorizedCategorical, distribution_kwargs={"nvec": (3, 1)}, return_log_prob=True),
        OBS,
        {"logits": (4,), "action": (2,), "action_log_prob": ()},
        ("action_log_prob",),
        dtypes=(torch.float64, torch.bfloat16),
    ),
    "masked FactorizedOneHotCategorical actor": ModuleCase(
        lambda: choosing(
            FactorizedOneHotCategorical, ("logits", "mask"), distribution_kwargs={"nvec": (1, 3)}, return_log_prob=True
        ),
        {**OBS, "mask": mask},
        {"logits": (4,), "action": (4,), "action_log_prob": ()},
        ("action_log_prob",),
    ),
    "IndependentBernoulli actor": ModuleCase(
        lambda: choosing(IndependentBernoulli, return_log_prob=True),
        OBS,
        {"logits": (4,), "action": (4,), "action_log_prob": ()},
        ("action_log_prob",),
    ),
    "actor from specs": ModuleCase(
        lambda: make_actor(Specs(), num_cells=(8,)),
        {"action_mask": several, "image": image, "number": number},
        {"logits": (7,), "action": (2,), "action_log_prob": ()},
        ("action_log_prob",),
        dtypes=(),
    ),
    "MaskedCategorical actor": ModuleCase(
        lambda: choosing(MaskedCategorical, ("logits", "mask"), return_log_prob=True),
        {**OBS, "mask": mask},
        {"logits": (4,), "action": (), "action_log_prob": ()},
        ("action_log_prob",),
        dtypes=(torch.float64,),
    ),
    "Delta actor": ModuleCase(
        lambda: ProbabilisticActor(
            TensorDictModule(MLP(3, 2), ["observation"], ["param"]), ["param"], distribution_class=Delta
        ),
        OBS,
        {"param": (2,), "action": (2,)},
        ("action",),
    ),
    "TanhDelta actor": ModuleCase(
        lambda: ProbabilisticActor(
            TensorDictModule(MLP(3, 2), ["observation"], ["param"]),
            {"param": "param"},
            spec=BOX,
            safe=True,
            distribution_class=TanhDelta,
        ),
        OBS,
        {"param": (2,), "action": (2,)},
        dtypes=(),
    ),
    "QValueModule": ModuleCase(
        lambda: TensorDictSequential(
            TensorDictModule(q_net(), ["observation"], ["action_value"]), QValueModule(spec=OneHot(4))
        ),
        OBS,
        CHOICE,
        dtypes=(torch.float64, torch.bfloat16),
    ),
    "masked QValueActor": ModuleCase(
        lambda: QValueActor(q_net(), spec=OneHot(4), action_mask_key="mask"), {**OBS, "mask": mask}, CHOICE
    ),
    "categorical QValueActor": ModuleCase(
        lambda: QValueActor(q_net(), spec=Categorical(4)), OBS, {**CHOICE, "action": ()}
    ),
    "product QValueActor": ModuleCase(lambda: QValueActor(q_net(), spec=MultiOneHot([1, 3])), OBS, CHOICE),
    "QuantileQValueActor": ModuleCase(
        lambda: QuantileQValueActor(MLP(3, (5, 4), depth=1), spec=OneHot(4)),
        OBS,
        {**CHOICE, "action_value": (5, 4)},
        ("action_value",),
    ),
    "DistributionalQValueActor": ModuleCase(
        lambda: DistributionalQValueActor(MLP(3, (5, 4), depth=1), torch.linspace(0, 1, 5), spec=OneHot(4)),
        OBS,
        {"action_value": (5, 4), "action": (4,)},
        ("action_value",),
    ),
    "noisy QValueActor": ModuleCase(
        lambda: QValueActor(MLP(3, 4, depth=1, layer_class=NoisyLinear), spec=OneHot(4)), OBS, CHOICE, ("action_value",)
    ),
    "ActorValueOperator": ModuleCase(
        lambda: ActorValueOperator(trunk(), stochastic_head(), nn.Linear(4, 1)),
        OBS,
        {"hidden": (4,), "action": (2,), "state_value": (1,)},
    ),
    "its policy": ModuleCase(
        lambda: ActorValueOperator(trunk(), stochastic_head(), nn.Linear(4, 1)).get_policy_operator(),
        OBS,
        {"hidden": (4,), "action": (2,)},
        ("action",),
    ),
    "ActorCriticOperator": ModuleCase(
        lambda: ActorCriticOperator(trunk(), stochastic_head(), MLP(6, 1)),
        OBS,
        {"hidden": (4,), "action": (2,), "state_action_value": (1,)},
        ("state_action_value",),
    ),
    "ActorCriticWrapper": ModuleCase(
        lambda: ActorCriticWrapper(gaussian(TanhNormal), ValueOperator(nn.Linear(3, 1))),
        OBS,
        {"action": (2,), "state_value": (1,)},
    ),
    "EGreedyModule": ModuleCase(
        lambda: TensorDictSequential(QValueActor(q_net(), spec=OneHot(4)), EGreedyModule(OneHot(4), eps_init=0.5)),
        OBS,
        CHOICE,
    ),
    "masked EGreedyModule": ModuleCase(
        lambda: EGreedyModule(OneHot(4), eps_init=0.5, action_mask_key="mask"),
        {"action": one_hot_action, "mask": mask},
        {"action": (4,)},
    ),
    "AdditiveGaussianModule": ModuleCase(
        lambda: AdditiveGaussianModule(BOX, safe=True), {"action": (2,)}, {"action": (2,)}, dtypes=()
    ),
    "OrnsteinUhlenbeckProcessModule": ModuleCase(
        lambda: OrnsteinUhlenbeckProcessModule(BOX),
        {"action": (2,), "is_init": first_step},
        {"action": (2,)},
        dtypes=(),
    ),
    "EGreedyWrapper": ModuleCase(lambda: EGreedyWrapper(QValueActor(q_net(), spec=OneHot(4))), OBS, CHOICE),
    "AdditiveGaussianWrapper": ModuleCase(
        lambda: AdditiveGaussianWrapper(Actor(MLP(3, 2), spec=BOX)), OBS, {"action": (2,)}, dtypes=()
    ),
    "OrnsteinUhlenbeckProcessWrapper": ModuleCase(
        lambda: OrnsteinUhlenbeckProcessWrapper(Actor(MLP(3, 2), spec=BOX)),
        {**OBS, "is_init": first_step},
        {"action": (2,)},
        dtypes=(),
    ),
}


# What has its contract in another file, or reads more than one module can be handed here.
ELSEWHERE = {
    "EXP3Score": "test_mcts.py",
    "MCTSScore": "test_mcts.py",
    "PUCTScore": "test_mcts.py",
    "UCB1TunedScore": "test_mcts.py",
    "UCBScore": "test_mcts.py",
    "ConsistentDropoutModule": "test_dropout_gsde.py",
    "CEMPlanner": "test_planners.py",
    "DecisionTransformerInferenceWrapper": "test_decision_transformer.py",
    "DecisionTransformerPolicy": "test_decision_transformer_policy.py",
    "DistributionalDQNnet": "test_models_rl.py",
    "EnsembleModule": "test_small_modules.py",
    "GRUModule": "test_rnn.py",
    "LSTMModule": "test_rnn.py",
    "MPCPlannerBase": "test_planners.py",
    "MPPIPlanner": "test_planners.py",
    "MultiStepActorWrapper": "test_planners.py",
    "RSSMRollout": "test_model_based.py",
    "TanhModule": "test_small_modules.py",
    "ExplorationModule": "test_exploration.py",
    "VmapModule": "test_small_modules.py",
    "WorldModelWrapper": "test_small_modules.py",
}


def test_every_public_module_is_listed():
    public = {
        name
        for name in modules.__all__
        if isinstance(cls := getattr(modules, name), type) and issubclass(cls, TensorDictModuleBase)
    }
    made = {type(part).__name__ for case in CASES.values() for part in case.make().modules()}
    assert public - made == set(ELSEWHERE)


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def case(request):
    return request.param


def test_keys_and_shapes(case):
    contract.check_keys_and_shapes(case)


def test_compiles_without_graph_breaks(case):
    contract.check_compiles(case)


def test_state_dict(case):
    contract.check_state_dict(case)


def test_dtypes(case):
    contract.check_dtypes(case)


def test_gradients(case):
    contract.check_gradients(case)


def test_plan_equals_call(case):
    contract.check_compiled_equals_call(case)


@pytest.mark.parametrize("name", ["SafeModule", "Actor", "ValueOperator", "TanhNormal actor", "masked QValueActor"])
def test_every_in_key_is_needed_and_named_when_missing(name):
    contract.check_every_in_key_is_needed(CASES[name])
