"""States as text and tensors: what goes in comes out."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensordict import NonTensorData, NonTensorStack, TensorDict

from torchrl.checkpoint.serialization import decode, encode, read_tree, write_tree

PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4)
KEYS = st.text(max_size=3) | st.integers() | st.tuples(st.integers(), st.text(max_size=2))
TREES = st.recursive(
    PLAIN,
    lambda part: (
        st.lists(part, max_size=3)
        | st.tuples(part, part)
        | st.dictionaries(KEYS, part, max_size=3)
        | st.dictionaries(st.sampled_from(["is", "at", "items"]), part, max_size=3)
    ),
    max_leaves=4,
)


def kinds(value):
    if isinstance(value, dict):
        return {"dict": [(kinds(k), kinds(v)) for k, v in value.items()]}
    if isinstance(value, list | tuple):
        return [type(value).__name__, *map(kinds, value)]
    return type(value).__name__


@settings(max_examples=40)
@given(tree=TREES)
def test_what_goes_in_comes_out(tree):
    text = json.dumps(encode(tree, []))
    back = decode(json.loads(text), [])
    assert back == tree
    assert kinds(back) == kinds(tree)


def test_tensors_and_their_kin(tmp_path):
    state = {
        "tensor": torch.arange(6).reshape(2, 3).bfloat16(),
        "array": np.arange(3, dtype=np.uint32),
        "number": np.float32(0.5),
        "device": torch.device("cpu"),
        "dtype": torch.float64,
        "td": TensorDict(a=torch.ones(2, 1), b=TensorDict(c=torch.zeros(2)), batch_size=[2]),
        "object": NonTensorData("text"),
        "parameter": torch.nn.Parameter(torch.ones(1)),
    }
    write_tree(state, tmp_path)
    back = read_tree(tmp_path)
    assert torch.equal(back["tensor"], state["tensor"])
    assert back["tensor"].dtype == torch.bfloat16
    assert back["array"].dtype == np.uint32
    assert back["array"].tolist() == [0, 1, 2]
    assert (back["number"], back["device"], back["dtype"]) == (0.5, state["device"], state["dtype"])
    assert back["td"].batch_size == (2,)
    assert (back["td"] == state["td"]).all()
    assert back["object"].data == "text"
    assert not back["parameter"].requires_grad


def test_text_alone_needs_one_file(tmp_path):
    write_tree({"lr": 0.1}, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"]
    assert json.loads((tmp_path / "state.json").read_text()) == {"lr": 0.1}
    assert read_tree(tmp_path) == {"lr": 0.1}


def test_what_is_neither_is_named_with_its_place():
    state = {"groups": [{"hook": print}]}
    with pytest.raises(TypeError, match=r"'groups/0/hook' cannot be written.*found builtin.*Leave"):
        encode(state, [])


def test_reading_runs_no_code_of_a_file(tmp_path):
    write_tree({"a": torch.ones(1)}, tmp_path)

    class Evil:
        def __reduce__(self):
            return print, ("gotcha",)

    torch.save([Evil()], tmp_path / "tensors.pt")
    with pytest.raises(Exception, match=r"tensors.pt: .*only be unpickled.*print"):
        read_tree(tmp_path)


def test_text_of_several_rows_comes_back():
    words = TensorDict(text=NonTensorStack(NonTensorData("a"), NonTensorData("b")), batch_size=[2])
    tensors = []
    found = decode(encode(words, tensors), tensors)
    assert found["text"] == ["a", "b"]
