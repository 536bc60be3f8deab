"""Runs an old command: finds it by its name, parses its options, and turns every error into a message and a status.

Exit statuses of the ec2-* commands, as far as documented by Amazon: 0 done; 1 invalid options, or a bug; 2 the image,
the keys or files; 3 S3; 5 not confirmed. Of ec2-bundle-vol: 0 done; 1 invalid options; 12 no instance metadata; 254
anything else; 255 interrupted. Of the euca-* commands: 0 done, 2 invalid options, 1 anything else. 130 interrupted.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path, PurePath
from typing import NoReturn

from amistream.cli.output import lost_output, put_note
from amistream.compat.options import Given, Use, in_old_words, parse
from amistream.compat.tables import Command, Family, find_command, known_names
from amistream.errors import (
    EXIT_INTERRUPTED,
    AmistreamError,
    BundleExistsError,
    StoreError,
    TakenError,
    UnconfirmedError,
    UsageError,
    system_error,
)
from amistream.process import keep_secrets_in

_OF_S3 = {"bucket", "store", "aws", "destination", "credentials"}
"""Subjects of errors that S3 causes."""
_NO_METADATA = 12
_EXPOSED = "warning: every user of this machine can read the private key: chmod 600 {path}"
_WARNING = (
    "{names} on the command line: every user of this machine can see it while the command runs. Better omit it, "
    "and use an instance role, ~/.aws/credentials or AWS_SECRET_ACCESS_KEY"
)


def main() -> NoReturn:
    """Run as a script: the name of the script selects the command."""
    keep_secrets_in()
    sys.exit(run(PurePath(sys.argv[0]).name, sys.argv[1:]))


def run(name: str, words: Sequence[str]) -> int:
    """Run the old command `name` and return its exit status. Raises nothing."""
    command = find_command(name)
    if command is None:
        put_note(f"amistream: cannot run {name!r}: the old commands are {', '.join(known_names())}")
        return UsageError.exit_status
    try:
        status = _run(command, words)
        if not status and (lost := lost_output()):
            raise lost
        return status
    except SystemExit as left:
        # By argparse, after --help and --version.
        return int(left.code or 0)
    except KeyboardInterrupt:  # while modules are loaded
        return command.interrupted
    except AmistreamError as error:
        put_note(in_old_words(f"{name}: {error}", command.options))
        return exit_status(command, error)
    except Exception as error:  # noqa: BLE001 - last handler: the user gets one line for any error
        if os.environ.get("AMISTREAM_DEBUG") == "1":
            traceback.print_exc()
        if isinstance(error, OSError):
            refused = system_error(error)
            put_note(f"{name}: {refused}")
            return exit_status(command, refused)
        put_note(f"{name}: cannot continue: an error in amistream itself ({type(error).__name__})")
        return 1


def exit_status(command: Command, error: AmistreamError) -> int:
    if error.exit_status == EXIT_INTERRUPTED:
        return command.interrupted
    if command.failed:
        if isinstance(error, UsageError):
            return 1
        return _NO_METADATA if error.subject == "metadata" else command.failed
    if command.family is Family.EUCA2OOLS:
        return 2 if isinstance(error, UsageError) else 1
    if isinstance(error, UsageError):
        return 1
    if isinstance(error, UnconfirmedError):
        return 5
    of_s3 = isinstance(error, StoreError) or error.subject in _OF_S3
    local = not command.uses_s3 or error.subject == "directory"
    local = local or (command.writes_files and isinstance(error, BundleExistsError | TakenError))
    return 3 if of_s3 and not local else 2


def _run(command: Command, words: Sequence[str]) -> int:
    given = parse(command.name, command.about, command.options, words, takes_words=command.takes_words)
    _explain(given)
    # The old tools ignore a key's mode, and Packer copies keys with read access for all.
    os.environ["AMISTREAM_ALLOW_EXPOSED_KEY"] = "true"
    status = _work(command)(given)
    return command.interrupted if status == EXIT_INTERRUPTED else status


def _explain(given: Given) -> None:
    """Warn about secrets, and with --debug list options without effect."""
    secrets = [each.names[-1] for each in given.options if each.use is Use.SECRET]
    if secrets:
        put_note("warning: " + _WARNING.format(names=" and ".join(secrets)))
    key = Path(given["privatekey"])
    if given.has("privatekey") and key.is_file() and key.stat().st_mode & 0o007:
        put_note(_EXPOSED.format(path=key))
    if given.has("debug"):
        for each in given.options:
            if each.use is Use.IDLE:
                put_note(f"note: {each.names[-1]}: {each.help}")


def _work(command: Command) -> Callable[[Given], int]:
    # These modules load the AWS SDK and the ciphers; help and invalid options need neither.
    from amistream.compat import bundling, copying, migrating, running_system  # noqa: PLC0415

    return {
        "ec2-bundle-image": bundling.bundle_image,
        "ec2-bundle-vol": running_system.bundle_volume,
        "ec2-upload-bundle": copying.upload_bundle,
        "ec2-download-bundle": copying.download_bundle,
        "ec2-unbundle": copying.take_out,
        "ec2-delete-bundle": copying.delete_bundle,
        "ec2-migrate-manifest": migrating.migrate_manifest,
        "ec2-migrate-bundle": migrating.migrate_bundle,
        "euca-bundle-and-upload-image": bundling.bundle_and_upload,
    }[command.name]
