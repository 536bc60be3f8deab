"""The runner of checks: order, dependencies, and the refusal made of several failures."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from amistream.checks.findings import Check, Finding, Observation, Status, refuse_if_failed, run_checks
from amistream.errors import RefusedError, StoreError

PATIENCE_S = 120


def ok(name: str, *needs: str, after: tuple[str, ...] = ()) -> Check:
    async def probe() -> str:
        return f"{name} is well"

    return Check(name=name, why="it matters", probe=probe, needs=needs, after=after)


def failing(name: str, *needs: str, hint: str = "mend it") -> Check:
    async def probe() -> Observation:
        raise StoreError(f"{name}.bad", f"cannot use {name}: it is bad", hint=hint, field=name)

    return Check(name=name, why="it would break", probe=probe, needs=needs)


def waiting(name: str, wait: Callable[[], Awaitable[object]], *needs: str) -> Check:
    async def probe() -> str:
        await wait()
        return "done"

    return Check(name=name, why="", probe=probe, needs=needs)


async def test_a_failure_does_not_hide_the_next() -> None:
    """A check that needs a failed one, directly or not, is skipped and names it; the others run."""
    findings = await run_checks(
        [
            failing("bucket"),
            ok("region", "bucket"),
            ok("image", "region"),
            failing("keys"),
            ok("clock", after=("keys",)),
        ]
    )
    assert [(each.name, each.status, each.blocked_by) for each in findings] == [
        ("bucket", Status.FAILED, ()),
        ("region", Status.SKIPPED, ("bucket",)),
        ("image", Status.SKIPPED, ("bucket",)),
        ("keys", Status.FAILED, ()),
        ("clock", Status.OK, ()),
    ]
    assert findings[0] == Finding(
        name="bucket",
        status=Status.FAILED,
        found="cannot use bucket: it is bad",
        why="it would break",
        fix="mend it",
        code="bucket.bad",
        field="bucket",
    )
    assert findings[2].found == "not checked without bucket"


async def test_what_needs_a_skipped_check_names_it() -> None:
    """A check that reports itself as skipped blocks its dependants; two reasons are both named."""

    async def not_given() -> Observation:
        return Observation("SOURCE was not given", Status.SKIPPED)

    source = Check(name="source", why="", probe=not_given)
    findings = await run_checks([source, failing("place"), ok("space", "source", "place")])
    assert findings[0].blocked_by == ()
    assert findings[2].blocked_by == ("source", "place")


async def test_a_check_with_several_observations() -> None:
    """Each observation of a check becomes a finding under the check's name, and notices block no other check."""
    two = [Observation("the first", Status.NOTICE, why="so"), Observation("the second", Status.NOTICE, fix="thus")]
    findings = await run_checks([Check("blocks", "it matters", lambda: two), ok("parts", "blocks")])
    assert [(each.name, each.status, each.found) for each in findings] == [
        ("blocks", Status.NOTICE, "the first"),
        ("blocks", Status.NOTICE, "the second"),
        ("parts", Status.OK, "parts is well"),
    ]


async def test_what_is_not_there_blocks_nothing() -> None:
    """A needed check that is not part of the run is ignored."""
    assert [each.status for each in await run_checks([ok("devices", "metadata", after=("region",))])] == [Status.OK]


async def test_side_by_side_and_in_order() -> None:
    """Independent checks run at once; the findings keep the order of the checks."""
    here, there = asyncio.Event(), asyncio.Event()

    async def meet(mine: asyncio.Event, other: asyncio.Event) -> None:
        mine.set()
        await other.wait()

    async with asyncio.timeout(PATIENCE_S):
        findings = await run_checks(
            [
                waiting("last", there.wait, "second"),
                waiting("first", lambda: meet(here, there)),
                waiting("second", lambda: meet(there, here)),
            ]
        )
    assert [each.name for each in findings] == ["last", "first", "second"]
    assert {each.status for each in findings} == {Status.OK}


async def test_a_notice_goes_on() -> None:
    """A notice blocks nothing, and is one line with reason and remedy."""

    async def probe() -> Observation:
        return Observation("the clock is late", Status.NOTICE, why="AWS may refuse", fix="set it")

    findings = await run_checks([Check(name="clock", why="", probe=probe), ok("bucket", "clock")])
    assert findings[0].notice == "the clock is late: AWS may refuse; set it"
    assert findings[1].status is Status.OK
    refuse_if_failed(findings)


async def test_a_bug_is_no_finding() -> None:
    """An unexpected exception is raised as it is, and the other checks are cancelled."""
    ended: list[str] = []

    async def for_ever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("yes")

    async def broken() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await run_checks([waiting("long", for_ever), waiting("broken", broken), ok("after", "broken")])
    assert ended == ["yes"]


async def test_a_cancel_ends_every_check() -> None:
    """A cancel leaves no task behind."""
    begun = asyncio.Event()

    async def for_ever() -> None:
        begun.set()
        await asyncio.Event().wait()

    running = asyncio.create_task(run_checks([waiting("long", for_ever), ok("after", "long")]))
    await begun.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_the_refusal_has_the_first_failure_and_tells_the_others() -> None:
    """Code, message, hint and field are the first failure's; each other failure is a line of the hint."""
    findings = await run_checks([ok("a"), failing("b"), failing("c", hint=""), failing("d", hint="do this\nand that")])
    with pytest.raises(RefusedError) as caught:
        refuse_if_failed(findings)
    assert (caught.value.code, caught.value.message, caught.value.field) == ("b.bad", "cannot use b: it is bad", "b")
    assert caught.value.hint.splitlines() == [
        "mend it",
        "also: cannot use c: it is bad",
        "also: cannot use d: it is bad",
        "  do this",
        "  and that",
    ]
