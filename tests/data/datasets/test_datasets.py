"""Datasets on disk, and a real one of Minari, made here."""

import json
import warnings
from functools import partial

import gymnasium
import minari
import numpy as np
import pytest
import torch
from minari.data_collector import EpisodeBuffer
from tensordict import TensorDict

from torchrl.data import OfflineToOnlineReplayBuffer, SliceSampler, TensorDictReplayBuffer
from torchrl.data.datasets import (
    BaseDatasetExperienceReplay,
    MinariExperienceReplay,
    load_dataset,
    register_dataset,
    registry,
    write_dataset,
)


def steps(first, count):
    item = torch.arange(first, first + count)
    done = (item == first + count - 1).unsqueeze(-1)
    return TensorDict(
        observation=item.float().unsqueeze(-1), next=TensorDict(done=done, batch_size=[count]), batch_size=[count]
    )


def test_a_dataset_is_written_read_and_not_changed(tmp_path):
    path = write_dataset(tmp_path / "some", [steps(0, 5), steps(5, 7)], 12, {"by": "me"})
    dataset = BaseDatasetExperienceReplay(data_path=path, batch_size=8, sampler=SliceSampler(slice_len=4))
    assert len(dataset) == 12
    assert dataset.notes == {"by": "me"}
    assert (dataset[:] == torch.cat([steps(0, 5), steps(5, 7)])).all()
    slices = dataset.sample()["observation"].view(2, 4)
    assert (slices.diff(dim=1) == 1).all()
    assert ((slices < 5).all(1) | (slices >= 5).all(1)).all()
    with pytest.raises(RuntimeError, match="this buffer is read-only"):
        dataset.extend(steps(0, 2))
    assert isinstance(dataset, TensorDictReplayBuffer)


def test_preprocessing_writes_a_dataset_of_its_own(tmp_path):
    path = write_dataset(tmp_path / "some", [steps(0, 2500)], 2500)
    dataset = BaseDatasetExperienceReplay(data_path=path)
    even = dataset.preprocess(
        lambda td: td[td["observation"].squeeze(-1) % 2 == 0], dest=tmp_path / "even", batch_size=3
    )
    assert even[:]["observation"].flatten().tolist() == list(range(0, 2500, 2))
    assert len(even.sample()) == 3
    assert len(dataset) == 2500
    even.delete()
    assert not (tmp_path / "even").exists()


def test_a_write_cut_short_leaves_what_was_there(tmp_path):
    path = write_dataset(tmp_path / "some", [steps(0, 5)], 5)

    def broken():
        yield steps(7, 3)
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        write_dataset(path, broken(), 9)
    assert len(BaseDatasetExperienceReplay(data_path=path)) == 5
    write_dataset(path, [steps(7, 3)], 9)
    assert BaseDatasetExperienceReplay(data_path=path)[0]["observation"].item() == 7


def test_the_layout_is_what_the_documentation_says(tmp_path):
    """Read the files with numpy alone."""
    wide = torch.arange(6 * 300.0).view(6, 300)  # more than a kilobyte
    flag, number = torch.arange(6) % 2 == 0, torch.arange(6.0, dtype=torch.float64)
    td = TensorDict(flag=flag, wide=wide, number=number, batch_size=[6])
    folder = write_dataset(tmp_path / "some", [td], 10) / "storage"
    meta = json.loads((folder / "storage.json").read_text())
    assert (meta["max_size"], meta["ndim"], meta["row_shape"]) == (10, 1, [])
    assert meta["schema"]["leaves"] == [[[], "bool"], [[300], "float32"], [[], "float64"]]
    count = np.fromfile(folder / "counts.memmap", np.int64)[1]
    dtype = np.dtype([("number", "f8"), ("flag", "?"), ("gap", "V7")])
    rows = np.fromfile(folder / "rows_0.memmap", dtype)
    assert (len(rows), count) == (10, 6)
    assert (rows["number"][:6] == number.numpy()).all()
    assert (rows["flag"][:6] == flag.numpy()).all()
    assert (np.fromfile(folder / "rows_1.memmap", "f4").reshape(10, 300)[:6] == wide.numpy()).all()


def test_no_dataset_is_said_so(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no dataset in .*write_dataset"):
        BaseDatasetExperienceReplay(data_path=tmp_path)


def walk(number, actions):
    """An episode that ends at 3, or is cut after 4 steps; observations are a dictionary."""
    at = np.cumsum([0, *actions])
    ended = at[1:] == 3
    return EpisodeBuffer(
        id=number,
        observations={"place": np.stack([at, at], 1).astype(np.float32), "at": at},
        actions=np.array(actions),
        rewards=list(at[1:].astype(float)),
        terminations=list(ended),
        truncations=list((np.arange(len(actions)) == 3) & ~ended),
        infos={"noise": at.astype(np.float64), "name": ["x"] * len(at)},
    )


@pytest.fixture(scope="module")
def minari_home(tmp_path_factory):
    home = tmp_path_factory.mktemp("minari")
    episodes = [walk(i, actions) for i, actions in enumerate(([1, 1, 1], [0, 1, 0, 1], [1, 0, 1, 1]))]
    place = gymnasium.spaces.Box(-9, 9, (2,))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(home / "theirs"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about an author that is missing
            minari.create_dataset_from_buffers(
                "walk/test-v0",
                episodes,
                action_space=gymnasium.spaces.Discrete(2),
                observation_space=gymnasium.spaces.Dict(place=place, at=gymnasium.spaces.Discrete(9)),
            )
        yield home


def test_a_minari_dataset_becomes_steps(minari_home):
    dataset = MinariExperienceReplay("walk/test-v0", 8, root=minari_home / "ours", sampler=SliceSampler(slice_len=2))
    rows = dataset[:]
    assert rows["episode"].tolist() == [0] * 3 + [1] * 4 + [2] * 4
    assert rows["action"].tolist() == [1, 1, 1, 0, 1, 0, 1, 1, 0, 1, 1]
    at = [0, 1, 2, 0, 0, 1, 1, 0, 1, 1, 2]
    after = [1, 2, 3, 0, 1, 1, 2, 1, 1, 2, 3]
    assert rows["observation", "at"].tolist() == at
    assert rows["next", "observation", "at"].tolist() == after
    assert rows["next", "observation", "place"].tolist() == [[x, x] for x in after]
    assert rows["next", "reward"].flatten().tolist() == after
    assert rows["next", "info", "noise"].tolist() == after
    ends = [i in (2, 10) for i in range(11)]
    assert rows["next", "terminated"].flatten().tolist() == ends
    assert rows["next", "truncated"].flatten().tolist() == [i == 6 for i in range(11)]
    assert rows["next", "done"].flatten().tolist() == [i in (2, 6, 10) for i in range(11)]
    assert not any(rows[flag].any() for flag in ("done", "terminated", "truncated"))
    assert dataset.notes["total_episodes"] == 3
    sample = dataset.sample()
    assert (sample["episode"].view(4, 2).diff(dim=1) == 0).all()


def test_the_folder_of_a_minari_dataset_is_loaded_as_what_it_is(minari_home, tmp_path):
    expected = MinariExperienceReplay("walk/test-v0", root=tmp_path / "by_name")[:]
    folder = next(minari_home.rglob("walk/test-v0"))
    found = load_dataset(folder, root=tmp_path / "by_folder")
    assert isinstance(found, MinariExperienceReplay)
    assert (found[:] == expected).all()
    assert not list(folder.rglob("dataset.json"))


def test_it_is_written_once_and_read_from_then_on(minari_home, monkeypatch):
    first = MinariExperienceReplay("walk/test-v0", root=minari_home / "mine")
    monkeypatch.setattr(minari, "load_dataset", None)
    again = MinariExperienceReplay("walk/test-v0", root=minari_home / "mine", download=False)
    assert (first[:] == again[:]).all()


def test_a_dataset_that_is_not_here_is_not_fetched_unasked(minari_home):
    with pytest.raises(FileNotFoundError, match=r"'walk/no-v0' is not on this machine.*download"):
        MinariExperienceReplay("walk/no-v0", root=minari_home / "ours", download=False)


def test_force_fetches_anew(minari_home, monkeypatch):
    asked = []
    monkeypatch.setattr(minari, "download_dataset", lambda name, force_download: asked.append((name, force_download)))
    MinariExperienceReplay("walk/test-v0", root=minari_home / "forced", download="force")
    assert asked == [("walk/test-v0", True)]


def test_minaris_own_files_are_used_without_a_network(minari_home, monkeypatch):
    dataset = MinariExperienceReplay(
        "walk/test-v0", root=minari_home / "local", load_from_local_minari=True, split_trajs=True
    )
    assert dataset[:].batch_size == (3, 4)
    assert dataset[:]["mask"].sum(1).tolist() == [3, 4, 4]
    with pytest.raises(ValueError, match="fetches nothing"):
        MinariExperienceReplay("walk/test-v0", load_from_local_minari=True, download="force")

    def no_network(**_):
        raise OSError("no network")

    monkeypatch.setattr(minari, "list_remote_datasets", no_network)
    assert MinariExperienceReplay.available_datasets == dataset.available_datasets == ["walk/test-v0"]
    monkeypatch.setattr(minari, "list_remote_datasets", lambda **_: {"other/one-v0": {}})
    assert MinariExperienceReplay.available_datasets == ["other/one-v0", "walk/test-v0"]


# --- by name -------------------------------------------------------------------------------------


def test_datasets_are_found_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "_makers", dict(registry._makers))
    path = write_dataset(tmp_path / "some", [steps(0, 5)], 5)
    assert len(load_dataset(f"file:{path}", batch_size=3).sample()) == 3
    register_dataset("mine", lambda name, **kwargs: load_dataset(f"file:{tmp_path / name}", **kwargs))
    buffer = OfflineToOnlineReplayBuffer("mine:some", online_capacity=9, sampler=SliceSampler(slice_len=4))
    assert buffer.sample(4)["observation"].flatten().diff().tolist() == [1.0] * 3
    with pytest.raises(ValueError, match=r"the prefix is taken, or none; .* replace=True"):
        register_dataset("mine", load_dataset)
    register_dataset("mine", load_dataset, replace=True)
    known = r"'file:...', 'huggingface:...', 'minari:...', 'mine:...', .*'parquet:...'\], found mini:x"
    with pytest.raises(ValueError, match=known):
        load_dataset("mini:x")
    with pytest.raises(TypeError, match=r"unexpected arguments; found \['sampler'\]"):
        OfflineToOnlineReplayBuffer(steps(0, 5), online_capacity=9, sampler=None)


def test_a_dataset_that_was_recorded_again_is_read_again(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    box = partial(gymnasium.spaces.Box, -1.0, 1.0, dtype=np.float32)

    def rewards():
        data = MinariExperienceReplay("hand/made-v0", 3, root=tmp_path / "ours", download=False)
        return data.sample()["next", "reward"].unique().tolist()

    for reward in (1.0, 2.0, 3.0):
        if reward > 1:
            minari.delete_dataset("hand/made-v0")
            assert rewards() == [reward - 1]  # it is kept though Minari's is gone
        episode = EpisodeBuffer(
            id=0,
            observations=np.zeros((4, 2), dtype=np.float32),
            actions=np.zeros((3, 1), dtype=np.float32),
            rewards=[reward] * 3,
            terminations=[False, False, True],
            truncations=[False] * 3,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            minari.create_dataset_from_buffers(
                "hand/made-v0", [episode], env=None, observation_space=box(shape=(2,)), action_space=box(shape=(1,))
            )
        assert rewards() == [reward]
        assert rewards() == [reward]
