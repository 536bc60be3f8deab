"""Real file systems are frozen, and thawed whoever dies; the judge is a process that wants to write."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from amistream.errors import RefusedError, SourceError
from amistream.host.frozen import Frozen
from support.frozen import GENEROUS_S, freezable, has_written, waiting_writer
from support.mounts import mounted

if TYPE_CHECKING:
    from collections.abc import Iterator

LONG_S = 600.0
SHORT_S = 0.5


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with freezable(tmp_path_factory.mktemp("frozen")) as (_, place):
        yield place


@pytest.fixture
def place(shared: Path) -> Iterator[Path]:
    """A file system that is not frozen at the start, whatever became of it before."""
    yield shared
    subprocess.run(["fsfreeze", "--unfreeze", shared], capture_output=True, check=False)


class Holder(NamedTuple):
    """A process that holds a freeze, and its guards."""

    parent: int
    freezer: int
    watcher: int

    def send(self, name: str, number: int) -> None:
        os.kill(getattr(self, name), number)


HOLD = """
import sys
from pathlib import Path
from amistream.host.frozen import Frozen
frozen = Frozen([Path(sys.argv[1])], limit_s=float(sys.argv[2]))
print(*(guard.process.pid for guard in frozen._guards), flush=True)
sys.stdin.read()
"""


@contextmanager
def holder(place: Path, limit_s: float) -> Iterator[Holder]:
    """Freeze in another process, and see at the end that no guard stays."""
    argv = [sys.executable, "-c", HOLD, str(place), str(limit_s)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        guards = [int(word) for word in process.stdout.readline().split()]
        ends = [os.pidfd_open(guard) for guard in guards]
        try:
            yield Holder(process.pid, *guards)
        finally:
            process.kill()
            for guard in guards:
                _continue(guard)
            for end in ends:
                assert select.select([end], [], [], GENEROUS_S)[0], "a guard stays"
                os.close(end)


def _continue(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


KILL, STOP, END = signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM

DEATHS = {
    "parent killed": {"parent": KILL},
    "freezer killed": {"freezer": KILL},
    "freezer ended": {"freezer": END},
    "watcher killed": {"watcher": KILL},
    "watcher ended": {"watcher": END},
    "parent and freezer killed": {"parent": KILL, "freezer": KILL},
    "parent and watcher killed": {"watcher": KILL, "parent": KILL},
    "freezer stopped, parent killed": {"freezer": STOP, "parent": KILL},
    "watcher stopped, parent killed": {"watcher": STOP, "parent": KILL},
}


@pytest.mark.parametrize("signals", DEATHS.values(), ids=DEATHS)
def test_a_writer_gets_through_when_one_dies(place: Path, signals: dict[str, signal.Signals]) -> None:
    """When any of the three processes dies, the others thaw at once."""
    with holder(place, LONG_S) as held:
        writer = waiting_writer(place)
        for name, number in signals.items():
            held.send(name, number)
        assert has_written(writer)


LIMITS: dict[str, dict[str, signal.Signals]] = {
    "nobody is gone": {},
    "freezer stopped": {"freezer": STOP},
    "watcher stopped": {"watcher": STOP},
    "parent stopped": {"parent": STOP},
    "parent and freezer stopped": {"parent": STOP, "freezer": STOP},
    "both guards stopped": {"freezer": STOP, "watcher": STOP},
    "both guards killed": {"watcher": STOP, "freezer": KILL},
}


@pytest.mark.parametrize("signals", LIMITS.values(), ids=LIMITS)
def test_a_writer_gets_through_at_the_limit(place: Path, signals: dict[str, signal.Signals]) -> None:
    """When any of the three processes does not go on, a freeze ends at its limit."""
    with holder(place, SHORT_S) as held:
        for name, number in signals.items():
            held.send(name, number)
        assert subprocess.run(["touch", place / "written"], check=False, timeout=GENEROUS_S).returncode == 0


def test_a_lazy_umount_leaves_the_way_to_thaw(tmp_path: Path) -> None:
    """A file system that is taken away while it is frozen is thawed all the same; an ordinary umount is refused."""
    with freezable(tmp_path) as (_, place), closing(Frozen([place], limit_s=LONG_S)) as frozen:
        assert subprocess.run(["umount", place], capture_output=True, check=False).returncode != 0
        writer = waiting_writer(place)
        subprocess.run(["umount", "--lazy", place], check=True)
        frozen.release()
        assert has_written(writer)


def test_held_until_its_release(place: Path) -> None:
    """A writer waits until the release, which finds that nobody thawed before; the guards stay in memory meanwhile."""
    frozen = Frozen([place], limit_s=LONG_S)
    writer = waiting_writer(place)
    frozen.check()
    for guard in frozen._guards:
        assert "VmLck:\t       0 kB" not in Path(f"/proc/{guard.process.pid}/status").read_text()
    assert writer.poll() is None
    frozen.release()
    assert has_written(writer)
    frozen.release()
    frozen.close()


def test_thawed_by_somebody_else(place: Path) -> None:
    """A release that finds the file system thawed fails."""
    frozen = Frozen([place], limit_s=LONG_S)
    subprocess.run(["fsfreeze", "--unfreeze", place], check=True)
    with pytest.raises(SourceError) as caught:
        frozen.release()
    assert caught.value.code == "freeze.lost"


@pytest.mark.parametrize(("guard", "number"), [(0, KILL), (1, KILL), (0, STOP)], ids=str)
def test_no_proof_without_its_guards(place: Path, guard: int, number: signal.Signals) -> None:
    """With or without its guards, a release thaws, and reports that the freeze was not proved."""
    frozen = Frozen([place], limit_s=LONG_S)
    writer = waiting_writer(place)
    process = frozen._guards[guard].process
    process.send_signal(number)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WSTOPPED | os.WNOWAIT)
    with pytest.raises(SourceError, match="were thawed before all was read"):
        frozen.release()
    assert has_written(writer)


def test_a_check_finds_the_limit(place: Path) -> None:
    """A check fails once the limit has passed."""
    with closing(Frozen([place], limit_s=SHORT_S)) as frozen:
        subprocess.run(["touch", place / "written"], check=True, timeout=GENEROUS_S)
        with pytest.raises(SourceError, match="were thawed"):
            frozen.check()


def test_frozen_by_somebody_else(place: Path) -> None:
    """A file system that is frozen already is refused, and stays frozen."""
    subprocess.run(["fsfreeze", "--freeze", place], check=True)
    with pytest.raises(RefusedError) as caught:
        Frozen([place], limit_s=LONG_S)
    assert (caught.value.code, caught.value.field) == ("freeze.failed", "freeze")
    assert "fsfreeze --unfreeze" in caught.value.hint
    subprocess.run(["fsfreeze", "--unfreeze", place], check=True)


def test_all_or_none(tmp_path: Path, place: Path) -> None:
    """Several file systems are frozen together; where one cannot be, the others are thawed."""
    with freezable(tmp_path, "other") as (_, other):
        frozen = Frozen([place, other], limit_s=LONG_S)
        writers = [waiting_writer(each) for each in (place, other)]
        frozen.release()
        assert all(map(has_written, writers))
    with mounted("tmpfs", tmp_path / "tmpfs", "-t", "tmpfs") as memory:
        with pytest.raises(RefusedError, match="cannot be frozen"):
            Frozen([place, memory], limit_s=LONG_S)
        subprocess.run(["touch", place / "again"], check=True, timeout=GENEROUS_S)


def test_a_place_that_is_gone(tmp_path: Path) -> None:
    """A directory that is not there any more is a refusal."""
    with pytest.raises(RefusedError, match="No such file"):
        Frozen([tmp_path / "gone"], limit_s=LONG_S)
