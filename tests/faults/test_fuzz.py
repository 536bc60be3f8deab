"""A short round of the fuzz, which runs at any length: `python tests/faults/fuzz.py --count 5000`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FUZZ = Path(__file__).with_name("fuzz.py")


def test_no_input_is_answered_with_a_bug() -> None:
    """Hostile requests, manifests and command lines end in documented errors and leave nothing behind."""
    line = [sys.executable, str(FUZZ), "--count", "45", "--seed", "20261128"]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
