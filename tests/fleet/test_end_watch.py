"""The watch for the end of the instance."""

from __future__ import annotations

from typing import TYPE_CHECKING

from structlog.testing import capture_logs

from amistream.aws.metadata import EndNotice
from amistream.errors import UnreachedError
from amistream.fleet.end_watch import EVERY_S, watch_end
from aws.instance import instance

if TYPE_CHECKING:
    import pytest

NOTICE = EndNotice("the spot instance is interrupted", None)


class Watched:
    """An instance whose metadata answer one after the other."""

    def __init__(self, *answers: EndNotice | UnreachedError | None) -> None:
        self.answers = list(answers)
        self.stops = 0
        self.pauses: list[float] = []

    async def look(self) -> EndNotice | None:
        answer = self.answers.pop(0)
        if isinstance(answer, UnreachedError):
            raise answer
        return answer

    async def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)

    def stop(self) -> None:
        self.stops += 1

    async def watch(self) -> list[str]:
        """Watch to the end, and give the names of the events that were logged."""
        with capture_logs() as logs:
            await watch_end(self.stop, look=self.look, pause=self.pause)
        return [str(each["event"]) for each in logs]


async def test_a_notice_stops_once() -> None:
    """The first notice stops, and ends the watch."""
    watched = Watched(None, None, NOTICE, NOTICE)
    assert await watched.watch() == ["instance.ending"]
    assert (watched.stops, watched.pauses, len(watched.answers)) == (1, [EVERY_S] * 2, 1)


async def test_trouble_is_logged_once() -> None:
    """Metadata that do not answer are logged once until they do, and the watch goes on."""
    lost = UnreachedError("metadata.unreachable", "cannot read the instance's metadata", transient=True)
    watched = Watched(lost, lost, None, lost, NOTICE)
    assert await watched.watch() == ["instance.metadata", "instance.metadata", "instance.ending"]
    assert watched.stops == 1


async def test_the_metadata_of_an_instance(monkeypatch: pytest.MonkeyPatch) -> None:
    """The notice is found in the metadata service, which is asked again after a pause."""
    data: dict[str, str] = {"autoscaling/target-lifecycle-state": "InService"}
    stops: list[bool] = []

    async def pause(_: float) -> None:
        data["autoscaling/target-lifecycle-state"] = "Terminated"

    async with instance(data, monkeypatch):
        await watch_end(lambda: stops.append(True), pause=pause)
    assert stops == [True]
