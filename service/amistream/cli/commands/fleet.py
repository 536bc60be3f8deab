"""Give jobs to many hosts through an SQS queue, and see what became of them.

Every host runs the daemon with `--queue`. The commands here need no daemon: they ask the queues, with your credentials.

Example: amistream fleet submit jobs.jsonl
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from amistream.cli.daemon_socket import socket_path
from amistream.cli.options import ConfigOption, JsonOption, SocketOption, Yes
from amistream.cli.output import put_answer, put_note, put_result
from amistream.cli.request_options import takes, validated
from amistream.cli.table import columns, counted
from amistream.errors import EXIT_DONE, JobError, UsageError
from amistream.events import JobKind, QueueHealth, State
from amistream.request import StoreReach
from amistream.units import time_text

if TYPE_CHECKING:
    from amistream.aws.session import Aws
    from amistream.aws.sqs import Delivery, Sqs
    from amistream.cli.fleet_desk import Board
    from amistream.cli.fleet_results import FleetStatus
    from amistream.fleet.results import ResultModel
    from amistream.settings import Settings

_T = TypeVar("_T")

WATCHED_EVERY_S = 10.0
LOOKED_EVERY_S = 1.0

Queue = Annotated[
    str | None,
    typer.Option("--queue", envvar="AMISTREAM_QUEUE_URL", metavar="URL", help="The queue; default: queue_url."),
]
Results = Annotated[
    str | None,
    typer.Option(
        "--results", envvar="AMISTREAM_RESULTS", metavar="sqs:URL", help="The queue of results; default: results."
    ),
]
LinesFile = Annotated[
    str | None,
    typer.Argument(metavar="FILE", help="One message a line, as JSON; - is the standard input.", show_default=False),
]
EveryBundle = Annotated[
    str | None,
    typer.Option("--every", metavar="s3://BUCKET[/PREFIX]", help="Instead of FILE: a job for each bundle there."),
]
Kind = Annotated[
    str | None, typer.Option("--kind", metavar="convert|verify|migrate", help="With --every: the kind of the jobs.")
]
To = Annotated[
    str | None,
    typer.Option(
        "--to", metavar="s3://BUCKET[/PREFIX]", help="With --kind migrate: the copies go there, in the same folders."
    ),
]
Fields = Annotated[
    str | None,
    typer.Option("--request", metavar="JSON", help="With --every: further fields of each request, as an object."),
]
Name = Annotated[
    str | None,
    typer.Option(
        "--name",
        metavar="NAME",
        help="With --every: begin of the jobs' names. Default: kind and region, for verify kind and time.",
    ),
]
Label = Annotated[str, typer.Option("--label", metavar="TEXT", help="Text that is repeated in each result.")]
DryRun = Annotated[bool, typer.Option("--dry-run", "-n", help="Only check, and print the messages as lines for FILE.")]


@takes("region", "endpoint_url")
def submit(
    context: typer.Context,
    file: LinesFile = None,
    *,
    queue: Queue = None,
    every: EveryBundle = None,
    kind: Kind = None,
    to: To = None,
    fields: Fields = None,
    name: Name = None,
    label: Label = "",
    dry_run: DryRun = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
    **_: Any,
) -> int:
    """Send jobs to the queue: one for each line of FILE, or for each bundle in a bucket.

    A line is a message, such as {"job": "web-1", "kind": "verify", "request": {"manifest": "s3://..."}}; its request
    has the fields of POST /v1/jobs. Each line is checked before the first is sent. A job's name is its identity: a job
    that is sent twice is done once.

    With --every, --region is where AMIs and copies are made, and --endpoint-url where the bundles are looked for; the
    hosts have their endpoint from their settings.

    Example: [bold]amistream fleet submit jobs.jsonl --label nightly[/bold]

    Example: [bold]amistream fleet submit --every s3://my-bucket/web --kind verify[/bold]

    Example: [bold]amistream fleet submit --every s3://my-bucket --kind convert --request '{"ena": true}'[/bold]
    """
    from amistream.cli.fleet_submission import Every, check_together, messages_of_bundles, messages_of_file, object_of
    from amistream.fleet.messages import write_message

    settings = _settings(config)
    check_together(file, every, {"--kind": kind, "--to": to, "--request": fields, "--name": name})
    url = "" if dry_run else _queue_url(queue, settings)
    if every is None:
        messages = messages_of_file(str(file), label)
    else:
        reach = validated(StoreReach, context)
        asked = Every(every, JobKind(str(kind)), to or "", object_of(fields), name or "", label, reach)
        messages = messages_of_bundles(asked, config)
    texts = [(each.job, write_message(each)) for each in messages]
    if dry_run:
        for _job, text in texts:
            put_result(text)
        put_note(f"{counted(len(texts), 'message')}, nothing was sent")
        return EXIT_DONE

    async def send(target: Sqs, _: Aws) -> None:
        from amistream.cli.fleet_desk import send_all

        await send_all(target, texts)

    if texts:
        _at(url, settings, send)
    if as_json:
        put_result(json.dumps({"queue": url, "sent": len(texts), "jobs": [job for job, _ in texts]}))
    else:
        put_result(f"sent {counted(len(texts), 'message')} to {url}")
    return EXIT_DONE


def status(
    *,
    queue: Queue = None,
    results: Results = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on, with a line every ten seconds, until no job is left.")
    ] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """Show how many jobs wait, run, are done, failed and dead, and what each host has done.

    Done and failed are counted in the queue of results, if there is one. SQS does not say which host holds a message:
    the hosts are those that sent results.

    Example: [bold]amistream fleet status --watch[/bold]
    """
    from amistream.cli.fleet_results import status_line, status_text

    settings = _settings(config)
    url, results_url = _queue_url(queue, settings), results_queue(results, settings)

    async def look(target: Sqs, aws: Aws) -> FleetStatus:
        from amistream.aws.sqs import open_sqs
        from amistream.cli.fleet_desk import Board, Reader

        if not results_url:
            return await _until_idle(Board(target, None), watch=watch, show=show)
        reader = Reader(await open_sqs(aws, results_url, settings, named="results"))
        async with reader.reading():
            return await _until_idle(Board(target, reader), watch=watch, show=show)

    def show(found: FleetStatus) -> None:
        put_result(found.model_dump_json() if as_json else status_line(found))

    last = _at(url, settings, look)
    if not watch:
        put_answer(last, status_text, as_json=as_json)
    return EXIT_DONE


async def _until_idle(board: Board, *, watch: bool, show: Callable[[FleetStatus], object]) -> FleetStatus:
    """Look once; with `watch` again and again, and show each, until no job is left."""
    while True:
        found = await board.look()
        if not watch:
            return found
        show(found)
        if not found.waiting + found.running + found.delayed:
            return found
        await asyncio.sleep(WATCHED_EVERY_S)


def results(
    *,
    results: Results = None,
    failed: Annotated[bool, typer.Option("--failed", help="Only jobs that are not done.")] = False,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new results, until Ctrl-C.")] = False,
    take: Annotated[bool, typer.Option("--take", help="Delete the results that were shown from the queue.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """Show the results of the jobs, which the hosts sent to a queue.

    The results stay in the queue, unless --take is given; while they are read, no other reader sees them. With --json
    each result is a line, as the host sent it. Exit status: 0; with --failed 4, if there is any such job.

    Example: [bold]amistream fleet results --failed[/bold]

    Example: [bold]amistream fleet results --follow --take --json >> results.jsonl[/bold]
    """
    from amistream.cli.fleet_results import document_of, last_of_each, result_line, results_text

    settings = _settings(config)
    url = results_queue(results, settings, needed=True)

    def show(found: Sequence[tuple[Delivery, ResultModel]]) -> None:
        if as_json or follow:
            for delivery, result in found:
                put_result(document_of(delivery.body) if as_json else result_line(result))
        else:
            put_result(results_text(last_of_each(result for _, result in found)))

    async def read(target: Sqs, _: Aws) -> int:
        from amistream.cli.fleet_desk import POLL_S, Reader

        if await target.dead_letter() is not None:
            put_note("note: the queue of results has a redrive policy, to which results are lost that are read often")
        reader, count = Reader(target), 0
        async with reader.reading():
            found = _results_in(await reader.read_all(), only_failed=failed)
            while True:
                count += len(found)
                show(found)
                if take:
                    await reader.take([delivery for delivery, _ in found])
                if not follow:
                    return count
                found = _results_in(await reader.read_some(POLL_S), only_failed=failed)

    shown = _at(url, settings, read, named="results")
    return JobError.exit_status if failed and shown else EXIT_DONE


def _results_in(deliveries: Sequence[Delivery], *, only_failed: bool) -> list[tuple[Delivery, ResultModel]]:
    from amistream.cli.fleet_results import read_result

    found = [(each, result) for each in deliveries if (result := read_result(each.body)) is not None]
    if len(found) < len(deliveries):
        put_note(f"note: {counted(len(deliveries) - len(found), 'message')} there are no results")
    return [(each, result) for each, result in found if not only_failed or result.outcome is not State.DONE]


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
    settings = _settings(config)

    async def look(target: Sqs, _: Aws) -> None:
        from amistream.cli.fleet_desk import Reader
        from amistream.cli.question import confirm

        letters = await target.dead_letter()
        if letters is None:
            raise target.no_dead_letters()
        reader = Reader(letters)
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

    _at(_queue_url(queue, settings), settings, look)
    return EXIT_DONE


def redrive(*, queue: Queue = None, config: ConfigOption = None, as_json: JsonOption = False) -> int:
    """Send all dead letters to the queue again.

    On AWS, SQS itself moves them, which takes a while.

    Example: [bold]amistream fleet redrive[/bold]
    """
    settings = _settings(config)
    url = _queue_url(queue, settings)

    async def move(target: Sqs, _: Aws) -> int:
        return await target.redrive()

    moved = _at(url, settings, move)
    put_result(
        json.dumps({"queue": url, "moved": moved}) if as_json else f"{counted(moved, 'dead letter')} moved to {url}"
    )
    return EXIT_DONE


def _settings(config: Path | None) -> Settings:
    from amistream.settings import load

    return load(config)


def _queue_url(option: str | None, settings: Settings) -> str:
    if url := option or settings.queue_url:
        return url
    raise UsageError(
        "queue.missing",
        "cannot find the queue: none is named",
        hint="give --queue https://sqs.REGION.amazonaws.com/ACCOUNT/NAME, AMISTREAM_QUEUE_URL or the setting queue_url",
        field="queue",
    )


def results_queue(option: str | None, settings: Settings, *, needed: bool = False) -> str:
    """The URL of the queue of results; '' if the results go elsewhere. Raises `UsageError` if it is `needed`."""
    address = option or settings.results
    if address.startswith("sqs:"):
        return address.removeprefix("sqs:")
    if option or needed:
        raise UsageError(
            "results.no_queue",
            f"cannot read results from {address or 'nowhere'}: it is not sqs:URL",
            hint="give --results sqs:URL; a queue can receive what a bus (rule with the source amistream) or a topic "
            "(subscription) gets",
            field="results",
        )
    return ""


def _at(url: str, settings: Settings, work: Callable[[Sqs, Aws], Awaitable[_T]], *, named: str = "queue") -> _T:
    """Run `work` with the queue of a URL."""
    from amistream.aws.session import Aws
    from amistream.aws.sqs import open_sqs
    from amistream.cli.foreground import run

    async def ask() -> _T:
        async with Aws(settings) as aws:
            return await work(await open_sqs(aws, url, settings, named=named), aws)

    return run(ask)


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


def drain(
    *,
    detach: Annotated[
        bool, typer.Option("--detach", "--no-wait", help="Do not wait for the jobs of the queue to end.")
    ] = False,
    socket: SocketOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """Take this host out of the fleet: its daemon takes no more jobs from the queue, until its next start.

    It waits until the jobs of the queue have ended, or were given back after queue_drain_s; jobs of the socket go on. A
    queue cannot address a host: run the command on the host, for example by SSM.

    Example: [bold]amistream fleet drain[/bold]
    """
    from amistream.cli.client import Client

    async def ask() -> QueueHealth:
        async with Client(socket_path(socket, config)) as client:
            found = await client.drain()
            while found.jobs and not detach:
                await asyncio.sleep(LOOKED_EVERY_S)
                found = (await client.health()).queue or found
            return found

    put_answer(asyncio.run(ask()), _drained_text, as_json=as_json)
    return EXIT_DONE


def _drained_text(health: QueueHealth) -> str:
    left = f"; {counted(health.jobs, 'job')} of it still run" if health.jobs else ""
    return f"this host takes no more jobs from {health.url}{left}"


COMMANDS: Mapping[str, Callable[..., int]] = {
    "submit": submit,
    "status": status,
    "results": results,
    "dead": dead,
    "redrive": redrive,
    "drain": drain,
}
"""The commands below `fleet`, in the order of --help."""
