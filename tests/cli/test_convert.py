"""`convert` by the real command: a volume, a bundle, every bundle of a bucket, and refusals."""

from __future__ import annotations

import filecmp
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from amistream.events import ConversionResult, JobView
from amistream.ports.registry import BUNDLE_TAG
from amistream.ports.snapshots import BLOCK
from amistream.values import GIB
from bundles.made import flip, put_files
from cli.running import Cli, Outcome, Spawn, ended
from cli.scripted import ScriptedDaemon
from jobs.work import request, run, settings, use_endpoint
from support.boot_disks import partitioned
from support.ebs_endpoint import read_back
from support.volumes import MIB, ext4_image, random_image

if TYPE_CHECKING:
    from conftest import MakeBucket
    from support.ebs_endpoint import EbsEndpoint, EbsServer
    from support.endpoints import Endpoint
    from support.keys import KeyRing


DENIED = "User: arn:aws:iam::123456789012:user/web is not authorized to perform: ebs:StartSnapshot"


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A disk with a table."""
    return partitioned(random_image(tmp_path / "disk.img", 4 * MIB), "mbr").path


@pytest.fixture
def clouds(
    ebs_server: EbsServer, seaweedfs: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Endpoint, EbsEndpoint]]:
    """An S3, and EBS with EC2 under the same credentials."""
    use_endpoint(seaweedfs, monkeypatch)
    with ebs_server.account(like=seaweedfs) as account:
        for service, endpoint in (("S3", seaweedfs), ("EC2", account), ("EBS", account), ("STS", account)):
            monkeypatch.setenv(f"AWS_ENDPOINT_URL_{service}", endpoint.url)
        yield seaweedfs, account


async def in_process(spawn: Spawn, *words: str | Path) -> Outcome:
    return await ended(await spawn("convert", *words, "--in-process"))


def result_of(outcome: Outcome) -> ConversionResult:
    assert outcome.status == 0, outcome.stderr
    result = JobView.model_validate_json(outcome.stdout).result
    assert isinstance(result, ConversionResult)
    return result


def user(keys: KeyRing) -> tuple[str, ...]:
    return "--cert", str(keys.user.certificate), "--private-key", str(keys.user.key)


def same(endpoint: EbsEndpoint, snapshot: str, image: Path, tmp_path: Path) -> bool:
    """Compare the snapshot's volume with the image, behind which it has zeros."""
    read_back(endpoint, snapshot, tmp_path / "volume")
    with (tmp_path / "volume").open("r+b") as volume:
        volume.truncate(image.stat().st_size)
    return filecmp.cmp(tmp_path / "volume", image, shallow=False)


async def test_a_volume(
    spawn: Spawn, ebs_endpoint: EbsEndpoint, disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk becomes a snapshot with its bytes, and an AMI with what the options say."""
    use_endpoint(ebs_endpoint, monkeypatch)
    options = ("--ami-name", "web 1", "--ena", "-B", "ephemeral0=sdb", "--tag", "team=web", "--snapshot-tag", "of=web")
    reach = ("--endpoint-url", ebs_endpoint.url, "--boot-mode", "legacy-bios", "--imds-support", "v2.0", "--json")
    result = result_of(await in_process(spawn, disk, *options, *reach))
    assert same(ebs_endpoint, result.snapshot_id, disk, tmp_path)
    (image,) = ebs_endpoint.images()
    assert (image["imageId"], image["name"]) == (result.image_id, "web 1") == (result.image_id, result.image_name)
    assert image["snapshots"] == [result.snapshot_id]
    assert image["blockDeviceMapping"][1] == {"deviceName": "/dev/sdb", "virtualName": "ephemeral0"}
    names = ("architecture", "virtualizationType", "rootDeviceName", "bootMode", "imdsSupport", "enaSupport")
    assert [image[name] for name in names] == ["x86_64", "hvm", "/dev/xvda", "legacy-bios", "v2.0", True]
    assert image["tags"]["team"] == "web"
    assert ebs_endpoint.snapshot(result.snapshot_id)["tags"]["of"] == "web"


async def test_refused(
    spawn: Spawn, ebs_endpoint: EbsEndpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bare file system is refused before a snapshot is started; --dry-run names the same, and makes nothing."""
    use_endpoint(ebs_endpoint, monkeypatch)
    image = ext4_image(tmp_path / "root.img", 4 * MIB)
    outcome = await in_process(spawn, image, "--endpoint-url", ebs_endpoint.url)
    assert (outcome.status, outcome.stdout) == (3, "")
    assert "bare ext4 file system" in outcome.stderr
    assert "--partition mbr" in outcome.stderr
    outcome = await in_process(spawn, image, "--endpoint-url", ebs_endpoint.url, "--dry-run", "--json")
    assert outcome.status == 3
    findings = {each["name"]: each["status"] for each in json.loads(outcome.stdout)["findings"]}
    assert findings["bootable"] == "failed"
    assert (findings["source"], findings["ami_name"], findings["registration"]) == ("ok", "ok", "skipped")
    outcome = await in_process(spawn, image, "--endpoint-url", ebs_endpoint.url, "--dry-run", "--no-register")
    assert outcome.status == 0, outcome.stdout
    plan = dict(line.split(maxsplit=1) for line in outcome.stdout.rpartition("\n\n")[2].splitlines())
    assert list(plan) == ["read", "send", "time", "memory", "cost", "measured", "note"]
    assert "4 blocks, 4 requests" in plan["send"]
    assert ebs_endpoint.snapshots() == []


async def test_a_bundle(
    spawn: Spawn,
    ebs_endpoint: EbsEndpoint,
    disk: Path,
    key_ring: KeyRing,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A bundle in a directory becomes an AMI; a damaged one leaves neither a snapshot nor an AMI."""
    use_endpoint(ebs_endpoint, monkeypatch)
    monkeypatch.chdir(tmp_path)
    job = await run(request(disk, tmp_path / "out", key_ring), settings(tmp_path))
    assert job.result is not None, job.error
    words = ("out/image.manifest.xml", "--endpoint-url", ebs_endpoint.url, *user(key_ring))
    plan = json.loads((await in_process(spawn, *words, "--dry-run", "--json")).stdout)["plan"]
    assert (plan["sample_size"], plan["is_most"], plan["limited_by"]) == (plan["read_size"], True, "reading")
    result = result_of(await in_process(spawn, *words, "--json"))
    assert same(ebs_endpoint, result.snapshot_id, disk, tmp_path)
    assert ebs_endpoint.images()[0]["tags"][BUNDLE_TAG] == str(tmp_path / "out" / "image.manifest.xml")
    flip(tmp_path / "out" / "image.part.03")
    outcome = await in_process(spawn, *words)
    assert outcome.status in {4, 5}, outcome.stderr
    assert "image.part.03" in outcome.stderr
    assert ebs_endpoint.orphans() == []
    assert len(ebs_endpoint.images()) == 1


async def test_a_snapshot_is_copied_and_converted(
    spawn: Spawn, ebs_endpoint: EbsEndpoint, disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`unbundle snap-ID` copies the snapshot's volume to a sparse file; `convert snap-ID` makes another snapshot."""
    use_endpoint(ebs_endpoint, monkeypatch)
    snapshot = ebs_endpoint.make_snapshot(disk)
    reach = ("--endpoint-url", ebs_endpoint.url)
    copy = tmp_path / "copy.img"
    outcome = await ended(await spawn("unbundle", snapshot, copy, *reach, "--json"))
    assert outcome.status == 0, outcome.stderr
    assert json.loads(outcome.stdout)["image_size"] == copy.stat().st_size == GIB
    assert copy.stat().st_blocks * 512 <= 8 * MIB
    os.truncate(copy, disk.stat().st_size)
    assert filecmp.cmp(copy, disk, shallow=False)
    result = result_of(await in_process(spawn, snapshot, "--no-register", *reach, "--json"))
    assert same(ebs_endpoint, result.snapshot_id, disk, tmp_path)
    assert result.blocks == disk.stat().st_size // BLOCK
    outcome = await ended(await spawn("unbundle", snapshot, copy, *reach))
    assert outcome.status == 3
    assert "it exists already" in outcome.stderr
    outcome = await ended(await spawn("unbundle", "snap-0123456789abcdef0", tmp_path / "none", *reach))
    assert outcome.status == 3
    assert "cannot copy snap-0123456789abcdef0: there is no such snapshot" in outcome.stderr
    assert not (tmp_path / "none").exists()


async def test_every_bundle(
    spawn: Spawn,
    clouds: tuple[Endpoint, EbsEndpoint],
    make_bucket: MakeBucket,
    disk: Path,
    key_ring: KeyRing,
    tmp_path: Path,
) -> None:
    """Each whole bundle of a bucket is converted once; the same command again has nothing to do."""
    s3, ebs = clouds
    bucket = make_bucket(s3)
    job = await run(request(disk, tmp_path / "out", key_ring), settings(tmp_path))
    assert job.result is not None, job.error
    for prefix in ("a/", "b/"):
        put_files(s3, bucket, tmp_path / "out", prefix)
    lost = tmp_path / "out" / "image.part.03"
    part_size = lost.stat().st_size
    lost.unlink()
    put_files(s3, bucket, tmp_path / "out", "broken/")
    words = (f"s3://{bucket}", "--every", *user(key_ring), "--ena")
    outcome = await in_process(spawn, *words, "--dry-run", "--json")
    assert outcome.status == 0, outcome.stderr
    document = json.loads(outcome.stdout)
    assert [each["state"] for each in document["bundles"]] == ["waiting", "waiting", "broken"]
    size = sum(path.stat().st_size for path in (tmp_path / "out").iterdir())
    estimate = document["plan"]
    assert (estimate["image_size"], estimate["requests"]) == (2 * disk.stat().st_size, estimate["pieces"])
    assert size < estimate["read_size"] / 2 <= size + part_size
    assert 0 < estimate["sample_size"] <= estimate["read_size"]
    assert (estimate["is_least"], estimate["is_most"], estimate["limited_by"]) == (True, True, "reading")
    assert estimate["seconds"] > 0
    assert estimate["cost"] == pytest.approx(estimate["sent_size"] / GIB * 0.05)
    assert ebs.snapshots() == []
    outcome = await in_process(spawn, *words, "--dry-run")
    shown = outcome.stdout.splitlines()
    assert "Of the 2 that wait, an estimate:" in shown
    assert any(line.startswith("send      at most") for line in shown)
    outcome = await in_process(spawn, *words, "--json")
    assert outcome.status == 4, outcome.stderr
    ends = json.loads(outcome.stdout)["bundles"]
    assert [each["state"] for each in ends] == ["done", "done", "broken"]
    made = {image["tags"][BUNDLE_TAG]: image["imageId"] for image in ebs.images()}
    assert made == {
        f"{bucket}/{prefix}/image.manifest.xml": end["image_id"] for prefix, end in zip("ab", ends, strict=False)
    }
    outcome = await in_process(spawn, *words)
    assert "there" in outcome.stdout
    assert len(ebs.images()) == 2


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ({"code": "AccessDeniedException", "status": 403, "message": DENIED}, "ebs:StartSnapshot"),
        ({"code": "AccessDeniedException", "status": 403, "reason": "DEPENDENCY_ACCESS_DENIED"}, "KMS"),
        (
            {"code": "ServiceQuotaExceededException", "status": 402, "reason": "DEPENDENCY_SERVICE_QUOTA_EXCEEDED"},
            "quota",
        ),
    ],
)
async def test_ebs_refuses_the_snapshot(
    spawn: Spawn,
    ebs_endpoint: EbsEndpoint,
    disk: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: dict[str, Any],
    says: str,
) -> None:
    """A refusal of EBS is named after one request, and nothing is left."""
    use_endpoint(ebs_endpoint, monkeypatch)
    ebs_endpoint.fault("StartSnapshot", times=None, **fault)
    outcome = await in_process(spawn, disk, "--endpoint-url", ebs_endpoint.url, "--encrypted")
    assert (outcome.status, outcome.stdout) == (4, "")
    assert says in outcome.stderr
    assert len(ebs_endpoint.requests("StartSnapshot")) == 1
    assert (ebs_endpoint.snapshots(), ebs_endpoint.images()) == ([], [])


async def test_every_option_reaches_the_daemon(
    daemon: ScriptedDaemon, cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each option fills the field that it stands for; a relative path starts at the caller's directory."""
    monkeypatch.chdir(tmp_path)
    options = (
        *("--ami-name", "web 1", "--no-ena", "--sriov", "--boot-mode", "uefi", "--imds-support", "v2.0"),
        *("--volume-size", "20GiB", "--volume-type", "gp2", "--encrypted", "--kms-key-id", "1234-abcd", "--puts", "32"),
        *(
            "--root-device",
            "/dev/sda1",
            "--copy-tags",
            "--tag",
            "a=b=c",
            "--snapshot-tag",
            "of=web",
            "-B",
            "ephemeral0=sdb",
        ),
    )
    outcome = await cli("convert", "bundle/image.manifest.xml", *options, "--detach")
    assert outcome.status == 0, outcome.stderr
    assert daemon.requests("POST")[0].body == {
        "kind": "convert",
        "source": str(tmp_path / "bundle/image.manifest.xml"),
        "ami_name": "web 1",
        "ena": False,
        "sriov": True,
        "boot_mode": "uefi",
        "imds_support": "v2.0",
        "volume_size": 20 * GIB,
        "volume_type": "gp2",
        "encrypted": True,
        "kms_key_id": "1234-abcd",
        "puts": 32,
        "root_device": "/dev/sda1",
        "copy_tags": True,
        "tags": {"a": "b=c"},
        "snapshot_tags": {"of": "web"},
        "block_device_mappings": {"ephemeral0": "sdb"},
    }
    for number, source in enumerate(("s3://bucket/web/image.manifest.xml", "snap-0123456789abcdef0"), 1):
        assert (await cli("convert", source, "--detach")).status == 0
        assert daemon.requests("POST")[number].body == {"kind": "convert", "source": source}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("-", "--detach"), "--detach needs the daemon"),
        (("/x", "--jobs", "2"), "--jobs needs --every"),
        (("/x", "--every"), "is no bucket"),
        (("s3://b/m", "--every", "--detach"), "leave --detach out"),
        (("s3://b/m", "--every", "--ami-name", "one"), "leave --ami-name out"),
        (("/x", "--kms-key-id", "alias/web"), "aws kms describe-key"),
        (("/x", "--volume-type", "st1"), "--volume-type"),
        (("/x", "--virtualization", "paravirtual", "--ena"), "need --virtualization hvm"),
        (("/x", "--snapshot-tag", "team"), "KEY=VALUE"),
        (("/x", "--to", "s3://b"), "No such option"),
    ],
)
async def test_usage(cli: Cli, words: tuple[str, ...], says: str) -> None:
    """A command that cannot be meant is refused in words, with status 2."""
    outcome = await cli("convert", *words)
    assert (outcome.status, outcome.stdout) == (2, "")
    assert says in outcome.stderr
