"""The command `inspect`: shows the content of a disk or of a bundle's manifest, without bundling or unpacking it."""

from __future__ import annotations

import shlex
import shutil
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from amistream.bundles.recognise import MANIFEST_END, names_manifest
from amistream.cli.manifest_arguments import NoEc2, settings_for
from amistream.cli.options import ConfigOption, JsonOption
from amistream.cli.output import put_answer, put_note
from amistream.cli.request_options import takes, validated
from amistream.cli.table import columns, counted
from amistream.errors import RefusedError, UsageError
from amistream.request import StoreReach, TreeFields
from amistream.units import left_out_text, size_text
from amistream.values import STANDARD_INPUT, is_snapshot

if TYPE_CHECKING:
    from amistream.bundles.results import BundleFacts
    from amistream.checks.findings import Finding
    from amistream.checks.inspection import AreaFacts, DiskFacts
    from amistream.settings import Settings

CORE_WORDS = {
    "gap": "its core in the gap",
    "BIOS boot partition": "its core in the BIOS boot partition",
    "block list": "its core by a block list",
    "outside": "its core beyond the disk's end",
}
LEAST_WIDTH = 60
"""Lines are wrapped at the terminal's width, and never narrower."""

Subject = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="Directory, block device, image file, image of a virtual machine, snapshot (snap-ID), or a manifest: a "
        "file or s3://BUCKET/KEY.",
        show_default=False,
    ),
]


@takes("source_format", "clean", "region", "endpoint_url")
def inspect(
    context: typer.Context,
    source: Subject,
    *,
    no_ec2: NoEc2 = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
    **given: Any,
) -> int:
    """Show what a disk or a bundle holds.

    Of a disk: its partitions, their file systems and used blocks, what a bundle would hold, the boot loader, and all
    doubts. Of a manifest: architecture, size, kernel, block devices, its maker, the AMIs that are registered from it,
    and the AMIs and snapshots on EBS that `convert` made of it; no key is needed. Nothing is changed. A file needs no
    daemon, and no rights but to read it.

    Example: [bold]amistream inspect disk.qcow2[/bold]

    Example: [bold]amistream inspect /dev/xvdf --json[/bold]

    Example: [bold]amistream inspect snap-0123456789abcdef0[/bold]

    Example: [bold]amistream inspect s3://my-bucket/web-1/image.manifest.xml[/bold]
    """
    if not source:
        hint = "is a variable of the script not set?"
        raise UsageError("usage", "cannot inspect nothing: SOURCE is empty", hint=hint)
    if source == STANDARD_INPUT:
        raise UsageError(
            "usage", "cannot inspect standard input: a stream cannot be read twice", hint="give a file or a device"
        )
    if names_manifest(source):
        from amistream.cli.foreground import run_here

        settings = settings_for(config, validated(StoreReach, context))
        facts = run_here(settings, lambda session, _: session.inspect(source, ask_ec2=not no_ec2))
        return put_answer(facts, bundle_text, as_json=as_json)
    how: dict[str, Any] = {"as_it_is": bool(given["source_format"])}
    how["clean"] = validated(TreeFields, context).clean if given["clean"] else None
    if is_snapshot(source):
        settings = settings_for(config, validated(StoreReach, context))
        disk = _inspect_disk(lambda: _inspect_snapshot(source, settings, how))
    else:
        from amistream.checks.inspection import inspect_disk

        _note_manifests(Path(source))
        disk = _inspect_disk(lambda: inspect_disk(source, **how))
    return put_answer(disk, disk_text, as_json=as_json)


def _note_manifests(folder: Path) -> None:
    """Say so if a directory holds a bundle: it is shown as the disk that it would make."""
    for path in sorted(folder.glob(f"*{MANIFEST_END}")):
        put_note(f"note: a bundle is in this directory: `amistream inspect {shlex.quote(str(path))}` shows it")


def _inspect_snapshot(snapshot_id: str, settings: Settings, how: dict[str, Any]) -> DiskFacts:
    from amistream.aws.session import Aws
    from amistream.checks.inspection import inspect_snapshot
    from amistream.cli.foreground import run

    async def look() -> DiskFacts:
        async with Aws(settings) as aws:
            return await inspect_snapshot(aws, settings, snapshot_id, **how)

    return run(look)


def _inspect_disk(look: Callable[[], DiskFacts]) -> DiskFacts:
    try:
        return look()
    except RefusedError as error:
        # The rooms below open volumes for bundles only.
        message = error.message.replace("cannot bundle", "cannot inspect", 1)
        raise RefusedError(**{**error.as_dict(), "message": message}) from error


def disk_text(disk: DiskFacts) -> str:
    """Format a disk: its facts, a table of its areas, and the findings."""
    left_out = left_out_text(disk.left_out)
    facts = [
        ("disk", f"{disk.source}: {disk.kind}, {size_text(disk.size)}"),
        ("table", " ".join(filter(None, (disk.table, disk.disk_id)))),
        ("boot", _boot_text(disk)),
        ("bundle", f"{size_text(disk.bundled)}{f'; left out: {left_out}' if left_out else ''}"),
    ]
    lines = [line for word, text in facts for line in _wrapped(text, f"{word:<6}  ")]
    return "\n".join([*lines, "", *_area_lines(disk.areas), *_finding_lines(disk.findings)])


def _boot_text(disk: DiskFacts) -> str:
    core = f", {CORE_WORDS[disk.boot_core]}" if disk.boot_core else ""
    damaged = ", damaged" if disk.boot_core_whole is False else ""
    efi = f"; EFI system partition {disk.efi_partition}" if disk.efi_partition else ""
    return f"{disk.boot_loader}{core}{damaged}{efi}"


def _area_lines(areas: tuple[AreaFacts, ...]) -> Iterator[str]:
    """Yield a table; below each row stand the words and names of the area, which may be long."""
    rows = [
        (
            "-" if area.number is None else str(area.number),
            area.file_system or "-",
            f"{size_text(area.size):>10}",
            f"{'-' if area.used is None else size_text(area.used):>10}",
            f"{size_text(area.bundled):>10}",
        )
        for area in areas
    ]
    if not rows:
        return
    heading = ("NO", "FILE SYSTEM", f"{'SIZE':>10}", f"{'USED':>10}", f"{'BUNDLED':>10}")
    head, *lines = columns([heading, *rows]).splitlines()
    yield head
    for line, area in zip(lines, areas, strict=True):
        yield line
        names = {
            "": area.type_name or area.type_id,
            "name ": area.name,
            "label ": area.label,
            "UUID ": area.uuid,
        }
        text = ", ".join(f"{word}{name}" for word, name in names.items() if name)
        yield from _wrapped(text, "    ") if text else ()


def _finding_lines(findings: tuple[Finding, ...]) -> Iterator[str]:
    for finding in findings:
        yield ""
        yield from _wrapped(finding.found, f"{finding.status:<8}")
        for word, text in (("why", finding.why), ("fix", finding.fix)):
            yield from _wrapped(text, f"{'':8}{word}  ") if text else ()


def _wrapped(text: str, first: str) -> list[str]:
    """The text in lines of the terminal's width; `first` begins the first one, and the others are as far in."""
    return textwrap.wrap(
        text,
        max(LEAST_WIDTH, shutil.get_terminal_size((100, 24)).columns),
        initial_indent=first,
        subsequent_indent=" " * len(first),
        break_long_words=False,
        break_on_hyphens=False,
    )


def bundle_text(bundle: BundleFacts) -> str:
    """Format the content of a manifest, without what it leaves empty."""
    mappings = ", ".join(f"{virtual}={device}" for virtual, device in bundle.block_device_mappings.items())
    images = None if bundle.images is None else ", ".join(bundle.images) or "none of this account"
    facts = [
        ("manifest", bundle.manifest),
        ("made by", f"{bundle.bundler} {bundle.bundler_version}".strip()),
        ("account", bundle.account),
        ("image", f"{bundle.image_name}, {bundle.kind}, {bundle.architecture}, {size_text(bundle.image_size)}"),
        ("parts", f"{counted(bundle.parts, 'part')}, {size_text(bundle.bundled_size)} together"),
        ("kernel", bundle.kernel),
        ("ramdisk", bundle.ramdisk),
        ("mapping", mappings),
        ("products", ", ".join(bundle.product_codes)),
        ("ancestors", ", ".join(bundle.ancestors)),
        ("digest", bundle.archive_sha1),
        ("AMIs", images or "not known"),
        ("EBS AMIs", ", ".join(bundle.converted or ())),
        ("snapshots", ", ".join(bundle.snapshots or ())),
    ]
    return "\n".join(line for word, text in facts if text for line in _wrapped(text, f"{word:<9}  "))
