"""Every public class and function says what it is for, documents each argument, and has an example."""

import dataclasses
import functools
import importlib
import inspect
import pkgutil
import re
import sys

import pytest

import torchrl

SECTION = re.compile(r"(Args|Arguments|Keyword Args|Attributes)(?: \(.*\))?:\s*$")
ENTRY = re.compile(r"([\w.*`, ]+?)(?: \(.*?\))?:(?: |$)")
REFERENCE = re.compile(r":(?:class|func|meth):`~?\.?([\w.]+)`")
STARRED = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
# Arguments that tensordict adds to every tensorclass.
OF_TENSORCLASSES = {"batch_size", "device", "names"}
# Examples of these do not run: they need a network, a server or a package that is rarely installed.
NOT_RUN = {"MLFlowLogger", "MinariExperienceReplay", "TensorboardLogger", "WandbLogger"}
NOT_RUN |= {"RayCollector", "RayReplayBuffer", "RayWeightSender"}  # an actor takes seconds to start


@functools.cache
def packages():
    """Return the package and its public subpackages."""
    found = [each.name for each in pkgutil.walk_packages(torchrl.__path__, "torchrl.") if each.ispkg]
    return ["torchrl", *(name for name in found if "._" not in name)]


@functools.cache
def public():
    """Return every class and function in an ``__all__``, once, by its first dotted name."""
    found, seen = {}, set()
    for package in packages():
        module = importlib.import_module(package)
        for name in getattr(module, "__all__", ()):
            part = getattr(module, name)
            if (inspect.isclass(part) or inspect.isfunction(part)) and id(part) not in seen:
                seen.add(id(part))
                if part.__module__.partition(".")[0] == "torchrl":  # not a name for a type, such as a tuple
                    found[f"{package}.{name}"] = part
    return found


@functools.cache
def own_doc(part):
    """Return the docstring that a class or function has itself, not by inheritance."""
    return inspect.cleandoc(vars(part).get("__doc__") or "" if inspect.isclass(part) else part.__doc__ or "")


@functools.cache
def documented(text):
    """Return the names that the sections of arguments and attributes of a docstring document, by section."""
    names, section, indent = {}, None, None
    for line in text.splitlines():
        header = SECTION.match(line)
        if header:
            section, indent = header[1], None
        elif line[:1].strip():
            section = None
        elif section and line.strip():
            here = len(line) - len(line.lstrip())
            indent = here if indent is None else indent
            entry = ENTRY.match(line.strip()) if here == indent else None
            for name in entry[1].split(",") if entry else ():
                names[name.strip().strip("`*")] = section
    return names


def arguments(part):
    """Return the parameters of a call, without ``self``."""
    function = part.__init__ if inspect.isclass(part) else part
    if function is object.__init__:
        return {}
    return {n: p for n, p in inspect.signature(function).parameters.items() if n not in ("self", "_")}


@functools.cache
def kin(part):
    """Return the bases of a class, and the classes and functions that its docstring refers to, with their bases."""
    bases = (
        [base for base in part.__mro__[1:] if base.__module__.startswith("torchrl")] if inspect.isclass(part) else []
    )
    names = {reference.rpartition(".")[2] for each in (part, *bases) for reference in REFERENCE.findall(own_doc(each))}
    scopes = [vars(sys.modules[part.__module__]), {name.rpartition(".")[2]: found for name, found in public().items()}]
    named = [scope[name] for name in names for scope in scopes if name in scope]
    return [*bases, *(base for each in named if hasattr(each, "__doc__") for base in getattr(each, "__mro__", (each,)))]


@functools.cache
def fields_with_comments(kind):
    """Return the fields that a class declares with a comment behind them or above them."""
    lines, found = inspect.getsource(kind).splitlines(), set()
    for before, line in zip(["", *lines], lines, strict=False):
        field = re.match(r"    (\w+): ", line)
        if field and ("  # " in line or before.strip().startswith("#")):
            found.add(field[1])
    return found


def commented_fields(kind):
    """Return the fields of a dataclass, of its bases too, that have a comment."""
    kinds = [each for each in kind.__mro__ if dataclasses.is_dataclass(kind) and each.__module__.startswith("torchrl")]
    return set().union(*map(fields_with_comments, kinds))


@pytest.mark.parametrize("name", public())
def test_has_a_purpose(name):
    first = own_doc(public()[name]).partition("\n\n")[0]
    assert first.rstrip().endswith((".", ":", "::")), f"{name}: the docstring begins with a sentence, found {first!r}"


@pytest.mark.parametrize("name", public())
def test_every_argument_is_documented(name):
    part = public()[name]
    known = commented_fields(part) if inspect.isclass(part) else set()
    for each in (part, *kin(part)):
        known |= set(documented(inspect.cleandoc(each.__doc__ or "")))
        known |= set(documented(inspect.cleandoc(getattr(vars(each).get("__init__"), "__doc__", "") or "")))
    if hasattr(part, "_tensordict") or hasattr(part, "from_tensordict"):
        known |= OF_TENSORCLASSES
    missing = [n for n, p in arguments(part).items() if p.kind not in STARRED and n[0] != "_" and n not in known]
    assert not missing, f"{name}: not documented: {missing}"


@pytest.mark.parametrize("name", public())
def test_every_documented_argument_exists(name):
    part = public()[name]
    own = {n for n, section in documented(own_doc(part)).items() if section != "Attributes"}
    accepted = dict(arguments(part))
    if any(p.kind in STARRED for p in accepted.values()):
        for each in (*(getattr(part, "__mro__", ())), *kin(part)):
            if inspect.isclass(each) or inspect.isfunction(each):
                accepted |= arguments(each)
    extra = own - set(accepted)
    assert not extra, f"{name}: documented, but no arguments: {sorted(extra)}"


@pytest.mark.parametrize("name", public())
def test_has_an_example(name):
    lines = [line for line in own_doc(public()[name]).splitlines() if line.lstrip().startswith(">>> ")]
    runs = [line for line in lines if "+SKIP" not in line]
    if name.rpartition(".")[2] in NOT_RUN:
        assert lines, f"{name}: no example"
    else:
        assert runs, f"{name}: no example that runs"


def test_the_checks_see_faults():
    text = inspect.cleandoc("""Add.

    Args:
        a, b: Numbers.
        *rest: More.

    Raises:
        ValueError: never.
    """)
    assert list(documented(text)) == ["a", "b", "rest"]
