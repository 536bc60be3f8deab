"""Runs of a migration from one bucket to another, and what must be there in the end."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amistream.bundles.manifest import check_signature, parse_manifest
from amistream.events import State
from amistream.keys import load_certificate
from amistream.reports import Migrated, Signature
from amistream.request import parse_request
from amistream.request.migrate import MigrateRequest
from bundles.made import contents, older_bundle, stored_bytes
from support.buckets import list_keys, open_uploads
from support.referee import unwrap

if TYPE_CHECKING:
    from amistream.jobs.job import Job
    from jobs.runs import Cloud
    from support.endpoints import Endpoint
    from support.keys import KeyRing

REGION = "eu-west-1"
NAME = "web"
MANIFEST = f"{NAME}.manifest.xml"


def put_with_checksums(endpoint: Endpoint, bucket: str, directory: Path, prefix: str = "") -> None:
    """Store every file as amistream does, with its SHA-1: the store then copies it by itself."""
    with endpoint.blocking_client() as s3:
        for path in sorted(directory.iterdir()):
            data = path.read_bytes()
            sha1 = base64.b64encode(hashlib.sha1(data).digest()).decode()
            s3.put_object(Bucket=bucket, Key=f"{prefix}{path.name}", Body=data, ChecksumSHA1=sha1, ACL="aws-exec-read")


@dataclass(kw_only=True)
class Migrations:
    """A bundle in the second bucket, to be copied to the folder x of the first one."""

    cloud: Cloud
    keys: KeyRing
    made: Path
    """The directory with the bundle's files."""

    @classmethod
    def of(cls, cloud: Cloud, keys: KeyRing, tmp_path: Path, sizes: list[int]) -> Migrations:
        made = older_bundle(tmp_path / "made", keys, sizes, name=NAME).parent
        put_with_checksums(cloud.endpoint, cloud.second, made, "a/")
        return cls(cloud=cloud, keys=keys, made=made)

    @property
    def source(self) -> str:
        return f"s3://{self.cloud.second}/a/{MANIFEST}"

    @property
    def image_name(self) -> str:
        """The name of the AMI: the endpoint shows it as the AMI's location."""
        return f"{self.cloud.bucket}/x/{MANIFEST}"

    @property
    def parts(self) -> list[str]:
        return sorted(each for each in contents(self.made) if each != MANIFEST)

    def request(self, **changes: Any) -> MigrateRequest:
        """A migration that registers the AMI; None takes a field out."""
        values: dict[str, Any] = {
            "kind": "migrate",
            "manifest": self.source,
            "destinations": [f"s3://{self.cloud.bucket}/x"],
            "region": REGION,
            "endpoint_url": self.cloud.proxy.url,
            "certificate": str(self.keys.user.certificate),
            "private_key": str(self.keys.user.key),
            "ec2_certificate": str(self.keys.stranger.certificate),
            "register_image": True,
            "ami_name": self.image_name,
            **changes,
        }
        asked = parse_request({name: value for name, value in values.items() if value is not None})
        assert isinstance(asked, MigrateRequest)
        return asked

    def plain(self, **changes: Any) -> MigrateRequest:
        """A migration that registers nothing."""
        return self.request(**{"register_image": None, "ami_name": None, **changes})

    def left(self) -> list[str]:
        """Objects, unfinished uploads and AMIs that are at the target."""
        cloud = self.cloud
        uploads = [f"upload of {key}" for key, _ in open_uploads(cloud.endpoint, cloud.bucket)]
        keys = [key.removeprefix("x/") for key in list_keys(cloud.endpoint, cloud.bucket)]
        return [*keys, *uploads, *(each["ImageId"] for each in cloud.images(self.image_name))]

    def clear(self) -> None:
        """Remove what a finished job made."""
        cloud = self.cloud
        with cloud.endpoint.blocking_client("ec2") as ec2:
            for image in cloud.images(self.image_name):
                ec2.deregister_image(ImageId=image["ImageId"])
        with cloud.endpoint.blocking_client() as s3:
            for key in list_keys(cloud.endpoint, cloud.bucket):
                s3.delete_object(Bucket=cloud.bucket, Key=key)
        assert self.left() == []

    def put_part(self, name: str, data: bytes | None = None) -> None:
        """Put a part at the target, or another object under its name, as somebody else does."""
        with self.cloud.endpoint.blocking_client() as s3:
            body = contents(self.made)[name] if data is None else data
            s3.put_object(Bucket=self.cloud.bucket, Key=f"x/{name}", Body=body)

    def sent(self) -> list[str]:
        """The names of the parts that were copied or sent to the target with success, one for each request."""
        seen = self.cloud.proxy.seen("PUT", f"/{self.cloud.bucket}/x/.*part.*")
        return sorted(each.path.rpartition("/")[2] for each in seen if each.status == 200)

    def fits(self, job: Job) -> Migrated:
        """Assert that the job is done, and has left the bundle and its AMI there, and nothing else."""
        assert job.state is State.DONE, (job.error, job.notices)
        result, old = job.result, contents(self.made)
        assert isinstance(result, Migrated)
        stored = stored_bytes(self.cloud.endpoint, self.cloud.bucket, "x/")
        assert {name: stored[name] for name in self.parts} == {name: old[name] for name in self.parts}
        assert sorted(stored) == sorted(old)
        manifest = parse_manifest(stored[MANIFEST], "new")
        user = load_certificate(self.keys.user.certificate, field="certificate")
        assert check_signature(manifest, user) is Signature.RIGHT
        assert unwrap(manifest.ec2_key, self.keys.stranger.key) == unwrap(manifest.user_key, self.keys.user.key)
        images = [each["ImageId"] for each in self.cloud.images(self.image_name)]
        assert images == ([result.image.image_id] if result.image else [])
        assert open_uploads(self.cloud.endpoint, self.cloud.bucket) == []
        return result
