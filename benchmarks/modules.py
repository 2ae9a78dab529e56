"""Policies against their bare networks, and distributions against their formulas written inline.

Run ``python benchmarks/modules.py``. One thread, no gradients; the ratio is what counts: CPU time
of the library over the floor, the median of interleaved rounds.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable

import torch
from tensordict import TensorDict
from tensordict.nn import NormalParamExtractor, TensorDictModule, TensorDictSequential
from torch import Tensor, nn
from torch.nn.functional import softplus

from torchrl._core.exploration import set_exploration_type
from torchrl._core.records.flat_record import FlatRecord
from torchrl._core.records.policies import compile_policy
from torchrl.modules import (
    MLP,
    Actor,
    LSTMModule,
    OneHotCategorical,
    ProbabilisticActor,
    QValueActor,
    SafeSequential,
    TanhNormal,
    set_recurrent_mode,
)


def medians(functions: list[Callable[[], object]], seconds: float = 0.02, rounds: int = 15) -> list[float]:
    """Return the median CPU time of each function in microseconds, measured in turns."""
    times: list[list[float]] = [[] for _ in functions]
    for function in functions:
        function()
    for _ in range(rounds):
        for function, measured in zip(functions, times, strict=True):
            count, start = 0, time.process_time()
            while time.process_time() - start < seconds:
                function()
                count += 1
            measured.append(1e6 * (time.process_time() - start) / count)
    return [statistics.median(measured) for measured in times]


def show(name: str, times: dict[str, float]) -> None:
    """Print times and their ratios to the first."""
    floor = next(iter(times.values()))
    for label, value in times.items():
        print(f"{name:28} {label:24} {value:9.1f} us  x{value / floor:.2f}")


def compare(name: str, **functions: Callable[[], object]) -> None:
    """Measure and print some functions, the floor first."""
    show(name, dict(zip(functions, medians(list(functions.values())), strict=True)))


def q_values() -> None:
    """One row through a Q-network and the choice of the best action."""
    network = MLP(4, 2, num_cells=[64, 64])
    bare = nn.Sequential(*network)  # as it is written in plain torch
    values = TensorDictModule(network, ["observation"], ["action_value"])
    actor = QValueActor(network, action_space="one_hot")
    policy = TensorDictSequential(*actor.module)
    safe = SafeSequential(*actor.module)
    run = compile_policy(policy)
    assert run is not None
    row = torch.randn(4)
    td = TensorDict(observation=row)

    def choose(value: Tensor) -> tuple[Tensor, Tensor]:
        chosen, index = value.max(-1, keepdim=True)
        return torch.zeros(2, dtype=torch.int64).scatter_(-1, index, 1), chosen

    choice = TensorDictModule(choose, ["action_value"], ["action", "chosen_action_value"])
    tensordict_alone = TensorDictSequential(values, choice)
    compare(
        "Q-value policy, one row",
        bare_network=lambda: bare(row),
        MLP=lambda: network(row),
        by_hand=lambda: choose(bare(row)),
        plan=lambda: run(FlatRecord(observation=row)),
        tensordict_and_ours=lambda: policy(td),
        tensordict_alone=lambda: tensordict_alone(td),
        QValueActor=lambda: actor(td),
        SafeSequential=lambda: safe(td),
        SafeSequential_new_td=lambda: safe(TensorDict(observation=row)),
    )


def one_module() -> None:
    """One row through a network that reads and writes entries."""
    network = MLP(4, 2, num_cells=[64, 64])
    bare = nn.Sequential(*network)  # as it is written in plain torch
    module = TensorDictModule(network, ["observation"], ["action"])
    sequence, actor = TensorDictSequential(module), Actor(network)
    td = TensorDict(observation=torch.randn(4))
    compare(
        "one network, one row",
        bare_network=lambda: bare(td["observation"]),
        MLP=lambda: network(td["observation"]),
        TensorDictModule=lambda: module(td),
        TensorDictSequential=lambda: sequence(td),
        Actor=lambda: actor(td),
    )


def actors() -> None:
    """One row through a stochastic policy, drawn and scored."""
    row = torch.randn(4)
    td = TensorDict(observation=row)
    for distribution, keys, layers in (
        (TanhNormal, ["loc", "scale"], [NormalParamExtractor()]),
        (OneHotCategorical, ["logits"], []),
    ):
        network = MLP(4, 4, num_cells=[64, 64])
        bare = nn.Sequential(*network, *layers)
        policy = ProbabilisticActor(
            TensorDictModule(nn.Sequential(network, *layers), ["observation"], keys),
            keys,
            distribution_class=distribution,
            return_log_prob=True,
        )
        run = compile_policy(policy)
        assert run is not None
        with set_exploration_type("random"):
            compare(
                f"{distribution.__name__} actor, one row",
                bare_network=lambda bare=bare: bare(row),
                plan=lambda run=run: run(FlatRecord(observation=row)),
                tensordict=lambda policy=policy: policy(td),
            )


def tanh_normal() -> None:
    """Draw and score [256, 6]."""
    loc, scale = torch.randn(256, 6), torch.rand(256, 6) + 0.1

    def inline(half: float = 1.0) -> tuple[Tensor, Tensor]:
        noise = torch.randn_like(loc)
        x = loc + scale * noise
        log_slope = 2 * (math.log(2) - x - softplus(-2 * x))
        score = -noise.square() / 2 - scale.log() - math.log(2 * math.pi) / 2 - log_slope
        action = x.tanh() if half == 1 else x.tanh() * half
        return action, (score - math.log(half)).sum(-1)

    compare(
        "TanhNormal [256, 6]",
        inline=inline,
        ours=lambda: TanhNormal(loc, scale).rsample_and_log_prob(),
        inline_in_a_range=lambda: inline(2.0),
        ours_in_a_range=lambda: TanhNormal(loc, scale, low=-2, high=2).rsample_and_log_prob(),
    )


def lstm() -> None:
    """A batch of sequences through an LSTM, with and without restarts within."""
    rnn = LSTMModule(16, 64, in_key="observation", out_key="hidden")
    outputs = LSTMModule(in_key="observation", out_key="hidden", lstm=rnn.rnn)
    outputs.select_out_keys("hidden")
    restart = torch.zeros(32, 50, 1, dtype=torch.bool)
    data = TensorDict(observation=torch.randn(32, 50, 16), is_init=restart, batch_size=[32, 50])
    cut = data.clone()
    cut["is_init"][torch.rand(32, 50) < 0.05] = True
    calls = {
        "network": lambda: rnn.rnn(data["observation"])[0],
        "outputs": lambda: outputs(data.copy())["hidden"],
        "outputs_with_restarts": lambda: outputs(cut.copy())["hidden"],
        "states_too": lambda: rnn(data.copy())["hidden"],
        "states_with_restarts": lambda: rnn(cut.copy())["hidden"],
    }

    def forward_and_backward(call: Callable[[], Tensor]) -> Callable[[], object]:
        return lambda: torch.autograd.grad(call().sum(), list(rnn.parameters()))

    with set_recurrent_mode():
        compare("LSTM [32, 50]", **calls)
        with torch.enable_grad():
            both = {name: forward_and_backward(call) for name, call in calls.items()}
            compare("LSTM [32, 50], both ways", **both)


def main() -> None:
    """Print the ratios."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with torch.no_grad():
        one_module()
        q_values()
        actors()
        tanh_normal()
        lstm()


if __name__ == "__main__":
    main()
