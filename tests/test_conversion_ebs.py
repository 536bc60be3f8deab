"""The path to a snapshot against the strict double of EBS: the volume read back is the image, whatever goes wrong."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from amistream.conversion import Conversion, ConversionPlan, Converted, VolumeBlocks
from amistream.flow.retry import RetryPolicy
from amistream.ports.snapshots import BLOCK
from amistream.source.file import open_volume
from amistream.stages import put
from aws.snapshots import order, snapshots_at
from stages.memory_snapshot import MemoryBlockLedger
from support.ebs_endpoint import SLOW_BODY, read_back
from support.passes import nothing_runs
from support.volumes import sparse_image

if TYPE_CHECKING:
    from support.ebs_endpoint import EbsEndpoint

TOUCHED = [*range(21), *range(30, 46), 59]
"""The blocks with data."""
RETRY = RetryPolicy(attempts=6, base_s=0.01, cap_s=0.05, stall_s=20.0)
BLOCKS = 60
SIZE = BLOCKS * BLOCK - 7
EXTENTS = [(0, 20 * BLOCK + 100), (30 * BLOCK + 4096, 15 * BLOCK), (SIZE - 5, 5)]


def nothing_more(endpoint: EbsEndpoint) -> None:
    """Leave the endpoint as it is."""


def fails(endpoint: EbsEndpoint) -> None:
    endpoint.set(failing_share=0.2, failing_operations=["PutSnapshotBlock"])


def is_unknown(endpoint: EbsEndpoint) -> None:
    endpoint.set(unknown_requests=30)


def throttles(endpoint: EbsEndpoint) -> None:
    endpoint.set(puts_per_second=40, burst=10)


def cuts(endpoint: EbsEndpoint) -> None:
    for number in range(3, 40, 5):
        endpoint.fault("PutSnapshotBlock", do="cut" if number % 10 == 3 else "lose", nth=number)


def hangs(endpoint: EbsEndpoint) -> None:
    for number in (1, 20, 35):
        endpoint.fault("PutSnapshotBlock", do="hang" if number == 20 else "hang_after", nth=number)


def receives_slowly(endpoint: EbsEndpoint) -> None:
    """Refuse some blocks more often than a request is tried."""
    for index in (0, 59):
        endpoint.fault("PutSnapshotBlock", index=index, times=RETRY.attempts + 2, **SLOW_BODY)


def writes_slowly(endpoint: EbsEndpoint) -> None:
    """Never answer a put, and be busy with it for longer than a request is tried."""
    conflict: dict[str, Any] = {"code": "ValidationException", "status": 400, "reason": "CONFLICTING_BLOCK_UPDATE"}
    endpoint.fault("PutSnapshotBlock", "hang_after", index=5)
    endpoint.fault("PutSnapshotBlock", index=5, nth=2, times=RETRY.attempts + 2, **conflict)


def has_all_troubles(endpoint: EbsEndpoint) -> None:
    for trouble in (fails, is_unknown, throttles, cuts):
        trouble(endpoint)


async def convert(image: Path, endpoint: EbsEndpoint, retry: RetryPolicy) -> tuple[str, Converted]:
    """Convert and complete; returns the id of the snapshot."""
    plan, ledger = ConversionPlan(workers=2, puts=16), MemoryBlockLedger()
    async with snapshots_at(endpoint) as ebs:
        snapshot = await ebs.start(order("made"))
        with closing(open_volume(image)) as volume:
            source = VolumeBlocks(volume, replace(plan, extents=volume.extents()))
            made = Conversion(plan, source, ebs, snapshot.id, retry=retry, ledger=ledger)
            converted = await made.run()
        assert set(ledger.digests) == set(TOUCHED)
        assert ledger.open == set()
        await ebs.complete(snapshot.id, converted.blocks, converted.checksum)
    await nothing_runs()
    return snapshot.id, converted


TROUBLES = (
    nothing_more,
    fails,
    is_unknown,
    throttles,
    cuts,
    hangs,
    receives_slowly,
    writes_slowly,
    has_all_troubles,
)


@pytest.mark.parametrize("trouble", TROUBLES)
async def test_round_trip(
    trouble: Callable[[EbsEndpoint], None], ebs_endpoint: EbsEndpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The snapshot reads back as the image, with every block put that holds data, and none besides."""
    image = sparse_image(tmp_path / "image", SIZE, EXTENTS)
    trouble(ebs_endpoint)
    if trouble is writes_slowly:
        monkeypatch.setattr(put, "LONGEST_PUT_S", 0.3)
    retry = replace(RETRY, stall_s=0.5) if trouble is hangs else RETRY
    made, converted = await convert(image, ebs_endpoint, retry)
    assert converted.blocks_put == converted.blocks == len(TOUCHED)
    snapshot = ebs_endpoint.snapshot(made)
    assert snapshot["distinct"] == len(TOUCHED)
    if trouble in {nothing_more, fails, is_unknown, throttles}:
        assert snapshot["puts"] == len(TOUCHED)
    assert read_back(ebs_endpoint, made, tmp_path / "back") == TOUCHED
    with (tmp_path / "back").open("rb") as back, image.open("rb") as original:
        assert back.read(SIZE) == original.read()
        assert not any(back.read(BLOCK))
