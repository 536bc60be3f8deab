"""Text about removed bundles, shared by `delete` and `deregister`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from amistream.cli.output import put_error
from amistream.cli.table import counted
from amistream.errors import EXIT_DONE, DifferenceError
from amistream.units import size_text

if TYPE_CHECKING:
    from amistream.bundles.remove import Removal
    from amistream.bundles.results import Removed


def removed_text(done: Removed) -> str:
    """Describe the removed objects; each one only for a dry run."""
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


def plan_text(plan: Removal) -> str:
    return f"{counted(len(plan.names), 'object')}, {size_text(plan.size)}, of {plan.bundle.address}"


def removal_status(done: Removed) -> int:
    """Give 0, or 5 if objects that do not belong to the bundle were left."""
    if not done.kept:
        return EXIT_DONE
    error = DifferenceError(
        "delete.kept",
        f"cannot delete {', '.join(done.kept)}: the stored data differs from the manifest of {done.manifest}",
        hint="examine the objects, and delete them yourself if they are useless",
    )
    put_error(error)
    return error.exit_status
