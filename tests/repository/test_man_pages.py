"""The manual pages, which packages install."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from amistream.settings import Settings
from config.generate import command_pages, manual_pages


def test_every_command_has_a_page(tmp_path: Path) -> None:
    """The pages of all commands, of the daemon and of its settings have every option, and mandoc finds no fault."""
    pages = manual_pages()
    commands = [page for pages in command_pages().values() for page in pages]
    named = {f"{page.name.replace(' ', '-')}.1" for page in commands}
    assert named | {"amistream.1", "amistreamd.8", "amistream.toml.5"} == {*pages}
    for name, text in pages.items():
        (tmp_path / name).write_text(text)
    lint = ["mandoc", "-T", "lint", "-W", "warning", *map(str, sorted(tmp_path.iterdir()))]
    done = subprocess.run(lint, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    shown = subprocess.run(
        ["mandoc", "-T", "ascii", "-O", "width=1000", *(tmp_path / each for each in sorted(named))],
        capture_output=True,
        text=True,
        check=True,
    )
    text = re.sub(".\b", "", shown.stdout)
    for page in commands:
        assert [entry.term for entry in page.options if f"\n       {entry.term}" not in text] == []
        assert [each for each in page.examples if each not in text] == []
        assert page.examples
    assert [name for name in Settings.model_fields if f"\\fB{name}\\fR" not in pages["amistream.toml.5"]] == []
