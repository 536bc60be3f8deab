"""The files of `make dist`: sizes, the list of contents, the .rpm, the wheel, and that each build is the same."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING

import pytest

from config.dist.project import ARCHITECTURES, OUTPUT, PREFIX, ROOT, TOOLS, version
from dist.running import made

if TYPE_CHECKING:
    from pathlib import Path

    from config.dist.project import Architecture
    from support.bare_roots import BareRoot

KINDS = (".tar.xz", ".deb", ".rpm", ".cdx.json")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_sizes(architecture: str) -> None:
    """Every packed form is below 60 MB."""
    sizes = {suffix: made(suffix, architecture).stat().st_size / 1e6 for suffix in KINDS}
    assert max(sizes.values()) < 60, sizes


def test_a_second_build_is_the_same(tmp_path: Path) -> None:
    """A build in another directory makes the same bytes."""
    words = ("-m", "config.dist", "build", "--arch", "x86_64", "--output", str(tmp_path))
    subprocess.run([TOOLS / "python", *words], cwd=ROOT, check=True, timeout=1500)
    for path in tmp_path.iterdir():
        assert _digest(path) == _digest(OUTPUT / path.name), path.name
    assert len(list(tmp_path.iterdir())) == 6


@pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_the_rpm(architecture: Architecture, empty: BareRoot, tmp_path: Path) -> None:
    """The .rpm lists the tree, units, template, links and completion; unpacked, it runs."""
    package = made(".rpm", architecture.name)
    listed = subprocess.run(["rpm", "-qlp", str(package)], capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    assert {
        f"{PREFIX}/bin/amistreamd",
        "/usr/bin/amistream",
        "/etc/amistream/amistream.toml",
        "/usr/lib/systemd/system/amistream.socket",
        "/usr/lib/sysusers.d/amistream.conf",
        "/usr/share/bash-completion/completions/amistream",
    } <= {*listed}
    about = subprocess.run(
        ["rpm", "-qp", "--queryformat", "%{VERSION} %{ARCH} %{LICENSE}", str(package)],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert about == f"{version()} {architecture.rpm} Apache-2.0"
    config = subprocess.run(["rpm", "-qcp", str(package)], capture_output=True, text=True, check=True).stdout
    assert config == "/etc/amistream/amistream.toml\n"
    if not architecture.tools:
        where = empty.path / "rpm"
        where.mkdir()
        unpack = 'rpm2cpio "$1" | cpio --quiet -idm'
        subprocess.run(["bash", "-o", "pipefail", "-c", unpack, "bash", str(package)], cwd=where, check=True)
        done = empty.run(f"/rpm{PREFIX}/bin/amistream", "--version")
        assert done.stdout == f"amistream {version()}\n"


def test_systemd_takes_the_units(tmp_path: Path) -> None:
    """Systemd finds no fault in the units where the package puts them, and makes the user and the group."""
    subprocess.run(["dpkg-deb", "--extract", str(made(".deb")), str(tmp_path)], check=True)
    system = tmp_path / "usr/lib/systemd/system"
    shutil.copytree("/usr/lib/systemd/system", system, symlinks=True, dirs_exist_ok=True)
    verify = ["systemd-analyze", "verify", "--man=no", f"--root={tmp_path}", "amistream.service", "amistream.socket"]
    done = subprocess.run(verify, capture_output=True, text=True, check=False)
    assert (done.returncode, "amistream" in done.stderr) == (0, False), done.stderr
    (tmp_path / "usr/bin/amistreamd").unlink()
    assert subprocess.run(verify, capture_output=True, check=False).returncode != 0
    (tmp_path / "etc").mkdir(exist_ok=True)
    subprocess.run(["systemd-sysusers", f"--root={tmp_path}", "amistream.conf"], check=True, capture_output=True)
    assert re.search("^amistream:.*/var/lib/amistream:", (tmp_path / "etc/passwd").read_text(), re.MULTILINE)
    assert "amistream:" in (tmp_path / "etc/group").read_text()


def test_the_list_of_contents() -> None:
    """The list names each part with version, digest and licence, and where the sources of GPL and LGPL parts are."""
    for architecture in ARCHITECTURES:
        parts = json.loads(made(".cdx.json", architecture).read_text())["components"]
        assert len(parts) > 50
        assert all(each["version"] and each["hashes"] and each["licenses"] for each in parts)
        copyleft = [each for each in parts if "GPL" in json.dumps(each["licenses"])]
        assert {each["name"] for each in copyleft} == {"crc32c", "libc6", "libgcc-s1", "libstdc++6"}
        assert all(re.search("apt-get source|pip download", each["description"]) for each in copyleft)


def test_the_wheel(tmp_path: Path) -> None:
    """The wheel and the sdist hold the template and the units; a hint of the wheel's program names the template."""
    wheel = OUTPUT / f"amistream-{version()}-py3-none-any.whl"
    names = zipfile.ZipFile(wheel).namelist()
    for name in ("amistream.toml", "amistream.service", "amistream.socket"):
        assert f"amistream-{version()}.data/data/share/amistream/{name}" in names
    sdist = subprocess.run(
        ["tar", "-tf", str(OUTPUT / f"amistream-{version()}.tar.gz")], capture_output=True, text=True, check=True
    ).stdout
    assert f"amistream-{version()}/config/amistream.toml" in sdist
    environment = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    pip = [sys.executable, "-m", "pip", "-q", "--python", str(environment / "bin/python")]
    subprocess.run([*pip, "install", "--no-deps", str(wheel)], check=True)
    (environment / "lib/python3.11/site-packages/others.pth").write_text(
        next(each for each in sys.path if each.endswith("site-packages"))
    )
    done = subprocess.run(
        [environment / "bin/amistreamd"],
        env={"AMISTREAM_NOT_A_SETTING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    template = environment / "share/amistream/amistream.toml"
    assert f"{template} lists every setting" in done.stderr
    assert template.read_bytes() == (ROOT / "config/amistream.toml").read_bytes()


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
