"""Makes GRUB's images for a BIOS with this machine's own `grub-mkimage`: its licence would bind who ships them."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from amistream.errors import RefusedError
from amistream.host.program import ToolMissingError, run_tool
from amistream.source.disks.boot_area import GrubImages, core_limit
from amistream.source.disks.facts import TableKind

_PROGRAMS = ("grub-mkimage", "grub2-mkimage")
"""Debian and Ubuntu, Arch; Fedora, RHEL, SUSE."""
_FOLDERS = tuple(map(Path, ("/usr/lib/grub/i386-pc", "/usr/lib/grub2/i386-pc", "/usr/share/grub2/i386-pc")))
_PARTITION_MODULES = {TableKind.MBR: "part_msdos", TableKind.GPT: "part_gpt"}
_MODULES = ("biosdisk", "search", "normal", "configfile", "linux", "boot")
_MENU_MODULES = (
    *("all_video", "blscfg", "echo", "font", "gfxterm", "gzio", "halt", "increment", "keystatus", "loadenv", "ls"),
    *("lzopio", "minicmd", "reboot", "regexp", "serial", "sleep", "terminal", "test", "true", "xzio"),
)
"""Modules that the menus of distributions load, as far as they are here: those in the image may be of another version,
and are loaded only if the core does not have them. blscfg and increment are of Fedora's GRUB."""


def require_grub() -> Path:
    """The folder of GRUB's files. Raises `RefusedError` where they, or the program, are not on this machine."""
    folder = next((each for each in _FOLDERS if (each / "boot.img").is_file()), None)
    if folder is None:
        raise _missing("GRUB's files for a BIOS (i386-pc) are")
    if not any(map(shutil.which, _PROGRAMS)):
        raise _missing("grub-mkimage is")
    return folder


def grub_images(config: str, kind: TableKind, driver: str) -> GrubImages:
    """The boot sector, and a core with the commands in `config` for a disk with that table. Raises `RefusedError`.

    `driver`: the module that reads the file system.
    """
    folder = require_grub()
    menu_modules = [each for each in _MENU_MODULES if (folder / f"{each}.mod").is_file()]
    modules = [*_MODULES, driver, _PARTITION_MODULES[kind], *menu_modules]
    options = ["-O", "i386-pc", "-d", str(folder), "-p", "/boot/grub", *modules, "-c"]
    core = _core(config, options)
    if len(core) > core_limit(kind):
        raise RefusedError(
            "partition.grub",
            f"cannot put GRUB before the file system: its core has {len(core)} bytes, and there is room for "
            f"{core_limit(kind)}",
            hint="bundle a disk on which GRUB is installed",
            field="partition",
        )
    return GrubImages(boot=(folder / "boot.img").read_bytes(), core=core)


def _core(config: str, options: list[str]) -> bytes:
    with tempfile.TemporaryFile() as file:
        file.write(config.encode())
        file.flush()
        for program in _PROGRAMS:
            try:
                return run_tool(program, options, file.fileno())
            except ToolMissingError:
                continue
            except OSError as error:
                raise RefusedError(
                    "partition.grub",
                    f"cannot put GRUB before the file system: {program}: {error.strerror or error}",
                    hint="reinstall GRUB (Debian, Ubuntu: apt-get install --reinstall grub-pc-bin grub-common)",
                    field="partition",
                ) from error
    raise _missing("grub-mkimage is")


def _missing(what: str) -> RefusedError:
    return RefusedError(
        "partition.grub_missing",
        f"cannot put GRUB before the file system: {what} not on this machine",
        hint="install it (Debian, Ubuntu: apt-get install grub-pc-bin; Fedora, RHEL: dnf install grub2-pc-modules "
        "grub2-tools-minimal)",
        field="partition",
    )
