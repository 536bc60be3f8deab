"""The calls that load no command: the help of all of them, and the completion of words."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys

import pytest

from amistream.cli import quick
from cli.scripted import ScriptedDaemon, succeed

LOADED = """
import sys
from amistream import entry
sys.argv = {argv}
try:
    entry.client()
finally:
    print("loaded:", *sys.modules)
"""


def modules(*argv: str, **variables: str) -> set[str]:
    """The modules that a call of the command loads."""
    code = LOADED.format(argv=["amistream", *argv])
    environ = {"PATH": os.environ["PATH"], **variables}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environ)
    return {*done.stdout.partition("loaded:")[2].split()}


BASH = {"_AMISTREAM_COMPLETE": "complete_bash", "COMP_WORDS": "amistream jo", "COMP_CWORD": "1"}


@pytest.mark.parametrize(("argv", "variables"), [(["--version"], {}), (["--help"], {}), ([], BASH)])
def test_nothing_is_loaded(argv: list[str], variables: dict[str, str]) -> None:
    """Neither the version nor the help nor completion loads a command, or the library of commands."""
    found = modules(*argv, **variables)
    assert "amistream.cli.quick" in found
    assert found & {"typer", "inspect", "json", "pathlib", "amistream.errors", "amistream.cli.main"} == set()


async def test_a_question_loads_neither_commands_nor_models(daemon: ScriptedDaemon) -> None:
    """`jobs` and `status` load neither the library of commands nor models nor the libraries of streams."""
    succeed(job := daemon.add())
    for argv in (("jobs",), ("status", job.id)):
        found = await asyncio.to_thread(modules, *argv, AMISTREAM_SOCKET=str(daemon.socket))
        assert "amistream.cli.answers" in found
        heavy = {"typer", "rich", "pydantic", "aiohttp", "asyncio", "dataclasses", "amistream.events"}
        assert found & heavy == set()


def completed(monkeypatch: pytest.MonkeyPatch, shell: str, line: str) -> str | None:
    """The answer when a shell asks to complete the last word of a line."""
    words = line.split(" ")
    monkeypatch.setenv("_AMISTREAM_COMPLETE", f"complete_{shell}")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", line)
    return quick.answer([])


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("amistream re", ["resume", "register"]),
        ("amistream --v", ["--version"]),
        ("amistream bundle --all", ["--all", "--all-or-none", "--allow-unreadable"]),
        ("amistream bundle --compress --f", []),
        ("amistream bundle disk", []),
        ("amistream no-command --x", []),
    ],
)
def test_words_in_bash(line: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands and options are completed; a value and a file are left to the shell."""
    answer = completed(monkeypatch, "bash", line)
    assert answer is not None
    assert sorted(answer.split()) == sorted(words)


def test_words_in_other_shells(monkeypatch: pytest.MonkeyPatch) -> None:
    """Zsh and fish get the summary of each command, and zsh completes files where there is none."""
    assert str(completed(monkeypatch, "zsh", "amistream tun")).startswith("""_arguments '*: :(("tune":"Find the part""")
    assert completed(monkeypatch, "zsh", "amistream bundle disk") == "_files\n"
    monkeypatch.setenv("_TYPER_COMPLETE_FISH_ACTION", "get-args")
    assert str(completed(monkeypatch, "fish", "amistream tun")).startswith("tune\tFind the part size")
    monkeypatch.setenv("_TYPER_COMPLETE_FISH_ACTION", "is-args")
    for line, status in (("amistream tun", 0), ("amistream bundle disk", 1)):
        with pytest.raises(SystemExit) as ended:
            completed(monkeypatch, "fish", line)
        assert ended.value.code == status
    assert completed(monkeypatch, "powershell", "amistream tun") is None


@pytest.mark.parametrize("width", [40, 80, 100])
def test_the_help_fits_its_terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines are as wide as the terminal at most, and no word is lost."""
    monkeypatch.setenv("COLUMNS", str(width))
    text = quick.help_text()
    lines = text.partition("\nOptions:")[0].splitlines()
    assert max(map(len, lines)) <= width
    monkeypatch.setenv("COLUMNS", "1000")
    assert quick.help_text().split() == text.split()
