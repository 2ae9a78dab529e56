"""Every logger obeys every law."""

import csv
from importlib.util import find_spec

import pytest

from torchrl.record import loggers
from torchrl.record.loggers import CSVLogger, TensorboardLogger
from torchrl.testing.logger import LOGGER_LAWS


def read_csv(logger):
    folder = logger.experiment / "scalars"
    kept = {}
    for path in folder.rglob("*.csv"):
        with path.open() as file:
            rows = [(int(step), float(value)) for step, value in csv.reader(file)]
        kept[path.relative_to(folder).with_suffix("").as_posix()] = rows
    return kept


def read_events(logger):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(logger.experiment.log_dir, size_guidance={"scalars": 0}).Reload()
    return {
        name: [(event.step, event.value) for event in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }


def make(cls, **kwargs):
    return lambda folder: cls("demo", folder, **kwargs)


LOGGERS = {
    f"csv {video_format}": (make(CSVLogger, video_format=video_format), read_csv)
    for video_format in CSVLogger.VIDEO_FORMATS
} | {"tensorboard": (make(TensorboardLogger), read_events)}


@pytest.mark.parametrize("law", LOGGER_LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("name", LOGGERS)
def test_obeys(law, name, tmp_path):
    if name == "tensorboard" and find_spec("tensorboard") is None:
        pytest.skip("tensorboard is not installed")
    law(*LOGGERS[name], tmp_path)


def test_every_logger_is_listed():
    public = {
        value
        for name in loggers.__all__
        if isinstance(value := getattr(loggers, name), type) and value is not loggers.Logger
    }
    assert public == {CSVLogger, TensorboardLogger}
