"""Names and key prefixes of every form: bundled, verified, downloaded, uploaded, listed and deleted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from amistream.bundles.meter import Meter
from amistream.events import BundleResult
from bundles.made import stored_bytes, verify_at, work
from jobs.work import request, run, settings, use_endpoint
from support.referee import check_bundle
from support.volumes import random_image

if TYPE_CHECKING:
    from conftest import MakeBucket
    from support.endpoints import Endpoint
    from support.keys import KeyRing

NAMES = [
    ("env=prod", "2014-01-02T10:20:30.img"),
    ("10:30/a b", "vol@snap1 & more.img"),
    ("a+b%/web#1/?x=y", "100%25+a=b,c;d.img"),
    ("imag\u00e9/\u65e5\u672c", "imag\u00e9[1]~.img"),
    ("'q\"\\", "<x>&amp;'\".img"),
    ("x" * 200, "y" * 99),
]


@pytest.mark.parametrize(("folder", "name"), NAMES)
async def test_names(
    folder: str, name: str, ministack: Endpoint, make_bucket: MakeBucket, key_ring: KeyRing, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A bundle's whole life under a name and a key prefix that S3 takes."""
    use_endpoint(ministack, monkeypatch)
    image, bucket = random_image(tmp_path / "disk.img", 50_000), make_bucket(ministack)
    it = settings(tmp_path, endpoint_url=ministack.url, part_size="16KiB")
    job = await run(request(image, f"s3://{bucket}/{folder}", key_ring, prefix=name, register_image=False), it)
    assert isinstance(job.result, BundleResult), job.error
    assert job.result.manifest == f"s3://{bucket}/{folder}/{name}.manifest.xml"
    keys = stored_bytes(ministack, bucket)
    assert set(keys) == {
        f"{folder}/{name}.{end}" for end in ("part.00", "part.01", "part.02", "part.03", "manifest.xml")
    }
    report = await verify_at(job.result.manifest, it, (key_ring.user.certificate, key_ring.user.key), deep=True)
    assert (report.differences, report.image_name) == ((), name)
    async with work(tmp_path, ministack).session() as session:
        await session.download(job.result.manifest, tmp_path / "copy", Meter())
        check_bundle(tmp_path / "copy", image, key_ring.user.key, key_ring.user.certificate)
        await session.upload(str(tmp_path / "copy" / f"{name}.manifest.xml"), f"s3://{bucket}/{folder}/again", Meter())
        listed = await session.inventory(f"s3://{bucket}/{folder}")
        assert {each.manifest for each in listed.bundles} == {
            f"s3://{bucket}/{folder}/{name}.manifest.xml", f"s3://{bucket}/{folder}/again/{name}.manifest.xml",
        }  # fmt: skip
        assert {each.problem for each in listed.bundles} == {""}
        for each in listed.bundles:
            await session.delete(each.manifest, agree)
    assert not stored_bytes(ministack, bucket)


async def agree(_: object) -> None:
    """Answer yes."""
