"""Several buffers sampled as one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from tensordict import TensorDict, is_tensor_collection
from torch import Tensor

from torchrl._core.errors import describe
from torchrl._core.files import check_files
from torchrl._core.safe_load import load_file
from torchrl.data.replay_buffers.buffer import ReplayBuffer
from torchrl.data.replay_buffers.checkpointers import CURRENT, current, replacing
from torchrl.data.replay_buffers.data_types import Convert, Data, Index, State
from torchrl.data.replay_buffers.samplers.base import SamplerEnsemble
from torchrl.data.replay_buffers.storages.base import StorageEnsemble, check_by_loading
from torchrl.data.replay_buffers.storages.schema import stack_rows
from torchrl.data.replay_buffers.writers import WriterEnsemble


class ReplayBufferEnsemble:
    """Samples from several buffers at once; each is written to by itself.

    Args:
        *rbs: The buffers; each keeps its sampler and its transforms.
        storages: What to make the buffers of, in place of ``rbs``.
        samplers: Their samplers and the choice among them; uniform samplers if ``None``.
        writers: Their writers; the oldest row first if ``None``.
        transform: Applied to the stack of their samples; any callable ``data -> data``.
        batch_size: Items of a sample, over all buffers together.
        collate_fn: Makes a batch ``[n, B / n]`` of ``n`` samples ``[B / n]``; stacks if ``None``.
        collate_fns: For each buffer that is made of ``storages``, its ``collate_fn`` or ``None``.
        p: Odds of each buffer; all alike if ``None``.
        sample_from_all: Take the same number of items from every buffer.
        num_buffer_sampled: How many draws of a buffer a sample is made of; as many as there are
            buffers if ``None``.
        generator: Where the choice of buffers comes from.

    Writes: into samples of tensordicts ``("index", "buffer_ids")``, the number of the buffer of each
    item, and ``("index", "index")``, its index there, ``[n, B / n]``; the same into
    ``info["index"]``, and ``info["buffer_ids"] [n]``.

    Raises:
        TypeError: if ``sample_from_all`` comes with ``p`` or ``num_buffer_sampled``, buffers come
            with parts to make some of, or the choice is given twice.
        ValueError: if ``p`` is not one number, zero or more, for each buffer.

    >>> from torchrl.data import ReplayBuffer
    >>> small, large = ReplayBuffer(), ReplayBuffer()
    >>> _ = small.extend(torch.zeros(3)), large.extend(torch.ones(99))
    >>> ReplayBufferEnsemble(small, large, sample_from_all=True, batch_size=4).sample()
    tensor([[0., 0.],
            [1., 1.]])
    """

    def __init__(
        self,
        *rbs: ReplayBuffer,
        storages: StorageEnsemble | None = None,
        samplers: SamplerEnsemble | None = None,
        writers: WriterEnsemble | None = None,
        transform: Convert | None = None,
        batch_size: int | None = None,
        collate_fn: Callable[[list[Data]], Data] | None = None,
        collate_fns: Sequence[Convert | None] | None = None,
        p: Sequence[float] | Tensor | None = None,
        sample_from_all: bool = False,
        num_buffer_sampled: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        parts = (samplers, writers, collate_fns)
        if bool(rbs) == (storages is not None) or (rbs and any(x is not None for x in parts)):
            raise TypeError(describe(self, "takes either buffers, or storages with samplers and writers"))
        if samplers is not None and (p is not None or sample_from_all or num_buffer_sampled):
            raise TypeError(describe(self, "the choice of buffers is that of the given samplers"))
        self.buffers = list(rbs)
        if storages is not None:
            self.buffers = _buffers(storages, samplers, writers, collate_fns)
        self.samplers = samplers or SamplerEnsemble(
            *(buffer.sampler for buffer in self.buffers),
            p=p,
            sample_from_all=sample_from_all,
            num_buffer_sampled=num_buffer_sampled,
        )
        self.samplers.generator = generator
        self.batch_size = batch_size
        self.transform, self.collate_fn = transform, collate_fn or stack_rows

    def sample(self, batch_size: int | None = None, return_info: bool = False) -> Data:
        """Return a batch ``[n, B / n]``; with ``return_info``, what is known about it too.

        Raises:
            ValueError: if the batch does not divide by the number ``n`` of buffers drawn.
        """
        size = self.batch_size if batch_size is None else batch_size
        number = self.samplers.num_buffer_sampled
        if size is None or size < number or size % number:
            raise ValueError(
                describe(
                    self,
                    "the batch does not divide among the buffers",
                    expected=f"a batch_size that is a multiple of {number}",
                    found=size,
                )
            )
        chosen = self.samplers.choose()
        parts = [self.buffers[i].sample(size // number, return_info=True) for i in chosen.tolist()]
        data = self.collate_fn([part for part, _ in parts])
        within = stack_rows([info["index"] for _, info in parts])  # [n, B / n], or [n, B / n, ndim]
        ids = chosen.unsqueeze(-1).expand(number, size // number)
        if isinstance(within, Tensor):  # of as many items each, fewer at the end of a pass
            ids = chosen.unsqueeze(-1).expand(within.shape[:2])
        index = TensorDict(buffer_ids=ids, batch_size=ids.shape)
        if isinstance(within, Tensor):
            index["index"] = within
        if is_tensor_collection(data) and data.batch_size[:2] == index.batch_size:
            data.set("index", index)
        if self.transform is not None:
            data = self.transform(data)
        if not return_info:
            return data
        return data, {"buffer_ids": chosen, "index": index, "parts": [info for _, info in parts]}

    @property
    def storage(self) -> StorageEnsemble:
        """The storages of the buffers, whose transforms samples go through."""
        return StorageEnsemble(
            *(buffer.storage for buffer in self.buffers),
            transforms=[buffer.transform.outward if len(buffer.transform) else None for buffer in self.buffers],
        )

    @property
    def sampler(self) -> SamplerEnsemble:
        """The samplers of the buffers, and the choice among them."""
        return self.samplers

    @property
    def writer(self) -> WriterEnsemble:
        """The writers of the buffers."""
        return WriterEnsemble(*(buffer.writer for buffer in self.buffers))

    def __getitem__(self, index: Index) -> Data:
        """Return a buffer, or, of a pair, the rows ``index[1]`` of buffer ``index[0]``."""
        if isinstance(index, tuple):
            return self.buffers[index[0]][index[1]]
        return self.buffers[index]

    def __len__(self) -> int:
        return sum(len(buffer) for buffer in self.buffers)

    def __iter__(self) -> Iterator[Data]:
        while True:
            yield self.sample()

    def state_dict(self) -> State:
        """Return the state of each buffer, and of the choice among them."""
        return {"buffers": [buffer.state_dict() for buffer in self.buffers], "choice": self.samplers.state_dict()}

    def load_state_dict(self, state_dict: State) -> None:
        """Go on where the ensemble stood whose :meth:`state_dict` this is, or change nothing.

        Raises:
            ValueError: if it had another number of buffers.
        """
        self.check_state(state_dict)
        for buffer, state in zip(self.buffers, state_dict["buffers"], strict=True):
            buffer.load_state_dict(state)
        self.samplers.load_state_dict(state_dict["choice"])

    def check_state(self, state_dict: State) -> None:
        """Raise what :meth:`load_state_dict` would raise, and change nothing."""
        states = state_dict["buffers"]
        if len(states) != len(self.buffers):
            raise ValueError(
                describe(
                    self,
                    "the save is that of another number of buffers",
                    expected=len(self.buffers),
                    found=len(states),
                    hint="Load it into an ensemble built like the saved one.",
                )
            )
        for buffer, state in zip(self.buffers, states, strict=True):
            buffer.check_state(state)
        check_by_loading(self.samplers, state_dict["choice"])

    def dumps(self, path: str | Path) -> None:
        """Write the state of each buffer, and of the choice among them, to a folder."""
        with replacing(path) as folder:
            self.write_save(folder)

    def write_save(self, folder: Path) -> None:
        """Write what :meth:`read_save` reads to an empty folder."""
        for number, buffer in enumerate(self.buffers):
            (folder / f"buffer_{number}").mkdir()
            buffer.write_save(folder / f"buffer_{number}")
        torch.save(self.samplers.state_dict(), folder / "choice.pt")

    def loads(self, path: str | Path, *, trust: bool = False) -> None:
        """Go on where the ensemble stood that wrote to this folder, or change nothing.

        Args:
            path: The folder.
            trust: As for :meth:`ReplayBuffer.loads`.

        Raises:
            FileNotFoundError, UntrustedFileError, DamagedFileError: as there.
        """
        self.load_state_dict(self.read_save(current(path), trust=trust))

    def read_save(self, folder: Path, *, trust: bool = False) -> State:
        """Return the state that :meth:`write_save` wrote, for :meth:`load_state_dict`."""
        check_files(folder)
        homes = sorted(folder.glob("buffer_*"), key=lambda home: int(home.name[7:]))
        homes = [current(home) if (home / CURRENT).exists() else home for home in homes]
        if len(homes) != len(self.buffers):
            raise ValueError(
                describe(
                    self, "the save is that of another number of buffers", expected=len(self.buffers), found=len(homes)
                )
            )
        pairs = zip(self.buffers, homes, strict=True)
        buffers = [buffer.read_save(home, trust=trust) for buffer, home in pairs]
        return {"buffers": buffers, "choice": load_file(folder / "choice.pt", trust=trust)}


def _buffers(
    storages: StorageEnsemble,
    samplers: SamplerEnsemble | None,
    writers: WriterEnsemble | None,
    collate_fns: Sequence[Convert | None] | None,
) -> list[ReplayBuffer]:
    """Make buffers of their parts."""
    nothing = [None] * len(storages.storages)
    parts = zip(
        storages.storages,
        storages.transforms,
        nothing if samplers is None else samplers.samplers,
        nothing if writers is None else writers.writers,
        nothing if collate_fns is None else collate_fns,
        strict=True,
    )
    return [
        ReplayBuffer(storage=storage, transform=transform, sampler=sampler, writer=writer, collate_fn=collate_fn)
        for storage, transform, sampler, writer, collate_fn in parts
    ]
