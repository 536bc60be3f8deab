"""`amistreamd`: the daemon in the foreground, from its arguments to its exit status.

Order matters. The process protects its memory before it reads anything (`process`). It claims the socket before it
makes anything else, so that a second daemon ends at once. It serves until the last job has ended, so that clients see
the end. Then it closes the engine, and removes the socket's file last.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import socket
import stat
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import structlog
import uvloop

from amistream import __version__, log
from amistream.aws.session import Aws
from amistream.checks import doctor
from amistream.checks.findings import Finding
from amistream.daemon.access import AccessPolicy
from amistream.daemon.app import make_app, serving
from amistream.daemon.config_report import config_text, faults_of, useless_roots
from amistream.daemon.hooks import Hooks
from amistream.daemon.listener import find_group, listening
from amistream.daemon.metrics import Metrics
from amistream.daemon.status import Status
from amistream.daemon.textfile import writing_textfile
from amistream.errors import EXIT_DONE, EXIT_INTERRUPTED, AmistreamError, UsageError
from amistream.jobs.queue import JobQueue, Work, open_queue
from amistream.process import close_stdin, keep_secrets_in, make_files_private, settle_memory
from amistream.request import CheckRequest
from amistream.request.convert import ConvertCheckRequest
from amistream.roots import Roots
from amistream.settings import OnStop, Settings, config_path, load
from amistream.values import quoted

EXAMPLE = """\
example:
  amistreamd --socket /tmp/amistream.sock --state-dir /tmp/amistream-state
  curl --unix-socket /tmp/amistream.sock http://localhost/v1/health

SIGTERM, SIGINT or SIGHUP stops the daemon: it takes no new jobs, and running jobs end first (or stop at once: setting
on_stop).
A second signal stops them at once; they resume at the next start, as after a crash.
Exit status: 0 stopped; 1 bug; 2 invalid arguments, configuration or socket; 4 no journal.
"""

LOG: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


def main(words: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(words)
    keep_secrets_in()
    settle_memory()
    make_files_private()
    # Started in a terminal it would ask there for an MFA code, and serve nobody meanwhile.
    close_stdin()
    try:
        arguments = {name: getattr(options, name) for name in ("socket", "state_dir", "queue_url", "queue_jobs")}
        settings = load(options.config, **arguments)
        if options.print_config:
            _put(config_text(settings, options.config, arguments))
        if options.check_config:
            return check_config(settings, options.config)
        if options.print_config:
            return EXIT_DONE
        log.configure(settings.log_level, settings.log_format)
        group = find_group(settings.socket_group)
        _make_state_dir(settings.state_dir)
        _warn_of_roots(settings.source_roots)
        with listening(settings.socket, group) as listener:
            uvloop.run(serve(settings, listener, AccessPolicy(group=group)))
    except AmistreamError as error:
        # A message to the user, not a log event.
        _say(f"amistreamd: {error}")
        return error.exit_status
    except KeyboardInterrupt:  # before `serve` set its signal handlers
        return EXIT_INTERRUPTED
    return EXIT_DONE


async def serve(settings: Settings, listener: socket.socket, policy: AccessPolicy) -> None:
    """Run jobs and serve on `listener` until a signal asks to stop and the jobs have ended."""
    signals = StopSignals()
    metrics = Metrics()
    hooks = Hooks(settings, metrics.hook_runs)
    address = listener.getsockname()

    async def examine(request: CheckRequest | ConvertCheckRequest, roots: Roots | None) -> list[Finding]:
        return await doctor.examine(request, settings, aws, roots)

    def watch(run: Work) -> Work:
        return hooks.watched(metrics.watched(run))

    async with (
        hooks.running(hurry=signals.second),
        Aws(settings) as aws,
        open_queue(settings, aws, by_itself=True, watch=watch) as queue,
    ):
        # Clients are served only once the jobs of earlier runs are loaded.
        await queue.recover(resume=settings.resume_on_start)
        if unfinished := [job.id for job in queue.jobs() if job.resumable]:
            LOG.warning("daemon.unfinished", jobs=unfinished, hint="amistream resume ID, or amistream clean")
        async with AsyncExitStack() as stack:
            status = Status(f"amistream {__version__} on {address}", queue)
            intake = None
            if settings.queue_url:
                from amistream.fleet.opening import taking_jobs  # noqa: PLC0415 - two MiB for those who have a queue

                taking = taking_jobs(settings, aws, queue, status.send, hurry=signals.second)
                status.intake = intake = await stack.enter_async_context(taking)
            if settings.metrics_textfile is not None:
                written = writing_textfile(
                    settings.metrics_textfile, lambda: metrics.own_text(queue, intake), metrics.job_ended
                )
                await stack.enter_async_context(written)
            app = make_app(queue, metrics, policy, examine, settings=settings, intake=intake)
            await stack.enter_async_context(serving(app, listener))
            await stack.enter_async_context(status.shown())
            LOG.info("daemon.ready", socket=address, version=__version__, pid=os.getpid())
            status.send("READY=1")
            await signals.first.wait()
            LOG.info("daemon.stopping", on_stop=settings.on_stop.value)
            status.stop()
            if intake is not None:
                intake.stop()
            await drain(queue, settings.on_stop, hurry=signals.second)
            if intake is not None:
                await intake.wait_over()
    LOG.info("daemon.stopped", socket=address, version=__version__, pid=os.getpid())


class StopSignals:
    """Counts SIGTERM, SIGINT and SIGHUP up to two. Sets handlers on the running event loop."""

    def __init__(self) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._count)
        if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # nohup ignores it
            loop.add_signal_handler(signal.SIGHUP, self._count)

    def _count(self) -> None:
        (self.second if self.first.is_set() else self.first).set()


async def drain(queue: JobQueue, how: OnStop, *, hurry: asyncio.Event) -> None:
    """Wait until every job has ended; `hurry` interrupts jobs that were allowed to finish."""

    async def interrupt_all() -> None:
        await hurry.wait()
        await queue.drain(OnStop.INTERRUPT)

    async with asyncio.TaskGroup() as group:
        hurrying = group.create_task(interrupt_all())
        await queue.drain(how)
        hurrying.cancel()


def check_config(settings: Settings, config: Path | None) -> int:
    """Write every fault of the settings, or that there is none, and return the exit status."""
    faults = faults_of(settings)
    for fault in faults:
        _say(f"amistreamd: {fault}")
    if faults:
        return UsageError.exit_status
    _say(f"the configuration is valid: {config_path(config) or 'no file, the defaults'}", logging.INFO)
    return EXIT_DONE


def _put(text: str) -> None:
    """Write the output of an option. A reader that ends early is no error. Raises AmistreamError for a full disk."""
    try:
        print(text, flush=True)  # noqa: T201
    except OSError as error:
        # The rest would fail again when the interpreter closes the stream.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            why = f"cannot write to the standard output: {error.strerror}"
            raise AmistreamError("output.failed", why, hint="send the output elsewhere") from error


def _say(text: str, level: int = logging.ERROR) -> None:
    """Write a message to the user, which is no event of the log."""
    print(log.for_journal(text, level), file=sys.stderr)  # noqa: T201


def _make_state_dir(path: Path) -> None:
    """Make the state directory, and refuse one in which another user could create or replace a file."""
    try:
        path.mkdir(parents=True, mode=0o700, exist_ok=True)
        status = path.stat()
    except OSError as error:
        raise UsageError(
            "daemon.state_dir",
            f"cannot make the state directory {path}: {error.strerror}",
            hint="choose another with --state-dir",
            field="state_dir",
        ) from error
    if status.st_uid not in {0, os.geteuid()} or stat.S_IMODE(status.st_mode) & 0o022:
        raise UsageError(
            "daemon.state_dir",
            f"cannot use the state directory {path}: other users can write to it, and it holds keys and the journal",
            hint=f"chown {os.geteuid()} {quoted(path)} && chmod 700 {quoted(path)}; or choose another with --state-dir",
            field="state_dir",
        )


def _warn_of_roots(roots: Sequence[Path]) -> None:
    for root, reason in useless_roots(roots):
        LOG.warning("settings.source_roots", root=str(root), reason=reason, hint="write the real path")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="amistreamd",
        description="Bundle volumes into S3-backed AMIs, on request over a Unix socket. Runs in the foreground.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="settings in TOML (default: /etc/amistream/amistream.toml)"
    )
    parser.add_argument("--socket", type=Path, metavar="PATH", help="Unix socket of the API (overrides the settings)")
    parser.add_argument(
        "--state-dir", type=Path, metavar="DIR", help="state directory, mode 0700 (overrides the settings)"
    )
    parser.add_argument(
        "--queue",
        dest="queue_url",
        metavar="URL",
        help="SQS queue that jobs are taken from, too (overrides the settings)",
    )
    parser.add_argument(
        "--queue-jobs", type=int, metavar="N", help="jobs of the queue at once (overrides the settings)"
    )
    parser.add_argument(
        "--check-config", action="store_true", help="report every fault of the configuration, and exit: 0 valid, 2 not"
    )
    parser.add_argument(
        "--print-config", action="store_true", help="print every setting with where it comes from, and exit"
    )
    parser.add_argument("--version", action="version", version=f"amistreamd {__version__}")
    return parser
