"""Migration of a bundle to another region: the same parts, a manifest for the other EC2, all of it or nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from amistream.bundles.manifest import check_signature, parse_manifest
from amistream.bundles.meter import Meter
from amistream.bundles.migrate import MigrationOptions, MigrationRequest, new_manifest
from amistream.errors import AmistreamError, DifferenceError, RefusedError, RegisterError, StoreError
from amistream.keys import load_certificate, load_identity, own_identity
from amistream.ports.registry import Registration
from amistream.reports import Migrated, Signature
from bundles.bucket import SIZES
from bundles.made import (
    AES_IV,
    AES_KEY,
    Work,
    contents,
    engine_bundle,
    flip,
    images,
    older_bundle,
    put_files,
    register,
    stored_bytes,
    work,
)
from bundles.shell_bundle import Form, shell_bundle
from jobs.work import use_endpoint
from support.buckets import list_keys, open_uploads
from support.keys import KeyPair, make_pair
from support.loop import clock
from support.proxy import Answer, Fault, HoldReply, PauseRequest, dry_run_answered
from support.referee import check_bundle, unwrap
from support.volumes import random_image

if TYPE_CHECKING:
    from conftest import MakeBucket, MakeProxy
    from support.endpoints import Endpoint
    from support.keys import KeyRing

REGION = "eu-west-1"


@pytest.fixture(scope="session")
def gov_ec2(tmp_path_factory: pytest.TempPathFactory) -> KeyPair:
    """Make the other region's EC2 certificate."""
    import datetime as dt

    valid = (dt.datetime(2011, 8, 9, tzinfo=dt.UTC), dt.datetime(2021, 8, 9, tzinfo=dt.UTC))
    return make_pair(tmp_path_factory.mktemp("gov"), "gov", bits=1024, valid=valid)


@pytest.mark.parametrize(
    "form", [Form(version="3", backwards=True), Form(version="2007-08-29"), Form(encoding="ASCII")]
)
def test_an_older_manifest(form: Form, key_ring: KeyRing, tmp_path: Path) -> None:
    """A manifest of an older version becomes one of today's, for a machine, with its parts in order and a signature."""
    path = shell_bundle(tmp_path, random_image(tmp_path / "disk.img", 300_000), key_ring, form=form)
    old = parse_manifest(path.read_bytes(), path.name)
    identity = load_identity(key_ring.user.certificate, key_ring.user.key)
    assert check_signature(old, identity.certificate) is Signature.RIGHT
    ec2 = load_certificate(key_ring.ec2.certificate, field="ec2_certificate")
    options = MigrationOptions(identity=identity, ec2_certificate=ec2, kernel="", ramdisk="")
    new = parse_manifest(new_manifest(old, options), path.name)
    assert check_signature(new, identity.certificate) is Signature.RIGHT
    assert (new.version, new.kind) == ("2007-10-10", "machine")
    assert new.architecture == ("i386" if form.version == "3" else "x86_64")
    assert (new.parts, new.digest, new.size) == (old.parts, old.digest, old.size)
    assert len(new.parts) > 1


class Migrate:
    """Migrates with the user's keys for the other EC2."""

    def __init__(self, keys: KeyRing, gov_ec2: KeyPair) -> None:
        self._values: dict[str, Any] = {
            "region": REGION,
            "certificate": keys.user.certificate,
            "private_key": keys.user.key,
            "ec2_certificate": gov_ec2.certificate,
        }

    async def __call__(self, it: Work, address: str | Path, to: str, **more: Any) -> Migrated:
        async with it.session() as session:
            return await session.migrate(str(address), to, Meter(), MigrationRequest(**{**self._values, **more}))


@pytest.fixture
def migrate(key_ring: KeyRing, gov_ec2: KeyPair) -> Migrate:
    return Migrate(key_ring, gov_ec2)


async def put_own_bundle(cloud: Endpoint, place: str, keys: KeyRing, tmp_path: Path, **more: Any) -> Path:
    """Make our own bundle in `tmp_path / "made"` and upload it; returns its image."""
    image = await engine_bundle(tmp_path / "made", keys, tmp_path, **more)
    async with work(tmp_path, cloud).session() as session:
        await session.upload(str(tmp_path / "made" / "image.manifest.xml"), f"s3://{place}", Meter())
    return image


async def test_every_endpoint(
    endpoint: Endpoint,
    make_bucket: MakeBucket,
    migrate: Migrate,
    tmp_path: Path,
    key_ring: KeyRing,
    gov_ec2: KeyPair,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Our own bundle, copied by the store, satisfies every referee, and the other EC2 can open it."""
    use_endpoint(endpoint, monkeypatch)
    source, target, it = make_bucket(endpoint), make_bucket(endpoint), work(tmp_path, endpoint)
    more = {"product_codes": ["A1B2"], "block_device_mappings": {"ephemeral0": "sdb"}}
    image = await put_own_bundle(endpoint, f"{source}/a", key_ring, tmp_path, **more)
    done = await migrate(it, f"s3://{source}/a/image.manifest.xml", f"s3://{target}/b/c")
    assert done.manifest == f"s3://{target}/b/c/image.manifest.xml"
    assert (done.parts, done.kept, done.copied, done.image) == (6, 0, 6, None)
    down = tmp_path / "down"
    down.mkdir()
    for name, data in stored_bytes(endpoint, target, "b/c/").items():
        (down / name).write_bytes(data)
    found = check_bundle(down, image, key_ring.user.key, key_ring.user.certificate)
    old = parse_manifest((tmp_path / "made" / "image.manifest.xml").read_bytes(), "old")
    new = parse_manifest(found.manifest, "new")
    assert unwrap(new.ec2_key, gov_ec2.key) == found.aes_key
    assert unwrap(new.ec2_iv, gov_ec2.key) == found.aes_iv
    changed = {"raw", "ec2_key", "ec2_iv", "signature"}
    for name in new.__slots__:
        assert (getattr(new, name) == getattr(old, name)) == (name not in changed), name
    assert stored_bytes(endpoint, source, "a/") == contents(tmp_path / "made")


async def test_an_older_tools_bundle(
    cloud: Endpoint,
    make_bucket: MakeBucket,
    make_proxy: MakeProxy,
    migrate: Migrate,
    bundle: Path,
    tmp_path: Path,
    key_ring: KeyRing,
    gov_ec2: KeyPair,
) -> None:
    """Parts keep their names; copies have ACL, hash and condition; parts that the store does not hash are uploaded."""
    source, target, proxy = make_bucket(cloud), make_bucket(cloud), make_proxy(cloud)
    put_files(cloud, source, bundle.parent, "old/")
    done = await migrate(work(tmp_path, proxy.endpoint), f"s3://{source}/old/holes.img.manifest.xml", f"s3://{target}")
    # Stored without a checksum, this part has none after ministack's copy, so the copy cannot be verified.
    assert (done.copied, done.parts) == (0, 3)
    stored = stored_bytes(cloud, target)
    old = contents(bundle.parent)
    assert sorted(stored) == sorted(old)
    assert all(stored[name] == old[name] for name in old if "part" in name)
    new = parse_manifest(stored["holes.img.manifest.xml"], "new")
    user = load_certificate(key_ring.user.certificate, field="certificate")
    assert check_signature(new, user) is Signature.RIGHT
    assert (unwrap(new.ec2_key, gov_ec2.key), unwrap(new.ec2_iv, gov_ec2.key)) == (AES_KEY.decode(), AES_IV.decode())
    assert (new.digest, new.size, new.bundled_size, new.user) == ("ab" * 20, 41943040, 6100, "123456789012")
    copies = [each for each in proxy.seen("PUT") if "x-amz-copy-source" in each.headers]
    assert copies
    for each in copies:
        assert each.headers["x-amz-acl"] == "aws-exec-read"
        assert each.headers["x-amz-checksum-algorithm"] == "SHA1"
        assert each.headers["if-none-match"] == "*"


async def test_copies_that_are_refused(
    cloud: Endpoint,
    make_bucket: MakeBucket,
    make_proxy: MakeProxy,
    migrate: Migrate,
    tmp_path: Path,
    key_ring: KeyRing,
) -> None:
    """If the store may not copy, parts go through this machine; the store is not asked again for every part."""
    manifest = older_bundle(tmp_path / "old", key_ring, [3000] * 20, digits=2)
    source, target = make_bucket(cloud), make_bucket(cloud)
    put_files(cloud, source, manifest.parent)
    answer = Answer(status=403, code="AccessDenied")
    denied = Fault(action=answer, path=rf"/{target}/.*part.*", header="x-amz-copy-source", times=None)
    proxy = make_proxy(cloud, denied)
    it = work(tmp_path, proxy.endpoint, upload_concurrency=1)
    done = await migrate(it, f"s3://{source}/holes.img.manifest.xml", f"s3://{target}")
    assert (done.parts, done.copied) == (20, 0)
    assert "because S3 does not copy them" in " ".join(it.notes)
    # Once more with its encryption, which a policy may demand.
    assert len([each for each in proxy.seen("PUT") if "x-amz-copy-source" in each.headers]) == 2
    stored = stored_bytes(cloud, target)
    assert {name: data for name, data in stored.items() if "part" in name} == {
        name: data for name, data in contents(manifest.parent).items() if "part" in name
    }


async def test_from_another_endpoint(
    cloud: Endpoint, make_bucket: MakeBucket, make_proxy: MakeProxy, migrate: Migrate, bundle: Path, tmp_path: Path
) -> None:
    """Between two services no copy is requested: parts go through this machine."""
    source, target = make_bucket(cloud), make_bucket(cloud)
    put_files(cloud, source, bundle.parent)
    proxy = make_proxy(cloud)
    done = await migrate(
        work(tmp_path, proxy.endpoint),
        f"s3://{source}/holes.img.manifest.xml",
        f"s3://{target}",
        source_endpoint_url=cloud.url,
    )
    assert (done.parts, done.copied) == (3, 0)
    assert all("x-amz-copy-source" not in each.headers for each in proxy.requests)
    assert len(stored_bytes(cloud, target)) == 4


async def test_from_a_directory(
    cloud: Endpoint, make_bucket: MakeBucket, migrate: Migrate, bundle: Path, tmp_path: Path
) -> None:
    """A downloaded bundle can be migrated, too, for example between partitions with different credentials."""
    target = make_bucket(cloud)
    done = await migrate(work(tmp_path, cloud), bundle, f"s3://{target}/k")
    assert (done.parts, done.copied) == (3, 0)
    assert len(list_keys(cloud, target, "k/")) == 4


@pytest.mark.parametrize(
    ("more", "kernel", "ramdisk"),
    [
        ({"kernel": "aki-99999999", "ramdisk": "ari-99999999"}, "aki-99999999", "ari-99999999"),
        ({"kernel": "", "ramdisk": ""}, "", ""),
        ({"kernel": "aki-99999999", "ramdisk": ""}, "aki-99999999", ""),
    ],
)
async def test_kernel_and_ramdisk(
    more: dict[str, Any],
    kernel: str,
    ramdisk: str,
    cloud: Endpoint,
    make_bucket: MakeBucket,
    migrate: Migrate,
    tmp_path: Path,
    key_ring: KeyRing,
) -> None:
    """Kernel and RAM disk are replaced or dropped as asked; by default those of another region are refused."""
    manifest = older_bundle(tmp_path / "old", key_ring, SIZES, kernel="aki-12345678", ramdisk="ari-12345678")
    source, target, it = make_bucket(cloud), make_bucket(cloud), work(tmp_path, cloud)
    with pytest.raises(RefusedError, match="the kernel aki-12345678") as caught:
        await migrate(it, manifest, f"s3://{target}")
    assert "--no-kernel" in caught.value.hint
    with pytest.raises(RefusedError, match="the ramdisk ari-12345678"):
        await migrate(it, manifest, f"s3://{target}", kernel="")
    done = await migrate(it, manifest, f"s3://{target}", **more)
    assert (done.kernel or "", done.ramdisk or "") == (kernel, ramdisk)
    new = parse_manifest(stored_bytes(cloud, target)["holes.img.manifest.xml"], "new")
    assert (new.kernel, new.ramdisk) == (kernel, ramdisk)
    # Within one region the ids stay the same.
    put_files(cloud, source, manifest.parent)
    done = await migrate(it, f"s3://{source}/holes.img.manifest.xml", f"s3://{target}/same")
    assert (done.kernel, done.ramdisk) == ("aki-12345678", "ari-12345678")


async def test_registered_there(
    cloud: Endpoint,
    make_bucket: MakeBucket,
    make_proxy: MakeProxy,
    migrate: Migrate,
    bundle: Path,
    tmp_path: Path,
) -> None:
    """With registration options the migrated bundle becomes an AMI at its new location."""
    target, proxy = make_bucket(cloud), make_proxy(cloud, dry_run_answered())
    options = Registration(name=f"{target}/holes.img.manifest.xml")
    done = await migrate(work(tmp_path, proxy.endpoint), bundle, f"s3://{target}", registration=options)
    assert done.image is not None
    assert done.image.image_id in images(cloud)
    sent = [each for each in proxy.requests if b"RegisterImage" in each.form and b"DryRun" not in each.form]
    assert sent[0].parameters["ImageLocation"] == f"{target}/holes.img.manifest.xml"


async def test_a_name_that_is_taken(
    cloud: Endpoint, make_bucket: MakeBucket, migrate: Migrate, bundle: Path, tmp_path: Path
) -> None:
    """A registration that would fail is refused before any copy."""
    target = make_bucket(cloud)
    register(cloud, f"{target} taken")
    with pytest.raises(RefusedError, match="cannot register the AMI name"):
        await migrate(
            work(tmp_path, cloud), bundle, f"s3://{target}", registration=Registration(name=f"{target} taken")
        )
    assert list_keys(cloud, target) == []


async def test_registration_that_fails(
    cloud: Endpoint, make_bucket: MakeBucket, make_proxy: MakeProxy, migrate: Migrate, bundle: Path, tmp_path: Path
) -> None:
    """When EC2 refuses at the end, the complete bundle stays."""
    target = make_bucket(cloud)
    denied = Fault(
        action=Answer(status=400, code="InvalidManifest"), method="POST", form="Action=RegisterImage&(?!.*DryRun)"
    )
    proxy = make_proxy(cloud, dry_run_answered(), denied)
    with pytest.raises(RegisterError):
        await migrate(
            work(tmp_path, proxy.endpoint),
            bundle,
            f"s3://{target}",
            registration=Registration(name=f"{target} x"),
        )
    assert len(list_keys(cloud, target)) == 4


@pytest.mark.parametrize("how", ["part", "manifest"])
async def test_nothing_stays_after_a_failure(
    how: str,
    cloud: Endpoint,
    make_bucket: MakeBucket,
    make_proxy: MakeProxy,
    migrate: Migrate,
    tmp_path: Path,
    key_ring: KeyRing,
) -> None:
    """After any failure no object of the migration is left, and older objects stay."""
    source, target = make_bucket(cloud), make_bucket(cloud)
    await put_own_bundle(cloud, source, key_ring, tmp_path)
    with cloud.blocking_client() as s3:
        s3.put_object(Bucket=target, Key="k/other", Body=b"precious")
    pattern = {"part": r".*/k/.*\.part\.0[2-5]", "manifest": r".*/k/.*xml"}[how]
    proxy = make_proxy(cloud, Fault(action=Answer(status=403, code="AccessDenied"), path=pattern, times=None))
    with pytest.raises(StoreError, match="AccessDenied"):
        await migrate(work(tmp_path, proxy.endpoint), f"s3://{source}/image.manifest.xml", f"s3://{target}/k")
    assert list_keys(cloud, target) == ["k/other"]
    assert open_uploads(cloud, target) == []
    assert stored_bytes(cloud, source) == contents(tmp_path / "made")


async def test_a_migration_that_another_overtook(
    endpoint: Endpoint,
    make_bucket: MakeBucket,
    make_proxy: MakeProxy,
    migrate: Migrate,
    tmp_path: Path,
    key_ring: KeyRing,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of two migrations to one place the late one leaves the other's bundle whole."""
    use_endpoint(endpoint, monkeypatch)
    source, target = make_bucket(endpoint), make_bucket(endpoint)
    await put_own_bundle(endpoint, source, key_ring, tmp_path)
    slow = Fault(action=PauseRequest(), method="PUT", path=rf"/{target}/.*\.part\.05")
    proxy = make_proxy(endpoint, slow)
    address, to = f"s3://{source}/image.manifest.xml", f"s3://{target}"
    first = asyncio.create_task(migrate(work(tmp_path, proxy.endpoint, upload_concurrency=1), address, to))
    await asyncio.to_thread(proxy.wait_hit, slow)
    await migrate(work(tmp_path, endpoint), address, to)
    whole = stored_bytes(endpoint, target)
    await asyncio.to_thread(proxy.let_go, slow)
    with pytest.raises(StoreError, match="exists already"):
        await first
    assert stored_bytes(endpoint, target) == whole


async def test_cancelled(
    cloud: Endpoint, make_bucket: MakeBucket, make_proxy: MakeProxy, migrate: Migrate, tmp_path: Path, key_ring: KeyRing
) -> None:
    """A migration cancelled during a copy leaves nothing."""
    source, target = make_bucket(cloud), make_bucket(cloud)
    await put_own_bundle(cloud, source, key_ring, tmp_path)
    fault = Fault(action=HoldReply(), path=rf"/{target}/.*\.part\.03")
    proxy = make_proxy(cloud, fault)
    it = work(tmp_path, proxy.endpoint)
    task = asyncio.create_task(migrate(it, f"s3://{source}/image.manifest.xml", f"s3://{target}"))
    await asyncio.to_thread(proxy.wait_hit, fault)
    task.cancel()
    proxy.clock = clock(it.settings.stall_timeout_s)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert list_keys(cloud, target) == []


@pytest.mark.parametrize(
    ("name", "words"), [("seaweedfs", "has SHA-1"), ("moto_server", "has another checksum than in the manifest")]
)
async def test_a_bad_part(
    name: str,
    words: str,
    request: pytest.FixtureRequest,
    make_bucket: MakeBucket,
    migrate: Migrate,
    bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A part that differs from the manifest, by its bytes or its copy's hash, ends the migration; nothing stays."""
    endpoint: Endpoint = request.getfixturevalue(name)
    use_endpoint(endpoint, monkeypatch)
    source, target = make_bucket(endpoint), make_bucket(endpoint)
    flip(bundle.with_name("holes.img.part.2"), 50)
    put_files(endpoint, source, bundle.parent)
    with pytest.raises(DifferenceError, match=rf"holes\.img\.part\.2 (there )?{words}"):
        await migrate(work(tmp_path, endpoint), f"s3://{source}/holes.img.manifest.xml", f"s3://{target}")
    assert list_keys(endpoint, target) == []


async def test_parts_that_are_there(
    cloud: Endpoint, make_bucket: MakeBucket, make_proxy: MakeProxy, migrate: Migrate, bundle: Path, tmp_path: Path
) -> None:
    """Valid parts of a killed migration are kept; another object with a part's name is refused, and stays."""
    target, proxy = make_bucket(cloud), make_proxy(cloud)
    with cloud.blocking_client() as s3:
        body = bundle.with_name("holes.img.part.1").read_bytes()
        s3.put_object(Bucket=target, Key="a/holes.img.part.1", Body=body, ChecksumAlgorithm="SHA1")
        s3.put_object(Bucket=target, Key="b/holes.img.part.1", Body=b"precious")
        s3.put_object(Bucket=target, Key="c/holes.img.part.1", Body=body)
    it = work(tmp_path, proxy.endpoint)
    assert (await migrate(it, bundle, f"s3://{target}/a")).kept == 1
    assert (await migrate(it, bundle, f"s3://{target}/c")).kept == 1
    with pytest.raises(StoreError, match="with other content"):
        await migrate(it, bundle, f"s3://{target}/b")
    with pytest.raises(RefusedError, match="another bundle exists there"):
        await migrate(it, bundle, f"s3://{target}/a")
    assert stored_bytes(cloud, target, "b/") == {"holes.img.part.1": b"precious"}


async def test_refusals(
    cloud: Endpoint,
    make_bucket: MakeBucket,
    migrate: Migrate,
    bundle: Path,
    tmp_path: Path,
    key_ring: KeyRing,
) -> None:
    """Wrong keys, a changed manifest, a wrong region, closed ACLs and a directory are refused before any copy."""
    target, closed, it = make_bucket(cloud), make_bucket(cloud, acls=False), work(tmp_path, cloud)
    stranger = {"certificate": key_ring.stranger.certificate, "private_key": key_ring.stranger.key}
    signed_by_stranger = older_bundle(tmp_path / "two", key_ring, SIZES, signer=key_ring.stranger)
    changed = older_bundle(tmp_path / "three", key_ring, SIZES)
    changed.write_text(changed.read_text().replace("<architecture>x86_64", "<architecture>i386"))
    keyless = older_bundle(tmp_path / "four", key_ring, SIZES)
    text = keyless.read_text()
    start, end = text.index('<user_encrypted_key algorithm="AES-128-CBC">'), text.index("</user_encrypted_key>")
    signature = text[text.index("<signature>") : text.index("</signature>")]
    keyless.write_text((text[:start] + "<user_encrypted_key>" + text[end:]).replace(signature, "<signature>dummy"))
    cases: list[tuple[Path, str, dict[str, Any], str]] = [
        (bundle, f"s3://{target}", stranger, "its signature is not by the given certificate"),
        (signed_by_stranger, f"s3://{target}", stranger, "it was encrypted for another certificate"),
        (changed, f"s3://{target}", {}, "or the manifest was changed since"),
        (keyless, f"s3://{target}", {}, "made without a user certificate"),
        (bundle, f"s3://{target}", {"region": "us-gov-west-1"}, "it is in eu-west-1"),
        (bundle, f"s3://{closed}", {}, "its ACLs are disabled"),
        (bundle, str(tmp_path / "dir"), {}, "only a bucket has a region"),
        (bundle, f"s3://{target}", {"certificate": None, "private_key": None}, "is needed"),
        (bundle, f"s3://{target}", {"private_key": None}, "is needed"),
        (bundle, f"s3://{target}", {"ec2_certificate": None}, "cannot find EC2's certificate"),
    ]
    for manifest, to, more, words in cases:
        with pytest.raises(AmistreamError, match=words):
            await migrate(it, manifest, to, **more)
    assert list_keys(cloud, target) == []
    assert list_keys(cloud, closed) == []


async def test_the_kept_key(
    cloud: Endpoint, make_bucket: MakeBucket, migrate: Migrate, tmp_path: Path, key_ring: KeyRing
) -> None:
    """A bundle made with amistream's generated key is migrated without a key option."""
    it, target = work(tmp_path, cloud), make_bucket(cloud)
    own_identity(it.settings.state_dir)
    kept = KeyPair(
        key=it.settings.state_dir / "user-private-key.pem",
        certificate=it.settings.state_dir / "user-certificate.pem",
    )
    ring = type(key_ring)(user=kept, ec2=key_ring.ec2, stranger=key_ring.stranger)
    manifest = older_bundle(tmp_path / "old", ring, SIZES)
    done = await migrate(it, manifest, f"s3://{target}", certificate=None, private_key=None)
    assert done.parts == 3


async def test_an_unsigned_manifest(
    cloud: Endpoint, make_bucket: MakeBucket, migrate: Migrate, bundle: Path, tmp_path: Path
) -> None:
    """A manifest with a dummy signature is accepted, with a note."""
    it, target = work(tmp_path, cloud), make_bucket(cloud)
    text = bundle.read_text()
    signature = text[text.index("<signature>") : text.index("</signature>")]
    bundle.write_text(text.replace(signature, "<signature>dummy"))
    await migrate(it, bundle, f"s3://{target}")
    assert any("has no signature" in note for note in it.notes)


async def test_an_answer_that_was_lost(
    seaweedfs: Endpoint,
    make_bucket: MakeBucket,
    make_proxy: MakeProxy,
    migrate: Migrate,
    tmp_path: Path,
    key_ring: KeyRing,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A copy whose response is lost is requested again, found complete, and counts as copied."""
    use_endpoint(seaweedfs, monkeypatch)
    source, target = make_bucket(seaweedfs), make_bucket(seaweedfs)
    await put_own_bundle(seaweedfs, source, key_ring, tmp_path)
    fault = Fault(action=HoldReply(), path=rf"/{target}/.*\.part\.0[13]", times=2)
    proxy = make_proxy(seaweedfs, fault)
    it = work(tmp_path, proxy.endpoint)
    proxy.clock = clock(it.settings.stall_timeout_s)
    done = await migrate(it, f"s3://{source}/image.manifest.xml", f"s3://{target}")
    assert (done.parts, done.copied) == (6, 6)
