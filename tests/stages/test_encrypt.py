"""Encrypt: the output of `openssl enc -aes-128-cbc`, through one scratch buffer."""

from __future__ import annotations

import os
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amistream.stages.encrypt import BLOCK, SLICE, Encrypt
from amistream.values import Buffer
from stages.transform_check import Outcome, ask, carry, check_transform, cut_data

KEY = bytes(range(16))
IV = bytes(range(100, 116))


def encrypted(pieces: Sequence[Buffer]) -> Outcome:
    encrypt = Encrypt(key=KEY, iv=IV)
    return Outcome(carry(encrypt, pieces), encrypt.result())


def openssl(data: bytes, *options: str) -> bytes:
    return ask("openssl", "enc", "-aes-128-cbc", "-K", KEY.hex(), "-iv", IV.hex(), *options, given=data)


@settings(deadline=None)
@given(cut_data(max_size=600))
def test_cuts(data_and_cuts: tuple[bytes, list[int]]) -> None:
    """Any cuts of the input give the same ciphertext and size."""
    data, cuts = data_and_cuts
    outcome = check_transform(encrypted, data, cuts)
    assert outcome.result == len(outcome.output)
    assert len(data) < len(outcome.output) <= len(data) + BLOCK


@pytest.mark.parametrize(
    "length",
    [*range(65), *(edge + near for edge in (SLICE, 2 * SLICE) for near in (-BLOCK - 1, -BLOCK, -1, 0, 1, BLOCK))],
)
def test_same_as_openssl(length: int) -> None:
    """Ciphertext of any length equals openssl's, and openssl decrypts it."""
    data = os.urandom(length)
    outcome = encrypted([data])
    assert outcome.output == openssl(data)
    assert outcome.result == len(outcome.output)
    assert openssl(outcome.output, "-d") == data


def test_nothing_fed() -> None:
    """No input gives one block of padding."""
    assert encrypted([]).output == openssl(b"")


@pytest.mark.parametrize("cut", [1, BLOCK - 1, SLICE - 1, SLICE + 1])
def test_cuts_around_the_slice(cut: int) -> None:
    """Pieces across cipher blocks and slices change nothing."""
    data = os.urandom(2 * SLICE + 5)
    assert encrypted([data[:cut], data[cut:]]) == encrypted([data])


@pytest.mark.parametrize("length", [0, 15, 17, 24, 32])
def test_bad_key(length: int) -> None:
    """A key that is not 16 bytes long is refused, even one of a longer AES."""
    with pytest.raises(ValueError, match="an AES-128 key has 16 bytes"):
        Encrypt(key=bytes(length), iv=IV)


@pytest.mark.parametrize("length", [0, 15, 17, 32])
def test_bad_iv(length: int) -> None:
    """An IV that is not 16 bytes long is refused."""
    with pytest.raises(ValueError, match=r"(?i)invalid iv size"):
        Encrypt(key=KEY, iv=bytes(length))


def test_scratch_is_reused() -> None:
    """All outputs are views of one buffer, each valid until the next is requested."""
    data = os.urandom(2 * SLICE)
    encrypt = Encrypt(key=KEY, iv=IV)
    outputs = encrypt.feed(data)
    first = next(outputs)
    kept = bytes(first)
    assert kept == openssl(data)[:SLICE]
    second = next(outputs)
    assert second.obj is first.obj
    assert bytes(first) == bytes(second) != kept
    (last,) = encrypt.finish()
    assert last.obj is first.obj


def test_small_pieces_wait() -> None:
    """Input is yielded only in whole cipher blocks."""
    encrypt = Encrypt(key=KEY, iv=IV)
    assert list(encrypt.feed(b"0123456789")) == []
    assert [len(view) for view in encrypt.feed(b"012345")] == [BLOCK]


def test_input_untouched() -> None:
    """The input's buffer is not modified."""
    data = bytearray(b"payload " * 1000)
    carry(Encrypt(key=KEY, iv=IV), [data])
    assert data == b"payload " * 1000


@settings(deadline=None)
@given(cut_data(max_size=600), st.data())
def test_goes_on_after_any_cipher_block(data_and_cuts: tuple[bytes, list[int]], data: st.DataObject) -> None:
    """A second cipher with the last cipher block and the size so far continues the stream."""
    plain, _ = data_and_cuts
    whole = encrypted([plain]).output
    at = BLOCK * data.draw(st.integers(0, len(plain) // BLOCK))
    chain = whole[at - BLOCK : at] if at else IV
    encrypt = Encrypt(key=KEY, iv=chain, size_before=at)
    assert whole[:at] + carry(encrypt, [plain[at:]]) == whole
    assert encrypt.result() == len(whole)


@pytest.mark.parametrize("size", [1, 15, 17, 31])
def test_goes_on_after_whole_cipher_blocks_only(size: int) -> None:
    """A stream cannot be continued within a cipher block."""
    with pytest.raises(ValueError, match="after a whole cipher block"):
        Encrypt(key=KEY, iv=IV, size_before=size)
