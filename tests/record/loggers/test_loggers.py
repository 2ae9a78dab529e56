"""Every logger passes every contract check."""

import csv
import json
import shutil
import struct
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from torchrl.record import get_logger, loggers
from torchrl.record.loggers import CSVLogger, Logger, MLFlowLogger, TensorboardLogger, WandbLogger
from torchrl.testing.logger import CHECKS, all_else_is_accepted

LATER_RELEASES = [  # what other packages say about themselves when they are imported
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
    "ignore::PendingDeprecationWarning",
]


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
    return {name: [(event.step, event.value) for event in events.Scalars(name)] for name in events.Tags()["scalars"]}


def records(path, header=7, block=32768):
    """Yield the records of a log of blocks: each chunk has a checksum, a length and a type."""
    data, at, parts = path.read_bytes(), header, []
    while at + 7 <= len(data):
        if block - at % block < 7:
            at += block - at % block
            continue
        size, kind = struct.unpack_from("<HB", data, at + 4)
        parts.append(data[at + 7 : at + 7 + size])
        at += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield b"".join(parts)
            parts = []


def finished(path, seconds=30):
    """Return the records of a run; its process writes on for a moment after the end."""
    from wandb.proto.wandb_internal_pb2 import Record

    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found = [Record.FromString(data) for data in records(path)]
        if any(record.HasField("exit") for record in found):
            return found
        time.sleep(0.02)
    raise TimeoutError(f"{path} has no end")


def read_run(logger):
    kept = {}
    for record in finished(Path(logger.experiment.settings.sync_file)):
        row = {
            item.nested_key[0]: json.loads(item.value_json)
            for item in record.history.item
            if len(item.nested_key) == 1  # the parts of a picture or histogram have two
        }
        step = row.pop("global_step", None)
        for name, value in row.items():
            if not name.startswith("_") and isinstance(value, int | float):
                kept.setdefault(name, []).append((step, value))
    return kept


def read_store(logger):
    client, run = logger._client, logger.run_id
    return {
        name: [(metric.step, metric.value) for metric in client.get_metric_history(run, name)]
        for name in client.get_run(run).data.metrics
    }


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """Make an MLflow database, which takes seconds, once."""
    folder = tmp_path_factory.mktemp("mlflow")
    get_logger("mlflow", folder, "first").close()
    return folder / "mlflow.db"


def make_csv(video_format):
    return lambda folder: CSVLogger("demo", folder, video_format=video_format)


def make_wandb(folder):
    import wandb

    quiet = wandb.Settings(silent=True)
    return WandbLogger("demo", True, folder, project="checks", settings=quiet)


def make_mlflow(folder):
    return get_logger("mlflow", folder, "demo")


LOGGERS = {f"csv {kind}": (make_csv(kind), read_csv) for kind in CSVLogger.VIDEO_FORMATS} | {
    "tensorboard": (lambda folder: TensorboardLogger("demo", folder), read_events),
    "wandb": (make_wandb, read_run),
    "mlflow": (make_mlflow, read_store),
}


def run(check, name, folder):
    check(*LOGGERS[name], folder)
    if check is all_else_is_accepted:
        assert any(path.is_file() for path in folder.rglob("*"))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", [name for name in LOGGERS if name.startswith("csv")])
def test_files_pass(check, name, tmp_path):
    run(check, name, tmp_path)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.skipif(find_spec("tensorboard") is None, reason="tensorboard is not installed")
def test_tensorboard_pass(check, tmp_path):
    run(check, "tensorboard", tmp_path)


@pytest.mark.slow
@pytest.mark.filterwarnings(*LATER_RELEASES)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.skipif(find_spec("wandb") is None, reason="wandb is not installed")
def test_wandb_offline_pass(check, tmp_path):
    run(check, "wandb", tmp_path)


@pytest.mark.slow
@pytest.mark.filterwarnings(*LATER_RELEASES)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.skipif(find_spec("mlflow") is None, reason="mlflow is not installed")
def test_mlflow_pass(check, tmp_path, request):
    shutil.copy(request.getfixturevalue("database"), tmp_path)
    run(check, "mlflow", tmp_path)


def test_every_logger_is_listed():
    public = {
        value
        for name in loggers.__all__
        if isinstance(value := getattr(loggers, name), type) and issubclass(value, Logger) and value is not Logger
    }
    assert public == {CSVLogger, MLFlowLogger, TensorboardLogger, WandbLogger, loggers.ProcessLogger}


class Numbers(Logger):
    """A logger with no more than the hooks that it must have."""

    def _create_experiment(self):
        return {}

    def log_scalar(self, name, value, step=None):
        self.experiment[name, step] = float(value)

    def log_histogram(self, name, data, step=None, *, bins=64): ...

    def log_video(self, name, video, step=None, *, fps=None): ...

    def log_hparams(self, cfg): ...


def test_a_logger_needs_no_place_for_texts(tmp_path):
    logger = Numbers("run", tmp_path)
    logger.log_metrics({"loss": {"actor": 2}}, step=3)
    assert logger.experiment == {("loss/actor", 3): 2.0}
    with pytest.raises(TypeError, match=r"Numbers: entry 'note' does not support texts"):
        logger.log_str("note", "two lines")


RESUMABLE = {"csv": (CSVLogger, read_csv), "tensorboard": (TensorboardLogger, read_events)}


@pytest.mark.parametrize("kind", RESUMABLE)
def test_runs_of_one_name_do_not_mix_unless_one_resumes_the_other(tmp_path, kind, caplog):
    if kind != "csv":
        pytest.importorskip(kind)
    make, read = RESUMABLE[kind]
    first, second = make("run", tmp_path), make("run", tmp_path)  # before either logs anything
    for number, logger in enumerate((first, second)):
        logger.log_scalar("a", number, 0)
        logger.close()
    third = make("run", tmp_path)
    third.log_scalar("a", 2, 0)
    third.close()
    assert "holds another run" in caplog.text
    assert "resume=True" in caplog.text
    for number, logger in enumerate((first, second, third)):
        assert read(logger) == {"a": [(0, number)]}
    assert sorted(each.name for each in tmp_path.iterdir()) == ["run", "run_1", "run_2"]
    resumed = get_logger(kind, tmp_path, "run", resume=True)
    resumed.log_scalar("a", 5, 1)
    resumed.close()
    assert read(resumed) == {"a": [(0, 0), (1, 5)]}
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("kind", RESUMABLE)
def test_a_folder_that_holds_other_files_is_used(tmp_path, kind):
    if kind != "csv":
        pytest.importorskip(kind)
    make, _ = RESUMABLE[kind]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").touch()
    make("run", tmp_path).close()
    assert [each.name for each in tmp_path.iterdir()] == ["run"]
