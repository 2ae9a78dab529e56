"""PettingZooEnv and PettingZooWrapper: all at once, in turns, masks, and agents that leave."""

import numpy as np
import pytest
import torch

from torchrl.envs import (
    MarlGroupMapType,
    PettingZooEnv,
    PettingZooWrapper,
    RewardSum,
    StepCounter,
    TransformedEnv,
    check_env_specs,
)

pettingzoo = pytest.importorskip("pettingzoo", reason="pettingzoo is not installed")
spaces = pytest.importorskip("gymnasium.spaces")


class Relay(pettingzoo.ParallelEnv):
    """Agent ``i`` leaves after ``i + 1`` steps; what each sees is the number of the step."""

    metadata = {"name": "relay"}

    def __init__(self, num=3):
        self.possible_agents = [f"runner_{i}" for i in range(num)]
        self.played = []

    def observation_space(self, agent):
        return spaces.Box(0, 99, (1,), np.float32)

    def action_space(self, agent):
        return spaces.Discrete(4, start=2)

    def reset(self, seed=None, options=None):
        self.agents, self.count, self.seed_seen = list(self.possible_agents), 0, seed
        return self._seen(), {agent: {"left": len(self.agents)} for agent in self.agents}

    def _seen(self):
        return {agent: np.full(1, self.count, np.float32) for agent in self.agents}

    def step(self, actions):
        self.count += 1
        self.played.append(actions)
        living = self.agents
        ends = {agent: int(agent[-1]) < self.count for agent in living}
        out = (
            self._seen(),
            dict.fromkeys(living, 1.0),
            {agent: end and agent != "runner_1" for agent, end in ends.items()},
            {agent: end and agent == "runner_1" for agent, end in ends.items()},
            {agent: {"left": len(living)} for agent in living},
        )
        self.agents = [agent for agent in living if not ends[agent]]
        return out


class Turns(pettingzoo.AECEnv):
    """Two agents move in turns; the first leaves after its second move, the other after four."""

    metadata = {"name": "turns"}

    def __init__(self):
        self.possible_agents = ["a_0", "a_1"]
        self.moves = []

    def observation_space(self, agent):
        return spaces.Dict(observation=spaces.Box(0, 99, (2,), np.float32), action_mask=spaces.Box(0, 1, (3,), np.int8))

    def action_space(self, agent):
        return spaces.Discrete(3)

    def observe(self, agent):
        legal = np.array([0, 1, 1] if agent == self.agent_selection else [0, 0, 0], np.int8)
        return {"observation": np.array([self.count[agent], 7], np.float32), "action_mask": legal}

    def reset(self, seed=None, options=None):
        self.agents = list(self.possible_agents)
        self.count = dict.fromkeys(self.agents, 0)
        self.rewards = dict.fromkeys(self.agents, 0)
        self._cumulative_rewards = dict.fromkeys(self.agents, 0)
        self.terminations = dict.fromkeys(self.agents, False)
        self.truncations = dict.fromkeys(self.agents, False)
        self.infos = {agent: {} for agent in self.agents}
        self.agent_selection = "a_0"

    def step(self, action):
        agent = self.agent_selection
        if self.terminations[agent] or self.truncations[agent]:
            assert action is None
            self._was_dead_step(action)
            return
        self.moves.append((agent, int(action)))
        self.count[agent] += 1
        self.rewards = {name: float(name == agent) for name in self.agents}
        if agent == "a_0":
            self.terminations["a_0"] = self.count["a_0"] >= 2
        self.agent_selection = "a_0" if agent == "a_1" and "a_0" in self.agents else "a_1"
        if self.count["a_1"] >= 4:
            self.terminations["a_1"] = True
        self._deads_step_first()


# --- all at once ---------------------------------------------------------------------------------


def test_agents_that_leave_keep_their_place():
    env = PettingZooWrapper(Relay(), use_mask=True)
    assert env.done_on_any is False
    batch = env.rollout(9)
    team, after = batch["runner"], batch["next", "runner"]
    alive = torch.tensor([[1, 1, 1], [0, 1, 1], [0, 0, 1]], dtype=torch.bool)
    assert torch.equal(team["mask"], alive)
    gone = torch.tensor([[1, 0, 0], [1, 1, 0], [1, 1, 1]], dtype=torch.bool)
    assert torch.equal(after["done"].squeeze(-1), gone)
    assert torch.equal(after["reward"].squeeze(-1), alive.float())
    # The last observation is there; after that there is none.
    expected = torch.tensor([[1, 1, 1], [0, 2, 2], [0, 0, 3]])
    assert torch.equal(after["observation"].squeeze(-1), expected.float())
    assert after["terminated"][-1].flatten().tolist() == [True, False, True]
    assert after["truncated"][-1].flatten().tolist() == [False, True, False]
    assert batch["next", "done"].flatten().tolist() == [False, False, True]
    assert after["info", "left"][:, 2].tolist() == [3, 2, 1]
    assert [sorted(actions) for actions in env._env.played] == [
        ["runner_0", "runner_1", "runner_2"],
        ["runner_1", "runner_2"],
        ["runner_2"],
    ]
    assert {a for actions in env._env.played for a in actions.values()} <= {2, 3, 4, 5}


def test_without_a_mask_the_first_end_is_the_end():
    batch = PettingZooWrapper(Relay()).rollout(9)
    assert len(batch) == 1
    assert batch["next", "done"].all()
    with pytest.raises(ValueError, match=r"agents that left while the others continue.*runner_0"):
        PettingZooWrapper(Relay(), done_on_any=False).rollout(9)


def test_seeds_are_used_once():
    env = PettingZooWrapper(Relay(), seed=5)
    assert env._env.seed_seen == 5
    env.reset()
    assert env._env.seed_seen is None
    env.set_seed(7)
    env.reset()
    assert env._env.seed_seen == 7


@pytest.mark.parametrize("categorical", [True, False])
def test_groups_are_as_wished(categorical):
    groups = {"lone": ["runner_1"], "pair": ["runner_2", "runner_0"]}
    env = PettingZooWrapper(Relay(), group_map=groups, use_mask=True, categorical_actions=categorical)
    check_env_specs(env, break_when_any_done="both")
    assert env.rollout(9)["pair", "mask"][1].tolist() == [True, False]
    each = PettingZooWrapper(Relay(2), group_map=MarlGroupMapType.ONE_GROUP_PER_AGENT)
    assert list(each.group_map) == ["runner_0", "runner_1"]


def test_the_state_of_all_is_at_the_root():
    env = PettingZooEnv("knights_archers_zombies_v11", parallel=True, return_state=True, use_mask=True, max_cycles=3)
    assert sorted(env.group_map) == ["archer", "knight"]
    batch = env.rollout(2)
    assert torch.equal(batch[1]["state"], batch[0]["next", "state"])
    assert np.array_equal(batch[1]["next", "state"].numpy(), env._env.state())


# --- in turns ------------------------------------------------------------------------------------


def test_one_moves_and_the_others_are_masked():
    env = PettingZooWrapper(Turns(), use_mask=True)
    batch = env.rollout(9)
    movers = [agent for agent, _ in env._env.moves]
    assert movers == ["a_0", "a_1", "a_0", "a_1", "a_1", "a_1"]
    mask = batch["a", "mask"]
    assert mask.tolist() == [[agent == "a_0", agent == "a_1"] for agent in movers]
    legal = batch["a", "action_mask"]
    assert (legal[mask] == torch.tensor([False, True, True])).all()
    assert legal[~mask].all()
    played = batch["a", "action"][mask].tolist()
    assert played == [action for _, action in env._env.moves]
    assert 0 not in played  # which was illegal
    reward = batch["next", "a", "reward"].squeeze(-1)
    assert torch.equal(reward.bool(), mask)
    done = batch["next", "a", "done"].squeeze(-1)
    assert done[:, 0].tolist() == [False, False, True, True, True, True]
    assert done[:, 1].tolist() == [False] * 5 + [True]
    assert batch["next", "done"].flatten().tolist() == [False] * 5 + [True]
    assert set(batch["a", "observation"].keys()) == {"observation"}


def test_it_is_the_game_move_by_move():
    env = PettingZooEnv("tictactoe_v3", parallel=False, use_mask=True)
    raw = pettingzoo.make("aec", "classic/tictactoe_v3")
    raw.reset()
    for row in env.rollout(9).unbind(0):
        mover = raw.possible_agents.index(raw.agent_selection)
        assert row["player", "mask"].tolist() == [mover == 0, mover == 1]
        seen = raw.observe(raw.agent_selection)
        assert np.array_equal(row["player", "observation", "observation"][mover], seen["observation"])
        assert row["player", "action_mask"][mover].tolist() == seen["action_mask"].astype(bool).tolist()
        raw.step(int(row["player", "action"][mover]))
        rewards = [raw.rewards[agent] for agent in raw.possible_agents]
        assert row["next", "player", "reward"].flatten().tolist() == rewards
    assert row["next", "player", "done"].all()


@pytest.mark.parametrize("categorical", [True, False])
def test_random_moves_are_legal_behind_transforms(categorical):
    game = PettingZooEnv("tictactoe_v3", parallel=False, use_mask=True, categorical_actions=categorical)
    env = TransformedEnv(TransformedEnv(game, RewardSum()), StepCounter())
    for seed in range(5):
        env.set_seed(seed)
        moves = env.rollout(9)
        legal, action = moves["player", "action_mask"], moves["player", "action"]
        chosen = torch.nn.functional.one_hot(action, 9) if categorical else action
        mover = moves["player", "mask"]
        assert (legal & chosen.bool()).any(-1)[mover].all()
    assert game.full_action_spec["player", "action"].mask is not None
    assert env.full_action_spec["player", "action"].is_in(env.rand_action()["player", "action"])


@pytest.mark.parametrize("name", ["simple_spread_v3", "mpe/simple_spread-v3"])
def test_tasks_of_mpe2_have_names(name):
    pytest.importorskip("mpe2")
    env = PettingZooEnv(name, parallel=True, max_cycles=5, continuous_actions=True)
    assert env.rollout(9)["next", "agent", "reward"].shape == (5, 3, 1)
    turns = PettingZooEnv(name, parallel=False, max_cycles=5, use_mask=True)
    assert turns.rollout(4)["agent", "mask"].sum() == 4
    assert "mpe/simple_spread-v3" in PettingZooEnv.available_envs


# --- mistakes ------------------------------------------------------------------------------------


def test_mistakes_are_told():
    with pytest.raises(TypeError, match=r"expected a ParallelEnv or an AECEnv, found int"):
        PettingZooWrapper(3)
    with pytest.raises(ValueError, match=r"knows no parallel task 'rps_v1'.*'rps_v2'"):
        PettingZooEnv("rps_v1", parallel=True)
    with pytest.raises(ValueError, match=r"knows no parallel task 'chess_v6'"):
        PettingZooEnv("chess_v6", parallel=True)
    with pytest.raises(ValueError, match=r"leaves out \['runner_1'\]"):
        PettingZooWrapper(Relay(2), group_map={"x": ["runner_0"]})
    assert "classic/chess-v6" in PettingZooEnv.available_envs
