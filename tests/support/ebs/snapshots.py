"""Snapshots of one account: their states, and their blocks in sparse files."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from support.ebs.rules import BLOCK, DEFAULT_TIMEOUT_MIN, not_found

OWN_KEY = "arn:aws:kms:{region}:{account}:key/00000000-0000-4000-8000-0000000000eb"
"""The key with the alias aws/ebs."""


@dataclass
class Snapshot:
    """One snapshot. Its file has the size of the volume, and holes where no block was put."""

    id: str
    file: Path
    words: dict[str, Any]
    started: float
    key: str
    parent: str = ""
    lineage: str = ""
    state: str = "pending"
    message: str = ""
    blocks: dict[int, bytes] = field(default_factory=dict)
    """The digest of each block that can be read, the parent's included."""
    changed: set[int] = field(default_factory=set)
    """The blocks that were put into this very snapshot."""
    puts: int = 0
    touched: float = 0.0
    completing: float | None = None
    completed: float | None = None
    will_fail: str = ""
    progress: int = 0
    unknown: int = 0
    """Requests that have been told that it does not exist."""
    polls: int = 0
    unlisted: int = 0
    tags: dict[str, str] = field(default_factory=dict)
    in_flight: int = 0
    """Blocks that are being written."""

    @property
    def volume_gib(self) -> int:
        return int(self.words["VolumeSize"])

    @property
    def timeout_s(self) -> float:
        return float(self.words.get("Timeout", DEFAULT_TIMEOUT_MIN)) * 60

    def make_file(self) -> None:
        with self.file.open("xb") as file, suppress(OSError):  # a file system may have smaller files
            file.truncate(self.volume_gib << 30)

    def put(self, index: int, body: bytes, digest: bytes, *, keep: bool) -> None:
        if keep:
            descriptor = os.open(self.file, os.O_WRONLY)
            try:
                os.pwrite(descriptor, body, index * BLOCK)
            finally:
                os.close(descriptor)
        self.blocks[index] = digest
        self.changed.add(index)
        self.puts += 1

    def read(self, index: int) -> bytes:
        with self.file.open("rb") as file:
            return os.pread(file.fileno(), BLOCK, index * BLOCK)

    def linear(self) -> bytes:
        """Return the SHA-256 over the raw digests of the changed blocks, in order."""
        return sha256(b"".join(self.blocks[index] for index in sorted(self.changed))).digest()

    def fail(self, message: str) -> None:
        self.state, self.message = "error", message

    def age(self, now: float) -> None:
        """Let pass what passes by itself: the end of a completion, or of the patience for blocks."""
        if self.state == "pending" and self.completing is None and now - self.touched > self.timeout_s:
            self.fail("The snapshot timed out: no block was put for longer than its Timeout")

    def finish_completion(self, now: float) -> None:
        if self.will_fail:
            self.fail(self.will_fail)
        else:
            self.state, self.completed, self.progress = "completed", now, 100

    def summary(self) -> dict[str, Any]:
        """Return what a test asks about a snapshot."""
        return {
            "id": self.id,
            "state": self.state,
            "message": self.message,
            "volume_gib": self.volume_gib,
            "puts": self.puts,
            "distinct": len(self.changed),
            "blocks": len(self.blocks),
            "progress": self.progress,
            "parent": self.parent,
            "key": self.key,
            "tags": self.tags,
            "words": self.words,
            "file": str(self.file),
        }


class Shelf:
    """The snapshots of an account, by id."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.snapshots: dict[str, Snapshot] = {}
        self.started: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}
        """Words and answer of each StartSnapshot, by its client token."""

    def new(self, words: dict[str, Any], *, now: float, key: str, parent: Snapshot | None) -> Snapshot:
        name = f"snap-{secrets.token_hex(9)[:17]}"
        made = Snapshot(
            id=name,
            file=self.directory / f"{name}.img",
            words=words,
            started=now,
            touched=now,
            key=key,
            lineage=parent.lineage if parent else name,
            parent=parent.id if parent else "",
            tags={tag["Key"]: tag.get("Value", "") for tag in words.get("Tags", [])},
        )
        made.make_file()
        if parent is not None:
            copy_data(parent.file, made.file)
            made.blocks.update(parent.blocks)
        self.snapshots[name] = made
        return made

    def get(self, name: str, now: float) -> Snapshot:
        """Return a snapshot as it is now; refuse as the EBS direct APIs do."""
        found = self.snapshots.get(name)
        if found is None:
            raise not_found(f"The snapshot '{name}' does not exist.")
        found.age(now)
        return found

    def pending(self, now: float) -> int:
        for each in self.snapshots.values():
            each.age(now)
        return sum(each.state == "pending" for each in self.snapshots.values())

    def delete(self, name: str) -> None:
        self.snapshots.pop(name).file.unlink(missing_ok=True)

    def clear(self) -> None:
        for name in list(self.snapshots):
            self.delete(name)
        self.started.clear()


def copy_data(source: Path, to: Path) -> None:
    """Copy what is not a hole, at the same places."""
    with source.open("rb") as reading, to.open("r+b") as writing:
        end, at = reading.seek(0, os.SEEK_END), 0
        while at < end:
            try:
                at = os.lseek(reading.fileno(), at, os.SEEK_DATA)
            except OSError:  # only a hole is left
                return
            hole = os.lseek(reading.fileno(), at, os.SEEK_HOLE)
            while at < hole:
                at += os.pwrite(writing.fileno(), os.pread(reading.fileno(), min(hole - at, 4 << 20), at), at)
