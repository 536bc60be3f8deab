"""The command `prune`: deletes old bundles below a prefix, and keeps the newest."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from amistream.cli.commands.listing import age_text
from amistream.cli.manifest_arguments import NoEc2, bucket_address, settings_for
from amistream.cli.options import ConfigOption, DryRun, JsonOption, Yes, parse_age
from amistream.cli.output import put_answer, put_error, put_note
from amistream.cli.question import confirm
from amistream.cli.removal import removal_status
from amistream.cli.request_options import takes, validated
from amistream.cli.table import columns, counted
from amistream.errors import JobError, UsageError
from amistream.request import StoreReach
from amistream.units import size_text

if TYPE_CHECKING:
    from amistream.bundles.results import JudgedBundle, Pruned, Removed

Folder = Annotated[str, typer.Argument(metavar="s3://BUCKET/PREFIX", show_default=False)]
KeepLast = Annotated[
    int, typer.Option("--keep-last", metavar="N", min=1, help="Keep the newest N whole bundles.", show_default=False)
]
ByFolder = Annotated[
    bool, typer.Option("--by-folder", help="Keep so many in each folder directly below the address, one per host.")
]
Older = Annotated[
    str,
    typer.Option(
        "--older-than",
        metavar="30d",
        help="Delete only those older than so many hours (h), days, weeks or years. A job may still be registering a "
        "newer one.",
    ),
]
Versions = Annotated[
    bool,
    typer.Option("--versions", help="In a bucket that keeps versions, delete those of the bundles for good."),
]


@takes("region", "endpoint_url")
def prune(
    context: typer.Context,
    destination: Folder,
    *,
    keep_last: KeepLast,
    by_folder: ByFolder = False,
    older_than: Older = "1h",
    versions: Versions = False,
    no_ec2: NoEc2 = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
    **_: Any,
) -> int:
    """Delete the old bundles below a prefix, and keep the newest: deregister their AMIs, then delete as `delete` does.

    It lists the bundles and asks first. Bundles that lack parts or cannot be read stay, and are not counted. Bundles
    whose AMIs EC2 does not report stay, too. Parts without a manifest, and snapshots and AMIs on EBS, are not touched.

    Example: [bold]amistream prune s3://my-bucket/web --keep-last 7 --dry-run[/bold]

    Example: [bold]amistream prune s3://my-bucket/hosts --by-folder --keep-last 3 --older-than 30d --yes[/bold]
    """
    from amistream.bundles.retention import Retention
    from amistream.cli.foreground import run_here

    address, reach = bucket_address(destination), validated(StoreReach, context)
    if not by_folder and "/" not in address.removeprefix("s3://"):
        raise UsageError(
            "usage",
            f"cannot prune {address}: without a prefix all bundles of the bucket would be one group",
            hint="write s3://BUCKET/PREFIX, or add --by-folder to keep so many in each folder",
        )
    now = datetime.now(UTC)
    rule = Retention(
        keep_last=keep_last, made_before=now - parse_age(older_than), by_folder=by_folder, asks_ec2=not no_ec2
    )

    async def ask(plan: Pruned) -> bool:
        if not yes:
            put_note(_table(plan.bundles, now))
        await confirm(f"Delete {_sum(plan, lambda bundle: bundle.deletes)}?", yes=yes, what=f"prune {address}")
        return not yes

    def tell(removed: Removed) -> None:
        if not as_json:
            put_note(f"deleted {removed.manifest}")

    done = run_here(
        settings_for(config, reach),
        lambda session, _: session.prune(address, rule, ask, tell, dry_run=dry_run, versions_too=versions),
    )
    put_answer(done, lambda answer: _text(answer, now), as_json=as_json)
    return _status(done)


def _text(done: Pruned, now: datetime) -> str:
    gone = {removed.manifest for removed in done.removed}
    if done.dry_run:
        return f"{_table(done.bundles, now)}\n\nwould delete {_sum(done, lambda bundle: bundle.deletes)}"
    deleted = f"deleted {_sum(done, lambda bundle: bundle.manifest in gone)}"
    # Nobody was asked, so nobody has seen why each bundle stays.
    return deleted if any(bundle.deletes for bundle in done.bundles) else f"{_table(done.bundles, now)}\n\n{deleted}"


def _table(bundles: tuple[JudgedBundle, ...], now: datetime) -> str:
    rows = [
        (
            "delete" if bundle.deletes else "keep",
            age_text(now - bundle.made_at),
            size_text(bundle.stored),
            "?" if bundle.images is None else ",".join(bundle.images) or "-",
            f"{bundle.manifest}{f'  <- {bundle.reason}' if bundle.reason else ''}",
        )
        for bundle in bundles
    ]
    return columns([("", "AGE", "STORED", "AMI", "MANIFEST"), *rows])


def _sum(plan: Pruned, goes: Callable[[JudgedBundle], bool]) -> str:
    chosen = [bundle for bundle in plan.bundles if goes(bundle)]
    images = sum(len(bundle.images or ()) for bundle in chosen)
    also = f" and {counted(images, 'AMI')}" if images else ""
    size = size_text(sum(bundle.stored for bundle in chosen))
    return f"{len(chosen)} of {counted(len(plan.bundles), 'bundle')}{also} in {plan.location}, {size}"


def _status(done: Pruned) -> int:
    """Report all failures; give 4 for them, or 5 if an object that is not a bundle's was left."""
    errors = [JobError(**failure.error.model_dump()) for failure in done.failed]
    for error in errors:
        put_error(error)
    statuses = [error.exit_status for error in errors] + [removal_status(removed) for removed in done.removed]
    return next((status for status in statuses if status), 0)
