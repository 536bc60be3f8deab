"""The values that a request takes: their forms, the checks of one value, and the words for them in messages."""

from __future__ import annotations

import posixpath
import re
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field

from amistream.location import SCHEME, DirectoryLocation, S3Location, parse_location
from amistream.values import LONGEST_PREFIX, STANDARD_INPUT, is_prefix, is_snapshot

LONGEST_KEY_PREFIX = 900
"""Bytes: a key has at most 1024, and a part's name up to 109."""
AMI_NAME_PATTERN = r"^[A-Za-z0-9()\[\] ./'@_-]{3,128}$"
PREFIX_WORDS = (
    f"a name of up to {LONGEST_PREFIX} bytes: printable characters but a slash, no space at its ends, and no dash or "
    "dot in front"
)
RESERVED_TAGS = ("aws:", "amistream:")
PATTERN_WORDS = {
    "region": "a region's name, such as eu-west-1, or RegionOne at an endpoint of your own",
    "endpoint_url": "a URL of the form http://HOST:PORT or https://HOST, or one with a path",
    "source_endpoint_url": "a URL of the form http://HOST:PORT or https://HOST, or one with a path",
    "ami_name": "an AMI name: 3 to 128 of letters, digits, spaces and ( ) [ ] . / - ' @ _",
    "kernel": "a kernel id, such as aki-12345678",
    "ramdisk": "a ramdisk id, such as ari-12345678",
    "product_codes": "a product code: up to 64 letters and digits",
    "ancestors": "an AMI id, such as ami-12345678",
    "kms_key_id": "a KMS key: its id or ARN (aws kms describe-key --key-id alias/NAME shows those of an alias)",
    "root_device": "a device name, such as /dev/xvda or /dev/sda1",
    "compress": "fast, balanced, small, auto, or a level from 1 to 9",
}
"""The form of each field with a pattern, for messages. A test keeps the list complete."""

KMS_KEY_PATTERN = r"^(arn:[a-z0-9-]+:kms:[a-z0-9-]+:[0-9]{12}:key/)?[A-Za-z0-9-]{1,128}$"
ROOT_DEVICE_PATTERN = r"^/dev/(sd[a-z]|xvd[a-z]{1,2}|hd[a-z])[0-9]{0,2}$"
DEVICE_PATTERN = re.compile(r"(/dev/)?(sd|hd)[a-z][0-9]{0,2}")
VIRTUAL_PATTERN = re.compile(r"ami|root|swap|ephemeral([0-9]|1[0-9]|2[0-3])")
BUCKET_PATTERN = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
UNSPEAKABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""Not allowed in paths and labels: what controls a terminal, and lone surrogates, which JSON cannot hold."""


def check_destination(value: str) -> str:
    location = parse_location(value)
    match location:
        case S3Location(bucket, key_prefix):
            if not BUCKET_PATTERN.fullmatch(bucket):
                raise ValueError(f"{bucket!r} is not a bucket name; write s3://BUCKET or s3://BUCKET/KEY/PREFIX")
            steps = value.removeprefix(SCHEME).rstrip("/").split("/")
            if not key_prefix.isprintable() or {"", ".", ".."} & set(steps):
                raise ValueError("a key prefix holds printable characters, and no empty step (//), . or ..")
            if len(key_prefix.encode()) > LONGEST_KEY_PREFIX:
                raise ValueError(f"a key prefix has at most {LONGEST_KEY_PREFIX} bytes")
            return str(location)
        case DirectoryLocation():
            if not value.startswith("/"):
                raise ValueError("write s3://BUCKET[/KEY/PREFIX] or an absolute directory")
            return posixpath.normpath(check_absolute(value))


def check_absolute(value: str) -> str:
    if not value.startswith("/"):
        raise ValueError("write an absolute path")
    if UNSPEAKABLE.search(value):
        raise ValueError(f"{value!r} has control characters, or is not UTF-8; give the file another name")
    return value


def check_account(value: str) -> str:
    """Accept the ids of any cloud: the checks know whether it is AWS."""
    digits = value.replace("-", "")
    if re.fullmatch("[0-9]{12}", digits):
        return digits
    if not re.fullmatch("[!-~]{1,64}", value):
        raise ValueError("an account id has up to 64 characters without spaces; that of AWS has 12 digits")
    return value


def check_prefix(value: str) -> str:
    if not is_prefix(value):
        raise ValueError(f"{value!r} is not {PREFIX_WORDS}")
    return value


def check_mappings(value: dict[str, str]) -> dict[str, str]:
    for virtual, device in value.items():
        if not VIRTUAL_PATTERN.fullmatch(virtual):
            raise ValueError(f"{virtual!r} is not a virtual name; use ami, root, swap or ephemeral0 to ephemeral23")
        if not DEVICE_PATTERN.fullmatch(device):
            raise ValueError(
                f"{device!r} is not a device name that EC2 takes in a manifest; use sdb or sda1 "
                "(xvdb is called sdb there)"
            )
    return value


FSTAB_WORDS = ("keep", "generate")
"""The values of `fstab` that are no file."""

AbsolutePath = Annotated[str, AfterValidator(check_absolute)]


def check_source(value: str) -> str:
    return value if value == STANDARD_INPUT or is_snapshot(value) else check_absolute(value)


def check_manifest(value: str) -> str:
    if value.startswith(SCHEME):
        if UNSPEAKABLE.search(value):
            raise ValueError(f"{value!r} has control characters, or is not UTF-8")
        return value
    if not value.startswith("/"):
        raise ValueError("write s3://BUCKET/KEY/NAME.manifest.xml or an absolute path")
    return check_absolute(value)


def check_convertible(value: str) -> str:
    return value if value.startswith(SCHEME) else check_source(value)


def check_tag(key: str) -> str:
    """Refuse the keys by which amistream finds what is its own, and what an AMI was made of."""
    if key.startswith(RESERVED_TAGS):
        raise ValueError(f"{key!r} is a key of {key.partition(':')[0]}: its tags are set by nobody else")
    return key


def check_label(value: str) -> str:
    if UNSPEAKABLE.search(value):
        raise ValueError(f"{value!r} has control characters, or is not UTF-8")
    return value


def check_fstab(value: str) -> str:
    return value if value in FSTAB_WORDS else check_absolute(value)


def check_pattern(value: str) -> str:
    if not value.strip("/"):
        raise ValueError(f"{value!r} names nothing; write a pattern as for rsync, such as /var/cache/* or *.log")
    if re.search("[\0\ud800-\udfff]", value):
        raise ValueError(f"{value!r} has a zero byte, or is not UTF-8; write ? for each byte of a name that is not")
    return value


Category = Literal["secrets", "history", "identity", "logs", "caches"]


def split_categories(value: object) -> object:
    """Categories in one text or several; `none` is the empty list, `all` all of them."""
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not all(isinstance(each, str) for each in texts):
        return value
    names = [name.strip() for text in texts for name in text.split(",")]
    known = get_args(Category)
    if names in (["none"], ["all"]):
        return known if names == ["all"] else ()
    for name in names:
        if name not in known:
            raise ValueError(f"{name!r} is none of {', '.join(known)}; or write all or none, alone")
    return tuple(dict.fromkeys(names))


TagKey = Annotated[str, Field(min_length=1, max_length=128), AfterValidator(check_tag)]
