"""Jobs whose source is a directory: bundled, reported, continued, and begun anew when files moved."""

from __future__ import annotations

import json
import os
import random
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from amistream.events import BundleResult, State
from amistream.jobs import bundle_run
from amistream.jobs.job import Job
from amistream.jobs.tree_report import check_tree
from amistream.member import Member
from jobs.runs import ANEW
from source.tree.images import is_clean, opened, write_image
from support.mounts import small_disk
from support.referee import check_bundle

if TYPE_CHECKING:
    from amistream.request import BundleRequest
    from jobs.runs import MakeScene, Scene
    from support.keys import KeyRing

SIZE = 24 << 20


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree of three megabytes that hardly shrink, with a secret in it."""
    root = tmp_path / "tree"
    chance = random.Random(11)
    for number in range(30):
        (root / f"folder{number % 3}").mkdir(parents=True, exist_ok=True)
        (root / f"folder{number % 3}" / f"file{number}").write_bytes(chance.randbytes(100_000))
    (root / "key").write_text(
        "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASC\n-----END PRIVATE KEY-----\n"
    )
    return root


def asked(scene: Scene, tree: Path, **changes: Any) -> BundleRequest:
    return scene.request(source=str(tree), size=SIZE, report=str(scene.out.parent / "report"), **changes)


def report(scene: Scene) -> dict[str, str]:
    lines = (scene.out.parent / "report").read_text().splitlines()
    return {line["path"]: line["fate"] for line in map(json.loads, lines)}


def check(scene: Scene, tree: Path) -> None:
    """The bundle holds the image of the tree as it is now."""
    with opened(tree, SIZE) as volume:
        image = write_image(volume, scene.out.parent / "image")
    assert is_clean(image)
    check_bundle(scene.out, image, scene.keys.user.key, scene.keys.user.certificate)


async def test_bundled(scene: Scene, tree: Path) -> None:
    """A directory becomes a bundle of a file system; what was left out is noted, and in the report."""
    job = await scene.run(asked(scene, tree))
    assert (job.state, job.error) == (State.DONE, None)
    assert [notice for notice in job.notices if "left out: 1 by --clean secrets: private key" in notice]
    assert report(scene) == {"/key": "left out"}
    check(scene, tree)


async def test_moved_meanwhile(scene: Scene, tree: Path) -> None:
    """Files that are written to while the tree is bundled are named, and the job ends done."""
    job = Job(asked(scene, tree, exclude=["/key"]))
    await scene.engine.enter(job)
    changed = tree / "folder1" / "file10"

    def move() -> bool:
        os.truncate(changed, 5)
        (tree / "folder0" / "file0").unlink(missing_ok=True)
        return False

    with scene.failing("seal", fits=lambda _, part: part.digest.index == 3 and move()):
        await scene.engine.run(job)
    assert (job.state, job.error) == (State.DONE, None)
    assert "1 file (/folder0/file0): vanished or was replaced, and may be missing or zeros" in job.notices
    assert "1 file (/folder1/file10): shrank, and may end in zeros" in job.notices
    assert report(scene) == {
        "/key": "left out",
        "/folder0/file0": "vanished or was replaced, and may be missing or zeros",
        "/folder1/file10": "shrank, and may end in zeros",
    }


async def test_continued(scene: Scene, tree: Path) -> None:
    """A job that stopped goes on behind its stored parts, for the same plan gives the same bytes."""
    job = await scene.run(asked(scene, tree), room=6)
    assert job.resumable
    times = {path: path.stat().st_mtime_ns for path in scene.out.iterdir()}
    job = await scene.again(job)
    assert (job.state, job.error) == (State.DONE, None)
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert isinstance(job.result, BundleResult)
    assert job.result.compression["resumed"] > 0
    check(scene, tree)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to others")
async def test_continued_for_a_member(make_scene: MakeScene, tree: Path, tmp_path: Path, key_ring: KeyRing) -> None:
    """A member's job goes on with his rights: without what was closed to him meanwhile it begins anew."""
    member = Member(user=65533, group=None)
    for path in (tree, *tree.rglob("*")):
        os.chown(path, member.user or 0, 0)
        path.chmod(0o700)
    async with make_scene(source_roots=[str(tree), str(tmp_path), str(key_ring.user.key.parent)]) as scene:
        job = Job(scene.request(source=str(tree), size=SIZE), confined=True, user=member.user)
        await scene.engine.enter(job)
        with scene.failing("seal", fits=lambda _, part: part.digest.index >= 6):
            await scene.engine.run(job)
        assert job.resumable, job.error
        (tree / "folder0/file0").write_bytes(b"of root")
        os.chown(tree / "folder0/file0", 0, 0)
        job = await scene.again(job)
        assert (job.state, job.error) == (State.DONE, None)
        assert [notice for notice in job.notices if "1 file (/folder0/file0): closed to the member" in notice]
        assert [notice for notice in job.notices if ANEW in notice]
        with opened(tree, SIZE, member=member) as volume:
            image = write_image(volume, tmp_path / "image")
        check_bundle(scene.out, image, scene.keys.user.key, scene.keys.user.certificate)


@pytest.mark.parametrize("change", ["content", "new", "mode", "xattr"])
async def test_begun_anew(change: str, scene: Scene, tree: Path) -> None:
    """A job whose tree changed since begins anew under a new key, however late the change would be read."""
    job = await scene.run(asked(scene, tree), room=6)
    last = tree / "folder2" / "file29"
    match change:
        case "content":
            last.write_bytes(bytes(100_000))
        case "new":
            (tree / "zzz").touch()
        case "mode":
            last.chmod(0o600)
        case _:
            os.setxattr(last, "user.new", b"1")
    job = await scene.again(job)
    assert (job.state, job.error) == (State.DONE, None)
    named = "/zzz" if change == "new" else "/folder2/file29"
    assert [notice for notice in job.notices if f"(1 file ({named}) came or changed): {ANEW}" in notice]
    check(scene, tree)


async def test_compared_aside(scene: Scene, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A million files are compared on a thread: the daemon answers meanwhile."""
    threads: list[threading.Thread] = []

    def compare(*given: Any) -> None:
        threads.append(threading.current_thread())
        check_tree(*given)

    monkeypatch.setattr(bundle_run, "check_tree", compare)
    job = await scene.run(asked(scene, tree))
    assert job.state is State.DONE
    assert threads
    assert threading.main_thread() not in threads


async def test_begun_anew_without_a_file(scene: Scene, tree: Path) -> None:
    """So does one whose tree lost a file."""
    job = await scene.run(asked(scene, tree), room=6)
    (tree / "folder2" / "file29").unlink()
    job = await scene.again(job)
    assert (job.state, job.error) == (State.DONE, None)
    assert [notice for notice in job.notices if f"(files went): {ANEW}" in notice]
    check(scene, tree)


@pytest.mark.parametrize("changed", [False, True])
async def test_overlay_continued(changed: bool, scene: Scene, tree: Path, tmp_path: Path) -> None:
    """A job with files laid over its tree goes on if they are the same, and begins anew if one changed."""
    over = tmp_path / "over"
    over.mkdir()
    (over / "laid").write_text("over")
    job = await scene.run(asked(scene, tree, overlay=str(over)), room=6)
    if changed:
        (over / "laid").write_text("changed")
    job = await scene.again(job)
    assert (job.state, job.error) == (State.DONE, None)
    anew = [notice for notice in job.notices if f"(1 file (/laid) came or changed): {ANEW}" in notice]
    assert bool(anew) == changed
    with opened(tree, SIZE, overlay=over) as volume:
        image = write_image(volume, tmp_path / "image")
    check_bundle(scene.out, image, scene.keys.user.key, scene.keys.user.certificate)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")
async def test_script_run_again(scene: Scene, tree: Path, tmp_path: Path) -> None:
    """A job with a script runs it again when it is resumed, and begins anew."""
    with small_disk(tmp_path / "probe", "64k"):
        pass  # or the test is skipped: root may not mount
    script, runs = tmp_path / "script", tmp_path / "runs"
    script.write_text(f"#!/bin/sh\necho run >>{runs}\necho made >$1/made\n")
    script.chmod(0o755)
    job = await scene.run(asked(scene, tree, script=str(script)), room=6)
    job = await scene.again(job)
    assert (job.state, job.error) == (State.DONE, None)
    assert runs.read_text() == "run\n" * 2
    assert [notice for notice in job.notices if f"(1 file (/made) came or changed): {ANEW}" in notice]
    assert not (tree / "made").exists()


async def test_output_within_the_tree(scene: Scene, tree: Path) -> None:
    """Parts that an earlier run has put into the tree itself do not come into the image."""
    scene_out = tree / "folder0"
    job = await scene.run(asked(scene, tree, destinations=[str(scene_out)]), room=6)
    assert job.resumable
    job = await scene.again(job)
    assert (job.state, job.error) == (State.DONE, None)
    assert len([path for path in scene_out.iterdir() if path.name.startswith("image.part")]) > 6
    assert "/folder0/image.part.00" in report(scene)
