"""What distributed collectors refuse before a rank, a job or an actor is started."""

import sys

import pytest
import torch

from torchrl.collectors.distributed import DistributedCollector, DistributedSyncCollector, RPCCollector
from torchrl.testing.mocks import CountingEnv
from torchrl.weight_update import DistributedWeightSyncScheme, RPCWeightSyncScheme


def make(kind=DistributedCollector, **options):
    return kind([CountingEnv], frames_per_batch=1, **options)


def test_rpc():
    with pytest.raises(NotImplementedError, match=r"no longer developed.*DistributedCollector.*RayCollector"):
        RPCCollector(CountingEnv, frames_per_batch=1)
    with pytest.raises(NotImplementedError, match=r"no longer developed.*Distributed"):
        RPCWeightSyncScheme()


@pytest.mark.parametrize(
    ("option", "error", "text"),
    [
        ({"launcher": "ssh"}, ValueError, r"DistributedCollector: has no such launcher; expected .*found ssh"),
        ({"launcher": "submitit_delayed"}, ValueError, r"found submitit_delayed\. Submit the script .*'torchrun'"),
        ({"backend": "mpi"}, ValueError, r"DistributedCollector: has no such backend; expected .*gloo.*found mpi"),
        ({"launcher": "torchrun"}, RuntimeError, "torchrun --nproc-per-node"),
    ],
)
def test_wrong_options(option, error, text, monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(error, match=text.replace("DistributedCollector", "Distributed(Async)?Collector")):
        make(**option)


@pytest.mark.parametrize("has_cuda", [False, True])
@pytest.mark.parametrize("use", [lambda: make(backend="nccl"), lambda: DistributedWeightSyncScheme(backend="nccl")])
def test_nccl(use, has_cuda, monkeypatch):
    """With and without CUDA: batches are made on the CPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_cuda)
    with pytest.raises(
        ValueError, match=r"no such backend; expected .*gloo.*found nccl\. .* from the CPU.*leave it out"
    ):
        use()


def test_sync_cannot_contradict_the_class():
    with pytest.raises(ValueError, match="sync=False"):
        make(DistributedSyncCollector, sync=False)


def test_submitit_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ImportError, match=r'Collector needs submitit: pip install "torchrl\[distributed\]"'):
        make(launcher="submitit")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"cluster": "pbs"}, r"submitit refuses slurm_kwargs: .*executor named pbs"),
        ({"cluster": "local", "queue": "cpu"}, r"submitit refuses slurm_kwargs: .*'queue'"),
        ({"cluster": "local", "slurm_queue": "cpu"}, r"submitit refuses slurm_kwargs: .*'slurm_queue'"),
        ({"cluster": "local", "mem_gb": "much"}, r"submitit refuses slurm_kwargs: .*\"mem_gb\""),
        ({"cluster": "slurm"}, r"submitit refuses slurm_kwargs: .*srun"),
    ],
)
def test_parameters_of_jobs(options, text, tmp_path, monkeypatch):
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(tmp_path))  # without srun
    with pytest.raises(ValueError, match=text):
        make(launcher="submitit", slurm_kwargs={"folder": tmp_path, **options})
