"""A named job's claim on one prefix at a destination: of the hosts that believe that the job is theirs, one has it.

The claim is an object beside the bundle (`values.claim_name`). It is put before the first part, on the condition that
there is none, and read again before the manifest is put. A later attempt of the same job replaces it, on the condition
that it is the one that was read, and removes what earlier attempts stored. An earlier attempt that wakes up then finds
that the claim is not its own any more, and changes nothing.

    the claim is      this attempt's run    another run, not later   another run, later   another job's
    take()            renews it             takes it over            FencedError          RefusedError
                                            (RefusedError, too, if it is of another request)
    check()           ok                    FencedError              FencedError          FencedError
    release()         removes it            leaves it                leaves it            leaves it

Without a claim `take` puts one, `check` raises `FencedError`, and `release` does nothing. A run by hand, without a
lease, takes nothing over: it does not know which attempt is the later one.
"""

from __future__ import annotations

import asyncio
import secrets

import structlog

from amistream.bundles.claim_text import ClaimText, parse_claim
from amistream.checks.free_place import claimed_error
from amistream.errors import FencedError, RivalError
from amistream.flow.gather import gather_limited
from amistream.jobs.job import Job
from amistream.jobs.lease import rank_of
from amistream.jobs.same_request import check_same_request
from amistream.ports.store import Store, Stored, StoredClaim
from amistream.request import digest_of
from amistream.values import claim_name, is_part_of, manifest_name

log = structlog.get_logger()

_MOST_RIVALS = 5
"""Rivals that one `take` meets at most: each is a host that has just received the job. Guess."""


class Claim:
    """One job's claim at one store. `remove` is the command that removes an object there, for hints."""

    def __init__(self, store: Store, prefix: str, job: Job, *, remove: str = "aws s3 rm") -> None:
        self.store = store
        self.prefix = prefix
        self.took_over = False
        """`take` found the claim of another run of the job: what that stored may be there."""
        self._job = job
        self._name = claim_name(prefix)
        self._remove = remove
        self._held: StoredClaim | None = None

    async def owner(self) -> ClaimText | None:
        """The present owner; None without a claim. Raises `RefusedError` for an object that is no claim."""
        found = await self._read()
        return found[1] if found is not None else None

    async def take(self) -> None:
        """Put the claim, renew it, or take it over. Raises as the table says."""
        for _ in range(_MOST_RIVALS):
            found = await self._read()
            there, owner = found if found is not None else (None, None)
            if owner is not None:
                self._check_may_take(owner)
            await self._job.confirm()
            try:
                self._held = await self.store.put_claim(self._name, self._text(), instead_of=there)
            except RivalError as error:
                log.info("claim.rival", reason=error.message)
                continue
            self.took_over = owner is not None and owner.run != self._job.id
            return
        raise self.fenced("other hosts claim it again and again")

    @property
    def is_held(self) -> bool:
        """This run has taken the claim, and not released it."""
        return self._held is not None

    async def is_lost(self) -> bool:
        """The claim that this run has taken is there no more, or is another one."""
        return await self.store.read_claim(self._name) != self._held

    async def check(self) -> None:
        """Return if lease and claim are still this run's: the next request may be a commit. Raises `FencedError`."""
        await self._job.confirm()
        now = await self.store.read_claim(self._name)
        if now is None:
            raise self.fenced("its claim is gone")
        if now != self._held:
            raise self.fenced("another host has claimed it since")

    async def is_of_the_job(self) -> bool:
        """In a store without marks: a claim of the job was there before this run, so what is there is the job's."""
        if self._held is not None:
            return self.took_over
        owner = await self.owner()
        return owner is not None and owner.job == self._job.name

    async def is_ours(self) -> bool:
        """The claim is one of this job's run, also of an earlier process."""
        found = await self.store.read_claim(self._name)
        owner = parse_claim(found.text) if found is not None else None
        return owner is not None and (owner.job, owner.run) == (self._job.name, self._job.id)

    async def check_removal(self) -> None:
        """Return if lease and claim are still this job's on this host: the next request may delete. Raises as `check`.

        The queue is not asked: a removal by hand has no lease, and goes by the claim alone.
        """
        self._job.check_lease()
        if not await self.is_ours():
            raise self.fenced("another host has claimed it since")

    async def release(self, *, whole_job: bool = False) -> None:
        """Remove the claim if it is this run's; with `whole_job`, if it is any run's of the job, which is done."""
        found = await self.store.read_claim(self._name)
        owner = parse_claim(found.text) if found is not None else None
        if found is None or owner is None or owner.job != self._job.name:
            return
        if whole_job or owner.run == self._job.id:
            await self.store.remove_claim(found)
        self._held = None

    async def sweep(self) -> list[str]:
        """Remove what other runs of the job stored; returns the names of the parts that are left.

        Call it while the claim is held.
        """
        if self.took_over:
            await self.store.abandon(self.prefix, self._belongs)
        names = await self._part_names()
        are_left = await gather_limited(self._spare, names)
        return [name for name, is_left in zip(names, are_left, strict=True) if is_left]

    async def sweep_uploads(self) -> None:
        """Abandon uploads that an earlier attempt has begun since `sweep`, before it knew that the claim was lost.

        Call it while the claim is held, and when no upload of this run is under way.
        """
        if self.took_over and await self.is_ours():
            await self.store.abandon(self.prefix, self._belongs)

    async def has_strays(self) -> bool:
        """An earlier attempt has stored something since this one swept."""
        names = [*await self._part_names(), manifest_name(self.prefix)]
        return self.store.keeps_marks and any(await gather_limited(self._is_stray, names))

    def check_request(self, stored: Stored, name: str) -> None:
        """Raise `RefusedError` for an object that another request under the job's name has stored."""
        if stored.mark is not None and stored.mark.job == self._job.name:
            there = f"{self.store.location}/{name}"
            check_same_request(self._job.name, self._job.request, stored.mark.request, there)

    def is_of_another_run(self, stored: Stored) -> bool:
        """The object was stored by another run of this job."""
        return stored.mark is not None and stored.mark.job == self._job.name and stored.mark.run != self._job.id

    async def _part_names(self) -> list[str]:
        return [name for name in await self.store.names(f"{self.prefix}.part.") if is_part_of(self.prefix, name)]

    async def _spare(self, name: str) -> bool:
        """Remove a stray; returns whether it was none. It is looked at right before it goes: it may be another one."""
        if not await self._is_stray(name):
            return True
        await self.store.delete(name)
        return False

    async def _is_stray(self, name: str) -> bool:
        # A store without marks has parts of one owner at a time: of whoever had the claim.
        if not self.store.keeps_marks:
            return self.took_over
        stored = await self.store.stat(name, read=False)
        return stored is not None and self.is_of_another_run(stored)

    def _belongs(self, name: str) -> bool:
        return is_part_of(self.prefix, name) or name == manifest_name(self.prefix)

    async def _read(self) -> tuple[StoredClaim, ClaimText] | None:
        found = await self.store.read_claim(self._name)
        if found is None:
            return None
        owner = await asyncio.to_thread(parse_claim, found.text)
        if owner is None:
            raise claimed_error(self.store, self.prefix, "something that amistream cannot read", self._remove)
        return found, owner

    def _check_may_take(self, owner: ClaimText) -> None:
        job, lease = self._job, self._job.lease
        if (owner.job, owner.run) == (job.name, job.id):
            return
        if owner.job != job.name:
            other = f"the job {owner.job!r} on {owner.holder}"
            raise claimed_error(self.store, self.prefix, other, self._remove)
        check_same_request(job.name, job.request, owner.request, f"the claim of {self.prefix} in {self.store.location}")
        if lease is None:
            raise claimed_error(self.store, self.prefix, f"this job, on {owner.holder},", self._remove)
        if owner.rank > rank_of(lease):
            raise self.fenced(f"{owner.holder} has it, which received it later")

    def _text(self) -> bytes:
        lease = self._job.lease
        text = ClaimText(
            job=self._job.name,
            run=self._job.id,
            request=digest_of(self._job.request),
            holder=lease.holder if lease is not None else "this host",
            attempt=lease.attempt if lease is not None else 0,
            sent_at=lease.sent_at if lease is not None else 0.0,
            nonce=secrets.token_hex(8),
        )
        return text.model_dump_json().encode()

    def fenced(self, why: str) -> FencedError:
        """The error of a run that must not go on here."""
        return FencedError(
            "lease.lost",
            f"cannot go on with the job {self._job.name!r} in {self.store.location}: {why}",
            hint="nothing more is stored or removed here; the queue gives the job to whoever has it",
        )
