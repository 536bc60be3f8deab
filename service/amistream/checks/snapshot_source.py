"""Opens an EBS snapshot as the source of a job or of `inspect`: region, credentials, and the right to read it."""

from __future__ import annotations

from amistream.aws.credentials import no_credentials
from amistream.aws.ebs import open_ebs
from amistream.aws.session import Aws
from amistream.errors import RefusedError
from amistream.flow.retry import retry_policy
from amistream.roots import Roots
from amistream.settings import Settings
from amistream.source.snapshot import SnapshotVolume, open_snapshot


async def open_snapshot_source(
    aws: Aws,
    settings: Settings,
    snapshot_id: str,
    *,
    region: str,
    endpoint_url: str,
    most: int | None = None,
    roots: Roots | None = None,
) -> SnapshotVolume:
    """Open a snapshot of the region. It reads on the running loop. Raises `RefusedError` or `StoreError`.

    Refused are one of more than `most` bytes, and any for a confined job, with `roots`: the daemon's credentials read
    the disks of the whole account.
    """
    if roots is not None:
        raise RefusedError(
            "source.snapshot_forbidden",
            f"cannot bundle {snapshot_id}: users other than root may not read snapshots through the daemon, whose "
            "credentials read those of the whole account",
            hint="add --in-process, with credentials of your own, or ask the administrator to run the job",
            field="source",
        )
    if not region:
        raise RefusedError(
            "region.missing",
            f"cannot look for {snapshot_id}: the region is not known",
            hint="give --region, or set AWS_REGION",
            field="region",
        )
    if not await aws.has_credentials():
        raise no_credentials(f"read {snapshot_id}")
    ebs = await open_ebs(aws, region, endpoint_url, settings.stall_timeout_s)
    return await open_snapshot(ebs, snapshot_id, retry=retry_policy(settings), puts=settings.puts, most=most)
