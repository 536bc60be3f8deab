"""The command `inspect`: what it says of disks and manifests, in words and as JSON, and what it refuses."""

from __future__ import annotations

import gzip
import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from amistream.bundles.results import BundleFacts
from amistream.checks import inspection
from amistream.checks.inspection import DiskFacts, inspect_disk
from amistream.cli.commands.inspect import CORE_WORDS
from amistream.ports.registry import BUNDLE_TAG
from amistream.reports import Registered
from amistream.source.disks.loader import CorePlace
from amistream.values import GIB
from bundles.made import older_bundle
from jobs.work import use_endpoint
from source.images import convert, needs_qemu
from source.nobody import as_nobody, open_folder
from support.mounts import mounted
from support.volumes import FIXED_UUID, MIB, ext4_image, loop_device, random_image

if TYPE_CHECKING:
    from cli.running import Cli
    from conftest import MakeBucket
    from support.ebs_endpoint import EbsEndpoint
    from support.endpoints import Endpoint
    from support.keys import KeyRing

TABLE = """
label: gpt
14: start=2048, size=2048, type=21686148-6449-6E6F-744E-656564454649
1: start=4096, size=16384, type=L, name="a root"
2: start=20480, size=2048, type=L
"""
NARROW = 60


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A disk with boot code that is not GRUB's, ext4 in partition 1, and noise in partition 2."""
    folder = tmp_path_factory.mktemp("inspect")
    path = random_image(folder / "disk.img", 12 * MIB)
    subprocess.run(["sfdisk", "--quiet", "--wipe=always", path], input=TABLE, text=True, check=True)
    image = ext4_image(folder / "ext4", 8 * MIB)
    subprocess.run(["tune2fs", "-L", "cloudimg-rootfs", image], check=True, capture_output=True)
    with path.open("r+b") as file:
        file.write(b"code")
        file.seek(2 * MIB)
        file.write(image.read_bytes())
    return path


async def document(cli: Cli, *words: str | Path) -> dict[str, Any]:
    told = await cli("inspect", *map(str, words), "--json")
    assert (told.status, told.stderr) == (0, "")
    found: dict[str, Any] = json.loads(told.stdout)
    return found


def free_blocks(image: Path, offset: int) -> int:
    """The free bytes of the ext4 at `offset`, as dumpe2fs reads them from its superblock."""
    with image.open("rb") as file:
        file.seek(offset)
        alone = image.with_name("alone")
        alone.write_bytes(file.read(8 * MIB))
    said = subprocess.run(["dumpe2fs", "-h", alone], capture_output=True, text=True, check=True).stdout
    facts = dict(line.split(":", 1) for line in said.splitlines() if ":" in line)
    return int(facts["Free blocks"]) * int(facts["Block size"])


async def test_a_disk(cli: Cli, disk: Path) -> None:
    """The document has the table, the file systems, their used bytes as dumpe2fs counts them, and what is bundled."""
    found = DiskFacts.model_validate(await document(cli, disk))
    assert (found.type, found.kind, found.size, found.table) == ("disk", "image file", 12 * MIB, "gpt")
    assert (found.boot_loader, found.boot_core, found.efi_partition) == ("other", "", None)
    root, unknown, boot = found.areas
    assert (root.number, root.type_name, root.name, root.file_system) == (1, "Linux", "a root", "ext4")
    assert (root.label, root.uuid, root.file_system_size) == ("cloudimg-rootfs", FIXED_UUID, 8 * MIB)
    assert root.used == 8 * MIB - free_blocks(disk, 2 * MIB)
    assert 0 < root.bundled <= root.used
    assert (unknown.number, unknown.file_system, unknown.used, unknown.bundled) == (2, "", None, MIB)
    assert (boot.number, boot.type_name, boot.bundled) == (14, "BIOS boot", MIB)
    assert found.bundled + found.left_out.total == found.size
    finding, *others = found.findings
    assert [each.code for each in others] == ["boot.other_loader", "boot.unknown"]
    assert (finding.name, finding.status.value) == ("free_blocks", "notice")
    assert finding.found.startswith("partition 2 ")


async def test_a_disk_in_words(cli: Cli, disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal of 60 columns shows every fact."""
    monkeypatch.setenv("COLUMNS", str(NARROW))
    told = await cli("inspect", str(disk))
    assert told.status == 0
    lines = told.stdout.splitlines()
    assert [line for line in lines if len(line) > NARROW and str(disk) not in line] == []
    assert [line.split()[:2] for line in lines if line[:1].isdigit()] == [["1", "ext4"], ["2", "-"], ["14", "-"]]
    words = " ".join(told.stdout.split())
    for fact in ("label cloudimg-rootfs", f"UUID {FIXED_UUID}", "free blocks", "boot other", "BIOS boot", "notice"):
        assert fact in words


@needs_qemu
async def test_an_image_of_a_virtual_machine(cli: Cli, disk: Path, tmp_path: Path) -> None:
    """The disk in a qcow2 is inspected as the raw one."""
    raw = await document(cli, disk)
    found = await document(cli, convert(disk, tmp_path / "disk.qcow2", "qcow2"))
    assert found["kind"] == "image of a virtual machine"
    for area in (*found["areas"], *raw["areas"]):
        area["bundled"] = None  # qemu-img leaves out what is zeros
    assert found["areas"] == raw["areas"]


async def test_a_device_in_use(cli: Cli, tmp_path: Path) -> None:
    """A mounted device is inspected, with a notice, and a bundle would leave nothing out."""
    image = ext4_image(tmp_path / "ext4", 8 * MIB)
    with loop_device(image, read_only=False) as device, mounted(device, tmp_path / "rw") as place:
        found = DiskFacts.model_validate(await document(cli, device))
    assert (found.kind, found.mounted, found.bundled) == ("block device", str(place), 8 * MIB)
    assert found.findings[0].name == "mount"
    (repair,) = [each.fix for each in found.findings if "e2fsck -f" in each.fix and each.name == "free_blocks"]
    assert repair == f"never while it is mounted: first umount {place}, then e2fsck -f {device}"


def test_without_rights(disk: Path) -> None:
    """A user without rights inspects a file that he may read."""
    with open_folder() as folder:
        copy = folder / "disk.img"
        copy.write_bytes(disk.read_bytes())
        with as_nobody():
            assert inspect_disk(str(copy)).areas[0].label == "cloudimg-rootfs"


async def test_a_directory(cli: Cli, tmp_path: Path) -> None:
    """Of a directory the file system is shown that would be made of it, and what keeps it from booting."""
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "file").write_bytes(b"x" * MIB)
    told = await cli("inspect", str(tmp_path / "tree"), "--json")
    facts = json.loads(told.stdout)
    assert (told.status, facts["kind"], facts["areas"][0]["file_system"]) == (0, "directory tree", "ext4")
    assert MIB < facts["bundled"] < 64 * MIB
    assert "--partition mbr puts a table and GRUB before it" in told.stdout
    assert facts["size"] <= 10 << 30


async def test_a_directory_without_what_is_cleaned(cli: Cli, tmp_path: Path, disk: Path) -> None:
    """--clean leaves out of a directory what it would for a bundle; of anything else it is refused."""
    (tmp_path / "tree/etc").mkdir(parents=True)
    (tmp_path / "tree/etc/machine-id").write_text("0123456789abcdef0123456789abcdef")
    (tmp_path / "tree/etc/fstab").write_text("")
    plain = await cli("inspect", str(tmp_path / "tree"))
    assert "share logs" in " ".join(plain.stdout.split())
    clean = await cli("inspect", str(tmp_path / "tree"), "--clean", "all")
    assert "share logs" not in " ".join(clean.stdout.split())
    told = await cli("inspect", str(disk), "--clean", "all")
    assert (told.status, "cannot apply --clean" in told.stderr) == (3, True)
    told = await cli("inspect", str(tmp_path / "tree"), "--clean", "dust")
    assert (told.status, "--clean" in told.stderr) == (2, True)


def test_a_directory_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory that does not fit into an AMI is inspected all the same, with a notice."""
    monkeypatch.setattr(inspection, "_LARGEST_IMAGE", 16 * MIB)
    (tmp_path / "file").write_bytes(b"x" * 20 * MIB)
    found = inspect_disk(str(tmp_path))
    assert found.size > 20 * MIB
    assert [finding.found for finding in found.findings if finding.name == "size"] == [
        "it does not fit into an AMI, which has at most 16.0 MiB"
    ]


@pytest.mark.parametrize(
    ("name", "says", "status"),
    [
        ("missing", "there is no such file or device", 3),
        ("archive", "it is a gzip file, not a disk", 3),
        ("broken.manifest.xml", "it is not XML", 3),
        ("missing.manifest.xml", "cannot find the manifest", 3),
    ],
)
async def test_what_is_refused(name: str, says: str, status: int, cli: Cli, tmp_path: Path) -> None:
    """A wrong source is refused with its name and the reason."""
    (tmp_path / "archive").write_bytes(gzip.compress(bytes(MIB)))
    (tmp_path / "broken.manifest.xml").write_bytes(b"no manifest")
    told = await cli("inspect", str(tmp_path / name))
    assert told.status == status
    assert says in told.stderr
    assert str(tmp_path / name) in told.stderr
    assert "cannot bundle" not in told.stderr


def test_words_for_every_core() -> None:
    """Each place of GRUB's core has words."""
    assert set(CORE_WORDS) == {place.value for place in CorePlace}


async def test_a_stream(cli: Cli) -> None:
    """Standard input is refused as a misuse."""
    told = await cli("inspect", "-")
    assert (told.status, "cannot inspect standard input" in told.stderr) == (2, True)


async def test_an_empty_word(cli: Cli) -> None:
    """A variable that is not set never stands for the working directory."""
    told = await cli("inspect", "")
    assert (told.status, "SOURCE is empty" in told.stderr) == (2, True)


async def test_a_name_that_is_not_utf8(cli: Cli, disk: Path, tmp_path: Path) -> None:
    """A file's name need not be UTF-8: JSON escapes it."""
    name = tmp_path / "disk\udcff"
    name.symlink_to(disk)
    assert (await document(cli, name))["source"] == f"{tmp_path}/disk\\udcff"


async def test_a_manifest_in_a_file(cli: Cli, tmp_path: Path, key_ring: KeyRing) -> None:
    """A manifest is recognised by its content, read without a key, and has no AMIs in a directory."""
    bundle = older_bundle(tmp_path / "old", key_ring, [300_000, 1000], kernel="aki-12345678")
    manifest = bundle.rename(bundle.with_name("manifest of web-1"))
    found = BundleFacts.model_validate(await document(cli, manifest))
    assert (found.type, found.bundler, found.bundler_version) == ("bundle", "ec2-ami-tools", "1.5")
    assert (found.architecture, found.image_size, found.parts, found.bundled_size) == ("x86_64", 40 * MIB, 2, 301_000)
    assert (found.kernel, found.account, found.images) == ("aki-12345678", "123456789012", None)
    told = await cli("inspect", str(manifest))
    words = " ".join(told.stdout.split())
    for fact in ("made by ec2-ami-tools 1.5", "machine, x86_64, 40.0 MiB", "2 parts", "kernel aki-1", "AMIs not known"):
        assert fact in words
    manifest.rename(bundle)
    assert f"amistream inspect {bundle}` shows it" in (await cli("inspect", str(bundle.parent))).stderr


async def test_a_manifest_in_a_bucket(
    cli: Cli, cloud: Endpoint, make_bucket: MakeBucket, tmp_path: Path, key_ring: KeyRing
) -> None:
    """EC2 is asked for the AMIs of a manifest in a bucket."""
    bundle = older_bundle(tmp_path / "old", key_ring, [300_000, 1000])
    location = f"{make_bucket(cloud)}/web/{bundle.name}"
    reach = ("--endpoint-url", cloud.url)
    assert (await cli("upload", str(bundle), f"s3://{location.rpartition('/')[0]}", *reach)).status == 0
    told = await cli("register", f"s3://{location}", "--ami-name", location, "--json", *reach)
    image = Registered.model_validate_json(told.stdout)
    assert (await document(cli, f"s3://{location}", *reach))["images"] == [image.image_id]
    assert (await document(cli, f"s3://{location}", "--no-ec2", *reach))["images"] is None
    tag = [{"Key": BUNDLE_TAG, "Value": location}]
    with cloud.blocking_client("ec2") as ec2:
        volume = ec2.create_volume(Size=1, AvailabilityZone=f"{cloud.region}a")["VolumeId"]
        specification = [{"ResourceType": "snapshot", "Tags": tag}]
        snapshot = ec2.create_snapshot(VolumeId=volume, TagSpecifications=specification)["SnapshotId"]
        mapping = [{"DeviceName": "/dev/xvda", "Ebs": {"SnapshotId": snapshot}}]
        name = f"{location} on EBS"
        converted = ec2.register_image(Name=name, RootDeviceName="/dev/xvda", BlockDeviceMappings=mapping)
        ec2.create_tags(Resources=[converted["ImageId"]], Tags=tag)
    found = await document(cli, f"s3://{location}", *reach)
    assert (found["converted"], found["snapshots"]) == ([converted["ImageId"]], [snapshot])
    words = " ".join((await cli("inspect", f"s3://{location}", *reach)).stdout.split())
    assert f"EBS AMIs {converted['ImageId']} snapshots {snapshot}" in words


async def test_a_snapshot(cli: Cli, ebs_endpoint: EbsEndpoint, disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An EBS snapshot is inspected like the disk in it, and only some of its blocks are read."""
    use_endpoint(ebs_endpoint, monkeypatch)
    monkeypatch.setenv("AMISTREAM_ENDPOINT_URL", ebs_endpoint.url)
    made = ebs_endpoint.make_snapshot(disk)
    found, of_file = await document(cli, made), await document(cli, disk)
    assert (found["source"], found["kind"], found["size"]) == (made, "EBS snapshot", GIB)
    assert [(area["number"], area["file_system"], area["uuid"]) for area in found["areas"]] == [
        (area["number"], area["file_system"], area["uuid"]) for area in of_file["areas"]
    ]
    assert len(ebs_endpoint.requests("GetSnapshotBlock")) < 24
    told = await cli("inspect", "snap-0123456789abcdef0")
    assert (told.status, told.stdout) == (3, "")
    assert "cannot inspect snap-0123456789abcdef0: there is no such snapshot" in told.stderr
