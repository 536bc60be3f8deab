"""The claim of a named migration at its target, and what earlier attempts of the job have left there.

Parts have the same bytes whichever attempt copies them, so those of an earlier attempt are taken over, and become this
run's own. So does its manifest: this run puts no other one, and finishes what is missing. A job without a name has no
claim, and nothing here asks.
"""

from __future__ import annotations

from collections.abc import Container

import structlog

from amistream.bundles.manifest import LARGEST
from amistream.errors import BundleExistsError, FencedError, StoreError, TakenError
from amistream.jobs.claim import Claim
from amistream.jobs.job import Job
from amistream.ports.store import Store, Stored

log = structlog.get_logger()


class MigrationClaim:
    """`prefix` is the begin of the names of the objects that are made in the store."""

    def __init__(self, job: Job, store: Store, prefix: str) -> None:
        self._job = job
        self._store = store
        self._claim = Claim(store, prefix, job) if job.name else None

    async def take(self) -> None:
        """Claim the target, before anything is looked at. Raises `RefusedError`, `FencedError` or `StoreError`."""
        if self._claim is not None:
            await self._claim.take()

    async def sweep(self, begin: str, names: Container[str]) -> None:
        """Remove the unfinished uploads of earlier attempts under these names, which begin with `begin`."""
        if self._claim is not None and self._claim.took_over:
            await self._store.abandon(begin, lambda name: name in names)

    async def check(self) -> None:
        """Return if lease and claim are still this run's. Called before each commit point. Raises `FencedError`."""
        if self._claim is not None:
            await self._claim.check()
        else:
            await self._job.confirm()

    async def is_ours(self) -> bool:
        """The target is this run's, or that of an earlier process: what the job stored there may be removed."""
        return self._claim is None or await self._claim.is_ours()

    async def check_removal(self) -> None:
        """Raise `FencedError` if another host may have the target. Called before each deletion.

        A later attempt takes over the parts and the manifest of this one as they are: by their bytes and marks nobody
        can see whose they are by now.
        """
        if self._claim is not None:
            await self._claim.check_removal()

    async def release(self) -> None:
        """Give up the claim, if it is this run's."""
        if self._claim is not None:
            await self._claim.release()

    async def release_done(self, manifest_name: str) -> None:
        """Give up the claim of a bundle that is there: what fails is a notice."""
        try:
            if self._claim is not None:
                await self._claim.sweep_uploads()
            await self.release()
        except StoreError as error:
            self._job.note(f"the claim beside {manifest_name} stays: {error.message}")

    def is_own(self, stored: Stored) -> bool:
        """The object was stored by this job, in whichever attempt."""
        return self._claim is not None and stored.mark is not None and stored.mark.job == self._job.name

    async def earlier_manifest(self, name: str) -> bytes | None:
        """The manifest that another attempt of the job has put."""
        found = await self._store.stat(name, read=False) if self._claim is not None else None
        if found is None or not self._is_of_another_run(found) or found.size > LARGEST:
            return None
        if self._claim is not None:
            self._claim.check_request(found, name)
        log.info("manifest.earlier", name=name)
        return await self._store.read(name, 0, found.size)

    async def cause(
        self, error: BundleExistsError | TakenError, name: str
    ) -> BundleExistsError | TakenError | FencedError:
        """The cause of another manifest in the way: an earlier attempt may have put its own just now."""
        found = await self._store.stat(name, read=False) if self._claim is not None else None
        if self._claim is not None and found is not None and self._is_of_another_run(found):
            return self._claim.fenced("an earlier attempt has put its manifest since this one began")
        return error

    def _is_of_another_run(self, stored: Stored) -> bool:
        return self._claim is not None and self._claim.is_of_another_run(stored)
