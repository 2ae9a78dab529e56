"""Random actions behind transforms: legal where those of the environment inside are."""

import pytest
import torch
from tensordict import TensorDict

from torchrl.collectors import Collector
from torchrl.data import Categorical, Composite, Unbounded
from torchrl.envs import (
    ActionMask,
    AsyncEnvPool,
    Compose,
    EnvBase,
    FrameSkipTransform,
    ParallelEnv,
    RenameTransform,
    SerialEnv,
    StepCounter,
    TicTacToeEnv,
    TransformedEnv,
)
from torchrl.envs.transforms.transformed_env import choices

CHOICES = 4


class MaskedEnv(EnvBase):
    """Allows, at each count, one choice only, and says so in its spec alone."""

    def __init__(self):
        super().__init__()
        self.observation_spec = Composite(count=Unbounded((1,), dtype=torch.int64))
        self.state_spec = self.observation_spec.clone()
        self.action_spec = Categorical(CHOICES)

    def _set_seed(self, seed):
        pass

    def _at(self, count):
        self.full_action_spec["action"].update_mask(torch.arange(CHOICES) == count % CHOICES)
        return TensorDict(count=count)

    def _reset(self, tensordict, **kwargs):
        return self._at(torch.zeros(1, dtype=torch.int64))

    def _set_state(self, tensordict):
        return self._at(tensordict["count"])

    def _step(self, tensordict):
        assert tensordict["action"] == tensordict["count"] % CHOICES, "illegal"
        return self._at(tensordict["count"] + 1).update(
            {"reward": torch.zeros(1), "terminated": torch.zeros(1, dtype=torch.bool)}
        )


class OwnDraw(MaskedEnv):
    """Draws by itself."""

    def _at(self, count):
        return TensorDict(count=count)

    def rand_action(self, tensordict=None):
        return tensordict.set("action", tensordict["count"].squeeze(-1) % CHOICES)


WRAPPED = {
    "bare": lambda env: env,
    "counted": lambda env: TransformedEnv(env, StepCounter()),
    "twice": lambda env: TransformedEnv(TransformedEnv(env, StepCounter(step_count_key="n")), StepCounter()),
    "driven": lambda env: TransformedEnv(env, Compose(FrameSkipTransform(1), StepCounter())),
}


@pytest.mark.parametrize("kind", [MaskedEnv, OwnDraw])
@pytest.mark.parametrize("wrap", WRAPPED)
def test_random_actions_are_legal_behind_transforms(kind, wrap):
    env = WRAPPED[wrap](kind())
    assert env.rollout(9)["action"].tolist() == [n % CHOICES for n in range(9)]
    root = env.rand_step(env.reset(TensorDict(count=torch.tensor([2])), set_state=True))
    assert root["next", "count"] == 3


def test_an_action_that_a_transform_changes_is_drawn_from_its_own_spec():
    rename = RenameTransform(in_keys=[], out_keys=[], in_keys_inv=["action"], out_keys_inv=["move"])
    env = TransformedEnv(OwnDraw(), rename)
    assert env.draws_from_spec
    assert env.full_action_spec["move"].is_in(env.rand_action(env.reset())["move"])


@pytest.mark.parametrize("batch", [(), (5,)])
def test_games_of_any_batch_are_played_by_the_rules(batch):
    env = TransformedEnv(TicTacToeEnv(), StepCounter())
    for _ in range(5):
        moves = env.rollout(5, tensordict=TensorDict(batch_size=batch))  # too few to win before
        assert moves.shape == (*batch, 5)
        assert moves["mask"].gather(-1, moves["action"].unsqueeze(-1)).all()
    assert env.rand_action()["action"].shape == ()


def test_an_action_mask_outermost_has_the_last_word():
    env = TransformedEnv(TicTacToeEnv(), ActionMask(mask_key="mask"))
    moves = env.rollout(5)
    assert moves["mask"].gather(-1, moves["action"].unsqueeze(-1)).all()


def test_choices_are_found_wherever_they_stand():
    agents = torch.stack([Composite(a=Categorical(2)), Composite(a=Categorical(3))])
    spec = Composite(agents=agents, other=Composite(b=Categorical(4), c=Unbounded((1,))))
    assert [leaf.n for leaf in choices(spec)] == [2, 3, 4]


class Shown(MaskedEnv):
    """Shows in its record which choice is legal, and leaves its spec alone."""

    def __init__(self):
        super().__init__()
        self.observation_spec = Composite(
            count=Unbounded((1,), dtype=torch.int64), allowed=Categorical(2, (CHOICES,), dtype=torch.bool)
        )

    def _at(self, count):
        return TensorDict(count=count, allowed=torch.arange(CHOICES) == count % CHOICES)


def masked():
    return TransformedEnv(Shown(), ActionMask(mask_key="allowed"))


def counted_mask():
    return TransformedEnv(masked(), StepCounter())


BATCHES = {
    "serial": lambda make: SerialEnv(2, make),
    "parallel": lambda make: ParallelEnv(2, make, mp_start_method="fork"),
    "records": lambda make: ParallelEnv(2, make, mp_start_method="fork", use_buffers=False),
    "serial of serial": lambda make: SerialEnv(2, lambda: SerialEnv(2, make)),
    "counted": lambda make: TransformedEnv(SerialEnv(2, make), StepCounter(step_count_key="n")),
    "pool": lambda make: AsyncEnvPool([make, make]),
}


@pytest.mark.parametrize("make", [masked, counted_mask, OwnDraw])
@pytest.mark.parametrize("batch", BATCHES)
def test_random_actions_of_a_batch_are_legal_in_each_environment(batch, make):
    env = BATCHES[batch](make)
    try:
        td = env.rollout(9)  # an illegal action raises in the environment
        expected = torch.arange(9) % CHOICES
        assert (td["action"] == expected).all()
        collector = Collector(env, None, frames_per_batch=20, total_frames=20)
        (td,) = list(collector)
        assert (td["action"] == td["count"].squeeze(-1) % CHOICES).all()
    finally:
        env.close(raise_if_closed=False)


def test_random_actions_of_unlike_environments_are_legal_in_each():
    env = SerialEnv(2, [masked, counted_mask], share_individual_td=True)
    assert (env.rollout(5)["action"] == torch.arange(5) % CHOICES).all()


def test_games_in_a_batch_are_played_by_the_rules():
    torch.manual_seed(0)
    env = SerialEnv(3, lambda: TransformedEnv(TicTacToeEnv(), StepCounter()))
    moves = env.rollout(60, break_when_any_done=False)
    assert moves["mask"].gather(-1, moves["action"].unsqueeze(-1)).all()
    moves = env.rollout(12, break_when_any_done=False, break_when_all_done=True)
    assert moves["next", "done"][:, -1].all()


def test_a_pool_draws_legal_actions_for_the_environments_that_answered():
    pool = AsyncEnvPool([masked] * 3)
    try:
        pool.async_reset_send()
        root = pool.async_reset_recv(min_get=3)
        assert pool.rand_action(root[1:])["action"].tolist() == [0, 0]
        pool.async_step_send(pool.rand_action(root[:1]))
        step = pool.async_step_recv(min_get=1)
        assert pool.rand_action(pool.step_mdp(step))["action"].tolist() == [1]
    finally:
        pool.close()


def test_a_mask_that_is_missing_is_named():
    env = SerialEnv(2, masked)
    with pytest.raises(KeyError, match=r"rand_action: entry 'allowed' is needed to draw"):
        env.rand_action(env.reset().exclude("allowed"))
