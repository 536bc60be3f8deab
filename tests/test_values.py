"""Names of bundles and of their objects."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from amistream.values import as_prefix, is_prefix

TAKEN = (
    "2014-01-02T10:20:30.img",
    "vol@snap1.img",
    "a=b.img",
    "100%.img",
    "web#1.img",
    "imag\u00e9.img",
    "x" * 90 + ".img",
    "br[1].img",
    "a,b.img",
    "tilde~.img",
    "two words & more.img",
    "a+b.img",
    "\u65e5\u672c" * 16,
    "back\\slash'quote\".img",
)
CLEANED = {
    "": "image",
    ".": "image",
    "..": "image",
    "-": "image",
    ".hidden.img": "hidden.img",
    "-rf": "rf",
    " x ": "x",
    "x" * 100: "x" * 99,
    "\u00e9" * 50: "\u00e9" * 49,
    "a\nb\x1b[2J": "a_b_[2J",
    "a\udcffb": "a_b",
    "a/b": "a_b",
    "a\u202eb": "a_b",
}


@pytest.mark.parametrize("name", TAKEN)
def test_names_that_are_taken(name: str) -> None:
    """Names of images that the older tools take are prefixes as they are."""
    assert is_prefix(name)
    assert as_prefix(name) == name


@pytest.mark.parametrize("name", CLEANED)
def test_names_that_are_cleaned(name: str) -> None:
    """Of other names, as much is kept as can be."""
    assert not is_prefix(name)
    assert as_prefix(name) == CLEANED[name]
    assert is_prefix(as_prefix(name))


@given(st.text(st.characters() | st.sampled_from(" .-/\n")))
@example(". -x")
def test_any_name_can_be_cleaned(name: str) -> None:
    """A cleaned name is always a prefix."""
    assert is_prefix(as_prefix(name))
