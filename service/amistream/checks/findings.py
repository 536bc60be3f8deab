"""Runs checks side by side, each as soon as the checks it needs are done, and collects their findings.

A failed check does not hide the others: they go on, and only those that need it are skipped. The findings keep the
order in which the checks were given, however long each took.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from inspect import iscoroutinefunction
from typing import Annotated, Self, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from amistream.errors import AmistreamError, RefusedError
from amistream.flow.cancel import finish_despite_cancel
from amistream.flow.gather import task_group
from amistream.values import as_utf8


class Status(StrEnum):
    """Outcome of a check."""

    OK = "ok"
    NOTICE = "notice"
    FAILED = "failed"
    SKIPPED = "skipped"
    UNKNOWN = "unknown"


class Finding(BaseModel):
    """The result of one check. `failed`: a job would be refused, or fail later; `notice`: worth knowing.

    `unknown`: it cannot be told.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    name: str
    status: Status
    found: Annotated[str, AfterValidator(as_utf8)] = Field(description="what was found")
    why: str = Field("", description="what would go wrong later")
    fix: Annotated[str, AfterValidator(as_utf8)] = Field("", description="the command or step that fixes it")
    code: str = Field("", description="of the error or fault, for programs")
    field: str = Field("", description="the input at fault, if any")
    blocked_by: tuple[str, ...] = Field((), description="the failed checks for which this one was skipped")

    @classmethod
    def failed(cls, name: str, why: str, error: AmistreamError) -> Self:
        about = {"found": error.message, "fix": error.hint, "code": error.code, "field": error.field}
        return cls(name=name, status=Status.FAILED, why=why, **about)

    @property
    def notice(self) -> str:
        """The finding as one line of a job's notices."""
        reason = ": ".join(filter(None, (self.found, self.why)))
        return f"{reason}; {self.fix}" if self.fix else reason


class Findings(BaseModel):
    """The results of all checks."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class Observation:
    """The result of a check that did not fail. A notice must give its reason.

    A check that needs a skipped check is skipped too.
    """

    found: str
    status: Status = Status.OK
    why: str = ""
    fix: str = ""
    code: str = ""


def notice(found: str, *, why: str, fix: str = "") -> Observation:
    return Observation(found, Status.NOTICE, why, fix)


Answer: TypeAlias = Observation | str | Sequence[Observation]


@dataclass(frozen=True, slots=True)
class Check:
    """One question, and `why` it is asked: what would go wrong later. `probe` raises `AmistreamError` to fail.

    It answers with one observation, its text alone, or several: each becomes a finding, under the check's name. A
    `probe` that is no coroutine function runs on a thread, and is waited for even when the checks are cancelled. The
    check is skipped unless all checks that it `needs` passed; it only waits for those that it comes `after`. Names of
    checks that are not part of the run are ignored.
    """

    name: str
    why: str
    probe: Callable[[], Awaitable[Answer]] | Callable[[], Answer]
    needs: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    words: tuple[str, str] = ("", "")
    """Words of a failure, and those that take their place: rooms below speak of one kind of job."""


async def run_checks(checks: Sequence[Check]) -> list[Finding]:
    """Run all checks. Raises only for a cancel or a bug."""
    tasks: dict[str, asyncio.Task[list[Finding]]] = {}

    async def run(check: Check) -> list[Finding]:
        before = {name: await tasks[name] for name in (*check.after, *check.needs) if name in tasks}
        blocked_by = tuple(dict.fromkeys(name for need in check.needs for name in _blocking(before.get(need, []))))
        if not blocked_by:
            return await _findings_of(check)
        found = f"not checked without {', '.join(blocked_by)}"
        return [Finding(name=check.name, status=Status.SKIPPED, found=found, blocked_by=blocked_by)]

    async with task_group() as group:
        for check in checks:
            tasks[check.name] = group.create_task(run(check), name=f"check {check.name}")
    return [finding for task in tasks.values() for finding in task.result()]


async def _findings_of(check: Check) -> list[Finding]:
    try:
        if iscoroutinefunction(check.probe):
            answer = await check.probe()
        else:
            answer = await finish_despite_cancel(asyncio.to_thread(check.probe))
    except AmistreamError as error:
        error = error.reworded(message=error.message.replace(*check.words, 1))
        return [Finding.failed(check.name, check.why, error)]
    if isinstance(answer, str):
        answer = Observation(answer)
    observations = [answer] if isinstance(answer, Observation) else answer
    return [Finding(name=check.name, **asdict(observation)) for observation in observations]


def _blocking(findings: Sequence[Finding]) -> Iterator[str]:
    """The failed checks that block dependants of this one: itself, or those that it was skipped for."""
    for finding in findings:
        if finding.status in (Status.FAILED, Status.SKIPPED):
            yield from finding.blocked_by or (finding.name,)


def for_destination(checks: Iterable[Check], number: int) -> list[Check]:
    """Name the checks for destination `number`, from 0: from the second on each name gets a number."""
    asked = list(checks)
    own = {check.name for check in asked}

    def named(*names: str) -> tuple[str, ...]:
        return tuple(f"{name} {number + 1}" if number and name in own else name for name in names)

    return [
        replace(check, name=named(check.name)[0], needs=named(*check.needs), after=named(*check.after))
        for check in asked
    ]


def refuse_if_failed(findings: Iterable[Finding]) -> None:
    """Raise the first failure as it is, with the others added to its hint."""
    failed = [finding for finding in findings if finding.status is Status.FAILED]
    if not failed:
        return
    first, *others = failed
    hint = "\n".join(filter(None, (first.fix, *map(_also, others))))
    raise RefusedError(first.code, first.found, hint=hint, field=first.field)


def _also(other: Finding) -> str:
    """A further failure in a line; lines of its fix that are to be copied stay lines."""
    found = f"also: {' '.join(other.found.split())}"
    if "\n" in other.fix:
        return "\n  ".join([found, *other.fix.splitlines()])
    return f"{found}; {other.fix}" if other.fix else found
