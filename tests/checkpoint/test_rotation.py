"""Which checkpoints are kept."""

import pytest

from torchrl._core.errors import DamagedFileError
from torchrl.checkpoint import Checkpoint, CheckpointError, CheckpointRotation


def names(rotation):
    return [path.name for path in rotation.paths()]


def run(rotation, scores, **options):
    for step, score in scores.items():
        rotation.save(Checkpoint(step=step, **options), step, metadata={"score": score})


@pytest.mark.parametrize("format", ["directory", "archive"])
def test_the_latest_and_the_best_are_kept(tmp_path, format):
    rotation = CheckpointRotation(tmp_path, keep_last=2, keep_best=("score", "max"))
    assert rotation.latest() is rotation.best() is None
    assert rotation.load_latest(Checkpoint(step=0)) is None
    run(rotation, {5: 1.0, 10: 9.0, 100: 2.0, 20: 9.0, 30: 3.0}, format=format)
    assert names(rotation) == ["checkpoint_10", "checkpoint_30", "checkpoint_100"]
    assert rotation.best().name == "checkpoint_10"
    assert rotation.load_latest(Checkpoint(step=0)).values == {"step": 100}
    assert (tmp_path / "checkpoint_10").is_dir() == (format == "directory")


def test_less_may_be_better(tmp_path):
    rotation = CheckpointRotation(tmp_path, keep_last=1, keep_best=("score", "min"), prefix="run")
    run(rotation, {1: 2.0, 2: 1.0, 3: 5.0})
    assert names(rotation) == ["run_2", "run_3"]


def test_what_is_not_ours_is_left_alone(tmp_path):
    (tmp_path / "checkpoint_old").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    rotation = CheckpointRotation(tmp_path, keep_last=1)
    run(rotation, {1: 0.0, 2: 0.0})
    assert names(rotation) == ["checkpoint_2"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint_2", "checkpoint_old", "notes.txt"]


def test_mistakes_are_named(tmp_path):
    with pytest.raises(ValueError, match="keep_last must be at least 1, found 0"):
        CheckpointRotation(tmp_path, keep_last=0)
    with pytest.raises(ValueError, match="'max' or 'min', found 'most'"):
        CheckpointRotation(tmp_path, keep_last=1, keep_best=("score", "most"))
    rotation = CheckpointRotation(tmp_path, keep_last=1, keep_best=("score", "max"))
    with pytest.raises(ValueError, match=r"keeps the best by 'score'.*found \['step'\].*metadata"):
        rotation.save(Checkpoint(a=1), 1)
    with pytest.raises(ValueError, match=r"does not know what is best. Pass keep_best"):
        CheckpointRotation(tmp_path, keep_last=1).best()


def test_what_was_just_saved_is_kept(tmp_path):
    rotation = CheckpointRotation(tmp_path, keep_last=2, keep_best=("score", "max"))
    run(rotation, {100: 3.0, 200: 1.0, 300: 1.0})
    for step in (5, 6):
        path = rotation.save(Checkpoint(n=step), step, metadata={"score": 0.0})
        assert path.exists()
        assert names(rotation) == [path.name, "checkpoint_100", "checkpoint_200", "checkpoint_300"]
    run(rotation, {400: 0.0})
    assert names(rotation) == ["checkpoint_100", "checkpoint_300", "checkpoint_400"]


@pytest.mark.parametrize("mode", ["max", "min"])
@pytest.mark.parametrize("odd", [float("nan"), None, "high", [1.0]])
@pytest.mark.parametrize("first", [True, False])
def test_what_is_no_number_is_never_the_best(tmp_path, mode, odd, first):
    rotation = CheckpointRotation(tmp_path, keep_last=1, keep_best=("score", mode))
    scores = [odd, 1.0, 1.0] if first else [1.0, 1.0, odd]
    run(rotation, dict(enumerate(scores)))
    assert rotation.best().name == f"checkpoint_{int(first)}"
    assert names(rotation)[-1] == "checkpoint_2"


def test_scores_that_are_all_no_numbers_have_no_best(tmp_path):
    rotation = CheckpointRotation(tmp_path, keep_last=1, keep_best=("score", "max"))
    run(rotation, {1: float("nan"), 2: float("nan")})
    assert rotation.best() is None
    assert names(rotation) == ["checkpoint_2"]


def damage_manifest(path):
    (path / "manifest.json").write_text("{}")


def empty_manifest(path):
    (path / "manifest.json").write_text("")
    (path / "CHECKSUMS").unlink()


def cut(path):
    (file,) = path.rglob("state.json")
    file.write_text(file.read_text()[:-3])


def cut_unnoticed(path):
    cut(path)
    (path / "CHECKSUMS").unlink()


def hollow(path):
    for file in path.rglob("*"):
        if file.is_file():
            file.unlink()


def half_an_archive(path):
    hollow(path)
    for folder in sorted(path.rglob("*"), reverse=True):
        folder.rmdir()
    path.rmdir()
    path.write_bytes(b"PK\x03\x04")


DAMAGE = [damage_manifest, empty_manifest, cut, cut_unnoticed, hollow, half_an_archive]


@pytest.mark.parametrize("damage", DAMAGE)
def test_the_last_good_one_is_loaded_and_the_log_says_so(tmp_path, caplog, damage):
    rotation = CheckpointRotation(tmp_path, keep_last=3, keep_best=("score", "max"))
    run(rotation, {1: 1.0, 2: 0.0, 3: 2.0})
    damage(tmp_path / "checkpoint_3")
    assert rotation.load_latest(Checkpoint(step=0)).values == {"step": 2}
    assert "checkpoint_3 is skipped" in caplog.text
    run(rotation, {4: 0.5, 5: 0.2})
    assert rotation.load_latest(Checkpoint(step=0)).values == {"step": 5}


def test_damage_everywhere_is_an_error(tmp_path):
    rotation = CheckpointRotation(tmp_path, keep_last=3)
    run(rotation, {1: 0.0, 2: 0.0})
    for path in rotation.paths():
        cut(path)
    with pytest.raises(DamagedFileError, match=r"checkpoint_2.*state\.json"):
        rotation.load_latest(Checkpoint(step=0))


def test_a_checkpoint_of_something_else_is_not_passed_over(tmp_path):
    rotation = CheckpointRotation(tmp_path, keep_last=3)
    run(rotation, {1: 0.0, 2: 0.0})
    with pytest.raises(CheckpointError, match="'other' is missing"):
        rotation.load_latest(Checkpoint(other=0))
