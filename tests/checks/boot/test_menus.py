"""Menus of GRUB that are made to mislead: bounded work, and no number that is none."""

from __future__ import annotations

import pytest

from amistream.checks.boot.grub_menu import Menu, newest_first, parse_bls, parse_menu
from amistream.checks.boot.wanted import Wanted
from amistream.source.disks.reading import DoubtError
from checks.boot.good_system import INITRD, KERNEL, ROOT, Image

WIDE = f"set a='{'xx ' * 1300}'\n"


@pytest.mark.parametrize("line", ["linux /k $a\n", "initrd $a\n"])
def test_a_value_in_many_lines(line: str) -> None:
    """Variables do not multiply a menu's text without end."""
    with pytest.raises(DoubtError, match="more than 100000 words"):
        parse_menu(WIDE + line * 100, {})


def test_a_value_many_times_in_one_line() -> None:
    """A command line has no more characters than Linux takes, however often it names a variable."""
    (kernel,) = parse_menu(WIDE + "linux /k " + "$a " * 20_000, {}).top.kernels
    assert len(kernel.arguments) < 1400


def test_a_value_in_many_files() -> None:
    """The entries of files count as lines of the menu."""
    menu = Menu(variables={"a": "xx " * 1300})
    for number in range(76):
        parse_bls(str(number), "linux /k\noptions $a\n", menu)
    with pytest.raises(DoubtError):
        parse_bls("76", "linux /k\noptions $a\n", menu)


def test_digits_that_are_no_numbers(image: Image) -> None:
    """A superscript digit counts as text, in a file's name and in a menu."""
    assert newest_first(["9", "10", "9\u00b2"]) == ["10", "9\u00b2", "9"]
    entry = f"title Debian\nroot (hd0)\nkernel {KERNEL} root={ROOT} console=hvc0\ninitrd {INITRD}\n"
    image.put("/boot/grub/menu.lst", f"default \u00b2\n{entry}")
    assert image.findings(Wanted(architecture="x86_64", paravirtual=True)) == []
