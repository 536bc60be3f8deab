"""Tells the manifest of a bundle from a disk, by its address or its first bytes."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from amistream.errors import RefusedError
from amistream.location import SCHEME
from amistream.roots import Roots, open_pinned, pinned

MANIFEST_END = ".manifest.xml"
_XML = (b"<?xml", b"<manifest")
_HEAD = 512


def is_named_as_manifest(source: str) -> bool:
    """True for an address in S3, and for a path with a manifest's name; nothing is opened."""
    return source.startswith(SCHEME) or source.endswith(MANIFEST_END)


def names_manifest(source: str, roots: Roots | None = None) -> bool:
    """True for an address in S3, and for a file that begins as XML or has a manifest's name. Blocks.

    A file outside the roots is none: opening it as a disk reports the reason.
    """
    if is_named_as_manifest(source):
        return True
    try:
        with pinned(Path(source), roots, field="source") as pin:
            if not stat.S_ISREG(os.fstat(pin).st_mode):
                return False
            descriptor = open_pinned(pin, os.O_RDONLY | os.O_NONBLOCK)
            try:
                return os.read(descriptor, _HEAD).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(_XML)
            finally:
                os.close(descriptor)
    except (OSError, RefusedError):
        return False
