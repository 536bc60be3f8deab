"""A daemon with jobs as an operator meets them: one that runs, some that wait, and many that ended in every way."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

from amistream.aws.session import Aws
from amistream.bundles.results import Inventory, Leftover, ListedBundle, ListedImage, ListedParts
from amistream.cli.fleet.status import FleetStatus, HostTally, Tally
from amistream.errors import JobError
from amistream.events import BundleResult, ErrorBody, Progress, StageProgress, State
from amistream.jobs.job import Job
from amistream.jobs.records import NextStep
from amistream.request import parse_bundle_request
from amistream.settings import Settings
from amistream.values import GIB, MIB
from amistream.web.bundles import Listing, Shelves
from amistream.web.queue import FleetQueue, Looked
from daemon.rig import Daemon

HOSTILE = "<img src=x onerror=alert(1)><script>alert(1)</script>"
"""A name that would run a script in a page that takes text for markup."""
LABEL = "nightly"
ERROR = ErrorBody(
    code="aws.AccessDenied",
    message="cannot put part 17 to s3://images-eu/db-4: access denied (AccessDenied)",
    hint="the role needs s3:PutObject and s3:PutObjectAcl for arn:aws:s3:::images-eu/*; then `amistream resume`",
)


def failure() -> JobError:
    """The error of `ERROR` as the engine raises it."""
    return JobError(ERROR.code, ERROR.message, hint=ERROR.hint)


STAGES = (("read", 0.21), ("archive", 0.17), ("compress", 0.71), ("join", 0.02), ("encrypt", 0.12), ("upload", 0.88))


def make_job(source: str, to: str, age: timedelta) -> Job:
    job = Job(parse_bundle_request({"source": source, "destinations": [to]}))
    job.created_at = datetime.now(UTC) - age
    job.id = f"{job.created_at:%Y%m%d-%H%M%S}-{abs(hash((source, to))) & 0xFFFFFF:06x}"
    return job


def stages(done: float, elapsed_s: float) -> tuple[StageProgress, ...]:
    return tuple(
        StageProgress(
            name=name,
            bytes_in=int(done * (0.41 if number > 2 else 1)),
            bytes_out=int(done * (0.41 if number > 1 else 1)),
            busy_s=busy * elapsed_s,
            waiting_s=0.0,
            busy_share=busy,
        )
        for number, (name, busy) in enumerate(STAGES)
    )


def progress_at(elapsed_s: float, *, total: int = 10 * GIB) -> Progress:
    """The progress of a job that reads about 75 MiB/s."""
    rate = (75 + 14 * math.sin(elapsed_s / 17) + 5 * math.sin(elapsed_s / 3.1)) * MIB
    done = min(total, int(75 * MIB * elapsed_s))
    return Progress(
        bytes_total=total,
        bytes_done=done,
        stored_share=round(done / total * 0.98, 4),
        parts_made=int(done * 0.41 / (10 * MIB)) + 3,
        parts_stored=int(done * 0.41 / (10 * MIB)),
        bytes_stored=int(done * 0.41),
        elapsed_s=elapsed_s,
        rate=rate,
        eta_s=(total - done) / rate,
        bottleneck="upload",
        advice="the link limits: nothing here makes it faster, --compress 6 sends less",
        stages=stages(done, elapsed_s),
    )


def result(number: int) -> BundleResult:
    return BundleResult(
        manifest=f"s3://images-eu/web-{number:03}/image.manifest.xml",
        image_id=f"ami-{0x7F0DB46C2EAD0000 + number:016x}0"[:21],
        image_name=f"web-{number:03}",
        region="eu-west-1",
        image_size=10 * GIB,
        bundled_size=4 * GIB,
        parts=411,
        digest="00" * 20,
        elapsed_s=134.2,
        cpu_s=118.0,
        bottleneck="upload",
        advice="the link limits: nothing here makes it faster, --compress 6 sends less",
        stages=stages(10 * GIB, 134.2),
    )


def ended_job(number: int, age: timedelta, state: State, **attributes: Any) -> Job:
    """A job that ended so, with these attributes."""
    job = make_job(f"/dev/mapper/vg0-web{number:03}", f"s3://images-eu/web-{number:03}", age)
    job.started_at = job.created_at + timedelta(seconds=2)
    job.ended_at = job.started_at + timedelta(seconds=134 + number % 60)
    job.state = state
    for name, value in attributes.items():
        setattr(job, name, value)
    job._restart_events()
    job.ended.set()
    return job


async def fill(daemon: Daemon, count: int) -> None:
    """Let the daemon remember `count` ended jobs: most are done, some failed, were interrupted, or cancelled."""
    for number in range(count - 1, -1, -1):
        age = timedelta(minutes=7 + 47 * number)
        if number == 0:
            job = ended_job(number, age, State.FAILED, error=ERROR, resumable=True, kept=170, notices=(HOSTILE,))
        elif number % 9 == 4:
            job = ended_job(number, age, State.FAILED, error=ERROR)
        elif number % 23 == 2:
            job = ended_job(number, age, State.INTERRUPTED, resumable=True, kept=12)
        elif number % 31 == 5:
            job = ended_job(number, age, State.CANCELLED)
        else:
            job = ended_job(number, age, State.DONE, result=result(number))
        daemon.queue._roster.add(job)
        if job.resumable:
            journal = daemon.queue._journal
            await journal.add(job.view(), job.request, confined=False, idempotency_key="")
            await journal.set_next_step(job.id, NextStep.KEPT)


class Shelf(Shelves):
    """A bucket whose listing is given."""

    def __init__(self) -> None:
        super().__init__(("s3://images-eu",), Settings(), Aws(Settings()))

    async def listing(self, number: int, *, anew: bool) -> Listing:
        del number, anew
        now = datetime.now(UTC)
        bundles = [
            ListedBundle(
                manifest=f"s3://images-eu/web-{number:03}/image.manifest.xml",
                name=f"web-{number:03}",
                made_at=now - timedelta(hours=31 * number),
                image_size=10 * GIB,
                stored=4 * GIB + number * 7 * MIB,
                parts=411,
                missing=(),
                problem="3 of 411 parts missing" if number == 2 else "",
                images=None if number == 3 else () if number == 4 else (f"ami-7f0db46c2ead{number:05x}",),
                cost=0.092 + number / 1000,
            )
            for number in range(120)
        ]
        lost = ListedParts(
            parts="s3://images-eu/old/" + HOSTILE + ".part.*", count=31, stored=GIB, newest_at=now, cost=0.023
        )
        inventory = Inventory(
            location="s3://images-eu",
            region="eu-west-1",
            bundles=tuple(bundles),
            orphan_parts=(lost,),
            orphan_images=(
                ListedImage(image_id="ami-7f0db46c2eadfffff", location="images-eu/gone/image.manifest.xml"),
            ),
            leftovers=(
                Leftover(
                    kind="probe",
                    objects="s3://images-eu/old/amistream-tune-0badcafe-*",
                    count=3,
                    stored=3 * MIB,
                    newest_at=now,
                    remove="",
                ),
            ),
            stored=480 * GIB,
            cost=11.04,
            price=0.023,
            price_as_of="2025-01",
        )
        return Listing(listed_at=now, notes=(), inventory=inventory)


class Fleet(FleetQueue):
    """A queue whose state is given."""

    def __init__(self, hosts: int = 4) -> None:
        super().__init__("", "", Settings(), Aws(Settings()))
        self._hosts = hosts

    async def look(self) -> Looked:
        now = datetime.now(UTC)
        hosts = [
            HostTally(
                host=f"i-0{number:x}9c41d7e5a3b2f80" if number else HOSTILE,
                done=max(0, 118 - 11 * number),
                failed=number % 2,
                last_at=now,
            )
            for number in range(self._hosts)
        ]
        results = Tally(done=406, failed=2, rate_per_hour=96.4, hosts=tuple(hosts))
        url = "https://sqs.eu-west-1.amazonaws.com/123456789012/amistream-jobs"
        fleet = FleetStatus(queue=url, waiting=213, running=8, delayed=0, dead=2, results=results, eta_s=8253.0)
        return Looked(looked_at=now, fleet=fleet)


async def begin_job(daemon: Daemon, source: str = "/dev/xvdf", to: str = "s3://images-eu/db-primary-2026-11-30") -> Job:
    """Submit a job and let it bundle."""
    answer = await daemon.ask("POST", "/v1/jobs", json={"source": source, "destinations": [to], "label": LABEL})
    assert answer.status == 202, answer.body
    job = await daemon.script.wait_begun()
    job.note("the volume has 6.8 GiB of free blocks, which are left out")
    job.move(State.BUNDLING)
    return job
