"""Read arguments into dataclasses with tyro; settings of an algorithm from flags, a file and the tuned defaults."""

from __future__ import annotations

import contextlib
import inspect
import io
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, make_dataclass, replace
from dataclasses import field as dataclass_field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

from torchrl._core.errors import UnexpectedKeyError, describe, nearest
from torchrl._core.optional import require_package
from torchrl.trainers import RunConfig
from torchrl.trainers.algorithms import ALGORITHMS, AlgorithmConfig, tuned_settings, with_settings

A = TypeVar("A")
HELP = ("-h", "--help")


def parse(kind: type[A], argv: list[str], *, command: str, description: str = "", default: A | None = None) -> A:
    """Read arguments into a dataclass: fields without a default are positional, the others flags.

    Args:
        kind: The dataclass; ``--help`` shows the comments behind its fields.
        argv: The arguments.
        command: What they follow, for the messages.
        description: What the command does, for the help; the docstring of ``kind`` if empty.
        default: The defaults, if not those of ``kind``.

    Raises:
        ValueError: for arguments that do not fit; its message is a line.
        SystemExit: after the help.

    >>> @dataclass
    ... class Args:
    ...     run: str
    ...     episodes: int = 100
    >>> parse(Args, ["runs/a", "--episodes", "5"], command="eval")
    Args(run='runs/a', episodes=5)
    """
    tyro = require_package("tyro", needed_by="torchrl", extra="cli")
    config = (tyro.conf.PositionalRequiredArgs, tyro.conf.OmitArgPrefixes)
    options: dict[str, Any] = {"config": config} if default is None else {"config": config, "default": default}
    description = description or summary_of(kind)
    report = io.StringIO()
    try:
        with contextlib.redirect_stderr(report):
            return tyro.cli(kind, args=argv, prog=f"torchrl {command}", description=description, **options)
    except SystemExit as end:
        if not end.code:
            raise
        names = [field.name for field in _all_fields(kind)]
    raise ValueError(f"{command}: {_first_message(report.getvalue(), names)}")


def _all_fields(kind: Any) -> list[Any]:
    """Return the fields of a dataclass, in place of one that is a dataclass its fields."""
    found: list[Any] = []
    for field in fields(kind):
        inner = getattr(field.type, "__origin__", None)  # of Annotated
        found += _all_fields(inner) if hasattr(inner, "__dataclass_fields__") else [field]
    return found


def _first_message(report: str, names: Iterable[str]) -> str:
    """Return what a report of tyro says below its title, in a line, and the nearest flag to one that it rejects."""
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).strip("│╭╮╰╯ ") for line in report.splitlines()]
    message: list[str] = []
    for line in list(filter(None, lines))[1:]:  # after the title
        if not line.strip("─-"):  # hyphens where the terminal lacks the others
            if message:
                break
        else:
            message.append(line)
    text = " ".join(message).replace(" (required)", "").rstrip(".")
    unknown = re.search(r"Unrecognized options: -+([\w-]+)", text)
    name = unknown[1].replace("-", "_") if unknown else ""
    hint = nearest(name, names) or nearest(name.removeprefix("no_"), names)
    return f"{text}. {hint or 'See --help.'}"


def summary_of(kind: type) -> str:
    """Return the docstring of a class up to its first example, its paragraphs as lines.

    >>> summary_of(RunConfig)
    'What surrounds training: the folder, evaluations, saves.'
    """
    text = re.split(r"\n *>>>", inspect.cleandoc(kind.__doc__ or ""))[0].strip()
    return "\n".join(" ".join(part.split()) for part in text.split("\n\n"))


@dataclass
class Request(Generic[A]):
    """What a command for an algorithm and an environment was told.

    Args:
        algorithm: Name of the algorithm.
        env: Name of the environment.
        args: Arguments of the command itself.
        config: Settings of the algorithm.
        options: Settings of the run.
        given: Names of the settings that were given, not taken from the defaults.
    """

    algorithm: str
    env: str
    args: A
    config: AlgorithmConfig
    options: RunConfig
    given: set[str]

    @property
    def settings(self) -> dict[str, Any]:
        """All settings by name, as :func:`torchrl.train` takes them."""
        return {**vars(self.config), **vars(self.options)}


@dataclass
class FileArgs:
    """Where settings come from."""

    config: Path | None = None  # YAML file of settings, or settings.json of a run; flags come before it


def read_request(command: str, kind: type[A], argv: list[str], options: RunConfig | None = None) -> Request[A]:
    """Read ``ALGO ENV --name value ...``: flags come before the file ``--config``, and it before tuned defaults.

    Args:
        command: Name of the command.
        kind: Arguments of the command itself; a subclass of :class:`FileArgs`.
        argv: The arguments.
        options: Defaults of the settings of the run.

    Raises:
        ValueError: for an unknown algorithm, or arguments that do not fit.
        UnexpectedKeyError: for an unknown setting in the file.

    >>> read_request("train", FileArgs, ["ppo", "CartPole-v1", "--gamma", "0.9"]).config.gamma
    0.9
    """
    options = options or RunConfig()
    words = [word for word in argv[:2] if not word.startswith("-")]
    is_help = any(word in HELP for word in argv)
    if len(words) < 2 and not is_help:
        hint = f"As in: torchrl {command} ppo CartPole-v1. Algorithms: {', '.join(sorted(ALGORITHMS))}."
        raise ValueError(f"{command}: needs an algorithm and an environment, before any option. {hint}")
    if words and words[0] not in ALGORITHMS:
        hint = nearest(words[0], ALGORITHMS) or f"Algorithms: {', '.join(sorted(ALGORITHMS))}."
        raise ValueError(f"{command}: no such algorithm: {words[0]!r}. {hint}")
    algorithm, env = (*words, "", "")[:2]
    config = ALGORITHMS[algorithm].config_class() if algorithm else AlgorithmConfig()
    config = with_settings(config, tuned_settings(algorithm, env))
    rest = argv[len(words) :]
    if not algorithm:
        description = f"Choose an algorithm: torchrl {command} ppo CartPole-v1 --help shows its settings and their"
        description += f" defaults for this task. Algorithms: {', '.join(sorted(ALGORITHMS))}."
    else:
        description = f"{algorithm.upper()} on {env or 'an environment'}, with the defaults for it."
    described = {"command": kind, algorithm or "common": type(config), "run": RunConfig}
    read = partial(_parse_parts, described, command=" ".join([command, *words]), description=description)
    given = {re.sub(r"^no_", "", word[2:].partition("=")[0].replace("-", "_")) for word in rest if word[:2] == "--"}
    file = _config_file(rest)
    if file is not None and not is_help:
        settings = read_settings(file)
        known = [field.name for part in (config, options) for field in fields(part)]
        for name in settings:
            if name not in known:
                hint = nearest(name, known) or f"Settings: {', '.join(known)}."
                raise UnexpectedKeyError(describe(str(file), "is no setting", key=name, hint=hint))
        given |= set(settings)
        try:
            _, config, options = read((kind(), config, options), _as_flags(settings))
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from None
    args, config, options = read((kind(), config, options), rest)
    config = with_settings(config, {})  # checked
    return Request(algorithm, env, args, config, options, given)


def _parse_parts(kinds: dict[str, type], defaults: tuple, argv: list[str], *, command: str, description: str) -> list:
    """Read flags of several dataclasses at once."""
    tyro = require_package("tyro", needed_by="torchrl", extra="cli")
    parts = [
        (
            name,
            Annotated[kind, tyro.conf.arg(help=summary_of(kind))],
            dataclass_field(default_factory=partial(replace, default)),
        )
        for (name, kind), default in zip(kinds.items(), defaults, strict=True)
    ]
    both: Any = parse(make_dataclass("Parts", parts), argv, command=command, description=description)
    return [getattr(both, name) for name in kinds]


def _config_file(argv: list[str]) -> Path | None:
    for i, word in enumerate(argv):
        if word == "--config" and i + 1 < len(argv):
            return Path(argv[i + 1])
        if word.startswith("--config="):
            return Path(word.partition("=")[2])
    return None


def read_settings(file: Path) -> dict[str, Any]:
    """Return the settings of a YAML file, or of ``settings.json`` of a run.

    Raises:
        ValueError: if it is not YAML, or no mapping.
    """
    yaml = require_package("yaml", needed_by="--config", extra="cli")
    if not file.is_file():
        raise FileNotFoundError(f"--config {file}: there is no such file")
    try:
        text = file.read_text()
        found = json.loads(text) if file.suffix == ".json" else yaml.safe_load(text)
    except (UnicodeDecodeError, json.JSONDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{file} cannot be read: {' '.join(str(error).split())}") from None
    if found is None:
        return {}
    if not isinstance(found, Mapping) or not all(isinstance(name, str) for name in found):
        raise ValueError(f"{file} holds no settings; expected lines such as 'lr: 0.001'")
    if isinstance(found.get("settings"), Mapping) and isinstance(found.get("run"), Mapping):
        return {**found["settings"], **found["run"]}
    return {name.replace("-", "_"): value for name, value in found.items()}


def _as_flags(settings: Mapping[str, Any]) -> list[str]:
    """Return settings as arguments, so that those of a file are converted and checked like flags."""
    flags: list[str] = []
    for name, value in settings.items():
        if isinstance(value, bool):
            flags.append(f"--{'' if value else 'no-'}{name}")
        elif isinstance(value, list | tuple):
            flags += [f"--{name}", *map(str, value)]
        else:
            flags.append(f"--{name}={value}")
    return flags
