"""The inventory of a bucket: whole bundles, broken ones, leftovers, AMIs, and the cost."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from amistream.bundles.listing import select
from amistream.bundles.results import Inventory
from amistream.cli.commands.listing import inventory_text
from amistream.errors import RefusedError
from amistream.values import GIB
from bundles.bucket import SIZES
from bundles.made import Work, older_bundle, put_files, register, work
from support.proxy import Answer, Fault

if TYPE_CHECKING:
    from conftest import MakeBucket, MakeProxy
    from support.endpoints import Endpoint
    from support.keys import KeyRing


@pytest.fixture
def filled(cloud: Endpoint, make_bucket: MakeBucket, tmp_path: Path, key_ring: KeyRing) -> str:
    """Make a bucket with bundles in every condition."""
    bucket = make_bucket(cloud)
    manifest = older_bundle(tmp_path / "old", key_ring, SIZES)
    for prefix in ("whole/", "lacking/", "registered/deep/", "short/"):
        put_files(cloud, bucket, manifest.parent, prefix)
    with cloud.blocking_client() as s3:
        s3.delete_object(Bucket=bucket, Key="lacking/holes.img.part.1")
        s3.put_object(Bucket=bucket, Key="short/holes.img.part.1", Body=b"x")
        s3.put_object(Bucket=bucket, Key="broken/image.manifest.xml", Body=b"<manifest>")
        s3.put_object(Bucket=bucket, Key="empty/image.manifest.xml", Body=b"")
        s3.put_object(Bucket=bucket, Key="loose/image.part.00", Body=b"x" * 1000)
        s3.put_object(Bucket=bucket, Key="loose/image.part.01", Body=b"x" * 10)
        s3.put_object(Bucket=bucket, Key="loose/other.part.00", Body=b"x")
        s3.put_object(Bucket=bucket, Key="notes.txt", Body=b"of no interest")
    return bucket


async def inventory(it: Work, address: str, *, ask_ec2: bool = True, price: float | None = None) -> Inventory:
    async with it.session() as session:
        return await session.inventory(address, ask_ec2=ask_ec2, price=price)


async def test_everything(cloud: Endpoint, make_proxy: MakeProxy, filled: str, tmp_path: Path) -> None:
    """One listing shows whole bundles, bundles without some parts, orphans, and the AMIs of each bundle."""
    image = register(cloud, f"{filled}/registered/deep/holes.img.manifest.xml")
    astray = register(cloud, f"{filled}/gone/image.manifest.xml")
    register(cloud, f"{filled}-other/image.manifest.xml")
    proxy = make_proxy(cloud)
    found = await inventory(work(tmp_path, proxy.endpoint), f"s3://{filled}", price=0.5)
    rows = {row.manifest.removeprefix(f"s3://{filled}/").rpartition("/")[0]: row for row in found.bundles}
    assert {name: row.problem.partition(" (")[0] for name, row in rows.items()} == {
        "whole": "",
        "registered/deep": "",
        "lacking": "1 of 3 parts missing",
        "short": "its parts have 3101 bytes, not 6100",
        "broken": "cannot use the manifest broken/image.manifest.xml: it is not XML",
        "empty": "a manifest of 0 bytes",
    }
    assert {name: row.images for name, row in rows.items() if row.images} == {"registered/deep": (image,)}
    assert rows["lacking"].missing == ("holes.img.part.1",)
    manifest_size = (tmp_path / "old" / "holes.img.manifest.xml").stat().st_size
    assert (rows["whole"].stored, rows["whole"].parts) == (6100 + manifest_size, 3)
    assert (rows["whole"].name, rows["whole"].image_size) == ("holes.img", 41943040)
    assert [(row.parts, row.count, row.stored) for row in found.orphan_parts] == [
        (f"s3://{filled}/loose/image.part.*", 2, 1010),
        (f"s3://{filled}/loose/other.part.*", 1, 1),
    ]
    assert [row.image_id for row in found.orphan_images] == [astray]
    assert found.stored == sum(row.stored for row in found.bundles) + 1011
    assert found.cost == round(found.stored / GIB * 0.5, 6)
    assert (found.region, found.price) == ("eu-west-1", 0.5)
    assert len(proxy.seen("GET", path=f"/{filled}")) == 1
    assert proxy.seen("HEAD", path=r".*part.*") == []
    assert len(proxy.seen("GET", path=r".*manifest\.xml")) == 5


async def test_below_a_prefix(cloud: Endpoint, filled: str, tmp_path: Path) -> None:
    """A prefix is a folder: objects beside it, even with the same beginning, are not listed."""
    with cloud.blocking_client() as s3:
        s3.put_object(Bucket=filled, Key="whole-too/image.part.00", Body=b"x")
    found = await inventory(work(tmp_path, cloud), f"s3://{filled}/whole/")
    assert [row.manifest for row in found.bundles] == [f"s3://{filled}/whole/holes.img.manifest.xml"]
    assert (found.orphan_parts, found.orphan_images) == ((), ())
    assert found.price == 0.023


async def test_filters(cloud: Endpoint, filled: str, tmp_path: Path) -> None:
    """Each filter selects its rows, and the sum is that of the rows shown."""
    register(cloud, f"{filled}/registered/deep/holes.img.manifest.xml")
    register(cloud, f"{filled}/gone/image.manifest.xml")
    found = await inventory(work(tmp_path, cloud), f"s3://{filled}")

    def folders(**filters: Any) -> tuple[set[str], int, int]:
        shown = select(found, **filters)
        names = {row.manifest.removeprefix(f"s3://{filled}/").partition("/")[0] for row in shown.bundles}
        assert shown.stored == sum(row.stored for row in shown.bundles) + sum(row.stored for row in shown.orphan_parts)
        return names, len(shown.orphan_parts), len(shown.orphan_images)

    now = datetime.now(UTC)
    everything = {"whole", "registered", "lacking", "short", "broken", "empty"}
    assert folders() == (everything, 2, 1)
    assert folders(orphans=True) == (everything - {"whole", "registered"}, 2, 1)
    assert folders(unregistered=True) == (everything - {"registered"}, 2, 0)
    assert folders(made_before=now - timedelta(days=1)) == (set(), 0, 0)
    assert folders(made_before=now + timedelta(days=1)) == (everything, 2, 0)


async def test_without_ec2(cloud: Endpoint, make_proxy: MakeProxy, filled: str, tmp_path: Path) -> None:
    """Without permission to ask EC2 the rest is listed, with a note; with EC2 switched off no request is sent."""
    denied = Fault(action=Answer(status=403, code="UnauthorizedOperation"), method="POST", times=None)
    proxy = make_proxy(cloud, denied)
    it = work(tmp_path, proxy.endpoint)
    found = await inventory(it, f"s3://{filled}")
    assert "AMIs are not shown" in it.notes[0]
    assert {row.images for row in found.bundles} == {None}
    assert len(found.bundles) == 6
    proxy.requests.clear()
    await inventory(it, f"s3://{filled}", ask_ec2=False)
    assert proxy.seen("POST") == []
    assert select(found, unregistered=True).bundles == ()


async def test_a_manifest_that_cannot_be_read(
    cloud: Endpoint, make_proxy: MakeProxy, filled: str, tmp_path: Path
) -> None:
    """A manifest that cannot be read is reported and hides no other; its parts are not called orphans."""
    denied = Fault(action=Answer(status=403, code="AccessDenied"), method="GET", path=r".*/whole/.*xml")
    proxy = make_proxy(cloud, denied)
    found = await inventory(work(tmp_path, proxy.endpoint), f"s3://{filled}/whole")
    assert "(AccessDenied)" in found.bundles[0].problem
    assert (found.bundles[0].parts, found.orphan_parts) == (3, ())


async def test_more_than_a_page(cloud: Endpoint, make_bucket: MakeBucket, tmp_path: Path, key_ring: KeyRing) -> None:
    """A listing of several pages is read to its end."""
    bucket = make_bucket(cloud)
    manifest = older_bundle(tmp_path / "old", key_ring, [10] * 1003)
    put_files(cloud, bucket, manifest.parent)
    found = await inventory(work(tmp_path, cloud), f"s3://{bucket}")
    assert [(row.parts, row.problem) for row in found.bundles] == [(1003, "")]


async def test_a_directory_has_no_inventory(tmp_path: Path) -> None:
    """A directory is refused."""
    with pytest.raises(RefusedError, match="only buckets have an inventory"):
        await inventory(work(tmp_path), str(tmp_path), ask_ec2=False)


async def test_parts_by_any_name(cloud: Endpoint, make_bucket: MakeBucket, tmp_path: Path, key_ring: KeyRing) -> None:
    """Parts with any names in their manifest are neither missing nor orphans."""
    bucket = make_bucket(cloud)
    manifest = older_bundle(tmp_path / "old", key_ring, SIZES)
    text = manifest.read_text()
    for number in (0, 1):
        text = text.replace(f"holes.img.part.{number}", f"piece-{number}")
    with cloud.blocking_client() as s3:
        s3.put_object(Bucket=bucket, Key="web/holes.img.manifest.xml", Body=text.encode())
        for old, new in (("part.0", "piece-0"), ("part.2", "holes.img.part.2")):
            s3.put_object(Bucket=bucket, Key=f"web/{new}", Body=manifest.with_name(f"holes.img.{old}").read_bytes())
    found = await inventory(work(tmp_path, cloud), f"s3://{bucket}")
    assert (found.bundles[0].missing, found.orphan_parts) == (("piece-1",), ())


async def test_leftovers(
    cloud: Endpoint, filled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key_ring: KeyRing
) -> None:
    """Objects of probes, unfinished uploads and claims of jobs that are over are listed with what removes them."""
    manifest = older_bundle(tmp_path / "again", key_ring, SIZES)
    put_files(cloud, filled, manifest.parent, "claimed/")
    claim = b'{"job": "web", "run": "r", "holder": "h", "nonce": "n"}'
    with cloud.blocking_client() as s3:
        for key in ("web/amistream-tune-0badcafe-1", "web/amistream-tune-0badcafe-2.part.00"):
            s3.put_object(Bucket=filled, Key=key, Body=b"x" * 100)
        s3.put_object(Bucket=filled, Key="amistream-probe-0badcafe", Body=b"")
        for key in ("claimed/holes.img.claim", "running/image.claim"):
            s3.put_object(Bucket=filled, Key=key, Body=claim)
        s3.put_object(Bucket=filled, Key="whole/holes.img.claim", Body=b"somebody's")
        upload = s3.create_multipart_upload(Bucket=filled, Key="web/image.part.07")["UploadId"]
        s3.create_multipart_upload(Bucket=filled, Key="web/film.mkv")
    async with work(tmp_path, cloud).session() as session:
        young = await session.inventory(f"s3://{filled}", leftovers=True)
        monkeypatch.setattr("amistream.bundles.claim_text.LONGEST_RUN", timedelta(seconds=-60))
        monkeypatch.setattr("amistream.bundles.leftovers.LONGEST_RUN", timedelta(seconds=-60))
        found = await session.inventory(f"s3://{filled}", leftovers=True)
    assert [row.kind for row in young.leftovers] == ["probe", "probe", "upload"]
    assert [
        (row.kind, row.objects.removeprefix(f"s3://{filled}/"), row.count, row.stored) for row in found.leftovers
    ] == [
        ("probe", "amistream-probe-0badcafe", 1, 0),
        ("probe", "web/amistream-tune-0badcafe-*", 2, 200),
        ("upload", "web/image.part.07", 1, None),
        ("claim", "claimed/holes.img.claim", 1, len(claim)),
    ]
    assert [row.remove for row in found.leftovers] == [
        f"aws s3 rm s3://{filled}/amistream-probe-0badcafe",
        f"aws s3 rm s3://{filled}/web/ --recursive --exclude '*' --include 'amistream-tune-0badcafe-*'",
        f"aws s3api abort-multipart-upload --bucket {filled} --key web/image.part.07 --upload-id {upload}",
        f"aws s3 rm s3://{filled}/claimed/holes.img.claim",
    ]
    assert all("tune" not in row.parts for row in found.orphan_parts)
    shown, now = select(found, orphans=True), datetime.now(UTC)
    for at, removable in ((now, found.leftovers[-1:]), (now + timedelta(days=2), found.leftovers)):
        commands = [line for line in inventory_text(shown, at).splitlines() if line.startswith("  aws ")]
        assert commands == [f"  {row.remove}" for row in removable], "a running process may use the young ones"
