"""The container's health check."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from support.daemons import running_daemon

DOCKERFILE = (Path(__file__).parents[2] / "Dockerfile").read_text().replace("\\\n", "")


def test_the_health_check_asks_the_daemon_and_loads_no_library(tmp_path: Path) -> None:
    """The health check succeeds while a daemon answers, fails without one, and uses bare Python."""
    found = re.search(r"^HEALTHCHECK .* CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)
    assert found is not None
    python, *words = json.loads(found[1])
    assert (python, words[0]) == ("python", "-IS")

    def check() -> int:
        environ = {**os.environ, "AMISTREAM_SOCKET": str(tmp_path / "amistream.sock")}
        done = subprocess.run([sys.executable, *words], env=environ, capture_output=True, check=False, timeout=60)
        return done.returncode

    assert check() == 1
    with running_daemon(tmp_path, None):
        assert check() == 0
