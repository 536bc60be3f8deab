"""The common parts of the scripts here that run for minutes: their options, their directory and their answer."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Script(argparse.ArgumentParser):
    """The command line of a script, whose docstring is its help."""

    def __init__(self, text: str | None) -> None:
        super().__init__(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
        self._started = time.monotonic()

    def add_seed(self) -> None:
        self.add_argument("--seed", type=int, default=1)

    def add_visibility(self, seconds: int) -> None:
        self.add_argument(
            "--visibility", type=int, default=seconds, metavar="S", help=f"of messages (default: {seconds})"
        )

    def add_directory(self) -> None:
        self.add_argument("--directory", type=Path, help="where to work (default: a new one, removed if all is well)")

    def put(self, answer: object, seed: int | None = None) -> None:
        """Print what was found, how long it took, and the seed."""
        print(answer)  # noqa: T201 - the script's answer
        took = f"{time.monotonic() - self._started:.0f} s"
        print(took if seed is None else f"{took}, seed {seed}")  # noqa: T201 - the script's answer


@contextmanager
def working_directory(prefix: str, given: Path | None = None) -> Iterator[Path]:
    """The directory that was given, which stays, or a new one."""
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given
        return
    with tempfile.TemporaryDirectory(prefix=f"{prefix}-") as name:
        yield Path(name)
