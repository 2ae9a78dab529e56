"""Components of a checkpoint that are written and read in another way."""

import json

import pytest
import torch
from torch import nn

from torchrl.checkpoint import (
    Checkpoint,
    CheckpointAdapter,
    CheckpointError,
    CheckpointOptions,
    DumpLoadCheckpointAdapter,
    JSONCheckpointAdapter,
    StateDictCheckpointAdapter,
)

FORMATS = [("directory", None), ("archive", "stored"), ("archive", "deflated"), ("consolidated", None), ("torch", None)]


@pytest.mark.parametrize("format", ["directory", "archive"])
@pytest.mark.parametrize(("payload", "compression"), FORMATS)
def test_state_dicts_in_any_format(tmp_path, payload, compression, format):
    one, other = nn.Linear(2, 3), nn.Linear(2, 3)
    adapter = StateDictCheckpointAdapter(payload, archive_compression=compression)
    path = Checkpoint(format=format).register("net", one, adapter=adapter).save(tmp_path / "save")
    loaded = Checkpoint(format=format).register("net", other, adapter=StateDictCheckpointAdapter())
    assert loaded.load(path, map_location="cpu").loaded == ["net"]
    assert torch.equal(one.weight, other.weight)
    if format == "directory":
        count = 2 if payload == "directory" else 1
        assert len(list((path / "components" / "net").iterdir())) == count


def test_what_an_adapter_of_state_dicts_refuses():
    for args, kwargs in ((("pickle",), {}), (("archive",), {"archive_compression": "rar"})):
        with pytest.raises(ValueError, match="has no such"):
            StateDictCheckpointAdapter(*args, **kwargs)
    with pytest.raises(ValueError, match="compresses archives alone"):
        StateDictCheckpointAdapter("torch", archive_compression="deflated")


def test_arguments_of_the_methods_that_save_and_load(tmp_path):
    """Without an adapter, that of the kind of the component is used."""

    class Net(nn.Linear):
        def state_dict(self, *args, extra=None, **kwargs):
            state = super().state_dict(*args, **kwargs)
            return state if extra is None else {**state, "extra": extra}

    one, other = Net(2, 3), nn.Linear(2, 3)
    saved = Checkpoint().register("net", one, options=CheckpointOptions(save_kwargs={"extra": torch.ones(1)}))
    path = saved.save(tmp_path / "save")
    with pytest.raises(CheckpointError, match="Unexpected key"):
        Checkpoint().register("net", other, options=CheckpointOptions()).load(path)
    lenient = CheckpointOptions(load_kwargs={"strict": False})
    Checkpoint().register("net", other, options=lenient).load(path)
    assert torch.equal(one.weight, other.weight)
    settings = Checkpoint().register("settings", {"b": 1, "a": 2}, options=CheckpointOptions(save_kwargs={"indent": 2}))
    path = settings.save(tmp_path / "settings")
    text = (path / "components/settings/value.json").read_text()
    assert text == json.dumps({"b": 1, "a": 2}, indent=2) + "\n"
    assert settings.load(path).values == {"settings": {"b": 1, "a": 2}}


@pytest.mark.parametrize("names", [("dumps", "loads"), ("dump", "load")])
def test_components_that_write_their_folder(tmp_path, names):
    class Notes:
        text = ""

        def write(self, folder, mark="."):
            (folder / "notes.txt").write_text(self.text + mark)

        def read(self, folder):
            self.text = (folder / "notes.txt").read_text()

    kind = type("Named", (Notes,), dict(zip(names, (Notes.write, Notes.read), strict=True)))
    one, other = kind(), kind()
    one.text = "hello"
    options = CheckpointOptions(save_args=("!",))
    adapter = DumpLoadCheckpointAdapter()
    path = Checkpoint().register("notes", one, adapter=adapter, options=options).save(tmp_path / "save")
    Checkpoint().register("notes", other, adapter=adapter).load(path)
    assert other.text == "hello!"
    with pytest.raises(TypeError, match="int has none of the methods"):
        Checkpoint().register("notes", 3, adapter=adapter).save(tmp_path / "other")


def test_values_and_components_beside_each_other(tmp_path):
    """An adapter of one's own is told where tensors go; a registered component replaces one of its name."""
    seen = []

    class Text(CheckpointAdapter):
        def save(self, component, folder, options):
            (folder / "text").write_text(component)

        def load(self, component, folder, options, map_location=None):
            seen.append(map_location)
            return (folder / "text").read_text()

    checkpoint = Checkpoint(net=nn.Linear(1, 1), note="old")
    checkpoint.register("note", "new", adapter=Text()).register("lr", 0.5, adapter=JSONCheckpointAdapter())
    path = checkpoint.save(tmp_path / "save")
    result = checkpoint.load(path, map_location="cpu")
    assert (result.values, seen) == ({"note": "new", "lr": 0.5}, ["cpu"])
    assert set(result.loaded) == {"net", "note", "lr"}
    chosen = Checkpoint(a=1, b=2, save_components=["a"]).register("c", 3)
    assert set(Checkpoint.manifest(chosen.save(tmp_path / "some"))["components"]) == {"a"}
