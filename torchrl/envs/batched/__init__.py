"""Batched environments: several environments stepped as one, in this process or in workers.

A batched step, file by file:

1. ``base.py``: :class:`BatchedEnvBase` is the environment with batch size ``[N, *B]``. Its specs
   are the stacked specs of the environments; ``serial.py`` and ``parallel.py`` choose the pool.
2. ``transport.py``: the record is written into the rows of a memory (``shared_rows.py``), or is
   split into one record for each environment where there are no rows.
3. ``pools.py``: the pool sends one byte to each worker, and later receives one byte from each.
4. ``worker.py``: each worker reads its rows, steps its environments, and writes the results; it
   resets the environments whose episode has ended if the caller will reset them anyway.
5. ``transport.py``: copies of the rows are the result of the step.

``async_pool.py`` steps the environments independently; ``view.py`` shows some of them.
"""

from torchrl.envs.batched.base import BatchedEnvBase
from torchrl.envs.batched.parallel import ParallelEnv
from torchrl.envs.batched.serial import SerialEnv

__all__ = ["BatchedEnvBase", "ParallelEnv", "SerialEnv"]
