"""OpenSpielEnv and OpenSpielWrapper: turns, simultaneous moves, chance."""

import pytest
import torch

from torchrl._core.errors import SpecError
from torchrl.envs import MarlGroupMapType, OpenSpielEnv, OpenSpielWrapper

pyspiel = pytest.importorskip("pyspiel", reason="open_spiel is not installed")


def test_it_is_the_game_move_by_move():
    env = OpenSpielEnv("tic_tac_toe", categorical_actions=True)
    state = pyspiel.load_game("tic_tac_toe").new_initial_state()
    for row in env.rollout(9).unbind(0):
        player = state.current_player()
        assert row["current_player"] == player
        mask = row["agents", "action_mask"]
        assert mask[player].tolist() == [bool(legal) for legal in state.legal_actions_mask()]
        assert mask[1 - player].all()
        for i in range(2):
            assert row["agents", "observation"][i].tolist() == state.observation_tensor(i)
        state.apply_action(int(row["agents", "action"][player]))
        assert row["next", "done"].item() == state.is_terminal()
    assert row["next", "agents", "reward"].flatten().tolist() == state.returns()


def test_everyone_moves_at_once_where_the_game_says_so():
    env = OpenSpielEnv("matrix_rps", categorical_actions=True)
    root = env.reset()
    assert root["current_player"] == -2
    root["agents", "action"] = torch.tensor([1, 0])  # paper beats rock
    assert env.step(root)["next", "agents", "reward"].flatten().tolist() == [1.0, -1.0]


def test_chance_obeys_the_seed_and_rewards_add_up():
    env = OpenSpielEnv("kuhn_poker")
    deals = []
    for _ in range(2):
        env.set_seed(3)
        deals.append([env.reset()["agents", "observation"].tolist() for _ in range(6)])
    assert deals[0] == deals[1]
    assert len({str(deal) for deal in deals[0]}) > 1
    batch = env.rollout(9)
    total = batch["next", "agents", "reward"].sum(0).flatten()
    assert total.tolist() == env._env.returns()


def test_a_position_can_be_set():
    env = OpenSpielEnv("tic_tac_toe", categorical_actions=True, return_state=True)
    batch = env.rollout(9)
    root = env.reset(batch[3].select("state"), set_state=True)
    assert torch.equal(root["agents", "observation"], batch[3]["agents", "observation"])


def test_a_game_can_begin_in_the_middle():
    state = pyspiel.load_game("tic_tac_toe").new_initial_state()
    state.apply_action(4)
    env = OpenSpielWrapper(state, group_map=MarlGroupMapType.ONE_GROUP_PER_AGENT)
    for _ in range(2):
        root = env.reset()
        assert root["current_player"] == 1
        assert not root["player_1", "action_mask"][0, 4]
        env.rollout(3)
    assert str(state) == "...\n.x.\n..."


def test_mistakes_are_told():
    env = OpenSpielEnv("tic_tac_toe", categorical_actions=True)
    root = env.reset().set(("agents", "action"), torch.tensor([4, 4]))
    root = env.step_mdp(env.step(root))
    with pytest.raises(SpecError, match=r"illegal move of player_1; expected one of .* found 4"):
        env.step(root.set(("agents", "action"), torch.tensor([4, 4])))
    with pytest.raises(ValueError, match=r"knows no game 'tic_tac_to'\. Did you mean 'tic_tac_toe'"):
        OpenSpielEnv("tic_tac_to")
    with pytest.raises(TypeError, match=r"a pyspiel.Game or a pyspiel.State, found str"):
        OpenSpielWrapper("chess")
    assert "chess" in OpenSpielEnv.available_envs
