"""Hooks pass the contract checks, and planted faults are found."""

import pytest
import torch
from tensordict.nn import TensorDictModule
from torch import nn

from torchrl.testing.hook import check_hook
from torchrl.testing.report import ContractError
from torchrl.trainers import (
    BatchSubSampler,
    ClearCudaCache,
    CountFramesLog,
    EarlyStopping,
    LogDeadUnits,
    LogEpisodes,
    LogScalar,
    LogTiming,
    LRSchedulerHook,
    RewardNormalizer,
    SelectKeys,
    TrainerHookBase,
)


def schedule():
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    optimizer.step()  # torch warns of schedules that step first
    return LRSchedulerHook(schedule)


HOOKS = {
    "sub-sampler": lambda: BatchSubSampler(8),
    "cache": lambda: ClearCudaCache(interval=1),
    "frames": lambda: CountFramesLog(frame_skip=1),
    "stopping": lambda: EarlyStopping(monitor="n_frames"),
    "scalar": lambda: LogScalar(("next", "reward")),
    "dead units": lambda: LogDeadUnits(
        TensorDictModule(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), ["observation"], ["hidden"]), interval=2
    ),
    "episodes": LogEpisodes,
    "timing": LogTiming,
    "schedule": schedule,
    "rewards": RewardNormalizer,
    "keys": lambda: SelectKeys(["observation", "action", "next"]),
}


@pytest.mark.parametrize("name", HOOKS)
def test_contract(name):
    check_hook(HOOKS[name])


class Forgets(TrainerHookBase):
    """Counts batches and saves only whether there were any."""

    stage, name, saved = "post_step", "forgets", ("seen",)

    def __init__(self):
        self.seen = 0

    def __call__(self):
        self.seen += 1

    def load_state_dict(self, state_dict):
        self.seen = bool(state_dict["seen"])


def test_planted_faults_are_found():
    with pytest.raises(ContractError) as caught:
        check_hook(Forgets)
    assert "post_step" in str(caught.value)
    Forgets.stage = "post_steps"
    with pytest.raises(ContractError) as caught:
        check_hook(Forgets)
    assert list(caught.value.failed) == ["resumes_with_the_trainer"]
