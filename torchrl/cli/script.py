"""The training script of an algorithm: its own source, with all settings in one dataclass and a ``main``."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sys
import textwrap
from collections.abc import Iterable
from dataclasses import fields
from types import ModuleType
from typing import Any, NamedTuple

from torchrl._core.errors import describe
from torchrl.envs import GymEnv, VecNormV2
from torchrl.trainers import RunConfig
from torchrl.trainers.algorithms import ALGORITHMS, AlgorithmConfig, make_env

WIDTH = 120
# Settings of the run that the script has too: the name there -> the name here.
RUN_SETTINGS = {"eval_episodes": "final_episodes", "log_dir": "log_dir"}

DOCSTRING = '''"""{about}

    python script.py
    python script.py --seed 1 --total_frames {frames}

Made by `{command}`: trained with these settings, it ends with the parameters that
`torchrl train` ends with.
"""
'''
LIBRARY_ENV = '''
def make_env(config: {kind}) -> TransformedEnv:
    """Return the training environment, ``num_envs`` copies in one, with the transforms for its family."""
    return algorithms.make_env(config.env, config)
'''
MAIN = '''
def main(config: {kind}) -> float:
    """Train; return the mean return of the evaluation."""
    torch.set_num_threads(1)  # fastest for small networks
    random.seed(config.seed)
    np.random.seed(config.seed)
    torch.manual_seed(config.seed)
    env = make_env(config)

    # Training
    logger = CSVLogger(f"{algorithm}_{{config.env.replace('/', '-')}}_seed{{config.seed}}", config.log_dir)
    logger.log_hparams(config)
    trainer = make_trainer(env, config, logger=logger, log_interval=max(1, config.total_frames // 500))
    trainer.train()
    torch.save(trainer.policy.state_dict(), logger.experiment / "policy.pt")

    # Evaluation, in another copy of the environment
    test = make_env(replace(config, num_envs=config.eval_episodes, seed=config.seed + 1_000_000))
{prepare}    returns = evaluate_policy(test, trainer.policy)
    score = returns.mean().item()
    logger.log_scalar("eval/return", score, config.total_frames)
    print(f"return {{score:.1f}} over {{len(returns)}} episodes; results in {{logger.experiment}}")
    return score


if __name__ == "__main__":
    main(parse_args({kind}, __doc__))
'''
NORMALIZED = """    test.transform.load_state_dict(env.transform.state_dict())
    for part in test.transform:
        if isinstance(part, VecNormV2):
            part.freeze()
"""
MAIN_IMPORTS = {
    ("random", ""),
    ("numpy", "np"),
    ("torch", ""),
    ("dataclasses", "dataclass"),
    ("dataclasses", "replace"),
    ("torchrl.record", "CSVLogger"),
    ("torchrl.record", "evaluate_policy"),
    ("torchrl.record", "parse_args"),
    ("torchrl.envs", "TransformedEnv"),
}


class Piece(NamedTuple):
    """A part of the script.

    Args:
        text: Its source.
        imports: What it needs: ``(module, name)``; ``(module, "")`` for the module, ``("numpy", "np")`` by that name.
    """

    text: str
    imports: set[tuple[str, str]]


def make_script(
    algorithm: str, env: str, config: AlgorithmConfig, options: RunConfig, command: str = "torchrl eject"
) -> str:
    """Return the source of a script that trains as :func:`torchrl.train` does with the same settings.

    Args:
        algorithm: Name of the algorithm.
        env: Name of the environment.
        config: Settings of the algorithm, the defaults of the script.
        options: Settings of the run.
        command: The command line, for the docstring.

    >>> from torchrl.trainers.algorithms import PPOConfig
    >>> script = make_script("ppo", "CartPole-v1", PPOConfig(lr=1e-3), RunConfig())
    >>> print(re.search(".*lr: float.*", script)[0])
        lr: float = 0.001  # learning rate; paper: 3e-4
    """
    trainer = ALGORITHMS[algorithm]
    module = sys.modules[inspect.unwrap(trainer.from_config).__module__]
    source = Source(module, skip={type(config).__name__})
    settings = config_piece(config, {"env": env, **{name: getattr(options, old) for name, old in RUN_SETTINGS.items()}})
    environment = env_piece(env, config)
    parts = source.reachable(["make_policy", "make_trainer"])
    about = (module.__doc__ or "").strip().partition("\n")[0]
    kind = type(config).__name__
    prepare, needed = "", set(MAIN_IMPORTS)
    if config.normalize_observations:
        prepare += NORMALIZED
        needed.add(("torchrl.envs", "VecNormV2"))
    if getattr(config, "recurrent", ""):
        prepare += "    test = test.append_transform(get_primers_from_module(trainer.policy))\n"
        needed.add(("torchrl.modules.utils", "get_primers_from_module"))
    main = MAIN.format(kind=kind, algorithm=algorithm, prepare=prepare)
    pieces = [settings, environment, parts]
    imports = import_lines(set().union(needed, *(piece.imports for piece in pieces)))
    docstring = DOCSTRING.format(about=about, frames=f"{2 * config.total_frames}", command=command)
    bodies = "\n\n".join(piece.text.strip("\n") + "\n" for piece in (*pieces, Piece(main, set())))
    return f"{docstring}\nfrom __future__ import annotations\n\n{imports}\n\n{bodies}"


class Source:
    """The source of a module, by definition.

    Args:
        module: The module.
        skip: Names that are defined elsewhere in the script.
    """

    def __init__(self, module: ModuleType, skip: Iterable[str] = ()) -> None:
        self.module, self.skip = module, set(skip)
        self.lines = inspect.getsource(module).splitlines()
        self.definitions: dict[str, ast.stmt] = {}
        self.imports: dict[str, tuple[str, str]] = {}
        for node in ast.parse("\n".join(self.lines)).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                self.definitions[node.name] = node
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                self.definitions[node.targets[0].id] = node
            elif isinstance(node, ast.ImportFrom) and node.module is not None:
                self.imports.update({alias.asname or alias.name: (node.module, alias.name) for alias in node.names})
            elif isinstance(node, ast.Import):
                self.imports.update(
                    {alias.asname or alias.name: (alias.name, alias.asname or "") for alias in node.names}
                )

    def reachable(self, names: Iterable[str]) -> Piece:
        """Return the source of definitions, of the private ones that they use, and their imports."""
        own: set[str] = set()
        imports: set[tuple[str, str]] = set()
        waiting = list(names)
        while waiting:
            name = waiting.pop()
            if name in own:
                continue
            own.add(name)
            found = self.needed(self.definitions[name])
            imports |= found.imports
            waiting += found.text.split()
        nodes = [node for name, node in self.definitions.items() if name in own]
        return Piece("\n\n\n".join(map(self.text, nodes)) + "\n", imports)

    def needed(self, *nodes: ast.AST) -> Piece:
        """Return what code uses: names of private definitions of the module, as words, and imports."""
        words: list[str] = []
        imports: set[tuple[str, str]] = set()
        for name in sorted(set().union(*map(names_in, nodes))):
            if name in self.skip:
                continue
            if name in self.imports:
                imports.add(public_import(*self.imports[name]))
            elif name in self.definitions:
                module, _ = public_import(self.module.__name__, name, or_empty=True)
                if module and name not in ("make_policy", "make_trainer"):
                    imports.add((module, name))
                else:
                    words.append(name)
        return Piece(" ".join(words), imports)

    def text(self, node: ast.stmt) -> str:
        """Return the lines of a definition."""
        decorators = getattr(node, "decorator_list", [])
        first = min([node.lineno, *(each.lineno for each in decorators)])
        return "\n".join(self.lines[first - 1 : node.end_lineno])


def names_in(node: ast.AST) -> set[str]:
    """Return the names that code uses, in annotations too.

    >>> sorted(names_in(ast.parse("def f(a: Any) -> X: return torch.ones(a)")))
    ['Any', 'X', 'a', 'torch']
    """
    return {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}


def public_import(module: str, name: str, *, or_empty: bool = False) -> tuple[str, str]:
    """Return module and name for an import, of the shortest public package that exports it.

    Args:
        module: Where it is defined, or imported from.
        name: Its name; that of the module by another name, or nothing, for a module.
        or_empty: Return an empty module for one that no package exports, and not its module.

    Raises:
        ValueError: for a name of this library that is not public.

    >>> public_import("torchrl.collectors.single", "Collector")
    ('torchrl.collectors', 'Collector')
    """
    parts = module.split(".")
    if parts[0] != "torchrl" or not name:
        return module, name
    value = getattr(importlib.import_module(module), name)
    for length in range(2, len(parts)):
        package = importlib.import_module(".".join(parts[:length]))
        if name in getattr(package, "__all__", ()) and getattr(package, name) is value:
            return package.__name__, name
    if or_empty:
        return "", name
    if any(part.startswith("_") for part in (*parts, name)):
        raise ValueError(describe("eject", f"{module}.{name} is private: the script cannot import it"))
    return module, name


def import_lines(imports: Iterable[tuple[str, str]]) -> str:
    """Return sorted import statements: the standard library, other packages, this library.

    >>> print(import_lines({("torch", ""), ("torchrl.envs", "GymEnv"), ("random", ""), ("torch", "nn")}))
    import random
    <BLANKLINE>
    import torch
    from torch import nn
    <BLANKLINE>
    from torchrl.envs import GymEnv
    <BLANKLINE>
    """
    groups: list[tuple[list[str], dict[str, set[str]]]] = [([], {}), ([], {}), ([], {})]
    for module, name in sorted(imports):
        root = module.partition(".")[0]
        plain, names = groups[2 if root == "torchrl" else 0 if root in sys.stdlib_module_names else 1]
        if not name:
            plain.append(f"import {module}")
        elif (module, name) == ("numpy", "np"):
            plain.append("import numpy as np")
        else:
            names.setdefault(module, set()).add(name)
    blocks = []
    for plain, names in groups:
        lines = sorted(plain)
        for module in sorted(names):
            ordered = sorted(names[module], key=_import_order)
            line = f"from {module} import {', '.join(ordered)}"
            if len(line) > WIDTH:
                line = f"from {module} import (\n" + "".join(f"    {name},\n" for name in ordered) + ")"
            lines.append(line)
        if lines:
            blocks.append("\n".join(lines) + "\n")
    return "\n".join(blocks)


def _import_order(name: str) -> tuple[int, str]:
    """Sort names as ruff does: constants, classes, the rest."""
    return (0 if name.isupper() and len(name) > 1 else 1 if name[:1].isupper() else 2), name.lower()


def config_piece(config: AlgorithmConfig, extra: dict[str, Any]) -> Piece:
    """Return the dataclass of all settings, those of its bases too, with their comments and these defaults.

    Args:
        config: The settings.
        extra: Further settings: ``env`` comes first, those of :class:`~torchrl.trainers.RunConfig` last.
    """
    kind = type(config)
    plain = kind()
    sources = inspect.cleandoc(kind.__doc__ or "")
    known = set(re.findall(r'"(\w[\w ]*)" (?:is|of)|, "(\w[\w ]*)" ', sources))
    names = {name for pair in known for name in pair if name}
    lines = [f'    env: str = "{extra["env"]}"  # a task of gymnasium']
    for field in fields(kind):
        value, default = getattr(config, field.name), getattr(plain, field.name)
        lines += _setting(kind, field.name, value, default, names)
    for name, old in RUN_SETTINGS.items():
        _, annotation, _, comment = _declaration(RunConfig, old)
        comment = comment.partition(";")[0] if name == "log_dir" else "episodes of the evaluation after training"
        lines.append(f"    {name}: {annotation} = {literal(extra[name])}  # {comment}")
    imports: set[tuple[str, str]] = set()
    methods = []
    for name in _methods(kind):
        owner = next(each for each in kind.__mro__ if name in vars(each))
        source = Source(sys.modules[owner.__module__])
        node = next(
            each
            for each in ast.walk(source.definitions[owner.__name__])
            if isinstance(each, ast.FunctionDef) and each.name == name
        )
        methods.append(source.text(node))
        imports |= source.needed(node).imports
    doc = re.split(r"\n\s*>>>", sources)[0].strip()
    doc = textwrap.indent(f'"""{doc}"""' if "\n" not in doc else f'"""{doc}\n"""', "    ")
    text = f"@dataclass\nclass {kind.__name__}:\n{doc}\n\n" + "\n".join(lines) + "\n"
    return Piece("\n\n".join([text.rstrip("\n"), *methods]) + "\n", imports)


def _methods(kind: type) -> list[str]:
    """Return the names of properties, and of ``__post_init__``."""
    found = {
        name: None
        for each in reversed(kind.__mro__)
        for name, value in vars(each).items()
        if isinstance(value, property)
    }
    return [*(["__post_init__"] if hasattr(kind, "__post_init__") else []), *found]


def _declaration(kind: type, name: str) -> tuple[str, str, str, str]:
    """Return line, annotation, default and comment of a field, as they are in the source."""
    owner = next(each for each in kind.__mro__ if name in vars(each).get("__annotations__", {}))
    text = textwrap.dedent(inspect.getsource(owner))
    tree = ast.parse(text).body[0]
    assert isinstance(tree, ast.ClassDef)
    node = next(
        each
        for each in tree.body
        if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name) and each.target.id == name
    )
    assert node.value is not None
    assert node.end_lineno is not None
    line = text.splitlines()[node.end_lineno - 1]
    comment = line.encode()[node.end_col_offset :].decode().strip().removeprefix("#").strip()
    default = ast.get_source_segment(text, node.value) or ""
    return line, ast.unparse(node.annotation), default, comment


def _setting(kind: type, name: str, value: object, default: object, sources: set[str]) -> list[str]:
    """Return the lines of a field; where another value is tuned, the comment names the default."""
    _, annotation, written, comment = _declaration(kind, name)
    if value != default:
        head, _, last = comment.rpartition("; ")
        if head and last.partition(",")[0] in sources:
            comment = f"{comment}: {written}"  # the value of that source
        else:
            comment = f"{comment}; default: {written}"
        written = literal(value)
    line = f"    {name}: {annotation} = {written}" + (f"  # {comment}" if comment else "")
    if len(line) <= WIDTH:
        return [line]
    wrapped = textwrap.wrap(comment, WIDTH - 6)
    return [*(f"    # {part}" for part in wrapped), f"    {name}: {annotation} = {written}"]


def literal(value: object) -> str:
    """Return a value as it is written in source.

    >>> literal(100_000), literal(0.001), literal(3e-6), literal("tanh")
    ('100_000', '0.001', '3e-06', '"tanh"')
    """
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10_000:
        return f"{value:_}"
    if isinstance(value, str):
        return '"' + repr(value)[1:-1].replace('"', '\\"').replace("\\'", "'") + '"'
    return repr(value)


def env_piece(env: str, config: AlgorithmConfig) -> Piece:
    """Return ``make_env`` for these settings; that of the library where the family needs more than a few transforms."""
    kind = type(config).__name__
    made = make_env(env, config)
    found = [type(part).__name__ for part in made.transform]
    is_plain = type(made.base_env) is GymEnv
    keys = next((list(part.in_keys) for part in made.transform if isinstance(part, VecNormV2)), [])
    made.close()
    parts = ["DoubleToFloat()"]
    names = literal_keys(keys)
    if config.normalize_observations:
        parts += [
            f"VecNormV2({names}, decay=1.0, reduce_batch_dims=True)",
            f"ClipTransform({names}, low=-10.0, high=10.0)",
        ]
    parts += ["RewardSum()", "StepCounter()"]
    if getattr(config, "recurrent", ""):
        parts.append("InitTracker()")
    if config.normalize_rewards:
        gamma = "config.gamma" if hasattr(config, "gamma") else "0.99"
        parts += [f'ReturnNorm({gamma}, ["reward"])', 'ClipTransform(["reward"], low=-10.0, high=10.0)']
    used = [part.partition("(")[0] for part in parts]
    if used != found or not is_plain:
        return Piece(LIBRARY_ENV.format(kind=kind), {("torchrl.trainers", "algorithms")})
    compose = f"        Compose({', '.join(parts)}),"
    if len(compose) > WIDTH:
        compose = "        Compose(\n" + "".join(f"            {part},\n" for part in parts) + "        ),"
    text = f'''
def make_env(config: {kind}) -> TransformedEnv:
    """Return the training environment, ``num_envs`` copies in one."""
    env = TransformedEnv(
        GymEnv(config.env, num_envs=config.num_envs if config.num_envs > 1 else 0, device=config.device),
{compose}
    )
    env.set_seed(config.seed)
    return env
'''
    return Piece(text, {("torchrl.envs", name) for name in ("GymEnv", "Compose", *used)})


def literal_keys(keys: Iterable[Any]) -> str:
    """Return keys as a list in source.

    >>> literal_keys(["observation", ("agent", "position")])
    '["observation", ("agent", "position")]'
    """
    words = [f"({', '.join(map(literal, key))})" if isinstance(key, tuple) else literal(key) for key in keys]
    return f"[{', '.join(words)}]"
