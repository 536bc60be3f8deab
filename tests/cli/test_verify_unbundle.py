"""The commands `verify` and `unbundle`: words, JSON, exit statuses, and what a signal leaves behind."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from amistream.bundles.results import Unbundled
from amistream.reports import Report
from bundles.made import flip, put_files
from bundles.shell_bundle import Form, shell_bundle
from cli.running import Cli, Spawn, ended
from support.proxy import Fault, PauseReply
from support.volumes import sparse_image

if TYPE_CHECKING:
    from conftest import MakeBucket, MakeProxy
    from support.endpoints import Endpoint
    from support.keys import KeyRing

MIB = 1024 * 1024


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMISTREAM_STATE_DIR", str(tmp_path / "state"))


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return sparse_image(tmp_path / "disk.img", 2 * MIB, [(0, 100 * 1024), (MIB, 200 * 1024)])


@pytest.fixture
def manifest(image: Path, key_ring: KeyRing, tmp_path: Path) -> Path:
    return shell_bundle(tmp_path / "bundle", image, key_ring)


def key(keys: KeyRing) -> tuple[str, str]:
    return "--private-key", str(keys.user.key)


async def test_verify_in_words(cli: Cli, manifest: Path) -> None:
    """A valid bundle gives a table of facts, with exit status 0, and nothing goes to stderr."""
    outcome = await cli("verify", str(manifest))
    assert (outcome.status, outcome.stderr) == (0, "")
    facts = dict(line.split(maxsplit=1) for line in outcome.stdout.splitlines())
    assert facts["manifest"] == str(manifest)
    assert facts["image"] == "image, machine, x86_64, 2.0 MiB"
    assert facts["parts"].startswith("5 parts, ")
    assert facts["checksums"] == "5 of 5 match"
    assert facts["signature"] == "not checked: no certificate at hand"
    assert facts["content"] == "not checked; --deep checks it"
    assert facts["result"] == "OK"


async def test_verify_a_folder(cli: Cli, manifest: Path) -> None:
    """A folder stands for the only manifest in it; of several one must be chosen."""
    outcome = await cli("verify", str(manifest.parent))
    assert outcome.status == 0, outcome.stderr
    assert outcome.stdout.splitlines()[0].split() == ["manifest", str(manifest)]
    manifest.with_name("other.manifest.xml").write_bytes(manifest.read_bytes())
    outcome = await cli("verify", str(manifest.parent))
    assert (outcome.status, outcome.stdout) == (3, "")
    assert "there are 2\ngive one of them: image.manifest.xml, other.manifest.xml" in outcome.stderr


async def test_verify_deep(cli: Cli, manifest: Path, key_ring: KeyRing) -> None:
    """A deep look says what the image is; the key may come from EC2_PRIVATE_KEY."""
    outcome = await cli("verify", "--deep", str(manifest), *key(key_ring))
    assert outcome.status == 0, outcome.stderr
    assert "decrypted, decompressed and unpacked: 2.0 MiB, sparse, 300.0 KiB of data" in outcome.stdout
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EC2_PRIVATE_KEY", str(key_ring.user.key))
        assert (await cli("verify", "--deep", str(manifest))).status == 0


async def test_verify_finds_differences(cli: Cli, manifest: Path, key_ring: KeyRing) -> None:
    """Each difference has its line, and the exit status is 5."""
    (manifest.parent / "image.part.00").unlink()
    flip(manifest.parent / "image.part.02")
    outcome = await cli("verify", str(manifest), "--cert", str(key_ring.stranger.certificate))
    assert (outcome.status, outcome.stderr) == (5, "")
    lines = [line for line in outcome.stdout.splitlines() if line.startswith("DIFFERENT")]
    assert ["signature" in lines[0], "image.part.00: it is missing" in lines[1]] == [True, True]
    assert "image.part.02: its SHA-1 is " in lines[2]
    assert outcome.stdout.splitlines()[-1].split(maxsplit=1) == ["result", "3 differences"]
    deep = await cli("verify", "--deep", str(manifest), *key(key_ring))
    assert "could not be unpacked to its end" in deep.stdout


async def test_verify_for_machines(cli: Cli, manifest: Path, key_ring: KeyRing) -> None:
    """With --json there is one line that the model of the report reads, whatever the exit status."""
    flip(manifest.parent / "image.part.02")
    outcome = await cli("verify", "--deep", "--json", "-q", str(manifest), *key(key_ring))
    assert (outcome.status, outcome.stderr, outcome.stdout.count("\n")) == (5, "", 1)
    report = Report.model_validate_json(outcome.stdout)
    assert ("part.digest", "image.part.02") in {(each.what, each.part) for each in report.differences}


async def test_verify_that_cannot_be(cli: Cli, manifest: Path, tmp_path: Path) -> None:
    """Without a manifest or a key there is nothing to verify: exit status 3, and how to mend it."""
    outcome = await cli("verify", str(tmp_path / "none.manifest.xml"))
    assert (outcome.status, "it is not there" in outcome.stderr) == (3, True)
    outcome = await cli("verify", "--deep", str(manifest), "--json")
    assert (outcome.status, "--private-key" in outcome.stderr) == (3, True)
    assert json.loads(outcome.stdout)["error"]["code"] == "key.missing"


async def test_unbundle_in_words(cli: Cli, manifest: Path, image: Path, key_ring: KeyRing, tmp_path: Path) -> None:
    """The image is written, and stdout has a table of facts."""
    outcome = await cli("unbundle", str(manifest), str(tmp_path / "out.img"), *key(key_ring))
    assert (outcome.status, outcome.stderr) == (0, "")
    assert (tmp_path / "out.img").read_bytes() == image.read_bytes()
    facts = dict(line.split(maxsplit=1) for line in outcome.stdout.splitlines())
    assert facts["size"] == "2.0 MiB, 300.0 KiB of it data"
    assert (facts["image"], facts["signature"]) == (str(tmp_path / "out.img"), "valid")
    again = await cli("unbundle", str(manifest), str(tmp_path / "out.img"), *key(key_ring))
    assert (again.status, "--force" in again.stderr) == (3, True)
    forced = await cli("unbundle", "--force", "--json", str(manifest), str(tmp_path / "out.img"), *key(key_ring))
    assert forced.status == 0
    assert Unbundled.model_validate_json(forced.stdout).image_size == 2 * MIB


async def test_unbundle_that_differs(cli: Cli, manifest: Path, key_ring: KeyRing, tmp_path: Path) -> None:
    """A bundle that is not what its manifest says gives exit status 5, names the part, and leaves nothing."""
    flip(manifest.parent / "image.part.01")
    (tmp_path / "out").mkdir()
    outcome = await cli("unbundle", str(manifest), str(tmp_path / "out" / "disk.img"), *key(key_ring))
    assert (outcome.status, outcome.stdout) == (5, "")
    assert "image.part.01: its SHA-1 is" in outcome.stderr
    assert f"amistream verify --deep {manifest}" in outcome.stderr
    assert list((tmp_path / "out").iterdir()) == []


async def test_unbundle_without_a_signature(cli: Cli, image: Path, key_ring: KeyRing, tmp_path: Path) -> None:
    """That nobody signed the manifest is told on stderr, and no reason to keep the image in."""
    manifest = shell_bundle(tmp_path / "unsigned", image, key_ring, form=Form(signature="absent"))
    outcome = await cli("unbundle", str(manifest), str(tmp_path / "out.img"), *key(key_ring))
    assert (outcome.status, "has no signature" in outcome.stderr) == (0, True)


async def test_unbundle_to_another_program(spawn: Spawn, manifest: Path, image: Path, key_ring: KeyRing) -> None:
    """With - the image alone goes to stdout, and what is to be said to stderr."""
    process = await spawn("unbundle", manifest, "-", *key(key_ring))
    stdout, stderr = await process.communicate()
    assert await process.wait() == 0, stderr
    assert stdout == image.read_bytes()
    assert b"signature  valid" in stderr


async def test_unbundle_to_one_that_leaves(spawn: Spawn, manifest: Path, key_ring: KeyRing) -> None:
    """A program that leaves early ends it with exit status 4 and one message."""
    process = await spawn("unbundle", manifest, "-", *key(key_ring))
    await process.stdout.readexactly(1000)
    process.stdout._transport.close()  # type: ignore[attr-defined] # as a reader that ends
    stderr = (await process.stderr.read()).decode()
    assert await process.wait() == 4
    assert stderr.count("cannot write the standard output: Broken pipe") == 1
    assert "Traceback" not in stderr


async def test_a_file_that_may_not_grow(spawn: Spawn, manifest: Path, key_ring: KeyRing, tmp_path: Path) -> None:
    """A limit on the size of files is told as such before anything is read, and leaves nothing."""
    (tmp_path / "out").mkdir()
    limit = ("prlimit", f"--fsize={MIB}")
    process = await spawn("unbundle", manifest, tmp_path / "out" / "disk.img", *key(key_ring), before=limit)
    outcome = await ended(process)
    assert (outcome.status, "File too large" in outcome.stderr) == (3, True)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_a_signal(
    spawn: Spawn, moto_server: Endpoint, make_bucket: MakeBucket, make_proxy: MakeProxy, manifest: Path,
    key_ring: KeyRing, tmp_path: Path, number: signal.Signals,
) -> None:  # fmt: skip
    """A signal ends it with exit status 130, and no unfinished file is left."""
    bucket = make_bucket(moto_server)
    put_files(moto_server, bucket, manifest.parent)
    held = Fault(action=PauseReply(), method="GET", path=r".*\.part\.02", times=None)
    proxy = make_proxy(moto_server, held)
    (tmp_path / "out").mkdir()
    process = await spawn(
        "unbundle", f"s3://{bucket}/image.manifest.xml", tmp_path / "out" / "disk.img", *key(key_ring),
        "--endpoint-url", proxy.endpoint.url, "--region", moto_server.region, env=moto_server.environ(),
        before=("env", f"--default-signal={number.name.removeprefix('SIG')}"),
    )  # fmt: skip
    await asyncio.to_thread(proxy.wait_hit, held)
    process.send_signal(number)
    outcome = await ended(process)
    assert outcome.status == 130, outcome.stderr
    assert list((tmp_path / "out").iterdir()) == []
    assert "Traceback" not in outcome.stderr


async def test_under_nohup(
    spawn: Spawn, moto_server: Endpoint, make_bucket: MakeBucket, make_proxy: MakeProxy, manifest: Path, image: Path,
    key_ring: KeyRing, tmp_path: Path,
) -> None:  # fmt: skip
    """A command that ignores SIGHUP continues when the terminal is closed."""
    bucket = make_bucket(moto_server)
    put_files(moto_server, bucket, manifest.parent)
    held = Fault(action=PauseReply(), method="GET", path=r".*\.part\.02")
    proxy = make_proxy(moto_server, held)
    process = await spawn(
        "unbundle", f"s3://{bucket}/image.manifest.xml", tmp_path / "made.img", *key(key_ring),
        "--endpoint-url", proxy.endpoint.url, "--region", moto_server.region, env=moto_server.environ(),
        before=("env", "--ignore-signal=HUP"),
    )  # fmt: skip
    await asyncio.to_thread(proxy.wait_hit, held)
    process.send_signal(signal.SIGHUP)
    await asyncio.to_thread(proxy.let_go, held)
    outcome = await ended(process)
    assert outcome.status == 0, outcome.stderr
    assert (tmp_path / "made.img").read_bytes() == image.read_bytes()


async def test_from_a_bucket(
    spawn: Spawn, moto_server: Endpoint, make_bucket: MakeBucket, manifest: Path, image: Path, key_ring: KeyRing,
    tmp_path: Path,
) -> None:  # fmt: skip
    """Region and endpoint may be named as for other commands."""
    bucket = make_bucket(moto_server)
    put_files(moto_server, bucket, manifest.parent, "a/")
    where = ("--endpoint-url", moto_server.url, "--region", moto_server.region)
    address = f"s3://{bucket}/a/image.manifest.xml"
    looked = await ended(await spawn("verify", address, *where, env=moto_server.environ()))
    assert looked.status == 0, looked.stderr
    assert "not available from this endpoint" in looked.stdout
    process = await spawn("unbundle", address, tmp_path / "out.img", *where, *key(key_ring), env=moto_server.environ())
    assert (await ended(process)).status == 0
    assert (tmp_path / "out.img").read_bytes() == image.read_bytes()
