"""The command `fleet results`: shows the results that the hosts sent to a queue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from amistream.cli.fleet.queues import Results, results_queue, run_at
from amistream.cli.options import ConfigOption, JsonOption
from amistream.cli.output import put_note, put_result
from amistream.cli.table import counted
from amistream.errors import EXIT_DONE, JobError
from amistream.events import State

if TYPE_CHECKING:
    from amistream.aws.session import Aws
    from amistream.aws.sqs import Delivery, Sqs
    from amistream.fleet.results import ResultModel


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
    from amistream.cli.fleet.results import document_of, last_of_each, result_line, results_text
    from amistream.settings import load

    settings = load(config)
    url = results_queue(results, settings, needed=True)

    def show(found: Sequence[tuple[Delivery, ResultModel]]) -> None:
        if as_json or follow:
            for delivery, result in found:
                put_result(document_of(delivery.body) if as_json else result_line(result))
        else:
            put_result(results_text(last_of_each(result for _, result in found)))

    async def read(target: Sqs, _: Aws) -> int:
        from amistream.cli.fleet.reader import POLL_S, QueueReader

        if await target.dead_letter() is not None:
            put_note("note: the queue of results has a redrive policy, to which results are lost that are read often")
        reader, count = QueueReader(target), 0
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

    shown = run_at(url, settings, read, named="results")
    return JobError.exit_status if failed and shown else EXIT_DONE


def _results_in(deliveries: Sequence[Delivery], *, only_failed: bool) -> list[tuple[Delivery, ResultModel]]:
    from amistream.cli.fleet.results import read_result

    found = [(each, result) for each in deliveries if (result := read_result(each.body)) is not None]
    if len(found) < len(deliveries):
        put_note(f"note: {counted(len(deliveries) - len(found), 'message')} there are no results")
    return [(each, result) for each, result in found if not only_failed or result.outcome is not State.DONE]
