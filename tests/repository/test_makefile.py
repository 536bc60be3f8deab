"""The commands that people and machines run: the Makefile's targets and the entry point of continuous integration."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TARGETS = ("help", "demo", "test", "coverage", "lint", "audit", "bench", "clean")
SCRIPTS = (".ci/run", "docs/demo.sh")


def run_make(*arguments: str) -> str:
    # A make that runs the tests hands its own flags down.
    environ = {name: value for name, value in os.environ.items() if name not in {"MAKEFLAGS", "MAKELEVEL", "MFLAGS"}}
    done = subprocess.run(
        ["make", *arguments],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_make_alone_lists_every_target() -> None:
    """Somebody who types `make` learns what there is, and nothing is done."""
    assert tuple(re.findall(r"^  make ([a-z]+) ", run_make(), re.MULTILINE)) == TARGETS


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_can_be_made(target: str) -> None:
    """Every target's recipe and what it depends on are there."""
    run_make("--dry-run", target)


def test_tests_run_after_lint() -> None:
    """`make test` is the whole check: lint, types, tests."""
    recipe = run_make("--dry-run", "test")
    positions = [recipe.find(command) for command in ("ruff check", "mypy", "-m pytest -n auto")]
    assert sorted(positions) == positions
    assert positions[0] >= 0


def test_coverage_counts_branches() -> None:
    """`make coverage` runs the same tests, and looks at branches."""
    assert "-m pytest -n auto --cov" in run_make("--dry-run", "coverage")
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["coverage"]["run"]["branch"] is True


def test_continuous_integration_runs_the_test_command_of_the_readme() -> None:
    """What protects the project is what the README tells people to run."""
    assert re.search(r"^exec make test\b", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    assert re.search(r"^ *make test\b", (ROOT / "README.md").read_text(), re.MULTILINE)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_can_be_run_and_stops_at_the_first_failure(script: str) -> None:
    """Scripts are executable, parse, and do not go on after an error."""
    path = ROOT / script
    assert os.access(path, os.X_OK)
    assert "set -euo pipefail" in path.read_text()
    subprocess.run(["bash", "-n", str(path)], check=True)
