"""The output of a policy, written into the record that it was called with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tensordict import TensorDict, TensorDictBase, is_tensor_collection

from torchrl._core.errors import describe


def with_output(record: TensorDictBase, output: object, policy: object) -> TensorDictBase:
    """Return ``record`` with the output of a policy; other entries are kept.

    A policy may write into the record and return it, or return the entries that it computed alone:
    in a tensordict of any batch size, or in a dictionary.

    Args:
        record: The root ``[*B]`` that the policy was called with; updated in place.
        output: Return value of the policy.
        policy: The policy, or its name, for the error.

    Raises:
        TypeError: if ``output`` holds no entries.

    >>> import torch
    >>> from tensordict import TensorDict
    >>> root = TensorDict(observation=torch.zeros(3), done=torch.zeros(1, dtype=torch.bool))
    >>> sorted(with_output(root, TensorDict(action=torch.ones(1)), "policy").keys())
    ['action', 'done', 'observation']
    """
    return record if output is record else record.update(output_entries(output, policy))


def output_entries(output: Any, policy: object) -> TensorDictBase:
    """Return the output of a policy as a tensordict.

    Args:
        output: A tensordict, a tensorclass or a dictionary.
        policy: As in :func:`with_output`.

    Raises:
        TypeError: if it is none of these.
    """
    if is_tensor_collection(output) and not isinstance(output, TensorDictBase):
        return output.to_tensordict()  # a tensorclass
    if isinstance(output, Mapping):
        return TensorDict(dict(output))
    if not isinstance(output, TensorDictBase):
        raise TypeError(
            describe(
                policy_name(policy),
                "returned something that holds no entries",
                expected="a tensordict, or a dictionary",
                found=type(output).__name__,
                hint="End it with 'return tensordict', or give its argument another name than "
                "'td' or 'tensordict' if it maps observations to actions.",
            )
        )
    return output


def policy_name(policy: object) -> str:
    """Return the name of a policy in messages: that of its function, or of its class.

    >>> policy_name(lambda td: td), policy_name(print), policy_name(dict())
    ('policy', 'print', 'dict')
    """
    if isinstance(policy, str):
        return policy
    name = getattr(policy, "__name__", None)
    if not isinstance(name, str):
        name = type(policy).__name__
    return "policy" if name == "<lambda>" else name
