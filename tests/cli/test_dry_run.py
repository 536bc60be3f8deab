"""`bundle --dry-run`: the findings of all checks, and a plan that comes true."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from amistream.events import BundleResult, JobView
from amistream.values import MIB
from cli.running import Cli
from cli.test_in_process import identity
from support.buckets import list_keys
from support.volumes import sparse_image

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import MakeBucket
    from support.endpoints import Endpoint
    from support.keys import KeyRing


async def test_a_plan_comes_true(
    cli: Cli, cloud: Endpoint, make_bucket: MakeBucket, key_ring: KeyRing, tmp_path: Path
) -> None:
    """The plan has the size, parts and requests of the bundle that is made afterwards, and leaves nothing stored."""
    bucket = make_bucket(cloud)
    image = sparse_image(tmp_path / "disk.img", 40 * MIB, [(0, 6 * MIB), (20 * MIB, 6 * MIB)])
    reach = ("--endpoint-url", cloud.url, "--region", "eu-west-1", "--no-register", "--in-process")
    words = ("bundle", str(image), "--to", f"s3://{bucket}/web", *identity(key_ring), *reach)
    told = await cli(*words, "--part-size", "5MiB", "--dry-run", "--json")
    document = json.loads(told.stdout)
    failed = [each["name"] for each in document["findings"] if each["status"] == "failed"]
    assert (told.status, failed) == (3, ["boot"])
    plan = document["plan"]
    assert (plan["image_size"], plan["read_size"], plan["is_least"]) == (40 * MIB, 12 * MIB, False)
    assert plan["cost"] > 0
    assert 0 < plan["probe_size"] <= 34 * MIB
    assert list_keys(cloud, bucket) == []
    result = JobView.model_validate_json((await cli(*words, "--part-size", "5MiB", "--json")).stdout).result
    assert isinstance(result, BundleResult)
    assert (plan["pieces"], plan["requests"]) == (result.parts, len(list_keys(cloud, bucket)))
    assert abs(plan["sent_size"] - result.bundled_size) < 0.02 * result.bundled_size
    told = await cli(*words, "-n")
    assert "there is a bundle already" in told.stdout
    names = [line.split()[0] for line in told.stdout.rpartition("\n\n")[2].splitlines()]
    assert names == ["read", "send", "time", "memory", "cost", "measured"]


async def test_no_plan(cli: Cli, tmp_path: Path) -> None:
    """Findings are shown also where nothing can be estimated, with the reason; the checks give the exit status."""
    told = await cli("bundle", "/nothing.img", "--to", str(tmp_path / "out"), "--in-process", "-n")
    assert told.status == 3
    assert "failed   source" in told.stdout
    assert told.stderr.startswith("no estimate: cannot bundle /nothing.img: there is no such file or device")
