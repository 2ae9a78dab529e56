"""Several buffers sampled as one."""

import pytest
import torch
from tensordict import TensorDict

from torchrl.data import (
    LazyTensorStorage,
    OfflineToOnlineReplayBuffer,
    RandomSampler,
    ReplayBuffer,
    ReplayBufferEnsemble,
    RoundRobinWriter,
    SamplerEnsemble,
    SamplerWithoutReplacement,
    StorageEnsemble,
    TensorDictReplayBuffer,
    TensorDictRoundRobinWriter,
    WriterEnsemble,
    prefill_replay_buffer,
)
from torchrl.testing.buffer import assert_same


def parts():
    buffers = []
    for number, size in enumerate((5, 9, 2)):
        buffer = ReplayBuffer(storage=LazyTensorStorage(10))
        rows = TensorDict(which=torch.full((size,), number), item=torch.arange(size), batch_size=[size])
        buffer.extend(rows)
        buffers.append(buffer)
    return buffers


def test_from_all():
    ensemble = ReplayBufferEnsemble(*parts(), sample_from_all=True, batch_size=12)
    sample, info = ensemble.sample(return_info=True)
    assert sample.batch_size == (3, 4)
    assert sample["which"].tolist() == [[0] * 4, [1] * 4, [2] * 4]
    assert torch.equal(sample["item"], info["index"]["index"])
    assert torch.equal(sample["which"], info["index"]["buffer_ids"])
    assert torch.equal(sample["which"], sample["index", "buffer_ids"])
    assert info["buffer_ids"].tolist() == [0, 1, 2]
    assert len(ensemble) == 16
    assert ensemble[1, 3]["item"] == 3
    assert ensemble[2][:]["item"].tolist() == [0, 1]


def test_odds():
    ensemble = ReplayBufferEnsemble(*parts(), p=[1, 3, 0], num_buffer_sampled=4, batch_size=8)
    counts = torch.zeros(3)
    for _ in range(500):
        counts += torch.bincount(ensemble.sample()["which"][:, 0], minlength=3)
    assert counts[2] == 0
    assert abs(counts[1] / counts.sum() - 0.75) < 0.04


def test_transform_and_collate():
    ensemble = ReplayBufferEnsemble(
        *parts(), sample_from_all=True, collate_fn=torch.cat, transform=lambda td: td.set("twice", 2 * td["which"])
    )
    sample = ensemble.sample(6)
    assert sample.batch_size == (6,)
    assert sample["twice"].tolist() == [0, 0, 2, 2, 4, 4]


def test_goes_on_where_it_stood(tmp_path):
    def make(seed):
        return ReplayBufferEnsemble(*parts(), batch_size=6, generator=torch.Generator().manual_seed(seed))

    first, second, third = make(1), make(2), make(3)
    first.sample()
    first[0].extend(TensorDict(which=torch.tensor([7]), item=torch.tensor([8]), batch_size=[1]))
    second.load_state_dict(first.state_dict())
    first.dumps(tmp_path)
    third.loads(tmp_path)
    samples = []
    for ensemble in (first, second, third):
        torch.manual_seed(0)
        samples.append(torch.stack([ensemble.sample() for _ in range(5)]))
    assert_same(samples[0], samples[1])
    assert_same(samples[0], samples[2])


def test_refusals():
    with pytest.raises(ValueError, match=r"does not divide.*multiple of 3, found 7"):
        ReplayBufferEnsemble(*parts()).sample(7)
    with pytest.raises(TypeError, match="takes no p and no number"):
        ReplayBufferEnsemble(*parts(), p=[1, 1, 1], sample_from_all=True)
    with pytest.raises(ValueError, match=r"odds for each buffer; expected 3 numbers"):
        ReplayBufferEnsemble(*parts(), p=[1, 2])


def test_an_ensemble_is_made_of_storages_samplers_and_writers():
    storages = StorageEnsemble(
        LazyTensorStorage(4), LazyTensorStorage(4), transforms=[None, lambda td: td.set("late", td["item"])]
    )
    samplers = SamplerEnsemble(SamplerWithoutReplacement(shuffle=False), RandomSampler(), sample_from_all=True)
    writers = WriterEnsemble(RoundRobinWriter(), TensorDictRoundRobinWriter())
    seen = []
    ensemble = ReplayBufferEnsemble(
        storages=storages,
        samplers=samplers,
        writers=writers,
        collate_fns=[None, lambda td: seen.append(td) or td],
        collate_fn=list,
        batch_size=4,
    )
    rows = TensorDict(item=torch.arange(3), batch_size=[3])
    ensemble[0].extend(rows)
    assert writers.extend(1, rows).tolist() == [0, 1, 2]
    assert writers.add(1, rows[0]) == 3
    plain, late = ensemble.sample()
    assert plain["item"].tolist() == [0, 1]
    assert len(seen) == 1
    assert "late" in late
    assert len(storages) == len(ensemble) == 7
    assert storages[1, 2]["index"] == 2
    assert "late" in storages[1, 2]
    assert storages[0] is ensemble[0].storage


def test_parts_of_an_ensemble_that_do_not_fit():
    with pytest.raises(ValueError, match="a transform, or None, for each storage"):
        StorageEnsemble(LazyTensorStorage(4), transforms=[])
    with pytest.raises(TypeError, match="either buffers, or storages with samplers and writers"):
        ReplayBufferEnsemble(*parts(), storages=StorageEnsemble())
    with pytest.raises(TypeError, match="either buffers, or storages with samplers and writers"):
        ReplayBufferEnsemble(*parts(), collate_fns=[None] * 3)
    with pytest.raises(TypeError, match="the choice of buffers is that of the given samplers"):
        ReplayBufferEnsemble(
            storages=StorageEnsemble(LazyTensorStorage(4)), samplers=SamplerEnsemble(RandomSampler()), p=[1.0]
        )


def old(n=30):
    return TensorDict(item=-torch.arange(n) - 1, batch_size=[n])


def test_offline_to_online():
    buffer = OfflineToOnlineReplayBuffer(old(), online_capacity=10, offline_fraction=0.25)
    assert (buffer.sample(8)["item"] < 0).all()
    buffer.extend(TensorDict(item=torch.arange(13), batch_size=[13]))
    buffer.add(TensorDict(item=torch.tensor(13)))
    assert len(buffer) == 40
    for _ in range(5):
        sample = buffer.sample(8)
        assert (sample["item"] < 0).tolist() == [True] * 2 + [False] * 6
        assert sample["item"][2:].min() >= 4
        assert "index" not in sample
    assert buffer.anneal(50, 100) == 0.125
    assert (buffer.sample(8)["item"] < 0).sum() == 1
    buffer.anneal(200, 100)
    assert (buffer.sample(8)["item"] >= 0).all()
    assert (old(30)["item"] == buffer.offline_buffer[:]["item"]).all()


def test_offline_to_online_goes_on_where_it_stood():
    def make():
        offline = TensorDictReplayBuffer(storage=LazyTensorStorage(30))
        offline.extend(old())
        return OfflineToOnlineReplayBuffer(
            offline, online_storage=LazyTensorStorage(10), batch_size=6, transform=lambda td: td + 1
        )

    first, second = make(), make()
    first.extend(TensorDict(item=torch.arange(13), batch_size=[13]))
    first.anneal(1, 4)
    second.load_state_dict(first.state_dict())
    samples = []
    for buffer in (first, second):
        torch.manual_seed(0)
        samples.append(buffer.sample())
    assert_same(*samples)


def test_offline_to_online_refusals():
    with pytest.raises(TypeError, match="either online_storage or online_capacity"):
        OfflineToOnlineReplayBuffer(old())
    with pytest.raises(ValueError, match=r"is a share; expected \[0, 1\], found 2"):
        OfflineToOnlineReplayBuffer(old(), online_capacity=3, offline_fraction=2)
    with pytest.raises(ValueError, match="size of a sample is not known"):
        OfflineToOnlineReplayBuffer(old(), online_capacity=3).sample()


def test_prefill():
    source = TensorDictReplayBuffer(storage=LazyTensorStorage(30))
    source.extend(old())
    for wanted, copied in ((None, 30), (7, 7), (99, 30)):
        target = TensorDictReplayBuffer(storage=LazyTensorStorage(40))
        target.extend(old(2))
        assert prefill_replay_buffer(target, source, wanted, chunk_size=4) == copied
        assert target[2:]["item"].tolist() == old()["item"][:copied].tolist()
        assert target[:]["index"].tolist() == list(range(2 + copied))
