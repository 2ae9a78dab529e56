"""What commands are told to work on: environments by name, folders of runs, files of agents."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

import gymnasium

from torchrl._core.errors import SpecError, describe, nearest
from torchrl.envs import EnvBase
from torchrl.trainers import Agent
from torchrl.trainers.algorithms import ALGORITHMS
from torchrl.trainers.algorithms.defaults import FAMILIES
from torchrl.trainers.algorithms.environments import make_base_env
from torchrl.trainers.run_folder import BEST, LAST, SETTINGS

EXTRAS = {"box2d": "box2d", "mujoco": "gym_continuous", "atari": "atari", "classic": "rendering"}  # by family


def build_task(env: str) -> EnvBase:
    """Return an environment.

    Raises:
        ValueError: if there is no such environment; the nearest is named.
        ImportError: if a package is missing that it needs.
    """
    try:
        return make_base_env(env)
    except gymnasium.error.UnregisteredEnv as error:
        reason = " ".join(str(error).split())
        hint = nearest(env, gymnasium.registry) or f"{reason} Some that exist: torchrl list"
        raise ValueError(f"no such environment: {env!r}. {hint}") from None
    except gymnasium.error.DependencyNotInstalled as error:
        found = [family for family, names in FAMILIES.items() if any(fnmatch(env, name) for name in names)]
        extra = EXTRAS.get(found[0]) if found else None
        hint = f'pip install "torchrl[{extra}]"' if extra else " ".join(str(error).split())
        raise ImportError(f"{env} needs a package that is not installed: {hint}") from None


def check_task(algorithm: str, env: str) -> None:
    """Build the environment once, so that nothing is written for one that does not exist or fit.

    Raises:
        ValueError: if there is no such environment; the nearest is named.
        ImportError: if a package is missing that it needs.
        SpecError: if the algorithm does not fit its actions.
    """
    made = build_task(env)
    try:
        ALGORITHMS[algorithm].check_action_space(made)
    finally:
        made.close()


def check_env(agent: Agent, env: str | None) -> None:
    """Build the environment that an agent is to play in once, and compare its specs with those of training.

    Args:
        agent: The agent.
        env: The name of the environment; ``None`` for that of training.

    Raises:
        ValueError: if there is none, or it is not registered; the nearest is named.
        ImportError: if a package is missing that it needs.
        SpecError: if its observations or actions are not those of the agent.
    """
    task = agent.task if env is None else env
    if not isinstance(task, str):
        raise ValueError(describe("agent", "it was trained in an environment without a name", hint="Pass --env."))
    made = build_task(task)
    try:
        found = dict(made.observation_spec_unbatched.items(True, True))
        pairs = [(key, spec, found.get(key)) for key, spec in agent.specs.raw.items(True, True)]
        pairs.append((agent.specs.action_key, agent.specs.action_spec, made.action_spec_unbatched))
    finally:
        made.close()
    for key, expected, other in pairs:
        if other is None or other.shape != expected.shape:
            fact = f"{task} does not fit the agent, which was trained in {agent.task}: another {key}"
            shape = None if other is None else list(other.shape)
            hint = "Pass another --env."
            raise SpecError(describe("env", fact, expected=list(expected.shape), found=shape or "none", hint=hint))


def run_folder(path: Path) -> Path:
    """Return the folder of a run.

    Raises:
        FileNotFoundError: if it is none; the nearest folder beside it is named.
    """
    if (path / SETTINGS).is_file():
        return path
    beside = sorted(folder.parent for folder in path.parent.glob(f"*/{SETTINGS}"))
    below = sorted(folder.parent for folder in path.glob(f"*/{SETTINGS}"))
    if not path.exists():
        hint = nearest(path, beside) or "A run is a folder that torchrl train has made."
        raise FileNotFoundError(f"{path} does not exist. {hint.replace('PosixPath(', '').replace(')', '')}")
    hint = f"It holds the runs {', '.join(each.name for each in below[:5])}." if below else f"It has no {SETTINGS}."
    raise FileNotFoundError(f"{path} is not the folder of a run. {hint}")


def load_agent(path: Path, *, best: bool = False) -> Agent:
    """Return the agent of a file, or the last or the best one of a run.

    Raises:
        FileNotFoundError: if there is none.
    """
    if path.is_file():
        return Agent.load(path)
    file = run_folder(path) / (BEST if best else LAST)
    if not file.exists():
        hint = f"Go on with it: torchrl resume {path}" if not best else "It was never evaluated."
        raise FileNotFoundError(f"{path} has no {file.name}: it has not ended. {hint}")
    return Agent.load(file)
