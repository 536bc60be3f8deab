"""Recognises private keys by content, never by name: certificates and public keyrings are no secrets. Pure."""

from __future__ import annotations

import re

SMALLEST, LARGEST = 45, 65_536
"""Bytes of the files that are looked at. A key that is part of something larger is not found."""

_PEM = re.compile(
    rb"""^(?:\xef\xbb\xbf)?[ \t]*-----BEGIN\ (?:[A-Z0-9]+\ )*PRIVATE\ KEY(?:\ BLOCK)?-----[ \t]*[\r\n]
    | -----BEGIN\ (?:[A-Z0-9]+\ )*PRIVATE\ KEY-----(?:\\r)?\\n[A-Za-z0-9+/]{16}  # within a string of JSON""",
    re.MULTILINE | re.VERBOSE,
)
_KEY = re.compile(rb"K(?:EY(?:(?<=PRIVATE KEY)|(?<=AGE-SECRET-KEY))|ey(?<=PrivateKey))")
"""The words of these lines by a letter in all of them, so that the C library searches once for all: for that letter."""
_GNUPG = re.compile(rb"(?:[^\n]*\n){0,8}(?:Key: ?\n? *)?\((?:[0-9]+:)?(?:shadowed-|protected-)?private-key")
_HEAD_LINES = 10
"""Lines that this expression reaches into: eight, one with `Key:`, and one with the rest."""
_LINES = re.compile(
    rb"""^[ \t]*PrivateKey[ \t]*=[ \t]*[A-Za-z0-9+/]{43}=[ \t]*\r?$  # WireGuard
    | ^AGE-SECRET-KEY-1[A-Z0-9]{50}""",
    re.MULTILINE | re.VERBOSE,
)
_FIRST_WORDS = re.compile(
    rb"""PuTTY-User-Key-File-[0-9]:\ (?P<PuTTY>)
    | SSH\ PRIVATE\ KEY\ FILE\ FORMAT\ 1\.1\n(?P<SSH>)
    | ----\ BEGIN\ SSH2\ (?:ENCRYPTED\ )?PRIVATE\ KEY\ ----(?P<ssh_com>)
    | Private-key-format:\ v1\.(?P<DNSSEC>)
    | untrusted\ comment:[^\n]*\ secret\ key\n(?P<signify>)""",
    re.VERBOSE,
)
_PGP = re.compile(
    rb"""(?: \x94. | \x95.. | \x96.{4} | \xc5(?: [\x00-\xbf] | [\xc0-\xdf]. | \xff.{4}))  # a secret key's packet
    [\x04-\x06][\x25-\x84].{3}[\x01-\x03\x10-\x16\x19-\x1c]  # version, time, algorithm""",
    re.VERBOSE | re.DOTALL,
)
_DER_LENGTH = rb"(?:\x82..|\x81.|[\x20-\x7f])"
_DER = re.compile(
    rb"\x30%b(?:\x02\x01\x00(?:\x30.\x06|\x02[\x81\x82])|\x02\x01\x01\x04[\x10-\x42]"  # PKCS #8; PKCS #1; SEC 1
    rb"|\x30[\x10-\x7f]\x06(?:\x09\x2a\x86\x48\x86\xf7\x0d\x01\x05|\x0a\x2a\x86\x48\x86\xf7\x0d\x01\x0c\x01))"  # PBE
    % _DER_LENGTH,
    re.DOTALL,
)
_PKCS12 = re.compile(rb"\x30(?:\x80|\x82..|\x83...)\x02\x01\x03\x30", re.DOTALL)
_KEYS_IN_PKCS12 = re.compile(rb"\x2a\x86\x48\x86\xf7\x0d\x01\x0c\x0a\x01[\x01\x02]")
_JAVA = re.compile(rb"\xfe\xed\xfe\xed|\xce\xce\xce\xce")
_STARTS = b"PS-u\x94\x95\x96\xc5\x30\xfe\xce"
"""The first bytes of all that is recognised by how it starts: most files have another one."""
_KEYS_IN_JAVA = re.compile(rb"\x2b\x06\x01\x04\x01\x2a\x02(?:\x11\x01\x01|\x13\x01)")
"""The object identifiers that stand before each key; stores with certificates alone have none."""


def private_key_in(content: bytes) -> str:
    """The form of the private key in a file of this content, in words; '' if there is none."""
    if not content:
        return ""
    # The C library finds a single letter many times faster than an expression does.
    letter = content.find(b"K")
    has_key = letter >= 0 and _KEY.search(content, letter) is not None
    if has_key and _PEM.search(content):
        return "private key"
    starts = content[0] in _STARTS
    if starts and (found := _FIRST_WORDS.match(content)):
        return f"private key of {(found.lastgroup or '').replace('_', '.')}"
    if content.find(b"(") >= 0 and _is_of_gnupg(content):
        return "private key of GnuPG"
    if has_key and _LINES.search(content):
        return "private key"
    return _binary(content) if starts else ""


def _is_of_gnupg(content: bytes) -> bool:
    end = 0
    for _ in range(_HEAD_LINES):
        if not (end := content.find(b"\n", end) + 1):
            end = len(content)
            break
    return content.find(b"private-key", 0, end) >= 0 and _GNUPG.match(content) is not None


def _binary(content: bytes) -> str:
    if _PGP.match(content):
        return "private key of GnuPG"
    if _DER.match(content) and _der_size(content) == len(content):
        return "private key in DER"
    if (_PKCS12.match(content) and _KEYS_IN_PKCS12.search(content)) or (
        _JAVA.match(content) and _KEYS_IN_JAVA.search(content)
    ):
        return "private key in a key store"
    return ""


def _der_size(content: bytes) -> int:
    """The size of an object in DER, by its own words."""
    length = content[1]
    if length < 0x80:  # noqa: PLR2004 - from here on the number of bytes that hold the length
        return 2 + length
    count = length & 0x7F
    return 2 + count + int.from_bytes(content[2 : 2 + count])
