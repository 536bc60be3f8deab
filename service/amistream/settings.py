"""Every setting of the service, once: its default, its unit and where the default comes from.

Sources, the first wins: arguments, `AMISTREAM_*` variables, the TOML file, the defaults here. AWS credentials are
never settings: they come from the SDK's provider chain. `config/amistream.toml` shows every field; a test keeps the
two alike.

The memory ceiling is a formula of these settings (`memory_ceiling`) and does not depend on the volume's size.
"""

from __future__ import annotations

import os
import tomllib
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, ByteSize, Field, PositiveFloat, PositiveInt, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from amistream.errors import UsageError
from amistream.values import GIB, KIB, MIB

DEFAULT_CONFIG = Path("/etc/amistream/amistream.toml")
_FROM_FILE = "_from_file"
PROCESS_BASELINE = 125 * MIB
"""Measured: the daemon's RSS with the clients of S3, EC2 and STS made and no job (118 MiB), rounded up."""


class OnStop(StrEnum):
    """What the first SIGTERM does with running jobs; a second one interrupts them: they go on at the next start."""

    FINISH = "finish"
    INTERRUPT = "interrupt"
    CANCEL = "cancel"


class Sparse(StrEnum):
    """Whether holes of the volume are left out of the bundle through the archive's sparse map."""

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


class LogFormat(StrEnum):
    JSON = "json"
    TEXT = "text"


class Acl(StrEnum):
    """The canned ACLs under which EC2 can read a bundle."""

    AWS_EXEC_READ = "aws-exec-read"
    PUBLIC_READ = "public-read"


def default_state_dir() -> Path:
    """Root's is the system's; everyone else has one below the home directory (XDG base directories)."""
    if os.geteuid() == 0:
        return Path("/var/lib/amistream")
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "amistream"


def check_part_size(size: ByteSize) -> ByteSize:
    """A part size is a whole number of KiB: cipher blocks then never straddle a part's end."""
    if size < 16 * KIB or size > 5 * GIB or size % KIB:
        raise ValueError("a part is 16KiB to 5GiB and a whole number of KiB")
    return size


PartSize = Annotated[ByteSize, AfterValidator(check_part_size)]


def _split_paths(value: object) -> object:
    """Take paths as a variable holds them too: `/srv/images:/dev/dm-0`."""
    return [path for path in value.split(":") if path] if isinstance(value, str) else value


def _check_root(path: Path) -> Path:
    if not path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{path} is not an absolute path without '..'")
    return path


RootPaths = Annotated[tuple[Annotated[Path, AfterValidator(_check_root)], ...], NoDecode, BeforeValidator(_split_paths)]


class Settings(BaseSettings):
    """Read-only once made. Names end in their unit: `_s` seconds; sizes are bytes and may be written `10MiB`."""

    model_config = SettingsConfigDict(env_prefix="AMISTREAM_", frozen=True, extra="forbid")

    # The daemon.
    socket: Path = Field(Path("/run/amistream/amistream.sock"), description="Unix socket of the API")
    socket_group: str = Field("", description="group that may connect; empty: root and the daemon's user only")
    source_roots: RootPaths = Field(
        (), description="what members of socket_group may name in jobs, with all below it; empty: nothing"
    )
    state_dir: Annotated[Path, AfterValidator(Path.absolute)] = Field(
        default_factory=default_state_dir,
        description="the journal of jobs and a generated user key (0700); default: /var/lib/amistream, "
        "or ~/.local/state/amistream when not root",
    )
    max_jobs: PositiveInt = Field(2, description="jobs that run at once; the others wait. Guess")
    max_queued: PositiveInt = Field(100, description="jobs that may wait; more are refused. Guess")
    on_stop: OnStop = Field(OnStop.FINISH, description="what SIGTERM does with running jobs")
    resume_on_start: bool = Field(True, description="go on with the jobs that were cut short, without being asked")
    log_level: str = Field("info", pattern="^(debug|info|warning|error)$", description="least severe level logged")
    log_format: LogFormat = Field(LogFormat.JSON, description="json for machines, text for people")

    # The bundle.
    prefix: str = Field("image", description="name of the image inside the bundle and start of every object name")
    architecture: str = Field("x86_64", pattern="^(i386|x86_64|arm64)$", description="of the image's kernel")
    part_size: PartSize = Field(ByteSize(10 * MIB), description="size of a part; what the AMI tools use")
    block_size: ByteSize = Field(
        ByteSize(2 * MIB),
        ge=64 * KIB,
        le=64 * MIB,
        description="bytes handed from stage to stage. Measured: 2 to 4 MiB",
    )
    workers: PositiveInt | None = Field(None, description="compute threads; default: one per core. Measured")
    nice: int = Field(
        0, ge=0, le=19, description="scheduling priority of the compute threads; above 0: idle disk class too"
    )
    memory_limit: ByteSize | None = Field(
        None, description="memory of the process that one job keeps under, by having fewer parts in flight"
    )
    compress: str = Field(
        "fast",
        pattern="^(fast|balanced|small|auto|[1-9])$",
        description="fast, balanced, small, a level 1 to 9, or auto: what fits the link, block by block",
    )
    sparse: Sparse = Field(
        Sparse.AUTO,
        description="auto: leave holes out where there are any; always: also write the map when there are none",
    )
    max_image_size: ByteSize = Field(ByteSize(10 * GIB), description="largest volume taken. AWS limit")

    # Identity.
    account: str = Field("", description="AWS account id; default: asked of STS")
    certificate: Path | None = Field(None, description="user's X.509 certificate, PEM")
    private_key: Path | None = Field(None, description="user's RSA private key, PEM")
    allow_exposed_key: bool = Field(
        False, description="true: take a private key that every user of the machine can read"
    )
    ec2_certificates: dict[str, Path] = Field(
        default_factory=dict, description="EC2's certificate per region; the key 'default' serves the rest"
    )

    # AWS.
    region: str = Field("", description="default: the bucket's region, AWS_REGION, or the SDK's configuration")
    endpoint_url: str = Field("", description="S3, EC2 and STS endpoint for tests and compatible clouds")
    acl: Acl = Field(Acl.AWS_EXEC_READ, description="canned ACL sent with every object")
    sign_payload: bool = Field(
        False, description="true: hash every body for its signature, as some bucket policies ask"
    )

    # Upload.
    upload_concurrency: PositiveInt = Field(4, le=64, description="parts in flight. Guess, to be tuned")
    limit_upload: ByteSize | None = Field(
        None, ge=16 * KIB, description="bytes per second that a job sends to S3 at most; default: no limit"
    )
    upload_attempts: PositiveInt = Field(6, description="tries for one request, the first included. Guess")
    backoff_base_s: PositiveFloat = Field(0.5, description="first retry's longest delay, doubled each time. Guess")
    backoff_cap_s: PositiveFloat = Field(20.0, description="longest delay between two tries. Guess")
    stall_timeout_s: PositiveFloat = Field(
        30.0, description="an attempt in which nothing moves for this long is given up. Guess"
    )
    multipart_threshold: ByteSize = Field(
        ByteSize(64 * MIB), ge=5 * MIB, description="parts larger than this go up as S3 multipart uploads"
    )
    multipart_chunk: ByteSize = Field(
        ByteSize(16 * MIB),
        ge=5 * MIB,
        le=5 * GIB,
        description="chunk of a multipart upload. AWS: 5 MiB at least",
    )
    multipart_concurrency: PositiveInt = Field(3, description="chunks of one part in flight. Guess")

    # Registration.
    register_timeout_s: PositiveFloat = Field(900.0, description="how long to wait for the AMI to be available")
    register_poll_s: PositiveFloat = Field(3.0, description="pause between two looks at the AMI's state")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments first, then the environment, then what `load` read from the file and hands in as `_FROM_FILE`."""
        del dotenv_settings, file_secret_settings
        assert isinstance(init_settings, InitSettingsSource)  # noqa: S101 - for the type checker
        from_file = init_settings.init_kwargs.pop(_FROM_FILE, {})
        return init_settings, env_settings, InitSettingsSource(settings_cls, from_file)

    def worker_count(self) -> int:
        """Compute threads: as set, else one per core this process may use."""
        return self.workers or len(os.sched_getaffinity(0))


def load(config: Path | None = None, **overrides: Any) -> Settings:
    """Read the settings from `config` (default: /etc/amistream/amistream.toml where it exists) and the environment.

    `overrides` that are not None win over everything. Raises `UsageError` naming the file or variable at fault.
    """
    named = config or (Path(os.environ["AMISTREAM_CONFIG"]) if os.environ.get("AMISTREAM_CONFIG") else None)
    path = named or DEFAULT_CONFIG
    values: dict[str, Any] = {}
    chosen = {name: value for name, value in overrides.items() if value is not None}
    if named is not None or path.exists():
        try:
            values = tomllib.loads(path.read_text())
        except OSError as error:
            raise UsageError(
                "settings.unreadable",
                f"cannot read the configuration {path}: {error.strerror}",
                hint="check the path and its permissions; without --config and AMISTREAM_CONFIG it is "
                f"{DEFAULT_CONFIG}, where there is one",
                field="config",
            ) from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UsageError(
                "settings.syntax",
                f"cannot read the configuration {path}: {error}",
                hint='it is TOML: text, and sizes with a unit, are in quotes, such as part_size = "10MiB"',
                field="config",
            ) from error
    try:
        given: dict[str, Any] = {_FROM_FILE: values, **chosen}
        return Settings(**given)
    except SettingsError as error:
        # The one field that is not plain text in the environment.
        raise UsageError(
            "settings.invalid",
            "cannot use AMISTREAM_EC2_CERTIFICATES: it is not a JSON object of region to path",
            hint='write {"eu-west-1": "/path/cert.pem"}',
            field="ec2_certificates",
        ) from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        name = str(first["loc"][0]) if first["loc"] else "settings"
        variable = f"AMISTREAM_{name.upper()}"
        where = "the arguments" if name in chosen else variable if variable in os.environ else str(path)
        unknown = first["type"] == "extra_forbidden"
        reason = "there is no such setting" if unknown else in_words(first)
        raise UsageError(
            "settings.invalid",
            f"cannot use the setting {name} (from {where}): {reason}",
            hint="config/amistream.toml lists every setting with its unit and default",
            field=name,
        ) from error


def in_words(error: ErrorDetails) -> str:
    """What is wrong with one field, for people: of sizes the library's own words say too little."""
    if error["type"].startswith("byte_size"):
        return f"{error['input']!r} is no size: write bytes, or a number with a unit, such as 10MiB"
    if error["type"] in {"greater_than", "greater_than_equal", "less_than", "less_than_equal"}:
        bound = error["msg"].removeprefix("Input should be ")
        return f"{error['input']!r} is out of range: it must be {bound}"
    return error["msg"].removeprefix("Value error, ")


def memory_ceiling(*, workers: int, block_size: int, part_size: int, upload_concurrency: int) -> int:
    """Bytes of RSS that one job's process stays under, whatever the volume's size.

    baseline + per worker (a block, its deflated form twice, 128 KiB of ciphertext) + (uploads in flight + 2) parts:
    one part being filled and one being handed over.
    """
    per_worker = 3 * block_size + 128 * KIB
    return PROCESS_BASELINE + workers * per_worker + (upload_concurrency + 2) * part_size


def concurrency_within(limit: int, *, workers: int, block_size: int, part_size: int) -> int:
    """The most parts in flight whose `memory_ceiling` is within `limit` bytes; below 1 when not even one is."""
    spare = limit - memory_ceiling(workers=workers, block_size=block_size, part_size=part_size, upload_concurrency=0)
    return spare // part_size
