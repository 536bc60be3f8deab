"""Limits of the requests of group members, and of their control over jobs of others."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from amistream.checks.findings import Finding
from amistream.daemon.access import AccessPolicy
from amistream.errors import AccessDeniedError, AmistreamError, JobError, RefusedError
from amistream.events import State
from amistream.jobs.confinement import check_request
from amistream.jobs.job import End
from amistream.request import CheckRequest, parse_bundle_request, parse_request
from amistream.request.convert import ConvertCheckRequest, ConvertRequest
from amistream.request.migrate import MigrateRequest
from amistream.request.verify import VerifyRequest
from amistream.roots import Roots
from amistream.settings import Settings
from daemon.member import GROUP, MEMBER, OTHER_MEMBER, ask_as, connect_as, needs_root, talking
from daemon.rig import Daemon, StartDaemon, request_for

ROOTED = Settings(source_roots=(Path("/volumes"), Path("/bundles")), max_queued=4)


@pytest.fixture
def start(start_daemon: StartDaemon, open_path: Path) -> Any:
    """Start the daemon with a group and a socket file that is open to all."""

    def start(settings: Settings = ROOTED, **options: Any) -> Any:
        return start_daemon(
            path=open_path,
            policy=AccessPolicy(group=GROUP),
            settings=settings,
            extra=lambda _: open_path.chmod(0o666),
            **options,
        )

    return start


async def submit(daemon: Daemon, name: str, *identity: str, **headers: str) -> Any:
    return await ask_as(daemon.path, "POST", "/v1/jobs", request_for(name), *identity, **headers)


def judge(settings: Settings, **fields: Any) -> AmistreamError | None:
    """Return the error that refuses a confined job with these fields, if any."""
    try:
        check_request(parse_bundle_request({**request_for("a"), **fields}), settings)
    except AmistreamError as error:
        return error
    return None


@needs_root
async def test_a_members_job_is_confined_and_roots_is_not(start: Any) -> None:
    """The peer alone decides if a job is confined; no field of the request does."""
    async with start() as daemon:
        answer = await submit(daemon, "a")
        assert answer.status == 202
        assert daemon.queue.get(answer.body["id"]).confined
        answer = await daemon.submit("b")
        assert not daemon.queue.get(answer.body["id"]).confined


@needs_root
async def test_a_members_doctor_is_confined_and_roots_is_not(start: Any) -> None:
    """A member's checks stay within the roots and the settings, and only so many run at a time."""
    seen: list[bool] = []
    begun, go_on = asyncio.Queue[None](), asyncio.Event()

    async def examine(_: CheckRequest | ConvertCheckRequest, roots: Roots | None) -> list[Finding]:
        seen.append(roots is not None)
        begun.put_nowait(None)
        await go_on.wait()
        return []

    async with start(examine=examine) as daemon, asyncio.TaskGroup() as group:
        for identity in (MEMBER, MEMBER, OTHER_MEMBER):
            group.create_task(ask_as(daemon.path, "POST", "/v1/doctor", {}, *identity))
            await begun.get()
        answer = await ask_as(daemon.path, "POST", "/v1/doctor", {})
        assert (answer.status, answer.error["code"]) == (503, "daemon.busy")
        group.create_task(daemon.ask("POST", "/v1/doctor", json={}))
        await begun.get()
        go_on.set()
        answer = await ask_as(daemon.path, "POST", "/v1/doctor", {"endpoint_url": "http://127.0.0.1:9"})
        assert (answer.status, answer.error["code"]) == (403, "access.endpoint")
        answer = await ask_as(daemon.path, "POST", "/v1/doctor", {"source": "-"})
        assert (answer.status, answer.error["code"]) == (422, "source.stream")
    assert seen == [True, True, True, False]


@needs_root
async def test_a_member_without_roots_is_refused_with_the_setting(start: Any) -> None:
    """With no roots set, the error names the setting and its file, and there is no job."""
    async with start(Settings()) as daemon:
        answer = await submit(daemon, "a")
        assert (answer.status, answer.error["code"], answer.error["field"]) == (422, "roots.none", "source")
        assert "source_roots in /etc/amistream/amistream.toml" in answer.error["hint"]
        assert daemon.queue.jobs() == []
        assert (await daemon.submit("a")).status == 202


@needs_root
@pytest.mark.parametrize(("method", "end"), [("DELETE", ""), ("POST", "/resume")])
async def test_a_member_does_nothing_to_roots_jobs(start: Any, method: str, end: str) -> None:
    """Members see a job that is not confined, and cannot change it."""
    async with start() as daemon:
        job = await daemon.submit_and_begin()
        answer = await ask_as(daemon.path, method, f"/v1/jobs/{job.id}{end}")
        assert (answer.status, answer.error["code"]) == (403, "access.not_yours")
        assert not job.cancel_requested
        assert (await ask_as(daemon.path, "GET", f"/v1/jobs/{job.id}")).body["id"] == job.id
        await daemon.script.end(job)


@needs_root
@pytest.mark.parametrize(("method", "end"), [("DELETE", ""), ("POST", "/resume")])
async def test_a_member_does_nothing_to_jobs_of_the_queue(start: Any, method: str, end: str) -> None:
    """Members see a job that came from the queue, and cannot change it; it takes nothing of their share. Root can."""
    async with start(max_jobs=9, max_queued=1) as daemon:
        asked = parse_bundle_request({"source": "/volumes/web", "destinations": ["/bundles/web"]})
        job, _ = await daemon.queue.submit(asked, confined=True, name="web")
        await daemon.script.wait_begun()
        job.end(End(State.FAILED, error=JobError("store.lost", "cannot go on"), resumable=True))
        await daemon.script.end(job)
        answer = await ask_as(daemon.path, method, f"/v1/jobs/{job.id}{end}")
        assert (answer.status, answer.error["code"]) == (403, "access.not_yours")
        assert "it came from the queue" in answer.error["message"]
        assert (job.resumable, (await ask_as(daemon.path, "GET", f"/v1/jobs/{job.id}")).status) == (True, 200)
        assert (await submit(daemon, "a")).status == 202
        assert (await daemon.ask(method, f"/v1/jobs/{job.id}{end}")).status == 202


@needs_root
async def test_members_cancel_one_anothers_jobs(start: Any) -> None:
    """Members may cancel each other's confined jobs, and so may root."""
    async with start() as daemon:
        for identity in (OTHER_MEMBER, MEMBER):
            answer = await submit(daemon, "a", *identity)
            job = await daemon.script.wait_begun()
            assert (await ask_as(daemon.path, "POST", f"/v1/jobs/{job.id}/resume")).status == 409
            assert (await ask_as(daemon.path, "DELETE", f"/v1/jobs/{job.id}")).status == 202
            await job.ended.wait()
            assert job.state is State.CANCELLED
        answer = await submit(daemon, "a")
        job = await daemon.script.wait_begun()
        assert (await daemon.ask("DELETE", f"/v1/jobs/{answer.body['id']}")).status == 202
        await job.ended.wait()


@needs_root
async def test_a_key_is_its_senders_own(start: Any) -> None:
    """The same Idempotency-Key of root, of a member and of another member belongs to three jobs."""
    async with start(max_jobs=4) as daemon:
        answers = [
            await daemon.submit("a", headers={"Idempotency-Key": "k"}),
            await submit(daemon, "b", Idempotency_Key="k"),
            await submit(daemon, "c", *OTHER_MEMBER, Idempotency_Key="k"),
            await submit(daemon, "b", Idempotency_Key="k"),
        ]
        assert [answer.status for answer in answers] == [202, 202, 202, 200]
        ids = [answer.body["id"] for answer in answers]
        assert len(set(ids)) == 3
        assert ids[1] == ids[3]


@needs_root
async def test_members_leave_room_in_the_queue(start: Any) -> None:
    """Members get three quarters of the queue; root's jobs are still accepted."""
    async with start(max_jobs=1, max_queued=4) as daemon:
        await daemon.submit_and_begin("running")
        statuses = [(await submit(daemon, f"m{number}")).status for number in range(4)]
        assert statuses == [202, 202, 202, 503]
        assert (await daemon.submit("mine")).status == 202
        assert (await daemon.submit("one too many")).error["code"] == "daemon.full"


@needs_root
async def test_members_keep_no_more_than_their_share(start: Any) -> None:
    """Unfinished jobs of members count until they are removed; a resumed job needs a place in the queue."""
    async with start(max_jobs=9, max_queued=4) as daemon:
        kept = []
        for number in range(3):
            assert (await submit(daemon, f"m{number}")).status == 202
            job = await daemon.script.wait_begun()
            job.end(End(State.FAILED, error=JobError("store.lost", "cannot go on"), resumable=True))
            await daemon.script.end(job)
            kept.append(job)
        answer = await submit(daemon, "one more")
        assert (answer.status, answer.error["code"]) == (503, "daemon.full")
        assert "amistream clean" in answer.error["hint"]
        assert (await daemon.submit("mine")).status == 202
        assert (await ask_as(daemon.path, "POST", f"/v1/jobs/{kept[0].id}/resume")).status == 202
        assert (await submit(daemon, "one more")).status == 202


@needs_root
async def test_members_leave_room_for_followers(start: Any) -> None:
    """Members get three quarters of the subscriptions."""
    async with start(max_subscribers=4) as daemon:
        job = await daemon.submit_and_begin()
        target = f"/v1/jobs/{job.id}/events"
        async with AsyncExitStack() as stack:
            for _ in range(3):
                reader, writer = await stack.enter_async_context(talking(connect_as(daemon.path, *MEMBER)))
                writer.write(f"GET {target} HTTP/1.1\r\nHost: d\r\n\r\n".encode())
                assert b" 200 " in await reader.readline()
            answer = await ask_as(daemon.path, "GET", target)
            assert (answer.status, answer.error["code"]) == (503, "daemon.subscribers")
            async with daemon.session.get(f"http://localhost{target}") as response:
                assert response.status == 200


@pytest.mark.parametrize(
    ("fields", "code", "field"),
    [
        ({"endpoint_url": "http://10.0.0.1:80"}, "access.endpoint", "endpoint_url"),
        ({"endpoint_url": "https://s3.amazonaws.com"}, "access.endpoint", "endpoint_url"),
        ({"region": "cn-north-1"}, "access.region", "region"),
        ({"region": "us-gov-west-1"}, "access.region", "region"),
        ({"region": "us-iso-east-1"}, "access.region", "region"),
        ({"region": "xx-nowhere-1"}, "access.region", "region"),
        ({"region": "us-east-3"}, "access.region", "region"),
        ({"part_size": "5GiB"}, "access.too_much", "memory_limit"),
        ({"upload_concurrency": 64}, "access.too_much", "memory_limit"),
        ({"workers": 256}, "access.too_much", "memory_limit"),
        ({"memory_limit": "1GiB"}, "access.too_much", "memory_limit"),
        ({"script": "/root/script"}, "access.script", "script"),
        ({"overlay": "/root"}, "access.overlay", "overlay"),
        ({"grub_config": "/root/menu"}, "access.grub_config", "grub_config"),
        ({"fstab": "/root/fstab"}, "access.fstab", "fstab"),
        ({"report": "/root/report"}, "access.report", "report"),
        ({"all_file_systems": True}, "access.all_file_systems", "all_file_systems"),
        ({"file_system": "xfs"}, "access.file_system", "file_system"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_a_member_may_not_ask_for(fields: dict[str, Any], code: str, field: str) -> None:
    """A confined job may not choose an endpoint, an unknown region or more than its share of memory."""
    error = judge(ROOTED, **fields)
    assert isinstance(error, AccessDeniedError)
    assert (error.code, error.field) == (code, field)
    assert error.hint


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"region": "eu-west-1"},
        {"region": "ap-southeast-2"},
        {"part_size": "20MiB", "upload_concurrency": 8},
        {"memory_limit": "256MiB", "upload_concurrency": 64},
        {"nice": 19},
        {"limit_upload": "1MiB"},
        {"fstab": "generate", "clean": "all", "exclude": ["*.log"], "allow_unreadable": True},
    ],
    ids=str,
)
def test_what_a_member_may_ask_for(fields: dict[str, Any]) -> None:
    """The usual fields of a job are allowed for members."""
    assert judge(ROOTED, **fields) is None


def judge_conversion(settings: Settings, **fields: Any) -> AmistreamError | None:
    """Return the error that refuses a confined conversion with these fields, if any."""
    try:
        check_request(parse_request({"kind": "convert", "source": "/volumes/a", **fields}), settings)
    except AmistreamError as error:
        return error
    return None


@pytest.mark.parametrize(
    ("fields", "code", "field"),
    [
        ({"endpoint_url": "http://10.0.0.1:80"}, "access.endpoint", "endpoint_url"),
        ({"region": "us-gov-west-1"}, "access.region", "region"),
        ({"workers": 256}, "access.too_much", "memory_limit"),
        ({"memory_limit": "1GiB"}, "access.too_much", "memory_limit"),
        ({"freeze": True}, "access.freeze", "freeze"),
        ({"script": "/root/script"}, "access.script", "script"),
        ({"source": "s3://bucket/image.manifest.xml"}, "access.private_key", "private_key"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_a_member_may_not_ask_of_a_conversion(fields: dict[str, Any], code: str, field: str) -> None:
    """A confined conversion has the limits of a bundle job, and opens no bundle with the daemon's own key."""
    error = judge_conversion(ROOTED, **fields)
    assert isinstance(error, AccessDeniedError)
    assert (error.code, error.field) == (code, field)
    assert error.hint


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"puts": 256},
        {"region": "eu-west-1", "encrypted": True},
        {"source": "s3://bucket/image.manifest.xml", "private_key": "/volumes/pk.pem"},
    ],
    ids=str,
)
def test_what_a_member_may_ask_of_a_conversion(fields: dict[str, Any]) -> None:
    """The usual fields of a conversion are allowed for members, and a bundle with a key of their own."""
    assert judge_conversion(ROOTED, **fields) is None


def test_the_memory_of_a_member_s_bundle() -> None:
    """Unpacking counts among the memory of a conversion: as many workers are fine for a disk of that size."""
    settings = ROOTED.model_copy(update={"workers": 2})
    bundle = {"source": "s3://bucket/image.manifest.xml", "private_key": "/volumes/pk.pem"}
    assert judge_conversion(settings, workers=20) is None
    error = judge_conversion(settings, workers=20, **bundle)
    assert error is not None
    assert (error.code, error.field) == ("access.too_much", "memory_limit")


def test_the_settings_are_the_most_a_member_gets() -> None:
    """A member may use endpoint, region, memory, rate and priority up to the settings, and not beyond."""
    settings = ROOTED.model_copy(
        update={
            "endpoint_url": "http://127.0.0.1:4566",
            "memory_limit": 300 << 20,
            "limit_upload": 1 << 20,
            "nice": 5,
        }
    )
    same = {"endpoint_url": "http://127.0.0.1:4566/", "memory_limit": 300 << 20, "limit_upload": 1 << 20, "nice": 5}
    assert judge(settings, **same) is None
    # With its own endpoint set, a region leads nowhere else.
    assert judge(settings, region="cn-north-1") is None
    private = settings.model_copy(update={"region": "xx-nowhere-1"})
    assert judge(private, region="xx-nowhere-1") is None
    for more in ({"memory_limit": 301 << 20}, {"limit_upload": 2 << 20}, {"nice": 4}):
        error = judge(settings, **more)
        assert error is not None
        assert (error.code, error.field) == ("access.too_much", next(iter(more)))


def test_a_member_makes_up_no_regions() -> None:
    """An unknown region is refused with any endpoint: the daemon would keep SDK clients for each one."""
    for settings in (ROOTED, ROOTED.model_copy(update={"endpoint_url": "http://127.0.0.1:4566"})):
        for region in ("us-east-3", "us-east-99", "xx-nowhere-1"):
            error = judge(settings, region=region)
            assert error is not None
            assert (error.code, error.field) == ("access.region", "region")
            assert "unknown" in error.message


def test_the_daemons_own_partition_is_the_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """In China a member uses China's regions; a region of no known partition is refused."""
    monkeypatch.setenv("AWS_REGION", "cn-north-1")
    assert judge(ROOTED, region="cn-northwest-1") is None
    assert judge(ROOTED, region="eu-west-1") is not None
    monkeypatch.setenv("AWS_REGION", "xx-nowhere-1")
    assert judge(ROOTED, region="xx-nowhere-1") is not None
    assert judge(ROOTED.model_copy(update={"region": "us-gov-west-1"}), region="us-gov-east-1") is None


def test_a_machine_with_large_settings_grants_them() -> None:
    """If the settings need more memory than the usual limit, their need is the limit."""
    large = ROOTED.model_copy(update={"part_size": 200 << 20})
    assert judge(large) is None
    assert judge(large, upload_concurrency=5) is not None


def test_without_roots_a_member_gets_nothing() -> None:
    """Without roots every request of a member is refused."""
    assert isinstance(judge(Settings()), RefusedError)


async def test_the_daemons_standard_input_is_nobodys(start_daemon: StartDaemon) -> None:
    """A request with standard input as its source is refused."""
    async with start_daemon() as daemon:
        answer = await daemon.ask("POST", "/v1/jobs", json={"source": "-", "image_size": 512, "destinations": ["/b"]})
        assert (answer.status, answer.error["code"], answer.error["field"]) == (422, "source.stream", "source")
        assert daemon.queue.jobs() == []


def test_the_memory_of_a_members_conversion_is_bounded() -> None:
    """A conversion is measured by its own formula."""
    chosen = Settings(source_roots=("/srv",))
    values = {"kind": "convert", "source": "/srv/disk.img"}
    for fields in ({}, {"puts": 256, "workers": 2}, {"workers": 256, "memory_limit": "300MiB"}):
        check_request(ConvertRequest.model_validate({**values, **fields}), chosen)
    with pytest.raises(AccessDeniedError) as caught:
        check_request(ConvertRequest.model_validate({**values, "workers": 256}), chosen)
    assert caught.value.field == "memory_limit"


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({}, ""),
        ({"private_key": "/srv/key.pem", "deep": True}, ""),
        ({"deep": True}, "access.private_key"),
        ({"endpoint_url": "http://127.0.0.1:9"}, "access.endpoint"),
        ({"region": "xx-nowhere-1"}, "access.region"),
    ],
)
def test_a_members_verification(fields: dict[str, Any], code: str) -> None:
    """A member's verification opens no bundle with the daemon's key, and asks no endpoint of its own choice."""
    request = VerifyRequest.model_validate({"kind": "verify", "manifest": "s3://bucket/image.manifest.xml", **fields})
    if not code:
        check_request(request, ROOTED)
        return
    with pytest.raises(AccessDeniedError) as caught:
        check_request(request, ROOTED)
    assert caught.value.code == code
    with pytest.raises(RefusedError):
        check_request(request, Settings())


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({}, ""),
        ({"source_endpoint_url": "http://127.0.0.1:1/"}, ""),
        ({"private_key": None}, "access.private_key"),
        ({"endpoint_url": "http://127.0.0.1:9"}, "access.endpoint"),
        ({"source_endpoint_url": "http://127.0.0.1:9"}, "access.endpoint"),
        ({"source_profile": "root"}, "access.profile"),
        ({"region": "xx-nowhere-1"}, "access.region"),
    ],
)
def test_a_members_migration(fields: dict[str, Any], code: str) -> None:
    """A member's migration opens no bundle with the daemon's key, and chooses neither endpoints nor credentials."""
    values = {
        "kind": "migrate",
        "manifest": "s3://bucket/image.manifest.xml",
        "destinations": ["s3://another"],
        "region": "us-east-1",
        "private_key": "/srv/key.pem",
    }
    request = MigrateRequest.model_validate({**values, **fields})
    chosen = ROOTED.model_copy(update={"endpoint_url": "http://127.0.0.1:1"})
    if not code:
        check_request(request, chosen)
        return
    with pytest.raises(AccessDeniedError) as caught:
        check_request(request, chosen)
    assert caught.value.code == code
    with pytest.raises(RefusedError):
        check_request(request, Settings())


@pytest.mark.parametrize("bundle", ["s3://bucket/web/image.manifest.xml", "/srv/image.manifest.xml"])
def test_the_memory_of_unpacking_counts_for_a_member(bundle: str) -> None:
    """Workers that may convert a disk are too many for a bundle."""
    chosen = Settings(source_roots=("/srv",))
    values = {"kind": "convert", "private_key": "/srv/key.pem", "workers": 20}
    check_request(ConvertRequest.model_validate({**values, "source": "/srv/disk.img"}), chosen)
    with pytest.raises(AccessDeniedError) as caught:
        check_request(ConvertRequest.model_validate({**values, "source": bundle}), chosen)
    assert caught.value.field == "memory_limit"


@needs_root
async def test_a_member_does_not_drain_the_daemon(start: Any) -> None:
    """A member cannot stop the host from taking jobs of the queue."""
    async with start() as daemon:
        answer = await ask_as(daemon.path, "POST", "/v1/queue/drain", None, *MEMBER)
        assert (answer.status, answer.error["code"]) == (403, "access.drain")
