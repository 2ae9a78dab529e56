"""Checkpoints: parts of an experiment, saved and loaded together."""

import copy
import json
import os
import random
import re
import shutil

import numpy as np
import pytest
import torch
from tensordict import TensorDict

from torchrl._core import files
from torchrl._core.errors import DamagedFileError, UntrustedFileError
from torchrl.checkpoint import Checkpoint, CheckpointError, GlobalRNGState
from torchrl.checkpoint.checkpoint import read_manifest
from torchrl.data import LazyTensorStorage, ListStorage, PrioritizedSampler, ReplayBuffer, TensorDictReplayBuffer
from torchrl.testing.buffer import assert_same_state


def learner(seed):
    """A network and its optimizer, a step into training."""
    torch.manual_seed(seed)
    net = torch.nn.Linear(3, 1)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1 * (seed + 1))
    net(torch.ones(3)).backward()
    optimizer.step()
    return net, optimizer


def buffer(rows):
    made = TensorDictReplayBuffer(storage=LazyTensorStorage(10), sampler=PrioritizedSampler(10, 0.7, 0.5), batch_size=4)
    made.extend(TensorDict(a=torch.arange(rows), batch_size=[rows]))
    return made


@pytest.mark.parametrize("options", [{}, {"format": "archive"}])
@pytest.mark.parametrize("compression", ["stored", "deflated"])
def test_everything_comes_back(tmp_path, options, compression):
    net, optimizer = learner(0)
    made = Checkpoint(
        net=net,
        optimizer=optimizer,
        buffer=buffer(7),
        frames=70,
        settings={"cells": [64, 64], "betas": (0.9, 0.99)},
        archive_compression=compression,
        **options,
    )
    path = made.save(tmp_path / "runs" / "first", metadata={"score": 1.5})
    assert path.is_file() == bool(options)

    other, its_optimizer = learner(1)
    its_buffer = buffer(2)
    into = Checkpoint(net=other, optimizer=its_optimizer, buffer=its_buffer, frames=None, settings=None)
    result = into.load(path)
    assert result.loaded == ["net", "optimizer", "buffer", "frames", "settings"]
    assert result.values == {"frames": 70, "settings": made.components["settings"]}
    assert result.manifest["metadata"] == read_manifest(path)["metadata"] == {"score": 1.5}
    assert its_buffer[:]["a"].tolist() == list(range(7))
    for one, two in ((net, optimizer), (other, its_optimizer)):
        two.zero_grad()
        one(torch.ones(3)).backward()
        two.step()
    assert torch.equal(net.weight, other.weight)  # the optimizers had the same memory
    assert not [file for file in path.parent.iterdir() if file.name.startswith(".")]


def test_some_parts_only(tmp_path):
    made = Checkpoint(a=1, b=2, c=3, save_components=["a", "b"])
    path = made.save(tmp_path / "x")
    result = made.load(path, components=["b"])
    assert (result.values, result.unrequested) == ({"b": 2}, ["a"])
    assert made.load(made.save(tmp_path / "x", components=["c"]), ["c"]).values == {"c": 3}
    with pytest.raises(ValueError, match=r"no component 'd'; expected one of \['a', 'b', 'c'\]"):
        made.save(tmp_path / "x", components=["d"])


def test_what_does_not_go_together_is_told_before_anything_is_loaded(tmp_path):
    net, _ = learner(0)
    path = Checkpoint(net=net, frames=3).save(tmp_path / "x")
    other, _ = learner(1)
    before = other.weight.clone()
    with pytest.raises(CheckpointError, match=r"'policy' is missing; found \['net'.*'ignore'") as e:
        Checkpoint(net=other, policy=torch.nn.Linear(1, 1)).load(path)
    assert e.value.result.missing == ["policy"]
    assert torch.equal(other.weight, before)
    with pytest.raises(CheckpointError, match="'frames' was saved as a value, and is a state here"):
        Checkpoint(frames=torch.nn.Linear(1, 1)).load(path)
    with pytest.raises(CheckpointError, match=r"'net' cannot take what was saved .*size mism"):
        Checkpoint(net=torch.nn.Linear(2, 1)).load(path)


def test_a_load_may_be_lenient(tmp_path, caplog):
    net, _ = learner(0)
    path = Checkpoint(net=net).save(tmp_path / "x")
    other, _ = learner(1)
    parts = Checkpoint(net=other, more=3, wrong=4, strict="ignore")
    result = parts.load(path)
    assert (result.loaded, result.missing) == (["net"], ["more", "wrong"])
    assert torch.equal(other.weight, net.weight)
    assert not caplog.records
    parts.load(path, strict="warn")
    assert "'more' is missing" in caplog.text


def test_a_save_that_fails_leaves_the_last_one(tmp_path):
    made = Checkpoint(state={"a": 1})
    path = made.save(tmp_path / "x")
    made.components["state"]["b"] = object()
    with pytest.raises(TypeError, match=r"'b' cannot be written as text and tensors; .*found object"):
        made.save(path)
    assert made.load(path).values == {"state": {"a": 1}}
    assert [file.name for file in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("before", ["directory", "archive"])
@pytest.mark.parametrize("after", ["directory", "archive"])
def test_a_save_that_cannot_be_put_in_its_place_leaves_the_last_one(tmp_path, monkeypatch, before, after):
    path = Checkpoint(value=1, format=before).save(tmp_path / "save")
    fresh = tmp_path / "fresh"

    def refuse(*_):
        raise OSError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(files, "exchange", refuse)
        patch.setattr(os, "replace", refuse)
        with pytest.raises(OSError, match="no room"):
            Checkpoint(value=2, format=after).save(path)
        with pytest.raises(OSError, match="no room"):
            Checkpoint(value=2, format=after).save(fresh)
    assert not fresh.exists()
    assert Checkpoint(value=0).load(path).values == {"value": 1}
    Checkpoint(value=2, format=after).save(path)
    assert Checkpoint(value=0).load(path).values == {"value": 2}


def test_the_manifest_says_what_there_is(tmp_path):
    net, _ = learner(0)
    path = Checkpoint(net=net, buffer=buffer(3), frames=1).save(tmp_path / "x")
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["components"] == {"net": "state", "buffer": "folder", "frames": "value"}
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*nowhere.*save"):
        Checkpoint().load(tmp_path / "nowhere")


@pytest.mark.parametrize("option", ["format", "strict", "archive_compression"])
def test_options_that_there_are_not(option):
    with pytest.raises(ValueError, match=rf"expected {option} to be one of .*found 'eror'"):
        Checkpoint(**{option: "eror"})


def test_chance_goes_on_from_where_it_stood(tmp_path):
    chance = Checkpoint(chance=GlobalRNGState())
    path = chance.save(tmp_path / "x")

    def draws():
        return random.random(), np.random.rand(), torch.rand(3).tolist()

    first = draws()
    assert draws() != first
    chance.load(path)
    assert draws() == first


class Part:
    """A component with a folder of its own."""

    value = 0

    def dumps(self, folder):
        (folder / "value").write_text(str(self.value))

    def loads(self, folder):
        self.value = int((folder / "value").read_text())


def parts(seed, rows):
    net, optimizer = learner(seed)
    own = Part()
    own.value = seed
    return {"net": net, "optimizer": optimizer, "buffer": buffer(rows), "own": own, "n": seed}


def states(made):
    found = {name: made[name].state_dict() for name in ("net", "optimizer", "buffer")}
    return copy.deepcopy({**found, "own": made["own"].value})


@pytest.mark.parametrize("form", ["directory", "archive"])
def test_a_flipped_bit_is_told_and_changes_nothing(tmp_path, form):
    path = Checkpoint(**parts(0, 7), format=form).save(tmp_path / "x", metadata={"score": 1})
    mine = parts(1, 3)
    before = states(mine)
    found = sorted(file for file in path.rglob("*") if file.is_file()) or [path]
    assert form == "archive" or len(found) > 8
    for file in found:
        whole = file.read_bytes()
        places = (0, len(whole) // 3, len(whole) // 2, len(whole) - 2)
        for place in places if form == "directory" else places[1:3]:
            file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            with pytest.raises((DamagedFileError, FileNotFoundError), match=re.escape(file.name)):
                Checkpoint(**mine).load(path)
            assert_same_state(states(mine), before)
        file.write_bytes(whole)
    Checkpoint(**mine).load(path)
    assert_same_state(states(mine), states(parts(0, 7)))


@pytest.mark.parametrize("bad", ["net", "optimizer", "buffer", "own"])
@pytest.mark.parametrize("strict", ["error", "ignore"])
def test_a_part_that_cannot_take_a_save_leaves_all_parts_as_they_were(tmp_path, bad, strict):
    saved = parts(0, 7)
    if bad == "net":
        saved["net"] = torch.nn.Linear(4, 1)  # weight does not fit, bias does
    elif bad == "optimizer":
        saved["optimizer"] = torch.optim.SGD(torch.nn.Linear(2, 2).parameters(), lr=0.5)
        saved["optimizer"].add_param_group({"params": [torch.nn.Parameter(torch.ones(1))]})
    elif bad == "buffer":
        saved["buffer"] = TensorDictReplayBuffer(storage=LazyTensorStorage(20), batch_size=4)
        saved["buffer"].extend(TensorDict(a=torch.arange(15), batch_size=[15]))
    else:
        saved["own"].value = "no number"
    path = Checkpoint(**saved).save(tmp_path / "x")
    mine = parts(1, 3)
    before = states(mine)
    if strict == "error":
        with pytest.raises(CheckpointError, match=f"'{bad}' cannot take what was saved"):
            Checkpoint(**mine).load(path)
        assert_same_state(states(mine), before)
        return
    result = Checkpoint(**mine).load(path, strict="ignore")
    assert list(result.incompatible) == [bad]
    after = states(mine)
    assert_same_state(after[bad], before[bad])
    for name in {"net", "optimizer", "buffer", "own"} - {bad}:
        assert_same_state(after[name], states(saved)[name])


class Custom:
    pass


def test_objects_of_a_buffer_need_trust(tmp_path):
    made = ReplayBuffer(storage=ListStorage(3))
    made.extend([Custom(), "text"])
    path = Checkpoint(buffer=made).save(tmp_path / "x")
    again = ReplayBuffer(storage=ListStorage(3))
    with pytest.raises(UntrustedFileError, match=r"rows.pt.*Custom.*trust=True"):
        Checkpoint(buffer=again).load(path)
    assert len(again) == 0
    Checkpoint(buffer=again).load(path, trust=True)
    assert isinstance(again[0], Custom)


def test_a_checkpoint_without_checksums_is_loaded(tmp_path):
    path = Checkpoint(**parts(0, 7)).save(tmp_path / "x")
    for note in path.rglob("CHECKSUMS"):
        note.unlink()
    mine = parts(1, 3)
    Checkpoint(**mine).load(path)
    assert_same_state(states(mine), states(parts(0, 7)))
    shutil.rmtree(path / "components" / "net")
    with pytest.raises(FileNotFoundError):
        Checkpoint(**mine).load(path)
