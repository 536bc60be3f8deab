"""Checks of a directory as destination, on real disks."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from amistream.events import State
from amistream.roots import Roots
from amistream.values import MIB
from jobs.work import request, run, settings
from support.mounts import small_disk
from support.volumes import random_image

if TYPE_CHECKING:
    from checks.scene import Scene


async def test_a_destination_that_is_a_file(scene: Scene) -> None:
    """A destination that is a file, or below a file, is refused."""
    scene.out.touch()
    assert (await scene.refused(scene.out)).code == "directory.kind"
    error = await scene.refused(scene.out / "below")
    assert (error.code, error.field) == ("directory.kind", "destinations")
    assert str(scene.out) in error.message
    assert scene.out.read_bytes() == b""


async def test_a_destination_that_cannot_be_written(scene: Scene, tmp_path: Path) -> None:
    """A read-only disk, as the daemon's unit makes all, is refused as destination; the hint has the unit's setting."""
    with small_disk(tmp_path / "disk", "1m", "ro") as place:
        error = await scene.refused(place / "out")
    assert (error.code, f"ReadWritePaths={place / 'out'}" in error.hint) == ("directory.failed", True)


async def test_a_bucket_without_its_scheme(scene: Scene) -> None:
    """A directory whose parent is missing, too, is taken with a notice: a bucket may have been meant."""
    async with scene.ready(scene.out / "web"):
        assert [notice for notice in scene.notices if "s3://BUCKET/PREFIX" in notice] == scene.notices != []


async def test_a_full_destination(scene: Scene, tmp_path: Path) -> None:
    """A full disk is refused; a disk with room for a part of the volume gets a notice."""
    with small_disk(tmp_path / "disk", "512k") as place:
        async with scene.ready(place / "out"):
            assert [notice for notice in scene.notices if "the bundle fits only if" in notice] == scene.notices != []
        filler = place / "filler"
        with pytest.raises(OSError, match="No space"):
            filler.write_bytes(bytes(MIB))
        error = await scene.refused(place / "out")
        assert (error.code, "df -h" in error.hint) == ("directory.full", True)
        assert sorted(place.iterdir()) == [filler]


async def test_a_directory_is_checked_without_aws(scene: Scene) -> None:
    """The checks of a directory send no request to AWS."""
    async with scene.ready(scene.out, region="eu-west-1") as ready:
        (destination,) = ready.destinations
        assert (destination.region, destination.ec2) == ("eu-west-1", None)
    assert not scene.out.exists()


async def test_a_confined_job_learns_nothing_of_what_lies_outside(scene: Scene, tmp_path: Path) -> None:
    """A path outside the roots is refused with the same message, existing or not, writable or not."""
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    (outside / "file").touch()
    image = random_image(inside / "disk.img", 700_000)
    certificate = inside / "ec2.pem"
    certificate.write_bytes(scene.keys.ec2.certificate.read_bytes())
    own = {"source": str(image), "certificate": None, "private_key": None, "ec2_certificate": str(certificate),
           "roots": Roots([inside])}  # fmt: skip
    async with scene.ready(inside / "a" / "b", **own):
        assert (inside / "a" / "b").is_dir()
    (inside / "link").symlink_to(outside)
    there = (
        outside,
        outside / "file",
        outside / "nothing",
        inside / "link",
        inside / "link" / "x",
        inside / ".." / "x",
    )
    errors = [await scene.refused(path, **own) for path in there]
    assert {error.code for error in errors} == {"roots.outside"}
    assert (
        len({error.message.replace(os.path.normpath(path), "PATH") for error, path in zip(errors, there, strict=True)})
        == 1
    )
    assert (await scene.refused(inside / "c", **{**own, "source": str(outside / "file")})).code == "roots.outside"
    keys = {"certificate": str(scene.keys.user.certificate), "private_key": str(scene.keys.user.key)}
    error = await scene.refused(inside / "c", **{**own, **keys})
    assert (error.code, error.field) == ("roots.outside", "certificate")
    ec2 = str(scene.keys.ec2.certificate)
    error = await scene.refused(inside / "c", **{**own, "ec2_certificate": ec2})
    assert (error.code, error.field) == ("roots.outside", "ec2_certificate")
    settled = {"ec2_certificate": None, "settings": {"ec2_certificates": {"default": ec2}}}
    async with scene.ready(inside / "d", **{**own, **settled}):
        pass  # what the administrator has set may lie anywhere
    assert sorted(path.name for path in outside.iterdir()) == ["file"]


async def test_a_bundle_is_there_already(scene: Scene, tmp_path: Path) -> None:
    """A finished bundle is never overwritten."""
    first = await run(request(scene.image, tmp_path / "out", scene.keys), settings(tmp_path))
    assert first.state is State.DONE
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    hint = await scene.hint(tmp_path / "out", code="destination.exists", says="image.manifest.xml")
    assert "--prefix" in hint
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


async def test_parts_of_an_unfinished_bundle_are_there(scene: Scene, tmp_path: Path) -> None:
    """Parts without a manifest are refused and stay."""
    (tmp_path / "image.part.00").write_bytes(b"x")
    await scene.hint(tmp_path, code="destination.leftover", says="1 parts of an unfinished bundle")
    assert (tmp_path / "image.part.00").read_bytes() == b"x"
