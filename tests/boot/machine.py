"""A PC with a BIOS and one disk, by QEMU. Its time is bounded by whoever waits; it is off when its context ends."""

from __future__ import annotations

import os
import selectors
import subprocess
import time
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Drive: TypeAlias = Literal["virtio", "nvme"]
"""Volumes of EBS are NVMe drives on instances of Nitro, which all newer types are."""
DRIVES: dict[Drive, tuple[str, ...]] = {
    "virtio": ("-drive", "file={disk},format=raw,if=virtio"),
    "nvme": ("-drive", "file={disk},format=raw,if=none,id=disk", "-device", "nvme,drive=disk,serial=disk"),
}

HANDED_OVER = b"Booting from 0000:7c00"
"""SeaBIOS prints this last, before it runs the first sector of the disk."""


class Machine:
    """A running machine, and all that its BIOS and its serial port have printed."""

    def __init__(self, output: IO[bytes]) -> None:
        self._output = output
        self.printed = b""

    def prints(self, text: bytes, within: float) -> bool:
        """Wait until the machine has printed `text`; False if it does not in so many seconds, or ends without."""
        deadline = time.monotonic() + within
        with selectors.DefaultSelector() as selector:
            selector.register(self._output, selectors.EVENT_READ)
            while text not in self.printed:
                left = deadline - time.monotonic()
                if left <= 0 or not selector.select(left):
                    return False
                more = os.read(self._output.fileno(), 1 << 16)
                if not more:
                    return False
                self.printed += more
        return True


@contextmanager
def machine(disk: Path, memory_mib: int = 512, drive: Drive = "virtio") -> Iterator[Machine]:
    """Switch on a machine with this disk in such a drive; what it writes is not kept."""
    # Only software translation works everywhere: there are machines whose /dev/kvm exists, and whose guests hang.
    words = ["-accel", "tcg", "-m", str(memory_mib), "-display", "none", "-monitor", "none", "-no-reboot"]
    # Addresses, but no way out: a system that waits for its network gets one.
    words += ["-nic", "user,restrict=on,model=virtio"]
    words += ["-snapshot", *(word.format(disk=disk) for word in DRIVES[drive])]
    words += ["-chardev", "stdio,id=text,mux=on,signal=off", "-serial", "chardev:text"]
    words += ["-device", "isa-debugcon,iobase=0x402,chardev=text"]
    process = subprocess.Popen(
        ["qemu-system-x86_64", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    with process:
        try:
            assert process.stdout is not None
            yield Machine(process.stdout)
        finally:
            process.kill()
