"""Every logger obeys every law."""

import csv
from pathlib import Path

import pytest

from torchrl.record import loggers
from torchrl.testing.logger import LOGGER_LAWS


def read_csv(logger):
    folder = logger.experiment / "scalars"
    kept = {}
    for path in folder.rglob("*.csv"):
        with path.open() as file:
            rows = [(int(step), float(value)) for step, value in csv.reader(file)]
        kept[path.relative_to(folder).with_suffix("").as_posix()] = rows
    return kept


def make_csv(**kwargs):
    return lambda folder: loggers.CSVLogger("demo", folder, **kwargs)


LOGGERS = {
    f"csv {video_format}": (make_csv(video_format=video_format), read_csv)
    for video_format in loggers.CSVLogger.VIDEO_FORMATS
}


@pytest.mark.parametrize("law", LOGGER_LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize(("make", "read"), LOGGERS.values(), ids=LOGGERS)
def test_obeys(law, make, read, tmp_path):
    law(make, read, Path(tmp_path))


def test_every_logger_is_listed():
    public = {
        value
        for name in loggers.__all__
        if isinstance(value := getattr(loggers, name), type) and value is not loggers.Logger
    }
    listed = {loggers.CSVLogger}
    assert public == listed
