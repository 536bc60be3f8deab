"""Checks the volume of a bundle, and plans the bundle: number of parts, parts in flight, memory."""

from __future__ import annotations

from amistream.checks.destination import BundleContext
from amistream.checks.findings import Check
from amistream.checks.source import SourceChecks, reading_memory
from amistream.errors import RefusedError
from amistream.plan import Plan
from amistream.request import PREFIX_WORDS
from amistream.settings import concurrency_within, memory_ceiling
from amistream.stages.level import level_number
from amistream.stages.manifest import SIGNED_MAX, signed_size
from amistream.units import size_text
from amistream.values import GIB, KIB, MIB, is_prefix

JOURNAL_PER_PART = 2 * KIB
"""Growth of the journal. Measured: 560 bytes a part; rounded up."""


class BundlingChecks(SourceChecks):
    """The plan is known once the checks have passed."""

    def __init__(self, context: BundleContext) -> None:
        super().__init__(context)
        request, settings = context.request, context.settings
        self._prefix = context.prefix
        self._compress = request.compress or settings.compress
        self._concurrency = 0
        self.reading_memory = reading_memory(request.source, settings)
        self.part_size = int(request.part_size or settings.part_size)
        self.wanted_concurrency = request.upload_concurrency or settings.upload_concurrency

    def checks(self, *, check_mounts: bool = True) -> list[Check]:
        why = "EC2 would refuse the manifest after everything was stored"
        parts = Check("parts", why, self._check_parts, ("source",))
        return [*super().checks(check_mounts=check_mounts), parts, self.memory_check()]

    def memory_check(self) -> Check:
        """The check that needs no volume."""
        return Check("memory_limit", "the process would grow beyond the limit", self._choose_concurrency)

    @property
    def most_parts(self) -> int:
        # Incompressible data grows by far less than this thousandth.
        return (self.volume.size + self.volume.size // 1000) // self.part_size + 1

    @property
    def journal_size(self) -> int:
        """Bytes that the journal may grow by; 0 until the volume is opened."""
        return JOURNAL_PER_PART * self.most_parts if self.opened else 0

    @property
    def most_memory(self) -> int:
        """Bytes that the process may use with this job alone."""
        ceiling = self.ceiling(self.wanted_concurrency)
        return min(ceiling, self.memory_limit) if self.memory_limit else ceiling

    def plan(self) -> Plan:
        request, settings = self._request, self._settings
        dense, extents = self.is_dense, self.extents
        return Plan(
            prefix=self._prefix,
            part_size=self.part_size,
            block_size=int(settings.block_size),
            workers=self.workers,
            level=level_number(self._compress),
            upload_concurrency=self._concurrency,
            nice=settings.nice if request.nice is None else request.nice,
            extents=None if dense else extents,
            used=None if dense or self.used == extents else self.used,
            left_out=self.left_out,
        )

    def _check_parts(self) -> str:
        prefix, size = self._prefix, self.volume.size
        if not is_prefix(prefix):
            raise RefusedError(
                "prefix.invalid",
                f"cannot name the parts: the prefix {prefix!r} is not {PREFIX_WORDS}",
                hint="choose another --prefix, or correct the setting prefix",
                field="prefix",
            )
        if signed_size(prefix, self.most_parts) > SIGNED_MAX:
            raise RefusedError(
                "part_size.too_small",
                f"cannot cut {size / GIB:.2f} GiB into parts of {self.part_size} bytes: EC2 accepts about 7000 parts",
                hint="give a larger --part-size; the AMI tools use 10MiB",
                field="part_size",
            )
        return f"at most {self.most_parts} of {size_text(self.part_size)} each"

    def _choose_concurrency(self) -> str:
        """Parts in flight: as requested, or as many as fit in the memory limit."""
        limit, self._concurrency = self.memory_limit, self.wanted_concurrency
        if limit is not None:
            block_size = int(self._settings.block_size)
            spare = limit - self.reading_memory
            fitting = concurrency_within(spare, workers=self.workers, block_size=block_size, part_size=self.part_size)
            if fitting < 1:
                raise RefusedError(
                    "memory_limit.too_small",
                    f"cannot keep within {limit / MIB:.0f} MiB: {self.workers} workers and one part of "
                    f"{self.part_size / MIB:g} MiB in flight need {self.ceiling(1) / MIB:.0f} MiB",
                    hint="give a larger --memory-limit, or a smaller --part-size, or fewer --workers",
                    field="memory_limit",
                )
            self._concurrency = min(self._concurrency, fitting)
        of = f" of {size_text(limit)}" if limit else ""
        return f"{self._concurrency} parts in flight, at most {size_text(self.ceiling(self._concurrency))}{of}"

    def ceiling(self, upload_concurrency: int) -> int:
        """Bytes of memory that the job may use with this many parts in flight."""
        ceiling = memory_ceiling(
            workers=self.workers,
            block_size=int(self._settings.block_size),
            part_size=self.part_size,
            upload_concurrency=upload_concurrency,
        )
        return ceiling + self.reading_memory
