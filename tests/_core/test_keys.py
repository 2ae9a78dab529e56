"""Keys: declared once, turned into inputs, named when absent."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensordict import TensorDict

from torchrl._core.errors import MissingKeyError
from torchrl._core.keys import as_keys, inputs, leaf_keys, next_key, read, read_next, require, sibling, write

NAMES = st.text("abc_", min_size=1, max_size=4)
NESTED = NAMES | st.lists(NAMES, min_size=2, max_size=3).map(tuple)


@dataclass
class Accepted:
    action: object = read("action")
    reward: object = read_next("reward")
    done: object = read_next(("agents", "done"))
    priority: object = write("td_error")
    plain: object = "note"


def test_inputs_are_what_is_declared_as_read():
    assert inputs(Accepted()) == ["action", ("next", "reward"), ("next", "agents", "done")]


def test_inputs_follow_renaming():
    accepted = Accepted(action=("agents", "move"), reward="gain", priority="other")
    assert inputs(accepted)[:2] == [("agents", "move"), ("next", "gain")]


@given(NESTED, NAMES)
def test_a_sibling_stands_beside(key, name):
    parts = key if isinstance(key, tuple) else (key,)
    result = sibling(key, name)
    assert (result if isinstance(result, tuple) else (result,)) == (*parts[:-1], name)


@given(NESTED)
def test_a_next_key_stands_under_next(key):
    td = TensorDict().set(next_key(key), 1)
    assert td["next"][key] == 1


@pytest.mark.parametrize(
    ("given_", "keys"),
    [
        (None, []),
        ("a", ["a"]),
        (("a", "b"), [("a", "b")]),
        (("a", ("b", "c")), [("a", "b", "c")]),
        ([], []),
        (["a", ("b", "c")], ["a", ("b", "c")]),
        ([("b", ("c", "d"))], [("b", "c", "d")]),
        ([("a",)], ["a"]),
    ],
)
def test_as_keys_takes_one_key_several_or_none(given_, keys):
    assert as_keys(given_) == keys


def test_leaf_keys_are_sorted_leaves():
    td = TensorDict(b=1, a=dict(d=1, c=1))
    assert leaf_keys(td) == [("a", "c"), ("a", "d"), "b"]


def test_require_is_silent_when_all_is_there():
    require(TensorDict(a=1, b=dict(c=1)), ["a", ("b", "c")], "Reader")


def test_require_names_reader_key_found_neighbour_and_remedy():
    with pytest.raises(
        MissingKeyError,
        match=(
            r"Reader: entry 'action' is read but absent; expected one of the entries at hand, "
            r"found \['acton', 'observation'\]\. Did you mean 'acton'\? Collect that entry"
        ),
    ):
        require(TensorDict(acton=1, observation=1), ["action"], "Reader")


def test_require_takes_its_readers_remedy():
    with pytest.raises(MissingKeyError, match=r"found \[\]\. Feed it\.$"):
        require(TensorDict(), [("next", "reward")], "Reader", "Feed it.")
