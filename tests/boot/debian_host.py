"""A Debian 12 with systemd as PID 1, in a container or a machine, whose commands a test runs over a socket.

systemd-nspawn starts the container: systemd, its unit and its journal are real, the kernel and the network are those of
this machine. It starts in seconds. QEMU starts the machine with a kernel of its own, at a fifth of the speed. Kernel
and initramfs are given to QEMU, so the disk has no boot loader; the socket is the second serial port.
"""

from __future__ import annotations

import base64
import logging
import os
import shlex
import shutil
import signal
import socket
import subprocess
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from boot.tiny_system import modules_of, write_initramfs
from support.bare_roots import SOURCES, SUITE
from support.volumes import MIB, ext4_image, loop_device

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

LOG = logging.getLogger(__name__)
LOOPBACK = {"container": "127.0.0.1", "machine": "10.0.2.2"}
"""The address of this machine's loopback in each kind of host."""
PACKAGES = ("systemd-sysv", "e2fsprogs", "mount")
MACHINE_PACKAGES = ("udev", "kmod", "busybox-static", "linux-image-cloud-amd64")
SIZE, MEMORY_MIB = 1536 * MIB, 1536
BOOT_S, PATIENCE_S = 900, 1200
"""A boot of the machine takes half a minute on two idle cores, and its longest command less than one."""
_SHELL = """\
#!/bin/bash
if [ -t 0 ]; then
    stty raw -echo
    busybox ip link set lo up
    until [ -e /sys/class/net/eth0 ]; do sleep 0.1; done
    busybox ip address add 10.0.2.15/24 dev eth0
    busybox ip link set eth0 up
fi
echo ready
while read -r line; do
    base64 -d <<<"$line" >/run/command
    bash /run/command </dev/null >/run/output 2>&1
    echo "$? $(base64 -w0 /run/output)"
done
"""
_SERVICE = "etc/systemd/system/commands.service"
_FILES = {
    "etc/hostname": "host\n",
    "etc/hosts": "127.0.0.1 localhost host\n",
    "etc/machine-id": "uninitialized\n",
    "usr/local/sbin/commands": _SHELL,
    _SERVICE: """\
[Service]
ExecStart=/bin/bash /usr/local/sbin/commands
[Install]
WantedBy=multi-user.target
""",
}
_CONTAINER_FILES = {
    f"{_SERVICE}.d/port.conf": "[Service]\nStandardInput=file:/commands\nStandardOutput=file:/commands\n"
}
_MACHINE_FILES = {
    "etc/fstab": "/dev/vda / ext4 defaults 0 1\n",
    f"{_SERVICE}.d/port.conf": "[Service]\nStandardInput=tty-force\nStandardOutput=tty\nTTYPath=/dev/ttyS1\n",
}
_UNNEEDED = (
    *("getty@tty1.service", "serial-getty@ttyS0.service", "systemd-logind.service", "systemd-update-utmp.service"),
    *("apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "fstrim.timer"),
    *("systemd-update-utmp-runlevel.service", "modprobe@drm.service", "modprobe@configfs.service"),
)


class Host:
    """The running container or machine."""

    def __init__(self, port: socket.socket) -> None:
        self._port = port
        self._lines = port.makefile("rb")

    def wait_ready(self) -> None:
        """Wait until systemd has started the service that runs the commands."""
        self._port.settimeout(BOOT_S)
        while b"ready" not in (line := self._lines.readline()):
            assert line, "the host ended"

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

    def wait_until(self, condition: str, *, within: int = PATIENCE_S) -> None:
        """Repeat a command until it succeeds."""
        loop = f"until {condition}; do sleep 0.2; done"
        self.run(f"timeout {within} bash -c {shlex.quote(loop)}", within=2 * within)


@contextmanager
def debian_host(kind: str, directory: Path, files: Mapping[str, bytes | Path], volume: Path) -> Iterator[Host]:
    """Install Debian and further files in `directory`, and start it with the volume as /dev/vdb.

    `kind` is a key of `LOOPBACK`. Skips where that cannot be.
    """
    if os.geteuid() != 0:
        pytest.skip("only root can install a Debian")
    sources = next((each for each in SOURCES if each.exists() and SUITE in each.read_text()), None)
    if sources is None:
        pytest.skip(f"the package sources of this machine do not have {SUITE}")
    if kind == "container" and shutil.which("systemd-nspawn") is None:
        pytest.skip("systemd-nspawn is not installed")
    directory.mkdir()
    if kind == "container":
        tree = _install(directory, sources, PACKAGES, _FILES | _CONTAINER_FILES | dict(files))
        with _container(directory, tree, volume) as host:
            yield host
    else:
        tree = _install(directory, sources, PACKAGES + MACHINE_PACKAGES, _FILES | _MACHINE_FILES | dict(files))
        with _machine(directory, tree, volume) as host:
            yield host


def _install(
    directory: Path, sources: Path, packages: tuple[str, ...], files: Mapping[str, str | bytes | Path]
) -> Path:
    tree = directory / "tree"
    options = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "locale")]
    words = ("--quiet", "--mode=root", "--variant=minbase", "--format=directory", f"--include={','.join(packages)}")
    # The kernel's own initramfs has a hundred drivers, and takes longer to make, and to start, than all else.
    _run("mmdebstrap", *words, *options, SUITE, str(tree), str(sources), INITRD="No")
    for name, content in files.items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Path):
            shutil.copy(content, path)
        else:
            path.write_bytes(content.encode() if isinstance(content, str) else content)
    _run("chroot", str(tree), "systemctl", "enable", "commands.service")
    _run("chroot", str(tree), "systemctl", "mask", *_UNNEEDED)
    return tree


@contextmanager
def _container(directory: Path, tree: Path, volume: Path) -> Iterator[Host]:
    words = ["systemd-nspawn", f"--directory={tree}", "--register=no", "--resolv-conf=off", "--timezone=off"]
    # A guard that thaws locks its memory; a container has all other capabilities that the service can get.
    words.append("--capability=CAP_IPC_LOCK")
    # Only a systemd of this machine can make a scope for the container.
    words += [] if Path("/run/systemd/system").exists() else ["--keep-unit"]
    tried = subprocess.run([*words, "true"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"systemd-nspawn cannot start a container here: {tried.stderr.strip()}")
    with loop_device(volume, read_only=False) as device, socket.socket(socket.AF_UNIX) as listener:
        # A path of 108 bytes at most, which one of pytest may exceed.
        opened = os.open(tree, os.O_PATH)
        listener.bind(f"/proc/self/fd/{opened}/commands")
        os.close(opened)
        listener.listen()
        words += ["--boot", "--link-journal=no", "--console=read-only", f"--bind={device}:/dev/vdb"]
        with (directory / "console").open("wb") as console, _running(directory, words, stdout=console) as process:
            listener.settimeout(1)
            while True:
                assert process.poll() is None, "the container ended"
                with suppress(TimeoutError):
                    port, _ = listener.accept()
                    break
            with port:
                yield _ready(port)


@contextmanager
def _machine(directory: Path, tree: Path, volume: Path) -> Iterator[Host]:
    (kernel,) = (tree / "boot").glob("vmlinuz-*")
    modules = list(modules_of(tree / "lib/modules" / kernel.name.removeprefix("vmlinuz-")))
    write_initramfs(directory / "initrd", directory / "initramfs", tree / "bin/busybox", modules)
    disk = ext4_image(directory / "host.img", SIZE, tree)
    kernel = Path(shutil.copy(kernel, directory / "kernel"))
    shutil.rmtree(tree)
    # A path of 108 bytes at most, which one of pytest may exceed; QEMU inherits the end of a pair.
    near, far = socket.socketpair()
    words = ["-accel", "tcg,thread=multi", "-smp", "2", "-m", str(MEMORY_MIB), "-display", "none", "-monitor", "none"]
    words += ["-kernel", str(kernel), "-initrd", str(directory / "initrd"), "-no-reboot", "-snapshot"]
    words += ["-append", "root=/dev/vda console=ttyS0 net.ifnames=0 mitigations=off systemd.show_status=1"]
    words += ["-nic", "user,model=virtio", "-serial", f"file:{directory / 'console'}"]
    words += ["-chardev", f"socket,id=commands,fd={far.fileno()}", "-serial", "chardev:commands"]
    for each in (disk, volume):
        words += ["-drive", f"file={each},format=raw,if=virtio"]
    with near, far, _running(directory, ["qemu-system-x86_64", *words], pass_fds=[far.fileno()]):
        far.close()
        yield _ready(near)


@contextmanager
def _running(directory: Path, words: list[str], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(words, stdin=subprocess.DEVNULL, **options) as process:
        try:
            yield process
        finally:
            # The systemd of a container outlives systemd-nspawn, which ends after it.
            if process.poll() is None:
                children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
                for each in children or [str(process.pid)]:
                    os.kill(int(each), signal.SIGKILL)
            LOG.info("console: %s", (directory / "console").read_text(errors="replace")[-2000:])


def _ready(port: socket.socket) -> Host:
    begun = time.monotonic()
    host = Host(port)
    host.wait_ready()
    LOG.info("systemd has started in %.0f s, at a load of %.1f", time.monotonic() - begun, os.getloadavg()[0])
    return host


def _run(*words: str, **variables: str) -> None:
    done = subprocess.run(words, env={**os.environ, **variables}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words}: {done.stderr or done.stdout}"
