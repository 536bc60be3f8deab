"""The page on boot checks names every code."""

from __future__ import annotations

import re
from pathlib import Path

import amistream

BOOT = Path(amistream.__file__).parent / "checks" / "boot"
PAGE = Path(__file__).parents[3] / "docs" / "boot-checks.md"


def test_every_code_has_its_row() -> None:
    """The table has the codes that the checks give, and no other."""
    text = "".join(path.read_text() for path in BOOT.glob("*.py"))
    given = set(re.findall(r'(?:failed|noted)\(\s*"([a-z_]+)"', text)) | {"no_ena", "no_ixgbevf", "unknown"}
    given |= {f"identity.{what}" for what in re.findall(r'_found\(\s*"([a-z_]+)"', text)}
    cells = re.findall(r"^\| (`[^|]*`) \|", PAGE.read_text(), re.MULTILINE)
    assert {code for cell in cells for code in re.findall(r"`([a-z_.]+)`", cell)} == given
