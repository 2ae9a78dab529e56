"""Files are whole, on the disk, and what was written; drafts of dead processes go."""

import os
import subprocess
import sys

import pytest
import torch

from torchrl._core import files
from torchrl._core.errors import DamagedFileError

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")


def write(path, text):
    with files.replaced(path) as draft:
        if text.startswith("folder"):
            draft.mkdir()
            (draft / "note").write_text(text)
        else:
            draft.write_text(text)


def read(path):
    return (path / "note").read_text() if path.is_dir() else path.read_text()


def in_a_child(act):
    """Run a function in a child that dies afterwards without any cleaning up."""
    pid = os.fork()
    if not pid:
        try:
            act()
        finally:
            os._exit(9)
    os.waitpid(pid, 0)


@pytest.mark.parametrize("exchanges", [True, False])
@pytest.mark.parametrize("before", ["file 1", "folder 1"])
@pytest.mark.parametrize("after", ["file 2", "folder 2"])
@needs_fork
def test_a_save_that_dies_anywhere_leaves_the_last_one_or_the_new_one(tmp_path, monkeypatch, exchanges, before, after):
    if not exchanges:
        monkeypatch.setattr(files, "exchange", lambda *_: False)
    path, names = tmp_path / "kept", ("rename", "replace", "unlink", "remove", "rmdir", "fsync")

    def dying(step):
        count = iter(range(step, -1, -1))

        def wrap(real):
            def operation(*args, **kwargs):
                if next(count, 0) == 0:
                    os._exit(9)
                return real(*args, **kwargs)

            return operation

        for name in names:
            setattr(os, name, wrap(getattr(os, name)))
        write(path, after)
        (tmp_path / "whole").touch()

    for step in range(40):
        write(path, before)
        in_a_child(lambda step=step: dying(step))
        files.restore(path)
        assert read(path) in (before, after)
        if (tmp_path / "whole").exists():
            break
    assert read(path) == after
    write(path, before)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["kept", "whole"]


@needs_fork
def test_drafts_of_living_processes_and_foreign_files_stay(tmp_path):
    path = tmp_path / "kept"
    foreign = [".kept.settings", ".kept.pt.abcdefgh.draft", ".other.abcdefgh.draft"]
    for name in foreign:
        (tmp_path / name).mkdir()
    with files.replaced(path) as draft:
        draft.write_text("slow")
        write(path, "quick")
        assert draft.exists()
    assert path.read_text() == "slow"
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted(["kept", *foreign])


def test_an_error_while_writing_leaves_the_last_one(tmp_path):
    path = tmp_path / "kept"
    write(path, "first")

    def fail():
        with files.replaced(path) as draft:
            draft.write_text("half")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fail()
    assert [file.name for file in tmp_path.iterdir()] == ["kept"]
    assert path.read_text() == "first"


def test_every_byte_of_a_folder_is_checked(tmp_path):
    (tmp_path / "inner").mkdir()
    for name in ("rows.bin", "inner/note.json"):
        (tmp_path / name).write_bytes(bytes(range(40)))
    files.write_checksums(tmp_path)
    files.check_files(tmp_path)
    for file in [file for file in tmp_path.rglob("*") if file.is_file()]:
        whole = file.read_bytes()
        for place in range(len(whole)):
            data = bytearray(whole)
            data[place] ^= 4
            file.write_bytes(data)
            with pytest.raises(DamagedFileError, match=file.name):
                files.check_files(tmp_path)
        file.write_bytes(whole)
    (tmp_path / "rows.bin").unlink()
    with pytest.raises(DamagedFileError, match=r"rows.bin: the file is missing.*earlier save"):
        files.check_files(tmp_path)
    files.check_files(tmp_path, ["inner"])


def test_a_save_inside_of_a_save_is_not_read_twice(tmp_path):
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "rows.bin").write_bytes(b"rows")
    files.write_checksums(inner)
    files.write_checksums(tmp_path)
    assert "inner/CHECKSUMS" in (tmp_path / "CHECKSUMS").read_text()
    assert "rows.bin" not in (tmp_path / "CHECKSUMS").read_text()


def test_files_and_folders_are_flushed_before_they_replace(tmp_path, monkeypatch):
    events = []
    fsync, replace = os.fsync, os.replace

    def flush(number):
        events.append(os.fstat(number).st_ino)
        return fsync(number)

    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(os, "replace", lambda *args: events.append("put") or replace(*args))
    write(tmp_path / "kept", "folder")
    put = events.index("put")
    assert {(tmp_path / "kept" / "note").stat().st_ino, (tmp_path / "kept").stat().st_ino} <= {*events[:put]}
    assert tmp_path.stat().st_ino in events[put:]


@needs_fork
def test_a_lock_of_a_folder_ends_with_its_process(tmp_path):
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import fcntl, os, sys\n"
            "fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_EX)\n"
            "print('held', flush=True); input()",
            str(tmp_path),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout.readline() == "held\n"
    assert files.is_held(tmp_path)
    assert files.hold(tmp_path) is None
    holder.communicate("\n")
    assert not files.is_held(tmp_path)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
def test_a_full_disk_is_an_error_of_the_system_for_torch_too(tmp_path):
    def save(to):
        with files.replaced(tmp_path / "a.pt") as draft:
            draft.symlink_to(to)
            torch.save(torch.zeros(100_000), draft)
            raise RuntimeError("another")

    with pytest.raises(OSError, match=r"a\.pt cannot be written; .* Is there space on the disk"):
        save("/dev/full")
    with pytest.raises(RuntimeError, match="another"):
        save("/dev/null")
    assert not list(tmp_path.iterdir())
