"""Finds the file systems to freeze, and refuses those whose freeze would stop this process, or the machine.

A writer to a frozen file system waits, and cannot be killed. So nothing is frozen to which this process writes while
it bundles, or the system all the time.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import amistream
from amistream.errors import RefusedError
from amistream.host import capabilities
from amistream.host.devices import device_number
from amistream.host.frozen import CAPABLE
from amistream.host.mounts import shown, writable_mounts
from amistream.host.swaps import swap_places
from amistream.location import DirectoryLocation, parse_location
from amistream.ports.volume import Volume
from amistream.request import VolumeRequest
from amistream.settings import Settings
from amistream.values import quoted

SYSTEM = ("/", "/usr", "/etc", "/var", "/var/log", "/var/log/journal", "/run", "/boot", "/dev")
"""Written to by the system at any moment, or needed to thaw by hand."""

_OPEN = Path("/proc/self/fd")


def writable_devices(volume: Volume) -> frozenset[str]:
    """The file systems on the volume that may be written to."""
    return frozenset(mount.device for mount in writable_mounts(volume.identity))


def places_to_freeze(volume: Volume, request: VolumeRequest, settings: Settings) -> tuple[Path, ...]:
    """A mount point of each file system on the volume that may be written to.

    Raises `RefusedError` for one that must not be frozen.
    """
    mounts = writable_mounts(volume.identity)
    needed = {_device(path): what for path, what in _needed(request, settings)}
    found = []
    for device, mount in {mount.device: mount for mount in reversed(mounts)}.items():
        place = Path(mount.place)
        if not mount.is_plain:
            why = f"files on {mount.kind} have device numbers of their own, so nothing shows which files are on it"
            raise _refused(place, why, f"umount {quoted(shown(place))}, or bundle a snapshot")
        if device in needed:
            why = f"{needed[device]} is on it, and whoever writes there would wait until the thaw"
            raise _refused(place, why, "bundle a snapshot of it, or move that elsewhere first")
        # A file system may be mounted in several places, and another one over it in some of them.
        places = [Path(each.place) for each in mounts if each.device == device]
        visible = [each for each in places if each.is_dir() and _device(each) == device]
        if not visible:
            hint = f"umount what is mounted over it: findmnt {quoted(shown(place))}"
            raise _refused(place, "other file systems are mounted over it", hint)
        found.append(visible[0])
    if found and not capabilities.has(capabilities.MOUNTS):
        raise _refused(found[0], "that needs CAP_SYS_ADMIN", CAPABLE)
    return tuple(found)


def _needed(request: VolumeRequest, settings: Settings) -> Iterator[tuple[Path, str]]:
    """The files and directories that are written to meanwhile, the most telling words last."""
    for link in _OPEN.iterdir():
        yield link, "a file that this process has open"
    for swap in swap_places():
        yield swap, f"the swap file {swap}"
    for place in (sys.prefix, sys.base_prefix, str(Path(amistream.__file__).parent)):
        yield Path(place), f"this program ({place})"
    for place in SYSTEM:
        yield Path(place), f"the system ({place})"
    yield Path(tempfile.gettempdir()), f"the directory of temporary files ({tempfile.gettempdir()})"
    yield settings.socket.parent, f"the socket ({settings.socket})"
    for destination in request.outputs:
        location = parse_location(destination)
        if isinstance(location, DirectoryLocation):
            yield location.path, f"the destination {location}"
    yield settings.state_dir, f"the state directory ({settings.state_dir})"


def _device(path: Path) -> str:
    """The device that holds a path, or its nearest parent that exists."""
    for each in (path, *path.parents):
        try:
            return device_number(each.stat().st_dev)
        except OSError:
            continue
    return ""


def _refused(place: Path, why: str, hint: str) -> RefusedError:
    return RefusedError("freeze.refused", f"cannot freeze {shown(place)}: {why}", hint=hint, field="freeze")
