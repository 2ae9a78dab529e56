"""Which buffer, then which items: the samplers of an ensemble."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from torchrl._core.errors import describe
from torchrl.data.replay_buffers.samplers.base import Sampler


class SamplerEnsemble:
    """The samplers of several buffers, and the choice among the buffers.

    Args:
        *samplers: One for each buffer.
        p: Odds of each buffer; all alike if ``None``.
        sample_from_all: Take the same number of items from every buffer.
        num_buffer_sampled: How many draws of a buffer a sample is made of; as many as there are
            buffers if ``None``.

    Raises:
        TypeError: if ``sample_from_all`` comes with ``p`` or ``num_buffer_sampled``.
        ValueError: if ``p`` is not one number, zero or more, for each buffer.

    >>> from torchrl.data import RandomSampler
    >>> SamplerEnsemble(RandomSampler(), RandomSampler(), sample_from_all=True).choose()
    tensor([0, 1])
    """

    generator: torch.Generator | None = None

    def __init__(
        self,
        *samplers: Sampler,
        p: Sequence[float] | Tensor | None = None,
        sample_from_all: bool = False,
        num_buffer_sampled: int | None = None,
    ) -> None:
        if sample_from_all and (p is not None or num_buffer_sampled is not None):
            raise TypeError(
                describe(self, "sample_from_all leaves no choice, so it takes no p and no number")
            )
        self.samplers, self.sample_from_all = list(samplers), sample_from_all
        self.num_buffer_sampled = num_buffer_sampled or len(samplers)
        odds = torch.ones(len(samplers)) if p is None else torch.as_tensor(p, dtype=torch.float64)
        if (
            odds.shape != (len(samplers),)
            or not (odds >= 0).all()
            or not 0 < odds.sum() < torch.inf
        ):
            raise ValueError(
                describe(
                    self,
                    "p must give odds for each buffer",
                    expected=f"{len(samplers)} numbers, zero or more",
                    found=odds.tolist(),
                )
            )
        self.p = odds / odds.sum()

    def choose(self) -> Tensor:
        """Return the numbers ``[n]`` of the buffers that a sample is made of."""
        if self.sample_from_all:
            return torch.arange(len(self.samplers))
        return torch.multinomial(
            self.p, self.num_buffer_sampled, replacement=True, generator=self.generator
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the odds and the state of the generator; samplers belong to their buffers."""
        generator = None if self.generator is None else self.generator.get_state()
        return {"p": self.p.clone(), "generator": generator}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on choosing where the ensemble stood whose :meth:`state_dict` this is."""
        self.p = state_dict["p"].clone()
        if state_dict["generator"] is not None:
            generator = self.generator or torch.Generator()
            self.generator = generator.set_state(state_dict["generator"])
