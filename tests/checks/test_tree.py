"""Checks of a directory as source."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import TYPE_CHECKING, Any

import pytest

from amistream.roots import Roots
from amistream.source.opening import tree_of
from amistream.source.tree import walk
from amistream.source.tree.report import Fate
from amistream.source.tree.walk import Walk

if TYPE_CHECKING:
    from pathlib import Path

    from checks.scene import Scene


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    root.mkdir()
    (root / "file").write_bytes(b"x" * 20_000_000)
    return root


async def test_size(scene: Scene, tree: Path) -> None:
    """A tree that needs more than --size is refused with both figures, and an image over 10 GiB, too."""
    hint = await scene.hint(
        scene.out, source=str(tree), size="18MiB", code="source.no_room", says="image of 18.0 MiB: it needs at least"
    )
    assert "--size" in hint
    for folder in range(100):
        (tree / f"{folder:02}").mkdir()
        for file in range(100):
            (tree / f"{folder:02}/{file}").touch()
    says = "image of 18.0 MiB: it needs at least 20.0 MiB, for the first "
    await scene.hint(scene.out, source=str(tree), size="18MiB", code="source.no_room", says=says)
    await scene.hint(scene.out, source=str(tree), size="11GiB", code="source.too_large", says="has 11.00 GiB")
    async with scene.ready(scene.out, source=str(tree), size="32MiB") as ready:
        assert ready.volume.size == 32 << 20
    assert scene.notices == []


async def test_many_files(scene: Scene, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a large directory is walked, notices report how many files have been found, each time twice as many."""
    monkeypatch.setattr(walk, "FIRST_CALL", 100)
    for number in range(250):
        (tree / str(number)).touch()
    async with scene.ready(scene.out, source=str(tree), size="32MiB"):
        assert [each for each in scene.notices if "walked" in each] == [
            "walked 100 files so far",
            "walked 200 files so far",
        ]


async def test_traces_of_this_machine(scene: Scene, tree: Path) -> None:
    """A notice on this machine's identity names the option that takes it away, and is gone with it."""
    (tree / "etc").mkdir()
    (tree / "etc" / "machine-id").write_text("0123456789abcdef0123456789abcdef")
    async with scene.ready(scene.out, source=str(tree), size="32MiB"):
        (notice,) = [each for each in scene.notices if "of this machine" in each]
    assert "machine id" in notice
    assert "; --clean all leaves them out; " in notice
    async with scene.ready(scene.out, source=str(tree), size="32MiB", clean="identity"):
        assert not [each for each in scene.notices if "of this machine" in each]
        assert [each for each in scene.notices if "1 file (/etc/machine-id): comes in empty" in each]


async def test_wishes_for_something_else(scene: Scene) -> None:
    """A wish about a directory is refused where the source is none."""
    for wish in (
        {"exclude": ["*.o"]},
        {"size": "1GiB"},
        {"clean": "none"},
        {"all_file_systems": True},
        {"fstab": "generate"},
        {"overlay": "/etc"},
    ):
        error = await scene.refused(scene.out, **wish)
        assert (error.code, error.field) == ("source.no_directory", next(iter(wish)))
    assert error.message.startswith("cannot apply --overlay: ")


async def test_confined(scene: Scene, tree: Path) -> None:
    """A member of the socket's group, of whom nothing is known, bundles what everybody may read."""
    (tree / "closed").write_bytes(b"closed")
    (tree / "closed").chmod(0o600)
    tree.chmod(0o755)
    scene.tmp_path.chmod(0o755)
    roots = Roots([scene.tmp_path, scene.keys.user.key.parent])
    async with scene.ready(scene.out, source=str(tree), size="32MiB", roots=roots) as ready:
        found = tree_of(ready.volume)
        assert found is not None
        assert found.report.paths(Fate.CLOSED) == [b"closed"]
    error = await scene.refused(scene.out, source=str(tree), roots=Roots([tree / "file"]))
    assert error.code == "roots.outside"


@pytest.mark.parametrize("field", ["script", "overlay", "report", "grub_config", "fstab"])
async def test_wishes_of_a_member(field: str, scene: Scene, tree: Path) -> None:
    """The checks refuse a member's wish that the daemon would have refused, as for a job of an earlier version."""
    error = await scene.refused(scene.out, source=str(tree), roots=Roots([scene.tmp_path]), **{field: "/etc/hostname"})
    assert (error.code, error.field) == (f"access.{field}", field)


async def test_report_that_cannot_be_written(scene: Scene, tree: Path) -> None:
    """A report whose directory is missing is refused before the first byte."""
    error = await scene.refused(scene.out, source=str(tree), size="32MiB", report="/nowhere/report")
    assert (error.code, error.field) == ("report.unwritable", "report")


@pytest.mark.parametrize("kind", ["pipe", "link", "directory"])
async def test_report_in_place_of_something(kind: str, scene: Scene, tree: Path, tmp_path: Path) -> None:
    """A report takes no name of what is no file, such as /dev/null: that would be gone."""
    place = tmp_path / "place"
    {"pipe": os.mkfifo, "link": lambda path: path.symlink_to("/dev/null"), "directory": os.mkdir}[kind](place)
    before = place.lstat().st_ino
    error = await scene.refused(scene.out, source=str(tree), size="32MiB", report=str(place))
    assert (error.code, error.field) == ("report.no_file", "report")
    assert place.lstat().st_ino == before


async def test_another_fstab(scene: Scene, tree: Path) -> None:
    """The file of --fstab is read before the job, which is refused if it cannot be."""
    (tree / "etc").mkdir()
    given = scene.tmp_path / "fstab"
    error = await scene.refused(scene.out, source=str(tree), size="32MiB", fstab=str(given))
    assert (error.code, error.field) == ("fstab.unreadable", "fstab")
    given.write_bytes(b"#" * (1 << 20) + b"#")
    error = await scene.refused(scene.out, source=str(tree), size="32MiB", fstab=str(given))
    assert "more than 1048576 bytes" in error.message
    error = await scene.refused(scene.out, source=str(tree), size="32MiB", overlay="/nowhere/over")
    assert (error.code, error.field) == ("source.unreadable", "overlay")
    given.write_text("of the job")
    for fstab in (str(given), "generate"):
        async with scene.ready(scene.out, source=str(tree), size="32MiB", fstab=fstab) as ready:
            assert ready.volume.inodes == 5  # type: ignore[attr-defined] # a tree


async def test_cancelled_walk(scene: Scene, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cancel ends the walk through a large tree before the next directory, and leaves nothing open."""
    for number in range(50):
        (tree / f"folder{number}").mkdir()
    entered, read = asyncio.Event(), []
    loop, go = asyncio.get_running_loop(), threading.Event()
    names_in = Walk._names_in

    def hold(walk: Walk, directory: Any) -> Any:
        read.append(directory)
        loop.call_soon_threadsafe(entered.set)
        go.wait()
        return names_in(walk, directory)

    monkeypatch.setattr(Walk, "_names_in", hold)

    async def check() -> None:
        async with scene.ready(scene.out, source=str(tree)):
            pass

    checking = asyncio.create_task(check())
    await entered.wait()
    checking.cancel()
    for _ in range(20):  # through the task groups in between
        await asyncio.sleep(0)
    go.set()
    await asyncio.wait({checking})
    assert checking.cancelled()
    assert len(read) == 1


async def test_all_keys(scene: Scene, tree: Path) -> None:
    """The configured key stays out, also where the request names another one, and whatever --clean says."""
    key = scene.keys.user.key.read_bytes()
    for name in ("configured", "other"):
        (tree / name).write_bytes(key)
    asked = {"source": str(tree), "size": "32MiB", "clean": "none", "settings": {"private_key": tree / "configured"}}
    async with scene.ready(scene.out, **asked) as ready:
        volume = tree_of(ready.volume)
        assert volume is not None
        assert volume.report.paths(Fate.LEFT_OUT) == [b"configured"]


async def test_rules_in_the_notice(scene: Scene, tree: Path) -> None:
    """The notice says how many paths each rule left out."""
    (tree / "a.log").touch()
    (tree / ".bash_history").write_text("ls")
    async with scene.ready(scene.out, source=str(tree), size="32MiB", exclude=["*.log"]):
        pass
    (notice,) = scene.notices
    assert "left out: 1 by --clean history, 1 by --exclude *.log" in notice
    assert "--report FILE" in notice
