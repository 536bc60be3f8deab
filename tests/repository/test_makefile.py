"""The commands of developers and of continuous integration: the Makefile's targets and the scripts."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()
SCRIPTS = (".ci/run", "docs/demo.sh")


@pytest.mark.parametrize("target", re.findall(r"^([a-z-]+):.*## ", MAKEFILE, re.MULTILINE))
def test_a_target_can_be_made(target: str) -> None:
    """The recipe and all dependencies of every target exist."""
    # A make that runs the tests passes its own flags on.
    environ = {name: value for name, value in os.environ.items() if name not in {"MAKEFLAGS", "MAKELEVEL", "MFLAGS"}}
    subprocess.run(["make", "--dry-run", target], cwd=ROOT, env=environ, stdout=subprocess.DEVNULL, check=True)


def test_continuous_integration_runs_the_test_command_of_the_readme() -> None:
    """Continuous integration runs the command that the README gives."""
    assert re.search(r"^exec make test\b", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    assert re.search(r"^ *make test\b", (ROOT / "README.md").read_text(), re.MULTILINE)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_can_be_run_and_stops_at_the_first_failure(script: str) -> None:
    """Scripts are executable, parse, and stop after an error."""
    path = ROOT / script
    assert os.access(path, os.X_OK)
    assert "set -euo pipefail" in path.read_text()
    subprocess.run(["bash", "-n", str(path)], check=True)
