"""The calls that load no command: the help of all of them, and the completion of words."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from amistream.cli import quick
from cli.scripted import ScriptedDaemon, begin, succeed

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


BASH = {"_AMISTREAM_COMPLETE": "bash", "COMP_WORDS": "amistream\njo", "COMP_CWORD": "1"}


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
    monkeypatch.setenv("_AMISTREAM_COMPLETE", shell)
    monkeypatch.setenv("COMP_WORDS", "\n".join(words))
    monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
    return quick.answer([])


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("amistream re", "resume register"),
        ("amistream --v", "--version"),
        ("amistream bundle --all", "--all --all-or-none --allow-unreadable"),
        ("amistream bundle --compress f", "fast"),
        ("amistream bundle --compress = s", "small"),
        ("amistream bundle --compress =", "fast balanced small auto"),
        ("amistream bundle --virtualization ", "hvm paravirtual"),
        ("amistream bundle --acl p", "public-read private"),
        ("amistream jobs --state uns", ""),
        ("amistream jobs --state unf", "unfinished"),
        ("amistream bundle --to --f", ""),
        ("amistream bundle disk", ""),
        ("amistream no-command --x", ""),
        ("amistream fleet re", "results redrive"),
        ("amistream fleet submit --ki", "--kind"),
        ("amistream completion z", "zsh"),
        ("amistream compat euca", "euca-bundle-and-upload-image"),
        ("amistream status 2", ""),
    ],
)
def test_words_in_bash(line: str, words: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Commands, options and their values are completed; free text and files are left to the shell."""
    monkeypatch.setenv("AMISTREAM_SOCKET", str(tmp_path / "none"))
    assert sorted(str(completed(monkeypatch, "bash", line)).split()) == sorted(words.split())


def test_words_in_other_shells(monkeypatch: pytest.MonkeyPatch) -> None:
    """Zsh and fish get the summary of each command."""
    assert str(completed(monkeypatch, "zsh", "amistream tun")).startswith("tune:Find the part size")
    assert str(completed(monkeypatch, "fish", "amistream tun")).startswith("tune\tFind the part size")
    assert completed(monkeypatch, "zsh", "amistream bundle disk") == ""


async def test_ids_of_jobs(daemon: ScriptedDaemon, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The ids of the daemon's jobs are completed; a daemon that answers nonsense, or not at all, is no error."""
    succeed(first := daemon.add())
    begin(second := daemon.add())
    monkeypatch.setenv("AMISTREAM_SOCKET", str(daemon.socket))
    answer = await asyncio.to_thread(completed, monkeypatch, "bash", "amistream status ")
    assert answer == f"{second.id}\n{first.id}\n"
    answer = await asyncio.to_thread(completed, monkeypatch, "fish", f"amistream cancel {second.id[:-1]}")
    assert answer == f"{second.id}\tbundling, /dev/xvda\n"
    for daemon.garbage in (b'{"jobs": [3]}', b"[" * 10_000, b'{"jobs": [{"id": "$(id)", "state": "", "source": ""}]}'):
        assert await asyncio.to_thread(completed, monkeypatch, "bash", "amistream watch ") == ""
    daemon.garbage = b'{"jobs": [{"id": "a", "state": "done", "source": "/a\\u001b[2J\\nb"}]}'
    assert await asyncio.to_thread(completed, monkeypatch, "fish", "amistream watch ") == "a\tdone, /a\\u001b[2J b\n"
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(daemon.socket.with_name("silent")))
        silent.listen()
        monkeypatch.setattr("amistream.cli.completion._PATIENCE_S", 0.05)
        line = f"amistream watch --socket {daemon.socket.with_name('silent')} "
        assert await asyncio.to_thread(completed, monkeypatch, "bash", line) == ""


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts(shell: str) -> None:
    """Each shell takes its script, and bash completes by it; a shell that is not installed is left out."""
    script = quick.answer(["completion", shell])
    assert script is not None
    if path := shutil.which(shell):
        subprocess.run([path, "-n"], input=script, text=True, check=True, capture_output=True)
    if shell == "bash":
        line = "COMP_WORDS=(amistream bundle --compress s) COMP_CWORD=3; _amistream amistream; echo ${COMPREPLY[*]}"
        given = f"PATH={Path(sys.executable).parent}:$PATH\n{script}\n{line}"
        done = subprocess.run(["bash"], input=given, text=True, check=True, capture_output=True)
        assert done.stdout == "small\n"


@pytest.mark.parametrize("width", [40, 80, 100])
def test_the_help_fits_its_terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines are as wide as the terminal at most, and no word is lost."""
    monkeypatch.setenv("COLUMNS", str(width))
    text = quick.help_text()
    lines = text.partition("\nOptions:")[0].splitlines()
    assert max(map(len, lines)) <= width
    monkeypatch.setenv("COLUMNS", "1000")
    assert quick.help_text().split() == text.split()
