"""`python -m amistream.compat NAME ...`: the same as the script of that name."""

from __future__ import annotations

import sys

from amistream.compat.main import run
from amistream.process import keep_secrets_in

if __name__ == "__main__":
    keep_secrets_in()
    sys.exit(run("".join(sys.argv[1:2]), sys.argv[2:]))
