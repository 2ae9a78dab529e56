"""A state given to reset() reaches the environment inside in its own names, scale and dtype."""

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule

from torchrl.data import Composite, Unbounded
from torchrl.envs import (
    Compose,
    DoubleToFloat,
    DTypeCastTransform,
    EnvBase,
    ExcludeTransform,
    FrameSkipTransform,
    ModuleTransform,
    MultiAction,
    ObservationNorm,
    ParallelEnv,
    PermuteTransform,
    RenameTransform,
    SerialEnv,
    SqueezeTransform,
    Stack,
    StepCounter,
    TransformedEnv,
    UnaryTransform,
    UnsqueezeTransform,
)

PLACE = ["place"]


class Track(EnvBase):
    """Starts at the place that reset() is given; moves there by the action; ends beyond 100."""

    def __init__(self, batch_size=(), state_spec=False):
        super().__init__(batch_size=batch_size)
        place = Unbounded((*self.batch_size, 1, 2), dtype=torch.float64)
        self.observation_spec = Composite(place=place, other=place.clone(), shape=self.batch_size)
        if state_spec:
            self.state_spec = Composite(place=place.clone(), shape=self.batch_size)
        self.action_spec = Unbounded((*self.batch_size, 1))
        self.given = []

    def _set_seed(self, seed):
        pass

    def _reset(self, tensordict=None, **kwargs):
        place = None if tensordict is None else tensordict.get("place", None)
        self.given.append(None if place is None else place.clone())
        if place is None:
            place = torch.zeros(*self.batch_size, 1, 2, dtype=torch.float64)
        # This environment keeps its state in its record.
        assert place.dtype == torch.float64
        return TensorDict(place=place.clone(), other=-place, batch_size=self.batch_size)

    _set_state = _reset

    def _step(self, tensordict):
        place = tensordict["place"] + tensordict["action"].unsqueeze(-1)
        over = (place > 100).flatten(len(self.batch_size)).any(-1, True)
        return TensorDict(
            place=place, other=-place, reward=place[..., 0, :1].float(), terminated=over, batch_size=self.batch_size
        )


def halved():
    return TensorDictModule(lambda x: x / 2, ["twice"], ["place"])


TRANSFORMS = {
    "renamed": lambda: RenameTransform(PLACE, ["spot"], PLACE, ["spot"]),
    "renamed, nested": lambda: RenameTransform(PLACE, [("a", "spot")], PLACE, [("a", "spot")]),
    "exchanged": lambda: RenameTransform(
        ["place", "other"], ["other", "place"], ["place", "other"], ["other", "place"]
    ),
    "copied": lambda: RenameTransform(PLACE, ["spot"], PLACE, ["spot"], create_copy=True),
    "scaled": lambda: ObservationNorm(1.0, 8.0, PLACE, None, PLACE),
    "normalised": lambda: ObservationNorm(1.0, 8.0, PLACE, None, PLACE, standard_normal=True),
    "cast": lambda: DoubleToFloat(PLACE, None, PLACE),
    "all cast": DoubleToFloat,
    "cast to half": lambda: DTypeCastTransform(torch.float64, torch.bfloat16, PLACE, None, PLACE),
    "unsqueezed": lambda: UnsqueezeTransform(-1, in_keys=PLACE, in_keys_inv=PLACE),
    "squeezed": lambda: SqueezeTransform(-2, in_keys=PLACE, in_keys_inv=PLACE),
    "permuted": lambda: PermuteTransform((-1, -2), PLACE, None, PLACE),
    "stacked": lambda: Stack(["place", "other"], "both", "both", ["place", "other"], dim=-1),
    "function": lambda: UnaryTransform(PLACE, None, PLACE, None, fn=lambda x: x.exp(), inv_fn=lambda x: x.log()),
    "module": lambda: Compose(
        RenameTransform(PLACE, ["twice"]),
        UnaryTransform(["twice"], None, fn=lambda x: 2 * x),
        ModuleTransform(module=halved(), inverse=True),
    ),
    "chain": lambda: Compose(
        RenameTransform(PLACE, ["spot"], PLACE, ["spot"]),
        StepCounter(),
        ObservationNorm(1.0, 8.0, ["spot"], None, ["spot"]),
        DoubleToFloat(["spot"], None, ["spot"]),
        Compose(RenameTransform(["spot"], ["seen"], ["spot"], ["seen"])),
        UnsqueezeTransform(-1, in_keys=["seen"], in_keys_inv=["seen"]),
    ),
    "chain around a transform that steps": lambda: Compose(
        ObservationNorm(1.0, 8.0, PLACE, None, PLACE),
        FrameSkipTransform(2),
        RenameTransform(PLACE, ["spot"], PLACE, ["spot"]),
    ),
    "lined up": lambda: MultiAction(num_actions=2, stack_observations=True, stack_rewards=False),
}
PLACES = torch.tensor([[3.0, 4.0]], dtype=torch.float64)


def seen_from_outside(make, base):
    """Return the root of an environment that began at its places, seen through a transform."""
    root = TransformedEnv(base, make()).reset()
    return root.exclude("done", "terminated")


class Placed(Track):
    """Starts at the places of the test where it is given none."""

    def _reset(self, tensordict=None, **kwargs):
        if tensordict is None or tensordict.get("place", None) is None:
            places = PLACES.expand(*self.batch_size, 1, 2)
            tensordict = TensorDict(place=places, batch_size=self.batch_size)
        return super()._reset(tensordict, **kwargs)

    _set_state = _reset


@pytest.mark.parametrize("set_state", [None, True])
@pytest.mark.parametrize("batch_size", [(), (3,)], ids=["one", "batch"])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_the_environment_is_given_the_state_as_it_knows_it(name, batch_size, set_state):
    make = TRANSFORMS[name]
    shown = seen_from_outside(make, Placed(batch_size))
    base = Track(batch_size)
    td = TransformedEnv(base, make()).reset(shown.clone(), set_state=set_state)
    given = base.given[-1]
    assert given is not None
    tolerance = {"atol": 1e-2, "rtol": 0} if "half" in name else {"atol": 1e-5, "rtol": 0}
    torch.testing.assert_close(given, PLACES.expand(*batch_size, 1, 2), **tolerance)
    for key in shown.keys(True, True):
        torch.testing.assert_close(td[key], shown[key], **tolerance)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_environments_within_each_other_invert_from_outside_in(name):
    make = TRANSFORMS[name]

    def outer(base):
        inner = TransformedEnv(base, make())
        return TransformedEnv(inner, RenameTransform(["other"], ["last"], ["other"], ["last"]))

    if name in ("exchanged", "stacked", "lined up"):
        return  # without an entry of that name to rename
    shown = outer(Placed()).reset().exclude("done", "terminated")
    base = Track()
    outer(base).reset(shown.clone())
    torch.testing.assert_close(base.given[-1], PLACES, atol=1e-2, rtol=0)


@pytest.mark.parametrize("kind", [SerialEnv, ParallelEnv])
@pytest.mark.parametrize("name", ["renamed", "scaled", "cast", "chain"])
def test_batches_are_given_states_too(name, kind):
    make = TRANSFORMS[name]
    for whole in (
        lambda base: TransformedEnv(kind(2, base), make()),
        lambda base: kind(2, lambda: TransformedEnv(base(), make())),
    ):
        env = whole(Placed)
        shown = env.reset().exclude("done", "terminated")
        env.close()
        env = whole(Track)
        root = env.reset(shown.clone())
        for key in shown.keys(True, True):
            torch.testing.assert_close(root[key], shown[key])
        env.close()


@pytest.mark.parametrize("name", TRANSFORMS)
def test_rows_that_begin_anew_are_given_states_too(name):
    make = TRANSFORMS[name]
    shown = seen_from_outside(make, Placed((3,)))
    base = Track((3,), state_spec=name == "all cast")
    env = TransformedEnv(base, make())
    root = env.step_mdp(env.rand_step(env.reset()))
    before = root.clone()
    rows = torch.tensor([[True], [False], [True]])
    root.update(shown).set("_reset", rows)
    kept = root.exclude("_reset").clone()
    after = env.reset(root)
    torch.testing.assert_close(base.given[-1], PLACES.expand(3, 1, 2), atol=1e-2, rtol=0)
    for key in shown.keys(True, True):
        torch.testing.assert_close(after[key], kept[key], atol=1e-2, rtol=0)
    assert set(before.keys(True, True)) <= set(after.keys(True, True))


def test_a_reset_takes_no_action_through_the_way_in():
    calls = []

    class Counting(UnsqueezeTransform):
        def _inv_apply_transform(self, value):
            calls.append(value)
            return super()._inv_apply_transform(value)

    env = TransformedEnv(Track(), Counting(-1, in_keys=[], in_keys_inv=["action"]))
    root = env.step_mdp(env.rand_step(env.reset()))
    assert len(calls) == 1
    env.reset(root)
    assert len(calls) == 1


def test_entries_left_out_on_the_way_in_are_left_out_of_a_reset():
    base = Track(state_spec=True)
    env = TransformedEnv(base, ExcludeTransform("place", inverse=True))
    env.reset(TensorDict(place=torch.ones(1, 2, dtype=torch.float64)))
    assert base.given == [None]
