"""Checks of the user's keys and of EC2's certificate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from checks.scene import Scene


async def test_a_key_that_does_not_fit_its_certificate(scene: Scene) -> None:
    """A certificate and a key that do not match are both named."""
    stranger = str(scene.keys.stranger.key)
    hint = await scene.hint(
        scene.tmp_path / "out", code="key.mismatch", says=f"{stranger}: they are not a pair", private_key=stranger
    )
    assert "modulus" in hint


async def test_half_a_key_pair(scene: Scene) -> None:
    """A certificate without its key is refused rather than replaced."""
    await scene.hint(scene.tmp_path / "out", code="key.half", says="only a certificate was given", private_key=None)


async def test_an_exposed_key(scene: Scene, tmp_path: Path) -> None:
    """A key that others can read is refused, with the chmod that protects it."""
    copy = tmp_path / "open.pem"
    copy.write_bytes(scene.keys.user.key.read_bytes())
    copy.chmod(0o644)
    hint = await scene.hint(tmp_path / "out", code="key.exposed", says=str(copy), private_key=str(copy))
    assert hint == f"chmod 600 {copy}"


async def test_no_ec2_certificate(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without EC2's certificate every searched path is named."""
    monkeypatch.setenv("EC2_AMITOOL_HOME", "/opt/ami-tools")
    await scene.hint(
        scene.tmp_path / "out",
        code="ec2_certificate.missing",
        says="/opt/ami-tools/etc/ec2/amitools/cert-ec2.pem, /etc/ec2/amitools/cert-ec2.pem, /usr/share/euca2ools",
        ec2_certificate=None,
        region="eu-west-1",
    )


@pytest.mark.parametrize("region", ["xx-north-1", None])
async def test_a_region_of_no_known_partition(scene: Scene, region: str | None) -> None:
    """An unknown region needs an explicit certificate."""
    hint = await scene.hint(
        scene.tmp_path / "out",
        code="ec2_certificate.unknown_region",
        says=region or "no region is known",
        ec2_certificate=None,
        region=region,
    )
    assert "--ec2-cert" in hint
