"""Finds what killed processes and unanswered requests have left in a bucket: objects of probes, uploads, claims."""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Container, Iterable, Sequence
from datetime import UTC, datetime

from amistream.bundles.claim_text import LONGEST_RUN, is_over
from amistream.bundles.meter import Note
from amistream.bundles.place import BucketPlace
from amistream.bundles.recognise import MANIFEST_END
from amistream.bundles.results import Leftover
from amistream.errors import DeniedError, NoObjectError, StoreError
from amistream.flow.gather import gather_limited
from amistream.ports.store import Listed, ListedUpload
from amistream.values import CLAIM_END, PART_NAME, probe_of

_READS = 8
"""Claims read at a time. Guess."""


def begin_of_probe(name: str) -> str:
    """The begin of all names of the probe that put this object, its folder included; '' for any other object."""
    folder, slash, last = name.rpartition("/")
    found = probe_of(last)
    return f"{folder}{slash}{found}" if found else ""


def probe_leftovers(place: BucketPlace, probes: Iterable[Listed]) -> list[Leftover]:
    """The objects of probes, those of each one together."""
    groups: dict[str, list[Listed]] = defaultdict(list)
    for listed in probes:
        groups[begin_of_probe(listed.name)].append(listed)
    return [_of_probe(place, begin, members) for begin, members in sorted(groups.items())]


def _of_probe(place: BucketPlace, begin: str, members: Sequence[Listed]) -> Leftover:
    folder, _, last = begin.rpartition("/")
    if members[0].name == begin:
        objects, remove = _url(place, begin), _remove(_url(place, begin))
    else:
        objects = f"{_url(place, begin)}*"
        where = shlex.quote(f"{_url(place, folder)}/" if folder else f"{place.location}/")
        remove = f"aws s3 rm {where} --recursive --exclude '*' --include {shlex.quote(f'{last}*')}"
    return Leftover(
        kind="probe",
        objects=objects,
        count=len(members),
        stored=sum(member.size for member in members),
        newest_at=max(member.modified for member in members),
        remove=remove,
    )


async def unfinished_uploads(place: BucketPlace, note: Note) -> list[Leftover]:
    """The unfinished uploads of parts and probes: each is billed, and no listing of objects shows it."""
    try:
        return [_of_upload(place, upload) async for upload in place.store.uploads("") if _is_ours(upload.name)]
    except StoreError as error:
        note(f"unfinished uploads are not shown: {error.message}")
        return []


def _is_ours(name: str) -> bool:
    return PART_NAME.fullmatch(name) is not None or begin_of_probe(name) != ""


def _of_upload(place: BucketPlace, upload: ListedUpload) -> Leftover:
    key = shlex.quote(place.location.key(upload.name))
    return Leftover(
        kind="upload",
        objects=_url(place, upload.name),
        count=1,
        stored=None,
        newest_at=upload.begun_at,
        remove=f"aws s3api abort-multipart-upload --bucket {place.location.bucket} --key {key} "
        f"--upload-id {shlex.quote(upload.upload_id)}",
    )


async def stray_claims(place: BucketPlace, claims: Iterable[Listed], whole: Container[str]) -> list[Leftover]:
    """The claims of jobs that are over. `whole` has the names of the manifests of whole bundles."""
    now = datetime.now(UTC)

    async def check(listed: Listed) -> Leftover | None:
        try:
            claim = await place.store.read_claim(listed.name)
        except (DeniedError, NoObjectError):
            return None
        manifest = listed.name.removesuffix(CLAIM_END) + MANIFEST_END
        if claim is None or not is_over(claim, now, has_bundle=manifest in whole):
            return None
        return Leftover(
            kind="claim",
            objects=_url(place, listed.name),
            count=1,
            stored=listed.size,
            newest_at=listed.modified,
            remove=_remove(_url(place, listed.name)),
        )

    old = [listed for listed in claims if now - listed.modified > LONGEST_RUN]
    return [found for found in await gather_limited(check, old, _READS) if found is not None]


def _url(place: BucketPlace, name: str) -> str:
    return f"{place.store.location}/{name}"


def _remove(url: str) -> str:
    return f"aws s3 rm {shlex.quote(url)}"
