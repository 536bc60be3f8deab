"""The one retry layer: repeats a request after a transient failure, with capped full-jitter delays.

The SDK's own retries are off, so that the bounds here hold. Each attempt runs under a deadline that moves with
its progress: an attempt is given up after `stall_s` without a byte sent or an answer, however long it has been
sending. The SDK's read timeout does not cover that phase.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

import structlog

from amistream.errors import StalledError, StoreError
from amistream.settings import Settings

log = structlog.get_logger()
T = TypeVar("T")

RETRIES: Counter[str] = Counter()
"""Repeated requests of this process, by the code of the error before."""
_MOST_DOUBLINGS = 30
"""Enough to reach any cap; an unbounded power would overflow a float."""


def _go_on() -> None:
    """Check nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """`attempts` counts the first try. Delay before try n: uniform in 0 .. min(cap, base * 2**(n-1)) seconds.

    `check` is called before each attempt, and may raise: a job that must not go on sends no further request.
    """

    attempts: int
    base_s: float
    cap_s: float
    stall_s: float
    check: Callable[[], object] = field(default=_go_on, compare=False)

    def delay_s(self, failures: int) -> float:
        most = min(self.cap_s, self.base_s * 2 ** min(failures - 1, _MOST_DOUBLINGS))
        return random.uniform(0, most)  # noqa: S311 - not a secret


def retry_policy(settings: Settings, check: Callable[[], object] = _go_on) -> RetryPolicy:
    return RetryPolicy(
        check=check,
        attempts=settings.upload_attempts,
        base_s=settings.backoff_base_s,
        cap_s=settings.backoff_cap_s,
        stall_s=settings.stall_timeout_s,
    )


class Alive:
    """Passed to each attempt: calling it on progress moves the attempt's deadline."""

    def __init__(self, timeout: asyncio.Timeout, stall_s: float) -> None:
        self._timeout = timeout
        self._stall_s = stall_s

    def __call__(self) -> None:
        if not self._timeout.expired():
            self._timeout.reschedule(asyncio.get_running_loop().time() + self._stall_s)

    def counting(self, on_bytes: Callable[[int], None]) -> Callable[[int], None]:
        """A callback that reports bytes sent, and moves the deadline."""

        def moved(count: int) -> None:
            self()
            on_bytes(count)

        return moved


async def with_retries(
    policy: RetryPolicy,
    what: str,
    attempt: Callable[[Alive], Awaitable[T]],
    *,
    failed: Callable[[StoreError], object] = lambda _: None,
) -> T:
    """Run `attempt` until it succeeds, fails for good, or has failed `policy.attempts` times.

    `what` describes it for users ("store image.part.03 in s3://b"). `failed` is called with every transient failure,
    and may raise it to end the repeats. Raises the last `StoreError`, with the cause.
    """
    failures = 0
    while True:
        policy.check()
        try:
            return await _once(policy, what, attempt)
        except StoreError as error:
            failures += 1
            if not error.transient:
                raise
            failed(error)
            if failures >= policy.attempts:
                message = f"{error.message} (tried {failures} times)"
                raise error.permanent().reworded(message=message) from error
            RETRIES[error.code] += 1
            delay = policy.delay_s(failures)
            log.warning(
                "request.retry",
                what=what,
                reason=error.message,
                failures=failures,
                delay_s=round(delay, 2),
                **({"request_id": error.request_id} if error.request_id else {}),
            )
            await asyncio.sleep(delay)


async def _once(policy: RetryPolicy, what: str, attempt: Callable[[Alive], Awaitable[T]]) -> T:
    try:
        async with asyncio.timeout(policy.stall_s) as timeout:
            return await attempt(Alive(timeout, policy.stall_s))
    except TimeoutError as error:
        raise StalledError(
            "store.stalled",
            f"cannot {what}: no progress for {policy.stall_s:g} s",
            hint="the endpoint or the network is stuck; stall_timeout_s sets how long to wait",
            transient=True,
        ) from error
