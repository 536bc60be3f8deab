"""Selects what of a tree comes into the image, and says by which rule the rest does not. Pure.

In order: the job's own files never come in; what `include` names comes in; `exclude`, the categories of `clean`, and
the rules for every system leave out. A directory that is left out goes with all that it holds, so `include` has to name
the directories above a file that an outer rule leaves out, as with rsync.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from amistream.source.tree.patterns import Patterns
from amistream.source.tree.secrets import LARGEST, SMALLEST, private_key_in

SECRETS, HISTORY = "secrets", "history"
CATEGORIES = (SECRETS, HISTORY)

ALWAYS = ("/dev/*", "/proc/*", "/sys/*", "/run/*", "/mnt/*", "/media/*", "/tmp/*", "/var/tmp/*")  # noqa: S108 - names
"""The contents of these directories do not last, or are other disks; the directories stay."""

_NAMES: Mapping[str, Sequence[str]] = {
    SECRETS: (
        ".ssh/authorized_keys",
        ".ssh/authorized_keys2",
        ".aws/credentials",
        ".aws/cli/cache/",
        ".aws/sso/cache/",
        ".git-credentials",
        ".netrc",
        ".pgpass",
    ),
    HISTORY: (
        ".bash_history",
        ".zsh_history",
        ".zhistory",
        ".sh_history",
        ".ksh_history",
        ".ash_history",
        ".local/share/fish/fish_history",
        ".python_history",
        ".node_repl_history",
        ".mysql_history",
        ".psql_history",
        ".sqlite_history",
        ".rediscli_history",
        ".lesshst",
        ".viminfo",
    ),
}
_HOST_KEYS = Patterns(["/etc/ssh/ssh_host_*_key"])
"""Kept: without them sshd does not start where nothing makes new ones."""


class Selection:
    """The rules of one job."""

    def __init__(self, *, include: Sequence[str] = (), exclude: Sequence[str] = (), clean: Sequence[str] = ()) -> None:
        self._include = Patterns(include) if include else None
        self._exclude = Patterns(exclude)
        self._names = {category: Patterns(_NAMES[category]) for category in clean}
        self._always = Patterns(ALWAYS)
        self._any = Patterns([*exclude, *(name for category in clean for name in _NAMES[category]), *ALWAYS])
        """All that leave out, at once: most paths match none."""
        self.looks_at_content = SECRETS in clean

    def leaves_out(self, path: bytes, name: bytes, *, directory: bool) -> str:
        """The rule that leaves out a path of the tree, which begins with a slash; '' if it comes in."""
        if self._any.match(path, name, directory=directory) is None:
            return ""
        if (rule := self._exclude.match(path, name, directory=directory)) is not None:
            found = f"--exclude {rule}"
        elif category := self._category(path, name, directory=directory):
            found = f"--clean {category}"
        elif (rule := self._always.match(path, name, directory=directory)) is not None:
            found = f"always: {rule}"
        else:
            return ""
        return "" if self._included(path, name, directory=directory) else found

    def wants_to_read(self, size: int) -> bool:
        """True for a regular file whose content decides."""
        return self.looks_at_content and SMALLEST <= size <= LARGEST

    def leaves_out_content(self, path: bytes, name: bytes, content: bytes) -> str:
        """The rule that leaves out a file for what it holds."""
        found = private_key_in(content)
        if not found or self._included(path, name, directory=False):
            return ""
        if _HOST_KEYS.match(path, name, directory=False) is not None:
            return ""
        return f"--clean {SECRETS}: {found}"

    def _category(self, path: bytes, name: bytes, *, directory: bool) -> str:
        """The category of `clean` that a path belongs to, or ''."""
        for category, patterns in self._names.items():
            if patterns.match(path, name, directory=directory) is not None:
                return category
        return ""

    def _included(self, path: bytes, name: bytes, *, directory: bool) -> bool:
        return self._include is not None and self._include.match(path, name, directory=directory) is not None
