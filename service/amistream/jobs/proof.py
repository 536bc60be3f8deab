"""Proves stored parts and manifests: the destination must show each with the journal's size and checksum.

A part that is recorded as stored is not relied on before it is proved. An object of the job's is recognised by its
checksum, which is in the journal before the object is sent; any other object under its name belongs to someone else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from amistream.errors import LostError, TakenError
from amistream.flow.gather import gather_limited
from amistream.jobs.records import SealedPart
from amistream.ports.store import Store, find
from amistream.values import part_name


async def prove(store: Store, prefix: str, parts: Sequence[SealedPart]) -> list[SealedPart]:
    """The parts, each `stored` only if the store shows it. Raises `StoreError` when another object has its name."""

    async def probe(part: SealedPart) -> SealedPart:
        name = part_name(prefix, part.digest.index)
        found = await find(store, name, part.digest.size)
        if found is not None and not found.is_the(part.digest.size, *part.checksums):
            raise TakenError(
                "store.exists",
                f"cannot continue in {store.location}: {name} there is not the one this job stored",
                hint="something else writes there; cancel the job and choose another --prefix or destination",
                field="destinations",
            )
        return part.model_copy(update={"stored": found is not None})

    # First: a process that died while it named a part in a directory left it under two names.
    await store.tidy({})
    proved = await gather_limited(probe, parts)
    await store.tidy(names_to_tidy(prefix, (part for part in proved if not part.stored)))
    return proved


def names_to_tidy(prefix: str, parts: Iterable[SealedPart]) -> dict[str, str]:
    """The parts' names for `Store.tidy`, with the checksum of an upload in chunks where there may be one."""
    return {
        part_name(prefix, part.digest.index): max((part.checksum, *part.earlier), key=lambda each: "-" in each)
        for part in parts
    }


async def check_stored(store: Store, prefix: str, parts: Sequence[SealedPart]) -> None:
    """Raise `StoreError` unless every part is stored: only then may the manifest be put."""

    async def check(part: SealedPart) -> None:
        await check_object(store, part_name(prefix, part.digest.index), part.digest.size, *part.checksums)

    await gather_limited(check, parts)


async def check_object(store: Store, name: str, size: int, *checksums: str) -> None:
    """Raise `StoreError` unless the store shows `name` with this size and one of the checksums."""
    found = await store.stat(name, read=False)
    if found is None or not found.is_the(size, *checksums):
        now = "it is not there" if found is None else f"it has {found.size} bytes and checksum {found.checksum}"
        raise LostError(
            "store.lost",
            f"cannot rely on {store.location}/{name}: {size} bytes were stored, and now {now}",
            hint="something else deletes or writes there (a lifecycle rule?); `amistream resume` stores it again",
            field="destinations",
        )
