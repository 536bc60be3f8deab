"""The table of jobs, from the documents of the API."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from amistream.cli.job_table import age_text, job_table

NOW = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)


def document(number: int, **values: Any) -> dict[str, Any]:
    moment = (NOW - timedelta(minutes=number)).isoformat()
    base = {"id": f"20261130-1159{number:02}-abcdef", "state": "queued", "created_at": moment, "source": "/dev/xvda"}
    return {**base, "destinations": ["s3://my-bucket/images/web"], **values}


PROGRESS = {"stored_share": 0.434, "eta_s": 190.0, "bytes_total": 10 << 30}
JOBS = [
    document(59, state="failed", resumable=True, user=0, progress=PROGRESS, label="nightly"),
    document(30, state="cancelled", user=4294967294),
    document(
        9,
        state="done",
        started_at=(NOW - timedelta(seconds=100)).isoformat(),
        ended_at=NOW.isoformat(),
        result={"image_size": 5 << 20, "image_id": "ami-1", "places": []},
        name="web-1",
    ),
    document(3, state="bundling", progress=PROGRESS),
    document(1, place=2),
]
TABLE = """\
ID                      STATE                       AGE         SIZE      WHO         LABEL    SOURCE     AMI OR DESTINATION
20261130-115901-abcdef  queued, place 2             1 min ago   -         -                    /dev/xvda  s3://my-bucket/images/web
20261130-115903-abcdef  bundling 43 %, 3m 10s left  3 min ago   10.0 GiB  -                    /dev/xvda  s3://my-bucket/images/web
20261130-115909-abcdef  done in 1m 40s              9 min ago   5.0 MiB   queue                /dev/xvda  ami-1
20261130-115930-abcdef  cancelled                   30 min ago  -         4294967294           /dev/xvda  s3://my-bucket/images/web
20261130-115959-abcdef  failed, unfinished          59 min ago  10.0 GiB  root        nightly  /dev/xvda  s3://my-bucket/images/web"""  # noqa: E501 - as it is shown
CARD = """\
20261130-115959-abcdef  failed, unfinished
  59 min ago by root, 10.0 GiB, label nightly
  /dev/xvda -> s3://my-bucket/images/web"""


@pytest.mark.parametrize("width", [None, 140])
def test_a_line_each_where_it_fits(width: int | None) -> None:
    """The newest job comes first, each with how far it is or what became of it."""
    assert job_table(JOBS, width=width, now=NOW) == TABLE


@pytest.mark.parametrize("width", [60, 80])
def test_a_few_lines_each_on_a_narrow_terminal(width: int) -> None:
    """Nothing is cut: what is too wide for a line goes to the next one."""
    text = job_table(JOBS, width=width, now=NOW)
    assert text.endswith(CARD)
    assert max(map(len, text.splitlines())) <= width
    assert {word for word in TABLE.split() if "-" in word[1:]} <= set(text.split())


def test_ages() -> None:
    """An age is a whole number of the largest unit, and a date after a month."""
    ages = [timedelta(seconds=59), timedelta(hours=47), timedelta(days=2), timedelta(days=30)]
    assert [age_text(NOW - age, NOW) for age in ages] == ["59 s ago", "47 h ago", "2 days ago", "2026-10-31"]
