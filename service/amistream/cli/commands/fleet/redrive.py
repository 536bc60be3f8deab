"""The command `fleet redrive`: sends all dead letters to the queue again."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from amistream.cli.fleet.queues import Queue, queue_url, run_at
from amistream.cli.options import ConfigOption, JsonOption
from amistream.cli.output import put_result
from amistream.cli.table import counted
from amistream.errors import EXIT_DONE

if TYPE_CHECKING:
    from amistream.aws.session import Aws
    from amistream.aws.sqs import Sqs


def redrive(*, queue: Queue = None, config: ConfigOption = None, as_json: JsonOption = False) -> int:
    """Send all dead letters to the queue again.

    On AWS, SQS itself moves them, which takes a while.

    Example: [bold]amistream fleet redrive[/bold]
    """
    from amistream.settings import load

    settings = load(config)
    url = queue_url(queue, settings)

    async def move(target: Sqs, _: Aws) -> int:
        return await target.redrive()

    moved = run_at(url, settings, move)
    put_result(
        json.dumps({"queue": url, "moved": moved}) if as_json else f"{counted(moved, 'dead letter')} moved to {url}"
    )
    return EXIT_DONE
