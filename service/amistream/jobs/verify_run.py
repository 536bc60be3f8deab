"""One run of a verification: find the bundle and the keys, then compare all parts with the manifest.

Nothing is written, so nothing is undone, and a later run begins anew. A run that finds differences fails, and its
result is the report even so.
"""

from __future__ import annotations

import asyncio
from datetime import datetime
from pathlib import Path
from typing import ClassVar

from amistream.bundles.owner import Owner, find_owner
from amistream.bundles.place import Bundle, find_bundle, open_place
from amistream.bundles.verify import verify
from amistream.errors import DifferenceError, RefusedError
from amistream.events import State
from amistream.flow.undo import Progress
from amistream.jobs.bounded_report import bounded
from amistream.jobs.bundle_progress import BundleMeter
from amistream.jobs.job import Job
from amistream.jobs.records import JournalEntry
from amistream.jobs.reporting import reporting
from amistream.jobs.run import Shared
from amistream.location import DirectoryLocation, parse_manifest_address
from amistream.reports import Report
from amistream.request.verify import VerifyRequest
from amistream.settings import Settings


class VerifyRun:
    """One run of a verification (`run.Run`)."""

    KEEPS: ClassVar[str] = "results"
    ONLY_READS: ClassVar[bool] = True

    resumed = False
    """An earlier run has left nothing."""
    kept = 0
    worth_keeping = False
    stays: tuple[str, ...] = ()
    late_until: datetime | None = None

    def __init__(self, job: Job, shared: Shared) -> None:
        request = job.request
        assert isinstance(request, VerifyRequest)  # noqa: S101 - for the type checker; `load_run` has chosen this run
        self._job = job
        self._request = request
        self._shared = shared
        self._roots = job.roots(shared.settings)
        self.result: Report | None = None

    @classmethod
    async def load(cls, job: Job, entry: JournalEntry, shared: Shared) -> VerifyRun:
        """The run of a job. Earlier runs left nothing in its entry."""
        del entry
        return cls(job, shared)

    @property
    def finished(self) -> bool:
        return self.result is not None and not self.result.differences

    async def run(self) -> Report:
        request, settings = self._request, self._settings
        await self._move(State.CHECKING)
        owner = await asyncio.to_thread(self._find_owner)
        bundle = await self._find_bundle()
        if request.deep:
            # `verify` opens it, too. Here the job is still refused if it cannot.
            await asyncio.to_thread(owner.open_key, bundle.manifest)
        await self._move(State.VERIFYING)
        meter = BundleMeter()
        async with reporting(self._job, meter):
            report = await verify(bundle, owner, settings, self._shared.aws, meter=meter.counters, deep=request.deep)
        self.result = bounded(report)
        if report.differences:
            raise _difference_error(report, self._job.id + self._shared.journal.option)
        return self.result

    def conclude(self) -> Report:
        assert self.result is not None  # noqa: S101 - for the type checker; it is finished
        return self.result

    async def undo(self, progress: Progress) -> None:
        """Nothing is to be removed."""

    @property
    def _settings(self) -> Settings:
        """The settings, with the region and endpoint of the request."""
        request = self._request
        given = {"region": request.region, "endpoint_url": request.endpoint_url}
        return self._shared.settings.model_copy(update={name: value for name, value in given.items() if value})

    def _find_owner(self) -> Owner:
        request = self._request
        certificate, private_key = (Path(each) if each else None for each in (request.certificate, request.private_key))
        if self._roots is not None and not (certificate or private_key):
            # The daemon's own pair is not a member's.
            return Owner(certificate=None, identity=None, named=False)
        return find_owner(self._settings, certificate, private_key, self._roots)

    async def _find_bundle(self) -> Bundle:
        request, settings = self._request, self._settings
        folder, name = parse_manifest_address(request.manifest)
        if self._roots is not None and isinstance(folder, DirectoryLocation):
            raise RefusedError(
                "manifest.directory",
                f"cannot verify {request.manifest}: only root and the daemon's own user may verify one in a directory",
                hint="give the bundle's address in S3, s3://BUCKET/KEY/NAME.manifest.xml, or run `amistream verify` "
                "without --detach",
                field="manifest",
            )
        place = await open_place(folder, settings, self._shared.aws, region=request.region or "")
        return await find_bundle(place, name)

    async def _move(self, state: State) -> None:
        self._job.move(state)
        await self._shared.journal.update(self._job.view())


def _difference_error(report: Report, job: str) -> DifferenceError:
    """The error of the first difference, with the number of further ones. `job` names it in commands."""
    first, *others = report.differences
    more = f" ({len(others)} more)" if others else ""
    return DifferenceError(
        f"bundle.{first.what}",
        f"cannot confirm {report.manifest}: {first.message}{more}",
        hint=f"`amistream status {job}` shows the report, which lists the differences",
        field="manifest",
    )
