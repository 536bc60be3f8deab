"""The command `convert` against the strict endpoint, and another client that reads back what came of it."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from support import commands
from support.daemons import PATIENCE_S
from support.ebs_endpoint import BLOCK, read_back

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from support.ebs_endpoint import EbsEndpoint
    from support.endpoints import Endpoint

GIB = 1 << 30


@dataclass(frozen=True, kw_only=True)
class Conversions:
    """Runs commands in a directory, without a daemon, and proves the snapshots that they leave."""

    endpoint: EbsEndpoint
    directory: Path

    def convert(self, source: Path | str, *options: object, given: bytes | None = None) -> dict[str, Any]:
        """Convert a source, which may come through a pipe, to a snapshot; return the job."""
        words = ("convert", source, "--in-process", "--endpoint-url", self.endpoint.url, *options)
        done: dict[str, Any] = json.loads(run(self.directory, self.endpoint, *words, "--json", given=given))
        assert done["state"] == "done"
        return done

    def fits(self, job: Mapping[str, Any], image: Path) -> None:
        """Assert that the job has left one snapshot, and that its volumes hold the image, and zeros elsewhere."""
        result = job["result"]
        (snapshot,) = self.endpoint.snapshots()
        assert (snapshot["id"], snapshot["state"]) == (result["snapshot_id"], "completed")
        size = image.stat().st_size
        assert (result["image_size"], result["volume_size"]) == (size, -(-size // GIB) * GIB)
        fits(self.endpoint, result, image, self.directory / "back.img")
        assert snapshot["puts"] == result["blocks_put"] == result["blocks"]


def fits(endpoint: Endpoint, result: Mapping[str, Any], image: Path, back: Path) -> None:
    """Assert that another client reads the image from a snapshot, whose blocks are those that are not zeros."""
    expected = dict(digests(image))
    indices = read_back(endpoint, result["snapshot_id"], back)
    assert back.stat().st_size == result["volume_size"]
    assert dict(digests(back)) == expected
    back.unlink()
    assert indices == list(expected)
    assert result["blocks"] == len(expected)
    assert result["checksum"] == hashlib.sha256(b"".join(expected.values())).hexdigest()


def digests(image: Path) -> Iterator[tuple[int, bytes]]:
    """The SHA-256 of each block of a file that is not zeros; the last one is filled up with zeros."""
    with image.open("rb") as file:
        offset, size = 0, image.stat().st_size
        while offset < size:
            try:
                offset = max(offset, os.lseek(file.fileno(), offset, os.SEEK_DATA) // BLOCK * BLOCK)
            except OSError:
                return  # a hole to the end
            file.seek(offset)
            data = file.read(BLOCK)
            if data.strip(b"\0"):
                yield offset // BLOCK, hashlib.sha256(data.ljust(BLOCK, b"\0")).digest()
            offset += BLOCK


def run(directory: Path, endpoint: Endpoint | None, *words: object, given: bytes | None = None) -> str:
    """Run `amistream` to its good end with a state directory of its own; return what it prints."""
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(directory),
        "AMISTREAM_STATE_DIR": str(directory / "state"),
        **(endpoint.environ() if endpoint else {}),
        **{name: value for name, value in os.environ.items() if name.startswith("COVERAGE")},
    }
    line = (commands.COMMANDS / "amistream", *words)
    done = commands.run(line, given=given, cwd=directory, env=environ, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    return done.stdout
