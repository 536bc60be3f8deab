"""Checks of a directory as destination: whether it can be written, has room and is free. Nothing is made or changed."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from amistream.aws.credentials import default_region
from amistream.checks.bucket import look_at_names
from amistream.checks.destination import Address
from amistream.checks.findings import Check, Observation, Status, size_text
from amistream.checks.source import SourceChecks
from amistream.errors import StoreError
from amistream.flow.cancel import finish_despite_cancel
from amistream.location import DirectoryLocation
from amistream.ports.store import Store
from amistream.roots import pinned_directory
from amistream.values import GIB

MOST_DEFLATED = 1032
"""Deflate makes nothing smaller than by this factor, zeros included."""


class DirectoryChecks:
    """What was found is known once the checks have run."""

    def __init__(self, address: Address, location: DirectoryLocation, source: SourceChecks) -> None:
        self._address = address
        self._source = source
        self._directory = location.path
        self._roots = address.roots
        self._free = 0
        self._store: Store | None = None
        self.region = ""

    def checks(self, *, free: bool) -> list[Check]:
        """Without `free` a bundle of this name may be there already."""
        checks = [
            Check(name="region", why="EC2's certificate is chosen by it", look=self._look_at_region),
            Check(name="directory", why="nothing could be written there", look=self._look_at_directory),
            Check(
                name="space",
                why="the job would end with a full disk",
                look=self._look_at_space,
                needs=("directory", "source"),
            ),
        ]
        if free:
            checks.append(
                Check(
                    name="destination",
                    why="a bundle that somebody may need would be overwritten",
                    look=self._look_at_names,
                    needs=("directory",),
                )
            )
        return checks

    @property
    def store(self) -> Store:
        """Not opened yet."""
        assert self._store is not None  # noqa: S101 - for the type checker; a check made it
        return self._store

    async def make_store(self) -> None:
        if self._store is None:
            self._store = await self._address.store(self.region)

    async def _look_at_region(self) -> str:
        self.region = self._address.request.region or await default_region(self._address.aws)
        return self.region or "none is known"

    async def _look_at_directory(self) -> str:
        return await finish_despite_cancel(asyncio.to_thread(self._directory_on_thread))

    def _directory_on_thread(self) -> str:
        """Judge the directory, or what is to be made in: the nearest above it that exists. Roots are kept to."""
        directory = self._directory
        for there in (directory, *directory.parents):
            try:
                with pinned_directory(there, self._roots, field="destinations") as pin:
                    writable = os.access(f"/proc/self/fd/{pin}", os.W_OK | os.X_OK)
                    room = os.fstatvfs(pin)
            except FileNotFoundError:
                continue
            except NotADirectoryError:
                raise StoreError(
                    "directory.kind",
                    f"cannot write a bundle to {directory}: {'it' if there == directory else there} is not a directory",
                    hint="give another directory with --to",
                    field="destinations",
                ) from None
            except OSError as error:
                raise self._unfit(there, error.strerror or "") from error
            if not writable:
                raise self._unfit(there, "it cannot be written to")
            self._free = room.f_bavail * room.f_frsize
            return f"{directory} can be written to" if there == directory else f"{directory} will be made"
        raise self._unfit(directory, "it is nowhere")

    def _unfit(self, there: Path, why: str) -> StoreError:
        return StoreError(
            "directory.failed",
            f"cannot write a bundle to {self._directory}: {there}: {why}",
            hint=f"check the directory and its permissions: ls -ld {there}",
            field="destinations",
        )

    async def _look_at_space(self) -> Observation:
        directory, volume, free = self._directory, self._source.volume, self._free
        if free < self._source.data // MOST_DEFLATED:
            raise StoreError(
                "directory.full",
                f"cannot write a bundle to {directory}: {size_text(free)} are free, and {size_text(self._source.data)} "
                "of data compress to more",
                hint="free some space (df -h shows it), or bundle straight to S3",
                field="destinations",
            )
        if free < volume.size:
            return Observation(
                f"{directory} has {free / GIB:.1f} GiB free for a volume of {volume.size / GIB:.1f} GiB",
                Status.NOTICE,
                why="the bundle fits only if the volume compresses well",
                fix="free some space (df -h shows it), or bundle straight to S3",
            )
        return Observation(f"{size_text(free)} free")

    async def _look_at_names(self) -> str:
        await self.make_store()
        return await look_at_names(self.store, self._address, "rm")
