"""Contract checks of losses.

Each takes ``make``, a function without arguments that builds the loss, and ``batch``, one that
builds a batch of one batch dimension that the loss accepts.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from copy import deepcopy
from typing import Any

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase

from torchrl._core.errors import MissingKeyError
from torchrl._core.records.policies import input_keys
from torchrl.objectives import LossModule, SoftUpdate
from torchrl.testing.report import run_checks

Make = Callable[[], LossModule]
Batch = Callable[[], TensorDictBase]


def check_loss(make: Make, batch: Batch, skip: Iterable[str] = ()) -> None:
    """Run every check of this file, but those whose names are in ``skip``.

    Args:
        make: Builds the loss; every call gives the same networks.
        batch: Builds a batch with all that the loss reads.
        skip: Names of checks to leave out.

    Raises:
        ContractError: if a check fails.

    >>> from torchrl.objectives import BCLoss
    >>> from torchrl.testing.networks import deterministic_actor, transitions
    >>> slow = ["compiles_without_graph_breaks", "maps_over_parameters"]
    >>> check_loss(lambda: BCLoss(deterministic_actor()), transitions, skip=slow)
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*has target networks that no updater moves")  # they are called once
        run_checks(CHECKS, make, batch, skip=list(skip))


def run(loss: Callable[[TensorDictBase], Any], td: TensorDictBase) -> TensorDictBase:
    """Call a loss, always with the same random numbers."""
    torch.manual_seed(0)
    return losses_alone(loss(td))


def losses_alone(out: Any) -> TensorDictBase:
    """Return what a loss returned, without the data that may come second."""
    return out[0] if isinstance(out, tuple) else out


def build(make: Make) -> LossModule:
    """Build a loss, always the same one."""
    torch.manual_seed(1)
    return make()


def losses_of(out: TensorDictBase) -> dict[str, torch.Tensor]:
    """Return the entries that are to be minimised."""
    entries: Any = out.items()
    return {key: value for key, value in entries if key.startswith("loss")}


def keyword_of(key: NestedKey) -> str:
    """Return the keyword under which an entry is passed to a call."""
    return key if isinstance(key, str) else "_".join(map(str, key))


def finite_scalars(make: Make, batch: Batch) -> None:
    """Losses are finite scalars with a gradient, all else is detached; ``out_keys`` has all losses."""
    loss = build(make)
    out = run(loss, batch())
    assert losses_of(out)
    for key, value in out.items():
        assert value.isfinite().all(), key
        assert value.requires_grad == key.startswith("loss"), key
        assert not key.startswith("loss") or value.shape == (), key
    named, found = set(loss.out_keys), set(out.keys())
    assert set(losses_of(out).keys()) <= named <= found, (sorted(found), sorted(named))


def trains_every_parameter_and_no_target(make: Make, batch: Batch) -> None:
    """The sum of the losses reaches every parameter, each listed once, and nothing else."""
    loss = build(make)
    run(loss, batch()).backward()
    names = [name for name, parameter in loss.named_parameters() if parameter.grad is None]
    assert not names, names
    assert len({id(p) for p in loss.parameters()}) == len(list(loss.parameters()))
    assert not any(buffer.requires_grad for buffer in loss.buffers())


def gains_only_the_priority(make: Make, batch: Batch) -> None:
    """The batch does not change, except for the priority."""
    loss, td = build(make), batch()
    run(loss, td)
    gained = set(td.keys(True, True)) - set(batch().keys(True, True))
    assert gained <= {getattr(loss.tensor_keys, "priority", None)}, gained


def takes_the_batch_as_data(make: Make, batch: Batch) -> None:
    """No gradient flows into the batch, whose entries may require one; the priority is written."""
    loss, plain = build(make), batch()
    td: Any = plain.apply(lambda x: x.clone().requires_grad_() if x.is_floating_point() else x)
    for _ in range(2):
        run(loss, td).backward()
    assert all(x.grad is None for x in td.values(True, True) if x.is_leaf)
    run(build(make), plain)
    assert set(td.keys(True, True)) == set(plain.keys(True, True))


def in_keys_suffice(make: Make, batch: Batch) -> None:
    """Entries that are not in ``in_keys`` are not read."""
    loss = build(make)
    _same(run(loss, batch().select(*loss.in_keys)), run(build(make), batch()))


def every_in_key_is_needed(make: Make, batch: Batch) -> None:
    """A missing entry is named; only ``done`` and ``terminated`` can replace each other."""
    loss = build(make)
    keys: list[Any] = loss.in_keys
    ends = [key for key in keys if key[-1] in ("done", "terminated")]
    for gone in [[key] for key in keys if key not in ends] + ([ends] if ends else []):
        message = refusal(loss, batch().select(*loss.in_keys).exclude(*gone))
        assert repr(gone[0]) in message, (gone, message)
        assert type(loss).__qualname__ in message, message


def refusal(module: Callable[[TensorDictBase], TensorDictBase], td: TensorDictBase) -> str:
    """Return the message with which a module refuses a batch that lacks an entry."""
    try:
        module(td)
    except MissingKeyError as error:
        return str(error)
    raise AssertionError(f"an in_key is missing, but {module} raised no error")


def set_keys_renames(make: Make, batch: Batch) -> None:
    """Every entry that the loss itself reads can have another name, nested ones too."""
    expected = run(build(make), batch())
    for name, key in vars(build(make).tensor_keys).items():
        loss, td = build(make), batch()
        place = key if key in loss.in_keys else ("next", *([key] if isinstance(key, str) else key))
        networks: list[Any] = [m for m in loss.children() if hasattr(m, "in_keys")]
        owned = any({key, place} & {*m.in_keys, *m.out_keys} for m in networks)
        if place not in loss.in_keys or owned:
            continue
        loss.set_keys(**{name: ("deep", "renamed")})
        new = ("deep", "renamed") if place == key else ("next", "deep", "renamed")
        _same(run(loss, td.set(new, td.get(place)).exclude(place)), expected)


def keyword_call(make: Make, batch: Batch) -> None:
    """Tensors by keyword give the outputs in the order of ``out_keys``."""
    loss, td = build(make), batch()
    expected = run(build(make), batch())
    torch.manual_seed(0)
    given = loss(**{keyword_of(key): td.get(key) for key in loss.in_keys})
    given = given if isinstance(given, tuple) else (given,)
    for key, value in zip(loss.out_keys, given, strict=True):
        torch.testing.assert_close(value, expected.get(key), equal_nan=True)


def select_out_keys(make: Make, batch: Batch) -> None:
    """``select_out_keys`` restricts the outputs."""
    loss = build(make)
    name = next(key for key in loss.out_keys if key.startswith("loss"))
    loss.select_out_keys(name)
    assert loss.out_keys == [name]
    assert set(run(loss, batch()).keys()) == {name}


def stored_outputs_do_not_matter(make: Make, batch: Batch) -> None:
    """What networks wrote into the batch when it was collected changes no loss and no gradient.

    A policy must not use the parameters of distributions that are stored in the batch. Entries that
    the loss names in ``in_keys``, such as the action, are data.
    """
    expected, loss = build(make), build(make)
    run(expected, batch()).backward()
    run(loss, with_stored_outputs(loss, batch())).backward()
    for (name, one), (_, other) in zip(loss.named_parameters(), expected.named_parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None), name
        if one.grad is not None:
            torch.testing.assert_close(one.grad, other.grad)


def with_stored_outputs(loss: LossModule, td: TensorDictBase) -> TensorDictBase:
    """Return a batch that also has what older versions of the networks of a loss wrote."""
    data = {_parts(key) for key in loss.in_keys}
    for module in loss.named_networks().values():
        older: Any = deepcopy(module)
        for parameter in older.parameters():
            parameter.data.mul_(0.5)
        for network in older if isinstance(older, torch.nn.ModuleList) else [older]:
            for place in ((), ("next",)):
                rows = td.get(place, None) if place else td
                if rows is None or not hasattr(network, "in_keys"):
                    continue
                if any(rows.get(key, None) is None for key in input_keys(network)):
                    continue
                with torch.no_grad():
                    out = network(rows.clone())
                for key in out.keys(True, True):
                    path = (*place, *_parts(key))
                    if data.isdisjoint(path[:depth] for depth in range(1, len(path) + 1)):
                        td.set(path, out.get(key))
    return td


def _parts(key: NestedKey) -> tuple:
    return (key,) if isinstance(key, str) else tuple(key)


def state_dict_round_trip(make: Make, batch: Batch) -> None:
    """Another loss with the same state gives the same losses."""
    one, other = build(make), make()
    for parameter in one.parameters():
        parameter.data.mul_(0.9)
    other.load_state_dict(one.state_dict())
    _same(run(other, batch()), run(one, batch()))


def reductions(make: Make, batch: Batch) -> None:
    """``mean`` and ``sum`` are the mean and the sum of the terms of ``none``."""
    outs = {}
    for reduction in ("mean", "sum", "none"):
        loss = build(make)
        loss.reduction = reduction
        outs[reduction] = losses_of(run(loss, batch()))
    for name, samples in outs["none"].items():
        torch.testing.assert_close(outs["mean"][name], samples.mean())
        torch.testing.assert_close(outs["sum"][name], samples.sum())


def unreduced_terms_add_up(make: Make, batch: Batch) -> None:
    """With ``"none"`` all terms that are not scalars have one shape, one number an item."""
    loss, td = build(make), batch()
    loss.reduction = "none"
    terms = {name: value for name, value in losses_of(run(loss, td)).items() if value.ndim}
    shapes = {name: list(value.shape) for name, value in terms.items()}
    assert len({*map(tuple, shapes.values())}) <= 1, shapes
    for name, value in terms.items():
        assert value.shape[: td.ndim] == td.batch_size, (name, list(value.shape))


def batch_dimensions_do_not_matter(make: Make, batch: Batch) -> None:
    """A batch of two dimensions ``[B, 1]`` gives the losses of a batch ``[B]``."""
    td: Any = batch()
    wide = td.reshape(td.shape[0], 1, *td.shape[1:])
    for reduction in ("mean", "none"):
        loss, other = build(make), build(make)
        loss.reduction = other.reduction = reduction
        expected = losses_of(run(loss, td.clone()))
        for name, value in losses_of(run(other, wide.clone())).items():
            torch.testing.assert_close(value.flatten(), expected[name].flatten())


def padded_rows_do_not_count(make: Make, batch: Batch) -> None:
    """Losses of rows that the mask excludes are left out of sums and means."""
    loss, td = build(make), batch()
    mask = torch.ones(td.batch_size, dtype=torch.bool)
    mask[..., -1] = False
    loss.reduction = "none"
    samples = losses_of(run(loss, td.clone()))
    loss = build(make)
    masked = losses_of(run(loss, td.clone().set(("collector", "mask"), mask)))
    for name, value in samples.items():
        if value.shape[: mask.ndim] == mask.shape:
            torch.testing.assert_close(masked[name], value[mask].mean())


def nan_in_excluded_rows_reaches_no_gradient(make: Make, batch: Batch) -> None:
    """Rows that the mask excludes may hold anything: gradients are those of the other rows."""
    grads: list[dict[str, Any]] = []
    for garbage in (False, True):
        loss, td = build(make), batch().clone()
        mask = torch.ones(td.batch_size, dtype=torch.bool)
        mask[-1] = False
        for leaf in td.values(True, True) if garbage else ():
            if leaf.is_floating_point():
                leaf[-1] = torch.nan
        run(loss, td.set(("collector", "mask"), mask)).backward()
        grads.append({name: p.grad for name, p in loss.named_parameters()})
    for name, grad in grads[0].items():
        if grad is not None:
            assert grads[1][name].isfinite().all(), name
            torch.testing.assert_close(grads[1][name], grad)


def targets_follow(make: Make, batch: Batch) -> None:
    """Each target is a copy of its network, and SoftUpdate moves every tensor of it."""
    loss = build(make)
    pairs = loss.target_pairs()
    if not pairs:
        return
    for online, target in pairs.values():
        model, copy = dict(online.named_parameters()), dict(target.named_buffers())
        assert model.keys() <= copy.keys(), sorted(model.keys() - copy.keys())
        for name, parameter in model.items():
            torch.testing.assert_close(copy[name], parameter.detach())
            assert copy[name].data_ptr() != parameter.data_ptr(), name
    updater = SoftUpdate(loss, tau=0.5)
    for online, _ in pairs.values():
        for parameter in online.parameters():
            parameter.data.add_(1.0)
    updater.step()
    for online, target in pairs.values():
        copy = dict(target.named_buffers())
        for name, parameter in online.named_parameters():
            torch.testing.assert_close(copy[name], parameter.detach() - 0.5)


def compiles_without_graph_breaks(make: Make, batch: Batch) -> None:
    """The loss compiles without graph breaks, to the same values."""
    torch.compiler.reset()
    loss = build(make)
    expected = run(build(make), batch())
    compiled = torch.compile(loss, fullgraph=True, backend="eager")
    _same(run(compiled, batch()), expected)


def maps_over_parameters(make: Make, batch: Batch) -> None:
    """Several sets of parameters at once, as in meta-learning."""
    loss = build(make)
    params: Any = TensorDict.from_module(loss)
    both: Any = torch.stack([params.detach().clone(), params.detach().clone() * 0.5])

    def call(params: TensorDictBase) -> TensorDictBase:
        with params.to_module(loss):
            return TensorDict(losses_of(losses_alone(loss(batch()))))

    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "There is a performance drop")
        mapped = torch.vmap(call, randomness="same")(both)
    for i in range(2):
        torch.manual_seed(0)
        for name, value in call(both[i]).items():
            torch.testing.assert_close(mapped[name][i], value)


def _same(one: TensorDictBase, other: TensorDictBase) -> None:
    for key, value in losses_of(other).items():
        torch.testing.assert_close(one.get(key), value)


CHECKS: list[Callable[[Make, Batch], None]] = [
    finite_scalars,
    trains_every_parameter_and_no_target,
    gains_only_the_priority,
    takes_the_batch_as_data,
    in_keys_suffice,
    every_in_key_is_needed,
    set_keys_renames,
    keyword_call,
    select_out_keys,
    stored_outputs_do_not_matter,
    state_dict_round_trip,
    reductions,
    unreduced_terms_add_up,
    batch_dimensions_do_not_matter,
    padded_rows_do_not_count,
    nan_in_excluded_rows_reaches_no_gradient,
    targets_follow,
    compiles_without_graph_breaks,
    maps_over_parameters,
]
