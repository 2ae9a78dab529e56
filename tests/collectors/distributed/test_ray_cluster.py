"""A cluster of three nodes on this machine: the same data, and nodes that are killed."""

import time
from collections import deque

import pytest
import torch

from tests.collectors.failures import KILLS
from torchrl._core.errors import WorkerError
from torchrl.collectors import MultiSyncCollector
from torchrl.data import LazyTensorStorage, RayReplayBuffer, TensorDictReplayBuffer
from torchrl.testing.mocks import CountingEnv

ray = pytest.importorskip("ray")
from torchrl.collectors.distributed import RayCollector  # noqa: E402

pytestmark = [pytest.mark.distributed, pytest.mark.ray, pytest.mark.filterwarnings("default"), pytest.mark.timeout(570)]
STORE = 80 * 2**20
ROOM = {"num_cpus": 0, "resources": {"room": 1}}


class Nodes:
    """A head without room for actors, and nodes with room for one each."""

    def __init__(self):
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 1, "object_store_memory": STORE, "include_dashboard": False}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        ray.init(address=self.cluster.address, log_to_driver=False)
        self.nodes = {}

    def add(self):
        node = self.cluster.add_node(num_cpus=1, object_store_memory=STORE, resources={"room": 1})
        self.nodes[node.node_id] = node

    def kill(self, place):
        self.cluster.remove_node(self.nodes.pop(place.node), allow_graceful=False)


@pytest.fixture(scope="module")
def cluster():
    nodes = Nodes()
    yield nodes
    ray.shutdown()
    nodes.cluster.shutdown()


@pytest.fixture
def nodes(cluster):
    """Two nodes, whatever the test before has lost."""
    while len(cluster.nodes) < 2:
        cluster.add()
    return cluster


def pool_is_on(collector):
    return {actor.place.node for actor in collector._pool.actors}


def collected(kind, **options):
    torch.manual_seed(1)
    with kind(CountingEnv, frames_per_batch=40, total_frames=80, **options) as collector:
        collector.set_seed(3)
        return list(collector)


def test_a_cluster_has_the_data_of_one_machine(nodes):
    ours = collected(RayCollector, num_collectors=2, remote_configs=ROOM)
    for one, other in zip(ours, collected(MultiSyncCollector, num_workers=2), strict=True):
        assert set(one.keys(True)) == set(other.keys(True))
        assert (one == other).all()


def shapes(sync):
    return (2, 20) if sync else (40,)


@pytest.mark.parametrize("sync", [True, False], ids=["sync", "async"])
def test_nodes_are_killed_and_the_collection_goes_on(sync, nodes):
    collector = RayCollector(
        lambda: CountingEnv(9), num_collectors=2, frames_per_batch=40, sync=sync, on_failure="restart",
        remote_configs=ROOM,
    )  # fmt: skip
    assert len(pool_is_on(collector)) == 2
    count = 0
    for _ in range(KILLS // 4):
        actor = next(actor for actor in collector._pool.actors if actor.start is None)
        nodes.kill(actor.place)
        start = time.monotonic()
        while collector._pool.actors[actor.worker] is actor or count % 120:
            assert collector.next().shape == shapes(sync)
            count += 40
        assert time.monotonic() - start < 5
        nodes.add()
        collector._pool._when_ready(actor.worker)
    assert collector.stats()["frames"] == count
    collector.shutdown()


@pytest.mark.parametrize("sync", [True, False], ids=["sync", "async"])
def test_a_killed_node_is_named_within_five_seconds(sync, nodes):
    collector = RayCollector(
        CountingEnv, num_collectors=2, frames_per_batch=40, sync=sync, remote_configs=ROOM, max_frames_per_traj=5
    )
    collector.next()
    place = collector._pool.actors[1].place
    nodes.kill(place)
    start = time.monotonic()
    with pytest.raises(WorkerError, match=f"worker 1 was lost in CountingEnv, actor {place.actor}, .*{place.node}"):
        list(collector)
    assert time.monotonic() - start < 5
    collector.shutdown()


def test_actors_of_all_nodes_fill_one_buffer(nodes):
    with RayReplayBuffer(
        replay_buffer_cls=TensorDictReplayBuffer, storage=LazyTensorStorage(500), batch_size=16
    ) as buffer:
        collector = RayCollector(
            CountingEnv, num_collectors=2, frames_per_batch=40, total_frames=400, remote_configs=ROOM,
            replay_buffer=buffer, sync=False,
        )  # fmt: skip
        assert list(collector) == [None] * 10
        collector.shutdown()
        assert len(buffer) == 400
        assert buffer.sample().shape == (16,)


def test_no_worker_is_left_and_none_can_be_placed(nodes):
    collector = RayCollector(
        CountingEnv, num_collectors=1, frames_per_batch=40, remote_configs=ROOM, on_failure="restart", start_timeout=60
    )
    collector._pool.start_timeout = 3
    for node in list(nodes.nodes):
        nodes.cluster.remove_node(nodes.nodes.pop(node), allow_graceful=False)
    with pytest.raises(WorkerError, match="no worker is left, and no other one has started within 3 s"):
        deque(collector, maxlen=0)  # a worker lives a moment longer than its node
    collector.shutdown()
