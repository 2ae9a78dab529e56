"""What a simulator is in the middle of an episode, as numbers and text, and back.

The attributes of an environment, and of the environments that it wraps, are walked: numbers, text, arrays, tensors,
containers of these, generators of random numbers, and objects that hold such attributes. MuJoCo and the Arcade Learning
Environment are asked for their own states. Functions, classes, specs and what draws on a screen hold no state of an
episode. Anything else cannot be saved, and is named by the error.
"""

from __future__ import annotations

import importlib
import logging
import math
import random
import types
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from tensordict import TensorDictBase
from torch import Tensor, nn

from torchrl._core.errors import SimulatorStateError, describe
from torchrl.data import TensorSpec

if TYPE_CHECKING:
    from torchrl.envs.base import EnvBase

# Of every environment: what it is made of, and what is computed again.
_OF_EVERY_ENV = {
    *vars(nn.Module()),
    *("_allow_done_after_reset", "_batch_size", "_checks_now", "_collector", "_compiled_specs", "_constructors"),
    *("_device", "_loop_watch", "_rollout_watch", "_run_type_checks", "_spec_locked", "_specs", "_state_counter"),
    *("_trusted", "_unnamed", "is_closed"),
}
State = Any  # text, numbers, tensors, and lists, tuples and dictionaries of them
Foreign = Any  # objects of packages that need not be installed

_TEXT_AND_NUMBERS = (type(None), bool, int, float, str)
_FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType, types.MethodType)
_CONSTANTS: tuple[type, ...] = (type, *_FUNCTIONS, types.ModuleType, logging.Logger, range, slice)
_CONSTANTS += (torch.device, torch.dtype, torch.Size, np.dtype, TensorSpec)
# Packages and modules whose objects describe an environment or show it to a person.
_DESCRIPTIONS = (
    "functools",
    "gymnasium.envs.registration",
    "gymnasium.envs.mujoco.mujoco_rendering",
    "pygame",
    "glfw",
    "OpenGL",
    "weakref",
)
LARGEST = 2**26  # bytes; a table of data that the environment reads, more likely than a state
CONSTANT = {"kind": "constant"}
_LISTS: dict[str, Foreign] = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset, "deque": deque}


class Kind(NamedTuple):
    """A kind of values: how one is known, saved, and loaded into what is there now."""

    test: Callable[[Foreign], bool]
    save: Callable[[Foreign], State]
    load: Callable[..., object]


def simulator_state(env: EnvBase) -> State:
    """Return what the simulator is now, in the middle of an episode: numbers and text, which need no pickle.

    With it, with ``state_dict()`` and with the root of the next step, another environment goes on as this one would.
    It is what the attributes hold, those in ``configuration`` left out; an environment whose state is elsewhere
    overrides both methods, or raises.

    Raises:
        SimulatorStateError: if some of it could only be pickled, as objects of C++ and of Box2D.

    >>> from torchrl.envs import GymEnv
    >>> env, other = GymEnv("CartPole-v1"), GymEnv("CartPole-v1")
    >>> root = env.rollout(5, break_when_any_done=False)[-1]["next"].exclude("reward")
    >>> other.load_simulator_state(env.simulator_state())
    >>> root["action"] = torch.tensor([0, 1])
    >>> first, second = (each.step(root.copy())["next", "observation"] for each in (env, other))
    >>> torch.equal(first, second)
    True
    """
    return save_attributes(
        env, _OF_EVERY_ENV.union(*(vars(kind).get("configuration", ()) for kind in type(env).__mro__))
    )


def load_simulator_state(env: EnvBase, state: State) -> None:
    """Restore what :meth:`simulator_state` returned, of an environment that was built alike.

    Raises:
        SimulatorStateError: if it was built otherwise.
    """
    env.reset()  # simulators build some of their parts then
    load_attributes(env, state)


def save_attributes(owner: object, skip: Collection[str] = ()) -> dict[str, State]:
    """Return the state that the attributes of an object hold.

    Args:
        owner: The object.
        skip: Names of attributes to leave out.

    Raises:
        SimulatorStateError: if an attribute holds what can only be pickled; it is named.

    >>> class Walk:
    ...     def __init__(self):
    ...         self.place, self.rng = np.zeros(1), np.random.default_rng(0)
    >>> walk = Walk()
    >>> state = save_attributes(walk)
    >>> first = walk.rng.random()
    >>> load_attributes(walk, state)
    >>> walk.rng.random() == first
    True
    """
    return _Saver(owner).attributes(owner, type(owner).__name__, skip)


def load_attributes(owner: object, state: Mapping[str, State]) -> None:
    """Set the attributes of an object to what :func:`save_attributes` returned.

    Arrays, tensors, containers and objects are changed in place where they can be.

    Raises:
        SimulatorStateError: if the object is built otherwise than the one that was saved.
    """
    where = type(owner).__name__
    for name, value in state.items():
        now = getattr(owner, name, None)
        new = _loaded(now, value, f"{where}.{name}")
        is_equal = type(new) in _TEXT_AND_NUMBERS and type(new) is type(now) and new == now
        if new is not now and not is_equal:
            setattr(owner, name, new)


class _Saver:
    """Walks an environment.

    Args:
        owner: The environment, for messages.
    """

    def __init__(self, owner: object) -> None:
        self.owner = owner
        self._walked: set[int] = set()  # objects may lead back to those that lead to them

    def attributes(self, owner: object, where: str, skip: Collection[str] = ()) -> dict[str, State]:
        """Return the state of each attribute of an object, without constants."""
        self._walked.add(id(owner))
        wanted = {n: v for n, v in vars(owner).items() if n not in skip and id(v) not in self._walked}
        saved = {name: self.value(value, f"{where}.{name}") for name, value in wanted.items()}
        return {name: state for name, state in saved.items() if state != CONSTANT}

    def value(self, value: Foreign, where: str) -> State:
        """Return the state of a value."""
        if type(value) in _TEXT_AND_NUMBERS:
            return value
        if _is_constant(value):
            return CONSTANT
        for name, kind in _KINDS.items():
            if kind.test(value):
                if getattr(value, "nbytes", 0) > LARGEST:
                    raise self._unsaved(value, f"{where} is too large to be part of each save")
                return {"kind": name, "value": kind.save(value)}
        for name, kind in _SIMULATORS.items():
            if kind.test(value):
                return {"kind": name, "value": self.value(kind.save(value), where)}
        name = type(value).__name__
        if type(value) is _LISTS.get(name):
            items = [self.item(one, f"{where}[{i}]") for i, one in enumerate(value)]
            return {"kind": name, "value": items} | ({"maxlen": value.maxlen} if name == "deque" else {})
        if isinstance(value, dict):
            pairs = [(self.item(key, where), self.item(one, f"{where}[{key!r}]")) for key, one in value.items()]
            return {"kind": "dict", "value": pairs}
        # A larger object holds something beside its __dict__, in C or in slots.
        size, plain = type(value).__basicsize__, _Plain.__basicsize__
        if hasattr(value, "__dict__") and not type(value).__itemsize__ and size <= plain:
            return {"kind": "object", "class": type(value).__qualname__, "value": self.attributes(value, where)}
        raise self._unknown(value, where)

    def item(self, value: Foreign, where: str) -> State:
        """Return the state of an element: of objects only environments, since others come and go."""
        state = self.value(value, where)
        if isinstance(state, dict) and state["kind"] == "object" and not hasattr(value, "step"):
            raise self._unknown(value, where)
        return state

    def _unknown(self, value: object, where: str) -> SimulatorStateError:
        return self._unsaved(value, f"it is not known what {where} holds")

    def _unsaved(self, value: object, reason: str) -> SimulatorStateError:
        return SimulatorStateError(
            describe(
                self.owner,
                f"cannot be saved in the middle of an episode: {reason}",
                expected=f"numbers, text, arrays of up to {LARGEST >> 20} MiB, generators, and attributes of these",
                found=type(value).__name__,
                hint="Name it in `configuration` of the environment if it never changes, or override "
                "simulator_state() and load_simulator_state().",
            )
        )


def _loaded(now: Foreign, state: State, where: str) -> Foreign:
    """Return what an attribute is to hold; what it holds ``now`` is changed in place where it can be."""
    if not isinstance(state, dict):
        return state
    if state == CONSTANT:
        return now
    kind, value = state["kind"], state["value"]
    if kind in _KINDS:
        return _KINDS[kind].load(now, value, where)
    if kind in _LISTS:
        return _into_list(now, state, where)
    if kind == "dict":
        return _into_dict(now, value, where)
    if kind == "object":
        if type(now).__qualname__ != state["class"]:
            raise _built_otherwise(where, state["class"], now)
        load_attributes(now, value)
        return now
    if not _SIMULATORS[kind].test(now):
        raise _built_otherwise(where, kind, now)
    _SIMULATORS[kind].load(now, _loaded(None, value, where))
    return now


def _into_list(now: Foreign, state: dict[str, State], where: str) -> Foreign:
    kind, items = state["kind"], state["value"]
    same = isinstance(now, list | tuple | deque) and len(now) == len(items)
    before = list(now) if same else [None] * len(items)
    if not same and any(isinstance(item, dict) and item["kind"] in ("constant", "object") for item in items):
        raise _built_otherwise(where, f"{len(items)} elements", now)
    new = [_loaded(old, item, f"{where}[{i}]") for i, (old, item) in enumerate(zip(before, items, strict=True))]
    if kind == "list" and isinstance(now, list):
        now[:] = new
        return now
    return deque(new, state["maxlen"]) if kind == "deque" else _LISTS[kind](new)


def _into_dict(now: Foreign, pairs: Sequence[tuple[State, State]], where: str) -> dict:
    current = now if isinstance(now, dict) else {}
    keys = [_loaded(None, key, where) for key, _ in pairs]
    new = {
        key: _loaded(current.get(key), state, f"{where}[{key!r}]") for key, (_, state) in zip(keys, pairs, strict=True)
    }
    current.clear()
    current.update(new)
    return current


def _built_otherwise(where: str, expected: object, now: object) -> SimulatorStateError:
    return SimulatorStateError(
        describe(
            where,
            "is not what it was when the environment was saved",
            expected=expected,
            found=type(now).__name__,
            hint="Build the environment as it was built then, with the same versions of its packages.",
        )
    )


def _is_constant(value: object) -> bool:
    module = getattr(type(value), "__module__", "")  # some that wrap C++ have none
    return isinstance(value, _CONSTANTS) or any(
        module == name or module.startswith(f"{name}.") for name in _DESCRIPTIONS
    )


class _Plain:
    """Of the size that objects have whose attributes are all that they hold."""


# --- values that are saved as they are -------------------------------------------------------------


def _save_array(value: Foreign) -> State:
    array = np.array(value)
    if array.dtype.kind in "biuf" and array.dtype.isnative and array.itemsize <= 8:
        return torch.from_numpy(array)
    return _save_bytes(array.tobytes()), array.dtype.str, array.shape  # text, times, complex numbers


def _to_array(state: State) -> np.ndarray:
    if isinstance(state, Tensor):
        return state.numpy()
    data, dtype, shape = state
    return np.frombuffer(data.numpy().tobytes(), dtype).reshape(shape)


def _into_array(now: Foreign, new: np.ndarray) -> np.ndarray:
    if isinstance(now, np.ndarray) and (now.shape, now.dtype) == (new.shape, new.dtype) and now.flags.writeable:
        now[...] = new
        return now
    return new.copy()


def _into_tensor(now: Foreign, new: Foreign) -> Foreign:
    if isinstance(now, Tensor) and (now.shape, now.dtype) == (new.shape, new.dtype) and not now.requires_grad:
        with torch.no_grad():
            return now.copy_(new)
    return new.clone() if getattr(now, "device", None) is None else new.clone().to(now.device)


def _save_bytes(value: bytes | bytearray) -> Tensor:
    return torch.frombuffer(bytearray(value), dtype=torch.uint8) if value else torch.empty(0, dtype=torch.uint8)


def _into_enum(now: Foreign, name: str, where: str) -> Enum:
    if not isinstance(now, Enum):
        raise _built_otherwise(where, name, now)
    return type(now)[name]


# By kind: test, save, and load into what is there now.
_KINDS: dict[str, Kind] = {
    "enum": Kind(lambda value: isinstance(value, Enum), lambda value: value.name, _into_enum),
    "number": Kind(
        lambda value: isinstance(value, np.generic), _save_array, lambda now, state, where: _to_array(state)[()]
    ),
    "array": Kind(
        lambda value: isinstance(value, np.ndarray) and not value.dtype.hasobject,
        _save_array,
        lambda now, state, where: _into_array(now, _to_array(state)),
    ),
    "tensor": Kind(
        lambda value: isinstance(value, Tensor | TensorDictBase),
        lambda value: value.detach().clone(),
        lambda now, state, where: _into_tensor(now, state),
    ),
    "bytes": Kind(lambda value: type(value) is bytes, _save_bytes, lambda now, state, where: state.numpy().tobytes()),
}


# --- simulators and generators that are asked for their state -------------------------------------


def _is(name: str) -> Callable[[object], bool]:
    """Return a test for objects of a class, by the path of it, whose package need not be installed."""
    module, kind = name.rsplit(".", 1)
    return lambda value: any(
        (getattr(each, "__module__", ""), each.__name__) == (module, kind) for each in type(value).__mro__
    )


def _save_bits(generator: np.random.Generator) -> dict[str, State]:
    return dict(generator.bit_generator.state)


def _load_bits(generator: np.random.Generator, state: Mapping[str, State]) -> None:
    generator.bit_generator.state = state


def _spaces(space: Foreign) -> Iterator[Foreign]:
    """Yield a space of gymnasium and those inside of it."""
    yield space
    inner = getattr(space, "spaces", ())
    for child in inner.values() if isinstance(inner, Mapping) else inner:
        yield from _spaces(child)


def _save_space(space: Foreign) -> list[State]:
    generators = [getattr(each, "_np_random", None) for each in _spaces(space)]  # None before the first draw
    return [generator and dict(generator.bit_generator.state) for generator in generators]


def _load_space(space: Foreign, states: list[State]) -> None:
    for each, state in zip(_spaces(space), states, strict=True):
        if state is not None:
            each.np_random.bit_generator.state = state


def _save_mujoco(part: Foreign) -> dict[str, State]:
    """Return the arrays of a ``MjData`` or a ``MjModel``: what is derived is read before it is computed again, too."""
    found = {name: getattr(part, name, None) for name in dir(part) if not name.startswith("_")}
    arrays = {
        name: each
        for name, each in found.items()
        if isinstance(each, np.ndarray) and each.dtype.kind in "biuf" and not name.startswith("tex_")  # of pictures
    }
    return arrays | ({"time": part.time} if "time" in found else {})


def _load_mujoco(part: Foreign, state: Mapping[str, State]) -> None:
    for name, value in state.items():
        if name == "time":
            part.time = value
        elif (array := getattr(part, name)).shape == value.shape:  # else of contacts, which each step finds
            np.copyto(array, value)


def _save_physics(physics: Foreign) -> dict[str, State]:
    return {"model": _save_mujoco(physics.model.ptr), "data": _save_mujoco(physics.data.ptr)}


def _load_physics(physics: Foreign, state: Mapping[str, State]) -> None:
    model, data = physics.model.ptr, physics.data.ptr
    _load_mujoco(model, state["model"])
    _load_mujoco(data, state["data"])
    # The first half of a step was taken at the end of the last one: it found the contacts.
    importlib.import_module("mujoco").mj_step1(model, data)
    _load_mujoco(data, state["data"])


def _save_atari(ale: Foreign) -> bytes:
    state = ale.cloneSystemState()
    _forget_action(ale, state)
    return state.serialize()


def _load_atari(ale: Foreign, state: bytes) -> None:
    system = type(ale.cloneSystemState())(state)
    ale.restoreSystemState(system)
    _forget_action(ale, system)


def _forget_action(ale: Foreign, state: Foreign) -> None:
    """Leave a game in a state, with "no operation" as the action that a sticky action repeats.

    The last action is no part of the state and cannot be read. Where it is saved and where it is
    loaded, the same one must follow.
    """
    sticky = ale.getFloat("repeat_action_probability")
    if 0 < sticky < 1:
        for _ in range(math.ceil(math.log(1e-12) / math.log(sticky))):  # until one was surely not a repetition
            ale.act(0)
        ale.restoreSystemState(state)


_SIMULATORS: dict[str, Kind] = {
    "numpy generator": Kind(lambda value: isinstance(value, np.random.Generator), _save_bits, _load_bits),
    "numpy random state": Kind(
        lambda value: isinstance(value, np.random.RandomState),
        lambda generator: generator.get_state(legacy=False),
        lambda generator, state: generator.set_state(state),
    ),
    "torch generator": Kind(
        lambda value: isinstance(value, torch.Generator),
        lambda generator: generator.get_state(),
        lambda generator, state: generator.set_state(state),
    ),
    "random": Kind(
        lambda value: isinstance(value, random.Random),
        lambda generator: generator.getstate(),
        lambda generator, state: generator.setstate(state),
    ),
    "network": Kind(
        lambda value: isinstance(value, nn.Module),
        lambda module: dict(module.state_dict()),
        lambda module, state: module.load_state_dict(state),
    ),
    "space": Kind(_is("gymnasium.spaces.space.Space"), _save_space, _load_space),
    "MjModel": Kind(_is("mujoco._structs.MjModel"), _save_mujoco, _load_mujoco),
    "MjData": Kind(_is("mujoco._structs.MjData"), _save_mujoco, _load_mujoco),
    "Physics": Kind(_is("dm_control.mujoco.engine.Physics"), _save_physics, _load_physics),
    "ALEInterface": Kind(_is("ale_py._ale_py.ALEInterface"), _save_atari, _load_atari),
}
