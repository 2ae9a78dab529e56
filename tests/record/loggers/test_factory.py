"""Loggers by name, names of experiments."""

import re

import pytest

from torchrl.record import CSVLogger, generate_exp_name, get_logger


def test_a_name_gives_its_logger(tmp_path):
    logger = get_logger("csv", tmp_path, "run", video_format="gif")
    assert type(logger) is CSVLogger
    assert (logger.exp_name, logger.log_dir, logger.video_format) == ("run", str(tmp_path), "gif")


@pytest.mark.parametrize("nothing", ["", None])
def test_no_name_gives_none(nothing, tmp_path):
    assert get_logger(nothing, tmp_path, "run") is None
    assert not list(tmp_path.iterdir())


def test_arguments_of_one_kind_only(tmp_path):
    logger = get_logger("csv", tmp_path, "run", video_fps=5, csv_kwargs={"video_format": "mp4"})
    assert (logger.video_fps, logger.video_format) == (5, "mp4")


def test_arguments_of_another_kind_are_left_alone(tmp_path):
    logger = get_logger("csv", tmp_path, "run", wandb_kwargs={"offline": True})
    assert type(logger) is CSVLogger


def test_an_unknown_argument_is_refused(tmp_path):
    with pytest.raises(TypeError, match="colour"):
        get_logger("csv", tmp_path, "run", colour="red")


def test_an_unknown_name_gets_its_neighbour(tmp_path):
    with pytest.raises(ValueError, match=r"found 'cvs'\. Did you mean 'csv'\?"):
        get_logger("cvs", tmp_path, "run")


def test_names_of_experiments_differ():
    names = {generate_exp_name("ppo", "cartpole") for _ in range(50)}
    assert len(names) == 50
    pattern = r"ppo_cartpole_[0-9a-f]{8}_\d\d_\d\d_\d\d-\d\d_\d\d_\d\d"
    assert all(re.fullmatch(pattern, name) for name in names)
