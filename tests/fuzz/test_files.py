"""Files that were damaged are named and never loaded as data; no file runs code without ``trust=True``.

``TORCHRL_FUZZ=2000`` damages as many files.
"""

import json
import os
import random
import re
import shutil

import pytest
import torch
from tensordict import TensorDict

from torchrl._core.errors import DamagedFileError, UntrustedFileError
from torchrl._core.files import CHECKSUMS, write_checksums
from torchrl.checkpoint import Checkpoint, CheckpointError, CheckpointRotation, StateDictCheckpointAdapter
from torchrl.data import (
    FlatStorageCheckpointer,
    LazyMemmapStorage,
    LazyTensorStorage,
    ListStorage,
    ReplayBuffer,
    TensorDictPrioritizedReplayBuffer,
)

DAMAGES = int(os.environ.get("TORCHRL_FUZZ", "120"))


def rows(number=9):
    x = torch.arange(float(number))
    return TensorDict(x=x, next=TensorDict(x=x + 1, batch_size=[number]), batch_size=[number])


def buffer(kind=ReplayBuffer, full=True, **parts):
    made = kind(**parts)
    if full:
        made.extend(rows())
    return made


def net(full):
    made = torch.nn.Linear(3, 2)
    for value in made.parameters():
        torch.nn.init.constant_(value, float(full))
    return made


def checkpoint(full, **options):
    made = Checkpoint(
        net=net(full), buffer=buffer(full=full, storage=LazyTensorStorage(9)), settings={"lr": 0.1}, **options
    )
    return made.register("other", net(full), adapter=StateDictCheckpointAdapter("torch"))


def state(part):
    """Return all numbers of a part, to be compared."""
    if isinstance(part, Checkpoint):
        parts = part.components
        return [state(parts["net"]), state(parts["buffer"]), state(parts["other"].component)]
    if isinstance(part, torch.nn.Module):
        return [value.tolist() for value in part.parameters()]
    return [part[:]["x"].tolist() if len(part) else [], part.write_count]


PARTS = {
    "tensors": lambda full: buffer(full=full, storage=LazyTensorStorage(9)),
    "memmap": lambda full: buffer(full=full, storage=LazyMemmapStorage(9)),
    "list": lambda full: buffer(full=full, storage=ListStorage(9)),
    "priorities": lambda full: buffer(
        TensorDictPrioritizedReplayBuffer, full, alpha=0.5, beta=0.5, storage=LazyTensorStorage(9)
    ),
    "converted": lambda full: buffer(full=full, storage=LazyTensorStorage(9), checkpointer=FlatStorageCheckpointer()),
    "checkpoint": checkpoint,
    "archive": lambda full: checkpoint(full, format="archive"),
    "compressed": lambda full: checkpoint(full, format="archive", archive_compression="deflated"),
}


def save(part, path):
    part.save(path)


def load(part, path, **options):
    part.load(path, **options)


def damage(file, chance):
    """Damage a file; return what was done."""
    whole = file.read_bytes()
    kinds = ["delete", "lengthen", *(["cut", "flip", "zero"] if whole else [])]
    kind = chance.choice(kinds)
    at = chance.randrange(len(whole)) if whole else 0
    if kind == "delete":
        file.unlink()
        return kind
    changed = {
        "lengthen": lambda: whole + chance.randbytes(chance.randint(1, 40)),
        "cut": lambda: whole[:at],
        "flip": lambda: whole[:at] + bytes([whole[at] ^ (1 << chance.randrange(8))]) + whole[at + 1 :],
        "zero": lambda: whole[:at] + bytes(len(whole[at : at + 64])) + whole[at + 64 :],
    }[kind]()
    file.write_bytes(changed)
    return f"{kind} at {at}" if changed != whole else ""


@pytest.mark.timeout(60 + DAMAGES)
@pytest.mark.parametrize("name", PARTS)
def test_a_damaged_file_is_named_and_changes_nothing(tmp_path, name):
    chance = random.Random(name)
    path, blank = tmp_path / "saved", PARTS[name](False)
    full = PARTS[name](True)
    save(full, path)
    kept = tmp_path / "kept"
    shutil.copytree(path, kept) if path.is_dir() else shutil.copy(path, kept)
    before, whole = state(blank), state(full)
    load(blank, path)
    assert state(blank) == whole
    blank = PARTS[name](False)
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    files = [file for file in files if file.is_file()]
    for _ in range(max(DAMAGES // len(PARTS), 1)):
        file = chance.choice(files)
        done = damage(file, chance)
        try:
            load(blank, path)
        except (DamagedFileError, UntrustedFileError, FileNotFoundError, CheckpointError) as error:
            named = file.name in str(error) or file.name == CHECKSUMS or path.name in str(error)
            assert named, (file, done, error)  # noqa: PT017 - it may load, too
            assert state(blank) == before, (file, done)
        else:  # bytes that nothing reads, such as those of a missing file of checksums
            assert state(blank) == whole, (file, done)
            blank = PARTS[name](False)
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        shutil.copytree(kept, path) if kept.is_dir() else shutil.copy(kept, path)


@pytest.mark.parametrize(("at", "value"), [(8, 99), (6, 1)])
def test_an_archive_that_asks_for_a_password_or_another_compression_is_damaged(tmp_path, at, value):
    """Of each file in it there are two headers; these bytes are the flags and the method of compression."""
    path = Checkpoint(format="archive", frames=1).save(tmp_path / "saved")
    for sign, more in ((b"PK\x03\x04", 0), (b"PK\x01\x02", 2)):
        data = bytearray(path.read_bytes())
        for found in re.finditer(re.escape(sign), bytes(data)):
            data[found.start() + at + more] = value
        path.write_bytes(data)
    with pytest.raises(DamagedFileError, match="saved: the file is damaged"):
        Checkpoint(frames=0).load(path)


class Trap:
    """A pickle that makes a file when it is loaded."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("fits", [True, False])
@pytest.mark.parametrize("name", [name for name in PARTS if name not in ("archive", "compressed")])
def test_no_file_runs_code_without_trust(tmp_path, name, fits):
    """With checksums that fit the malicious file, and without any."""
    path, mark = tmp_path / "saved", tmp_path / "ran"
    save(PARTS[name](True), path)
    pickles = sorted(path.rglob("*.pt"))
    assert pickles
    for file in pickles:
        whole = file.read_bytes()
        found = torch.load(file, weights_only=False)
        trapped = {**found, "trap": Trap(mark)} if isinstance(found, dict) else [Trap(mark)]
        torch.save(trapped, file)
        notes = sorted(path.rglob(CHECKSUMS), key=lambda each: -len(each.parts))
        texts = {note: note.read_bytes() for note in notes}
        for note in notes:
            write_checksums(note.parent) if fits else note.unlink()
        with pytest.raises((UntrustedFileError, CheckpointError), match=re.escape(file.name)) as caught:
            load(PARTS[name](False), path)
        assert not mark.exists()
        if isinstance(caught.value, UntrustedFileError):
            assert "trust=True" in str(caught.value)
        file.write_bytes(whole)
        for note, text in texts.items():
            note.write_bytes(text)


def test_the_last_good_checkpoint_is_found_whatever_is_damaged(tmp_path):
    """Random saves, damages and saves that die; what load_latest loads is the last undamaged one."""
    chance = random.Random(0)
    rotation, good = CheckpointRotation(tmp_path, keep_last=4), {}
    held = buffer(storage=LazyTensorStorage(9))
    for step in range(30):
        held.extend(rows(chance.randint(1, 4)) + step)
        kind = chance.choice(["save", "save", "die", "damage"])
        made = Checkpoint(buffer=held, step=step)
        if kind == "save":
            good[rotation.save(made, step)] = held[:]["x"].tolist(), step
        elif kind == "die":
            with pytest.raises(TypeError):
                rotation.save(made.register("bad", {"no": object()}), step)
        elif rotation.paths():
            path = chance.choice(rotation.paths())
            file = chance.choice([each for each in sorted(path.rglob("*")) if each.is_file()])
            whole = file.read_bytes()
            file.unlink()  # another checkpoint may have the same file
            file.write_bytes(bytes([whole[0] ^ 255]) + whole[1:] if whole else b"x")
            good.pop(path, None)
        good = {path: found for path, found in good.items() if path.exists()}
        again = Checkpoint(buffer=buffer(full=False, storage=LazyTensorStorage(9)), step=0)
        if good:
            result = rotation.load_latest(again)
            assert (again.components["buffer"][:]["x"].tolist(), result.values["step"]) == good[max(good, key=_step)]
    assert json.loads((max(good, key=_step) / "manifest.json").read_text())["version"]


def _step(path):
    return int(path.name.split("_")[1])
