"""What the commands on existing bundles share: their arguments and options, and the words for results."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from amistream.cli.request_words import in_option_words, make_request
from amistream.cli.table import counted
from amistream.errors import UsageError

if TYPE_CHECKING:
    from amistream.bundles.register import RegistrationOptions
    from amistream.bundles.results import Transferred
    from amistream.request import JobRequest
    from amistream.settings import Settings

Manifest = Annotated[
    str,
    typer.Argument(
        metavar="MANIFEST", help="s3://BUCKET/KEY/NAME.manifest.xml or the path of one.", show_default=False
    ),
]
Bucket = Annotated[str, typer.Argument(metavar="s3://BUCKET[/PREFIX]", show_default=False)]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask; needed where there is no terminal.")]
DryRun = Annotated[bool, typer.Option("--dry-run", "-n", help="Only show what would be deleted.")]
NoEc2 = Annotated[
    bool, typer.Option("--no-ec2", help="Do not ask EC2 for AMIs, as for S3-compatible stores without one.")
]


def validated_request(context: typer.Context, to: str | None = None, **more: Any) -> JobRequest:
    """The command's words judged as those of `bundle` are. Raises `UsageError` in the words of the options."""
    from amistream.request import JobRequest

    if to is not None and not to.startswith("s3://"):
        raise UsageError(
            "usage", f"cannot run the command: {to!r} is no bucket", hint="write s3://BUCKET or s3://BUCKET/PREFIX"
        )
    known = {name: value for name, value in context.params.items() if name in JobRequest.model_fields}
    needed = {"source": "/dev/null", "destinations": [to or "/"], **more}
    try:
        return make_request({**dict.fromkeys(JobRequest.model_fields), **known, **needed})
    except UsageError as error:
        raise in_option_words(error, context) from error


def settings_for(config: Path | None, request: JobRequest) -> Settings:
    """The settings, with what the command says instead."""
    from amistream.settings import load

    return load(config, region=request.region, endpoint_url=request.endpoint_url, acl=request.acl)


def wish_of(context: typer.Context, request: JobRequest) -> RegistrationOptions:
    """How the command asks to register; what it leaves out comes from the manifest."""
    from amistream.bundles.register import RegistrationOptions

    return RegistrationOptions(
        name=request.ami_name or "",
        description=request.description or "",
        architecture=request.architecture or "",
        virtualization=request.virtualization if context.params["virtualization"] else "",
        kernel=request.kernel or "",
        ramdisk=request.ramdisk or "",
        sriov=request.sriov,
        ena=request.ena,
        block_device_mappings=request.block_device_mappings,
        tags=request.tags,
    )


def transferred_facts(done: Transferred) -> list[tuple[str, str]]:
    from amistream.units import duration_text, rate_text, size_text

    kept = f", {done.kept} of them there before" if done.kept else ""
    facts = [
        ("manifest", done.manifest),
        ("bundled", f"{size_text(done.bundled_size)} in {counted(done.parts, 'part')}{kept}"),
        ("elapsed", duration_text(done.elapsed_s)),
    ]
    if not done.kept:
        facts.append(("rate", rate_text(done.bundled_size, done.elapsed_s)))
    return facts
