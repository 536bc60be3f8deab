"""Pipes and disk images in other formats as sources of jobs without a daemon."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from compat.conftest import Old
from support.buckets import download_bundle, list_keys
from support.proxy import Answer, Fault
from support.referee import check_bundle, check_content, read_bundle
from support.volumes import random_image, sparse_image

if TYPE_CHECKING:
    from conftest import MakeBucket, MakeProxy
    from support.endpoints import Endpoint
    from support.keys import KeyRing

MIB = 1 << 20
WHO = "--cert cert.pem --private-key pk.pem --account 111122223333 --region eu-west-1"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return random_image(tmp_path / "image.img", 3 * MIB + 4321)


def test_through_a_pipe(old: Old, image: Path, key_ring: KeyRing, tmp_path: Path) -> None:
    """`bundle -` reads exactly the given size from standard input."""
    line = f"amistream bundle - --image-size {image.stat().st_size} --to out {WHO} --json"
    done = old(line, given=image.read_bytes())
    assert done.status == 0, done.stderr
    assert json.loads(done.stdout)["source"] == "-"
    check_bundle(tmp_path / "out", image, key_ring.user.key, key_ring.user.certificate)


def test_a_directory_is_no_image(old: Old, key_ring: KeyRing, tmp_path: Path) -> None:
    """The command for images takes no directory, and says which one does."""
    (tmp_path / "tree").mkdir()
    done = old("ec2-bundle-image -i tree -d . -u 111122223333 -c cert.pem -k pk.pem --ec2cert cert.pem -r x86_64")
    assert done.status != 0
    assert "cannot bundle tree: it is a directory" in done.stderr
    assert "ec2-bundle-vol -v DIRECTORY" in done.stderr
    assert not list(tmp_path.glob("*.manifest.xml"))


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        ("--image-size 3MiB --in-process", 4, "continues after the 3145728 bytes of --image-size"),
        ("--image-size 4MiB --in-process", 4, "it ended at byte"),
        ("--in-process", 3, "--image-size"),
        ("--image-size much --in-process", 2, "--image-size"),
        ("--image-size 0 --in-process", 2, "--image-size"),
    ],
)
def test_a_pipe_that_does_not_fit(words: str, status: int, told: str, old: Old, image: Path, tmp_path: Path) -> None:
    """Too much data, too little and an unknown size are errors that leave nothing; the daemon is not asked."""
    done = old(f"amistream bundle - --to out {WHO} {words}", given=image.read_bytes())
    assert (done.status, done.stdout) == (status, ""), done.stderr
    assert told in done.stderr
    assert not list((tmp_path / "out").glob("*"))


def test_sent_again(
    old: Old, moto_server: Endpoint, make_bucket: MakeBucket, make_proxy: MakeProxy, image: Path, key_ring: KeyRing,
    tmp_path: Path,
) -> None:  # fmt: skip
    """An interrupted job from a pipe continues when the same data is sent again, and stores no part twice."""
    bucket = make_bucket(moto_server)
    refused = Fault(action=Answer(status=403, code="AccessDenied"), path=r".*part\.02", times=None)
    proxy = make_proxy(moto_server, refused)
    line = f"amistream bundle - --image-size {image.stat().st_size} --to s3://{bucket} --no-register {WHO}"
    # One upload at a time: otherwise the refused part might be the first one, and no part would be kept.
    line += " --upload-concurrency 1"
    cut = old(f"{line} --in-process --json", to=proxy.endpoint, given=image.read_bytes())
    assert cut.status == 4, cut.stderr
    job = json.loads(cut.stdout)
    assert job["resumable"]
    kept = list_keys(moto_server, bucket)
    proxy.mend(refused)
    other = old(f"amistream resume {job['id']} --in-process", to=proxy.endpoint, given=bytes(image.stat().st_size))
    assert other.status == 4, other.stderr
    assert "sends other bytes than when the job began" in other.stderr
    assert list_keys(moto_server, bucket) == kept
    done = old(f"amistream resume {job['id']} --in-process", to=proxy.endpoint, given=image.read_bytes())
    assert done.status == 0, done.stderr
    assert len([each for each in proxy.seen("PUT", rf".*/{kept[0]}") if each.status == 200]) == 1
    download_bundle(moto_server, bucket, "", tmp_path / "stored")
    check_bundle(tmp_path / "stored", image, key_ring.user.key, key_ring.user.certificate)


def test_a_sender_that_stands_still(old: Old, tmp_path: Path) -> None:
    """A job that waits for its sender is cancelled at once, and leaves nothing."""
    line = f"amistream bundle - --image-size 9MiB --to out {WHO} --in-process"
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb") as sender, os.fdopen(reading, "rb") as pipe:
        begun = old.begin(line, pipe)
        sender.write(bytes(100_000))
        sender.flush()
        assert begun.stderr is not None
        while b"bundling" not in begun.stderr.readline():
            pass
        begun.send_signal(signal.SIGTERM)
        _, stderr = begun.communicate(timeout=60)
    assert begun.returncode == 130, stderr
    assert not list((tmp_path / "out").glob("*"))


def test_a_job_that_is_not_there(old: Old) -> None:
    """An unknown job id is the caller's error without a daemon, too."""
    done = old("amistream resume 20200101-000000-abcdef --in-process")
    assert done.status == 2, done.stderr
    assert "cannot find a job" in done.stderr


@pytest.mark.parametrize("options", [("qcow2",), ("qcow2", "-c"), ("vmdk",), ("vpc", "-o", "force_size=on"), ("vhdx",)])
def test_another_form(options: tuple[str, ...], old: Old, key_ring: KeyRing, tmp_path: Path) -> None:
    """An image of a virtual machine gives the bundle of its disk."""
    if shutil.which("qemu-img") is None:
        pytest.skip("qemu-utils is not installed")
    disk = sparse_image(tmp_path / "disk.img", 12 * MIB, [(0, MIB), (9 * MIB, 300_000)])
    image = tmp_path / "image"
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", *options, disk, image], check=True)
    done = old(f"amistream bundle image --to out {WHO} --in-process")
    assert done.status == 0, done.stderr
    bundle = read_bundle(tmp_path / "out", key_ring.user.key)
    check_content(bundle, disk)
    assert bundle.bundled_size < 2 * MIB
