"""Which transforms can wait until all steps are taken, because nobody looks at what they write."""

from __future__ import annotations

from collections.abc import Sequence

from tensordict import NestedKey

from torchrl._core.capabilities import supports
from torchrl.envs.postponed import Postponed
from torchrl.envs.step_plan import StepPlan
from torchrl.envs.transforms.base import Transform


def waiting(
    chain: Sequence[Transform], touched: set[NestedKey], plan: StepPlan
) -> dict[Transform, list[Postponed]]:
    """Return the transforms that can wait, in order, with what they write then.

    They are those whose entries are touched by nobody who does not wait.

    Args:
        chain: The transforms of an environment; each knows which entries it touches.
        touched: Entries that policy and environment read or write while steps are taken.
        plan: That of the environment seen through the transforms.
    """
    inverses = (key for part in chain for key in (*part.in_keys_inv, *part.out_keys_inv))
    always = touched.union(inverses, plan.done_keys)
    candidates = [part for part in chain if supports(part, "postponable")]
    late = {part: own for part in candidates if (own := part.postponed())}
    while True:
        acting = (part.entries_touched() or () for part in chain if part not in late)
        busy = always.union(*acting)
        keys = [one.key for own in late.values() for one in own]
        staying = {
            part: own
            for part, own in late.items()
            if all(
                busy.isdisjoint((one.key, one.source))
                and one.fits(plan)
                and not (one.follows_itself and keys.count(one.key) > 1)
                for one in own
            )
        }
        if len(staying) == len(late):
            return late
        late = staying
