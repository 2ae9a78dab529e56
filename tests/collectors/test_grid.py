"""Every collector over every kind of environment with every kind of policy."""

import pytest
import torch
from tensordict.nn import NormalParamExtractor, TensorDictModule, TensorDictSequential
from torch import nn

from torchrl.collectors import AsyncCollector, Collector, MultiAsyncCollector, MultiSyncCollector
from torchrl.envs import GymEnv, ParallelEnv, SerialEnv
from torchrl.modules import GRUModule, ProbabilisticActor, TanhNormal

STEPS, BATCHES = 6, 4


def pendulum(num_envs=None):
    return GymEnv("Pendulum-v1", num_envs=num_envs)


ENVS = {
    "single": pendulum,
    "serial": lambda: SerialEnv(2, pendulum),
    "parallel": lambda: ParallelEnv(2, pendulum),
    "native": lambda: pendulum(2),
}


def module():
    return TensorDictModule(nn.Linear(3, 1), in_keys=["observation"], out_keys=["action"])


def actor():
    network = nn.Sequential(nn.Linear(3, 2), NormalParamExtractor())
    return ProbabilisticActor(
        TensorDictModule(network, ["observation"], ["loc", "scale"]),
        in_keys=["loc", "scale"],
        distribution_class=TanhNormal,
        return_log_prob=True,
    )


def recurrent():
    gru = GRUModule(3, 4, in_key="observation", out_key="hidden")
    return TensorDictSequential(gru, TensorDictModule(nn.Linear(4, 1), ["hidden"], ["action"]))


def constant(policy, value):
    """Return a policy of the same form that always acts like ``value``."""
    last = [part for part in policy.modules() if isinstance(part, nn.Linear)][-1]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(torch.tensor([value, -30.0])[: len(last.bias)])
    return policy


POLICIES = {
    "module": (module, lambda: {"policy": module()}),
    "callable": (None, lambda: {"policy": lambda td: td.set("action", torch.ones(*td.shape, 1))}),
    "function": (None, lambda: {"policy": lambda observation: observation[..., :1]}),
    "factory": (module, lambda: {"policy_factory": module}),
    "random": (None, dict),
    "actor": (actor, lambda: {"policy": actor()}),
    "recurrent": (recurrent, lambda: {"policy": recurrent()}),
}
COLLECTORS = {
    "one": (1, Collector),
    "sync": (2, lambda env, **kw: MultiSyncCollector(env, num_workers=2, cat_results=0, **kw)),
    "async": (1, lambda env, **kw: MultiAsyncCollector(env, num_workers=2, **kw)),
    "one worker": (1, AsyncCollector),
}


def check_ted(row):
    """Check the steps ``[T]`` of one row in order of time."""
    ids, done = row["collector", "traj_ids"], row["next", "done"].squeeze(-1)
    assert torch.equal(ids[1:] != ids[:-1], done[:-1])
    assert done.any()
    assert torch.equal(done, (row["next", "terminated"] | row["next", "truncated"]).squeeze(-1))
    assert not row["done"].any()
    within = ~done[:-1]
    shared = set(row["next"].keys(True, True)) & set(row.keys(True, True))
    assert {"observation", "step_count"} <= shared
    for key in shared:
        torch.testing.assert_close(row["next"][key][:-1][within], row[key][1:][within])


@pytest.mark.parametrize("collector", COLLECTORS)
@pytest.mark.parametrize("env", ENVS)
@pytest.mark.parametrize("policy", POLICIES)
def test_cell(collector, env, policy):
    (workers, kind), (form, given) = COLLECTORS[collector], POLICIES[policy]
    rows = 1 if env == "single" else 2
    frames = workers * rows * STEPS
    with kind(
        ENVS[env],
        **given(),
        frames_per_batch=frames,
        total_frames=BATCHES * frames,
        max_frames_per_traj=4,
        track_policy_version=True,
        auto_register_policy_transforms=True,
    ) as made:
        batches = []
        for batch in made:
            batches.append(batch)
            if len(batches) == 2 and form is not None:
                made.update_policy_weights_(constant(form(), 0.25))
    shape = [STEPS] if env == "single" and workers == 1 else [2, STEPS]
    if env != "single" and workers == 2:
        shape = [4, STEPS]
    if env == "single" and workers == 2:
        shape = [2 * STEPS]
    assert [list(batch.shape) for batch in batches] == [shape] * BATCHES
    assert all(batch.names[-1] == "time" for batch in batches)
    assert not any(v.requires_grad for batch in batches for v in batch.values(True, True))
    if form is not None:
        data = torch.cat([batch.reshape(-1) for batch in batches])
        newest = data[data["policy_version"] == 1]
        expected = torch.tensor(0.25).tanh() if policy == "actor" else torch.tensor(0.25)
        assert len(newest) or "async" in collector
        torch.testing.assert_close(newest["action"], expected.expand_as(newest["action"]), atol=0.1, rtol=0)
        assert not (data["action"][data["policy_version"] == 0] - expected).abs().max() < 0.1
    by_number = torch.cat([b.reshape(-1, STEPS) for b in batches])  # [rows, T], workers apart
    numbers = by_number["collector", "traj_ids"] % 2 if "sync" in collector else None
    if numbers is None:
        for row in torch.cat(batches, -1).reshape(-1, BATCHES * STEPS):
            check_ted(row)
        return
    assert (numbers == numbers[:, :1]).all(), "a row of one worker bears numbers of another"
    for row in by_number:
        check_ted(row)


@pytest.mark.parametrize("kind", [MultiSyncCollector, MultiAsyncCollector])
@pytest.mark.parametrize("devices", [{"device": "cpu"}, {"policy_device": ["cpu"] * 2}])
@pytest.mark.parametrize("form", ["policy", "policy_factory", "factories"])
def test_new_weights_reach_every_worker(kind, devices, form):
    given = {
        "policy": {"policy": module()},
        "policy_factory": {"policy_factory": module},
        "factories": {"policy_factory": [module, module]},
    }[form]
    with kind(pendulum, num_workers=2, frames_per_batch=8, **given, **devices) as collector:
        collector.next()
        collector.update_policy_weights_(constant(module(), 0.5))
        seen = set()
        for _ in range(20):
            batch = collector.next().reshape(-1)
            acted = (batch["action"] == 0.5).squeeze(-1)
            seen |= set((batch["collector", "traj_ids"][acted] % 2).tolist())
            if seen == {0, 1}:
                break
        assert seen == {0, 1}
