"""All checks together: several failures, notices, and names of checks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from amistream.aws.session import Aws
from amistream.checks.bundling import BundlingChecks
from amistream.checks.conversion import ConversionChecks
from amistream.checks.conversion_context import ConversionContext
from amistream.checks.destination import Destination
from amistream.checks.host import HostChecks
from amistream.checks.preflight import DestinationChecks, checks_of
from checks.conversions import request as conversion
from jobs.work import request, settings
from support.buckets import list_keys

if TYPE_CHECKING:
    from checks.scene import Scene
    from conftest import MakeBucket
    from support.endpoints import Endpoint
    from support.keys import KeyRing


async def test_every_name_that_a_check_waits_for_is_a_check(scene: Scene) -> None:
    """Every name that a check needs or waits for is a check of some kind of job."""
    chosen = settings(scene.tmp_path)
    names: set[str] = set()
    waited: set[str] = set()
    async with Aws(chosen) as aws:
        for to in ("s3://bucket/x", scene.out):
            asked = request(scene.image, to, scene.keys, inherit=True, account=None, ec2_certificate=None, freeze=True)
            address = Destination(asked, chosen, aws, "token")
            source = BundlingChecks(address)
            first = DestinationChecks(address, source, earlier=(), create_keys=False)
            second = DestinationChecks(address, source, earlier=(first,), create_keys=False)
            state_dir = HostChecks(chosen, source).state_dir()
            checks = [*source.checks(), *checks_of([first, second]), state_dir]
            assert len({check.name for check in checks}) == len(checks)
            names |= {check.name for check in checks}
            waited |= {name for check in checks for name in (*check.needs, *check.after)}
            assert all(check.why for check in checks)
        for is_bundle in (False, True):
            context = ConversionContext(conversion(scene.image, freeze=not is_bundle), chosen, aws, "token")
            checks = ConversionChecks(context, is_bundle=is_bundle).checks()
            assert len({check.name for check in checks}) == len(checks)
            names |= {check.name for check in checks}
            waited |= {name for check in checks for name in (*check.needs, *check.after)}
            assert all(check.why for check in checks)
    assert waited <= names


async def test_several_failures_are_all_told(
    scene: Scene, bucket: str, ministack: Endpoint, make_bucket: MakeBucket, key_ring: KeyRing
) -> None:
    """A job with four faults is refused for the first; the hint lists the other three in the order of the checks."""
    closed = make_bucket(ministack, acls=False)
    with ministack.blocking_client("ec2") as ec2:
        taken = ec2.register_image(Name=f"taken in {closed}", ImageLocation="b/m.xml")["ImageId"]
    error = await scene.refused(
        f"s3://{closed}/x",
        source="/nothing.img",
        private_key=str(key_ring.stranger.key),
        endpoint_url=ministack.url,
        ami_name=f"taken in {closed}",
    )
    assert (error.code, error.field) == ("source.missing", "source")
    first, *also = error.hint.splitlines()
    assert first == "check the path; `lsblk` lists the block devices"
    assert [line.partition(":")[0] for line in also] == ["also", "also", "also"]
    assert "they are not a pair; compare `openssl x509" in also[0]
    assert f"cannot bundle to {closed}: its ACLs are disabled" in also[1]
    assert "; aws s3api put-bucket-ownership-controls" in also[1]
    assert f"{taken} has it" in also[2]
    assert f"aws ec2 deregister-image --image-id {taken}" in also[2]
    assert list_keys(ministack, closed) == []


async def test_notices_are_told_of_a_refused_job_too(scene: Scene) -> None:
    """A refused job reports its notices as well."""
    await scene.refused(scene.out, source="/nothing.img", certificate=None, private_key=None)
    assert len(scene.notices) == 1
    assert scene.notices[0].endswith("only it can open the bundle again; keep a copy of it")


async def test_a_refused_job_makes_no_directory(scene: Scene) -> None:
    """A refused job does not create its destination."""
    await scene.refused(scene.out / "below", private_key=None)
    assert not scene.out.exists()
    async with scene.ready(scene.out / "below"):
        assert (scene.out / "below").is_dir()
