"""The README agrees with the code: commands, options, requests, codes, states and figures."""

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
GUIDES = ("running-instance", "directories", "leave-instance-store", "bundle-from-ebs")
"""Pages of docs/ that show commands, as the README does."""
SOURCES = "\n".join(path.read_text() for path in sorted((ROOT / "service").rglob("*.py")))


def guide(name: str) -> str:
    return (ROOT / "docs" / f"{name}.md").read_text()


def shown_commands() -> Iterator[str]:
    """Give the indented lines, which a reader may type, with continued lines joined."""
    text = "\n".join([README, *map(guide, GUIDES)]).replace("\\\n", " ")
    for line in re.findall(r"^ {4}(\S.*)$", text, re.MULTILINE):
        yield re.sub(r"^\w+=\$\((.*?)\)", r"\1", line)


def anchors(text: str) -> set[str]:
    """The names by which links reach the sections of a page."""
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in titles}


def section(title: str, page: str = README) -> str:
    found = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#|\Z)", page, re.MULTILINE | re.DOTALL)
    assert found, f"no section {title!r}"
    return found[1]


def first_column(title: str, page: str = README) -> list[str]:
    rows = re.findall(r"^\| (.*?) \|", section(title, page), re.MULTILINE)
    return [row for row in rows[1:] if not row.startswith("---")]


@pytest.mark.parametrize("line", [line for line in shown_commands() if line.startswith("amistream ")])
def test_a_shown_command_is_valid(line: str) -> None:
    """Every `amistream` line has an existing command and its options."""
    _, name, *arguments = shlex.split(line, comments=True)
    load_command(name).make_context(name, arguments)


def test_make_targets_exist() -> None:
    """Every `make` line has an existing target."""
    named = re.findall(r"(?:^ {4}|`)make ([a-z-]+)", README, re.MULTILINE)
    assert {"demo", "test", "boot-test", "coverage", "lint", "bench", "audit"} == set(named)
    for target in named:
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_files_exist() -> None:
    """Every file of this project that the README or the threat model refers to exists, and so does every section."""
    text = README + (ROOT / "docs" / "security.md").read_text()
    for name in set(re.findall(r"\b(?:config|docs|tests)/[a-z0-9_./-]+[a-zA-Z]", text)):
        assert (ROOT / name).exists(), name
    assert set(re.findall(r"\]\(#(.*?)\)", README)) <= anchors(README)


@pytest.mark.parametrize("name", GUIDES)
def test_links_of_a_guide_lead_somewhere(name: str) -> None:
    """Every page that a guide links to exists, with the section that is named, and the README links to the guide."""
    assert f"](docs/{name}.md)" in README
    links = re.findall(r"\]\(([^)#]*)#?([^)]*)\)", guide(name))
    assert links
    for page, anchor in links:
        text = (ROOT / "docs" / (page or f"{name}.md")).read_text()
        assert not anchor or anchor in anchors(text), (page, anchor)


@pytest.mark.parametrize(("command", "page"), [("bundle", README), ("convert", guide("leave-instance-store"))])
def test_the_option_table_is_whole(command: str, page: str) -> None:
    """Every option of the command is in its table, and no other."""
    cells = first_column(f"Options of `{command}`", page)
    listed = {option for cell in cells for option in re.findall(r"`(--?[a-zA-Z0-9-]+)", cell)}
    taken = {
        option
        for parameter in load_command(command).params
        for option in (*parameter.opts, *parameter.secondary_opts)
        if option.startswith("-")
    }
    assert listed == taken - {"--help", "-h", "-n", "--no-wait"}


def test_the_request_table_is_the_api() -> None:
    """Every request of the socket API is in the table, and no other."""
    listed = {re.sub(r"\[.*\]", "", cell.strip("`")) for cell in first_column("Socket API")}
    assert listed == {f"{endpoint.method} {endpoint.path}" for endpoint in ENDPOINTS}


def test_every_state_is_listed() -> None:
    """Every state of a job is in the text."""
    for state in State:
        assert f"`{state.value}`" in section("Socket API")


def test_error_codes_exist() -> None:
    """The source raises every code in the table."""
    rows = re.findall(r"^\| (`[a-z0-9_]+\.\w+`) \|", guide("running-instance"), re.MULTILINE)
    rows += first_column("6. Errors", guide("leave-instance-store"))
    cells = [*first_column("Errors and what to do"), *rows]
    codes = [code for cell in cells for code in re.findall(r"`([^`]+)`", cell)]
    assert len(codes) > 15
    for code in codes:
        # A code with the prefix aws. is an error code of AWS.
        assert f'"{code}"' in SOURCES or (code.startswith("aws.") and f'"{code.removeprefix("aws.")}"' in SOURCES), code


def test_exit_statuses_are_those_of_the_errors() -> None:
    """Every status in the table is used."""
    statuses = {int(cell) for cell in first_column("Exit statuses")}
    raised = {int(found) for found in re.findall(r"^    exit_status(?:: \S+)? = (\d+)$", SOURCES, re.MULTILINE)}
    raised |= {int(found) for found in re.findall(r"^EXIT_\w+ = (\d+)$", SOURCES, re.MULTILINE)}
    assert statuses <= raised


def test_the_memory_formula_is_that_of_the_settings() -> None:
    """Baseline and ceiling of the defaults are those of the settings."""
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
    """The IAM policy is valid JSON with the necessary actions."""
    found = re.search(r"```json\n(.*?)```", README, re.DOTALL)
    assert found
    actions = {action for statement in json.loads(found[1])["Statement"] for action in statement["Action"]}
    assert {"s3:PutObjectAcl", "s3:DeleteObject", "ec2:DeregisterImage", "sts:GetCallerIdentity"} <= actions


def test_variables_are_settings() -> None:
    """Every AMISTREAM_ variable is that of a setting, but for two of the commands."""
    for name in set(re.findall(r"AMISTREAM_([A-Z_]+[A-Z])", README)) - {"CONFIG", "DEBUG"}:
        assert name.lower() in Settings.model_fields, name
