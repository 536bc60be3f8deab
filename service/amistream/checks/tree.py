"""A directory as the source of a job: what the request wants of it, and what the walk found."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from amistream.checks.context import RequestContext
from amistream.checks.findings import Observation, notice
from amistream.checks.free_blocks import Blocks, keep_all
from amistream.checks.taken_over import find_taken_over
from amistream.checks.tree_wishes import refuse_member_wishes
from amistream.errors import RefusedError
from amistream.host.scripted import run_script
from amistream.ports.volume import Volume
from amistream.request import FSTAB_WORDS
from amistream.roots import Roots, pinned
from amistream.source.boot_choice import BootAreaChoice
from amistream.source.boot_opening import open_with_boot_area
from amistream.source.clone import CloneVolume
from amistream.source.tree.fstab import LARGEST
from amistream.source.tree.opening import TreeWishes
from amistream.source.tree.profiles import XFS
from amistream.source.tree.report import Fate
from amistream.source.tree.volume import TreeVolume
from amistream.source.xfs_tree.volume import CopiedVolume
from amistream.units import size_text
from amistream.values import Extent, quoted

_RULES_NAMED = 6
_NAMED_FATES = (
    *(Fate.CLOSED, Fate.EMPTIED, Fate.COVERED, Fate.SPLIT, Fate.MOUNTED, Fate.ATTRIBUTES),
    *(Fate.UNREADABLE, Fate.NOT_LISTED, Fate.GONE),
)


def tree_wishes(context: RequestContext, stopped: Callable[[], bool]) -> TreeWishes:
    """The request's wishes for a tree, and the files that never come in. Raises `RefusedError`."""
    request, settings = context.request, context.settings
    keys = (request.private_key, settings.private_key, request.certificate, settings.certificate)
    report = Path(request.report) if request.report else None
    if report is not None and not os.access(report.parent, os.W_OK | os.X_OK):
        raise RefusedError(
            "report.unwritable",
            f"cannot write the report {report}: its directory is missing, or not yours to write to",
            hint=f"ls -ld {quoted(report.parent)}; the daemon's unit writes only where ReadWritePaths= lets it",
            field="report",
        )
    if report is not None and os.path.lexists(report) and not stat.S_ISREG(report.lstat().st_mode):
        # The report takes the name: of a device such as /dev/null, all other programs would miss it.
        raise RefusedError(
            "report.no_file",
            f"cannot write the report {report}: there is something else than a regular file",
            hint=f"give the name of a new file; ls -ld {quoted(report)} shows what is there",
            field="report",
        )
    own = [settings.state_dir, *(Path(each) for each in keys if each), *([report] if report else [])]
    return TreeWishes(
        most=context.largest_tree,
        size=int(request.size) if request.size else None,
        profile=request.file_system,
        include=request.include,
        exclude=request.exclude,
        clean=request.clean,
        cross=request.all_file_systems,
        allow_unreadable=request.allow_unreadable,
        fstab=_read_text(Path(request.fstab), "fstab") if request.fstab not in FSTAB_WORDS else None,
        mend_fstab=request.fstab == "generate",
        menu=_read_text(Path(request.grub_config), "grub_config") if request.grub_config else None,
        overlay=Path(request.overlay) if request.overlay else None,
        own=own,
        scratch=_scratch(context) if context.roots is None else None,
        stopped=stopped,
        says=context.says,
        outputs=context.outputs,
    )


def _scratch(context: RequestContext) -> Path:
    """The directory for the copy of an xfs. Only the one that nobody chose is made where it is missing."""
    request, settings = context.request, context.settings
    if settings.scratch_dir is None and (request.file_system == XFS.name or request.partition == "clone"):
        settings.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    return settings.scratch_dir or settings.state_dir


def open_wished(context: RequestContext, choice: BootAreaChoice, path: Path, stopped: Callable[[], bool]) -> Volume:
    """Open a directory as the request wishes, once its script has run. Raises `RefusedError`."""
    if context.request.freeze:  # before the script and the walk, which may take minutes
        raise RefusedError(
            "freeze.refused",
            f"cannot freeze {path}: it is a directory, whose files are read one by one",
            hint="give the device of a data volume, or leave --freeze out",
            field="freeze",
        )
    if context.roots is not None:
        return _open_for_member(context, context.roots, choice, path, stopped)
    wishes, script = tree_wishes(context, stopped), context.request.script
    if script is None:
        return open_with_boot_area(choice, path, wishes)
    point = context.settings.state_dir
    point.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Walked more than once where a boot area turns out not to work; the script runs once.
    changes = run_script(
        Path(script),
        [*([wishes.overlay] if wishes.overlay else []), path],
        point=point,
        space=int(context.settings.script_space),
        limit_s=context.settings.script_timeout_s,
        stopped=stopped,
    )
    try:
        return open_with_boot_area(choice, path, replace(wishes, changes=changes))
    finally:
        os.close(changes)


def _open_for_member(
    context: RequestContext, roots: Roots, choice: BootAreaChoice, path: Path, stopped: Callable[[], bool]
) -> Volume:
    """Open a directory within the roots, for the files in it that the member of the group may read."""
    refuse_member_wishes(context.request)
    member = roots.member()
    with pinned(path, roots, field="source") as tree:
        if not (stat.S_ISDIR(os.fstat(tree).st_mode) and roots.reaches(tree) and member.may_list(tree)):
            raise RefusedError(
                "source.closed",
                f"cannot bundle {path}: it, or a directory on the way to it, is closed to you",
                hint=f"namei -l {quoted(path)}; only your own permissions, those of the socket's group and those of "
                "everybody count, and access lists do not",
                field="source",
            )
        return open_with_boot_area(choice, path, replace(tree_wishes(context, stopped), root=tree, member=member))


def _read_text(path: Path, field: str) -> bytes:
    """The file of --fstab or --grub-config. Raises `RefusedError`."""
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
        reason = f"it has more than {LARGEST} bytes" if len(content) > LARGEST else ""
    except OSError as error:
        reason = str(error.strerror)
    if reason:
        hint = f"ls -ld {quoted(path)}; the process that runs the job reads it"
        what = field.replace("_", " ")
        raise RefusedError(f"{field}.unreadable", f"cannot read the {what} {path}: {reason}", hint=hint, field=field)
    return content


def describe(volume: TreeVolume | CopiedVolume, *, for_member: bool) -> Observation:
    """The outcome of the walk, with the rules that left something out."""
    report = volume.report
    found = f"{size_text(volume.size)} {volume.profile} file system of {volume.inodes} inodes from {volume.path}"
    clauses = []
    if rules := report.reasons(Fate.LEFT_OUT).most_common():
        named = ", ".join(f"{count} by {rule}" for rule, count in rules[:_RULES_NAMED])
        clauses.append(f"left out: {named}" + (", and by more rules" if len(rules) > _RULES_NAMED else ""))
    clauses += [f"{report.named(fate)}: {fate.value}" for fate in _NAMED_FATES if report.paths(fate)]
    if not clauses:
        return Observation(found)
    return notice(
        f"{found}; {'; '.join(clauses)}",
        why="the image differs from the directory there",
        fix="--include PATTERN takes in what --exclude or --clean leaves out"
        if for_member
        else "--report FILE lists everything, --include PATTERN takes in what a rule leaves out",
    )


def describe_boot_area(choice: BootAreaChoice) -> list[Observation]:
    """The boot area that a directory gets, as a notice where nobody asked for it."""
    if not choice.words:
        return []
    if not choice.is_own_decision:
        return [Observation(choice.words)]
    fix = "--partition clone, mbr, gpt or none asks for another one"
    return [notice(choice.words, why="an AMI for hvm needs a boot area to boot", fix=fix)]


def find_tree_blocks(volume: Volume, data: Sequence[Extent]) -> Blocks:
    """Find the used blocks of a volume that is made of a tree, with or without a boot area."""
    if isinstance(volume, CloneVolume):
        return find_taken_over(volume, data)
    return keep_all(volume, data, "the file system is a fresh one")
