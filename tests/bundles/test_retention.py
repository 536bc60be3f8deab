"""Retention: the bundles that stay, and those that go with their AMIs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from amistream.bundles.results import Inventory, JudgedBundle, ListedBundle, Pruned, Removed
from amistream.bundles.retention import Retention, doubt_about_groups, judge, prune
from amistream.errors import RefusedError, StoreError
from bundles.bucket import SIZES
from bundles.made import images, older_bundle, put_files, register, work
from support.buckets import list_keys

if TYPE_CHECKING:
    from amistream.bundles.remove import Removal
    from conftest import MakeBucket
    from support.endpoints import Endpoint
    from support.keys import KeyRing

NOW = datetime(2026, 11, 30, tzinfo=UTC)


def listed(name: str, days: float, **changes: Any) -> ListedBundle:
    return ListedBundle(
        **{
            "manifest": f"s3://b/web/{name}.manifest.xml",
            "name": name,
            "made_at": NOW - timedelta(days=days),
            "image_size": 1,
            "stored": 10,
            "parts": 1,
            "missing": (),
            "problem": "",
            "images": (),
            "cost": None,
            **changes,
        }
    )


def judged_of(*bundles: ListedBundle, keep_last: int = 1, **rule: Any) -> tuple[JudgedBundle, ...]:
    inventory = Inventory(
        location="s3://b/web",
        region="eu-west-1",
        bundles=bundles,
        orphan_parts=(),
        orphan_images=(),
        stored=0,
        cost=None,
        price=None,
        price_as_of="",
    )
    return judge(inventory, Retention(**{"keep_last": keep_last, "made_before": NOW - timedelta(hours=1), **rule}))


def verdicts(*bundles: ListedBundle, keep_last: int = 2, **rule: Any) -> dict[str, str]:
    """The reason to keep each bundle, by its name; '' for those to be deleted."""
    judged = judged_of(*bundles, keep_last=keep_last, **rule)
    assert all(each.deletes == (not each.reason) for each in judged)
    return {each.manifest.removeprefix("s3://b/web/").removesuffix(".manifest.xml"): each.reason for each in judged}


def test_the_newest_stay() -> None:
    """The newest whole bundles stay, whatever their order; what is broken or in doubt stays, and broken ones do not
    count.
    """
    found = verdicts(
        listed("old", 9, images=("ami-1",)),
        listed("broken", 1, problem="2 of 3 parts missing"),
        listed("newest", 0.5),
        listed("older", 10, problem="cannot read it"),
        listed("second", 3, images=None),
        listed("unclear", 5, images=None),
    )
    assert found == {
        "newest": "one of the newest 2",
        "broken": "2 of 3 parts missing",
        "second": "one of the newest 2",
        "unclear": "EC2 does not report whether an AMI uses it",
        "old": "",
        "older": "cannot read it",
    }
    assert verdicts(listed("a", 3), listed("b", 2, images=None), listed("c", 1), keep_last=1, asks_ec2=False) == {
        "c": "the newest",
        "b": "",
        "a": "",
    }


def test_folders_that_look_like_hosts() -> None:
    """One group of several hosts' folders has a notice with the option; folders of one host's dates have none."""

    def doubt(*names: str, **changes: Any) -> str:
        rule = {"keep_last": 1, "made_before": NOW - timedelta(hours=1), **changes}
        judged = judged_of(*(listed(f"{name}/image", number) for number, name in enumerate(names, 1)), **rule)
        return doubt_about_groups("s3://b/web", judged, Retention(**rule))

    found = doubt("web-1/2026-11-29", "web-2/2026-11-29", "db")
    assert "3 folders (db, web-1, web-2) count as one group: the newest 1 of all together stay" in found
    assert "2 of them would have none left" in found
    assert "--by-folder" in found
    assert doubt("web-1", "web-2", by_folder=True) == ""
    for names in (
        ("2026-11-29", "2026-11-30", "20261128T0430"),
        ("web-1-2026-11-29", "web-1-2026-11-30"),
        ("20261122-214500-5f3a9c", "20261123-214500-aaaaaa"),
        ("web-1/a", "web-1/b"),
        (".", "."),
    ):
        assert doubt(*names) == "", names


def test_age_and_ties() -> None:
    """A bundle that is too young, or of a time to come, stays; of two of the same second the last by name is newer."""
    found = verdicts(listed("a", 0), listed("b", 0), listed("c", -1), listed("d", 0), listed("e", 1), keep_last=1)
    assert found == {"c": "the newest", **dict.fromkeys("dba", "not old enough"), "e": ""}
    assert verdicts(listed("x1", 7), listed("x2", 7), keep_last=1) == {"x2": "the newest", "x1": ""}


def test_groups() -> None:
    """Each folder directly below the address is a group, with all folders in it; files beside them are one more."""
    bundles = [listed(name, number) for number, name in enumerate(("a/1/i", "b/i", "a/2/i", "i", "j", "a/x"), 1)]
    assert verdicts(*bundles, keep_last=1, by_folder=True) == {
        **dict.fromkeys(("a/1/i", "b/i", "i"), "the newest"),
        **dict.fromkeys(("a/2/i", "a/x", "j"), ""),
    }


async def test_one_that_fails_stops_no_other() -> None:
    """A bundle that somebody else has deleted is none of the failures, and one that got another AMI meanwhile stays."""
    judged = judged_of(*(listed(name, days) for name, days in (("a", 4), ("b", 3), ("c", 2), ("d", 1), ("e", 0))))

    async def delete(address: str, check: Callable[[Removal], Awaitable[None]]) -> Removed:
        name = address.removesuffix(".manifest.xml")[-1]
        if name == "a":
            raise RefusedError("manifest.missing", "cannot find it: it is not there")
        if name == "b":
            raise StoreError("store.denied", "cannot delete it: a test")
        bundle = SimpleNamespace(place=None, manifest_name="")
        plan: Any = SimpleNamespace(images=("ami-new",) if name == "c" else (), bundle=bundle)
        await check(plan)
        return Removed(
            manifest=address, dry_run=False, deregistered=(), deleted=(), deleted_size=0, kept=(), missing=()
        )

    done: list[Removed] = []
    removed, failed = await prune(judged, delete, done.append)
    assert [each.manifest[-14] for each in removed] == ["d"]
    assert done == removed
    assert [each.error.code for each in failed] == ["store.denied", "prune.changed"]


async def test_the_old_ones_go_with_their_amis(
    cloud: Endpoint, make_bucket: MakeBucket, bundle: Path, tmp_path: Path, key_ring: KeyRing
) -> None:
    """Of three bundles and the parts of a running job one is deleted with its AMI; one that gets an AMI while a person
    thinks stays, and so does one that is made again under its name during the deletions.
    """
    bucket = make_bucket(cloud)
    older_bundle(tmp_path / "new", key_ring, SIZES)
    for day in ("27", "28", "29"):
        put_files(cloud, bucket, bundle.parent, f"web/{day}/")
    running = [path.name for path in bundle.parent.iterdir() if ".part." in path.name]
    with cloud.blocking_client() as s3:
        for name in running:
            s3.put_object(Bucket=bucket, Key=f"web/30/{name}", Body=b"")
    old, new = (f"{bucket}/web/{day}/{bundle.name}" for day in ("27", "28"))
    image = register(cloud, old)
    rule = Retention(keep_last=1, made_before=datetime.now(UTC) + timedelta(hours=1))
    deleted: list[str] = []

    async def think(plan: Pruned) -> bool:
        assert [each.deletes for each in plan.bundles] == [False, True, True]
        register(cloud, new)
        return True

    def done(removed: Removed) -> None:
        deleted.append(removed.manifest)

    async with work(tmp_path, cloud).session() as session:
        before = list_keys(cloud, bucket)
        plan = await session.prune(f"s3://{bucket}/web", rule, think, done, dry_run=True)
        assert (len(plan.removed), list_keys(cloud, bucket), image in images(cloud)) == (0, before, True)
        told = await session.prune(f"s3://{bucket}/web", rule, think, done)
    assert deleted == [f"s3://{old}"]
    assert [each.reason for each in told.bundles] == ["the newest", "changed during the question", ""]
    assert told.removed[0].deregistered == (image,)
    assert (image in images(cloud), told.failed) == (False, ())
    after = [key for key in before if not key.startswith("web/27/")]
    assert list_keys(cloud, bucket) == after
    made_before = [each.model_copy(update={"made_at": each.made_at - timedelta(days=1)}) for each in told.bundles]
    async with work(tmp_path, cloud).session() as session:
        judged = [each.model_copy(update={"deletes": True, "images": (image,)}) for each in made_before[:1]]
        removed, failed = await prune(judged, partial(session.delete, deregister=True), done)
    assert (removed, [each.error.code for each in failed]) == ([], ["prune.changed"])
    assert list_keys(cloud, bucket) == after
