"""Short runs of the soak of a fleet and of its messages by chance; the long ones are scripts of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from faults.fleet_fuzz import fuzz
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


def test_messages_that_nobody_should_send(ministack: Endpoint, key_ring: KeyRing, tmp_path: Path) -> None:
    """Each has a result or is a dead letter, nothing outside of the roots is opened, and the daemon stays well."""
    verdict = fuzz(40, 20261129, tmp_path, ministack, key_ring)
    assert verdict.outcomes.total() == 42
    assert verdict.outcomes["done"] >= 7
    assert len(verdict.outcomes) > 6
