"""Refuses wishes about a directory: of a request whose source is none, and of a member of the socket's group."""

from __future__ import annotations

from amistream.errors import AccessDeniedError, RefusedError
from amistream.request import FSTAB_WORDS, TreeFields, VolumeRequest, option_of
from amistream.source.tree.profiles import PROFILES

_BY_DAEMON = "the daemon would use that path with its own rights"
_NOT_FOR_MEMBERS = {
    "script": "the daemon would run it",
    "overlay": _BY_DAEMON,
    "grub_config": _BY_DAEMON,
    "fstab": _BY_DAEMON,
    "report": _BY_DAEMON,
    "all_file_systems": "other file systems may lie outside of source_roots",
    "file_system": "the daemon would mount an xfs, and copy all files",
}
_FOR_MEMBERS = (*FSTAB_WORDS, *PROFILES)
"""Values of these that are none of that."""


def refuse_member_wishes(request: VolumeRequest) -> None:
    """Raise `AccessDeniedError` for the wishes about a directory that only root's jobs may have."""
    for name, why in _NOT_FOR_MEMBERS.items():
        field, value = TreeFields.model_fields[name], getattr(request, name)
        if value != field.default and value not in _FOR_MEMBERS:
            raise AccessDeniedError(
                f"access.{name}",
                f"cannot apply {option_of(field).names}: {why}, and only root and the daemon's own user may ask for "
                "that",
                hint="leave it out, or bundle the directory yourself with --in-process",
                field=name,
            )


def refuse_wishes(request: VolumeRequest) -> None:
    """Raise `RefusedError` for a wish about a directory where the source is none."""
    if request.partition == "clone":
        raise RefusedError(
            "source.no_directory",
            f"cannot take over a boot area: {request.source} is no directory",
            hint="leave --partition out: a disk keeps its boot area as it is",
            field="partition",
        )
    for name, field in TreeFields.model_fields.items():
        if getattr(request, name) != field.default:
            raise no_directory(name, str(request.source))


def no_directory(field: str, source: str) -> RefusedError:
    """The error for a wish about a directory where the source is none."""
    return RefusedError(
        "source.no_directory",
        f"cannot apply {option_of(TreeFields.model_fields[field]).names}: {source} is no directory",
        hint="leave it out, or give a directory or mount point as SOURCE",
        field=field,
    )
