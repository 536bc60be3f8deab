"""The categories of --clean: what of a system belongs to one machine or person, or is made again. Pure.

The patterns are those of --exclude. Nothing here changes the inside of a file: a line such as HWADDR= stays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

SECRETS, HISTORY, IDENTITY, LOGS, CACHES = "secrets", "history", "identity", "logs", "caches"
BY_DEFAULT = (SECRETS, HISTORY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Category:
    """One category, in patterns."""

    left_out: Sequence[str] = ()
    files: Sequence[str] = ()
    """Regular files that are left out. Directories stay, and links: programs fail to start without their directory."""
    kept: Sequence[str] = ()
    """Files that stay, though they are among `files`."""
    emptied: Sequence[str] = ()
    """Files that come in without their content, because it makes a difference that they are there."""


CATEGORIES: Mapping[str, Category] = {
    # Private keys are found by content (`secrets`).
    SECRETS: Category(
        left_out=(
            ".ssh/authorized_keys",
            ".ssh/authorized_keys2",
            ".aws/credentials",
            ".aws/cli/cache/",
            ".aws/sso/cache/",
            ".git-credentials",
            ".netrc",
            ".pgpass",
        )
    ),
    HISTORY: Category(
        left_out=(
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
        )
    ),
    IDENTITY: Category(
        # An empty machine-id gets a new id. Without the file, systemd takes the boot for the first one of all, and
        # resets which services are enabled.
        emptied=("/etc/machine-id",),
        left_out=(
            "/var/lib/dbus/machine-id",
            "/etc/ssh/ssh_host_*key*",
            "/etc/dropbear/dropbear_*_host_key",
            "/var/lib/cloud/instance",
            "/var/lib/cloud/instances",
            "/var/lib/cloud/data",
            "/var/lib/cloud/sem",
            "/var/lib/dhcp/*lease*",
            "/var/lib/dhclient/*lease*",
            "/var/lib/dhcpcd/*lease*",
            "/var/lib/NetworkManager/*lease*",
            "/var/lib/wicked/lease*",
            "/var/lib/dhcpcd/duid",
            "/var/lib/dhcpcd/secret",
            "/var/lib/NetworkManager/secret_key",
            "/etc/udev/rules.d/*-persistent-net.rules",
            "/var/lib/systemd/random-seed",
            "/var/lib/urandom/random-seed",
            "/var/lib/random-seed",
        ),
    ),
    LOGS: Category(
        # Login programs write these only where they are, and need their group and mode.
        emptied=("/var/log/wtmp", "/var/log/btmp", "/var/log/lastlog", "/var/log/faillog"),
        # The directories in it are named by the machine's id.
        left_out=("/var/log/journal/*", "/var/run/utmp"),
        files=("/var/log/**", "/var/lib/wtmpdb/wtmp.db", "/var/lib/lastlog/lastlog2.db"),
    ),
    CACHES: Category(
        files=("/var/cache/**", ".cache/pip/**"),
        # In spite of its place this is the database of what was answered when packages were installed.
        kept=("/var/cache/debconf/**",),
    ),
}
