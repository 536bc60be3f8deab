"""The old command `ec2-bundle-vol`: bundles the tree of a running system into a directory, in one pass.

The job is that of `amistream bundle DIRECTORY`; this module translates the options. The old tool's filter, a list of
names, takes the place of `--clean`, which looks into the files.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path

from amistream.cli.output import put_note
from amistream.compat.bundling import OLD_DIRECTORY, bundle_into_directory, values_of
from amistream.compat.inheriting import inherit
from amistream.compat.options import Given
from amistream.compat.tree_paths import excludes, includes
from amistream.errors import RefusedError, UsageError
from amistream.settings import load
from amistream.values import MIB

FILTER = (
    "*/#*#",
    "*/.#*",
    "*.sw",
    "*.swo",
    "*.swp",
    "*~",
    "*.pem",
    "*.priv",
    "*id_rsa*",
    "*id_dsa*",
    "*.gpg",
    "*.jks",
    "*/.ssh/authorized_keys",
    "*/.bash_history",
)
"""Names that the old tool leaves out, in rsync's patterns; a directory goes with all that it holds."""
_FILTER_AT_TOP = ("/.ssh/authorized_keys", "/.bash_history")
"""The same directly below the root, where the old tool copied no name with a dot in front."""
_LARGEST_MIB = 10_240
_ARCHITECTURES = {
    "x86_64": "x86_64",
    "aarch64": "arm64",
    "i386": "i386",
    "i486": "i386",
    "i586": "i386",
    "i686": "i386",
}
"""Names of EC2 for those of uname."""


def bundle_volume(given: Given) -> int:
    """`ec2-bundle-vol`: a bundle of a tree in a directory."""
    _check_paths(given)
    settings = load(None)
    volume = Path(given["volume"] or "/").absolute()
    values = values_of(given)
    values["source"] = str(volume)
    values["prefix"] = given["prefix"] or "image"
    values["architecture"] = given["arch"] or _ARCHITECTURES.get(platform.machine(), settings.architecture)
    values["size"] = _size(given)
    values["partition"] = given["partition"] or "auto"
    values["all_file_systems"] = given.has("all")
    values["clean"] = "none"
    values["include"] = includes(volume, given.several("include"))
    values["exclude"] = excludes(volume, given.several("exclude"), given.words)
    if not given.has("no-filter"):
        values["exclude"] += [*FILTER, *_FILTER_AT_TOP]
    for field, key in (("script", "script"), ("grub_config", "grub-config")):
        if given.has(key):
            values[field] = str(Path(given[key]).absolute())
    if given.has("fstab") or given.has("generate-fstab"):
        values["fstab"] = str(Path(given["fstab"]).absolute()) if given.has("fstab") else "generate"
    if given.has("report"):
        values["report"] = str(Path(given["report"]).absolute())
    if not given.has("arch"):
        put_note(f"note: the architecture is {values['architecture']}; give another with --arch")
    if not given.has("no-inherit"):
        inherit(settings, values)
    return bundle_into_directory("ec2-bundle-vol", given, settings, values)


def _check_paths(given: Given) -> None:
    """Raise `UsageError` for a file or directory that is not there: for the old tool that is a wrong option."""
    directories = {"volume": given["volume"] or "/", "destination": given["destination"] or OLD_DIRECTORY}
    for key, text in directories.items():
        if not Path(text).is_dir():
            raise UsageError("usage", f"cannot use --{key}: there is no directory {text}")
    if given.has("fstab") and given.has("generate-fstab"):
        raise UsageError("usage", "cannot use both --fstab and --generate-fstab: give one of them")
    if given.has("script") and not os.access(given["script"], os.X_OK):
        raise UsageError("usage", "cannot use --script: the file is not there, or not executable")
    for key in ("cert", "privatekey", "ec2cert", "fstab", "grub-config"):
        if given.has(key) and not os.access(given[key], os.R_OK):
            raise UsageError("usage", f"cannot use --{key}: the file is not there, or not yours to read")


def _size(given: Given) -> int:
    """Bytes of the image."""
    text = given["size"] or str(_LARGEST_MIB)
    if not text.isascii() or not text.isdigit() or not int(text):
        raise UsageError("usage", "cannot use --size: give a number of MiB, such as 10240")
    if int(text) > _LARGEST_MIB:
        raise RefusedError(
            "size.too_large", f"cannot make an image of {text} MiB: EC2 takes at most {_LARGEST_MIB} MiB"
        )
    return int(text) * MIB
