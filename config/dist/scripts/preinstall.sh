#!/bin/sh
# Before the new files are unpacked. dpkg calls it with "install" or "upgrade", rpm with 1 or 2.
#
# An upgrade interrupts running jobs: the daemon loads modules when it needs them, and those of two versions do not fit.
# The jobs go on at the next start, from the parts that they have stored. The socket is closed meanwhile, so that no
# client starts the daemon.
set -e

units=/run/amistream-upgrade

case "$1" in
upgrade | 2) ;;
*) exit 0 ;;
esac
[ -d /run/systemd/system ] || exit 0

: >$units
for unit in amistream.socket amistream.service; do
    if systemctl is-active --quiet $unit; then
        echo $unit >>$units
    fi
done
if ! grep -q service $units; then
    systemctl stop amistream.socket || true
    exit 0
fi
# Without --no-block it would wait for the jobs.
systemctl stop --no-block amistream.socket amistream.service || true
# The first SIGTERM lets jobs end, the second interrupts them. systemd kills the daemon after TimeoutStopSec.
while :; do
    case "$(systemctl is-active amistream.service || true)" in
    active | activating | deactivating | reloading) ;;
    *) break ;;
    esac
    systemctl kill --kill-who=main --signal=TERM amistream.service 2>/dev/null || true
    sleep 1
done
