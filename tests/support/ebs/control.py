"""The control requests of the EBS endpoint, which are not signed. See `support.ebs_endpoint` for their list."""

from __future__ import annotations

import json
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
        case "POST", ["advance"]:
            account.advanced += float(told["seconds"])
        case "POST", ["expire-tokens"]:
            account.tokens_since = account.now
        case "POST", ["snapshots"]:
            return _import(account, Path(told["file"]), told).summary()
        case "PUT", ["snapshots", name]:
            found = account.shelf.snapshots[name]
            found.state, found.message = told["state"], told.get("message", "")
        case "PUT", ["images", name]:
            image = account.images[name]
            image.state, image.reason = told["state"], told.get("reason", "")
        case _:
            raise ValueError(f"no {method} {'/'.join(words)}")
    return {}


def _import(account: Account, file: Path, told: dict[str, Any]) -> Snapshot:
    """Make a completed snapshot of a file: each block that is not all zeros."""
    size = file.stat().st_size
    least = max(1, -(-size // (1 << 30)))
    words = {"VolumeSize": told.get("volume_gib", least), "Tags": told.get("tags", [])}
    made = account.shelf.new(words, now=account.now, key=told.get("key", ""), parent=None)
    zero = bytes(BLOCK)
    with file.open("rb") as reading:
        index = 0
        while data := reading.read(BLOCK):
            if data.rstrip(b"\0"):
                whole = data + zero[len(data) :]
                made.put(index, whole, sha256(whole).digest(), keep=True)
            index += 1
    made.finish_completion(account.now)
    return made
