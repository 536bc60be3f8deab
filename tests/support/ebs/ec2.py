"""The EC2 requests around snapshots and the AMIs on them, and STS GetCallerIdentity."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Any

from support.ebs.account import Account
from support.ebs.images import Image, named_tags, register, tag_set
from support.ebs.rules import Refusal
from support.ebs.snapshots import Snapshot

Words = dict[str, Any]


class Ec2:
    """The operations of `ec2` for one account. Answers are nested values by their names on the wire."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._operations: dict[str, Callable[[Words], dict[str, Any]]] = {
            "CreateSnapshot": self._create_snapshot,
            "CreateTags": self._create_tags,
            "DeleteSnapshot": self._delete_snapshot,
            "DeregisterImage": self._deregister,
            "DescribeImages": self._describe_images,
            "DescribeRegions": self._describe_regions,
            "DescribeSnapshots": self._describe_snapshots,
            "DescribeTags": self._describe_tags,
            "GetEbsDefaultKmsKeyId": lambda _: {"kmsKeyId": self._account.own_key},
            "GetEbsEncryptionByDefault": self._encryption,
            "RegisterImage": self._register,
        }

    def answer(self, operation: str, words: Words) -> dict[str, Any]:
        if operation not in self._operations:
            raise Refusal("InvalidAction", 400, f"The action {operation} is not valid for this web service.")
        return self._operations[operation](words)

    def _dry(self, words: Words) -> None:
        if words.get("DryRun") == "true":
            raise Refusal("DryRunOperation", 412, "Request would have succeeded, but DryRun flag is set.")

    def _encryption(self, words: Words) -> dict[str, Any]:
        self._dry(words)
        on = self._account.knobs.encryption_by_default
        return {"ebsEncryptionByDefault": on, "sseType": "sse-ebs" if on else "none"}

    def _create_snapshot(self, words: Words) -> dict[str, Any]:
        self._dry(words)
        raise Refusal("InvalidVolume.NotFound", 400, f"The volume '{words.get('VolumeId')}' does not exist.")

    def _snapshot(self, name: str) -> Snapshot:
        if not re.fullmatch(r"snap-[0-9a-f]{8,17}", name):
            raise Refusal("InvalidSnapshotID.Malformed", 400, f"Invalid id: {name!r}")
        found = self._account.shelf.snapshots.get(name)
        if found is None:
            raise Refusal("InvalidSnapshot.NotFound", 400, f"The snapshot '{name}' does not exist.")
        return found

    def _describe_snapshots(self, words: Words) -> dict[str, Any]:
        self._dry(words)
        account = self._account
        _check_owner(account, words, "Owner")
        asked = [self._snapshot(name) for name in words.get("SnapshotId", [])]
        chosen = asked or list(account.shelf.snapshots.values())
        for each in chosen:
            each.age(account.now)
            account.settle(each, looking=True)

        def values(snapshot: Snapshot, name: str) -> list[str] | None:
            members = {
                "status": snapshot.state,
                "snapshot-id": snapshot.id,
                "owner-id": account.id,
                "description": snapshot.words.get("Description", ""),
                "volume-size": str(snapshot.volume_gib),
                "encrypted": str(bool(snapshot.key)).lower(),
            }
            return _tag_values(snapshot.tags, name, members)

        return {"snapshotSet": [self._shown(each) for each in _filtered(chosen, words, values)]}

    def _shown(self, snapshot: Snapshot) -> dict[str, Any]:
        return {
            "snapshotId": snapshot.id,
            "volumeId": "vol-ffffffff",
            "status": snapshot.state,
            "statusMessage": snapshot.message,
            "startTime": datetime.fromtimestamp(snapshot.started, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z"),
            "progress": f"{snapshot.progress}%",
            "ownerId": self._account.id,
            "volumeSize": snapshot.volume_gib,
            "description": snapshot.words.get("Description"),
            "encrypted": bool(snapshot.key),
            "kmsKeyId": snapshot.key,
            "storageTier": "standard",
            "tagSet": tag_set(snapshot.tags),
        }

    def _delete_snapshot(self, words: Words) -> dict[str, Any]:
        snapshot = self._snapshot(words.get("SnapshotId", ""))
        if users := self._account.users_of(snapshot.id):
            message = f"The snapshot {snapshot.id} is currently in use by {users[0]}"
            raise Refusal("InvalidSnapshot.InUse", 400, message)
        self._dry(words)
        self._account.shelf.delete(snapshot.id)
        return {"return": True}

    def _register(self, words: Words) -> dict[str, Any]:
        image = register(self._account, words)
        self._dry(words)
        self._account.images[image.id] = image
        return {"imageId": image.id}

    def _describe_images(self, words: Words) -> dict[str, Any]:
        self._dry(words)
        account = self._account
        _check_owner(account, words, "Owner")
        seen = self._seen_images()
        for name in words.get("ImageId", []):
            if not re.fullmatch(r"ami-[0-9a-f]{8,17}", name):
                raise Refusal("InvalidAMIID.Malformed", 400, f"Invalid id: {name!r}")
            if name not in seen:
                raise Refusal("InvalidAMIID.NotFound", 400, f"The image id '[{name}]' does not exist")
        chosen = [seen[name] for name in words.get("ImageId", seen)]

        def values(image: Image, name: str) -> list[str] | None:
            shown = image.described()
            members = {
                "name": shown["name"],
                "image-id": image.id,
                "state": shown["imageState"],
                "owner-id": account.id,
                "architecture": shown["architecture"],
                "virtualization-type": shown["virtualizationType"],
                "root-device-type": shown["rootDeviceType"],
                "description": shown["description"] or "",
                "image-type": "machine",
                "is-public": "false",
            }
            if name == "block-device-mapping.snapshot-id":
                return list(image.snapshots)
            return _tag_values(image.tags, name, members)

        shown = list(_filtered(chosen, words, values))
        answer = {"imagesSet": [image.described() for image in shown]}
        for image in shown:
            image.pending += image.state == "pending"
        return answer

    def _seen_images(self) -> dict[str, Image]:
        """Return the images that have appeared by now, in the state that they have by now."""
        knobs, seen = self._account.knobs, {}
        for image in self._account.images.values():
            if image.unseen < knobs.unseen_image_requests:
                image.unseen += 1
                continue
            if image.state in {"pending", "available"}:
                image.state = "pending" if image.pending < knobs.pending_image_requests else "available"
            seen[image.id] = image
        return seen

    def _deregister(self, words: Words) -> dict[str, Any]:
        name = words.get("ImageId", "")
        if not re.fullmatch(r"ami-[0-9a-f]{8,17}", name):
            raise Refusal("InvalidAMIID.Malformed", 400, f"Invalid id: {name!r}")
        if name not in self._account.images:
            raise Refusal("InvalidAMIID.NotFound", 400, f"The image id '[{name}]' does not exist")
        self._dry(words)
        image = self._account.images.pop(name)
        answer: dict[str, Any] = {"return": True}
        if words.get("DeleteAssociatedSnapshots") == "true":
            results = []
            for snapshot in image.snapshots:
                used = bool(self._account.users_of(snapshot))
                results.append({"snapshotId": snapshot, "returnCode": "skipped" if used else "success"})
                if not used:
                    self._account.shelf.delete(snapshot)
            answer["deleteSnapshotResultSet"] = results
        return answer

    def _create_tags(self, words: Words) -> dict[str, Any]:
        tags = named_tags(words.get("Tag", []))
        places = [self._tags_of(name) for name in words.get("ResourceId", [])]
        self._dry(words)
        for place in places:
            place.update(tags)
        return {"return": True}

    def _tags_of(self, name: str) -> dict[str, str]:
        if name.startswith("snap-"):
            return self._snapshot(name).tags
        if name not in self._account.images:
            raise Refusal("InvalidID", 400, f"The ID '{name}' is not valid")
        return self._account.images[name].tags

    def _describe_tags(self, words: Words) -> dict[str, Any]:
        self._dry(words)
        account = self._account
        everything = [
            {"resourceId": name, "resourceType": kind, "key": key, "value": value}
            for kind, holders in (("snapshot", account.shelf.snapshots), ("image", account.images))
            for name, holder in holders.items()
            for key, value in holder.tags.items()
        ]

        def values(tag: dict[str, str], name: str) -> list[str] | None:
            words = {"resource-id": "resourceId", "resource-type": "resourceType", "key": "key", "value": "value"}
            return [tag[words[name]]] if name in words else None

        return {"tagSet": list(_filtered(everything, words, values))}

    def _describe_regions(self, words: Words) -> dict[str, Any]:
        self._dry(words)
        region = self._account.knobs.region
        shown = {"regionName": region, "regionEndpoint": f"ec2.{region}.amazonaws.com"}
        return {"regionInfo": [shown | {"optInStatus": "opt-in-not-required"}]}


def caller_identity(account: Account, request: str) -> bytes:
    """Answer STS GetCallerIdentity."""
    shown = (
        f"<Arn>arn:aws:iam::{account.id}:user/tester</Arn><UserId>AIDATESTER</UserId><Account>{account.id}</Account>"
    )
    return (
        '<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">'
        f"<GetCallerIdentityResult>{shown}</GetCallerIdentityResult>"
        f"<ResponseMetadata><RequestId>{request}</RequestId></ResponseMetadata></GetCallerIdentityResponse>"
    ).encode()


def _check_owner(account: Account, words: Words, name: str) -> None:
    for owner in words.get(name, []):
        if owner not in {"self", account.id}:
            raise Refusal("InvalidUserID.Malformed", 400, f"Invalid user id: {owner!r}")


def _tag_values(tags: Mapping[str, str], name: str, members: Mapping[str, str]) -> list[str] | None:
    if name.startswith("tag:"):
        key = name.removeprefix("tag:")
        return [tags[key]] if key in tags else []
    if name == "tag-key":
        return list(tags)
    return [members[name]] if name in members else None


def _filtered(items: Iterable[Any], words: Words, values: Callable[[Any, str], list[str] | None]) -> Iterable[Any]:
    """Yield the items that pass every filter, whose values may have * and ? in them."""
    for item in items:
        for each in words.get("Filter", []):
            found = values(item, each["Name"])
            if found is None:
                raise Refusal("InvalidParameterValue", 400, f"The filter '{each['Name']}' is invalid")
            if not any(fnmatchcase(value, wanted) for value in found for wanted in each.get("Value", [])):
                break
        else:
            yield item
