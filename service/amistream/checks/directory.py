"""Checks a directory as destination: write permission, free space, and no other bundle. Changes nothing."""

from __future__ import annotations

import os
from pathlib import Path

from amistream.checks.destination import Destination
from amistream.checks.findings import Check, Observation, notice
from amistream.checks.free_place import check_names
from amistream.checks.source import SourceChecks
from amistream.errors import StoreError
from amistream.location import DirectoryLocation
from amistream.roots import pinned_directory
from amistream.stores.directory import read_only_hint
from amistream.units import size_text
from amistream.values import quoted

MOST_DEFLATED = 1032
"""Deflate's highest compression ratio, reached by zeros."""


class DirectoryChecks:
    """The region is known once the check `region` has run."""

    def __init__(self, address: Destination, location: DirectoryLocation, source: SourceChecks) -> None:
        self._address = address
        self._source = source
        self._directory = location.path
        self._roots = address.roots
        self._free = 0
        self.region = ""

    def checks(self, *, must_be_empty: bool) -> list[Check]:
        """Without `must_be_empty` a bundle of this name may exist already."""
        free = Check("destination", "an existing bundle would be overwritten", self._check_names, ("directory",))
        return [
            Check("region", "EC2's certificate depends on the region", self._choose_region),
            Check("directory", "nothing could be written there", self._check_directory),
            Check("space", "the job would fill the disk", self._check_space, ("directory", "source"), ("free_blocks",)),
            *([free] if must_be_empty else []),
        ]

    async def is_elsewhere(self) -> bool:
        """True if the request or the settings name an endpoint."""
        return bool(self._address.endpoint_url)

    async def _choose_region(self) -> str:
        self.region = self._address.request.region or await self._address.aws.default_region()
        return self.region or "not known"

    def _check_directory(self) -> Observation | str:
        """Check the directory, or if it is missing its nearest parent. Both must lie within the roots."""
        directory = self._directory
        for folder in (directory, *directory.parents):
            try:
                with pinned_directory(folder, self._roots, field="destinations") as pin:
                    writable = os.access(f"/proc/self/fd/{pin}", os.W_OK | os.X_OK)
                    room = os.fstatvfs(pin)
            except FileNotFoundError:
                continue
            except NotADirectoryError:
                culprit = "it" if folder == directory else folder
                raise StoreError(
                    "directory.kind",
                    f"cannot write a bundle to {directory}: {culprit} is not a directory",
                    hint="give another directory with --to",
                    field="destinations",
                ) from None
            except OSError as error:
                raise self._unfit(folder, error.strerror or "") from error
            if room.f_flag & os.ST_RDONLY:
                raise self._unfit(folder, "it is read-only here", hint=read_only_hint(directory))
            if not writable:
                raise self._unfit(folder, "it cannot be written to")
            self._free = room.f_bavail * room.f_frsize
            if folder in (directory, directory.parent):
                return f"{directory} can be written to" if folder == directory else f"{directory} will be created"
            return notice(
                f"{directory} will be created, and {directory.parent}, too",
                why="the bundle goes to a directory of this machine, not into a bucket",
                fix="a bucket begins with s3://, as s3://BUCKET/PREFIX",
            )
        raise self._unfit(directory, "it does not exist")

    def _unfit(self, folder: Path, why: str, *, hint: str = "") -> StoreError:
        return StoreError(
            "directory.failed",
            f"cannot write a bundle to {self._directory}: {folder}: {why}",
            hint=hint or f"check the directory and its permissions: ls -ld {quoted(folder)}",
            field="destinations",
        )

    def _check_space(self) -> Observation:
        directory, volume, free = self._directory, self._source.volume, self._free
        fix = "free some space (df -h shows it), or bundle straight to S3"
        if free < self._source.data // MOST_DEFLATED:
            raise StoreError(
                "directory.full",
                f"cannot write a bundle to {directory}: {size_text(free)} are free, which is too little for "
                f"{size_text(self._source.data)} of data even when compressed",
                hint=fix,
                field="destinations",
            )
        if free < volume.size:
            return notice(
                f"{directory} has {size_text(free)} free for a volume of {size_text(volume.size)}",
                why="the bundle fits only if the volume compresses well",
                fix=fix,
            )
        return Observation(f"{size_text(free)} free")

    async def _check_names(self) -> str:
        return await check_names(self._address, self.region, "rm")
