"""The words that a setting can be where it is one of a few."""

from __future__ import annotations

from enum import StrEnum


class OnStop(StrEnum):
    """Effect of the first SIGTERM on running jobs. A second one interrupts them: they resume at the next start."""

    FINISH = "finish"
    INTERRUPT = "interrupt"
    CANCEL = "cancel"


class Sparse(StrEnum):
    """Treatment of the volume's holes and free blocks: left out through the archive's sparse map, or bundled."""

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


class LogFormat(StrEnum):
    AUTO = "auto"
    JSON = "json"
    TEXT = "text"


class Acl(StrEnum):
    """Canned ACLs. EC2 can read a bundle under all but `private`, which is for bundles that are only stored."""

    AWS_EXEC_READ = "aws-exec-read"
    PUBLIC_READ = "public-read"
    PRIVATE = "private"


class ServerEncryption(StrEnum):
    """The encryption that requests to S3 name."""

    AUTO = "auto"
    AES256 = "AES256"
