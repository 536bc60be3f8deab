"""Which room may import which, read from the source itself."""

from __future__ import annotations

import ast
import subprocess
import sys
from itertools import chain
from pathlib import Path

import pytest

import amistream

PACKAGE = Path(amistream.__file__).parent
FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))

ORDER = (
    {"__init__"},
    {"sizes", "text", "states"},
    {"values"},
    {"units", "errors", "process", "member", "reports", "shipped"},
    {"events", "settings", "roots", "location"},
    {"request", "ports", "host"},
    {"log", "keys", "flow"},
    {"source", "stages", "aws"},
    {"stores", "targets"},
    {"plan"},
    {"pipeline", "conversion"},
    {"bundles"},
    {"checks"},
    {"jobs"},
    {"fleet"},
    {"daemon", "cli"},
    {"compat", "web"},
    {"entry"},
)
"""From left to right: a room imports itself and the rooms to its left. Rooms of one set do not import each other."""

PURE = sorted(
    {f"stages/{name}.py" for name in ("archive", "compress", "join", "encrypt", "split", "manifest")}
    | {file for file in FILES if file.startswith(("stages/back/", "source/disks/", "source/tree/"))}
    - {
        f"source/tree/{name}.py"
        for name in (
            *("admission", "confined", "contents", "crossing", "entries", "handles", "layers", "merged", "opening"),
            *("origin", "plain", "replaced", "rows", "volume", "walk"),
        )
    }
)
IMPURE = {
    "asyncio",
    "os",
    "pathlib",
    "io",
    "socket",
    "time",
    "datetime",
    "random",
    "secrets",
    "threading",
    "subprocess",
}
IMPURE |= {"aiofiles", "aiohttp", "aiobotocore", "botocore", "structlog"}


def imports_of(file: str) -> set[str]:
    """Name every module that a file imports: at the top, within a function, or for its types only."""
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


def file_of(module: str) -> str:
    """Name the file of `amistream.flow.relay` or of the package `amistream.flow`."""
    inside = module.removeprefix("amistream").replace(".", "/").strip("/")
    return f"{inside}.py" if f"{inside}.py" in FILES else f"{inside}/__init__.py".strip("/")


def room_of(file: str) -> str:
    return file.removesuffix(".py").split("/")[0]


def place_of(file: str) -> int:
    return next(number for number, rooms in enumerate(ORDER) if room_of(file) in rooms)


def users_of(*libraries: str) -> set[str]:
    return {file for file in FILES if top_names(file) & set(libraries)}


def circles(imports: dict[str, set[str]]) -> list[list[str]]:
    """Find every set of files that import each other in a circle (Tarjan's strongly connected components)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(file: str) -> None:
        index[file] = low[file] = len(index)
        stack.append(file)
        for other in sorted(imports[file]):
            if other not in index:
                visit(other)
                low[file] = min(low[file], low[other])
            elif other in stack:
                low[file] = min(low[file], index[other])
        if low[file] == index[file]:
            start = stack.index(file)
            if len(circle := stack[start:]) > 1:
                found.append(sorted(circle))
            del stack[start:]

    for file in imports:
        if file not in index:
            visit(file)
    return found


def test_every_room_has_its_place() -> None:
    """Every room of the package stands in the order once, and every name in the order is a room."""
    assert sorted(chain(*ORDER)) == sorted({room_of(file) for file in FILES})


@pytest.mark.parametrize("file", FILES)
def test_order(file: str) -> None:
    """A file imports its own room and rooms that stand before it in the order, lazily or not."""
    others = {other for other in map(file_of, own_imports(file)) if room_of(other) != room_of(file)}
    assert {other for other in others if place_of(other) >= place_of(file)} == set()


def test_no_circles() -> None:
    """No two files import each other, directly or through others; lazy and type-only imports count."""
    assert circles({file: {*map(file_of, own_imports(file))} - {file} for file in FILES}) == []


def test_circles_are_found() -> None:
    """The search finds a circle of three files behind a chain, and none in a tree."""
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"d"}, "d": {"b"}}) == [["b", "c", "d"]]
    assert circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


@pytest.mark.parametrize("file", PURE)
def test_pure(file: str) -> None:
    """A pure stage imports no loop, clock, randomness, file, socket or AWS library, and only values and pure stages."""
    assert top_names(file) & IMPURE == set()
    assert {other for other in map(file_of, own_imports(file)) if room_of(other) not in {"__init__", "values"}} <= {
        *PURE
    }


def test_messages_are_read_without_io() -> None:
    """Reading a message imports no loop, clock, randomness, file, socket or AWS library."""
    assert top_names("fleet/messages.py") & IMPURE == set()


def test_sdk_at_the_border() -> None:
    """The AWS SDK appears in `aws` and `stores/s3` only."""
    rest = {file for file in users_of("botocore", "aiobotocore", "boto3") if room_of(file) != "aws"}
    assert {str(Path(file).parent) for file in rest} <= {"stores/s3"}


def test_http_at_the_border() -> None:
    """The HTTP library appears in the daemon, its client, the page, the reader of metadata, and the body of a block."""
    rest = {file for file in users_of("aiohttp") if room_of(file) not in {"daemon", "web"}}
    assert rest == {"aws/block_requests.py", "aws/metadata.py", "cli/client.py"}


def test_an_adapter_knows_its_port_only() -> None:
    """No store imports another kind of store, and no target another kind of target."""
    for file in FILES:
        ports = {
            "stores/directory.py",
            "stores/s3/store.py",
            "targets/file.py",
            "targets/device.py",
            "targets/stream.py",
        }
        if file in ports:
            assert {*map(file_of, own_imports(file))} & (ports - {file}) == set(), file


def test_version_is_light() -> None:
    """`amistream --version` loads neither pydantic nor aiohttp nor the AWS SDK, and no command."""
    code = "import sys; from amistream import entry; sys.argv = ['amistream', '--version']\n"
    code += "try: entry.client()\nfinally: print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert amistream.__version__ in loaded
    assert loaded & {"pydantic", "pydantic_settings", "aiohttp", "aiobotocore", "botocore", "cryptography"} == set()


def test_command_line_is_light() -> None:
    """Loading the commands loads neither the engine nor the AWS SDK: those come when a job runs in-process."""
    code = "import sys, amistream.cli.main; amistream.cli.main.run(['bundle', '--help']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "amistream.cli.commands.bundle" in loaded
    heavy = {"amistream.jobs.engine", "amistream.jobs.tune", "amistream.pipeline", "aiobotocore", "botocore", "aiohttp"}
    assert loaded & heavy == set()


@pytest.mark.parametrize("file", FILES)
def test_opening_words(file: str) -> None:
    """Every file of the service opens by saying what it does."""
    assert ast.get_docstring(ast.parse((PACKAGE / file).read_text()))
