"""Contract checks of modules: :func:`check_module`, :func:`check_exploration`, recurrent modules.

``*B`` batch dimensions: ``[]``, ``[B]`` and ``[B, T]``, all of which a module must support. ``T``
time.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from tensordict.nn import CompositeDistribution, TensorDictModuleBase, set_composite_lp_aggregate
from torch import Tensor

from torchrl._core.exploration import ExplorationType, set_exploration_type
from torchrl._core.keys import next_key
from torchrl._core.records.flat_record import FlatRecord, takes_flat_records
from torchrl._core.records.policies import compile_policy, input_keys
from torchrl.modules import set_recurrent_mode
from torchrl.testing.report import run_checks

BATCHES = ((), (3,), (3, 4))
KINDS = (None, ExplorationType.RANDOM, ExplorationType.DETERMINISTIC)
Draw = Callable[[tuple[int, ...]], Tensor]


@dataclass
class ModuleCase:
    """A module, what it reads and what it writes.

    Args:
        make: Builds the module.
        reads: Shape ``[*F]`` of each entry that it reads, filled with normal noise; or a function
            from a shape ``[*B]`` to the entry.
        writes: Shape ``[*F]`` of each entry that it writes.
        differentiable: Written entries whose gradient reaches every parameter.
        dtypes: Dtypes that the module supports, beside the default one.
        compiles: Whether it compiles without graph breaks.
        batches: Batch shapes ``*B`` of inputs.
    """

    make: Callable[[], TensorDictModuleBase]
    reads: Mapping[NestedKey, tuple[int, ...] | Draw]
    writes: Mapping[NestedKey, tuple[int, ...]]
    differentiable: tuple[NestedKey, ...] = ()
    dtypes: tuple[torch.dtype, ...] = (torch.float64, torch.bfloat16)
    compiles: bool = True
    batches: tuple[tuple[int, ...], ...] = field(default=BATCHES)

    def example(self, batch: tuple[int, ...] = (), dtype: torch.dtype = torch.float32) -> TensorDictBase:
        """Return inputs of a batch shape."""
        td = TensorDict({}, batch)
        for key, shape in self.reads.items():
            value = shape(batch) if callable(shape) else torch.randn(*batch, *shape)
            td.set(key, value.to(dtype) if value.is_floating_point() else value)
        return td


def check_module(
    make: Callable[[], TensorDictModuleBase],
    reads: Mapping[NestedKey, tuple[int, ...] | Draw],
    writes: Mapping[NestedKey, tuple[int, ...]],
    *,
    skip: Collection[str] = (),
    **options: Any,
) -> None:
    """Run all checks of :data:`CHECKS` on a module.

    Args:
        make: Builds the module.
        reads: Shape ``[*F]`` of each entry that it reads; see :class:`ModuleCase`.
        writes: Shape ``[*F]`` of each entry that it writes.
        skip: Names of checks to leave out.
        **options: Of :class:`ModuleCase`.

    Raises:
        ContractError: if a check failed; it names all that did.

    >>> from torchrl.modules import SafeModule
    >>> layer = lambda: SafeModule(torch.nn.Linear(3, 2), ["observation"], ["hidden"])
    >>> check_module(layer, {"observation": (3,)}, {"hidden": (2,)}, compiles=False)
    """
    case = ModuleCase(make, reads, writes, **options)
    kind: type = type(make())
    run_checks([_of_case(check, case) for check in CHECKS], make, skip=skip, name=kind.__name__)


def _of_case(check: Callable[[ModuleCase], None], case: ModuleCase) -> Callable[..., None]:
    @wraps(check)
    def run(make: object) -> None:
        check(case)

    return run


def check_keys_and_shapes(case: ModuleCase) -> None:
    """Check that the module reads and writes its keys, for every batch shape."""
    module = case.make()
    assert set(module.in_keys) <= set(case.reads), (module.in_keys, set(case.reads))
    assert set(case.writes) <= set(module.out_keys), (set(case.writes), module.out_keys)
    for batch in case.batches:
        out = module(case.example(batch))
        for key, shape in case.writes.items():
            assert out[key].shape == (*batch, *shape), (key, batch, out[key].shape)


def check_every_in_key_is_needed(case: ModuleCase) -> None:
    """Check that an absent entry is named by a :class:`KeyError`."""
    for key in case.make().in_keys:
        try:
            case.make()(case.example((3,)).exclude(key))
            message = "no error"
        except KeyError as error:
            message = str(error)
        assert repr(key) in message, (key, message)


def check_compiles(case: ModuleCase) -> None:
    """Check that the module compiles without graph breaks, to the same results."""
    if not case.compiles:
        return
    torch.compiler.reset()  # earlier compilations count towards its limit
    module, td = case.make(), case.example((3,))
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        expected = module(td.clone())
        compiled = torch.compile(module, fullgraph=True, backend="eager")
        found = compiled(td.clone())
    for key in case.writes:
        torch.testing.assert_close(found[key], expected[key])


def check_state_dict(case: ModuleCase) -> None:
    """Check that the state of one module, loaded by another one, makes both equal."""
    one, other, td = case.make(), case.make(), case.example((3,))
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        one(td.clone()), other(td.clone())  # so that lazy parameters exist
        other.load_state_dict(one.state_dict())
        _assert_same(one(td.clone()), other(td.clone()))
        _assert_same(one(td.clone()), copy.deepcopy(one)(td.clone()))


def check_dtypes(case: ModuleCase) -> None:
    """Check that the module supports other dtypes, and that its floats keep them."""
    for dtype in case.dtypes:
        module = case.make()
        module(case.example((3,)))  # so that lazy parameters exist
        module = module.to(dtype)
        out = module(case.example((3,), dtype))
        for key in case.writes:
            assert not out[key].is_floating_point() or out[key].dtype is dtype, (key, out[key].dtype)
            assert not out[key].isnan().any(), key


def check_gradients(case: ModuleCase) -> None:
    """Check that every parameter has a gradient of each differentiable entry."""
    for key in case.differentiable:
        module = case.make()
        with set_exploration_type(ExplorationType.RANDOM):
            out = module(case.example((3,)))
        out[key].sum().backward()
        for name, parameter in module.named_parameters():
            assert parameter.grad is not None, (key, name)
            assert parameter.grad.isfinite().all(), (key, name)


def check_compiled_equals_call(case: ModuleCase) -> None:
    """Check that the compiled policy, where there is one, equals the call bit for bit."""
    module = case.make()
    if not takes_flat_records(module) and compile_policy(module) is None:
        return  # it does not declare to be compiled
    module(case.example((3,)))  # so that lazy parameters exist
    for kind in KINDS:
        with set_exploration_type(kind):
            run = compile_policy(module)
            assert run is not None, "the module cannot be compiled"
            td = case.example()
            entries = FlatRecord({key: td[key] for key in td.keys(True, True)})
            torch.manual_seed(0)
            expected = module(td)
            torch.manual_seed(0)
            run(entries)
        assert set(entries) == set(expected.keys(True, True)), (set(entries), expected)
        for key, value in entries.items():
            same = value.dtype is expected[key].dtype and value.equal(expected[key])
            assert same, (kind, key, value, expected[key])


def _assert_same(one: TensorDictBase, other: TensorDictBase) -> None:
    for key in one.keys(True, True):
        torch.testing.assert_close(one[key], other[key], rtol=0, atol=0, equal_nan=True)


CHECKS: list[Callable[[ModuleCase], None]] = [
    check_keys_and_shapes,
    check_every_in_key_is_needed,
    check_compiles,
    check_state_dict,
    check_dtypes,
    check_gradients,
    check_compiled_equals_call,
]


# --- exploration modules -----------------------------------------------------------------------


def check_exploration(
    make: Callable[[], TensorDictModuleBase],
    *,
    extra: Mapping[NestedKey, Draw] | None = None,
    skip: Collection[str] = (),
) -> None:
    """Run all checks of :data:`EXPLORATION_CHECKS` on an exploration module.

    Args:
        make: Builds the module, with an ``action_key`` and an ``action_spec`` of one environment.
        extra: Functions from a shape ``[*B]`` to the other entries that it reads, such as
            ``{"is_init": lambda batch: torch.zeros(*batch, 1, dtype=torch.bool)}``.
        skip: Names of checks to leave out.

    What a module keeps from step to step is an entry that it writes, one of ``out_keys``. One that
    has ``is_init`` among its ``in_keys`` must restart where this is true.

    Raises:
        ContractError: if a check failed; it names all that did.

    >>> from torchrl.data import Bounded
    >>> from torchrl.modules import AdditiveGaussianModule
    >>> check_exploration(lambda: AdditiveGaussianModule(Bounded(-1, 1, (3,))))
    """
    kind: type = type(make())
    checks = [_naming_extra(check) for check in EXPLORATION_CHECKS]
    run_checks(checks, make, dict(extra or {}), skip=skip, name=kind.__name__)


def _naming_extra(check: Callable[..., None]) -> Callable[..., None]:
    """Return a check in which an absent entry is an error that says how to provide it."""

    @wraps(check)
    def run(make: Callable[[], Any], extra: Extra) -> None:
        try:
            check(make, extra)
        except KeyError as error:
            raise AssertionError(
                f"KeyError: {error}: if the module reads this entry, pass a function that makes it: check_exploration("
                "make, extra={key: lambda batch: torch.zeros(*batch, 1, dtype=torch.bool)}); what it wrote itself in "
                "the step before is read with td.get(key, None)"
            ) from error

    return run


Extra = Mapping[NestedKey, Draw]


def _actions(module: Any, batch: tuple[int, ...], extra: Extra) -> TensorDict:
    """Return legal actions ``[*B, A]`` and the other inputs of an exploration module."""
    td = TensorDict({}, batch).set(module.action_key, module.action_spec.rand(batch))
    for key, draw in extra.items():
        td.set(key, draw(batch))
    return td


def check_explores_only_under_random(make: Callable[[], Any], extra: Extra) -> None:
    """Check that the action is replaced under ``RANDOM`` or no type, and kept under any other."""
    module = make()
    td = _actions(module, (64,), extra)
    action = td[module.action_key].clone()
    for kind in ExplorationType:
        if kind is not ExplorationType.RANDOM:
            with set_exploration_type(kind):
                found = module(td.clone())[module.action_key]
            assert torch.equal(found, action), f"{kind} changed the action"
    for explores in (None, ExplorationType.RANDOM):
        changed, kept = False, TensorDict()
        for _ in range(3):  # one that repeats earlier actions changes none at its first step
            fresh = _actions(module, (64,), extra)
            td = fresh.clone().update(kept)
            with set_exploration_type(explores):
                found = module(td.clone())
            changed = changed or not torch.equal(found[module.action_key], td[module.action_key])
            names = [key for key in found.keys(True, True) if fresh.get(key, None) is None and key[0] != "next"]
            kept = found.select(*names)  # which the next step finds
        assert changed, f"with {explores or 'no exploration type'} three steps in a row changed no action"


def check_actions_stay_in_their_spec(make: Callable[[], Any], extra: Extra) -> None:
    """Check shape, dtype and range of the actions, for every batch shape."""
    module = make()
    spec = module.action_spec
    for batch in BATCHES:
        td = _actions(module, batch, extra)
        with set_exploration_type(ExplorationType.RANDOM):
            found = module(td.clone())[module.action_key]
        assert found.shape == (*batch, *spec.shape), (batch, found.shape)
        assert found.dtype is spec.dtype, found.dtype
        assert spec.expand(*batch, *spec.shape).is_in(found), f"{found} is not in {spec}"


def check_exploration_is_seeded(make: Callable[[], Any], extra: Extra) -> None:
    """Check that the same seed gives the same actions, of a module and of its copy."""
    module, found = make(), []
    td = _actions(module, (16,), extra)
    for one in (module, copy.deepcopy(module)):  # a call may change what a module keeps
        torch.manual_seed(0)
        with set_exploration_type(ExplorationType.RANDOM):
            found.append([one(td.clone())[module.action_key] for _ in range(2)])
    assert all(map(torch.equal, *found)), (
        "two runs with one seed differ, of a module and of its copy; draw with torch's random functions, and keep "
        "nothing between calls but buffers and entries of the record"
    )


def check_rows_are_drawn_alone(make: Callable[[], Any], extra: Extra) -> None:
    """Check that rows with the same action get different noise, if the noise is random."""
    module = make()
    key = module.action_key
    one = _actions(module, (), extra)
    found = []
    for seed in range(6):
        td = one.expand(64).clone()
        torch.manual_seed(seed)
        with set_exploration_type(ExplorationType.RANDOM):
            found.append(copy.deepcopy(module)(td)[key])
    is_random = any(not torch.equal(each, found[0]) for each in found)
    differ = any(not torch.equal(each, each[:1].expand_as(each)) for each in found)
    assert differ or not is_random, (
        "one draw was used for all rows; draw for each, as in torch.randn_like(action) or torch.rand(td.batch_size)"
    )


def check_restarts_where_is_init(make: Callable[[], Any], extra: Extra) -> None:
    """Check that, where ``is_init`` is true, the action does not depend on the steps before.

    Of modules that have ``is_init``, or their ``init_key``, among their ``in_keys``.
    """
    module = make()
    init_key = _init_key(module)
    if init_key is None:
        return
    found = []
    for seed in (1, 2):
        td = _continued(module, init_key, extra, seed)
        torch.manual_seed(0)
        first = _flagged(module, init_key, extra, True).update(_carried(module, td))
        with set_exploration_type(ExplorationType.RANDOM):
            found.append(module(first)[module.action_key])
    assert torch.equal(*found), (
        f"where {init_key!r} is true, the action depends on the steps before; start again there, as in "
        f"torch.where(td[{init_key!r}], start, state)"
    )


def check_state_is_in_the_record(make: Callable[[], Any], extra: Extra) -> None:
    """Check that an action depends on the record and on saved buffers only, not on other calls.

    Of modules that have ``is_init``, or their ``init_key``, among their ``in_keys``.
    """
    module = make()
    init_key = _init_key(module)
    if init_key is None:
        return
    td = _continued(module, init_key, extra, 1)
    saved = copy.deepcopy(module.state_dict())
    found = []
    for _ in range(2):
        module.load_state_dict(saved)
        torch.manual_seed(0)
        with set_exploration_type(ExplorationType.RANDOM):
            found.append(module(td.clone())[module.action_key])
    assert torch.equal(*found), (
        "two calls with the same record differ; what is kept from step to step is an entry of the record: write it "
        "with td.set(key, value), name it in out_keys, and read it with td.get(key, None)"
    )


def _init_key(module: Any) -> NestedKey | None:
    """Return the flag of first steps that a module reads, if there is one."""
    names = {"is_init", getattr(module, "init_key", None)}
    return next((key for key in module.in_keys if (key if isinstance(key, str) else key[-1]) in names), None)


def _flagged(module: Any, init_key: NestedKey, extra: Extra, value: bool) -> TensorDict:
    """Return actions ``[16]`` and the other inputs, of first steps or of later ones."""
    td = _actions(module, (16,), extra)
    flag = td.get(init_key, torch.empty(16, 1, dtype=torch.bool))
    return td.set(init_key, torch.full_like(flag, value))


def _carried(module: Any, td: TensorDictBase) -> TensorDictBase:
    """Return the entries that a module wrote besides the action."""
    return td.select(*[key for key in module.out_keys if key != module.action_key], strict=False)


def _continued(module: Any, init_key: NestedKey, extra: Extra, seed: int) -> TensorDict:
    """Return the record ``[16]`` of the fourth step of episodes, before the action is changed."""
    torch.manual_seed(seed)
    td: Any = TensorDict(batch_size=[16])
    for step in range(3):
        with set_exploration_type(ExplorationType.RANDOM):
            td = module(_flagged(module, init_key, extra, step == 0).update(_carried(module, td)))
    return _flagged(module, init_key, extra, False).update(_carried(module, td))


def check_annealing(make: Callable[[], Any], extra: Extra) -> None:
    """Check that ``step``, if there is one, changes the state, which can be saved and loaded."""
    module = make()
    if not hasattr(module, "step"):
        return
    before = {name: value.clone() for name, value in module.state_dict().items()}
    module.step(10)
    after = module.state_dict()
    assert any(not torch.equal(after[name], value) for name, value in before.items()), (
        f"step(10) changed nothing in state_dict(), which has {list(before)}; make the number that it changes a "
        "buffer, self.register_buffer(name, torch.tensor(value)), and change it in place"
    )
    other = make()
    other.load_state_dict(after)
    _assert_same(TensorDict(dict(other.state_dict())), TensorDict(dict(after)))


def check_flat_records(make: Callable[[], Any], extra: Extra) -> None:
    """Check that a module that supports flat records returns the same for them, bit for bit."""
    module = make()
    if not takes_flat_records(module):
        return
    td = _actions(module, (), extra)
    run: Any = compile_policy(copy.deepcopy(module))
    record = FlatRecord({key: td[key] for key in td.keys(True, True)})
    with set_exploration_type(ExplorationType.RANDOM):
        torch.manual_seed(0)
        run(record)
        torch.manual_seed(0)
        expected = module(td.clone())
    _assert_same(TensorDict(dict(record)), expected)


def check_keys_are_declared(make: Callable[[], Any], extra: Extra) -> None:
    """Check that what is read is one of ``in_keys``, and what is written one of ``out_keys``."""
    module = make()
    unnamed = [key for key in extra if key not in module.in_keys]
    assert not unnamed, f"{unnamed} are in extra, but not among in_keys, {list(module.in_keys)}"
    td = _actions(module, (3,), extra)
    with set_exploration_type(ExplorationType.RANDOM):
        found = set(module(td.clone()).keys(True, True))
    unnamed = [key for key in found - set(td.keys(True, True)) if key not in module.out_keys]
    assert not unnamed, f"{unnamed} are written, but not among out_keys, {list(module.out_keys)}"


EXPLORATION_CHECKS: list[Callable[..., None]] = [
    check_keys_are_declared,
    check_explores_only_under_random,
    check_actions_stay_in_their_spec,
    check_exploration_is_seeded,
    check_rows_are_drawn_alone,
    check_restarts_where_is_init,
    check_state_is_in_the_record,
    check_annealing,
    check_flat_records,
]


# --- recurrent modules and policies ------------------------------------------------------------


def check_recurrent(
    module: TensorDictModuleBase,
    data: TensorDictBase,
    *,
    init_key: NestedKey = "is_init",
    rtol: float = 1e-4,
    atol: float = 1e-5,
) -> None:
    """Check that a module passes its state from step to step, and that sequences equal steps.

    A state is an entry that is read under a key and written under ``next`` and that key. Where
    ``is_init`` is true it must be taken as zero; and in recurrent mode the outputs of a sequence
    must be those of its steps one after the other, with restarts inside or without. Restarts are
    placed by this function. For modules without randomness.

    Args:
        module: The module, of which parameters exist.
        data: Its inputs without states and flags, ``[B, T]`` with ``T >= 4``.
        init_key: Key of the flag of first steps of episodes.
        rtol: Relative tolerance.
        atol: Absolute tolerance.

    Raises:
        AssertionError: if one of these does not hold.
    """
    states = _states_of(module)
    assert states, f"{type(module).__name__} carries no state: {module.in_keys} {module.out_keys}"
    size, length = data.batch_size, data.shape[-1]
    first = torch.zeros(*size, 1, dtype=torch.bool)
    first[..., 0, :] = True
    inside = first.clone()
    inside[0, length // 2] = True
    with torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
        for flags, where in ((first, "without restarts"), (inside, "with restarts inside")):
            steps = _in_turn(module, data.clone().set(init_key, flags), states, init_key)
            _assert_restarts(module, steps, states, init_key, rtol, atol)
            for start in (0, 1):  # from the start, and from the state that was stored
                part = steps[:, start:]
                read = part.select(*{*input_keys(module), init_key, *states}, strict=False)
                with set_recurrent_mode():
                    found = module(read)
                for key in _written(module, part):
                    fact = f"{key}: a sequence {where} differs from its steps"
                    _assert_close(found.get(key), part.get(key), fact, rtol, atol)
    _assert_remembers(module, data, states, init_key)


def _states_of(module: TensorDictModuleBase) -> list[NestedKey]:
    keys: Any = module.out_keys
    nexts = [key[1:] for key in keys if isinstance(key, tuple) and key[0] == "next"]
    found = [key[0] if len(key) == 1 else key for key in nexts]
    return [key for key in found if key in module.in_keys]


def _written(module: TensorDictModuleBase, td: TensorDictBase) -> list[NestedKey]:
    return [key for key in module.out_keys if key != "_" and td.get(key, None) is not None]


def _in_turn(
    module: TensorDictModuleBase, data: TensorDictBase, states: list[NestedKey], init_key: Any
) -> TensorDictBase:
    """Return the steps ``[B, T]`` of a module that is called as a policy is in an environment."""
    steps: list[TensorDictBase] = []
    state = None
    for row in data.unbind(-1):
        if state is None:
            probe = module(row.clone())  # a first step needs no state
            state = {key: torch.zeros_like(probe[next_key(key)]) for key in states}
        else:
            state = {key: steps[-1][next_key(key)] for key in states}
        td = row.clone()
        for key, value in state.items():
            td.set(key, value)
        steps.append(module(td))
    whole: Any = torch.stack(steps, -1)  # type: ignore[arg-type]  # tensordicts stack too
    return whole


def _assert_restarts(
    module: TensorDictModuleBase,
    steps: TensorDictBase,
    states: list[NestedKey],
    init_key: NestedKey,
    rtol: float,
    atol: float,
) -> None:
    """Check that a first step does not depend on the state in the record."""
    row = steps[:, 1].select(*{*input_keys(module), *states}, strict=False)
    row.set(init_key, torch.ones(*row.batch_size, 1, dtype=torch.bool))
    outs = []
    for value in (0.0, 1.0):
        td = row.clone()
        for key in states:
            td.set(key, torch.full_like(td.get(key), value))
        outs.append(module(td))
    for key in _written(module, outs[0]):
        if key not in states:
            fact = f"{key}: the state is not empty where {init_key!r} is true"
            _assert_close(outs[1].get(key), outs[0].get(key), fact, rtol, atol)


def _assert_remembers(
    module: TensorDictModuleBase, data: TensorDictBase, states: list[NestedKey], init_key: Any
) -> None:
    """Check that a step depends on the state, and a later step of a sequence on an earlier one."""
    flags = torch.zeros(*data.batch_size, 1, dtype=torch.bool)
    flags[:, 0] = True
    with torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
        steps = _in_turn(module, data.clone().set(init_key, flags), states, init_key)
        state = steps[next_key(states[0])]
        assert not torch.equal(state[:, 0], state[:, -1]), f"{states[0]}: the state never changes"


def check_follows_parameters(policy: Any, td: TensorDictBase, rtol: float = 1e-4) -> None:
    """Check that the distribution is that of the current policy, not that of the collection.

    A batch holds the outputs of the policy at collection, such as the parameters of distributions.
    ``get_dist`` on such a batch must depend on the observations and the policy's parameters alone:
    the log-probability of the actions and its gradient must be those of a batch without these.

    Args:
        policy: Has ``get_dist`` and parameters.
        td: Observations ``[*B]``.
        rtol: Relative tolerance.

    Raises:
        AssertionError: if the distribution or its gradient differs.
    """
    with torch.no_grad(), set_exploration_type(ExplorationType.RANDOM):
        acted = policy(td.clone())
        for parameter in policy.parameters():  # as training does
            parameter.add_(0.1 * torch.randn_like(parameter))
    parameters = [p for p in policy.parameters() if p.requires_grad]
    scores, gradients = [], []
    for batch in (td.clone(), acted):
        with set_composite_lp_aggregate(False):
            score = _score(policy.get_dist(batch.copy()), acted, policy)
        assert score.requires_grad, "the distribution does not depend on the parameters"
        scores.append(score.detach())
        gradients.append(torch.autograd.grad(score, parameters, allow_unused=True))
    fact = "the distribution on a batch with the policy's outputs is that of stored parameters"
    _assert_close(scores[1], scores[0], fact, rtol, 1e-5)
    for fresh, found in zip(*gradients, strict=True):
        assert (fresh is None) == (found is None), f"{fact}: a gradient is missing"
        if fresh is not None:
            _assert_close(found, fresh, f"{fact}: its gradient differs", rtol, 1e-5)


def _score(dist: Any, td: TensorDictBase, policy: Any) -> Tensor:
    """Return the sum of all log-probabilities of the actions."""
    if isinstance(dist, CompositeDistribution):
        heads = [head.log_prob(td[name]).sum() for name, head in dist.dists.items()]
        return torch.stack(heads).sum()
    keys: Sequence[NestedKey] = getattr(policy, "dist_sample_keys", None) or ["action"]
    return dist.log_prob(td[keys[0]]).sum()


def _assert_close(found: Any, expected: Any, fact: str, rtol: float, atol: float) -> None:
    assert found is not None, f"{fact}: it is not written"
    if isinstance(found, Tensor) and found.is_floating_point():
        same = torch.allclose(found, expected, rtol=rtol, atol=atol)
    else:
        same = bool((found == expected).all())
    assert same, fact
