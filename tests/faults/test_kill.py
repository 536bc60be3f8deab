"""A short run of the soak that kills the daemon; the long one is a script of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from faults.kill_soak import Wishes, soak

if TYPE_CHECKING:
    from pathlib import Path

REQUESTS = (7, 23, 41, 12)


def test_jobs_survive_the_daemon(tmp_path: Path) -> None:
    """Every job of a daemon that is killed at several requests ends done, with a valid bundle and nothing else left."""
    verdict = soak(Wishes(kills=len(REQUESTS), seed=20261123, requests=REQUESTS), tmp_path)
    assert verdict.kills == len(REQUESTS)
    assert verdict.jobs >= 3
    assert verdict.parts > verdict.jobs
