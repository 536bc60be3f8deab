"""The request of a job of any kind, with what completes it: settings, AWS, and the roots of a confined job."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amistream.aws.session import Aws
from amistream.errors import JobError
from amistream.flow.retry import retry_policy
from amistream.request import Reach, VolumeRequest
from amistream.roots import Roots
from amistream.settings import Settings

if TYPE_CHECKING:
    from amistream.aws.ec2 import Ec2


class ReachContext:
    """The means to reach AWS for a request, and the roots within which a confined job must stay."""

    def __init__(
        self,
        request: Reach,
        settings: Settings,
        aws: Aws,
        *,
        roots: Roots | None = None,
        check: Callable[[], object] = lambda: None,
    ) -> None:
        """`check` is called before each request, and raises once the job must send no more (`RetryPolicy.check`)."""
        self.settings = settings
        self.aws = aws
        self.roots = roots
        # Requests signed for a confined job go to the administrator's endpoint only.
        asked = request.endpoint_url if roots is None else None
        self.endpoint_url = (asked or settings.endpoint_url).rstrip("/")
        self.retry = retry_policy(settings, check)

    def keep_endpoint(self, earlier: str, what: str) -> None:
        """Continue at the endpoint of an earlier run, where `what` is.

        Raises `JobError` where a confined job would continue at an endpoint that the administrator has changed.
        """
        if earlier == self.endpoint_url:
            return
        if self.roots is not None:
            raise JobError(
                "resume.endpoint",
                f"cannot reach {what} at {earlier or 'AWS'}: endpoint_url has changed since",
                hint="restore the setting endpoint_url, then resume or cancel the job",
            )
        self.endpoint_url = earlier

    async def client(self, service: str, region: str) -> Any:
        return await self.aws.client(service, region, self.endpoint_url)

    async def ec2(self, region: str) -> Ec2:
        from amistream.aws.ec2 import Ec2  # noqa: PLC0415 - as the SDK, for the first request

        return Ec2(await self.client("ec2", region), region, self.settings.stall_timeout_s)


class RequestContext(ReachContext):
    """A request about a volume, and the settings that complete it."""

    def __init__(
        self,
        request: VolumeRequest,
        settings: Settings,
        aws: Aws,
        *,
        roots: Roots | None = None,
        check: Callable[[], object] = lambda: None,
    ) -> None:
        super().__init__(request, settings, aws, roots=roots, check=check)
        self.request = request
        self.says: Callable[[str], None] = lambda _: None
        """Is called while a large directory is walked or copied, on the thread of that, with how far it is."""

    async def source_region(self) -> str:
        """The region of a snapshot as source, or ''."""
        return self.request.region or await self.aws.default_region()

    @property
    def largest_tree(self) -> int:
        """Most bytes of the image of a directory."""
        return int(self.settings.max_image_size)

    @property
    def outputs(self) -> list[tuple[Path, str]]:
        """The directories that the job writes to, and the prefix of its files there: no image of a tree has them."""
        return []
