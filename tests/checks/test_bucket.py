"""Checks of a bucket, with services that answer as the test wants."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING

import pytest

from jobs.work import use_endpoint
from support.buckets import list_keys
from support.loop import clock
from support.proxy import Answer, DropReply, Fault, HoldReply, HollowReply, Reset, dry_run_answered

if TYPE_CHECKING:
    from checks.scene import Scene
    from conftest import MakeBucket, MakeProxy
    from support.endpoints import Endpoint


def clock_off_by(**off: float) -> Fault:
    """An answer of S3 with another time."""
    date = format_datetime(datetime.now(UTC) + timedelta(**off), usegmt=True)
    headers = (("Date", date), ("x-amz-bucket-region", "eu-west-1"))
    return Fault(action=Answer(status=200, code="OK", headers=headers), method="HEAD", path="/[^/]+/?", times=None)


@pytest.mark.parametrize(
    ("minutes", "told"), [(4, None), (6, "6 minutes behind S3's"), (-14, "14 minutes ahead of S3's")]
)
async def test_a_clock_that_is_off(
    minutes: int, told: str | None, scene: Scene, bucket: str, ministack: Endpoint, make_proxy: MakeProxy
) -> None:
    """A clock that is five minutes off or more gets a notice, with the command to set it."""
    proxy = make_proxy(ministack, dry_run_answered(), clock_off_by(minutes=minutes))
    async with scene.ready(f"s3://{bucket}/x", endpoint_url=proxy.url):
        clock = [notice for notice in scene.notices if "clock" in notice]
    assert [told in notice for notice in clock if told] == [True] * bool(told)
    assert len(clock) == bool(told)


@pytest.mark.parametrize(("minutes", "told"), [(16, "16 minutes behind"), (-16, "16 minutes ahead")])
async def test_a_clock_that_is_far_off(
    minutes: int, told: str, scene: Scene, bucket: str, ministack: Endpoint, make_proxy: MakeProxy
) -> None:
    """A clock too far off for AWS is refused as such, before S3 refuses a request for it."""
    proxy = make_proxy(ministack, clock_off_by(minutes=minutes))
    error = await scene.refused(f"s3://{bucket}/x", endpoint_url=proxy.url)
    assert (error.code, told in error.message) == ("aws.RequestTimeTooSkewed", True)
    assert error.hint == "set the clock: `chronyc makestep` or `timedatectl set-ntp true`"
    assert proxy.seen("PUT") == []


async def test_an_endpoint_without_regions(
    scene: Scene, bucket: str, ministack: Endpoint, make_proxy: MakeProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An endpoint that only the SDK's environment names need not report the region of a bucket."""
    no_region = Answer(status=200, code="OK", headers=(("Date", format_datetime(datetime.now(UTC), usegmt=True)),))
    proxy = make_proxy(
        ministack, dry_run_answered(), Fault(action=no_region, method="HEAD", path="/[^/]+/?", times=None)
    )
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    async with scene.ready(f"s3://{bucket}/x") as ready:
        assert [destination.region for destination in ready.destinations] == ["eu-west-1"]
    assert proxy.seen("HEAD", "/[^/]+/?")


async def test_a_clock_that_s3_refuses(scene: Scene, bucket: str, ministack: Endpoint, make_proxy: MakeProxy) -> None:
    """S3 answers a wrong clock with a plain 403 to a HEAD; the date of the answer gives the reason."""
    date = format_datetime(datetime.now(UTC) + timedelta(hours=2), usegmt=True)
    answer = Answer(status=403, code="Forbidden", headers=(("Date", date),))
    proxy = make_proxy(ministack, Fault(action=answer, method="HEAD", times=None))
    error = await scene.refused(f"s3://{bucket}/x", endpoint_url=proxy.url)
    assert (error.code, "also" in error.hint) == ("aws.RequestTimeTooSkewed", False)


async def test_a_session_that_has_expired(
    scene: Scene, bucket: str, ministack: Endpoint, make_proxy: MakeProxy
) -> None:
    """S3 answers an expired session with a plain 400 to a HEAD; the question with a body gives the reason."""
    answer = Answer(status=400, code="ExpiredToken", message="The provided token has expired.")
    proxy = make_proxy(ministack, Fault(action=answer, path=f"/{bucket}/?.*", times=None))
    error = await scene.refused(f"s3://{bucket}/x", endpoint_url=proxy.url)
    assert error.code == "aws.ExpiredToken"
    assert "region" not in error.hint


async def test_credentials_that_end_soon(
    scene: Scene, bucket: str, ministack: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Credentials without renewal get a notice if they expire within the hour, and are refused once expired."""
    in_time = datetime.now(UTC) + timedelta(minutes=40)
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token")
    monkeypatch.setenv("AWS_CREDENTIAL_EXPIRATION", in_time.isoformat())
    async with scene.ready(f"s3://{bucket}/x", endpoint_url=ministack.url, register_image=False):
        assert len(scene.notices) == 1
        assert scene.notices[0].startswith(f"the AWS credentials expire at {in_time:%Y-%m-%d %H:%M} UTC: ")
    monkeypatch.setenv("AWS_CREDENTIAL_EXPIRATION", "2020-01-31T12:00:00Z")
    error = await scene.refused(f"s3://{bucket}/x", endpoint_url=ministack.url)
    assert error.code == "aws.ExpiredToken"
    assert error.message == "cannot use the AWS credentials: they expired at 2020-01-31 12:00 UTC"
    assert "also" not in error.hint


async def test_a_profile_that_is_not_there(
    scene: Scene, bucket: str, ministack: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A profile missing from the configuration is named, also for a directory."""
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    for variable in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(variable)
    for to in (f"s3://{bucket}/x", scene.out):
        error = await scene.refused(to, endpoint_url=ministack.url)
        assert error.message.startswith("cannot ")
        assert "nobody" in error.message


async def test_a_bucket_that_is_elsewhere(
    scene: Scene, bucket: str, ministack: Endpoint, make_proxy: MakeProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The region in an error answer of S3 is used."""
    headers = (("x-amz-bucket-region", "eu-west-1"),)
    moved = Answer(status=301, code="PermanentRedirect", headers=headers)
    proxy = make_proxy(ministack, dry_run_answered(), Fault(action=moved, method="HEAD", path="/[^/]+/?", times=None))
    for variable in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(variable, "us-east-1")
    async with scene.ready(f"s3://{bucket}/x", endpoint_url=proxy.url) as ready:
        assert [destination.region for destination in ready.destinations] == ["eu-west-1"]


async def test_a_bucket_that_encrypts_with_kms(scene: Scene, bucket: str, ministack: Endpoint) -> None:
    """Default encryption with KMS gets a notice, with the command that changes it."""
    rule = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms"}}
    with ministack.blocking_client() as s3:
        s3.put_bucket_encryption(Bucket=bucket, ServerSideEncryptionConfiguration={"Rules": [rule]})
    async with scene.ready(f"s3://{bucket}/x", endpoint_url=ministack.url, register_image=False):
        (notice,) = scene.notices
    assert notice.startswith(f"bucket {bucket} encrypts with KMS by default: EC2 may not be able to read")
    assert f"aws s3api put-bucket-encryption --bucket {bucket}" in notice


async def test_what_cannot_be_seen_is_told(
    scene: Scene, bucket: str, ministack: Endpoint, make_proxy: MakeProxy
) -> None:
    """Without permission to read the ownership controls the job goes on, with a notice."""
    hidden = Fault(action=Answer(status=403, code="AccessDenied"), method="GET", query="ownershipControls")
    proxy = make_proxy(ministack, dry_run_answered(), hidden)
    async with scene.ready(f"s3://{bucket}/x", endpoint_url=proxy.url):
        (notice,) = scene.notices
    assert "s3:GetBucketOwnershipControls" in notice


@pytest.mark.parametrize(
    "question",
    [
        Fault(action=Answer(status=503, code="SlowDown"), method="HEAD", path="/[^/]+/?"),
        Fault(action=Reset(after=0), method="HEAD", path="/[^/]+/?", times=2),
        Fault(action=Answer(status=503, code="SlowDown"), method="GET", query="ownershipControls"),
        Fault(action=Answer(status=503, code="SlowDown"), method="PUT"),
        Fault(action=Answer(status=503, code="SlowDown"), method="DELETE"),
        Fault(action=Answer(status=503, code="SlowDown"), method="HEAD", path=".*xml"),
        Fault(action=Answer(status=503, code="SlowDown"), method="GET", query="list-type"),
        Fault(action=Answer(status=503, code="RequestLimitExceeded"), method="POST", form="DescribeImages"),
        Fault(action=Answer(status=503, code="RequestLimitExceeded"), method="POST", form="RegisterImage"),
        Fault(action=Answer(status=503, code="Throttling"), method="POST", form="GetCallerIdentity"),
    ],
    ids=["bucket", "bucket reset", "acls", "put", "delete", "manifest", "list", "name", "dry run", "account"],
)
async def test_a_question_that_fails_once(
    question: Fault, scene: Scene, bucket: str, ministack: Endpoint, make_proxy: MakeProxy
) -> None:
    """A transient failure is retried, and the job is ready."""
    proxy = make_proxy(ministack, question, dry_run_answered())
    async with scene.ready(f"s3://{bucket}/x", endpoint_url=proxy.url, account=None) as ready:
        assert ready.facts.user == "123456789012"
    assert [each for each in proxy.requests if each.fault is question]
    assert list_keys(ministack, bucket) == []


@pytest.mark.parametrize("times", [1, None])
async def test_a_probe_whose_answer_is_lost(
    times: int | None, scene: Scene, bucket: str, ministack: Endpoint, make_proxy: MakeProxy
) -> None:
    """A probe object that may have been stored is deleted, whether the job goes on or not."""
    proxy = make_proxy(ministack, Fault(action=DropReply(), method="PUT", times=times), dry_run_answered())
    if times is None:
        error = await scene.refused(f"s3://{bucket}/x", endpoint_url=proxy.url)
        assert error.code == "aws.unreachable"
    else:
        async with scene.ready(f"s3://{bucket}/x", endpoint_url=proxy.url):
            pass
    assert proxy.seen("PUT")[0].upstream_status == 200
    assert list_keys(ministack, bucket) == []


@pytest.mark.parametrize("method", ["HEAD", "PUT", "DELETE"])
async def test_a_cancel_leaves_nothing(
    method: str, scene: Scene, bucket: str, ministack: Endpoint, make_proxy: MakeProxy
) -> None:
    """A cancel while S3 is asked closes the volume and removes the probe object."""
    held = Fault(action=HoldReply(), method=method)
    proxy = make_proxy(ministack, held)

    async def look() -> None:
        async with scene.ready(f"s3://{bucket}/x", endpoint_url=proxy.url):
            pytest.fail("ready all the same")

    looking = asyncio.create_task(look())
    await asyncio.to_thread(proxy.wait_hit, held)
    looking.cancel()
    proxy.clock = clock(20)
    with pytest.raises(asyncio.CancelledError):
        await looking
    await asyncio.to_thread(proxy.hang_up)
    assert list_keys(ministack, bucket) == []
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://nothing.invalid"])
async def test_nobody_answers_is_told_at_once(
    url: str, scene: Scene, ministack: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refused connection or an unknown host name is not retried."""
    use_endpoint(ministack, monkeypatch)
    hours = {"backoff_base_s": 3600, "backoff_cap_s": 3600}
    async with asyncio.timeout(60):
        error = await scene.refused("s3://bucket/x", endpoint_url=url, settings=hours)
    assert (error.code, "tried" in error.message) == ("aws.unreachable", False)


async def test_a_missing_bucket(scene: Scene, bucket: str, ministack: Endpoint) -> None:
    """A missing bucket is named, with the command that creates it."""
    hint = await scene.hint(
        f"s3://{bucket}-no/x", code="bucket.missing", says=f"{bucket}-no: there is no", endpoint_url=ministack.url
    )
    assert f"aws s3api create-bucket --bucket {bucket}-no --object-ownership BucketOwnerPreferred" in hint


async def test_a_bucket_with_acls_disabled(
    scene: Scene, bucket: str, ministack: Endpoint, make_bucket: MakeBucket
) -> None:
    """A bucket whose ACLs are disabled is refused with the command that enables them."""
    closed = make_bucket(ministack, acls=False)
    hint = await scene.hint(f"s3://{closed}/x", code="bucket.acls_disabled", says=closed, endpoint_url=ministack.url)
    assert hint.startswith(f"aws s3api put-bucket-ownership-controls --bucket {closed}")
    assert list_keys(ministack, closed) == []


async def test_acls_disabled_where_the_controls_cannot_be_seen(
    scene: Scene, bucket: str, ministack: Endpoint, make_bucket: MakeBucket, make_proxy: MakeProxy
) -> None:
    """Without permission to read the ownership controls, the probe object finds the disabled ACLs."""
    closed = make_bucket(ministack, acls=False)
    hidden = Fault(action=Answer(status=403, code="AccessDenied"), method="GET", query="ownershipControls")
    proxy = make_proxy(ministack, hidden)
    hint = await scene.hint(
        f"s3://{closed}/x", code="aws.AccessControlListNotSupported", says="ACLs are disabled", endpoint_url=proxy.url
    )
    assert f"--bucket {closed}" in hint


async def test_a_bucket_in_another_region(scene: Scene, bucket: str, ministack: Endpoint) -> None:
    """A region other than the bucket's is refused, with the right one."""
    hint = await scene.hint(
        f"s3://{bucket}/x",
        code="bucket.region",
        says="it is in eu-west-1",
        endpoint_url=ministack.url,
        region="us-east-1",
    )
    assert "--region eu-west-1" in hint


@pytest.mark.parametrize("method", ["HEAD", "PUT"])
async def test_access_denied(
    method: str, scene: Scene, bucket: str, ministack: Endpoint, make_proxy: MakeProxy
) -> None:
    """Missing permissions are found before the first byte, and all required ones are listed."""
    denied = Fault(action=Answer(status=403, code="AccessDenied"), method=method, path=f"/{bucket}.*", times=None)
    proxy = make_proxy(ministack, denied)
    hint = await scene.hint(
        f"s3://{bucket}/x", code="aws.AccessDenied", says="access is denied", endpoint_url=proxy.url
    )
    assert "s3:PutObjectAcl" in hint
    assert list_keys(ministack, bucket) == []


async def test_no_right_to_delete(scene: Scene, bucket: str, ministack: Endpoint, make_proxy: MakeProxy) -> None:
    """A job that could not clean up after itself does not begin."""
    proxy = make_proxy(ministack, Fault(action=Answer(status=403, code="AccessDenied"), method="DELETE"))
    hint = await scene.hint(f"s3://{bucket}/x", code="bucket.no_delete", says="cannot clean up", endpoint_url=proxy.url)
    assert "s3:DeleteObject" in hint


@pytest.mark.parametrize("spoiled", ["secret", "access key"])
async def test_wrong_credentials(
    spoiled: str, scene: Scene, seaweedfs: Endpoint, make_bucket: MakeBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Invalid credentials are reported as such where S3 reports them."""
    made = make_bucket(seaweedfs)
    use_endpoint(seaweedfs, monkeypatch)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY" if spoiled == "secret" else "AWS_ACCESS_KEY_ID", "wrongwrongwrong")
    hint = await scene.hint(
        f"s3://{made}/x", code="aws.AccessDenied", says="access is denied", endpoint_url=seaweedfs.url
    )
    assert "credentials" in hint


async def test_no_credentials(scene: Scene, ministack: Endpoint) -> None:
    """Without any credentials the ways to provide them are listed."""
    hint = await scene.hint(
        "s3://bucket/x", code="aws.credentials", says="no AWS credentials", endpoint_url=ministack.url
    )
    assert "AWS_PROFILE" in hint


async def test_an_endpoint_that_does_not_answer(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, ministack: Endpoint
) -> None:
    """An endpoint that is down is named."""
    use_endpoint(ministack, monkeypatch)
    hint = await scene.hint(
        "s3://bucket/x", code="aws.unreachable", says="http://127.0.0.1:1/", endpoint_url="http://127.0.0.1:1"
    )
    assert "--endpoint-url" in hint


UNKNOWN = [(501, "NotImplemented"), (400, "InvalidArgument"), (400, "InvalidRequest"), (400, "UnsupportedHeader")]


@pytest.mark.parametrize(
    ("header", "words", "status", "code"),
    [
        (header, words, *answer)
        for (header, words), answer in zip(
            [
                ("if-none-match", "If-None-Match: each object is looked for before it is written"),
                ("x-amz-checksum-sha1", "x-amz-checksum-sha1: it checks the bodies by their MD5"),
                ("if-none-match|x-amz-checksum", "If-None-Match and x-amz-checksum-sha1: "),
                ("if-none-match", "If-None-Match: "),
            ],
            UNKNOWN,
            strict=True,
        )
    ],
)
async def test_a_header_that_an_endpoint_does_not_know(
    header: str,
    words: str,
    status: int,
    code: str,
    scene: Scene,
    bucket: str,
    ministack: Endpoint,
    make_proxy: MakeProxy,
) -> None:
    """The probe is what a job sends, and an unknown header is a notice; the body is protected even so."""
    proxy = make_proxy(ministack, Fault(action=Answer(status=status, code=code), header=header, times=None))
    async with scene.ready(f"s3://{bucket}/x", endpoint_url=proxy.url, register_image=False):
        (notice,) = scene.notices
    assert notice.startswith(f"the endpoint does not know {words}")
    probe = proxy.seen("PUT")[-1]
    assert ("x-amz-checksum-sha1" in probe.headers) != ("content-md5" in probe.headers)
    assert list_keys(ministack, bucket) == []


@pytest.mark.parametrize(
    "answer",
    [
        *(Answer(status=status, code=code) for status, code in UNKNOWN),
        *(Answer(status=status, code=code) for status, code in ((405, "MethodNotAllowed"), (404, "NoSuchKey"))),
        Answer(status=500, code="InternalError"),
        *(HollowReply(undone=True, body=body) for body in (b"", b"<html>", b"<ListBucketResult/>")),
    ],
)
async def test_ownership_controls_that_an_endpoint_does_not_know(
    answer: Answer | HollowReply, scene: Scene, bucket: str, ministack: Endpoint, make_proxy: MakeProxy
) -> None:
    """Any other answer of an endpoint is a notice, because the probe shows whether the ACL is taken."""
    proxy = make_proxy(ministack, Fault(action=answer, method="GET", query="ownershipControls", times=None))
    async with scene.ready(f"s3://{bucket}/x", endpoint_url=proxy.url, register_image=False):
        (notice,) = scene.notices
    assert notice.startswith(f"cannot check if bucket {bucket} has ACLs enabled (")


async def test_an_acl_under_which_ec2_cannot_read(scene: Scene, bucket: str, ministack: Endpoint) -> None:
    """A private bundle gets a notice if it is to be registered."""
    async with scene.ready(f"s3://{bucket}/x", endpoint_url=ministack.url, register_image=False, acl="private"):
        assert scene.notices == []


async def test_a_cloud_with_several_endpoints(
    scene: Scene, bucket: str, ministack: Endpoint, make_proxy: MakeProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The SDK's variables name an endpoint for each service, with a path."""
    proxies = {}
    for service, base in (("S3", "/services/objectstorage"), ("EC2", "/services/compute"), ("STS", "/services/Tokens")):
        proxies[service] = make_proxy(ministack, dry_run_answered())
        proxies[service].base = base
        monkeypatch.setenv(f"AWS_ENDPOINT_URL_{service}", proxies[service].url)
    async with scene.ready(f"s3://{bucket}/x", account=None, ami_name="at-several"):
        assert scene.notices == []
    assert {each.parameters.get("Action") for each in proxies["EC2"].requests} == {"DescribeImages", "RegisterImage"}
    assert {each.parameters.get("Action") for each in proxies["STS"].requests} == {"GetCallerIdentity"}
    assert {each.path.split("/")[1] for each in proxies["S3"].requests} == {bucket}


@pytest.mark.parametrize("region", ["RegionOne", "eucalyptus", "nova", "mars"])
async def test_a_region_that_aws_has_not(scene: Scene, region: str, bucket: str) -> None:
    """At AWS itself a region is named as AWS names its own, and the way to another cloud is shown."""
    hint = await scene.hint(
        f"s3://{bucket}/x", code="region.name", says=f"'{region}': it is not a region's name", region=region
    )
    assert "AWS_ENDPOINT_URL_S3" in hint
