"""Limits of a confined job: one that neither root nor the daemon's own user submitted.

Paths are checked when they are opened (`roots`), not here. Checked here are the endpoint of signed requests and the
use of the machine: a request may stay within the settings, never go beyond them.
"""

from __future__ import annotations

import os

from amistream.aws.regions import partition_of
from amistream.bundles.recognise import is_named_as_manifest
from amistream.checks.tree_wishes import refuse_member_wishes
from amistream.errors import AccessDeniedError
from amistream.location import SCHEME
from amistream.request import CheckRequest, Reach, VolumeRequest
from amistream.request.convert import ConvertCheckRequest
from amistream.request.migrate import MigrateRequest
from amistream.request.verify import VerifyRequest
from amistream.roots import Roots
from amistream.settings import Settings, conversion_ceiling, memory_ceiling
from amistream.values import MIB

MEMORY = 512 * MIB
"""Limit of a confined job if no `memory_limit` is set. Guess: two and a half times the need of the defaults."""

_FALLBACK_REGION = "us-east-1"


def check_request(
    request: VolumeRequest | VerifyRequest | MigrateRequest, settings: Settings, *, needs_roots: bool = True
) -> None:
    """Raise `AccessDeniedError` for a request beyond the limits, `RefusedError` if there are no roots.

    Without `needs_roots` only a request that names a file is refused for that, once the file is opened.
    """
    if isinstance(request, VerifyRequest | MigrateRequest):
        if needs_roots:
            Roots(settings.source_roots).require("manifest")
        _check_bundle_request(request, settings)
        return
    if needs_roots:
        Roots(settings.source_roots).require("source")
    if request.freeze:
        raise AccessDeniedError(
            "access.freeze",
            "cannot freeze file systems for the job: their writers would wait, and only root and the daemon's own user "
            "may ask for that",
            hint="omit --freeze; bundle a snapshot, or a volume that is not mounted",
            field="freeze",
        )
    refuse_member_wishes(request)
    if isinstance(request, ConvertCheckRequest):
        _check_key(request.source or "", request.private_key)
    _check_endpoint(request, settings)
    _check_memory(request, settings)
    if settings.limit_upload and request.limit_upload and request.limit_upload > settings.limit_upload:
        raise _too_much("limit_upload", f"send more than {settings.limit_upload} bytes per second")
    if request.nice is not None and request.nice < settings.nice:
        raise _too_much("nice", f"run at a nice value below {settings.nice}")


def _check_bundle_request(request: VerifyRequest | MigrateRequest, settings: Settings) -> None:
    _check_endpoint(request, settings)
    if isinstance(request, MigrateRequest):
        _check_source(request, settings)
    if isinstance(request, MigrateRequest) or request.deep:
        _check_key(request.manifest, request.private_key)


def _check_source(request: MigrateRequest, settings: Settings) -> None:
    """Requests to the source are signed, too."""
    if request.source_profile is not None:
        raise AccessDeniedError(
            "access.profile",
            f"cannot read the source with the profile {request.source_profile}: its credentials are the daemon's, and "
            "only root and the daemon's own user may choose others than the daemon uses by itself",
            hint="omit --source-profile",
            field="source_profile",
        )
    given = (request.source_endpoint_url or "").rstrip("/")
    if given and given != settings.endpoint_url.rstrip("/"):
        raise _other_endpoint(given, "source_endpoint_url")


def _other_endpoint(given: str, field: str) -> AccessDeniedError:
    return AccessDeniedError(
        "access.endpoint",
        f"cannot send requests to {given}: they are signed with the daemon's credentials, and only root and the "
        "daemon's own user may choose another endpoint",
        hint=f"omit --{field.replace('_', '-')}; the administrator sets endpoint_url",
        field=field,
    )


def _check_key(address: str, private_key: str | None) -> None:
    """A member opens a bundle with a key of his own: the daemon's opens those of root and of other members, too."""
    if address.startswith(SCHEME) and private_key is None:
        raise AccessDeniedError(
            "access.private_key",
            f"cannot open {address} with the daemon's private key: only root and the daemon's own user may use "
            "it to read bundles",
            hint="give --private-key FILE, the key of the bundle's owner, within source_roots",
            field="private_key",
        )


def _check_endpoint(request: Reach, settings: Settings) -> None:
    """Signed requests carry session tokens: only the administrator chooses their endpoint."""
    given = (request.endpoint_url or "").rstrip("/")
    if given and given != settings.endpoint_url.rstrip("/"):
        raise _other_endpoint(given, "endpoint_url")
    home = settings.region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or _FALLBACK_REGION
    if not request.region or (settings.endpoint_url and request.region == home):
        return
    # Known regions only: the SDK clients of a region are kept until the daemon ends.
    partition = partition_of(request.region)
    if not partition or (partition != partition_of(home) and not settings.endpoint_url):
        why = f"it is in another AWS partition than the daemon's region, {home}" if partition else "it is unknown"
        raise AccessDeniedError(
            "access.region",
            f"cannot send requests to {request.region}: {why}, and only root and the daemon's own user may use that",
            hint="omit --region; the administrator sets region",
            field="region",
        )


def _check_memory(request: VolumeRequest, settings: Settings) -> None:
    usual = memory_ceiling(
        workers=settings.worker_count(),
        block_size=int(settings.block_size),
        part_size=int(settings.part_size),
        upload_concurrency=settings.upload_concurrency,
    )
    asked = _memory_of(request, settings)
    allowed = int(settings.memory_limit or max(MEMORY, usual))
    # A job without its own limit is scaled down to the limit of the settings.
    wanted = int(request.memory_limit or settings.memory_limit or asked)
    if wanted > allowed:
        raise _too_much("memory_limit", f"use {wanted // MIB} MiB of memory: it may use {allowed // MIB} MiB")


def _memory_of(request: VolumeRequest, settings: Settings) -> int:
    """Bytes that the job may use without a limit."""
    workers = request.workers or settings.worker_count()
    if isinstance(request, ConvertCheckRequest):
        unpacks = is_named_as_manifest(request.source or "")
        return conversion_ceiling(workers=workers, puts=request.puts or settings.puts, unpacks=unpacks)
    bundle = request if isinstance(request, CheckRequest) else None
    return memory_ceiling(
        workers=workers,
        block_size=int(settings.block_size),
        part_size=int((bundle and bundle.part_size) or settings.part_size),
        upload_concurrency=(bundle and bundle.upload_concurrency) or settings.upload_concurrency,
    )


def _too_much(setting: str, action: str) -> AccessDeniedError:
    return AccessDeniedError(
        "access.too_much",
        f"cannot let the job {action}",
        hint=f"ask for less: except for root and the daemon's own user, the setting {setting} is the limit",
        field=setting,
    )
