"""The real daemon removes a job at an endpoint that does not say what it did, says it late, or says nothing.

Counts: four ways to register a bundle by hand before its job is removed; a registration whose answer is lost, removed
and resumed; two requests that are done long after the job's end; an endpoint that says nothing; a directory.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import pytest

from faults.machine import exit_status, kill, tell, wait_log
from faults.scene import MANIFEST, REGISTER, part
from support.mounts import small_disk
from support.proxy import Answer, DropReply, Fault, PauseReply, PauseRequest

if TYPE_CHECKING:
    from faults.machine import Machine
    from support.daemons import Daemon

REFUSED = Answer(status=403, code="UnauthorizedOperation")
FIND = "Action=DescribeImages.*Filter"
LOOK = "Action=DescribeImages.*ImageId"


def cancelled(daemon: Daemon, job_id: str) -> dict[str, Any]:
    """Cancel the job and wait for its end."""
    assert daemon.curl(f"/v1/jobs/{job_id}", "-X", "DELETE")[0] == 202
    return daemon.wait_ended(job_id)


def registered_by_hand(machine: Machine) -> str:
    """Register the bundle at x; the endpoint shows an AMI's name as its location."""
    name = machine.image_name("x")
    made = machine.ground.ec2.register_image(Name=name, ImageLocation=name, Architecture="x86_64")
    return str(made["ImageId"])


def is_kept(machine: Machine, job: dict[str, Any], ami: str, there: list[str]) -> None:
    assert job["resumable"]
    assert any(f"the AMI {ami} is registered from it" in notice for notice in job["notices"]), job["notices"]
    assert machine.ground.images(machine.image_name("x")) == [ami]
    assert machine.left("x") == there


@pytest.mark.parametrize("named", ["as the job would", "otherwise"])
def test_registered_by_hand_then_resumed_and_cancelled(named: str, machine: Machine) -> None:
    """A run that is cancelled while it waits for an AMI leaves a bundle that a user has registered."""
    denied = machine.held(Fault(action=REFUSED, method="POST", form=REGISTER, times=None))
    body = machine.body("x")
    if named == "otherwise":
        body["ami_name"] = f"of the job {machine.root}"
    with machine.daemon() as daemon:
        job_id = daemon.submit(**body)
        assert daemon.wait_ended(job_id)["state"] == "failed"
        ami, there = registered_by_hand(machine), machine.left("x")
        machine.proxy.mend(denied)
        pending = machine.held(Fault(action=PauseReply(), method="POST", form=LOOK))
        assert daemon.curl(f"/v1/jobs/{job_id}/resume", "-X", "POST")[0] == 202
        machine.proxy.wait_hit(pending)
        job = cancelled(daemon, job_id)
        assert job["state"] == "cancelled"
        is_kept(machine, job, ami, there)
        assert machine.ground.images(body["ami_name"]) == ([ami] if named == "as the job would" else [])
        machine.ground.ec2.deregister_image(ImageId=ami)
        assert cancelled(daemon, job_id)["state"] == "cancelled"
    assert machine.left("x") == []


@pytest.mark.parametrize("later", [False, True], ids=["in its own run", "in another process"])
def test_registered_by_hand_without_the_job_s_doing(later: bool, machine: Machine) -> None:
    """A job that is to register nothing leaves a bundle that a user has registered, whenever it is cancelled."""
    body = machine.body("x") | {"register_image": False, "ami_name": None}
    # The preflight has looked for it before.
    held = machine.held(Fault(action=PauseReply(), method="HEAD", path=MANIFEST, nth=2, times=None))
    with machine.daemon() as daemon:
        job_id = daemon.submit(**body)
        machine.proxy.wait_hit(held)
        ami, there = registered_by_hand(machine), machine.left("x")
        machine.proxy.mend(held)
        if not later:
            is_kept(machine, cancelled(daemon, job_id), ami, there)
        else:
            kill(daemon)
    with machine.daemon(resume_on_start=False) as daemon:
        job = daemon.wait_ended(job_id) if not later else cancelled(daemon, job_id)
        is_kept(machine, job, ami, there)
        machine.ground.ec2.deregister_image(ImageId=ami)
        assert cancelled(daemon, job_id)["state"] == "cancelled"
    assert machine.left("x") == []


def test_parts_that_another_manifest_needs(machine: Machine) -> None:
    """The parts of a cancelled job stay while another bundle's manifest, put by a copy, may need them."""
    held = machine.held(Fault(action=PauseReply(), path=part(3), times=None))
    with machine.daemon() as daemon:
        job_id = machine.submit(daemon, "x")
        machine.proxy.wait_hit(held)
        copy = {"Bucket": machine.ground.bucket, "Key": f"{machine.root}/x/image.manifest.xml"}
        machine.ground.s3.put_object(**copy, Body=b"<manifest>of a copy</manifest>")
        there = machine.left("x")
        job = cancelled(daemon, job_id)
        assert (job["state"], job["resumable"]) == ("cancelled", True), job
        assert any("manifest of another bundle" in notice for notice in job["notices"]), job["notices"]
        assert set(there) <= set(machine.left("x"))
        machine.proxy.mend(held)
        machine.ground.s3.delete_object(**copy)
        assert cancelled(daemon, job_id)["resumable"] is False
    assert machine.left("x") == []


@pytest.mark.parametrize("how", ["cancel", "resume"])
def test_registered_without_an_answer(how: str, machine: Machine) -> None:
    """An AMI whose registration was never answered, and that EC2 could not be asked about, is still the job's own."""
    machine.held(Fault(action=DropReply(), method="POST", form=REGISTER))
    blind = machine.held(Fault(action=REFUSED, method="POST", form=FIND, times=None, nth=2))
    with machine.daemon() as daemon:
        job_id = machine.submit(daemon, "x")
        job = daemon.wait_ended(job_id)
        assert (job["state"], job["resumable"]) == ("failed", True), job
        (ami,) = machine.ground.images(machine.image_name("x"))
        machine.proxy.mend(blind)
        if how == "cancel":
            job = cancelled(daemon, job_id)
            assert (job["state"], job["resumable"]) == ("cancelled", False), job
            assert machine.ground.images(machine.image_name("x")) == machine.left("x") == []
        else:
            resumed = daemon.command("resume", job_id)
            assert resumed.returncode == 0, resumed.stderr
            assert daemon.job(job_id)["result"]["image_id"] == ami
            assert machine.ground.images(machine.image_name("x")) == [ami]


LATE = {
    "a part, after its time-out": Fault(action=PauseRequest(whole=True), path=part(1), times=None),
    "an AMI": Fault(action=PauseRequest(), method="POST", form=REGISTER),
}


@pytest.mark.parametrize("what", LATE)
def test_done_after_the_end(what: str, machine: Machine) -> None:
    """An object or AMI that an unanswered request makes after its job's end is found and removed by the next daemon."""
    held = machine.held(LATE[what])
    once = "time-out" in what
    with machine.daemon(stall_timeout_s=1 if once else 20, upload_attempts=1 if once else 3) as daemon:
        job_id = machine.submit(daemon, "x")
        machine.proxy.wait_hit(held)
        if once:
            # The only attempt is given up when its late answer, which is waited for, has not come.
            assert daemon.wait_ended(job_id)["state"] == "failed"
        job = cancelled(daemon, job_id)
        assert (job["state"], job["resumable"]) == ("cancelled", True), (job, daemon.process.output())
        assert [notice for notice in job["notices"] if "may still appear" in notice] == list(job["notices"][-1:])
        assert machine.left("x") == []
        machine.proxy.let_go(held)
        assert all(each.over.wait(10) for each in machine.proxy.requests if each.fault is held)
        assert [*machine.left("x"), *machine.ground.images(machine.image_name("x"))] != []
    with machine.daemon() as daemon:
        job = daemon.wait_ended(job_id)
        assert (job["state"], job["resumable"], job["looks_again_at"]) == ("cancelled", False, None)
    assert [*machine.left("x"), *machine.ground.images(machine.image_name("x"))] == []


@pytest.mark.parametrize("stopped", [False, True], ids=["waited for", "daemon stopped"])
def test_nothing_is_answered(stopped: bool, machine: Machine) -> None:
    """A cancel at an endpoint that says nothing ends within its bound, with one notice, and is finished later."""
    held = machine.held(Fault(action=PauseRequest(), path=part(4), times=None))
    with machine.daemon(stall_timeout_s=20 if stopped else 1, upload_attempts=9) as daemon:
        job_id = machine.submit(daemon, "x")
        machine.proxy.wait_hit(held)
        stored = machine.left("x")
        assert len(stored) == 4
        silent = machine.held(Fault(action=PauseRequest(), method="HEAD|DELETE|GET|POST", times=None))
        assert daemon.curl(f"/v1/jobs/{job_id}", "-X", "DELETE")[0] == 202
        if stopped:
            machine.proxy.wait_hit(silent)
            tell(daemon, signal.SIGTERM)
            wait_log(daemon, "daemon.stopping")
            tell(daemon, signal.SIGTERM)
            assert exit_status(daemon) == 0
        else:
            job = daemon.wait_ended(job_id)
            assert (job["state"], job["resumable"]) == ("cancelled", True), (job, daemon.process.output())
            (notice,) = [each for each in job["notices"] if "removed" in each]
            assert "no answer came for 2 s" in notice
    machine.proxy.mend(silent, held)
    with machine.daemon() as daemon:
        job = daemon.wait_ended(job_id)
        assert (job["state"], job["resumable"]) == ("cancelled", False)
    assert machine.left("x") == []


@pytest.mark.parametrize("existed", [False, True], ids=["made by the job", "made by the user"])
def test_a_directory(existed: bool, machine: Machine) -> None:
    """A job that is cancelled in a later run removes the directory that its first run made, and no other."""
    with small_disk(machine.directory / "disk", "600k") as disk:
        directory = disk / "out"
        if existed:
            directory.mkdir()
        body = machine.body("x") | {"destinations": [str(directory)], "endpoint_url": None, "ami_name": None}
        with machine.daemon() as daemon:
            job_id = daemon.submit(**body)
            job = daemon.wait_ended(job_id)
            assert (job["error"]["code"], job["resumable"]) == ("directory.full", True)
        with machine.daemon() as daemon:
            assert list(directory.iterdir())
            job = cancelled(daemon, job_id)
            assert (job["state"], job["resumable"]) == ("cancelled", False)
        assert directory.exists() == existed
