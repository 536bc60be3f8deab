"""Text about bundles that were copied, for the commands `download`, `upload` and `migrate`, and for jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from amistream.cli.table import columns, counted
from amistream.units import duration_text, rate_text, size_text

if TYPE_CHECKING:
    from amistream.reports import Migrated, Transferred


def transferred_text(done: Transferred) -> str:
    return columns(_transferred_facts(done))


def migrated_text(done: Migrated) -> str:
    facts = _transferred_facts(done)
    facts.append(("copied", f"{done.copied} by S3, {done.parts - done.copied - done.kept} through this machine"))
    facts += [
        (what, identifier) for what, identifier in (("kernel", done.kernel), ("ramdisk", done.ramdisk)) if identifier
    ]
    facts.append(("region", done.region))
    if done.image is not None:
        facts += [("AMI", done.image.image_id), ("name", done.image.image_name)]
    return columns(facts)


def _transferred_facts(done: Transferred) -> list[tuple[str, str]]:
    kept = f", {done.kept} of them there before" if done.kept else ""
    facts = [
        ("manifest", done.manifest),
        ("bundled", f"{size_text(done.bundled_size)} in {counted(done.parts, 'part')}{kept}"),
        ("elapsed", duration_text(done.elapsed_s)),
    ]
    if not done.kept:
        facts.append(("rate", rate_text(done.bundled_size, done.elapsed_s)))
    return facts
