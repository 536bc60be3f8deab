#!/bin/sh
# After the files are removed. dpkg calls it with "remove", "purge" or "upgrade", rpm with 0 or 1.
set -e

state=/var/lib/amistream

case "$1" in
remove | 0)
    if [ -d /run/systemd/system ]; then
        systemctl daemon-reload || true
    fi
    rm -f /run/amistream/.amistream.sock.lock
    rmdir /run/amistream 2>/dev/null || true
    [ ! -e "$state" ] || echo "amistream: $state stays: the journal of jobs, and keys that open your bundles"
    [ ! -e /etc/amistream ] || echo "amistream: /etc/amistream stays: your settings"
    echo "amistream: the user and group amistream stay"
    ;;
purge)
    # dpkg has removed amistream.toml. What else is there somebody put there: keys, for example.
    rmdir /etc/amistream 2>/dev/null || [ ! -d /etc/amistream ] ||
        echo "amistream: /etc/amistream stays: files that are not of the package are in it; remove them by hand"
    [ -d "$state" ] || exit 0
    rm -rf "$state"/journal.sqlite* "$state"/runner-*.lock "$state/user-key.lock" "$state/tmp"
    rmdir "$state" 2>/dev/null ||
        echo "amistream: $state stays: keys that open your bundles, or other files of yours, are in it; remove it by hand"
    ;;
esac
