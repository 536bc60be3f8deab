"""The boot checks as a check of a request: all findings for `doctor`, notices for a job, refusals with --strict.

The system of an image holds much that belongs to one machine, and much that cannot be checked: a job reports each of
the two in one notice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from amistream.checks.boot.examine import examine_boot
from amistream.checks.boot.faults import IDENTITY, noted
from amistream.checks.boot.wanted import Wanted
from amistream.checks.context import RequestContext
from amistream.checks.findings import Check, Observation, Status
from amistream.checks.source import SourceChecks
from amistream.errors import SourceError
from amistream.ports.volume import Kind, Volume
from amistream.request import CheckRequest, VolumeRequest
from amistream.settings import Settings, Sparse
from amistream.source.disk_reader import reader_of
from amistream.values import quoted

BARE = "boot.bare_file_system"
_DOUBTS = {"boot.table", "boot.torn", "boot.errors"}


class BootChecks:
    """Checks whether the AMI of a request will boot."""

    def __init__(self, context: RequestContext, source: SourceChecks) -> None:
        self._context = context
        self._source = source

    def for_doctor(self) -> Check:
        return Check("boot", "the AMI would not boot", self._all, ("source",))

    def for_job(self) -> list[Check]:
        """None for a paravirtual AMI: its kernel is not in the image, so hardly anything is certain."""
        if not self._context.request.is_hvm:
            return []
        return [Check("boot", "the AMI would not boot", self._as_notices, ("source",))]

    def _all(self) -> list[Observation]:
        if self._source.volume.kind is Kind.STREAM:
            return [Observation("a stream cannot be checked before it has been read", Status.SKIPPED)]
        return self._examine() or [Observation("nothing was found that keeps the AMI from booting")]

    def _as_notices(self) -> list[Observation]:
        if self._source.volume.kind is Kind.STREAM:
            return []
        found = self._examine()
        request, settings = self._context.request, self._context.settings
        if (request.sparse or settings.sparse) is not Sparse.NEVER:
            # The check of free blocks reports the same doubts.
            found = [each for each in found if each.code not in _DOUBTS]
        volume = self._source.volume
        fix = f"`amistream inspect {quoted(str(volume.path))}` lists them"
        if volume.kind is Kind.TREE:
            fix = f"--clean all leaves them out; {fix}"
        return list(_for_job(found, fix, is_strict=request.strict))

    def _examine(self) -> list[Observation]:
        wanted = wanted_by(self._context.request, self._context.settings)
        found = examine_volume(self._source.volume, replace(wanted, is_wrapped=self._source.boot_area.is_new))
        # A conversion is refused for it.
        return [each for each in found if not (wanted.on_ebs and each.code == BARE)]


def examine_volume(volume: Volume, wanted: Wanted) -> list[Observation]:
    try:
        return examine_boot(reader_of(volume), volume.size, wanted)
    except SourceError:
        return []  # the job fails later, with a message of its own


def wanted_by(request: VolumeRequest, settings: Settings) -> Wanted:
    wanted = Wanted(architecture=request.architecture or settings.architecture, paravirtual=not request.is_hvm)
    if isinstance(request, CheckRequest):
        return replace(wanted, sriov=request.sriov, ena=request.ena)
    from amistream.request.convert import ConvertCheckRequest  # noqa: PLC0415 - for a conversion only

    if isinstance(request, ConvertCheckRequest):
        sriov, ena = bool(request.sriov), bool(request.ena)
        return replace(wanted, on_ebs=True, boot_mode=request.boot_mode or "", sriov=sriov, ena=ena)
    return wanted


def _for_job(found: Sequence[Observation], identity_fix: str, *, is_strict: bool) -> Iterator[Observation]:
    for each in found:
        if each.status is Status.FAILED and is_strict:
            yield each
        elif each.status is Status.FAILED or (each.status is Status.NOTICE and not _is_identity(each)):
            yield replace(each, status=Status.NOTICE)
    if traces := [each for each in found if _is_identity(each)]:
        words = ", ".join(each.code.rpartition(".")[2].replace("_", " ") for each in traces)
        count = f"{len(traces)} things" if len(traces) > 1 else "something"
        yield noted(
            IDENTITY,
            f"the image holds {count} of this machine: {words}",
            why="every instance would share them",
            fix=identity_fix,
        )
    if doubts := [each for each in found if each.status is Status.UNKNOWN]:
        text = "; ".join(dict.fromkeys(each.found for each in doubts))
        yield replace(doubts[0], status=Status.NOTICE, found=text, why="the AMI may not boot")


def _is_identity(each: Observation) -> bool:
    return each.code.startswith(f"boot.{IDENTITY}.")
