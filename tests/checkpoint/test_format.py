"""Files of earlier formats are loaded, those of later ones refused; the manifest has the versions of packages."""

import json
import logging
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from tensordict import TensorDict

from torchrl._core.errors import DamagedFileError
from torchrl._core.files import NewerFormatError, write_checksums
from torchrl.checkpoint import Checkpoint, CheckpointRotation
from torchrl.checkpoint import checkpoint as module
from torchrl.data import LazyTensorStorage, ListStorage, ReplayBuffer, TensorDictPrioritizedReplayBuffer
from torchrl.testing.buffer import assert_same

#: A folder and an archive of each version of the format, of the components of ``parts()``.
SAVED = sorted((Path(__file__).parent / "data").iterdir())


def parts():
    net = torch.nn.Linear(2, 1)
    return {
        "net": net,
        "opt": torch.optim.SGD(net.parameters(), lr=1.0, momentum=0.5),
        "tensors": TensorDictPrioritizedReplayBuffer(alpha=0.5, beta=0.5, storage=LazyTensorStorage(8), batch_size=2),
        "lists": ReplayBuffer(storage=ListStorage(4)),
        "settings": {},
        "frames": 0,
    }


@pytest.mark.parametrize("path", SAVED, ids=lambda path: path.name)
def test_files_of_every_version_are_loaded(path):
    mine = parts()
    result = Checkpoint(**mine).load(path)
    assert result.values == {"settings": {"lr": 0.125, "sizes": [1, 2]}, "frames": 10}
    assert result.manifest["metadata"] == {"score": 2.5}
    assert mine["net"].weight.tolist() == [[0.375, 0.375]]
    assert mine["net"].bias.tolist() == [0.125]
    assert mine["opt"].param_groups[0]["lr"] == 0.125
    assert mine["opt"].state[mine["net"].bias]["momentum_buffer"].tolist() == [1.0]
    rows = TensorDict(x=torch.arange(12.0).view(6, 2), done=torch.arange(6) % 3 == 2, batch_size=[6])
    assert_same(mine["tensors"][:].exclude("index"), rows)
    assert mine["tensors"].sampler.state_dict()["priorities"].tolist()[:6] == [1, 2, 3, 4, 5, 6]
    assert list(mine["lists"][:]) == ["left", "right", {"n": 1}]


def test_there_are_files_of_the_version_of_today():
    """A version that is made without files of the one before could break them unnoticed."""
    assert {json.loads((path / "manifest.json").read_text())["version"] for path in SAVED if path.is_dir()} == set(
        range(1, module.VERSION + 1)
    )


def edit(file, **changes):
    note = json.loads(file.read_text())
    file.write_text(json.dumps({**note, **changes}))
    folder = file.parent
    while folder.parent.name != "runs":
        folder = folder.parent
    for inner in sorted(folder.rglob("CHECKSUMS"), key=lambda each: -len(each.parts)):
        write_checksums(inner.parent)


@pytest.mark.parametrize("name", ["manifest.json", "storage.json"])
def test_a_newer_version_is_refused_by_name(tmp_path, name):
    buffer = ReplayBuffer(storage=LazyTensorStorage(4))
    buffer.extend(torch.arange(3))
    rotation = CheckpointRotation(tmp_path / "runs", keep_last=2)
    for step in range(2):
        rotation.save(Checkpoint(buffer=buffer), step)
    file = next(rotation.latest().rglob(name))
    edit(file, version=99)
    buffer.empty()
    with pytest.raises(NewerFormatError, match=rf"{name}: the file has version 99 .*at most 2\. Load it with a newer"):
        rotation.load_latest(Checkpoint(buffer=buffer))  # the one before is not what was asked for
    assert not len(buffer)
    assert rotation.save(Checkpoint(buffer=buffer), 2).is_dir()
    assert (tmp_path / "runs" / "checkpoint_1").is_dir() or name == "storage.json"
    edit(file, version="new") if file.exists() else None


@pytest.mark.parametrize("version", [None, "2", 0, -1, 1.5, [1]])
def test_what_is_no_version_is_damage(tmp_path, version):
    path = Checkpoint(step=1).save(tmp_path / "runs" / "one")
    edit(path / "manifest.json", version=version)
    with pytest.raises(DamagedFileError, match=r"manifest\.json.*no valid version"):
        Checkpoint(step=0).load(path)


def test_the_manifest_has_the_software_and_differences_are_logged_in_a_line(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(module, "_commit", lambda folder: "a1")
    checkpoint = Checkpoint(step=1)
    path = checkpoint.save(tmp_path / "one")
    saved = Checkpoint.manifest(path)["software"]
    assert saved["torch"] == torch.__version__
    assert {"python", "torchrl", "tensordict", "numpy"} <= saved.keys()
    assert saved["commit"] == "a1"
    with caplog.at_level(logging.INFO):
        checkpoint.load(path)
        assert not caplog.records
        monkeypatch.setattr(module, "_commit", lambda folder: "b2")
        checkpoint.load(path)
    assert [(each.levelname, each.getMessage()) for each in caplog.records] == [
        ("INFO", f"Checkpoint: {path} was saved with commit a1, now b2")
    ]
    caplog.clear()
    monkeypatch.setattr(torch, "__version__", "99.0")
    checkpoint.load(path)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert f"torch {saved['torch']}, now 99.0, commit a1, now b2" in record.getMessage()


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_the_commit_of_a_folder(tmp_path):
    assert module._commit(str(tmp_path / "nowhere")) == ""

    def git(*args, place="one"):
        options = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        done = subprocess.run(
            ["git", *options, *args], cwd=tmp_path / place, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    def commit(place="one"):
        module._commit.cache_clear()
        return module._commit(str(tmp_path / place))

    (tmp_path / "one" / "inner").mkdir(parents=True)
    git("init", "-q")
    assert commit() == ""  # there is none yet
    git("commit", "-q", "--allow-empty", "-m", "first")
    first = git("rev-parse", "HEAD")
    assert commit() == commit("one/inner") == first
    git("worktree", "add", "-q", "../two")
    git("commit", "-q", "--allow-empty", "-m", "second")
    assert commit() == git("rev-parse", "HEAD") != first == commit("two")
    git("pack-refs", "--all")
    assert (commit(), commit("two")) == (git("rev-parse", "HEAD"), first)
    git("checkout", "-q", "--detach", first)
    assert commit() == first
