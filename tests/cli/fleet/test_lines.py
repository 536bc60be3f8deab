"""Messages of JSON lines and of bundles."""

from __future__ import annotations

import json
import re

import pytest

from amistream.cli.fleet.lines import job_name, make_messages, read_lines
from amistream.errors import UsageError
from amistream.events import JobKind
from amistream.fleet.messages import NAME_PATTERN, read_message, write_message

MANIFEST = "s3://b/web/image.manifest.xml"
FOLDER = "s3://b"


def line(**changes: object) -> str:
    return json.dumps({"job": "web-1", "kind": "verify", "request": {"manifest": MANIFEST}, **changes})


def test_lines_become_messages() -> None:
    """Each line is a message, whose version may be left out; empty lines are passed over, and own labels kept."""
    lines = [line(), "\n", line(job="web-2", v=1, label="own")]
    messages = read_lines(lines, file="jobs.jsonl", label="nightly")
    assert [(each.job, each.label, each.request.source) for each in messages] == [
        ("web-1", "nightly", MANIFEST),
        ("web-2", "own", MANIFEST),
    ]
    assert [read_message(write_message(each)) for each in messages] == messages


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        ("{", "message.malformed"),
        ("[]", "message.malformed"),
        ('"web-1"', "message.malformed"),
        (line(jobb="x"), "message.malformed"),
        (line(job=""), "message.malformed"),
        (line(kind="copy"), "message.malformed"),
        (line(v=0), "message.malformed"),
        (line(request={"manifest": MANIFEST, "depp": True}), "request.unknown_field"),
        (line(request={"manifest": "web"}), "request.invalid"),
        (line(label="x" * 70_000), "message.too_large"),
        (line(), "message.twice"),
    ],
)
def test_a_bad_line_is_named(bad: str, code: str) -> None:
    """A line that is no message, or has the job of another one, is refused by its number, with the fix."""
    with pytest.raises(UsageError) as caught:
        read_lines([line(), "", bad], file="jobs.jsonl")
    assert caught.value.code == code
    assert caught.value.message.startswith("jobs.jsonl, line 3: cannot ")
    assert caught.value.hint


def test_copies_keep_their_folders() -> None:
    """Each copy goes into the folder in which its bundle lies, so that bundles of the same name do not meet."""
    manifests = [f"{FOLDER}/{name}image.manifest.xml" for name in ("", "web/", "web/old/")]
    fields = {"region": "eu-west-1"}
    made = make_messages(
        JobKind.MIGRATE, manifests, folder=FOLDER, name="m", to="s3://copies/x/", fields=fields, label=""
    )
    assert [each.request.destinations for each in made] == [
        ("s3://copies/x",),
        ("s3://copies/x/web",),
        ("s3://copies/x/web/old",),
    ]
    assert [each.request.source for each in made] == manifests
    assert len({each.job for each in made}) == 3


def test_a_conversion_has_a_source() -> None:
    """The bundle is the source of a conversion, and further fields go into its request."""
    fields = {"ena": True}
    [made] = make_messages(JobKind.CONVERT, [MANIFEST], folder=FOLDER, name="c", to="", fields=fields, label="l")
    values = json.loads(write_message(made))
    assert values["request"] == {"source": MANIFEST, "ena": True}
    assert (made.job, made.label) == ("c/b/web/image.manifest.xml", "l")


@pytest.mark.parametrize("fields", [{"enna": True}, {"deep": "perhaps"}])
def test_fields_that_do_not_fit(fields: dict[str, object]) -> None:
    """A field that the request of the kind does not have, or not so, is refused."""
    with pytest.raises(UsageError):
        make_messages(JobKind.VERIFY, [MANIFEST], folder=FOLDER, name="v", to="", fields=fields, label="")


def test_names_of_jobs() -> None:
    """Every manifest has a name of its own that a message may have, and most names show the whole address."""
    assert job_name("verify-1", MANIFEST) == "verify-1/b/web/image.manifest.xml"
    long = "s3://b/" + "x" * 300
    manifests = [f"{long}/{each}.manifest.xml" for each in ("1", "2")]
    manifests += [
        "s3://b/a b.manifest.xml",
        "s3://b/a_b.manifest.xml",
        "s3://b/ä.manifest.xml",
        "s3://b/ö.manifest.xml",
    ]
    names = [job_name("verify", each) for each in manifests]
    assert len({*names}) == len(names)
    assert all(re.fullmatch(NAME_PATTERN, each) for each in names)
    assert names[0].startswith("verify/b/x")
    assert names[0].endswith("/1.manifest.xml")
