"""A short run of the soak of a fleet; the long one is a script of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from faults.fleet_soak import Wishes, soak

if TYPE_CHECKING:
    from pathlib import Path

    from support.ebs_endpoint import EbsServer
    from support.endpoints import Endpoint
    from support.keys import KeyRing

MOMENTS = (("part", 3), ("deletion", 1))


def test_a_fleet_loses_hosts(ministack: Endpoint, ebs_server: EbsServer, key_ring: KeyRing, tmp_path: Path) -> None:
    """Hosts are killed while they bundle, and after a result was sent: each job is done, and nothing else is left."""
    wishes = Wishes(daemons=2, jobs=8, kills=len(MOMENTS), seed=20261129, visibility_s=3, moments=MOMENTS)
    with ebs_server.account(like=ministack) as ebs:
        verdict = soak(wishes, tmp_path, ministack, ebs, key_ring)
    assert dict(verdict.kills) == {"part": 1, "deletion": 1}
    assert verdict.jobs.total() == 8
    assert verdict.dead_letters >= verdict.poison == 3
