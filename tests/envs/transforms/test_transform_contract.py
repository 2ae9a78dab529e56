"""Every transform passes every contract check of torchrl.testing.transform."""

import inspect

import pytest
import torch
from tensordict.nn import TensorDictModule
from torch import nn

import torchrl.envs
from torchrl._core.errors import ShapeError
from torchrl.data import Composite, Unbounded
from torchrl.envs import (
    ActionDiscretizer,
    ActionMask,
    ActionScaling,
    AtariPreprocessing,
    AutoResetTransform,
    BatchSizeTransform,
    BinarizeReward,
    BurnInTransform,
    CatFrames,
    CatTensors,
    CenterCrop,
    ClipTransform,
    Compose,
    ConditionalPolicySwitch,
    ConditionalSkip,
    Crop,
    DeviceCastTransform,
    DiscreteActionProjection,
    DoubleToFloat,
    DTypeCastTransform,
    EndOfLifeTransform,
    EpisodicLife,
    ExcludeTransform,
    ExpandAs,
    FiniteTensorDictCheck,
    FireReset,
    FlattenAction,
    FlattenObservation,
    FlattenTensorDict,
    FrameSkipTransform,
    GrayScale,
    Hash,
    InitTracker,
    LastRewardPrimer,
    LineariseRewards,
    ModuleTransform,
    MujocoPreprocessing,
    MultiAction,
    MultiStepTransform,
    NextObservationDelta,
    NextStateReconstructor,
    NoopResetEnv,
    ObservationNorm,
    ObservationTransform,
    PermuteTransform,
    PinMemoryTransform,
    PolicyAgeFilter,
    PopArt,
    RandomCrop,
    RandomCropTensorDict,
    RandomTruncationTransform,
    RemoveEmptySpecs,
    RenameTransform,
    Resize,
    ReturnNorm,
    Reward2GoTransform,
    RewardClipping,
    RewardScaling,
    RewardSum,
    RNDTransform,
    SelectTransform,
    SerialEnv,
    SignTransform,
    SqueezeTransform,
    Stack,
    StepCounter,
    SuccessReward,
    TargetReturn,
    TensorDictPrimer,
    TerminateTransform,
    TimeMaxPool,
    Timer,
    Tokenizer,
    ToTensorImage,
    TrajCounter,
    Transform,
    TransformedEnv,
    UnaryTransform,
    UnsqueezeTransform,
    VecGymEnvTransform,
    VecNorm,
    VecNormV2,
    gSDENoise,
)
from torchrl.testing import transform as checks
from torchrl.testing.env import (
    assert_same,
    check_fake_step_is_like_a_real_one,
    check_flat_records_change_nothing,
    check_keeps_to_its_specs,
    check_next_is_the_root_of_the_next_step,
    check_partial_reset_touches_nothing_else,
)
from torchrl.testing.transform import CHECKS, World

OBS, DOUBLE, NESTED = ["observation"], ["double"], [("agents", "state")]


def embedding():
    torch.manual_seed(0)
    return TensorDictModule(nn.Linear(3, 2), ["observation"], ["embedding"])


def networks():
    torch.manual_seed(0)
    return nn.Linear(3, 4), nn.Linear(3, 4)


def push(td):
    return td.set("action", torch.full((*td.batch_size, 2), 0.5))


def images(*parts):
    return lambda: Compose(ToTensorImage(), *(part() for part in parts))


TRANSFORMS = {
    "compose": lambda: Compose(StepCounter(), RewardSum()),
    "step counter": lambda: StepCounter(3),
    "init tracker": InitTracker,
    "observation norm": lambda: ObservationNorm(1.0, 2.0, OBS),
    "observation norm, nested": lambda: ObservationNorm(1.0, 2.0, NESTED, standard_normal=True),
    "primer": lambda: TensorDictPrimer(hidden=Unbounded((2,)), default_value=3.0, expand_specs=True),
    "primer, early": lambda: TensorDictPrimer(
        hidden=Unbounded((2,)), random=True, expand_specs=True, call_before_env_reset=True
    ),
    "primer, last reward": lambda: LastRewardPrimer(
        Composite(hidden=Unbounded((2,)), last_reward=Unbounded((1,))), "last_reward", expand_specs=True
    ),
    "primer, noise": lambda: gSDENoise(state_dim=3, action_dim=2),
    "dtype cast": lambda: DTypeCastTransform(torch.uint8, torch.float32, ["pixels"]),
    "double to float": DoubleToFloat,
    "to tensor image": ToTensorImage,
    "to tensor image, unsqueezed": lambda: ToTensorImage(unsqueeze=True, dtype=torch.float64),
    "gray": images(GrayScale),
    "gray, bytes": lambda: Compose(PermuteTransform((-1, -3, -2), ["pixels"]), GrayScale()),
    "resize, area": images(lambda: Resize(5, 4, "area")),
    "resize, bilinear": images(lambda: Resize(5)),
    "resize, bicubic": images(lambda: Resize(5, interpolation="bicubic")),
    "resize, nearest": images(lambda: Resize(9, interpolation="nearest")),
    "crop": images(lambda: Crop(2, 3, 1, 2)),
    "center crop": images(lambda: CenterCrop(4)),
    "random crop": images(lambda: RandomCrop(4)),
    "flatten": lambda: FlattenObservation(-3, -1),
    "flatten, nested": lambda: FlattenObservation(0, 1, NESTED, allow_positive_dim=True),
    "unsqueeze": lambda: UnsqueezeTransform(-1, in_keys=OBS, in_keys_inv=["action"]),
    "squeeze": lambda: Compose(UnsqueezeTransform(-1), SqueezeTransform(-1)),
    "permute": lambda: PermuteTransform((-1, -2), in_keys=NESTED, out_keys=["turned"]),
    "cat tensors": lambda: CatTensors(["observation", "double"], out_key="all"),
    "cat tensors, kept": lambda: CatTensors(["observation", "double"], del_keys=False),
    "stack": lambda: Compose(
        RenameTransform(OBS, ["a"], create_copy=True), Stack(["observation", "a"], "both", dim=-2)
    ),
    "expand as": lambda: ExpandAs("success", "observation", "wide"),
    "select": lambda: SelectTransform("observation", "agents"),
    "exclude": lambda: ExcludeTransform("observation", "agents"),
    "rename": lambda: RenameTransform(
        ["observation", "double"], ["double", "observation"], ["action"], [("policy", "action")]
    ),
    "rename, copied": lambda: RenameTransform(["reward"], ["r"], create_copy=True),
    "remove empty": RemoveEmptySpecs,
    "reward scaling": lambda: RewardScaling(1.0, 2.0),
    "reward sum": RewardSum,
    "reward clipping": lambda: RewardClipping(-0.1, 0.1),
    "binarize": BinarizeReward,
    "sign": SignTransform,
    "linearise": lambda: LineariseRewards(OBS, ["sum"], weights=[1.0, 2.0, 3.0]),
    "success reward": lambda: SuccessReward(scale=-2.0),
    "target return": lambda: TargetReturn(5.0),
    "target return, constant": lambda: TargetReturn(5.0, "constant"),
    "discretizer": lambda: ActionDiscretizer(5),
    "discretizer, one-hot": lambda: ActionDiscretizer(torch.tensor([2, 4]), categorical=False),
    "discretizer, recorded": lambda: ActionDiscretizer(5, out_action_key="choice"),
    "discretizer, random": lambda: ActionDiscretizer(5, sampling="random"),
    "action scaling": ActionScaling,
    "action scaling, unit": lambda: ActionScaling(standard_normal=False),
    "clip": lambda: ClipTransform(OBS, None, ["action"], low=-0.5, high=0.5),
    "flatten action": lambda: FlattenAction(-1, -1),
    "cat frames": lambda: CatFrames(3, -1, OBS),
    "cat frames, constant": lambda: CatFrames(3, -1, OBS, ["stack"], padding="constant", mask_key="real"),
    "cat frames, then changed": lambda: Compose(
        ToTensorImage(), CatFrames(4, -3), ObservationNorm(1.0, 2.0, ["pixels"])
    ),
    "time max pool": lambda: TimeMaxPool(OBS, T=3),
    "frame skip": lambda: FrameSkipTransform(2),
    "frame skip, inside out": lambda: Compose(StepCounter(), CatFrames(3, -1, OBS), FrameSkipTransform(2), RewardSum()),
    "multi action": lambda: MultiAction(num_actions=2),
    "multi action, a chunk": lambda: MultiAction(num_actions=2, chunk_key="chunk"),
    "multi action, summed": lambda: MultiAction(num_actions=2, stack_rewards=False),
    "multi action, observations": lambda: Compose(
        SelectTransform("observation"), MultiAction(num_actions=2, stack_observations=True)
    ),
    "no-ops": lambda: Compose(StepCounter(), NoopResetEnv(3)),
    "no-ops, all": lambda: NoopResetEnv(2, random=False),
    "skip": lambda: Compose(StepCounter(), ConditionalSkip(lambda td: td["observation"][..., :1] > 0.6)),
    "policy switch": lambda: ConditionalPolicySwitch(push, lambda td: td["observation"][..., :1] > 0.6),
    "drivers, then changed": lambda: Compose(
        NoopResetEnv(2),
        FrameSkipTransform(2),
        ConditionalPolicySwitch(push, lambda td: td["observation"][..., :1] > 0.6),
        ConditionalSkip(lambda td: td["observation"][..., :1] > 0.6),
        NoopResetEnv(2),
        ToTensorImage(),
        CatFrames(2, -3),
        RewardScaling(0.0, -1.0, OBS),
    ),
    "random truncation": lambda: Compose(StepCounter(), RandomTruncationTransform(1, 3, 0.5)),
    "terminate": lambda: TerminateTransform(lambda td: td["success"]),
    "trajectory counter": TrajCounter,
    "device": lambda: DeviceCastTransform("cpu"),
    "device, some": lambda: DeviceCastTransform("cpu", in_keys=OBS),
    "finite": FiniteTensorDictCheck,
    "vecnorm": VecNorm,
    "vecnorm, a row each": lambda: VecNormV2([*OBS, *NESTED, "reward"], decay=1.0),
    "vecnorm, travelling": lambda: VecNormV2([*OBS, *NESTED, "reward"], stateful=False),
    "return norm": lambda: ReturnNorm(0.9),
    "unary": lambda: UnaryTransform(OBS, ["square"], fn=torch.square),
    "module": lambda: ModuleTransform(module=embedding(), no_grad=True),
    "hash": lambda: Hash(OBS, ["hash"]),
    "rnd": lambda: RNDTransform(*networks()),
    "mujoco": MujocoPreprocessing,
}
DISCRETE = {
    "action projection": lambda: DiscreteActionProjection(3, 5),
    "fire": lambda: Compose(StepCounter(), FireReset((1, 2))),
    "no-ops": lambda: NoopResetEnv(3, noop_action=0),
}
# What the list lacks is tested by itself, for the reason given.
ELSEWHERE = {
    Transform: "a base",
    ObservationTransform: "a base",
    MultiStepTransform: "of buffers",
    Reward2GoTransform: "of buffers",
    BurnInTransform: "of buffers",
    RandomCropTensorDict: "of buffers",
    NextObservationDelta: "omits entries of batches that steps have",
    NextStateReconstructor: "of buffers",
    PolicyAgeFilter: "of buffers",
    PopArt: "of buffers",
    FlattenTensorDict: "of buffers",
    PinMemoryTransform: "needs a GPU",
    Timer: "no two runs are alike",
    ActionMask: "changes its spec at each step",
    AutoResetTransform: "needs an environment that resets itself",
    VecGymEnvTransform: "needs an environment that resets itself",
    Tokenizer: "needs an environment of text",
    BatchSizeTransform: "changes the batch size",
    EndOfLifeTransform: "needs a game with lives",
    EpisodicLife: "needs a game with lives",
}


EXCUSED = {
    # All rows share their memory, or they draw for all rows at once.
    checks.check_partial_reset_leaves_memory_alone: {
        "vecnorm",
        "return norm",
        "rnd",
        "mujoco",
        "random crop",
        "discretizer, random",
        "drivers, then changed",
        "no-ops",
    },
    # All rows share their memory, or are drawn at once.
    checks.check_masked_rows_keep_their_memory: {
        "vecnorm",
        "return norm",
        "rnd",
        "mujoco",
        "random crop",
        "discretizer, random",
    },
    # Its positive dimensions count the rows of a buffer.
    checks.check_serves_a_buffer: {"flatten, nested"},
    # What was played is recorded by the environment that the transform belongs to.
    checks.check_composed_is_alone: {"discretizer, recorded"},
    # Its statistics are entries of the data, which an end of an episode does not reset.
    checks.check_reset_rows_start_anew: {"vecnorm, travelling"},
}
SEEN_THROUGH = (
    check_keeps_to_its_specs,
    check_flat_records_change_nothing,
    check_fake_step_is_like_a_real_one,
    check_next_is_the_root_of_the_next_step,
    check_partial_reset_touches_nothing_else,
)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_checks_in_a_batch(name):
    excused = {check for check, names in EXCUSED.items() if name in names}
    for check in CHECKS:
        if check not in excused:
            check(TRANSFORMS[name], lambda: World((4,)))


@pytest.mark.parametrize("name", TRANSFORMS)
def test_checks_of_environments_in_a_batch(name):
    for check in SEEN_THROUGH:
        check(lambda: TransformedEnv(World((4,)), TRANSFORMS[name]()))


@pytest.mark.parametrize("name", TRANSFORMS)
def test_checks_without_a_batch(name):
    for check in SEEN_THROUGH[:2]:
        check(lambda: TransformedEnv(World(), TRANSFORMS[name]()))


# They draw at random, take all rows together, or record in the environment that they belong to.
TOGETHER = {
    *EXCUSED[checks.check_partial_reset_leaves_memory_alone],
    "primer, early",
    "primer, noise",
    "random truncation",
    "discretizer, recorded",
    "trajectory counter",
    "no-ops, all",
    "module",  # rounds otherwise
}


@pytest.mark.parametrize("name", [name for name in TRANSFORMS if name not in TOGETHER])
def test_around_a_batch_is_inside_of_it(name):
    make = TRANSFORMS[name]

    def rollout(env):
        env.set_seed(0)
        root, steps = env.reset(), []
        for action in actions:
            steps.append(env.step(root.update(action)))
            root = env.step_mdp(steps[-1])
            if env.any_done(root):
                root = env.reset(root)
        return torch.stack(steps, -1)

    around = TransformedEnv(SerialEnv(2, World), make())
    inside = SerialEnv(2, lambda: TransformedEnv(World(), make()))
    torch.manual_seed(0)
    actions = [around.full_action_spec.rand() for _ in range(6)]
    assert_same(rollout(inside), rollout(around))


@pytest.mark.parametrize("batch_size", [(), (4,)], ids=["one", "batch"])
@pytest.mark.parametrize("make", DISCRETE.values(), ids=DISCRETE)
def test_checks_with_discrete_actions(make, batch_size):
    checks.check_transform(make, lambda: World(batch_size, discrete=True))


def test_every_public_transform_is_listed():
    public = {value for value in vars(torchrl.envs).values() if inspect.isclass(value) and issubclass(value, Transform)}
    parts = [make() for make in (*TRANSFORMS.values(), *DISCRETE.values())]
    listed = {type(part) for part in parts}
    listed |= {type(part) for whole in parts if isinstance(whole, Compose) for part in whole}
    assert public == listed | set(ELSEWHERE)
    assert not listed & set(ELSEWHERE)


class Leaky(StepCounter):
    """Counts calls instead of steps, where no record and no state dict can see it."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def _step(self, tensordict, next_tensordict):
        self.calls += 1
        next_tensordict = super()._step(tensordict, next_tensordict)
        return next_tensordict.set("step_count", torch.full((4, 1), self.calls))


def test_checks_find_a_transform_whose_memory_is_not_in_its_state():
    with pytest.raises(AssertionError, match="step_count"):
        checks.check_state_is_carried_over(Leaky, lambda: World((4,)))


class Amnesiac(CatFrames):
    """Begins all rows anew whichever is reset."""

    def _mask(self, source, tensordict):
        return None


def test_checks_find_a_transform_that_resets_too_many_rows():
    with pytest.raises(AssertionError, match="observation"):
        checks.check_partial_reset_leaves_memory_alone(lambda: Amnesiac(3, -1, OBS), lambda: World((4,)))


class Restless(CatFrames):
    """Takes up a frame in rows that stand still, too."""

    def _step(self, tensordict, next_tensordict):
        moving = tensordict.pop("_step", None)
        super()._step(tensordict, next_tensordict)
        if moving is not None:
            tensordict.set("_step", moving)
        return next_tensordict


def test_checks_find_a_transform_that_moves_masked_rows():
    with pytest.raises(AssertionError, match="observation"):
        checks.check_masked_rows_keep_their_memory(lambda: Restless(3, -1, OBS), lambda: World((4,)))


def test_atari_preprocessing_is_a_composition_of_listed_transforms():
    known = {type(make()) for make in TRANSFORMS.values()} | set(ELSEWHERE)
    known |= {FireReset, NoopResetEnv, GrayScale, Resize}
    assert {type(part) for part in AtariPreprocessing()} <= known


class Forgetful(Transform):
    """Halves the observation and does not derive the spec."""

    def __init__(self):
        super().__init__(OBS)

    def _apply_transform(self, value):
        return value[..., :1]


class Unpromised(Transform):
    """Writes an entry without a spec."""

    def _call(self, tensordict):
        return tensordict.set("more", tensordict.get("observation"))


class Silent(Transform):
    """Returns nothing."""

    def _step(self, tensordict, next_tensordict):
        next_tensordict.set("observation", next_tensordict.get("observation"))


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_transform_that_forgets_its_spec_is_named(place, nested):
    parts = [StepCounter(), RewardSum()]
    parts.insert(place, Forgetful())
    if nested:
        parts.append(FrameSkipTransform(2))
    env = TransformedEnv(World(), Compose(*parts))
    with pytest.raises(ShapeError, match=r"^Forgetful.*'observation'.*\(3,\).*\(1,\)"):
        env.rollout(2)


def test_a_transform_that_returns_nothing_is_named():
    env = TransformedEnv(World(), Compose(StepCounter(), Silent()))
    with pytest.raises(TypeError, match=r"^Silent"):
        env.rollout(2)


def test_checks_name_a_transform_that_writes_what_has_no_spec():
    with pytest.raises(AssertionError, match=r"(?s)^Unpromised.*outputs_are_in_the_specs"):
        checks.check_transform(Unpromised)


class Centred(Transform):
    """Subtracts the centre of the action space, which it reads from its parent."""

    def __init__(self):
        super().__init__(["observation"])

    def transform_observation_spec(self, observation_spec):
        space = self.parent.action_spec
        self.__dict__["centre"] = (space.high + space.low).mean() / 2
        return super().transform_observation_spec(observation_spec)

    def _apply_transform(self, value):
        return value - self.centre


def test_a_transform_that_reads_the_action_spec_of_its_parent():
    checks.check_transform(Centred, skip=["serves_a_buffer"])


def test_statistics_are_measured_in_a_nested_composition():
    norm = ObservationNorm(in_keys=OBS)
    scale = RewardScaling(0.0, 2.0, OBS)
    env = TransformedEnv(World(), Compose(Compose(scale), Compose(norm)))
    torch.manual_seed(0)
    norm.init_stats(12)
    alone = ObservationNorm(in_keys=OBS)
    TransformedEnv(TransformedEnv(World(), scale.clone()), alone)
    torch.manual_seed(0)
    alone.init_stats(12)
    torch.testing.assert_close(norm.loc, alone.loc)
    assert env.rollout(2)["observation"].isfinite().all()
