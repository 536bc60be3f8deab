"""Completion of words in bash, zsh and fish: the shells' scripts, and the answers to them.

A script puts the words of the line into COMP_WORDS, one a line, and the place of the cursor's word into COMP_CWORD. No
answer leaves the word to the shell, which then completes files.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

_OWN_FLAGS = ("--version", "--help")
_PATIENCE_S = 0.5
"""Longest wait for the daemon, of which a shell's user notices nothing yet."""
_MOST_JOBS = 100

_BASH = """\
# Completion of amistream for bash.
_amistream() {
    local IFS=$'\\n'
    COMPREPLY=($(COMP_WORDS="$(printf '%s\\n' "${COMP_WORDS[@]}")" COMP_CWORD=$COMP_CWORD \\
        _AMISTREAM_COMPLETE=bash "$1" 2>/dev/null))
}
complete -o default -F _amistream amistream
"""
_ZSH = """\
#compdef amistream
# Completion of amistream for zsh: a file _amistream in a directory of fpath, or sourced after compinit.
_amistream() {
    local -a found
    found=("${(@f)$(COMP_WORDS="${(F)words}" COMP_CWORD=$((CURRENT - 1)) _AMISTREAM_COMPLETE=zsh "${words[1]}" \\
        2>/dev/null)}")
    if [[ -n "${found[1]}" ]]; then _describe -V amistream found; else _files; fi
}
if [[ "${funcstack[1]}" == _amistream ]]; then _amistream "$@"; else compdef _amistream amistream; fi
"""
_FISH = """\
# Completion of amistream for fish.
function __amistream_complete
    set -l line (commandline -opc) (commandline -ct)
    set -l found (COMP_WORDS=(string join \\n -- $line | string collect) COMP_CWORD=(math (count $line) - 1) \\
        _AMISTREAM_COMPLETE=fish $line[1] 2>/dev/null)
    if test (count $found) -gt 0
        printf '%s\\n' $found
    else
        __fish_complete_path (commandline -ct)
    end
end
complete -c amistream -f -a '(__amistream_complete)'
"""
SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}
"""Each shell's script, for its file of completions."""


def completed(shell: str, rows: list[list[str]]) -> str:
    """The answer to the script of a shell; `rows` are those of `commands.txt`."""
    words = os.environ.get("COMP_WORDS", "").split("\n")
    number = os.environ.get("COMP_CWORD", "")
    at = int(number) if number.isdecimal() else len(words) - 1
    begun = words[at] if at < len(words) else ""
    # bash breaks --option=value at the sign.
    begun = "" if begun == "=" else begun
    found = [each for each in _choices(words[1:at], begun, rows) if each[0].startswith(begun)]
    if shell == "zsh":
        return "".join(f"{word.replace(':', chr(92) + ':')}{f':{about}' if about else ''}\n" for word, about in found)
    if shell == "fish":
        return "".join(f"{word}\t{about}\n" if about else f"{word}\n" for word, about in found)
    return "".join(f"{word}\n" for word, _ in found)


def _choices(before: list[str], begun: str, rows: list[list[str]]) -> list[tuple[str, str]]:
    """The words that may follow those before, each with its meaning; none where a free value or a file comes."""
    commands = {name: rest for name, *rest in rows if name and rest}
    name = next((word for word in before if word in commands), "")
    below = [each.removeprefix(f"{name} ") for each in commands if name and each.startswith(f"{name} ")]
    if own := next((word for word in before if word in below), ""):
        name, below = f"{name} {own}", []
    if not name or below:
        if begun.startswith("-"):
            return [(each, "") for each in (_OWN_FLAGS if not name else ("--help",))]
        names = below or [each for each in commands if " " not in each]
        return [(each, commands[f"{name} {each}" if below else each][0]) for each in names]
    _, flags, valued, argument = commands[name]
    values = dict(each.partition("=")[::2] for each in valued.split())
    previous = before[-2:-1] if before[-1] == "=" else before[-1:]
    if previous and previous[0] in values:
        return [(each, "") for each in values[previous[0]].split(",") if each]
    if begun.startswith("-"):
        return [(each, "") for each in (*values, *flags.split()) if each.startswith("--")]
    kind, _, choices = argument.partition("=")
    return [*_job_ids(before)] if kind == "ID" else [(each, "") for each in choices.split(",") if each]


def _job_ids(before: list[str]) -> Iterator[tuple[str, str]]:
    """The ids of the daemon's newest jobs; none if it does not answer soon."""
    from json import loads
    from pathlib import Path

    from amistream.cli.daemon_socket import known_socket
    from amistream.cli.one_request import fetch
    from amistream.cli.output import visible
    from amistream.process import DEFAULT_CONFIG

    named = before[before.index("--socket") + 1 :][:1] if "--socket" in before else [os.environ.get("AMISTREAM_SOCKET")]
    config = os.environ.get("AMISTREAM_CONFIG")
    address = Path(named[0]) if named and named[0] else known_socket(Path(config) if config else DEFAULT_CONFIG)
    answer = fetch(address, f"/v1/jobs?limit={_MOST_JOBS}", within_s=_PATIENCE_S) if address else None
    try:
        for job in reversed(loads(answer or "{}").get("jobs", ())):
            # The shell puts the word into a command line, and the text on the terminal.
            if job["id"].replace("-", "").isalnum():
                yield job["id"], " ".join(visible(f"{job['state']}, {job['source']}").split())
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        # Another program's answer.
        return
