"""The upload alone: the same bundle by amistream and by tools that copy files to S3, into SeaweedFS on this machine.

The server is that of the tests, with its data on disk, and shares the cores with each client.
"""

from __future__ import annotations

import os
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from amistream.keys import CERTIFICATE_FILE, own_identity
from amistream.values import GIB
from benchmarks.bench import Bench, Scenario
from benchmarks.environ import plain_environ
from benchmarks.results import Column, Outcome
from benchmarks.timing import BenchmarkError, alternate, run_program

if TYPE_CHECKING:
    from support.endpoints import Endpoint

OURS = "amistream"
BUCKET = "uploads"
SCRIPTS = Path(sys.executable).parent
COMMAND = SCRIPTS / "amistream"
TESTS = Path(__file__).parents[2] / "tests"

COLUMNS = (
    Column("mb_per_s", "MB/s", ".1f"),
    Column("wall_s", "wall s"),
    Column("cpu_s", "CPU s"),
    Column("cpu_s_per_gib", "CPU s/GiB", ".1f"),
    Column("wall_ratio", "wall / ours"),
    Column("cpu_ratio", "CPU / ours"),
)
NOTE = (
    "each client as a whole process, with its own defaults for parts and concurrency; amistream upload also compares "
    "each part with the manifest, sends its SHA-1, and asks for each size at the end"
)


def run(bench: Bench) -> Outcome:
    """Each round: the bundle once by each client that is installed, each time to a prefix of its own."""
    volume = bench.inputs.volume(bench.options.size)
    bundle = _bundle(bench, volume)
    files = list(bundle.iterdir())
    size = sum(path.stat().st_size for path in files)
    description = {"kind": bench.inputs.kind, "size": size, "parts": len(files) - 1}
    outcome = Outcome("uploads", COLUMNS, description, notes=[NOTE])
    with _running_server(bench.scratch) as endpoint:
        clients = {name: make(bundle, endpoint) for name, make in CLIENTS.items()}
        missing = [name for name, argv in clients.items() if not shutil.which(argv("")[0])]
        outcome.notes += [f"not installed, so left out: {name}" for name in missing]
        variants: dict[str, Callable[[], dict[str, float]]] = {
            name: partial(_upload, bench, argv, endpoint, size) for name, argv in clients.items() if name not in missing
        }
        for number, figures in enumerate(alternate(bench.options.runs, variants), 1):
            bench.say(f"uploads: round {number} of {bench.options.runs}")
            for name, measured in figures.items():
                ratios = {f"{key}_ratio": measured[f"{key}_s"] / figures[OURS][f"{key}_s"] for key in ("wall", "cpu")}
                outcome.add(name, {**measured, **ratios})
    return outcome


Argv = Callable[[str], list[str]]
"""Makes the command line that uploads to a prefix."""


def _ours(bundle: Path, endpoint: Endpoint) -> Argv:
    manifest = str(next(bundle.glob("*.manifest.xml")))
    options = ["--endpoint-url", endpoint.url, "--acl", "private"]
    return lambda prefix: [str(COMMAND), "upload", manifest, f"s3://{BUCKET}/{prefix}", *options]


def _aws(bundle: Path, endpoint: Endpoint) -> Argv:
    words = ["aws", "--endpoint-url", endpoint.url, "s3", "cp", "--recursive", "--only-show-errors", str(bundle)]
    return lambda prefix: [*words, f"s3://{BUCKET}/{prefix}/"]


def _s5cmd(bundle: Path, endpoint: Endpoint) -> Argv:
    words = [str(SCRIPTS / "s5cmd"), "--endpoint-url", endpoint.url, "cp", f"{bundle}/*"]
    return lambda prefix: [*words, f"s3://{BUCKET}/{prefix}/"]


def _rclone(bundle: Path, endpoint: Endpoint) -> Argv:
    store = f":s3,provider=Other,env_auth=true,endpoint='{endpoint.url}':{BUCKET}"
    return lambda prefix: ["rclone", "copy", "--quiet", str(bundle), f"{store}/{prefix}"]


CLIENTS: Mapping[str, Callable[[Path, Endpoint], Argv]] = {
    "aws s3 cp": _aws,
    "rclone": _rclone,
    "s5cmd": _s5cmd,
    OURS: _ours,
}


def _upload(bench: Bench, argv: Argv, endpoint: Endpoint, size: int) -> dict[str, float]:
    cost = run_program(argv(secrets.token_hex(4)), directory=bench.scratch, environ=_environ(endpoint))
    return {
        "wall_s": cost.wall_s,
        "cpu_s": cost.cpu_s,
        "mb_per_s": size / cost.wall_s / 1e6,
        "cpu_s_per_gib": cost.cpu_s / size * GIB,
    }


def _bundle(bench: Bench, volume: Path) -> Path:
    """Bundle the volume into a directory, with keys of this run."""
    directory, keys = bench.scratch / "uploads", bench.scratch / "uploads-keys"
    own_identity(keys)
    words = [str(COMMAND), "bundle", str(volume), "--to", str(directory), "--in-process", "--account", "123456789012"]
    words += ["--region", "eu-west-1", "--ec2-cert", str(keys / CERTIFICATE_FILE)]
    run_program(words, directory=bench.scratch, environ={**os.environ, "AMISTREAM_STATE_DIR": str(keys)})
    return directory


@contextmanager
def _running_server(directory: Path) -> Iterator[Endpoint]:
    sys.path.append(str(TESTS))
    try:
        from support.endpoints import run_seaweedfs  # noqa: PLC0415 - only this scenario needs it
        from support.tls import make_authority  # noqa: PLC0415
    except ImportError as error:
        raise BenchmarkError(f"cannot start SeaweedFS: {error} (pip install '.[test]')") from None
    with run_seaweedfs(make_authority(directory)) as (http, _):
        with http.blocking_client() as s3:
            s3.create_bucket(Bucket=BUCKET)
            rules = [{"ObjectOwnership": "BucketOwnerPreferred"}]
            s3.put_bucket_ownership_controls(Bucket=BUCKET, OwnershipControls={"Rules": rules})
        yield http


def _environ(endpoint: Endpoint) -> dict[str, str]:
    return {**plain_environ(), **endpoint.environ()}


SCENARIO = Scenario("uploads", "the upload alone, into SeaweedFS, beside aws s3 cp, rclone and s5cmd", "1 min", run)
