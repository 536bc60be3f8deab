"""The real daemon, stopped and killed at moments that the proxy holds; the next one continues its jobs.

Counts: three ways to be stopped with SIGTERM; SIGKILL at seven moments, one in each state at least; three ends of jobs
that do not continue by themselves, and two without a daemon; a failed registration; a volume that changed between two
runs; and as many jobs as the variable FAULT_JOBS says (40) over which memory must stay flat.
"""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import sqlite3
import subprocess
import time
from contextlib import closing, suppress
from pathlib import Path
from statistics import median
from typing import Any

from amistream.jobs.journal_file import FILE
from faults.machine import PATIENCE_S, QUICK, Machine, exit_status, kill, tell, wait_log
from faults.scene import REGISTER, part
from support import commands
from support.commands import COMMANDS
from support.daemons import Daemon
from support.proxy import Answer, Fault, PauseReply
from support.volumes import random_image

MIB = 1 << 20
JOBS = int(os.environ.get("FAULT_JOBS", "40"))
GROWTH = 3 * MIB


def done_right(machine: Machine, job: dict[str, Any], place: str) -> None:
    assert job["state"] == "done", job["error"]
    assert machine.ground.images(machine.image_name(place)) == [job["result"]["image_id"]]
    machine.fits(place)


def test_stopped_once_it_finishes_what_runs(machine: Machine) -> None:
    """SIGTERM: no new jobs, the running one goes on to its end, exit status 0; the next daemon knows the job."""
    held = machine.held(Fault(action=PauseReply(), path=part(1)))
    with machine.daemon() as daemon:
        job_id = machine.submit(daemon, "x")
        machine.proxy.wait_hit(held)
        tell(daemon, signal.SIGTERM)
        wait_log(daemon, "daemon.stopping")
        assert daemon.curl("/v1/health")[1]["status"] == "stopping"
        status, refused = daemon.curl("/v1/jobs", "-d", json.dumps(machine.body("y")))
        assert (status, refused["error"]["code"]) == (503, "daemon.stopping")
        machine.proxy.let_go(held)
        assert exit_status(daemon) == 0
    with machine.daemon() as daemon:
        done_right(machine, daemon.job(job_id), "x")


def test_stopped_twice_it_interrupts_and_goes_on_at_the_next_start(machine: Machine) -> None:
    """A second SIGTERM ends the jobs where they are, exit status 0; the next daemon finishes them by itself."""
    held = machine.held(Fault(action=PauseReply(), path=part(2)))
    with machine.daemon() as daemon:
        job_id = machine.submit(daemon, "x")
        machine.proxy.wait_hit(held)
        tell(daemon, signal.SIGTERM)
        wait_log(daemon, "daemon.stopping")
        tell(daemon, signal.SIGTERM)
        machine.proxy.let_go(held)
        assert exit_status(daemon) == 0
        assert '"interrupted"' in daemon.process.output()
    assert machine.left("x")
    with machine.daemon() as daemon:
        done_right(machine, daemon.wait_ended(job_id), "x")


def test_stopped_with_a_queue_the_rest_runs_after_the_next_start(machine: Machine) -> None:
    """Running jobs are finished first; queued jobs wait for the next daemon, in their order."""
    held = machine.held(Fault(action=PauseReply(), path=part(1)))
    with machine.daemon(max_jobs=1) as daemon:
        jobs = {place: machine.submit(daemon, place) for place in ("x", "y", "z")}
        machine.proxy.wait_hit(held)
        tell(daemon, signal.SIGTERM)
        wait_log(daemon, "daemon.stopping")
        machine.proxy.let_go(held)
        assert exit_status(daemon) == 0
    assert machine.left("x")
    assert machine.left("y") == machine.left("z") == []
    with machine.daemon(max_jobs=1) as daemon:
        for place, job_id in jobs.items():
            done_right(machine, daemon.wait_ended(job_id), place)


MOMENTS = {
    "probed": ("checking", Fault(action=PauseReply(), path=".*/probed/amistream-probe-.*")),
    "begun": ("bundling", Fault(action=PauseReply(), path=".*/begun/image.part.00")),
    "bundled": ("bundling", Fault(action=PauseReply(), path=".*/bundled/image.part.03")),
    "proved": ("committing", Fault(action=PauseReply(), path=".*/proved/image.part.04", method="HEAD")),
    "committed": ("committing", Fault(action=PauseReply(), path=".*/committed/image.manifest.xml")),
    "registered": ("registering", Fault(action=PauseReply(), method="POST", form=f"{REGISTER}.*registered")),
    # The images of the others are not registered, or not known to be.
    "waited for": ("registering", Fault(action=PauseReply(), method="POST", form="ImageId.1=ami")),
}
"""Jobs by the moment at which they are held, with the state that each is in then."""


def test_killed_in_each_state_it_goes_on_at_the_next_start(machine: Machine) -> None:
    """SIGKILL: the next daemon ends every job done, with one image, one bundle and nothing stored twice."""
    with machine.daemon(max_jobs=len(MOMENTS)) as daemon:
        jobs = {}
        for name, (_, held) in MOMENTS.items():
            machine.held(held)
            place = name.replace(" ", "-")
            jobs[place] = machine.submit(daemon, place)
            machine.proxy.wait_hit(held)
        states = [daemon.job(job_id)["state"] for job_id in jobs.values()]
        assert states == [state for state, _ in MOMENTS.values()]
        kill(daemon)
    machine.proxy.mend(*(held for _, held in MOMENTS.values()))
    with machine.daemon() as daemon:
        for place, job_id in jobs.items():
            done_right(machine, daemon.wait_ended(job_id), place)


def test_killed_and_not_to_go_on_by_itself(machine: Machine) -> None:
    """With `resume_on_start = false` interrupted jobs wait to be resumed, cancelled or cleaned up."""
    held = machine.held(Fault(action=PauseReply(), path=part(2), times=None))
    with machine.daemon(max_jobs=4) as daemon:
        jobs = {place: machine.submit(daemon, place) for place in ("resumed", "cancelled", "cleaned")}
        for _ in jobs:
            machine.proxy.wait_hit(held)
        kill(daemon)
    machine.proxy.mend(held)
    with machine.daemon(resume_on_start=False) as daemon:
        for job_id in jobs.values():
            job = daemon.job(job_id)
            assert (job["state"], job["resumable"]) == ("interrupted", True)

        resumed = daemon.command("resume", jobs["resumed"], "--json")
        assert resumed.returncode == 0, resumed.stderr
        done_right(machine, json.loads(resumed.stdout), "resumed")

        assert daemon.command("cancel", jobs["cancelled"]).returncode == 0
        assert daemon.job(jobs["cancelled"])["state"] == "cancelled"
        assert machine.left("cancelled") == []

        kept = machine.left("cleaned")
        dry = daemon.command("clean", "--dry-run", "--json")
        assert [job["id"] for job in json.loads(dry.stdout)["jobs"]] == [jobs["cleaned"]]
        assert machine.left("cleaned") == kept != []
        assert daemon.command("clean", "--yes").returncode == 0
        assert machine.left("cleaned") == []
        assert json.loads(daemon.command("clean", "--dry-run", "--json").stdout) == {"jobs": []}


def test_killed_without_a_daemon(machine: Machine) -> None:
    """A job run with `--in-process` and killed is resumed, or cleaned up, in the same way and without a daemon."""
    held = machine.held(Fault(action=PauseReply(), path=part(2), times=None))
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(machine.directory),
        **machine.ground.endpoint.environ(),
        **{f"AMISTREAM_{name.upper()}": str(value) for name, value in QUICK.items()},
        "AMISTREAM_STATE_DIR": str(machine.directory / "state"),
    }

    def command(*words: object) -> subprocess.CompletedProcess[str]:
        line = [COMMANDS / "amistream", *words, "--in-process"]
        return commands.run(line, env=environ, timeout=PATIENCE_S)

    for place in ("resumed", "cleaned"):
        line = [str(COMMANDS / "amistream"), *map(str, machine.words(place)), "--in-process"]
        with commands.Popen(line, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
            machine.proxy.wait_hit(held)
            running.kill()
    machine.proxy.mend(held)
    listed = json.loads(command("jobs", "--json").stdout)["jobs"]
    jobs = {job["destinations"][0].rpartition("/")[2]: job for job in listed}
    assert {place: (job["state"], job["resumable"]) for place, job in jobs.items()} == {
        "resumed": ("interrupted", True),
        "cleaned": ("interrupted", True),
    }
    resumed = command("resume", jobs["resumed"]["id"], "--json")
    assert resumed.returncode == 0, resumed.stderr
    done_right(machine, json.loads(resumed.stdout), "resumed")

    kept = machine.left("cleaned")
    assert jobs["cleaned"]["id"] in command("clean", "--dry-run").stdout
    assert machine.left("cleaned") == kept != []
    assert command("clean", "--yes").returncode == 0
    assert machine.left("cleaned") == []


def test_a_failed_registration_is_repeated_without_bundling_again(machine: Machine) -> None:
    """EC2 refuses, the job fails and keeps its bundle; `resume` registers that, and sends no part."""
    denied = machine.held(
        Fault(action=Answer(status=403, code="UnauthorizedOperation"), method="POST", form=REGISTER, times=None)
    )
    with machine.daemon() as daemon:
        failed = daemon.command(*machine.words("x"), "--json")
        assert failed.returncode == 4
        job = json.loads(failed.stdout)
        assert (job["state"], job["error"]["code"]) == ("failed", "aws.UnauthorizedOperation")
        assert f"amistream resume {job['id']}" in failed.stderr
        machine.proxy.mend(denied)
        parts = len(machine.proxy.seen("PUT", part(".*")))
        resumed = daemon.command("resume", job["id"], "--json")
        assert resumed.returncode == 0, resumed.stderr
        assert len(machine.proxy.seen("PUT", part(".*"))) == parts
        done_right(machine, json.loads(resumed.stdout), "x")


def test_a_volume_that_changed_between_two_runs_is_bundled_anew(machine: Machine) -> None:
    """A notice says so; the old parts are gone before the new ones come, and the key and IV are others."""
    held = machine.held(Fault(action=PauseReply(), path=part(3)))
    with machine.daemon() as daemon:
        job_id = machine.submit(daemon, "x")
        machine.proxy.wait_hit(held)
        kill(daemon)
    machine.proxy.let_go(held)
    with closing(sqlite3.connect(machine.directory / "state" / FILE)) as journal:
        ((before,),) = journal.execute("SELECT bundling FROM jobs WHERE id = ?", [job_id]).fetchall()
    old_parts = machine.left("x")
    assert len(old_parts) == 4
    seen = len(machine.proxy.requests)
    with machine.image.open("r+b") as file:
        file.write(b"other bytes")
    with machine.daemon() as daemon:
        job = daemon.wait_ended(job_id)
    assert job["state"] == "done", job["error"]
    assert any("starting over under a new key" in notice for notice in job["notices"]), job["notices"]
    manifest = machine.bundle("x").manifest.decode()
    for name in ("user_encrypted_key", "user_encrypted_iv", "ec2_encrypted_key", "ec2_encrypted_iv"):
        found = re.search(f"<{name}[^>]*>([0-9a-f]+)<", manifest)
        assert found is not None
        assert found[1] not in _secrets(before)
    for name in old_parts:
        methods = [each.method for each in machine.proxy.requests[seen:] if each.path.endswith(f"/x/{name}")]
        assert "DELETE" in methods[: methods.index("PUT")], name


def _secrets(bundling: str) -> set[str]:
    """The wrapped keys and IVs in the journal's text, in hex."""
    found = re.findall(r'"(?:user|ec2)_(?:key|iv)":"([^"]+)"', bundling)
    assert len(found) >= 4
    return {base64.b64decode(each + "==", altchars=b"-_").hex() for each in found}


def test_memory_stays_flat(machine: Machine) -> None:
    """Job after job the daemon has the same memory, descriptors and threads, whatever becomes of the jobs."""
    machine.image = random_image(machine.directory / "small.img", 300_000)
    machine.held(Fault(action=Answer(status=403, code="AccessDenied"), path=f".*/failed-.*{part(1)}", times=None))
    sizes, handles, threads = [], [], []
    ends = {"ami": "done", "failed": "failed", "cancelled": "cancelled", "local": "done"}
    with machine.daemon(forked=False, part_size="64KiB") as daemon:
        for number in range(JOBS):
            kind = list(ends)[number % 4]
            place = f"{kind}-{number}"
            body = machine.body(place)
            if kind == "local":
                body |= {"destinations": [str(machine.directory / place)], "ami_name": None, "endpoint_url": None}
            job_id = daemon.submit(**body)
            if kind == "cancelled":
                assert daemon.curl(f"/v1/jobs/{job_id}", "-X", "DELETE")[0] == 202
            assert daemon.wait_ended(job_id)["state"] == ends[kind]
            if kind == "failed":
                assert daemon.curl(f"/v1/jobs/{job_id}", "-X", "DELETE")[0] == 202
                assert daemon.wait_ended(job_id)["state"] == "cancelled"
            if kind == "local":
                sizes.append(rss(daemon))
                handles.append(len(descriptors(daemon) - connections(daemon)))
                threads.append(len(daemon.threads()))
        machine.proxy.hang_up()
        deadline = time.monotonic() + PATIENCE_S
        while left := connections(daemon):
            assert time.monotonic() < deadline, f"{len(left)} connections are nobody's"
            daemon.curl("/v1/health")
    third = len(sizes) // 3
    growth = median(sizes[-third:]) - median(sizes[:third])
    assert growth < GROWTH, (growth, sizes)
    assert max(handles[third:]) <= max(handles[:third]) + 2, handles
    assert max(threads[third:]) <= max(threads[:third]), threads


def descriptors(daemon: Daemon) -> set[str]:
    """The daemon's descriptors, each with what it stands for."""
    found = set()
    for path in Path(f"/proc/{daemon.process.pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            found.add(f"{path.name} {path.readlink()}")
    return found


def connections(daemon: Daemon) -> set[str]:
    """The TCP descriptors: connections to the endpoint, some kept open for the next request."""
    table = Path(f"/proc/{daemon.process.pid}/net/tcp").read_text().splitlines()[1:]
    inodes = {f"socket:[{line.split()[9]}]" for line in table}
    return {each for each in descriptors(daemon) if each.split()[1] in inodes}


def rss(daemon: Daemon) -> int:
    pages = int(Path(f"/proc/{daemon.process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
