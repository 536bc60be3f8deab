"""Register: make the bundle an AMI, safely against a lost answer, and wait until it can be used.

RegisterImage takes no client token. After an answer that never came, EC2 is asked for an image of our name: if its
location is our manifest's, the registration went through; if there is none, it is tried again.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from datetime import datetime

import structlog

from amistream.errors import RegisterError, StoreError
from amistream.flow.retry import RetryPolicy, with_retries
from amistream.ports.registry import Image, Registration, Registry

log = structlog.get_logger()

LOOKS_AFTER_LOST_ANSWER = 3
"""Images become visible with a delay: so often is looked before a registration is held not to have happened."""

_NAME_MOST = 128
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9()\[\] ./'@_-]")
_WAITING = frozenset({"pending", "transient", ""})


def default_name(image: str, now: datetime, token: str) -> str:
    """An image's name that nobody chose: the bundle's name, the time in UTC, and what tells it from another of that
    second. In characters that EC2 takes, 128 of them at most.
    """
    ending = f" {now:%Y-%m-%d %H.%M.%S} {token}"
    return _NOT_IN_NAMES.sub("-", image)[: _NAME_MOST - len(ending)] + ending


async def register(
    registry: Registry,
    registration: Registration,
    retry: RetryPolicy,
    *,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> str:
    """Register exactly once and return the image's id. Raises `RegisterError`; the bundle stays as it is."""
    failures = 0
    while True:
        try:
            return await registry.register(registration)
        except StoreError as error:
            failures += 1
            # After an unsure try, "the name is taken" may well mean: by us.
            unsure = error.transient or (failures > 1 and error.code == "aws.InvalidAMIName.Duplicate")
            if not unsure:
                raise _failed(registration, error) from error
            log.warning("register.unsure", reason=error.message, failures=failures)
            try:
                found = await find_ours(registry, registration, retry, sleep=sleep)
            except StoreError as blind:
                raise _failed(registration, blind) from blind
            if found is not None:
                return found.id
            if failures >= retry.attempts:
                raise _failed(registration, error) from error


async def wait_available(
    registry: Registry,
    image_id: str,
    *,
    timeout_s: float,
    poll_s: float,
    retry: RetryPolicy,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Return when the image is available. Raises `RegisterError` with EC2's reason, or when it takes too long."""
    state = ""
    for _ in range(max(1, round(timeout_s / poll_s))):
        try:
            image = await with_retries(retry, f"look at {image_id}", lambda _: registry.look(image_id), sleep=sleep)
        except StoreError as error:
            raise RegisterError(
                "register.unknown",
                f"cannot tell whether {image_id} became available: {error.message}",
                hint=f"aws ec2 describe-images --image-ids {image_id}",
            ) from error
        state = image.state if image else ""
        if state == "available":
            return
        if state not in _WAITING:
            reason = (image.reason if image else "") or "EC2 gave no reason"
            raise RegisterError(
                "register.bad_state",
                f"cannot use {image_id}: EC2 put it into the state {state} ({reason})",
                hint="the bundle is kept; see the reason, and check that EC2's certificate and the ACL are right",
            )
        await sleep(poll_s)
    raise RegisterError(
        "register.timeout",
        f"cannot wait longer for {image_id}: it is still {state or 'unknown to EC2'} after {timeout_s:g} s",
        hint=f"it may still become available: aws ec2 describe-images --image-ids {image_id}",
    )


async def find_ours(
    registry: Registry,
    registration: Registration,
    retry: RetryPolicy,
    *,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> Image | None:
    """The image that an earlier request made of this registration, if it did. Raises `StoreError`."""
    for look in range(1, LOOKS_AFTER_LOST_ANSWER + 1):
        await sleep(retry.delay_s(look))
        found = await with_retries(
            retry,
            f"look for {registration.name!r}",
            lambda _: registry.find(registration.name),
            sleep=sleep,
        )
        if found is not None and found.location == registration.location:
            return found
    return None


def _failed(registration: Registration, error: StoreError) -> RegisterError:
    return RegisterError(
        error.code,
        error.message,
        hint=f"{error.hint}\n" * bool(error.hint) + "the bundle is complete and kept; resume the job, or register it "
        f"with `amistream register s3://{registration.location} --ami-name '{registration.name}'`",
        field=error.field,
    )
