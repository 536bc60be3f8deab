"""Verifications as jobs in this process: their reports, their ends, and what another run does."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest

from amistream.aws.session import Aws
from amistream.bundles.meter import Meter
from amistream.bundles.session import BundleSession
from amistream.events import JobKind, State
from amistream.jobs.records import NextStep
from amistream.reports import Report, Signature
from amistream.request import parse_request
from amistream.request.verify import VerifyRequest
from bundles.made import flip, older_bundle, put_files
from bundles.shell_bundle import shell_bundle
from support.keys import make_keys

if TYPE_CHECKING:
    from pathlib import Path

    from jobs.runs import Cloud, MakeScene, Scene
    from support.keys import KeyRing


def asked(manifest: Path | str, **fields: Any) -> VerifyRequest:
    request = parse_request({"kind": "verify", "manifest": str(manifest), **fields})
    assert isinstance(request, VerifyRequest)
    return request


async def bundled(scene: Scene) -> Path:
    """Bundle the scene's image to its directory; returns the manifest."""
    made = await scene.run()
    assert made.state is State.DONE, made.error
    return scene.out / "image.manifest.xml"


@pytest.mark.parametrize("deep", [False, True])
async def test_a_whole_bundle(deep: bool, scene: Scene, key_ring: KeyRing) -> None:
    """A verification ends with the report that the session gives, and shows its progress by parts."""
    manifest = await bundled(scene)
    files = {"certificate": key_ring.user.certificate, "private_key": key_ring.user.key}
    job = await scene.run(asked(manifest, deep=deep, **{name: str(path) for name, path in files.items()}))
    view = job.view()
    assert (view.kind, view.state, view.source, view.destinations) == (JobKind.VERIFY, State.DONE, str(manifest), ())
    async with Aws(scene.settings) as aws:
        session = BundleSession(scene.settings, aws, lambda _: None)
        expected = await session.verify(str(manifest), Meter(), deep=deep, **files)
    assert isinstance(job.result, Report)
    assert job.result.model_copy(update={"elapsed_s": 0}) == expected.model_copy(update={"elapsed_s": 0})
    assert (job.result.signature, job.result.differences) == (Signature.RIGHT, ())
    assert job.progress is not None
    assert (job.progress.stored_share, job.progress.parts_stored) == (1.0, job.result.parts)
    assert job.progress.bytes_done == job.progress.bytes_total == job.result.bundled_size
    assert await scene.next_step(job) is NextStep.OVER


async def test_differences(scene: Scene) -> None:
    """A bundle with a flipped bit and a missing part: the job fails with the first difference, and its report stays."""
    manifest = await bundled(scene)
    flip(scene.out / "image.part.03")
    (scene.out / "image.part.04").unlink()
    job = await scene.run(asked(manifest))
    entry = await scene.journal.find(job.id)
    assert entry is not None
    for view in (job.view(), entry.view):
        assert (view.state, view.resumable) == (State.FAILED, False)
        assert isinstance(view.result, Report)
        assert {(each.what, each.part) for each in view.result.differences} >= {
            ("part.missing", "image.part.04"),
            ("part.digest", "image.part.03"),
        }
        assert view.error is not None
        assert view.error.code == f"bundle.{view.result.differences[0].what}"
        assert view.error.message.startswith(f"cannot confirm {manifest}: image.part.04: it is missing (")
        assert f"`amistream status {job.id}`" in view.error.hint


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"manifest": "/nowhere/image.manifest.xml"}, "directory.missing"),
        ({"deep": True}, "key.missing"),
        ({"deep": True, "private_key": "other"}, "key.other"),
        ({"private_key": "/nowhere/key.pem"}, "private_key.unreadable"),
    ],
)
async def test_refusals(fields: dict[str, Any], code: str, scene: Scene, tmp_path: Path) -> None:
    """A verification that cannot begin is refused, and has no result."""
    manifest = await bundled(scene)
    if fields.get("private_key") == "other":
        fields = {**fields, "private_key": str(make_keys(tmp_path).user.key)}
    job = await scene.run(asked(**{"manifest": manifest, **fields}))
    assert job.error is not None
    assert (job.state, job.error.code, job.result) == (State.REFUSED, code, None)


async def test_a_members_directory(scene: Scene) -> None:
    """A confined job verifies no bundle in a directory."""
    manifest = await bundled(scene)
    job = await scene.run(asked(manifest), confined=True)
    assert job.error is not None
    assert (job.state, job.error.code) == (State.REFUSED, "manifest.directory")


async def test_a_members_keys(cloud: Cloud, make_scene: MakeScene, key_ring: KeyRing, tmp_path: Path) -> None:
    """A confined verification has the files that it names within the roots, and never the daemon's own."""
    manifest = older_bundle(tmp_path / "old", key_ring, [3000, 100])
    put_files(cloud.endpoint, cloud.bucket, manifest.parent)
    address, own = f"s3://{cloud.bucket}/{manifest.name}", key_ring.user
    mine = tmp_path / "mine"
    mine.mkdir()
    key = shutil.copy(own.key, mine / "key.pem")
    settings: dict[str, Any] = {"certificate": own.certificate, "private_key": own.key, "source_roots": (mine,)}
    async with make_scene(endpoint_url=cloud.endpoint.url, **settings) as scene:
        for fields, confined, found in (
            ({}, False, Signature.RIGHT),
            ({}, True, Signature.UNCHECKED),
            ({"certificate": str(own.certificate)}, True, "roots.outside"),
            ({"private_key": str(own.key)}, True, "roots.outside"),
            # The key opens the bundle, whose parts hold noise.
            ({"private_key": str(key), "deep": True}, True, "bundle.gzip.header"),
        ):
            job = await scene.run(asked(address, **fields), confined=confined)
            result = job.result
            seen = job.error.code if job.error else isinstance(result, Report) and result.signature
            assert seen == found, (fields, job.error)


async def test_a_name_that_is_not_utf_8(scene: Scene, key_ring: KeyRing, tmp_path: Path) -> None:
    """An archive's member may have any name: the report shows its bytes escaped."""
    manifest = shell_bundle(tmp_path / "odd", scene.image, key_ring, member="image\udcff")
    job = await scene.run(asked(manifest, deep=True, private_key=str(key_ring.user.key)))
    assert job.state is State.DONE, job.error
    assert isinstance(job.result, Report)
    assert job.result.content is not None
    assert job.result.content.name == r"image\udcff"
