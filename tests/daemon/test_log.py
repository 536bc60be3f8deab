"""The form of the log, and the data that never appears in it."""

from __future__ import annotations

import json
import logging
import os
import pty
import sys
from typing import TYPE_CHECKING

import pytest
import structlog

from amistream import log
from amistream.settings import LogFormat
from support.logs import restored_log

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["restored_log"]
pytestmark = pytest.mark.usefixtures("restored_log")

OWN = "amistream.daemon.test"


def test_json_lines_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    """An event is one JSON object: first its time, level, name and job, then the fields."""
    log.configure("info", LogFormat.JSON)
    with structlog.contextvars.bound_contextvars(job="j1"):
        structlog.get_logger(OWN).info("job.end", parts=3)
    out, err = capsys.readouterr()
    line = json.loads(err)
    assert out == ""
    assert list(line)[:4] == ["timestamp", "level", "event", "job"]
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "job.end", "level": "info", "logger": OWN, "job": "j1", "parts": 3}


def test_text_is_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    """The text format is one plain line if stderr is not a terminal."""
    log.configure("info", LogFormat.TEXT)
    structlog.get_logger(OWN).info("job.end", parts=3)
    err = capsys.readouterr().err
    assert "job.end" in err
    assert "parts=3" in err
    assert "\x1b" not in err


def test_auto_is_what_the_reader_can_use(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The default is JSON, and text for a terminal."""
    log.configure("info", LogFormat.AUTO)
    structlog.get_logger(OWN).info("job.end")
    assert json.loads(capsys.readouterr().err)["event"] == "job.end"
    near, far = pty.openpty()
    with os.fdopen(far, "w") as terminal, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", terminal)
        log.configure("info", LogFormat.AUTO)
        structlog.get_logger(OWN).info("job.end")
        shown = os.read(near, 4096)
        assert (b"job.end" in shown, shown[:1] != b"{") == (True, True)
    os.close(near)


def test_the_journal_gets_priorities(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each line for the journal of systemd begins with its priority; another stream at its place gets plain lines."""
    with (tmp_path / "journal").open("w+") as journal, monkeypatch.context() as patch:
        about = os.fstat(journal.fileno())
        patch.setenv("JOURNAL_STREAM", f"{about.st_dev}:{about.st_ino}")
        patch.setattr(sys, "stderr", journal)
        log.configure("debug", LogFormat.TEXT)
        for level in ("debug", "info", "warning", "error"):
            getattr(structlog.get_logger(OWN), level)(f"two\n{level}")
        journal.seek(0)
        assert [line[:3] for line in journal] == [f"<{number}>" for number in (7, 7, 6, 6, 4, 4, 3, 3)]
        assert log.for_journal("amistreamd: no") == "<3>amistreamd: no"
        patch.setenv("JOURNAL_STREAM", f"{about.st_dev}:{about.st_ino + 1}")
        assert log.for_journal("amistreamd: no") == "amistreamd: no"


def test_level_holds_for_own_lines_only(capsys: pytest.CaptureFixture[str]) -> None:
    """At level debug the SDK stays at WARNING, because its debug lines hold credentials."""
    log.configure("debug", LogFormat.JSON)
    structlog.get_logger(OWN).debug("own")
    logging.getLogger("botocore.auth").debug("signature")
    logging.getLogger("aiohttp.server").info("noise")
    logging.getLogger("botocore.retry").warning("retrying %s", "part")
    events = [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()]
    assert events == ["own", "retrying part"]


def test_less_severe_lines_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    """Lines below the level do not appear."""
    log.configure("error", LogFormat.JSON)
    structlog.get_logger(OWN).warning("quiet")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("log_format", LogFormat)
def test_traceback_shows_no_variables(capsys: pytest.CaptureFixture[str], log_format: LogFormat) -> None:
    """A traceback shows files and lines, never values of variables."""
    log.configure("info", log_format)

    def use(key: str) -> None:
        raise ValueError(f"a key of {len(key)} bytes is no good")

    try:
        use("hunter2" * 2)
    except ValueError:
        structlog.get_logger(OWN).exception("job.bug")
    err = capsys.readouterr().err
    assert "14 bytes" in err
    assert "Traceback" in err
    assert "hunter2hunter2" not in err


def test_configuring_again_replaces_the_first(capsys: pytest.CaptureFixture[str]) -> None:
    """A second configuration leaves one line per event."""
    log.configure("info", LogFormat.TEXT)
    log.configure("info", LogFormat.JSON)
    structlog.get_logger(OWN).info("once")
    assert len(capsys.readouterr().err.splitlines()) == 1
