"""Files that a confined job can open: those within the roots, by any path, and no others."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from amistream.errors import RefusedError
from amistream.roots import Roots, make_directory, open_pinned, pinned, pinned_directory
from amistream.source.file import open_volume
from amistream.values import MIB
from security.swapping import EXCHANGE, HARD_LINK, LINK, attempts, swapping
from support.mounts import mounted
from support.volumes import ext4_image, loop_device, random_image

ATTEMPTS = 3000
ALLOWED, SECRET = b"anybody may have this", b"nobody may have this!"

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount, or make a second name for any file")


@pytest.fixture
def inside(tmp_path: Path) -> Path:
    """Make the only root, with a file in it."""
    folder = tmp_path / "inside"
    folder.mkdir()
    (folder / "allowed").write_bytes(ALLOWED)
    return folder


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """Make a file outside."""
    (tmp_path / "outside").mkdir()
    path = tmp_path / "outside" / "secret"
    path.write_bytes(SECRET)
    return path


@pytest.fixture
def roots(inside: Path) -> Roots:
    return Roots([inside])


def content(path: Path, roots: Roots) -> bytes:
    with pinned(path, roots, field="source") as pin, closing(os.fdopen(open_pinned(pin, os.O_RDONLY), "rb")) as file:
        return file.read()


def refused(path: Path, roots: Roots) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        content(path, roots)
    assert caught.value.field == "source"
    return caught.value


def read_often(path: Path, roots: Roots) -> dict[str, int]:
    """Read `path` again and again, and count the results; each must be the allowed file or an error."""
    answers: dict[str, int] = {}
    for _ in attempts(ATTEMPTS, answers):
        try:
            assert content(path, roots) == ALLOWED
            answer = "read"
        except RefusedError as error:
            answer = error.code
        answers[answer] = answers.get(answer, 0) + 1
    return answers


def test_a_file_within_a_root_is_opened(inside: Path, roots: Roots) -> None:
    """A file within a root is opened by its own path, by a path with `..`, or by a link from anywhere."""
    (inside / "deep").mkdir()
    link = inside.parent / "link"
    link.symlink_to(inside / "allowed")
    for path in (
        inside / "allowed",
        inside / "deep" / ".." / "allowed",
        link,
        Path(f"/proc/self/root/{inside}/allowed"),
    ):
        assert content(path, roots) == ALLOWED


def test_a_root_may_be_a_file(inside: Path) -> None:
    """A root that is a file allows that file only, and none whose name begins alike."""
    (inside / "allowed too").write_bytes(SECRET)
    roots = Roots([inside / "allowed"])
    assert content(inside / "allowed", roots) == ALLOWED
    assert refused(inside / "allowed too", roots).code == "roots.outside"


def test_a_file_outside_is_refused(inside: Path, secret: Path, roots: Roots) -> None:
    """The error names the path, the roots, the setting and its file."""
    error = refused(secret, roots)
    assert error.code == "roots.outside"
    assert error.message == f"cannot use {secret}: nothing of that name can be opened within {inside}"
    assert "source_roots in /etc/amistream/amistream.toml" in error.hint


def test_a_name_that_begins_like_a_root_is_outside(inside: Path, roots: Roots) -> None:
    """Paths are compared by whole components."""
    beside = inside.parent / "inside2"
    beside.write_bytes(SECRET)
    assert refused(beside, roots).code == "roots.outside"


def test_no_roots_allow_nothing(inside: Path) -> None:
    """Without roots nothing can be opened, and the error names the administrator's setting."""
    error = refused(inside / "allowed", Roots([]))
    assert error.code == "roots.none"
    assert "the administrator sets source_roots in /etc/amistream/amistream.toml" in error.hint


def test_files_outside_cannot_be_explored(inside: Path, secret: Path, roots: Roots) -> None:
    """Missing, forbidden and outside files get the same error, also through a link."""
    absent = secret.with_name("absent")
    for target in (secret, absent, secret.parent, secret / "below a file"):
        link = inside / "link"
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        for path in (target, link):
            error = refused(path, roots)
            assert error.code == "roots.outside"
            assert error.message == f"cannot use {path}: nothing of that name can be opened within {inside}"


@pytest.mark.parametrize("step", ["link", "folder/secret"])
def test_a_link_that_leads_outside_is_refused(inside: Path, secret: Path, roots: Roots, step: str) -> None:
    """A link out of the root is refused, as the last component or before it."""
    (inside / "link").symlink_to(secret)
    (inside / "folder").symlink_to(secret.parent)
    assert refused(inside / step, roots).code == "roots.outside"


def test_a_root_that_is_a_link_allows_nothing(inside: Path, secret: Path) -> None:
    """A root that is a link allows nothing, so that a swapped root gives no access."""
    root = inside / "images"
    root.symlink_to(secret.parent)
    assert refused(root / "secret", Roots([root])).code == "roots.outside"


def test_a_file_outside_is_not_even_opened(secret: Path, roots: Roots) -> None:
    """A file outside is not even opened: the holder of a lease on it is not notified."""
    with secret.open("r+b") as file:
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        refused(secret, roots)
        assert fcntl.fcntl(file, fcntl.F_GETLEASE) == fcntl.F_WRLCK


def test_a_second_name_is_refused(inside: Path, secret: Path, roots: Roots) -> None:
    """A hard link is refused, because the same file may also lie elsewhere."""
    (inside / "second").hardlink_to(secret)
    error = refused(inside / "second", roots)
    assert error.code == "roots.linked"
    assert error.message.startswith(f"cannot use {inside / 'second'}: the file has 2 names (hard links)")
    assert error.hint.startswith("make a copy")


def test_hard_links_are_reported_within_the_roots_only(secret: Path, roots: Roots) -> None:
    """The number of hard links is reported only for files within the roots."""
    secret.with_name("second").hardlink_to(secret)
    assert refused(secret, roots).code == "roots.outside"


def test_a_file_without_a_name_is_refused(inside: Path, roots: Roots) -> None:
    """A deleted or unnamed file is refused, and so is a file named like a deleted one."""
    with (inside / "gone").open("w+b") as file:
        (inside / "gone").unlink()
        assert refused(Path(f"/proc/self/fd/{file.fileno()}"), roots).code == "roots.outside"
    nameless = os.memfd_create("inside")
    try:
        assert refused(Path(f"/proc/self/fd/{nameless}"), roots).code == "roots.outside"
    finally:
        os.close(nameless)
    (inside / "x (deleted)").write_bytes(ALLOWED)
    assert refused(inside / "x (deleted)", roots).code == "roots.outside"


def test_a_pipe_or_directory_does_not_block_the_job(inside: Path, roots: Roots) -> None:
    """A named pipe, a socket and a directory within the roots are refused at once by their type."""
    os.mkfifo(inside / "pipe")
    (inside / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(inside / "s"))
        for name in ("pipe", "folder", "s"):
            with pytest.raises(RefusedError) as caught:
                open_volume(inside / name, roots)
            assert caught.value.code == "source.kind"


@pytest.mark.parametrize("name", ["/proc/self/fd/0", "/proc/self/mem", "/dev/null", "/dev/kmsg", "/dev/fd/1"])
def test_things_of_the_kernel_are_outside(name: str, roots: Roots) -> None:
    """Devices, and the daemon's own files in /proc, are outside the roots."""
    assert refused(Path(name), roots).code == "roots.outside"


@needs_root
def test_a_device_is_judged_by_its_own_name(tmp_path: Path, inside: Path) -> None:
    """A device is accepted only if it is a root itself, also by a link."""
    image = random_image(tmp_path / "image", 4096)
    with loop_device(image) as device:
        (inside / "link").symlink_to(device)
        with closing(open_volume(inside / "link", Roots([device]))) as volume:
            assert volume.size == 4096
        for path in (device, inside / "link"):
            assert refused(path, Roots([inside])).code == "roots.outside"


@needs_root
def test_another_namespace_cannot_lend_its_names(inside: Path, secret: Path, roots: Roots) -> None:
    """A file mounted under an allowed path in another mount namespace is not the file of that path."""
    script = 'mount --bind "$1" "$2" && mount --bind "$3" "$2/allowed" && echo mounted && exec sleep 1000'
    argv = ["unshare", "--mount", "sh", "-c", script, "sh", str(inside.parent), str(inside), str(secret)]
    # The test's directory is mounted on the root there, so a file beside it seems to lie within the root.
    (inside.parent / "allowed").touch()
    process = subprocess.Popen(argv, stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout:
        try:
            assert process.stdout.readline() == b"mounted\n"
            path = Path(f"/proc/{process.pid}/root/{inside}/allowed")
            assert path.read_bytes() == SECRET
            with pinned(path, None, field="source") as pin:
                assert Path(f"/proc/self/fd/{pin}").readlink() == inside / "allowed", "the trick does not work here"
            assert refused(path, roots).code == "roots.outside"
        finally:
            process.kill()
            process.wait()


def test_a_link_swapped_in_a_loop(inside: Path, secret: Path, roots: Roots) -> None:
    """With a link swapped in a loop, only the allowed file is read, or none."""
    with swapping(LINK, inside / "link", inside / "allowed", secret):
        answers = read_often(inside / "link", roots)
    assert set(answers) == {"read", "roots.outside"}, answers


def test_a_folder_swapped_in_a_loop(inside: Path, secret: Path, roots: Roots) -> None:
    """A swapped link before the last component gives no access, either."""
    (inside / "real").mkdir()
    (inside / "real" / "file").write_bytes(ALLOWED)
    secret.rename(secret.with_name("file"))
    with swapping(LINK, inside / "folder", inside / "real", secret.parent):
        answers = read_often(inside / "folder" / "file", roots)
    assert set(answers) == {"read", "roots.outside"}, answers


def test_a_file_exchanged_with_a_link_in_a_loop(inside: Path, secret: Path, roots: Roots) -> None:
    """A name alternates between a real file and a link to the secret, and never yields the secret."""
    (inside / "link").symlink_to(secret)
    with swapping(EXCHANGE, inside / "allowed", inside / "link"):
        answers = read_often(inside / "allowed", roots)
    assert set(answers) == {"read", "roots.outside"}, answers


def refused_often(path: Path, roots: Roots) -> dict[str, int]:
    """Try to read `path` again and again; each must be refused. Counts the attempts."""
    answers: dict[str, int] = {}
    for _ in attempts(ATTEMPTS, answers):
        error = refused(path, roots)
        answers[error.code] = answers.get(error.code, 0) + 1
    return answers


def test_a_second_name_in_a_loop(inside: Path, secret: Path, roots: Roots) -> None:
    """A hard link to the secret that comes and goes never yields it, under any name."""
    with swapping(HARD_LINK, inside / "second", secret):
        answers = refused_often(inside / "second", roots)
    assert set(answers) == {"roots.linked", "roots.outside"}, answers


@needs_root
def test_a_second_name_that_goes_away_slowly(tmp_path: Path) -> None:
    """Nor while the removal of a hard link is being written to disk: it is no longer counted, and still there."""
    disk = ext4_image(tmp_path / "disk.img", 64 * MIB)
    with loop_device(disk, read_only=False) as device, mounted(device, tmp_path / "mounted") as place:
        inside, secret = place / "inside", place / "secret"
        inside.mkdir()
        secret.write_bytes(SECRET)
        # Each change of this directory waits for the journal of the file system.
        subprocess.run(["chattr", "+D", inside], check=True)
        with swapping(HARD_LINK, inside / "second", secret):
            answers = refused_often(inside / "second", Roots([inside]))
    assert set(answers) == {"roots.linked", "roots.outside"}, answers


def test_a_directory_is_reached_step_by_step(inside: Path, roots: Roots) -> None:
    """A directory within a root is found, and made with its parents; the result says which were made."""
    wanted = inside / "a" / "b"
    with pytest.raises(FileNotFoundError), pinned_directory(wanted, roots, field="destinations"):
        pass
    assert make_directory(wanted, roots, field="destinations")
    assert not make_directory(wanted, roots, field="destinations")
    with pinned_directory(wanted, roots, field="destinations") as place:
        assert os.path.samestat(os.fstat(place), wanted.stat())


@pytest.mark.parametrize(
    "name", ["outside", "outside/new", "inside/link", "inside/link/new", "inside/../outside", "inside/allowed/new", "x"]
)
def test_no_directory_is_made_or_found_outside(inside: Path, secret: Path, roots: Roots, name: str) -> None:
    """No directory is made outside the roots, nor through a link, a `..` or a file."""
    (inside / "link").symlink_to(secret.parent)
    before = sorted(inside.parent.rglob("*"))
    for call in (lambda path: make_directory(path, roots, field="d"), lambda path: opened_directory(path, roots)):
        with pytest.raises(RefusedError) as caught:
            call(inside.parent / name)
        assert caught.value.code == "roots.outside"
    assert sorted(inside.parent.rglob("*")) == before


def opened_directory(path: Path, roots: Roots) -> None:
    with pinned_directory(path, roots, field="d"):
        raise AssertionError("it was opened")


def test_a_root_that_is_missing_is_not_made(tmp_path: Path) -> None:
    """A missing root is not made."""
    with pytest.raises(RefusedError):
        make_directory(tmp_path / "root" / "a", Roots([tmp_path / "root"]), field="d")
    assert list(tmp_path.iterdir()) == []


def test_a_directory_exchanged_with_a_link_in_a_loop(inside: Path, secret: Path, roots: Roots) -> None:
    """A directory made through a name that alternates with a link lies within the roots, or is not made."""
    (inside / "real").mkdir()
    (inside / "link").symlink_to(secret.parent)
    answers: set[str] = set()
    with swapping(EXCHANGE, inside / "real", inside / "link"):
        for number in attempts(ATTEMPTS // 3, answers):
            try:
                make_directory(inside / "real" / str(number), roots, field="d")
                answers.add("made")
            except RefusedError:
                answers.add("refused")
    assert answers == {"made", "refused"}
    assert list(secret.parent.iterdir()) == [secret]


def test_descriptors_are_given_back(inside: Path, secret: Path, roots: Roots) -> None:
    """No descriptor stays open, whatever the result."""
    (inside / "link").symlink_to(secret.parent)
    before = len(list(Path("/proc/self/fd").iterdir()))
    content(inside / "allowed", roots)
    refused(secret, roots)
    for name in ("new/a", "allowed/new", "link/new"):
        try:
            make_directory(inside / name, roots, field="d")
        except RefusedError:
            continue
    assert len(list(Path("/proc/self/fd").iterdir())) == before
