"""Lines on a terminal: folded between words, the rest below the last column."""

from __future__ import annotations

import pytest

from amistream.cli.terminal import folded

FINDING = f"failed   {'boot':<15}  cannot boot: it has no partition table, and no file system that is known"
DONE = "done  s3://bucket/web/image.manifest.xml  ami-0123456789abcdef0  (web-1, eu-west-1)"
HASH = f"ok       ec2_certificate  SHA-1 fingerprint {'ab' * 20}"
FACT = "note     the clock is 3 s late, and a late clock lets AWS refuse what is signed with it"


@pytest.mark.parametrize("width", [60, 80, 140])
@pytest.mark.parametrize("text", [FINDING, DONE, HASH, FACT, "word " * 60, "x" * 200, '{"a": "' + "b " * 100 + '"}'])
def test_nothing_is_cut_or_broken(text: str, width: int) -> None:
    """Every word stays whole and in its order, and lines are as narrow as the longest word allows."""
    shown = folded(text, width)
    assert shown.split() == text.split()
    if not text.startswith("{"):
        assert max(map(len, shown.splitlines())) <= max(width, *map(len, text.split()))
    assert folded(text, 0) == text


def test_the_rest_stands_below_the_last_column() -> None:
    """A folded line continues where its last column begins; one whose words are too long for that, further left."""
    first, *rest = folded(FINDING, 60).splitlines()
    assert first == f"failed   {'boot':<15}  cannot boot: it has no partition"
    assert all(line.startswith(" " * 26) and line[26] != " " for line in rest)
    assert folded(HASH, 60).splitlines()[1] == " " * 9 + "ab" * 20
