"""The commands `delete` and `deregister`: remove a bundle, or its AMI."""
# ruff: noqa: ARG001 - some values are read from the context
# ruff: noqa: PLC0415 - what only a valid command needs is imported when there is one

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from amistream.cli import bundle_options as options
from amistream.cli.bundle_arguments import (
    DryRun,
    Manifest,
    NoEc2,
    Yes,
    counted,
    settings_for,
    validated_request,
)
from amistream.cli.options import ConfigOption, JsonOption
from amistream.cli.output import put_error, put_result
from amistream.errors import EXIT_DONE, DifferenceError
from amistream.units import size_text

if TYPE_CHECKING:
    from amistream.bundles.remove import Removal
    from amistream.bundles.results import Deregistered, Removed
    from amistream.bundles.session import BundleSession

Copy = Annotated[
    Path | None,
    typer.Option(
        "--manifest",
        metavar="FILE",
        help="Read the manifest from this file: for parts whose manifest is not, or no more, beside them.",
    ),
]
Deregister = Annotated[bool, typer.Option("--deregister", help="Deregister the AMIs that stand on it first.")]
ImageId = Annotated[str, typer.Argument(metavar="AMI-ID", help="As ami-0123456789abcdef0.", show_default=False)]
Delete = Annotated[bool, typer.Option("--delete", help="Also delete the bundle that it stands on.")]
YesToDelete = Annotated[
    bool, typer.Option("--yes", "-y", help="Do not ask before --delete; needed there where there is no terminal.")
]


def delete(
    context: typer.Context,
    manifest: Manifest,
    *,
    copy: Copy = None,
    deregister: Deregister = False,
    no_ec2: NoEc2 = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    region: options.Region = None,
    endpoint_url: options.EndpointUrl = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """Delete a bundle: its manifest, then the parts that it names, and nothing else.

    An object that has a part's name and is not what the manifest says stays, and the exit status is 5; where a bucket
    keeps no checksum of an object its name alone tells. While an AMI is registered on the bundle nothing is deleted
    without --deregister.

    Example: [bold]amistream delete s3://my-bucket/web/image.manifest.xml --dry-run[/bold]
    """
    from amistream.cli.foreground import confirm, run_here

    async def ask(plan: Removal) -> None:
        await confirm(f"Delete {_plan_text(plan)}?", yes=yes, what=f"delete {manifest}")

    async def work(session: BundleSession) -> Removed:
        return await session.delete(
            manifest, ask, copy=copy, deregister=deregister, ask_ec2=not no_ec2, dry_run=dry_run
        )

    done = run_here(settings_for(config, validated_request(context)), work)
    put_result(done.model_dump_json() if as_json else removed_text(done))
    return _status(done)


def deregister(
    context: typer.Context,
    image_id: ImageId,
    *,
    delete: Delete = False,
    dry_run: DryRun = False,
    yes: YesToDelete = False,
    region: options.Region = None,
    endpoint_url: options.EndpointUrl = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """Deregister an AMI; with --delete also delete its bundle, which is paid for until then.

    Example: [bold]amistream deregister ami-0123456789abcdef0 --delete[/bold]
    """
    from amistream.cli.foreground import confirm, run_here

    request = validated_request(context)

    async def ask(plan: Removal) -> None:
        question = f"Deregister {image_id} and delete {_plan_text(plan)}?"
        await confirm(question, yes=yes, what=f"deregister {image_id}")

    async def work(session: BundleSession) -> Deregistered:
        return await session.deregister(image_id, ask, region=request.region or "", delete=delete, dry_run=dry_run)

    done = run_here(settings_for(config, request), work)
    if as_json:
        put_result(done.model_dump_json())
    elif done.removed is not None:
        put_result(removed_text(done.removed))
    else:
        put_result(f"{'would deregister' if dry_run else 'deregistered'} {done.image_id} ({done.location})")
    return EXIT_DONE if done.removed is None else _status(done.removed)


def removed_text(done: Removed) -> str:
    """What went, object by object only where nothing was done yet."""
    would = "would " if done.dry_run else ""
    lines = [f"{would}deregister{'' if done.dry_run else 'ed'} {image}" for image in done.deregistered]
    lines.append(
        f"{would}delete{'' if done.dry_run else 'd'} {counted(len(done.deleted), 'object')}, "
        f"{size_text(done.deleted_size)}: {done.manifest}"
    )
    folder = done.manifest.rpartition("/")[0]
    if done.dry_run:
        lines += [f"  {folder}/{name}" for name in done.deleted]
    if done.missing:
        lines.append(f"{counted(len(done.missing), 'part')} {'was' if len(done.missing) == 1 else 'were'} gone before")
    return "\n".join(lines)


def _plan_text(plan: Removal) -> str:
    return f"{counted(len(plan.names), 'object')}, {size_text(plan.size)}, of {plan.bundle.address}"


def _status(done: Removed) -> int:
    """0, or 5 when something that is not the bundle's own was left."""
    if not done.kept:
        return EXIT_DONE
    error = DifferenceError(
        "delete.kept",
        f"cannot delete {', '.join(done.kept)}: what is there is not what the manifest of {done.manifest} says",
        hint="look at it, and remove it by hand if it is of no use",
    )
    put_error(error)
    return error.exit_status
