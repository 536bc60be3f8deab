"""Writes the documents that come from the models: `config/amistream.toml`, the pages of options, the list of commands.

python config/generate.py            # write them
python config/generate.py --check    # exit status 1 if one of them differs
python config/generate.py --man DIR  # write the manual pages there, for packages; SOURCE_DATE_EPOCH is their day
"""

from __future__ import annotations

import os
import re
import sys
import textwrap
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ByteSize
from pydantic.fields import FieldInfo

from amistream import __version__
from amistream.cli.command_page import CommandPage, page_of
from amistream.cli.main import GROUPS, about, add_command, load_command
from amistream.cli.quick import COMMANDS_FILE
from amistream.compat.tables import known_names
from amistream.daemon.main import _parser
from amistream.entry import COMPAT, COMPAT_CONTEXT
from amistream.errors import EXIT_STATUSES
from amistream.request import BundleRequest, Option
from amistream.request.convert import ConvertRequest
from amistream.request.migrate import MigrateRequest
from amistream.settings import Settings, memory_ceiling
from amistream.states import TRANSITIONS, State
from amistream.values import GIB, KIB, MIB

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # a script does not find its neighbours
from config import api_page, errors_page, manpages  # noqa: E402
from config.commands_page import commands_page  # noqa: E402
from config.markdown import cell, table  # noqa: E402

CONFIG = ROOT / "config" / "amistream.toml"
WIDTH = 120
UNITS = (("GiB", GIB), ("MiB", MIB), ("KiB", KIB))
SECTIONS = {
    "socket": "The daemon",
    "queue_url": "The queue of many hosts",
    "prefix": "The bundle",
    "account": "Identity",
    "region": "AWS",
    "upload_concurrency": "Upload",
    "register_timeout_s": "Registration",
}
"""The sections of the file, by their first settings."""

HEAD = """\
# Settings of amistream. Install as /etc/amistream/amistream.toml, or specify another file with --config or
# AMISTREAM_CONFIG. Made by config/generate.py from service/amistream/settings/model.py.
#
# Order: command-line options, then AMISTREAM_* variables (AMISTREAM_PART_SIZE=20MiB), then this file, then the
# defaults. Every setting is here with its default, commented out. A name that ends in _s is in seconds. A size is a
# number of bytes or text: "512KiB", "10MiB", "1GiB". A misspelt name is an error.
#
# Each comment ends with the origin of the default: measured, an AWS limit, a guess, or a choice. AWS credentials are
# no settings: they come from the SDK's chain (instance role, profile, AWS_* variables).
"""
MEMORY = """
#
# One job's process stays below
#
#     130 MiB + workers * (3 * block_size + 128 KiB) + (upload_concurrency + 2) * part_size
#
# whatever the volume's size: {ceiling} MiB with these defaults on 2 cores. Each additional concurrent job needs the
# same amount without the 130 MiB.
"""
TABLE = re.compile(r"(<!-- options of (\w+): config/generate\.py -->\n).*?(<!-- end of options -->)", re.DOTALL)
COMPLETED = {"--state": [*State, "unfinished"], "NAME": known_names()}
"""Values of options and arguments that their placeholders do not show."""
MODELS: dict[str, type[BaseModel]] = {
    "bundle": BundleRequest,
    "convert": ConvertRequest,
    "migrate": MigrateRequest,
}
ELSEWHERE = {
    "bundle": "options.md#options-of-bundle",
    "convert": "options.md#options-of-convert",
    "doctor": "options.md#options-of-bundle",
    "migrate": "options.md#options-of-migrate",
}
"""Pages with the options of a command, and their defaults."""
EVERY = """\
| `--every`, `--jobs` `N` | each bundle of a bucket that has no AMI on EBS yet, N jobs at a time | `max_jobs` |
"""
CHECKED = """\
| `--dry-run` | only run the checks and [estimate the job](checks.md#a-plan-before-a-job) | |
| `--in-process`, `--detach` | run the job without the daemon; do not wait for its end | |
| `-q` `--quiet`, `-v` `--verbose`, `--no-progress` | less or [more output](jobs.md#output) | |
"""
DETACHED = """\
| `--detach` | have the daemon do it as a job, and do not wait for its end | |
| `-q` `--quiet`, `--no-progress` | less output | |
"""
OTHERS = """\
| `--config`, `--json` | settings file; result as JSON: in every command | |
| `--socket` | the daemon's socket: in every command on jobs, and `doctor` | |
"""
ROWS = {"bundle": CHECKED, "convert": EVERY + CHECKED, "migrate": DETACHED}
"""The options of commands that are no fields of a request."""
DEFAULTS: dict[tuple[type[BaseModel], str], str] = {(MigrateRequest, "architecture"): "that of the manifest"}
"""Defaults that are not those of the settings."""


def config_text() -> str:
    """Format every setting with its comment."""
    blocks = [HEAD]
    for name, field in Settings.model_fields.items():
        if name in SECTIONS:
            blocks.append(_rule(SECTIONS[name]))
        comment = textwrap.wrap(field.description or "", WIDTH - 2, break_on_hyphens=False, break_long_words=False)
        lines = [f"# {line}" for line in comment]
        blocks.append("\n".join([*lines, f"#{name} = {_shown(field)}"]) + "\n")
    defaults = Settings.model_construct()
    ceiling = memory_ceiling(
        workers=2,
        block_size=defaults.block_size,
        part_size=defaults.part_size,
        upload_concurrency=defaults.upload_concurrency,
    )
    return "\n".join(blocks) + "\n" + _rule("Memory").rstrip("\n") + MEMORY.format(ceiling=ceiling // MIB)


def option_table(command: str) -> str:
    """Format the options of a command as a table in Markdown."""
    model = MODELS[command]
    rows = []
    for name, field in model.model_fields.items():
        option = next((each for each in field.metadata if isinstance(each, Option)), None)
        if option is None or not option.names.startswith("-"):
            continue
        names = ", ".join(f"`{each}`" for each in re.split("[ /]", option.names))
        values = f" `{option.metavar}`" if option.metavar else ""
        rows.append((cell(names + values), cell(field.description or ""), _default(model, name)))
    return table(("option", "meaning", "default"), rows) + ROWS[command] + OTHERS


def _default(model: type[BaseModel], name: str) -> str:
    if model.model_fields[name].is_required():
        return "required"
    if (model, name) in DEFAULTS:
        return DEFAULTS[model, name]
    field = Settings.model_fields.get(name, model.model_fields[name])
    value = field.get_default(call_default_factory=True)
    if isinstance(value, tuple):
        value = ",".join(value)
    return f"`{str(_toml(value)).strip(chr(34))}`" if value or type(value) is int else ""


def _shown(field: FieldInfo) -> str:
    """The default of a setting, or an example where it has none."""
    return _toml(field.examples[0] if field.examples else field.get_default(call_default_factory=True))


def _rule(title: str) -> str:
    return f"# ---- {title} ".ljust(WIDTH, "-") + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, ByteSize):
        unit, scale = next(each for each in UNITS if value % each[1] == 0)
        return f'"{value // scale}{unit}"'
    if isinstance(value, str | Path):
        return f'"{value}"'
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return str(value)


def command_pages() -> dict[str, list[CommandPage]]:
    """The pages of all commands, those below others behind them, by group."""
    add_command(*COMPAT, **COMPAT_CONTEXT)
    groups = {**GROUPS, "As the older tools": COMPAT[:1]}
    return {
        title: [page for name in names for page in _pages(load_command(name), name)] for title, names in groups.items()
    }


def _pages(command: Any, name: str) -> Iterator[CommandPage]:
    yield page_of(command, f"amistream {name}")
    for own, each in getattr(command, "commands", {}).items():
        yield from _pages(each, f"{name} {own}")


def commands_text() -> str:
    """Format the commands as `amistream.cli.quick` reads them."""
    lines = [f"\t{paragraph}" for paragraph in about()]
    for title, pages in command_pages().items():
        lines += [title, *map(_row, pages)]
    return "\n".join(lines) + "\n"


def _row(page: CommandPage) -> str:
    """A command with its flags, its options that take a value, and its argument, each with the values it can have."""
    name = page.name.removeprefix("amistream ")
    if page.commands:
        return f"{name}\t{page.summary}"
    flags = sorted({"--help", *(each for entry in page.options if not entry.value for each in entry.names)})
    valued = sorted(
        f"{each}{_values(entry.names, entry.value)}" for entry in page.options if entry.value for each in entry.names
    )
    argument = re.sub(r"^\[(.*)\]\.*$", r"\1", page.arguments[0].value) if page.arguments else ""
    return "\t".join((name, page.summary, " ".join(flags), " ".join(valued), argument + _values((argument,), argument)))


def _values(names: tuple[str, ...], placeholder: str) -> str:
    """The words that a value can be, behind an equals sign; '' where it is free text or a file."""
    words = COMPLETED.get(names[-1], [each for part in placeholder.split("|") for each in part.split(",")])
    found = [each for each in words if re.fullmatch("[a-z][a-z0-9_-]*", each)]
    return f"={','.join(found)}" if found else ""


def manual_pages() -> dict[str, str]:
    """Format the manual pages, by the names of their files."""
    made = datetime.fromtimestamp(int(os.environ.get("SOURCE_DATE_EPOCH") or datetime.now(UTC).timestamp()), UTC)
    edition = manpages.Edition(__version__, f"{made:%Y-%m-%d}")
    groups = command_pages()
    statuses = {str(status): meaning for status, meaning in EXIT_STATUSES.items()}
    sections: dict[str, list[tuple[str, str, str]]] = {}
    for name, field in Settings.model_fields.items():
        title = SECTIONS.get(name) or next(reversed(sections))
        sections.setdefault(title, []).append((name, _shown(field), field.description or ""))
    about_file = re.sub(r"^# ?", "", HEAD, flags=re.MULTILINE).partition("\n\n")[2]
    return {
        "amistream.1": manpages.start_page(edition, about(), groups, statuses),
        **{
            f"{page.name.replace(' ', '-')}.1": manpages.command_page(edition, page)
            for pages in groups.values()
            for page in pages
        },
        "amistreamd.8": manpages.daemon_page(edition, _parser()),
        "amistream.toml.5": manpages.settings_page(
            edition, "\n\n".join(" ".join(each.split()) for each in about_file.split("\n\n")), sections
        ),
    }


def settings_tables() -> str:
    """Format every setting as tables in Markdown, one for each section."""
    sections: dict[str, list[tuple[str, str, str]]] = {}
    for name, field in Settings.model_fields.items():
        title = SECTIONS.get(name) or next(reversed(sections))
        row = (f"`{name}`", cell(field.description or ""), f"`{_shown(field)}`")
        sections.setdefault(title, []).append(row)
    head = ("setting", "meaning", "default or example")
    return "\n" + "\n".join(f"### {title}\n\n{table(head, rows)}" for title, rows in sections.items()) + "\n"


def state_diagram() -> str:
    """Draw the states of a job as Mermaid has them; those of a job that is cut short are one there."""
    cut_short = {State.CANCELLED, State.FAILED, State.INTERRUPTED}
    lines = ["```mermaid", "stateDiagram-v2", "    [*] --> queued"]
    for state, following in TRANSITIONS.items():
        lines += [f"    {state.value} --> {each.value}" for each in State if each in following - cut_short]
    ended = [state.value for state in State if state.ended and state not in cut_short]
    return "\n".join([*lines, *(f"    {each} --> [*]" for each in ended), "```"]) + "\n"


def documents() -> dict[Path, str]:
    """Make the text of every document, as it should be."""
    made = {CONFIG: config_text(), Path(COMMANDS_FILE): commands_text()}
    made[ROOT / "docs" / "commands.md"] = commands_page(command_pages(), ELSEWHERE)
    for path in (ROOT / "docs").glob("*.md"):
        text = path.read_text()
        filled = TABLE.sub(lambda found: f"{found[1]}{option_table(found[2])}{found[3]}", text)
        filled = PART.sub(lambda found: f"{found[1]}{PARTS[found[2]]()}{found[3]}", filled)
        if TABLE.search(text) or PART.search(text):
            made[path] = filled
    return made


PARTS = {
    "settings": settings_tables,
    "states": state_diagram,
    "statuses": errors_page.statuses_table,
    "errors": errors_page.codes_table,
    "AWS errors": errors_page.aws_table,
    "permissions": errors_page.needs_table,
    "requests": api_page.requests_table,
    "parameters": api_page.parameters_table,
    "fields": api_page.fields_table,
    "documents": api_page.documents_tables,
}
"""The parts of pages that are made here, beside the tables of options."""
PART = re.compile(rf"(<!-- ({'|'.join(PARTS)}): config/generate\.py -->\n).*?(<!-- end of \2 -->)", re.DOTALL)


def main() -> int:
    if sys.argv[1:2] == ["--man"]:
        directory = Path(sys.argv[2])
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in manual_pages().items():
            (directory / name).write_text(text)
        return 0
    different = {path: text for path, text in documents().items() if not path.exists() or path.read_text() != text}
    for path, text in different.items():
        print(path.name)
        if "--check" not in sys.argv:
            path.write_text(text)
    return 1 if different and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
