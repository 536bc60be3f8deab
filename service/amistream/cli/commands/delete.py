"""The command `delete`: removes a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from amistream.cli.manifest_arguments import Manifest, NoEc2, settings_for
from amistream.cli.options import ConfigOption, DryRun, JsonOption, Yes
from amistream.cli.output import put_answer
from amistream.cli.question import confirm
from amistream.cli.removal import plan_text, removal_status, removed_text
from amistream.cli.request_options import takes, validated
from amistream.request import StoreReach

if TYPE_CHECKING:
    from amistream.bundles.remove import Removal

Copy = Annotated[
    Path | None,
    typer.Option(
        "--manifest",
        metavar="FILE",
        help="Read the manifest from this file: for parts that have no manifest beside them.",
    ),
]
Versions = Annotated[
    bool,
    typer.Option("--versions", help="In a bucket that keeps versions, delete those of the bundle for good."),
]
Deregister = Annotated[bool, typer.Option("--deregister", help="First deregister the AMIs that use the bundle.")]


@takes("region", "endpoint_url")
def delete(
    context: typer.Context,
    manifest: Manifest,
    *,
    copy: Copy = None,
    deregister: Deregister = False,
    versions: Versions = False,
    no_ec2: NoEc2 = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
    **_: Any,
) -> int:
    """Delete a bundle: its manifest, then the parts that the manifest lists, and nothing else.

    An object with a part's name and other content stays, and the exit status is 5. Where a bucket keeps no checksum of
    an object, the name alone decides. While an AMI is registered from the bundle, nothing is deleted without
    --deregister.

    Example: [bold]amistream delete s3://my-bucket/web/image.manifest.xml --dry-run[/bold]
    """
    from amistream.cli.foreground import run_here

    async def ask(plan: Removal) -> None:
        await confirm(f"Delete {plan_text(plan)}?", yes=yes, what=f"delete {manifest}")

    done = run_here(
        settings_for(config, validated(StoreReach, context)),
        lambda session, _: session.delete(
            manifest,
            ask,
            copy=copy,
            deregister=deregister,
            ask_ec2=not no_ec2,
            dry_run=dry_run,
            versions_too=versions,
        ),
    )
    put_answer(done, removed_text, as_json=as_json)
    return removal_status(done)
