"""The bundles of the buckets that the page shows, listed as `amistream list` does."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from pydantic import BaseModel

from amistream.aws.session import Aws
from amistream.bundles.results import Inventory
from amistream.bundles.session import BundleSession
from amistream.errors import NotFoundError
from amistream.settings import Settings
from amistream.web.cached import Cached

KEPT_S = 300.0
SOONEST_S = 5.0
"""Times after which a listing is repeated: by itself, and if its reader asks for it. Guess: S3 charges for each."""


class BucketNames(BaseModel):
    """The buckets in the order of the command line: a listing is asked for by its number."""

    buckets: tuple[str, ...]


class Listing(BaseModel):
    """The bundles of one bucket, at a time."""

    listed_at: datetime
    notes: tuple[str, ...]
    inventory: Inventory


class Shelves:
    """Lists buckets with one session of the SDK."""

    def __init__(self, buckets: tuple[str, ...], settings: Settings, aws: Aws, *, ask_ec2: bool = True) -> None:
        self.names = BucketNames(buckets=buckets)
        self._settings, self._aws, self._ask_ec2 = settings, aws, ask_ec2
        self._found = [Cached(self._question(bucket)) for bucket in buckets]

    async def listing(self, number: int, *, anew: bool) -> Listing:
        """Raises `AmistreamError`."""
        if not 0 <= number < len(self._found):
            raise NotFoundError("web.bucket", f"cannot list bucket {number}: the command line has no such bucket")
        return await self._found[number].get(SOONEST_S if anew else KEPT_S)

    def _question(self, bucket: str) -> Callable[[], Awaitable[Listing]]:
        async def ask() -> Listing:
            notes: list[str] = []
            session = BundleSession(self._settings, self._aws, notes.append)
            inventory = await session.inventory(bucket, ask_ec2=self._ask_ec2, leftovers=True)
            return Listing(listed_at=datetime.now(UTC), notes=tuple(notes), inventory=inventory)

        return ask
