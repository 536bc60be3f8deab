"""The build of installations: its lists agree with the project. `make dist-test` builds and uses them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import amistream
from amistream.shipped import shipped
from config.dist import lock, packages, prune, wheels
from config.dist.contents import LICENCES
from config.dist.project import ARCHITECTURES, ROOT, pyproject, version

SHIPPED = ("amistream.toml", "amistream.service", "amistream.socket", "amistream.sysusers")


def test_the_wheel_holds_the_template_and_the_units() -> None:
    """Each shipped file is in the wheel, at the place that the program names; in a checkout it is the checkout's."""
    data = pyproject()["tool"]["hatch"]["build"]["targets"]["wheel"]["shared-data"]
    assert data == {f"config/{name}": f"share/amistream/{name}" for name in SHIPPED}
    assert all(shipped(name) == ROOT / "config" / name for name in SHIPPED)
    assert version() == amistream.__version__


@pytest.mark.parametrize("kind", packages.KINDS)
def test_the_packages_name_files_that_exist(kind: str, tmp_path: Path) -> None:
    """Every file of the project that a package takes exists; completions come from the tree."""
    described = packages.describe(kind, tmp_path, ARCHITECTURES["aarch64"])
    json.dumps(described)
    sources = [
        Path(each["src"]) for each in described["contents"] if each.get("type") not in {"symlink", "tree", "dir"}
    ]
    ours = [path for path in sources if tmp_path not in path.parents]
    assert len(ours) >= 5
    assert all(path.is_file() for path in (*ours, *map(Path, described["scripts"].values())))
    assert {path.name for path in sources if tmp_path in path.parents} == {
        "amistream.bash",
        "amistream.fish",
        "_amistream",
    }


def test_pruning_keeps_the_services_that_are_asked() -> None:
    """Each service of AWS whose client the program makes stays in the tree."""
    texts = [file.read_text() for file in (ROOT / "service").rglob("*.py")]
    asked = {name for text in texts for name in re.findall(r'client\((?:\w+, )?"([a-z0-9-]+)"', text)}
    assert asked >= {"s3", "ec2", "ebs", "sts", "sqs", "sns", "events"}
    assert asked <= prune.SERVICES


def test_the_lock_has_everything() -> None:
    """The lock has the same packages of both architectures with known licences, and a wheel of each requirement."""
    names = [
        {each.name for each in lock.debian_packages(architecture.debian)} for architecture in ARCHITECTURES.values()
    ]
    assert names[0] == names[1]
    sources = {each.source for architecture in ("amd64", "arm64") for each in lock.debian_packages(architecture)}
    assert sources == set(LICENCES)
    pinned = dict(wheels.pinned(lock.WHEELS))
    required = {wheels.normalised(each.split(">")[0].split("[")[0].strip()) for each in wheels.requirements()}
    assert required <= set(pinned)
