"""The .deb and the .rpm of a tree, by nfpm."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from config.dist.project import HERE, PREFIX, ROOT, TOOLS, Architecture, epoch, pyproject, run, version

KINDS = ("deb", "rpm")
LINKS = ("amistream", "amistreamd")
"""Commands in /usr/bin. The older tools' names are in the tree's bin alone: another package may own them there."""
_SCRIPTS = HERE / "scripts"
_UNITS = "/usr/lib/systemd/system"
_COMPLETIONS = {
    "amistream.bash": "/usr/share/bash-completion/completions/amistream",
    "amistream.fish": "/usr/share/fish/vendor_completions.d/amistream.fish",
}
_ZSH = {"deb": "/usr/share/zsh/vendor-completions/_amistream", "rpm": "/usr/share/zsh/site-functions/_amistream"}


def build(tree: Path, directory: Path, architecture: Architecture) -> list[Path]:
    """Build both packages of the tree into the directory."""
    return [_build_one(kind, tree, directory, architecture) for kind in KINDS]


def _build_one(kind: str, tree: Path, directory: Path, architecture: Architecture) -> Path:
    target = directory / f"amistream-{version()}-linux-{architecture.name}.{kind}"
    pack(kind, describe(kind, tree, architecture), target)
    return target


def pack(kind: str, description: dict[str, Any], target: Path) -> None:
    """Let nfpm pack what `describe` described."""
    configuration = target.with_name(f"{target.name}.json")
    configuration.write_text(json.dumps(description, indent=1))
    run(
        *(TOOLS / "nfpm", "package", "--packager", kind, "--config", configuration, "--target", target),
        env={"SOURCE_DATE_EPOCH": str(epoch())},
    )


def describe(kind: str, tree: Path, architecture: Architecture) -> dict[str, Any]:
    """Describe the package as nfpm reads it. JSON is YAML, too."""
    project = pyproject()["project"]
    scripts = {name: str(_SCRIPTS / f"{name}.sh") for name in ("preinstall", "postinstall", "preremove", "postremove")}
    return {
        "name": project["name"],
        "arch": architecture.debian,
        "platform": "linux",
        "version": version(),
        "version_schema": "none",
        "release": "1",
        "section": "admin",
        "priority": "optional",
        "maintainer": f"{project['authors'][0]['name']} <amistream@localhost>",
        "description": project["description"],
        "license": project["license"],
        "mtime": datetime.fromtimestamp(epoch(), UTC).isoformat(),
        "contents": list(_contents(kind, tree)),
        "scripts": scripts,
        "suggests": ["qemu-utils"] if kind == "deb" else ["qemu-img"],
        "deb": {"compression": "xz"},
        "rpm": {
            "compression": "xz",
            "buildhost": "localhost",
            "summary": project["description"],
            "scripts": {"posttrans": str(_SCRIPTS / "posttrans.sh")},
        },
    }


def _contents(kind: str, tree: Path) -> Iterator[dict[str, Any]]:
    """Every file of the package, and its place."""
    yield {"src": str(tree), "dst": PREFIX, "type": "tree"}
    for name in LINKS:
        yield {"src": f"{PREFIX}/bin/{name}", "dst": f"/usr/bin/{name}", "type": "symlink"}
    files = {
        f"{_UNITS}/amistream.service": ROOT / "config/amistream.service",
        f"{_UNITS}/amistream.socket": ROOT / "config/amistream.socket",
        "/usr/lib/sysusers.d/amistream.conf": ROOT / "config/amistream.sysusers",
        "/usr/share/doc/amistream/copyright": ROOT / "docs/LICENSE",
        _ZSH[kind]: tree / "share/amistream/completion/_amistream",
        **{place: tree / "share/amistream/completion" / name for name, place in _COMPLETIONS.items()},
    }
    files |= {
        f"/usr/share/man/{page.parent.name}/{page.name}": page for page in sorted((tree / "share/man").glob("*/*"))
    }
    yield {"dst": "/etc/amistream", "type": "dir", "file_info": {"mode": 0o755}}
    yield {
        "src": str(ROOT / "config/amistream.toml"),
        "dst": "/etc/amistream/amistream.toml",
        "type": "config|noreplace",
        "file_info": {"mode": 0o644},
    }
    for place, source in files.items():
        yield {"src": str(source), "dst": place, "file_info": {"mode": 0o644}}
