"""Finds damage in the journal's files before they are used, and moves a damaged journal aside.

SQLite itself reads a damaged page only when it needs it, and leaves out without a word what stands in its write-ahead
log behind a wrong checksum (sqlite.org/fileformat2.html, section 4). The calls block, and need the files for
themselves: another process that writes meanwhile looks like damage.
"""

from __future__ import annotations

import shutil
import sqlite3
import struct
import sys
import time
from array import array
from collections.abc import Iterable
from pathlib import Path

_HEADER = struct.Struct(">III4x8sII")
"""Magic, version, page size; the salts, and the checksum over all before it."""
_FRAME = struct.Struct(">II8sII")
"""Page number, pages of the database if a transaction ends here; the salts, and the running checksum."""
_CHECKED = 8
"""Bytes of a frame's header that the checksum counts."""
_MAGICS = {0x377F0682: "little", 0x377F0683: "big"}
"""By the byte order in which the checksum reads words."""
_MASK = 0xFFFFFFFF


class DamagedError(sqlite3.DatabaseError):
    """The journal is no sound database. The text says why."""


def check_whole(database: sqlite3.Connection, columns: Iterable[str]) -> None:
    """Raise `DamagedError` unless every page is sound and every table has its `columns` (TABLE.COLUMN)."""
    for (fault,) in database.execute("PRAGMA integrity_check(1)"):
        if fault != "ok":
            raise DamagedError(fault.splitlines()[-1])
    query = "SELECT m.name || '.' || c.name FROM sqlite_master AS m, pragma_table_info(m.name) AS c"
    if missing := set(columns) - {name for (name,) in database.execute(query)}:
        raise DamagedError(f"it lacks {', '.join(sorted(missing))}")


def is_damage(error: Exception) -> bool:
    """The failure comes from the file's content: it comes again however often one tries."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return isinstance(error, DamagedError) or code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def move_aside(path: Path) -> Path:
    """Rename the database at `path` and its log, under names that go together; returns the new one."""
    aside = _beside(path)
    for suffix in ("-shm", "-wal", ""):
        source = path.with_name(path.name + suffix)
        if source.exists():
            source.rename(aside.with_name(aside.name + suffix))
    return aside


def keep_lost_log(path: Path) -> Path | None:
    """Copy the log of the database at `path` if SQLite would leave out ended transactions in it; else None."""
    log = path.with_name(f"{path.name}-wal")
    try:
        data = log.read_bytes()
    except FileNotFoundError:
        return None
    if not _loses(data):
        return None
    aside = _beside(path)
    return Path(shutil.copy2(log, aside.with_name(f"{aside.name}-wal")))


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.damaged-{time.strftime('%Y%m%d-%H%M%S')}")


def _loses(data: bytes) -> bool:
    """A transaction ends at or behind a frame of this log whose checksum is wrong."""
    if len(data) <= _HEADER.size:
        return False
    magic, _, page_size, salts, *given = _HEADER.unpack_from(data)
    order = _MAGICS.get(magic)
    checksum = _checksum(data[: _HEADER.size - 8], order, (0, 0))
    if order is None or checksum != tuple(given):
        return True
    sound = True
    for start in range(_HEADER.size, len(data) - _FRAME.size - page_size + 1, _FRAME.size + page_size):
        _, ends, frame_salts, *given = _FRAME.unpack_from(data, start)
        # Frames with other salts are from before the log was begun anew.
        if sound and frame_salts != salts:
            return False
        if sound:
            checksum = _checksum(data[start : start + _CHECKED], order, checksum)
            page = start + _FRAME.size
            checksum = _checksum(data[page : page + page_size], order, checksum)
            sound = checksum == tuple(given)
        if not sound and ends and frame_salts == salts:
            return True
    return False


def _checksum(data: bytes, order: str | None, begun: tuple[int, int]) -> tuple[int, int]:
    words = array("I", data)
    if order != sys.byteorder:
        words.byteswap()
    first, second = begun
    for one, other in zip(words[::2], words[1::2], strict=True):
        first = (first + one + second) & _MASK
        second = (second + other + first) & _MASK
    return first, second
