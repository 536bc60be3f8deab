#!/bin/sh
# rpm's last step: starts again the units that the upgrade stopped.
set -e

[ -e /run/amistream-upgrade ] || exit 0
xargs -r systemctl start </run/amistream-upgrade || true
rm -f /run/amistream-upgrade
