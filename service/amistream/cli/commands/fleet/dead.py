"""The command `fleet dead`: shows the dead letters, or deletes them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from amistream.cli.fleet.queues import Queue, queue_url, run_at
from amistream.cli.options import ConfigOption, JsonOption, Yes
from amistream.cli.output import put_note, put_result
from amistream.cli.table import columns, counted
from amistream.errors import EXIT_DONE
from amistream.units import time_text

if TYPE_CHECKING:
    from amistream.aws.session import Aws
    from amistream.aws.sqs import Delivery, Sqs


def dead(
    *,
    queue: Queue = None,
    drop: Annotated[bool, typer.Option("--drop", help="Delete them all; it lists them, and asks first.")] = False,
    yes: Yes = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """Show the dead letters: messages whose jobs failed for good, or were begun too often.

    Their hosts sent them to the queue's queue of dead letters, with the error's code, or SQS did, when they were
    received as often as the queue allows. Mend the cause, then send them again with `redrive`.

    Example: [bold]amistream fleet dead --json[/bold]
    """
    from amistream.settings import load

    settings = load(config)

    async def look(target: Sqs, _: Aws) -> None:
        from amistream.cli.fleet.reader import QueueReader
        from amistream.cli.question import confirm

        letters = await target.dead_letter()
        if letters is None:
            raise target.no_dead_letters()
        reader = QueueReader(letters)
        async with reader.reading():
            found = await reader.read_all()
            if as_json:
                for each in found:
                    put_result(json.dumps(_letter(each)))
            else:
                put_result(_dead_text(found))
            if drop and found:
                question = f"Delete {counted(len(found), 'dead letter')}?"
                await confirm(question, yes=yes, what="delete dead letters", look="without --drop")
                await reader.take(found)
                put_note(f"deleted {counted(len(found), 'dead letter')}")

    run_at(queue_url(queue, settings), settings, look)
    return EXIT_DONE


def _letter(letter: Delivery) -> dict[str, Any]:
    """A dead letter for machines: the message as it is, if it is JSON, and the words of who sent it here."""
    try:
        message = json.loads(letter.body)
    except ValueError:
        message = letter.body
    about = {"message_id": letter.message_id, "sent_at": letter.sent_at.isoformat()}
    return {**about, "attributes": dict(letter.attributes), "message": message}


def _dead_text(letters: Sequence[Delivery]) -> str:
    rows = [
        (
            time_text(each.sent_at),
            each.attributes.get("code", "-"),
            each.attributes.get("host", "-"),
            _job_in(each.body),
        )
        for each in letters
    ]
    blocks = [columns([("SENT", "CODE", "HOST", "JOB"), *rows])] if rows else []
    return "\n\n".join([*blocks, counted(len(letters), "dead letter")])


def _job_in(body: str) -> str:
    """The name of the job, or the begin of a message that has none."""
    try:
        return str(json.loads(body)["job"])
    except (ValueError, LookupError, TypeError):
        return " ".join(body.split())[:60]
