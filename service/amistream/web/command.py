"""The command `web`: serves the page until Ctrl-C."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated, Any

import typer

from amistream.cli.daemon_socket import socket_path
from amistream.cli.fleet.queues import Results, results_queue
from amistream.cli.manifest_arguments import NoEc2, bucket_address, settings_for
from amistream.cli.options import ConfigOption, SocketOption
from amistream.cli.output import put_note, put_result
from amistream.cli.request_options import takes, validated
from amistream.errors import EXIT_DONE
from amistream.request import StoreReach

DEFAULT_PORT = 8580
DEFAULT_IDLE_MINUTES = 60
MINUTE_S = 60

Port = Annotated[
    int, typer.Option("--port", metavar="PORT", min=0, max=65535, help="The port on 127.0.0.1; 0 is any free one.")
]
Buckets = Annotated[
    list[str] | None,
    typer.Option(
        "--bucket", metavar="s3://BUCKET[/PREFIX]", help="Show the bundles there; repeat it for more buckets."
    ),
]
QueueUrl = Annotated[
    str | None,
    typer.Option("--queue", envvar="AMISTREAM_QUEUE_URL", metavar="URL", help="Show this queue; default: queue_url."),
]
Idle = Annotated[
    int,
    typer.Option(
        "--idle", metavar="MINUTES", min=0, help="End after so many minutes in which no page was open; 0: never."
    ),
]


@takes("region", "endpoint_url")
def web(
    context: typer.Context,
    *,
    port: Port = DEFAULT_PORT,
    bucket: Buckets = None,
    queue: QueueUrl = None,
    results: Results = None,
    no_ec2: NoEc2 = False,
    idle: Idle = DEFAULT_IDLE_MINUTES,
    socket: SocketOption = None,
    config: ConfigOption = None,
    **_: Any,
) -> int:
    """Show jobs, bundles and the fleet's queue in a browser, until Ctrl-C.

    The page is served on 127.0.0.1 alone. The address that is printed works once, in one browser. The page may do what
    you may: it shows everything, and can cancel and resume jobs. To see it from another machine, forward the port with
    ssh -L.

    Example: [bold]amistream web --bucket s3://my-bucket[/bold]
    """
    from amistream.cli.foreground import InterruptedHereError, run

    buckets = tuple(bucket_address(each) for each in bucket or ())
    settings = settings_for(config, validated(StoreReach, context))
    url = queue or settings.queue_url
    results_at = results_queue(results, settings)
    daemon = socket_path(socket, config)

    async def serve() -> None:
        import asyncio

        from amistream.aws.session import Aws
        from amistream.web.bundles import Shelves
        from amistream.web.feed import Feed
        from amistream.web.queue import FleetQueue
        from amistream.web.server import ADDRESS, Page, make_app, open_listener, serving, wait_unused
        from amistream.web.token import Admission

        with open_listener(port) as listener:
            at = listener.getsockname()[1]
            async with Aws(settings) as aws:
                page = Page(
                    admission=Admission(),
                    socket=daemon,
                    feed=Feed(daemon),
                    shelves=Shelves(buckets, settings, aws, ask_ec2=not no_ec2),
                    queue=FleetQueue(url, results_at, settings, aws),
                    cookie_name=f"amistream-{at}",
                )
                async with serving(make_app(page), listener):
                    put_result(f"http://{ADDRESS}:{at}/?token={page.admission.token}")
                    put_note("Open this address in a browser; it works once. Ctrl-C ends the page.")
                    put_note(f"From another machine, first: ssh -L {at}:{ADDRESS}:{at} HOST")
                    if not idle:
                        await asyncio.Event().wait()
                    await wait_unused(page, idle * MINUTE_S)
                    put_note(f"no page was open for {idle} minutes")

    # Ctrl-C is its usual end.
    with suppress(InterruptedHereError):
        run(serve)
    return EXIT_DONE
