"""The control requests of the EBS endpoint, which are not signed. See `support.ebs_endpoint` for their list."""

from __future__ import annotations

import json
import os
import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any

from aiohttp import web

from support.ebs.account import Account
from support.ebs.knobs import Fault
from support.ebs.rules import BLOCK
from support.ebs.snapshots import Snapshot


class Control:
    """The accounts of the endpoint, and what tests ask and tell."""

    def __init__(self, directory: Path) -> None:
        self.accounts: dict[str, Account] = {}
        self._directory = directory
        self._made = 0

    def answer(self, method: str, path: str, body: bytes) -> web.Response:
        try:
            return web.json_response(self._do(method, path.strip("/").split("/")[1:], json.loads(body or b"{}")))
        except KeyError as error:
            return web.json_response({"error": f"there is no {error.args[0]}"}, status=404)
        except (ValueError, TypeError) as error:
            return web.json_response({"error": str(error)}, status=400)

    def _do(self, method: str, words: list[str], told: dict[str, Any]) -> Any:
        match method, words:
            case "GET", []:
                return {"accounts": sorted(self.accounts)}
            case "PUT", [name]:
                account = self.accounts.get(name) or self._new(name)
                account.turn(told)
                return account.state()
            case "DELETE", [name]:
                self.accounts.pop(name).clear()
                return {}
            case _, [name, *rest]:
                return _tell(self.accounts[name], method, rest, told)
            case _:
                raise ValueError(f"no {method} {'/'.join(words)}")

    def _new(self, name: str) -> Account:
        self._made += 1
        place = self._directory / f"{self._made}"
        shutil.rmtree(place, ignore_errors=True)
        self.accounts[name] = Account(name, place)
        return self.accounts[name]


def _tell(account: Account, method: str, words: list[str], told: dict[str, Any]) -> Any:
    match method, words:
        case "GET", []:
            return account.state()
        case "GET", ["requests"]:
            return list(account.requests)
        case "POST", ["faults"]:
            account.faults.append(Fault(**told))
        case "DELETE", ["faults"]:
            account.faults.clear()
        case "POST", ["let-go"]:
            account.let_go()
        case "POST", ["advance"]:
            account.advanced += float(told["seconds"])
        case "POST", ["expire-tokens"]:
            account.tokens_since = account.now
        case "POST", ["snapshots"]:
            return _import(account, Path(told["file"]), told).summary()
        case "PUT", [("snapshots" | "images") as kind, name]:
            _set_state(account, kind, name, told)
        case _:
            raise ValueError(f"no {method} {'/'.join(words)}")
    return {}


def _set_state(account: Account, kind: str, name: str, told: dict[str, str]) -> None:
    if kind == "snapshots":
        snapshot = account.shelf.snapshots[name]
        snapshot.state, snapshot.message = told["state"], told.get("message", "")
    else:
        image = account.images[name]
        image.state, image.reason = told["state"], told.get("reason", "")


def _import(account: Account, file: Path, told: dict[str, Any]) -> Snapshot:
    """Make a completed snapshot of a file: each block that is not all zeros."""
    size = file.stat().st_size
    least = max(1, -(-size // (1 << 30)))
    words = {"VolumeSize": told.get("volume_gib", least), "Tags": told.get("tags", [])}
    made = account.shelf.new(words, now=account.now, key=told.get("key", ""), parent=None)
    zero = bytes(BLOCK)
    with file.open("rb") as reading:
        at = 0
        while (at := _next_data(reading.fileno(), at)) < size:
            index = at // BLOCK
            data = os.pread(reading.fileno(), BLOCK, index * BLOCK)
            if data.rstrip(b"\0"):
                whole = data + zero[len(data) :]
                made.put(index, whole, sha256(whole).digest(), keep=True)
            at = (index + 1) * BLOCK
    made.finish_completion(account.now)
    return made


def _next_data(descriptor: int, at: int) -> int:
    """Return the place of the next byte that is not in a hole, or the end."""
    try:
        return os.lseek(descriptor, at, os.SEEK_DATA)
    except OSError:
        return os.lseek(descriptor, 0, os.SEEK_END)
