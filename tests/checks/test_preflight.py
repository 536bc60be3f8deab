"""The checks of a job by provoking each: real devices, disks, buckets and services that answer as the test wants.

Refusals that were told before there were findings are in `test_refusals`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from amistream.aws.session import Aws
from amistream.checks import preflight
from amistream.checks.destination import Address
from amistream.checks.host import HostChecks
from amistream.checks.preflight import DestinationChecks, checks_of
from amistream.checks.source import SourceChecks
from amistream.errors import RefusedError
from amistream.roots import Roots
from aws.instance import instance
from jobs.work import request, settings, use_endpoint
from support.buckets import list_keys
from support.mounts import mounted, partition, small_disk
from support.proxy import Answer, DropReply, Fault, HoldReply, Reset, dry_run_answered
from support.volumes import ext4_image, loop_device, random_image

if TYPE_CHECKING:
    from amistream.checks.preflight import Ready
    from conftest import MakeBucket, MakeProxy
    from support.endpoints import Endpoint
    from support.keys import KeyRing

MIB = 1 << 20


@dataclass(kw_only=True)
class Scene:
    """A job that would be ready, for a test to spoil; `notices` are those of the last look.

    One is left out: these tests have another certificate than EC2's.
    """

    image: Path
    keys: KeyRing
    tmp_path: Path
    notices: list[str] = field(default_factory=list)

    @asynccontextmanager
    async def ready(self, to: str | Path, **changes: Any) -> AsyncIterator[Ready]:
        """Check the job; prove at the end that no file of it is open."""
        chosen = settings(self.tmp_path, **changes.pop("settings", {}))
        roots = changes.pop("roots", None)
        asked = request(self.image, to, self.keys, **changes)
        self.notices.clear()
        try:
            async with Aws(chosen) as aws:
                addresses = [
                    Address(asked, chosen, aws, "token", n, roots=roots) for n in range(len(asked.destinations))
                ]
                ready = await preflight.check(addresses, self._note, numbers=range(len(addresses)))
                try:
                    yield ready
                finally:
                    await ready.close()
                    for destination in ready.destinations:
                        await destination.store.close()
        finally:
            assert asked.source not in {
                str(path.readlink()) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()
            }

    async def refused(self, to: str | Path, **changes: Any) -> RefusedError:
        with pytest.raises(RefusedError) as caught:
            async with self.ready(to, **changes):
                pass
        return caught.value

    def _note(self, notice: str) -> None:
        if "EC2 certificate" not in notice:
            self.notices.append(notice)

    @property
    def out(self) -> Path:
        return self.tmp_path / "out"


@pytest.fixture
def scene(tmp_path: Path, key_ring: KeyRing) -> Scene:
    return Scene(image=random_image(tmp_path / "disk.img", 700_000), keys=key_ring, tmp_path=tmp_path)


@pytest.fixture
def bucket(ministack: Endpoint, make_bucket: MakeBucket, monkeypatch: pytest.MonkeyPatch) -> str:
    use_endpoint(ministack, monkeypatch)
    return make_bucket(ministack)


async def test_every_name_that_a_check_waits_for_is_a_check(scene: Scene) -> None:
    """No check needs one that is misspelt: of each kind of job or another, every name is there."""
    chosen = settings(scene.tmp_path)
    names: set[str] = set()
    waited: set[str] = set()
    async with Aws(chosen) as aws:
        for to in ("s3://bucket/x", scene.out):
            asked = request(scene.image, to, scene.keys, inherit=True, account=None, ec2_certificate=None)
            address = Address(asked, chosen, aws, "token")
            source = SourceChecks(address)
            first = DestinationChecks(address, source, first=None, create_keys=False)
            second = DestinationChecks(address, source, first=first, create_keys=False)
            state_dir = HostChecks(chosen, source).state_dir()
            checks = [*source.checks(), *checks_of([first, second]), state_dir]
            assert len({check.name for check in checks}) == len(checks)
            names |= {check.name for check in checks}
            waited |= {name for check in checks for name in (*check.needs, *check.after)}
            assert all(check.why for check in checks)
    assert waited <= names


async def test_several_failures_are_all_told(
    scene: Scene, bucket: str, ministack: Endpoint, make_bucket: MakeBucket, key_ring: KeyRing
) -> None:
    """A job with four things wrong is refused for the first, and tells the other three in the order of the checks."""
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
    """Why a job was refused does not hide what else is worth knowing."""
    await scene.refused(scene.out, source="/nothing.img", certificate=None, private_key=None)
    assert len(scene.notices) == 1
    assert scene.notices[0].endswith("only it can open the bundle again; keep a copy of it")


async def test_a_refused_job_makes_no_directory(scene: Scene) -> None:
    """The destination is made when all is well, not before."""
    await scene.refused(scene.out / "below", private_key=None)
    assert not scene.out.exists()
    async with scene.ready(scene.out / "below"):
        assert (scene.out / "below").is_dir()


async def test_a_mounted_device(scene: Scene, tmp_path: Path) -> None:
    """A device that is mounted read-write is refused with the place and the ways out, `--live` among them."""
    image = ext4_image(tmp_path / "image", 8 * MIB)
    with loop_device(image, read_only=False) as device:
        with mounted(device, tmp_path / "rw") as place:
            error = await scene.refused(scene.out, source=str(device))
            assert (error.code, error.field) == ("source.mounted", "source")
            assert error.message.startswith(f"cannot bundle {device}: it is mounted read-write on {place}")
            for way in (f"umount {place}", f"mount -o remount,ro {place}", "snapshot", "fsfreeze", "--live"):
                assert way in error.hint
            async with scene.ready(scene.out, source=str(device), live=True) as ready:
                assert ready.volume.size == 8 * MIB
            assert [notice.partition(":")[0] for notice in scene.notices] == [
                f"{device} is mounted read-write on {place}"
            ]
        with mounted(device, tmp_path / "ro", "-o", "ro"):
            async with scene.ready(scene.out, source=str(device)):
                assert scene.notices == []


async def test_a_disk_with_a_mounted_partition(scene: Scene, tmp_path: Path) -> None:
    """A whole disk is written to through its partitions."""
    file_system = ext4_image(tmp_path / "file-system", 8 * MIB)
    image = tmp_path / "disk"
    image.write_bytes(bytes(MIB) + file_system.read_bytes())
    with (
        loop_device(image, read_only=False) as disk,
        partition(disk, MIB, 8 * MIB) as first,
        mounted(first, tmp_path / "rw") as place,
    ):
        error = await scene.refused(scene.out, source=str(disk))
    assert (error.code, str(place) in error.message) == ("source.mounted", True)


async def test_an_image_file_that_is_mounted(scene: Scene, tmp_path: Path) -> None:
    """An image file is written to through a loop device."""
    image = ext4_image(tmp_path / "image", 8 * MIB)
    with loop_device(image, read_only=False) as device, mounted(device, tmp_path / "rw"):
        assert (await scene.refused(scene.out, source=str(image))).code == "source.mounted"


@pytest.mark.parametrize(("name", "code"), [("a/b", "prefix.invalid"), ("-", "prefix.invalid")])
async def test_a_prefix_of_the_settings(scene: Scene, name: str, code: str) -> None:
    """A prefix that no object may have is refused, where it comes from the settings too."""
    error = await scene.refused(scene.out, settings={"prefix": name})
    assert (error.code, error.field) == (code, "prefix")
    assert "--prefix" in error.hint


async def test_an_account_of_the_settings(scene: Scene) -> None:
    """An account id of the settings is judged as one of a request: dashes are left out, other forms refused."""
    async with scene.ready(scene.out, account=None, settings={"account": "1234-5678-9012"}) as ready:
        assert ready.facts.user == "123456789012"
    error = await scene.refused(scene.out, account=None, settings={"account": "me"})
    assert (error.code, error.field) == ("account.invalid", "account")


async def test_a_destination_that_is_a_file(scene: Scene) -> None:
    """A file is no directory, and nothing can be made below one."""
    scene.out.touch()
    assert (await scene.refused(scene.out)).code == "directory.kind"
    error = await scene.refused(scene.out / "below")
    assert (error.code, error.field) == ("directory.kind", "destinations")
    assert str(scene.out) in error.message
    assert scene.out.read_bytes() == b""


async def test_a_destination_that_cannot_be_written(scene: Scene, tmp_path: Path) -> None:
    """A disk that is mounted read-only takes no bundle."""
    with small_disk(tmp_path / "disk", "1m", "ro") as place:
        error = await scene.refused(place / "out")
    assert (error.code, error.hint) == ("directory.failed", f"check the directory and its permissions: ls -ld {place}")


async def test_a_full_destination(scene: Scene, tmp_path: Path) -> None:
    """No room at all is refused, room for a part of the volume is told: it may compress."""
    with small_disk(tmp_path / "disk", "512k") as place:
        async with scene.ready(place / "out"):
            assert [notice for notice in scene.notices if "the bundle fits only if" in notice] == scene.notices != []
        filler = place / "filler"
        with pytest.raises(OSError, match="No space"):
            filler.write_bytes(bytes(MIB))
        error = await scene.refused(place / "out")
        assert (error.code, "df -h" in error.hint) == ("directory.full", True)
        assert sorted(place.iterdir()) == [filler]


async def test_a_full_state_directory(scene: Scene, tmp_path: Path) -> None:
    """A job whose journal would not fit is refused before it begins."""
    with small_disk(tmp_path / "disk", "1m") as place:
        error = await scene.refused(scene.out, settings={"state_dir": place / "state"})
    assert (error.code, error.field) == ("state_dir.full", "state_dir")
    assert f"df -h {place}" in error.hint


async def test_an_open_state_directory(scene: Scene, tmp_path: Path) -> None:
    """A state directory that all may write to is refused, one that they may read is told."""
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    state.chmod(0o755)
    async with scene.ready(scene.out):
        assert scene.notices == [f"{state} is open to others (mode 0755): they can see the jobs; chmod 700 {state}"]
    state.chmod(0o777)
    error = await scene.refused(scene.out)
    assert (error.code, error.hint) == ("state_dir.exposed", f"chmod 700 {state}")


async def test_a_state_directory_that_cannot_be_made(scene: Scene) -> None:
    """A state directory below a file is refused, and the setting is named."""
    error = await scene.refused(scene.out, settings={"state_dir": scene.image / "state"})
    assert (error.code, error.field) == ("state_dir.unwritable", "state_dir")


async def test_devices_that_the_instance_names(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that EC2 takes in no manifest is refused, unless another is given for it."""
    data = {"block-device-mapping/": "ami\nephemeral0", "block-device-mapping/ami": "sda1",
            "block-device-mapping/ephemeral0": "xvdb"}  # fmt: skip
    async with instance(data, monkeypatch):
        error = await scene.refused(scene.out, inherit=True)
        assert (error.code, error.field) == ("mapping.device", "block_device_mappings")
        assert "ephemeral0 to xvdb" in error.message
        assert "-B ephemeral0=sdb" in error.hint
        async with scene.ready(scene.out, inherit=True, block_device_mappings={"ephemeral0": "sdb"}) as ready:
            assert ready.facts.block_device_mappings == {"ami": "sda1", "ephemeral0": "sdb"}


async def test_two_volumes_on_one_device(scene: Scene) -> None:
    """Two ephemeral volumes cannot be one device; ami and root are the same one by nature."""
    error = await scene.refused(scene.out, block_device_mappings={"ephemeral0": "sdb", "ephemeral1": "/dev/sdb"})
    assert (error.code, "sdb" in error.message) == ("mapping.twice", True)
    async with scene.ready(scene.out, block_device_mappings={"ami": "sda1", "root": "/dev/sda1", "ephemeral0": "sdb"}):
        pass


def clock_off_by(**off: float) -> Fault:
    """S3's answer of another time."""
    date = format_datetime(datetime.now(UTC) + timedelta(**off), usegmt=True)
    headers = (("Date", date), ("x-amz-bucket-region", "eu-west-1"))
    return Fault(action=Answer(status=200, code="OK", headers=headers), method="HEAD", path="/[^/]+/?", times=None)


@pytest.mark.parametrize(
    ("minutes", "told"), [(4, None), (6, "6 minutes behind S3's"), (-14, "14 minutes ahead of S3's")]
)
async def test_a_clock_that_is_off(
    minutes: int, told: str | None, scene: Scene, bucket: str, ministack: Endpoint, make_proxy: MakeProxy
) -> None:
    """From five minutes on a clock that is off is told, with how to set it."""
    proxy = make_proxy(ministack, dry_run_answered(), clock_off_by(minutes=minutes))
    async with scene.ready(f"s3://{bucket}/x", endpoint_url=proxy.url):
        clock = [notice for notice in scene.notices if "clock" in notice]
    assert [told in notice for notice in clock if told] == [True] * bool(told)
    assert len(clock) == bool(told)


@pytest.mark.parametrize(("minutes", "told"), [(16, "16 minutes behind"), (-16, "16 minutes ahead")])
async def test_a_clock_that_is_far_off(
    minutes: int, told: str, scene: Scene, bucket: str, ministack: Endpoint, make_proxy: MakeProxy
) -> None:
    """A clock that AWS would not take is refused for what it is, and not for what S3 makes of it."""
    proxy = make_proxy(ministack, clock_off_by(minutes=minutes))
    error = await scene.refused(f"s3://{bucket}/x", endpoint_url=proxy.url)
    assert (error.code, told in error.message) == ("aws.RequestTimeTooSkewed", True)
    assert error.hint == "set the clock: `chronyc makestep` or `timedatectl set-ntp true`"
    assert proxy.seen("PUT") == []


async def test_a_clock_that_s3_refuses(scene: Scene, bucket: str, ministack: Endpoint, make_proxy: MakeProxy) -> None:
    """S3 tells a wrong clock by a mere 403 to a HEAD; the date of its answer tells why."""
    date = format_datetime(datetime.now(UTC) + timedelta(hours=2), usegmt=True)
    answer = Answer(status=403, code="Forbidden", headers=(("Date", date),))
    proxy = make_proxy(ministack, Fault(action=answer, method="HEAD", times=None))
    error = await scene.refused(f"s3://{bucket}/x", endpoint_url=proxy.url)
    assert (error.code, "also" in error.hint) == ("aws.RequestTimeTooSkewed", False)


async def test_credentials_that_end_soon(
    scene: Scene, bucket: str, ministack: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Credentials that nobody renews are told when they end within the hour, and refused when they have ended."""
    in_time = datetime.now(UTC) + timedelta(minutes=40)
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token")
    monkeypatch.setenv("AWS_CREDENTIAL_EXPIRATION", in_time.isoformat())
    async with scene.ready(f"s3://{bucket}/x", endpoint_url=ministack.url, register_image=False):
        assert len(scene.notices) == 1
        assert scene.notices[0].startswith(f"the AWS credentials expire at {in_time:%Y-%m-%d %H:%M} UTC: ")
    monkeypatch.setenv("AWS_CREDENTIAL_EXPIRATION", "2020-01-31T12:00:00Z")
    error = await scene.refused(f"s3://{bucket}/x", endpoint_url=ministack.url)
    assert error.code == "aws.ExpiredToken"
    assert error.message == "cannot use the AWS credentials: they expired at 2020-01-31 12:00 UTC"
    assert "also" not in error.hint


async def test_a_profile_that_is_not_there(
    scene: Scene, bucket: str, ministack: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A profile that the configuration does not have is named, for a directory too."""
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    for variable in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(variable)
    for to in (f"s3://{bucket}/x", scene.out):
        error = await scene.refused(to, endpoint_url=ministack.url)
        assert error.message.startswith("cannot ")
        assert "nobody" in error.message


async def test_a_bucket_that_is_elsewhere(
    scene: Scene, bucket: str, ministack: Endpoint, make_proxy: MakeProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A region that S3 tells while it refuses to answer there is the one that is used."""
    headers = (("x-amz-bucket-region", "eu-west-1"),)
    moved = Answer(status=301, code="PermanentRedirect", headers=headers)
    proxy = make_proxy(ministack, dry_run_answered(), Fault(action=moved, method="HEAD", path="/[^/]+/?", times=None))
    for variable in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(variable, "us-east-1")
    async with scene.ready(f"s3://{bucket}/x", endpoint_url=proxy.url) as ready:
        assert [destination.region for destination in ready.destinations] == ["eu-west-1"]


async def test_a_bucket_that_encrypts_with_kms(scene: Scene, bucket: str, ministack: Endpoint) -> None:
    """Default encryption with KMS is told with the command that changes it."""
    rule = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms"}}
    with ministack.blocking_client() as s3:
        s3.put_bucket_encryption(Bucket=bucket, ServerSideEncryptionConfiguration={"Rules": [rule]})
    async with scene.ready(f"s3://{bucket}/x", endpoint_url=ministack.url, register_image=False):
        (notice,) = scene.notices
    assert notice.startswith(f"bucket {bucket} encrypts with KMS by default: EC2 may not be able to read")
    assert f"aws s3api put-bucket-encryption --bucket {bucket}" in notice


async def test_what_cannot_be_seen_is_told(
    scene: Scene, bucket: str, ministack: Endpoint, make_proxy: MakeProxy
) -> None:
    """Without the right to see the ownership controls the job goes on, with a notice."""
    hidden = Fault(action=Answer(status=403, code="AccessDenied"), method="GET", query="ownershipControls")
    proxy = make_proxy(ministack, dry_run_answered(), hidden)
    async with scene.ready(f"s3://{bucket}/x", endpoint_url=proxy.url):
        (notice,) = scene.notices
    assert "s3:GetBucketOwnershipControls" in notice


@pytest.mark.parametrize(
    "question",
    [
        Fault(action=Answer(status=503, code="SlowDown"), method="HEAD", path="/[^/]+/?"),
        Fault(action=Reset(after=0), method="HEAD", path="/[^/]+/?", times=2),
        Fault(action=Answer(status=503, code="SlowDown"), method="GET", query="ownershipControls"),
        Fault(action=Answer(status=503, code="SlowDown"), method="PUT"),
        Fault(action=Answer(status=503, code="SlowDown"), method="DELETE"),
        Fault(action=Answer(status=503, code="SlowDown"), method="HEAD", path=".*xml"),
        Fault(action=Answer(status=503, code="SlowDown"), method="GET", query="list-type"),
        Fault(action=Answer(status=503, code="RequestLimitExceeded"), method="POST", form="DescribeImages"),
        Fault(action=Answer(status=503, code="RequestLimitExceeded"), method="POST", form="RegisterImage"),
        Fault(action=Answer(status=503, code="Throttling"), method="POST", form="GetCallerIdentity"),
    ],
    ids=["bucket", "bucket reset", "acls", "put", "delete", "manifest", "list", "name", "dry run", "account"],
)
async def test_a_question_that_fails_once(
    question: Fault, scene: Scene, bucket: str, ministack: Endpoint, make_proxy: MakeProxy
) -> None:
    """What fails in passing is asked again, and the job is ready."""
    proxy = make_proxy(ministack, question, dry_run_answered())
    async with scene.ready(f"s3://{bucket}/x", endpoint_url=proxy.url, account=None) as ready:
        assert ready.facts.user == "123456789012"
    assert [each for each in proxy.requests if each.fault is question]
    assert list_keys(ministack, bucket) == []


@pytest.mark.parametrize("times", [1, None])
async def test_a_probe_whose_answer_is_lost(
    times: int | None, scene: Scene, bucket: str, ministack: Endpoint, make_proxy: MakeProxy
) -> None:
    """A probe object that may have been stored is deleted, whether the job goes on or not."""
    proxy = make_proxy(ministack, Fault(action=DropReply(), method="PUT", times=times), dry_run_answered())
    if times is None:
        error = await scene.refused(f"s3://{bucket}/x", endpoint_url=proxy.url)
        assert error.code == "aws.unreachable"
    else:
        async with scene.ready(f"s3://{bucket}/x", endpoint_url=proxy.url):
            pass
    assert proxy.seen("PUT")[0].upstream_status == 200
    assert list_keys(ministack, bucket) == []


@pytest.mark.parametrize("method", ["HEAD", "PUT", "DELETE"])
async def test_a_cancel_leaves_nothing(
    method: str, scene: Scene, bucket: str, ministack: Endpoint, make_proxy: MakeProxy
) -> None:
    """A cancel while S3 is asked closes the volume and removes the probe object."""
    held = Fault(action=HoldReply(), method=method)
    proxy = make_proxy(ministack, held)

    async def look() -> None:
        async with scene.ready(f"s3://{bucket}/x", endpoint_url=proxy.url, settings={"stall_timeout_s": 1}):
            pytest.fail("ready all the same")

    looking = asyncio.create_task(look())
    await asyncio.to_thread(proxy.wait_hit, held)
    looking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await looking
    await asyncio.to_thread(proxy.hang_up)
    assert list_keys(ministack, bucket) == []
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://nothing.invalid"])
async def test_nobody_answers_is_told_at_once(
    url: str, scene: Scene, ministack: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nobody listens, and where there is no such name, nobody is asked again and again."""
    use_endpoint(ministack, monkeypatch)
    hours = {"backoff_base_s": 3600, "backoff_cap_s": 3600}
    async with asyncio.timeout(60):
        error = await scene.refused("s3://bucket/x", endpoint_url=url, settings=hours)
    assert (error.code, "tried" in error.message) == ("aws.unreachable", False)


async def test_a_directory_is_checked_without_aws(scene: Scene) -> None:
    """Nothing of AWS is asked for a directory."""
    async with scene.ready(scene.out, region="eu-west-1") as ready:
        (destination,) = ready.destinations
        assert (destination.region, destination.ec2) == ("eu-west-1", None)
    assert not scene.out.exists()


async def test_a_confined_job_learns_nothing_of_what_lies_outside(scene: Scene, tmp_path: Path) -> None:
    """What is outside the roots is refused with the same words, whether it is there or not, writable or not."""
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    (outside / "file").touch()
    image = random_image(inside / "disk.img", 700_000)
    certificate = inside / "ec2.pem"
    certificate.write_bytes(scene.keys.ec2.certificate.read_bytes())
    own = {"source": str(image), "certificate": None, "private_key": None, "ec2_certificate": str(certificate),
           "roots": Roots([inside])}  # fmt: skip
    async with scene.ready(inside / "a" / "b", **own):
        assert (inside / "a" / "b").is_dir()
    (inside / "link").symlink_to(outside)
    there = (
        outside,
        outside / "file",
        outside / "nothing",
        inside / "link",
        inside / "link" / "x",
        inside / ".." / "x",
    )
    errors = [await scene.refused(path, **own) for path in there]
    assert {error.code for error in errors} == {"roots.outside"}
    assert (
        len({error.message.replace(os.path.normpath(path), "PATH") for error, path in zip(errors, there, strict=True)})
        == 1
    )
    assert (await scene.refused(inside / "c", **{**own, "source": str(outside / "file")})).code == "roots.outside"
    keys = {"certificate": str(scene.keys.user.certificate), "private_key": str(scene.keys.user.key)}
    error = await scene.refused(inside / "c", **{**own, **keys})
    assert (error.code, error.field) == ("roots.outside", "certificate")
    ec2 = str(scene.keys.ec2.certificate)
    error = await scene.refused(inside / "c", **{**own, "ec2_certificate": ec2})
    assert (error.code, error.field) == ("roots.outside", "ec2_certificate")
    settled = {"ec2_certificate": None, "settings": {"ec2_certificates": {"default": ec2}}}
    async with scene.ready(inside / "d", **{**own, **settled}):
        pass  # what the administrator has set may lie anywhere
    assert sorted(path.name for path in outside.iterdir()) == ["file"]
