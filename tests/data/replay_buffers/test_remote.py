"""A buffer in another process is the same as one here."""

import copy
import os
import pickle
import socket
import struct
import threading
import time

import cloudpickle
import pytest
import torch

from torchrl._core.errors import DTypeError, WorkerError
from torchrl.data import (
    BufferProcess,
    BufferServer,
    LazyTensorStorage,
    RemoteReplayBuffer,
    RemoteTensorDictReplayBuffer,
    ReplayBuffer,
    SamplerWithoutReplacement,
    SocketTransport,
    TensorDictPrioritizedReplayBuffer,
    Transport,
    traj,
)
from torchrl.data.replay_buffers import remote as remote_module
from torchrl.data.replay_buffers.remote import answer
from torchrl.testing.buffer import assert_same, assert_same_state, transitions


def make():
    return TensorDictPrioritizedReplayBuffer(
        alpha=0.7, beta=0.5, storage=LazyTensorStorage(12), batch_size=4, generator=torch.Generator().manual_seed(0)
    )


class Here(Transport):
    """Leads to a buffer in this process; what is carried is pickled all the same."""

    def __init__(self, buffer):
        self.buffer = buffer

    def call(self, name, args, kwargs):
        args, kwargs = pickle.loads(cloudpickle.dumps((args, kwargs)))
        return answer(self.buffer, name, args, kwargs)


TRANSPORTS = {"process": lambda: BufferProcess(make), "here": lambda: Here(make())}


@pytest.fixture(params=TRANSPORTS.values(), ids=TRANSPORTS)
def remote(request):
    with RemoteReplayBuffer(request.param()) as buffer:
        yield buffer


def same(buffer):
    """Use a buffer in many ways; return all that comes out."""
    out = [buffer.extend(transitions(0, 9)), buffer.add(transitions(9, 1)[0]), len(buffer)]
    sample, info = buffer.sample(6, return_info=True)
    out += [sample.clone(), info, buffer.sample(), buffer.can_sample(), buffer.batch_size]
    sample["td_error"] = torch.arange(6.0)
    buffer.update_tensordict_priority(sample)
    buffer.update_priority(3, 7.0)
    out += [buffer.sample(50), buffer[3], buffer[2:5], buffer["observation"], buffer.write_count]
    out = copy.deepcopy(out)  # slices are views
    buffer[1] = transitions(30, 1)[0]
    buffer.set_at_("item", torch.tensor([-1, -2]), [4, 5])
    out += [buffer[:].clone(), buffer.state_dict(), [one.data for one in buffer.query(traj.length > 2)]]
    buffer.append_transform(lambda td: td.set("item", -td["item"]))
    out += [buffer.sample(3), next(buffer), buffer.stats(), buffer.ndim]
    buffer.empty()
    return [*out, len(buffer)]


def test_all_that_a_buffer_does_it_does_there(remote):
    for mine, theirs in zip(same(make()), same(remote), strict=True):
        if isinstance(mine, list):
            for left, right in zip(mine, theirs, strict=True):
                assert_same(left.contiguous(), right.contiguous())
        elif hasattr(mine, "batch_size"):
            assert_same(mine.contiguous(), theirs.contiguous())
        else:
            assert_same_state(mine, theirs)
    assert repr(remote).startswith("RemoteReplayBuffer(TensorDictPrioritizedReplayBuffer(")


def test_what_the_buffer_raises_is_raised_here(remote):
    remote.extend(transitions(0, 3))
    with pytest.raises(DTypeError, match="'item' has the wrong dtype") as caught:
        remote.extend(transitions(0, 3).float())
    assert "Traceback" in str(caught.value.__cause__)
    with pytest.raises(AttributeError, match="no attribute 'sampels'"):
        remote.sampels(3)
    with pytest.raises(IndexError, match="slot 5 holds no row"):
        remote[5]


def test_only_what_a_buffer_offers_is_answered():
    buffer = ReplayBuffer()
    for name in ("__class__", "_storage", "__reduce__", "share"):
        result, error, _ = answer(buffer, name, (), {})
        assert result is None
        assert isinstance(error, AttributeError)


def test_iteration_ends_with_the_pass():
    buffer = ReplayBuffer(sampler=SamplerWithoutReplacement(shuffle=False), batch_size=2)
    remote = RemoteReplayBuffer(Here(buffer))
    remote.extend(torch.arange(5))
    assert [batch.tolist() for batch in remote] == [[0, 1], [2, 3], [4]]


def extend(buffer, first):
    for i in range(5):
        buffer.extend(transitions(first + 2 * i, 2))


def test_threads_and_forks_write_at_once():
    with RemoteReplayBuffer(BufferProcess(lambda: ReplayBuffer(storage=LazyTensorStorage(99)))) as remote:
        remote.extend(transitions(0, 10))
        writers = [threading.Thread(target=extend, args=(remote, 10 * i)) for i in (1, 2)]
        for writer in writers:
            writer.start()
        pid = os.fork()
        if not pid:
            extend(remote, 30)
            os._exit(0)
        for writer in writers:
            writer.join()
        assert os.waitpid(pid, 0)[1] == 0
        extend(pickle.loads(pickle.dumps(remote)), 40)
        assert sorted(remote[:]["item"].tolist()) == list(range(50))


def test_a_buffer_whose_process_is_gone_is_told():
    process = BufferProcess(make)
    remote = RemoteReplayBuffer(process)
    copy = pickle.loads(pickle.dumps(remote))
    assert len(copy) == 0
    os.kill(process.pool.workers[0].pid, 9)
    for buffer in (remote, copy, remote, copy):
        with pytest.raises(WorkerError, match=r"no answer at .* Its process has ended"):
            len(buffer)
    remote.close()


def test_a_buffer_that_cannot_be_made_is_told():
    def fail():
        raise ValueError("no such buffer")

    with pytest.raises(ValueError, match="no such buffer"):
        BufferProcess(fail)


def test_who_does_not_know_the_key_is_not_answered():
    server = BufferServer(ReplayBuffer(), ("localhost", 0), b"right")
    wrong = RemoteReplayBuffer(SocketTransport(server.address, b"wrong"))
    with pytest.raises(WorkerError, match="or the key is not the server's"):
        wrong.add(1)
    with RemoteReplayBuffer(SocketTransport(server.address, b"right")) as right:
        assert right.add(1) == 0
        right.append_transform(lambda data: threading.Lock())
        with pytest.raises(WorkerError, match="the answer cannot be pickled"):
            right.sample(1)
    server.close()


def test_the_handshake_has_a_time_limit_at_both_ends(monkeypatch):
    monkeypatch.setattr(remote_module, "HANDSHAKE", 0.3)
    server = BufferServer(ReplayBuffer(), ("127.0.0.1", 0), b"key")
    with socket.create_connection(server.address) as stranger:
        stranger.settimeout(5)
        while stranger.recv(1 << 10):
            pass  # the challenge, then the end
    server.close()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = SocketTransport(silent.getsockname(), b"key")
        with pytest.raises(WorkerError, match="no room for another client"):
            client.call("__len__", (), {})


def test_a_server_without_descriptors_accepts_again_once_there_are_some(monkeypatch):
    failures = [OSError(24, "too many open files"), OSError(23, "too many of all")]
    accept = socket.socket.accept

    def accept_later(self):
        if failures:
            raise failures.pop()
        return accept(self)

    monkeypatch.setattr(socket.socket, "accept", accept_later)
    server = BufferServer(ReplayBuffer(), ("127.0.0.1", 0), b"key")
    client = SocketTransport(server.address, b"key")
    assert client.call("__len__", (), {})[0] == 0
    client.close()
    server.close()


@pytest.mark.parametrize("request_", [b"no pickle", pickle.dumps(5), pickle.dumps((1, 2))])
def test_a_request_that_cannot_be_read_is_answered_and_ends_its_connection_only(request_):
    server = BufferServer(ReplayBuffer(), ("127.0.0.1", 0), b"key")
    client = SocketTransport(server.address, b"key")
    client._connection().send_bytes(request_)
    error = pickle.loads(client._connection().recv_bytes())[1]
    assert "the request cannot be read" in str(error)
    client.close()
    assert client.call("__len__", (), {})[0] == 0
    client.close()
    server.close()


def test_a_server_that_is_closed_leaves_no_thread():
    before = threading.active_count()
    server = BufferServer(ReplayBuffer(), ("127.0.0.1", 0), b"key")
    server.close()
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before


def test_clients_beyond_the_limit_are_turned_away_until_there_is_room(caplog):
    server = BufferServer(ReplayBuffer(), ("127.0.0.1", 0), b"key", max_connections=2)
    clients = [SocketTransport(server.address, b"key") for _ in range(3)]
    for client in clients[:2]:
        assert client.call("__len__", (), {})[0] == 0
    with pytest.raises(WorkerError, match="no room for another client"):
        clients[2].call("__len__", (), {})
    with socket.create_connection(server.address, timeout=5) as another:
        assert another.recv(1) == b""  # closed at once
    assert "has no room for another client" in caplog.text
    clients[0].close()
    deadline = time.monotonic() + 10
    while True:
        try:
            assert clients[2].call("__len__", (), {})[0] == 0
            break
        except WorkerError:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    for client in clients:
        client.close()
    server.close()


def test_a_client_without_a_thread_takes_no_room():
    server = BufferServer(ReplayBuffer(), ("127.0.0.1", 0), b"key", max_connections=1)
    start, failures = server._start, [RuntimeError("can't start new thread")]

    def start_later(target, *args):
        if failures:
            raise failures.pop()
        start(target, *args)

    server._start = start_later
    client = SocketTransport(server.address, b"key")
    with pytest.raises(WorkerError, match="no room for another client"):
        client.call("__len__", (), {})
    assert client.call("__len__", (), {})[0] == 0
    client.close()
    server.close()


def test_a_request_that_is_larger_than_the_memory_ends_its_connection_only(caplog):
    caplog.set_level("INFO", "torchrl")
    server = BufferServer(ReplayBuffer(), ("127.0.0.1", 0), b"key")
    client = SocketTransport(server.address, b"key")
    os.write(client._connection().fileno(), struct.pack("!iQ", -1, 1 << 62))  # the length alone
    with pytest.raises(EOFError):
        client._connection().recv_bytes()
    assert "has no memory for a request" in caplog.text
    client.close()
    assert client.call("__len__", (), {})[0] == 0
    client.close()
    server.close()


def test_a_name_with_an_address_that_others_reach_is_not_served(monkeypatch):
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, 0)) for host in ("127.0.0.1", "192.0.2.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args: found)
    with pytest.raises(ValueError, match="'both' can be reached from other machines"):
        BufferServer(ReplayBuffer(), ("both", 0), b"key")


@pytest.mark.parametrize("host", ["", "0.0.0.0", "::", "192.0.2.1"])
def test_other_machines_are_served_only_on_request(host):
    match = r"reached from other machines.*expected 'localhost'.*tunnel \(SSH, WireGuard\).*insecure_network=True"
    with pytest.raises(ValueError, match=match):
        BufferServer(ReplayBuffer(), (host, 0), b"key")
    with pytest.raises(ValueError, match=match):
        BufferProcess(ReplayBuffer, host=host)
    with pytest.raises(ValueError, match=match):
        RemoteTensorDictReplayBuffer().serve(b"key", (host, 0))


def test_any_loopback_address_is_served_and_others_on_request():
    for host, options in (("127.0.0.1", {}), ("127.0.0.2", {}), ("", {"insecure_network": True})):
        server = BufferServer(ReplayBuffer(), (host, 0), b"key", **options)
        client = SocketTransport((host or "127.0.0.1", server.address[1]), b"key")
        assert client.call("__len__", (), {})[0] == 0
        client.close()
        server.close()
    RemoteTensorDictReplayBuffer().serve(b"key", ("", 0), insecure_network=True).close()
    with RemoteReplayBuffer(BufferProcess(ReplayBuffer, host="0.0.0.0", insecure_network=True)) as remote:
        assert len(remote) == 0
