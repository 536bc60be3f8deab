"""Checks a bucket as destination: credentials, clock, region, EC2's access, write permission, and no other bundle."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from amistream.aws import buckets
from amistream.aws.credentials import CredentialFacts, find_credentials, no_credentials
from amistream.aws.dialect import Dialect
from amistream.aws.regions import on_aws
from amistream.checks.destination import Destination
from amistream.checks.findings import Check, Observation, notice
from amistream.checks.free_place import check_names
from amistream.errors import AmistreamError, RefusedError, StoreError
from amistream.flow.cancel import finish_despite_cancel
from amistream.flow.retry import with_retries
from amistream.location import S3Location
from amistream.settings import Acl

SOON = timedelta(hours=1)
"""Credentials that expire within this time and are not renewed get a notice. Guess: a large job's time."""

SKEW_NOTICE_S = 5 * 60
SKEW_MOST_S = 15 * 60
"""AWS limit: requests signed at a time further off are refused."""

T = TypeVar("T")


class BucketChecks:
    """The region is known once the check `clock` has run. Nothing is left in the bucket."""

    def __init__(self, address: Destination, location: S3Location) -> None:
        self._address = address
        self._location = location
        self._acl = address.request.acl or address.settings.acl
        self._timeout_s = address.settings.stall_timeout_s
        self._facts = buckets.BucketFacts()

    def checks(self, *, must_be_empty: bool) -> list[Check]:
        """Without `must_be_empty` a bundle of this name may exist already."""
        free = Check(
            "destination",
            "overwriting a bundle would break the AMI that is registered on it",
            self._check_names,
            ("bucket",),
        )
        return [
            Check("credentials", "AWS refuses anonymous requests", self._check_credentials),
            Check("clock", "AWS refuses requests that are signed at a wrong time", self._check_clock, ("credentials",)),
            Check("bucket", "there would be no place for the bundle", self._check_bucket, ("credentials", "clock")),
            Check("region", "EC2 registers an AMI in the region of its bucket only", self._check_region, ("bucket",)),
            Check(
                "acls", "EC2 reads a bundle through its ACL and could not read this one", self._check_acls, ("bucket",)
            ),
            Check("encryption", "EC2 may not be able to read the bundle", self._check_encryption, ("bucket",)),
            Check("versions", "what is deleted later would stay and be billed", self._check_versions, ("bucket",)),
            Check(
                "probe", "the first part could not be stored, or not be removed again", self._put_and_delete, ("acls",)
            ),
            *([free] if must_be_empty else []),
        ]

    @property
    def region(self) -> str:
        return self._facts.region

    async def is_elsewhere(self) -> bool:
        """True if the bucket is not in S3 itself."""
        return not on_aws(await self._address.s3_endpoint(self.region))

    async def _check_credentials(self) -> Observation:
        facts = await find_credentials(self._address.aws, self._address.request.region or "")
        if facts is None:
            raise no_credentials(f"use the bucket {self._location.bucket}")
        return credentials_observation(facts, datetime.now(UTC))

    async def _check_clock(self) -> Observation:
        """Ask for the bucket: every answer of S3 has a date."""
        address = self._address
        try:
            self._facts = await self._with_retries(
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
            self._facts = buckets.BucketFacts(error=error)
        if self._facts.ahead_s is None:
            return Observation("S3 did not report its time")
        return clock_observation(self._facts.ahead_s)

    async def _check_bucket(self) -> str:
        if self._facts.error is not None:
            raise self._facts.error
        return f"{self._location.bucket} exists"

    async def _check_region(self) -> str:
        buckets.check_region(self._location.bucket, self._address.request.region or "", self.region)
        return self.region

    async def _check_acls(self) -> Observation:
        bucket, client = self._location.bucket, await self._address.client("s3", self.region)
        doubt = await buckets.check_acls(client, bucket, self._address.retry)
        return _doubtful(doubt) if doubt else Observation("enabled")

    async def _check_encryption(self) -> Observation:
        bucket, client = self._location.bucket, await self._address.client("s3", self.region)
        algorithm = await buckets.default_encryption(client, bucket, self._timeout_s)
        if algorithm is None:
            return Observation("not known")  # only known KMS encryption is worth a notice
        doubt = buckets.encryption_doubt(bucket, algorithm)
        return _doubtful(doubt) if doubt else Observation(algorithm or "none")

    async def _check_versions(self) -> Observation:
        bucket, client = self._location.bucket, await self._address.client("s3", self.region)
        if not await buckets.keeps_versions(client, bucket, self._timeout_s):
            return Observation("no versions are kept")
        return notice(
            f"bucket {bucket} keeps versions",
            why="what a job or `amistream delete` removes stays there, is billed, and holds the volume",
            fix="use `amistream delete --versions`, or a lifecycle rule with NoncurrentVersionExpiration",
        )

    async def _put_and_delete(self) -> Observation:
        address = self._address
        client = await address.client("s3", self.region)
        bucket, key = self._location.bucket, self._location.key(address.probe_name)

        async def put() -> Dialect:
            return await finish_despite_cancel(buckets.put_probe(client, bucket, key, self._acl, self._timeout_s))

        async def delete() -> None:
            await self._with_retries(
                f"delete s3://{bucket}/{key}",
                lambda: buckets.delete_probe(client, bucket, key, self._timeout_s),
            )

        try:
            dialect = await self._with_retries(f"write to {self._location}", put)
        except BaseException as error:
            # A refused request stored nothing; an unanswered one may have stored the object all the same.
            if not isinstance(error, StoreError) or getattr(error.__cause__, "transient", False):
                with suppress(AmistreamError):
                    await finish_despite_cancel(delete())
            raise
        await finish_despite_cancel(delete())
        if dialect.lacks:
            return notice(
                f"the endpoint does not know {dialect.lacks}",
                why="each object is looked for before it is written, and a rival's of the same moment would be replaced"
                if not dialect.condition
                else "it checks the bodies by their MD5, and the parts are read again to be compared",
            )
        if self._acl is Acl.PRIVATE and address.request.registers:
            return notice(
                f"an object with the ACL {self._acl} was put and deleted",
                why="EC2 could not read a bundle under this ACL",
                fix="leave out --acl, or give --no-register",
            )
        encrypted = ", encrypted by AES256 as the bucket's policy demands" if dialect.encryption else ""
        return Observation(f"an object with the ACL {self._acl}{encrypted} was put and deleted")

    async def _check_names(self) -> str:
        return await check_names(self._address, self.region, "aws s3 rm")

    async def _with_retries(self, what: str, ask: Callable[[], Awaitable[T]]) -> T:
        return await with_retries(self._address.retry, what, lambda _: ask())


def _doubtful(doubt: buckets.BucketDoubt) -> Observation:
    return notice(doubt.found, why=doubt.why, fix=doubt.fix)


def credentials_observation(facts: CredentialFacts, now: datetime) -> Observation:
    """Report how long the credentials last."""
    found = f"from {facts.origin}"
    if facts.renews:
        return Observation(f"{found}, renewed automatically")
    if facts.expires_at is None:
        return Observation(f"{found}, temporary, expiry unknown" if facts.temporary else f"{found}, permanent")
    until = f"{facts.expires_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    renew = "renew them, or use a role or profile that renews itself"
    if facts.expires_at <= now:
        raise StoreError("aws.ExpiredToken", f"cannot use the AWS credentials: they expired at {until}", hint=renew)
    if facts.expires_at - now < SOON:
        return notice(
            f"the AWS credentials expire at {until}",
            why="a job that takes longer stops there, and has to be resumed",
            fix=renew,
        )
    return Observation(f"{found}, until {until}")


def clock_observation(ahead_s: float) -> Observation:
    """Compare this machine's clock with S3's, which is ahead by `ahead_s`."""
    off_s = abs(ahead_s)
    how = f"{off_s / 60:.0f} minutes {'behind' if ahead_s > 0 else 'ahead of'} S3's"
    fix = "set the clock: `chronyc makestep` or `timedatectl set-ntp true`"
    if off_s >= SKEW_MOST_S:
        raise RefusedError(
            "aws.RequestTimeTooSkewed",
            f"cannot sign requests: this machine's clock is {how}, and AWS accepts 15 minutes at most",
            hint=fix,
        )
    if off_s >= SKEW_NOTICE_S:
        why = "from 15 minutes on AWS refuses every request"
        return notice(f"this machine's clock is {how}", why=why, fix=fix)
    return Observation(f"within {max(1, round(off_s))} s of S3's")
