"""The command `deregister`: removes an AMI, and its bundle if asked to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from amistream.cli.manifest_arguments import settings_for
from amistream.cli.options import ConfigOption, DryRun, JsonOption, Yes
from amistream.cli.output import put_answer
from amistream.cli.question import confirm
from amistream.cli.removal import plan_text, removal_status, removed_text
from amistream.cli.request_options import takes, validated
from amistream.request import StoreReach

if TYPE_CHECKING:
    from amistream.bundles.remove import Removal
    from amistream.bundles.results import Deregistered

ImageId = Annotated[str, typer.Argument(metavar="AMI-ID", help="Such as ami-0123456789abcdef0.", show_default=False)]
Delete = Annotated[bool, typer.Option("--delete", help="Also delete the bundle of the AMI.")]


@takes("region", "endpoint_url")
def deregister(
    context: typer.Context,
    image_id: ImageId,
    *,
    delete: Delete = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
    **_: Any,
) -> int:
    """Deregister an AMI; with --delete also delete its bundle, which costs money until then.

    Example: [bold]amistream deregister ami-0123456789abcdef0 --delete[/bold]
    """
    from amistream.cli.foreground import run_here

    reach = validated(StoreReach, context)

    async def ask(plan: Removal | None) -> None:
        bundle = f" and delete {plan_text(plan)}" if plan else ""
        await confirm(f"Deregister {image_id}{bundle}?", yes=yes, what=f"deregister {image_id}")

    def as_text(done: Deregistered) -> str:
        if done.removed is not None:
            return removed_text(done.removed)
        return f"{'would deregister' if dry_run else 'deregistered'} {done.image_id} ({done.location})"

    done = run_here(
        settings_for(config, reach),
        lambda session, _: session.deregister(image_id, ask, region=reach.region or "", delete=delete, dry_run=dry_run),
    )
    exit_status = put_answer(done, as_text, as_json=as_json)
    return exit_status if done.removed is None else removal_status(done.removed)
