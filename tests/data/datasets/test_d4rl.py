"""Files in the format of D4RL, made here; trajectories as items; samples for a DataLoader."""

import h5py
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from torchrl._core.errors import MissingKeyError
from torchrl.data import LazyTensorStorage, ReplayBuffer, SamplerWithoutReplacement, SliceSampler
from torchrl.data.datasets import D4RLExperienceReplay, load_dataset


def write(path, *, with_next=False, without=(), **more):
    """Two episodes: three steps that end, four that are cut off; two more steps of a third."""
    count = 9
    state = np.arange(count, dtype=np.float32)
    arrays = {
        "observations": np.stack([state, -state], 1),
        "actions": state[:, None] / 10,
        "rewards": state * 2,
        "terminals": np.arange(count) == 2,
        "timeouts": np.arange(count) == 6,
        "infos/speed": state * 3,
        **more,
    }
    if with_next:
        arrays["next_observations"] = arrays["observations"] + 0.5
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            if name not in without:
                file[name] = values
        file["metadata/algorithm"] = "none"
    return path


def flags(dataset, name):
    return dataset[:]["next", name].flatten().nonzero().flatten().tolist()


def test_the_last_step_of_an_episode_that_was_cut_off_has_no_next(tmp_path):
    dataset = D4RLExperienceReplay(write(tmp_path / "walk.hdf5"), 4, root=tmp_path, sampler=SliceSampler(slice_len=2))
    rows = dataset[:]
    kept = [0, 1, 2, 3, 4, 5, 7]
    assert rows["observation"][:, 0].tolist() == kept
    assert rows["next", "observation"][:, 0].tolist() == [1, 2, 2, 4, 5, 6, 8]
    assert rows["next", "reward"].flatten().tolist() == [2 * i for i in kept]
    assert rows["info", "speed"].tolist() == [3 * i for i in kept]
    assert rows["episode"].tolist() == [0, 0, 0, 1, 1, 1, 2]
    assert flags(dataset, "terminated") == [2]
    assert flags(dataset, "truncated") == [5, 6]
    assert flags(dataset, "done") == [2, 5, 6]
    assert not any(rows[flag].any() for flag in ("done", "terminated", "truncated"))
    assert dataset.notes["total_episodes"] == 3
    assert (dataset.sample()["episode"].view(2, 2).diff(dim=1) == 0).all()


def test_a_file_with_next_observations_keeps_every_step(tmp_path):
    dataset = D4RLExperienceReplay(write(tmp_path / "walk.hdf5", with_next=True), root=tmp_path)
    rows = dataset[:]
    assert rows["next", "observation"][:, 0].tolist() == [i + 0.5 for i in range(9)]
    assert flags(dataset, "done") == [2, 6, 8]


def test_arguments_that_change_nothing_are_taken(tmp_path):
    file = write(tmp_path / "walk.hdf5")
    assert len(D4RLExperienceReplay(file, root=tmp_path, direct_download=True, from_env=False)) == 7


def test_done_may_mean_terminal_alone(tmp_path):
    file = write(tmp_path / "walk.hdf5")
    dataset = D4RLExperienceReplay(file, root=tmp_path, use_truncated_as_done=False)
    assert flags(dataset, "done") == [2]
    assert flags(D4RLExperienceReplay(file, root=tmp_path), "done") == [2, 5, 6]


def test_a_file_that_changed_is_converted_again(tmp_path):
    file = write(tmp_path / "walk.hdf5")
    assert len(D4RLExperienceReplay(file, root=tmp_path)) == 7
    write(file, timeouts=np.zeros(9, dtype=bool))
    assert D4RLExperienceReplay(file, root=tmp_path)[:]["episode"].tolist() == [0, 0, 0, 1, 1, 1, 1, 1]
    assert len(D4RLExperienceReplay(write(tmp_path / "no.h5", without=["timeouts", "infos/speed"]), root=tmp_path)) == 8


def test_mistakes_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        D4RLExperienceReplay(tmp_path / "no.hdf5", root=tmp_path)
    with pytest.raises(ValueError, match="unknown dataset"):
        D4RLExperienceReplay("kitchen-mixed-v0", root=tmp_path)
    with pytest.raises(FileNotFoundError, match="not on this machine"):
        D4RLExperienceReplay("hopper-medium-v2", root=tmp_path, download=False)
    with pytest.raises(MissingKeyError, match=r"'rewards' is not in walk\.hdf5"):
        D4RLExperienceReplay(write(tmp_path / "walk.hdf5", without=["rewards"]), root=tmp_path)
    assert "hopper-medium-replay-v2" in D4RLExperienceReplay.available_datasets


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("hopper-medium-v0", "gym_mujoco/hopper_medium.hdf5"),
        ("ant-medium-replay-v2", "gym_mujoco_v2/ant_medium_replay-v2.hdf5"),
    ],
)
def test_files_are_downloaded_by_name(tmp_path, monkeypatch, name, place):
    asked = []

    def fetch(url, path):
        asked.append(url)
        write(path)

    monkeypatch.setattr("urllib.request.urlretrieve", fetch)
    for _ in range(2):
        assert len(D4RLExperienceReplay(name, root=tmp_path)) == 7
    assert asked == [f"http://rail.eecs.berkeley.edu/datasets/offline_rl/{place}"]


def test_trajectories_are_items(tmp_path):
    file = write(tmp_path / "walk.hdf5")
    for _ in range(2):
        dataset = D4RLExperienceReplay(file, root=tmp_path, split_trajs=True, batch_size=5)
        assert len(dataset) == 3
        assert dataset[:].batch_size == (3, 3)
        assert dataset[:]["mask"].sum(1).tolist() == [3, 3, 1]
        assert dataset[:]["observation"][..., 0].tolist() == [[0, 1, 2], [3, 4, 5], [7, 0, 0]]
        assert dataset.sample().batch_size == (5, 3)


def test_paths_are_loaded_without_a_prefix(tmp_path):
    file = write(tmp_path / "walk.hdf5")
    first = load_dataset(str(file), root=tmp_path / "ours", batch_size=2)
    assert isinstance(first, D4RLExperienceReplay)
    assert isinstance(load_dataset(f"d4rl:{file}", root=tmp_path / "ours"), D4RLExperienceReplay)
    again = load_dataset(str(first.data_path))
    assert (again[:] == first[:]).all()


# --- samples for a loader ---


def test_samples_of_a_pass():
    buffer = ReplayBuffer(storage=LazyTensorStorage(10), sampler=SamplerWithoutReplacement(), batch_size=4)
    buffer.extend(torch.arange(10))
    loader = DataLoader(buffer.as_dataset(), batch_size=None)
    assert sorted(torch.cat(list(loader)).tolist()) == list(range(10))
    assert [len(batch) for batch in buffer.as_dataset(batch_size=3, num_batches=2)] == [3, 3]


@pytest.mark.parametrize("generator", [None, torch.Generator().manual_seed(0)])
def test_workers_draw_numbers_of_their_own(generator):
    buffer = ReplayBuffer(storage=LazyTensorStorage(10_000), batch_size=8, generator=generator)
    buffer.extend(torch.arange(10_000))
    first, second = DataLoader(buffer.as_dataset(num_batches=1), batch_size=None, num_workers=2)
    assert first.tolist() != second.tolist()
