"""Decrypt: restores the data that openssl encrypted, and detects invalid padding."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amistream.stages.back.decrypt import SLICE, Decrypt
from amistream.stages.back.flaw import FlawError
from amistream.stages.encrypt import Encrypt
from amistream.values import Buffer
from stages.transform_check import Outcome, ask, carry, check_transform, cut_data

KEY, IV = bytes(range(16)), bytes(range(16, 32))


def decrypted(pieces: Sequence[Buffer]) -> Outcome:
    decrypt = Decrypt(key=KEY, iv=IV)
    try:
        return Outcome(carry(decrypt, pieces), decrypt.result())
    except FlawError as flaw:
        return Outcome(b"", flaw.code)


@settings(deadline=None)
@given(cut_data(max_size=300))
def test_undoes_encrypt(data_and_cuts: tuple[bytes, list[int]]) -> None:
    """The output of our own encrypt stage is decrypted, however the ciphertext is cut."""
    data, cuts = data_and_cuts
    cipher = carry(Encrypt(key=KEY, iv=IV), [data])
    cuts = [min(cut, len(cipher)) for cut in cuts]
    assert check_transform(decrypted, cipher, cuts) == Outcome(data, len(cipher))


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, SLICE - 1, SLICE, SLICE + 1, 3 * SLICE])
def test_undoes_openssl(size: int) -> None:
    """The output of openssl is decrypted, at every size around a block and a slice."""
    data = bytes(range(251)) * (size // 251) + bytes(size % 251)
    cipher = ask("openssl", "enc", "-aes-128-cbc", "-K", KEY.hex(), "-iv", IV.hex(), given=data)
    assert decrypted([cipher]).output == data


@pytest.mark.parametrize("end", [b"\0", b"\x11", b"\x02", b"\x01\x02\x03", b"\x10", bytes(16), b"\x10" * 15 + b"\x0f"])
def test_wrong_padding(end: bytes) -> None:
    """Padding that is invalid in PKCS#7 is detected, however the ciphertext is cut."""
    plain = (b"x" * 32)[: 32 - len(end)] + end
    cipher = ask("openssl", "enc", "-aes-128-cbc", "-nopad", "-K", KEY.hex(), "-iv", IV.hex(), given=plain)
    assert check_transform(decrypted, cipher, [1, 16, 17]).result == "cipher.padding"


@settings(deadline=None)
@given(st.binary(max_size=80).filter(lambda data: not data or len(data) % 16))
def test_no_whole_blocks(cipher: bytes) -> None:
    """A ciphertext that is empty or not a multiple of a block is refused."""
    assert check_transform(decrypted, cipher, []).result == "cipher.size"


def test_pieces_are_the_takers() -> None:
    """A yielded piece does not change when more data is fed."""
    data = bytes(range(256)) * 4096 * 4
    cipher = carry(Encrypt(key=KEY, iv=IV), [data])
    decrypt = Decrypt(key=KEY, iv=IV)
    pieces = [*decrypt.feed(cipher), *decrypt.finish()]
    assert len(pieces) > 2
    assert b"".join(pieces) == data


def test_key_length() -> None:
    """A key of another length is refused."""
    with pytest.raises(ValueError, match="16 bytes"):
        Decrypt(key=b"short", iv=IV)
