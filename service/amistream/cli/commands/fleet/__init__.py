"""Give jobs to many hosts through an SQS queue, and see what became of them.

Every host runs the daemon with `--queue`. The commands here need no daemon: they ask the queues, with your credentials.

Example: amistream fleet submit jobs.jsonl
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from amistream.cli.commands.fleet.dead import dead
from amistream.cli.commands.fleet.drain import drain
from amistream.cli.commands.fleet.redrive import redrive
from amistream.cli.commands.fleet.results import results
from amistream.cli.commands.fleet.status import status
from amistream.cli.commands.fleet.submit import submit

COMMANDS: Mapping[str, Callable[..., int]] = {
    "submit": submit,
    "status": status,
    "results": results,
    "dead": dead,
    "redrive": redrive,
    "drain": drain,
}
"""The commands below `fleet`, in the order of --help."""
