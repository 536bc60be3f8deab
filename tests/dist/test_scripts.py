"""The scripts of the packages, where systemd runs."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from config.dist.project import ROOT

if TYPE_CHECKING:
    from support.bare_roots import BareRoot

SYSTEMCTL = """\
#!/bin/sh
echo "$@" >>/calls
case "$*" in
is-active\\ --quiet*) exit 0 ;;
is-active*) [ "$(grep -c kill /calls)" -lt 2 ] && echo deactivating || { echo inactive; exit 3; } ;;
esac
"""
"""Plays a systemd whose daemon stops at the second signal, and records the calls."""


def test_an_upgrade_stops_the_units_and_starts_them_again(debian: BareRoot) -> None:
    """The scripts stop socket and daemon, and start them afterwards: for dpkg, also if it failed, and for rpm."""
    calls = debian.path / "calls"
    (debian.path / "usr/local/bin/systemctl").write_text(SYSTEMCTL)
    (debian.path / "usr/local/bin/systemctl").chmod(0o755)
    (debian.path / "run/systemd/system").mkdir(parents=True, exist_ok=True)
    try:
        for upgrade, start in (
            (("preinstall", "upgrade"), ("postinstall", "configure")),
            (("preinstall", "upgrade"), ("postinstall", "abort-upgrade")),
            (("preinstall", "2"), ("posttrans", "0")),
        ):
            calls.write_text("")
            for name, word in (upgrade, start):
                shutil.copy(ROOT / "config/dist/scripts" / f"{name}.sh", debian.path / "script.sh")
                debian.run("sh", "/script.sh", word, environ={"PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"})
            done = [line for line in calls.read_text().splitlines() if not line.startswith("is-active")]
            assert done[0] == "stop --no-block amistream.socket amistream.service"
            assert done[1:3] == ["kill --kill-who=main --signal=TERM amistream.service"] * 2
            assert done[-1] == "start amistream.socket amistream.service"
            assert not (debian.path / "run/amistream-upgrade").exists()
    finally:
        (debian.path / "usr/local/bin/systemctl").unlink()
        shutil.rmtree(debian.path / "run/systemd")
