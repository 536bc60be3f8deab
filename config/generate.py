"""Writes the documents that come from the models: `config/amistream.toml`, the option tables, the list of commands.

python config/generate.py            # write them
python config/generate.py --check    # exit status 1 if one of them differs
"""

from __future__ import annotations

import re
import sys
import textwrap
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ByteSize

from amistream.cli.command_page import page_of
from amistream.cli.main import GROUPS, about, add_command, load_command
from amistream.cli.quick import COMMANDS_FILE
from amistream.compat.tables import known_names
from amistream.entry import COMPAT, COMPAT_CONTEXT
from amistream.request import BundleRequest, ConvertRequest, Option
from amistream.settings import Settings, memory_ceiling
from amistream.states import State
from amistream.values import GIB, KIB, MIB

ROOT = Path(__file__).parents[1]
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
# AMISTREAM_CONFIG. Made by config/generate.py from service/amistream/settings.py.
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
MODELS: dict[str, type[BaseModel]] = {"bundle": BundleRequest, "convert": ConvertRequest}
EVERY = """\
| `--every`, `--jobs` `N` | each bundle of a bucket that has no AMI on EBS yet, N jobs at a time | `max_jobs` |
"""
OTHERS = """\
| `--dry-run` | only run the checks and [estimate the job](checks.md#a-plan-before-a-job) | |
| `--in-process`, `--detach` | run the job without the daemon; do not wait for its end | |
| `--config`, `--json` | settings file; result as JSON: in every command | |
| `-q` `--quiet`, `-v` `--verbose`, `--no-progress` | less or [more output](jobs.md#follow-and-cancel) | |
| `--socket` | the daemon's socket: in every command on jobs, and `doctor` | |
"""


def config_text() -> str:
    """Format every setting with its comment."""
    blocks = [HEAD]
    for name, field in Settings.model_fields.items():
        if name in SECTIONS:
            blocks.append(_rule(SECTIONS[name]))
        comment = textwrap.wrap(field.description or "", WIDTH - 2, break_on_hyphens=False, break_long_words=False)
        lines = [f"# {line}" for line in comment]
        value = field.examples[0] if field.examples else field.get_default(call_default_factory=True)
        blocks.append("\n".join([*lines, f"#{name} = {_toml(value)}"]) + "\n")
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
    lines = ["| option | meaning | default |", "|---|---|---|"]
    for name, field in model.model_fields.items():
        option = next((each for each in field.metadata if isinstance(each, Option)), None)
        if option is None or not option.names.startswith("-"):
            continue
        names = ", ".join(f"`{each}`" for each in re.split("[ /]", option.names))
        values = f" `{option.metavar}`" if option.metavar else ""
        meaning = (field.description or "").replace("|", "\\|")
        lines.append(f"| {names}{values.replace('|', chr(92) + '|')} | {meaning} | {_default(model, name)} |")
    return "\n".join(lines) + "\n" + (EVERY if command == "convert" else "") + OTHERS


def _default(model: type[BaseModel], name: str) -> str:
    field = Settings.model_fields.get(name, model.model_fields[name])
    value = None if field.is_required() else field.get_default(call_default_factory=True)
    if field.is_required():
        return "required"
    if isinstance(value, tuple):
        value = ",".join(value)
    return f"`{str(_toml(value)).strip(chr(34))}`" if value or type(value) is int else ""


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


def commands_text() -> str:
    """Format the commands as `amistream.cli.quick` reads them."""
    lines = [f"\t{paragraph}" for paragraph in about()]
    add_command(*COMPAT, **COMPAT_CONTEXT)
    for title, names in {**GROUPS, "As the older tools": COMPAT[:1]}.items():
        lines.append(title)
        for name in names:
            command = load_command(name)
            below = getattr(command, "commands", {})
            lines.append(f"{name}\t{page_of(command, name).summary}" if below else _row(command, name))
            lines += [_row(each, f"{name} {own}") for own, each in below.items()]
    return "\n".join(lines) + "\n"


def _row(command: Any, name: str) -> str:
    """A command with its flags, its options that take a value, and its argument, each with the values it can have."""
    page = page_of(command, name)
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


def documents() -> dict[Path, str]:
    """Make the text of every document, as it should be."""
    made = {CONFIG: config_text(), Path(COMMANDS_FILE): commands_text()}
    for path in (ROOT / "docs").glob("*.md"):
        text = path.read_text()
        if TABLE.search(text):
            made[path] = TABLE.sub(lambda found: f"{found[1]}{option_table(found[2])}{found[3]}", text)
    return made


def main() -> int:
    different = [path for path, text in documents().items() if not path.exists() or path.read_text() != text]
    for path in different:
        print(path.name)
        if "--check" not in sys.argv:
            path.write_text(documents()[path])
    return 1 if different and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
