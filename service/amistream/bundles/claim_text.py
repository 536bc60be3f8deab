"""The content of a claim, by which one of many hosts holds a prefix for its job, and the end of its time.

`jobs.claim` has the rules by which claims are put, taken over and removed. A request for one that was never answered
may make it after its job's end, and nobody removes that.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from amistream.ports.store import StoredClaim

LONGEST_RUN = timedelta(hours=12)
"""A host has a job for less in a row: then it gives the message back, and whoever goes on renews the claim."""
LONGEST_KEPT = timedelta(days=15)
"""AWS limit: a message is kept for 14 days, so it does not come again after that, and nobody goes on with its job."""


class ClaimText(BaseModel):
    """The content of a claim. Fields that a newer version adds are no obstacle."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    v: Literal[1] = 1
    job: str
    """The job's name."""
    run: str
    """The job's id on the host that has it."""
    holder: str
    request: str = ""
    """A digest of the job's request; '' in a claim of an older version."""
    attempt: int = 0
    sent_at: float = 0.0
    nonce: str
    """Makes each claim another object, with another ETag."""

    @property
    def rank(self) -> tuple[float, int]:
        return self.sent_at, self.attempt


def parse_claim(text: bytes) -> ClaimText | None:
    """The claim; None for a text that is none."""
    try:
        return ClaimText.model_validate_json(text)
    except ValidationError:
        return None


def is_over(claim: StoredClaim, now: datetime, *, has_bundle: bool) -> bool:
    """True for a claim by which no job goes any more. `has_bundle`: the bundle that it was made for is whole.

    An object that is no claim is somebody's.
    """
    if claim.made_at is None or parse_claim(claim.text) is None:
        return False
    return now - claim.made_at > (LONGEST_RUN if has_bundle else LONGEST_KEPT)
