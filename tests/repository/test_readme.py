"""What the README promises is there: commands, options, requests, codes, states and figures."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from amistream.cli.main import load_command
from amistream.daemon.routes import ENDPOINTS
from amistream.events import State
from amistream.settings import PROCESS_BASELINE, Settings, memory_ceiling
from amistream.values import MIB

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
SOURCES = "\n".join(path.read_text() for path in sorted((ROOT / "service").rglob("*.py")))


def shown_commands() -> Iterator[str]:
    """The indented lines that a reader may type, continued lines joined."""
    text = README.replace("\\\n", " ")
    for line in re.findall(r"^ {4}(\S.*)$", text, re.MULTILINE):
        yield re.sub(r"^\w+=\$\((.*?)\)", r"\1", line)


def section(title: str) -> str:
    found = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#|\Z)", README, re.MULTILINE | re.DOTALL)
    assert found, f"no section {title!r}"
    return found[1]


def first_column(title: str) -> list[str]:
    rows = re.findall(r"^\| (.*?) \|", section(title), re.MULTILINE)
    return [row for row in rows[1:] if not row.startswith("---")]


@pytest.mark.parametrize("line", [line for line in shown_commands() if line.startswith("amistream ")])
def test_a_shown_command_is_understood(line: str) -> None:
    """Every `amistream` line has a command that exists and options that it takes."""
    _, name, *arguments = shlex.split(line, comments=True)
    load_command(name).make_context(name, arguments)


def test_make_targets_exist() -> None:
    """Every `make` line names a target."""
    named = re.findall(r"(?:^ {4}|`)make ([a-z]+)", README, re.MULTILINE)
    assert {"demo", "test", "coverage", "lint", "bench", "audit"} == set(named)
    for target in named:
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_files_exist() -> None:
    """Every file of this project that is named is there."""
    for name in set(re.findall(r"\b(?:config|docs)/[a-z0-9_.-]+[a-zA-Z]", README)):
        assert (ROOT / name).is_file(), name


def test_the_option_table_is_whole() -> None:
    """Every option of `bundle` is in the table, and no other."""
    told = {
        option for cell in first_column("Options of `bundle`") for option in re.findall(r"`(--?[a-zA-Z0-9-]+)", cell)
    }
    taken = {
        option
        for parameter in load_command("bundle").params
        for option in (*parameter.opts, *parameter.secondary_opts)
        if option.startswith("-")
    }
    assert told == taken - {"--help", "-h", "--no-inherit", "--no-wait"}


def test_the_request_table_is_the_api() -> None:
    """Every request of the socket API is told, and no other."""
    told = {re.sub(r"\[.*\]", "", cell.strip("`")) for cell in first_column("Socket API")}
    assert told == {f"{endpoint.method} {endpoint.path}" for endpoint in ENDPOINTS}


def test_every_state_is_told() -> None:
    """Somebody who waits for a state finds its name."""
    for state in State:
        assert f"`{state.value}`" in section("Socket API")


def test_error_codes_exist() -> None:
    """Every code in the table is one that the code raises."""
    codes = [code for cell in first_column("Errors and what to do") for code in re.findall(r"`([^`]+)`", cell)]
    assert len(codes) > 15
    for code in codes:
        # Codes that begin with aws. are made of AWS's own.
        assert f'"{code}"' in SOURCES or (code.startswith("aws.") and f'"{code.removeprefix("aws.")}"' in SOURCES), code


def test_exit_statuses_are_those_of_the_errors() -> None:
    """Every status in the table can be had."""
    statuses = {int(cell) for cell in first_column("Exit statuses")}
    raised = {int(found) for found in re.findall(r"^    exit_status(?:: \S+)? = (\d+)$", SOURCES, re.MULTILINE)}
    raised |= {int(found) for found in re.findall(r"^EXIT_\w+ = (\d+)$", SOURCES, re.MULTILINE)}
    assert statuses <= raised


def test_the_memory_formula_is_that_of_the_settings() -> None:
    """Baseline and ceiling of the defaults are the figures that users plan with."""
    defaults = Settings()
    ceiling = memory_ceiling(
        workers=2,
        block_size=int(defaults.block_size),
        part_size=int(defaults.part_size),
        upload_concurrency=defaults.upload_concurrency,
    )
    assert f"\n    {PROCESS_BASELINE // MIB} MiB + workers" in section("Memory")
    assert f" {ceiling // MIB} MiB with the defaults on two cores" in section("Memory")


def test_the_policy_is_json() -> None:
    """The IAM policy can be pasted as it is."""
    found = re.search(r"```json\n(.*?)```", README, re.DOTALL)
    assert found
    actions = {action for statement in json.loads(found[1])["Statement"] for action in statement["Action"]}
    assert {"s3:PutObjectAcl", "s3:DeleteObject", "ec2:DeregisterImage", "sts:GetCallerIdentity"} <= actions


def test_variables_are_settings() -> None:
    """Every AMISTREAM_ variable that is named sets something."""
    for name in set(re.findall(r"AMISTREAM_([A-Z_]+[A-Z])", README)) - {"CONFIG"}:
        assert name.lower() in Settings.model_fields, name
