"""The ways of a disk through amistream: into a bundle in a directory and out again, and into a snapshot on EBS."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from support import commands
from support.daemons import identity
from support.ebs_endpoint import read_back

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from support.ebs_endpoint import EbsEndpoint
    from support.keys import KeyRing

PATIENCE_S = 600


def bundled(disk: Path, directory: Path, keys: KeyRing, *options: str) -> Path:
    """Bundle a disk with these options, and return the manifest."""
    directory.mkdir(exist_ok=True)
    here = ("--in-process", "--no-register", "--no-inherit", "--arch", "x86_64")
    _amistream(directory, "bundle", disk, "--to", directory / "bundle", *identity(keys), *here, *options)
    (manifest,) = (directory / "bundle").glob("*.manifest.xml")
    return manifest


def bundled_and_unbundled(disk: Path, directory: Path, keys: KeyRing, *options: str) -> Path:
    """Bundle a disk with these options, and return the image that comes back."""
    manifest = bundled(disk, directory, keys, *options)
    image = directory / "image.img"
    _amistream(directory, "unbundle", manifest, image, "--private-key", keys.user.key, "--cert", keys.user.certificate)
    return image


def converted(source: Path, directory: Path, endpoint: EbsEndpoint, *options: str) -> Path:
    """Convert a disk or a bundle to an AMI on EBS, and return a volume that is made of its snapshot."""
    directory.mkdir(exist_ok=True)
    words = (source, "--ami-name", "converted", "--arch", "x86_64", "--in-process", "--endpoint-url", endpoint.url)
    job = json.loads(_amistream(directory, "convert", *words, *options, "--json", environ=endpoint.environ()))
    (image,) = endpoint.images()
    assert (image["imageId"], image["snapshots"]) == (job["result"]["image_id"], [job["result"]["snapshot_id"]])
    volume = directory / "volume.img"
    read_back(endpoint, job["result"]["snapshot_id"], volume)
    return volume


def inspected(disk: Path, directory: Path) -> dict[str, Any]:
    """Report what `amistream inspect` finds on a disk."""
    found: dict[str, Any] = json.loads(_amistream(directory, "inspect", disk, "--json"))
    return found


def _amistream(directory: Path, *words: object, environ: Mapping[str, str] | None = None) -> str:
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(directory),
        "AMISTREAM_STATE_DIR": str(directory / "state"),
        **{name: value for name, value in os.environ.items() if name.startswith("COVERAGE")},
        **(environ or {}),
    }
    line: Sequence[object] = (commands.COMMANDS / "amistream", *words)
    done = commands.run(line, cwd=directory, env=environ, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    return done.stdout
