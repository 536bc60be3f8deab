"""Proves what is stored: every part is asked for at its destination before it is relied on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from amistream.errors import LostError, TakenError
from amistream.flow.gather import gather_limited
from amistream.jobs.records import SealedPart
from amistream.ports.store import Store, find
from amistream.values import part_name


async def prove(store: Store, prefix: str, parts: Sequence[SealedPart]) -> list[SealedPart]:
    """The parts, each `stored` only if its place says so. Raises `StoreError` when something else has its name."""

    async def look(part: SealedPart) -> SealedPart:
        name = part_name(prefix, part.digest.index)
        found = await find(store, name, part.digest.size)
        if found is not None and not found.is_the(part.digest.size, *part.checksums):
            raise TakenError(
                "store.exists",
                f"cannot go on in {store.location}: {name} there is not the one this job stored",
                hint="something else writes to this place; cancel the job and choose another --prefix or destination",
                field="destinations",
            )
        return part.model_copy(update={"stored": found is not None})

    # First: in a directory, a part that lost its process while it got its name has two of them.
    await store.tidy({})
    proved = await gather_limited(look, parts)
    await store.tidy(_unfinished(prefix, (part for part in proved if not part.stored)))
    return proved


def _unfinished(prefix: str, parts: Iterable[SealedPart]) -> dict[str, str]:
    """The parts' names for `Store.tidy`, with the checksum of an object that goes up in chunks if it ever was one."""
    return {
        part_name(prefix, part.digest.index): max((part.checksum, *part.earlier), key=lambda each: "-" in each)
        for part in parts
    }


async def check_stored(store: Store, prefix: str, parts: Sequence[SealedPart]) -> None:
    """Ask for every part: a manifest must not be put unless all are there. Raises `StoreError` naming the first."""

    async def look(part: SealedPart) -> None:
        await check_object(store, part_name(prefix, part.digest.index), part.digest.size, *part.checksums)

    await gather_limited(look, parts)


async def check_object(store: Store, name: str, size: int, *checksums: str) -> None:
    """Raise `StoreError` unless the place shows `name` with this size and one of the checksums."""
    found = await store.stat(name, read=False)
    if found is None or not found.is_the(size, *checksums):
        has = "it is not there" if found is None else f"it shows {found.size} bytes and checksum {found.checksum}"
        raise LostError(
            "store.lost",
            f"cannot rely on {store.location}/{name}: {size} bytes were stored, and {has}",
            hint="something else deletes or writes there (a lifecycle rule?); `amistream resume` stores it again",
            field="destinations",
        )
