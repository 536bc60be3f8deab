"""Opens a directory as a volume: walks it, and plans the file system. Refuses what cannot be read, or does not fit."""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from amistream.errors import RefusedError
from amistream.host import capabilities
from amistream.host.mount_table import Mount, MountWatch, mounts, shows_the_same
from amistream.host.swaps import swap_places
from amistream.member import Member
from amistream.source.tree import fstab
from amistream.source.tree.categories import BY_DEFAULT
from amistream.source.tree.contents import Contents
from amistream.source.tree.geometry import FileTooLargeError, NoRoomError, TooManyLinksError, make_geometry
from amistream.source.tree.groups import Identity
from amistream.source.tree.handles import mount_of
from amistream.source.tree.image import Image
from amistream.source.tree.layers import Layer
from amistream.source.tree.layout import Layout
from amistream.source.tree.origin import Origin, find_origin
from amistream.source.tree.profiles import BLOCK, PROFILES, XFS, Profile
from amistream.source.tree.records import hash_seed, seconds_of
from amistream.source.tree.report import Fate, shown
from amistream.source.tree.select import Selection
from amistream.source.tree.surroundings import MADE_FOR_THE_READER, Surroundings, waits_for_others
from amistream.source.tree.tree import ROOT, used_inodes
from amistream.source.tree.volume import TreeVolume
from amistream.source.tree.walk import LONGEST_PATH, TooDeepError, Walk
from amistream.source.xfs_tree.features import format_of
from amistream.source.xfs_tree.opening import XfsWishes, copy_tree, require_means
from amistream.source.xfs_tree.volume import CopiedVolume
from amistream.units import size_text
from amistream.values import MIB, quoted

DEFAULT_PROFILE = "ext4"
_LAST_TIME = (1 << 31) - 1
"""Seconds since 1970 that every kernel takes for the times in a superblock."""
_SHOWN = 60
"""Bytes of a very long path that a message has."""
_MOST_WALKS = 3
"""A walk is repeated when a directory of the same disk was mounted in the tree meanwhile."""
_MENU = b"boot/grub/menu.lst"


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeWishes:
    """The wishes of a job for the image of a tree."""

    root: int | None = None
    """The open tree, in place of the one that its path leads to."""
    member: Member | None = None
    """The member of the socket's group for whom it is read."""
    most: int
    """Bytes of the largest image, which is also the size where the tree's disk has none, or a larger one."""
    size: int | None = None
    """Of the whole image."""
    reserved: int = 0
    """Bytes of the image that do not belong to the file system: a boot area."""
    profile: str | None = None
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    clean: Sequence[str] = BY_DEFAULT
    cross: bool = False
    allow_unreadable: bool = False
    fstab: bytes | None = None
    """In place of the tree's own."""
    mend_fstab: bool = False
    """Change the tree's own so that the image boots."""
    menu: bytes | None = None
    """In place of the tree's menu of GRUB legacy."""
    overlay: Path | None = None
    """A directory that is laid over the tree."""
    changes: int | None = None
    """The open directory of what a script changed in a view of the tree and the overlay, as overlayfs wrote it."""
    own: Sequence[Path] = ()
    """Files and directories that never come in."""
    scratch: Path | None = None
    """Where an xfs is made; None where none may be made."""
    stopped: Callable[[], bool] = lambda: False
    """True once nobody waits for the tree any more."""
    says: Callable[[str], None] = lambda _: None
    """Hears how far a long walk is, or the copy that an xfs takes."""
    outputs: Sequence[tuple[Path, str]] = ()
    """Directories that the job writes to, and the prefix of its files' names there."""


def open_tree(path: Path, wishes: TreeWishes) -> TreeVolume | CopiedVolume:
    """Walk a tree and plan its image, or make it where that is xfs. Raises `RefusedError`, `StoppedError` when stopped.

    Takes a while: some 15 s of CPU for a million files, and for xfs as long as it takes to copy them.
    """
    with ExitStack() as undo:
        place = path if wishes.root is None else Path(f"/proc/self/fd/{wishes.root}")
        layers = [Layer(root=_open_directory(place, "source", undo), member=wishes.member)]
        if wishes.overlay is not None:
            root = _open_directory(wishes.overlay, "overlay", undo)
            layers.append(Layer(root=root, words=f"--overlay {wishes.overlay}", follows_rules=False))
        if wishes.changes is not None:
            root = _open_directory(Path(f"/proc/self/fd/{wishes.changes}"), "script", undo)
            layers.append(Layer(root=root, is_overlayfs=True))
        watch = MountWatch()
        undo.callback(watch.close)
        volume = _open(path, layers, wishes, watch)
        if isinstance(volume, TreeVolume):
            undo.pop_all()
    return volume


def _open_directory(path: Path, field: str, undo: ExitStack) -> int:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        hint = f"check its permissions: ls -ld {quoted(path)}; the user that runs the job reads the tree"
        raise RefusedError(
            "source.unreadable", f"cannot read {path}: {error.strerror}", hint=hint, field=field
        ) from error
    undo.callback(os.close, descriptor)
    return descriptor


def _open(path: Path, layers: Sequence[Layer], wishes: TreeWishes, watch: MountWatch) -> TreeVolume | CopiedVolume:
    descriptor = layers[0].root
    table = mounts()
    number = mount_of(descriptor)
    mount = next((each for each in table if each.number == number), None)
    if wishes.member is not None and (mount is None or mount.kind in MADE_FOR_THE_READER):
        # By its modes, a member could read the link to another's working directory: the kernel asks for more.
        raise RefusedError(
            "source.closed",
            f"cannot bundle {path}: its files are made by the kernel, for the daemon other ones than for you",
            hint="copy what you need of them yourself, and bundle the copy",
            field="source",
        )
    origin = find_origin(mount) if mount else Origin()
    profile = _profile(wishes, origin)
    scratch = require_means(path, wishes.scratch) if profile is XFS else None
    wanted = wishes.size or min((origin.size or wishes.most) + wishes.reserved, wishes.most)
    size = -(-(wanted - wishes.reserved) // BLOCK) * BLOCK
    walk = _walked(path, layers, mount, wishes, profile, most=size)
    replaced = _replaced(wishes, profile).keys()
    if not wishes.allow_unreadable:
        _refuse_unreadable(path, walk)
    tree = walk.tree
    if missing := replaced - {tree.path(row) for row in tree.given}:
        name = min(missing)
        folder = path / os.fsdecode(name.rpartition(b"/")[0])
        raise RefusedError(
            "fstab.no_place",
            f"cannot put {shown(name)} into the image: there is no {folder} in it",
            hint="give the root of a system as SOURCE, or make the directory",
            field="grub_config" if name == _MENU else "fstab",
        )
    digest = tree.digest()
    time = min(max(0, seconds_of(tree.mtime[ROOT])), _LAST_TIME)
    uuid = origin.uuid or UUID(bytes=digest[:16], version=4)
    if wishes.mend_fstab:
        named = str(uuid).encode()
        tree.given = {row: content.replace(fstab.UUID, named) for row, content in tree.given.items()}
    contents = Contents(layers, tree, walk.report, allow_unreadable=wishes.allow_unreadable, watch=watch)
    if scratch is not None:
        made = XfsWishes(
            size=size,
            reserved=wishes.reserved,
            like=format_of(origin.head, for_grub=bool(wishes.reserved)),
            uuid=uuid,
            label=origin.label,
            scratch=scratch,
            stopped=wishes.stopped,
            says=wishes.says,
        )
        with closing(contents):
            return copy_tree(path, tree, contents, walk.report, made)
    layout = _plan(path, walk, profile, size, uuid, reserved=wishes.reserved)
    names = f"{profile.name} {size} {uuid}".encode() + origin.label
    return TreeVolume(
        path,
        [layer.root for layer in layers],
        watch=watch,
        image=Image(layout, Identity(uuid=uuid, label=origin.label, time=time)),
        contents=contents,
        report=walk.report,
        size=size,
        digest=hashlib.blake2b(digest + names, digest_size=32).hexdigest(),
    )


def _walked(
    path: Path, layers: Sequence[Layer], mount: Mount | None, wishes: TreeWishes, profile: Profile, *, most: int
) -> Walk:
    """Walk the tree, and again if a directory of its disk was mounted there meanwhile, and taken for a part of it."""
    selection = Selection(include=wishes.include, exclude=wishes.exclude, clean=wishes.clean)
    real = Path(f"/proc/self/fd/{layers[0].root}").readlink()
    table, taken = mounts(), b""
    for _ in range(_MOST_WALKS):
        walk = Walk(layers, profile, selection, _surroundings(real, table, mount, wishes, profile))
        _run(path, walk, wishes, most)
        before, table = {each.number for each in table}, mounts()
        late = [each.point for each in table if each.number not in before and mount and each.device == mount.device]
        inside = ((os.path.relpath(point, os.fsencode(real)), point) for point in late)
        taken = next((name for name, point in inside if walk.has_taken(name, point)), b"")
        if not taken or wishes.cross:
            return walk
    raise RefusedError(
        "source.mounts_change",
        f"cannot bundle {path}: something of its own disk was mounted on {shown(taken)} of it during the walk",
        hint="try again when nothing is mounted there any more, or leave it out with --exclude",
        field="source",
    )


def _run(path: Path, walk: Walk, wishes: TreeWishes, size: int) -> None:
    try:
        walk.run(wishes.stopped, lambda files: wishes.says(f"walked {files:,} files so far"), most=size)
    except NoRoomError as error:
        needed = size_text(_rounded_up(error.needed, size) + wishes.reserved)
        raise _no_room(
            path, size + wishes.reserved, f"{needed}, for the first {len(walk.tree):,} files alone", _in_use(path)
        ) from error
    except OSError as error:
        raise RefusedError(
            "source.unreadable", f"cannot read {path}: {error.strerror}", hint="check the disk: dmesg", field="source"
        ) from error
    except TooDeepError as error:
        raise RefusedError(
            "source.too_deep",
            f"cannot bundle {path}: the path of a directory below {shown(error.path[:_SHOWN])} has {len(error.path)} "
            f"bytes, and may have {LONGEST_PATH}",
            hint="leave it out with --exclude",
            field="source",
        ) from error


def _profile(wishes: TreeWishes, origin: Origin) -> Profile:
    """The kind of file system: an xfs only where that is wished for, because it takes root, and space."""
    if wishes.profile == XFS.name:
        return XFS
    return PROFILES[wishes.profile or (origin.kind if origin.kind in PROFILES else DEFAULT_PROFILE)]


def _surroundings(
    real: Path, table: Sequence[Mount], mount: Mount | None, wishes: TreeWishes, profile: Profile
) -> Surroundings:
    root = os.fsencode(real)
    inside = root.rstrip(b"/") + b"/"
    own = {(about.st_dev, about.st_ino) for about in map(_stat, [*wishes.own, *swap_places()]) if about}
    patterns = [_output_pattern(real, folder, prefix) for folder, prefix in wishes.outputs]
    names = b"|".join(each for each in patterns if each)
    below = [each for each in table if each.point.startswith(inside)]
    same = {each.number for each in below if mount is not None and shows_the_same(each, mount)}
    tops = {each.point.removeprefix(inside): each for each in below}
    return Surroundings(
        mounts={point: each.kind for point, each in tops.items()},
        remote={point for point, each in tops.items() if waits_for_others(each.kind) and each.number not in same}
        if not wishes.cross
        else (),
        same=same,
        cross=wishes.cross,
        own=own,
        own_names=re.compile(names, re.DOTALL) if names else None,
        privileged=capabilities.has(capabilities.READS_EVERYTHING),
        replaced=_replaced(wishes, profile),
    )


def _replaced(wishes: TreeWishes, profile: Profile) -> dict[bytes, Callable[[bytes], bytes]]:
    """The changes of the tree's fstab and menu, as they are wished for."""
    replaced: dict[bytes, Callable[[bytes], bytes]] = {}
    table, menu, kind = wishes.fstab, wishes.menu, profile.name.partition("-")[0]
    if table is not None:
        replaced[fstab.PATH] = lambda _: table
    elif wishes.mend_fstab:
        replaced[fstab.PATH] = lambda old: fstab.mended(old, kind)
    if menu is not None:
        replaced[_MENU] = lambda _: menu
    return replaced


def _output_pattern(real: Path, folder: Path, prefix: str) -> bytes:
    """A pattern for the paths of a job's output within the tree; empty if it is elsewhere."""
    place = Path(os.path.realpath(folder))
    if not place.is_relative_to(real):
        return b""
    steps = os.fsencode(place.relative_to(real))
    above = b"" if steps == b"." else re.escape(steps + b"/")
    name = re.escape(prefix.encode())
    return above + rb"(?:" + name + rb"\.(?:part\.[0-9]+|manifest\.xml)|\." + name + rb"\..*\.partial)"


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None


def _refuse_unreadable(path: Path, walk: Walk) -> None:
    fates = (Fate.UNREADABLE, Fate.NOT_LISTED)
    if walk.report.paths(*fates):
        why = sorted({each for fate in fates for each in walk.report.reasons(fate)})
        first = "run the job as root" if why == [os.strerror(errno.EACCES)] else "see `dmesg` for errors of the disk"
        raise RefusedError(
            "source.unreadable",
            f"cannot read all of {path}: {walk.report.named(*fates)}: {', '.join(why)}",
            hint=f"{first}, or leave them out with --exclude; --allow-unreadable bundles them as zeros",
            field="source",
        )


def _no_room(path: Path, size: int, needed: str, more: str = "") -> RefusedError:
    return RefusedError(
        "source.no_room",
        f"cannot fit {path} into an image of {size_text(size)}: it needs at least {needed}",
        hint="give a larger --size (on AWS 10GiB at most), or leave something out with --exclude: "
        f"du -xh --max-depth=2 {quoted(path)}{more}",
        field="size",
    )


def _rounded_up(needed: int, size: int) -> int:
    """Whole MiB, and more than the size: as text, too."""
    return -(-max(needed, size + BLOCK) // MIB) * MIB


def _in_use(path: Path) -> str:
    """The figure for a directory that is a whole file system, for a hint: what it takes is not all walked."""
    try:
        is_whole, there = path.is_mount(), os.statvfs(path)
    except OSError:
        return ""
    used = (there.f_blocks - there.f_bfree) * there.f_frsize
    return f"; of its file system {size_text(used)} are in use" if is_whole and used else ""


def _plan(path: Path, walk: Walk, profile: Profile, size: int, uuid: UUID, *, reserved: int) -> Layout:
    try:
        geometry = make_geometry(profile, size // BLOCK, used_inodes(len(walk.tree)))
        return Layout(walk.tree, geometry, hash_seed(uuid))
    except NoRoomError as error:
        needed = size_text(_rounded_up(error.needed, size) + reserved)
        raise _no_room(path, size + reserved, f"{error.needed} inodes" if error.inodes else needed) from error
    except FileTooLargeError as error:
        raise RefusedError(
            "source.file_too_large",
            f"cannot bundle {path} as {profile.name}: {shown(walk.tree.path(error.row))} has "
            f"{walk.tree.size[error.row]} bytes with its holes, and a file there has at most {error.most}",
            hint=f"give --fs {XFS.name if profile.ext4 else DEFAULT_PROFILE}, or leave it out with --exclude",
            field="file_system",
        ) from error
    except TooManyLinksError as error:
        raise RefusedError(
            "source.too_many_links",
            f"cannot bundle {path} as {profile.name}: {shown(walk.tree.path(error.row))} has more than "
            f"{profile.most_links} subdirectories",
            hint="give --fs ext4, or leave it out with --exclude",
            field="file_system",
        ) from error
