"""README and docs/ agree with the code: commands, options, requests, codes, states and figures."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest
from typer.core import TyperGroup

from amistream.cli.main import add_command, load_command
from amistream.entry import COMPAT, COMPAT_CONTEXT
from amistream.settings import PROCESS_BASELINE, Settings, memory_ceiling
from amistream.values import MIB

if TYPE_CHECKING:
    from typer.core import TyperCommand

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PAGES = {path.stem: path.read_text() for path in sorted((ROOT / "docs").glob("*.md"))}
MANUAL = "\n".join([README, *PAGES.values()])


def shown_commands() -> Iterator[str]:
    """Give the indented lines, which a reader may type, with continued lines joined."""
    text = MANUAL.replace("\\\n", " ")
    for line in re.findall(r"^ {4,8}(?:\$ )?(\S.*)$", text, re.MULTILINE):
        yield re.sub(r"\$\(.*?\)", "VALUE", re.sub(r"^\w+=\$\((.*?)\)", r"\1", line))


def anchors(text: str) -> set[str]:
    """The names by which links reach the sections of a page."""
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in titles}


def section(page: str, title: str) -> str:
    found = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#|\Z)", PAGES[page], re.MULTILINE | re.DOTALL)
    assert found, f"no section {title!r} in {page}"
    return found[1]


def first_column(page: str, title: str) -> list[str]:
    rows = re.findall(r"^\| (.*?) \|", section(page, title), re.MULTILINE)
    return [row for row in rows[1:] if not row.startswith("---")]


@pytest.mark.parametrize("line", [line for line in shown_commands() if line.startswith("amistream ")])
def test_a_shown_command_is_valid(line: str) -> None:
    """Every `amistream` line has an existing command and its options."""
    add_command(*COMPAT, **COMPAT_CONTEXT)
    _, name, *words = shlex.split(line, comments=True)
    arguments = list(takewhile(lambda word: word not in {">", ">>", "|"}, words))
    command = load_command(name)
    while isinstance(command, TyperGroup) and arguments:
        name = arguments.pop(0)
        command = cast("TyperCommand | TyperGroup", command.commands[name])
    command.make_context(name, arguments)


def test_make_targets_exist() -> None:
    """Every `make` line has an existing target."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:^ {4}|`)make ([a-z-]+)", MANUAL.replace("`make\n", "`make "), re.MULTILINE))
    assert {"demo", "test", "boot-test", "coverage", "lint", "bench", "audit", "docs"} <= named <= targets


def test_files_exist() -> None:
    """Every file of this project that the manual refers to exists."""
    for name in set(re.findall(r"\b(?:config|docs|examples|tests)/[a-z0-9_./-]+[a-zA-Z]", MANUAL)):
        assert (ROOT / name).exists(), name


def test_every_page_can_be_found() -> None:
    """The start page of the manual links to every other page, and its contents list every page."""
    contents = (ROOT / "config" / "manual.yml").read_text()
    assert [name for name in PAGES if name != "index" and f"]({name}.md)" not in PAGES["index"]] == []
    assert [name for name in PAGES if f"- {name}.md\n" not in contents] == []


@pytest.mark.parametrize("path", ["README.md", *(f"docs/{name}.md" for name in PAGES)])
def test_links_lead_somewhere(path: str) -> None:
    """Every page that a page links to exists, with the section that is named."""
    page = ROOT / path
    for name, anchor in re.findall(r"\]\(([^)#]*)#?([^)]*)\)", page.read_text()):
        target = page.parent / name if name else page
        assert target.exists(), name
        assert not anchor or anchor in anchors(target.read_text()), (name, anchor)


@pytest.mark.parametrize("command", ["bundle", "convert", "migrate"])
def test_the_option_table_is_whole(command: str) -> None:
    """Every option of the command is in its table, and no other."""
    cells = first_column("options", f"Options of `{command}`")
    listed = {option for cell in cells for option in re.findall(r"`(--?[a-zA-Z0-9-]+)", cell)}
    taken = {
        option
        for parameter in load_command(command).params
        for option in (*parameter.opts, *parameter.secondary_opts)
        if option.startswith("-")
    }
    assert listed == taken - {"--help", "-h", "-n", "--no-wait"}


def test_every_code_is_listed() -> None:
    """Every code with which the source makes an error is in the tables of errors."""
    sources = "\n".join(path.read_text() for path in sorted((ROOT / "service").rglob("*.py")))
    raised = set(re.findall(r"\b(?!Flaw)\w+Error\(\s*\"([a-z0-9_]+\.\w+)\",\s*f?\"", sources))
    assert len(raised) > 200
    assert {code for code in raised if f"`{code}`" not in PAGES["errors"]} == set()


def test_the_memory_formula_is_that_of_the_settings() -> None:
    """Baseline and ceiling of the defaults are those of the settings."""
    defaults = Settings()
    ceiling = memory_ceiling(
        workers=2,
        block_size=int(defaults.block_size),
        part_size=int(defaults.part_size),
        upload_concurrency=defaults.upload_concurrency,
    )
    assert f"\n    {PROCESS_BASELINE // MIB} MiB + workers" in section("settings", "Memory")
    assert f" {ceiling // MIB} MiB with the defaults on two cores" in section("settings", "Memory")


def test_the_policy_is_json() -> None:
    """The IAM policy is valid JSON with the necessary actions."""
    found = re.search(r"```json\n(.*?)```", PAGES["permissions"], re.DOTALL)
    assert found
    actions = {action for statement in json.loads(found[1])["Statement"] for action in statement["Action"]}
    assert {"s3:PutObjectAcl", "s3:DeleteObject", "ec2:DeregisterImage", "sts:GetCallerIdentity"} <= actions


def test_variables_are_settings() -> None:
    """Every AMISTREAM_ variable is that of a setting, but for two of the commands."""
    for name in set(re.findall(r"AMISTREAM_([A-Z_]+[A-Z])", MANUAL)) - {"CONFIG", "DEBUG"}:
        assert name.lower() in Settings.model_fields, name
