"""Combines several stores into one for the data path: each part goes to all of them at once, from the same buffer.

The slowest store sets the pace, because nothing may pile up. A store that fails drops out with its error and the others
go on, unless `all_or_none` is set; the error of the last one is raised. Objects that a store already holds are skipped.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from amistream.errors import AmistreamError, StoreError
from amistream.flow.gather import task_group
from amistream.ports.store import OnBytes, Store


@dataclass(kw_only=True, eq=False)
class Member:
    """One of the stores. `has` lists the names that it is known to hold; `error` is the reason why it dropped out."""

    store: Store
    has: set[str] = field(default_factory=set)
    error: AmistreamError | None = None


class SeveralStores:
    """A `PartStore` over several members, all of one kind, so that they compute the same checksums."""

    def __init__(self, members: Sequence[Member], *, all_or_none: bool) -> None:
        self.members = members
        self.location = " and ".join(member.store.location for member in members)
        self._all_or_none = all_or_none

    async def checksum(self, name: str, data: memoryview, sha1: bytes) -> str:
        # All members compute the same one.
        return await self._first_alive().checksum(name, data, sha1)

    async def put(self, name: str, data: memoryview, sha1: bytes, on_bytes: OnBytes) -> None:
        async def put(member: Member) -> None:
            if name not in member.has:
                await member.store.put(name, data, sha1, on_bytes)
                member.has.add(name)

        await self._each(put)

    async def tidy(self, unfinished: Mapping[str, str]) -> None:
        await self._each(lambda member: member.store.tidy(unfinished))

    async def _each(self, work: Callable[[Member], Awaitable[None]]) -> None:
        """Run `work` on all members at once."""

        async def one(member: Member) -> None:
            try:
                await work(member)
            except StoreError as error:
                if self._all_or_none:
                    raise
                member.error = error

        async with task_group() as group:
            for member in self.members:
                if member.error is None:
                    group.create_task(one(member))
        self._first_alive()

    def _first_alive(self) -> Store:
        """The first member that is alive. Raises the last one's error if all have dropped out."""
        for member in self.members:
            if member.error is None:
                return member.store
        raise next(member.error for member in reversed(self.members) if member.error is not None)
