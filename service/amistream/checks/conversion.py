"""Turns the request of a conversion into a `ReadyConversion` before its snapshot is started, or refuses it.

The source is a volume, whose checks are those of a bundle job, or a bundle, whose checks are those of `unbundle`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace

from amistream.aws.ec2 import Ec2
from amistream.bundles.recognise import names_manifest
from amistream.bundles.unlocked import Unlocked
from amistream.checks.boot.of_request import BootChecks
from amistream.checks.bundle_source import BundleChecks
from amistream.checks.conversion_context import ConversionContext
from amistream.checks.converted_volume import ConvertedVolumeChecks
from amistream.checks.ebs_image import EbsImageChecks
from amistream.checks.findings import Check, Finding, run_checks
from amistream.checks.host import HostChecks
from amistream.checks.preflight import Note, report
from amistream.checks.snapshot_order import SnapshotChecks
from amistream.conversion import ConversionPlan
from amistream.ports.registry import Registration
from amistream.ports.snapshots import SnapshotOrder
from amistream.ports.volume import Volume
from amistream.values import LeftOut


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeSource:
    """A volume that passed its checks. `all_read`: call it once all is read; its file systems may be frozen. Blocks."""

    volume: Volume
    all_read: Callable[[], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleSource:
    """A bundle that passed its checks."""

    unlocked: Unlocked


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadyConversion:
    """A conversion that passed its checks: `close` it."""

    source: VolumeSource | BundleSource
    plan: ConversionPlan
    image_size: int
    order: SnapshotOrder
    """Its token is still empty: the job's id and the attempt decide about it."""
    region: str
    endpoint_url: str
    ec2: Ec2
    registration: Registration | None
    """Without its snapshot."""

    @property
    def left_out(self) -> LeftOut | None:
        return self.plan.left_out

    async def close(self) -> None:
        if isinstance(self.source, VolumeSource):
            await asyncio.to_thread(self.source.volume.close)


class ConversionChecks:
    """The checks of one request; `close` them."""

    def __init__(self, context: ConversionContext, *, is_bundle: bool) -> None:
        self._context = context
        self.bundle = BundleChecks(context) if is_bundle else None
        self.volume = None if is_bundle else ConvertedVolumeChecks(context)
        self.snapshot = SnapshotChecks(
            context, size=lambda: self._source.size, source_region=self._source_region, bundle=is_bundle
        )
        self.image = EbsImageChecks(context, self._source, self.snapshot)

    @property
    def _source(self) -> BundleChecks | ConvertedVolumeChecks:
        found = self.bundle or self.volume
        assert found is not None  # noqa: S101 - for the type checker: it is one of both
        return found

    def checks(self, *, is_job: bool = True) -> list[Check]:
        of_source = self._source.checks()
        if self.volume is not None and self._context.request.registers:
            boot = BootChecks(self._context, self.volume)
            of_source += boot.for_job() if is_job else [boot.for_doctor()]
        state_dir = HostChecks(self._context.settings, self.snapshot).state_dir()
        return [_in_words(check) for check in (*of_source, *self.snapshot.checks(), *self.image.checks(), state_dir)]

    def survey(self) -> list[Check]:
        """The checks that show how much there is to read and to write."""
        return [_in_words(check) for check in (*self._source.checks(), *self.snapshot.checks())]

    async def freeze(self) -> list[Finding]:
        return [] if self.volume is None else await self.volume.freeze()

    async def ready(self) -> ReadyConversion:
        context, snapshot = self._context, self.snapshot
        ec2 = await context.ec2(snapshot.region)
        return ReadyConversion(
            source=self._ready_source(),
            plan=self._plan(),
            image_size=self._source.size,
            order=snapshot.order(self.bundle.address if self.bundle else ""),
            region=snapshot.region,
            endpoint_url=context.endpoint_url,
            ec2=ec2,
            registration=self.image.registration,
        )

    async def close(self) -> None:
        if self.volume is not None:
            await self.volume.close()

    def _source_region(self) -> str:
        return self.bundle.region if self.bundle else ""

    def _ready_source(self) -> VolumeSource | BundleSource:
        if self.bundle is None:
            assert self.volume is not None  # noqa: S101 - for the type checker: it is one of both
            return VolumeSource(volume=self.volume.volume, all_read=self.volume.all_read)
        bundle = self.bundle
        return BundleSource(unlocked=bundle.unlocked)

    def _plan(self) -> ConversionPlan:
        request, settings, volume = self._context.request, self._context.settings, self.volume
        plan = ConversionPlan(
            workers=self.snapshot.workers,
            puts=self.snapshot.puts,
            nice=settings.nice if request.nice is None else request.nice,
        )
        if volume is None:
            return plan
        if volume.is_dense:
            return replace(plan, left_out=volume.left_out)
        extents = volume.extents
        used = None if volume.used == extents else volume.used
        return replace(plan, extents=extents, used=used, left_out=volume.left_out)


async def check_conversion(context: ConversionContext, note: Note) -> ReadyConversion:
    """Check everything, and open the source. Raises `RefusedError`, and leaves nothing behind then."""
    checks = await conversion_checks(context)
    try:
        report(await run_checks(checks.checks()), note)
        # Last of all: writers wait from now on.
        report(await checks.freeze(), note)
        return await checks.ready()
    except BaseException:
        await checks.close()
        raise


async def conversion_checks(context: ConversionContext) -> ConversionChecks:
    """The checks that fit the source."""
    is_bundle = await asyncio.to_thread(names_manifest, context.request.source or "", context.roots)
    return ConversionChecks(context, is_bundle=is_bundle)


def _in_words(check: Check) -> Check:
    """The check with findings that say `convert`: the rooms below open volumes for bundles."""
    return replace(check, words=("cannot bundle", "cannot convert"))
