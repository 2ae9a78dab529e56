"""An observation of another dtype than a network is named, wherever the network is called."""

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn

from torchrl.collectors import Collector
from torchrl.data import Bounded, Categorical, Composite, Unbounded
from torchrl.envs import EnvBase
from torchrl.modules import (
    MLP,
    Actor,
    ConvNet,
    GRUModule,
    LSTMModule,
    ProbabilisticActor,
    QValueActor,
    SafeModule,
    TanhNormal,
)

NETS = {
    "Linear": (lambda: nn.Linear(3, 2), (3,)),
    "MLP": (lambda: MLP(3, 2, num_cells=[4]), (3,)),
    "Conv2d": (lambda: nn.Conv2d(3, 2, 2), (3, 4, 4)),
    "ConvNet": (lambda: ConvNet(3, num_cells=[4], kernel_sizes=3), (3, 6, 6)),
    "LayerNorm": (lambda: nn.LayerNorm(3), (3,)),
    "GRU": (lambda: nn.GRU(3, 2), (3,)),
}
REMEDIES = {
    torch.float64: r"DoubleToFloat\(\).*double\(\)",
    torch.float16: r"with to\(\)",
    torch.int64: r"DTypeCastTransform\(\)|nn.Embedding",
    torch.uint8: r"DTypeCastTransform\(\)|nn.Embedding",
    torch.bool: r"DTypeCastTransform\(\)|nn.Embedding",
}


def expect(found, expected=torch.float32):
    text = rf"'observation'.*expected {expected}, found {found}.*"
    return pytest.raises((TypeError, ValueError), match=text + REMEDIES.get(found, ""))


@pytest.mark.parametrize("dtype", REMEDIES, ids=str)
@pytest.mark.parametrize("name", NETS)
def test_an_entry_of_another_dtype_is_named(name, dtype):
    net, shape = NETS[name]
    if (name, dtype) == ("LayerNorm", torch.float16):
        pytest.skip("torch mixes these two")
    module = SafeModule(net(), ["observation"], ["a"])
    with expect(dtype):
        module(TensorDict(observation=torch.ones(5, *shape).to(dtype), batch_size=[5]))


@pytest.mark.parametrize("kind", [GRUModule, LSTMModule])
@pytest.mark.parametrize("python_based", [True, False])
def test_recurrent_modules_name_an_entry_of_another_dtype(kind, python_based):
    module = kind(3, 4, in_key="observation", out_key="h", python_based=python_based)
    td = TensorDict(observation=torch.ones(5, 3).double(), batch_size=[5])
    with expect(torch.float64):
        module(td.set("is_init", torch.ones(5, 1, dtype=torch.bool)))


def test_a_network_in_double_precision_names_an_entry_in_single():
    module = Actor(nn.Linear(3, 2).double())
    with expect(torch.float32, torch.float64):
        module(TensorDict(observation=torch.ones(5, 3), batch_size=[5]))


class Doubles(EnvBase):
    """Observations of a dtype."""

    def __init__(self, dtype):
        super().__init__()
        self.observation_spec = Composite(observation=Unbounded((3,), dtype=dtype))
        self.action_spec, self.reward_spec = Bounded(-1, 1, (2,)), Unbounded((1,))

    def _reset(self, tensordict):
        return self.observation_spec.zero()

    def _step(self, tensordict):
        flag = torch.zeros(1, dtype=torch.bool)
        return self._reset(None).update({"reward": torch.zeros(1), "done": flag})

    def _set_seed(self, seed):
        pass


def plain():
    return TensorDictModule(nn.Linear(3, 2), ["observation"], ["action"])


def drawn():
    net = nn.Sequential(nn.Linear(3, 4), nn.Unflatten(-1, (2, 2)))
    both = TensorDictModule(lambda x: (x[..., 0, :], x[..., 1, :].exp()), ["p"], ["loc", "scale"])
    parts = TensorDictSequential(TensorDictModule(net, ["observation"], ["p"]), both)
    return ProbabilisticActor(parts, ["loc", "scale"], distribution_class=TanhNormal)


POLICIES = {
    "module": plain,
    "sequence": lambda: TensorDictSequential(plain()),
    "network": lambda: nn.Linear(3, 2),
    "distribution": drawn,
    "values": lambda: QValueActor(nn.Linear(3, 2), spec=Categorical(2)),
}


@pytest.mark.parametrize("until", ["break_when_any_done", "break_when_all_done"])
@pytest.mark.parametrize("make", POLICIES.values(), ids=POLICIES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.int64], ids=str)
def test_rollouts_name_an_observation_of_another_dtype(make, dtype, until):
    with expect(dtype):
        Doubles(dtype).rollout(3, make(), **{until: True})


@pytest.mark.parametrize("make", POLICIES.values(), ids=POLICIES)
def test_collectors_name_an_observation_of_another_dtype(make):
    with expect(torch.float64):
        Collector(Doubles(torch.float64), make(), frames_per_batch=4, total_frames=4).rollout()
