"""The service unit is valid and restrictive, and the daemon works within it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from security.people import MEMBER_ID, needs_root, some_group
from support.commands import COMMANDS
from support.daemons import identity
from support.volumes import loop_device, random_image

if TYPE_CHECKING:
    from support.keys import KeyRing

CONFIG = Path(__file__).parents[2] / "config"
UNITS = ("amistream.service", "amistream.socket")
SETTINGS = re.compile(r"^([A-Za-z]+)=(.*)$", re.MULTILINE)
WORST_EXPOSURE = 30
"""Of 100. Versions of systemd differ by a few points."""
PATIENCE_S = 120

WITHOUT_WRITABLE_CODE = """
import ctypes, os, sys
if ctypes.CDLL(None).prctl(65, 1, 0, 0, 0):  # PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN: Linux 6.3
    print("cannot refuse writable code here", file=sys.stderr)
os.execv(sys.argv[1], sys.argv[1:])
"""

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


def values(name: str) -> list[str]:
    """Read the values of a setting in the service unit."""
    return [value for each, value in SETTINGS.findall((CONFIG / "amistream.service").read_text()) if each == name]


@needs_systemd
def test_the_units_are_well_made(tmp_path: Path) -> None:
    """`systemd-analyze verify` finds no fault in either unit."""
    for unit in UNITS:
        text = (CONFIG / unit).read_text()
        # The program need not be installed where the tests run.
        (tmp_path / unit).write_text(re.sub(r"^ExecStart=.*", "ExecStart=/bin/true", text, flags=re.MULTILINE))
    argv = ["systemd-analyze", "verify", *(str(tmp_path / unit) for unit in UNITS)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@needs_systemd
def test_the_service_is_closed() -> None:
    """The exposure level of systemd stays low."""
    argv = ["systemd-analyze", "security", "--offline=true", f"--threshold={WORST_EXPOSURE}"]
    done = subprocess.run([*argv, str(CONFIG / "amistream.service")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_lines_that_the_documentation_relies_on() -> None:
    """The unit holds the lines that docs/security.md relies on."""
    for name, value in {
        "LimitCORE": "0",
        "MemorySwapMax": "0",
        "UMask": "0077",
        "NoNewPrivileges": "yes",
        "ProtectSystem": "strict",
        "ProtectHome": "read-only",
        "StateDirectoryMode": "0700",
        "CapabilityBoundingSet": "CAP_DAC_READ_SEARCH CAP_CHOWN",
        "DevicePolicy": "closed",
        "DeviceAllow": "block-* r",
    }.items():
        assert values(name) == [value], name
    assert values("SystemCallFilter")[:2] == ["@system-service", "~@privileged @resources"]


def test_nothing_of_the_file_system_is_hidden() -> None:
    """The daemon sees every file of the system, so that a bundle of / is whole: it only cannot write there."""
    hiding = ("InaccessiblePaths", "TemporaryFileSystem", "RootDirectory", "PrivateTmp", "ProtectKernelModules")
    assert {name: values(name) for name in hiding if values(name) not in ([], ["no"])} == {}
    assert values("ProtectHome") in ([], ["no"], ["read-only"])


@needs_root
def test_the_daemon_works_with_the_units_capabilities(tmp_path: Path, key_ring: KeyRing) -> None:
    """With the unit's capabilities, no new privileges and no writable code, the daemon gives the socket to its group,
    and bundles a device and another user's private image.
    """
    image = random_image(tmp_path / "image", 300_000)
    os.chown(image, MEMBER_ID, MEMBER_ID)
    image.chmod(0o600)
    (capabilities,) = values("CapabilityBoundingSet")
    kept = ",".join("+" + name.removeprefix("CAP_").lower() for name in capabilities.split())
    socket, group = tmp_path / "s", some_group()
    argv = [
        *("setpriv", f"--bounding-set=-all,{kept}", "--inh-caps=-all", "--no-new-privs", "--"),
        *(sys.executable, "-c", WITHOUT_WRITABLE_CODE, sys.executable, str(COMMANDS / "amistreamd")),
        *("--socket", str(socket), "--state-dir", str(tmp_path / "state")),
    ]
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "AMISTREAM_SOCKET_GROUP": group.gr_name}
    with (
        loop_device(image) as device,
        subprocess.Popen(argv, stderr=subprocess.PIPE, env=environ) as process,
    ):
        try:
            assert process.stderr is not None
            line = b"?"
            while line and b"daemon.ready" not in line:
                line = process.stderr.readline()
            assert line, "it ended at once"
            status = Path(f"/proc/{process.pid}/status").read_text()
            assert re.search(r"^CapEff:\t0000000000000005$", status, re.MULTILINE), status
            assert socket.stat().st_gid == group.gr_gid
            for number, source in enumerate((image, device)):
                command = [str(COMMANDS / "amistream"), "bundle", str(source), "--to", str(tmp_path / str(number))]
                done = subprocess.run(
                    [*command, *map(str, identity(key_ring)), "--socket", str(socket)],
                    capture_output=True,
                    text=True,
                    env=environ,
                    timeout=PATIENCE_S,
                    check=False,
                )
                assert done.returncode == 0, done.stderr
        finally:
            process.terminate()
        assert process.wait(PATIENCE_S) == 0
