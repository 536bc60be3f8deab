"""The old commands on existing bundles: upload, download, unbundle and delete."""

from __future__ import annotations

from pathlib import Path

from amistream.bundles.meter import Meter
from amistream.bundles.place import Bundle
from amistream.bundles.remove import Removal
from amistream.bundles.results import Removed
from amistream.cli.output import put_note, put_result
from amistream.cli.question import line_from_stdin
from amistream.compat.access import ami_tools_keys, bucket_address, region_of, settings_of
from amistream.compat.options import Given
from amistream.compat.session import OldSession, directory_of, run_old
from amistream.errors import EXIT_DONE, DifferenceError, UnconfirmedError, UsageError
from amistream.location import parse_s3_location
from amistream.reports import Transferred
from amistream.values import manifest_name


def upload_bundle(given: Given) -> int:
    """`ec2-upload-bundle`: copies parts and manifest into a bucket, which is created if missing."""
    manifest = Path(given["manifest"]).absolute()
    parts = directory_of(given["directory"] or str(manifest.parent))
    region, address = region_of(given["region"]), bucket_address(given["bucket"])
    whole = not given.has("skipmanifest")

    async def work(session: OldSession, meter: Meter) -> tuple[Bundle, Transferred]:
        await session.make_missing(address, region_of(given["location"]) or region)
        return await session.upload_from(manifest, parts, address, meter, region=region, whole=whole)

    settings = settings_of(given, url=given["url"], region=region)
    bundle, done = run_old(settings, ami_tools_keys(given), work, "uploading")
    for part in bundle.manifest.parts:
        # Scripts count these lines, or take their second word: that of a part that was there begins alike.
        put_result(f"Uploaded {part.filename}{' earlier' if part.filename in done.kept_parts else ''}")
    if whole:
        put_result("Uploaded manifest.")
    put_result("Bundle upload completed.")
    return EXIT_DONE


def download_bundle(given: Given) -> int:
    """`ec2-download-bundle`: copies a bundle into an existing directory."""
    directory, region = directory_of(given["directory"]), region_of(given["region"])
    address = f"{bucket_address(given['bucket'])}/{_manifest_name(given)}"
    done = run_old(
        settings_of(given, url=given["url"], region=region),
        ami_tools_keys(given),
        lambda session, meter: session.download(address, directory, meter),
        "downloading",
    )
    put_result(f"Downloaded {done.parts} parts and {done.manifest}")
    return EXIT_DONE


def take_out(given: Given) -> int:
    """`ec2-unbundle`: restores the image of a bundle in a directory, under its own name."""
    manifest, key = Path(given["manifest"]).absolute(), Path(given["privatekey"]).absolute()
    parts, directory = directory_of(given["source"]), directory_of(given["destination"])
    done = run_old(
        settings_of(given),
        None,
        lambda session, meter: session.unbundle_in(manifest, parts, directory, key, meter),
        "unbundling",
    )
    put_result(f"Unbundled {done.destination}")
    return EXIT_DONE


def delete_bundle(given: Given) -> int:
    """`ec2-delete-bundle`: deletes a bundle's own objects, and with --clear the empty bucket."""
    if given.has("manifest") == given.has("prefix"):
        raise UsageError("usage", "cannot choose the bundle to delete: give either --manifest or --prefix")
    copy = Path(given["manifest"]).absolute() if given.has("manifest") else None
    name = copy.name if copy else _manifest_name(given)
    address, region = bucket_address(given["bucket"]), region_of(given["region"])
    folder = parse_s3_location(address).plain()

    async def confirm(plan: Removal) -> None:
        if not given.has("yes"):
            put_result("\n".join(["Deleting files:", *(f"{folder}/{each}" for each in plan.names)]))
            await _ask()

    async def work(session: OldSession, _: Meter) -> tuple[Removed, bool]:
        done = await session.delete_unused(address, name, copy, confirm)
        return done, given.has("clear") and await session.delete_empty(address)

    done, cleared = run_old(settings_of(given, url=given["url"], region=region), ami_tools_keys(given), work)
    for each in done.deleted:
        put_result(f"Deleted {folder}/{each}")
    if given.has("clear"):
        bucket = folder.partition("/")[0]
        put_note(f"note: {'deleted the bucket' if cleared else 'the bucket is not empty:'} {bucket}")
    if done.kept:
        raise DifferenceError(
            "delete.kept",
            f"cannot delete {', '.join(done.kept)}: the objects there do not match the manifest",
            hint="check them, and delete them yourself if they are useless",
        )
    put_result("ec2-delete-bundle complete.")
    return EXIT_DONE


def _manifest_name(given: Given) -> str:
    return Path(given["manifest"]).name or manifest_name(given["prefix"] or "image")


async def _ask() -> None:
    """Ask on stdout and read the answer from stdin, also from a pipe (`echo y |`). Raises `UnconfirmedError`."""
    put_result("Continue? [y/n]")
    if (await line_from_stdin()).strip().lower() not in {"y", "yes"}:
        raise UnconfirmedError("unconfirmed", "cannot delete the bundle: not confirmed", hint="confirm with --yes")
