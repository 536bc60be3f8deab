"""Bundles of a plain shell pipeline and of our own engine, in every form, give back the exact image."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from amistream.bundles.results import Unbundled
from amistream.events import BundleResult
from amistream.reports import Access, Report, Signature
from bundles.made import put_files, unbundle_at, verify_at
from bundles.shell_bundle import EVERYTHING, Form, shell_bundle
from jobs.work import request, run, settings, use_endpoint
from support.referee import check_bundle
from support.volumes import ext4_image, random_image, sparse_image

if TYPE_CHECKING:
    from conftest import MakeBucket
    from support.endpoints import Endpoint
    from support.keys import KeyRing

KIB, MIB = 1024, 1024 * 1024

FORMS = {
    "as euca2ools": Form(),
    "as Amazon's tools": Form(quote="'"),
    "pretty": Form(pretty=True),
    "pretty, single quotes": Form(quote="'", pretty=True),
    "everything": Form(**EVERYTHING),
    "everything, single quotes, pretty": Form(quote="'", pretty=True, **EVERYTHING),
    "nothing": Form(declaration=False, bundler=False, count=False),
    "kernel": Form(kind="kernel", kernel_name="vmlinuz-6.1"),
    "ramdisk": Form(kind="ramdisk", quote="'"),
    "version 2007-08-29": Form(version="2007-08-29", quote="'"),
    "version 2007-08-29, pretty": Form(version="2007-08-29", pretty=True),
    "version 3": Form(version="3", quote="'"),
    "version 3, pretty, without a bundler": Form(version="3", pretty=True, bundler=False),
    "parts backwards": Form(backwards=True),
    "parts backwards, version 3, pretty": Form(version="3", backwards=True, pretty=True),
    "white space before the declaration": Form(before="\r\n \t", quote="'"),
    "the encoding of euca2ools": Form(quote="'", encoding="ASCII"),
    "another encoding": Form(encoding="iso-8859-1"),
    "a mark of the encoding": Form(before="\ufeff"),
    "a mark, white space and no declaration": Form(before="\ufeff\n", declaration=False, pretty=True),
}
OPTIONAL = [{name: value} for name, value in EVERYTHING.items()]


async def prove(address: str, keys: KeyRing, tmp_path: Path, **more: Any) -> Report:
    """Verify a bundle both ways, without a difference."""
    it = settings(tmp_path, **more)
    files = (keys.user.certificate, keys.user.key)
    shallow = await verify_at(address, it, files)
    deep = await verify_at(address, it, files, deep=True)
    assert shallow.differences == deep.differences == ()
    assert shallow.content is None
    assert deep.content is not None
    return deep


async def take_out(address: str, to: Path, keys: KeyRing, tmp_path: Path, **more: Any) -> Unbundled:
    notes: list[str] = []
    result = await unbundle_at(address, to, settings(tmp_path, **more), keys.user.key, notes=notes)
    assert notes == []
    return result


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
async def test_any_form_of_manifest(form: Form, key_ring: KeyRing, tmp_path: Path) -> None:
    """However the manifest is quoted, laid out and filled, the bundle is verified and gives its image."""
    image = sparse_image(tmp_path / "disk.img", 700 * KIB, [(4 * KIB, 100 * KIB), (400 * KIB, 20 * KIB)])
    manifest = shell_bundle(tmp_path / "bundle", image, key_ring, form=form)
    report = await prove(str(manifest), key_ring, tmp_path)
    assert (report.signature, report.kind, report.access) == (Signature.RIGHT, form.kind, Access.NONE)
    assert report.digests.compared == report.parts
    result = await take_out(str(manifest), tmp_path / "back.img", key_ring, tmp_path)
    assert (tmp_path / "back.img").read_bytes() == image.read_bytes()
    assert result.signature is Signature.RIGHT


@pytest.mark.parametrize("tar_format", [("--format=posix",), ("--format=posix", "--sparse-version=0.1")])
async def test_any_form_of_archive(tar_format: tuple[str, ...], key_ring: KeyRing, tmp_path: Path) -> None:
    """A sparse file in GNU tar's posix forms gives its image, and the digest proves it."""
    image = sparse_image(tmp_path / "disk.img", 700 * KIB, [(4 * KIB, 100 * KIB), (400 * KIB, 20 * KIB)])
    manifest = shell_bundle(tmp_path / "bundle", image, key_ring, tar_format=tar_format)
    report = await prove(str(manifest), key_ring, tmp_path)
    assert report.content is not None
    assert report.content.data_size == 120 * KIB
    await take_out(str(manifest), tmp_path / "back.img", key_ring, tmp_path)
    assert (tmp_path / "back.img").read_bytes() == image.read_bytes()


@pytest.mark.parametrize("optional", OPTIONAL, ids=EVERYTHING)
async def test_each_optional_element_alone(optional: dict[str, Any], key_ring: KeyRing, tmp_path: Path) -> None:
    """A manifest with just one of the optional elements is read and its signature is valid."""
    image = random_image(tmp_path / "disk.img", 10 * KIB)
    manifest = shell_bundle(tmp_path / "bundle", image, key_ring, form=Form(**optional))
    assert (await prove(str(manifest), key_ring, tmp_path)).signature is Signature.RIGHT


@pytest.mark.parametrize("parts", [1, 10, 101])
@pytest.mark.parametrize("sparse", [True, False])
async def test_any_number_of_parts(parts: int, *, sparse: bool, key_ring: KeyRing, tmp_path: Path) -> None:
    """One part, several, and more than two digits can number."""
    size = 16 * KIB * parts - 12 * KIB
    image = sparse_image(tmp_path / "disk.img", size + 2 * MIB, [(MIB, size)])
    manifest = shell_bundle(
        tmp_path / "bundle",
        image,
        key_ring,
        part_size=16 * KIB,
        digits=3 if parts > 100 else 1 if parts == 1 else 2,
        sparse=sparse,
    )
    report = await prove(str(manifest), key_ring, tmp_path)
    assert report.parts == parts
    assert report.content is not None
    assert report.content.sparse == sparse
    result = await take_out(str(manifest), tmp_path / "back.img", key_ring, tmp_path)
    assert (tmp_path / "back.img").read_bytes() == image.read_bytes()
    # The file has holes, with or without holes in the archive.
    assert (tmp_path / "back.img").stat().st_blocks * 512 <= size + 64 * KIB
    assert (result.parts, result.image_size) == (parts, image.stat().st_size)


async def test_from_every_endpoint(
    endpoint: Endpoint, make_bucket: MakeBucket, key_ring: KeyRing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bundle in any S3 is verified and unbundled; data that the endpoint does not report is no difference."""
    use_endpoint(endpoint, monkeypatch)
    image = sparse_image(tmp_path / "disk.img", 3 * MIB, [(0, MIB), (2 * MIB, 100 * KIB)])
    shell_bundle(tmp_path / "bundle", image, key_ring, part_size=100 * KIB)
    bucket = make_bucket(endpoint)
    put_files(endpoint, bucket, tmp_path / "bundle", "some/where/")
    address = f"s3://{bucket}/some/where/image.manifest.xml"
    report = await prove(address, key_ring, tmp_path, endpoint_url=endpoint.url)
    assert report.access is Access.NOT_TOLD
    await take_out(address, tmp_path / "back.img", key_ring, tmp_path, endpoint_url=endpoint.url)
    assert (tmp_path / "back.img").read_bytes() == image.read_bytes()


@pytest.mark.parametrize("compress", ["1", "6", "9"])
@pytest.mark.parametrize("sparse", ["always", "never"])
async def test_our_own(compress: str, sparse: str, key_ring: KeyRing, tmp_path: Path) -> None:
    """Referees and unbundle both restore a file system bundled by our own engine."""
    image = ext4_image(tmp_path / "disk.img", 12 * MIB)
    job = await run(request(image, tmp_path / "bundle", key_ring, compress=compress, sparse=sparse), settings(tmp_path))
    assert isinstance(job.result, BundleResult)
    check_bundle(tmp_path / "bundle", image, key_ring.user.key, key_ring.user.certificate)
    report = await prove(job.result.manifest, key_ring, tmp_path)
    assert report.content is not None
    assert (report.signature, report.content.sparse) == (Signature.RIGHT, sparse == "always")
    result = await take_out(job.result.manifest, tmp_path / "back.img", key_ring, tmp_path)
    assert (tmp_path / "back.img").read_bytes() == image.read_bytes()
    assert result.image_size == image.stat().st_size
    assert (tmp_path / "back.img").stat().st_blocks <= image.stat().st_blocks + 1024


async def test_our_own_in_s3(
    seaweedfs: Endpoint, make_bucket: MakeBucket, key_ring: KeyRing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts uploaded in chunks have no checksum of the whole: reported, no difference; --deep compares them."""
    use_endpoint(seaweedfs, monkeypatch)
    image = random_image(tmp_path / "disk.img", 13 * MIB)
    chunks = {"part_size": 6 * MIB, "multipart_threshold": 5 * MIB, "multipart_chunk": 5 * MIB}
    bucket = make_bucket(seaweedfs)
    it = settings(tmp_path, endpoint_url=seaweedfs.url, **chunks)
    made = await run(request(image, f"s3://{bucket}/x", key_ring, register_image=False), it)
    assert isinstance(made.result, BundleResult), made.error
    files = (key_ring.user.certificate, key_ring.user.key)
    shallow = await verify_at(made.result.manifest, it, files)
    assert shallow.differences == ()
    assert (shallow.digests.compared, shallow.digests.composite, shallow.digests.unkept) == (1, 2, 0)
    assert any("2 parts were sent in chunks" in note for note in shallow.notes)
    deep = await verify_at(made.result.manifest, it, files, deep=True)
    assert (deep.differences, deep.digests.compared, deep.notes) == ((), 3, ())
    await take_out(made.result.manifest, tmp_path / "back.img", key_ring, tmp_path, endpoint_url=seaweedfs.url)
    assert (tmp_path / "back.img").read_bytes() == image.read_bytes()
