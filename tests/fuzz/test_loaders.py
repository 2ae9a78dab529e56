"""Damaged and malicious files and messages: an error that names the file, no crash, no code that is run.

``TORCHRL_FUZZ=2000`` tries as many of each kind.
"""

import contextlib
import json
import os
import pickle
import random
import shutil
import socket
import struct
import threading
import time

import h5py
import numpy as np
import pytest
import torch
from tensordict import TensorDict

import torchrl
from tests.fuzz.test_files import Trap, damage
from torchrl._core.errors import DamagedFileError, TorchRLError, UntrustedFileError
from torchrl.checkpoint import Checkpoint
from torchrl.data import BufferServer, LazyTensorStorage, ReplayBuffer, SocketTransport
from torchrl.data.datasets import load_dataset, write_dataset
from torchrl.record import CSVLogger
from torchrl.trainers import Agent
from torchrl.trainers.runs import read_run

NUMBER = int(os.environ.get("TORCHRL_FUZZ", "60"))
SETTINGS = {"log_dir": "", "progress_bar": False, "final_episodes": 0, "eval_interval": 10**9, "num_threads": 0}
SMALL = {"total_frames": 32, "frames_per_batch": 32, "num_envs": 1, "minibatch_size": 32, "num_epochs": 1}


def steps(number=20):
    x = torch.arange(float(number)).unsqueeze(-1)
    done = torch.zeros(number, 1, dtype=torch.bool)
    done[-1] = True
    after = TensorDict(observation=x + 1, reward=x, done=done, batch_size=[number])
    return TensorDict(observation=x, next=after, batch_size=[number])


@pytest.fixture(scope="module")
def agent():
    return torchrl.train("ppo", "CartPole-v1", **SETTINGS, **SMALL)


def save_hdf5(path):
    with h5py.File(path, "w") as file:
        file["observations"] = np.zeros((20, 3), dtype=np.float32)
        file["actions"] = np.zeros((20, 1), dtype=np.float32)
        file["rewards"] = np.ones(20, dtype=np.float32)
        file["terminals"] = np.arange(20) % 5 == 4


def save_table(path, format="parquet"):
    buffer = ReplayBuffer(storage=LazyTensorStorage(20))
    buffer.extend(steps())
    buffer.export(path, format=format)


def save_run(path):
    with CSVLogger(path.name, path.parent) as logger:
        logger.log_hparams({"env": "CartPole-v1", "seed": 3})
        for step in range(5):
            logger.log_scalar("train/loss", step / 2, step)
            logger.log_scalar("eval/reward", step, step)


SAVES = {
    "dataset": ("saved", lambda path: write_dataset(path, [steps()], 20)),
    "hdf5": ("saved.hdf5", save_hdf5),
    "table": ("saved", save_table),
    "huggingface": ("saved", lambda path: save_table(path, "huggingface")),
    "run": ("saved", save_run),
}


def load(kind, path, root):
    if kind == "run":
        return read_run(path)
    dataset = load_dataset(f"file:{path}") if kind == "dataset" else load_dataset(path, root=root)
    return dataset[:], dataset.notes


@pytest.mark.timeout(60 + NUMBER)
@pytest.mark.parametrize("kind", SAVES)
def test_a_damaged_file_is_read_or_named(tmp_path, kind):
    chance = random.Random(kind)
    name, save = SAVES[kind]
    path, kept, root = tmp_path / name, tmp_path / "kept", tmp_path / "root"
    save(path)
    shutil.copytree(path, kept) if path.is_dir() else shutil.copy(path, kept)
    load(kind, path, root)
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    for _ in range(NUMBER):
        file = chance.choice(files)
        done = damage(file, chance)
        shutil.rmtree(root, ignore_errors=True)
        try:
            load(kind, path, root)
        except (TorchRLError, FileNotFoundError, ValueError) as error:
            named = file.name in str(error) or path.name in str(error)
            assert named, (file, done, error)  # noqa: PT017 - it may load, too
        except BaseException as error:
            raise AssertionError((file, done, repr(error))) from error
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        shutil.copytree(kept, path) if kept.is_dir() else shutil.copy(kept, path)


def test_a_run_with_endless_brackets_is_named(tmp_path):
    save_run(tmp_path / "saved")
    (tmp_path / "saved" / "hparams.json").write_text("[" * 10**6)
    with pytest.raises(ValueError, match=r"hparams\.json is damaged"):
        read_run(tmp_path / "saved")


def test_a_run_with_damaged_files_is_resumed(tmp_path):
    """A logger appends; it reads nothing that could fail."""
    chance = random.Random(0)
    save_run(tmp_path / "saved")
    for file in sorted(file for file in (tmp_path / "saved").rglob("*") if file.is_file()):
        file.write_bytes(chance.randbytes(40))
    with CSVLogger("saved", tmp_path, resume=True) as logger:
        logger.log_hparams({"seed": 4})
        logger.log_scalar("train/loss", 1.5, 9)
    assert (tmp_path / "saved/scalars/train/loss.csv").read_bytes().endswith(b"9,1.5\n")


@pytest.mark.timeout(60 + NUMBER)
def test_a_damaged_agent_is_named(tmp_path, agent):
    chance, path = random.Random(0), tmp_path / "saved"
    agent.save(path)
    whole = path.read_bytes()
    for _ in range(NUMBER):
        done = damage(path, chance)
        try:
            Agent.load(path)
        except (DamagedFileError, UntrustedFileError, FileNotFoundError) as error:
            assert path.name in str(error), (done, error)  # noqa: PT017 - it may load, too
        except BaseException as error:
            raise AssertionError((done, repr(error))) from error
        else:
            assert path.read_bytes()[: len(whole)] == whole, done  # bytes after the end of the archive
        path.write_bytes(whole)


ODD = [None, 5, -1, 2.5, "text", "../../x", "builtins:eval", [], {}, {"x": 1}, torch.zeros(2), True]


def places(value, above=()):
    """Yield the keys of all that is in nested dictionaries."""
    for key, inner in value.items():
        yield (*above, key)
        if isinstance(inner, dict):
            yield from places(inner, (*above, key))


def changed(value, place, new):
    """Return nested dictionaries in which one value is another one, or is missing."""
    first, *rest = place
    if rest:
        return {**value, first: changed(value[first], rest, new)}
    return {**{key: inner for key, inner in value.items() if key != first}, **({} if new is ODD else {first: new})}


@pytest.mark.timeout(60 + NUMBER)
def test_a_file_with_another_agent_than_it_should_have_is_named(tmp_path, agent):
    """The checksums fit; a value is missing or of another kind."""
    chance, path = random.Random(0), tmp_path / "saved"
    agent.save(path)
    state = Checkpoint(agent={}).load(path).values["agent"]
    every = sorted(places(state), key=str)
    tops = [place for place in every if len(place) == 1]
    for _ in range(NUMBER):
        place, new = chance.choice(chance.choice([every, tops])), chance.choice([ODD, *ODD])
        Checkpoint(format="archive", agent=changed(state, place, new)).save(path)
        try:
            Agent.load(path)
        except (TorchRLError, ValueError) as error:
            assert path.name in str(error), (place, new, error)  # noqa: PT017 - it may load, too
        except BaseException as error:
            raise AssertionError((place, new, repr(error))) from error
    Checkpoint(format="archive", other=1).save(path)
    with pytest.raises(TorchRLError, match="saved"):
        Agent.load(path)


def test_an_agent_runs_no_code(tmp_path, agent):
    path, mark = tmp_path / "saved", tmp_path / "ran"
    for trapped in (Trap(mark), [Trap(mark)], {"format": 1, "policy": Trap(mark)}):
        torch.save(trapped, path)
        with pytest.raises((DamagedFileError, UntrustedFileError), match="saved"):
            Agent.load(path)
        path.write_bytes(pickle.dumps(trapped))
        with pytest.raises((DamagedFileError, UntrustedFileError), match="saved"):
            Agent.load(path)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["torchrl.json", "storage.json"])
def test_a_dataset_runs_no_code(tmp_path, name):
    """The schema names classes and dtypes; those that are none are not called."""
    save_table(tmp_path / "saved") if name == "torchrl.json" else write_dataset(tmp_path / "saved", [steps()], 20)
    (file,) = (tmp_path / "saved").rglob(name)
    text, mark = file.read_text(), tmp_path / "ran"
    json.loads(text)
    for kind in ("os:mkdir", "os:system", "builtins:eval", "subprocess:Popen", "torch:load"):
        assert "tensordict._td:TensorDict" in text
        file.write_text(text.replace("tensordict._td:TensorDict", kind))
        with pytest.raises(UntrustedFileError, match=name):
            load_dataset(tmp_path / "saved", **({"root": tmp_path / "root"} if name == "torchrl.json" else {}))
    assert not mark.exists()


# --- messages ------------------------------------------------------------------------------------

REQUESTS = [
    (["__len__"], (), {}),
    ("__len__", 5, {}),
    ("__len__", (), 5),
    ("__len__", (1, 2), {}),
    ("__class__", (), {}),
    ("__reduce__", (), {}),
    ("_storage", (), {}),
    ("append_transform", (5,), {}),
    ("sample", (-1,), {}),
    ("extend", (object(),), {}),
    (1, 2, 3, 4),
    "abc",
    {},
]


def send_odd(client, chance):
    """Send what no client sends; return what was sent."""
    connection = client._connection()
    whole = pickle.dumps(("__len__", (), {}))
    kind = chance.choice(["bytes", "cut", "object", "length", "half", "nothing"])
    if kind == "bytes":
        connection.send_bytes(chance.randbytes(chance.randint(1, 300)))
    elif kind == "cut":
        connection.send_bytes(whole[: chance.randrange(1, len(whole))])
    elif kind == "object":
        connection.send_bytes(pickle.dumps(chance.choice(REQUESTS)))
    elif kind == "length":  # of a message that is not sent
        length = chance.choice([1 << 62, (1 << 64) - 1, 1 << 40, -5])
        os.write(connection.fileno(), struct.pack("!i", -5 if length == -5 else -1) + struct.pack("!Q", abs(length)))
    elif kind == "half":
        os.write(connection.fileno(), struct.pack("!i", 100) + chance.randbytes(50))
    with contextlib.suppress(EOFError, OSError):
        if connection.poll(0.0 if kind in ("half", "nothing") else 0.2):
            connection.recv_bytes()
    client.close()
    return kind


@pytest.mark.timeout(60 + NUMBER)
def test_a_server_survives_what_it_cannot_read():
    before, chance = threading.active_count(), random.Random(0)
    server = BufferServer(ReplayBuffer(), ("127.0.0.1", 0), b"key")
    good = SocketTransport(server.address, b"key")
    for _ in range(NUMBER):
        with socket.create_connection(server.address) as stranger, contextlib.suppress(OSError):
            stranger.sendall(chance.choice([b"", struct.pack("!i", -1), struct.pack("!i", 20)]))
            stranger.sendall(chance.randbytes(chance.randint(0, 100)))
        sent = send_odd(SocketTransport(server.address, b"key"), chance)
        assert good.call("__len__", (), {})[0] == 0, sent
    good.close()
    server.close()
    deadline = time.monotonic() + 20
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before
