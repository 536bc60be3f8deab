"""Runs of a conversion against the double of EBS, and what must be there in the end."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amistream.events import ConversionResult, State
from amistream.ports.snapshots import BLOCK
from amistream.request import parse_request
from amistream.request.convert import ConvertRequest
from support.boot_disks import partitioned
from support.ebs_endpoint import read_back
from support.volumes import sparse_image

if TYPE_CHECKING:
    from amistream.jobs.job import Job
    from support.ebs_endpoint import EbsEndpoint

RESULT = ConversionResult(
    snapshot_id="snap-0123456789abcdef0",
    region="eu-west-1",
    image_id=None,
    image_name=None,
    image_size=9,
    volume_size=1 << 30,
    blocks=3,
    blocks_put=2,
    blocks_read=4,
    checksum="00" * 32,
    elapsed_s=1.5,
    cpu_s=0.5,
    stages=(),
)
"""A result that a snapshot without an AMI may have."""


def make_disk(path: Path) -> Path:
    """A disk with a table, a hole, and an end within a block."""
    spans = [(BLOCK, 11 * BLOCK), (14 * BLOCK, 11 * BLOCK), (39 * BLOCK, BLOCK + 12_345)]
    return partitioned(sparse_image(path, 40 * BLOCK + 12_345, spans), "mbr").path


def indices(disk: Path) -> list[int]:
    """The blocks of a disk that are not zeros."""
    data = disk.read_bytes()
    return [start // BLOCK for start in range(0, len(data), BLOCK) if data[start : start + BLOCK].strip(b"\0")]


@dataclass(kw_only=True)
class Conversions:
    """A disk, the endpoint, and the settings of requests."""

    disk: Path
    endpoint: EbsEndpoint
    directory: Path

    @property
    def blocks(self) -> list[int]:
        """The blocks that the disk's snapshot needs."""
        return indices(self.disk)

    def request(self, source: Path | None = None, **changes: Any) -> ConvertRequest:
        """A conversion of the disk to an AMI."""
        values = {
            "kind": "convert",
            "source": str(source or self.disk),
            "endpoint_url": self.endpoint.url,
            "ami_name": "web 1",
            "puts": 4,
            **changes,
        }
        asked = parse_request({name: value for name, value in values.items() if value is not None})
        assert isinstance(asked, ConvertRequest)
        return asked

    def holds(self, snapshot: str, disk: Path | None = None) -> None:
        """Assert that the snapshot reads as the disk, with zeros behind it."""
        back = self.directory / "back.img"
        last = max(read_back(self.endpoint, snapshot, back), default=0)
        data = (disk or self.disk).read_bytes()
        with back.open("rb") as file:
            assert file.read(len(data)) == data
            # The rest of the file is a hole.
            assert not file.read(max(0, (last + 1) * BLOCK - len(data))).strip(b"\0")
        back.unlink()

    def fits(self, job: Job, disk: Path | None = None) -> ConversionResult:
        """Assert that the job is done, and has left its snapshot and its AMI, and nothing else."""
        assert job.state is State.DONE, (job.error, job.notices)
        result = job.result
        assert isinstance(result, ConversionResult)
        (snapshot,) = self.endpoint.snapshots()
        assert (snapshot["id"], snapshot["state"]) == (result.snapshot_id, "completed")
        assert snapshot["distinct"] == result.blocks
        images = self.endpoint.images()
        assert [each["imageId"] for each in images] == ([result.image_id] if result.image_id else [])
        self.holds(result.snapshot_id, disk)
        return result

    def left(self) -> list[str]:
        """The snapshots and AMIs that are there."""
        state = self.endpoint.state()
        return [*(each["id"] for each in state["snapshots"]), *(each["imageId"] for each in state["images"])]

    def puts(self) -> Sequence[int]:
        """The indices of the puts that were accepted, in their order."""
        return [each["index"] for each in self.endpoint.requests("PutSnapshotBlock") if each["status"] == 201]

    def copy(self, name: str) -> Path:
        """A copy of the disk, to be changed."""
        return Path(shutil.copy(self.disk, self.directory / name))
