"""Lines on a terminal: folded between words, the rest below the last column."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from amistream.cli.live import _picture
from amistream.cli.summary import details_text
from amistream.cli.terminal import folded
from cli.scripted import begin, finish, make_job

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


@pytest.mark.parametrize("width", [60, 80, 140])
@pytest.mark.parametrize("with_stages", [False, True])
def test_a_live_screen_fits(width: int, *, with_stages: bool) -> None:
    """The drawing of a running job, and the table at its end, are no wider than the terminal, with whole words."""
    begin(job := make_job())
    drawn = StringIO()
    console = Console(width=width, file=drawn, force_terminal=False)
    console.print(_picture(job.view(), width, with_stages=with_stages))
    lines = drawn.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert len(lines) <= (8 if with_stages else 3)
    text = " ".join(" ".join(lines).split())
    for words in (
        "bundling",
        "75 % 0.7 s left",
        "320.0 MiB of 400.0 MiB read,",
        "9 parts stored, limited by compression",
    ):
        assert words in text
    finish(job)
    assert max(map(len, details_text(job.view()).splitlines())) <= width
