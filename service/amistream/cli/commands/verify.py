"""The command `verify`: compares a bundle with its manifest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from amistream.cli.manifest_arguments import Manifest, path_of, settings_for
from amistream.cli.options import ConfigOption, JsonOption
from amistream.cli.output import put_answer
from amistream.cli.request_options import takes, validated
from amistream.cli.table import columns, counted
from amistream.errors import DifferenceError
from amistream.request import Identity, StoreReach
from amistream.units import duration_text, size_text

if TYPE_CHECKING:
    from amistream.reports import Report

Deep = Annotated[bool, typer.Option("--deep", help="Read, decrypt and unpack every part; needs the private key.")]


@takes("certificate", "private_key", "region", "endpoint_url")
def verify(
    context: typer.Context,
    manifest: Manifest,
    *,
    deep: Deep = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
    **_: Any,
) -> int:
    """Compare a bundle with its manifest, and list all differences.

    Without --deep it checks each part's size, checksum and ACL and downloads only the manifest; parts in a directory
    are read. With --deep it reads, decrypts, decompresses and unpacks all parts, and keeps nothing. Exit status: 0
    without differences, 5 with any.

    Example: [bold]amistream verify s3://my-bucket/web-1/image.manifest.xml[/bold]

    Example: [bold]amistream verify --deep --private-key pk.pem bundle/image.manifest.xml[/bold]
    """
    from amistream.cli.foreground import run_here

    identity = validated(Identity, context)
    certificate_file, key_file = path_of(identity.certificate), path_of(identity.private_key)
    report = run_here(
        settings_for(config, validated(StoreReach, context)),
        lambda session, meter: session.verify(
            manifest, meter, deep=deep, certificate=certificate_file, private_key=key_file
        ),
        "read" if deep else "checked",
    )
    exit_status = put_answer(report, report_text, as_json=as_json)
    return DifferenceError.exit_status if report.differences else exit_status


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
            ("signature", report.signature),
            ("access", report.access),
            ("content", _content_text(report)),
            ("elapsed", duration_text(report.elapsed_s)),
            *(("note", note) for note in report.notes),
            *(("DIFFERENT", difference.message) for difference in report.differences),
            ("result", counted(count, "difference") if count else "OK"),
        ]
    )


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
