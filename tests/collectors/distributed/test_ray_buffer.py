"""A replay buffer in a Ray actor: the interface of one here, written to by all actors, priorities included."""

import pickle
import time

import pytest
import torch
from tensordict import TensorDict

from tests.collectors.failures import kill
from torchrl._core.errors import WorkerError
from torchrl.collectors import Evaluator
from torchrl.data import (
    LazyTensorStorage,
    ListStorage,
    PrioritizedSampler,
    RayReplayBuffer,
    ReplayBuffer,
    SamplerWithoutReplacement,
    TensorDictReplayBuffer,
    TensorDictRoundRobinWriter,
)
from torchrl.testing.mocks import CountingEnv

pytest.importorskip("ray")
from torchrl.collectors.distributed import RayCollector

pytestmark = [
    pytest.mark.distributed,
    pytest.mark.ray,
    pytest.mark.usefixtures("local_ray"),
    pytest.mark.filterwarnings("default"),
    pytest.mark.timeout(300),
]


def data(count=20):
    return TensorDict(a=torch.arange(count).float(), batch_size=[count])


def test_a_prioritized_buffer_does_what_one_here_does(tmp_path):
    with RayReplayBuffer(
        replay_buffer_cls=TensorDictReplayBuffer,
        storage=LazyTensorStorage(50),
        sampler=PrioritizedSampler(50, alpha=1.0, beta=0.5),
        writer=TensorDictRoundRobinWriter(),
        priority_key="td_error",
        batch_size=8,
    ) as buffer:
        assert buffer.extend(data()).tolist() == list(range(20))
        assert buffer.add(TensorDict(a=torch.tensor(20.0))) == 20
        assert len(buffer) == 21
        assert buffer.batch_size == 8
        sample = buffer.sample()
        assert sample.shape == (8,)
        sample.zero_()  # memory of its own
        assert buffer.sample(200)["a"].unique().numel() > 10
        buffer.update_priority(torch.arange(21), torch.zeros(21))
        sample = buffer.sample(4)
        sample["td_error"] = torch.ones(4)
        buffer.update_tensordict_priority(sample)
        found = buffer.sample(300)
        share = torch.isin(found["index"], sample["index"]).float().mean()
        assert share > 0.9
        assert buffer.sampler.beta == 0.5
        buffer.sampler.beta = 0.9
        assert buffer.sampler.beta == 0.9
        assert len(buffer.storage) == 21
        assert buffer.storage.max_size == 50
        assert "Prioritized" in repr(buffer.sampler)
        assert buffer[:3]["a"].tolist() == [0, 1, 2]
        assert "RayReplayBuffer(TensorDictReplayBuffer" in repr(buffer)
        buffer.dumps(tmp_path / "saved")
        state = buffer.state_dict()
        buffer.empty()
        assert len(buffer) == 0
        buffer.load_state_dict(state)
        assert len(buffer) == 21
        buffer.empty()
        buffer.loads(tmp_path / "saved")
        assert len(buffer) == 21
        with pytest.raises(AttributeError, match="no_such"):
            getattr(buffer, "no_such")  # noqa: B009
        with pytest.raises(AttributeError, match="no_such"):
            getattr(buffer.sampler, "no_such")  # noqa: B009
        with pytest.raises(KeyError):
            buffer.extend(TensorDict(b=torch.zeros(3, 4), batch_size=[3]))


def test_items_of_any_kind_and_an_end_of_iteration():
    buffer = RayReplayBuffer(
        storage=ListStorage(10), sampler=SamplerWithoutReplacement(drop_last=False), collate_fn=list, batch_size=2
    )
    buffer.extend(["a", "b", "c", "d"])
    assert sorted(item for batch in buffer for item in batch) == ["a", "b", "c", "d"]
    copy = pickle.loads(pickle.dumps(buffer))
    buffer.close()
    with pytest.raises(RuntimeError, match=r"RayReplayBuffer: was closed\. Build a new one"):
        len(buffer)
    with pytest.raises(WorkerError, match=r"RayReplayBuffer: was lost, actor .* on node"):
        use_for_a_while(copy)
    with pytest.raises(ValueError, match="seventeen"):
        RayReplayBuffer(replay_buffer_cls=refuse)


def use_for_a_while(buffer):
    for _ in range(100):  # Ray ends an actor a moment after it is told to
        len(buffer)
        time.sleep(0.1)


def refuse():
    raise ValueError("seventeen")


@pytest.mark.parametrize("sync", [True, False], ids=["sync", "async"])
def test_actors_write_themselves_and_each_frame_once_though_they_are_killed(sync):
    with RayReplayBuffer(storage=LazyTensorStorage(10_000), batch_size=8) as buffer:
        collector = RayCollector(
            CountingEnv, num_collectors=2, frames_per_batch=40, total_frames=4000, sync=sync, replay_buffer=buffer,
            on_failure="restart",
        )  # fmt: skip
        assert collector._workers_write()
        for i, batch in enumerate(collector):
            assert batch is None
            if i in (5, 50):
                ready = next(actor for actor in collector._pool.actors if actor.start is None)
                kill(ready.place.pid)
        assert collector.stats()["frames"] == 4000
        collector.shutdown()
        assert len(buffer) == 4000


def test_an_evaluator_has_the_numbers_of_a_process():
    found = []
    for backend in ("process", "ray"):
        torch.manual_seed(3)
        results = []
        evaluator = Evaluator(
            lambda: CountingEnv(5), num_trajectories=3, backend=backend, on_result=results.append, init_fn=set_flag,
            exploration_type="random",
        )  # fmt: skip
        metrics = evaluator.evaluate(step=4)
        assert evaluator.trigger_eval(step=5)
        later = evaluator.wait(30)
        found.append([{k: v for k, v in each.items() if k != "eval/fps"} for each in (metrics, later)])
        assert len(results) == 2
        evaluator.shutdown()
    assert found[0] == found[1]
    with pytest.raises(WorkerError, match=r"Evaluator: its actor failed, actor .*: ValueError: seventeen"):
        Evaluator(refuse, backend="ray")
    with pytest.raises(ValueError, match="num_gpus is an argument of backend='ray'"):
        Evaluator(CountingEnv(), num_gpus=1)


def set_flag():
    torch.set_flush_denormal(False)


def test_a_buffer_of_one_kind_is_that_kind():
    with RayReplayBuffer(storage=lambda: LazyTensorStorage(5)) as buffer:
        buffer.extend(data(3))
        assert isinstance(buffer, type(buffer))
        assert len(buffer) == 3
        assert not isinstance(buffer, ReplayBuffer)
