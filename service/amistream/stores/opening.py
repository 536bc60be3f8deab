"""Makes the store at a location: the one place where settings become a store."""

from __future__ import annotations

from amistream.aws.session import Aws
from amistream.flow.rate_limit import RateLimit
from amistream.flow.retry import RetryPolicy, retry_policy
from amistream.location import DirectoryLocation, Location, S3Location
from amistream.ports.store import Mark, ObjectStore, Store
from amistream.ports.unanswered import Unanswered
from amistream.roots import Roots
from amistream.settings import Acl, Settings
from amistream.stores.directory import DirectoryStore


async def make_store(
    location: Location,
    settings: Settings,
    aws: Aws,
    *,
    token: str,
    region: str,
    endpoint_url: str,
    acl: Acl | None = None,
    limit_upload: int | None = None,
    roots: Roots | None = None,
    unanswered: Unanswered | None = None,
    mark: Mark | None = None,
    retry: RetryPolicy | None = None,
) -> Store:
    """Make the store, without opening it.

    A directory must lie within the `roots`; `token` marks one job's temporary files. For a bucket see
    `make_object_store`.
    """
    match location:
        case DirectoryLocation(path):
            return DirectoryStore(path, token=token, roots=roots)
        case S3Location():
            return await make_object_store(
                location,
                settings,
                aws,
                region=region,
                endpoint_url=endpoint_url,
                acl=acl,
                limit_upload=limit_upload,
                unanswered=unanswered,
                mark=mark,
                retry=retry,
            )


async def make_object_store(
    location: S3Location,
    settings: Settings,
    aws: Aws,
    *,
    region: str,
    endpoint_url: str,
    acl: Acl | None = None,
    limit_upload: int | None = None,
    unanswered: Unanswered | None = None,
    mark: Mark | None = None,
    retry: RetryPolicy | None = None,
) -> ObjectStore:
    """Make the store of a bucket in `region`. `limit_upload` is in bytes per second; `acl` defaults to the setting.

    `unanswered` has the requests of earlier stores at this place; `mark` is that of a named job, and `retry` that of a
    job that has one of its own.
    """
    # As the SDK, for the first bucket only.
    from amistream.stores.s3.multipart import Multipart  # noqa: PLC0415
    from amistream.stores.s3.store import S3Store  # noqa: PLC0415

    return S3Store(
        await aws.client("s3", region, endpoint_url),
        location,
        acl=acl or settings.acl,
        retry=retry or retry_policy(settings),
        multipart=Multipart(
            threshold=int(settings.multipart_threshold),
            chunk=int(settings.multipart_chunk),
            concurrency=settings.multipart_concurrency,
        ),
        limit=RateLimit(limit_upload) if limit_upload else None,
        unanswered=unanswered,
        mark=mark,
    )
