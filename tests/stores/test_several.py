"""Several stores combined into one."""

from __future__ import annotations

import hashlib

import pytest

from amistream.errors import StoreError
from amistream.ports.store import whole_checksum
from amistream.stores.several import Member, SeveralStores
from stages.memory_store import MemoryStore

NAME, DATA = "image.part.00", b"a part"
CHECKSUM = whole_checksum(hashlib.sha1(DATA).digest())


def several(*stores: MemoryStore) -> SeveralStores:
    for store in stores:
        store.objects[NAME] = DATA
    return SeveralStores([Member(store=store) for store in stores], all_or_none=False)


async def test_none_is_left() -> None:
    """If every member dropped out, each call raises the last error."""
    none = several(MemoryStore(), MemoryStore())
    for number, member in enumerate(none.members):
        member.error = StoreError("store.broken", f"dropped out {number}")
    with pytest.raises(StoreError, match="dropped out 1"):
        await none.checksum(NAME, memoryview(DATA), b"")
    with pytest.raises(StoreError, match="dropped out 1"):
        await none.put(NAME, memoryview(DATA), b"", lambda _: None)
