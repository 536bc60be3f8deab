"""The queues that a command names, or the settings do, and work with one of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from amistream.errors import UsageError

if TYPE_CHECKING:
    from amistream.aws.session import Aws
    from amistream.aws.sqs import Sqs
    from amistream.settings import Settings

_T = TypeVar("_T")

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


def queue_url(option: str | None, settings: Settings) -> str:
    """The URL of the queue of jobs. Raises `UsageError` where none is named."""
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


def run_at(url: str, settings: Settings, work: Callable[[Sqs, Aws], Awaitable[_T]], *, named: str = "queue") -> _T:
    """Run `work` with the queue of a URL."""
    from amistream.aws.session import Aws
    from amistream.aws.sqs import open_sqs
    from amistream.cli.foreground import run

    async def ask() -> _T:
        async with Aws(settings) as aws:
            return await work(await open_sqs(aws, url, settings, named=named), aws)

    return run(ask)
