"""The daemon as root, with real users at its socket: a stranger and a member of the group."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from security.people import (
    CONNECT,
    MEMBER_ID,
    ROOT,
    STRANGER,
    STRANGER_ID,
    Machine,
    amistream_as,
    machine,
    member,
    needs_root,
    run_as,
    some_group,
)
from security.swapping import EXCHANGE, HARD_LINK, LINK, attempts, swapping
from support.volumes import random_image

if TYPE_CHECKING:
    from support.keys import KeyRing

pytestmark = needs_root

SIZE = 256 * 1024
WHEN = 1_700_000_000
SUBMISSIONS = 60


@pytest.fixture(scope="module")
def place(key_ring: KeyRing) -> Iterator[Machine]:
    """Run one daemon for all tests, with two volumes that differ only in their content."""
    with machine(key_ring, max_queued=1000, log_level="warning") as running:
        for number, path in enumerate((running.root / "allowed.img", running.outside / "secret.img")):
            random_image(path, SIZE, seed=number)
            os.utime(path, (WHEN, WHEN))
        yield running


@pytest.fixture(scope="module")
def digests(place: Machine) -> dict[str, str]:
    """Compute the archive digests of the two volumes, by bundling them as root."""
    found = {}
    for name, path in (("allowed", place.root / "allowed.img"), ("secret", place.outside / "secret.img")):
        directory = place.root / f"by root {name}"
        (answer,) = place.submit(
            [place.request(source=str(path), destinations=[str(directory)])],
            ("--reuid=0", "--regid=0", "--clear-groups"),
        )
        assert answer["body"]["state"] == "done", answer
        found[name] = answer["body"]["result"]["digest"]
    assert found["allowed"] != found["secret"]
    return found


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_stranger_cannot_connect(place: Machine) -> None:
    """The kernel lets a member connect, and no user outside the group."""
    assert run_as(member(), CONNECT, place.daemon.socket) == "connected\n"
    assert run_as(STRANGER, CONNECT, place.daemon.socket) == "PermissionError\n"


def test_a_member_bundles_within_the_roots(place: Machine, digests: dict[str, str]) -> None:
    """A member may bundle a volume in a root to a directory in it, with keys from it."""
    job = place.submit_one(destinations=[str(place.root / "made" / "here")])
    assert job["state"] == "done", job
    assert job["result"]["digest"] == digests["allowed"]
    assert (place.root / "made" / "here" / "image.manifest.xml").exists()


def test_a_member_reads_the_bundle_that_was_made_for_him(place: Machine) -> None:
    """A directory bundle of a member is readable by the group and changed by nobody; a stranger sees nothing."""
    folder = place.root / "to" / "read"
    job = place.submit_one(destinations=[str(folder)])
    assert job["state"] == "done", job
    done = amistream_as(MEMBER_ID, "verify", folder / "image.manifest.xml")
    assert done.returncode == 0, done.stderr
    assert "result" in done.stdout
    for path in (folder, folder.parent, *folder.iterdir()):
        assert (path.owner(), path.group(), path.stat().st_mode & 0o777) == (
            "root", some_group().gr_name, 0o750 if path.is_dir() else 0o640
        )  # fmt: skip
    done = amistream_as(STRANGER_ID, "verify", folder / "image.manifest.xml")
    assert done.returncode != 0
    (answer,) = place.submit([place.request(destinations=[str(place.root / "of root")])], ROOT)
    assert answer["body"]["state"] == "done", answer
    assert (place.root / "of root").stat().st_mode & 0o777 == 0o700


def test_doctor_of_a_member_finds_what_his_job_would(place: Machine) -> None:
    """The daemon runs the checks of a member's `doctor`: a volume that holds no system, or one outside."""
    words = ("--cert", place.root / "cert.pem", "--private-key", place.root / "key.pem", "--account", "123456789012",
             "--ec2-cert", place.root / "cert-ec2.pem", "--to", place.root / "doctor")  # fmt: skip
    socket = ("--socket", place.daemon.socket)
    for image, expected in (
        (place.root / "allowed.img", {"boot": "boot.no_table"}),
        (place.outside / "secret.img", {"source": "roots.outside"}),
    ):
        done = amistream_as(MEMBER_ID, "doctor", image, *words, *socket, "--json")
        failed = {each["name"]: each["code"] for each in json.loads(done.stdout) if each["status"] == "failed"}
        assert (done.returncode, failed) == (3, expected)
    assert not (place.root / "doctor").exists()


@pytest.mark.parametrize(
    ("field", "name"),
    [
        ("source", "secret.img"),
        ("source", "nothing"),
        ("certificate", "cert.pem"),
        ("private_key", "key.pem"),
        ("ec2_certificate", "cert-ec2.pem"),
    ],
)
@pytest.mark.parametrize("way", ["straight", "link", "folder link", "second name", "/proc"])
def test_a_member_bundles_nothing_from_outside(place: Machine, field: str, name: str, way: str) -> None:
    """A member gets neither volume nor key from outside by any path; a missing file gets the same error."""
    target, made = place.outside / name, place.root / f"{way} {name}".replace("/", "")
    if way == "straight":
        path = target
    elif way == "link":
        made.symlink_to(target)
        path = made
    elif way == "folder link":
        made.symlink_to(place.outside)
        path = made / name
    elif way == "/proc":
        path = Path(f"/proc/{os.getpid()}/root/{target}")
    elif name != "nothing":
        made.hardlink_to(target)
        path = made
    else:
        return
    before = names(place.outside)
    job = place.submit_one(**{field: str(path), "destinations": [str(place.root / "never")]})
    made.unlink(missing_ok=True)
    assert job["state"] == "refused", job
    assert job["error"]["code"] == ("roots.linked" if way == "second name" else "roots.outside"), job
    assert job["error"]["field"] == field
    assert names(place.outside) == before
    assert not (place.root / "never").exists()


def test_the_refusal_says_what_is_allowed(place: Machine) -> None:
    """The error names the roots, the setting and its file."""
    error = place.submit_one(source=str(place.outside / "secret.img"))["error"]
    assert str(place.root) in error["message"]
    assert "source_roots in /etc/amistream/amistream.toml" in error["hint"]


@pytest.mark.parametrize("way", ["straight", "new", "link", "step back"])
def test_a_member_writes_nothing_outside(place: Machine, way: str) -> None:
    """A member can neither write to nor make a directory outside, by any path."""
    link = place.root / "to outside"
    link.unlink(missing_ok=True)
    link.symlink_to(place.outside)
    path = {
        "straight": place.outside,
        "new": place.outside / "new" / "er",
        "link": link,
        "step back": place.root / ".." / "outside",
    }[way]
    before = names(place.outside)
    job = place.submit_one(destinations=[str(path)])
    assert (job["state"], job["error"]["code"]) == ("refused", "roots.outside"), job
    assert names(place.outside) == before


@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is not installed")
@pytest.mark.parametrize("way", ["backing file", "data file", "extent"])
def test_a_members_image_leads_nowhere(place: Machine, way: str) -> None:
    """An image that names a file outside, as backing file or as data file, is refused."""
    image, secret = place.root / "leading.img", place.outside / "secret.img"
    before = secret.stat()
    if way == "extent":
        image.write_text(
            '# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType="monolithicFlat"\n'
            f'RW {SIZE // 512} FLAT "{secret}" 0\nddb.adapterType = "ide"\n'
        )
    else:
        naming = ["-b", str(secret), "-F", "raw"] if way == "backing file" else ["-o", f"data_file={secret}"]
        argv = ["qemu-img", "create", "-q", "-f", "qcow2", *naming, str(image), str(SIZE)]
        subprocess.run(argv, check=True, capture_output=True)
        if way == "data file":
            # The directory was made anew.
            random_image(secret, SIZE, seed=1)
            os.utime(secret, ns=(before.st_atime_ns, before.st_mtime_ns))
    job = place.submit_one(source=str(image), destinations=[str(place.root / "never")])
    image.unlink()
    assert job["state"] == "refused", job
    assert job["error"]["code"] == "source.elsewhere"
    assert not (place.root / "never").exists()


def test_a_member_sends_no_signed_request_elsewhere(place: Machine) -> None:
    """Another endpoint is refused before a job is made."""
    body = place.submit_one(destinations=["s3://bucket"], endpoint_url="http://127.0.0.1:9")
    assert body["error"]["code"] == "access.endpoint"


def test_a_link_swapped_in_a_loop(place: Machine, digests: dict[str, str]) -> None:
    """Each of many jobs on a link that a member swaps bundles the allowed file or nothing."""
    link = place.root / "swapped.img"
    with swapping(LINK, link, place.root / "allowed.img", place.outside / "secret.img", user=member()):
        check_all_had_the_allowed_file(submit_often(place, link, 2), digests)


def test_a_file_exchanged_in_a_loop(place: Machine, digests: dict[str, str]) -> None:
    """A name that alternates between the allowed file and a link to the secret never yields the secret; nor a key."""
    image, link = place.root / "exchanged.img", place.root / "exchanged.link"
    random_image(image, SIZE, seed=0)
    os.utime(image, (WHEN, WHEN))
    link.symlink_to(place.outside / "secret.img")
    with swapping(EXCHANGE, image, link, user=member()):
        check_all_had_the_allowed_file(submit_often(place, image, 1), digests)


def submit_often(place: Machine, source: Path, least: int) -> list[dict[str, Any]]:
    """Submit jobs on `source`, in rounds: at least `least`, and more until some were refused and some were not."""
    answers: list[dict[str, Any]] = []
    outcomes: set[str] = set()
    for turn in attempts(least, outcomes):
        places = [str(place.root / f"{source.name} {turn}" / str(number)) for number in range(SUBMISSIONS)]
        got = place.submit([place.request(source=str(source), destinations=[each]) for each in places])
        outcomes |= {str(answer["body"].get("state")) for answer in got}
        answers += got
    return answers


def check_all_had_the_allowed_file(answers: list[dict[str, Any]], digests: dict[str, str]) -> None:
    """Check the digest of every finished job; both outcomes must have occurred, else the test proves nothing."""
    ends = Counter[str]()
    for answer in answers:
        job = json.loads(json.dumps(answer["body"]))
        if job["state"] == "done":
            assert job["result"]["digest"] == digests["allowed"], job
            ends["done"] += 1
        else:
            ends[job["error"]["code"]] += 1
    # A file exchanged while it was read may also be reported as changed.
    assert ends["done"] + ends["source.changed"] > 0
    assert ends["roots.outside"] > 0
    assert set(ends) <= {"done", "roots.outside", "source.changed"}, ends


def test_a_second_name_in_a_loop(place: Machine) -> None:
    """A hard link that comes and goes, as one that root may make by mistake, never yields a bundle."""
    requests = [
        place.request(source=str(place.root / "second"), destinations=[str(place.root / "second out" / str(number))])
        for number in range(SUBMISSIONS)
    ]
    # As root: where fs.protected_hardlinks is set, a member could not.
    with swapping(HARD_LINK, place.root / "second", place.outside / "secret.img"):
        answers = place.submit(requests)
    codes = Counter(answer["body"]["error"]["code"] for answer in answers)
    assert set(codes) <= {"roots.outside", "roots.linked"}, codes


def test_a_destination_swapped_in_a_loop(place: Machine) -> None:
    """While a member exchanges the destination with a link, nothing is written or removed outside."""
    directory, link = place.root / "directory", place.root / "directory.link"
    directory.mkdir()
    os.chown(directory, place.root.stat().st_uid, -1)
    link.symlink_to(place.outside)
    before = {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in place.outside.iterdir()}
    requests = [place.request(destinations=[str(directory)], prefix=f"image{number}") for number in range(SUBMISSIONS)]
    with swapping(EXCHANGE, directory, link, user=member()):
        answers = place.submit(requests)
    codes = Counter((answer["body"].get("error") or {}).get("code", answer["body"].get("state")) for answer in answers)
    assert codes["roots.outside"] > 0
    after = {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in place.outside.iterdir()}
    assert after == before
