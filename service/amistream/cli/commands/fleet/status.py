"""The command `fleet status`: counts the jobs of the queue."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from amistream.cli.fleet.queues import Queue, Results, queue_url, results_queue, run_at
from amistream.cli.options import ConfigOption, JsonOption
from amistream.cli.output import put_answer, put_result
from amistream.errors import EXIT_DONE

if TYPE_CHECKING:
    from amistream.aws.session import Aws
    from amistream.aws.sqs import Sqs
    from amistream.cli.fleet.counter import FleetCounter
    from amistream.cli.fleet.status import FleetStatus

WATCHED_EVERY_S = 10.0


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
    from amistream.cli.fleet.status import status_line, status_text
    from amistream.settings import load

    settings = load(config)
    url, results_url = queue_url(queue, settings), results_queue(results, settings)

    async def look(target: Sqs, aws: Aws) -> FleetStatus:
        from amistream.cli.fleet.counter import open_counter

        async with open_counter(target, results_url, settings, aws) as counter:
            return await _until_idle(counter, watch=watch, show=show)

    def show(found: FleetStatus) -> None:
        put_result(found.model_dump_json() if as_json else status_line(found))

    last = run_at(url, settings, look)
    if not watch:
        put_answer(last, status_text, as_json=as_json)
    return EXIT_DONE


async def _until_idle(counter: FleetCounter, *, watch: bool, show: Callable[[FleetStatus], object]) -> FleetStatus:
    """Look once; with `watch` again and again, and show each, until no job is left."""
    while True:
        found = await counter.look()
        if not watch:
            return found
        show(found)
        if not found.waiting + found.running + found.delayed:
            return found
        await asyncio.sleep(WATCHED_EVERY_S)
