"""Hostile names of files and volumes: none stops the daemon or controls the reader's terminal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from amistream.cli.live import LiveScreen
from amistream.cli.output import put_error, put_error_document, put_result
from amistream.errors import AmistreamError, JobError, StoreError, UsageError
from amistream.events import State
from amistream.jobs.job import End, Job
from amistream.request import parse_bundle_request
from amistream.stores.directory import DirectoryStore
from cli.scripted import make_job

NOT_UTF8 = "image.part.\udcff"
"""A file name that is not UTF-8, as Python shows it."""
REQUEST: dict[str, Any] = {"source": "/volumes/a", "destinations": ["/bundles/a"]}
STEERING = {
    "escape": "\x1b]0;title\x07",
    "newline": "a\nb",
    "nothing": "\0",
    "delete": "\x7f",
    "C1": "\x9b2J",
    "not UTF-8": NOT_UTF8,
}


def failed(error: AmistreamError) -> Job:
    job = Job(parse_bundle_request(REQUEST))
    job.move(State.CHECKING)
    job.end(End(State.FAILED, error=error))
    return job


def test_a_job_with_a_name_that_is_not_utf8_can_be_shown() -> None:
    """Errors and notices escape such a name, so that the job can be stored and sent as JSON."""
    job = Job(parse_bundle_request(REQUEST))
    job.note(f"there is {NOT_UTF8}")
    assert json.loads(job.view().model_dump_json())["notices"] == ["there is image.part.\\udcff"]
    error = JobError("some.code", f"cannot take {NOT_UTF8}", hint=f"rm {NOT_UTF8}", field=NOT_UTF8)
    shown = json.loads(failed(error).view().model_dump_json())["error"]
    assert (shown["message"], shown["hint"]) == ("cannot take image.part.\\udcff", "rm image.part.\\udcff")
    str(error).encode()


async def test_a_file_whose_name_is_not_utf8(tmp_path: Path) -> None:
    """A directory that cannot be used because of such a name fails the job with a readable message."""
    (tmp_path / NOT_UTF8).mkdir()
    store = DirectoryStore(tmp_path, token="t0")
    (name,) = await store.names("image.part.")
    with pytest.raises(StoreError) as caught:
        await store.delete(name)
    failed(caught.value).view().model_dump_json()


@pytest.mark.parametrize("field", ["source", "destinations", "certificate", "private_key", "ec2_certificate"])
@pytest.mark.parametrize("kind", STEERING)
def test_a_path_that_steers_is_refused(field: str, kind: str) -> None:
    """A path with a control character or a lone surrogate is refused, and the refusal can be sent and shown."""
    path = f"/volumes/{STEERING[kind]}"
    with pytest.raises(UsageError) as caught:
        parse_bundle_request({**REQUEST, field: [path] if field == "destinations" else path})
    assert caught.value.field == field
    assert "has control characters" in caught.value.message
    assert caught.value.message.isprintable()


def test_a_path_in_any_script_is_taken() -> None:
    """Printable characters of any script are accepted."""
    assert parse_bundle_request({**REQUEST, "source": "/volumes/Größe 日本 🙂"}).source == "/volumes/Größe 日本 🙂"


def test_printed_text_controls_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Line breaks and letters stay; characters that control a terminal or the direction of text are escaped."""
    put_result("Größe 日本\t🙂\nis \x1b[2J \x9b \u202e \U000e0001 \udcff")
    put_error(AmistreamError("a.code", "cannot read \x1b[31m", hint="look\rthere"))
    shown = capsys.readouterr()
    assert shown.out == "Größe 日本\t🙂\nis \\u001b[2J \\u009b \\u202e \\udb40\\udc01 \\udcff\n"
    assert shown.err == "amistream: cannot read \\u001b[31m\nlook\\rthere\n"


def test_escaped_json_means_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    """Escaped JSON is still JSON with the same meaning."""
    error = AmistreamError("a.code", "cannot read \x9b \x1b \U000e0001")
    put_error_document(error)
    put_result(json.dumps({"name": error.message}, ensure_ascii=False))
    document, line = capsys.readouterr().out.splitlines()
    assert json.loads(document)["error"]["message"] == error.message
    assert json.loads(line)["name"] == error.message
    assert line.isprintable()


def test_a_live_screen_is_not_steered(capsys: pytest.CaptureFixture[str]) -> None:
    """The live display of a running job escapes them, too."""
    job = make_job()
    job.note("a file is called \x1b]0;title")
    with LiveScreen() as screen:
        screen.show(job._event("notice"))
    assert "\\u001b]0;title" in capsys.readouterr().err
