"""`bundle --in-process`: the engine in the command's own process, without a daemon."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from amistream.events import BundleResult, JobList, JobView, State
from cli.running import Spawn, ended

if TYPE_CHECKING:
    from support.keys import KeyRing


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(b"amistream" * 100_000)
    return path


def identity(keys: KeyRing) -> tuple[str, ...]:
    return (
        "--cert", str(keys.user.certificate), "--private-key", str(keys.user.key),
        "--ec2-cert", str(keys.ec2.certificate), "--account", "123456789012",
    )  # fmt: skip


async def test_a_bundle_without_a_daemon(spawn: Spawn, key_ring: KeyRing, volume: Path, tmp_path: Path) -> None:
    """The same words make a bundle in a directory, and the result is the same document."""
    process = await spawn("bundle", volume, "--to", tmp_path / "out", *identity(key_ring), "--in-process", "--json")
    outcome = await ended(process)
    assert outcome.status == 0, outcome.stderr
    job = JobView.model_validate_json(outcome.stdout)
    assert isinstance(job.result, BundleResult)
    assert Path(job.result.manifest).is_file()
    assert job.result.image_size == volume.stat().st_size
    assert "Traceback" not in outcome.stderr


def test_a_directory_needs_no_sdk(key_ring: KeyRing, volume: Path, tmp_path: Path) -> None:
    """A bundle into a directory, whose region is given, loads neither the AWS SDK and its errors nor HTTP nor rich.

    Of a disk without a table and a file system, it loads nothing that reads or makes one; and of other kinds of jobs,
    of queues, snapshots and images of virtual machines nothing either.
    """
    words = ["bundle", str(volume), "--to", str(tmp_path / "out"), *identity(key_ring), "--in-process"]
    code = "import sys; from amistream.cli.main import run; "
    code += f"assert run({[*words, '--region', 'eu-west-1']!r}) == 0; print('loaded:', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found = {*done.stdout.partition("loaded:")[2].split()}
    assert "amistream.jobs.engine" in found
    of_aws = {f"amistream.aws.{name}" for name in ("buckets", "dialect", "ec2", "error_table", "translate")}
    assert found & {"aiobotocore", "botocore", "aiohttp", "rich", *of_aws} == set()
    of_file_systems = {"source.tree.opening", "source.clone", "source.disks.ext4.superblock", "checks.boot.contents"}
    assert found & {"crc32c", *(f"amistream.{name}" for name in of_file_systems)} == set()
    of_other_jobs = {
        *("request.convert", "request.migrate", "request.verify", "jobs.conversion_records", "jobs.migration_records"),
        *("jobs.deliveries", "jobs.named_claims", "jobs.confinement", "bundles.place", "ports.snapshots"),
        *("source.snapshot", "source.qemu.converted", "conversion"),
    }
    assert found & {"anyio", *(f"amistream.{name}" for name in of_other_jobs)} == set()


async def test_jobs_that_are_over_are_found(spawn: Spawn, key_ring: KeyRing, volume: Path, tmp_path: Path) -> None:
    """A job that is over is listed and found by its id, by the begin of that, and as the last one; it cannot go on."""
    process = await spawn("bundle", volume, "--to", tmp_path / "out", *identity(key_ring), "--in-process", "--json")
    job = JobView.model_validate_json((await ended(process)).stdout)
    for word in (job.id, job.id.rpartition("-")[2], "last"):
        shown = await ended(await spawn("status", word, "--in-process", "--json"))
        assert JobView.model_validate_json(shown.stdout) == job
    listed = await ended(await spawn("jobs", "--in-process", "--json"))
    assert [each.id for each in JobList.model_validate_json(listed.stdout).jobs] == [job.id]
    for command, refused in (("resume", "it is done"), ("cancel", "it is done already")):
        outcome = await ended(await spawn(command, job.id[:15], "--in-process"))
        assert f"cannot {command} job {job.id}: {refused}" in outcome.stderr
    unknown = await ended(await spawn("status", "nosuch", "--in-process"))
    assert "cannot find a job 'nosuch'" in unknown.stderr


async def test_a_refusal_without_a_daemon(spawn: Spawn, key_ring: KeyRing, tmp_path: Path) -> None:
    """A refusal of the preflight is reported once, in words, with exit status 3."""
    empty = tmp_path / "empty.img"
    empty.touch()
    process = await spawn("bundle", empty, "--to", tmp_path / "out", *identity(key_ring), "--in-process")
    outcome = await ended(process)
    assert (outcome.status, outcome.stdout) == (3, "")
    assert outcome.stderr.count("it is empty") == 1


async def test_settings_come_from_the_file(spawn: Spawn, key_ring: KeyRing, volume: Path, tmp_path: Path) -> None:
    """Without a daemon every setting of --config counts, and an option wins over it."""
    config = tmp_path / "amistream.toml"
    config.write_text('prefix = "filed"\naccount = "123456789012"\n')
    for words, name in (([], "filed"), (["--prefix", "said"], "said")):
        process = await spawn(
            "bundle", volume, "--to", tmp_path / name, *identity(key_ring), "--config", config, "--in-process", *words
        )
        assert (await ended(process)).status == 0
        assert (tmp_path / name / f"{name}.manifest.xml").is_file()


@pytest.mark.parametrize(
    "numbers", [[signal.SIGINT], [signal.SIGTERM], [signal.SIGINT, signal.SIGTERM], [signal.SIGHUP]]
)
async def test_a_signal_ends_the_job(
    spawn: Spawn, key_ring: KeyRing, volume: Path, numbers: list[signal.Signals]
) -> None:
    """A signal ends the job with exit status 130: it is cancelled, or kept for `resume` if the terminal was closed."""
    asked, release = asyncio.Event(), asyncio.Event()

    async def hold(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await release.wait()
        writer.close()

    async with await asyncio.start_server(hold, "127.0.0.1", 0) as silent:
        port = silent.sockets[0].getsockname()[1]
        process = await spawn(
            "bundle", volume, "--to", "s3://bucket/web", *identity(key_ring), "--in-process", "--json",
            "--endpoint-url", f"http://127.0.0.1:{port}", "--region", "eu-west-1",
            env={"AWS_ACCESS_KEY_ID": "A" * 20, "AWS_SECRET_ACCESS_KEY": "secret"},
        )  # fmt: skip
        await asked.wait()
        # Stopped meanwhile, the command sees all signals at once.
        for number in (signal.SIGSTOP, *numbers, signal.SIGCONT):
            process.send_signal(number)
        outcome = await ended(process)
        release.set()
    assert outcome.status == 130, outcome.stderr
    hung_up = numbers == [signal.SIGHUP]
    assert JobView.model_validate_json(outcome.stdout).state is (State.INTERRUPTED if hung_up else State.CANCELLED)
    assert ("cancelling; what was stored is removed" in outcome.stderr) != hung_up
    assert ("stopping soon" in outcome.stderr) == (len(numbers) > 1)
    assert "Traceback" not in outcome.stderr
