"""Text about the report of a verification, for the command `verify` and for jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from amistream.cli.table import columns, counted
from amistream.states import OTHERS_SIGNATURE
from amistream.units import duration_text, size_text

if TYPE_CHECKING:
    from amistream.reports import Report

_IN_TEXT = {
    "right": "valid",
    "right once written as Amazon's tools write it": "valid once written as Amazon's tools write it",
    "wrong": "not valid",
    OTHERS_SIGNATURE: f"{OTHERS_SIGNATURE}; give the --cert and --private-key that it was made with",
    "not told by this endpoint": "not available from this endpoint",
    "not told: s3:GetObjectAcl is not allowed": "not known: s3:GetObjectAcl is not allowed",
}
"""Text for people of values that JSON has in older words."""


def report_text(report: Report) -> str:
    """Format the facts, then a line for each note and difference."""
    maker = f", by {report.bundler}" if report.bundler else ""
    count = len(report.differences)
    return columns(
        [
            ("manifest", report.manifest),
            ("image", f"{report.image_name}, {report.kind}, {report.architecture}, {size_text(report.image_size)}"),
            ("parts", f"{counted(report.parts, 'part')}, {size_text(report.bundled_size)} together{maker}"),
            ("checksums", _digests_text(report)),
            ("signature", in_text(report.signature)),
            ("access", in_text(report.access)),
            ("content", _content_text(report)),
            ("elapsed", duration_text(report.elapsed_s)),
            *(("note", note) for note in report.notes),
            *(("DIFFERENT", difference.message) for difference in report.differences),
            ("result", counted(count, "difference") if count else "OK"),
        ]
    )


def in_text(value: str) -> str:
    """A signature's or an access's value of JSON, as people read it."""
    return _IN_TEXT.get(value, value)


def _digests_text(report: Report) -> str:
    wrong = sum(difference.what == "part.digest" for difference in report.differences)
    return f"{report.digests.compared - wrong} of {report.parts} match"


def _content_text(report: Report) -> str:
    if not report.deep:
        return "not checked; --deep checks it"
    if report.content is None:
        return "could not be unpacked to its end"
    kind = f"sparse, {size_text(report.content.data_size)} of data" if report.content.sparse else "all of it data"
    return f"decrypted, decompressed and unpacked: {size_text(report.content.size)}, {kind}"
