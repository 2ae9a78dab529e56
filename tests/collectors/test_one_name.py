"""`Collector` for one or several processes, and what every kind of collector can be asked."""

import inspect
import json
import sys

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule, TensorDictModuleBase
from torch import nn

from torchrl.collectors import (
    AsyncCollector,
    Collector,
    Evaluator,
    MultiAsyncCollector,
    MultiSyncCollector,
    ProfileConfig,
    VanillaWeightUpdater,
    WeightUpdaterBase,
)
from torchrl.data import NonTensor, RayReplayBuffer
from torchrl.envs import SerialEnv, StepCounter, TransformedEnv
from torchrl.testing.mocks import CountingEnv
from torchrl.weight_update import (
    MultiProcessWeightSyncScheme,
    NoWeightSyncScheme,
    SharedMemWeightSyncScheme,
    WeightSyncScheme,
)


def actor():
    return TensorDictModule(nn.Linear(2, 1), in_keys=["observation"], out_keys=["action"])


def one(**kwargs):
    return Collector(CountingEnv, frames_per_batch=4, total_frames=8, **kwargs)


def two(**kwargs):
    return MultiSyncCollector([CountingEnv] * 2, frames_per_batch=8, total_frames=16, **kwargs)


KINDS = pytest.mark.parametrize("make", [one, two])


# --- one name ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "kind", "workers"),
    [
        ({}, Collector, None),
        ({"backend": None}, Collector, None),
        ({"backend": "direct"}, Collector, None),
        ({"backend": "process"}, MultiSyncCollector, 1),
        ({"num_collectors": 2}, MultiSyncCollector, 2),
        ({"num_collectors": 2, "sync": True}, MultiSyncCollector, 2),
        ({"num_collectors": 2, "sync": False}, MultiAsyncCollector, 2),
        ({"sync": False, "backend": "process"}, MultiAsyncCollector, 1),
        ({"num_collectors": 1, "cat_results": "stack"}, MultiSyncCollector, 1),
    ],
)
def test_one_name_for_collectors_here_and_in_workers(options, kind, workers):
    with Collector(CountingEnv, frames_per_batch=4, total_frames=8, **options) as collector:
        assert type(collector) is kind
        assert getattr(collector, "num_workers", None) == workers
        assert collector.next().numel() == 4


def test_subclasses_collect_in_the_workers():
    class Own(Collector):
        pass

    with Own(CountingEnv, frames_per_batch=4, num_collectors=1) as collector:
        assert isinstance(collector, MultiSyncCollector)
        assert collector.map_fn("__repr__")


def test_arguments_that_contradict():
    with pytest.raises(ValueError, match="no such backend"):
        Collector(CountingEnv, frames_per_batch=4, backend="rpc")
    with pytest.raises(ValueError, match="backend='direct' is one collector"):
        Collector(CountingEnv, frames_per_batch=4, backend="direct", num_collectors=2)
    names = inspect.signature(Collector).parameters
    assert {"num_collectors", "sync", "backend", "weight_sync_schemes", "weight_updater"} <= set(names)


def test_ray_is_asked_for_by_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r'RayCollector needs ray: pip install "torchrl\[distributed\]"'):
        Collector(CountingEnv, frames_per_batch=4, backend="ray")
    with pytest.raises(ImportError, match=r'RayReplayBuffer needs ray: pip install "torchrl\[distributed\]"'):
        RayReplayBuffer()
    with pytest.raises(ImportError, match=r'Evaluator needs ray: pip install "torchrl\[distributed\]"'):
        Evaluator(CountingEnv, backend="ray")


@pytest.mark.parametrize("make", [one, two, lambda **k: AsyncCollector(CountingEnv, frames_per_batch=4, **k)])
def test_rows_that_end_are_reset(make):
    with make(reset_when_done=True) as collector:
        assert collector.next()["next", "done"].any()
    with pytest.raises(ValueError, match="resets the rows that end"):
        make(reset_when_done=False)


# --- policies ------------------------------------------------------------------------------------


class Several(nn.Module):
    def __init__(self, count):
        super().__init__()
        self.net, self.count = nn.Linear(2, 1), count

    def forward(self, observation):
        action = self.net(observation)
        return (action, *(action + i for i in range(1, self.count)))


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("make", [one, two])
def test_further_outputs_have_names(make, count):
    with make(policy=Several(count)) as collector:
        for batch in collector:
            for i in range(1, count):
                torch.testing.assert_close(batch[f"output{i}"], batch["action"] + i)
            assert f"output{count}" not in batch


def test_further_outputs_of_functions():
    batch = CountingEnv().rollout(3, lambda observation: (observation[..., :1] * 0, observation))
    assert torch.equal(batch["output1"], batch["observation"])


def foreign(temperature, pressure):
    return temperature


class Foreign(nn.Module):
    def forward(self, temperature, pressure):
        return temperature


@pytest.mark.parametrize("policy", [foreign, Foreign()])
def test_other_arguments_than_the_observations(policy):
    with pytest.raises(TypeError, match=r"takes other arguments .*'temperature', 'pressure'"):
        Collector(CountingEnv, policy, frames_per_batch=4)
    with pytest.raises(TypeError):
        CountingEnv().rollout(2, policy)


def test_arguments_are_found_by_name():
    env = TransformedEnv(CountingEnv(), StepCounter())
    policies = (lambda step_count: step_count.float(), lambda step_count, observation: step_count.float())
    for policy in policies:
        assert env.rollout(3, policy)["action"].flatten().tolist() == [0.0, 1.0, 2.0]


class Placed(TensorDictModuleBase):
    in_keys, out_keys = ["observation"], ["action"]

    def __init__(self):
        super().__init__()
        self.seen = set()

    def forward(self, td):
        self.seen.add(td.device)
        return td.set("action", torch.zeros(*td.shape, 1))


@pytest.mark.parametrize("device", ["policy_device", "device"])
def test_a_policy_sees_its_device(device):
    policy = Placed()
    Collector(CountingEnv, policy, frames_per_batch=4, **{device: "cpu"}).next()
    assert policy.seen == {torch.device("cpu")}


class Words(CountingEnv):
    def __init__(self):
        super().__init__()
        self.observation_spec["word"] = NonTensor((), example_data="w")

    def _record(self, entries, like):
        return TensorDict(entries).set("word", f"w{int(self.count)}")


@pytest.mark.parametrize("kind", [MultiSyncCollector, MultiAsyncCollector])
def test_words_are_pickled_beside_buffers(kind):
    with kind([Words] * 2, frames_per_batch=8, use_buffers=True) as collector:
        assert "w1" in str(collector.next().get("word").tolist())


# --- questions -----------------------------------------------------------------------------------


@KINDS
def test_attributes_of_environment_and_policy(make):
    with make(policy=actor()) as collector:
        assert collector.getattr_env("horizons").item() == 3
        assert collector.getattr_policy("out_keys") == ["action"]
        with pytest.raises(Exception, match="no_such_thing"):
            collector.getattr_env("no_such_thing")


@KINDS
def test_versions_are_counted(make):
    with make(policy=actor(), track_policy_version=True) as collector:
        assert collector.get_policy_version() == collector.policy_version == 0
        collector.increment_version()
        assert collector.get_policy_version() == 1
        assert (collector.next()["policy_version"] == 1).all()
        collector.update_policy_weights_()
        assert (collector.next()["policy_version"] == 2).all()
    with make() as collector:
        collector.increment_version()
        assert collector.get_policy_version() == 1


@KINDS
def test_a_fake_batch_is_like_a_batch(make):
    with make(policy=Several(2), track_policy_version=True) as collector:
        fake, batch = collector.fake_tensordict(), collector.next()
        batch = batch if make is one else batch[0]
        assert set(fake.keys(True, True)) == set(batch.keys(True, True))
        for key in batch.keys(True, True):
            assert fake[key].shape == batch[key].shape
            assert fake[key].dtype == batch[key].dtype
        assert all((value == 0).all() for value in fake.values(True, True))


@KINDS
@pytest.mark.parametrize("option", ["compile_policy", "cudagraph_policy"])
def test_whether_the_policy_is_compiled(make, option):
    with make() as collector:
        assert collector.compiled_policy is collector.cudagraphed_policy is False
    if option == "compile_policy":
        with make(policy=actor(), compile_policy={"backend": "eager"}) as collector:
            assert collector.compiled_policy
            assert collector.compiled_policy_kwargs == {"backend": "eager"}
            assert collector.cudagraphed_policy_kwargs == {}


@pytest.mark.parametrize("workers", [None, [0, 1]])
def test_batches_are_recorded(workers, tmp_path):
    path = tmp_path / "deep" / "trace.json"
    make = one if workers is None else two
    with make(policy=actor()) as collector:
        collector.enable_profile(workers=workers, num_rollouts=1, warmup_rollouts=1, save_path=path, with_stack=False)
        for _ in range(2):
            assert not list(tmp_path.rglob("*.json"))
            collector.next()
    names = ["trace.json"] if workers is None else ["trace_0.json", "trace_1.json"]
    assert sorted(file.name for file in tmp_path.rglob("*.json")) == names
    assert json.loads((tmp_path / "deep" / names[0]).read_text())["traceEvents"]


def test_a_profile_is_passed_on():
    seen = []
    with one() as collector:
        collector.enable_profile(ProfileConfig(num_rollouts=1, warmup_rollouts=0, on_trace_ready=seen.append))
        with pytest.raises(RuntimeError, match="recorded already"):
            collector.enable_profile()
        collector.next()
    assert seen[0].key_averages()
    for options in ({"num_rollouts": 0}, {"activities": ["tpu"]}):
        with pytest.raises(ValueError, match="ProfileConfig"):
            ProfileConfig(**options)
    with two() as collector, pytest.raises(ValueError, match="no such workers"):
        collector.enable_profile(workers=[7])


def test_evaluators_are_polled_with_a_limit():
    evaluator = Evaluator(CountingEnv(), num_trajectories=1)
    assert evaluator.poll(timeout=0.1) is None
    evaluator.trigger_eval()
    assert evaluator.poll(timeout=60)["eval/episode_length"] == 3
    assert evaluator.poll() is None
    evaluator.shutdown()


# --- weights -------------------------------------------------------------------------------------


@KINDS
@pytest.mark.parametrize("scheme", [SharedMemWeightSyncScheme, MultiProcessWeightSyncScheme, NoWeightSyncScheme])
def test_schemes_say_whether_weights_are_sent(make, scheme):
    policy = actor()
    with make(policy=policy, policy_device="cpu", weight_sync_schemes={"policy": scheme("state_dict")}) as collector:
        before = collector.getattr_policy("module").weight.clone()
        new = {name: value + 1 for name, value in policy.state_dict().items()}
        collector.update_policy_weights_(new)
        collector.next()
        moved = not torch.equal(collector.getattr_policy("module").weight, before)
        assert moved == scheme("tensordict").sends
        assert collector.policy_version == int(moved)


@KINDS
def test_schemes_are_checked(make):
    for schemes, error in (({"critic": WeightSyncScheme()}, ValueError), ({"policy": "shared"}, TypeError)):
        with pytest.raises(error):
            make(weight_sync_schemes=schemes)
    with pytest.raises(ValueError, match="strategy"):
        WeightSyncScheme("pickle")
    with pytest.raises(ValueError, match="not both"):
        make(weight_sync_schemes={}, weight_updater=VanillaWeightUpdater(policy_weights=actor()))
    with pytest.raises(TypeError, match="no WeightUpdaterBase"):
        make(weight_updater=dict)


class Negated(WeightUpdaterBase):
    """Sends negative weights to all workers."""

    def __init__(self, source):
        self.source, self.workers = source, []

    def _get_server_weights(self):
        return self.source.state_dict()

    def _maybe_map_weights(self, server_weights):
        return {name: -value for name, value in server_weights.items()}

    def _sync_weights_with_worker(self, worker_id, server_weights):
        self.workers.append(worker_id)
        self.collector.send_weights(server_weights, None if worker_id is None else [worker_id])

    def all_worker_ids(self):
        return range(getattr(self.collector, "num_workers", 0)) or [None]


@KINDS
@pytest.mark.parametrize("built", [False, True])
def test_updaters_of_ones_own(make, built):
    policy = actor()
    start = policy.module.weight.detach().clone()
    updater = Negated(policy)
    with make(policy_factory=lambda: actor(), weight_updater=(lambda: updater) if built else updater) as collector:
        assert collector.weight_updater is updater
        collector.update_policy_weights_()
        collector.next()
        assert torch.equal(collector.getattr_policy("module").weight, -start)
        collector.update_policy_weights_(policy.state_dict(), worker_ids=None)
        assert updater.workers == ([None] * 2 if make is one else [0, 1] * 2)


def test_updates_before_each_batch():
    acting, learning = actor(), actor()
    updater = VanillaWeightUpdater(weight_getter=lambda: learning, policy_weights=acting)
    collector = one(policy=acting, weight_updater=updater, update_at_each_batch=True)
    collector.next()
    assert torch.equal(acting.module.weight, learning.module.weight)
    with pytest.raises(TypeError, match="no weight_getter"):
        VanillaWeightUpdater(policy_weights=acting).push_weights()


def test_environments_that_differ_in_bounds():
    makers = [lambda n=n: TransformedEnv(CountingEnv(99), StepCounter(n)) for n in (2, 3)]
    env = SerialEnv(2, makers, share_individual_td=False)
    batch = Collector(env, frames_per_batch=12).next()
    assert batch["next", "truncated"].sum(1).flatten().tolist() == [3, 2]
