"""Recognises private keys by content, never by name: certificates and public keyrings are no secrets. Pure."""

from __future__ import annotations

import re

SMALLEST, LARGEST = 64, 65_536
"""Bytes of the files that are looked at. A key that is part of something larger is not found."""

_PEM = re.compile(rb"^[ \t]*-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----[ \t]*\r?\n", re.MULTILINE)
_PUTTY = re.compile(rb"PuTTY-User-Key-File-[0-9]: ")
_GNUPG = re.compile(rb"(?:[^\n]*\n){0,8}(?:Key: ?\n? *)?\((?:[0-9]+:)?(?:shadowed-|protected-)?private-key")


def private_key_in(content: bytes) -> str:
    """The form of the private key in a file of this content, in words; '' if there is none."""
    if b"PRIVATE KEY" in content and _PEM.search(content):
        return "private key"
    if _PUTTY.match(content):
        return "private key of PuTTY"
    if b"private-key" in content and _GNUPG.match(content):
        return "private key of GnuPG"
    return ""
