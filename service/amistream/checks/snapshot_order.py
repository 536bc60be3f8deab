"""Checks what a conversion asks of EBS, and makes the order of its snapshot: region, size, encryption, room for it."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime

from amistream.aws.credentials import find_credentials, no_credentials
from amistream.aws.ebs import find_direct_apis
from amistream.aws.regions import partition_of
from amistream.checks.bucket import credentials_observation
from amistream.checks.conversion_context import ConversionContext
from amistream.checks.findings import Check, Observation, notice
from amistream.checks.source import reading_memory
from amistream.errors import NotSupportedError, RefusedError, StoreError
from amistream.flow.retry import with_retries
from amistream.ports.registry import BUNDLE_TAG, tag_of_bundle
from amistream.ports.snapshots import BLOCK, MOST_PENDING, SnapshotOrder
from amistream.settings import conversion_ceiling, puts_within
from amistream.units import size_text
from amistream.values import GIB, MIB

TIMEOUT_MIN = 1440
"""A job that was interrupted can be resumed for a day. Choice."""
JOURNAL_PER_BLOCK = 80
"""Growth of the journal: an index before each block is sent and its digest afterwards, and as much for a resume."""
LARGEST_GIB = 65536
"""GiB of an EBS volume. AWS limit."""
_NEARLY = MOST_PENDING - 10
_KEY_ARN = re.compile(r"arn:[a-z0-9-]+:kms:([a-z0-9-]+):[0-9]{12}:key/.+")
_LONGEST_DESCRIPTION = 255


class SnapshotChecks:
    """The order is known once the checks have passed."""

    def __init__(
        self, context: ConversionContext, *, size: Callable[[], int], source_region: Callable[[], str], bundle: bool
    ) -> None:
        """`size` is that of the image, `source_region` that of a bundle's bucket, both known after the `source`.

        `bundle`: the source is one.
        """
        self._context = context
        self._request = context.request
        self._size = size
        self._source_region = source_region
        self._source = "bundle" if bundle else "source"
        self._unpacks = bundle
        self.region = ""
        """Set by the check `region`."""
        self._key = ""
        """ARN of the key; set by the check `encryption`."""
        self._reading_memory = reading_memory(context.request.source, context.settings)
        self.workers = context.request.workers or context.settings.worker_count()
        self.puts = context.request.puts or context.settings.puts
        """Set by the check `memory_limit`."""

    def checks(self) -> list[Check]:
        why_ec2 = "EBS would refuse the snapshot"
        # The region of a bundle's bucket is the default.
        return [
            Check("credentials", "AWS refuses anonymous requests", self._check_credentials),
            Check("region", "a snapshot is made in a region", self._choose_region, after=(self._source,)),
            Check("direct_apis", "no snapshot can be written", self._find_direct_apis, ("credentials", "region")),
            Check("volume_size", why_ec2, self._check_volume_size, (self._source, "size")),
            Check("encryption", why_ec2, self._check_encryption, ("credentials", "region")),
            Check("snapshots", why_ec2, self._count_pending, ("credentials", "region")),
            Check("memory_limit", "the process would grow beyond the limit", self._choose_puts),
        ]

    @property
    def volume_gib(self) -> int:
        return -(-int(self._request.volume_size or self._size()) // GIB)

    def order(self, bundle_address: str) -> SnapshotOrder:
        """The words of the snapshot; its token is the job's to choose."""
        request = self._request
        made_of = {BUNDLE_TAG: tag_of_bundle(bundle_address)} if bundle_address else {}
        description = request.description or f"amistream: {request.source}"
        return SnapshotOrder(
            token="",
            volume_gib=self.volume_gib,
            description=description[:_LONGEST_DESCRIPTION],
            tags={**request.snapshot_tags, **made_of, **self._context.marks},
            encrypted=request.encrypts,
            kms_key_id=self._key,
            timeout_min=TIMEOUT_MIN,
        )

    async def _check_credentials(self) -> Observation:
        facts = await find_credentials(self._context.aws, self._request.region or "")
        if facts is None:
            raise no_credentials("make a snapshot")
        return credentials_observation(facts, datetime.now(UTC))

    async def _choose_region(self) -> str:
        context = self._context
        if context.settled is not None:
            self.region = context.settled.region
            return f"{self.region}, as when the job began"
        self.region = self._request.region or self._source_region() or await context.aws.default_region()
        if not self.region:
            raise RefusedError(
                "region.missing",
                "cannot choose where to make the snapshot: the region is not known",
                hint="give --region, or set AWS_REGION",
                field="region",
            )
        return self.region

    async def _find_direct_apis(self) -> Observation | str:
        context = self._context
        stall_s = context.settings.stall_timeout_s
        try:
            return await find_direct_apis(context.aws, self.region, context.endpoint_url, stall_s)
        except NotSupportedError as error:
            raise RefusedError(
                "snapshot.no_direct_apis",
                f"cannot make a snapshot: the endpoint does not have the EBS direct APIs ({error.code})",
                hint="give the address of EBS in AWS_ENDPOINT_URL_EBS, if it has another one; on a cloud without these "
                "APIs `amistream unbundle` writes a bundle's image to a volume that is attached",
                field="endpoint_url",
            ) from error
        except StoreError as error:
            return Observation(f"not known: {error.message}")

    def _check_volume_size(self) -> str:
        size, wished = self._size(), self._request.volume_size
        if wished is not None and wished < size:
            raise RefusedError(
                "volume_size.small",
                f"cannot put an image of {size_text(size)} into a volume of {size_text(int(wished))}",
                hint=f"--volume-size {-(-size // GIB)}GiB, or leave it out",
                field="volume_size",
            )
        if self.volume_gib > LARGEST_GIB:
            raise RefusedError(
                "source.too_large",
                f"cannot make a volume of {self.volume_gib} GiB: those of EBS have at most {LARGEST_GIB}",
                hint="shrink the file system and the disk",
                field="source",
            )
        return f"{self.volume_gib} GiB for an image of {size_text(size)}"

    async def _check_encryption(self) -> Observation | str:
        context, request = self._context, self._request
        if request.kms_key_id is not None:
            self._key = await self._key_arn(request.kms_key_id)
            return f"with the key {self._key}"
        if request.encrypted:
            return "with the account's default key"
        ec2 = await context.ec2(self.region)
        try:
            by_default = await with_retries(
                context.retry, "look up the encryption by default", lambda _: ec2.encrypts_by_default()
            )
        except StoreError as error:
            return Observation(f"as the account has it; that was not looked up: {error.message}")
        if by_default:
            return notice(
                f"the snapshot is encrypted, as this account encrypts by default in {self.region}",
                why="another account cannot use it if the default key is that of AWS",
                fix="--kms-key-id KEY takes a key of your own, which can be shared",
            )
        return "none"

    async def _key_arn(self, key: str) -> str:
        """The form of the key that EBS takes. Raises `RefusedError` for a key of another region."""
        found = _KEY_ARN.fullmatch(key)
        if found and found[1] != self.region:
            raise RefusedError(
                "kms_key_id.region",
                f"cannot encrypt the snapshot with {key}: the key is in {found[1]}, and the snapshot in {self.region}",
                hint=f"name a key of {self.region}",
                field="kms_key_id",
            )
        if found:
            return key
        context = self._context
        account = await with_retries(
            context.retry,
            "look up the account id with STS",
            lambda _: context.aws.account_id(self.region, context.endpoint_url),
        )
        return f"arn:{partition_of(self.region) or 'aws'}:kms:{self.region}:{account}:key/{key.removeprefix('key/')}"

    async def _count_pending(self) -> Observation | str:
        context = self._context
        ec2 = await context.ec2(self.region)
        try:
            pending = await with_retries(
                context.retry, "count the pending snapshots", lambda _: ec2.pending_snapshots()
            )
        except StoreError as error:
            return Observation(f"pending ones were not counted: {error.message}")
        if pending >= _NEARLY:
            return notice(
                f"{pending} snapshots are pending in {self.region}",
                why=f"EBS lets an account write to {MOST_PENDING} at once",
                fix="resume or cancel interrupted conversions: `amistream jobs`",
            )
        return f"{pending} pending of {MOST_PENDING}"

    @property
    def most_memory(self) -> int:
        """Bytes that the process may use with this job alone."""
        limit = self._request.memory_limit or self._context.settings.memory_limit
        return min(self._ceiling, int(limit)) if limit else self._ceiling

    @property
    def journal_size(self) -> int:
        """Bytes that the journal may grow by; 0 until the source is opened."""
        return JOURNAL_PER_BLOCK * (self._size() // BLOCK)

    def _choose_puts(self) -> str:
        """Choose the blocks in flight: as requested, or as many as fit in the memory limit. Raises `RefusedError`."""
        limit = self._request.memory_limit or self._context.settings.memory_limit
        if limit is not None:
            spare = int(limit) - self._reading_memory
            fitting = min(self.puts, puts_within(spare, workers=self.workers, unpacks=self._unpacks))
            if fitting < 1:
                least = conversion_ceiling(workers=self.workers, puts=1, unpacks=self._unpacks) + self._reading_memory
                raise RefusedError(
                    "memory_limit.too_small",
                    f"cannot keep within {limit / MIB:.0f} MiB: {self.workers} workers and one block in flight need "
                    f"{least / MIB:.0f} MiB",
                    hint="give a larger --memory-limit, or fewer --workers",
                    field="memory_limit",
                )
            self.puts = fitting
        of = f" of {size_text(int(limit))}" if limit else ""
        return f"{self.puts} blocks in flight, at most {size_text(self._ceiling)}{of}"

    @property
    def _ceiling(self) -> int:
        ceiling = conversion_ceiling(workers=self.workers, puts=self.puts, unpacks=self._unpacks)
        return ceiling + self._reading_memory
