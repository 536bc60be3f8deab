"""Finds the files that come with the program: the settings' template and the units of systemd."""

from __future__ import annotations

import sys
from pathlib import Path

_OF_CHECKOUT = Path(__file__).parents[2] / "config"


def shipped(name: str) -> Path:
    """The path of a shipped file: in the project's own directory, else where the wheel or the package installed it."""
    of_checkout = _OF_CHECKOUT / name
    return of_checkout if of_checkout.is_file() else Path(sys.prefix) / "share" / "amistream" / name
