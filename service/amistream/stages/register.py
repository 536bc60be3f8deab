"""Register: make the bundle an AMI, safely against a lost answer, and wait until it can be used.

RegisterImage takes no client token. After a lost answer, EC2 is asked for an AMI of our name: if its location is our
manifest's, the registration succeeded; if there is none, it is tried again.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime

import structlog

from amistream.errors import NameTakenError, RegisterError, StoreError
from amistream.flow.cancel import await_answer
from amistream.flow.retry import RetryPolicy, with_retries
from amistream.flow.undo import Undo
from amistream.ports.registry import Ami, Registration, Registry

log = structlog.get_logger()

LOOKS_AFTER_LOST_ANSWER = 3
"""AMIs become visible with a delay: number of looks before a registration counts as not done."""

_NAME_MOST = 128
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9()\[\] ./'@_-]")
_WAITING = frozenset({"pending", "transient", ""})


def default_name(image: str, now: datetime, token: str) -> str:
    """Default AMI name: bundle name, UTC time and a random token, in at most 128 characters that EC2 accepts."""
    ending = f" {now:%Y-%m-%d %H.%M.%S} {token}"
    return _NOT_IN_NAMES.sub("-", image)[: _NAME_MOST - len(ending)] + ending


async def _record_nothing(image_id: str | None) -> None:
    del image_id


@dataclass(kw_only=True, eq=False)
class RegistrationAttempt:
    """Registers one bundle exactly once, with an undo that deregisters only an AMI of its own.

    `record` gets None before EC2 is asked, then the AMI's id, or '' when EC2 refused.
    """

    registry: Registry
    registration: Registration
    retry: RetryPolicy
    record: Callable[[str | None], Awaitable[None]] = _record_nothing
    look_first: bool = False
    """An earlier run may have registered and ended before the answer came."""
    registered_none: bool = False
    """Earlier runs are known not to have registered an AMI, so an existing one belongs to someone else."""
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    image_id: str = ""
    """The AMI that was registered, or found to be registered."""
    is_own: bool = True
    """The undo deregisters the AMI, or looks for one whose id never came."""

    async def run(self, undo: Undo, *, timeout_s: float, poll_s: float) -> str:
        """Register, wait until the AMI is available, and return its id. Raises `RegisterError` or `StoreError`."""
        undo.push(f"the AMI {self.registration.name!r}", self._deregister)
        # A cancel waits a little for the id: by its name the AMI may not be found yet.
        await await_answer(self._register(), lambda: True)
        await wait_available(
            self.registry, self.image_id, timeout_s=timeout_s, poll_s=poll_s, retry=self.retry, sleep=self.sleep
        )
        return self.image_id

    async def _register(self) -> None:
        if self.look_first and (found := await self._find_ours()):
            self.image_id, self.is_own = found.id, not self.registered_none
            return
        await self.record(None)
        try:
            self.image_id = await self._ask()
        except RegisterError:
            await self.record("")
            raise
        await self.record(self.image_id if self.is_own else "")

    async def _ask(self) -> str:
        """Ask EC2 until it is certain whether it registered; returns the id. Raises `RegisterError`."""
        failures = 0
        while True:
            try:
                return await self.registry.register(self.registration)
            except StoreError as error:
                failures += 1
                # After a lost answer, "the name is taken" may mean: by that request's AMI.
                unsure = error.transient or (failures > 1 and isinstance(error, NameTakenError))
                if unsure:
                    log.warning("register.unsure", reason=error.message, failures=failures)
                else:
                    # Refused at once: an AMI of that name is someone else's, unless an earlier run made it.
                    self.is_own = failures > 1 or (self.look_first and not self.registered_none)
                    if not isinstance(error, NameTakenError):
                        raise _failed(self.registration, error) from error
                try:
                    found = await self._find_ours(looks=LOOKS_AFTER_LOST_ANSWER if unsure else 1)
                except StoreError as blind:
                    raise _failed(self.registration, blind) from blind
                if found is not None:
                    return found.id
                if not unsure or failures >= self.retry.attempts:
                    raise _failed(self.registration, error) from error

    async def _find_ours(self, *, looks: int = LOOKS_AFTER_LOST_ANSWER) -> Ami | None:
        return await find_ours(self.registry, self.registration, self.retry, looks=looks, sleep=self.sleep)

    async def _deregister(self) -> None:
        if self.is_own:
            found = self.image_id or None
            self.image_id = await deregister_ours(self.registry, self.registration, self.retry, found, sleep=self.sleep)


async def wait_available(
    registry: Registry,
    image_id: str,
    *,
    timeout_s: float,
    poll_s: float,
    retry: RetryPolicy,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Return when the AMI is available. Raises `RegisterError` with EC2's reason, or after `timeout_s`."""
    state = ""
    for _ in range(max(1, round(timeout_s / poll_s))):
        try:
            image = await with_retries(retry, f"look at {image_id}", lambda _: registry.describe(image_id), sleep=sleep)
        except StoreError as error:
            raise RegisterError(
                "register.unknown",
                f"cannot find out whether {image_id} became available: {error.message}",
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
                hint="the bundle is kept; see the reason, and check EC2's certificate and the ACL",
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
    looks: int = LOOKS_AFTER_LOST_ANSWER,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> Ami | None:
    """Return the AMI that has this registration's name and location, if there is one. Raises `StoreError`."""
    for look in range(1, looks + 1):
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


async def deregister_ours(
    registry: Registry,
    registration: Registration,
    retry: RetryPolicy,
    image_id: str | None,
    *,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> str:
    """Deregister `image_id`; None: the AMI that has the registration's name and bundle. Returns the id or ''."""
    if image_id is None:
        found = await find_ours(registry, registration, retry, sleep=sleep)
        image_id = found.id if found is not None else ""
    if image_id:
        await registry.deregister(image_id)
    return image_id


def _failed(registration: Registration, error: StoreError) -> RegisterError:
    return RegisterError(
        error.code,
        error.message,
        hint=f"{error.hint}\n" * bool(error.hint) + "the bundle is complete and kept; resume the job, or register it "
        f"with `amistream register s3://{registration.location} --ami-name '{registration.name}'`",
        field=error.field,
    )
