"""The command `fleet submit`: sends jobs to the queue."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from amistream.cli.fleet.queues import Queue, queue_url, run_at
from amistream.cli.options import ConfigOption, JsonOption
from amistream.cli.output import put_note, put_result
from amistream.cli.request_options import takes, validated
from amistream.cli.table import counted
from amistream.errors import EXIT_DONE
from amistream.events import JobKind
from amistream.request import StoreReach

if TYPE_CHECKING:
    from amistream.aws.session import Aws
    from amistream.aws.sqs import Sqs

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
    from amistream.cli.fleet.submission import Every, check_together, messages_of_bundles, messages_of_file, object_of
    from amistream.fleet.messages import write_message
    from amistream.settings import load

    settings = load(config)
    check_together(file, every, {"--kind": kind, "--to": to, "--request": fields, "--name": name})
    url = "" if dry_run else queue_url(queue, settings)
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
        from amistream.cli.fleet.sending import send_all

        await send_all(target, texts)

    if texts:
        run_at(url, settings, send)
    if as_json:
        put_result(json.dumps({"queue": url, "sent": len(texts), "jobs": [job for job, _ in texts]}))
    else:
        put_result(f"sent {counted(len(texts), 'message')} to {url}")
    return EXIT_DONE
