"""Agents as one function of tensors, for ONNX and :mod:`torch.export`."""

from __future__ import annotations

import copy
import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tensordict import NestedKey, TensorDict
from torch import Tensor, nn

from torchrl._core.errors import describe
from torchrl._core.exploration import ExplorationType, set_exploration_type
from torchrl._core.optional import require_package
from torchrl.data import OneHot
from torchrl.data.tensor_specs import MultiOneHot
from torchrl.modules.tensordict_module.probabilistic import SafeProbabilisticModule
from torchrl.modules.tensordict_module.rnn import RecurrentModule

if TYPE_CHECKING:
    from torchrl.trainers.agent import Agent

FORMATS = {"onnx": ".onnx", "torch": ".pt2"}


class AgentFunction(nn.Module):
    """The deterministic policy of an agent, with its normalisation: observations in, actions out.

    Inputs: a tensor ``[N, *S]`` for each observation of the task, in the order of ``input_names``, in its own
    dtype; for a policy with memory, ``is_init [N, 1]``, true at first steps of episodes, its state ``[N, *H]`` and, if
    it is told the return to reach, ``last_reward [N, 1]``. Outputs: the action ``[N, *A]``, for one-hot actions the
    numbers of the categories, then the next state, without the reward.

    Args:
        agent: The agent.

    Attributes:
        input_names: Names of the inputs.
        output_names: Names of the outputs.

    >>> import torchrl
    >>> agent = torchrl.train("dqn", "CartPole-v1", total_frames=512, log_dir="", progress_bar=False)
    >>> AgentFunction(agent)(torch.zeros(3, 4))[0].shape
    torch.Size([3])
    """

    def __init__(self, agent: Agent) -> None:
        super().__init__()
        self.policy, self.transforms = copy.deepcopy(agent.policy), agent.transforms
        for module in list(self.policy.modules()):
            if isinstance(module, RecurrentModule):
                module.make_python_based()  # fused layers cannot be exported for any batch size
            elif isinstance(module, SafeProbabilisticModule):
                module.return_log_prob = False
        self.policy.requires_grad_(False)  # outputs of programs can be converted to numpy
        self.action_key, self.action_spec = agent.specs.action_key, agent.specs.action_spec
        self.state_keys: list[NestedKey] = [] if agent.state_spec is None else list(agent.state_spec.keys(True, True))
        self.memory_keys = agent.memory_keys
        memory: list[NestedKey] = ["is_init", *self.state_keys] if self.state_keys else []
        self.keys = [*agent.observation_keys, *memory]
        self.input_names = [_name(key) for key in self.keys]
        self.output_names = [_name(self.action_key), *(f"next_{_name(key)}" for key in self.memory_keys)]

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the action and the next state."""
        batch = inputs[0].shape[:1]
        record = TensorDict(dict(zip(self.keys, inputs, strict=True)), batch)
        with set_exploration_type(ExplorationType.DETERMINISTIC):
            record = self.policy(self.transforms(record))
        action, spec = record[self.action_key], self.action_spec
        if isinstance(spec, OneHot):
            action = action.to(torch.uint8).argmax(-1)
        elif isinstance(spec, MultiOneHot):
            parts = action.to(torch.uint8).split(spec.counts, -1)
            action = torch.stack([part.argmax(-1) for part in parts], -1)
        after = record.get("next", None)
        return (action, *(after.get(key) for key in self.memory_keys))


def _name(key: NestedKey) -> str:
    return key if isinstance(key, str) else "_".join(map(str, key))


def export(agent: Agent, format: str, path: str | Path) -> Path:
    """Write an agent as a program; see :meth:`~torchrl.trainers.Agent.export`."""
    if format not in FORMATS:
        raise ValueError(describe(agent, "has no such format", expected=list(FORMATS), found=format))
    path = Path(path) if Path(path).suffix else Path(path).with_suffix(FORMATS[format])
    path.parent.mkdir(parents=True, exist_ok=True)
    function = AgentFunction(agent).to("cpu").eval()
    example = [agent.specs.raw[key].zero((2,)).cpu() for key in agent.observation_keys]
    if agent.state_spec is not None:
        states = agent.state_spec.zero((2,)).cpu()
        example += [torch.ones(2, 1, dtype=torch.bool), *(states[key] for key in function.state_keys)]
    batch: Any = torch.export.Dim("batch")
    shapes = (tuple({0: batch} for _ in example),)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of what torch itself does
        program = torch.export.export(function, tuple(example), dynamic_shapes=shapes, strict=False)
        if format == "torch":
            with path.open("wb") as file:  # torch raises RuntimeError for a path that it cannot write to
                torch.export.save(program, file)
            return path
        for package in ("onnx", "onnxscript"):
            require_package(package, needed_by="Agent.export", extra="export")
        names: dict[str, Any] = {"input_names": function.input_names, "output_names": function.output_names}
        log = logging.getLogger("torch.onnx._internal.exporter._registration")
        level = log.level
        log.setLevel(logging.ERROR)  # it warns that there is no torchvision, which agents do not need
        try:
            torch.onnx.export(program, f=path, verbose=False, external_data=False, **names)
        finally:
            log.setLevel(level)
    return path
