"""Whole jobs that make a disk of a bare file system."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from amistream.events import BundleResult, State
from amistream.source.disks.facts import TableKind
from amistream.source.opening import open_source
from jobs.runs import ANEW
from support.boot_disks import need_grub
from support.referee import check_bundle
from support.volumes import MIB, ext4_image, random_image

if TYPE_CHECKING:
    from jobs.runs import MakeScene, Scene

SIZE = 8 * MIB


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file system whose free blocks were never used."""
    need_grub()
    tree = tmp_path_factory.mktemp("tree")
    (tree / "boot").mkdir()
    random_image(tree / "boot/vmlinuz-6.1.0-1-amd64", 2 * MIB)
    random_image(tree / "boot/initrd.img-6.1.0-1-amd64", 2 * MIB)
    return ext4_image(tree.with_name("bare"), SIZE, tree)


def disk(image: Path, kind: str, to: Path) -> Path:
    """The disk that amistream makes of the file system now, in a file."""
    volume = open_source(str(image), partition=TableKind(kind))
    data = bytearray(volume.size)
    volume.read_into(0, memoryview(data))
    volume.close()
    to.write_bytes(data)
    return to


def check(scene: Scene, expected: Path) -> None:
    check_bundle(scene.out, expected, scene.keys.user.key, scene.keys.user.certificate)


@pytest.mark.parametrize("kind", ["mbr", "gpt"])
async def test_resumed(kind: str, bare: Path, make_scene: MakeScene, tmp_path: Path) -> None:
    """A job that was broken off goes on behind what it stored, and its image is the disk."""
    async with make_scene() as scene:
        job = await scene.run(scene.request(source=str(bare), partition=kind), room=4)
        assert job.resumable, job.error
        job = await scene.again(job)
        assert job.state is State.DONE, job.error
        assert isinstance(job.result, BundleResult)
        assert job.result.compression["resumed"] > 0
        assert job.result.left_out is not None
        assert job.result.left_out.total > MIB
        assert not [notice for notice in job.notices if ANEW in notice]
        head = (MIB if kind == "mbr" else 2 * MIB, 0 if kind == "mbr" else MIB)
        assert job.result.image_size == SIZE + sum(head)
        check(scene, disk(bare, kind, tmp_path / "disk"))


async def test_resumed_with_another_grub(
    bare: Path, make_scene: MakeScene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job goes on after GRUB was updated by starting over, so that no image has two halves of different ones."""
    async with make_scene() as scene:
        job = await scene.run(scene.request(source=str(bare), partition="mbr"), room=4)
        assert job.resumable, job.error
        program = tmp_path / "bin" / "grub-mkimage"
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\n{shutil.which("grub-mkimage")} "$@" && echo updated\n')
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
        job = await scene.again(job)
        assert job.state is State.DONE, job.error
        assert [notice for notice in job.notices if ANEW in notice]
        assert b"updated" in disk(bare, "mbr", tmp_path / "disk").read_bytes()[:MIB]
        check(scene, tmp_path / "disk")
