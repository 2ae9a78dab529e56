"""From one step of a Markov decision process to the next.

``td["next"]`` holds the result of the action: observation, reward and the flags ``terminated`` (the
future ended), ``truncated`` (we stopped looking) and ``done`` (either).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase, is_non_tensor
from torch import Tensor

from torchrl._core.errors import MissingKeyError, describe
from torchrl._core.keys import as_keys, sibling
from torchrl._core.records.rows import expand_right

DONE, TERMINATED, TRUNCATED = "done", "terminated", "truncated"
DONE_NAMES = (DONE, TERMINATED, TRUNCATED)


def last_name(key: NestedKey) -> str:
    """Return the last part of a key."""
    return key if isinstance(key, str) else str(key[-1])


def step_mdp(
    tensordict: TensorDictBase,
    next_tensordict: TensorDictBase | None = None,
    keep_other: bool = True,
    exclude_reward: bool = True,
    exclude_done: bool = False,
    exclude_action: bool = True,
    reward_keys: NestedKey | Sequence[NestedKey] = "reward",
    done_keys: NestedKey | Sequence[NestedKey] = "done",
    action_keys: NestedKey | Sequence[NestedKey] = "action",
) -> TensorDictBase:
    """Return the root of the next step: what is under ``"next"``, and what else the root had.

    Args:
        tensordict: A step ``[*B]``, with its result under ``"next"``.
        next_tensordict: Written and returned, if given.
        keep_other: Carry the root entries that are neither in ``"next"`` nor reward, done, action.
        exclude_reward: Drop the reward of the step.
        exclude_done: Drop the done flags of the step.
        exclude_action: Drop the action of the step.
        reward_keys: Names of the rewards.
        done_keys: Names of the done flags; ``terminated`` and ``truncated`` follow them.
        action_keys: Names of the actions.

    Raises:
        MissingKeyError: if there is no ``"next"`` entry.

    >>> from tensordict import TensorDict
    >>> after = TensorDict(observation=2, reward=1.0, done=False)
    >>> sorted(step_mdp(TensorDict(observation=0, action=1, hidden=5, next=after)).keys())
    ['done', 'hidden', 'observation']
    """
    next_root = tensordict.get("next", None)
    if next_root is None:
        raise MissingKeyError(
            describe(
                "step_mdp",
                "is read but absent",
                key="next",
                found=sorted(map(str, tensordict.keys())),
                hint="Pass what env.step() returned.",
            )
        )
    flags = [sibling(key, name) for key in as_keys(done_keys) for name in DONE_NAMES]
    drop_root = {*as_keys(reward_keys), *flags, *as_keys(action_keys)}
    drop_next: set[NestedKey] = set()
    if exclude_reward:
        drop_next.update(as_keys(reward_keys))
    if exclude_done:
        drop_next.update(flags)
    if exclude_action:
        drop_next.update(as_keys(action_keys))
    else:
        drop_root.difference_update(as_keys(action_keys))

    if keep_other:
        out = tensordict.exclude("next", *drop_root)
    else:
        actions = [] if exclude_action else as_keys(action_keys)
        out = tensordict.select(*actions, strict=False)
    own_groups(out)  # before they are written to: they are those of tensordict, perhaps locked
    out.update(own_groups(next_root.exclude(*drop_next)))
    if next_tensordict is not None:
        return next_tensordict.update(out)
    return out


def own_groups(root: TensorDictBase) -> TensorDictBase:
    """Give a tensordict copies of its nested tensordicts, in place, and drop the empty ones.

    Steps share tensors, never nested tensordicts: writing to one must not reach another.
    """
    for key, value in list(root.items()):
        if isinstance(value, TensorDictBase) and not is_non_tensor(value):
            kept = value.copy().filter_empty_()
            root.set(key, kept) if len(kept.keys()) else root.pop(key)
    return root


def complete_done(done: Tensor | None, terminated: Tensor | None, truncated: Tensor | None) -> dict:
    """Complete the flags of a step: ``done = terminated | truncated``; a lone ``done`` terminates.

    Raises:
        ValueError: if ``done`` and ``truncated`` come without ``terminated``: which part of
            ``done`` is an end of the future cannot be known.

    >>> complete_done(None, torch.tensor([True]), None)
    {'done': tensor([True]), 'terminated': tensor([True])}
    """
    if done is not None and terminated is None:
        if truncated is not None:
            raise ValueError(
                "'done' and 'truncated' without 'terminated' leave open whether the episode "
                "terminated; write 'terminated' too."
            )
        terminated = done
    flags = {TERMINATED: terminated}
    if truncated is not None:
        flags[TRUNCATED] = truncated
        if terminated is None:
            flags[TERMINATED] = torch.zeros_like(truncated)
    if done is None and terminated is not None:
        done = terminated if truncated is None else terminated | truncated
    elif done is None:
        done = truncated
    return {DONE: done, **flags}


def terminated_or_truncated(
    data: TensorDictBase, full_done_spec: Any = None, key: str | None = "_reset", write_full_false: bool = False
) -> bool:
    """Combine the end flags of every nesting level with "or"; return whether any is true.

    A level is a (sub-)tensordict that holds ``done``, ``terminated`` or ``truncated``. What is true
    at a level is true below it.

    Args:
        data: A root ``[*B]`` with flags ``[*B, 1]``; written under ``key`` at each level.
        full_done_spec: Only the levels that this composite names are looked at, if given.
        key: Name of the combined flag, written only if something has ended; never if ``None``.
        write_full_false: Write the flag even where nothing has ended.

    >>> from tensordict import TensorDict
    >>> td = TensorDict(done=torch.tensor([True]), terminated=torch.tensor([False]))
    >>> terminated_or_truncated(td), td["_reset"]
    (True, tensor([True]))
    """
    names = (data if full_done_spec is None else full_done_spec).keys(True, True)
    levels: dict[NestedKey, Tensor] = {}
    for name in names:
        if last_name(name) in DONE_NAMES and (isinstance(name, str) or name[0] != "next"):
            flag, place = data.get(name, None), sibling(name, key or "_reset")
            if flag is not None:
                levels[place] = levels[place] | flag if place in levels else flag
    root = levels.get(key or "_reset")
    if root is not None:
        levels = {
            place: flag if flag is root else flag | expand_right(root, flag.shape) for place, flag in levels.items()
        }
    ended = any(bool(flag.any()) for flag in levels.values())
    if key is not None and (ended or write_full_false):
        for place, flag in levels.items():
            data.set(place, flag.clone())
    return ended
