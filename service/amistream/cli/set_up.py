"""The steps of `init`: each finds whether it is done, and does it. Nothing that is there is changed without `force`.

Done again, the same steps change nothing. Calls block.
"""

from __future__ import annotations

import grp
import os
import shutil
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from amistream.errors import RefusedError
from amistream.host.new_file import NewFile
from amistream.keys import CERTIFICATE_FILE, PRIVATE_KEY_FILE, own_identity
from amistream.shipped import shipped

_UNIT_FOLDERS = ("usr/lib/systemd/system", "lib/systemd/system")
"""Of packages, below the root; our own units come into etc/systemd/system."""


class State(StrEnum):
    """The finding of a step."""

    MISSING = "make"
    THERE = "ok"
    DIFFERS = "differs"
    LACKING = "missing"
    """It cannot be made here."""


class Step(ABC):
    """One thing that `init` makes."""

    about: str
    fix = ""
    """Words for what a person has to do."""

    @abstractmethod
    def look(self) -> State: ...

    @abstractmethod
    def make(self) -> None:
        """Make it, in place of what is there. Raises `RefusedError`."""


@dataclass(frozen=True, kw_only=True)
class MakeFile(Step):
    """A file with this content. Directories above it are made; `own_mode` is that of the nearest.

    A file that has the content `untouched` counts as missing: a package left it there, and nobody has changed it.
    """

    about: str
    path: Path
    content: bytes
    mode: int = 0o644
    own_mode: int = 0o755
    untouched: bytes | None = None

    def look(self) -> State:
        try:
            found = self.path.read_bytes()
            if found != self.content and found == self.untouched:
                return State.MISSING
            return State.THERE if found == self.content else State.DIFFERS
        except FileNotFoundError:
            return State.MISSING
        except OSError:
            return State.DIFFERS

    def make(self) -> None:
        try:
            self.path.parent.mkdir(mode=self.own_mode, parents=True, exist_ok=True)
            with NewFile(self.path, mode=self.mode) as file:
                file.write(self.content)
                os.fchmod(file.descriptor, self.mode)
                file.replace()
        except OSError as error:
            raise RefusedError(
                "init.failed",
                f"cannot write {self.path}: {error.strerror}",
                hint="run it as root, or give --user for a set-up of your own",
            ) from error


@dataclass(frozen=True, kw_only=True)
class MakeKeys(Step):
    """The key pair in the state directory. A pair that is there is never replaced: older bundles need it."""

    about: str
    state_dir: Path

    def look(self) -> State:
        both = all((self.state_dir / name).exists() for name in (CERTIFICATE_FILE, PRIVATE_KEY_FILE))
        return State.THERE if both else State.MISSING

    def make(self) -> None:
        own_identity(self.state_dir)


@dataclass(frozen=True, kw_only=True)
class MakeGroup(Step):
    """A group of the system, whose members may use the daemon."""

    about: str
    name: str

    def look(self) -> State:
        try:
            grp.getgrnam(self.name)
        except KeyError:
            return State.MISSING
        return State.THERE

    def make(self) -> None:
        done = subprocess.run(
            ["groupadd", "--system", self.name],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RefusedError(
                "init.failed",
                f"cannot make the group {self.name}: {done.stderr.strip() or f'groupadd ended with {done.returncode}'}",
                hint="make it by hand, then run the command again",
            )


@dataclass(frozen=True, kw_only=True)
class Found(Step):
    """Something that is there."""

    about: str

    def look(self) -> State:
        return State.THERE

    def make(self) -> None:
        """Make nothing."""


@dataclass(frozen=True, kw_only=True)
class Missing(Step):
    """Something that only a person can get."""

    about: str
    fix: str

    def look(self) -> State:
        return State.LACKING

    def make(self) -> None:
        """Make nothing."""


def configured(values: Mapping[str, str]) -> bytes:
    """The template of the configuration with these settings, whose values are TOML."""
    lines = shipped("amistream.toml").read_text().splitlines()
    for name, value in values.items():
        place = next(number for number, line in enumerate(lines) if line.startswith(f"#{name} = "))
        lines[place] = f"{name} = {value}"
    return ("\n".join(lines) + "\n").encode()


def units(root: Path, group: str) -> Iterator[Step]:
    """The units of systemd, unless a package has installed them; and the group of the socket."""
    for name in ("amistream.service", "amistream.socket"):
        if not any((root / folder / name).exists() for folder in _UNIT_FOLDERS):
            text = shipped(name).read_text().replace("/usr/bin/amistreamd", str(_program()))
            yield MakeFile(
                about=f"the unit {name}", path=root / "etc/systemd/system" / name, content=text.encode(), mode=0o644
            )
    if group:
        drop_in = root / "etc/systemd/system/amistream.socket.d/group.conf"
        yield MakeFile(
            about=f"the socket's group {group}", path=drop_in, content=f"[Socket]\nSocketGroup={group}\n".encode()
        )


def _program() -> Path:
    """The daemon of this installation."""
    beside = Path(sys.argv[0]).absolute().with_name("amistreamd")
    return beside if beside.exists() else Path(shutil.which("amistreamd") or "/usr/bin/amistreamd")


def carry_out(steps: Sequence[Step], *, force: bool, dry_run: bool) -> Iterator[tuple[Step, str]]:
    """Do each step that is needed, and tell what became of it. Raises `RefusedError`."""
    for step in steps:
        state = step.look()
        if state in (State.THERE, State.LACKING):
            yield step, state.value
        elif state is State.DIFFERS and not force:
            yield step, "kept"
        else:
            verb = "replace" if state is State.DIFFERS else "make"
            if not dry_run:
                step.make()
            yield step, f"would {verb}" if dry_run else {"make": "made", "replace": "replaced"}[verb]
