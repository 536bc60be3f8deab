"""The old commands that bundle images: `ec2-bundle-image` in a directory, `euca-bundle-and-upload-image` in a bucket.

Both are ordinary jobs of this process. A mounted device is accepted with a notice, because the old tools accept it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from amistream.cli.in_process import follow_in_process
from amistream.cli.output import put_note, put_result
from amistream.compat.access import bucket_address, endpoint, euca2ools_keys, region_of, settings_of
from amistream.compat.options import Given
from amistream.compat.session import ANY_REGION, run_old
from amistream.errors import EXIT_DONE, EXIT_INTERRUPTED, JobError, RefusedError, UsageError
from amistream.events import BundleResult, JobView, State
from amistream.jobs.job import Job
from amistream.jobs.queue import JobQueue
from amistream.location import SCHEME, parse_s3_location
from amistream.request import BundleRequest, parse_bundle_request
from amistream.settings import Settings, load
from amistream.values import STANDARD_INPUT, AccessKeys, as_prefix, part_name

_FIELDS = {
    "account": "user",
    "architecture": "arch",
    "prefix": "prefix",
    "kernel": "kernel",
    "ramdisk": "ramdisk",
    "upload_concurrency": "max-pending-parts",
}
"""Fields of a request, and the options with the same values."""
OLD_DIRECTORY = "/tmp"  # noqa: S108 - the old tools write there
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_FILES = {"certificate": "cert", "private_key": "privatekey", "ec2_certificate": "ec2cert"}


def bundle_image(given: Given) -> int:
    """`ec2-bundle-image`: a bundle in a directory."""
    settings = load(None)
    if not given.has("arch"):
        put_note(f"note: the architecture is {settings.architecture}; give another with --arch")
    return bundle_into_directory("ec2-bundle-image", given, settings, _values_of_image(given))


def bundle_into_directory(name: str, given: Given, settings: Settings, values: dict[str, Any]) -> int:
    """Run the job of `values` for the command `name`, into the directory of --destination, and print its files."""
    elsewhere = settings.endpoint_url or os.environ.get("AWS_ENDPOINT_URL")
    if not elsewhere and not re.fullmatch("[0-9]{12}", given["user"].replace("-", "")):
        raise UsageError(
            "usage",
            "cannot use --user: an AWS account id has 12 digits, with or without dashes",
            hint="that of another cloud may be any, with AMISTREAM_ENDPOINT_URL set to the cloud's S3",
        )
    values["destinations"] = [str(Path(given["destination"] or OLD_DIRECTORY).absolute())]
    if not given.has("ec2cert"):
        asked = settings.region or run_old(settings, None, lambda session, _: session.default_region())
        values["region"] = asked or ANY_REGION
    result = _run(_request(values))
    if result is None:
        return EXIT_INTERRUPTED
    for index in range(result.parts):
        put_result(f"Created {part_name(str(values['prefix']), index)}")
    put_result(f"Created {result.manifest}\n{name} complete.")
    return EXIT_DONE


def bundle_and_upload(given: Given) -> int:
    """`euca-bundle-and-upload-image`: one pass, from the image to the bucket."""
    keys = euca2ools_keys(given)
    region = region_of(given["region"])
    url = given["url"] or os.environ.get("S3_URL", "")
    settings = settings_of(given, url=url, region=region)
    address = bucket_address(given["bucket"])
    values = {
        "account": os.environ.get("EC2_USER_ID") or os.environ.get("EC2_ACCOUNT_NUMBER"),
        "certificate": _absolute(os.environ.get("EC2_CERT")),
        "private_key": _absolute(os.environ.get("EC2_PRIVATE_KEY")),
        # The eucarc of a Eucalyptus cloud sets it: the cloud cannot open a bundle for Amazon's certificate.
        "ec2_certificate": _absolute(os.environ.get("EUCALYPTUS_CERT")),
        "region": settings.region or None,
        "endpoint_url": endpoint(url)[0] or None,
        "acl": given["acl"] or None,
        **_values_of_image(given),
        "destinations": [address],
    }
    request = _request(values)
    where = region_of(given["location"]) or settings.region
    run_old(settings, keys, lambda session, _: session.make_missing(address, where))
    result = _run(request, keys)
    if result is None:
        return EXIT_INTERRUPTED
    folder = parse_s3_location(address).plain()
    for index in range(result.parts):
        put_result(f"Uploaded {folder}/{part_name(str(values['prefix']), index)}")
    put_result(f"Uploaded {result.manifest.removeprefix(SCHEME)}")
    return EXIT_DONE


def values_of(given: Given) -> dict[str, Any]:
    """Make the fields of the request that all commands have."""
    values: dict[str, Any] = {field: given[key] for field, key in _FIELDS.items() if given.has(key)}
    values |= {field: str(Path(given[key]).absolute()) for field, key in _FILES.items() if given.has(key)}
    values["register_image"] = False
    values["product_codes"] = given.several("productcodes")
    values["block_device_mappings"] = _mappings(given)
    if given.has("kernel") or given.has("ramdisk"):
        # A kernel needs this value; it has no other effect without a registration.
        values["virtualization"] = "paravirtual"
    return values


def _values_of_image(given: Given) -> dict[str, Any]:
    """Make the fields of the request that both commands for images have."""
    source = given["image"]
    if Path(source).is_dir():
        raise RefusedError(
            "source.kind",
            f"cannot bundle {source}: it is a directory",
            hint="ec2-bundle-vol -v DIRECTORY, or amistream bundle DIRECTORY --to ..., makes an image of it",
        )
    values = values_of(given)
    values["source"] = source if source == STANDARD_INPUT else str(Path(source).absolute())
    values["live"] = True
    if given.has("image-size"):
        # For a file, its own size counts, as in euca2ools.
        values["image_size"] = _bytes(given["image-size"]) if source == STANDARD_INPUT else None
    if given.has("part-size"):
        values["part_size"] = _bytes(given["part-size"])
    if "prefix" not in values:
        if source == STANDARD_INPUT:
            raise UsageError("usage", "cannot choose object names for standard input: give --prefix")
        values["prefix"] = _prefix_of(Path(source).name)
    return values


def _prefix_of(image: str) -> str:
    """The start of the files' names: the image's name, which is cleaned if it must be."""
    prefix = as_prefix(image)
    if prefix != image:
        put_note(
            f"note: the bundle is named {prefix}, because the image's name cannot be that of a bundle; see --prefix"
        )
    return prefix


def _bytes(text: str) -> int:
    """Read a size as euca2ools does: K, M, G and T are powers of 1024, with or without a B."""
    found = re.fullmatch(r"([0-9]+)([KMGT]?)I?B?", text.strip().upper())
    if found is None:
        raise UsageError("usage", f"cannot use {text!r} as a size: give a number of bytes, or one with K, M or G")
    return int(found[1]) * _UNITS[found[2]]


def _mappings(given: Given) -> dict[str, str]:
    pairs = given.several("block-device-mapping") or given.several("block-device-mappings")
    if not all("=" in pair for pair in pairs):
        raise UsageError("usage", "cannot read the block device mapping: its form is VIRTUAL=DEVICE,...")
    split = (pair.split("=", 1) for pair in pairs)
    return {virtual.strip(): device.strip() for virtual, device in split}


def _absolute(path: str | None) -> str | None:
    return str(Path(path).absolute()) if path else None


def _request(values: dict[str, Any]) -> BundleRequest:
    try:
        return parse_bundle_request({name: value for name, value in values.items() if value not in (None, [], {})})
    except UsageError as error:
        raise _in_options(error) from error


def _run(request: BundleRequest, keys: AccessKeys | None = None) -> BundleResult | None:
    """Run the job; None if a signal ended it. Raises `AmistreamError`."""

    async def begin(queue: JobQueue) -> Job:
        return (await queue.submit(request))[0]

    job, interrupted = follow_in_process(begin, None, keys)
    if interrupted:
        return None
    if job.state is not State.DONE or not isinstance(job.result, BundleResult):
        raise _error(job)
    return job.result


def _in_options(error: UsageError) -> UsageError:
    """Replace the request's field in an error by the name of the option."""
    names = {**_FIELDS, **_FILES, "destinations": "bucket", "product_codes": "productcodes", "part_size": "part-size"}
    name = names.get(error.field, "")
    message = error.message.replace(f": {error.field}: ", f": --{name}: ", 1) if name else error.message
    return UsageError(error.code, message, hint="--help describes each option", field=error.field)


def _error(job: JobView) -> RefusedError | JobError:
    kind = RefusedError if job.state is State.REFUSED else JobError
    if job.error is None:
        return kind("job.cut_short", f"cannot finish the bundle: the job is {job.state}")
    return kind(**job.error.model_dump())
