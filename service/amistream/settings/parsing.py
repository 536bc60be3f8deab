"""The types of settings that a file, a variable or a request may write in several forms, and their faults in words."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, ByteSize

from amistream.values import GIB, KIB

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


_DECIMALS = {10**9: "GiB", 10**6: "MiB", 10**3: "KiB"}
_ARCHITECTURES = {"amd64": "x86_64", "x86-64": "x86_64", "aarch64": "arm64", "386": "i386", "i686": "i386"}


def _check_part_size(size: ByteSize) -> ByteSize:
    """A part size is a whole number of KiB: cipher blocks then never straddle a part's end."""
    if size < 16 * KIB or size > 5 * GIB or size % KIB:
        decimal = next((each for each in _DECIMALS if size and not size % each), 0)
        meant = f": did you mean {size // decimal}{_DECIMALS[decimal]}?" if decimal and size <= 5 * GIB else ""
        raise ValueError(f"a part is 16KiB to 5GiB and a whole number of KiB{meant}")
    return size


def common_architecture(name: object) -> object:
    """EC2's name of an architecture for one that Debian, Linux or containers use."""
    return _ARCHITECTURES.get(name, name) if isinstance(name, str) else name


PartSize = Annotated[ByteSize, AfterValidator(_check_part_size)]


def _split_paths(value: object) -> object:
    """Take paths as a variable holds them too: `/srv/images:/dev/dm-0`."""
    return [path for path in value.split(":") if path] if isinstance(value, str) else value


def _check_root(path: Path) -> Path:
    if not path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{path} is not an absolute path without '..'")
    return path


RootPaths = Annotated[tuple[Annotated[Path, AfterValidator(_check_root)], ...], BeforeValidator(_split_paths)]


def _split_words(value: object) -> object:
    """Take a list as a variable holds it too: `s3://a,s3://b`."""
    return [word.strip() for word in value.split(",") if word.strip()] if isinstance(value, str) else value


def _split_command(value: object) -> object:
    """Take a command as one line of words, too, as a shell splits it."""
    if not isinstance(value, str):
        return value
    try:
        return shlex.split(value)
    except ValueError as error:
        raise ValueError(f"{value!r} is not a command: {error}") from None


Command = Annotated[tuple[str, ...], BeforeValidator(_split_command)]


def _check_textfile(path: Path) -> Path:
    if not path.is_absolute() or path.suffix != ".prom":
        raise ValueError(f"{str(path)!r} is not an absolute path that ends with .prom, as node_exporter reads them")
    return path


TextfilePath = Annotated[Path, AfterValidator(_check_textfile)]


def _check_place(place: str) -> str:
    if not place.startswith(("s3://", "/", "snap-")) or ".." in place.split("/"):
        raise ValueError(f"{place!r} is none of s3://BUCKET[/KEY/PREFIX], an absolute path, snap-ID, and snap- for all")
    return place


Places = Annotated[tuple[Annotated[str, AfterValidator(_check_place)], ...], BeforeValidator(_split_words)]
QueueKinds = Annotated[tuple[Literal["bundle", "convert", "verify", "migrate"], ...], BeforeValidator(_split_words)]


def parse_object(value: object) -> object:
    """Take a JSON object as a variable holds it too."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        raise ValueError('it is not a JSON object: write {"eu-west-1": "/path/cert.pem"}') from None


def in_words(error: ErrorDetails) -> str:
    """Describe the fault of one field; pydantic's message about sizes is not helpful."""
    if error["type"].startswith("byte_size"):
        return f"{error['input']!r} is not a size: write bytes, or a number with a unit, such as 10MiB"
    if error["type"] in {"greater_than", "greater_than_equal", "less_than", "less_than_equal"}:
        bound = error["msg"].removeprefix("Input should be ")
        return f"{error['input']!r} is out of range: it must be {bound}"
    return error["msg"].removeprefix("Value error, ")
