"""Short runs of the soak that kills the daemon during conversions, and a kill near the end of a larger one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from amistream.ports.snapshots import BLOCK
from faults.conversion_soak import Wishes, soak
from support.boot_disks import partitioned
from support.volumes import sparse_image

if TYPE_CHECKING:
    from pathlib import Path

    from support.ebs_endpoint import EbsEndpoint
    from support.keys import KeyRing


def test_conversions_survive_the_daemon(ebs_endpoint: EbsEndpoint, key_ring: KeyRing, tmp_path: Path) -> None:
    """Conversions of a daemon that is killed end done, with one right snapshot and one AMI each."""
    moments = [("StartSnapshot", 1), ("PutSnapshotBlock", 17), ("RegisterImage", 2)]
    verdict = soak(Wishes(kinds=["convert"], moments=moments, sides=["pause_after"]), tmp_path, ebs_endpoint, key_ring)
    assert (verdict.kills, verdict.jobs, verdict.missed) == (3, 3, [])


def test_conversions_of_bundles_survive_the_daemon(
    ebs_endpoint: EbsEndpoint, key_ring: KeyRing, tmp_path: Path
) -> None:
    """A conversion of a bundle goes on after a kill in the middle, too."""
    wishes = Wishes(kinds=["convert bundle"], moments=[("PutSnapshotBlock", 9)], sides=["pause"])
    verdict = soak(wishes, tmp_path, ebs_endpoint, key_ring)
    assert (verdict.kills, verdict.jobs, verdict.missed) == (1, 1, [])


def test_most_is_not_sent_again(ebs_endpoint: EbsEndpoint, key_ring: KeyRing, tmp_path: Path) -> None:
    """A kill at 90 % of the blocks costs less than 15 % of them: the last ones, which were not entered yet.

    The disk has so many blocks because stored ones are entered 64 at a time.
    """
    disk = partitioned(sparse_image(tmp_path / "large.img", 512 * BLOCK, [(0, 512 * BLOCK)]), "mbr").path
    ebs_endpoint.set(verify=False)
    wishes = Wishes(kinds=["convert"], moments=[("PutSnapshotBlock", 461)], sides=["pause"])
    verdict = soak(wishes, tmp_path, ebs_endpoint, key_ring, disk)
    assert verdict.kills == 1
    assert verdict.blocks <= verdict.puts < 1.15 * verdict.blocks
