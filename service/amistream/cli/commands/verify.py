"""The command `verify`: whether a bundle is what its manifest says."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from amistream.cli import bundle_options as options
from amistream.cli.bundle_arguments import Manifest, settings_for, validated_request
from amistream.cli.options import ConfigOption, JsonOption
from amistream.cli.output import put_result
from amistream.cli.table import columns, counted
from amistream.errors import EXIT_DONE, DifferenceError
from amistream.units import duration_text, size_text

if TYPE_CHECKING:
    from amistream.bundles.results import Report
    from amistream.bundles.session import BundleSession

Deep = Annotated[bool, typer.Option("--deep", help="Read every part and take it apart; needs the private key.")]


def verify(
    context: typer.Context,
    manifest: Manifest,
    *,
    deep: Deep = False,
    certificate: options.Certificate = None,
    private_key: options.PrivateKey = None,
    region: options.Region = None,
    endpoint_url: options.EndpointUrl = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """Compare a bundle with its manifest, and list all that differs.

    It asks for each part's size, checksum and ACL and downloads nothing but the manifest; the parts of a directory it
    reads. With --deep it reads all parts, decrypts, decompresses and unpacks them, and keeps nothing. Exit status: 0
    when nothing differs, 5 when something does.

    Example: [bold]amistream verify s3://my-bucket/web-1/image.manifest.xml[/bold]

    Example: [bold]amistream verify --deep --private-key pk.pem bundle/image.manifest.xml[/bold]
    """
    from amistream.bundles.meter import Meter
    from amistream.bundles.verify import verify_at
    from amistream.cli.foreground import progress_bar, run_here

    request, meter = validated_request(context), Meter()
    settings = settings_for(config, request)
    files = tuple(Path(name) if name else None for name in (request.certificate, request.private_key))

    async def work(_: BundleSession) -> Report:
        async with progress_bar(meter, "read" if deep else "looked at"):
            return await verify_at(manifest, settings, files, meter, deep=deep)

    report = run_here(settings, work)
    put_result(report.model_dump_json() if as_json else report_text(report))
    return DifferenceError.exit_status if report.differences else EXIT_DONE


def report_text(report: Report) -> str:
    """The report for people: what was looked at, then a line for each note and difference."""
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
            ("result", counted(count, "difference") if count else "nothing differs"),
        ]
    )


def _digests_text(report: Report) -> str:
    wrong = sum(difference.what == "part.digest" for difference in report.differences)
    return f"{report.digests.compared - wrong} of {report.parts} compared and right"


def _content_text(report: Report) -> str:
    if not report.deep:
        return "not looked at: --deep does"
    if report.content is None:
        return "could not be taken apart to its end"
    kind = f"sparse, {size_text(report.content.data_size)} of data" if report.content.sparse else "all of it data"
    return f"decrypted, decompressed and unpacked: {size_text(report.content.size)}, {kind}"
