"""Finds the messages that `amistream fleet submit` sends: in a file, or one for each bundle in a bucket."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from amistream.cli.fleet.lines import make_messages, read_lines
from amistream.cli.manifest_arguments import bucket_address
from amistream.cli.output import put_note
from amistream.errors import UsageError
from amistream.events import JobKind
from amistream.fleet.messages import Message
from amistream.request import StoreReach
from amistream.values import STANDARD_INPUT

EVERY_KINDS = tuple(kind for kind in JobKind if kind is not JobKind.BUNDLE)
"""The kinds of jobs on a bundle that exists."""


@dataclass(frozen=True)
class Every:
    """The options of --every."""

    address: str
    kind: JobKind
    to: str
    fields: dict[str, Any]
    name: str
    label: str
    reach: StoreReach


def messages_of_file(file: str, label: str) -> list[Message]:
    if file == STANDARD_INPUT:
        return read_lines(sys.stdin, file="standard input", label=label)
    try:
        with Path(file).open(encoding="utf-8") as lines:
            return read_lines(lines, file=file, label=label)
    except UnicodeDecodeError as error:
        raise UsageError("message.malformed", f"cannot read {file}: it is not UTF-8", field="file") from error


def messages_of_bundles(asked: Every, config: Path | None) -> list[Message]:
    """A message for each bundle below the address; conversions for those only that have no AMI on EBS yet."""
    from amistream.cli.foreground import run_here
    from amistream.settings import load

    folder, region = bucket_address(asked.address), asked.reach.region
    # The hosts know their endpoint themselves; the region of a verification is that of its bucket.
    where = {"region": region} if region and asked.kind is not JobKind.VERIFY else {}
    name = asked.name or "-".join(filter(None, (asked.kind.value, region)))
    if asked.kind is JobKind.VERIFY and not asked.name:
        # A bundle is verified again each time; another conversion of it is the same job.
        name += f"-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"

    def make(manifests: Sequence[str]) -> list[Message]:
        fields = {**asked.fields, **where}
        return make_messages(
            asked.kind, manifests, folder=folder, name=name, to=asked.to, fields=fields, label=asked.label
        )

    make([f"{folder}/image.manifest.xml"])  # options are refused before anything is asked
    settings = load(config, endpoint_url=asked.reach.endpoint_url)
    if asked.kind is JobKind.CONVERT:
        found = run_here(settings, lambda session, _: session.convertible(folder, region=region or ""))
        skipped = [(each.manifest, each.problem or f"it has its AMI: {each.image_id}") for each in found]
        manifests = [each.manifest for each in found if not each.image_id and not each.problem]
    else:
        inventory = run_here(settings, lambda session, _: session.inventory(folder, ask_ec2=False))
        skipped = [(each.manifest, each.problem) for each in inventory.bundles]
        broken = {manifest for manifest, problem in skipped if problem and asked.kind is not JobKind.VERIFY}
        manifests = sorted(each.manifest for each in inventory.bundles if each.manifest not in broken)
    for manifest, why in skipped:
        if manifest not in manifests:
            put_note(f"note: {manifest} is left out: {why}")
    if not manifests:
        put_note(f"note: there is no bundle to {asked.kind.value} below {folder}")
    return make(manifests)


def check_together(file: str | None, every: str | None, of_every: Mapping[str, str | None]) -> None:
    """Raise `UsageError` for options that exclude each other, or need one another."""
    given = [option for option, value in of_every.items() if value is not None]
    kind = of_every["--kind"]
    reason = ""
    if (file is None) == (every is None):
        reason = "give either FILE, which may be - for the standard input, or --every"
    elif given and every is None:
        reason = f"{given[0]} needs --every"
    elif every is not None and kind not in list(EVERY_KINDS):
        reason = f"--every needs --kind, one of {', '.join(EVERY_KINDS)}"
    elif every is not None and (of_every["--to"] is not None) != (kind == JobKind.MIGRATE):
        reason = "--to, the place of the copies, goes with --kind migrate"
    if reason:
        raise UsageError("usage", f"cannot run the command: {reason}", hint="`amistream fleet submit --help`")


def object_of(text: str | None) -> dict[str, Any]:
    try:
        values = json.loads(text or "{}")
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise UsageError(
            "usage",
            "cannot run the command: --request is no JSON object",
            hint="""write it in quotes, as in --request '{"deep": true}'""",
        )
    return values
