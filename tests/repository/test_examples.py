"""examples/: each begins with what it does and what to change; units are valid, and commands have their options."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
FILES = sorted(path for path in EXAMPLES.rglob("*") if path.is_file() and path.parent.name != "fleet")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_an_example_begins_with_its_purpose(path: Path) -> None:
    """An example begins with a comment, which says what to change; tests of an example begin with their command."""
    comment = re.match(r"(?:#.*\n)+", path.read_text())
    assert comment
    assert ("To change:" in comment[0]) != path.stem.endswith("-test")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_the_timer_and_its_service(tmp_path: Path) -> None:
    """`systemd-analyze verify` finds no fault in the nightly timer and its service."""
    units = [tmp_path / f"amistream-nightly.{kind}" for kind in ("service", "timer")]
    for unit in units:
        text = (EXAMPLES / "systemd" / unit.name).read_text()
        unit.write_text(text.replace("/usr/bin/amistream", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", *map(str, units)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
