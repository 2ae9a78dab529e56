"""Units that are zero for every input: their share, and a hook that logs it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from tensordict import TensorDictBase
from torch import Tensor, nn

from torchrl._core.errors import describe
from torchrl._core.exploration import set_exploration_type
from torchrl.trainers.hooks.base import TrainerHookBase

NO_UNITS = (nn.MultiheadAttention, nn.Softmax, nn.Softmax2d, nn.LogSoftmax, nn.Softmin)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def is_activation(module: nn.Module) -> bool:
    """Return whether a module is one of torch's activation functions.

    >>> is_activation(nn.ReLU()), is_activation(nn.Linear(1, 1)), is_activation(nn.Softmax(-1))
    (True, False, False)
    """
    return type(module).__module__ == "torch.nn.modules.activation" and not isinstance(module, NO_UNITS)


@torch.no_grad()
def dead_units(module: nn.Module, inputs: Tensor | TensorDictBase, tau: float = 0.0) -> float:
    """Return the share of hidden units that are dead: zero for every row of a batch.

    Units are the outputs of the activation functions among the modules: the last dimension, after a
    convolution the channels. A unit is dead if the mean of its absolute values, over that of all units of
    its layer, is at most ``tau``. The module, its buffers and the batch stay as they are, unless its
    forward pass itself changes them in evaluation mode.

    Args:
        module: A network, or a module that reads a tensordict, such as an actor.
        inputs: A batch of inputs ``[*B, ...]``, or a tensordict ``[*B]`` with its entries.
        tau: Largest score of a dead unit; 0.025 and 0.1 are those of the source for dormant ones.

    Raises:
        ValueError: if no activation function ran.

    Source: Sokar et al., 2023, https://arxiv.org/abs/2302.12902, definition 3.1.

    >>> layer = nn.Linear(1, 2)
    >>> _ = nn.init.constant_(layer.weight, 1.0), nn.init.zeros_(layer.bias)
    >>> layer.weight.data[0] = -1.0
    >>> dead_units(nn.Sequential(layer, nn.ReLU()), torch.tensor([[1.0], [2.0]]))
    0.5
    """
    scores: list[Tensor] = []  # of each layer [units]
    channels: list[int] = [-1]  # dimension of the units in the output of the last layer

    def note_layer(layer: nn.Module, args: object, output: object) -> None:
        channels[0] = -len(layer.kernel_size) - 1 if isinstance(layer, CONVOLUTIONS) else -1

    def note_units(layer: nn.Module, args: object, output: Tensor) -> None:
        at = channels[0] if output.ndim >= -channels[0] else -1
        sizes = output.movedim(at, -1).abs().float().flatten(0, -2).mean(0)  # [units]
        scores.append(sizes / sizes.mean().clamp_min(1e-12))

    handles = []
    for part in module.modules():
        if is_activation(part):
            handles.append(part.register_forward_hook(note_units))
        elif isinstance(part, (*CONVOLUTIONS, nn.Linear)):
            handles.append(part.register_forward_hook(note_layer))
    modes = [(part, part.training) for part in module.modules()]
    try:
        for part, _ in modes:
            part.training = False
        with set_exploration_type("deterministic"):
            module(inputs.copy() if isinstance(inputs, TensorDictBase) else inputs)
    finally:
        for part, mode in modes:
            part.training = mode
        for handle in handles:
            handle.remove()
    if not scores:
        hint = "Activation functions must be modules, such as nn.ReLU(), to be seen."
        raise ValueError(describe("dead_units", f"no activation function of {type(module).__name__} ran", hint=hint))
    return float((torch.cat(scores) <= tau).float().mean())


class LogDeadUnits(TrainerHookBase):
    """Log the share of dead units of a network on a sample, as ``dead_units``; see :func:`dead_units`.

    Args:
        module: The network, such as the actor or a critic of the loss.
        interval: Optimisation steps from one time to the next.
        logname: Name in the log.
        tau: Largest score of a dead unit.
        inputs: Returns the input of the module for a sample; the sample itself by default.

    Raises:
        ValueError: if ``interval`` is less than one.

    >>> from tensordict import TensorDict
    >>> from tensordict.nn import TensorDictModule
    >>> network = TensorDictModule(nn.Sequential(nn.Linear(3, 8), nn.Tanh()), ["observation"], ["hidden"])
    >>> LogDeadUnits(network, interval=1)(TensorDict(observation=torch.ones(5, 3), batch_size=[5]))
    {'dead_units': 0.0}
    """

    stage, name, saved = "post_optim_log", "log_dead_units", ("count",)

    def __init__(
        self,
        module: nn.Module,
        interval: int = 100,
        logname: str = "dead_units",
        tau: float = 0.0,
        inputs: Callable[[TensorDictBase], Tensor | TensorDictBase] | None = None,
    ) -> None:
        if interval < 1:
            raise ValueError(describe(self, "counts optimisation steps", expected="interval >= 1", found=interval))
        self.module, self.interval, self.logname, self.tau, self.inputs = module, interval, logname, tau, inputs
        self.count = 0

    def __call__(self, sub_batch: TensorDictBase) -> dict[str, float] | None:
        due = self.count % self.interval == 0
        self.count += 1
        if not due:
            return None
        value = sub_batch if self.inputs is None else self.inputs(sub_batch)
        return {self.logname: dead_units(self.module, value, self.tau)}
