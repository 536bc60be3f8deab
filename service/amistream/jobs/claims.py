"""The claims of a bundle job's run at its destinations. A job without a name has none: these do nothing.

Those of a named job, which several hosts may have, are `named_claims`.
"""

from __future__ import annotations

from collections.abc import Iterable

from amistream.errors import AmistreamError, FencedError
from amistream.events import BundleResult


class Claims:
    """A run's right to each of its destinations, by their numbers."""

    result: BundleResult | None = None
    """That of a bundle which an earlier attempt has finished."""

    async def begin(self, numbers: Iterable[int]) -> None:
        """Claim these destinations, or find that they are done. Raises `RefusedError`, `FencedError`, `StoreError`."""

    async def fence(self, number: int) -> None:
        """Return if the destination is still this run's. Called before each commit point. Raises `FencedError`."""

    async def is_ours(self, number: int) -> bool:
        """The destination is this run's, or that of an earlier process: what the job stored there may be removed."""
        del number
        return True

    async def check_removal(self, number: int) -> None:
        """Raise `FencedError` if another host may have the destination. Called before a deletion."""

    async def leave(self) -> None:
        """Give up the destinations that are not done: nothing of this run is left there."""

    async def release_done(self, number: int) -> None:
        """Give up a destination that is done. What fails is a notice, because the bundle is there."""

    @property
    def took_over(self) -> bool:
        """A destination had another run's claim: that run has removed what this one may have stored before."""
        return False

    async def fencing(self, error: AmistreamError) -> FencedError | None:
        """The cause of a failure, if another attempt has taken over a destination, or stored something late."""
        del error
        return None
