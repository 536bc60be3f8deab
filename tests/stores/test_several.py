"""Several stores combined into one: removals reach each store, and a failing one does not stop the others."""

from __future__ import annotations

import hashlib

import pytest

from amistream.errors import StoreError
from amistream.ports.store import whole_checksum
from amistream.stores.several import Member, SeveralStores
from stages.memory_store import MemoryStore

NAME, DATA = "image.part.00", b"a part"
CHECKSUM = whole_checksum(hashlib.sha1(DATA).digest())


class Dead(MemoryStore):
    """A store that refuses every removal."""

    async def remove(self, name: str, size: int, *checksums: str) -> None:
        del size, checksums
        raise StoreError("store.broken", f"cannot look at {name}: dead")

    async def delete(self, name: str) -> None:
        raise StoreError("store.broken", f"cannot delete {name}: dead")

    async def close(self) -> None:
        raise StoreError("store.broken", "cannot close: dead")


def several(*stores: MemoryStore) -> SeveralStores:
    for store in stores:
        store.objects[NAME] = DATA
    return SeveralStores([Member(store=store) for store in stores], all_or_none=False)


@pytest.mark.parametrize("how", ["remove", "delete"])
@pytest.mark.parametrize("dead", [0, 1, 2])
async def test_each_is_tried(dead: int, how: str) -> None:
    """If one store fails, the others are still called, and then the failure is raised."""
    stores = [Dead() if number == dead else MemoryStore() for number in range(3)]
    both = several(*stores)
    with pytest.raises(StoreError, match="dead"):
        await (both.remove(NAME, len(DATA), CHECKSUM) if how == "remove" else both.delete(NAME))
    assert [NAME in store.objects for store in stores] == [number == dead for number in range(3)]


async def test_only_what_is_described_and_not_whole_is_removed() -> None:
    """Other objects and those of a settled member stay; a member that dropped out is cleaned as well."""
    stores = [MemoryStore() for _ in range(4)]
    both = several(*stores)
    stores[0].objects[NAME] = b"another's"
    both.members[1].settled = True
    both.members[2].error = StoreError("store.broken", "dropped out")
    await both.remove(NAME, len(DATA), CHECKSUM)
    assert [store.objects.get(NAME) for store in stores] == [b"another's", DATA, None, None]


async def test_none_is_left() -> None:
    """If every member dropped out, each call raises the last error."""
    none = several(MemoryStore(), MemoryStore())
    for number, member in enumerate(none.members):
        member.error = StoreError("store.broken", f"dropped out {number}")
    with pytest.raises(StoreError, match="dropped out 1"):
        await none.checksum(NAME, memoryview(DATA), b"")
    with pytest.raises(StoreError, match="dropped out 1"):
        await none.read(NAME, 0, 1)
