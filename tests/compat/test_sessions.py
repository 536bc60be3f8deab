"""Old command lines from Amazon's documentation, euca2ools' manual pages and Packer, unchanged."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bundles.made import older_bundle
from compat.conftest import Ended, Old
from support.buckets import download_bundle, list_keys
from support.referee import (
    check_bundle,
    check_content,
    check_form,
    check_parts,
    check_signature,
    read_bundle,
)
from support.volumes import random_image, sparse_image

if TYPE_CHECKING:
    from conftest import MakeBucket
    from support.endpoints import Endpoint
    from support.keys import KeyRing

MIB = 1 << 20
ACCOUNT = "111122223333"
DOCUMENT = (Path(__file__).parents[2] / "docs" / "drop-in.md").read_text()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return random_image(tmp_path / "image.img", 2 * MIB + 4321)


def good(ended: Ended) -> Ended:
    assert ended.status == 0, ended.stderr
    return ended


def fits(directory: Path, image: Path, keys: KeyRing) -> None:
    bundle = check_bundle(directory, image, keys.user.key, keys.user.certificate)
    assert bundle.account == ACCOUNT


def test_a_whole_session(
    old: Old, seaweedfs: Endpoint, make_bucket: MakeBucket, image: Path, key_ring: KeyRing, tmp_path: Path
) -> None:
    """Documented lines bundle, upload, download, unbundle and delete, with keys as options; the image is restored."""
    bucket = make_bucket(seaweedfs)
    keys = f"-a {seaweedfs.access_key} -s {seaweedfs.secret_key}"
    for name in ("bundled", "mybundle", "unbundled"):
        (tmp_path / name).mkdir()

    done = good(old(f"ec2-bundle-image -k pk.pem -c cert.pem -u {ACCOUNT} -i image.img -d bundled/ -r x86_64"))
    assert done.stdout.splitlines()[:3] == [f"Created image.img.part.0{number}" for number in range(3)]
    assert done.stdout.endswith("ec2-bundle-image complete.\n")
    fits(tmp_path / "bundled", image, key_ring)

    line = f"ec2-upload-bundle -b {bucket}/bundles/bundle_name -m bundled/image.img.manifest.xml {keys}"
    done = good(old(line, to=seaweedfs, keys=False))
    assert "--secret-key on the command line" in done.stderr
    assert done.stdout.splitlines()[0] == "Uploaded image.img.part.00"
    with seaweedfs.blocking_client() as s3:
        s3.delete_object(Bucket=bucket, Key="bundles/bundle_name/image.img.part.01")
    lines = ["Uploaded image.img.part.00 earlier", "Uploaded image.img.part.01", "Uploaded image.img.part.02 earlier"]
    assert good(old(line, to=seaweedfs, keys=False)).stdout.splitlines()[:3] == lines
    download_bundle(seaweedfs, bucket, "bundles/bundle_name/", tmp_path / "stored")
    fits(tmp_path / "stored", image, key_ring)

    line = f"ec2-download-bundle -b {bucket}/bundles/bundle_name -m image.img.manifest.xml {keys} -k pk.pem -d mybundle"
    good(old(line, to=seaweedfs, keys=False))
    fits(tmp_path / "mybundle", image, key_ring)

    good(old("ec2-unbundle -m mybundle/image.img.manifest.xml -k pk.pem -s mybundle -d unbundled"))
    assert (tmp_path / "unbundled" / "image.img").read_bytes() == image.read_bytes()

    line = f"ec2-delete-bundle -b {bucket}/bundles/bundle_name {keys} -p image.img"
    assert old(line, to=seaweedfs, keys=False, given=b"n\n").status == 5
    assert len(list_keys(seaweedfs, bucket)) == 4
    done = good(old(line, to=seaweedfs, keys=False, given=b"y\n"))
    assert f"Deleted {bucket}/bundles/bundle_name/image.img.part.00" in done.stdout
    assert list_keys(seaweedfs, bucket) == []


def test_keys_of_the_environment(
    old: Old, seaweedfs: Endpoint, make_bucket: MakeBucket, image: Path, tmp_path: Path
) -> None:
    """Without keys as options the SDK's are used; invalid keys as options win over valid ones of the SDK."""
    bucket = make_bucket(seaweedfs)
    good(old(f"ec2-bundle-image -k pk.pem -c cert.pem -u {ACCOUNT} -i image.img -d out -p web -r x86_64"))
    line = f"ec2-upload-bundle -b {bucket} -m out/web.manifest.xml"
    wrong = old(f"{line} -a {seaweedfs.access_key} -s wrong", to=seaweedfs)
    assert wrong.status == 3, wrong.stderr
    assert list_keys(seaweedfs, bucket) == []
    assert "warning" not in good(old(line, to=seaweedfs)).stderr
    half = old(f"{line} -a {seaweedfs.access_key}", to=seaweedfs)
    assert half.status == 1
    assert "without the other" in half.stderr


def test_every_option_of_bundling(old: Old, key_ring: KeyRing, tmp_path: Path) -> None:
    """Prefix, mappings, codes, kernel and RAM disk are in the manifest; EC2's certificate may be given."""
    image = sparse_image(tmp_path / "disk", 5 * MIB, [(MIB, 300_000)])
    good(
        old(
            "ec2-bundle-image --cert cert.pem --privatekey pk.pem --user 1111-2222-3333 --image disk --destination out "
            f"--ec2cert {key_ring.ec2.certificate} --arch i386 --productcodes abc,def --prefix root --batch --debug "
            "--block-device-mapping ami=sda1,root=/dev/sda1,ephemeral0=sdb --kernel aki-12345678 --ramdisk ari-12345678"
        )
    )
    fits(tmp_path / "out", image, key_ring)
    manifest = (tmp_path / "out" / "root.manifest.xml").read_text()
    assert "<architecture>i386</architecture>" in manifest
    assert "<kernel_id>aki-12345678</kernel_id><ramdisk_id>ari-12345678</ramdisk_id>" in manifest
    assert "<product_code>abc</product_code><product_code>def</product_code>" in manifest
    assert "<mapping><virtual>ephemeral0</virtual><device>sdb</device></mapping>" in manifest


def test_bundling_again(old: Old, image: Path) -> None:
    """A second bundle with the same name and place is refused, and a default architecture is reported."""
    line = f"ec2-bundle-image -k pk.pem -c cert.pem -u {ACCOUNT} -i image.img -d out"
    assert "x86_64" in good(old(line)).stderr
    again = old(line)
    assert again.status in (2, 3), again.stderr
    assert "Created" not in again.stdout


@pytest.mark.parametrize(
    ("line", "status", "words"),
    [
        ("ec2-bundle-image -k pk.pem -c cert.pem -u 123 -i image.img -d out", 1, "--user"),
        ("ec2-bundle-image -k pk.pem -c cert.pem -u 111122223333 -i gone.img -d out", 2, "gone.img"),
        ("ec2-bundle-image -k gone -c cert.pem -u 111122223333 -i image.img -d out", 2, "private key"),
        ("ec2-bundle-image -k pk.pem -c cert.pem -u 111122223333 -i image.img -d out -B sdb", 1, "VIRTUAL=DEVICE"),
        ("ec2-unbundle -k pk.pem -m gone.manifest.xml", 2, "gone.manifest.xml"),
        ("ec2-unbundle -k pk.pem -m x -d gone", 2, "mkdir"),
        ("ec2-upload-bundle -b web -m gone/x", 2, "gone"),
        ("ec2-migrate-manifest -c cert.pem -k pk.pem -m x", 2, "cannot read the manifest"),
        ("euca-bundle-and-upload-image -i - -b web -r x86_64", 2, "--prefix"),
        ("euca-bundle-and-upload-image -i x -b web", 2, "--arch"),
    ],
)
def test_refusals(line: str, status: int, words: str, old: Old, image: Path) -> None:
    """A refusal uses the old command's options and status, and leaves nothing."""
    ended = old(line)
    assert (ended.status, ended.stdout) == (status, ""), ended.stderr
    assert words in ended.stderr
    assert ended.stderr.startswith(line.split(maxsplit=1)[0]) or "job " in ended.stderr or "note:" in ended.stderr


def test_a_bucket_that_is_not_there(
    old: Old, moto_server: Endpoint, make_bucket: MakeBucket, image: Path, key_ring: KeyRing, tmp_path: Path
) -> None:
    """Uploading creates the bucket with ACLs enabled, in the given region; --clear deletes it."""
    bucket = make_bucket(moto_server) + "-new"
    good(old(f"ec2-bundle-image -k pk.pem -c cert.pem -u {ACCOUNT} -i image.img -d out -p web -r x86_64"))
    done = good(old(f"ec2-upload-bundle -b {bucket} -m out/web.manifest.xml --region us-west-2", to=moto_server))
    assert f"made the bucket {bucket} in us-west-2" in done.stderr
    with moto_server.blocking_client() as s3:
        assert s3.get_bucket_location(Bucket=bucket)["LocationConstraint"] == "us-west-2"
    good(old(f"ec2-delete-bundle -b {bucket} -m out/web.manifest.xml --clear -y", to=moto_server))
    with moto_server.blocking_client() as s3:
        assert bucket not in [each["Name"] for each in s3.list_buckets()["Buckets"]]


def test_another_region(old: Old, moto_server: Endpoint, make_bucket: MakeBucket, image: Path, tmp_path: Path) -> None:
    """A region other than the bucket's is refused, except us-east-1, which the old tools treated as none."""
    bucket = make_bucket(moto_server)
    good(old(f"ec2-bundle-image -k pk.pem -c cert.pem -u {ACCOUNT} -i image.img -d out -p web -r x86_64"))
    other = old(f"ec2-upload-bundle -b {bucket} -m out/web.manifest.xml --region us-west-2", to=moto_server)
    assert other.status == 3, other.stderr
    good(old(f"ec2-upload-bundle -b {bucket} -m out/web.manifest.xml --region us-east-1", to=moto_server))


def test_parts_only(old: Old, moto_server: Endpoint, make_bucket: MakeBucket, image: Path, tmp_path: Path) -> None:
    """--skipmanifest omits the manifest, and the next upload sends only the manifest."""
    bucket = make_bucket(moto_server)
    good(old(f"ec2-bundle-image -k pk.pem -c cert.pem -u {ACCOUNT} -i image.img -d out -p web -r x86_64"))
    # Parts and manifest may be in different places.
    (tmp_path / "web.manifest.xml").write_bytes((tmp_path / "out" / "web.manifest.xml").read_bytes())
    (tmp_path / "out" / "web.manifest.xml").unlink()
    line = f"ec2-upload-bundle -b {bucket} -m web.manifest.xml -d out --part 1"
    good(old(f"{line} --skipmanifest", to=moto_server))
    parts = [f"web.part.{number:02d}" for number in range(3)]
    assert list_keys(moto_server, bucket) == parts
    good(old(line, to=moto_server))
    assert list_keys(moto_server, bucket) == ["web.manifest.xml", *parts]


def test_an_image_in_use(old: Old, ministack: Endpoint, make_bucket: MakeBucket, image: Path, tmp_path: Path) -> None:
    """A bundle that an AMI uses is not deleted, whatever the answer."""
    bucket = make_bucket(ministack)
    good(old(f"ec2-bundle-image -k pk.pem -c cert.pem -u {ACCOUNT} -i image.img -d out -p web -r x86_64"))
    good(old(f"ec2-upload-bundle -b {bucket} -m out/web.manifest.xml", to=ministack))
    # This endpoint shows an AMI's name as its location.
    line = f"amistream register s3://{bucket}/web.manifest.xml --ami-name {bucket}/web.manifest.xml --json"
    made = json.loads(good(old(line, to=ministack)).stdout)["image_id"]
    ended = old(f"ec2-delete-bundle -b {bucket} -p web -y", to=ministack)
    assert ended.status == 2, ended.stderr
    assert f"aws ec2 deregister-image --region {ministack.region} --image-id {made}" in ended.stderr
    with ministack.blocking_client("ec2") as ec2:
        ec2.deregister_image(ImageId=made)
    good(old(f"ec2-delete-bundle -b {bucket} -p web -y", to=ministack))
    assert list_keys(ministack, bucket) == []


def test_deleting_what_nobody_named(
    old: Old, ministack: Endpoint, make_bucket: MakeBucket, image: Path, tmp_path: Path
) -> None:
    """A bundle is deleted only if given in one way and confirmed; --batch does not confirm."""
    bucket = make_bucket(ministack)
    good(old(f"ec2-bundle-image -k pk.pem -c cert.pem -u {ACCOUNT} -i image.img -d {tmp_path} -p image -r x86_64"))
    good(old(f"ec2-upload-bundle -b {bucket} -m image.manifest.xml", to=ministack))
    stored = list_keys(ministack, bucket)
    for words, status in (("-y", 1), ("-p image -m image.manifest.xml -y", 1), ("-p image --batch", 5)):
        ended = old(f"ec2-delete-bundle -b {bucket} {words}", to=ministack)
        assert ended.status == status, ended.stderr
        assert list_keys(ministack, bucket) == stored


def test_a_key_that_all_can_read(old: Old, image: Path, key_ring: KeyRing, tmp_path: Path) -> None:
    """The old commands accept a key that all can read, as Packer copies it, with a warning; amistream refuses it."""
    (tmp_path / "pk.pem").chmod(0o644)
    done = good(old(f"ec2-bundle-image -k pk.pem -c cert.pem -u {ACCOUNT} -i image.img -d out -r x86_64"))
    assert "warning: every user of this machine can read the private key: chmod 600 pk.pem" in done.stderr
    fits(tmp_path / "out", image, key_ring)
    done = good(old("ec2-unbundle -m out/image.img.manifest.xml -k pk.pem -s out -d out"))
    assert "chmod 600 pk.pem" in done.stderr
    refused = old("amistream verify --deep out/image.img.manifest.xml --private-key pk.pem")
    assert (refused.status, "chmod 600" in refused.stderr) == (3, True)


def test_an_image_that_would_replace_its_manifest(old: Old, image: Path, tmp_path: Path) -> None:
    """The unbundled image replaces an existing one, but not a manifest with the image's name."""
    good(old(f"ec2-bundle-image -k pk.pem -c cert.pem -u {ACCOUNT} -i image.img -d out -r x86_64"))
    (tmp_path / "out/image.img").write_bytes(b"older")
    good(old("ec2-unbundle -m out/image.img.manifest.xml -k pk.pem -s out -d out"))
    assert (tmp_path / "out/image.img").read_bytes() == image.read_bytes()
    manifest = (tmp_path / "out/image.img.manifest.xml").read_bytes()
    (tmp_path / "out/image.img").write_bytes(manifest)
    refused = old("ec2-unbundle -m out/image.img -k pk.pem -s out -d out")
    assert (refused.status, "that is image.img of the bundle itself" in refused.stderr) == (2, True)
    assert (tmp_path / "out/image.img").read_bytes() == manifest


def test_bundles_of_the_old_tools(
    old: Old, moto_server: Endpoint, make_bucket: MakeBucket, key_ring: KeyRing, tmp_path: Path
) -> None:
    """A bundle by ec2-bundle-image (one digit, other quotes) is uploaded, migrated, downloaded and deleted."""
    bucket = make_bucket(moto_server)
    older_bundle(tmp_path / "older", key_ring, [5000, 5000, 10], name="image")
    good(old(f"ec2-upload-bundle -b {bucket}/a -m older/image.manifest.xml", to=moto_server))
    moved = f"ec2-migrate-bundle -c cert.pem -k pk.pem -b {bucket}/a -d {bucket}/b -m image.manifest.xml"
    done = good(old(f"{moved} --location EU", to=moto_server))
    assert "Copied 3 parts." in done.stdout
    (tmp_path / "got").mkdir()
    good(old(f"ec2-download-bundle -b {bucket}/b -d got", to=moto_server))
    check_parts(read_bundle(tmp_path / "got", key_ring.user.key))
    good(old(f"ec2-delete-bundle -b {bucket}/a -p image", to=moto_server, given=b"yes\n"))
    assert list_keys(moto_server, bucket, "a/") == []


def test_a_manifest_for_another_region(old: Old, image: Path, key_ring: KeyRing, tmp_path: Path) -> None:
    """The manifest is rewritten in place, the old one kept beside it, and the bundle is still whole."""
    good(
        old(
            f"ec2-bundle-image -k pk.pem -c cert.pem -u {ACCOUNT} -i image.img -d out -p my-ami -r x86_64 "
            f"--ec2cert {key_ring.stranger.certificate}"
        )
    )
    before = (tmp_path / "out" / "my-ami.manifest.xml").read_bytes()
    line = "ec2-migrate-manifest --manifest out/my-ami.manifest.xml --cert cert.pem --privatekey pk.pem"
    good(old(f"{line} --region eu-west-1"))
    backup = tmp_path / "out" / "my-ami.manifest.xml.bak"
    assert backup.read_bytes() == before
    again = old(f"{line} --region eu-west-1")
    assert again.status == 2
    assert "bak" in again.stderr
    backup.rename(tmp_path / "backup")
    fits(tmp_path / "out", image, key_ring)
    assert (tmp_path / "out" / "my-ami.manifest.xml").read_bytes() != before
    (tmp_path / "out" / "my-ami.manifest.xml").write_bytes(before.replace(b"x86_64", b"i386"))
    changed = old(f"{line} --region eu-west-1")
    assert changed.status == 2
    assert "signature" in changed.stderr


def test_a_manifest_of_the_old_tools(old: Old, key_ring: KeyRing, tmp_path: Path) -> None:
    """A manifest of ec2-bundle-image, rewritten in place, keeps the names of its parts."""
    manifest = older_bundle(tmp_path / "older", key_ring, [5000] * 11 + [3], name="holes.img")
    names = sorted(path.name for path in manifest.parent.glob("*.part.*"))
    moved = manifest.rename(manifest.with_name("m.manifest.xml"))
    good(old("ec2-migrate-manifest -m older/m.manifest.xml -c cert.pem -k pk.pem --region us-west-2"))
    (tmp_path / "older" / "m.manifest.xml.bak").unlink()
    bundle = read_bundle(tmp_path / "older", key_ring.user.key)
    assert sorted(part.path.name for part in bundle.parts) == names
    check_parts(bundle)
    check_form(moved.read_bytes())
    check_signature(bundle, key_ring.user.certificate)


def test_a_kernel_of_another_region(old: Old, image: Path, tmp_path: Path) -> None:
    """A kernel id is kept with --no-mapping, replaced if given, and otherwise refused."""
    line = f"ec2-bundle-image -k pk.pem -c cert.pem -u {ACCOUNT} -i image.img -d out -p web -r x86_64"
    good(old(f"{line} --kernel aki-11111111"))
    line = "ec2-migrate-manifest -m out/web.manifest.xml -c cert.pem -k pk.pem --region us-west-2"
    assert "--kernel" in old(line).stderr
    for more, kernel in (("--no-mapping", "aki-11111111"), ("--kernel aki-22222222", "aki-22222222")):
        good(old(f"{line} {more}"))
        assert kernel in (tmp_path / "out" / "web.manifest.xml").read_text()
        (tmp_path / "out" / "web.manifest.xml.bak").unlink()


def test_euca2ools(
    old: Old, seaweedfs: Endpoint, make_bucket: MakeBucket, image: Path, key_ring: KeyRing, tmp_path: Path
) -> None:
    """One command makes the bundle in the bucket, with euca2ools' options for keys and endpoint."""
    bucket = make_bucket(seaweedfs)
    line = (
        f"euca-bundle-and-upload-image -i image.img -b {bucket}/eu -r x86_64 -p web --max-pending-parts 2 -d /var/tmp "
        f"-I {seaweedfs.access_key} -S {seaweedfs.secret_key} -U {seaweedfs.url} --region me@{seaweedfs.region} "
        "--no-progress --retry -B ephemeral0=sdb"
    )
    done = good(old(line, keys=False, EC2_CERT="cert.pem", EC2_PRIVATE_KEY="pk.pem", EC2_USER_ID=ACCOUNT))
    assert done.stdout.splitlines()[-1] == f"Uploaded {bucket}/eu/web.manifest.xml"
    download_bundle(seaweedfs, bucket, "eu/", tmp_path / "stored")
    fits(tmp_path / "stored", image, key_ring)


def test_euca2ools_from_a_pipe(
    old: Old, moto_server: Endpoint, make_bucket: MakeBucket, image: Path, key_ring: KeyRing, tmp_path: Path
) -> None:
    """An image from standard input needs its size, and is bundled as it arrives."""
    bucket = make_bucket(moto_server)
    line = f"euca-bundle-and-upload-image -i - -b {bucket} -r x86_64 -p web -c cert.pem -k pk.pem -u {ACCOUNT}"
    unknown = old(line, to=moto_server, given=image.read_bytes())
    assert unknown.status == 1
    assert "--image-size" in unknown.stderr
    assert list_keys(moto_server, bucket) == []
    good(old(f"{line} --image-size {image.stat().st_size}", to=moto_server, given=image.read_bytes()))
    download_bundle(moto_server, bucket, "", tmp_path / "stored")
    fits(tmp_path / "stored", image, key_ring)


@pytest.mark.parametrize(
    "rc",
    [
        {"EC2_USER_ID": "42", "EC2_ACCESS_KEY": "{access}", "EC2_SECRET_KEY": "{secret}"},
        {"EC2_ACCOUNT_NUMBER": "000123456789", "AWS_ACCESS_KEY": "{access}", "AWS_SECRET_KEY": "{secret}"},
        {"EC2_USER_ID": "0123456789abcdef0123456789abcdef", "AWS_CREDENTIAL_FILE": "iamrc"},
    ],
    ids=["ec2rc of OpenStack", "eucarc", "eucarc with a file"],
)
def test_euca2ools_with_the_variables_of_a_cloud(
    rc: dict[str, str], old: Old, seaweedfs: Endpoint, make_bucket: MakeBucket, image: Path, key_ring: KeyRing,
    tmp_path: Path,
) -> None:  # fmt: skip
    """The variables of a cloud's rc file are enough: endpoint, keys, account of any form, and certificates."""
    bucket = make_bucket(seaweedfs)
    (tmp_path / "iamrc").write_text(f"AWSAccessKeyId={seaweedfs.access_key}\nAWSSecretKey={seaweedfs.secret_key}\n")
    certificate = tmp_path / "cloud-cert.pem"
    certificate.write_bytes((tmp_path / "tools/etc/ec2/amitools/cert-ec2.pem").read_bytes())
    variables: dict[str, Any] = {
        "S3_URL": seaweedfs.url,
        "EC2_CERT": "cert.pem",
        "EC2_PRIVATE_KEY": "pk.pem",
        "EUCALYPTUS_CERT": str(certificate),
        **{name: each.format(access=seaweedfs.access_key, secret=seaweedfs.secret_key) for name, each in rc.items()},
    }
    line = f"euca-bundle-and-upload-image -i image.img -b {bucket} -r x86_64 --region {seaweedfs.region}"
    good(old(line, keys=False, **variables))
    download_bundle(seaweedfs, bucket, "", tmp_path / "stored")
    bundle = check_bundle(tmp_path / "stored", image, key_ring.user.key, key_ring.user.certificate)
    assert bundle.account == next(iter(rc.values()))


def test_names_of_images(old: Old, image: Path, key_ring: KeyRing, tmp_path: Path) -> None:
    """A bundle has its image's name, whatever it is; one that cannot be is cleaned, with a note."""
    for name, used in {
        "2014-01-02T10:20:30@#=%,[1]~é.img": "",
        "x" * 90 + ".img": "",
        ".hidden.img": "hidden.img",
        "y" * 120: "y" * 99,
    }.items():
        shutil.copy(image, tmp_path / name)
        line = f"ec2-bundle-image -k pk.pem -c cert.pem -u {ACCOUNT} -r x86_64 -i {name} -d out-{len(name)}"
        done = good(old(line))
        assert ("note: the bundle is named" in done.stderr) == bool(used)
        assert (tmp_path / f"out-{len(name)}" / f"{used or name}.manifest.xml").exists()
        fits(tmp_path / f"out-{len(name)}", image, key_ring)


@pytest.fixture
def listening_qemu(tmp_path: Path) -> Iterator[Path]:
    """Put a qemu-img first on the path that records all it can see of its caller."""
    folder, seen = tmp_path / "programs", tmp_path / "seen"
    folder.mkdir()
    script = folder / "qemu-img"
    script.write_text(f'#!/bin/sh\nset > {seen}; echo "$@" >> {seen}; exit 1\n')
    script.chmod(0o755)
    yield folder
    assert seen.exists()


def test_secrets_stay(
    old: Old, moto_server: Endpoint, make_bucket: MakeBucket, image: Path, tmp_path: Path, listening_qemu: Path
) -> None:
    """A secret option causes a warning, and appears in no output, file or other program's environment."""
    bucket = make_bucket(moto_server)
    (tmp_path / "image.qcow2").write_bytes(b"QFI\xfb" + bytes(1000))
    secrets = ("wJalrXUtnFEMIK7MDENGbPxRfiCY", "FQoGZXIvYXdzEJrtoken")
    ended = old(
        f"euca-bundle-and-upload-image -i image.qcow2 -b {bucket} -r x86_64 -c cert.pem -k pk.pem -u {ACCOUNT} "
        f"-I AKIDEXAMPLE -S {secrets[0]} --security-token {secrets[1]} --debug",
        to=moto_server,
        keys=False,
        AMISTREAM_DEBUG="1",
        AMISTREAM_LOG_LEVEL="debug",
        PATH=f"{listening_qemu}:/usr/bin:/bin",
    )
    assert ended.status == 1, ended.stderr
    assert "--secret-key and --security-token on the command line" in ended.stderr
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    texts = [ended.stdout.encode(), ended.stderr.encode(), *(path.read_bytes() for path in files)]
    assert any(path.name == "journal.sqlite" for path in files)
    assert not [secret for secret in secrets for text in texts if secret.encode() in text]


def test_content_by_the_referee(old: Old, key_ring: KeyRing, tmp_path: Path) -> None:
    """A qcow2 image is bundled as its disk, without holes."""
    if shutil.which("qemu-img") is None:
        pytest.skip("qemu-utils is not installed")
    disk = sparse_image(tmp_path / "disk.img", 12 * MIB, [(0, MIB), (9 * MIB, 300_000)])
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-c", disk, tmp_path / "disk.qcow2"], check=True)
    good(old(f"ec2-bundle-image -k pk.pem -c cert.pem -u {ACCOUNT} -i disk.qcow2 -d out -p disk -r x86_64"))
    bundle = read_bundle(tmp_path / "out", key_ring.user.key)
    check_content(bundle, disk)
    assert bundle.bundled_size < 2 * MIB
