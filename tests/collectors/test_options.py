"""What batches and collectors can be asked for beside frames."""

import os
import subprocess
import sys

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from torchrl.collectors import AsyncCollector, Collector, MultiSyncCollector
from torchrl.collectors.policy_runner import moved
from torchrl.data import LazyTensorStorage, ReplayBuffer
from torchrl.envs import InitTracker, TransformedEnv
from torchrl.modules import GRUModule
from torchrl.testing.mocks import CountingEnv


def counting():
    return CountingEnv(horizon=5)


def linear():
    return TensorDictModule(nn.Linear(2, 1), in_keys=["observation"], out_keys=["action"])


def constant(value):
    policy = linear()
    nn.init.zeros_(policy.module.weight)
    nn.init.constant_(policy.module.bias, value)
    return policy


KINDS = {"here": Collector, "in workers": lambda env, *args, **kw: MultiSyncCollector([env] * 2, *args, **kw)}


@pytest.fixture(params=KINDS.values(), ids=KINDS)
def kind(request):
    return request.param


# --- batches -------------------------------------------------------------------------------------


def test_one_record_again_and_again():
    plain = list(Collector(counting(), constant(0.5), frames_per_batch=4, total_frames=12))
    again = Collector(counting(), constant(0.5), frames_per_batch=4, total_frames=12, return_same_td=True)
    kept = [(id(batch), batch.clone()) for batch in again]
    assert len({number for number, _ in kept}) == 1
    for (_, batch), expected in zip(kept, plain, strict=True):
        torch.testing.assert_close(batch["observation"], expected["observation"])


def test_steps_that_differ_in_shape_have_no_place_in_buffers():
    def growing(td):
        count = int(td["observation"].max()) + 1
        return td.set("action", torch.zeros(1)).set("more", torch.zeros(count))

    lazy = Collector(counting(), growing, frames_per_batch=4).next()
    assert [len(step["more"]) for step in lazy.unbind(0)] == [1, 2, 3, 4]
    with pytest.raises(RuntimeError, match="stack"):
        Collector(counting(), growing, frames_per_batch=4, use_buffers=True).next()


def test_trajectories_need_not_be_numbered():
    batch = Collector(counting(), frames_per_batch=4, track_traj_ids=False).next()
    assert "collector" not in batch
    with pytest.raises(ValueError, match="trajs_per_batch needs track_traj_ids"):
        Collector(counting(), frames_per_batch=4, track_traj_ids=False, trajs_per_batch=2)


def test_observations_need_not_be_kept_twice(kind):
    with kind(counting, frames_per_batch=8, compact_obs=True) as collector:
        batch = collector.next()
    assert "observation" in batch
    assert set(batch["next"].keys()) == {"reward", "done", "terminated"}


def test_hooks_are_called_around_each_batch(kind):
    told = []
    with kind(
        counting,
        frames_per_batch=8,
        total_frames=16,
        pre_collect_hook=lambda: told.append("before"),
        post_collect_hook=lambda batch: told.append(batch.numel()),
    ) as collector:
        told.extend("yielded" for _ in collector)
    assert told == ["before", 8, "yielded"] * 2


# --- policies ------------------------------------------------------------------------------------


def test_a_cuda_graph_needs_a_cuda_device(kind):
    for options in ({"policy_device": "cpu"}, {}):
        with pytest.raises((ValueError, RuntimeError), match=r"policy_device='cuda', found cpu"):
            kind(counting, linear(), frames_per_batch=8, cudagraph_policy=True, **options)


def test_only_moves_to_cuda_devices_may_go_on_beside_us():
    class Record:
        def to(self, device, **kwargs):
            return str(device), kwargs

    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    assert moved(Record(), cuda, waits=False) == ("cuda", {"non_blocking": True})
    assert moved(Record(), cuda, waits=True) == ("cuda", {})
    assert moved(Record(), cpu, waits=False) == ("cpu", {})
    batch = Collector(counting(), linear(), frames_per_batch=4, device="cpu", no_cuda_sync=True)
    assert batch.next().device == torch.device("cpu")


def test_what_a_recurrent_policy_reads_is_appended(kind):
    policy = GRUModule(2, 1, in_key="observation", out_key="action")
    with kind(counting, policy, frames_per_batch=24, auto_register_policy_transforms=True) as collector:
        batch = collector.next().reshape(-1, 12 if kind is not Collector else 24)
    assert batch["is_init"][:, 0].all()
    begins = batch["is_init"].squeeze(-1)
    assert begins.sum(-1).min() > 1
    assert not batch["recurrent_state"][begins].any()
    carried = batch["next", "recurrent_state"][:, :-1][~begins[:, 1:]]
    torch.testing.assert_close(batch["recurrent_state"][:, 1:][~begins[:, 1:]], carried)


def test_lazy_layers_get_their_shapes_from_what_is_appended():
    gru = GRUModule(2, 4, in_key="observation", out_key="hidden")
    policy = TensorDictSequential(gru, TensorDictModule(nn.LazyLinear(1), ["hidden"], ["action"]))
    with MultiSyncCollector(
        [counting] * 2, policy, frames_per_batch=8, auto_register_policy_transforms=True
    ) as collector:
        assert collector.next().shape == (2, 4)
    assert policy[1].module.in_features == 4


def test_what_is_there_is_not_appended_again():
    gru = GRUModule(2, 1, in_key="observation", out_key="action")
    env = TransformedEnv(counting(), InitTracker()).append_transform(gru.make_tensordict_primer())
    collector = Collector(env, gru, frames_per_batch=4, auto_register_policy_transforms=True)
    assert collector.env is env
    plain = counting()
    assert Collector(plain, linear(), frames_per_batch=4, auto_register_policy_transforms=True).env is plain


# --- weights -------------------------------------------------------------------------------------


def test_weights_for_some_workers():
    with MultiSyncCollector([counting] * 2, constant(0.0), frames_per_batch=8, track_policy_version=True) as collector:
        collector.update_policy_weights_(constant(1.0), worker_ids=1)
        batch = collector.next()
        assert batch["action"].squeeze(-1).tolist() == [[0.0] * 4, [1.0] * 4]
        assert batch["policy_version"].tolist() == [[0] * 4, [1] * 4]
        collector.update_policy_weights_(constant(2.0))
        batch = collector.next()
        assert (batch["action"] == 2.0).all()
        assert (batch["policy_version"] == 2).all()
        assert collector.policy_version == 2
        collector.update_policy_weights_(constant(3.0))
        collector.update_policy_weights_(constant(4.0), worker_ids=[0])
        assert collector.next()["action"].squeeze(-1).tolist() == [[4.0] * 4, [3.0] * 4]
        with pytest.raises(ValueError, match=r"no such workers; expected numbers from 0 to 1, fou"):
            collector.update_policy_weights_(worker_ids=[1, 2])
    with pytest.raises(ValueError, match="Collector: it has no workers to choose from"):
        Collector(counting(), linear(), frames_per_batch=4).update_policy_weights_(worker_ids=0)


def test_weights_by_the_name_of_their_model(kind):
    with kind(counting, constant(0.0), frames_per_batch=8) as collector:
        collector.update_policy_weights_(weights_dict={"policy": constant(1.0)})
        assert (collector.next()["action"] == 1.0).all()
        collector.update_policy_weights_(constant(2.0), model_id="policy")
        assert (collector.next()["action"] == 2.0).all()
        collector.update_policy_weights_(policy_weights=constant(3.0).state_dict())
        assert (collector.next()["action"] == 3.0).all()
        with pytest.raises(ValueError, match=r"one model .* expected 'policy', found \['critic'\]"):
            collector.update_policy_weights_(model_id="critic")
        with pytest.raises(ValueError, match="either weights or a weights_dict"):
            collector.update_policy_weights_(linear(), weights_dict={"policy": linear()})


# --- collectors ----------------------------------------------------------------------------------


def test_how_far_collection_has_come(kind):
    with kind(counting, frames_per_batch=8, total_frames=16) as collector:
        assert collector.stats()["frames"] == 0
        assert collector.rollout().numel() == 8
        stats = collector.stats()
        assert (stats["frames"], stats["batches"], stats["completed"]) == (8, 1, False)
        assert len(list(collector)) == 1
        stats = collector.stats()
    assert (stats["frames"], stats["total_frames"], stats["completed"]) == (16, 16, True)
    assert stats["requested_frames_per_batch"] == 8


def test_a_collector_is_a_data_set(kind):
    with kind(counting, frames_per_batch=8, total_frames=24) as collector:
        assert isinstance(collector, IterableDataset)
        loader = DataLoader(collector, batch_size=None, collate_fn=lambda batch: batch)
        shapes = [batch.numel() for batch in loader]
    assert shapes == [8] * 3


def test_attributes_and_methods_where_collection_is():
    here = Collector(counting(), frames_per_batch=8, worker_idx=3)
    assert here.get_distant_attr("env.batch_size") == torch.Size([])
    assert here.worker_idx == 3
    assert isinstance(here.map_fn("set_seed", 0), int)
    with MultiSyncCollector([counting] * 2, frames_per_batch=8) as collector:
        assert collector.get_distant_attr("worker_idx") == [0, 1]
        assert collector.map_fn("env.set_seed", 0, static_seed=True) == [0, 0]


class Doubling(Collector):
    """Doubles the rewards that it collects."""

    def _collect(self, *, random):
        batch, frames = super()._collect(random=random)
        return batch.set(("next", "reward"), 2 * batch["next", "reward"]), frames


def test_what_collects_in_a_worker_can_be_chosen():
    with AsyncCollector(counting, frames_per_batch=4, total_frames=4) as collector:
        plain = collector.next()["next", "reward"]
    with AsyncCollector(counting, frames_per_batch=4, total_frames=4, collector_class=Doubling) as collector:
        torch.testing.assert_close(collector.next()["next", "reward"], 2 * plain)


def test_workers_can_be_prepared():
    def prepare():
        os.environ["PREPARED"] = "5"

    def make_env():
        return CountingEnv(horizon=int(os.environ["PREPARED"]))

    with MultiSyncCollector([make_env] * 2, frames_per_batch=12, init_fn=prepare) as collector:
        assert collector.next()["next", "done"].sum() == 2
    assert "PREPARED" not in os.environ


def test_preempted_frames_do_not_count_as_random_ones():
    with MultiSyncCollector([counting] * 2, constant(0.5), frames_per_batch=8, init_random_frames=16) as collector:
        collector._frames, collector._requested = 8, 16  # as if shares had ended early
        random = [not (collector.next()["action"] == 0.5).any() for _ in range(3)]
    assert random == [True, False, False]


def test_a_buffer_of_rows_keeps_its_form():
    buffer = ReplayBuffer(storage=LazyTensorStorage(12, ndim=2), batch_size=4)
    env = CountingEnv(horizon=5, batch_size=[3])
    for batch in Collector(env, frames_per_batch=6, total_frames=12, replay_buffer=buffer):
        assert batch is None
    assert len(buffer) == 12


SCRIPT = """
import torch
from torchrl.collectors import MultiSyncCollector
from torchrl.testing.mocks import CountingEnv
def make_env():
    return CountingEnv(horizon=HORIZON)
HORIZON = 3
for method in ("fork", "spawn"):
    with MultiSyncCollector([make_env], lambda td: td.set("action", torch.ones(1) * HORIZON / 4),
                            frames_per_batch=8, mp_start_method=method) as collector:
        print(collector.next()["action"].sum().item())
"""


@pytest.mark.slow
def test_a_script_without_a_guard_from_standard_input():
    done = subprocess.run([sys.executable, "-"], input=SCRIPT, capture_output=True, text=True, timeout=200, check=False)
    assert done.stdout == "6.0\n6.0\n", done.stderr
    assert not done.stderr


def test_moves_are_by_record():
    record = TensorDict(a=torch.ones(2), batch_size=[2])
    assert moved(record, torch.device("cpu"), waits=False)["a"].sum() == 2
