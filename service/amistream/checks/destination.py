"""Reaches a request's destination: its location, store and registry, by the request and the settings. No checks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from amistream.aws.session import Aws
from amistream.checks.context import RequestContext
from amistream.flow.retry import RetryPolicy
from amistream.location import DirectoryLocation, S3Location, parse_location
from amistream.plan import Bundling, BundlingPlace
from amistream.ports.registry import Registration
from amistream.ports.store import Mark, Store
from amistream.ports.unanswered import Late, Unanswered
from amistream.request import CheckRequest, digest_of
from amistream.roots import Roots
from amistream.settings import Settings
from amistream.stages.register import default_name, lasting_name
from amistream.stores.opening import make_store

if TYPE_CHECKING:
    from amistream.aws.ec2 import Ec2


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenDestination:
    """An open destination. `ec2` and `registration` are both set or both None."""

    store: Store
    retry: RetryPolicy
    region: str
    ec2: Ec2 | None
    registration: Registration | None


class BundleContext(RequestContext):
    """The context of a bundle."""

    request: CheckRequest

    def __init__(
        self,
        request: CheckRequest,
        settings: Settings,
        aws: Aws,
        *,
        roots: Roots | None = None,
        settled: Bundling | None = None,
        check: Callable[[], object] = lambda: None,
    ) -> None:
        """The decisions that an earlier run `settled` win over the settings."""
        super().__init__(request, settings, aws, roots=roots, check=check)
        self.prefix = settled.plan.prefix if settled else request.prefix or settings.prefix

    @property
    def outputs(self) -> list[tuple[Path, str]]:
        places = map(parse_location, self.request.destinations)
        return [(place.path, self.prefix) for place in places if isinstance(place, DirectoryLocation)]


class Destination(BundleContext):
    """One destination of a request, and the means to reach it."""

    def __init__(
        self,
        request: CheckRequest,
        settings: Settings,
        aws: Aws,
        job_id: str,
        number: int = 0,
        *,
        roots: Roots | None = None,
        settled: Bundling | None = None,
        late: Late | None = None,
        name: str = "",
        check: Callable[[], object] = lambda: None,
    ) -> None:
        """`job_id` is that of a job or any other word, which marks what is made; so does the `name` of a named job.

        `number` counts the request's destinations from 0; `late` is what an earlier run left unanswered there.

        Raises `JobError` if `settled` may not win.
        """
        super().__init__(request, settings, aws, roots=roots, settled=settled, check=check)
        self.location = parse_location(request.destinations[number])
        if settled is not None and settled.endpoint_url is not None:
            self.keep_endpoint(settled.endpoint_url, "the parts stored")
        self.unanswered = Unanswered(late)
        """Shared by all stores that are made here."""
        self.name, self._token = name, job_id.rpartition("-")[2]
        self.tag = name or job_id
        """The tag of an AMI that the job registers."""
        self._mark = Mark(job=name, run=job_id, request=digest_of(request)) if name else None

    async def s3_endpoint(self, region: str) -> str:
        """The address of S3 that the SDK uses, whatever named it. Raises `AmistreamError`."""
        client = await self.aws.client("s3", region or await self.aws.first_region(), self.endpoint_url)
        return str(client.meta.endpoint_url)

    def default_image_name(self, now: datetime) -> str:
        """The AMI's name if none was given; jobs of the same second get different names.

        That of a named job is the same in every attempt: EC2 gives it to one AMI only.
        """
        return lasting_name(self.prefix, self.name) if self.name else default_name(self.prefix, now, self._token)

    @property
    def probe_name(self) -> str:
        """The object that is put and deleted to prove write permission."""
        return f"amistream-probe-{self._token}"

    @property
    def limit_upload(self) -> int | None:
        """Bytes per second that may be sent there, or None for no limit."""
        match self.location:
            case DirectoryLocation():
                return None
            case S3Location():
                return self.request.limit_upload or self.settings.limit_upload

    async def store(self, region: str) -> Store:
        """Make the store, not opened yet; `region` is the bucket's."""
        return await make_store(
            self.location,
            self.settings,
            self.aws,
            token=self._token,
            region=region,
            endpoint_url=self.endpoint_url,
            acl=self.request.acl,
            limit_upload=self.limit_upload,
            roots=self.roots,
            unanswered=self.unanswered,
            mark=self._mark,
            retry=self.retry,
        )


async def open_destination(address: Destination, place: BundlingPlace) -> OpenDestination:
    """Open the destination that an earlier run wrote to, without any checks."""
    store = await address.store(place.region)
    await store.open(made_place=place.made_place)
    return OpenDestination(
        store=store,
        retry=address.retry,
        region=place.region,
        ec2=await address.ec2(place.region) if place.registration else None,
        registration=place.registration,
    )
