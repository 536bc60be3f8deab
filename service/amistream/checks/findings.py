"""Checks and what they found: one finding each, run side by side, each as soon as what it needs is known.

A check that fails does not hide the next: the others go on, and those that need it are skipped and say so. The order of
the findings is the order in which the checks were given, however long each took.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

from amistream.errors import AmistreamError, RefusedError, first_cause
from amistream.values import GIB, KIB, MIB


class Status(StrEnum):
    """How a check came out."""

    OK = "ok"
    NOTICE = "notice"
    FAILED = "failed"
    SKIPPED = "skipped"


class Finding(BaseModel):
    """What one check found. With `failed` a job would be refused, or fail later; a `notice` is worth knowing."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    status: Status
    found: str = Field(description="what was found")
    why: str = Field("", description="what would go wrong later")
    fix: str = Field("", description="the command, or the step, that mends it")
    code: str = Field("", description="of the error, when it failed")
    field: str = Field("", description="the input at fault, if one is")
    blocked_by: tuple[str, ...] = Field((), description="the failed checks for which this one was skipped")

    @property
    def notice(self) -> str:
        """The finding as one line of a job's notices."""
        told = ": ".join(filter(None, (self.found, self.why)))
        return f"{told}; {self.fix}" if self.fix else told


@dataclass(frozen=True, slots=True)
class Observation:
    """What a check that did not fail has to say; a notice says why it is one. Whatever needs a skipped check is too."""

    found: str
    status: Status = Status.OK
    why: str = ""
    fix: str = ""


Probe = Callable[[], Awaitable[Observation | str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One question, and `why` it is asked: what would go wrong later. `look` raises `AmistreamError` to fail.

    It is skipped unless every check it `needs` came out well; it only waits for those that it comes `after`. Names that
    are not among the checks of a run count for nothing.
    """

    name: str
    why: str
    look: Probe
    needs: tuple[str, ...] = ()
    after: tuple[str, ...] = ()


async def run_checks(checks: Sequence[Check]) -> list[Finding]:
    """Run them all; raises only what is no finding: a cancel, or a bug."""
    tasks: dict[str, asyncio.Task[Finding]] = {}

    async def run(check: Check) -> Finding:
        before = {name: await tasks[name] for name in (*check.after, *check.needs) if name in tasks}
        blocked_by = tuple(dict.fromkeys(name for need in check.needs for name in _blocking(before.get(need))))
        return _skipped(check.name, blocked_by) if blocked_by else await _look(check)

    try:
        async with asyncio.TaskGroup() as group:
            for check in checks:
                tasks[check.name] = group.create_task(run(check), name=f"check {check.name}")
    except BaseExceptionGroup as errors:
        raise first_cause(errors) from None
    return [task.result() for task in tasks.values()]


async def _look(check: Check) -> Finding:
    try:
        seen = await check.look()
    except AmistreamError as error:
        return Finding(
            name=check.name,
            status=Status.FAILED,
            found=error.message,
            why=check.why,
            fix=error.hint,
            code=error.code,
            field=error.field,
        )
    if isinstance(seen, str):
        seen = Observation(seen)
    return Finding(name=check.name, status=seen.status, found=seen.found, why=seen.why, fix=seen.fix)


def _blocking(finding: Finding | None) -> tuple[str, ...]:
    """The checks for which whatever needs this one is skipped: itself, or what it was skipped for."""
    if finding is None or finding.status in (Status.OK, Status.NOTICE):
        return ()
    return finding.blocked_by or (finding.name,)


def _skipped(name: str, blocked_by: tuple[str, ...]) -> Finding:
    return Finding(
        name=name, status=Status.SKIPPED, found=f"not looked at without {', '.join(blocked_by)}", blocked_by=blocked_by
    )


def for_place(checks: Iterable[Check], number: int) -> list[Check]:
    """The checks of the destination `number`, from 0: from the second on their names have a number of their own."""
    asked = list(checks)
    own = {check.name for check in asked}

    def named(*names: str) -> tuple[str, ...]:
        return tuple(f"{name} {number + 1}" if number and name in own else name for name in names)

    return [
        replace(check, name=named(check.name)[0], needs=named(*check.needs), after=named(*check.after))
        for check in asked
    ]


def refuse_if_failed(findings: Iterable[Finding]) -> None:
    """Raise the first failure as it is, with the others behind its hint."""
    failed = [finding for finding in findings if finding.status is Status.FAILED]
    if not failed:
        return
    first, *others = failed
    also = ["; ".join(filter(None, (f"also: {other.found}", other.fix))).replace("\n", " ") for other in others]
    raise RefusedError(first.code, first.found, hint="\n".join(filter(None, (first.fix, *also))), field=first.field)


def size_text(size: int) -> str:
    """Bytes for people: 10.00 GiB, 700 B."""
    for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if size >= unit:
            return f"{size / unit:.2f} {name}"
    return f"{size} B"
