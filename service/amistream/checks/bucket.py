"""Checks of an S3 destination: credentials, clock, the bucket, what EC2 and we may do there, and whether it is free."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from amistream.aws import buckets
from amistream.aws.credentials import CredentialFacts, find_credentials, no_credentials
from amistream.aws.error_table import USE_SSE_S3
from amistream.checks.destination import Address
from amistream.checks.findings import Check, Observation, Status
from amistream.errors import AmistreamError, RefusedError, StoreError
from amistream.flow.cancel import finish_despite_cancel
from amistream.flow.retry import with_retries
from amistream.location import S3Location
from amistream.ports.store import Store
from amistream.values import manifest_name

SOON = timedelta(hours=1)
"""Credentials that end within this time and do not renew themselves are worth a notice. Guess: a large job's time."""

SKEW_NOTICE_S = 5 * 60
SKEW_MOST_S = 15 * 60
"""AWS limit: a request signed at another time is refused."""

T = TypeVar("T")


class BucketChecks:
    """What was found is known once the checks have run. Nothing is left in the bucket."""

    def __init__(self, address: Address, location: S3Location) -> None:
        self._address = address
        self._location = location
        self._acl = address.request.acl or address.settings.acl
        self._timeout_s = address.settings.stall_timeout_s
        self._answer = buckets.BucketFacts()
        self._store: Store | None = None

    def checks(self, *, free: bool) -> list[Check]:
        """Without `free` a bundle of this name may be there already."""
        checks = [
            Check(name="credentials", why="AWS answers nobody it does not know", look=self._look_at_credentials),
            Check(
                name="clock",
                why="AWS refuses requests that were signed at another time than its own",
                look=self._look_at_clock,
                needs=("credentials",),
            ),
            Check(
                name="bucket",
                why="there would be no place for the bundle",
                look=self._look_at_bucket,
                needs=("credentials", "clock"),
            ),
            Check(
                name="region",
                why="EC2 registers an image in the region of its bucket only",
                look=self._look_at_region,
                needs=("bucket",),
            ),
            Check(
                name="acls",
                why="EC2 reads a bundle through its ACL and could not read this one",
                look=self._look_at_acls,
                needs=("bucket",),
            ),
            Check(
                name="encryption",
                why="EC2 may not be able to read the bundle",
                look=self._look_at_encryption,
                needs=("bucket",),
            ),
            Check(
                name="probe",
                why="the first part could not be stored, or not be removed again",
                look=self._probe,
                needs=("acls",),
            ),
        ]
        if free:
            checks.append(
                Check(
                    name="destination",
                    why="overwriting a bundle would break the AMI that is registered on it",
                    look=self._look_at_names,
                    needs=("bucket",),
                )
            )
        return checks

    @property
    def region(self) -> str:
        return self._answer.region

    @property
    def store(self) -> Store:
        """Not opened yet."""
        assert self._store is not None  # noqa: S101 - for the type checker; a check made it
        return self._store

    async def make_store(self) -> None:
        if self._store is None:
            self._store = await self._address.store(self.region)

    async def _look_at_credentials(self) -> Observation:
        facts = await find_credentials(self._address.aws)
        if facts is None:
            raise no_credentials(f"use the bucket {self._location.bucket}")
        return credentials_seen(facts, datetime.now(UTC))

    async def _look_at_clock(self) -> Observation:
        """Ask for the bucket: S3's answer has a date, whatever else is in it."""
        address = self._address
        try:
            self._answer = await self._patiently(
                f"use the bucket {self._location.bucket}",
                lambda: buckets.find_bucket(
                    address.aws,
                    self._location.bucket,
                    region=address.request.region or "",
                    endpoint_url=address.endpoint_url,
                    timeout_s=self._timeout_s,
                ),
            )
        except AmistreamError as error:
            self._answer = buckets.BucketFacts(error=error)
        if self._answer.ahead_s is None:
            return Observation("S3 did not tell its time")
        return clock_seen(self._answer.ahead_s)

    async def _look_at_bucket(self) -> str:
        if self._answer.error is not None:
            raise self._answer.error
        return f"{self._location.bucket} is there"

    async def _look_at_region(self) -> str:
        bucket, asked, found = self._location.bucket, self._address.request.region, self.region
        if asked and asked != found:
            raise RefusedError(
                "bucket.region",
                f"cannot use the bucket {bucket} in {asked}: it is in {found}, and EC2 registers in the "
                "bucket's region only",
                hint=f"leave --region out or give --region {found}; or choose a bucket in {asked}",
                field="region",
            )
        return found

    async def _look_at_acls(self) -> Observation:
        bucket, client = self._location.bucket, await self._address.client("s3", self.region)
        notice = await self._patiently(
            f"see the ownership controls of bucket {bucket}",
            lambda: buckets.check_acls(client, bucket, self._timeout_s),
        )
        if notice:
            return Observation(
                notice,
                Status.NOTICE,
                why="with ACLs disabled EC2 could not read the bundle",
                fix="allow s3:GetBucketOwnershipControls to have it checked",
            )
        return Observation("enabled")

    async def _look_at_encryption(self) -> Observation:
        bucket, client = self._location.bucket, await self._address.client("s3", self.region)
        kind = await buckets.default_encryption(client, bucket, self._timeout_s)
        if kind is None:
            return Observation("not told")  # worth a notice only when known
        if kind.startswith("aws:kms"):
            return Observation(
                f"bucket {bucket} encrypts with KMS by default",
                Status.NOTICE,
                why="EC2 may not be able to read the bundle",
                fix=USE_SSE_S3.replace("BUCKET", bucket),
            )
        return Observation(kind or "none")

    async def _probe(self) -> str:
        address = self._address
        client = await address.client("s3", self.region)
        bucket, key = self._location.bucket, self._location.key(address.probe_name)

        async def put() -> None:
            await finish_despite_cancel(buckets.put_probe(client, bucket, key, self._acl, self._timeout_s))

        async def delete() -> None:
            await self._patiently(
                f"delete s3://{bucket}/{key}",
                lambda: buckets.delete_probe(client, bucket, key, self._timeout_s),
            )

        try:
            await self._patiently(f"write to {self._location}", put)
        except StoreError as error:
            # One that was not answered may have been stored all the same.
            if getattr(error.__cause__, "transient", False):
                with suppress(AmistreamError):
                    await finish_despite_cancel(delete())
            raise
        except BaseException:
            with suppress(AmistreamError):
                await finish_despite_cancel(delete())
            raise
        await finish_despite_cancel(delete())
        return f"an object with the ACL {self._acl} was put and deleted"

    async def _look_at_names(self) -> str:
        await self.make_store()
        return await look_at_names(self.store, self._address, "aws s3 rm")

    async def _patiently(self, what: str, ask: Callable[[], Awaitable[T]]) -> T:
        return await with_retries(self._address.retry, what, lambda _: ask())


async def look_at_names(store: Store, address: Address, remove: str) -> str:
    """Refuse a destination that holds a bundle of this prefix, whole or not: nothing is ever overwritten."""
    prefix = address.prefix
    manifest = manifest_name(prefix)
    if await store.stat(manifest, read=False) is not None:
        raise RefusedError(
            "destination.exists",
            f"cannot bundle to {store.location}: there is a bundle already, {manifest}",
            hint="choose another --prefix or destination; overwriting would break the AMI registered on it",
            field="destinations",
        )
    parts = await store.names(f"{prefix}.part.")
    if parts:
        raise RefusedError(
            "destination.leftover",
            f"cannot bundle to {store.location}: parts of an unfinished bundle are there, {len(parts)} of them",
            hint=f"choose another --prefix; or, if nothing else is writing there, remove them: "
            f"{remove} {store.location}/{parts[0]} and so on",
            field="destinations",
        )
    return f"{store.location} is free for {manifest} and its parts"


def credentials_seen(facts: CredentialFacts, now: datetime) -> Observation:
    """Judge how long credentials last."""
    found = f"from {facts.origin}"
    if facts.renews:
        return Observation(f"{found}, renewed by themselves")
    if facts.expires_at is None:
        return Observation(f"{found}, temporary, nothing tells until when" if facts.temporary else f"{found}, lasting")
    until = f"{facts.expires_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    renew = "renew them, or use a role or profile that renews itself"
    if facts.expires_at <= now:
        raise StoreError("aws.ExpiredToken", f"cannot use the AWS credentials: they expired at {until}", hint=renew)
    if facts.expires_at - now < SOON:
        return Observation(
            f"the AWS credentials end at {until}",
            Status.NOTICE,
            why="a job that takes longer stops there, and has to be resumed",
            fix=renew,
        )
    return Observation(f"{found}, until {until}")


def clock_seen(ahead_s: float) -> Observation:
    """Judge by how much S3's clock is ahead of this machine's."""
    off_s = abs(ahead_s)
    how = f"{off_s / 60:.0f} minutes {'behind' if ahead_s > 0 else 'ahead of'} S3's"
    fix = "set the clock: `chronyc makestep` or `timedatectl set-ntp true`"
    if off_s >= SKEW_MOST_S:
        raise RefusedError(
            "aws.RequestTimeTooSkewed",
            f"cannot sign requests: this machine's clock is {how}, and AWS takes 15 minutes at most",
            hint=fix,
        )
    if off_s >= SKEW_NOTICE_S:
        why = "from 15 minutes on AWS refuses every request"
        return Observation(f"this machine's clock is {how}", Status.NOTICE, why=why, fix=fix)
    return Observation(f"within {max(1, round(off_s))} s of S3's")
