"""Combines several stores into one: each object goes to all of them at once, from the same buffer.

The slowest store sets the pace, because nothing may pile up. A store that fails drops out with its error and the others
go on, unless `all_or_none` is set; the error of the last one is raised. Objects that a store already holds are skipped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from amistream.errors import StoreError, first_cause
from amistream.flow.gather import try_each
from amistream.ports.store import OnBytes, Store, Stored

T = TypeVar("T")


@dataclass(kw_only=True, eq=False)
class Member:
    """One of the stores. `has` lists the names that it is known to hold; `error` is the reason why it dropped out.

    A `settled` member holds a complete bundle: nothing is deleted there any more.
    """

    store: Store
    settled: bool = False
    has: set[str] = field(default_factory=set)
    error: StoreError | None = None


class SeveralStores:
    """A store over several members, all of one kind, so that they compute the same checksums."""

    def __init__(self, members: Sequence[Member], *, all_or_none: bool) -> None:
        self.members = members
        self.location = " and ".join(member.store.location for member in members)
        self._all_or_none = all_or_none

    @property
    def alive(self) -> list[Member]:
        return [member for member in self.members if member.error is None]

    async def open(self) -> None:
        await self._each(lambda member: member.store.open())

    async def checksum(self, name: str, data: memoryview, sha1: bytes) -> str:
        # All members compute the same one.
        return await self._first.checksum(name, data, sha1)

    async def put(self, name: str, data: memoryview, sha1: bytes, on_bytes: OnBytes) -> None:
        async def put(member: Member) -> None:
            if name not in member.has:
                await member.store.put(name, data, sha1, on_bytes)
                member.has.add(name)

        await self._each(put)

    async def commit(self, name: str, data: bytes, sha1: bytes) -> None:
        await self._each(lambda member: member.store.commit(name, data, sha1))

    async def stat(self, name: str, *, read: bool = True) -> Stored | None:
        return (await self._each(lambda member: member.store.stat(name, read=read)))[0]

    async def read(self, name: str, start: int, length: int) -> bytes:
        return await self._first.read(name, start, length)

    async def names(self, prefix: str) -> list[str]:
        return sorted({name for names in await self._each(lambda each: each.store.names(prefix)) for name in names})

    async def delete(self, name: str) -> None:
        """Delete it from every member that is not settled, including those that dropped out."""
        await try_each(lambda store: store.delete(name), self._unsettled)

    async def remove(self, name: str, size: int, *checksums: str) -> None:
        """Remove it from the same members as `delete` does."""
        await try_each(lambda store: store.remove(name, size, *checksums), self._unsettled)

    async def tidy(self, unfinished: Mapping[str, str]) -> None:
        await self._each(lambda member: member.store.tidy(unfinished))

    async def close(self) -> None:
        await try_each(lambda member: member.store.close(), self.members)

    @property
    def _unsettled(self) -> list[Store]:
        return [member.store for member in self.members if not member.settled]

    async def _each(self, work: Callable[[Member], Awaitable[T]]) -> list[T]:
        """Run `work` on all members at once; returns the results of those that did not fail, in order."""

        async def one(member: Member) -> list[T]:
            try:
                return [await work(member)]
            except StoreError as error:
                if self._all_or_none:
                    raise
                member.error = error
                return []

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(member)) for member in self.alive]
        except BaseExceptionGroup as errors:
            raise first_cause(errors) from None
        results = [result for task in tasks for result in task.result()]
        if not results:
            raise self._last_error()
        return results

    @property
    def _first(self) -> Store:
        """The first member that is alive. Raises `StoreError` if all have dropped out."""
        for member in self.alive:
            return member.store
        raise self._last_error()

    def _last_error(self) -> StoreError:
        return next(member.error for member in reversed(self.members) if member.error is not None)
