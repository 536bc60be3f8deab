"""The command `unbundle`: restores the image of a bundle to a file, a device or another program."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import typer

from amistream.cli.manifest_arguments import Manifest, path_of, settings_for
from amistream.cli.options import ConfigOption, JsonOption
from amistream.cli.output import put_answer, put_note, put_result
from amistream.cli.report_text import in_text
from amistream.cli.request_options import takes, validated
from amistream.cli.showing import NoProgressOption, QuietOption, showing
from amistream.cli.table import columns, counted
from amistream.errors import RefusedError
from amistream.request import Identity, StoreReach
from amistream.units import duration_text, rate_text, size_text
from amistream.values import STANDARD_OUTPUT, is_snapshot

if TYPE_CHECKING:
    from amistream.bundles.results import Copied, Unbundled
    from amistream.settings import Settings

Target = Annotated[
    str,
    typer.Argument(metavar="DEST", help="New file, block device, or - for standard output.", show_default=False),
]
Force = Annotated[
    bool, typer.Option("--force", help="Write to a block device, or replace a file once the image is checked.")
]


@takes("certificate", "private_key", "region", "endpoint_url")
def unbundle(
    context: typer.Context,
    manifest: Manifest,
    destination: Target,
    *,
    force: Force = False,
    quiet: QuietOption = False,
    no_progress: NoProgressOption = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
    **_: Any,
) -> int:
    """Restore the image of a bundle, and check parts, signature, padding, CRC and digest; or copy an EBS snapshot.

    The file is sparse, and gets its name only when it is complete and valid; a device in use is refused. Bytes written
    to standard output before an error are not a valid image: check the exit status, which is then 5.

    Example: [bold]amistream unbundle s3://my-bucket/web-1/image.manifest.xml disk.img[/bold]

    Example: [bold]amistream unbundle bundle/image.manifest.xml - --private-key pk.pem | sha256sum[/bold]

    Example: [bold]amistream unbundle snap-0123456789abcdef0 disk.img[/bold]
    """
    shown = showing(quiet=quiet, no_progress=no_progress, as_json=as_json)
    # stdout belongs to the image.
    put = put_note if destination == STANDARD_OUTPUT else put_result
    if is_snapshot(manifest):
        settings = settings_for(config, validated(StoreReach, context))
        copied = _copy_snapshot(manifest, destination, settings, force=force)
        return put_answer(copied, copied_text, as_json=as_json, put=put)
    from amistream.cli.foreground import run_here

    identity = validated(Identity, context)
    certificate_file, key_file = path_of(identity.certificate), path_of(identity.private_key)
    result = run_here(
        settings_for(config, validated(StoreReach, context)),
        lambda session, meter: session.unbundle(
            manifest, destination, meter, force=force, certificate=certificate_file, private_key=key_file
        ),
        "read",
        shown,
    )
    return put_answer(result, result_text, as_json=as_json, put=put)


def _copy_snapshot(snapshot_id: str, destination: str, settings: Settings, *, force: bool) -> Copied:
    from amistream.aws.session import Aws
    from amistream.bundles.copy_volume import copy_volume
    from amistream.bundles.meter import Meter
    from amistream.checks.snapshot_source import open_snapshot_source
    from amistream.cli.foreground import run
    from amistream.targets.opening import choose_target

    async def copy() -> Copied:
        target = await asyncio.to_thread(choose_target, destination, force=force)
        async with Aws(settings) as aws:
            volume = await open_snapshot_source(
                aws,
                settings,
                snapshot_id,
                region=await aws.default_region(),
                endpoint_url=settings.endpoint_url.rstrip("/"),
            )
            try:
                return await copy_volume(volume, target, Meter(), put_note)
            finally:
                await asyncio.to_thread(volume.close)

    try:
        return run(copy)
    except RefusedError as error:
        # The rooms below open volumes for bundles only.
        raise error.reworded(message=error.message.replace("cannot bundle", "cannot copy", 1)) from error


def copied_text(result: Copied) -> str:
    return columns(
        [
            ("image", result.destination),
            ("size", f"{size_text(result.image_size)}, {size_text(result.data_size)} of it data"),
            ("snapshot", result.source),
            ("elapsed", duration_text(result.elapsed_s)),
            ("rate", f"{rate_text(result.data_size, result.elapsed_s)} of the data"),
        ]
    )


def result_text(result: Unbundled) -> str:
    return columns(
        [
            ("image", result.destination),
            ("size", f"{size_text(result.image_size)}, {size_text(result.data_size)} of it data"),
            ("manifest", result.manifest),
            ("bundled", f"{size_text(result.bundled_size)} in {counted(result.parts, 'part')}"),
            ("signature", in_text(result.signature)),
            ("elapsed", duration_text(result.elapsed_s)),
            ("rate", f"{rate_text(result.image_size, result.elapsed_s)} of the image"),
        ]
    )
