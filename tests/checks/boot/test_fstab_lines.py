"""Lines of fstab in the words of findings."""

from __future__ import annotations

import pytest

from amistream.checks.boot.fstab import parse_fstab


@pytest.mark.parametrize(
    ("line", "mended"),
    [
        ("/dev/xvdb /mnt", "/dev/xvdb /mnt auto defaults,nofail 0 0"),
        ("/dev/xvdb\t/mnt\\040a ext4 # data", "/dev/xvdb /mnt\\040a ext4 defaults,nofail 0 0"),
        ("LABEL=a /a ext4 noatime,ro 1 2", "LABEL=a /a ext4 noatime,ro,nofail 1 2"),
    ],
)
def test_mended(line: str, mended: str) -> None:
    """The mended line can be written in place of the other: its own fields, one more option, and the defaults."""
    (mount,) = parse_fstab(line)
    assert mount.mended("nofail") == mended
