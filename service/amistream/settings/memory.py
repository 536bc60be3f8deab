"""The memory that the process needs, as formulas of the settings: no volume's size is in them.

`tests/test_conversion_memory.py`, `tests/end_to_end` and the benchmarks measure it.
"""

from __future__ import annotations

from amistream.values import KIB, MIB

BLOCKS_AT_ONCE = 8
"""Blocks of 512 KiB that a conversion reads and hands over together."""
_BLOCK = 512 * KIB
_EBS_CLIENTS = 12 * MIB
"""The SDK's clients of EBS and EC2. Measured: 8 MiB."""
_TLS = 256 * KIB
"""Of each connection: what it decrypts into, and slices that are encrypted. Measured."""
_UNPACKING = 14 * MIB
"""Of the ranges that were fetched, and for each worker of a run of the archive. Measured: 37 MiB with 2 workers."""
PROCESS_BASELINE = 130 * MIB
"""Measured: the daemon's RSS with the clients of S3, EC2 and STS made and no job (125 MiB), rounded up. It was 4 MiB
more with pydantic-settings and every model built when it is loaded.
"""


def memory_ceiling(*, workers: int, block_size: int, part_size: int, upload_concurrency: int, jobs: int = 1) -> int:
    """Bytes of RSS that the process stays under with so many jobs at once, whatever the volumes' sizes.

    baseline + per job: per worker (a block, its deflated form twice, 128 KiB of ciphertext) + (uploads in flight + 2)
    parts: one part being filled and one being handed over.
    """
    per_worker = 3 * block_size + 128 * KIB
    return PROCESS_BASELINE + jobs * (workers * per_worker + (upload_concurrency + 2) * part_size)


def conversion_ceiling(*, workers: int, puts: int, jobs: int = 1, unpacks: bool = False) -> int:
    """Bytes of RSS that the process stays under with so many conversions at once, whatever the images' sizes.

    baseline + the SDK's clients + per job: `conversion_buffers` blocks, and for each put half a block, which is what
    HTTPS holds for a connection. A job that `unpacks` a bundle has ranges and runs of its archive besides.
    """
    buffers = conversion_buffers(workers=workers, puts=puts) * _BLOCK + puts * _TLS
    return PROCESS_BASELINE + _EBS_CLIENTS + jobs * (buffers + unpacks * (1 + workers) * _UNPACKING)


def puts_within(limit: int, *, workers: int, unpacks: bool = False) -> int:
    """The most puts whose `conversion_ceiling` is within `limit` bytes; below 1 when not even one is."""
    spare = limit - conversion_ceiling(workers=workers, puts=0, unpacks=unpacks)
    return spare // (_BLOCK + _TLS)


def conversion_buffers(*, workers: int, puts: int) -> int:
    """Blocks in memory: those in flight, and 4 MiB for each worker, for the one being read and for the ledger."""
    return puts + (workers + 2) * BLOCKS_AT_ONCE


def concurrency_within(limit: int, *, workers: int, block_size: int, part_size: int) -> int:
    """The most parts in flight whose `memory_ceiling` is within `limit` bytes; below 1 when not even one is."""
    spare = limit - memory_ceiling(workers=workers, block_size=block_size, part_size=part_size, upload_concurrency=0)
    return spare // part_size
