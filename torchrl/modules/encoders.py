"""Networks that read entries of an environment as their specs describe them: vectors, images, choices.

``*B`` batch dimensions of a call, ``F`` features.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from tensordict import NestedKey
from tensordict.nn import TensorDictModuleBase
from torch import Tensor, nn

from torchrl._core.errors import SpecError, describe, nearest
from torchrl._core.keys import as_keys, next_key, sibling
from torchrl._core.records.torch_private import call_in_turn
from torchrl.data import Categorical, Composite, NonTensor, OneHot, TensorSpec
from torchrl.data.tensor_specs import MultiCategorical, MultiOneHot
from torchrl.modules.distributions.discrete import one_hot
from torchrl.modules.models.conv import ConvNet
from torchrl.modules.models.layers import ACTIVATIONS, Layers, init_weights
from torchrl.modules.tensordict_module.common import SafeModule
from torchrl.modules.tensordict_module.rnn import GRUModule, LSTMModule
from torchrl.modules.tensordict_module.sequence import SafeSequential

Activation = str | Callable[..., nn.Module]
Cells = Sequence[int] | None
Device = torch.device | str | None
Keys = Sequence[NestedKey] | NestedKey | None
_RECURRENT: dict[str, type] = {"lstm": LSTMModule, "gru": GRUModule}
# Entries that transforms write for losses and for statistics, not for the policy.
NOT_OBSERVED = ("action_mask", "end-of-life", "episode_reward", "is_init", "lives", "step_count")
STATE_NAME = "recurrent_state"  # in the names of states that recurrent modules keep
_ATARI_SIDE = 36  # pixels that the kernels of the network of Mnih et al. need


class ToFloat(nn.Module):
    """Make floats of numbers of any dtype.

    Args:
        divisor: What to divide by, such as 255 for bytes.

    >>> ToFloat(255)(torch.tensor([0, 255], dtype=torch.uint8))
    tensor([0., 1.])
    """

    def __init__(self, divisor: float = 1.0) -> None:
        super().__init__()
        self.divisor = divisor

    def forward(self, value: Tensor) -> Tensor:
        dtype = torch.get_default_dtype()
        value = value if value.dtype == dtype else value.to(dtype)
        return value if self.divisor == 1.0 else value / self.divisor

    def extra_repr(self) -> str:
        return f"divisor={self.divisor}"


class Flat(nn.Module):
    """Make a vector of an entry.

    Args:
        ndim: Number of dimensions of the entry, without those of the batch.

    >>> Flat(2)(torch.ones(5, 2, 3)).shape, Flat(0)(torch.ones(5)).shape
    (torch.Size([5, 6]), torch.Size([5, 1]))
    """

    def __init__(self, ndim: int) -> None:
        super().__init__()
        self.ndim = ndim

    def forward(self, value: Tensor) -> Tensor:
        return value.flatten(-self.ndim) if self.ndim else value.unsqueeze(-1)

    def extra_repr(self) -> str:
        return f"ndim={self.ndim}"


class ChannelsFirst(nn.Module):
    """Move the channels of images before their height and width.

    Args:
        ndim: 3 for ``[H, W, C]``, 2 for images ``[H, W]`` without channels.

    >>> ChannelsFirst()(torch.zeros(5, 84, 84, 3)).shape
    torch.Size([5, 3, 84, 84])
    """

    def __init__(self, ndim: int = 3) -> None:
        super().__init__()
        self.ndim = ndim

    def forward(self, value: Tensor) -> Tensor:
        return value.movedim(-1, -3) if self.ndim == 3 else value.unsqueeze(-3)

    def extra_repr(self) -> str:
        return f"ndim={self.ndim}"


class OneHotEncoder(nn.Module):
    """Make one-hot vectors of numbers, side by side.

    Args:
        nvec: Number of values of each number ``[G]``; 0 to ``nvec[i] - 1``.
        ndim: Number of dimensions of the entry, without those of the batch.

    >>> OneHotEncoder([2, 3])(torch.tensor([1, 0]))
    tensor([0., 1., 1., 0., 0.])
    """

    offsets: Tensor

    def __init__(self, nvec: Sequence[int], ndim: int = 1, device: Device = None) -> None:
        super().__init__()
        counts = torch.tensor(list(nvec), device=device)
        self.ndim, self.num_features = ndim, sum(nvec)
        self.register_buffer("offsets", counts.cumsum(0) - counts, persistent=False)

    def forward(self, value: Tensor) -> Tensor:
        index = value.long()
        index = index.unsqueeze(-1) if self.ndim == 0 else index.flatten(-self.ndim)  # [*B, G]
        dtype = torch.get_default_dtype()
        if index.shape[-1] == 1:
            return one_hot(index, self.num_features, dtype)
        zeros = torch.zeros((*index.shape[:-1], self.num_features), dtype=dtype, device=index.device)
        return zeros.scatter(-1, index + self.offsets, 1)

    def extra_repr(self) -> str:
        return f"num_features={self.num_features}"


class Joined(nn.Module):
    """Encode several entries, concatenate the results and call layers.

    Args:
        encoders: One for each entry, each with an output ``[*B, F_i]``.
        layers: Called with the concatenated outputs ``[*B, F]``.

    >>> net = Joined([ToFloat(), OneHotEncoder([4], 0)], nn.Linear(7, 2))
    >>> net(torch.zeros(5, 3), torch.zeros(5, dtype=torch.int64)).shape
    torch.Size([5, 2])
    """

    def __init__(self, encoders: Iterable[nn.Module], layers: nn.Module) -> None:
        super().__init__()
        self.encoders, self.layers = nn.ModuleList(encoders), layers

    def forward(self, *entries: Tensor) -> Tensor:
        """Return what the layers return."""
        pairs = zip(self.encoders, entries, strict=True)
        parts = [call_in_turn((encoder,), entry) for encoder, entry in pairs]
        return call_in_turn((self.layers,), parts[0] if len(parts) == 1 else torch.cat(parts, -1))


def encoder_of(spec: TensorSpec, device: Device = None) -> tuple[nn.Module, int, int | None]:
    """Return a network from an entry to a vector, the size of the vector, and that of the layer after an image.

    Args:
        spec: Spec of the entry, without batch dimensions.
        device: Where parameters live.

    Raises:
        SpecError: if the number of categories is not known.

    A number among ``n`` becomes one-hot. Bytes are divided by 255. Three dimensions, or two of bytes, are an
    image, whose channels are the smaller of its first and last dimension: from 36 pixels on each side it goes
    through the convolutions of Mnih et al., 2015, https://doi.org/10.1038/nature14236, which are followed by 512
    units; a smaller one through that of Young and Tian, 2019, https://arxiv.org/abs/1903.03176, with 16 kernels of
    3 x 3, followed by 128 units. Other entries are flattened and have no such layer.

    >>> from torchrl.data import Unbounded
    >>> encoder_of(Categorical(5))[1:], encoder_of(Unbounded((2, 3)))[1:]
    ((5, None), (6, None))
    >>> encoder_of(Unbounded((84, 84, 4), dtype=torch.uint8))[1:]
    (3136, 512)
    """
    shape, ndim = spec.shape, len(spec.shape)
    if isinstance(spec, MultiCategorical):
        return OneHotEncoder(spec.counts, ndim, device), sum(spec.counts), None
    if isinstance(spec, Categorical) and spec.dtype is not torch.bool:
        if spec.space.n < 1:
            raise SpecError(describe("encoder_of", "needs the number of categories", found=spec.space.n))
        counts = [spec.space.n] * math.prod(shape)
        return OneHotEncoder(counts, ndim, device), sum(counts), None
    if ndim == 1 and spec.dtype == torch.get_default_dtype():
        return nn.Identity(), shape[0], None
    is_bytes = spec.dtype is torch.uint8
    to_float = ToFloat(255.0 if is_bytes else 1.0)
    is_image = ndim == 3 or (ndim == 2 and is_bytes)
    is_last = ndim == 3 and shape[-1] < shape[0]
    sides = [*(shape[:2] if is_last or ndim == 2 else shape[-2:])] if is_image else [0]
    if min(sides) < 3:
        return Layers(to_float, Flat(ndim)), math.prod(shape), None
    channels = 1 if ndim == 2 else shape[-1 if is_last else 0]
    is_small = min(sides) < _ATARI_SIDE
    cells, kernels, strides = ([16], [3], [1]) if is_small else ([32, 64, 64], [8, 4, 3], [4, 2, 1])
    net = ConvNet(
        channels, num_cells=cells, kernel_sizes=kernels, strides=strides, activation_class=nn.ReLU, device=device
    )
    for kernel, stride in zip(kernels, strides, strict=True):
        sides = [(side - kernel) // stride + 1 for side in sides]
    order = [ChannelsFirst(ndim)] if is_last or ndim == 2 else []
    return Layers(to_float, *order, net), cells[-1] * math.prod(sides), 128 if is_small else 512


def joined(encoders: list[nn.Module], layers: nn.Module) -> nn.Module:
    """Return one network of all entries: ``layers`` alone where there is nothing to encode."""
    return layers if len(encoders) == 1 and isinstance(encoders[0], nn.Identity) else Joined(encoders, layers)


# --- specs of an environment -------------------------------------------------------------------


def unbatched(env: object, name: str) -> TensorSpec:
    """Return a spec of an environment without its batch dimensions.

    Raises:
        TypeError: if the object has no such spec.
    """
    spec = getattr(env, f"{name}_unbatched", None)
    spec = getattr(env, name, None) if spec is None else spec
    if not isinstance(spec, TensorSpec):
        raise TypeError(
            describe(
                "builders of networks",
                f"need an environment with {name}",
                found=type(env).__name__,
                hint="Give an EnvBase, such as GymEnv(name).",
            )
        )
    return spec


def leaf_of(spec: TensorSpec, key: NestedKey, owner: str) -> TensorSpec:
    """Return the spec of an entry.

    Raises:
        SpecError: if there is none, if it has no fixed shape, or if several agents share the entry.
    """
    if not isinstance(spec, Composite):
        return spec
    leaf = spec.get(key, None)
    if not isinstance(leaf, TensorSpec) or isinstance(leaf, Composite | NonTensor):
        raise SpecError(
            describe(
                owner, "has no spec of a tensor", key=key, expected=f"one of {sorted(spec.keys(True, True), key=str)}"
            )
        )
    if any(size < 0 for size in leaf.shape):
        raise SpecError(describe(owner, "varies in shape", key=key, found=list(leaf.shape)))
    group = spec.get(key[:-1], None) if isinstance(key, tuple) and len(key) > 1 else None
    if isinstance(group, Composite) and group.shape:
        raise SpecError(
            describe(
                owner,
                "belongs to several agents",
                key=key,
                expected="an entry of one agent",
                found=f"a group of shape {list(group.shape)}",
                hint="Build the networks of agents with MultiAgentMLP.",
            )
        )
    return leaf


def observed_keys(spec: TensorSpec, owner: str) -> list[NestedKey]:
    """Return the entries that a policy reads, sorted: tensors that are neither masks, statistics nor states.

    Raises:
        SpecError: if there are none.

    >>> from torchrl.data import Unbounded
    >>> entries = {"position": Unbounded(2), "image": Unbounded((3, 64, 64)), "step_count": Unbounded(1)}
    >>> observed_keys(Composite(entries), "make_actor")
    ['image', 'position']
    """
    assert isinstance(spec, Composite)
    found = []
    for key in spec.keys(True, True):
        name = str(key if isinstance(key, str) else key[-1])
        leaf = spec.get(key)
        is_tensor = isinstance(leaf, TensorSpec) and not isinstance(leaf, NonTensor) and not name.startswith("_")
        if is_tensor and name not in NOT_OBSERVED and STATE_NAME not in name:
            found.append(key)
    if not found:
        raise SpecError(
            describe(owner, "finds no observation", found=sorted(spec.keys(True, True), key=str), hint="Give in_keys.")
        )
    return sorted(found, key=lambda key: (key,) if isinstance(key, str) else key)


@dataclass
class Problem:
    """What an environment asks of a network.

    Args:
        owner: Name of the builder, for errors.
        env: The environment.
        in_keys: Observations that are read; all of them if ``None``.
        action_key: The action; the only one if ``None``.
        device: Where parameters live; where the environment is if ``None``.
    """

    owner: str
    env: Any
    in_keys: Keys
    action_key: NestedKey | None
    device: Device
    observations: dict[NestedKey, TensorSpec] = field(init=False)
    action_spec: TensorSpec = field(init=False)

    def __post_init__(self) -> None:
        spec = unbatched(self.env, "observation_spec")
        keys = observed_keys(spec, self.owner) if self.in_keys is None else as_keys(self.in_keys)
        self.observations = {key: leaf_of(spec, key, self.owner) for key in keys}
        if self.action_key is None:
            self.action_key = self.env.action_key
        # The specs of a group tell whether it is one of several agents.
        full = getattr(self.env, "full_action_spec_unbatched", None)
        full = unbatched(self.env, "action_spec") if full is None else full
        assert self.action_key is not None
        self.action_spec = leaf_of(full, self.action_key, self.owner)
        if self.device is None:
            self.device = getattr(self.env, "device", None)

    @property
    def mask_key(self) -> NestedKey | None:
        """The entry with the mask of a discrete action, beside the action or at the root."""
        spec = unbatched(self.env, "observation_spec")
        assert isinstance(spec, Composite)
        assert self.action_key is not None
        if not isinstance(self.action_spec, Categorical | OneHot | MultiCategorical | MultiOneHot):
            return None
        names = (sibling(self.action_key, "action_mask"), "action_mask")
        return next((name for name in names if spec.get(name, None) is not None), None)

    @property
    def mask_shape(self) -> torch.Size:
        """The shape of the mask; none without a mask."""
        spec = unbatched(self.env, "observation_spec")
        return torch.Size() if self.mask_key is None else leaf_of(spec, self.mask_key, self.owner).shape

    def misfit(self, expected: str, hint: str = "") -> SpecError:
        """Return the error of an action space that does not fit."""
        return SpecError(
            describe(
                self.owner,
                "does not fit this action space",
                key=self.action_key,
                expected=expected,
                found=f"{type(self.action_spec).__name__} of shape {list(self.action_spec.shape)}",
                hint=hint,
            )
        )


# --- networks ----------------------------------------------------------------------------------


@dataclass
class Body:
    """Layers between the inputs of a network and its output.

    Args:
        owner: Name of the builder, for errors.
        inputs: Entries that are read, with their specs.
        num_cells: Width of each hidden layer; ``None`` for (64, 64), after images that of their paper.
        activation: Name or class of the activation.
        device: Where parameters live.
        recurrent: ``"lstm"``, ``"gru"`` or ``None``.
        hidden_size: Size of the recurrent state.
        prefix: First part of the names of states, and of entries between the parts of a recurrent network.
        linear: Class of the linear layers.
        norm: Layer before each activation, of its width.
        batch_norm: Layer before the first linear one and after each activation, of its width.
    """

    owner: str
    inputs: dict[NestedKey, TensorSpec]
    num_cells: Cells
    activation: Activation
    device: Device
    recurrent: str | None = None
    hidden_size: int = 64
    prefix: str = ""
    linear: Callable[..., nn.Module] = nn.Linear
    norm: Callable[..., nn.Module] | None = None
    batch_norm: Callable[..., nn.Module] | None = None
    encoders: list[nn.Module] = field(init=False)
    width: int = field(init=False)
    cells: list[int] = field(init=False)

    def __post_init__(self) -> None:
        if isinstance(self.activation, str):
            if self.activation not in ACTIVATIONS:
                hint = nearest(self.activation, ACTIVATIONS)
                raise ValueError(
                    describe(
                        self.owner,
                        "has no such activation",
                        expected=f"one of {list(ACTIVATIONS)}, or a class",
                        found=self.activation,
                        hint=hint,
                    )
                )
            self.activation = ACTIVATIONS[self.activation]
        if self.recurrent not in (None, *_RECURRENT):
            raise ValueError(
                describe(
                    self.owner,
                    "has no such recurrent layer",
                    expected=f"one of {[*_RECURRENT, None]}",
                    found=self.recurrent,
                )
            )
        found = [encoder_of(spec, self.device) for spec in self.inputs.values()]
        self.encoders = [encoder for encoder, _, _ in found]
        self.width = sum(width for _, width, _ in found)
        after_images = [width for *_, width in found if width is not None]
        if self.num_cells is None:
            self.cells = [max(after_images)] if after_images else [64, 64]
        else:
            self.cells = list(self.num_cells)

    def layers(self, widths: Sequence[int], width: int) -> list[nn.Module]:
        """Return hidden layers.

        Args:
            widths: Width of each.
            width: That of their input.
        """
        layers: list[nn.Module] = []
        if self.batch_norm is not None:
            layers.append(self.batch_norm(width).to(self.device))
        for cells in widths:
            layers.append(self.linear(width, cells, device=self.device))
            if self.norm is not None:
                layers.append(self.norm(cells).to(self.device))
            assert not isinstance(self.activation, str)
            layers.append(self.activation())
            if self.batch_norm is not None:
                layers.append(self.batch_norm(cells).to(self.device))
            width = cells
        return layers

    def build(
        self,
        head: Callable[[int], list[nn.Module]],
        out_keys: list[NestedKey],
        kind: Callable[..., TensorDictModuleBase] = SafeModule,
    ) -> TensorDictModuleBase:
        """Return the network.

        Args:
            head: From the width of the last hidden layer to the last layers.
            out_keys: Entries of the output.
            kind: Class of the module, where it is one.
        """
        keys = list(self.inputs)
        last = self.cells[-1] if self.cells else self.width
        hidden = self.layers(self.cells, self.width)
        if self.recurrent is None:
            return kind(joined(self.encoders, Layers(*hidden, *head(last))), keys, out_keys)
        rnn = _RECURRENT[self.recurrent]
        features, memory = f"_{self.prefix}features", f"_{self.prefix}memory"
        states: list[NestedKey] = [self.prefix + name for name in rnn.state_names]  # type: ignore[attr-defined]
        return SafeSequential(
            SafeModule(joined(self.encoders, Layers(*hidden)), keys, [features]),
            rnn(
                last,
                self.hidden_size,
                in_keys=[features, *states, "is_init"],
                out_keys=[memory, *map(next_key, states)],
                device=self.device,
            ),
            SafeModule(Layers(*head(self.hidden_size)), [memory], out_keys),
        )


def initialize(net: nn.Module, gain: float | None, last_gain: float) -> None:
    """Initialise layers orthogonally, those of a recurrent network with gain 1, unless ``gain`` is ``None``."""
    if gain is None:
        return
    init_weights(net, gain, last_gain)
    for part in net.modules():
        if isinstance(part, nn.RNNBase):
            for name, weight in part.named_parameters():
                nn.init.constant_(weight, 0.0) if "bias" in name else nn.init.orthogonal_(weight)
