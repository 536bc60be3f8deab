#!/bin/sh
# After the files are removed. dpkg calls it with "remove", "purge" or "upgrade", rpm with 0 or 1.
set -e

state=/var/lib/amistream

case "$1" in
remove | 0)
    if [ -d /run/systemd/system ]; then
        systemctl daemon-reload || true
    fi
    rmdir /run/amistream 2>/dev/null || true
    [ ! -e "$state" ] || echo "amistream: $state stays: the journal of jobs, and keys that open your bundles"
    [ ! -e /etc/amistream ] || echo "amistream: /etc/amistream stays: your settings"
    echo "amistream: the user and group amistream stay"
    ;;
purge)
    rm -rf /etc/amistream
    [ -d "$state" ] || exit 0
    # A generated key is the only one that opens the bundles it was used for: nothing but a person deletes it.
    find "$state" -mindepth 1 -maxdepth 1 ! -name "user-*.pem" -exec rm -rf {} +
    rmdir "$state" 2>/dev/null || echo "amistream: $state stays: its key opens your bundles; remove it by hand"
    ;;
esac
