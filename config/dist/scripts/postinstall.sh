#!/bin/sh
# After the files are unpacked. dpkg calls it with "configure", and with "abort-upgrade" if an upgrade failed before that:
# the units that it stopped are started again. rpm calls it with 1 or 2.
set -e

case "$1" in
configure | abort-upgrade | 1 | 2) ;;
*) exit 0 ;;
esac

if command -v systemd-sysusers >/dev/null 2>&1; then
    systemd-sysusers amistream.conf
else
    getent group amistream >/dev/null || groupadd --system amistream
    getent passwd amistream >/dev/null || useradd --system --gid amistream --no-create-home \
        --home-dir /var/lib/amistream --shell /usr/sbin/nologin amistream
fi

[ -d /run/systemd/system ] || exit 0
systemctl daemon-reload || true
# rpm starts them in posttrans, when the files of the old version are gone.
case "$1" in
1 | 2) exit 0 ;;
esac
[ -e /run/amistream-upgrade ] || exit 0
xargs -r systemctl start </run/amistream-upgrade || true
rm -f /run/amistream-upgrade
