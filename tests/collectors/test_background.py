"""Collecting beside the learner, and words that end a batch early."""

import threading
import time

import pytest
import torch

from torchrl._core.errors import WorkerError
from torchrl._core.exploration import exploration_type
from torchrl.collectors import Collector, Interruptor, MultiAsyncCollector, MultiSyncCollector
from torchrl.data import LazyMemmapStorage, LazyTensorStorage, ReplayBuffer
from torchrl.envs import SerialEnv
from torchrl.testing.mocks import CountingEnv

COLLECTORS = {
    "here": lambda **kw: Collector(CountingEnv(), **kw),
    "sync": lambda **kw: MultiSyncCollector([CountingEnv] * 2, **kw),
    "async": lambda **kw: MultiAsyncCollector([CountingEnv] * 2, **kw),
}


@pytest.fixture(params=COLLECTORS.values(), ids=COLLECTORS)
def make(request):
    return request.param


def wait_for(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.005)


@pytest.mark.parametrize("shared", [False, True])
def test_the_buffer_fills_by_itself(make, shared):
    storage = LazyMemmapStorage(10_000) if shared else LazyTensorStorage(10_000)
    buffer = ReplayBuffer(storage=storage, shared=shared, batch_size=4)
    collector = make(frames_per_batch=10, replay_buffer=buffer)
    collector.start()
    wait_for(lambda: buffer.write_count >= 50)
    buffer.sample()
    with collector.pause():
        before = buffer.write_count
        time.sleep(0.05)
        # A worker of an asynchronous collector ends the batch that it is at.
        assert buffer.write_count - before <= (20 if isinstance(collector, MultiAsyncCollector) else 0)
        assert collector.is_running()
        before = buffer.write_count
    wait_for(lambda: buffer.write_count > before)
    collector.async_shutdown()
    assert not collector.is_running()
    assert buffer.write_count % 10 == 0
    collector.async_shutdown()


def test_it_ends_when_all_frames_are_collected(make):
    buffer = ReplayBuffer(storage=LazyTensorStorage(100))
    collector = make(frames_per_batch=10, total_frames=50, replay_buffer=buffer)
    collector.start()
    wait_for(lambda: not collector.is_running())
    assert len(buffer) == 50
    collector.shutdown()


def test_an_error_beside_is_raised_where_the_learner_asks():
    def policy(td):
        raise ArithmeticError("lost count")

    buffer = ReplayBuffer(storage=LazyTensorStorage(100))
    collector = Collector(CountingEnv(), policy, frames_per_batch=10, replay_buffer=buffer)
    collector.start()
    collector._background._thread.join()
    with pytest.raises(ArithmeticError, match="lost count"), collector.pause():
        pass
    collector.shutdown()
    there = MultiSyncCollector([CountingEnv], policy, frames_per_batch=10, replay_buffer=buffer)
    there.start()
    there._background._thread.join()
    with pytest.raises(WorkerError, match="lost count"):
        there.async_shutdown()
    there.shutdown()


def test_starting_needs_a_buffer_and_happens_once():
    collector = Collector(CountingEnv(), frames_per_batch=10)
    with pytest.raises(ValueError, match=r"no replay buffer to fill.*Pass replay_buffer"):
        collector.start()
    collector.replay_buffer = ReplayBuffer(storage=LazyTensorStorage(100))
    collector.start()
    with pytest.raises(RuntimeError, match="started already"):
        collector.start()
    collector.shutdown()


def test_exploring_beside_does_not_change_how_the_learner_acts():
    seen = []

    class Watching(CountingEnv):
        def _step(self, tensordict):
            seen.append(exploration_type())
            time.sleep(0.01)
            return super()._step(tensordict)

    buffer = ReplayBuffer(storage=LazyTensorStorage(100))
    collector = Collector(Watching(), frames_per_batch=50, replay_buffer=buffer, exploration_type="random")
    collector.start()
    wait_for(lambda: seen)
    assert exploration_type() is None
    collector.shutdown()
    assert {str(kind) for kind in seen} == {"random"} or all(kind.value == "random" for kind in seen)


def test_an_interruptor_ends_a_batch_early():
    class Slow(CountingEnv):
        def _step(self, tensordict):
            time.sleep(0.01)
            return super()._step(tensordict)

    interruptor = Interruptor()
    collector = Collector(Slow(), frames_per_batch=10_000, total_frames=20_000, interruptor=interruptor)
    threading.Timer(0.1, interruptor.stop_collection).start()
    batch = collector.next()
    assert 1 <= batch.shape[0] < 1000
    assert collector._frames == batch.shape[0]
    assert collector.next().shape == (1,)
    interruptor.start_collection()
    assert not interruptor.collection_stopped()


# --- whole trajectories --------------------------------------------------------------------------


@pytest.mark.parametrize("frames", [6, 50])
def test_whole_trajectories(make, frames):
    """Episodes of three steps, whatever the batches are cut into."""
    kwargs = {"frames_per_batch": frames, "total_frames": 150 // frames * frames}
    with make(trajs_per_batch=4, **kwargs) as collector:
        batches = list(collector)
    for batch in batches:
        assert batch.shape[1] == 3
        assert batch["collector", "mask"].all()
        assert (batch["observation"][..., 0] == torch.arange(3.0)).all()
        assert batch["next", "done"][:, -1].all()
        assert (batch["collector", "traj_ids"] == batch["collector", "traj_ids"][:, :1]).all()
    sizes = [batch.shape[0] for batch in batches]
    assert set(sizes[:-1]) == {4}
    assert 3 * sum(sizes) >= kwargs["total_frames"] - 4  # each worker may be in the middle of one


def test_trajectories_of_different_lengths_are_padded_or_not():
    env = CountingEnv(2, batch_size=[2])  # the rows end after two and after three steps
    collector = Collector(env, frames_per_batch=12, total_frames=12, trajs_per_batch=3)
    batches = list(collector)
    lengths = [batch["collector", "mask"].sum(1).tolist() for batch in batches]
    assert lengths == [[2, 2, 2], [3, 3]]
    assert not batches[0].get("observation")[~batches[0]["collector", "mask"]].any()
    flat = Collector(
        CountingEnv(2, batch_size=[2]),
        frames_per_batch=12,
        total_frames=12,
        trajs_per_batch=3,
        traj_format="cat",
        postproc=lambda td: td.set("seen", torch.ones(td.shape)),
    )
    batches = list(flat)
    assert [batch.shape for batch in batches] == [(6,), (6,)]
    assert (batches[0]["seen"] == 1).all()


def test_trajectories_that_a_reset_cuts_are_left_out():
    collector = Collector(
        CountingEnv(3), frames_per_batch=5, total_frames=20, trajs_per_batch=2, reset_at_each_iter=True
    )
    assert [batch.shape for batch in collector] == [(2, 3), (2, 3)]
    assert not collector._whole._open


def test_whole_trajectories_fill_a_buffer():
    buffer = ReplayBuffer(storage=LazyTensorStorage(100))
    collector = Collector(CountingEnv(3), frames_per_batch=5, total_frames=20, trajs_per_batch=2, replay_buffer=buffer)
    assert list(collector) == [None] * 3
    assert len(buffer) == 18
    with pytest.raises(TypeError, match="count the batches"):
        len(collector)


def test_whole_trajectories_are_written_while_steps_are_counted(make):
    buffer = ReplayBuffer(storage=LazyTensorStorage(100))
    sizes = []
    with make(trajs_per_write=2, frames_per_batch=10, total_frames=60, replay_buffer=buffer) as collector:
        for batch in collector:
            assert batch is None
            sizes.append(len(buffer))
    assert len(sizes) == 6
    assert all(size % 6 == 0 for size in sizes)  # two episodes of three steps
    assert len(buffer) >= 54  # each worker may be in the middle of one
    steps = buffer[:]
    assert (steps["observation"][:, 0] == torch.arange(3.0).repeat(len(buffer) // 3)).all()
    numbers = steps["collector", "traj_ids"].reshape(-1, 3)
    assert (numbers == numbers[:, :1]).all()


def test_contradictions_are_refused():
    make = lambda **kw: Collector(CountingEnv(), frames_per_batch=5, **kw)
    with pytest.raises(ValueError, match=r"split_trajs cuts .* pass one of them"):
        make(trajs_per_batch=2, split_trajs=True)
    with pytest.raises(ValueError, match="traj_format needs trajs_per_batch"):
        make(traj_format="cat")
    with pytest.raises(ValueError, match=r"trajs_per_write needs a replay_buffer .* no trajs"):
        make(trajs_per_write=2)
    with pytest.raises(ValueError, match="trajs_per_write needs track_traj_ids"):
        make(trajs_per_write=2, track_traj_ids=False)
    with pytest.raises(ValueError, match=r"traj_format one of .*'padded', 'cat'.* found 2, 'flat'"):
        make(trajs_per_batch=2, traj_format="flat")


CALLS = {
    "get_distant_attr": lambda c: c.get_distant_attr("env.batch_size"),
    "map_fn": lambda c: c.map_fn("env.rand_action"),
    "state_dict": lambda c: c.state_dict(),
    "load_state_dict": lambda c: c.load_state_dict(c.state_dict()),
    "set_seed": lambda c: c.set_seed(0),
    "reset": lambda c: c.reset(),
    "rollout": lambda c: c.rollout(),
}


@pytest.mark.parametrize("call", CALLS)
def test_calls_beside_background_collection_are_answered_between_two_batches(make, call):
    buffer = ReplayBuffer(storage=LazyTensorStorage(10_000))
    collector = make(frames_per_batch=10, replay_buffer=buffer)
    collector.start()
    try:
        for _ in range(20):
            time.sleep(0.002)
            CALLS[call](collector)
        assert collector.is_running()
        before = buffer.write_count
        wait_for(lambda: buffer.write_count > before)
    finally:
        collector.async_shutdown()


def test_hooks_of_the_background_may_call_the_workers(make):
    found = []
    collector = make(
        frames_per_batch=10,
        total_frames=30,
        replay_buffer=ReplayBuffer(storage=LazyTensorStorage(100)),
        post_collect_hook=lambda _: found.append(collector.get_distant_attr("env.batch_size")),
    )
    collector.start()
    wait_for(lambda: not collector.is_running())
    collector.async_shutdown()
    assert len(found) == 3


@pytest.mark.parametrize("kind", [MultiSyncCollector, MultiAsyncCollector])
def test_shutdown_ends_workers_that_hang_in_the_background(kind):
    class Stuck(CountingEnv):
        def _step(self, tensordict):
            time.sleep(60)

    buffer = ReplayBuffer(storage=LazyTensorStorage(100))
    collector = kind([Stuck] * 2, frames_per_batch=10, replay_buffer=buffer, shutdown_timeout=0.3)
    collector.start()
    start = time.monotonic()
    collector.shutdown()
    assert time.monotonic() - start < 8


def serial_of_four():
    return SerialEnv(4, CountingEnv)


ROUNDED = {
    "here": (lambda: Collector(serial_of_four(), frames_per_batch=10), "10", "12"),
    "sync": (lambda: MultiSyncCollector([CountingEnv] * 3, frames_per_batch=10), "10", "12"),
    "sync, each": (
        lambda: MultiSyncCollector([serial_of_four] * 2, frames_per_batch=[10, 8]),
        r"\[10, 8\]",
        r"\[12, 8\]",
    ),
    "async": (lambda: MultiAsyncCollector([serial_of_four], frames_per_batch=10), "10", "12"),
}


@pytest.mark.parametrize("case", ROUNDED)
def test_frames_that_cannot_be_shared_equally_are_warned_of(case):
    make, asked, found = ROUNDED[case]
    with pytest.warns(UserWarning, match=f"frames_per_batch={asked} .* have {found} frames"):
        make().shutdown()
