"""Finds out from ACLs if EC2 may read a bundle's objects, where the place reports ACLs.

AWS shows the canned ACL aws-exec-read as a grant to its account `za-team`; compatible endpoints mostly do not show it.
So a missing grant counts only on AWS itself, or if the manifest's own ACL has one. In the other partitions of AWS that
account has another id: there every reader but the owner counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from amistream.aws.regions import on_aws, partition_of
from amistream.aws.session import Aws
from amistream.aws.translate import asking
from amistream.bundles.place import BucketPlace, Bundle
from amistream.errors import DeniedError, NotSupportedError
from amistream.flow.gather import gather_limited
from amistream.flow.retry import Alive, retry_policy, with_retries
from amistream.reports import Access, Difference
from amistream.settings import Settings

EC2_READER = "6aa5a366c34c1cbe25dc49211496e913e0351eb0e8c37aa3477e40942ec6b97c"
"""Canonical user id of `za-team`, the reader in aws-exec-read; some places no longer show its name."""
_EVERYBODY = tuple(f"http://acs.amazonaws.com/groups/global/{name}" for name in ("AllUsers", "AuthenticatedUsers"))


async def check_acls(
    bundle: Bundle, names: Iterable[str], settings: Settings, aws: Aws
) -> tuple[Access, list[Difference]]:
    """Read the manifest's ACL and, if it is known, those of `names`. Raises `StoreError`."""
    place = bundle.place
    if not isinstance(place, BucketPlace):
        return Access.NONE, []
    client = await aws.client("s3", place.region, settings.endpoint_url.rstrip("/"))

    elsewhere = partition_of(place.region) != "aws" and on_aws(client.meta.endpoint_url)

    async def look(name: str) -> Access:
        bucket, key = place.location.bucket, place.location.key(name)
        what = f"see the ACL of {place.store.location}/{name}"

        async def ask(_: Alive) -> Any:
            async with asking(what, bucket=bucket):
                return await client.get_object_acl(Bucket=bucket, Key=key)

        reply = await with_retries(retry_policy(settings), what, ask)
        grants, owner = reply.get("Grants"), reply.get("Owner", {}).get("ID", "")
        return Access.NOT_TOLD if grants is None else who_can_read(grants, owner if elsewhere else "")

    try:
        first = await look(bundle.manifest_name)
        if first is Access.NOT_TOLD or (first is Access.PRIVATE and not on_aws(client.meta.endpoint_url)):
            return Access.NOT_TOLD, []
        rest = list(names)
        found = await gather_limited(look, rest)
    except (DeniedError, NotSupportedError):
        return Access.NOT_ALLOWED, []
    by_name = {bundle.manifest_name: first, **dict(zip(rest, found, strict=True))}
    private = [name for name, access in by_name.items() if access is Access.PRIVATE]
    differences = [
        Difference(
            what="access.private",
            part=name,
            expected=Access.GRANTED,
            found=Access.PRIVATE,
            message=f"{name}: its ACL lets nobody but the owner read it, so EC2 cannot",
        )
        for name in private
    ]
    return (Access.PRIVATE if private else first), differences


def who_can_read(grants: Iterable[Mapping[str, Any]], owner: str = "") -> Access:
    """Classify the readers of an object by its grants; with its `owner`, any other reader counts as EC2."""
    readers = [grant.get("Grantee", {}) for grant in grants if grant.get("Permission") in {"READ", "FULL_CONTROL"}]
    if any(reader.get("URI") in _EVERYBODY for reader in readers):
        return Access.PUBLIC
    if any(reader.get("ID") == EC2_READER or reader.get("DisplayName") == "za-team" for reader in readers):
        return Access.GRANTED
    if owner and any(reader.get("ID", owner) != owner for reader in readers):
        return Access.GRANTED
    return Access.PRIVATE
