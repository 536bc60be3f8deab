"""The kinds and the states of jobs, and the transitions between states: defined here and nowhere else.

Part of the documents of `events`, and apart from them for commands that show a job without loading the models.
"""

from __future__ import annotations

from enum import StrEnum


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
