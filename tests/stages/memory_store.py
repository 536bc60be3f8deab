"""A store in memory that the test controls before each put."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime

from amistream.errors import RivalError, TakenError
from amistream.ports.store import Identity, OnBytes, Stored, StoredClaim, sha1_of, whole_checksum
from amistream.ports.unanswered import Unanswered

BeforePut = Callable[[int], Awaitable[None]]
"""Awaited with the number of the put, from 0 in the order they begin, before anything is stored."""


async def at_once(number: int) -> None:
    """Delay nothing."""
    del number


class MemoryStore:
    """Keeps objects in a dict. `on_put` may wait, or raise an error of a store."""

    made_place = None
    unanswered = Unanswered()
    keeps_marks = False

    def __init__(self, on_put: BeforePut = at_once) -> None:
        self.location = "memory://here"
        self.objects: dict[str, bytes] = {}
        self.claims: dict[str, StoredClaim] = {}
        self.deleted: list[str] = []
        self.removed: list[str] = []
        """Names whose removal was asked for, whatever was there."""
        self.in_flight = 0
        self.most_in_flight = 0
        self._on_put = on_put
        self._puts = 0
        self._foreign: set[str] = set()

    async def open(self, *, made_place: Identity | None = None) -> None:
        """Prepare nothing."""

    async def checksum(self, name: str, data: memoryview, sha1: bytes) -> str:
        del name, data
        return whole_checksum(sha1)

    async def put(self, name: str, data: memoryview, sha1: bytes, on_bytes: OnBytes) -> None:
        number = self._puts
        self._puts += 1
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await self._on_put(number)
            # The bytes are looked at when the put ends: they must not have been reused before.
            assert hashlib.sha1(data).digest() == sha1, name
            self._keep(name, bytes(data))
        finally:
            self.in_flight -= 1
        on_bytes(len(data))

    async def commit(self, name: str, data: bytes, sha1: bytes) -> None:
        assert hashlib.sha1(data).digest() == sha1, name
        self._keep(name, data)

    async def stat(self, name: str, *, read: bool = True) -> Stored | None:
        del read
        data = self.objects.get(name)
        return None if data is None else Stored(len(data), whole_checksum(hashlib.sha1(data).digest()))

    async def read(self, name: str, start: int, length: int) -> bytes:
        return self.objects[name][start : start + length]

    async def tidy(self, unfinished: Mapping[str, str]) -> None:
        """Remove nothing: objects are never incomplete."""

    async def names(self, prefix: str) -> list[str]:
        return sorted(name for name in self.objects if name.startswith(prefix))

    async def delete(self, name: str) -> None:
        await asyncio.sleep(0)
        self.deleted.append(name)
        if name not in self._foreign:
            self.objects.pop(name, None)

    async def remove(
        self, name: str, size: int, *checksums: str, progress: Callable[[], object] = lambda: None
    ) -> None:
        del progress
        self.removed.append(name)
        found = await self.stat(name)
        if found is not None and found.is_the(size, *checksums):
            await self.delete(name)

    async def abandon(self, begin: str, belongs: Callable[[str], bool]) -> None:
        """Delete nothing: objects are never incomplete."""

    async def sweep(self, begin: str, belongs: Callable[[str], bool], *, made_before: datetime) -> int:
        """Delete nothing: objects have no age."""
        del begin, belongs, made_before
        return 0

    async def read_claim(self, name: str) -> StoredClaim | None:
        return self.claims.get(name)

    async def put_claim(self, name: str, text: bytes, *, instead_of: StoredClaim | None) -> StoredClaim:
        if self.claims.get(name) != instead_of:
            raise RivalError("claim.rival", f"cannot claim {name}")
        self.claims[name] = StoredClaim(name=name, text=text, version=sha1_of(text).hex())
        return self.claims[name]

    async def remove_claim(self, claim: StoredClaim) -> None:
        if self.claims.get(claim.name) == claim:
            del self.claims[claim.name]

    async def close(self) -> None:
        """Release nothing."""

    def _keep(self, name: str, data: bytes) -> None:
        if self.objects.get(name, data) != data:
            self._foreign.add(name)
            raise TakenError("store.exists", f"cannot store {name}: it exists already, with other content")
        self.objects[name] = data
