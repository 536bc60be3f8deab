#!/bin/sh
# Before the new files are unpacked. dpkg calls it with "install" or "upgrade", rpm with 1 or 2.
#
# An upgrade interrupts running jobs: the daemon loads modules when it needs them, and those of two versions do not fit.
# The jobs go on at the next start, from the parts that they have stored.
set -e

case "$1" in
upgrade | 2) ;;
*) exit 0 ;;
esac
[ -d /run/systemd/system ] || exit 0
systemctl is-active --quiet amistream.service || exit 0

: >/run/amistream-upgrade
systemctl stop --no-block amistream.service
# The first SIGTERM lets jobs end, the second interrupts them. systemd kills the daemon after TimeoutStopSec.
while systemctl kill --kill-who=main --signal=TERM amistream.service 2>/dev/null; do
    sleep 1
    state=$(systemctl show --property=ActiveState --value amistream.service 2>/dev/null || echo inactive)
    case "$state" in
    inactive | failed) break ;;
    esac
done
