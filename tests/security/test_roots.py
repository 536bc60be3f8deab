"""What a confined job can open: what lies within the roots, by whatever name, and nothing else."""

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
    """The one root, with a file in it."""
    folder = tmp_path / "inside"
    folder.mkdir()
    (folder / "allowed").write_bytes(ALLOWED)
    return folder


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file outside."""
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
    """Read what `path` names again and again; nothing but the allowed file may ever be had. Counts the answers."""
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
    """It may be named in any way: by itself, with steps back, or by a link from anywhere."""
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
    """A root that is one file allows that file, and none whose name begins alike."""
    (inside / "allowed too").write_bytes(SECRET)
    roots = Roots([inside / "allowed"])
    assert content(inside / "allowed", roots) == ALLOWED
    assert refused(inside / "allowed too", roots).code == "roots.outside"


def test_a_file_outside_is_refused(inside: Path, secret: Path, roots: Roots) -> None:
    """The error names the path, what is allowed, the setting and the file it stands in."""
    error = refused(secret, roots)
    assert error.code == "roots.outside"
    assert error.message == f"cannot use {secret}: nothing of that name can be opened within {inside}"
    assert "source_roots in /etc/amistream/amistream.toml" in error.hint


def test_a_name_that_begins_like_a_root_is_outside(inside: Path, roots: Roots) -> None:
    """Whole steps of a path are compared, not letters."""
    beside = inside.parent / "inside2"
    beside.write_bytes(SECRET)
    assert refused(beside, roots).code == "roots.outside"


def test_no_roots_allow_nothing(inside: Path) -> None:
    """Without roots there is nothing to name, and the error says whose it is to change that."""
    error = refused(inside / "allowed", Roots([]))
    assert error.code == "roots.none"
    assert "the administrator names them in source_roots in /etc/amistream/amistream.toml" in error.hint


def test_what_is_outside_cannot_be_explored(inside: Path, secret: Path, roots: Roots) -> None:
    """Absent, forbidden and outside get one and the same answer, through a link too."""
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
    """Neither a link in the last place nor one before it gets out."""
    (inside / "link").symlink_to(secret)
    (inside / "folder").symlink_to(secret.parent)
    assert refused(inside / step, roots).code == "roots.outside"


def test_a_root_that_is_a_link_allows_nothing(inside: Path, secret: Path) -> None:
    """Whoever can put a link in a root's place gains nothing by it."""
    root = inside / "images"
    root.symlink_to(secret.parent)
    assert refused(root / "secret", Roots([root])).code == "roots.outside"


def test_what_is_outside_is_not_even_opened(secret: Path, roots: Roots) -> None:
    """Whoever holds a lease on the file is not told of an opening: there was none."""
    with secret.open("r+b") as file:
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        refused(secret, roots)
        assert fcntl.fcntl(file, fcntl.F_GETLEASE) == fcntl.F_WRLCK


def test_a_second_name_is_refused(inside: Path, secret: Path, roots: Roots) -> None:
    """A hard link cannot be told from the file elsewhere that it is."""
    (inside / "second").hardlink_to(secret)
    error = refused(inside / "second", roots)
    assert error.code == "roots.linked"
    assert error.message.startswith(f"cannot use {inside / 'second'}: the file has 2 names (hard links)")
    assert error.hint.startswith("make a copy")


def test_second_names_are_told_of_within_the_roots_only(secret: Path, roots: Roots) -> None:
    """How many names a file outside has is nobody's to know."""
    secret.with_name("second").hardlink_to(secret)
    assert refused(secret, roots).code == "roots.outside"


def test_a_file_without_a_name_is_refused(inside: Path, roots: Roots) -> None:
    """What was removed, or never had a name, lies nowhere; so does one that is named as the kernel names those."""
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


def test_what_is_no_file_does_not_hold_the_job(inside: Path, roots: Roots) -> None:
    """A named pipe, a socket and a directory within the roots are refused at once, for what they are."""
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
    """Devices, and what /proc shows of the daemon itself, are not within the roots."""
    assert refused(Path(name), roots).code == "roots.outside"


@needs_root
def test_a_device_is_judged_by_its_own_name(tmp_path: Path, inside: Path) -> None:
    """A device is bundled when it is a root, and not otherwise, by a link neither."""
    image = random_image(tmp_path / "image", 4096)
    with loop_device(image) as device:
        (inside / "link").symlink_to(device)
        with closing(open_volume(inside / "link", Roots([device]))) as volume:
            assert volume.size == 4096
        for path in (device, inside / "link"):
            assert refused(path, Roots([inside])).code == "roots.outside"


@needs_root
def test_another_namespace_cannot_lend_its_names(inside: Path, secret: Path, roots: Roots) -> None:
    """A file that somebody mounted under an allowed name in a namespace of his own is not the one of that name."""
    script = 'mount --bind "$1" "$2" && mount --bind "$3" "$2/allowed" && echo mounted && exec sleep 1000'
    argv = ["unshare", "--mount", "sh", "-c", script, "sh", str(inside.parent), str(inside), str(secret)]
    # The folder of the test is mounted on the root there, so a file beside it lies within the root by name.
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
    """However often a link is turned round, it is the allowed file that is read, or none."""
    with swapping(LINK, inside / "link", inside / "allowed", secret):
        answers = read_often(inside / "link", roots)
    assert set(answers) == {"read", "roots.outside"}, answers


def test_a_folder_swapped_in_a_loop(inside: Path, secret: Path, roots: Roots) -> None:
    """A link before the last place, turned round, gets nothing out either."""
    (inside / "real").mkdir()
    (inside / "real" / "file").write_bytes(ALLOWED)
    secret.rename(secret.with_name("file"))
    with swapping(LINK, inside / "folder", inside / "real", secret.parent):
        answers = read_often(inside / "folder" / "file", roots)
    assert set(answers) == {"read", "roots.outside"}, answers


def test_a_file_exchanged_with_a_link_in_a_loop(inside: Path, secret: Path, roots: Roots) -> None:
    """The name is a real file one moment and a link to the secret the next."""
    (inside / "link").symlink_to(secret)
    with swapping(EXCHANGE, inside / "allowed", inside / "link"):
        answers = read_often(inside / "allowed", roots)
    assert set(answers) == {"read", "roots.outside"}, answers


def refused_often(path: Path, roots: Roots) -> dict[str, int]:
    """Try to read what `path` names again and again, in vain. Counts the answers."""
    answers: dict[str, int] = {}
    for _ in attempts(ATTEMPTS, answers):
        error = refused(path, roots)
        answers[error.code] = answers.get(error.code, 0) + 1
    return answers


def test_a_second_name_in_a_loop(inside: Path, secret: Path, roots: Roots) -> None:
    """A second name of the secret that comes and goes never shows it, under whatever name."""
    with swapping(HARD_LINK, inside / "second", secret):
        answers = refused_often(inside / "second", roots)
    assert set(answers) == {"roots.linked", "roots.outside"}, answers


@needs_root
def test_a_second_name_that_goes_away_slowly(tmp_path: Path) -> None:
    """Not even while its removal is being written to the disk, when it is counted no more and is still there."""
    disk = ext4_image(tmp_path / "disk.img", 64 * MIB)
    with loop_device(disk, read_only=False) as device, mounted(device, tmp_path / "mounted") as place:
        inside, secret = place / "inside", place / "secret"
        inside.mkdir()
        secret.write_bytes(SECRET)
        # Each change of this directory is waited for, with the journal.
        subprocess.run(["chattr", "+D", inside], check=True)
        with swapping(HARD_LINK, inside / "second", secret):
            answers = refused_often(inside / "second", Roots([inside]))
    assert set(answers) == {"roots.linked", "roots.outside"}, answers


def test_a_directory_is_reached_step_by_step(inside: Path, roots: Roots) -> None:
    """A directory within a root is found, and made with those above it; it is told which."""
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
    """Not beside the roots, nor through a link, a step back or a file; and nothing is made."""
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
    """Roots are the administrator's to make."""
    with pytest.raises(RefusedError):
        make_directory(tmp_path / "root" / "a", Roots([tmp_path / "root"]), field="d")
    assert list(tmp_path.iterdir()) == []


def test_a_directory_exchanged_with_a_link_in_a_loop(inside: Path, secret: Path, roots: Roots) -> None:
    """What is made through a name that is a link one moment is made within the roots, or not at all."""
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
    """Whatever the answer, nothing stays open."""
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
