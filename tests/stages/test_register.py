"""Register: exactly once, despite lost answers, and only a usable AMI is reported."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from amistream.errors import NameTakenError, RegisterError, StoreError
from amistream.flow.retry import RetryPolicy
from amistream.ports.registry import JOB_TAG, Ami, Registration
from amistream.stages.register import LOOKS_AFTER_LOST_ANSWER, RegistrationAttempt, default_name, wait_available

MARK = {JOB_TAG: "20250131-120000-5f3a9c"}
ASKED = Registration(location="bucket/image.manifest.xml", name="my image", architecture="x86_64", tags=MARK)
OURS = Ami(id="ami-1", location=ASKED.location, state="available", tags=MARK)
BY_HAND = replace(OURS, tags={"Team": "web"})
THEIRS = Ami(id="ami-9", location="other/image.manifest.xml", state="available")
POLICY = RetryPolicy(attempts=3, base_s=1.0, cap_s=8.0, stall_s=60.0)

LOST = StoreError("aws.lost", "cannot register: no answer", hint="look at the network", transient=True)
DUPLICATE = NameTakenError("aws.InvalidAMIName.Duplicate", "cannot register: the name is taken", field="ami_name")
DENIED = StoreError("aws.UnauthorizedOperation", "cannot register: not allowed", hint="ask your administrator")

Answer = str | Ami | None | StoreError
NOWHERE: list[Answer] = [None] * LOOKS_AFTER_LOST_ANSWER


class ScriptedRegistry:
    """EC2 by script: each call takes the next answer of its kind; `calls` records the calls."""

    def __init__(
        self, *, register: Iterable[Answer] = (), find: Iterable[Answer] = (), look: Iterable[Answer] | None = None
    ) -> None:
        """Without `look` every AMI is available."""
        self.calls: list[str] = []
        self.recorded: list[str | None] = []
        self._all_available = look is None
        self._answers: dict[str, Iterator[Answer]] = {
            "register": iter(register),
            "find": iter(find),
            "look": iter(look or ()),
        }

    async def register(self, registration: Registration) -> str:
        assert registration == ASKED
        answer = self._next("register")
        assert isinstance(answer, str)
        return answer

    async def find(self, name: str) -> Ami | None:
        assert name == ASKED.name
        return self._image("find")

    async def describe(self, image_id: str) -> Ami | None:
        if self._all_available:
            return Ami(id=image_id, location=ASKED.location, state="available")
        assert image_id == "ami-1"
        return self._image("look")

    async def deregister(self, image_id: str) -> None:
        raise NotImplementedError

    async def record(self, image_id: str | None) -> None:
        self.recorded.append(image_id)

    def left(self) -> list[Answer]:
        """Return the answers that were not requested."""
        return [answer for answers in self._answers.values() for answer in answers]

    def _image(self, kind: str) -> Ami | None:
        answer = self._next(kind)
        assert not isinstance(answer, str)
        return answer

    def _next(self, kind: str) -> str | Ami | None:
        self.calls.append(kind)
        answer = next(self._answers[kind])
        if isinstance(answer, StoreError):
            raise answer
        return answer


class Clock:
    """Replaces `asyncio.sleep`: returns at once and records the times."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.slept.append(seconds)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(asyncio, "sleep", clock)
    return clock


def attempt(registry: ScriptedRegistry) -> RegistrationAttempt:
    return RegistrationAttempt(registry=registry, registration=ASKED, retry=POLICY, record=registry.record)


async def run_register(registry: ScriptedRegistry) -> str:
    return await attempt(registry).run(timeout_s=10.0, poll_s=2.0)


async def test_answered(clock: Clock) -> None:
    """An answer in time is the AMI's id, and nothing else is requested."""
    registry = ScriptedRegistry(register=["ami-1"])
    assert await run_register(registry) == "ami-1"
    assert registry.calls == ["register"]
    assert clock.slept == []


async def test_lost_then_found(clock: Clock) -> None:
    """After a lost answer, an existing AMI's id is returned and nothing is registered twice."""
    registry = ScriptedRegistry(register=[LOST], find=[None, OURS])
    assert await run_register(registry) == "ami-1"
    assert registry.calls == ["register", "find", "find"]
    assert len(clock.slept) == 2
    assert all(0 <= slept <= 2 for slept in clock.slept)


async def test_lost_not_found() -> None:
    """After a lost answer and several looks without an AMI, registration is tried again."""
    looks = [None] * LOOKS_AFTER_LOST_ANSWER
    registry = ScriptedRegistry(register=[LOST, "ami-2"], find=looks)
    assert await run_register(registry) == "ami-2"
    assert registry.calls == ["register", *["find"] * LOOKS_AFTER_LOST_ANSWER, "register"]


async def test_duplicate_after_unsure() -> None:
    """After a lost answer, a taken name means our own AMI."""
    looks = [None] * LOOKS_AFTER_LOST_ANSWER
    registry = ScriptedRegistry(register=[LOST, DUPLICATE], find=[*looks, OURS])
    assert await run_register(registry) == "ami-1"
    assert registry.left() == []


async def test_duplicate_of_another() -> None:
    """An AMI of our name at another location is never taken for ours."""
    looks = [THEIRS] * LOOKS_AFTER_LOST_ANSWER
    registry = ScriptedRegistry(register=[LOST, DUPLICATE, DUPLICATE], find=looks * 3)
    with pytest.raises(RegisterError) as caught:
        await run_register(registry)
    assert caught.value.code == DUPLICATE.code
    assert caught.value.field == "ami_name"
    assert registry.left() == []


async def test_duplicate_at_first() -> None:
    """A name that another bundle's AMI has is an error at once."""
    registry = ScriptedRegistry(register=[DUPLICATE], find=[THEIRS])
    with pytest.raises(RegisterError, match="the name is taken"):
        await run_register(registry)
    assert registry.calls == ["register", "find"]


async def test_permanent() -> None:
    """A permanent error is raised at once, with its own hint and the command to register by hand."""
    with pytest.raises(RegisterError) as caught:
        await run_register(ScriptedRegistry(register=[DENIED]))
    error = caught.value
    assert (error.code, error.message) == (DENIED.code, DENIED.message)
    first, second = error.hint.splitlines()
    assert first == "ask your administrator"
    assert "`amistream register s3://bucket/image.manifest.xml --ami-name 'my image'`" in second


async def test_no_hint() -> None:
    """An error without a hint gets only that command."""
    with pytest.raises(RegisterError) as caught:
        await run_register(ScriptedRegistry(register=[DUPLICATE], find=[None]))
    assert caught.value.hint.startswith("the bundle is complete and kept; resume the job, or register it ")


async def test_given_up() -> None:
    """After as many lost answers as attempts are allowed, the loss is the error."""
    looks = [None] * LOOKS_AFTER_LOST_ANSWER
    registry = ScriptedRegistry(register=[LOST] * 3, find=looks * 3)
    with pytest.raises(RegisterError, match="no answer"):
        await run_register(registry)
    assert registry.left() == []


async def test_look_fails() -> None:
    """If EC2 cannot be asked for the AMI, that is the error and nothing is registered again."""
    registry = ScriptedRegistry(register=[LOST], find=[DENIED])
    with pytest.raises(RegisterError, match="not allowed"):
        await run_register(registry)
    assert registry.calls == ["register", "find"]


async def test_look_is_repeated() -> None:
    """A look with a transient failure is repeated."""
    registry = ScriptedRegistry(register=[LOST], find=[LOST, OURS])
    assert await run_register(registry) == "ami-1"


@pytest.mark.parametrize(
    ("answers", "earlier", "recorded"),
    [
        ({"register": ["ami-1"]}, "none", [None, "ami-1"]),
        ({"register": [LOST], "find": [DENIED]}, "none", [None]),
        ({"register": [LOST] * 3, "find": NOWHERE * 3}, "none", [None] * 3),
        ({"register": [LOST, DENIED], "find": NOWHERE}, "none", [None] * 2),
        ({"register": [DENIED]}, "none", [None, ""]),
        ({"register": [DUPLICATE], "find": [THEIRS]}, "none", [None, ""]),
        ({"register": [DUPLICATE], "find": [BY_HAND]}, "none", [None, ""]),
        ({"register": [LOST], "find": [OURS]}, "none", [None, "ami-1"]),
        ({"register": [LOST], "find": [BY_HAND]}, "none", [None]),
        ({"register": [LOST, "ami-1"], "find": NOWHERE}, "none", [None, None, "ami-1"]),
        ({"find": [OURS]}, "unknown", ["ami-1"]),
        ({"find": [BY_HAND]}, "unknown", []),
        ({"find": [BY_HAND]}, "refused", []),
        ({"find": [OURS]}, "made", []),
        ({"register": [DENIED], "find": NOWHERE}, "unknown", [None, None]),
        ({"register": [DENIED], "find": NOWHERE}, "refused", [None, ""]),
    ],
    ids=[
        *("made", "lost", "lost often", "lost, then refused", "refused", "taken", "registered by another"),
        *("lost, then found", "lost, then found without the mark", "lost, then made"),
        *("made earlier", "found without the mark", "registered by a user", "known"),
        *("refused but perhaps made earlier", "refused again"),
    ],
)
async def test_knowledge(answers: dict[str, list[Answer]], earlier: str, recorded: list[str | None]) -> None:
    """An AMI counts as made or as not made only when EC2 has said so; otherwise that stays unknown."""
    own = {"none": "", "refused": "", "unknown": None, "made": "ami-1"}[earlier]
    registry = ScriptedRegistry(**answers)
    again = replace(attempt(registry), look_first=earlier != "none", own=own)
    with suppress(RegisterError):
        await again.run(timeout_s=10.0, poll_s=2.0)
    assert (registry.recorded, again.own) == (recorded, [own, *recorded][-1])
    assert registry.left() == []


def image(state: str, reason: str = "") -> Ami:
    return Ami(id="ami-1", location=ASKED.location, state=state, reason=reason)


async def wait(registry: ScriptedRegistry, timeout_s: float = 10.0) -> None:
    await wait_available(registry, "ami-1", POLICY, timeout_s=timeout_s, poll_s=2.0)


async def test_available(clock: Clock) -> None:
    """An AMI that is invisible, then pending, then available is awaited with a pause between looks."""
    registry = ScriptedRegistry(look=[None, image(""), image("pending"), image("transient"), image("available")])
    await wait(registry)
    assert registry.left() == []
    assert clock.slept == [2.0] * 4


@pytest.mark.parametrize(
    ("reason", "shown"), [("bad signature", "bad signature"), ("", "EC2 gave no reason")], ids=["reason", "none"]
)
async def test_bad_state(reason: str, shown: str, clock: Clock) -> None:
    """An AMI that EC2 could not make is an error with EC2's reason, at once."""
    with pytest.raises(RegisterError) as caught:
        await wait(ScriptedRegistry(look=[image("failed", reason)]))
    assert caught.value.code == "register.bad_state"
    assert caught.value.message == f"cannot use ami-1: EC2 put it into the state failed ({shown})"
    assert clock.slept == []


@pytest.mark.parametrize(("found", "shown"), [(image("pending"), "pending"), (None, "unknown to EC2")])
async def test_timeout(found: Ami | None, shown: str, clock: Clock) -> None:
    """Waiting ends after the timeout, with the AMI's last state."""
    registry = ScriptedRegistry(look=[found] * 5)
    with pytest.raises(RegisterError) as caught:
        await wait(registry)
    assert caught.value.code == "register.timeout"
    assert caught.value.message == f"cannot wait longer for ami-1: it is still {shown} after 10 s"
    assert sum(clock.slept) == 10.0
    assert registry.left() == []


async def test_looks_once_at_least() -> None:
    """A timeout shorter than the pause still allows one look."""
    await wait(ScriptedRegistry(look=[image("available")]), timeout_s=0.1)


async def test_cannot_look() -> None:
    """If EC2 does not answer, the error says so, and how to look by hand."""
    with pytest.raises(RegisterError) as caught:
        await wait(ScriptedRegistry(look=[DENIED]))
    assert caught.value.code == "register.unknown"
    assert caught.value.message == ("cannot find out whether ami-1 became available: cannot register: not allowed")
    assert caught.value.hint == "aws ec2 describe-images --image-ids ami-1"


@pytest.mark.parametrize(
    ("image", "start"),
    [("image", "image 2026"), ("web_1.\u00e9*x", "web_1.--x 2026"), ("n" * 128, "n" * 101 + " 2026")],
)
def test_a_name_that_nobody_chose(image: str, start: str) -> None:
    """The default name has bundle, time and token, in characters that EC2 accepts."""
    name = default_name(image, datetime(2026, 11, 22, 12, 5, tzinfo=UTC), "5f3a9c")
    assert name.startswith(start)
    assert name.endswith(" 2026-11-22 12.05.00 5f3a9c")
    assert re.fullmatch(r"[A-Za-z0-9()\[\] ./'@_-]{3,128}", name)
