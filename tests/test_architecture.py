"""Who may import whom, read from the source itself."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import amistream

PACKAGE = Path(amistream.__file__).parent
FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))
PURE = [f"stages/{name}.py" for name in ("archive", "compress", "encrypt", "split", "manifest")]
PURE += [str(path.relative_to(PACKAGE)) for path in sorted((PACKAGE / "bundles/unpack").glob("*.py"))]

# From the bottom up: a room may use its own storey and those below it.
STOREYS = (
    ("__init__", "errors", "values", "settings", "events", "log", "hardening"),
    ("flow",),
    ("keys", "source", "stores", "stages", "aws"),
    ("pipeline", "bundles"),
    ("jobs",),
    ("daemon",),
)
FOR_CLI = {"errors", "values", "settings", "events", "log", "hardening", "cli", "bundles", "__init__"}
JOBS_FOR_CLI = {"amistream.jobs.request", "amistream.jobs.job", "amistream.jobs.engine", "amistream.jobs.tune"}
JOBS_FOR_CLI |= {"amistream.jobs.queue", "amistream.jobs.journal"}
JOBS_FOR_CLI |= {"amistream.jobs.doctor", "amistream.jobs.findings"}
# What a process settles once, before its threads begin.
JOBS_FOR_CLI |= {"amistream.flow.memory"}
# The older tools' commands are a second command line: they use the first, and the rooms that their work is in.
FOR_COMPAT = FOR_CLI | {"compat", "keys", "stores", "stages", "aws"}
COMMAND_LINES = ("cli", "compat")
# Where the commands begin: above all, and not there for anybody to import.
ENTRY = "entry"
BENEATH = [file for file in FILES if file != f"{ENTRY}.py"]


def imports_of(file: str) -> set[str]:
    """Name every module that a file imports, at the top or within a function."""
    found = set()
    for node in ast.walk(ast.parse((PACKAGE / file).read_text(), file)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively"
            assert node.module is not None
            # `from amistream.aws import regions` names a module too.
            found |= {_module(node.module, alias.name) for alias in node.names}
    return found


def _module(package: str, name: str) -> str:
    inside = PACKAGE.parent / package.replace(".", "/") / name
    return f"{package}.{name}" if inside.is_dir() or inside.with_suffix(".py").is_file() else package


def own_imports(file: str) -> set[str]:
    return {name for name in imports_of(file) if name.split(".")[0] == "amistream"}


def top_names(file: str) -> set[str]:
    return {name.split(".")[0] for name in imports_of(file)}


def room_of(module: str) -> str:
    """Name the room of `amistream.flow.relay` (flow) or of `flow/relay.py`."""
    parts = module.removesuffix(".py").replace("/", ".").removeprefix("amistream").strip(".").split(".")
    return parts[0] or "__init__"


def storey_of(room: str) -> int:
    return next(number for number, rooms in enumerate(STOREYS) if room in rooms)


def users_of(*libraries: str) -> set[str]:
    return {file for file in FILES if top_names(file) & set(libraries)}


@pytest.mark.parametrize("file", PURE)
def test_pure_stages(file: str) -> None:
    """A pure stage imports no event loop, clock, randomness, file, socket or AWS library."""
    forbidden = {"asyncio", "os", "pathlib", "io", "socket", "time", "datetime", "random", "secrets", "threading"}
    forbidden |= {"anyio", "aiofiles", "aiohttp", "aiobotocore", "botocore", "structlog", "subprocess"}
    assert top_names(file) & forbidden == set()
    others = {name for name in own_imports(file) if not name.startswith("amistream.bundles.unpack.")}
    assert {room_of(name) for name in others} <= {"__init__", "values"}


def test_sdk_at_the_border() -> None:
    """The AWS SDK appears in `aws` and the S3 store only."""
    rest = {file for file in users_of("botocore", "aiobotocore", "boto3") if not file.startswith("aws/")}
    assert rest == {"stores/s3.py", "stores/s3_multipart.py", "stores/s3_requests.py"}


def test_http_at_the_border() -> None:
    """The HTTP library appears in the daemon, its client, and the reader of instance metadata only."""
    rest = {file for file in users_of("aiohttp") if not file.startswith("daemon/")}
    assert rest == {"aws/metadata.py", "cli/client.py"}


def test_every_room_has_a_storey() -> None:
    """Every room of the package has its place in the order, and every place has its room."""
    assert {room_of(file) for file in BENEATH} == {room for rooms in STOREYS for room in rooms} | {*COMMAND_LINES}


@pytest.mark.parametrize("file", [file for file in BENEATH if room_of(file) not in COMMAND_LINES])
def test_storeys(file: str) -> None:
    """A module imports from its own storey and those below it, never from above."""
    above = {name for name in own_imports(file) if room_of(name) in COMMAND_LINES}
    above |= {name for name in own_imports(file) - above if storey_of(room_of(name)) > storey_of(room_of(file))}
    assert above == set()


@pytest.mark.parametrize("file", [file for file in FILES if room_of(file) in COMMAND_LINES])
def test_command_line(file: str) -> None:
    """The command line reaches jobs through requests, what a job tells, and the in-process engine, no other way."""
    allowed = FOR_COMPAT if room_of(file) == "compat" else FOR_CLI
    for name in own_imports(file) - (
        {"amistream.compat.main", "amistream.compat.tables"} if file == "cli/compat.py" else set()
    ):
        assert room_of(name) in allowed or name in JOBS_FOR_CLI, name


def test_entry() -> None:
    """Where the commands begin nothing is but their beginnings, and nobody else begins there."""
    assert own_imports(f"{ENTRY}.py") == {f"amistream.{name}.main" for name in ("cli", "compat", "daemon")}
    assert not [file for file in BENEATH if f"amistream.{ENTRY}" in own_imports(file)]


def test_command_line_is_light() -> None:
    """Starting the command line loads neither the engine nor the AWS SDK: those come when a job runs in-process."""
    code = "import sys, amistream.cli.main; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "amistream.cli.main" in loaded
    assert (
        loaded
        & {"amistream.jobs.engine", "amistream.jobs.tune", "amistream.pipeline", "aiobotocore", "botocore", "aiohttp"}
        == set()
    )


@pytest.mark.parametrize("file", FILES)
def test_file_length(file: str) -> None:
    """No file of the service has more than 400 lines."""
    assert len((PACKAGE / file).read_text().splitlines()) <= 400


@pytest.mark.parametrize("file", FILES)
def test_opening_words(file: str) -> None:
    """Every file of the service opens by saying what it does."""
    assert ast.get_docstring(ast.parse((PACKAGE / file).read_text()))
