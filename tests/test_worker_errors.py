"""The error of a worker is told, also if it cannot be printed or is no ``Exception``."""

import pytest

from torchrl._core.errors import WorkerError
from torchrl.collectors import Evaluator, MultiAsyncCollector, MultiSyncCollector
from torchrl.data import RemoteReplayBuffer, ReplayBuffer
from torchrl.data.replay_buffers.remote import BufferServer, SocketTransport
from torchrl.envs import AsyncEnvPool, ParallelEnv
from torchrl.testing.mocks import CountingEnv


class Mute(Exception):
    """Cannot be printed."""

    def __str__(self):
        raise RuntimeError("no words")

    __repr__ = __str__


class Halt(BaseException):
    """Not an Exception."""


class TwoWords(Exception):
    """Can be pickled and not be read again."""

    def __init__(self, one, two):
        super().__init__(one)


ERRORS = {
    "Mute": Mute,
    "Halt": Halt,
    "TwoWords": lambda: TwoWords(1, 2),
    "SystemExit": lambda: SystemExit(3),
    "KeyboardInterrupt": KeyboardInterrupt,
}
WORKERS = {
    "processes": lambda make: ParallelEnv(2, make).rollout(5),
    "pool of processes": lambda make: AsyncEnvPool([make] * 2, backend="multiprocessing").rollout(5),
    "pool of threads": lambda make: AsyncEnvPool([make] * 2, backend="threading").rollout(5),
    "sync": lambda make: MultiSyncCollector([make] * 2, frames_per_batch=10).next(),
    "async": lambda make: MultiAsyncCollector([make] * 2, frames_per_batch=10).next(),
    "evaluator": lambda make: Evaluator(make, backend="process", max_steps=5).evaluate(),
}


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("workers", WORKERS)
def test_the_error_names_its_class_and_shows_its_place(workers, error):
    class Fails(CountingEnv):
        def _step(self, tensordict):
            if self.count == 2:
                raise ERRORS[error]()
            return super()._step(tensordict)

    with pytest.raises(WorkerError, match=rf"{error}(.|\n)*in _step"):
        WORKERS[workers](Fails)


@pytest.mark.parametrize("error", ["Mute", "Halt", "TwoWords", "SystemExit"])
def test_a_remote_buffer_tells_the_error_and_serves_on(error):
    class Fails(ReplayBuffer):
        def sample(self, *args, **kwargs):
            raise ERRORS[error]()

    server = BufferServer(Fails(), ("localhost", 0), b"key")
    with RemoteReplayBuffer(SocketTransport(server.address, b"key")) as buffer:
        with pytest.raises(WorkerError, match=error):
            buffer.sample(1)
        assert len(buffer) == 0
    server.close()
