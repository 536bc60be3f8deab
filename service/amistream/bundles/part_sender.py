"""Copies the parts of a bundle to a bucket: S3 does it by itself where it can, else they go through this machine."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from amistream.bundles.copying import Begin
from amistream.bundles.meter import Note
from amistream.bundles.parts import StoredPart, different_part_error, read_part
from amistream.bundles.place import Bundle
from amistream.errors import RefusedError, StoreError, TakenError
from amistream.location import S3Location
from amistream.ports.store import ObjectStore, whole_checksum
from amistream.values import LARGEST_PART


class PartSender:
    """Copies parts: has S3 copy them by itself as long as it does, and then sends them through this machine."""

    def __init__(
        self,
        old: Bundle,
        store: ObjectStore,
        note: Note,
        *,
        server_side: bool,
        most_read: int = LARGEST_PART,
        check_removal: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """A part of more than `most_read` bytes is not sent through this machine, which holds the whole of it.

        `check_removal` is called before a copy is deleted, and raises if it may be another host's by now.
        """
        self._old = old
        self._check_removal = check_removal
        self._store = store
        self._note = note
        self._most_read = most_read
        source = old.place.location
        # None also after S3 has refused to copy once: then it refuses the rest too.
        self._source = source if isinstance(source, S3Location) and server_side else None
        self.copied_by_s3 = 0

    async def send(self, part: StoredPart, begin: Begin) -> None:
        """Copy the part; `begin` is called once an object may exist. Raises `DifferenceError` for a bad part."""
        if await self._is_copied(part, begin):
            self.copied_by_s3 += 1
            return
        if part.size > self._most_read:
            raise RefusedError(
                "part.too_large",
                f"cannot copy {part.name}: it has {part.size} bytes, S3 does not copy it by itself, and a job of yours "
                f"may hold {self._most_read} bytes of a part in memory",
                hint="run `amistream migrate` without --detach, or ask the administrator to run it",
                field="manifest",
            )
        data = await read_part(self._old, part)
        begin()
        await self._store.put(part.name, data, part.sha1, lambda _: None)

    async def _is_copied(self, part: StoredPart, begin: Begin) -> bool:
        """Have S3 copy the part; returns True if S3 copied and proved it."""
        source, name = self._source, part.name
        if source is None:
            return False
        begin()
        try:
            checksum = await self._store.copy(name, source, name, part.sha1)
        except TakenError:
            raise
        except StoreError as error:
            if self._source is not None:
                self._note(f"parts go through this machine, because S3 does not copy them: {error.message}")
            self._source = None
            return False
        if checksum == whole_checksum(part.sha1):
            return True
        if checksum is not None and "-" not in checksum:
            raise different_part_error(self._old, f"{part.name} has another checksum than in the manifest")
        # This store does not hash copies, or keeps the checksum of the original's chunks.
        self._source = None
        if self._check_removal is not None:
            await self._check_removal()
        await self._store.delete(name)
        return False
