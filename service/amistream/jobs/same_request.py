"""Refuses another request under the name of a job: the name is the same job on every host, whatever runs it.

What a named job makes is marked with the digest of its request. Things of versions without that mark fit any request.
"""

from __future__ import annotations

from amistream.errors import RefusedError
from amistream.request import JobRequest, digest_of


def check_same_request(name: str, request: JobRequest, digest: str, there: str) -> None:
    """Raise `RefusedError` if the thing that is `there` was made for another request. `digest` is the mark of it."""
    if digest in ("", digest_of(request)):
        return
    raise RefusedError(
        "job.key_reused",
        f"cannot take the job {name!r}: {there} is of a job of the same name with another request",
        hint="give a new request a new name",
        field="job",
    )
