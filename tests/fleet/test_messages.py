"""Messages: what is read, what is refused with which code, and that nothing of a stranger's makes the reader fail."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amistream.errors import MessageError, NewerMessageError
from amistream.events import JobKind
from amistream.fleet.messages import LARGEST, Message, read_message, write_message
from amistream.request import BundleRequest, parse_request

BUNDLE = {"source": "/srv/images/web.img", "destinations": ["s3://bundles/web"], "part_size": "1MiB"}
MESSAGE: dict[str, Any] = {"v": 1, "job": "web-2026-11-28", "kind": "bundle", "request": BUNDLE}
DEADLINE = datetime(2026, 11, 29, 6, tzinfo=UTC)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)


def text(**changes: Any) -> str:
    """The message with changes; None leaves a field out."""
    return json.dumps({name: value for name, value in {**MESSAGE, **changes}.items() if value is not None})


def read_or_fault(body: str) -> Message | MessageError:
    try:
        return read_message(body)
    except MessageError as error:
        return error


def fault(body: str) -> MessageError:
    with pytest.raises(MessageError) as caught:
        read_message(body)
    return caught.value


def test_a_message() -> None:
    """Name, request, label and deadline are read, and the request is validated as one of the socket."""
    message = read_message(text(label="nightly", deadline="2026-11-29T07:00:00+01:00"))
    assert (message.job, message.label, message.deadline) == ("web-2026-11-28", "nightly", DEADLINE)
    assert message.request == parse_request(BUNDLE)


@pytest.mark.parametrize(
    "request_fields",
    [
        {"kind": "verify", "manifest": "s3://bundles/web.manifest.xml", "deep": True, "private_key": "/k/pk.pem"},
        {"kind": "convert", "source": "/srv/a.img", "ami_name": "web one", "tags": {"a": "b"}},
        BUNDLE,
    ],
)
def test_a_round_trip(request_fields: dict[str, Any]) -> None:
    """A written message is read as it was, of any kind."""
    message = Message(job="a/b:c@d", request=parse_request(request_fields), label="x", deadline=DEADLINE)
    assert read_message(write_message(message)) == message


def test_only_given_fields_are_written() -> None:
    """The defaults of the version that writes are not made the reader's."""
    written = json.loads(write_message(read_message(text())))
    assert set(written) == {"v", "job", "kind", "request"}
    assert set(written["request"]) == set(BUNDLE)


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"v": None}, "v", "its v is None"),
        ({"v": 0}, "v", "its v is 0"),
        ({"v": True}, "v", "its v is True"),
        ({"v": "1"}, "v", "its v is '1'"),
        ({"job": None}, "job", "it has no job"),
        ({"job": ""}, "job", "letters, digits"),
        ({"job": "-x"}, "job", "letters, digits"),
        ({"job": "a b"}, "job", "letters, digits"),
        ({"job": "a\n"}, "job", "letters, digits"),
        ({"job": "x" * 129}, "job", "1 to 128"),
        ({"job": "20261128-235959-00ff7a"}, "job", "not the form of a job's id"),
        ({"kind": "erase"}, "kind", "bundle, convert"),
        ({"kind": None}, "kind", "it has no kind"),
        ({"request": None}, "request", "it has no request"),
        ({"request": []}, "request", "dictionary"),
        ({"request": {**BUNDLE, "kind": "verify"}}, "kind", "'verify'"),
        ({"label": "x" * 256}, "label", "255"),
        ({"label": "a\x1bb"}, "label", "control characters"),
        ({"deadline": "2026-11-29T06:00:00"}, "deadline", "timezone"),
        ({"deadline": "soon"}, "deadline", "datetime"),
        ({"labels": "x"}, "labels", "no field 'labels'"),
        ({"x" * 500: 1}, "x" * 80 + "...", "xxx..."),
    ],
)
def test_malformed(changes: dict[str, Any], field: str, words: str) -> None:
    """The error names the field at fault, and the job as far as its name is one."""
    error = fault(text(**changes))
    assert (error.code, error.field) == ("message.malformed", field)
    assert words in error.message
    assert len(error.message) < 300
    assert error.job == ("" if field == "job" else MESSAGE["job"])


@pytest.mark.parametrize("body", ["", "{", "[]", "null", '"x"', "{'v': 1}", '{"v": NaN}', '{"v": 1, "job": "\\ud800"}'])
def test_no_object(body: str) -> None:
    """A body that is no JSON object is malformed, and names no job."""
    error = fault(body)
    assert (error.code, error.job) == ("message.malformed", "")


@pytest.mark.parametrize(
    ("changes", "code", "field"),
    [
        ({"sorce": "/a"}, "request.unknown_field", "sorce"),
        ({"access_key": "AKIA"}, "request.unknown_field", "access_key"),
        ({"destinations": ["ftp://x"]}, "request.invalid", "destinations"),
    ],
)
def test_a_bad_request(changes: dict[str, Any], code: str, field: str) -> None:
    """A request is refused with the codes of the socket."""
    error = fault(text(request={**BUNDLE, **changes}))
    assert (error.code, error.field, error.job) == (code, field, MESSAGE["job"])


@pytest.mark.parametrize("version", [2, 10**30])
def test_a_newer_version(version: int) -> None:
    """A later version is another error than a malformed message, whatever else it has."""
    error = fault(text(v=version, spell="x", request=None))
    assert isinstance(error, NewerMessageError)
    assert (error.code, error.job) == ("message.newer", MESSAGE["job"])


def test_size() -> None:
    """64 KiB are read, and a byte more is refused unread; none that is larger is written."""
    body = text()
    assert read_message(body + " " * (LARGEST - len(body))).job == MESSAGE["job"]
    assert fault(body + " " * (LARGEST + 1 - len(body))).code == "message.too_large"
    # Signs of two bytes, counted as bytes.
    assert fault('"' + "é" * (LARGEST // 2) + '"').code == "message.too_large"
    request = BundleRequest.model_validate({**BUNDLE, "exclude": ["/x" * 2000] * 20})
    with pytest.raises(MessageError, match="bytes") as caught:
        write_message(Message(job="large", request=request))
    assert caught.value.job == "large"


def test_a_deadline() -> None:
    """A job may begin until its deadline, and one without may always."""
    message = read_message(text(deadline=DEADLINE.isoformat()))
    message.check_deadline(DEADLINE)
    with pytest.raises(MessageError) as caught:
        message.check_deadline(DEADLINE + timedelta(seconds=1))
    assert (caught.value.code, caught.value.job) == ("message.deadline", MESSAGE["job"])
    read_message(text()).check_deadline(DEADLINE)


@given(st.text())
def test_any_text(body: str) -> None:
    """Any text is refused or read, and no other error appears."""
    with pytest.raises(MessageError):
        read_message(body)


@given(field=st.sampled_from(["v", "job", "kind", "request", "label", "deadline", "other"]), value=json_values)
def test_any_field(field: str, value: object) -> None:
    """A message with anything in one field is read, or refused with a short message."""
    found = read_or_fault(json.dumps({**MESSAGE, field: value}))
    if isinstance(found, MessageError):
        assert len(found.message) < 2000
    else:
        assert read_message(write_message(found)) == found


@settings(max_examples=40)
@given(
    kind=st.sampled_from(JobKind),
    fields=st.dictionaries(st.text(max_size=10) | st.sampled_from(sorted(BUNDLE)), json_values),
)
def test_any_request(kind: JobKind, fields: dict[str, Any]) -> None:
    """A message with anything as its request is read, or refused under the job's name."""
    body = json.dumps({**MESSAGE, "kind": kind, "request": {**BUNDLE, **fields}})
    assert read_or_fault(body).job in {MESSAGE["job"], ""}


@given(st.binary(max_size=200), st.integers(min_value=0), st.integers(min_value=0, max_value=20))
def test_any_damage(piece: bytes, place: int, length: int) -> None:
    """A message with a piece of it replaced is read, or refused as a whole."""
    body = bytearray(text(label="nightly", deadline=DEADLINE.isoformat()).encode())
    start = place % len(body)
    body[start : start + length] = piece
    found = read_or_fault(body.decode("utf-8", "replace"))
    if isinstance(found, MessageError):
        assert found.code.startswith(("message.", "request."))
    else:
        assert found.request.destinations
