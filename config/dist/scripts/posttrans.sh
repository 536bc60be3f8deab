#!/bin/sh
# rpm's last step: starts the daemon again that the upgrade stopped.
set -e

[ -e /run/amistream-upgrade ] || exit 0
rm -f /run/amistream-upgrade
systemctl start amistream.service || true
