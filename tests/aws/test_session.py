"""The SDK's session: which of the environment's settings it takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from amistream.aws.session import Aws
from amistream.settings import Settings


@pytest.mark.parametrize(
    ("variables", "setting", "region"),
    [
        ({"AWS_REGION": "cn-north-1"}, "", "cn-north-1"),
        ({"AWS_DEFAULT_REGION": "eu-west-1"}, "", "eu-west-1"),
        ({"AWS_REGION": "cn-north-1", "AWS_DEFAULT_REGION": "eu-west-1"}, "", "cn-north-1"),
        ({"AWS_REGION": "", "AWS_DEFAULT_REGION": "eu-west-1"}, "", "eu-west-1"),
        ({"AWS_REGION": "", "AWS_DEFAULT_REGION": ""}, "", "sa-east-1"),
        ({"AWS_REGION": "cn-north-1"}, "us-gov-west-1", "us-gov-west-1"),
        ({}, "", "sa-east-1"),
    ],
)
async def test_the_region_of_the_environment(
    variables: dict[str, str], setting: str, region: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AWS_REGION comes first, then AWS_DEFAULT_REGION; both after the setting and before the profile, unless empty."""
    (tmp_path / "config").write_text("[default]\nregion = sa-east-1\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    async with Aws(Settings(region=setting)) as aws:
        assert await aws.default_region() == region
