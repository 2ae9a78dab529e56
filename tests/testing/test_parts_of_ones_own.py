"""Parts that were written from docs/own_parts.md alone pass every contract check."""

import torch

from torchrl.data import Categorical, Sampler, Unbounded
from torchrl.envs import Transform
from torchrl.modules import ExplorationModule
from torchrl.testing import check_exploration, check_sampler, check_transform


class AgePrioritizedSampler(Sampler):
    """Draws a row with a probability that decays with its age."""

    def __init__(self, decay=0.9):
        self.decay = decay

    def sample(self, storage, batch_size):
        weight = self.decay ** torch.arange(storage.rows).float()
        age = torch.multinomial(weight, batch_size, True, generator=self.generator)
        column = torch.randint(storage.width, (batch_size,), generator=self.generator)
        slot = (storage.written - 1 - age) % storage.capacity
        chance = weight[age] / weight.sum() / storage.width
        return slot * storage.width + column, {"chance": chance}


class RunningMaximum(Transform):
    """Adds the largest value of each number of an entry so far in the episode."""

    def __init__(self, in_key="observation", out_key="maximum"):
        super().__init__()
        self.in_key, self.out_key = in_key, out_key

    def _reset(self, td, td_reset):
        return td_reset.set(self.out_key, td_reset[self.in_key].clone())

    def _step(self, td, next_td):
        return next_td.set(self.out_key, torch.maximum(td[self.out_key], next_td[self.in_key]))

    def transform_specs(self, specs):
        spec = specs["observation"][self.in_key]
        specs["observation"][self.out_key] = Unbounded(spec.shape, dtype=spec.dtype, device=spec.device)
        return specs


class StickyAction(ExplorationModule):
    """Replaces an action, with a probability, by another one."""

    def __init__(self, spec, probability=0.3, action_key="action"):
        super().__init__(spec, action_key)
        self.probability = probability

    def _explore(self, td):
        action = td.get(self.action_key)
        other = self.action_spec.rand(action.shape)
        replaced = torch.rand(action.shape) < self.probability
        td.set(self.action_key, torch.where(replaced, other, action))


def test_a_sampler():
    check_sampler(AgePrioritizedSampler)


def test_a_transform_with_memory():
    check_transform(RunningMaximum)


def test_an_exploration_module():
    check_exploration(lambda: StickyAction(Categorical(5)))
