"""Access to the environments of a batch: seeds, attributes, methods, states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from torchrl.envs.batched_envs.crew import Crew
from torchrl.envs.batched_envs.view import EnvView
from torchrl.envs.batched_envs.worker import METHOD, MISSING


class EnvAccess:
    """Speaks to each environment of a batch; mixed into :class:`~.base.BatchedEnvBase`."""

    _crew: Crew | None
    _pending_state: dict[int, dict[str, Any]]
    num_envs: Any
    start: Any

    def set_seed(self, seed: int | None = None, static_seed: bool = False) -> int | None:
        """Seed each environment with the seed that follows that of the one before it.

        Args:
            seed: That of the first; ``None`` asks all for fresh randomness.
            static_seed: Give all the same one.

        Returns: the seed that follows that of the last one.
        """
        self.start()
        assert self._crew is not None
        return self._crew.chain("set_seed", seed, static_seed)

    def _set_seed(self, seed: int | None) -> None:
        self.set_seed(seed)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)  # type: ignore[misc]  # nn.Module has
        except AttributeError:
            if name.startswith("_") or "_recipes" not in self.__dict__:
                raise
        return self.ask(name, range(self.num_envs))

    def ask(self, name: str, numbers: Sequence[int]) -> Any:
        """Return an attribute of some environments, a list; for a method, a call of each.

        Raises:
            AttributeError: if one of them has none of that name, or they do not stand yet.
        """
        crew = self.__dict__.get("_crew")
        if crew is None or crew.is_closed:
            raise AttributeError(
                f"{type(self).__name__} has no {name!r}, and cannot ask its environments "
                "before start() or reset()."
            )
        wanted = [number in numbers for number in range(self.num_envs)]

        def scatter(method: str, *args: Any) -> list[Any]:
            found = crew.scatter(method, wanted, *args)
            return [found[number] for number in numbers]

        values = scatter("get_attribute", name)
        kinds = [value if isinstance(value, str) else "" for value in values]
        if MISSING in kinds:
            raise AttributeError(
                f"neither {type(self).__name__} nor environment {numbers[kinds.index(MISSING)]} of "
                f"it has {name!r}"
            )
        if METHOD not in kinds:
            return values
        return lambda *args, **kwargs: scatter("call_method", name, args, kwargs)

    def read_attribute(self, path: str) -> torch.Tensor:
        """Return an attribute of each environment, numbers ``[N, ...]``; see :class:`EnvBase`."""
        values = self.ask("read_attribute", range(self.num_envs))(path)
        return torch.stack([torch.as_tensor(value) for value in values])

    def __getitem__(self, index: Any) -> EnvView:
        """Return some of the environments as an environment; see :class:`~.view.EnvView`."""
        return EnvView(self, index)  # type: ignore[arg-type]  # mixed in

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        states: Any = list(self._pending_state.items())
        if self._crew is not None and not self._crew.is_closed:
            states = enumerate(self._crew.scatter("state_dict", None))
        for i, state in states:
            for key, value in state.items():
                destination[f"{prefix}worker{i}.{key}"] = value

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        states: dict[int, dict[str, Any]] = {}
        for i in range(self.num_envs):
            own = f"{prefix}worker{i}."
            found = {k[len(own) :]: v for k, v in state_dict.items() if k.startswith(own)}
            if found:
                states[i] = found
        if self._crew is None or self._crew.is_closed:
            self._pending_state = states  # for the start
        elif states:
            self._crew.scatter("load_state_dict", [states.get(i, {}) for i in range(self.num_envs)])
