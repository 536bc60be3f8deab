"""The rights of a member of the socket's group, against those that the kernel grants."""

from __future__ import annotations

import os
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from amistream.member import Member
from source.access_lists import access_list
from source.nobody import open_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

USER, GROUP, OTHER = 65533, 65532, 65531
MEMBER = Member(user=USER, group=GROUP)
READ, SEARCH = os.R_OK, os.X_OK

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes somebody else")


@contextmanager
def as_member(*groups: int) -> Iterator[None]:
    before = os.getgroups()
    os.setgroups([GROUP, *groups])
    os.setegid(GROUP)
    os.seteuid(USER)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(before)


@needs_root
def test_what_the_kernel_grants() -> None:
    """For every mode and owner: what the kernel grants whether the member is of the file's group or not."""
    rights = ((Member.may_read, READ), (Member.may_search, SEARCH), (Member.may_list, READ | SEARCH))
    with open_folder() as folder:
        granted = {}
        for mode, user, group in product(range(0o1000), (USER, OTHER), (GROUP, OTHER)):
            path = folder / f"{mode:o} {user} {group}"
            path.mkdir()
            os.chown(path, user, group)
            path.chmod(mode)
            descriptor = os.open(path, os.O_PATH)
            for right, wanted in rights:
                granted[path, wanted] = right(MEMBER, descriptor)
            os.close(descriptor)
        grants = dict.fromkeys(granted, True)
        for groups in ((), (OTHER,)):
            with as_member(*groups):
                for path, wanted in granted:
                    grants[path, wanted] &= os.access(path, wanted, effective_ids=True)
        assert {case for case in granted if granted[case] != grants[case]} == set()


@needs_root
def test_access_lists() -> None:
    """A file with an access list is open to its owner alone: the list may deny what the mode grants."""
    with open_folder() as folder:
        path = folder / "file"
        path.touch(0o644)
        descriptor = os.open(path, os.O_PATH)
        assert MEMBER.may_read(descriptor)
        os.setxattr(path, "system.posix_acl_access", access_list(denied=USER))
        assert path.stat().st_mode & 0o777 == 0o555
        with as_member():
            assert not os.access(path, READ, effective_ids=True)
        assert not MEMBER.may_read(descriptor)
        os.chown(path, USER, OTHER)
        with as_member():
            assert os.access(path, READ, effective_ids=True)
        assert MEMBER.may_read(descriptor)
        os.close(descriptor)


@needs_root
def test_a_list_for_files_to_be_made(tmp_path: Path) -> None:
    """A directory's default list grants and denies nothing in the directory itself."""
    tmp_path.chmod(0o755)
    os.setxattr(tmp_path, "system.posix_acl_default", access_list(denied=USER))
    descriptor = os.open(tmp_path, os.O_PATH)
    assert MEMBER.may_list(descriptor)
    os.close(descriptor)


@needs_root
def test_a_member_nobody_knows(tmp_path: Path) -> None:
    """Without a user or group only what everybody may read is granted."""
    path = tmp_path / "file"
    path.touch()
    descriptor = os.open(path, os.O_PATH)
    nobody = Member(user=None, group=None)
    for mode, granted in ((0o644, True), (0o640, False), (0o604, False), (0o600, False)):
        path.chmod(mode)
        assert nobody.may_read(descriptor) is granted
    os.close(descriptor)
