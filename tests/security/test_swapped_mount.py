"""The check for mounts examines the opened volume, not its name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from amistream.aws.session import Aws
from amistream.checks.bundling import BundlingChecks
from amistream.checks.destination import Destination
from amistream.checks.findings import run_checks
from jobs.work import request, settings
from support.mounts import mounted
from support.volumes import ext4_image, loop_device, random_image

if TYPE_CHECKING:
    from support.keys import KeyRing

MIB = 1 << 20


@pytest.mark.parametrize("swap", ["another file", "nothing"])
async def test_a_mounted_volume_whose_name_is_swapped(tmp_path: Path, key_ring: KeyRing, swap: str) -> None:
    """A volume that is mounted read-write is refused, even if its name now leads elsewhere or nowhere."""
    image = ext4_image(tmp_path / "image", 8 * MIB)
    link = tmp_path / "link"
    link.symlink_to(image)
    chosen = settings(tmp_path)
    with loop_device(image, read_only=False) as device, mounted(device, tmp_path / "rw") as place:
        async with Aws(chosen) as aws:
            source = BundlingChecks(Destination(request(link, tmp_path / "out", key_ring), chosen, aws, "token"))
            checks = {check.name: check for check in source.checks()}
            (_,) = await run_checks([checks["source"]])
            try:
                link.unlink()
                if swap == "another file":
                    link.symlink_to(random_image(tmp_path / "other", MIB))
                (finding,) = await run_checks([checks["mount"]])
            finally:
                await source.close()
    assert finding.code == "source.mounted"
    assert f"mounted read-write on {place}" in finding.found
