"""Every setting of the service, once: its default, its unit and where the default comes from.

AWS credentials are never settings: they come from the SDK's provider chain. `config/amistream.toml` shows every field;
a test keeps the two alike.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from amistream.process import DEFAULT_SOCKET
from amistream.settings.choices import Acl, LogFormat, OnStop, ServerEncryption, Sparse
from amistream.settings.parsing import (
    Command,
    PartSize,
    Places,
    QueueKinds,
    RootPaths,
    TextfilePath,
    common_architecture,
    parse_object,
)
from amistream.values import GIB, KIB, MIB

PREFIX = "AMISTREAM_"
"""Start of the variables' names."""


def default_state_dir() -> Path:
    """Root's is the system's; everyone else has one below the home directory (XDG base directories)."""
    if os.geteuid() == 0:
        return Path("/var/lib/amistream")
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "amistream"


class Settings(BaseModel):
    """Read-only once made. Names end in their unit: `_s` seconds; sizes are bytes and may be written `10MiB`.

    A value that is not given is that of its `AMISTREAM_*` variable, and then the default.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, defer_build=True)

    @model_validator(mode="before")
    @classmethod
    def _add_variables(cls, given: dict[str, Any]) -> dict[str, Any]:
        variables = {name.upper(): value for name, value in os.environ.items()}
        found = {name: variables.get(f"{PREFIX}{name.upper()}") for name in cls.model_fields}
        return {**{name: value for name, value in found.items() if value is not None}, **given}

    # The daemon.
    socket: Path = Field(
        DEFAULT_SOCKET,
        description="Unix socket of the API, with mode 0660. Its directory is made if it does not exist. Choice.",
    )
    socket_group: str = Field(
        "",
        description="Group that may connect: its members see every job, and bundle what source_roots lists. Empty: "
        "root and the daemon's own user only. Choice.",
    )
    source_roots: RootPaths = Field(
        (),
        description="Directories, files or devices that members of socket_group may specify in their jobs (volume, "
        'keys, a directory to write to), with everything below them, such as ["/srv/images", "/dev/dm-3"]. Give real '
        "paths: a link in place of a root is not followed. Everything below a root can be bundled, whatever its owner "
        "and mode. Root and the daemon's own user may specify any path. As a variable: "
        "AMISTREAM_SOURCE_ROOTS=/srv/images:/dev/dm-3. Empty: nothing. Choice.",
    )
    state_dir: Annotated[Path, AfterValidator(Path.absolute)] = Field(
        default_factory=default_state_dir,
        examples=["/var/lib/amistream"],
        description="Directory of the journal of jobs and of a generated user key (0700). Keep a copy of that key: it "
        "opens your bundles. This default is root's; another user's is ~/.local/state/amistream ($XDG_STATE_HOME is "
        "honoured). Choice.",
    )
    max_jobs: PositiveInt = Field(
        2,
        description="Jobs that run at once; the others wait. They share the cores, and each needs the memory of the "
        "formula below. Guess.",
    )
    max_queued: PositiveInt = Field(100, description="Jobs that may wait; more are refused with daemon.full. Guess.")
    on_stop: OnStop = Field(
        OnStop.FINISH,
        description='Action of the first SIGTERM on running jobs: "finish" lets them end, "interrupt" stops them until '
        'the next start, "cancel" stops them and removes what they stored. A second SIGTERM always interrupts. Choice.',
    )
    resume_on_start: bool = Field(
        True,
        description="true: the daemon resumes by itself the jobs that a crash, a reboot or SIGTERM cut short. false: "
        'they wait, as "interrupted", for `amistream resume`. Choice.',
    )
    log_level: str = Field(
        "info",
        pattern="^(debug|info|warning|error)$",
        description='Least severe level that is logged: "debug", "info", "warning" or "error". Choice.',
    )
    log_format: LogFormat = Field(
        LogFormat.AUTO,
        description='"json" for machines, "text" for people, "auto": text if stderr is a terminal, else json. One line '
        "an event, to stderr. Choice.",
    )
    metrics_textfile: TextfilePath | None = Field(
        None,
        examples=["/var/lib/prometheus/node-exporter/amistream.prom"],
        description="File for the textfile collector of node_exporter, with the metrics: replaced each minute and at "
        "the end of a job, readable by every user. Its name ends with .prom. Default: none. The path is an example. "
        "Choice.",
    )
    on_success: Command = Field(
        (),
        description="Command for each job of the daemon that is done, run as the daemon's user, without a shell. Its "
        'standard input is the job as JSON. A list of words, or one line: "/usr/local/bin/announce --quiet". It never '
        "changes the job. Empty: none. Choice.",
    )
    on_failure: Command = Field(
        (), description="Command for each job of the daemon that failed or was refused, as on_success. Choice."
    )
    hook_timeout_s: PositiveFloat = Field(
        60.0,
        le=3600.0,
        description="Seconds that a command of on_success or on_failure may take at the longest; after that it is "
        "ended. Guess.",
    )

    # The queue.
    queue_url: str = Field(
        "",
        description="URL of the Amazon SQS queue from which the daemon takes jobs, beside those of its socket, such as "
        "https://sqs.eu-west-1.amazonaws.com/123456789012/amistream. A standard queue, with a queue of dead letters. "
        "Empty: none. Choice.",
    )
    queue_jobs: PositiveInt = Field(
        2,
        description="Jobs of the queue that run at once; none is taken while max_jobs are running. Guess.",
    )
    queue_sources: Places = Field(
        (),
        description="Buckets and folders, snapshots and paths that messages may name as source, with everything below "
        'them, such as ["s3://bundles/web", "snap-", "/srv/images"]; "s3://" is every bucket, "snap-" every snapshot. '
        "Paths must lie within source_roots, too. As a variable: with commas between. Empty: nothing. Choice.",
    )
    queue_destinations: Places = Field(
        (),
        description='Buckets and folders to which messages may write, such as ["s3://bundles/web"]. As a variable: '
        "with commas between. Empty: nothing. Choice.",
    )
    queue_kinds: QueueKinds = Field(
        ("bundle", "convert", "verify", "migrate"),
        description="Kinds of jobs that messages may start. As a variable: with commas between. Choice.",
    )
    queue_visibility_s: int = Field(
        300,
        ge=3,
        le=3600,
        description="Seconds for which a message is held without a word from this host, 3 to 3600. It is extended each "
        "third of them. After a crash another host gets the job when they are over. Guess.",
    )
    queue_drain_s: PositiveFloat = Field(
        100.0,
        description="Seconds after SIGTERM in which running jobs of the queue may end; those that have not are given "
        "back to it. Jobs of the socket are not concerned. Guess: a spot instance has 120 seconds.",
    )
    queue_watch_notices: bool = Field(
        False,
        description="true: when AWS is about to end this instance, as its metadata say, the daemon takes no more jobs "
        "of the queue, and gives back those that do not end within queue_drain_s. For spot instances and Auto Scaling "
        "groups. Choice.",
    )
    results: str = Field(
        "",
        pattern="^$|^events:.|^sns:arn:|^sqs:https?://",
        description='Destination of a JSON document for each job of the queue that ended: "events:BUS", "sns:ARN" or '
        '"sqs:URL". Empty: nowhere; the journal and the metrics have them. Choice.',
    )

    # The bundle.
    prefix: str = Field(
        "image",
        description="Start of every object name, such as image.part.00 and image.manifest.xml, and name of the image "
        "inside the bundle. Choice: the default of the AMI tools.",
    )
    architecture: Annotated[str, BeforeValidator(common_architecture)] = Field(
        "x86_64",
        pattern="^(i386|x86_64|arm64)$",
        description='Architecture of the image\'s kernel: "i386", "x86_64" or "arm64". Choice.',
    )
    part_size: PartSize = Field(
        ByteSize(10 * MIB),
        description="Size of a part: 16KiB to 5GiB and a whole number of KiB. EC2's check takes about 7000 parts. "
        "Choice: the size of the AMI tools.",
    )
    block_size: ByteSize = Field(
        ByteSize(2 * MIB),
        ge=64 * KIB,
        le=64 * MIB,
        description="Bytes handed from stage to stage, 64KiB to 64MiB. Measured: 2 to 4 MiB are best; smaller blocks "
        "cost more hand-overs, larger ones leave the processor's cache.",
    )
    workers: PositiveInt | None = Field(
        None,
        examples=[4],
        description="Compute threads of a job; default: one per core that the process may use. 4 is an example. "
        "Measured: one more than the cores is slower.",
    )
    nice: int = Field(
        0,
        ge=0,
        le=19,
        description="Scheduling priority of the compute threads, 0 to 19; 19 yields the most to other work. Above 0 "
        "the volume is also read in the idle disk class. Choice.",
    )
    memory_limit: ByteSize | None = Field(
        None,
        examples=["256MiB"],
        description="Memory that the process stays under while one job runs, by having fewer parts in flight; default: "
        "no limit. Each job that runs beside it (max_jobs) adds what the formula below gives. "
        '"256MiB" is an example. Choice.',
    )
    compress: str = Field(
        "fast",
        pattern="^(fast|balanced|small|auto|[1-9])$",
        description='Compression: "fast" (level 1), "balanced" (4), "small" (6), a level "1" to "9", or "auto", which '
        "chooses for each block the level that fits the link. With auto neither the cores nor the upload wait. "
        "Measured: levels 1 to 3 are Intel's isal, 4 to 6 zlib-ng, 7 to 9 zlib, each the quickest for its ratio; "
        '"fast" takes a tenth more space than "balanced" and a fifth of its time.',
    )
    sparse: Sparse = Field(
        Sparse.AUTO,
        description='Holes, and free blocks of ext2, ext3, ext4 and xfs: "auto" leaves them out, "always" does too and '
        'writes the archive\'s sparse map even if there are none, "never" bundles every byte. What is left out comes '
        "back as zeros. Choice.",
    )
    max_image_size: ByteSize = Field(
        ByteSize(10 * GIB),
        description="Largest volume that is accepted. AWS limit: the root volume of an instance store-backed AMI has "
        "at most 10 GiB. Raise it only for another cloud.",
    )

    # Identity.
    account: str = Field("", description="Account id, on AWS 12 digits; default: looked up with STS. Choice.")
    certificate: Path | None = Field(
        None,
        examples=["/etc/amistream/cert.pem"],
        description="Your X.509 certificate, PEM; default: a pair of certificate and key, made once in state_dir. The "
        "pair signs the manifest and can open the bundle again; EC2 need not know it. Give both or neither. The path "
        "is an example. Choice.",
    )
    private_key: Path | None = Field(
        None,
        examples=["/etc/amistream/pk.pem"],
        description="Your RSA private key, PEM, that belongs to the certificate. The path is an example. Choice.",
    )
    allow_exposed_key: bool = Field(
        False,
        description="true: accept a private key that every user of the machine can read. false: refuse it, and show "
        "the command that protects it. The older tools' commands accept it with a warning. Choice.",
    )
    ec2_certificates: Annotated[dict[str, Path], BeforeValidator(parse_object)] = Field(
        default_factory=dict,
        description="EC2's certificate per region, for which the bundle's key is encrypted. The key 'default' serves "
        'the other regions, such as in { default = "/etc/amistream/cert-ec2.pem", "cn-north-1" = '
        '"/etc/amistream/cert-ec2-cn-north-1.pem" }. Empty: looked up in $EC2_AMITOOL_HOME/etc/ec2/amitools, '
        "/etc/ec2/amitools and /usr/share/euca2ools/certs. Choice.",
    )

    # AWS.
    region: str = Field(
        "",
        description="Region; default: that of the bucket, where EC2 registers, or without a bucket AWS_REGION or the "
        "region of the SDK's configuration. To these goes the request for the bucket's region, too. Choice.",
    )
    endpoint_url: str = Field(
        "",
        description="Endpoint of S3, EC2 and STS together, for tests and compatible clouds, such as "
        "http://127.0.0.1:4566; a path may follow. Empty: those of AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL_EC2 and "
        "AWS_ENDPOINT_URL_STS, for a cloud that has several, else AWS. Choice.",
    )
    acl: Acl = Field(
        Acl.AWS_EXEC_READ,
        description='Canned ACL of every object: "aws-exec-read" lets EC2 read it, "public-read" everyone, "private" '
        "nobody else. AWS limit: EC2 reads a bundle through its ACL.",
    )
    sse: ServerEncryption = Field(
        ServerEncryption.AUTO,
        description='Encryption that requests name. "auto": none, and AES256 where a bucket denies requests without; '
        '"AES256": always. S3 encrypts so in any case, and EC2 reads it; bundles under KMS it cannot read. Choice.',
    )
    sign_payload: bool = Field(
        False,
        description="true: hash every body with SHA-256 for its signature, as some bucket policies require. Measured: "
        "0.8 CPU seconds more for each GiB sent. S3 checks each part's SHA-1 either way, and bodies are always signed "
        "over plain HTTP to another machine.",
    )

    # Upload.
    upload_concurrency: PositiveInt = Field(
        4, le=64, description="Parts in flight, at most 64. Each takes a part's size of memory. Guess."
    )
    puts: PositiveInt = Field(
        64, le=256, description="Blocks of a snapshot in flight, at most 256. Each takes 512 KiB of memory. Guess."
    )
    limit_upload: ByteSize | None = Field(
        None,
        ge=16 * KIB,
        examples=["20MiB"],
        description="Bytes per second that a job sends to S3 at most, such as 20MiB; default: no limit. 16KiB or more. "
        '"20MiB" is an example. Choice.',
    )
    upload_attempts: PositiveInt = Field(6, description="Tries for one request, the first included. Guess.")
    backoff_base_s: PositiveFloat = Field(
        0.5,
        description="Seconds: the first retry's longest delay, doubled for each further retry; the delay itself is "
        "random, between 0 and that. Guess.",
    )
    backoff_cap_s: PositiveFloat = Field(20.0, description="Seconds: the longest delay between two tries. Guess.")
    stall_timeout_s: PositiveFloat = Field(
        30.0, description="Seconds without progress after which an attempt counts as failed. Guess."
    )
    freeze_timeout_s: PositiveFloat = Field(
        300.0,
        le=3600.0,
        description="Seconds for which --freeze holds up the writers of a volume at the longest; after that they go "
        "on, and the job fails. Guess.",
    )
    script_space: ByteSize = Field(
        ByteSize(GIB),
        ge=MIB,
        description="Memory for the files that a --script changes or makes, at most, until the job's end. Guess.",
    )
    script_timeout_s: PositiveFloat = Field(
        3600.0,
        description="Seconds that a --script may take at the longest; after that it is ended, and the job is refused. "
        "Guess.",
    )
    scratch_dir: Annotated[Path, AfterValidator(Path.absolute)] | None = Field(
        None,
        examples=["/mnt"],
        description="Directory for the temporary copy that --fs xfs makes, which takes as much space as all files of "
        "the image. Nothing is left in it. Default: state_dir. Choice.",
    )
    multipart_threshold: ByteSize = Field(
        ByteSize(64 * MIB),
        ge=5 * MIB,
        description="Parts larger than this go up as S3 multipart uploads; 5MiB at least. Guess.",
    )
    multipart_chunk: ByteSize = Field(
        ByteSize(16 * MIB),
        ge=5 * MIB,
        le=5 * GIB,
        description="Chunk of a multipart upload. AWS limit: 5MiB to 5GiB. Guess within it.",
    )
    multipart_concurrency: PositiveInt = Field(
        3,
        description="Chunks of one part in flight. They are views of the part and take no memory of their own. Guess.",
    )

    # Registration.
    register_timeout_s: PositiveFloat = Field(
        900.0,
        description="Seconds to wait for the AMI to be available, and for the snapshot of a conversion to be complete; "
        "after that the job fails, and bundle, snapshot and AMI stay. Guess.",
    )
    register_poll_s: PositiveFloat = Field(
        3.0, description="Seconds between two queries of the AMI's or snapshot's state. Guess."
    )

    def worker_count(self) -> int:
        """Compute threads: as set, else one per core this process may use."""
        return self.workers or len(os.sched_getaffinity(0))
