"""Files are read without running code that stands in them."""

import enum
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from tensordict import NonTensorData, NonTensorStack, TensorDict, tensorclass

from torchrl._core.errors import DamagedFileError, UntrustedFileError
from torchrl._core.safe_load import find_container, find_dtype, is_data, load_file

Pair = namedtuple("Pair", "left right")


@tensorclass
class Step:
    value: torch.Tensor
    name: str


class Mood(str, enum.Enum):
    GOOD = "good"


class Custom:
    pass


class Trap:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


DATA = {
    "tensor": torch.arange(3).bfloat16(),
    "tensordict": TensorDict(a=torch.ones(2), t=NonTensorData("x", batch_size=[2]), batch_size=[2]),
    "lazy": TensorDict.lazy_stack([TensorDict(a=torch.ones(2)), TensorDict(a=torch.ones(3))]),
    "texts": NonTensorStack("a", "b"),
    "array": np.arange(3, dtype=np.uint32),
    "words": np.array(["a", "bc"]),
    "number": np.float32(0.5),
    "named tuple": Pair(1, torch.ones(1)),
    "tensorclass": Step(value=torch.ones(2), name="x", batch_size=[2]),
    "enum": Mood.GOOD,
    "bytes": b"abc",
    "set": {1, 2},
    "frozen": frozenset({1}),
    "slice": slice(1, 2),
    "nested": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged),
}


@pytest.mark.parametrize("name", DATA)
def test_data_needs_no_trust(tmp_path, name):
    file = tmp_path / "file.pt"
    torch.save({"rows": [DATA[name]]}, file)
    assert is_data(file)
    back = load_file(file)["rows"][0]
    assert type(back) is type(DATA[name])
    if name != "nested":  # its length has a number of its own
        assert repr(back) == repr(DATA[name])


def test_objects_need_trust(tmp_path):
    file = tmp_path / "file.pt"
    torch.save([Custom()], file)
    assert not is_data(file)
    with pytest.raises(UntrustedFileError, match=r"file.pt: .*only be unpickled.*Custom.*trust=True"):
        load_file(file)
    assert isinstance(load_file(file, trust=True)[0], Custom)


def test_no_code_runs_without_trust(tmp_path):
    mark = tmp_path / "mark"
    for number, inside in enumerate([Trap(mark), np.array([Trap(mark)], dtype=object), NonTensorData(Trap(mark))]):
        file = tmp_path / f"{number}.pt"
        torch.save({"rows": inside}, file)
        with pytest.raises((UntrustedFileError, DamagedFileError)):
            load_file(file)
        assert not mark.exists()
    load_file(file, trust=True)
    assert mark.exists()


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04rest"])
@pytest.mark.parametrize("trust", [False, True])
def test_what_is_no_file_of_torch_is_named(tmp_path, content, trust):
    file = tmp_path / "file.pt"
    file.write_bytes(content)
    with pytest.raises((DamagedFileError, UntrustedFileError), match=r"file\.pt"):
        load_file(file, trust=trust)


@pytest.mark.parametrize(
    "name", ["os:system", "subprocess:Popen", "antigravity:geohash", "builtins:eval", "torch.nn:Linear"]
)
def test_containers_come_from_a_list_of_known_kinds(name):
    with pytest.raises(UntrustedFileError, match=rf"Storage: .*{name}.*named tuple or tensorclass"):
        find_container(name, "Storage")
    assert "antigravity" not in sys.modules


def test_known_containers_are_found():
    for kind in (dict, list, tuple, TensorDict, Pair, Step):
        assert find_container(f"{kind.__module__}:{kind.__qualname__}", "Storage") is kind
    assert find_dtype("float16", "Storage") is torch.float16
    with pytest.raises(UntrustedFileError, match="names the dtype 'load'"):
        find_dtype("load", "Storage")
