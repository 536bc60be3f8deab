"""What a peer that is neither root nor the daemon's own user may ask for: a confined job.

Paths are judged when they are opened (`source.roots`), never by their words. Here is what words tell: where signed
requests would go, and how much of the machine would be taken. Nothing may be asked for beyond what the settings give.
"""

from __future__ import annotations

import os

from amistream.aws.regions import partition_of
from amistream.errors import AccessDeniedError
from amistream.request import JobRequest
from amistream.roots import Roots
from amistream.settings import Settings, memory_ceiling
from amistream.values import MIB

MEMORY = 512 * MIB
"""What a confined job may need where no `memory_limit` is set. Guess: two and a half times the defaults."""

_FALLBACK_REGION = "us-east-1"


def check_request(request: JobRequest, settings: Settings) -> None:
    """Raise `AccessDeniedError`, or `RefusedError` without any roots, unless a confined job may ask for this."""
    Roots(settings.source_roots).require("source")
    _check_endpoint(request, settings)
    _check_memory(request, settings)
    if settings.limit_upload and request.limit_upload and request.limit_upload > settings.limit_upload:
        raise _too_much("limit_upload", f"send more than {settings.limit_upload} bytes per second")
    if request.nice is not None and request.nice < settings.nice:
        raise _too_much("nice", f"run at a nice value below {settings.nice}")


def _check_endpoint(request: JobRequest, settings: Settings) -> None:
    """Requests carry signatures and session tokens: they go where the administrator says."""
    given = (request.endpoint_url or "").rstrip("/")
    if given and given != settings.endpoint_url.rstrip("/"):
        raise AccessDeniedError(
            "access.endpoint",
            f"cannot send requests to {given}: they are signed with the daemon's credentials, and only root and the "
            "daemon's own user may say where those go",
            hint="leave --endpoint-url out; the administrator sets endpoint_url",
            field="endpoint_url",
        )
    home = settings.region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or _FALLBACK_REGION
    if not request.region or (settings.endpoint_url and request.region == home):
        return
    # Known ones only: the clients that are made for a region are kept as long as the daemon lives.
    partition = partition_of(request.region)
    if not partition or (partition != partition_of(home) and not settings.endpoint_url):
        why = f"it is in another partition of AWS than the daemon's region, {home}" if partition else "it is not known"
        raise AccessDeniedError(
            "access.region",
            f"cannot send requests to {request.region}: {why}, and only root and the daemon's own user may use that",
            hint="leave --region out; the administrator sets region",
            field="region",
        )


def _check_memory(request: JobRequest, settings: Settings) -> None:
    block_size = int(settings.block_size)
    usual = memory_ceiling(
        workers=settings.worker_count(),
        block_size=block_size,
        part_size=int(settings.part_size),
        upload_concurrency=settings.upload_concurrency,
    )
    asked = memory_ceiling(
        workers=request.workers or settings.worker_count(),
        block_size=block_size,
        part_size=int(request.part_size or settings.part_size),
        upload_concurrency=request.upload_concurrency or settings.upload_concurrency,
    )
    allowed = int(settings.memory_limit or max(MEMORY, usual))
    # What is asked for is cut to the limit where there is one.
    wanted = int(request.memory_limit or settings.memory_limit or asked)
    if wanted > allowed:
        raise _too_much("memory_limit", f"take {wanted // MIB} MiB of memory: it may take {allowed // MIB} MiB")


def _too_much(setting: str, what: str) -> AccessDeniedError:
    return AccessDeniedError(
        "access.too_much",
        f"cannot let the job {what}",
        hint=f"ask for less; for others than root and the daemon's own user the setting {setting} is the most",
        field=setting,
    )
