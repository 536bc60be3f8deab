"""The six operations of the EBS direct APIs, on the state of an account."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from support.ebs import rules
from support.ebs.account import Account
from support.ebs.rules import BLOCK, Refusal, invalid, not_found
from support.ebs.snapshots import Snapshot
from support.ebs.tokens import Tokens

OPERATIONS = (
    "StartSnapshot",
    "PutSnapshotBlock",
    "CompleteSnapshot",
    "ListSnapshotBlocks",
    "ListChangedBlocks",
    "GetSnapshotBlock",
)


@dataclass(frozen=True)
class Asked:
    """A request for one operation."""

    operation: str
    snapshot: str = ""
    index: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)

    @property
    def number(self) -> int | None:
        return int(self.index) if self.index.isdecimal() else None


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def code(self) -> str:
        """The name of an error, or ''."""
        return self.headers.get("x-amzn-ErrorType", "")


def route(method: str, path: str, query: Mapping[str, str], headers: Mapping[str, str]) -> Asked | None:
    """Find out what is asked; None for what is no request of `ebs`."""
    match method, path.strip("/").split("/"):
        case "POST", ["snapshots"]:
            return Asked("StartSnapshot", headers=headers)
        case "POST", ["snapshots", "completion", snapshot]:
            return Asked("CompleteSnapshot", snapshot, headers=headers)
        case "PUT", ["snapshots", snapshot, "blocks", index]:
            return Asked("PutSnapshotBlock", snapshot, index, headers=headers)
        case "GET", ["snapshots", snapshot, "blocks", index]:
            return Asked("GetSnapshotBlock", snapshot, index, query=query)
        case "GET", ["snapshots", snapshot, "blocks"]:
            return Asked("ListSnapshotBlocks", snapshot, query=query)
        case "GET", ["snapshots", snapshot, "changedblocks"]:
            return Asked("ListChangedBlocks", snapshot, query=query)
        case _:
            return None


class Direct:
    """The operations of `ebs` for one account."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._tokens = Tokens(account)
        self._writing: set[tuple[str, int]] = set()

    async def answer(self, asked: Asked, body: bytes) -> Answer:
        match asked.operation:
            case "StartSnapshot":
                return self._start(body)
            case "PutSnapshotBlock":
                return await self._put(asked, body)
            case "CompleteSnapshot":
                return self._complete(asked)
            case "GetSnapshotBlock":
                return self._get(asked)
            case "ListSnapshotBlocks":
                return self._list(asked)
            case _:
                return self._list_changed(asked)

    def _start(self, body: bytes) -> Answer:
        account = self._account
        try:
            words = json.loads(body or b"{}")
        except ValueError:
            raise Refusal("SerializationException", 400, "the body is not JSON") from None
        rules.check_start(words)
        now, token = account.now, words.get("ClientToken")
        if token in account.shelf.started:
            first, answer = account.shelf.started[token]
            if first != words:
                raise Refusal("ConflictException", 409, "the client token was used with other parameters")
            return _json(201, answer)
        parent = self._parent(words)
        if account.shelf.pending(now) >= account.knobs.pending_limit:
            raise Refusal("ConcurrentLimitExceededException", 400, "too many pending snapshots")
        made = account.shelf.new(words, now=now, key=self._key(words, parent), parent=parent)
        answer = {
            "SnapshotId": made.id,
            "OwnerId": account.id,
            "Status": "pending",
            "StartTime": now,
            "VolumeSize": made.volume_gib,
            "BlockSize": BLOCK,
            "SseType": "sse-kms" if made.key else "none",
            **{name: words[name] for name in ("Description", "Tags", "ParentSnapshotId") if name in words},
        }
        if made.key:
            answer["KmsKeyArn"] = made.key
        if token:
            account.shelf.started[token] = (words, answer)
        return _json(201, answer)

    def _parent(self, words: dict[str, Any]) -> Snapshot | None:
        if "ParentSnapshotId" not in words:
            return None
        parent = self._completed(words["ParentSnapshotId"])
        if words["VolumeSize"] < parent.volume_gib:
            raise invalid("INVALID_VOLUME_SIZE", "the volume is smaller than the parent's")
        if self._account.knobs.encryption_by_default and not parent.key:
            raise invalid("INVALID_PARAMETER_VALUE", "encryption by default is on, and the parent is not encrypted")
        return parent

    def _key(self, words: dict[str, Any], parent: Snapshot | None) -> str:
        if parent is not None:
            return parent.key
        if words.get("Encrypted") or self._account.knobs.encryption_by_default:
            return str(words.get("KmsKeyArn", self._account.own_key))
        return ""

    def admit(self, asked: Asked) -> tuple[Snapshot, int, bytes]:
        """Check all of PutSnapshotBlock but its body; return the place of the block, and the digest it promises."""
        snapshot = self._account.snapshot(rules.check_snapshot_id(asked.snapshot))
        self._require_known(snapshot)
        self._require_pending(snapshot)
        index = rules.block_index(asked.index, snapshot.volume_gib)
        return snapshot, index, rules.check_block_head(asked.headers)

    async def _put(self, asked: Asked, body: bytes) -> Answer:
        account, knobs = self._account, self._account.knobs
        account.throttle(asked.snapshot)
        snapshot, index, digest = self.admit(asked)
        if len(body) != BLOCK:
            raise invalid("INVALID_BLOCK", f"a block has {BLOCK} bytes, not {len(body)}")
        place = (snapshot.id, index)
        if place in self._writing:
            raise invalid("CONFLICTING_BLOCK_UPDATE", f"block {index} is being written by another request")
        self._writing.add(place)
        snapshot.in_flight += 1
        try:
            if knobs.discard:
                snapshot.put(index, body, digest, keep=False)
            else:
                await asyncio.to_thread(self._keep, snapshot, index, body, digest)
        except FileNotFoundError:  # it was deleted meanwhile
            raise not_found(f"The snapshot '{snapshot.id}' does not exist.") from None
        finally:
            snapshot.in_flight -= 1
            self._writing.discard(place)
        snapshot.touched = account.now
        snapshot.progress = max(snapshot.progress, int(asked.headers.get("x-amz-Progress", "0")))
        return Answer(201, _checksum(digest))

    def _keep(self, snapshot: Snapshot, index: int, body: bytes, digest: bytes) -> None:
        if self._account.knobs.verify and sha256(body).digest() != digest:
            raise invalid("INVALID_BLOCK", f"the checksum of block {index} is not that of its data")
        snapshot.put(index, body, digest, keep=True)

    def _require_known(self, snapshot: Snapshot) -> None:
        knobs = self._account.knobs
        new = self._account.now - snapshot.started < knobs.unknown_seconds
        if new or snapshot.unknown < knobs.unknown_requests:
            snapshot.unknown += 1
            raise not_found(f"The snapshot '{snapshot.id}' does not exist.")

    def _require_pending(self, snapshot: Snapshot) -> None:
        if snapshot.state != "pending" or snapshot.completing is not None:
            state = "being completed" if snapshot.state == "pending" else snapshot.state
            raise invalid("INVALID_SNAPSHOT_ID", f"the snapshot '{snapshot.id}' is {state}, not pending")

    def _complete(self, asked: Asked) -> Answer:
        snapshot = self._account.snapshot(rules.check_snapshot_id(asked.snapshot))
        self._require_pending(snapshot)
        count, digest = rules.check_complete_head(asked.headers)
        if problem := self._difference(snapshot, count, digest):
            if self._account.knobs.wrong_completion == "refuse":
                raise invalid("INVALID_PARAMETER_VALUE", problem)
            snapshot.will_fail = problem
        snapshot.completing = self._account.now
        return _json(202, {"Status": "pending"})

    def _difference(self, snapshot: Snapshot, count: int, digest: bytes | None) -> str:
        if snapshot.in_flight:
            return f"{snapshot.in_flight} blocks are still being put"
        if count != len(snapshot.changed):
            return f"ChangedBlocksCount is {count}, and {len(snapshot.changed)} blocks were put"
        if digest is not None and digest != snapshot.linear():
            return "the checksum is not the LINEAR aggregate of the blocks' checksums"
        return ""

    def _completed(self, name: str) -> Snapshot:
        """Return a snapshot that can be listed and read."""
        account, knobs = self._account, self._account.knobs
        snapshot = account.snapshot(rules.check_snapshot_id(name))
        account.settle(snapshot)
        if snapshot.state != "completed" or snapshot.completed is None:
            raise invalid("INVALID_SNAPSHOT_ID", f"the snapshot '{name}' is {snapshot.state}, not completed")
        young = account.now - snapshot.completed < knobs.unlisted_seconds
        if young or snapshot.unlisted < knobs.unlisted_requests:
            snapshot.unlisted += 1
            raise not_found(f"The snapshot '{name}' does not exist.")
        return snapshot

    def _get(self, asked: Asked) -> Answer:
        snapshot = self._completed(asked.snapshot)
        index = rules.block_index(asked.index, snapshot.volume_gib)
        self._tokens.check_block(asked.query.get("blockToken", ""), snapshot.id, index)
        data, digest = snapshot.read(index), snapshot.blocks[index]
        return Answer(200, {"x-amz-Data-Length": str(len(data)), **_checksum(digest)}, data)

    def _list(self, asked: Asked) -> Answer:
        snapshot = self._completed(asked.snapshot)

        def entry(index: int) -> dict[str, Any]:
            return {"BlockIndex": index, "BlockToken": self._tokens.block(snapshot.id, index)}

        return self._page(asked, snapshot, "Blocks", sorted(snapshot.blocks), entry)

    def _list_changed(self, asked: Asked) -> Answer:
        second = self._completed(asked.snapshot)
        first = self._completed(asked.query["firstSnapshotId"]) if "firstSnapshotId" in asked.query else None
        if first is not None and first.lineage != second.lineage:
            raise invalid("UNRELATED_SNAPSHOTS", "the snapshots are not of the same lineage")
        before = first.blocks if first else {}
        changed = sorted(
            index for index in before.keys() | second.blocks.keys() if before.get(index) != second.blocks.get(index)
        )

        def entry(index: int) -> dict[str, Any]:
            made: dict[str, Any] = {"BlockIndex": index}
            if first is not None and index in before:
                made["FirstBlockToken"] = self._tokens.block(first.id, index)
            if index in second.blocks:
                made["SecondBlockToken"] = self._tokens.block(second.id, index)
            return made

        return self._page(asked, second, "ChangedBlocks", changed, entry)

    def _page(self, asked: Asked, snapshot: Snapshot, name: str, indices: list[int], entry: Any) -> Answer:
        knobs, query = self._account.knobs, asked.query
        most = rules.number(query, "maxResults", rules.FEWEST_RESULTS, rules.MOST_RESULTS, rules.MOST_RESULTS)
        start, empty = rules.number(query, "startingBlockIndex", 0, 10**9 - 1, 0), knobs.empty_pages
        if "pageToken" in query:
            start, empty = self._tokens.check_page(query["pageToken"], asked.operation, snapshot.id)
        left = [index for index in indices if index >= start]
        page = [] if empty else left[: min(most, knobs.page_size or most)]
        answer: dict[str, Any] = {
            name: [entry(index) for index in page],
            "ExpiryTime": self._account.now + knobs.block_token_seconds,
            "VolumeSize": snapshot.volume_gib,
            "BlockSize": BLOCK,
        }
        if empty:
            answer["NextToken"] = self._tokens.page(asked.operation, snapshot.id, start, empty - 1)
        elif len(page) < len(left):
            answer["NextToken"] = self._tokens.page(asked.operation, snapshot.id, left[len(page)], knobs.empty_pages)
        return _json(200, answer)


def _json(status: int, answer: dict[str, Any]) -> Answer:
    return Answer(status, {"Content-Type": "application/json"}, json.dumps(answer).encode())


def _checksum(digest: bytes) -> dict[str, str]:
    return {"x-amz-Checksum": base64.b64encode(digest).decode(), "x-amz-Checksum-Algorithm": "SHA256"}
