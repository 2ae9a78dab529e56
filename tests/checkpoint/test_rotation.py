"""Which checkpoints are kept."""

import pytest

from torchrl.checkpoint import Checkpoint, CheckpointRotation


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
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "checkpoint_2",
        "checkpoint_old",
        "notes.txt",
    ]


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
