"""A bucket that many tests share, each under its own folder, with clients that are made once.

Making a bucket and clients takes longer than most of the jobs that are tested here.
"""

from __future__ import annotations

import secrets
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from support.buckets import create_bucket, remove_bucket

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.endpoints import Endpoint


@dataclass(frozen=True, kw_only=True)
class Ground:
    """A bucket, and what is asked of the endpoint past any proxy."""

    endpoint: Endpoint
    bucket: str
    s3: Any
    ec2: Any

    def keys(self, folder: str) -> list[str]:
        """The keys in a folder, without its name, sorted."""
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=f"{folder}/")
        found = (each["Key"] for page in pages for each in page.get("Contents", []))
        return sorted(key.removeprefix(f"{folder}/") for key in found)

    def uploads(self, folder: str) -> list[str]:
        """The names of unfinished multipart uploads in a folder."""
        pages = self.s3.get_paginator("list_multipart_uploads").paginate(Bucket=self.bucket)
        found = (each["Key"] for page in pages for each in page.get("Uploads", []))
        return sorted(f"upload of {key.removeprefix(f'{folder}/')}" for key in found if key.startswith(f"{folder}/"))

    def images(self, name: str) -> list[str]:
        """The ids of the images of that name."""
        filters = [{"Name": "name", "Values": [name]}]
        return [each["ImageId"] for each in self.ec2.describe_images(Owners=["self"], Filters=filters)["Images"]]

    def fetch(self, folder: str, directory: Path) -> list[Path]:
        """Copy all of a folder into `directory`."""
        directory.mkdir(parents=True)
        paths = []
        for key in self.keys(folder):
            path = directory / key
            path.write_bytes(self.s3.get_object(Bucket=self.bucket, Key=f"{folder}/{key}")["Body"].read())
            paths.append(path)
        return paths


@contextmanager
def making_ground(endpoint: Endpoint) -> Iterator[Ground]:
    bucket = f"amistream-faults-{secrets.token_hex(4)}"
    create_bucket(endpoint, bucket)
    try:
        with endpoint.blocking_client(shared=False) as s3, endpoint.blocking_client("ec2", shared=False) as ec2:
            ground = Ground(endpoint=endpoint, bucket=bucket, s3=s3, ec2=ec2)
            # Connections that are kept count as open files from the start.
            ground.keys("none")
            ground.images("none")
            yield ground
    finally:
        remove_bucket(endpoint, bucket)
