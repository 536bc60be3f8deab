"""The command `list`: shows the bundles in a bucket, broken and leftover objects, and their cost."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from amistream.cli.manifest_arguments import Bucket, NoEc2, bucket_address, settings_for
from amistream.cli.options import ConfigOption, JsonOption, OlderThan, parse_age
from amistream.cli.output import put_answer
from amistream.cli.request_options import takes, validated
from amistream.cli.table import columns, counted
from amistream.errors import UsageError
from amistream.request import StoreReach
from amistream.units import HOUR_S, size_text
from amistream.values import ABANDONED

if TYPE_CHECKING:
    from amistream.bundles.results import Inventory, ListedBundle

Orphans = Annotated[
    bool,
    typer.Option(
        "--orphans",
        help="Only leftovers: parts without a manifest, bundles that lack parts, AMIs without a manifest, and what "
        "killed processes have left, with the commands that remove it.",
    ),
]
Unregistered = Annotated[bool, typer.Option("--unregistered", help="Only bundles that no AMI of this account uses.")]
Price = Annotated[
    float | None,
    typer.Option("--price", metavar="USD", min=0, help="Dollars per GiB and month; default: the region's list price."),
]


@takes("region", "endpoint_url")
def list_bundles(
    context: typer.Context,
    destination: Bucket,
    *,
    orphans: Orphans = False,
    older_than: OlderThan = None,
    unregistered: Unregistered = False,
    price: Price = None,
    no_ec2: NoEc2 = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
    **_: Any,
) -> int:
    """List the bundles in a bucket or below a prefix: size, age, parts, AMIs, cost, and broken or leftover objects.

    The cost is an estimate: stored bytes at the list price of S3 standard storage.

    Example: [bold]amistream list s3://my-bucket --unregistered --older-than 30d[/bold]
    """
    from amistream.bundles.listing import select
    from amistream.cli.foreground import run_here

    address, reach = bucket_address(destination), validated(StoreReach, context)
    now = datetime.now(UTC)
    age = None if older_than is None else parse_age(older_than)
    if unregistered and no_ec2:
        raise UsageError("usage", "cannot run the command: --unregistered asks EC2, and --no-ec2 forbids it")
    inventory = run_here(
        settings_for(config, reach),
        lambda session, _: session.inventory(address, ask_ec2=not no_ec2, price=price, leftovers=True),
    )
    made_before = None if age is None else now - age
    shown = select(inventory, orphans=orphans, unregistered=unregistered, made_before=made_before)
    return put_answer(shown, lambda answer: inventory_text(answer, now), as_json=as_json)


_LEFT_BY = {"probe": "a measurement", "upload": "an unfinished upload", "claim": "a claim of a job that is over"}


def _how_to_remove(inventory: Inventory, now: datetime) -> Iterator[str]:
    """Name the commands for leftovers that no running process can use; a claim is over, whatever its age."""
    unused = [each for each in inventory.leftovers if each.kind == "claim" or now - each.newest_at > ABANDONED]
    if unused:
        yield "To remove what no running process uses:"
        yield from (f"  {each.remove}" for each in unused)
    if len(unused) < len(inventory.leftovers):
        yield "A running process may still use what is younger than a day."


def inventory_text(inventory: Inventory, now: datetime) -> str:
    """Format a table of bundles, then the leftovers, then the sum."""
    blocks = []
    if inventory.bundles:
        head = ("AGE", "IMAGE", "STORED", "PARTS", "COST", "AMI", "MANIFEST")
        blocks.append(columns([head, *(_bundle_row(bundle, now) for bundle in inventory.bundles)]))
    left = [
        (age_text(now - lost.newest_at), size_text(lost.stored), cost_text(lost.cost), f"{lost.parts} ({lost.count})")
        for lost in inventory.orphan_parts
    ]
    if left:
        blocks.append(columns([("AGE", "STORED", "COST", "PARTS WITHOUT A MANIFEST"), *left]))
    if inventory.orphan_images:
        rows = [(image.image_id, image.location) for image in inventory.orphan_images]
        blocks.append(columns([("AMI", "MANIFEST THAT IS NOT THERE"), *rows]))
    if inventory.leftovers:
        left = [
            (
                age_text(now - each.newest_at),
                "-" if each.stored is None else size_text(each.stored),
                _LEFT_BY[each.kind],
                f"{each.objects}{f' ({each.count})' if each.count > 1 else ''}",
            )
            for each in inventory.leftovers
        ]
        blocks.append(columns([("AGE", "STORED", "LEFT BY", "OBJECT"), *left]))
        blocks.append("\n".join(_how_to_remove(inventory, now)))
    found = f"{counted(len(inventory.bundles), 'bundle')} in {inventory.location}, {size_text(inventory.stored)}"
    if inventory.cost is not None:
        nearly = "" if cost_text(inventory.cost).startswith("<") else "about "
        found += f", {nearly}{cost_text(inventory.cost)} a month (an estimate, at {inventory.price} USD per GiB)"
    blocks.append(found)
    return "\n\n".join(blocks)


def _bundle_row(bundle: ListedBundle, now: datetime) -> tuple[str, ...]:
    images = "?" if bundle.images is None else ",".join(bundle.images) or "-"
    problem = f"  <- {bundle.problem}" if bundle.problem else ""
    return (
        age_text(now - bundle.made_at),
        size_text(bundle.image_size) if bundle.image_size else "-",
        size_text(bundle.stored),
        str(bundle.parts or "-"),
        cost_text(bundle.cost),
        images,
        f"{bundle.manifest}{problem}",
    )


def age_text(age: timedelta) -> str:
    """Format an age in whole days, or in hours below one day. An age below zero (a slow clock) counts as none."""
    hours = max(0, int(age.total_seconds())) // HOUR_S
    return f"{hours // 24}d" if hours >= 24 else f"{hours}h"  # noqa: PLR2004 - a day


def cost_text(cost: float | None) -> str:
    return "-" if cost is None else f"{cost:.2f} USD" if cost >= 0.005 or not cost else "<0.01 USD"  # noqa: PLR2004 - a cent
