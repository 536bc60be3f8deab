"""Begins a migration, or goes on with one: the checks before the first part, and the decisions that every run keeps to.

Later runs put the manifest of the first one. If all of its parts are there the source is not even looked at.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack

from amistream.bundles.migrate import (
    MigrationOptions,
    check_migration_signature,
    find_migration_keys,
    migration_options,
    new_manifest,
)
from amistream.bundles.place import Bundle, check_bucket, open_bucket
from amistream.bundles.register import check_registration
from amistream.bundles.survey import check_parts
from amistream.errors import RefusedError
from amistream.jobs.migration_context import Copy
from amistream.jobs.migration_records import Migrating, MigrationRecord
from amistream.jobs.own_copy import OwnCopy
from amistream.location import parse_manifest_address
from amistream.ports.registry import Registration
from amistream.ports.store import Stored


async def begin(own: OwnCopy, source: Bundle) -> Mapping[str, Stored]:
    """Check all that can be known before the first part, and enter what every run keeps to.

    Returns the parts that are there already.
    """
    context, note = own.context, own.job.note
    settings, aws, region = context.settings, context.aws, context.request.region
    keys = await asyncio.to_thread(find_migration_keys, context.options, settings, context.roots)
    if keys.notice:
        note(keys.notice)
    bucket = await open_bucket(context.location, settings, aws, region=region)
    await check_bucket(bucket, settings, aws, note, region=region)
    check_migration_signature(source, keys.identity, note)
    options = migration_options(source, bucket, keys, context.options, settings)
    parts = await check_parts(source)
    raw = await own.take_claim(bucket.region, source.manifest_name)
    if raw is None:
        raw = await asyncio.to_thread(new_manifest, source.manifest, options)
    record = MigrationRecord(
        migrating=Migrating(
            sizes=tuple(part.size for part in parts),
            region=bucket.region,
            endpoint_url=settings.endpoint_url,
            acl=settings.acl,
            multipart_threshold=int(settings.multipart_threshold),
            registration=None,
        ),
        manifest=raw,
    )
    copy = await context.copy(record)
    _check_same(source, copy)
    there = await own.look(copy, record)
    record.settle_registration(await _check_registration(own, copy, options))
    await own.enter(record)
    return there


async def go_on(own: OwnCopy) -> Mapping[str, Stored]:
    """Continue what earlier runs have begun. Returns the parts that are there already."""
    record = own.known
    _, name = parse_manifest_address(own.context.request.manifest)
    if earlier := await own.take_claim(record.migrating.region, name):
        await own.enter_manifest(earlier)
    return await own.look(await own.context.copy(record), record)


async def find_same_source(own: OwnCopy, stack: AsyncExitStack) -> Bundle:
    """The source again, whose place `stack` closes. Raises `RefusedError` if it is another bundle by now."""
    source = await own.context.find_source(stack)
    _check_same(source, own.copy)
    await check_parts(source)
    return source


async def _check_registration(own: OwnCopy, copy: Copy, options: MigrationOptions) -> Registration | None:
    """The registration as EC2 permits it; None if none is wanted."""
    if options.registration is None:
        return None
    intent = await check_registration(
        copy.bundle,
        options.registration,
        own.context.settings,
        await own.context.ec2(copy.target.region),
        own.job.note,
        mark=own.job.name or own.job.id,
    )
    own.look_first = bool(intent.image_id)
    return intent.registration


def _check_same(source: Bundle, copy: Copy) -> None:
    """Raise `RefusedError` if the source is another bundle than the one that an earlier run began to copy."""
    wanted = copy.bundle.manifest
    if (source.manifest.parts, source.manifest.digest) != (wanted.parts, wanted.digest):
        raise RefusedError(
            "resume.changed",
            f"cannot go on: {source.address} is another bundle than when this job began",
            hint="cancel the job, which removes what it copied, and migrate the bundle again",
            field="manifest",
        )
