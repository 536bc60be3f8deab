"""A Debian 12 with systemd as PID 1 in a machine, whose commands a test runs over its second serial port.

Kernel and initramfs are given to QEMU, so the disk has no boot loader. The machine reaches servers of this machine's
loopback at 10.0.2.2.
"""

from __future__ import annotations

import base64
import logging
import os
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from boot.tiny_system import modules_of, write_initramfs
from support.bare_roots import SOURCES, SUITE
from support.volumes import MIB, ext4_image

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

LOG = logging.getLogger(__name__)
PACKAGES = ("systemd-sysv", "udev", "kmod", "e2fsprogs", "mount", "busybox-static", "linux-image-cloud-amd64")
LOOPBACK = "10.0.2.2"
"""The address of this machine's loopback in the machine."""
SIZE, MEMORY_MIB = 1536 * MIB, 1536
BOOT_S, PATIENCE_S = 900, 600
"""A boot takes half a minute on two idle cores."""
_SHELL = """\
#!/bin/bash
stty raw -echo
busybox ip link set lo up
until [ -e /sys/class/net/eth0 ]; do sleep 0.1; done
busybox ip address add 10.0.2.15/24 dev eth0
busybox ip link set eth0 up
echo ready
while read -r line; do
    base64 -d <<<"$line" >/run/command
    bash /run/command </dev/null >/run/output 2>&1
    echo "$? $(base64 -w0 /run/output)"
done
"""
_FILES = {
    "etc/fstab": "/dev/vda / ext4 defaults 0 1\n",
    "etc/hostname": "host\n",
    "etc/hosts": "127.0.0.1 localhost host\n",
    "etc/machine-id": "uninitialized\n",
    "usr/local/sbin/commands": _SHELL,
    "etc/systemd/system/commands.service": """\
[Service]
ExecStart=/bin/bash /usr/local/sbin/commands
StandardInput=tty-force
StandardOutput=tty
TTYPath=/dev/ttyS1
[Install]
WantedBy=multi-user.target
""",
}
_UNNEEDED = (
    *("getty@tty1.service", "serial-getty@ttyS0.service", "systemd-logind.service", "systemd-update-utmp.service"),
    *("apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "fstrim.timer"),
    *("systemd-update-utmp-runlevel.service", "modprobe@drm.service", "modprobe@configfs.service"),
)


class Host:
    """The running machine."""

    def __init__(self, port: socket.socket) -> None:
        self._port = port
        self._lines = port.makefile("rb")

    def wait_ready(self) -> None:
        """Wait until systemd has started the service that runs the commands."""
        self._port.settimeout(BOOT_S)
        while b"ready" not in (line := self._lines.readline()):
            assert line, "the machine ended"

    def run(self, command: str, *, status: int | None = 0, within: float = PATIENCE_S) -> str:
        """Run lines of bash as root, and return all that they print."""
        begun = time.monotonic()
        self._port.settimeout(within)
        self._port.sendall(base64.b64encode(command.encode()) + b"\n")
        ended, _, output = self._lines.readline().strip().partition(b" ")
        text = base64.b64decode(output).decode(errors="replace")
        LOG.info("%5.1f s  %s", time.monotonic() - begun, command.strip().replace("\n", "; ")[-200:])
        if status is not None and int(ended) != status:
            failure = f"status {ended.decode()}, not {status}: {text}"
            LOG.warning(failure)
            raise AssertionError(f"{command}: {failure}")
        return text


@contextmanager
def debian_host(directory: Path, files: Mapping[str, bytes | Path], volume: Path) -> Iterator[Host]:
    """Install Debian and further files in `directory`, and start it with a second disk; skip where that cannot be."""
    if os.geteuid() != 0:
        pytest.skip("only root can install a Debian")
    sources = next((each for each in SOURCES if each.exists() and SUITE in each.read_text()), None)
    if sources is None:
        pytest.skip(f"the package sources of this machine do not have {SUITE}")
    directory.mkdir()
    tree = directory / "tree"
    options = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "locale")]
    words = ("--quiet", "--mode=root", "--variant=minbase", "--format=directory", f"--include={','.join(PACKAGES)}")
    # The kernel's own initramfs has a hundred drivers, and takes longer to make, and to start, than all else.
    _run("mmdebstrap", *words, *options, SUITE, str(tree), str(sources), INITRD="No")
    for name, content in (_FILES | dict(files)).items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Path):
            shutil.copy(content, path)
        else:
            path.write_bytes(content.encode() if isinstance(content, str) else content)
    _run("chroot", str(tree), "systemctl", "enable", "commands.service")
    _run("chroot", str(tree), "systemctl", "mask", *_UNNEEDED)
    (kernel,) = (tree / "boot").glob("vmlinuz-*")
    modules = list(modules_of(tree / "lib/modules" / kernel.name.removeprefix("vmlinuz-")))
    write_initramfs(directory / "initrd", directory / "initramfs", tree / "bin/busybox", modules)
    disk = ext4_image(directory / "host.img", SIZE, tree)
    kernel = Path(shutil.copy(kernel, directory / "kernel"))
    shutil.rmtree(tree)
    with _machine(directory, kernel, (disk, volume)) as host:
        yield host


@contextmanager
def _machine(directory: Path, kernel: Path, disks: tuple[Path, ...]) -> Iterator[Host]:
    # A path of 108 bytes at most, which one of pytest may exceed; QEMU inherits the end of a pair.
    near, far = socket.socketpair()
    words = ["-accel", "tcg,thread=multi", "-smp", "2", "-m", str(MEMORY_MIB), "-display", "none", "-monitor", "none"]
    words += ["-kernel", str(kernel), "-initrd", str(directory / "initrd"), "-no-reboot", "-snapshot"]
    words += ["-append", "root=/dev/vda console=ttyS0 net.ifnames=0 mitigations=off systemd.show_status=1"]
    words += ["-nic", "user,model=virtio", "-serial", f"file:{directory / 'console'}"]
    words += ["-chardev", f"socket,id=commands,fd={far.fileno()}", "-serial", "chardev:commands"]
    for disk in disks:
        words += ["-drive", f"file={disk},format=raw,if=virtio"]
    begun = time.monotonic()
    with near, far, subprocess.Popen(["qemu-system-x86_64", *words], pass_fds=[far.fileno()]) as process:
        try:
            far.close()
            host = Host(near)
            host.wait_ready()
            LOG.info("systemd has started in %.0f s, at a load of %.1f", time.monotonic() - begun, os.getloadavg()[0])
            yield host
        finally:
            process.kill()
            LOG.info("console: %s", (directory / "console").read_text(errors="replace")[-2000:])


def _run(*words: str, **variables: str) -> None:
    done = subprocess.run(words, env={**os.environ, **variables}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words}: {done.stderr or done.stdout}"
