"""Actors that fail, are killed or do not run: what is told, what goes on, and that nothing remains."""

import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import pytest
from tensordict.nn import TensorDictModule
from torch import nn

from tests.collectors.failures import KILLS, Broken, Slow, actor_pids, are_gone, descendants_of, kill, runs, unbuildable
from torchrl._core.errors import WorkerError
from torchrl._core.workers import ray_session
from torchrl.testing.mocks import CountingEnv

pytest.importorskip("ray")
from torchrl.collectors.distributed import RayCollector, ray_pool

pytestmark = [
    pytest.mark.distributed,
    pytest.mark.ray,
    pytest.mark.usefixtures("local_ray"),
    pytest.mark.filterwarnings("default"),
    pytest.mark.timeout(590),
]
modes = pytest.mark.parametrize("sync", [True, False], ids=["sync", "async"])


def check_trajectories(batches):
    """No number is given to two trajectories: each has the steps from its first to its last once."""
    steps = defaultdict(list)
    for batch in batches:
        rows = batch.reshape(-1)
        counts = rows["observation"][:, 0].tolist()
        for number, count in zip(rows["collector", "traj_ids"].tolist(), counts, strict=True):
            steps[number].append(int(count))
    for counts in steps.values():
        assert sorted(counts) == list(range(min(counts), min(counts) + len(counts)))


def places(collector):
    return [actor.place for actor in collector._pool.actors]


def test_an_error_arrives_with_its_traceback_and_its_place():
    collector = RayCollector([CountingEnv, lambda: Broken(9)], frames_per_batch=20)
    pids, place = actor_pids(collector), places(collector)[1]
    with pytest.raises(WorkerError) as error:
        collector.next()
    text = str(error.value)
    assert text.startswith(f"RayCollector: worker 1 failed in Broken, actor {place.actor}, process {place.pid} on node")
    assert f"{place.node_ip} ({place.node}): ArithmeticError: the wheel came off" in text
    assert 'raise ArithmeticError("the wheel came off")' in text
    assert are_gone(pids, still=runs)
    with pytest.raises(RuntimeError, match="it was shut down; build a new one"):
        collector.next()
    collector.shutdown()


def test_an_environment_that_cannot_be_built_is_named():
    with pytest.raises(WorkerError, match=r"worker 0 failed in unbuildable, actor .*: no such simulator"):
        RayCollector(unbuildable, frames_per_batch=20, on_failure="restart")


@modes
def test_a_killed_worker_is_named_at_once(sync):
    for moment in ("collecting", "idle"):
        collector = RayCollector(lambda: Slow(9, delay=0.01), num_collectors=1, frames_per_batch=100, sync=sync)
        pids, place = actor_pids(collector), places(collector)[0]
        if moment == "collecting":
            collector._request(0) if sync else collector._request_more()
            time.sleep(0.2)
        start = time.monotonic()
        kill(pids[0])
        with pytest.raises(WorkerError) as error:
            collector._pool.wait() if sync and moment == "collecting" else collector.next()
        assert time.monotonic() - start < 5
        text = str(error.value)
        assert f"worker 0 was lost in Slow, actor {place.actor}, process {place.pid} on node {place.node_ip}" in text
        assert place.node in text
        assert are_gone(pids, still=runs)
        collector.shutdown()


@modes
def test_kills_in_mid_collection_change_no_count(sync):
    policy = TensorDictModule(nn.Linear(2, 1), ["observation"], ["action"])
    collector = RayCollector(
        lambda: Slow(13, delay=0.01), policy, num_collectors=2, frames_per_batch=40, sync=sync, on_failure="restart",
        track_policy_version=True,
    )  # fmt: skip
    pool, batches, pids = collector._pool, [], []
    for version in range(1, KILLS // 2 + 1):
        collector.update_policy_weights_()
        batches += [collector.next() for _ in range(2)]
        actor = next(actor for actor in pool.actors if actor.start is None)
        pids.append(actor.place.pid)
        if not version % 2 and not sync:
            time.sleep(0.1)
        kill(actor.place.pid)
        batches += [collector.next() for _ in range(2)]
        pool._when_ready(actor.worker)
        if sync:  # by old, restarted and replaced workers alike
            assert all(batch["policy_version"].eq(version).all() for batch in batches[-4:])
    assert [tuple(batch.shape) for batch in batches] == [(2, 20) if sync else (40,)] * 4 * version
    assert collector.stats()["frames"] == 40 * len(batches)
    check_trajectories(batches)
    assert not any(map(runs, pids))
    pids = actor_pids(collector)
    collector.shutdown()
    assert are_gone(pids, still=runs)


def test_a_worker_that_fails_again_and_again_ends_the_collection():
    collector = RayCollector(lambda: Broken(9), frames_per_batch=40, on_failure="restart")
    with pytest.raises(WorkerError, match="the wheel came off"):
        collector.next()
    assert collector._pool.actors[0].attempt == 2
    collector.shutdown()


def test_a_stopped_worker_does_not_stop_the_others_nor_fill_the_store():
    collector = RayCollector(lambda: CountingEnv(9), num_collectors=2, frames_per_batch=20, sync=False)
    stopped, other = actor_pids(collector)
    os.kill(stopped, signal.SIGSTOP)
    batches = [collector.next() for _ in range(20)]
    assert len(batches) == 20
    assert collector._pool.num_requested <= 2
    start = time.monotonic()
    collector.shutdown(timeout=1)
    assert time.monotonic() - start < 10
    assert are_gone([stopped, other], wait=30, still=runs)


def test_another_version_is_refused(monkeypatch):
    ours = {**ray_session.versions(), "torch": "1.0"}
    monkeypatch.setattr(ray_session, "versions", lambda: ours)
    with pytest.raises(WorkerError, match=r"worker 0 has other versions in .*: torch 2.* there and torch 1.0 here"):
        RayCollector(CountingEnv, frames_per_batch=20)


def test_an_actor_whose_node_is_lost_before_it_runs_is_placed_again(local_ray, monkeypatch):
    @local_ray.remote
    def answer_of_ray():
        raise RuntimeError("The actor died because its node has died. The actor never ran.")

    make, made = ray_pool.RayPool._new_actor, []

    def new_actor(pool, worker, attempt):
        actor = make(pool, worker, attempt)
        made.append((worker, attempt))
        if len(made) == 1:
            del pool._refs[actor.start]
            actor.start = answer_of_ray.remote()
            pool._refs[actor.start] = actor, ray_pool.START
        return actor

    monkeypatch.setattr(ray_pool.RayPool, "_new_actor", new_actor)
    with RayCollector(CountingEnv, num_collectors=2, frames_per_batch=20) as collector:
        assert collector.next().shape == (2, 10)
    assert made == [(0, 0), (1, 0), (0, 0)]


def test_an_actor_that_no_node_has_room_for_is_told():
    with pytest.raises(WorkerError, match=r"worker 0 did not start within 2 s. An actor needs"):
        RayCollector(CountingEnv, frames_per_batch=20, remote_configs={"num_gpus": 1}, start_timeout=2)


PROGRAM = """
from torchrl.collectors.distributed import RayCollector
from torchrl.testing.mocks import CountingEnv
config = {"address": "local", "num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
collector = RayCollector(CountingEnv, frames_per_batch=2000, ray_init_config=config, sync=False)
collector.next()
print("ACTOR", collector._pool.actors[0].place.pid, flush=True)
while True:
    collector.next()
"""


def objects_of_ray():
    return {name for name in os.listdir("/dev/shm") if name.startswith(("plasma", "ray"))}


def test_a_program_that_is_killed_leaves_nothing():
    before = objects_of_ray()
    program = subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True)
    line = next(line for line in program.stdout if line.startswith("ACTOR"))
    pids = [int(line.split()[1]), *descendants_of(program.pid)]
    assert len(pids) > 3
    # Two agents of Ray itself look for their node once a minute, which not every run of the tests waits for.
    agents = [pid for pid in pids if "Agent" in Path(f"/proc/{pid}/cmdline").read_text()]
    assert len(agents) <= 2
    program.kill()
    program.wait()
    program.stdout.close()
    assert are_gone(pids[:1], wait=5, still=runs)
    assert are_gone(set(pids) - set(agents), wait=20, still=runs)
    if KILLS >= 20:
        assert are_gone(agents, wait=100, still=runs)
    assert objects_of_ray() <= before


def test_the_object_store_holds_a_bounded_number_of_batches(local_ray):
    rows = 4000
    collector = RayCollector(
        lambda: CountingEnv(9, batch_size=[rows]), frames_per_batch=10 * rows, sync=False, max_pending_batches=2
    )
    size = sum(value.nbytes for value in collector.next().values(True, True))
    for _ in range(200):
        collector.next()
    assert 200 * size > 3 * 80 * 2**20  # bytes of the store
    folder = local_ray._private.worker.global_worker.node.get_session_dir_path()
    assert not [path for path in Path(folder).rglob("ray_spilled_objects*/*") if path.is_file()]
    collector.shutdown()
