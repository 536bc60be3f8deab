#!/bin/sh
# Before the files are removed. dpkg calls it with "remove" or "upgrade", rpm with 0 or 1.
set -e

case "$1" in
remove | 0) ;;
*) exit 0 ;;
esac
[ -d /run/systemd/system ] || exit 0
# Running jobs end first, as at each stop (setting on_stop).
systemctl --quiet disable --now amistream.socket amistream.service || true
