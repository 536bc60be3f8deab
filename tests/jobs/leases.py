"""A lease as a queue gives it, which a test may lose at any confirmation."""

from __future__ import annotations

from dataclasses import dataclass

from amistream.errors import FencedError


@dataclass(kw_only=True)
class LentJob:
    """A `Lease`. The confirmation number `lost_at`, from 1 on, fails, and so does each later one; 0: none does."""

    name: str = "web-2026-11-28"
    attempt: int = 1
    holder: str = "host-a"
    sent_at: float = 1_800_000_000.0
    lost_at: int = 0
    confirmations: int = 0
    over_at: int = 0
    """As `lost_at`, for the checks without a question to the queue."""
    checks: int = 0

    def check(self) -> None:
        self.checks += 1
        if 0 < self.over_at <= self.checks:
            raise FencedError("lease.lost", f"cannot go on with {self.name!r}: its lease is over")

    async def confirm(self) -> None:
        self.confirmations += 1
        if 0 < self.lost_at <= self.confirmations:
            raise FencedError("lease.lost", f"cannot go on with {self.name!r}: the queue has lent it to another host")

    def lose(self) -> None:
        """Let the next confirmation fail."""
        self.lost_at = self.confirmations + 1
