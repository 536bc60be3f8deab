"""Reaches what a conversion needs of AWS: region, endpoint and clients, by the request and the settings. No checks."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Protocol

from amistream.aws.session import Aws
from amistream.checks.context import RequestContext
from amistream.ports.registry import JOB_TAG, REQUEST_TAG, Registration
from amistream.request import digest_of
from amistream.request.convert import ConvertCheckRequest
from amistream.roots import Roots
from amistream.settings import Settings
from amistream.stages.register import default_name, lasting_name
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
        name: str = "",
        check: Callable[[], object] = lambda: None,
    ) -> None:
        """`job_id` is that of a job or any other word, which marks what is made; so does the `name` of a named job.

        Raises `JobError` if `settled` may not win.
        """
        super().__init__(request, settings, aws, roots=roots, check=check)
        self.settled = settled
        if settled is not None:
            self.keep_endpoint(settled.endpoint_url, "the snapshot")
        self.name, self._token = name, job_id.rpartition("-")[2]
        self.tag = name or job_id
        """The tag of the snapshot and the AMI that the job makes."""

    @property
    def marks(self) -> dict[str, str]:
        """The tags by which the job's snapshot is found, and the request of a named job compared."""
        return {JOB_TAG: self.tag, **({REQUEST_TAG: digest_of(self.request)} if self.name else {})}

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
        """The AMI's name if none was given; jobs of the same second get different names.

        That of a named job is the same in every attempt: EC2 gives it to one AMI only.
        """
        return lasting_name(image, self.name) if self.name else default_name(image, now, self._token)
