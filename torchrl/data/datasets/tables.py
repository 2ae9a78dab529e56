"""`TableExperienceReplay`: Parquet files and datasets of Hugging Face on this machine."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from torchrl._core.errors import describe
from torchrl.data.datasets.base import BaseDatasetExperienceReplay, key_of_folder, read_notes, write_dataset
from torchrl.data.replay_buffers.tables import in_order_of_rows, is_table, read_table, table_files

HOME = Path("~/.cache/torchrl/tables")


class TableExperienceReplay(BaseDatasetExperienceReplay):
    """The rows of Parquet files, or of a dataset of Hugging Face, as a read-only replay buffer.

    The first time, the table is read and written in the layout of :mod:`torchrl.data.datasets.base`,
    from where it is read from then on; if its files have changed since, it is read again.

    What :meth:`ReplayBuffer.export` wrote has the entries, shapes, dtypes and dimensions of that
    buffer. Of other tables each column is an entry: a name with dots, ``next.reward``, is a nested
    entry, lists of one length are dimensions, and rewards and end flags get their last dimension.

    Args:
        path: A folder with files ``*.parquet``, such a file, or a folder that
            ``Dataset.save_to_disk`` of Hugging Face wrote.
        batch_size: Size of a sample, unless ``sample()`` is told otherwise.
        root: Folder below which datasets are kept; ``~/.cache/torchrl/tables`` if ``None``.
        **kwargs: As for :class:`BaseDatasetExperienceReplay`, such as ``split_trajs``.

    Raises:
        FileNotFoundError: if there is no table.
        ShapeError: if a column has lists of several lengths.
        DTypeError: if a column has no numbers or texts, or misses some.

    >>> import tempfile, torch
    >>> from tensordict import TensorDict
    >>> from torchrl.data import LazyTensorStorage, ReplayBuffer
    >>> folder = tempfile.mkdtemp()
    >>> buffer = ReplayBuffer(storage=LazyTensorStorage(4))
    >>> _ = buffer.extend(TensorDict(observation=torch.arange(4.0), batch_size=[4]))
    >>> _ = buffer.export(f"{folder}/steps")
    >>> dataset = TableExperienceReplay(f"{folder}/steps", batch_size=2, root=folder)
    >>> dataset[:]["observation"]
    tensor([0., 1., 2., 3.])
    """

    def __init__(
        self, path: str | Path, batch_size: int | None = None, *, root: str | Path | None = None, **kwargs: Any
    ) -> None:
        source = Path(path).expanduser().resolve()
        if not source.exists() or not is_table(source):
            raise FileNotFoundError(describe(self, f"there are no Parquet files and no saved dataset in {source}"))
        home = (HOME if root is None else Path(root)).expanduser() / key_of_folder(source)
        marks = [[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in table_files(source)]
        if read_notes(home).get("source") != marks:
            table = read_table(source, self)
            count, notes = max(math.prod(table.lead), 1), {"source": marks, "time_dim": table.time_dim}
            write_dataset(home, [in_order_of_rows(table)], count, notes, ndim=len(table.lead))
        time_dim = read_notes(home)["time_dim"]
        super().__init__(data_path=home, batch_size=batch_size, **{"dim_extend": time_dim, **kwargs})
