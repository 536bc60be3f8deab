"""`config/amistream.toml` and `Settings` say the same.

In the file, `#name = value` is a setting and the lines above it, which begin with `# `, are its comment.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from amistream.settings import Settings, default_state_dir, load, memory_ceiling
from amistream.values import MIB

CONFIG = Path(__file__).parents[2] / "config" / "amistream.toml"
SETTING = re.compile(r"^#(?P<name>[a-z0-9_]+) = (?P<value>.*)$")
ORIGINS = ("Measured", "AWS limit", "Guess", "Choice")
WITHOUT_DEFAULT = {"workers", "memory_limit", "limit_upload", "certificate", "private_key"}


@dataclass(frozen=True)
class Entry:
    """A setting in the file: its value and the comment above it."""

    value: Any
    comment: str


def read_entries() -> dict[str, Entry]:
    entries: dict[str, Entry] = {}
    comment: list[str] = []
    for line in CONFIG.read_text().splitlines():
        if found := SETTING.match(line):
            value = tomllib.loads(line.removeprefix("#"))[found["name"]]
            entries[found["name"]] = Entry(value, " ".join(comment))
        elif line.startswith("# "):
            comment.append(line.removeprefix("# "))
        else:
            comment = []
    return entries


ENTRIES = read_entries()


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"AMISTREAM_{name.upper()}", raising=False)


def test_the_file_has_every_setting_in_the_order_of_the_code() -> None:
    """No setting is missing, misspelt, gone, or out of its place."""
    assert list(ENTRIES) == list(Settings.model_fields)


def test_the_file_as_shipped_changes_nothing() -> None:
    """Every setting in it is commented out."""
    assert load(CONFIG) == Settings()


def test_uncommented_defaults_are_the_defaults(tmp_path: Path) -> None:
    """Taking the comment sign away from every default gives the same settings again."""
    lines = CONFIG.read_text().splitlines()
    uncommented = [
        line.removeprefix("#") if (found := SETTING.match(line)) and found["name"] not in WITHOUT_DEFAULT else line
        for line in lines
    ]
    path = tmp_path / "amistream.toml"
    path.write_text("\n".join(uncommented))
    # The state directory is the one default that depends on who asks; the file shows root's.
    expected = Settings().model_copy(update={"state_dir": Path("/var/lib/amistream")})
    assert load(path) == expected


def test_settings_without_a_fixed_default_say_so() -> None:
    """Where the code has no value to show, the file shows an example and what happens without one."""
    fields = Settings.model_fields
    assert {name for name, field in fields.items() if field.default is None} == WITHOUT_DEFAULT
    for name in WITHOUT_DEFAULT - {"private_key"}:
        assert "Default: " in ENTRIES[name].comment, name
    examples = {name: ENTRIES[name].value for name in WITHOUT_DEFAULT}
    assert Settings(**examples).workers == examples["workers"]


def test_the_file_shows_the_state_directory_of_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the file calls root's state directory is what root gets."""
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert str(default_state_dir()) == ENTRIES["state_dir"].value


@pytest.mark.parametrize("name", sorted(set(ENTRIES) - {"private_key"}))
def test_every_setting_says_where_its_default_comes_from(name: str) -> None:
    """A comment names an origin, and it is the one that the code names."""
    comment, described = ENTRIES[name].comment, Settings.model_fields[name].description or ""
    assert any(origin in comment for origin in ORIGINS), comment
    for origin in ORIGINS:
        if origin in described:
            assert origin in comment, described
    if "default: " in described:
        assert "Default: " in comment or "Empty: " in comment or "default is" in comment, described


@pytest.mark.parametrize("name", [name for name in ENTRIES if name.endswith("_s")])
def test_a_duration_says_its_unit(name: str) -> None:
    """A setting whose name ends in _s is in seconds by its comment too."""
    assert ENTRIES[name].comment.startswith("Seconds")


@pytest.mark.parametrize(
    "name", [name for name, entry in ENTRIES.items() if str(entry.value).endswith("iB") and name not in WITHOUT_DEFAULT]
)
def test_a_size_is_written_with_its_unit(name: str) -> None:
    """Sizes are shown as people write them and read back as bytes."""
    assert getattr(Settings(**{name: ENTRIES[name].value}), name) == Settings.model_fields[name].default


def test_choices_are_all_listed() -> None:
    """A setting with a fixed set of words lists each of them in its comment."""
    for name, field in Settings.model_fields.items():
        words = [str(word) for word in getattr(field.annotation, "__members__", {}).values()]
        for constraint in field.metadata:
            pattern = getattr(constraint, "pattern", None) or ""
            words += re.findall(r"(?<=[(|])[a-z0-9_]{2,}(?=[|)])", pattern)
        for word in words:
            assert f'"{word}"' in ENTRIES[name].comment, name


def test_the_memory_figure_is_the_formulas() -> None:
    """The ceiling that the file promises for two cores is what the formula gives."""
    defaults = Settings()
    ceiling = memory_ceiling(
        workers=2,
        block_size=int(defaults.block_size),
        part_size=int(defaults.part_size),
        upload_concurrency=defaults.upload_concurrency,
    )
    assert f"size: {ceiling // MIB} MiB with these defaults on 2 cores" in CONFIG.read_text()
