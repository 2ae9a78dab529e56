"""OpenSpiel games, sequential or simultaneous, with or without chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from tensordict import NestedKey, NonTensorData, TensorDict, TensorDictBase
from torch import Tensor

from torchrl._core.errors import SpecError, describe
from torchrl._core.optional import require_package
from torchrl.data import Bounded, Categorical, Composite, NonTensor, OneHot, TensorSpec, Unbounded
from torchrl.envs.marl import Group, MarlGroupMapType, group_specs, resolve_groups
from torchrl.envs.specs import flag_specs
from torchrl.envs.wrapper import Catalogue, EnvWrapper, take_options, unknown_name, wrong_kind


def _games() -> list[str]:
    spiel = require_package("pyspiel", needed_by="OpenSpielEnv", extra="open_spiel")
    return sorted(spiel.registered_names())


class OpenSpielWrapper(EnvWrapper):
    """Presents a game of OpenSpiel, from the start or from a position of it.

    Players, called ``player_0`` and so on, see what their information allows. What chance decides
    is decided within the step.

    Args:
        env: A ``pyspiel.Game``, or a ``pyspiel.State`` from which every episode starts.
        group_map: The players of each group, or a :class:`~torchrl.envs.utils.MarlGroupMapType`;
            one group ``"agents"`` if ``None``.
        categorical_actions: Encode actions as integers instead of one-hot vectors.
        return_state: Write the position, as text; ``reset(td, set_state=True)`` goes back to one.
        kwargs: Those of :class:`~torchrl.envs.wrapper.EnvWrapper`: ``device`` and so on.

    Reads: ``(group, "action") [A]`` or ``[A, n]``; those of players whose turn it is not are
        ignored.
    Writes: ``(group, "observation") [A, F]``; ``(group, "action_mask") [A, n]``, the legal moves,
        all of them for players whose turn it is not; ``(group, "reward") [A, 1]``;
        ``current_player``, -2 where all move at once and -4 at the end; ``state``; ``terminated``
        and ``done`` ``[1]``.

    Raises:
        TypeError: if ``env`` is neither, or its players see no numbers.
        SpecError: from ``step``, for an illegal move.

    Source: Lanctot et al., 2019, https://arxiv.org/abs/1908.09453.

    >>> import pyspiel
    >>> env = OpenSpielWrapper(pyspiel.load_game("tic_tac_toe"), categorical_actions=True)
    >>> td = env.reset()
    >>> for field in (0, 3, 1, 4, 2):
    ...     td["agents", "action"] = torch.tensor([field, field])
    ...     td = env.step_mdp(env.step(td))
    >>> td["done"], td["current_player"]
    (tensor([True]), tensor(-4))
    """

    libname = "open_spiel"
    git_url = "https://github.com/google-deepmind/open_spiel"
    available_envs = Catalogue(_games, "pyspiel")

    def __init__(
        self,
        env: Any = None,
        *,
        group_map: MarlGroupMapType | Mapping[str, Sequence[str]] | None = None,
        categorical_actions: bool = False,
        return_state: bool = False,
        **kwargs: Any,
    ) -> None:
        self.categorical_actions = categorical_actions
        self.return_state = return_state
        self._wished_groups = group_map
        self._chance = np.random.RandomState()
        super().__init__(env=env, **kwargs)

    def _build_env(self, env: Any = None) -> Any:
        spiel = require_package("pyspiel", needed_by=self, extra="open_spiel")
        if not isinstance(env, spiel.Game | spiel.State):
            raise wrong_kind(self, env, "a pyspiel.Game or a pyspiel.State", "OpenSpielEnv")
        self.game = env if isinstance(env, spiel.Game) else env.get_game()
        self._first = None if isinstance(env, spiel.Game) else env.clone()
        kind = self.game.get_type()
        self._sees = kind.provides_observation_tensor
        if not (self._sees or kind.provides_information_state_tensor):
            raise TypeError(describe(self, "needs a game whose players see numbers", found=kind.short_name))
        return self._begin()

    # --- specs -----------------------------------------------------------------------------------

    def _make_specs(self, env: Any) -> None:
        game, batch = self.game, self.batch_size
        self.players = [f"player_{i}" for i in range(game.num_players())]
        self._number = {name: i for i, name in enumerate(self.players)}
        default = MarlGroupMapType.ALL_IN_ONE_GROUP.get_group_map(self.players)
        self.group_map = resolve_groups(self._wished_groups, self.players, default)
        n = game.num_distinct_actions()
        choice: TensorSpec = (
            Categorical(n, shape=(), dtype=torch.int64) if self.categorical_actions else OneHot(n, dtype=torch.int64)
        )
        size = len(self._seen_by(0))
        specs = {
            "observation": Composite(
                observation=Unbounded((size,)), action_mask=Categorical(2, shape=(n,), dtype=torch.bool)
            ),
            "action": Composite(action=choice),
            "reward": Composite(reward=Unbounded((1,))),
        }
        self._groups = [
            Group(name, agents, {k: [spec] * len(agents) for k, spec in specs.items()}, batch)
            for name, agents in self.group_map.items()
        ]
        shared: dict[str, TensorSpec] = {"current_player": Bounded(-4, game.num_players() - 1, (), dtype=torch.int64)}
        if self.return_state:
            shared["state"] = NonTensor(shape=(), example_data=env.serialize())
        self.observation_spec = group_specs(self._groups, "observation", batch, **shared)
        self.action_spec = group_specs(self._groups, "action", batch)
        self.reward_spec = group_specs(self._groups, "reward", batch)
        self.done_spec = flag_specs(batch, None, ("done", "terminated"))

    # --- reset and step --------------------------------------------------------------------------

    def _set_seed(self, seed: int | None) -> None:
        self._chance.seed(None if seed is None else seed % 2**32)

    @property
    def action_masks(self) -> dict[NestedKey, NestedKey]:
        """The entry that masks the illegal moves of each group."""
        return {(group.name, "action"): (group.name, "action_mask") for group in self._groups}

    def _begin(self) -> Any:
        """Return the first position, after what chance decides before the first move."""
        state = self.game.new_initial_state() if self._first is None else self._first.clone()
        return self._let_chance_decide(state)

    def _let_chance_decide(self, state: Any) -> Any:
        while state.is_chance_node():
            moves, odds = zip(*state.chance_outcomes(), strict=True)
            odds = np.asarray(odds) / np.sum(odds)
            state.apply_action(int(self._chance.choice(moves, p=odds)))
        return state

    def _reset(self, tensordict: TensorDictBase | None, **kwargs: Any) -> TensorDictBase:
        self._env = self._begin()
        return self._record()

    def _set_state(self, tensordict: TensorDictBase) -> TensorDictBase:
        self._env = self._let_chance_decide(self.game.deserialize_state(tensordict["state"]))
        return self._record()

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        state = self._env
        before = state.returns()
        moves = [0] * len(self.players)
        for group in self._groups:
            actions = tensordict.get((group.name, "action"))
            if not self.categorical_actions:
                actions = actions.long().argmax(-1)  # [A]
            for player, move in zip(group.agents, actions.tolist(), strict=True):
                moves[self._number[player]] = move
        for number in self._movers():
            self._refuse_illegal(number, moves[number])
        if state.is_simultaneous_node():
            state.apply_actions(moves)
        else:
            state.apply_action(moves[state.current_player()])
        self._let_chance_decide(state)
        record = self._record()
        for group in self._groups:
            gains = [state.returns()[i] - before[i] for i in self._numbers(group)]
            record.set((group.name, "reward"), self._tensor(gains).unsqueeze(-1))
        return record.set("terminated", torch.tensor([state.is_terminal()], device=self.device))

    def _movers(self) -> list[int]:
        state = self._env
        if state.is_terminal():
            return []
        if state.is_simultaneous_node():
            return list(range(len(self.players)))
        return [state.current_player()]

    def _numbers(self, group: Group) -> list[int]:
        return [self._number[name] for name in group.agents]

    def _refuse_illegal(self, player: int, move: int) -> None:
        legal = self._env.legal_actions(player)
        if move not in legal:
            raise SpecError(
                describe(
                    self,
                    f"got an illegal move of player_{player}",
                    expected=f"one of {legal}",
                    found=move,
                    hint="Let the policy heed the group's action_mask.",
                )
            )

    def _seen_by(self, player: int) -> list[float]:
        if self._sees:
            return self._env.observation_tensor(player)
        return self._env.information_state_tensor(player)

    def _tensor(self, value: Any) -> Tensor:
        return torch.tensor(value, dtype=torch.float32, device=self.device)

    def _record(self) -> TensorDict:
        state, movers = self._env, self._movers()
        record = TensorDict({}, self.batch_size, device=self.device)
        for group in self._groups:
            entries = []
            for player in self._numbers(group):
                legal = torch.ones(self.game.num_distinct_actions(), dtype=torch.bool)
                if player in movers:
                    legal = torch.tensor(state.legal_actions_mask(player), dtype=torch.bool)
                legal = legal if self.device is None else legal.to(self.device)
                seen = self._tensor(self._seen_by(player))
                entries.append({"observation": seen, "action_mask": legal})
            record.set(group.name, group.stack(entries))
            group.mask_actions(self, [entry["action_mask"] for entry in entries])
        record.set("current_player", torch.tensor(int(state.current_player()), device=self.device))
        if self.return_state:
            text: Any = NonTensorData(state.serialize())
            record.set("state", text)
        return record

    def __repr__(self) -> str:
        return f"{type(self).__name__}(game={self.game}, group_map={self.group_map})"


class OpenSpielEnv(OpenSpielWrapper):
    """Builds a game of OpenSpiel.

    Args:
        game_string: Its name, with parameters if it has any: ``"goofspiel(num_cards=3)"``.
        kwargs: Those of :class:`OpenSpielWrapper`; all others are parameters of the game.

    Raises:
        ValueError: if there is no such game.

    >>> env = OpenSpielEnv("kuhn_poker", categorical_actions=True)
    >>> env.set_seed(0)
    795726461
    >>> env.rollout(3)["next", "agents", "reward"][-1].sum()
    tensor(0.)
    """

    def __init__(
        self,
        game_string: str,
        *,
        group_map: MarlGroupMapType | Mapping[str, Sequence[str]] | None = None,
        categorical_actions: bool = False,
        return_state: bool = False,
        **kwargs: Any,
    ) -> None:
        ours = take_options(kwargs)
        super().__init__(
            group_map=group_map,
            categorical_actions=categorical_actions,
            return_state=return_state,
            game_string=game_string,
            parameters=kwargs,
            **ours,
        )

    def _build_env(self, game_string: str, parameters: dict[str, Any]) -> Any:  # type: ignore[override]  # makes one
        spiel = require_package("pyspiel", needed_by=self, extra="open_spiel")
        name = game_string.partition("(")[0]
        if name not in spiel.registered_names():
            raise unknown_name(self, "game", name, spiel.registered_names())
        args = (game_string, parameters) if parameters else (game_string,)
        return super()._build_env(spiel.load_game(*args))
