"""Register: make the bundle or the snapshot an AMI, safely against a lost answer, and wait until it can be used.

RegisterImage takes no client token. After a lost answer, EC2 is asked for an AMI of our name: if it is on our manifest
or snapshot, the registration succeeded; if there is none, it is tried again.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime

import structlog

from amistream.errors import NameTakenError, RegisterError, StoreError
from amistream.flow.cancel import await_answer
from amistream.flow.retry import RetryPolicy, with_retries
from amistream.ports.registry import Ami, Registration, Registry

log = structlog.get_logger()

LOOKS_AFTER_LOST_ANSWER = 3
"""AMIs become visible with a delay: number of looks before a registration counts as not done."""

BUNDLE_LOOK = "the bundle is kept; see the reason, and check EC2's certificate and the ACL"

_NAME_MOST = 128
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9()\[\] ./'@_-]")
_WAITING = frozenset({"pending", "transient", ""})


def default_name(image: str, now: datetime, token: str) -> str:
    """Default AMI name: bundle name, UTC time and a random token, in at most 128 characters that EC2 accepts."""
    ending = f" {now:%Y-%m-%d %H.%M.%S} {token}"
    return _NOT_IN_NAMES.sub("-", image)[: _NAME_MOST - len(ending)] + ending


def lasting_name(image: str, job: str) -> str:
    """Default AMI name of a named job: the same on every host, and another one for another job."""
    wanted = f"{image} {job}"
    name = _NOT_IN_NAMES.sub("-", wanted)
    if name == wanted and len(name) <= _NAME_MOST:
        return name
    ending = f" {hashlib.sha256(wanted.encode()).hexdigest()[:8]}"
    return name[: _NAME_MOST - len(ending)] + ending


@dataclass(kw_only=True, eq=False)
class RegistrationAttempt:
    """Registers one bundle or snapshot exactly once. `own` is what is known of the AMI that this job registered."""

    registry: Registry
    registration: Registration
    retry: RetryPolicy
    record: Callable[[str | None], Awaitable[None]] | None = None
    """Gets each change of `own`: None before each time that EC2 is asked to register."""
    own: str | None = ""
    """Its id; '' when none was registered; None while that is unknown, after a lost answer or a crash."""
    look_first: bool = False
    """There may be an AMI already: an earlier run's, or one that a user registered under the name."""

    async def run(self, *, timeout_s: float, poll_s: float) -> str:
        """Register, wait until the AMI is available, and return its id. Raises `RegisterError` or `StoreError`."""
        # A cancel waits a little for the id: by its name the AMI may not be found yet.
        image_id = await await_answer(self._register(), lambda: True)
        look = BUNDLE_LOOK if not self.registration.is_on_snapshot else ""
        await wait_available(self.registry, image_id, self.retry, timeout_s=timeout_s, poll_s=poll_s, look=look)
        return image_id

    async def _register(self) -> str:
        if self.look_first and (found := await find_ours(self.registry, self.registration, self.retry)):
            return await self._take(found)
        earlier = self.own
        failures = 0
        while True:
            await self._know(None)
            self.retry.check()
            try:
                image_id = await self.registry.register(self.registration)
            except StoreError as error:
                failures += 1
                # After a lost answer, "the name is taken" may mean: by that request's AMI.
                unsure = error.transient or (failures > 1 and isinstance(error, NameTakenError))
                if unsure:
                    log.warning("register.unsure", reason=error.message, failures=failures)
                elif failures == 1:
                    # Refused at once: this run has registered none.
                    await self._know(earlier)
                found = await self._find_after(error, LOOKS_AFTER_LOST_ANSWER if unsure else 1)
                if found is not None:
                    return await self._take(found)
                if not unsure or failures >= self.retry.attempts:
                    raise self._failed(error) from error
            else:
                await self._know(image_id)
                return image_id

    async def _take(self, found: Ami) -> str:
        """The id of an AMI of that name and bundle or snapshot. It is this job's own only if its mark proves that."""
        if found.id != self.own and found.is_by_job_of(self.registration):
            await self._know(found.id)
        return found.id

    async def _find_after(self, error: StoreError, looks: int) -> Ami | None:
        """The AMI that may be there despite the error. Raises `RegisterError` if EC2 cannot say."""
        if not error.transient and not isinstance(error, NameTakenError):
            return None
        try:
            return await find_ours(self.registry, self.registration, self.retry, looks=looks)
        except StoreError as blind:
            raise self._failed(blind) from blind

    def _failed(self, error: StoreError) -> RegisterError:
        how = f"the snapshot {self.registration.snapshot_id} is complete and kept; resume the job"
        if not self.registration.is_on_snapshot:
            by_hand = f"`amistream register s3://{self.registration.location} --ami-name '{self.registration.name}'`"
            how = f"the bundle is complete and kept; resume the job, or register it with {by_hand}"
        hint = "\n".join(filter(None, (error.hint, how)))
        return RegisterError(error.code, error.message, hint=hint, field=error.field)

    async def _know(self, own: str | None) -> None:
        self.own = own
        if self.record is not None:
            await self.record(own)


async def wait_available(
    registry: Registry, image_id: str, retry: RetryPolicy, *, timeout_s: float, poll_s: float, look: str = BUNDLE_LOOK
) -> None:
    """Return when the AMI is available. Raises `RegisterError` with EC2's reason, or after `timeout_s`.

    `look` are words for what to check when EC2 could not make it.
    """
    state = ""
    for _ in range(max(1, round(timeout_s / poll_s))):
        try:
            image = await with_retries(retry, f"look at {image_id}", lambda _: registry.describe(image_id))
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
                hint=look,
            )
        await asyncio.sleep(poll_s)
    raise RegisterError(
        "register.timeout",
        f"cannot wait longer for {image_id}: it is still {state or 'unknown to EC2'} after {timeout_s:g} s",
        hint=f"it may still become available: aws ec2 describe-images --image-ids {image_id}",
    )


async def find_ours(
    registry: Registry, registration: Registration, retry: RetryPolicy, *, looks: int = LOOKS_AFTER_LOST_ANSWER
) -> Ami | None:
    """Return the AMI that has this registration's name and bundle or snapshot, if any. Raises `StoreError`."""
    for look in range(1, looks + 1):
        await asyncio.sleep(retry.delay_s(look))
        what = f"look for {registration.name!r}"
        found = await with_retries(retry, what, lambda _: registry.find(registration.name))
        if found is not None and found.is_of(registration):
            return found
    return None
