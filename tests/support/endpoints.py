"""Real S3 (and EC2) endpoints on loopback, and what each of them can prove.

`run_moto`, `run_ministack` and `run_seaweedfs` start one server each in a process of its own, wait until it
takes an object, and stop it at the end; SeaweedFS is one process with an HTTP and an HTTPS door.
`Endpoint` says where it is and what a test may expect of it.

Tried with aiobotocore 3.10; "AWS" is what the real service does and what the others lack.

    ==============================  ==========  ============  ============  ===================
    what                            moto 5.2.5  ministack     ministack     SeaweedFS 4.48
                                                1.4.21        1.5.33        (HTTP and HTTPS)
    ==============================  ==========  ============  ============  ===================
    wrong secret, skewed clock      accepted    accepted      accepted      403, 403
    payload is not what was signed  accepted    accepted      accepted      accepted
    another region in the signature accepted    accepted      accepted      accepted
    ChecksumSHA1 wrong, PutObject   accepted    accepted (1)  BadDigest     BadDigest
    ChecksumSHA1 wrong, UploadPart  accepted    accepted      BadDigest     BadDigest
    ContentMD5 wrong                accepted    BadDigest     BadDigest     BadDigest
    PutObject answers ChecksumSHA1  no (2)      no            no            yes
    HeadObject ChecksumMode, SHA-1  no (2)      yes           yes           yes
    ... ChecksumType                no          FULL_OBJECT   FULL_OBJECT   no
    GetObjectAttributes Checksum    no (2)      yes           yes           no
    multipart SHA-1, Complete       no          X-2, right    X-2, right    X-2, right
    multipart SHA-1, HeadObject     X, no "-2"  X-2           X-2           X-2
    UploadPart answers the SHA-1    no          yes           yes           yes
    ListParts gives the SHA-1       no          yes           yes           no
    If-None-Match on PutObject      412         412           412           412
    ... on CompleteMultipartUpload  412         412           412           412
    EntityTooSmall, InvalidPart     both        neither       neither       both
    UploadPart, unknown upload      500         NoSuchUpload  NoSuchUpload  NoSuchUpload
    AbortMultipartUpload twice      404         404           404           204
    ListMultipartUploads, prefix    yes (3)     yes           yes           yes
    Complete twice                  200         200           200           200
    CreateBucket again              409         200           409           409
    HeadBucket x-amz-bucket-region  yes         yes           yes           no
    GetBucketLocation               yes         yes           yes           None
    ownership of a new bucket       404 none    Enforced      Enforced      Enforced
    CreateBucket ObjectOwnership    kept        ignored       kept          ignored
    PutBucketOwnershipControls      kept        kept          kept          kept
    ACL in an Enforced bucket       accepted    accepted      400 (4)       accepted
    aws-exec-read in GetObjectAcl   no          no            no            no
    default bucket encryption       404         AES256        AES256        404
    DeleteBucket, not empty         409         409           409           204, all is lost
    Expect: 100-continue, SDK's     yes         yes           yes           yes
      CRC-32 trailer, DeleteObjects,
      ranges, copies, prefix lists
    STS GetCallerIdentity           yes         yes           yes           503
    EC2 RegisterImage               yes         InvalidAction yes           403
    ... the name twice              accepted    -             refused       -
    ... DryRun                      412 (5)     -             REGISTERS IT  -
    ... manifest does not exist     accepted    -             accepted      -
    ... image tags                  dropped     -             kept          -
    DescribeImages by name          yes         ignores the   yes           -
                                                filter
    ... RootDeviceType              standard    -             instance-store  -
    ... ImageLocation               none        -             the name      -
    ... Architecture                none        -             kept          -
    ... EnaSupport, SriovNetSupport none        -             none          -
    ... State                       available   -             available     -
    DescribeImages, unknown id      NotFound    empty         empty         -
    DeregisterImage twice           400         -             400           -
    instance metadata, IMDSv2       3 keys (6)  yes (7)       yes (7)       no
    ==============================  ==========  ============  ============  ===================

    1. BadDigest when ChecksumAlgorithm="SHA1" is sent beside it.
    2. Yes when ChecksumAlgorithm="SHA1" is sent beside it, but it is what the client claimed, right or wrong.
    3. `Initiated` is always in 2010: a test of "older than" proves nothing there.
    4. AccessControlListNotSupported in PutObject and CreateMultipartUpload; bucket-owner-full-control passes.
    5. With the code DryRunOperation, as AWS; for DeregisterImage too.
    6. ami-id, instance-id, instance-type, placement/region (always us-east-1) and credentials; any other key
       answers 500, where AWS says 404.
    7. No block-device-mapping, kernel-id, ancestor-ami-ids, product-codes: 404, as for an instance without them.
       The identity document's account is always 000000000000.

aiobotocore's HTTP client, aiohttp, sends a PUT, GET, HEAD or DELETE once more by itself when the connection ends
without a reply, on a fresh connection too: a lost reply to a PUT with If-None-Match shows as 412.

Of the EBS direct APIs moto has the wire format and no rule, and the others nothing: `support.ebs_endpoint` plays them,
and `test_ebs_contract` has moto's answers beside its own.

No endpoint reads the manifest when an image is registered, and none refuses an expired token or slows down:
the fault proxy does that. `ImageLocation` is proved by the proxy's audit of the request.
"""

from __future__ import annotations

import json
import re
import secrets
import shutil
import signal
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiobotocore.session
import botocore.session
from aiobotocore.config import AioConfig
from botocore.exceptions import BotoCoreError, ClientError

from support.processes import ServerProcess, StartError, free_ports

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractAsyncContextManager

    from support.tls import Authority

REGION = "eu-west-1"
SCRIPTS = Path(sys.executable).parent
# From 1.5 on ministack demands a botocore that aiobotocore does not take, so it has its own environment.
MINISTACK = Path(__file__).parents[2] / ".venv-ministack" / "bin" / "ministack"
START_ATTEMPTS = 3


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A running endpoint: its address, its credentials, and the features that a test may expect."""

    name: str
    url: str
    access_key: str
    secret_key: str = field(repr=False)
    region: str = REGION
    ca_bundle: Path | None = None
    #: A wrong secret or a skewed clock is refused.
    checks_signatures: bool = False
    #: A wrong ChecksumSHA1 is refused with BadDigest, in PutObject and UploadPart.
    checks_checksums: bool = False
    #: HeadObject with ChecksumMode gives back the ChecksumSHA1 of PutObject.
    keeps_checksums: bool = False
    #: An ACL in a BucketOwnerEnforced bucket is refused with AccessControlListNotSupported.
    enforces_ownership: bool = False
    #: If-None-Match: * on PutObject and CompleteMultipartUpload gives 412 for an existing object.
    conditional_put: bool = True
    #: CompleteMultipartUpload refuses small parts (EntityTooSmall) and wrong ETags (InvalidPart).
    checks_parts: bool = False
    #: HeadBucket gives x-amz-bucket-region.
    reports_region: bool = False
    #: STS GetCallerIdentity answers.
    has_sts: bool = False
    #: EC2 RegisterImage takes an ImageLocation, DescribeImages finds the image by its name.
    registers_images: bool = False
    #: ... keeps tags, architecture and an instance-store root, and refuses a name twice.
    keeps_image_details: bool = False
    #: EC2 DryRun gives DryRunOperation and does nothing.
    honours_dry_run: bool = False
    #: Instance metadata under /latest, IMDSv2.
    has_metadata: bool = False

    @property
    def is_https(self) -> bool:
        return self.url.startswith("https:")

    def environ(self) -> dict[str, str]:
        """Return the AWS variables a program needs to reach this endpoint, and nothing of this machine's."""
        variables = {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        }
        if self.ca_bundle is not None:
            variables["AWS_CA_BUNDLE"] = str(self.ca_bundle)
        return variables

    def client(self, service: str = "s3", **config: Any) -> AbstractAsyncContextManager[Any]:
        """Open an aiobotocore client that tries each request once."""
        client: AbstractAsyncContextManager[Any] = _aio_session().create_client(
            service, **self.client_arguments(config)
        )
        return client

    @contextmanager
    def blocking_client(self, service: str = "s3", *, shared: bool = True, **config: Any) -> Iterator[Any]:
        """Give a botocore client that needs no event loop and tries each request once.

        Making one takes longer than most requests, so it is kept for the next caller; its connections are closed.
        One that is not shared keeps its connections to the end of the block.
        """
        make = _shared_client if shared else _blocking_client
        client = make(self, service, tuple(config.items()))
        try:
            yield client
        finally:
            client.close()

    def client_arguments(self, config: dict[str, Any]) -> dict[str, Any]:
        settings = {
            "retries": {"total_max_attempts": 1},
            "request_checksum_calculation": "when_required",
            "response_checksum_validation": "when_required",
            "connect_timeout": 10,
            "read_timeout": 60,
            **config,
        }
        return {
            "region_name": self.region,
            "endpoint_url": self.url,
            "aws_access_key_id": self.access_key,
            "aws_secret_access_key": self.secret_key,
            "verify": str(self.ca_bundle) if self.ca_bundle else None,
            "config": AioConfig(**settings),
        }


# A session reads the service models once, which costs more than all the rest of a client.
@cache
def _blocking_session() -> Any:
    return botocore.session.get_session()


def _blocking_client(endpoint: Endpoint, service: str, config: tuple[tuple[str, Any], ...]) -> Any:
    return _blocking_session().create_client(service, **endpoint.client_arguments(dict(config)))


_shared_client = lru_cache(maxsize=16)(_blocking_client)


@cache
def _aio_session() -> Any:
    return aiobotocore.session.get_session()


@contextmanager
def run_moto() -> Iterator[Endpoint]:
    """Run moto's server on a port of its own choice."""
    with workplace("moto") as directory:
        argv = [str(SCRIPTS / "moto_server"), "-H", "127.0.0.1", "-p", "0"]
        with running(argv, directory=directory) as server:
            port = announced_port(server)
            endpoint = Endpoint(
                name="moto",
                url=f"http://127.0.0.1:{port}",
                access_key="AKIAMOTOTEST",
                secret_key=secrets.token_hex(20),
                checks_parts=True,
                reports_region=True,
                has_sts=True,
                registers_images=True,
                honours_dry_run=True,
            )
            _wait_writable(server, endpoint)
            yield endpoint


@contextmanager
def run_ministack() -> Iterator[Endpoint]:
    """Run ministack on a port of its own choice, in memory, without its other listeners."""
    with workplace("ministack") as directory:
        environ = {
            "BIND_HOST": "127.0.0.1",
            "GATEWAY_PORT": "0",
            "MINISTACK_REGION": REGION,
            "MINISTACK_IMDS_V2_REQUIRED": "1",
            "SFTP_ENABLED": "0",
            "IOT_MTLS_ENABLED": "0",
            "STATE_DIR": str(directory / "state"),
            "S3_DATA_DIR": str(directory / "s3"),
            "TMPDIR": str(directory),
            "DOCKER_HOST": f"unix://{directory}/no-docker.sock",
        }
        if not MINISTACK.exists():
            raise StartError(f"there is no {MINISTACK}: `make test` installs it")
        with running([str(MINISTACK)], directory=directory, environ=environ) as server:
            port = announced_port(server)
            endpoint = Endpoint(
                name="ministack",
                url=f"http://127.0.0.1:{port}",
                # Twelve digits choose the account the identities and images belong to.
                access_key="123456789012",
                secret_key=secrets.token_hex(20),
                keeps_checksums=True,
                reports_region=True,
                has_sts=True,
                has_metadata=True,
            )
            _wait_writable(server, endpoint)
            yield _with_ministack_release(endpoint)


@contextmanager
def run_seaweedfs(authority: Authority) -> Iterator[tuple[Endpoint, Endpoint]]:
    """Run one SeaweedFS and give its HTTP and its HTTPS door."""
    for attempt in range(START_ATTEMPTS):
        with workplace("seaweedfs") as directory:
            ports = free_ports(len(_SEAWEEDFS_PORTS))
            argv, http = _seaweedfs_command(directory, authority, ports)
            https = replace(
                http,
                name="seaweedfs_https",
                url=f"https://127.0.0.1:{ports[_SEAWEEDFS_PORTS.index('s3.port.https')]}",
                ca_bundle=authority.ca_bundle,
            )
            # A clean end takes it a quarter of a minute, and nobody wants the data.
            # Each bucket is a collection of volumes of its own: one at first, not seven.
            environ = {"WEED_MASTER_VOLUME_GROWTH_COPY_1": "1"}
            with running(argv, directory=directory, environ=environ, stop_with=signal.SIGKILL) as server:
                try:
                    _wait_writable(server, http)
                    _wait_writable(server, https)
                except StartError:
                    # Another program may have taken a port between choosing and binding.
                    if "address already in use" in server.output() and attempt + 1 < START_ATTEMPTS:
                        continue
                    raise
                try:
                    yield http, https
                finally:
                    for port in ports:
                        for left in Path("/tmp").glob(f"seaweedfs-*-grpc-{port}.sock"):
                            left.unlink()
                return


_SEAWEEDFS_PORTS = (
    "master.port",
    "master.port.grpc",
    "volume.port",
    "volume.port.grpc",
    "filer.port",
    "filer.port.grpc",
    "s3.port",
    "s3.port.https",
    "s3.port.grpc",
)


def _seaweedfs_command(directory: Path, authority: Authority, ports: list[int]) -> tuple[list[str], Endpoint]:
    endpoint = Endpoint(
        name="seaweedfs",
        url=f"http://127.0.0.1:{ports[_SEAWEEDFS_PORTS.index('s3.port')]}",
        access_key="AKIASEAWEEDFS",
        # A secret of this very start: no other server can answer the ready check.
        secret_key=secrets.token_hex(20),
        checks_signatures=True,
        checks_checksums=True,
        keeps_checksums=True,
        checks_parts=True,
    )
    credentials = {"accessKey": endpoint.access_key, "secretKey": endpoint.secret_key}
    identities = [{"name": "tester", "credentials": [credentials], "actions": ["Admin"]}]
    (directory / "s3.json").write_text(json.dumps({"identities": identities}))
    (directory / "data").mkdir()
    flags = {
        "ip": "127.0.0.1",
        "ip.bind": "127.0.0.1",
        "dir": directory / "data",
        "master.telemetry": "false",
        "master.volumeSizeLimitMB": 256,
        "volume.max": 500,
        "filer": "true",
        "filer.localSocket": directory / "filer.sock",
        "s3": "true",
        "s3.config": directory / "s3.json",
        "s3.localSocket": directory / "s3.sock",
        "s3.cert.file": authority.server_certificate,
        "s3.key.file": authority.server_key,
        "s3.autoCreateBucket": "false",
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        **dict(zip(_SEAWEEDFS_PORTS, ports, strict=True)),
    }
    arguments = [f"-{name}={value}" for name, value in flags.items()]
    return [str(SCRIPTS / "weed"), "-logtostderr", "server", *arguments], endpoint


@contextmanager
def workplace(name: str) -> Iterator[Path]:
    # Not pytest's directory: it keeps those of three sessions, and these hold buckets.
    directory = Path(tempfile.mkdtemp(prefix=f"amistream-{name}-"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def running(
    argv: list[str],
    *,
    directory: Path,
    environ: dict[str, str] | None = None,
    stop_with: signal.Signals = signal.SIGTERM,
) -> Iterator[ServerProcess]:
    server = ServerProcess(
        argv, log=directory / "output.log", environ=environ or {}, directory=directory, stop_with=stop_with
    )
    try:
        yield server
    finally:
        server.stop()


def announced_port(server: ServerProcess) -> int:
    """Return the port the server says it has bound, so that nothing can take it in between."""
    pattern = re.compile(r"Running on http://127\.0\.0\.1:(\d+)")
    server.wait_ready(lambda: pattern.search(server.output()) is not None)
    found = pattern.search(server.output())
    assert found is not None
    return int(found[1])


def _wait_writable(server: ServerProcess, endpoint: Endpoint) -> None:
    """Wait until the endpoint takes a bucket and an object, signed, and gives them up again."""

    def is_writable() -> bool:
        bucket = f"ready-{secrets.token_hex(6)}"
        with endpoint.blocking_client() as s3:
            try:
                s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": endpoint.region})
                s3.put_object(Bucket=bucket, Key="ready", Body=b"ready")
                s3.delete_object(Bucket=bucket, Key="ready")
                s3.delete_bucket(Bucket=bucket)
            except (BotoCoreError, ClientError):
                return False
        return True

    server.wait_ready(is_writable)


def _with_ministack_release(endpoint: Endpoint) -> Endpoint:
    """Add what ministack can do from 1.5 on, found out by trying, because its release is not reported."""
    with endpoint.blocking_client() as s3, endpoint.blocking_client("ec2") as ec2:
        bucket = f"ready-{secrets.token_hex(6)}"
        s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": endpoint.region})
        try:
            s3.put_object(Bucket=bucket, Key="acl", Body=b"", ACL="aws-exec-read")
        except ClientError as error:
            if error.response["Error"]["Code"] != "AccessControlListNotSupported":
                raise
        else:
            return endpoint
        finally:
            s3.delete_object(Bucket=bucket, Key="acl")
            s3.delete_bucket(Bucket=bucket)
        image = ec2.register_image(Name="ready", ImageLocation=f"{bucket}/ready.manifest.xml")
        ec2.deregister_image(ImageId=image["ImageId"])
    return replace(
        endpoint,
        checks_checksums=True,
        enforces_ownership=True,
        registers_images=True,
        keeps_image_details=True,
    )
