"""What does not fit the shape or the dtype of its entry is an error."""

import gymnasium
import numpy as np
import pytest
import torch
from tensordict import TensorDict

from torchrl._core.errors import DTypeError, ShapeError, TorchRLError
from torchrl.collectors import MultiAsyncCollector, MultiSyncCollector
from torchrl.data import Bounded, Composite, Unbounded
from torchrl.envs import AsyncEnvPool, EnvBase, GymEnv, GymWrapper, ParallelEnv, SerialEnv, StepCounter, TransformedEnv

BATCHES = {
    "serial": lambda make: SerialEnv(2, make),
    "blocks of their own": lambda make: SerialEnv(2, make, share_individual_td=True),
    "serial of serial": lambda make: SerialEnv(1, lambda: SerialEnv(2, make)),
    "transformed": lambda make: SerialEnv(2, lambda: TransformedEnv(make(), StepCounter())),
    "parallel": lambda make: ParallelEnv(2, make, mp_start_method="fork"),
    "threads": lambda make: AsyncEnvPool([make, make]),
}


@pytest.fixture
def closing():
    envs = []
    yield lambda env: envs.append(env) or env
    for env in envs:
        env.close(raise_if_closed=False)


class Shows(EnvBase):
    """Shows from its second step on another value of one entry, in place of zeros."""

    def __init__(self, key="observation", value=None):
        super().__init__()
        self.n, self.key, self.value = 0, key, value
        self.observation_spec = Composite(observation=Unbounded((3,)), number=Bounded(0, 200, (1,), dtype=torch.uint8))
        self.action_spec = Bounded(-1, 1, (1,))

    def _observed(self):
        return TensorDict(observation=torch.zeros(3), number=torch.zeros(1, dtype=torch.uint8))

    def _reset(self, td):
        self.n = 0
        return self._observed()

    def _step(self, td):
        self.n += 1
        over = torch.zeros(1, dtype=torch.bool)
        record = self._observed().update({"reward": torch.zeros(1), "terminated": over})
        return record if self.n < 2 else record.set(self.key, self.value)

    def _set_seed(self, seed):
        pass


class Box(gymnasium.Env):
    """Shows one value, after zeros of its space."""

    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, dtype, value, since=1):
        top = np.iinfo(dtype).max if np.dtype(dtype).kind in "iu" else 1.0
        self.observation_space = gymnasium.spaces.Box(0, top, (1,), dtype)
        self.value, self.since = value, since

    def reset(self, *, seed=None, options=None):
        self.n = 0
        return self.zeros(), {}

    def zeros(self):
        return np.zeros(1, self.observation_space.dtype)

    def step(self, action):
        self.n += 1
        shown = self.value if self.n >= self.since else self.zeros()
        return shown, 0.0, False, False, {}


@pytest.mark.parametrize(
    ("key", "value", "error"),
    [
        ("observation", torch.ones(1), ShapeError),
        ("observation", torch.ones(1, 3), ShapeError),
        ("reward", torch.tensor(1.0), None),
        ("number", torch.tensor([300]), DTypeError),
        ("number", torch.tensor([-1]), DTypeError),
        ("number", torch.tensor([7]), None),
    ],
)
@pytest.mark.parametrize("name", BATCHES)
def test_rows_take_only_what_fits(name, key, value, error, closing):
    """A later step of another shape, or with numbers that the row does not hold, is refused."""
    env = closing(BATCHES[name](lambda: Shows(key, value)))
    if error is None:
        batch = env.rollout(3)["next", key]
        assert (batch[..., -1, :].double() == value.double()).all()
        return
    with pytest.raises(TorchRLError, match=f"{error.__name__}[^\n]*{key}|{key}"):
        env.rollout(4)


@pytest.mark.parametrize("since", [1, 3])
@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        (np.int8, np.array([1000])),
        (np.uint8, np.array([300])),
        (np.uint8, np.array([-1])),
        (np.uint8, [300]),
        (np.int64, np.array([1e30])),
        (np.int32, np.array([np.nan])),
        (np.uint64, np.array([2**63 + 5], np.uint64)),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["bare", *BATCHES])
def test_numbers_of_simulators_do_not_wrap(name, dtype, value, since, closing):
    """A whole number of a gymnasium environment outside of the dtype of its space is refused."""
    make = lambda: GymWrapper(Box(dtype, value, since))
    env = make() if name == "bare" else closing(BATCHES[name](make))
    with pytest.raises(TorchRLError, match="observation"):
        env.rollout(4)


@pytest.mark.parametrize("name", ["bare", *BATCHES])
def test_numbers_that_fit_are_cast(name, closing):
    """Other dtypes whose numbers fit are taken as before."""
    make = lambda: GymWrapper(Box(np.uint8, np.array([200])))
    env = make() if name == "bare" else closing(BATCHES[name](make))
    batch = env.rollout(4)["next", "observation"]
    assert batch.dtype is torch.uint8
    assert (batch == 200).all()


@pytest.mark.parametrize("name", BATCHES)
def test_arrays_that_shrink_are_refused(name, closing):
    """A gymnasium environment whose observations lose their numbers is refused in a batch."""

    class Shrinks(Box):
        def __init__(self):
            super().__init__(np.float32, np.ones(0, np.float32), since=3)

    env = closing(BATCHES[name](lambda: GymWrapper(Shrinks())))
    with pytest.raises(TorchRLError, match="observation"):
        env.rollout(5)


@pytest.mark.parametrize("name", [name for name in BATCHES if name != "transformed"])
def test_an_action_that_changes_its_shape_is_refused(name, closing):
    """An action of another shape at a later step is an error, and no zero is played for it."""
    env = closing(BATCHES[name](lambda: Shows("number", torch.zeros(1, dtype=torch.uint8))))
    root = env.reset()
    size = tuple(env.batch_size)
    root = env.step_mdp(env.step(root.set("action", torch.ones(*size, 1))))
    with pytest.raises(ShapeError, match="action"):
        env.step(root.set("action", torch.ones(*size, 3)))


def test_no_environments_and_no_workers_are_refused_by_name():
    """Zero of something is an error that names the argument."""
    make = lambda: GymEnv("CartPole-v1")
    frames = {"frames_per_batch": 4, "total_frames": 8}
    for build, name in (
        (lambda: SerialEnv(0, make), "num_workers"),
        (lambda: ParallelEnv(0, make), "num_workers"),
        (lambda: AsyncEnvPool([]), "env_makers"),
        (lambda: MultiSyncCollector(make, None, num_workers=0, **frames), "num_workers"),
        (lambda: MultiAsyncCollector(make, None, num_workers=0, **frames), "num_workers"),
        (lambda: MultiSyncCollector([], None, **frames), "create_env_fn"),
    ):
        with pytest.raises(ValueError, match=name):
            build()


@pytest.mark.parametrize("backend", ["threading", "multiprocessing"])
@pytest.mark.parametrize("pending", [False, True])
@pytest.mark.parametrize("exchange", ["shm", "queue"])
def test_a_pool_ends_with_steps_under_way(backend, pending, exchange):
    """shutdown() closes the environments whether or not they are busy; the pool can start again."""
    make = lambda: Shows("number", torch.zeros(1, dtype=torch.uint8))
    method = {"mp_start_method": "fork"} if backend == "multiprocessing" else {}
    pool = AsyncEnvPool([make, make], backend=backend, exchange=exchange, **method)
    for _ in range(2):
        td = pool.reset()
        if pending:
            pool.async_step_send(pool.rand_action(td))
        pool.shutdown()
        assert pool.is_closed
    pool.shutdown()
