"""`bundle --dry-run`: the findings of all checks, and a plan that comes true."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from amistream.cli.forecast_text import forecast_text
from amistream.events import BundleResult, JobView
from amistream.jobs.forecast import Forecast
from amistream.values import MIB
from cli.running import Cli
from cli.test_in_process import identity
from support.buckets import keep_versions, list_keys, remove_versions
from support.volumes import sparse_image

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import MakeBucket
    from support.endpoints import Endpoint
    from support.keys import KeyRing


async def test_a_plan_comes_true(
    cli: Cli,
    cloud: Endpoint,
    make_bucket: MakeBucket,
    key_ring: KeyRing,
    tmp_path: Path,
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
    keep_versions(cloud, bucket)
    told = await cli(*words, "-n")
    remove_versions(cloud, bucket)
    assert "there is a bundle already" in told.stdout
    lines = told.stdout.rpartition("\n\n")[2].splitlines()
    assert [line.split()[0] for line in lines] == ["read", "send", "time", "memory", "cost", "measured", "note"]
    assert "the bucket keeps versions" in lines[-1]


async def test_a_plan_without_the_link(cli: Cli, cloud: Endpoint, key_ring: KeyRing, tmp_path: Path) -> None:
    """A destination that cannot be used leaves the link unmeasured, with the reason, and the rest of the plan whole."""
    image = sparse_image(tmp_path / "disk.img", 8 * MIB, [(0, 4 * MIB)])
    reach = ("--endpoint-url", cloud.url, "--region", "eu-west-1", "--no-register", "--in-process")
    told = await cli("bundle", str(image), "--to", "s3://amistream-no-such/x", *identity(key_ring), *reach, "-n")
    assert told.status == 3
    plan = told.stdout.rpartition("\n\n")[2]
    assert "in 1 part, 2 requests" in plan
    assert "not known; reading and compressing alone takes" in plan
    assert "the link was not measured: cannot " in plan


async def test_each_destination_has_its_link_and_price(
    cli: Cli, cloud: Endpoint, make_bucket: MakeBucket, key_ring: KeyRing, tmp_path: Path
) -> None:
    """Each destination is measured and priced by itself, all at the same time; the slowest one sets the time."""
    near, far = make_bucket(cloud), make_bucket(replace(cloud, region="sa-east-1"))
    image = sparse_image(tmp_path / "disk.img", 16 * MIB, [(0, 6 * MIB)])
    to = ("--to", f"s3://{near}/web", "--to", f"s3://{far}/web", "--endpoint-url", cloud.url)
    words = ("bundle", str(image), *to, *identity(key_ring), "--no-register", "--in-process", "-n")
    plan = json.loads((await cli(*words, "--json")).stdout)["plan"]
    one, other = plan["places"]
    assert [each["destination"] for each in (one, other)] == [f"s3://{near}/web", f"s3://{far}/web"]
    assert (one["stored_in"], one["price"]) == ("S3 in eu-west-1", 0.023)
    assert (other["stored_in"], other["price"]) == ("S3 in sa-east-1", 0.0405)
    assert plan["cost"] == pytest.approx(one["cost"] + other["cost"])
    assert plan["link_rate"] == min(one["link_rate"], other["link_rate"]) > 0
    assert (plan["price"], plan["requests"]) == (None, 2 * (plan["pieces"] + 1))
    assert 0 < plan["probe_size"] <= 2 * 34 * MIB
    assert list_keys(cloud, near) + list_keys(cloud, far) == []
    told = await cli(*words, "--to", "s3://amistream-no-such/x")
    lines = told.stdout.rpartition("\n\n")[2].splitlines()
    assert "to 3 destinations" in lines[1]
    assert "not known" in lines[2]
    assert "S3 in eu-west-1 at 0.023 USD per GiB, S3 in sa-east-1 at 0.0405 USD per GiB" in lines[4]
    assert [line.partition("/web: ")[2][:5] for line in lines if line.startswith("link")] == ["about", "about", ""]
    assert "note      s3://amistream-no-such/x: the link was not measured: cannot " in lines[-1]


async def test_no_plan(cli: Cli, tmp_path: Path) -> None:
    """Findings are shown also where nothing can be estimated, with the reason; the checks give the exit status."""
    told = await cli("bundle", "/nothing.img", "--to", str(tmp_path / "out"), "--in-process", "-n")
    assert told.status == 3
    assert "failed   source" in told.stdout
    assert told.stderr.startswith("no estimate: cannot bundle /nothing.img: there is no such file or device")


PLAN = Forecast(
    image_size=400 * MIB,
    read_size=300 * MIB,
    sent_size=100 * MIB,
    pieces=10,
    requests=11,
    seconds=20.0,
    is_least=False,
    limited_by="upload",
    local_rate=200e6,
    link_rate=5e6,
    sample_size=72 * MIB,
    probe_size=33 * MIB,
    memory=200 * MIB,
    stored_in="S3 in eu-west-1",
    price=0.023,
    cost=0.024,
    cost_of_requests=0.0001,
)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({}, "send      about 100.0 MiB (25 %) in 10 parts, 11 requests"),
        ({}, "time      about 20.0 s, 20.0 MiB/s; limited by upload"),
        ({}, "cost      about 0.02 USD a month (S3 in eu-west-1, at 0.023 USD per GiB), and less than 0.01 USD once"),
        ({}, "measured  72.0 MiB read, 33.0 MiB put and deleted"),
        ({"is_least": True, "limited_by": "reading"}, "time      not known; reading alone takes 20.0 s"),
        ({"is_least": True, "limited_by": ""}, "time      not known"),
        ({"limited_by": "", "seconds": 0.0}, "time      moments: there is no data to read"),
        ({"requests": 0, "cost": None}, "send      about 100.0 MiB (25 %) in 10 parts"),
        ({"requests": 0, "cost": None}, "cost      none: it is stored in a directory"),
        ({"notes": ("the link is slow",)}, "note      the link is slow"),
    ],
)
def test_a_plan_in_words(change: dict[str, Any], line: str) -> None:
    """Each figure has its line; what is not known is said to be so."""
    assert line in forecast_text(PLAN.model_copy(update=change), "part").splitlines()
