"""`ec2-bundle-vol` as Packer and older scripts call it, on a directory in place of the running system."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from amistream.compat.running_system import FILTER
from amistream.compat.tree_paths import excludes, includes
from amistream.errors import UsageError
from compat.conftest import Ended, Old, instance
from source.tree.images import content_of, debugfs, is_clean, names_in, opened, shown_by_kernel
from source.tree.nasty import described
from support.buckets import download_bundle
from support.mounts import small_disk
from support.referee import check_bundle

if TYPE_CHECKING:
    from conftest import MakeBucket
    from support.endpoints import Endpoint
    from support.keys import KeyRing

ACCOUNT = "111122223333"
DOCUMENT = (Path(__file__).parents[2] / "docs" / "drop-in.md").read_text()
DATA = {
    "block-device-mapping/": "ami\nebs1\nephemeral0\nephemeral1\nroot",
    "block-device-mapping/ami": "sda1",
    "block-device-mapping/ebs1": "sdh",
    "block-device-mapping/ephemeral0": "sdb",
    "block-device-mapping/ephemeral1": "xvdal",
    "block-device-mapping/root": "/dev/sda1",
    "ancestor-ami-ids": "ami-11111111\nami-22222222",
    "ami-id": "ami-22222222",
}
PACKER = (
    "sudo -i -n ec2-bundle-vol -k {{.KeyPath}} -u {{.AccountId}} -c {{.CertPath}} -r {{.Architecture}} "
    "-e {{.PrivatePath}}/* -d {{.Destination}} -p {{.Prefix}} --batch --no-filter"
)
PACKER_UPLOAD = (
    "sudo -i -n ec2-upload-bundle -b {{.BucketName}} -m {{.ManifestPath}} -a {{.AccessKey}} -s {{.SecretKey}} "
    "-d {{.BundleDirectory}} --batch --region {{.Region}} --retry"
)


@pytest.fixture
def root(tmp_path: Path, old: Old) -> Path:
    """A small system, in which somebody has put the key and the certificate, too."""
    root = tmp_path / "root"
    for folder in ("srv/keys", "etc", "home/a/.ssh", "tmp", "mnt", "dev", "proc"):
        (root / folder).mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    (root / "etc" / "hostname").write_text("one\n")
    (root / ".autorelabel").touch()
    (root / "home" / "a" / "site.pem").write_text("a site's certificate")
    os.link(root / "etc" / "hostname", root / "etc" / "hostname2")
    (tmp_path / "pk.pem").rename(root / "srv" / "keys" / "key.pem")
    (tmp_path / "cert.pem").rename(root / "srv" / "keys" / "cert.pem")
    (tmp_path / "out").mkdir()
    return root


def good(ended: Ended) -> Ended:
    assert ended.status == 0, ended.stderr
    return ended


def unbundled(old: Old, root: Path, keys: KeyRing, *, prefix: str = "image", where: str = "out") -> Path:
    """The image of a bundle, which our own and the usual programs accept, and which holds neither key."""
    manifest, key = f"{where}/{prefix}.manifest.xml", root / "srv/keys/key.pem"
    good(old(f"amistream verify --deep {manifest} --private-key {key} --cert {root}/srv/keys/cert.pem"))
    good(old(f"ec2-unbundle -k {key} -m {manifest} -s {where}"))
    image = old.directory / prefix
    check_bundle(old.directory / where, image, keys.user.key, keys.user.certificate)
    assert is_clean(image)
    content = image.read_bytes()
    for secret in (keys.user.key, keys.user.certificate):
        assert secret.read_bytes().splitlines()[2] not in content
    return image


def test_what_packer_runs(
    old: Old, root: Path, moto_server: Endpoint, make_bucket: MakeBucket, key_ring: KeyRing, tmp_path: Path
) -> None:
    """Packer's default commands, with PATH/* expanded by the shell, bundle the system without key and certificate."""
    keys, bucket = root / "srv/keys", make_bucket(moto_server)
    values = {
        "KeyPath": keys / "key.pem", "AccountId": ACCOUNT, "CertPath": keys / "cert.pem", "Architecture": "x86_64",
        "PrivatePath": "/srv/keys", "Destination": "out", "Prefix": "image-1700000000", "BucketName": bucket,
        "ManifestPath": "out/image-1700000000.manifest.xml", "BundleDirectory": "out", "Region": moto_server.region,
        "AccessKey": moto_server.access_key, "SecretKey": moto_server.secret_key,
    }  # fmt: skip

    def rendered(template: str) -> str:
        line = re.sub(r"\{\{\.(\w+)\}\}", lambda found: str(values[found[1]]), template)
        return line.removeprefix("sudo -i -n ").replace("/srv/keys/*", "/srv/keys/cert.pem /srv/keys/key.pem")

    with instance(DATA) as url:
        line = f"{rendered(PACKER)} -v {root} -s 64"
        done = good(old(line, AWS_EC2_METADATA_SERVICE_ENDPOINT=url))
    assert "Created image-1700000000.part.00\n" in done.stdout
    assert done.stdout.endswith("ec2-bundle-vol complete.\n")
    assert "not inherited from this instance: block_device_mappings: 'xvdal'" in done.stderr
    image = unbundled(old, root, key_ring, prefix="image-1700000000")
    assert names_in(image, "/srv/keys") == set()
    assert content_of(image, "/home/a/site.pem") == b"a site's certificate"
    manifest = (tmp_path / "out" / "image-1700000000.manifest.xml").read_text()
    assert re.findall("<virtual>(.*?)</virtual><device>(.*?)</device>", manifest) == [
        ("ami", "sda1"), ("ephemeral0", "sdb"), ("root", "/dev/sda1"),
    ]  # fmt: skip
    assert re.findall("<ancestor_ami_id>(.*?)<", manifest) == ["ami-11111111", "ami-22222222"]
    assert "<type>machine</type>" in manifest

    good(old(rendered(PACKER_UPLOAD), to=moto_server, keys=False))
    download_bundle(moto_server, bucket, "", tmp_path / "stored")
    check_bundle(tmp_path / "stored", image, key_ring.user.key, key_ring.user.certificate)
    # Without keys, as with an instance profile; the bundle exists already.
    good(old(rendered(re.sub(r"-[as] \{\{.\w+\}\} ", "", PACKER_UPLOAD)), to=moto_server))


def test_packers_one_step(
    old: Old, root: Path, moto_server: Endpoint, make_bucket: MakeBucket, key_ring: KeyRing, tmp_path: Path
) -> None:
    """The documented command for Packer streams the system straight to the bucket, without the private key."""
    keys, bucket = root / "srv/keys", make_bucket(moto_server)
    (block,) = re.findall(r"```json\n(.*?)```", DOCUMENT, re.DOTALL)
    values = {"Prefix": "image-1", "AccountId": ACCOUNT, "Architecture": "x86_64"}
    values |= {"CertPath": str(keys / "cert.pem"), "KeyPath": str(keys / "key.pem")}
    line = re.sub(r"\{\{\.(\w+)\}\}", lambda found: values[found[1]], json.loads(block)["bundle_vol_command"])
    (keys / "key.pem").chmod(0o644)  # as Packer copies it
    mend, line = line.replace("sudo -i -n ", "").replace("my-bucket", bucket).split(" && ")
    subprocess.run(mend.split(), check=True)
    good(old(line.replace("bundle / ", f"bundle {root} --size 64MiB "), to=moto_server))
    download_bundle(moto_server, bucket, "", tmp_path / "stored")
    assert names_in(unbundled(old, root, key_ring, prefix="image-1", where="stored"), "/srv/keys") == set()


def test_defaults(old: Old, root: Path, key_ring: KeyRing) -> None:
    """With its few options the image has 10,240 MiB, names of the filter are out, and the rest is as in the system."""
    keys = root / "srv/keys"
    line = f"ec2-bundle-vol -k {keys}/key.pem -c {keys}/cert.pem -u {ACCOUNT} -d out -v {root} --no-inherit --batch"
    line += " --report left-out -B ami=sda1,root=/dev/sda1,ephemeral0=sdb,swap=sda3"
    done = good(old(line, AMISTREAM_PART_SIZE="10MiB"))
    assert "the architecture is" in done.stderr
    manifest = (old.directory / "out" / "image.manifest.xml").read_text()
    assert "<size>10737418240</size>" in manifest
    assert "<mapping><virtual>swap</virtual><device>sda3</device></mapping>" in manifest
    report = [json.loads(line) for line in (old.directory / "left-out").read_text().splitlines()]
    own = "always: a file of this job, of amistream, or swap space"
    assert {line["path"]: line["why"] for line in report} == {
        "/home/a/site.pem": "--exclude *.pem",
        "/srv/keys/cert.pem": own,
        "/srv/keys/key.pem": own,
    }


def test_what_chroots_pass(old: Old, root: Path, key_ring: KeyRing) -> None:
    """RightImage's options: `-e /tmp` leaves the directory itself, hard links and dot files at the top are kept."""
    (root / "tmp" / "left").write_text("over")
    keys = root / "srv/keys"
    line = f"ec2-bundle-vol -k {keys}/key.pem -c {keys}/cert.pem -u {ACCOUNT} -r x86_64 -d out -v {root} -s 64"
    good(
        old(f"{line} --exclude /tmp -P none --no-inherit --generate-fstab --kernel aki-12345678 --ramdisk ari-12345678")
    )
    image = unbundled(old, root, key_ring)
    assert names_in(image) >= {".autorelabel", "tmp", "etc"}
    assert names_in(image, "/tmp") == set()
    assert "Mode:  01777" in debugfs(image, "stat /tmp")
    assert "Links: 2" in debugfs(image, "stat /etc/hostname")
    assert b" / ext4 defaults 0 1\n" in content_of(image, "/etc/fstab")
    assert "<kernel_id>aki-12345678</kernel_id>" in (old.directory / "out" / "image.manifest.xml").read_text()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")
def test_script(old: Old, root: Path, key_ring: KeyRing, tmp_path: Path) -> None:
    """A script changes the image, which the kernel finds to be the same but for that; the system stays as it was."""
    (root / "etc" / "gone").write_text("gone")
    (root / "etc" / "fstab").write_text("LABEL=root / ext4 defaults 0 1\n")
    script = old.directory / "script"
    script.write_text("#!/bin/sh\nset -e\nhostname=$1/etc/hostname\nrm $1/etc/gone\necho two >$hostname\n")
    script.chmod(0o755)
    with small_disk(tmp_path / "probe", "64k"):
        pass  # or the test is skipped: root may not mount
    before, keys = described(root), root / "srv/keys"
    line = f"ec2-bundle-vol -k {keys}/key.pem -c {keys}/cert.pem -u {ACCOUNT} -r x86_64 -d out -v {root} -s 64"
    good(old(f"{line} -P none --no-filter --no-inherit --generate-fstab --script script"))
    image = unbundled(old, root, key_ring)
    assert is_clean(image)
    with shown_by_kernel(image, tmp_path / "mnt") as mount:
        found = described(mount)
        assert (mount / "etc" / "hostname").read_text() == "two\n"
    assert described(root) == before
    ours = {b"/etc", b"/etc/gone", b"/etc/hostname", b"/etc/hostname2", b"/etc/fstab"}
    own = {b"/srv/keys/key.pem", b"/srv/keys/cert.pem"}
    same = before.keys() - ours - own
    assert {path: found[path] for path in same} == {path: before[path] for path in same}
    made = {path for path in found if path.startswith((b"/dev/", b"/lost+found"))}
    assert found.keys() - made == before.keys() - own - {b"/etc/gone"} | {b"/etc/fstab.old"}


def test_what_starcluster_passes(old: Old, root: Path, key_ring: KeyRing) -> None:
    """A list of directories to leave out: those that a system needs stay, empty; -i wins over what leaves out."""
    (root / "mnt" / "image.part.00").write_text("another bundle")
    (root / "home" / "a" / ".ssh" / "known_hosts").write_text("host")
    keys = root / "srv/keys"
    line = f"ec2-bundle-vol -c {keys}/cert.pem -k {keys}/key.pem -u {ACCOUNT} -r x86_64 -d out -v {root} -s 64"
    good(old(f"{line} -p image -e /mnt,/home/a/.ssh,/tmp,/etc/* -i /etc/hostname --no-inherit --debug"))
    image = unbundled(old, root, key_ring)
    assert names_in(image) == {".autorelabel", "dev", "etc", "home", "mnt", "proc", "srv", "tmp"}
    assert (names_in(image, "/mnt"), names_in(image, "/home/a")) == (set(), set())
    assert names_in(image, "/etc") == {"hostname"}
    assert names_in(image, "/dev") == {"console", "null", "tty", "zero"}


@pytest.mark.parametrize(
    ("more", "status", "told"),
    [
        ("", 12, "give --no-inherit outside EC2"),
        ("--no-inherit -s 10241", 254, "10240"),
        ("--no-inherit -s 1", 254, "give a larger --size"),
        ("--no-inherit -s big", 1, "--size"),
        ("--no-inherit -e /gone", 1, "nothing in"),
        ("--no-inherit -i /gone", 1, "nothing in"),
        ("--no-inherit -d gone", 1, "--destination"),
        ("--no-inherit -k gone", 1, "--privatekey"),
        ("--no-inherit -p a/b", 1, "--prefix"),
        ("--no-inherit -P apm", 1, "--partition"),
        ("--no-inherit --fstab gone", 1, "--fstab"),
        ("--no-inherit --fstab pyvenv --generate-fstab", 1, "both"),
        ("--no-inherit --clone-only", 1, "ec2-unbundle gives its image"),
        ("--no-inherit --script gone", 1, "--script"),
    ],
)
def test_refusals(more: str, status: int, told: str, old: Old, root: Path) -> None:
    """Each refusal has the old tool's status, names the option, and leaves nothing."""
    keys = root / "srv/keys"
    line = f"ec2-bundle-vol -k {keys}/key.pem -c {keys}/cert.pem -u {ACCOUNT} -r x86_64 -d out -v {root} {more}"
    ended = old(line, AWS_EC2_METADATA_SERVICE_ENDPOINT="http://127.0.0.1:1")
    assert (ended.status, ended.stdout) == (status, ""), ended.stderr
    assert told in ended.stderr
    assert not list((old.directory / "out").iterdir())


@pytest.mark.parametrize(
    ("path", "rule"),
    [
        ("k.pem", "*.pem"),
        ("a/k.pem", "*.pem"),
        ("dir.pem/inside", "*.pem"),
        ("a/old~/in", "*~"),
        ("a/.ssh/authorized_keys", "*/.ssh/authorized_keys"),
        ("a/.ssh/authorized_keys2", ""),
        ("a/.ssh/id_rsa.pub", "*id_rsa*"),
        ("a/.ssh/my_id_dsa", "*id_dsa*"),
        ("a/.ssh/id_ed25519", ""),
        ("a/.bash_history", "*/.bash_history"),
        (".bash_history", ""),
        ("a/.zsh_history", ""),
        ("a/#a#", "*/#*#"),
        ("a/.#lock", "*/.#*"),
        ("a/x.sw", "*.sw"),
        ("a/x.swo", "*.swo"),
        ("x.swp", "*.swp"),
        ("a/x.swx", ""),
        ("ring.gpg", "*.gpg"),
        ("store.jks", "*.jks"),
        ("k.priv", "*.priv"),
        ("k.key", ""),
        ("etc/ssh/ssh_host_rsa_key", ""),
    ],
)
def test_filter(path: str, rule: str, tmp_path: Path) -> None:
    """The filter's names mean to amistream what they mean to rsync, and the report has the rule."""
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).touch()
    with opened(tmp_path, exclude=FILTER, clean=()) as volume:
        reasons = [json.loads(line)["why"] for line in volume.report.lines()]
    assert reasons == ([f"--exclude {rule}"] if rule else [])


def test_filter_and_include(tmp_path: Path) -> None:
    """--include brings back a file that the filter leaves out."""
    (tmp_path / "ca.pem").touch()
    with opened(tmp_path, exclude=FILTER, include=includes(tmp_path, ["/ca.pem"]), clean=()) as volume:
        assert not list(volume.report.lines())


@pytest.mark.parametrize(
    ("paths", "words", "expected"),
    [
        (["/home"], [], ["/home"]),
        (["home/a/"], [], ["/home/a"]),
        (["/home/*"], [], ["/home/*"]),
        (["/tmp", "/tmp/*"], [], []),
        (["/srv/k.pem"], ["/srv/c.pem", "/gone", "/tmp/x"], ["/srv/k.pem", "/srv/c.pem"]),
        ([], ["/srv/[a]*"], [r"/srv/\[a]\*"]),
        ([], ["/srv/b\\"], ["/srv/b\\"]),
        ([], [os.fsdecode(b"/srv/\xff\xfe!")], ["/srv/??!"]),
    ],
)
def test_paths(paths: list[str], words: list[str], expected: list[str], tmp_path: Path) -> None:
    """Paths and words become patterns from the root on: wildcards are the shell's, but in the name of a file."""
    for name in ("home/a", "tmp/x", "srv/k.pem", "srv/c.pem", "srv/[a]*", "srv/b\\", os.fsdecode(b"srv/\xff\xfe!")):
        (tmp_path / name).mkdir(parents=True)
    assert excludes(tmp_path, paths, words) == expected


def test_a_path_that_matches_nothing(tmp_path: Path) -> None:
    """As to a shell, `*` is no name with a dot in front; a path without a match is an error."""
    (tmp_path / "srv").mkdir()
    (tmp_path / "srv" / ".hidden").touch()
    with pytest.raises(UsageError, match="nothing in"):
        excludes(tmp_path, ["/srv/*"], [])
