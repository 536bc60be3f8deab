"""A freeze of what must not be frozen is refused, with what would wait for the thaw."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from amistream.checks import freezing
from amistream.errors import AccessDeniedError, UsageError
from amistream.events import State
from amistream.host import capabilities
from amistream.host.mounts import Mount
from amistream.jobs.confinement import check_request
from jobs.work import request, run, settings
from support.frozen import freezable
from support.mounts import mounted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from amistream.events import ErrorBody
    from support.keys import KeyRing


@pytest.fixture
def data(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    with freezable(tmp_path) as mounted:
        yield mounted


async def refused(source: Path, to: Path, key_ring: KeyRing, base: Path, **changes: object) -> ErrorBody:
    job = await run(request(source, to, key_ring, freeze=True), settings(base, **changes))
    assert job.state is State.REFUSED
    assert job.error is not None
    assert job.error.field == "freeze"
    assert not to.exists() or not list(to.iterdir())
    return job.error


async def test_the_destination_is_on_it(data: tuple[Path, Path], tmp_path: Path, key_ring: KeyRing) -> None:
    """A bundle cannot be written to the file system that is frozen for it."""
    device, place = data
    error = await refused(device, place / "out", key_ring, tmp_path)
    assert f"cannot freeze {place}: the destination {place}/out is on it" in error.message


async def test_the_state_directory_is_on_it(data: tuple[Path, Path], tmp_path: Path, key_ring: KeyRing) -> None:
    """The journal is written to during a job, so its file system is not frozen."""
    device, place = data
    error = await refused(device, tmp_path / "out", key_ring, tmp_path, state_dir=place / "state")
    assert f"the state directory ({place}/state) is on it" in error.message


async def test_a_log_is_on_it(data: tuple[Path, Path], tmp_path: Path, key_ring: KeyRing) -> None:
    """A file that this process has open, such as its log, is not frozen."""
    device, place = data
    with (place / "log").open("w"):
        error = await refused(device, tmp_path / "out", key_ring, tmp_path)
    assert "a file that this process has open is on it" in error.message


async def test_temporary_files_are_on_it(
    data: tuple[Path, Path], tmp_path: Path, key_ring: KeyRing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The directory of temporary files is not frozen."""
    device, place = data
    monkeypatch.setattr("tempfile.tempdir", str(place))
    error = await refused(device, tmp_path / "out", key_ring, tmp_path)
    assert f"the directory of temporary files ({place}) is on it" in error.message


async def test_a_swap_file_is_on_it(
    data: tuple[Path, Path], tmp_path: Path, key_ring: KeyRing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system with a swap file is not frozen."""
    device, place = data
    swaps = tmp_path / "swaps"
    swaps.write_text(f"Filename Type Size Used Priority\n{place}/swap file 1 0 -2\n")
    monkeypatch.setattr("amistream.host.swaps.SWAPS", swaps)
    error = await refused(device, tmp_path / "out", key_ring, tmp_path)
    assert f"the swap file {place}/swap is on it" in error.message


async def test_hidden_by_another_mount(data: tuple[Path, Path], tmp_path: Path, key_ring: KeyRing) -> None:
    """A file system that is not reachable by its mount point cannot be frozen."""
    device, place = data
    with mounted("tmpfs", place, "-t", "tmpfs"):
        error = await refused(device, tmp_path / "out", key_ring, tmp_path)
    assert "other file systems are mounted over it" in error.message
    assert f"findmnt {place}" in error.hint


async def test_without_the_capability(
    data: tuple[Path, Path], tmp_path: Path, key_ring: KeyRing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without CAP_SYS_ADMIN the refusal has the lines for the daemon's unit."""
    device, _ = data
    status = tmp_path / "status"
    status.write_text("CapEff:\t0000000000000000\n")
    monkeypatch.setattr(capabilities, "STATUS", status)
    error = await refused(device, tmp_path / "out", key_ring, tmp_path)
    assert "needs CAP_SYS_ADMIN" in error.message
    assert "CapabilityBoundingSet=CAP_SYS_ADMIN CAP_IPC_LOCK" in error.hint


@pytest.mark.parametrize(
    ("kind", "device", "why"), [("btrfs", "0:40", "device numbers of their own"), ("ext4", None, "the system (/)")]
)
async def test_the_system_itself(
    kind: str, device: str | None, why: str, tmp_path: Path, key_ring: KeyRing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file system of `/`, and those that cannot be compared, are not frozen."""
    root = Mount(place="/", device=device or freezing._device(tmp_path.parents[-1]), kind=kind)
    monkeypatch.setattr(freezing, "writable_mounts", lambda _: [root])
    image = tmp_path / "image"
    image.write_bytes(b"x" * 4096)
    error = await refused(image, tmp_path / "out", key_ring, tmp_path)
    assert error.message.startswith("cannot freeze /: ")
    assert why in error.message or "is on it" in error.message


async def test_a_directory(
    data: tuple[Path, Path], tmp_path: Path, key_ring: KeyRing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory is read file by file, so there is nothing to freeze for it: it is refused before the walk."""
    monkeypatch.setattr("amistream.checks.tree.open_with_boot_area", lambda *_: pytest.fail("walked"))
    error = await refused(data[1], tmp_path / "out", key_ring, tmp_path)
    assert "it is a directory" in error.message


async def test_nothing_to_freeze(tmp_path: Path, key_ring: KeyRing) -> None:
    """A volume that is not mounted is bundled as without the option."""
    image = tmp_path / "image"
    image.write_bytes(b"x" * 4096)
    job = await run(request(image, tmp_path / "out", key_ring, freeze=True), settings(tmp_path))
    assert job.state is State.DONE, job.error


def test_not_for_members_of_the_group(tmp_path: Path, key_ring: KeyRing) -> None:
    """Members of the socket's group cannot make others wait."""
    asked = request(tmp_path / "image", tmp_path / "out", key_ring, freeze=True)
    with pytest.raises(AccessDeniedError) as caught:
        check_request(asked, settings(tmp_path, source_roots=[tmp_path]))
    assert (caught.value.code, caught.value.field) == ("access.freeze", "freeze")


def test_live_and_frozen(tmp_path: Path, key_ring: KeyRing) -> None:
    """A volume cannot be written to and frozen at the same time."""
    with pytest.raises(UsageError, match="leave live out"):
        request(tmp_path / "image", tmp_path / "out", key_ring, freeze=True, live=True)
