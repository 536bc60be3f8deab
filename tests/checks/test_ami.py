"""Checks of the account, the device mapping, the AMI's name and the right to register it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from aws.instance import instance
from support.buckets import list_keys, open_uploads
from support.proxy import Answer, Fault

if TYPE_CHECKING:
    from checks.scene import Scene
    from conftest import MakeProxy
    from support.endpoints import Endpoint


async def test_an_account_of_the_settings(scene: Scene) -> None:
    """An account id from the settings may have dashes; other forms are refused."""
    async with scene.ready(scene.out, account=None, settings={"account": "1234-5678-9012"}) as ready:
        assert ready.facts.user == "123456789012"
    error = await scene.refused(scene.out, account=None, settings={"account": "me"})
    assert (error.code, error.field) == ("account.invalid", "account")


@pytest.mark.parametrize("account", ["42", "0123456789abcdef0123456789abcdef", "tenant$user"])
async def test_an_account_of_another_cloud(scene: Scene, account: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An id of another form is taken where the endpoint is not AWS's, whatever names it, and refused on AWS."""
    error = await scene.refused(scene.out, account=account)
    assert (error.code, "EC2_USER_ID" in error.hint) == ("account.invalid", True)
    async with scene.ready(scene.out, account=account, endpoint_url="http://127.0.0.1:9") as ready:
        assert ready.facts.user == account
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    async with scene.ready(scene.out, account=account) as ready:
        assert ready.facts.user == account


async def test_devices_that_the_instance_names(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device name that EC2 accepts in no manifest is refused, unless the request maps it."""
    data = {"block-device-mapping/": "ami\nephemeral0", "block-device-mapping/ami": "sda1",
            "block-device-mapping/ephemeral0": "xvdb"}  # fmt: skip
    async with instance(data, monkeypatch):
        error = await scene.refused(scene.out, inherit=True)
        assert (error.code, error.field) == ("mapping.device", "block_device_mappings")
        assert "ephemeral0 to xvdb" in error.message
        assert "-B ephemeral0=sdb" in error.hint
        async with scene.ready(scene.out, inherit=True, block_device_mappings={"ephemeral0": "sdb"}) as ready:
            assert ready.facts.block_device_mappings == {"ami": "sda1", "ephemeral0": "sdb"}


async def test_two_volumes_on_one_device(scene: Scene) -> None:
    """Two ephemeral volumes on one device are refused; ami and root may share one."""
    error = await scene.refused(scene.out, block_device_mappings={"ephemeral0": "sdb", "ephemeral1": "/dev/sdb"})
    assert (error.code, "sdb" in error.message) == ("mapping.twice", True)
    async with scene.ready(scene.out, block_device_mappings={"ami": "sda1", "root": "/dev/sda1", "ephemeral0": "sdb"}):
        pass


async def test_no_account(scene: Scene) -> None:
    """Without account id and credentials the option --account is named."""
    hint = await scene.hint(scene.tmp_path / "out", code="account.missing", says="account id", account=None)
    assert "--account" in hint


async def test_no_account_and_a_broken_provider(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bundle in a directory needs no credentials, so the hint for broken ones names --account first."""
    monkeypatch.setenv("AWS_CONFIG_FILE", "/no/such/file")
    hint = await scene.hint(scene.tmp_path / "out", code="aws.credentials", says="AWS_CONFIG_FILE", account=None)
    assert hint.startswith("give --account 123456789012; or check the")


async def test_a_taken_ami_name(scene: Scene, bucket: str, ministack: Endpoint) -> None:
    """A name that another AMI has is refused, with the id of that AMI."""
    with ministack.blocking_client("ec2") as ec2:
        taken = ec2.register_image(Name=f"taken in {bucket}", ImageLocation="b/m.xml")["ImageId"]
    hint = await scene.hint(
        f"s3://{bucket}/x", code="ami_name.taken", says=taken, endpoint_url=ministack.url, ami_name=f"taken in {bucket}"
    )
    assert f"aws ec2 deregister-image --image-id {taken}" in hint


async def test_no_right_to_register(scene: Scene, bucket: str, ministack: Endpoint, make_proxy: MakeProxy) -> None:
    """The dry run of RegisterImage finds a missing permission before the first byte."""
    denied = Answer(status=403, code="UnauthorizedOperation", message="You are not authorized")
    tried = Fault(action=denied, method="POST", form="Action=RegisterImage.*DryRun=true", times=None)
    proxy = make_proxy(ministack, tried)
    hint = await scene.hint(
        f"s3://{bucket}/x", code="aws.UnauthorizedOperation", says="do not permit this", endpoint_url=proxy.url
    )
    assert "ec2:RegisterImage" in hint
    assert list_keys(ministack, bucket) == []
    assert open_uploads(ministack, bucket) == []


async def test_inheriting_off_ec2(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inheriting without a metadata service fails soon, with the reason."""
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:1")
    await scene.hint(scene.tmp_path / "out", code="metadata.unreachable", says="metadata service", inherit=True)
