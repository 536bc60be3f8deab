"""Reaches what a conversion needs of AWS: region, endpoint and clients, by the request and the settings. No checks."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Protocol

from amistream.aws.ec2 import Ec2
from amistream.aws.session import Aws
from amistream.checks.context import RequestContext
from amistream.errors import JobError
from amistream.flow.retry import retry_policy
from amistream.ports.registry import Registration
from amistream.request import ConvertCheckRequest
from amistream.roots import Roots
from amistream.settings import Settings
from amistream.stages.register import default_name
from amistream.values import GIB

LARGEST_TREE = 1024 * GIB
"""Most bytes of the image of a directory, unless the size of the volume says less. Guess: the layout is in memory."""


class Settled(Protocol):
    """The decisions of an earlier run of the job, which stay."""

    @property
    def region(self) -> str: ...

    @property
    def endpoint_url(self) -> str: ...

    @property
    def registration(self) -> Registration | None: ...


class ConversionContext(RequestContext):
    """A conversion's request, and the means to reach AWS."""

    request: ConvertCheckRequest

    def __init__(
        self,
        request: ConvertCheckRequest,
        settings: Settings,
        aws: Aws,
        job_id: str,
        *,
        roots: Roots | None = None,
        settled: Settled | None = None,
    ) -> None:
        """`job_id` is that of a job or any other word, which marks what is made.

        Raises `JobError` where a confined job would go on at an endpoint that the administrator has changed.
        """
        super().__init__(request, settings, aws, roots=roots)
        self.settled = settled
        if settled is not None and settled.endpoint_url != self.endpoint_url:
            if roots is not None:
                raise JobError(
                    "resume.endpoint",
                    f"cannot reach the snapshot at {settled.endpoint_url or 'AWS'}: endpoint_url has changed since",
                    hint="restore the setting endpoint_url, then resume or cancel the job",
                )
            self.endpoint_url = settled.endpoint_url
        self.retry = retry_policy(settings)
        self.job_id, self._token = job_id, job_id.rpartition("-")[2]

    @property
    def largest_tree(self) -> int:
        return int(self.request.volume_size or LARGEST_TREE)

    async def source_region(self) -> str:
        return self.settled.region if self.settled is not None else await super().source_region()

    @property
    def reach(self) -> Settings:
        """The settings with the endpoint of this job, for the commands on bundles."""
        return self.settings.model_copy(update={"endpoint_url": self.endpoint_url})

    def default_image_name(self, image: str, now: datetime) -> str:
        """The AMI's name if none was given; jobs of the same second get different names."""
        return default_name(image, now, self._token)

    async def client(self, service: str, region: str) -> Any:
        return await self.aws.client(service, region, self.endpoint_url)

    async def ec2(self, region: str) -> Ec2:
        return Ec2(await self.client("ec2", region), region, self.settings.stall_timeout_s)
