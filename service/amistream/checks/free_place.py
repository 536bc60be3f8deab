"""A destination must be free for a bundle: no bundle of its prefix, no parts of one, and no host that has claimed it.

Nothing is ever overwritten: that would break the AMI that is registered on an older bundle.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from amistream.checks.destination import Destination
from amistream.errors import BundleExistsError, RefusedError
from amistream.ports.store import Store
from amistream.values import claim_name, manifest_name


async def check_names(address: Destination, region: str, remove: str) -> str:
    """Refuse a destination that is not free for the prefix. `remove` is the command that removes an object there."""
    prefix, store = address.prefix, await address.store(region)
    manifest = manifest_name(prefix)
    if await store.stat(manifest, read=False) is not None:
        raise exists_error(store, prefix)
    names = await store.names(f"{prefix}.")
    if claim_name(prefix) in names:
        raise claimed_error(store, prefix, "a job of many hosts", remove)
    if parts := [name for name in names if name.startswith(f"{prefix}.part.")]:
        raise leftover_error(store, parts, remove)
    return f"{store.location} is free for {manifest} and its parts"


def exists_error(store: Store, prefix: str) -> BundleExistsError:
    """The refusal of a destination with another bundle of the prefix."""
    return BundleExistsError(
        "destination.exists",
        f"cannot bundle to {store.location}: there is a bundle already, {manifest_name(prefix)}",
        hint="choose another --prefix or destination, or delete that bundle with `amistream delete`",
        field="destinations",
    )


def leftover_error(store: Store, parts: Sequence[str], remove: str) -> RefusedError:
    """The refusal of a destination with parts that nobody owns."""
    return RefusedError(
        "destination.leftover",
        f"cannot bundle to {store.location}: {len(parts)} parts of an unfinished bundle exist there",
        hint=f"choose another --prefix; or, if nothing else is writing there, remove them: "
        f"{remove} {shlex.quote(f'{store.location}/{parts[0]}')} and so on",
        field="destinations",
    )


def claimed_error(store: Store, prefix: str, owner: str, remove: str) -> RefusedError:
    """The refusal of a destination that another job has claimed; `owner` names it."""
    claim = f"{store.location}/{claim_name(prefix)}"
    return RefusedError(
        "destination.claimed",
        f"cannot bundle to {store.location}: {owner} has claimed {prefix} there",
        hint="wait for that job, or choose another --prefix or destination; if that job is gone for good: "
        f"{remove} {shlex.quote(claim)}",
        field="destinations",
    )
