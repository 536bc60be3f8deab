"""Patterns against those of rsync 3.2.7: the table holds what its --exclude left out of a tree of these paths."""

from __future__ import annotations

import re
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amistream.source.tree.patterns import Patterns

PATHS = (
    *("a/", "a/b/", "a/b/c", "a/b/cc", "a/c", "c", "foo/", "foo/bar/", "foo/bar/baz", "bar"),
    *("x/", "x/foo/", "x/foo/y/", "x/foo/y/bar", "a[b]", "ab]", "back\\slash", "star*", "foo.o"),
    *(".hid", "d2/", "d2/d1", "A1", "b-c"),
)
EVERYTHING = " ".join(PATHS)
LEFT_OUT = {
    "c": "a/b/c a/c c",
    "/c": "c",
    "foo": "foo/ foo/bar/ foo/bar/baz x/foo/ x/foo/y/ x/foo/y/bar",
    "foo/": "foo/ foo/bar/ foo/bar/baz x/foo/ x/foo/y/ x/foo/y/bar",
    "/foo": "foo/ foo/bar/ foo/bar/baz",
    "foo/bar": "foo/bar/ foo/bar/baz",
    "/foo/bar": "foo/bar/ foo/bar/baz",
    "foo/*": "foo/bar/ foo/bar/baz x/foo/y/ x/foo/y/bar",
    "/foo/**": "foo/bar/ foo/bar/baz",
    "**/bar": "foo/bar/ foo/bar/baz bar x/foo/y/bar",
    "**bar": "foo/bar/ foo/bar/baz bar x/foo/y/bar",
    "a/**/c": "a/b/c",
    "a/*/c": "a/b/c",
    "*": EVERYTHING,
    "*o*": "foo/ foo/bar/ foo/bar/baz x/foo/ x/foo/y/ x/foo/y/bar foo.o",
    "??": "a/b/cc d2/ d2/d1 A1",
    "[ab]": "a/ a/b/ a/b/c a/b/cc a/c",
    "[!a]": "a/b/ a/b/c a/b/cc a/c c x/ x/foo/ x/foo/y/ x/foo/y/bar",
    "[[:upper:]]*": "A1",
    "a\\[b\\]": "a[b]",
    "a[b]": "",
    "back\\slash": "back\\slash",
    "star\\*": "star*",
    "[]a]b]": "ab]",
    "[": "",
    ".*": ".hid",
    "/*/": ("a/ a/b/ a/b/c a/b/cc a/c foo/ foo/bar/ foo/bar/baz x/ x/foo/ x/foo/y/ x/foo/y/bar d2/ d2/d1"),
    "*/": ("a/ a/b/ a/b/c a/b/cc a/c foo/ foo/bar/ foo/bar/baz x/ x/foo/ x/foo/y/ x/foo/y/bar d2/ d2/d1"),
    "foo/***": "foo/ foo/bar/ foo/bar/baz x/foo/ x/foo/y/ x/foo/y/bar",
    "/***": EVERYTHING,
    "/*****": EVERYTHING,
    "//***": "",
    "/foo/****": "foo/ foo/bar/ foo/bar/baz",
    "f***": "foo/ foo/bar/ foo/bar/baz x/foo/ x/foo/y/ x/foo/y/bar foo.o",
    "x/***/bar": "x/foo/y/bar",
    "y/bar": "x/foo/y/bar",
    "b[+--]c": "b-c",
    "/x//foo": "",
    "d1/": "",
    "foo//": "",
    "f**r": "foo/bar/ foo/bar/baz x/foo/y/bar",
}


def left_out(*patterns: str) -> str:
    """The paths that patterns leave out: those that they match, and all below a directory that they match."""
    compiled = Patterns(patterns)
    gone: list[str] = []
    for path in PATHS:
        inside = path.rstrip("/").encode()
        matched = compiled.match(b"/" + inside, inside.rpartition(b"/")[2], directory=path.endswith("/"))
        if matched is not None or any(path.startswith(each) for each in gone if each.endswith("/")):
            gone.append(path)
    return " ".join(gone)


@pytest.mark.parametrize("pattern", LEFT_OUT)
def test_as_rsync(pattern: str) -> None:
    """A pattern matches what it matches in rsync."""
    assert left_out(pattern) == LEFT_OUT[pattern]


def test_several() -> None:
    """Of several patterns each one counts, and the one that matched is named."""
    assert left_out("/a", "b-c") == "a/ a/b/ a/b/c a/b/cc a/c b-c"
    patterns = Patterns(["*.o", "/a/b", "c"])
    assert patterns.match(b"/a/b", b"b", directory=True) == "/a/b"
    assert patterns.match(b"/x/foo.o", b"foo.o", directory=False) == "*.o"
    assert patterns.match(b"/x/c", b"c", directory=False) == "c"
    assert patterns.match(b"/x/d", b"d", directory=False) is None


def test_any_bytes() -> None:
    """Names that are no UTF-8 or hold a newline are matched by their bytes."""
    patterns = Patterns([b"\xff*".decode("utf-8", "surrogateescape"), "a?b"])
    assert patterns.match(b"/\xffx", b"\xffx", directory=False)
    assert patterns.match(b"/a\nb", b"a\nb", directory=False) == "a?b"


@given(
    glob=st.lists(st.sampled_from(["a", "b", "/", "?", "*", "**"]), min_size=1, max_size=9).map("".join),
    path=st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=4).map("/".join),
)
def test_every_place_of_a_star(glob: str, path: str) -> None:
    """A pattern matches if any choice of what its stars stand for makes it the path."""
    name = path.rpartition("/")[2]
    found = Patterns([f"/{glob}"]).match(f"/{path}".encode(), name.encode(), directory=False)
    assert (found is not None) == (not f"/{glob}".endswith("/") and matches(f"/{glob}", f"/{path}"))


@given(
    globs=st.lists(
        st.lists(st.sampled_from(["a", "b", "/", "?", "*", "**", "[ab]", "\\"]), min_size=1, max_size=7).map("".join),
        min_size=1,
        max_size=3,
    ),
    path=st.lists(st.text("ab\\", min_size=1, max_size=3), min_size=1, max_size=4).map("/".join),
    anchored=st.booleans(),
)
def test_names_in_a_folder(globs: list[str], path: str, *, anchored: bool) -> None:
    """Each name that a pattern matches is among those that may match in its folder."""
    patterns = Patterns([f"/{glob}" if anchored else glob for glob in globs])
    whole = f"/{path}".encode()
    folder, _, name = whole.rpartition(b"/")
    suspects = patterns.names_in(folder + b"/")
    if patterns.match(whole, name, directory=False) is not None:
        assert suspects is None or name in suspects


def test_few_names_in_a_folder() -> None:
    """Only the folders where a pattern with a star may match have any name for a suspect."""
    patterns = Patterns(["/tmp/*", "/etc/ssh/ssh_host_*_key", ".netrc", "/etc/machine-id"])
    assert patterns.names_in(b"/etc/") == patterns.names_in(b"/usr/share/") == frozenset({b".netrc", b"machine-id"})
    assert patterns.names_in(b"/tmp/") is patterns.names_in(b"/tmp/a/") is patterns.names_in(b"/etc/ssh/") is None
    assert Patterns(["*.o"]).names_in(b"/usr/") is None


def matches(glob: str, path: str) -> bool:
    """Try everything that a star may stand for."""
    tokens = re.findall(r"\*\*+|.", glob)
    if glob.endswith("/***"):
        tokens = [*tokens[:-1], "**"]

    @cache
    def rest(token: int, at: int) -> bool:
        if token == len(tokens):
            return at == len(path)
        if tokens[token].startswith("*"):
            one_more = at < len(path) and (path[at] != "/" or tokens[token] != "*")
            return rest(token + 1, at) or (one_more and rest(token, at + 1))
        same = at < len(path) and (tokens[token] == path[at] or (tokens[token] == "?" and path[at] != "/"))
        return same and rest(token + 1, at + 1)

    return rest(0, 0)


@pytest.mark.parametrize("pattern", ["*a" * 100 + "*b", "**/" + "a*" * 100 + "b", "**a" * 100 + "**b", "a*/" * 9 + "b"])
def test_many_stars(pattern: str) -> None:
    """A pattern with many stars, and a path with many places for them, take no time: no other thread runs meanwhile."""
    name = b"a" * 255
    assert Patterns([pattern]).match(b"/" + b"/".join([name] * 16), name, directory=False) is None
