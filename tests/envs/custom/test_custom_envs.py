"""Environments in plain torch against what they are modelled on."""

import itertools

import gymnasium
import numpy as np
import pytest
import torch
from tensordict import TensorDict

from torchrl.envs import ParallelEnv, SerialEnv, StepCounter, TransformedEnv, check_env_specs
from torchrl.envs.custom import CartPoleEnv, PendulumEnv, TicTacToeEnv
from torchrl.envs.custom.cartpole import dynamics


@pytest.mark.parametrize(
    "make",
    [
        PendulumEnv,
        CartPoleEnv,
        lambda: CartPoleEnv([2, 3]),
        lambda: CartPoleEnv(categorical_action_encoding=True),
        TicTacToeEnv,
        lambda: TicTacToeEnv(single_player=True),
        lambda: SerialEnv(2, PendulumEnv),
        lambda: SerialEnv(2, TicTacToeEnv),
        lambda: SerialEnv(2, lambda: CartPoleEnv([3])),
        lambda: PendulumEnv(device="cpu"),
        lambda: CartPoleEnv(device="cpu"),
        lambda: TicTacToeEnv(device="cpu"),
    ],
)
def test_specs_hold(make):
    check_env_specs(make(), break_when_any_done="both", seed=0)


# --- pendulum ------------------------------------------------------------------------------------


def test_pendulum_moves_as_in_gymnasium():
    raw = gymnasium.make("Pendulum-v1").unwrapped
    env = PendulumEnv()
    raw.reset(seed=0)
    th, thdot = raw.state
    td = TensorDict(th=torch.tensor(th).float(), thdot=torch.tensor(thdot).float())
    td = env.reset(td, set_state=True)
    for _ in range(200):
        td = env.step(env.rand_action(td))
        observation, reward, *_ = raw.step(td["action"].numpy())
        after = td["next"]
        ours = [after["th"].cos(), after["th"].sin(), after["thdot"]]
        np.testing.assert_allclose(ours, observation, atol=2e-4)
        np.testing.assert_allclose(after["reward"], [reward], atol=2e-3)
        td = env.step_mdp(td)
        # Chaos tears the two apart, so each step begins where the other stands.
        raw.state = np.array([td["th"].item(), td["thdot"].item()])


def test_pendulum_takes_any_batch_and_constants_of_each_row():
    env = PendulumEnv(seed=0)
    params = env.gen_params(batch_size=[2, 3])
    params["params", "g"] = torch.arange(6.0).reshape(2, 3)
    td = env.reset(params)
    assert td.batch_size == (2, 3)
    assert td["th"].unique().numel() == 6
    batch = env.rollout(5, auto_reset=False, tensordict=td)
    assert batch.batch_size == (2, 3, 5)
    one = env.rollout(5, actions=batch["action"][1, 2], auto_reset=False, tensordict=td[1, 2].clone())
    torch.testing.assert_close(one["next", "th"], batch["next", "th"][1, 2])
    assert env.rollout(4).batch_size == (4,)
    assert PendulumEnv(env.gen_params(g=3.0)).reset()["params", "g"] == 3


def test_pendulum_is_differentiable():
    env = PendulumEnv()
    action = torch.tensor([0.5], dtype=torch.float64, requires_grad=True)
    td = TensorDict(th=torch.tensor(1.0), thdot=torch.tensor(0.5)).double()

    def total(action):
        root = env.reset(td.clone(), set_state=True)
        reward = 0
        for _ in range(3):
            root = env.step(root.set("action", action))
            reward = reward + root["next", "reward"]
            root = env.step_mdp(root)
        return reward

    env._checks_now = False  # numerical derivatives need double precision
    assert torch.autograd.gradcheck(total, action, atol=1e-4)


def test_pendulum_seeds():
    env = PendulumEnv(seed=3)
    first = env.reset()["th"]
    assert PendulumEnv(seed=3).reset()["th"] == first
    assert env.reset()["th"] != first
    env.set_seed(3)
    assert env.reset()["th"] == first


def test_pendulum_in_workers():
    serial, parallel = SerialEnv(4, PendulumEnv), ParallelEnv(2, [PendulumEnv] * 4)
    batches = []
    for env in (serial, parallel):
        env.set_seed(0)
        torch.manual_seed(0)
        limited = TransformedEnv(env, StepCounter(4))
        batches.append(limited.rollout(10, break_when_any_done=False))
    parallel.close()
    assert (batches[0] == batches[1]).all()
    assert batches[0]["params", "g"].shape == (4, 10)


# --- cart pole -----------------------------------------------------------------------------------


def test_cartpole_moves_as_in_gymnasium():
    raw = gymnasium.make("CartPole-v1").unwrapped
    rng = np.random.default_rng(0)
    for _ in range(100):
        raw.reset()
        raw.state = rng.uniform(-1, 1, 4) * [2.4, 2, 0.2, 2]
        before, push = torch.tensor(np.array(raw.state)), int(rng.integers(2))
        raw.step(push)
        after = dynamics(before, torch.tensor(push))
        np.testing.assert_allclose(after, raw.state, rtol=1e-12)


def test_cartpole_ends_as_in_gymnasium():
    env = CartPoleEnv([64], max_steps=30, seed=0)
    torch.manual_seed(0)
    batch = env.rollout(100, break_when_any_done=False)
    after = batch["next", "observation"]
    fell = (after[..., 0].abs() > 2.4) | (after[..., 2].abs() > np.pi / 15)
    assert fell.any()
    assert torch.equal(batch["next", "terminated"][..., 0], fell)
    late = batch["next", "step_count"] >= 30
    assert late.any()
    assert torch.equal(batch["next", "truncated"], late)
    assert torch.equal(batch["next", "done"], batch["next", "terminated"] | late)
    began = batch["step_count"][..., 0] == 0
    assert (batch["observation"][began].abs() <= 0.05).all()
    going_on = ~batch["next", "done"][:, :-1, 0]
    assert torch.equal(batch["observation"][:, 1:][going_on], after[:, :-1][going_on])


def test_cartpole_begins_where_it_is_told():
    env = CartPoleEnv()
    state = torch.tensor([0.1, 0.2, 0.1, -0.3])
    td = env.reset(TensorDict(observation=state), set_state=True)
    assert torch.equal(td["observation"], state)
    assert td["step_count"] == 0
    with pytest.raises(ValueError, match="max_steps must be at least 1, found 0"):
        CartPoleEnv(max_steps=0)


def test_cartpole_speaks_integers():
    both = [CartPoleEnv([4], categorical_action_encoding=flag, seed=1) for flag in (True, False)]
    pushes = torch.randint(2, (4, 9))
    one = both[0].rollout(9, actions=pushes)
    other = both[1].rollout(9, actions=torch.nn.functional.one_hot(pushes, 2))
    assert torch.equal(one["next", "observation"], other["next", "observation"])


# --- tic-tac-toe ---------------------------------------------------------------------------------

LINES = [
    *([(r, c) for c in range(3)] for r in range(3)),
    *([(r, c) for r in range(3)] for c in range(3)),
    [(i, i) for i in range(3)],
    [(i, 2 - i) for i in range(3)],
]


def play(moves):
    """Return board, rewards and end of a game, by hand."""
    board, rewards = -np.ones((3, 3), int), [0.0, 0.0]
    for n, move in enumerate(moves):
        who = n % 2
        row, column = divmod(move, 3)
        if board[row, column] != -1:
            rewards[who] = -1.0
            return board, rewards, True
        board[row, column] = who
        if any(all(board[at] == who for at in line) for line in LINES):
            rewards[who], rewards[1 - who] = 1.0, -1.0
            return board, rewards, True
    return board, rewards, bool((board != -1).all())


@pytest.mark.parametrize("allow_illegal", [False, True])
def test_tictactoe_is_played_by_the_rules(allow_illegal):
    rng = np.random.default_rng(0)
    env = TicTacToeEnv()
    results = set()
    for _ in range(60):
        td, moves = env.reset(), []
        while not td["done"]:
            assert td["turn"] == len(moves) % 2
            free = np.flatnonzero(td["mask"])
            move = int(rng.integers(9)) if allow_illegal else int(rng.choice(free))
            moves.append(move)
            td = env.step(td.set("action", torch.tensor(move)))
            board, rewards, done = play(moves)
            after = td["next"]
            np.testing.assert_array_equal(after["board"], board)
            np.testing.assert_array_equal(after["mask"], board.flatten() == -1)
            assert [after[f"player{i}", "reward"].item() for i in (0, 1)] == rewards
            assert after["done"].item() == after["terminated"].item() == done
            td = env.step_mdp(td)
        results.add(tuple(rewards))
    wins = {(1.0, -1.0), (-1.0, 1.0)}
    assert results == wins | ({(-1.0, 0.0), (0.0, -1.0)} if allow_illegal else {(0.0, 0.0)})


def test_tictactoe_plays_many_games_at_once():
    env = TicTacToeEnv()
    firsts = list(itertools.permutations(range(9), 5))[:50]
    td = env.reset(TensorDict(batch_size=[50]))
    for n in range(5):
        td = env.step(td.set("action", torch.tensor([moves[n] for moves in firsts])))
        if n < 4:
            td = env.step_mdp(td)
    expected = [play(moves) for moves in firsts]
    np.testing.assert_array_equal(td["next", "board"], [board for board, *_ in expected])
    np.testing.assert_array_equal(td["next", "player0", "reward"][:, 0], [r[0] for _, r, _ in expected])


def test_tictactoe_random_moves_are_legal():
    env = TicTacToeEnv()
    td = env.reset(TensorDict(batch_size=[100]))
    for _ in range(9):
        td = env.rand_action(td)
        assert td["mask"].gather(-1, td["action"].unsqueeze(-1)).all()
        td = env.step_mdp(env.step(td))
    assert not td["mask"].any()


def test_tictactoe_against_a_random_player():
    env = TicTacToeEnv(single_player=True)
    env.set_seed(0)
    td = env.reset(TensorDict(batch_size=[200]))
    total, ended = torch.zeros(200), torch.zeros(200, dtype=torch.bool)
    for n in range(5):
        assert (td["turn"][~ended] == 0).all()
        marks = (td["board"][~ended].flatten(1) != -1).sum(-1)
        assert (marks == 2 * n).all()
        td = env.step(env.rand_action(td))
        after = td["next"]
        one, other = (after[f"player{i}", "reward"][:, 0] for i in (0, 1))
        assert torch.equal(one, -other)
        total += torch.where(ended, 0, one)
        ended |= after["done"][:, 0]
        td = env.step_mdp(td)
    assert ended.all()
    assert {-1.0, 0.0, 1.0} == set(total.tolist())
    assert (total == 1).sum() > (total == -1).sum()
