"""Bundles a directory while another process changes it, and judges the image and the report. Needs root, to mount.

    python tests/faults/live_tree.py --seconds 60 --seed 1
    python tests/faults/live_tree.py --seconds 60 --seed 1 --always

The other process writes into files, cuts them, replaces, renames and removes them, and swaps links, pipes and whole
directories in and out, all towards a place outside of the directory. It begins when the directory was walked and ends
before the last file is looked at, so that the files that moved are known: those whose witness differs from before. With
--always it is at work from before the walk until the job has ended; then only files that it never touched are judged.

The job must be done, and e2fsck find nothing. Each file that moved must be reported and no other, and all others equal
through a mount. Nothing from outside may be in the image.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from source.tree.images import is_clean
from source.tree.nasty import described
from support.buckets import create_bucket, list_keys
from support.commands import COMMANDS
from support.daemons import Daemon, owner, running_daemon
from support.endpoints import run_ministack
from support.keys import make_keys
from support.mounts import mounted

if TYPE_CHECKING:
    from collections.abc import Callable

BUCKET = "live-tree"
MARKER = b"from-outside-of-the-tree\n"
FOLDERS, FILES, LARGEST = 60, 25, 160_000
"""Folders of the tree, files in each, and bytes of the largest."""
SWAPPED = 6
"""The first folders: each is swapped for a link and back, and its files keep their witnesses."""
MOVED = ("changed while it was read", "grew, and was cut", "shrank, and may end in zeros", "vanished or was replaced")
MIB = 1 << 20
SPEED = 0.4
"""Part of the tree that may be uploaded in the other process's time: what it removes needs no time, but half stays."""
PAUSE_S = 0.004
PATIENCE_S = 900


class Mover:
    """Changes a tree at random, and remembers the paths that it touched."""

    def __init__(self, root: Path, outside: Path, seed: int) -> None:
        self._root, self._outside = root, outside
        self._dice = random.Random(seed)
        self.touched: Counter[str] = Counter()
        self.done: Counter[str] = Counter()
        self._files = sorted(str(path.relative_to(root)) for path in root.glob("f*/*"))
        # Half of the files are left alone; so there is something to compare.
        self._files = [path for path in self._files if self._dice.random() < 0.5 and _number(path) >= SWAPPED]

    def run(self, seconds: float) -> None:
        acts: list[Callable[[Path], None]] = [
            self.write, self.append, self.cut, self.replace, self.rename, self.remove, self.change_mode,
            self.swap_link, self.swap_pipe, self.make_new, self.swap_folder, self.retarget,
        ]  # fmt: skip
        end, stop = time.monotonic() + seconds, self._root.with_name("stop")
        while time.monotonic() < end and not stop.exists():
            act, name = self._dice.choice(acts), self._dice.choice(self._files)
            with suppress(FileNotFoundError, NotADirectoryError, FileExistsError):
                act(self._root / name)
                self.done[act.__name__] += 1
            time.sleep(PAUSE_S)  # a load, not a synchronisation

    def _touch(self, path: Path) -> Path:
        self.touched[str(path.relative_to(self._root))] += 1
        return path

    def _is_file(self, path: Path) -> bool:
        return path.is_file() and not path.is_symlink()

    def write(self, path: Path) -> None:
        if self._is_file(path):
            with self._touch(path).open("r+b") as file:
                file.write(self._dice.randbytes(5_000))

    def append(self, path: Path) -> None:
        if self._is_file(path):
            with self._touch(path).open("ab") as file:
                file.write(self._dice.randbytes(9_000))

    def cut(self, path: Path) -> None:
        if self._is_file(path):
            os.truncate(self._touch(path), self._dice.randrange(path.stat().st_size + 1))

    def replace(self, path: Path) -> None:
        other = self._touch(path).with_name("replacing")
        other.write_bytes(self._dice.randbytes(20_000))
        other.replace(path)

    def rename(self, path: Path) -> None:
        self._touch(path).rename(path.with_name(path.name + ".old"))

    def remove(self, path: Path) -> None:
        self._touch(path).unlink()

    def change_mode(self, path: Path) -> None:
        if self._is_file(path):
            self._touch(path).chmod(self._dice.choice([0o600, 0o640, 0o755]))

    def swap_link(self, path: Path) -> None:
        """A link to the file of that name outside takes its place for a moment, or for good."""
        aside = self._touch(path).with_name(".aside")
        path.rename(aside)
        path.symlink_to(self._outside / path.name)
        if self._dice.random() < 0.7:
            time.sleep(PAUSE_S)
            aside.replace(path)

    def swap_pipe(self, path: Path) -> None:
        if self._dice.random() < 0.1:
            self._touch(path).unlink()
            os.mkfifo(path)

    def make_new(self, path: Path) -> None:
        new = path.with_name(f"new-{self._dice.randrange(1000)}")
        self._touch(new).write_bytes(b"new" * 1000)

    def swap_folder(self, path: Path) -> None:
        """A link outside, or another folder, takes a folder's place for a moment."""
        del path
        folder = self._root / f"f{self._dice.randrange(SWAPPED):03d}"
        aside = folder.with_name("aside")
        folder.rename(aside)
        try:
            folder.symlink_to(self._outside)
            time.sleep(5 * PAUSE_S)
        finally:
            folder.unlink()
            aside.rename(folder)

    def retarget(self, path: Path) -> None:
        link = path.parent / "link"
        other = path.parent / "other-link"
        other.symlink_to(self._outside / path.name)
        other.replace(self._touch(link))


def make_tree(root: Path, outside: Path, seed: int) -> None:
    """Folders with files of noise and a link, and outside of them a file of each name."""
    dice = random.Random(seed)
    outside.mkdir()
    for folder in range(FOLDERS):
        here = root / f"f{folder:03d}"
        here.mkdir(parents=True)
        (here / "link").symlink_to("file-00")
        for number in range(FILES):
            (here / f"file-{number:02d}").write_bytes(dice.randbytes(dice.randrange(LARGEST)))
    for number in range(FILES):
        (outside / f"file-{number:02d}").write_bytes(MARKER * (LARGEST // len(MARKER)))


def witnesses(root: Path) -> dict[str, tuple[int, ...]]:
    """The values that show that a file is as it was, for all but directories."""
    found: dict[str, tuple[int, ...]] = {}
    for path in root.glob("f*/*"):
        about = path.lstat()
        key = (about.st_dev, about.st_ino, about.st_mtime_ns, about.st_ctime_ns, about.st_size)
        found[str(path.relative_to(root))] = key
    return found


def reported(report: Path) -> set[str]:
    """The paths of the files that moved, by the job's report."""
    lines = [json.loads(line) for line in report.read_text().splitlines()]
    return {each["path"].lstrip("/") for each in lines if each["fate"].startswith(MOVED)}


def check(*, seconds: float, seed: int, directory: Path, always: bool) -> dict[str, Any]:
    """Bundle under load and judge. Raises AssertionError when something is not as it must be."""
    root, outside, report = directory / "tree", directory / "outside", directory / "report"
    make_tree(root, outside, seed)
    size = sum(path.stat().st_size for path in root.glob("f*/file-*"))
    keys, before = make_keys(directory), witnesses(root)
    with ExitStack() as stack:
        endpoint = stack.enter_context(run_ministack())
        create_bucket(endpoint, BUCKET)
        daemon = stack.enter_context(running_daemon(directory, endpoint, forked=False, block_size="64KiB"))
        mover = _Process(root, outside, seed, PATIENCE_S if always else seconds)
        if always:
            mover.start()
        job = daemon.submit(
            source=str(root),
            destinations=[f"s3://{BUCKET}/x"],
            **owner(keys),
            register_image=False,
            endpoint_url=endpoint.url,
            part_size="256KiB",
            upload_concurrency=1,
            limit_upload=int(size / seconds * SPEED),
            size=2 * size // MIB * MIB + 64 * MIB,
            partition="none",
            report=str(report),
        )
        if not always:
            _wait_bundling(daemon, job)
            mover.start()
            done, touched = mover.wait()
            state = daemon.job(job)["state"]
            assert state == "bundling", f"the job was {state} when the other process ended: nothing is known then"
        ended = daemon.wait_ended(job)
        if always:
            done, touched = mover.stop()
        assert ended["state"] == "done", ended
        assert len(list_keys(endpoint, BUCKET)) == ended["result"]["parts"] + 1
        image = directory / "image"
        argv: list[str | Path] = [COMMANDS / "amistream", "unbundle", f"s3://{BUCKET}/x/image.manifest.xml", image]
        argv += ["--endpoint-url", endpoint.url, "--cert", keys.user.certificate, "--private-key", keys.user.key]
        back = subprocess.run(argv, env=daemon.environ, capture_output=True, text=True, check=False)
        assert back.returncode == 0, back.stderr
    assert is_clean(image)
    grep = subprocess.run(["grep", "-c", "-a", "-F", MARKER.strip(), image], capture_output=True, check=False)
    assert grep.stdout.strip() == b"0", "something from outside is in the image"
    after, named = witnesses(root), reported(report)
    if always:
        # A folder that is away during the walk is a link in the image.
        equal = {path for path in before if path not in touched and _number(path) >= SWAPPED}
        assert not named & equal, f"reported: {sorted(named & equal)}"
    else:
        moved = {path for path, witness in before.items() if after.get(path) != witness}
        assert moved <= named, f"not reported: {sorted(moved - named)}"
        # A file that was read while its folder was away is missing, though it came back as it was.
        assert all(_number(path) < SWAPPED for path in named - moved), f"reported: {sorted(named - moved)}"
        equal = before.keys() - named
    with mounted(image, directory / "mnt", "-o", "loop,ro") as mount:
        shown, own = described(mount), described(root)
    for path in equal:
        assert shown[_key(path)] == own[_key(path)], path
    return {
        "seed": seed,
        "files": len(before),
        "acts": dict(done),
        "moved": "unknown" if always else len(moved),
        "reported": len(named),
        "of them in folders that were away": sum(_number(path) < SWAPPED for path in named),
        "equal": len(equal),
    }


class _Process:
    """The other process."""

    def __init__(self, root: Path, outside: Path, seed: int, seconds: float) -> None:
        self._stop = root.with_name("stop")
        self._argv = [sys.executable, __file__, "--move", str(root), "--outside", str(outside)]
        self._argv += ["--seed", str(seed), "--seconds", str(seconds)]

    def start(self) -> None:
        self._process = subprocess.Popen(self._argv, stdout=subprocess.PIPE, text=True)

    def wait(self) -> tuple[dict[str, int], set[str]]:
        """Return how often it did each thing, and the paths that it touched."""
        said, _ = self._process.communicate()
        assert self._process.returncode == 0
        answer = json.loads(said)
        return answer["done"], set(answer["touched"])

    def stop(self) -> tuple[dict[str, int], set[str]]:
        assert self._process.poll() is None, "it ended before the job"
        self._stop.touch()
        return self.wait()


def _wait_bundling(daemon: Daemon, job: str) -> None:
    while (state := daemon.job(job)["state"]) != "bundling":
        assert state in ("queued", "checking"), daemon.job(job)
        time.sleep(0.02)


def _number(path: str) -> int:
    return int(path[1:4])


def _key(path: str) -> bytes:
    return b"/" + os.fsencode(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="of the other process's work (default: 60)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--always", action="store_true", help="keep it at work from before the walk to the end")
    parser.add_argument("--move", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--outside", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.move:
        mover = Mover(options.move, options.outside, options.seed)
        mover.run(options.seconds)
        print(json.dumps({"done": mover.done, "touched": list(mover.touched)}))  # noqa: T201 - for the parent
        return
    with tempfile.TemporaryDirectory(prefix="live-tree-") as name:
        found = check(seconds=options.seconds, seed=options.seed, directory=Path(name), always=options.always)
    print(json.dumps(found))  # noqa: T201 - the script's answer


if __name__ == "__main__":
    main()
