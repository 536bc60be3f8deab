"""The command `unbundle`: the image of a bundle, back as a file, on a device, or for another program."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from amistream.cli import bundle_options as options
from amistream.cli.bundle_arguments import Manifest, settings_for, validated_request
from amistream.cli.options import ConfigOption, JsonOption
from amistream.cli.output import put_note, put_result
from amistream.cli.table import columns, counted
from amistream.errors import EXIT_DONE
from amistream.units import duration_text, rate_text, size_text

if TYPE_CHECKING:
    from amistream.bundles.results import Unbundled
    from amistream.bundles.session import BundleSession

STDOUT = "-"

Target = Annotated[
    str,
    typer.Argument(
        metavar="DEST", help="A new file, a block device, or - for the standard output.", show_default=False
    ),
]
Force = Annotated[
    bool, typer.Option("--force", help="Write to a block device, or replace a file once the image is proved.")
]


def unbundle(
    context: typer.Context,
    manifest: Manifest,
    destination: Target,
    *,
    force: Force = False,
    certificate: options.Certificate = None,
    private_key: options.PrivateKey = None,
    region: options.Region = None,
    endpoint_url: options.EndpointUrl = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """Take the image out of a bundle, and prove it: parts, signature, padding, CRC and digest.

    The file is sparse, and has its name only when it is whole and right; a device that is in use is refused. What was
    written to the standard output before a difference was found is no image: heed the exit status, which is then 5.

    Example: [bold]amistream unbundle s3://my-bucket/web-1/image.manifest.xml disk.img[/bold]

    Example: [bold]amistream unbundle bundle/image.manifest.xml - --private-key pk.pem | sha256sum[/bold]
    """
    from amistream.bundles.meter import Meter
    from amistream.bundles.unbundle import unbundle_at
    from amistream.cli.foreground import progress_bar, run_here

    request, meter = validated_request(context), Meter()
    settings = settings_for(config, request)
    files = tuple(Path(name) if name else None for name in (request.certificate, request.private_key))

    async def work(_: BundleSession) -> Unbundled:
        async with progress_bar(meter, "read"):
            return await unbundle_at(manifest, destination, settings, files, meter=meter, note=put_note, force=force)

    result = run_here(settings, work)
    # With the image on stdout, all else goes to stderr.
    put = put_note if destination == STDOUT else put_result
    put(result.model_dump_json() if as_json else result_text(result))
    return EXIT_DONE


def result_text(result: Unbundled) -> str:
    return columns(
        [
            ("image", result.destination),
            ("size", f"{size_text(result.image_size)}, {size_text(result.data_size)} of it data"),
            ("manifest", result.manifest),
            ("bundled", f"{size_text(result.bundled_size)} in {counted(result.parts, 'part')}"),
            ("signature", result.signature),
            ("elapsed", duration_text(result.elapsed_s)),
            ("rate", f"{rate_text(result.image_size, result.elapsed_s)} of the image"),
        ]
    )
