"""The request of a job of any kind, with what completes it: settings, AWS, and the roots of a confined job."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from amistream.aws.session import Aws
from amistream.request import VolumeRequest
from amistream.roots import Roots
from amistream.settings import Settings


class RequestContext:
    """A request, the settings that complete it, and the roots within which a confined job must stay."""

    def __init__(self, request: VolumeRequest, settings: Settings, aws: Aws, *, roots: Roots | None = None) -> None:
        self.request = request
        self.settings = settings
        self.aws = aws
        self.roots = roots
        self.says: Callable[[str], None] = lambda _: None
        """Is called while a large directory is walked or copied, on the thread of that, with how far it is."""
        # Requests signed for a confined job go to the administrator's endpoint only.
        asked = request.endpoint_url if roots is None else None
        self.endpoint_url = (asked or settings.endpoint_url).rstrip("/")

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
