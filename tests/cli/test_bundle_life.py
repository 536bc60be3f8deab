"""The commands on existing bundles: their words, their results, their questions and their exit status."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest

from amistream.bundles.results import Deregistered, Inventory, Pruned, Removed
from amistream.cli.commands.listing import age_text, cost_text
from amistream.cli.options import parse_age
from amistream.errors import UsageError
from amistream.reports import Migrated, Registered, Transferred
from bundles.made import contents, images, older_bundle, put_files, register, stored_bytes
from cli.running import Cli, Outcome, Spawn, ended
from jobs.work import use_endpoint
from support.buckets import list_keys
from support.proxy import Fault, HoldReply

if TYPE_CHECKING:
    from conftest import MakeBucket, MakeProxy
    from support.endpoints import Endpoint
    from support.keys import KeyRing

SIZES = [300_000, 300_000, 1000]


class Run(Protocol):
    async def __call__(self, *words: str | Path) -> Outcome: ...


@pytest.fixture
def bundle(tmp_path: Path, key_ring: KeyRing) -> Path:
    return older_bundle(tmp_path / "old", key_ring, SIZES)


@pytest.fixture
def run(cli: Cli, cloud: Endpoint) -> Run:
    """Run a command against the endpoint."""

    async def call(*words: str | Path) -> Outcome:
        return await cli(*map(str, words), "--endpoint-url", cloud.url)

    return call


async def test_a_whole_life(
    run: Run, cloud: Endpoint, make_bucket: MakeBucket, bundle: Path, tmp_path: Path, key_ring: KeyRing
) -> None:
    """Up, registered, listed, migrated, down, deregistered and deleted, each telling what it did."""
    bucket, location = (name := make_bucket(cloud)), f"{name}/web/holes.img.manifest.xml"
    address = f"s3://{location}"

    told = await run("upload", bundle, f"s3://{bucket}/web/")
    assert (told.status, told.stderr) == (0, "")
    assert told.stdout.splitlines()[0].split() == ["manifest", address]
    assert "586.9 KiB in 3 parts" in told.stdout
    assert stored_bytes(cloud, bucket, "web/") == contents(bundle.parent)

    told = await run("register", address, "--ami-name", location, "--tag", "team=web", "--json")
    assert told.status == 0, told.stderr
    image = Registered.model_validate_json(told.stdout)
    assert (image.manifest, image.image_name, image.region) == (address, location, "eu-west-1")

    told = await run("list", f"s3://{bucket}", "--price", "0.03")
    assert told.status == 0
    head, row = told.stdout.splitlines()[:2]
    assert head.split() == ["AGE", "IMAGE", "STORED", "PARTS", "COST", "AMI", "MANIFEST"]
    assert row.split()[:2] == ["0h", "40.0"]
    assert image.image_id in row
    assert row.endswith(address)
    assert "1 bundle in s3://" in told.stdout
    assert "an estimate, at 0.03 USD per GiB" in told.stdout

    keys = ("--cert", key_ring.user.certificate, "--private-key", key_ring.user.key)
    ec2 = ("--ec2-cert", key_ring.ec2.certificate, "--region", "eu-west-1")
    told = await run("migrate", address, f"s3://{bucket}/there", *keys, *ec2, "--register")
    assert told.status == 0, told.stderr
    facts = dict(line.split(maxsplit=1) for line in told.stdout.splitlines())
    assert facts["manifest"] == f"s3://{bucket}/there/holes.img.manifest.xml"
    assert facts["AMI"] in images(cloud)
    assert facts["name"].startswith("holes.img 20")
    # The endpoint reports the name in place of the bundle: the AMI could be on any.
    told = await run("list", f"s3://{bucket}")
    assert [line.split()[-2] for line in told.stdout.splitlines()[1:3]] == ["?", image.image_id]
    assert (await run("deregister", facts["AMI"], "--yes")).status == 0

    told = await run("download", address, tmp_path / "down")
    assert told.status == 0
    assert contents(tmp_path / "down") == contents(bundle.parent)
    told = await run("download", address, tmp_path / "down", "--json")
    assert Transferred.model_validate_json(told.stdout).kept == 3
    assert "kept_parts" not in json.loads(told.stdout), "thousands of names"

    told = await run("delete", address, "--yes")
    assert told.status == 3
    assert f"{image.image_id} is registered on it" in told.stderr
    assert "--deregister" in told.stderr
    told = await run("deregister", image.image_id, "--delete", "--dry-run")
    assert told.stdout.splitlines()[0] == f"would deregister {image.image_id}"
    assert f"  {address}" in told.stdout.splitlines()
    told = await run("deregister", image.image_id, "--delete", "--yes")
    assert (told.status, told.stdout) == (
        0,
        f"deregistered {image.image_id}\ndeleted 4 objects, {_sum(bundle)}: {address}\n",
    )
    assert image.image_id not in images(cloud)
    assert all(key.startswith("there/") for key in list_keys(cloud, bucket))


def _sum(bundle: Path) -> str:
    return f"{sum(path.stat().st_size for path in bundle.parent.iterdir()) / 1024:.1f} KiB"


async def test_json_of_every_command(
    run: Run, cloud: Endpoint, make_bucket: MakeBucket, bundle: Path, key_ring: KeyRing
) -> None:
    """With --json each command writes one document of its model, errors too."""
    bucket = make_bucket(cloud)
    address = f"s3://{bucket}/holes.img.manifest.xml"
    told = await run("upload", bundle, f"s3://{bucket}", "--json")
    assert Transferred.model_validate_json(told.stdout).manifest == address
    progress = json.loads(told.stderr.splitlines()[-1])
    assert (progress["type"], progress["work"], progress["parts_stored"]) == ("progress", "uploading", 3)
    keys = ("--cert", key_ring.user.certificate, "--private-key", key_ring.user.key)
    ec2 = ("--ec2-cert", key_ring.ec2.certificate, "--region", "eu-west-1")
    told = await run("migrate", address, f"s3://{bucket}/m", *keys, *ec2, "--json")
    assert Migrated.model_validate_json(told.stdout).region == "eu-west-1"
    told = await run("list", f"s3://{bucket}", "--json")
    assert len(Inventory.model_validate_json(told.stdout).bundles) == 2
    told = await run("delete", address, "--dry-run", "--json")
    assert len(Removed.model_validate_json(told.stdout).deleted) == 4
    image = register(cloud, f"{bucket}/m/holes.img.manifest.xml")
    told = await run("deregister", image)
    assert (told.status, image in images(cloud)) == (3, True)
    assert f"cannot deregister {image} without a confirmation" in told.stderr
    told = await run("deregister", image, "--yes", "--json")
    assert Deregistered.model_validate_json(told.stdout).removed is None
    told = await run("delete", f"s3://{bucket}/none.manifest.xml", "--json", "--yes")
    assert told.status == 3
    assert json.loads(told.stdout)["error"]["code"] == "manifest.missing"


async def test_a_folder_in_place_of_a_manifest(run: Run, cloud: Endpoint, bucket: str, bundle: Path) -> None:
    """The one bundle in a folder is uploaded and registered; to delete it takes its manifest, which the hint names."""
    assert (await run("upload", bundle.parent, f"s3://{bucket}/below")).status == 0
    told = await run("register", f"s3://{bucket}/below", "--json")
    image = Registered.model_validate_json(told.stdout)
    assert image.manifest == f"s3://{bucket}/below/holes.img.manifest.xml"
    for folder, whole in ((f"s3://{bucket}/below", image.manifest), (str(bundle.parent), str(bundle))):
        told = await run("delete", folder, "--yes")
        assert (told.status, f"give the manifest in it: {whole}" in told.stderr) == (3, True), told.stderr


async def test_deletion_unasked(run: Run, cloud: Endpoint, bucket: str) -> None:
    """Without a terminal nothing is deleted unless --yes is given."""
    told = await run("delete", f"s3://{bucket}/holes.img.manifest.xml")
    assert told.status == 3
    assert "there is no terminal to ask on" in told.stderr
    assert "--yes" in told.stderr
    assert len(list_keys(cloud, bucket)) == 4


@pytest.mark.parametrize(("answer", "status", "left"), [("y", 0, 0), ("n", 3, 4), ("", 3, 4)])
async def test_deletion_asked_on_a_terminal(
    answer: str,
    status: int,
    left: int,
    spawn: Spawn,
    cloud: Endpoint,
    bucket: str,
) -> None:
    """On a terminal the person is asked, told how much it is, and only a yes deletes."""
    ours, theirs = pty.openpty()
    words = ("delete", f"s3://{bucket}/holes.img.manifest.xml", "--endpoint-url", cloud.url)
    process = await spawn(*words, stdin=theirs)
    os.close(theirs)
    question = await process.stderr.readline()
    assert b"Delete 4 objects, " in question
    assert b"[y/N]" in question
    os.write(ours, answer.encode() + b"\n")
    outcome = await ended(process)
    os.close(ours)
    assert outcome.status == status, outcome.stderr
    assert len(list_keys(cloud, bucket)) == left


async def test_interrupt_at_the_question(spawn: Spawn, cloud: Endpoint, bucket: str) -> None:
    """Ctrl-C at the question ends the command, and nothing is deleted."""
    ours, theirs = pty.openpty()
    words = ("delete", f"s3://{bucket}/holes.img.manifest.xml", "--endpoint-url", cloud.url)
    process = await spawn(*words, stdin=theirs)
    os.close(theirs)
    await process.stderr.readline()
    process.send_signal(signal.SIGINT)
    outcome = await ended(process)
    os.close(ours)
    assert outcome.status == 130
    assert len(list_keys(cloud, bucket)) == 4


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_interrupted_download(
    number: signal.Signals,
    spawn: Spawn,
    cloud: Endpoint,
    bucket: str,
    make_proxy: MakeProxy,
    tmp_path: Path,
) -> None:
    """A signal ends a download with whole parts only, says that it can go on, and exits with 130."""
    fault = Fault(action=HoldReply(), method="GET", path=r".*\.part\.2")
    proxy = make_proxy(cloud, fault)
    words = ("download", f"s3://{bucket}/holes.img.manifest.xml", tmp_path / "down", "--endpoint-url", proxy.url)
    process = await spawn(*words, env={"AMISTREAM_UPLOAD_CONCURRENCY": "1"})
    await asyncio.to_thread(proxy.wait_hit, fault)
    process.send_signal(number)
    outcome = await ended(process)
    assert outcome.status == 130, outcome.stderr
    assert "2 of 3 parts are in" in outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert sorted(contents(tmp_path / "down")) == ["holes.img.part.0", "holes.img.part.1"]


async def test_progress_on_a_terminal(spawn: Spawn, cloud: Endpoint, bucket: str, tmp_path: Path) -> None:
    """On a terminal a bar is drawn on stderr, and stdout stays the result alone."""
    ours, theirs = pty.openpty()
    words = ("download", f"s3://{bucket}/holes.img.manifest.xml", tmp_path / "down", "--endpoint-url", cloud.url)
    process = await spawn(*words, stderr=theirs, env={"TERM": "xterm-256color", "COLUMNS": "60"})
    os.close(theirs)
    outcome = await ended(process)
    drawn = b""
    with suppress(OSError):  # a terminal ends with an error, and gives 4 KiB at a time
        while piece := os.read(ours, 65536):
            drawn += piece
    os.close(ours)
    assert outcome.stdout.startswith("manifest ")
    assert b"3 of 3 parts" in drawn


async def test_a_bucket_of_the_early_years(run: Run, cloud: Endpoint) -> None:
    """A name that no new bucket gets is asked for, because old bundles are in such."""
    told = await run("verify", "s3://Old_Bucket.Of-2008/image.manifest.xml")
    assert told.status == 3
    assert "not a bucket name" not in told.stderr
    assert "Old_Bucket.Of-2008" in told.stderr


async def test_an_object_that_is_not_the_bundles(
    run: Run,
    cloud: Endpoint,
    bucket: str,
) -> None:
    """An object that is left because it differs is named, with exit status 5."""
    with cloud.blocking_client() as s3:
        s3.put_object(Bucket=bucket, Key="holes.img.part.1", Body=b"precious", ChecksumAlgorithm="SHA1")
        s3.delete_object(Bucket=bucket, Key="holes.img.part.2")
    told = await run("delete", f"s3://{bucket}/holes.img.manifest.xml", "--yes")
    assert told.status == 5
    assert "cannot delete holes.img.part.1" in told.stderr
    assert "1 part was gone before" in told.stdout
    assert list_keys(cloud, bucket) == ["holes.img.part.1"]


async def test_list_of_what_is_left(run: Run, cloud: Endpoint, make_bucket: MakeBucket, bundle: Path) -> None:
    """Leftovers are listed below the bundles, broken ones are marked, and filters hide the rest."""
    bucket = make_bucket(cloud)
    put_files(cloud, bucket, bundle.parent, "a/")
    put_files(cloud, bucket, bundle.parent, "b/")
    image = register(cloud, f"{bucket}/gone/image.manifest.xml")
    with cloud.blocking_client() as s3:
        s3.delete_object(Bucket=bucket, Key="a/holes.img.part.1")
        s3.put_object(Bucket=bucket, Key="loose/image.part.00", Body=b"x" * 2048)
    told = await run("list", f"s3://{bucket}")
    assert f"s3://{bucket}/a/holes.img.manifest.xml  <- 1 of 3 parts missing" in told.stdout
    assert f"s3://{bucket}/loose/image.part.* (1)" in told.stdout
    assert f"{image}  {bucket}/gone/image.manifest.xml" in told.stdout
    assert "2 bundles in s3://" in told.stdout
    told = await run("list", f"s3://{bucket}", "--orphans", "--older-than", "0h", "--no-ec2")
    assert f"s3://{bucket}/b/" not in told.stdout
    assert " ? " in told.stdout
    told = await run("list", f"s3://{bucket}/nothing", "--unregistered")
    assert (
        told.stdout
        == f"0 bundles in s3://{bucket}/nothing, 0 B, about 0.00 USD a month (an estimate, at 0.023 USD per GiB)\n"
    )


async def test_where_ec2_does_not_report_an_amis_bundle(
    cli: Cli, moto_server: Endpoint, make_bucket: MakeBucket, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bundle that any AMI may be registered on shows a `?`, is not unregistered, and goes only with `--no-ec2`."""
    use_endpoint(moto_server, monkeypatch)
    bucket, at = make_bucket(moto_server), ("--endpoint-url", moto_server.url)
    put_files(moto_server, bucket, bundle.parent)
    address = f"s3://{bucket}/holes.img.manifest.xml"
    image = register(moto_server, address.removeprefix("s3://"))
    told = await cli("list", f"s3://{bucket}", *at)
    assert (" ? " in told.stdout, "does not report" in told.stderr) == (True, True)
    assert "0 bundles" in (await cli("list", f"s3://{bucket}", "--unregistered", *at)).stdout
    for option in ("--yes", "--deregister", "--dry-run"):
        told = await cli("delete", address, option, *at)
        assert (told.status, "amistream delete --no-ec2" in told.stderr) == (3, True)
    assert (await cli("delete", address, "--yes", "--no-ec2", *at)).status == 0
    assert list_keys(moto_server, bucket) == []
    with moto_server.blocking_client("ec2") as ec2:
        ec2.deregister_image(ImageId=image)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("upload", "x.manifest.xml", "./directory"), "'./directory' is no bucket"),
        (("upload", "x.manifest.xml", "s3://B"), "is not a bucket name"),
        (("list", "s3://bucket", "--older-than", "soon"), "--older-than: 'soon' is no age"),
        (("list", "s3://bucket", "--unregistered", "--no-ec2"), "--no-ec2 forbids it"),
        (("register", "s3://b/x", "--ami-name", "x"), "--ami-name: 'x' is not an AMI name"),
        (("register", "s3://b/x", "--kernel", "aki-12345678", "--virtualization", "hvm"), "need"),
        (("migrate", "x", "s3://bucket", "--region", "r_"), "--region: 'r_' is not a region's name"),
        (("migrate", "x", "s3://bucket"), "Missing option '--region'"),
        (
            ("migrate", "x", "s3://bucket", "--region", "eu-west-1", "-k", "aki-12345678", "--no-kernel"),
            "both named and left out",
        ),
        (
            ("migrate", "x", "s3://bucket", "--region", "eu-west-1", "--ami-name", "name"),
            "--ami-name, --description and --tag need",
        ),
        (("verify", "/tmp"), "/tmp: this is a folder, not a manifest"),
        (
            ("verify", "s3:/bucket/x.manifest.xml"),
            "s3:/bucket/x.manifest.xml: it is neither s3://BUCKET/... nor a path",
        ),
        (("unbundle", "https://host/x.manifest.xml", "x"), "https://host/x.manifest.xml: it is neither s3://"),
        (("verify", "s3://no bucket/x.manifest.xml"), "'no bucket' is not a bucket name"),
        (("list", "s3://no*bucket"), "'no*bucket' is not a bucket name"),
        (("bundle", "/dev/null", "--to", "s3:/bucket/x"), "write s3://BUCKET[/KEY/PREFIX]"),
        (("tune", "-", "--to", "/x"), "cannot tune with standard input"),
    ],
)
async def test_words_that_are_off(words: tuple[str, ...], expected: str, cli: Cli) -> None:
    """Options that contradict each other are refused at once, by their names."""
    told = await cli(*words)
    assert told.status in {2, 3}
    assert expected in told.stderr, told.stderr
    assert told.stdout == ""


def test_ages_and_costs() -> None:
    """Ages and costs read as people write them."""
    assert parse_age("30d") == timedelta(days=30)
    assert parse_age("12h") == timedelta(hours=12)
    assert parse_age("4w") == timedelta(weeks=4)
    assert parse_age("1y") == timedelta(days=365)
    with pytest.raises(UsageError):
        parse_age("-1d")
    assert age_text(timedelta(days=3, hours=5)) == "3d"
    assert age_text(timedelta(hours=5)) == "5h"
    assert age_text(timedelta(seconds=-5)) == "0h"
    assert [cost_text(cost) for cost in (None, 0.0, 0.001, 1.234)] == ["-", "0.00 USD", "<0.01 USD", "1.23 USD"]


async def test_prune(run: Run, cloud: Endpoint, make_bucket: MakeBucket, bundle: Path) -> None:
    """A bundle that is not old enough stays; a dry run shows what would go; a bucket is no group; nobody is asked."""
    bucket = make_bucket(cloud)
    for day in ("28", "29"):
        put_files(cloud, bucket, bundle.parent, f"web/{day}/")
    keys = list_keys(cloud, bucket)
    folder = f"s3://{bucket}/web"
    told = await run("prune", folder, "--keep-last", "1", "--yes")
    assert (told.status, told.stdout.count("<- not old enough")) == (0, 1)
    assert told.stdout.endswith(f"\n\ndeleted 0 of 2 bundles in {folder}, 0 B\n")
    words = ("--keep-last", "1", "--older-than", "0h")
    told = await run("prune", folder, *words, "--dry-run")
    assert [line.split()[0] for line in told.stdout.splitlines()[1:3]] == ["keep", "delete"]
    assert told.stdout.endswith(f"\nwould delete 1 of 2 bundles in {folder}, 590.0 KiB\n")
    told = await run("prune", folder, *words)
    assert (told.status, list_keys(cloud, bucket)) == (3, keys)
    assert f"cannot prune {folder} without a confirmation" in told.stderr
    assert (await run("prune", f"s3://{bucket}", *words)).status == 2
    told = await run("prune", f"s3://{bucket}", "--by-folder", *words, "--yes", "--json")
    assert [len(each.deleted) for each in Pruned.model_validate_json(told.stdout).removed] == [4]
    assert list_keys(cloud, bucket) == [key for key in keys if "/29/" in key]
