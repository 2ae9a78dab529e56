"""The laws of recurrent modules and of policies hold for ours, and faulty modules are found."""

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule, TensorDictModuleBase, TensorDictSequential
from torch import nn

from tests.modules.test_get_dist import POLICIES
from torchrl.data import Categorical
from torchrl.modules import (
    Actor,
    GRUModule,
    LSTMModule,
    MaskedCategorical,
    OneHotCategorical,
    ProbabilisticActor,
    QValueActor,
    TanhNormal,
    recurrent_mode,
)
from torchrl.testing.module import check_follows_parameters, check_recurrent

B, T, F, H = 3, 7, 2, 4


def data():
    return TensorDict(observation=torch.randn(B, T, F), batch_size=[B, T])


def rnn(kind, **kwargs):
    return kind(F, H, 2, in_key="observation", out_key="hidden", **kwargs)


RECURRENT = {
    f"{kind.__name__}, {name}": lambda kind=kind, kwargs=kwargs: rnn(kind, **kwargs)
    for kind in (GRUModule, LSTMModule)
    for name, kwargs in {"fused": {}, "scan": {"recurrent_backend": "scan"}, "python": {"python_based": True}}.items()
} | {
    "a policy": lambda: TensorDictSequential(rnn(GRUModule), Actor(nn.Linear(H, 2), ["hidden"])),
    "values": lambda: TensorDictSequential(
        rnn(LSTMModule), QValueActor(nn.Linear(H, 3), in_keys=["hidden"], spec=Categorical(3))
    ),
    "a distribution": lambda: ProbabilisticActor(
        TensorDictSequential(
            rnn(GRUModule), TensorDictModule(lambda x: (x[..., :2], x[..., 2:].exp()), ["hidden"], ["loc", "scale"])
        ),
        ["loc", "scale"],
        distribution_class=TanhNormal,
    ),
    "two networks": lambda: TensorDictSequential(
        rnn(GRUModule),
        GRUModule(H, H, in_keys=["hidden", "other_state", "is_init"], out_keys=["other", ("next", "other_state")]),
    ),
}


@pytest.mark.parametrize("make", RECURRENT.values(), ids=RECURRENT)
def test_ours_keep_the_law_of_recurrent_modules(make):
    torch.manual_seed(0)
    check_recurrent(make(), data())


class Sums(TensorDictModuleBase):
    """Adds up observations; may be planted with a fault."""

    in_keys = ("observation", "sum", "is_init")
    out_keys = ("total", ("next", "sum"))

    def __init__(self, fault=None):
        super().__init__()
        self.in_keys, self.out_keys, self.fault = [*self.in_keys], [*self.out_keys], fault

    def forward(self, td):
        observation, flags = td["observation"], td["is_init"]
        state = td.get("sum", None)
        state = torch.zeros_like(observation) if state is None else state
        if not recurrent_mode():
            after = self.one(observation, state, flags)
        elif self.fault == "loses the state":
            after = observation.cumsum(-2)
        else:
            rows, state = [], state[:, 0]
            for t in range(observation.shape[1]):
                within = torch.zeros_like(flags[:, t])
                flag = within if self.fault == "no restart inside" and t else flags[:, t]
                state = self.one(observation[:, t], state, flag)
                if self.fault == "forgets":
                    state = observation[:, t]
                rows.append(state)
            after = torch.stack(rows, 1)
        return td.set("total", after).set(("next", "sum"), after)

    def one(self, observation, state, flag):
        if self.fault == "ignores is_init":
            return state + observation
        if self.fault == "keeps nothing":
            return observation * 0
        return torch.where(flag, torch.zeros_like(state), state) + observation


FAULTS = {
    "ignores is_init": "not empty where 'is_init'",
    "loses the state": "differs from its steps",
    "no restart inside": "with restarts inside differs",
    "forgets": "differs from its steps",
    "keeps nothing": "never changes",
}


def test_a_sound_module_of_one_s_own_passes():
    check_recurrent(Sums(), data())


@pytest.mark.parametrize(("fault", "fact"), FAULTS.items(), ids=FAULTS)
def test_faulty_recurrent_modules_are_found(fault, fact):
    with pytest.raises(AssertionError, match=fact):
        check_recurrent(Sums(fault), data())


def test_a_module_without_state_is_no_recurrent_module():
    with pytest.raises(AssertionError, match="carries no state"):
        check_recurrent(Actor(nn.Linear(F, 1)), data())


def discrete(dist, **keys):
    net = TensorDictModule(nn.Linear(3, 4), ["observation"], ["logits"])
    return ProbabilisticActor(net, {"logits": "logits", **keys}, distribution_class=dist)


ACTORS = {"one-hot": lambda: discrete(OneHotCategorical), "masked": lambda: discrete(MaskedCategorical, mask="mask")}


def observations():
    mask = torch.tensor([True, False, True, True]).expand(5, 4)
    return TensorDict(observation=torch.randn(5, 3), mask=mask, batch_size=[5])


NOT_LAWFUL = "a policy in a sequence of tensordict"  # its get_dist skips the layers within


@pytest.mark.parametrize("name", [*ACTORS, *(name for name in POLICIES if name != NOT_LAWFUL)])
def test_ours_keep_the_law_of_policies(name):
    torch.manual_seed(0)
    check_follows_parameters({**POLICIES, **ACTORS}[name](), observations())


class Stored(TensorDictModuleBase):
    """A policy that may take the parameters of its distribution from the batch."""

    def __init__(self, fault=True):
        super().__init__()
        self.net, self.fault = nn.Linear(3, 2), fault
        self.in_keys, self.out_keys = ["observation"], ["loc", "action"]

    def get_dist(self, td):
        if not (self.fault and "loc" in td):
            td["loc"] = self.net(td["observation"])
        return torch.distributions.Normal(td["loc"], 1.0)

    def forward(self, td):
        return td.set("action", self.get_dist(td).sample())


def test_a_policy_that_reads_what_it_stored_is_found():
    check_follows_parameters(Stored(fault=False), observations())
    with pytest.raises(AssertionError, match=r"does not depend|stored parameters"):
        check_follows_parameters(Stored(), observations())
