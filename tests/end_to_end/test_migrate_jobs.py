"""Migrations as jobs of the real daemon: over HTTP, by the commands, cancelled, and after a SIGKILL."""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from jobs.migrating import REGION, Migrations
from jobs.runs import REGISTER, Cloud
from support.daemons import Daemon, running_daemon
from support.proxy import Fault, PauseReply, PauseRequest, dry_run_answered

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import MakeBucket, MakeProxy
    from support.endpoints import Endpoint
    from support.keys import KeyRing
    from support.proxy import Action

SIZES = [3000, 3000, 3000, 100]
PART = r".*/x/.*\.part\.2"
MANIFEST = r".*/x/.*\.xml"


@pytest.fixture
def migrations(
    ministack: Endpoint, make_bucket: MakeBucket, make_proxy: MakeProxy, key_ring: KeyRing, tmp_path: Path
) -> Migrations:
    proxy = make_proxy(ministack, dry_run_answered())
    return Migrations.of(Cloud(endpoint=ministack, proxy=proxy, make_bucket=make_bucket), key_ring, tmp_path, SIZES)


def settings(migrations: Migrations, **changes: Any) -> dict[str, Any]:
    return {
        "endpoint_url": migrations.cloud.proxy.url,
        "register_poll_s": 0.05,
        "backoff_base_s": 0.01,
        "upload_concurrency": 1,
        **changes,
    }


def submitted(daemon: Daemon, migrations: Migrations) -> str:
    keys = migrations.keys
    done = daemon.command(
        *("migrate", migrations.source, f"s3://{migrations.cloud.bucket}/x", "--region", REGION, "--detach"),
        *("--cert", keys.user.certificate, "--private-key", keys.user.key, "--ec2-cert", keys.stranger.certificate),
        *("--register", "--ami-name", migrations.image_name),
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def killed_at(held: Fault, migrations: Migrations, tmp_path: Path, **changes: Any) -> str:
    """Kill a daemon while the request of its migration is held; returns the job's id."""
    proxy = migrations.cloud.proxy
    proxy.add(held)
    with running_daemon(tmp_path, migrations.cloud.endpoint, **settings(migrations, **changes)) as daemon:
        job_id = submitted(daemon, migrations)
        proxy.wait_hit(held)
        os.kill(daemon.process.pid, signal.SIGKILL)
    # The next daemon would replace it, but is ready only once it has.
    daemon.socket.unlink()
    proxy.let_go(held)
    (request,) = [each for each in proxy.requests if each.fault is held]
    assert request.over.wait(10)
    return job_id


def test_a_migration_over_http(migrations: Migrations, tmp_path: Path) -> None:
    """One request makes bundle and AMI; the commands for jobs show them, and the metrics count its bytes."""
    keys, target = migrations.keys.user, f"s3://{migrations.cloud.bucket}/x"
    asked = migrations.request().model_dump(mode="json", exclude_unset=True)
    with running_daemon(tmp_path, migrations.cloud.endpoint, **settings(migrations)) as daemon:
        job = daemon.wait_ended(daemon.submit(**asked))
        assert (job["kind"], job["state"], job["destinations"]) == ("migrate", "done", [target])
        result = job["result"]
        (image,) = migrations.cloud.images(migrations.image_name)
        assert result["image"]["image_id"] == image["ImageId"]
        assert (result["parts"], result["copied"]) == (4, 4)
        assert image["ImageId"] in daemon.command("jobs").stdout
        shown = daemon.command("status", job["id"]).stdout
        assert "4 by S3, 0 through this machine" in shown
        assert image["ImageId"] in shown
        done = daemon.command("watch", job["id"], "--json")
        assert (done.returncode, json.loads(done.stdout)["result"]) == (0, result)
        assert "amistream_stored_bytes_total 9100.0" in daemon.curl("/metrics")[1]
        document: dict[str, Any] = daemon.curl("/v1/openapi.json")[1]
        assert {"MigrateRequest", "Migrated"} <= set(document["components"]["schemas"])
        for changes, field in (({"destinations": ["/srv/bundles"]}, "destinations"), ({"region": None}, "region")):
            refused = {name: value for name, value in {**asked, **changes}.items() if value is not None}
            status, answer = daemon.curl("/v1/jobs", "-d", json.dumps(refused))
            assert (status, answer["error"]["field"]) == (422, field)
        deep = daemon.command("verify", result["manifest"], "--cert", keys.certificate)
        assert deep.returncode == 0, deep.stderr


def test_a_cancelled_migration(migrations: Migrations, tmp_path: Path) -> None:
    """The command `cancel` ends it in the middle of a copy, and returns when nothing is left."""
    proxy, held = migrations.cloud.proxy, Fault(action=PauseRequest(), path=PART)
    proxy.add(held)
    with running_daemon(tmp_path, migrations.cloud.endpoint, **settings(migrations)) as daemon:
        job_id = submitted(daemon, migrations)
        proxy.wait_hit(held)
        assert daemon.job(job_id)["state"] == "copying"
        status, error = daemon.curl("/v1/jobs", "-d", migrations.plain().model_dump_json(exclude_unset=True))
        assert (status, error["error"]["code"]) == (409, "job.same_destination")
        assert daemon.curl(f"/v1/jobs/{job_id}", "-X", "DELETE")[0] == 202
        proxy.let_go(held)
        job = daemon.wait_ended(job_id)
        assert (job["state"], job["resumable"]) == ("cancelled", False), job["notices"]
        assert migrations.left() == []


@pytest.mark.parametrize(
    ("action", "how"),
    [
        (PauseRequest(), {"path": PART}),
        (PauseReply(), {"path": PART}),
        (PauseReply(), {"path": MANIFEST}),
        (PauseReply(), {"method": "POST", "form": REGISTER}),
    ],
    ids=["before a copy", "after a copy", "after the manifest", "after the registration"],
)
def test_a_killed_daemon_goes_on(action: Action, how: dict[str, Any], migrations: Migrations, tmp_path: Path) -> None:
    """After a SIGKILL the next daemon finishes the migration by itself: one right bundle, and one AMI of it."""
    job_id = killed_at(Fault(action=action, **how), migrations, tmp_path)
    with running_daemon(tmp_path, migrations.cloud.endpoint, **settings(migrations)) as daemon:
        job = daemon.wait_ended(job_id)
        assert (job["state"], job["error"]) == ("done", None)
    (image,) = migrations.cloud.images(migrations.image_name)
    assert job["result"]["image"]["image_id"] == image["ImageId"]
    assert sorted(migrations.left()) == sorted([*migrations.parts, "web.manifest.xml", image["ImageId"]])


@pytest.mark.parametrize(
    "how",
    [{"path": PART}, {"path": MANIFEST}, {"method": "POST", "form": REGISTER}],
    ids=["after a copy", "after the manifest", "after the registration"],
)
def test_a_killed_daemon_leaves_nothing_to_keep(how: dict[str, Any], migrations: Migrations, tmp_path: Path) -> None:
    """After a SIGKILL the command `cancel` removes all that the dead daemon made, and what others made stays."""
    migrations.put_part(migrations.parts[0])
    job_id = killed_at(Fault(action=PauseReply(), **how), migrations, tmp_path, resume_on_start=False)
    with running_daemon(tmp_path, migrations.cloud.endpoint, **settings(migrations, resume_on_start=False)) as daemon:
        assert daemon.job(job_id)["resumable"]
        assert "goes on from there" in daemon.command("status", job_id).stdout
        assert daemon.command("cancel", job_id).returncode == 0
        job = daemon.job(job_id)
        assert (job["state"], job["resumable"]) == ("cancelled", False), job["notices"]
    assert migrations.left() == [migrations.parts[0]]
