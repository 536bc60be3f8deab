"""The kinds and the states of jobs, and the transitions between states: defined here and nowhere else.

Words of the documents of `events` and `reports`, and apart from them for commands that show a job without loading the
models.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class JobKind(StrEnum):
    """The kinds of jobs. Each has its own request, run (`jobs.engine`) and result; states and events are shared."""

    BUNDLE = "bundle"
    CONVERT = "convert"
    VERIFY = "verify"
    MIGRATE = "migrate"


class State(StrEnum):
    """A job's state; those from `done` on are ends. Interrupted jobs can be resumed, and some failed ones."""

    QUEUED = "queued"
    CHECKING = "checking"
    BUNDLING = "bundling"
    CONVERTING = "converting"
    VERIFYING = "verifying"
    COPYING = "copying"
    COMMITTING = "committing"
    REGISTERING = "registering"
    DONE = "done"
    REFUSED = "refused"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"

    @property
    def ended(self) -> bool:
        return not TRANSITIONS[self]


OTHERS_SIGNATURE = "not checked: it is another user's"
"""The state of a signature by a key that is not at hand, as `--json` has it."""
UNFINISHED = "unfinished"
"""Stands for every job that can be resumed or cleaned, whatever its state."""
_CUT_SHORT = (State.CANCELLED, State.FAILED, State.INTERRUPTED)

TRANSITIONS: dict[State, frozenset[State]] = {
    State.QUEUED: frozenset({State.CHECKING, *_CUT_SHORT}),
    State.CHECKING: frozenset(
        {
            *(State.BUNDLING, State.CONVERTING, State.VERIFYING, State.COPYING, State.COMMITTING, State.REFUSED),
            *_CUT_SHORT,
        }
    ),
    State.BUNDLING: frozenset({State.COMMITTING, *_CUT_SHORT}),
    State.CONVERTING: frozenset({State.COMMITTING, *_CUT_SHORT}),
    State.VERIFYING: frozenset({State.DONE, *_CUT_SHORT}),
    State.COPYING: frozenset({State.COMMITTING, *_CUT_SHORT}),
    State.COMMITTING: frozenset({State.REGISTERING, State.DONE, *_CUT_SHORT}),
    State.REGISTERING: frozenset({State.DONE, *_CUT_SHORT}),
    State.DONE: frozenset(),
    State.REFUSED: frozenset(),
    State.FAILED: frozenset(),
    State.CANCELLED: frozenset(),
    State.INTERRUPTED: frozenset(),
}


def ids_like(word: str, ids: Iterable[str]) -> list[str]:
    """The ids that `word` may stand for: that id alone, else all that begin with it, or whose last six letters do."""
    found = [each for each in ids if word and (each.startswith(word) or each.rpartition("-")[2].startswith(word))]
    return [word] if word in found else found
