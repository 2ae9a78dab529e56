"""LSTMModule and GRUModule: one step at a time in an environment, whole sequences in a loss.

``*B`` batch, ``T`` time (the last batch dimension), ``F`` input, ``H`` hidden, ``P`` output (``H``
without a projection), ``D`` directions, ``L`` layers of all directions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor, nn

from torchrl._core.devices import check_devices
from torchrl._core.errors import describe
from torchrl._core.keys import as_keys, next_key, require
from torchrl._core.records.flat_record import Record
from torchrl._core.records.policies import explain
from torchrl._core.recurrence import branch_mode, check_precision, matmul_precision, recurrent_mode, set_recurrent_mode
from torchrl.data import Composite, Unbounded
from torchrl.modules.tensordict_module.common import RecordModule
from torchrl.modules.tensordict_module.rnn_cells import (
    GRU,
    LSTM,
    RunLayer,
    State,
    recomputed,
    run_fused,
    run_in_dtype,
    run_layer,
    run_layers,
    stack_layers,
    state_shapes,
)
from torchrl.modules.utils import make_primer

if TYPE_CHECKING:
    from torchrl.envs.transforms import TensorDictPrimer

Device = torch.device | str | None
Key = NestedKey | None
Keys = Sequence[NestedKey] | None
States = list[Tensor | None]  # None: zeros
BACKENDS = ("auto", "pad", "scan")
RECOMPUTE = ("none", "full")
_ADD_TRACKER = "It is true at first steps of episodes: append InitTracker() to the environment, or write it."


@dataclass(frozen=True)
class SequenceOptions:
    """How a recurrent module runs sequences.

    Args:
        backend: ``"pad"``, ``"scan"`` or ``"auto"``; see :class:`LSTMModule`.
        recompute: ``"none"`` or ``"full"``.
        compute_dtype: Dtype of the computation; that of the parameters if ``None``.
        matmul_precision: Of float32 products on a GPU; see :func:`set_recurrent_matmul_precision`.

    Raises:
        ValueError: for an unknown name, or a recomputation without the backend ``"scan"``.
    """

    backend: str
    recompute: str | None
    compute_dtype: torch.dtype | None
    matmul_precision: str | None

    def check(self, owner: object) -> None:
        """Raise ValueError if the options of a module are not possible."""
        named = [("backend", self.backend, BACKENDS), ("recompute", self.recompute or "none", RECOMPUTE)]
        for name, value, known in named:
            if value not in known:
                raise ValueError(describe(owner, f"has no such {name}", expected=list(known), found=value))
        check_precision(owner, self.matmul_precision)
        if self.recompute == "full" and self.backend == "pad":
            hint = "Pass recurrent_backend='scan'."
            raise ValueError(describe(owner, "cannot recompute the fused kernel of the backend 'pad'", hint=hint))

    @property
    def scans(self) -> bool:
        """Whether sequences run step by step, in plain torch."""
        return self.backend == "scan" or self.recompute == "full"


class RecurrentModule(RecordModule):
    """Base class of recurrent modules: keys, modes, restarts.

    Hooks:
        kind: ``"LSTM"`` or ``"GRU"``.
        state_names: Default names of the state entries.
        fused_class, plain_class: The networks.
    """

    kind: ClassVar[str]
    state_names: ClassVar[tuple[str, ...]]
    fused_class: ClassVar[type[nn.RNNBase]]
    plain_class: ClassVar[type[nn.RNNBase]]

    def __init__(
        self,
        rnn: nn.RNNBase | None,
        sizes: dict[str, Any],
        python_based: bool,
        options: SequenceOptions,
        keys: tuple[Key, Keys, Key, Keys],
        default_recurrent_mode: bool | str | None,
    ) -> None:
        super().__init__()
        name = self.kind.lower()
        if rnn is None:
            rnn_class = self.plain_class if python_based else self.fused_class
            missing = [k for k in ("input_size", "hidden_size") if sizes[k] is None]
            if missing:
                raise ValueError(describe(self, f"needs {missing}", hint=f"Or give {name}=..."))
            rnn = rnn_class(**sizes)
        if not rnn.batch_first:
            raise ValueError(describe(self, f"cannot run this {name}", expected="batch_first", found=rnn))
        options.check(self)
        self.add_module(name, rnn)
        self.options = options
        self.default_recurrent_mode = set_recurrent_mode(default_recurrent_mode or False).mode
        self._set_keys(*keys)

    @property
    def recurrent_backend(self) -> str:
        """How a fused network runs sequences."""
        return self.options.backend

    def _set_keys(self, in_key: Key, in_keys: Keys, out_key: Key, out_keys: Keys) -> None:
        if (in_key is None) == (in_keys is None) or (out_key is None) == (out_keys is None):
            raise ValueError(
                describe(
                    self,
                    "needs one of in_key and in_keys, and one of out_key and out_keys",
                    hint=f"in_keys are [input, {', '.join(self.state_names)}, is_init].",
                )
            )
        for name, keys in (("in_keys", in_keys), ("out_keys", out_keys)):
            if isinstance(keys, str):
                raise TypeError(
                    describe(self, f"takes a list of {name}", found=repr(keys), hint=f"Or give {name[:-1]}.")
                )
        count = len(self.state_names)
        reads = [*as_keys(in_key), *self.state_names] if in_keys is None else as_keys(in_keys)
        if len(reads) == count + 1:
            reads.append("is_init")
        names = [next_key(name) for name in self.state_names]
        writes = [*as_keys(out_key), *names] if out_keys is None else as_keys(out_keys)
        if len(reads) != count + 2 or len(writes) != count + 1:
            raise ValueError(
                describe(
                    self,
                    "reads the input, its state and is_init, and writes the output and its state",
                    expected=(count + 2, count + 1),
                    found=(len(reads), len(writes)),
                )
            )
        self.in_keys, self.out_keys = reads, writes

    @property
    def init_key(self) -> NestedKey:
        """The flag of first steps of episodes."""
        return self.in_keys[-1]

    @property
    def rnn(self) -> Any:
        """The network."""
        return self._modules[self.kind.lower()]  # faster than an attribute

    @property
    def recurrent_mode(self) -> bool:
        """Whether a call takes whole sequences at the moment."""
        mode = recurrent_mode()
        return self.default_recurrent_mode if mode is None else mode

    @property
    def takes_branches(self) -> bool:
        """Whether :class:`~torchrl._core.recurrence.branches` is supported, as by all that step."""
        return not self.rnn.bidirectional

    @property
    def state_spec(self) -> Composite:
        """Spec of the state of one environment, which a primer writes at resets."""
        dtype = next(self.rnn.parameters()).dtype
        spec = Composite()
        for key, shape in zip(self.in_keys[1:-1], state_shapes(self.rnn), strict=True):
            spec.set(key, Unbounded(shape, dtype=dtype))
        return spec

    def canonicalize(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Return a tensordict whose entries that this module reads are contiguous; others are the same."""
        return canonicalize_rnn_subset(tensordict, [self])

    def make_tensordict_primer(self) -> TensorDictPrimer:
        """Return the transform that writes the initial state at resets of an environment."""
        return make_primer(self.state_spec)

    def make_python_based(self) -> RecurrentModule:
        """Replace the fused network by one in plain torch, with the same weights; return self."""
        return self._replace(self.plain_class)

    def make_cudnn_based(self) -> RecurrentModule:
        """Replace the network in plain torch by a fused one, with the same weights; return self."""
        return self._replace(self.fused_class)

    def _replace(self, rnn_class: type[nn.RNNBase]) -> RecurrentModule:
        old = self.rnn
        sizes: dict[str, Any] = {"proj_size": old.proj_size} if self.kind == "LSTM" else {}
        new = rnn_class(
            input_size=old.input_size,
            hidden_size=old.hidden_size,
            num_layers=old.num_layers,
            bias=old.bias,
            batch_first=True,
            dropout=old.dropout,
            bidirectional=old.bidirectional,
            **sizes,
        )
        new = new.to(next(old.parameters()))
        new.load_state_dict(old.state_dict())
        self.add_module(self.kind.lower(), new.train(old.training))
        return self

    def _run(self, td: Record) -> None:
        """Advance by one step, or run whole sequences."""
        in_key, *state_keys, init_key = self.in_keys
        x = td.get(in_key)
        if x is None:
            require(td, [in_key], self, "Put what writes it before this module.")
        is_init = td.get(init_key)
        if is_init is None:
            require(td, [init_key], self, _ADD_TRACKER)
        state = [td.get(key) for key in state_keys]
        try:
            out, after = self._advanced(td, x, state, is_init)
        except (RuntimeError, ValueError) as error:
            explained = explain(self, [in_key], [x], td, error)
            if explained is None:
                raise
            raise explained from None
        out_key, *next_keys = self.out_keys_source
        td.set(out_key, out)
        for key, value in zip(next_keys, after, strict=False):
            if key != "_":
                td.set(key, value)

    def _advanced(self, td: Record, x: Tensor, state: States, is_init: Tensor) -> tuple[Tensor, State]:
        """Return the outputs and the next states."""
        if self.recurrent_mode:
            where = branch_mode()
            if where is None:
                return self._sequence(x, state, is_init)
            return self._branches(x, state, is_init, where == "before")
        return self._step(x, self._first_states(td, x) if None in state else state, is_init)

    def _first_states(self, td: Record, x: Tensor) -> list[Tensor | None]:
        """Write zeros for absent states, as a primer does, and return all states.

        The first step of a batch thus has the same entries as all others.
        """
        shapes = zip(self.in_keys[1:-1], state_shapes(self.rnn), strict=True)
        for key, shape in shapes:
            if td.get(key) is None:
                td.set(key, x.new_zeros(*x.shape[:-1], *shape))
        return [td.get(key) for key in self.in_keys[1:-1]]

    def _step(self, x: Tensor, state: States, is_init: Tensor) -> tuple[Tensor, State]:
        """Return output ``[*B, P]`` and states ``[*B, L, P or H]`` after one step."""
        if self.rnn.bidirectional:
            raise ValueError(
                describe(
                    self,
                    "is bidirectional, and a single step has no later inputs",
                    expected="sequences [*B, T, F]",
                    hint="Call it under set_recurrent_mode(), or build it with one direction.",
                )
            )
        batch = x.shape[:-1]
        flat = x.reshape(-1, x.shape[-1])
        states = self._states(state, flat, flat.shape[0])  # len() would fix an exported batch size
        restart = is_init.reshape(-1, 1, 1)
        states = tuple(s.masked_fill(restart, 0.0) for s in states)
        if isinstance(self.rnn, self.plain_class):
            out, histories = run_layers(self.rnn, flat.unsqueeze(1), states)
            after = tuple(s[:, 0] for s in stack_layers(histories))
        else:
            out, after = self._fused_step(flat.unsqueeze(1), states)
        return out.reshape(*batch, -1), tuple(s.reshape(*batch, *s.shape[1:]) for s in after)

    def _fused_step(self, x: Tensor, states: State) -> tuple[Tensor, State]:
        before = tuple(s.transpose(0, 1).contiguous() for s in states)  # [L, B, H]
        out, after = self.rnn(x, before if len(before) > 1 else before[0])
        after = after if isinstance(after, tuple) else (after,)
        return out, tuple(s.transpose(0, 1) for s in after)

    def _branches(self, x: Tensor, state: States, is_init: Tensor, before: bool) -> tuple[Tensor, State]:
        """Run the first half of ``x [*B, 2 T, F]`` as a sequence, and each other row as one step.

        See :class:`~torchrl._core.recurrence.branches`.
        """
        steps = x.shape[-2] // 2
        line, other = x.split(steps, -2)
        restart, restart_other = is_init.reshape(x.shape[:-1]).split(steps, -1)
        given = [None if s is None else s.narrow(-3, 0, steps) for s in state]
        out, after = self._sequence(line, given, restart, keeps=True)
        memory = after
        if before:
            first = (
                torch.zeros_like(late[..., :1, :, :]) if s is None else s[..., :1, :, :]
                for s, late in zip(given, after, strict=True)
            )
            pairs = zip(first, after, strict=True)
            memory = tuple(torch.cat([s, late[..., :-1, :, :]], -3) for s, late in pairs)
        out_other, after_other = self._step(other, list(memory), restart_other)
        both = zip(after, after_other, strict=True)
        return torch.cat([out, out_other], -2), tuple(torch.cat(pair, -3) for pair in both)

    def _sequence(self, x: Tensor, state: States, is_init: Tensor, keeps: bool = False) -> tuple[Tensor, State]:
        """Return output ``[*B, T, D P]`` and states ``[*B, T, L, P or H]`` after each step.

        States that are not written are not computed, unless ``keeps``.
        """
        if x.ndim < 2:
            raise ValueError(
                describe(
                    self,
                    "has no time dimension",
                    key=self.in_keys[0],
                    expected="[*B, T, F] in recurrent mode",
                    found=list(x.shape),
                    hint="Leave set_recurrent_mode() to step.",
                )
            )
        batch = x.shape[:-1]
        flat = x.reshape(-1, *x.shape[-2:])  # [N, T, F]
        first = [None if s is None else s.reshape(*flat.shape[:2], *s.shape[-2:])[:, 0] for s in state]
        states = self._states(first, flat, len(flat))
        restart = is_init.reshape(flat.shape[:2])
        options = self.options
        is_plain = isinstance(self.rnn, self.plain_class) or options.scans
        keeps |= any(key in self.out_keys for key in self.out_keys_source[1:] if key != "_")
        run: RunLayer = run_layer if is_plain else partial(run_fused, with_cells=keeps)
        if options.recompute == "full":
            run = partial(recomputed, run)
        if options.compute_dtype not in (None, flat.dtype):
            run = partial(run_in_dtype, run, options.compute_dtype)
        with matmul_precision(options.matmul_precision, flat.device):
            out, histories = run_layers(self.rnn, flat, states, restart, run)
        after = stack_layers(histories) if keeps else ()
        return out.reshape(*batch, -1), tuple(s.reshape(*batch, *s.shape[2:]) for s in after)

    def _states(self, state: Sequence[Tensor | None], like: Tensor, size: int) -> State:
        """Return states ``[N, L, P or H]``, zeros where there are none."""
        return tuple(
            like.new_zeros(size, *shape) if s is None else s.reshape(size, *shape)
            for s, shape in zip(state, state_shapes(self.rnn), strict=True)
        )


def canonicalize_rnn_subset(tensordict: TensorDictBase, modules: Iterable[nn.Module]) -> TensorDictBase:
    """Return a tensordict whose entries that recurrent modules read are contiguous; others are the same.

    Args:
        tensordict: ``[*B, T]``; it is unchanged. Absent entries are left out.
        modules: The modules, or policies that contain them.

    >>> from tensordict import TensorDict
    >>> gru = GRUModule(3, 4, in_key="observation", out_key="hidden")
    >>> td = TensorDict(observation=torch.zeros(7, 5, 3).transpose(0, 1), batch_size=[5, 7])
    >>> canonicalize_rnn_subset(td, [gru])["observation"].is_contiguous()
    True
    """
    out = tensordict.copy()
    parts = (part for module in modules for part in module.modules() if isinstance(part, RecurrentModule))
    for key in {key for part in parts for key in part.in_keys}:
        value = out.get(key, None)
        if value is not None and not value.is_contiguous():
            out.set(key, value.contiguous())
    return out


class LSTMModule(RecurrentModule):
    """An LSTM that reads and writes its state as entries.

    One step at a time by default; whole sequences under :class:`set_recurrent_mode`. Where
    ``is_init`` is true the state is zero before the step, within a sequence too, so that both
    results agree. The cell states within a sequence have no gradient where the network is fused,
    and cost as much as the outputs: ``module.select_out_keys("hidden")`` avoids this cost in a loss
    that needs the outputs alone.

    Args:
        input_size: ``F``.
        hidden_size: ``H``.
        num_layers: ``L``.
        bias: Whether there are biases.
        batch_first: Must be true: the batch is the first dimension of entries.
        dropout: Probability of dropping an output between layers, in training.
        proj_size: Size ``P`` of the output; ``H``, without a projection, if 0.
        bidirectional: Run a second set of layers backwards, over whole sequences only; the output
            has both.
        python_based: Run the LSTM in plain torch, which compiles and vectorises.
        recurrent_backend: How a fused network runs sequences: ``"pad"`` inserts a step before each
            restart that sets the state to zero, in one call; ``"scan"`` runs them step by step in
            plain torch; ``"auto"`` is ``"pad"``, or ``"scan"`` for a recomputation.
        recurrent_recompute: ``"full"`` computes the intermediate results of a sequence again for its
            gradient, rather than keeping them; not with ``"pad"``. ``"none"`` by default.
        recurrent_compute_dtype: Dtype in which sequences are computed; that of the parameters if ``None``.
        recurrent_matmul_precision: Of float32 products in sequences on a GPU: see
            :func:`set_recurrent_matmul_precision`, whose value is taken if ``None``.
        in_key: The input; the other entries have their default names.
        in_keys: The input, both states and, if it is not ``is_init``, that flag.
        out_key: The output; the other entries have their default names.
        out_keys: The output and both states.
        device: Where the parameters live.
        lstm: A :class:`torch.nn.LSTM` or :class:`LSTM` to use, instead of sizes.
        default_recurrent_mode: Whether to take sequences where no mode is set.

    Reads: input ``[*B, F]``, ``recurrent_state_h [*B, L, P]``, ``recurrent_state_c [*B, L, H]``
    (zeros if absent), ``is_init [*B, 1]``.
    Writes: output ``[*B, D P]``, and both states under ``"next"``; states of zeros where a step
    finds none.

    Raises:
        MissingKeyError: at a call, if the input or ``is_init`` is absent.
        ValueError: if sizes or keys are missing, or the LSTM is not batch first.

    >>> from tensordict import TensorDict
    >>> module = LSTMModule(3, 4, in_key="observation", out_key="hidden")
    >>> td = module(TensorDict(observation=torch.zeros(5, 3), is_init=torch.ones(5, 1).bool()))
    >>> td["hidden"].shape, td["next", "recurrent_state_h"].shape
    (torch.Size([5, 4]), torch.Size([5, 1, 4]))
    """

    supports_flat_records = True
    kind = "LSTM"
    state_names = ("recurrent_state_h", "recurrent_state_c")
    fused_class, plain_class = nn.LSTM, LSTM

    def __init__(
        self,
        input_size: int | None = None,
        hidden_size: int | None = None,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = True,
        dropout: float = 0.0,
        proj_size: int = 0,
        bidirectional: bool = False,
        python_based: bool = False,
        recurrent_backend: str = "pad",
        *,
        recurrent_recompute: str | None = None,
        recurrent_compute_dtype: torch.dtype | None = None,
        recurrent_matmul_precision: str | None = None,
        in_key: NestedKey | None = None,
        in_keys: Sequence[NestedKey] | None = None,
        out_key: NestedKey | None = None,
        out_keys: Sequence[NestedKey] | None = None,
        device: Device = None,
        lstm: nn.RNNBase | None = None,
        default_recurrent_mode: bool | str | None = None,
    ) -> None:
        check_devices(self, device=device)
        sizes = {
            "input_size": input_size,
            "hidden_size": hidden_size,
            "num_layers": num_layers,
            "bias": bias,
            "batch_first": batch_first,
            "dropout": dropout,
            "proj_size": proj_size,
            "bidirectional": bidirectional,
            "device": device,
        }
        keys = (in_key, in_keys, out_key, out_keys)
        options = SequenceOptions(
            recurrent_backend, recurrent_recompute, recurrent_compute_dtype, recurrent_matmul_precision
        )
        super().__init__(lstm, sizes, python_based, options, keys, default_recurrent_mode)


class GRUModule(RecurrentModule):
    """A GRU that reads and writes its state as an entry; see :class:`LSTMModule`.

    Args:
        input_size: ``F``.
        hidden_size: ``H``.
        num_layers: ``L``.
        bias: Whether there are biases.
        batch_first: Must be true: the batch is the first dimension of entries.
        dropout: Probability of dropping an output between layers, in training.
        bidirectional: Run a second set of layers backwards, over whole sequences only; the output
            has both.
        python_based: Run the GRU in plain torch, which compiles and vectorises.
        recurrent_backend: See :class:`LSTMModule`, as for the other options of sequences.
        recurrent_recompute: ``"none"`` or ``"full"``.
        recurrent_compute_dtype: Dtype in which sequences are computed.
        recurrent_matmul_precision: Precision of products on a GPU.
        in_key: The input; the other entries have their default names.
        in_keys: The input, the state and, if it is not ``is_init``, that flag.
        out_key: The output; the state has its default name.
        out_keys: The output and the state.
        device: Where the parameters live.
        gru: A :class:`torch.nn.GRU` or :class:`GRU` to use, instead of sizes.
        default_recurrent_mode: Whether to take sequences where no mode is set.

    Reads: input ``[*B, F]``, ``recurrent_state [*B, L, H]`` (zeros if absent), ``is_init [*B, 1]``.
    Writes: output ``[*B, D H]``, and the state under ``"next"``; a state of zeros where a step
    finds none.

    Raises:
        MissingKeyError: at a call, if the input or ``is_init`` is absent.
        ValueError: if sizes or keys are missing, or the GRU is not batch first.

    >>> from tensordict import TensorDict
    >>> module = GRUModule(3, 4, in_key="observation", out_key="hidden")
    >>> td = TensorDict(observation=torch.zeros(5, 7, 3), is_init=torch.zeros(5, 7, 1).bool())
    >>> with set_recurrent_mode():
    ...     module(td)["hidden"].shape
    torch.Size([5, 7, 4])
    """

    supports_flat_records = True
    kind = "GRU"
    state_names = ("recurrent_state",)
    fused_class, plain_class = nn.GRU, GRU

    def __init__(
        self,
        input_size: int | None = None,
        hidden_size: int | None = None,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = True,
        dropout: float = 0.0,
        bidirectional: bool = False,
        python_based: bool = False,
        recurrent_backend: str = "pad",
        *,
        recurrent_recompute: str | None = None,
        recurrent_compute_dtype: torch.dtype | None = None,
        recurrent_matmul_precision: str | None = None,
        in_key: NestedKey | None = None,
        in_keys: Sequence[NestedKey] | None = None,
        out_key: NestedKey | None = None,
        out_keys: Sequence[NestedKey] | None = None,
        device: Device = None,
        gru: nn.RNNBase | None = None,
        default_recurrent_mode: bool | str | None = None,
    ) -> None:
        check_devices(self, device=device)
        sizes = {
            "input_size": input_size,
            "hidden_size": hidden_size,
            "num_layers": num_layers,
            "bias": bias,
            "batch_first": batch_first,
            "dropout": dropout,
            "bidirectional": bidirectional,
            "device": device,
        }
        keys = (in_key, in_keys, out_key, out_keys)
        options = SequenceOptions(
            recurrent_backend, recurrent_recompute, recurrent_compute_dtype, recurrent_matmul_precision
        )
        super().__init__(gru, sizes, python_based, options, keys, default_recurrent_mode)
