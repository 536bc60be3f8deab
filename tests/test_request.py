"""The values that a request may hold, and the report of invalid ones."""

from __future__ import annotations

from typing import Any

import pytest

from amistream.errors import UsageError
from amistream.events import JobKind
from amistream.ports.registry import BUNDLE_TAG, JOB_TAG
from amistream.request import PATTERN_WORDS, digest_of, model_of, parse_bundle_request, parse_request

GOOD: dict[str, Any] = {"source": "/dev/sdf", "destinations": ["s3://bucket/some/prefix"]}


@pytest.mark.parametrize(
    ("change", "field", "says"),
    [
        ({"source": "disk.img"}, "source", "absolute path"),
        ({"destinations": []}, "destinations", "at least 1"),
        ({"destinations": [f"s3://aaa/{number}" for number in range(9)]}, "destinations", "at most 8"),
        ({"destinations": ["s3://UPPER/x"]}, "destinations", "'UPPER' is not a bucket name"),
        ({"destinations": ["s3://bucket//x"]}, "destinations", "no empty step"),
        ({"destinations": ["here"]}, "destinations", "absolute directory"),
        ({"prefix": "a/b"}, "prefix", "'a/b' is not a name of up to 99 bytes"),
        ({"prefix": "é" * 50}, "prefix", "up to 99 bytes"),
        ({"prefix": ".."}, "prefix", "no dash or dot in front"),
        ({"prefix": "a\nb"}, "prefix", "printable"),
        ({"prefix": "a "}, "prefix", "no space at its ends"),
        ({"destinations": ["s3://bucket/a/../b"]}, "destinations", "no empty step (//), . or .."),
        ({"destinations": ["s3://bucket/a\nb"]}, "destinations", "printable"),
        ({"destinations": ["s3://bucket/" + "é" * 451]}, "destinations", "at most 900 bytes"),
        ({"account": "1 2"}, "account", "12 digits"),
        ({"account": "x" * 65}, "account", "12 digits"),
        ({"region": "on mars"}, "region", "'on mars' is not a region's name, such as eu-west-1"),
        ({"endpoint_url": "http://h/a?b"}, "endpoint_url", "'http://h/a?b' is not a URL of the form http://HOST:PORT"),
        ({"endpoint_url": "ftp://x"}, "endpoint_url", "is not a URL of the form"),
        ({"ami_name": "a!"}, "ami_name", "'a!' is not an AMI name: 3 to 128"),
        ({"kernel": "vmlinuz", "virtualization": "paravirtual"}, "kernel", "such as aki-12345678"),
        ({"product_codes": ["-"]}, "product_codes", "'-' is not a product code"),
        ({"ancestors": ["x"]}, "ancestors", "'x' is not an AMI id"),
        ({"compress": "0"}, "compress", "'0' is not fast, balanced"),
        ({"part_size": "1000"}, "part_size", "16KiB to 5GiB and a whole number of KiB"),
        ({"block_device_mappings": {"disk": "sdb"}}, "block_device_mappings", "'disk' is not a virtual name"),
        ({"block_device_mappings": {"ephemeral0": "xvdb"}}, "block_device_mappings", "xvdb is called sdb"),
        ({"sriov": True, "virtualization": "paravirtual"}, "", "need virtualization hvm"),
        ({"kernel": "aki-12345678"}, "", "need virtualization paravirtual"),
        ({"partition": "mbr", "virtualization": "paravirtual"}, "", "needs virtualization hvm"),
        ({"partition": "clone", "virtualization": "paravirtual"}, "", "needs virtualization hvm"),
        ({"partition": "gpt", "architecture": "arm64"}, "", "an architecture with a BIOS"),
        ({"partition": "dos"}, "partition", "'auto', 'clone', 'mbr', 'gpt' or 'none'"),
        ({"destinations": ["/dir"], "register_image": True}, "", "EC2 registers from S3 only"),
        ({"register_image": False, "ami_name": "name"}, "", "need register_image"),
        ({"kind": "convert"}, "kind", "'bundle'"),
        ({"tags": {"aws:x": "y"}}, "tags", "'aws:x' is a key of aws: its tags are set by nobody else"),
        ({"tags": {"amistream:bundle": "b/k"}}, "tags", "'amistream:bundle' is a key of amistream"),
        ({"colour": "red"}, "colour", "there is no field 'colour'"),
        ({"destinations": "x", "destinatons": ["/dir"]}, "destinatons", "there is no field 'destinatons'"),
        ({"part_size": "10XB"}, "part_size", "'10XB' is not a size: write bytes, or a number with a unit"),
        ({"clean": "secrets,log"}, "clean", "'log' is none of secrets, history, identity, logs, caches; or write all"),
        ({"clean": ["none", "logs"]}, "clean", "'none' is none of"),
        ({"exclude": ["/a\udcff"]}, "exclude", "is not UTF-8; write ? for each byte"),
        ({"include": ["a\0"]}, "include", "has a zero byte"),
        ({"workers": 0}, "workers", "0 is out of range: it must be greater than 0"),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, Any], field: str, says: str) -> None:
    """Each wrong word gives one sentence that names the field and what it should be."""
    with pytest.raises(UsageError) as caught:
        parse_bundle_request({**GOOD, **change})
    assert caught.value.field == field
    assert says in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("text", "categories"),
    [
        ("none", ()),
        ("all", ("secrets", "history", "identity", "logs", "caches")),
        ("logs, secrets,logs", ("logs", "secrets")),
    ],
)
def test_categories_to_clean(text: str, categories: tuple[str, ...]) -> None:
    """Categories are given in one text or several; all and none stand alone."""
    assert parse_bundle_request({**GOOD, "clean": text}).clean == categories
    assert parse_bundle_request({**GOOD, "clean": text.split(",")}).clean == categories


def test_every_wrong_field_is_named() -> None:
    """The hint lists what else is wrong, one line for each field."""
    with pytest.raises(UsageError) as caught:
        parse_bundle_request({**GOOD, "workers": 0, "compress": "0", "colour": "red"})
    assert (caught.value.code, caught.value.field) == ("request.unknown_field", "colour")
    also = caught.value.hint.splitlines()[1:]
    assert sorted(line.partition(" ")[2][:9] for line in also) == ["compress:", "workers: "]


@pytest.mark.parametrize("field", ["tags", "snapshot_tags"])
def test_tags_that_say_of_what_an_ami_is_made(field: str) -> None:
    """No request sets the tag by which a bundle counts as converted, nor the one by which a job knows its own."""
    for key in (BUNDLE_TAG, JOB_TAG):
        with pytest.raises(UsageError, match="its tags are set by nobody else"):
            parse_request({"kind": "convert", "source": "/dev/sdf", field: {key: "bucket/key"}})


MIGRATION = {
    "kind": "migrate",
    "manifest": "s3://my-bucket/web/image.manifest.xml",
    "destinations": ["s3://my-us-bucket/web"],
    "region": "us-west-2",
}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"destinations": ["/bundles"]}, "destinations: .* only a bucket has a region"),
        ({"destinations": []}, "destinations: "),
        ({"destinations": ["s3://my-us-bucket/web", "s3://my-eu-bucket/web"]}, "destinations: "),
        ({"kernel": "aki-12345678", "no_kernel": True}, "both named and left out"),
        ({"kernel": "aki-12345678", "virtualization": "hvm"}, "need virtualization paravirtual"),
        ({"ramdisk": "ari-12345678", "ena": True}, "sriov and ena need virtualization hvm"),
        ({"ami_name": "web 1"}, "need register_image"),
        ({"source_endpoint_url": "nowhere"}, "source_endpoint_url: 'nowhere' is not a URL"),
        ({"source_profile": "a\nb"}, "source_profile: .* control characters"),
        ({"source": "/dev/sdf"}, "there is no field 'source'"),
    ],
)
def test_migrations_that_cannot_be(fields: dict[str, Any], words: str) -> None:
    """The message names the field; a region is required."""
    with pytest.raises(UsageError, match=words) as caught:
        parse_request({**MIGRATION, **fields})
    if "source" not in fields:
        assert "amistream migrate --help" in caught.value.hint
    with pytest.raises(UsageError, match="region"):
        parse_request({name: value for name, value in MIGRATION.items() if name != "region"})


def test_every_pattern_has_words() -> None:
    """No person ever sees a regular expression."""
    schemas = [model_of(kind).model_json_schema()["properties"] for kind in JobKind]
    with_pattern = {name for schema in schemas for name, each in schema.items() if "'pattern'" in str(each)}
    # Sizes bring a pattern and words of their own.
    assert with_pattern - {"part_size", "memory_limit", "limit_upload", "image_size", "size", "volume_size"} == set(
        PATTERN_WORDS
    )


def test_what_is_left_out() -> None:
    """A bucket registers, a directory does not."""
    assert parse_bundle_request(GOOD).registers
    assert not parse_bundle_request({**GOOD, "destinations": ["/dir"]}).registers


def test_sizes_and_accounts_as_people_write_them() -> None:
    """Units and dashes are understood."""
    request = parse_bundle_request({**GOOD, "part_size": "64MiB", "account": "1234-5678-9012"})
    assert (request.part_size, request.account) == (64 * 1024 * 1024, "123456789012")


def test_a_region_for_several_destinations() -> None:
    """Directories have none, so it may be said once for all; each bucket has its own."""
    told = {"source": "/volumes/a", "region": "eu-west-1"}
    assert parse_bundle_request({**told, "destinations": ["/a", "/b"]}).region == "eu-west-1"
    with pytest.raises(UsageError, match="each of several buckets has its own"):
        parse_bundle_request({**told, "destinations": ["s3://bucket-a", "s3://bucket-b"]})


def test_a_digest_of_a_request() -> None:
    """Equal requests have equal digests, whatever default or label they have; another kind or field has another one."""
    values = {"source": "/dev/xvdf", "destinations": ["s3://bucket/web"]}
    digest = digest_of(parse_request(values))
    assert digest_of(parse_request({**values, "kind": "bundle", "ami_name": None, "label": "a"})) == digest
    others: list[dict[str, object]] = [
        {**values, "part_size": "8MiB"},
        {**values, "source": "/dev/xvdg"},
        {"kind": "convert", "source": "/dev/xvdf", "ami_name": "web"},
        {"kind": "verify", "manifest": "s3://bucket/web/image.manifest.xml"},
    ]
    assert len({digest, *(digest_of(parse_request(other)) for other in others)}) == 5
