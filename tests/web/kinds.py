"""Jobs of every kind that run, failed, or are done, with the names, errors and results of that kind."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from amistream.events import ConversionResult, ErrorBody, Progress, StageProgress, State
from amistream.jobs.job import Job
from amistream.reports import Access, Difference, Digests, Migrated, Registered, Report, Signature
from amistream.request import parse_request
from amistream.values import GIB, MIB
from daemon.rig import Daemon
from web.scene import HOSTILE

BUNDLE = "s3://images-eu/web-7/image.manifest.xml"
REQUESTS: dict[str, dict[str, Any]] = {
    "convert": {"kind": "convert", "source": "/dev/mapper/vg0-root", "label": "leave instance store"},
    "verify": {"kind": "verify", "manifest": BUNDLE, "label": HOSTILE},
    "migrate": {"kind": "migrate", "manifest": BUNDLE, "destinations": ["s3://images-us/web-7"], "region": "us-west-2"},
}
WORKING = {"convert": State.CONVERTING, "verify": State.VERIFYING, "migrate": State.COPYING}
_BLOCK = MIB // 2


def progress_of(kind: str, share: float, *, total: int = 10 * GIB) -> Progress:
    """The progress of a job of this kind; only a conversion has stages."""
    done = int(total * share)
    known: dict[str, Any] = {
        "bytes_total": total,
        "bytes_done": done,
        "stored_share": round(share, 4),
        "elapsed_s": 140.0 * share,
        "rate": 73.0 * MIB,
        "eta_s": 140.0 * (1 - share),
        "bottleneck": None,
        "stages": (),
    }
    if kind != "convert":
        sent = done if kind == "migrate" else 0
        return Progress(**known, parts_made=1024, parts_stored=int(1024 * share), bytes_stored=sent)
    rows = (("read", 0.97, 1), ("hash", 0.18, 2), ("put", 0.31, 64))
    stages = tuple(
        StageProgress(
            name=name,
            bytes_in=done,
            bytes_out=done if name != "put" else int(done * 0.6),
            busy_s=busy * 140 * share * lanes,
            waiting_s=0.0,
            busy_share=busy,
            lanes=lanes,
        )
        for name, busy, lanes in rows
    )
    advice = "reading SOURCE is the slowest part: a faster disk or link, or a copy in memory, helps"
    limit = {"bottleneck": "read", "advice": advice, "stages": stages}
    blocks = {"blocks_made": done // _BLOCK, "blocks_stored": done // _BLOCK, "bytes_stored": int(done * 0.6)}
    return Progress(**{**known, **limit, **blocks})


def result_of(kind: str) -> ConversionResult | Report | Migrated:
    if kind == "convert":
        return ConversionResult(
            snapshot_id="snap-0c1f5d3e9a7b42680",
            region="eu-west-1",
            image_id="ami-0b7e4d1c2a9f83650",
            image_name="web-7-ebs",
            image_size=10 * GIB,
            volume_size=10 * GIB,
            left_out=None,
            blocks=12_411,
            blocks_put=12_411,
            blocks_read=20_480,
            checksum="ab" * 32,
            elapsed_s=139.4,
            cpu_s=31.0,
            bottleneck="read",
            advice="reading SOURCE is the slowest part: a faster disk or link, or a copy in memory, helps",
            stages=progress_of("convert", 1.0).stages,
        )
    if kind == "verify":
        return report()
    return Migrated(
        manifest="s3://images-us/web-7/image.manifest.xml",
        source=BUNDLE,
        parts=1024,
        kept=17,
        bundled_size=10 * GIB,
        elapsed_s=311.0,
        region="us-west-2",
        copied=1007,
        kernel="aki-fc8f11cc",
        ramdisk=None,
        image=Registered(
            image_id="ami-0d4c3b2a190817263",
            image_name="web-7",
            manifest="s3://images-us/web-7/image.manifest.xml",
            region="us-west-2",
        ),
    )


def report(differences: Sequence[Difference] = (), notes: Sequence[str] = ()) -> Report:
    return Report(
        manifest=BUNDLE,
        deep=False,
        bundler="ec2-bundle-vol 1.5.7",
        kind="machine",
        architecture="x86_64",
        image_name="web-7",
        image_size=10 * GIB,
        bundled_size=4 * GIB,
        parts=411,
        digests=Digests(compared=409, composite=2, unkept=0),
        signature=Signature.UNCHECKED,
        access=Access.PRIVATE,
        content=None,
        differences=tuple(differences),
        notes=tuple(notes),
        elapsed_s=12.2,
    )


def failure_of(kind: str) -> dict[str, Any]:
    """The attributes of a job of this kind that failed."""
    if kind == "convert":
        error = ErrorBody(
            code="aws.UnauthorizedOperation",
            message="cannot start a snapshot in eu-west-1: not authorized (UnauthorizedOperation)",
            hint="the role needs ebs:StartSnapshot; then `amistream resume`",
            request_id="4f9c0d2e-91b7-4f0a-8a3d-0b6c1e2f3a4b",
        )
        return {"error": error, "resumable": True, "kept": 3211}
    if kind == "migrate":
        error = ErrorBody(
            code="store.unreachable",
            message=f"cannot read part 17 of {BUNDLE}: {HOSTILE}",
            hint=HOSTILE,
            request_id=HOSTILE,
        )
        return {"error": error, "resumable": True, "kept": 411}
    found = [
        Difference(
            what="part.sha1",
            part=f"image.part.{number:03}",
            expected="00" * 20,
            found="11" * 20,
            message=f"image.part.{number:03} has another SHA-1 than the manifest says {HOSTILE}",
        )
        for number in range(40)
    ]
    error = ErrorBody(
        code="verify.difference",
        message=f"{BUNDLE} differs from its manifest in 40 places; the first: {found[0].message}",
        hint="`amistream status 20261130-104944-0a1b2c` shows the report, which lists the differences",
    )
    return {"error": error, "result": report(found, ["2 parts were uploaded in chunks: their SHA-1 is not known"])}


def ended(kind: str, age: timedelta, state: State, **attributes: Any) -> Job:
    job = Job(parse_request(dict(REQUESTS[kind])))
    job.created_at = datetime.now(UTC) - age
    job.id = f"{job.created_at:%Y%m%d-%H%M%S}-{abs(hash((kind, state))) & 0xFFFFFF:06x}"
    job.started_at = job.created_at + timedelta(seconds=1)
    job.ended_at = job.started_at + timedelta(seconds=140)
    job.state = state
    for name, value in attributes.items():
        setattr(job, name, value)
    job._restart_events()
    job.ended.set()
    return job


def fill(daemon: Daemon) -> None:
    """Let the daemon remember a job of each kind that is done, and one that failed."""
    for number, kind in enumerate(REQUESTS):
        daemon.queue._roster.add(
            ended(kind, timedelta(hours=9 - number), State.FAILED, **failure_of(kind)),
        )
        daemon.queue._roster.add(ended(kind, timedelta(hours=5 - number), State.DONE, result=result_of(kind)))


async def begin(daemon: Daemon, kind: str) -> Job:
    """Submit a job of this kind, and let it do its work."""
    # The failed job of this kind has its destination still.
    elsewhere = {"destinations": ["s3://images-ap/web-7"]} if kind == "migrate" else {}
    answer = await daemon.ask("POST", "/v1/jobs", json={**REQUESTS[kind], **elsewhere})
    assert answer.status == 202, answer.body
    job = await daemon.script.wait_begun()
    job.move(WORKING[kind])
    return job
