"""Sends the messages of a submission to the queue."""

from __future__ import annotations

from collections.abc import Sequence

from amistream.aws.sqs import BATCH, Sqs
from amistream.errors import JobError, StoreError
from amistream.flow.gather import gather_limited

SENDS_AT_ONCE = 8


async def send_all(queue: Sqs, jobs: Sequence[tuple[str, str]]) -> None:
    """Send messages, given with the names of their jobs.

    Raises `JobError`, which counts those that were not sent and names one of them.
    """
    failures: list[tuple[str, StoreError]] = []

    async def send(batch: Sequence[tuple[str, str]]) -> None:
        try:
            failed = await queue.send([text for _, text in batch])
        except StoreError as error:
            failed = dict.fromkeys(range(len(batch)), error)
        failures.extend((batch[index][0], error) for index, error in failed.items())

    batches = [jobs[start : start + BATCH] for start in range(0, len(jobs), BATCH)]
    if batches:
        # A queue that refuses the first refuses all: that is shown as it is, and once.
        await send(batches[0])
        if len(failures) == len(batches[0]):
            raise failures[0][1]
        await gather_limited(send, batches[1:], SENDS_AT_ONCE)
    if failures:
        name, error = failures[0]
        raise JobError(
            error.code,
            f"cannot send {len(failures)} of {len(jobs)} messages, that of {name} among them: {error.message}",
            hint=f"{error.hint or 'try again'}; then send the same lines again: a job that was sent twice is done once",
            field=error.field,
        )
