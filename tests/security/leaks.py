"""Searches written, shown and stored data for secrets, in every encoding in which a secret may appear."""

from __future__ import annotations

import base64
import json
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

SAMPLE_S = 0.005


@dataclass(frozen=True, slots=True)
class Form:
    """One encoding of a secret."""

    name: str
    text: bytes


def forms(name: str, secret: bytes) -> list[Form]:
    """Encode the secret: raw, in hex, in base64 at any offset of a longer text, and as Python and JSON show bytes."""
    found = {
        "raw": secret,
        "hex": secret.hex().encode(),
        "HEX": secret.hex().upper().encode(),
        "repr": repr(secret)[2:-1].encode(),
        "repr in json": json.dumps(repr(secret)[2:-1])[1:-1].encode(),
        "json": json.dumps(secret.decode("latin-1"))[1:-1].encode(),
        "list": str(list(secret))[1:-1].encode(),
        "url": quote(secret, safe="").encode(),
        **_base64("base64", secret),
        **_base64("base64 of hex", secret.hex().encode()),
    }
    return [Form(f"{name}, {kind}", text) for kind, text in found.items()]


def _base64(name: str, secret: bytes) -> dict[str, bytes]:
    """Give the base64 characters that depend on the secret alone, for each of the three possible offsets in a group."""
    found = {}
    for shift, first in enumerate((0, 2, 3)):
        text = base64.b64encode(bytes(shift) + secret)
        whole = text[first : (shift + len(secret)) * 8 // 6]
        found[f"{name} {shift}"] = whole
        found[f"{name} {shift}, for URLs"] = whole.replace(b"+", b"-").replace(b"/", b"_")
    return found


def forms_of_key(name: str, path: Path) -> list[Form]:
    """Give the lines of a private key's file, and the numbers of the key."""
    pem = path.read_bytes()
    lines = [line for line in pem.splitlines() if not line.startswith(b"-----")]
    assert len(lines) > 10
    found = [Form(f"{name}, line {number}", line) for number, line in enumerate(lines, 1) if len(line) >= 16]
    key = load_pem_private_key(pem, password=None)
    assert isinstance(key, RSAPrivateKey)
    numbers = key.private_numbers()
    for letters in ("p", "q", "d", "dmp1", "dmq1", "iqmp"):
        value: int = getattr(numbers, letters)
        found += forms(f"{name}, {letters}", value.to_bytes((value.bit_length() + 7) // 8))
        found.append(Form(f"{name}, {letters}, decimal", str(value).encode()))
    return found


def search(wanted: list[Form], places: Mapping[str, bytes]) -> list[str]:
    """Find the encodings in the data, by place."""
    return [f"{form.name} in {place}" for place, content in places.items() for form in wanted if form.text in content]


def files_below(folder: Path, *, but: tuple[Path, ...] = ()) -> dict[str, bytes]:
    """Read every file in a directory; its path is part of its data."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path in but:
            continue
        try:
            found[str(path)] = str(path).encode() + (path.read_bytes() if path.is_file() else b"")
        except FileNotFoundError:
            continue  # removed meanwhile
    return found


class Watcher:
    """Records the data that all processes of amistream show in /proc."""

    def __init__(self, mark: str) -> None:
        """Watch processes with `mark` in their command line, and the children of those."""
        self._mark = mark.encode()
        self.seen: dict[str, bytes] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        over = threading.Event()

        def watch() -> None:
            while not over.wait(SAMPLE_S):
                self.look()

        thread = threading.Thread(target=watch, name="watcher")
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def look(self) -> None:
        watched: set[int] = set()
        for pid in sorted(int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()):
            if pid == os.getpid():
                continue
            try:
                folder = Path(f"/proc/{pid}")
                command = (folder / "cmdline").read_bytes()
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                if self._mark in command or parent in watched:
                    watched.add(pid)
                    self.seen[f"command line of {pid}: {command!r}"] = command
                    self.seen[f"environment of {pid}: {command!r}"] = (folder / "environ").read_bytes()
            except (OSError, ValueError):
                continue  # ended meanwhile
