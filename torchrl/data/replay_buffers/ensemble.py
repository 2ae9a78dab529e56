"""Several buffers sampled as one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torchrl._core.errors import describe
from torchrl.data.replay_buffers.buffer import ReplayBuffer
from torchrl.data.replay_buffers.checkpointers import current, replacing
from torchrl.data.replay_buffers.storages.schema import stack_rows


class ReplayBufferEnsemble:
    """Samples from several buffers at once; each is written to by itself.

    Args:
        *rbs: The buffers; each keeps its sampler and its transforms.
        transform: Applied to the stack of their samples; any callable ``data -> data``.
        batch_size: Items of a sample, over all buffers together.
        collate_fn: Makes a batch ``[n, B / n]`` of ``n`` samples ``[B / n]``; stacks if ``None``.
        p: Odds of each buffer; all alike if ``None``.
        sample_from_all: Take the same number of items from every buffer.
        num_buffer_sampled: How many draws of a buffer a sample is made of; as many as there are
            buffers if ``None``.
        generator: Where the choice of buffers comes from.

    Writes: ``info["buffer_ids"] [n]``, and ``info["index"] [n, B / n]`` within each.

    Raises:
        TypeError: if ``sample_from_all`` comes with ``p`` or ``num_buffer_sampled``.
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
        transform: Callable[[Any], Any] | None = None,
        batch_size: int | None = None,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        p: Sequence[float] | Tensor | None = None,
        sample_from_all: bool = False,
        num_buffer_sampled: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        if sample_from_all and (p is not None or num_buffer_sampled is not None):
            raise TypeError(
                describe(self, "sample_from_all leaves no choice, so it takes no p and no number")
            )
        self.buffers, self.batch_size = list(rbs), batch_size
        self.transform, self.collate_fn = transform, collate_fn or stack_rows
        self.sample_from_all, self.generator = sample_from_all, generator
        self.num_buffer_sampled = num_buffer_sampled or len(rbs)
        odds = torch.ones(len(rbs)) if p is None else torch.as_tensor(p, dtype=torch.float64)
        if odds.shape != (len(rbs),) or not (odds >= 0).all() or not odds.sum() > 0:
            raise ValueError(
                describe(
                    self,
                    "p must give odds for each buffer",
                    expected=f"{len(rbs)} numbers, zero or more",
                    found=odds.tolist(),
                )
            )
        self.p = odds / odds.sum()

    def sample(self, batch_size: int | None = None, return_info: bool = False) -> Any:
        """Return a batch ``[n, B / n]``; with ``return_info``, what is known about it too.

        Raises:
            ValueError: if the batch does not divide by the number ``n`` of buffers drawn.
        """
        size = self.batch_size if batch_size is None else batch_size
        number = self.num_buffer_sampled
        if size is None or size < number or size % number:
            raise ValueError(
                describe(
                    self,
                    "the batch does not divide among the buffers",
                    expected=f"a batch_size that is a multiple of {number}",
                    found=size,
                )
            )
        chosen = self._choose()
        parts = [self.buffers[i].sample(size // number, return_info=True) for i in chosen.tolist()]
        data = self.collate_fn([part for part, _ in parts])
        if self.transform is not None:
            data = self.transform(data)
        if not return_info:
            return data
        index = stack_rows([info["index"] for _, info in parts])
        return data, {"buffer_ids": chosen, "index": index, "parts": [info for _, info in parts]}

    def _choose(self) -> Tensor:
        if self.sample_from_all:
            return torch.arange(len(self.buffers))
        return torch.multinomial(
            self.p, self.num_buffer_sampled, replacement=True, generator=self.generator
        )

    def __getitem__(self, index: Any) -> Any:
        """Return a buffer, or, of a pair, the rows ``index[1]`` of buffer ``index[0]``."""
        if isinstance(index, tuple):
            return self.buffers[index[0]][index[1]]
        return self.buffers[index]

    def __len__(self) -> int:
        return sum(len(buffer) for buffer in self.buffers)

    def __iter__(self) -> Iterator[Any]:
        while True:
            yield self.sample()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of each buffer, and of the choice among them."""
        generator = None if self.generator is None else self.generator.get_state()
        return {
            "buffers": [buffer.state_dict() for buffer in self.buffers],
            "p": self.p.clone(),
            "generator": generator,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where the ensemble stood whose :meth:`state_dict` this is."""
        for buffer, state in zip(self.buffers, state_dict["buffers"], strict=True):
            buffer.load_state_dict(state)
        self._load_choice(state_dict)

    def _load_choice(self, state: dict[str, Any]) -> None:
        self.p = state["p"].clone()
        if state["generator"] is not None:
            self.generator = (self.generator or torch.Generator()).set_state(state["generator"])

    def dumps(self, path: str | Path) -> None:
        """Write the state of each buffer, and of the choice among them, to a folder."""
        with replacing(path) as folder:
            for number, buffer in enumerate(self.buffers):
                buffer.dumps(folder / f"buffer_{number}")
            generator = None if self.generator is None else self.generator.get_state()
            torch.save({"p": self.p, "generator": generator}, folder / "choice.pt")

    def loads(self, path: str | Path) -> None:
        """Go on where the ensemble stood that wrote to this folder."""
        folder = current(path)
        for number, buffer in enumerate(self.buffers):
            buffer.loads(folder / f"buffer_{number}")
        self._load_choice(torch.load(folder / "choice.pt"))
