"""Each planted fault of a disk that boots gives its own finding, and no other."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from amistream.checks.boot.wanted import Wanted
from checks.boot.good_system import (
    FSTAB,
    GRUB_CFG,
    INITRD,
    KERNEL,
    MODULES,
    OTHER_UUID,
    ROOT,
    VERSION,
    X86,
    Image,
    elf,
    examine,
    good_disk,
    initramfs,
    kernel,
    modules_of,
    newc,
)
from support.volumes import FIXED_UUID

GRUB = "/boot/grub/grub.cfg"
BOTH = ("xen-blkfront", "ext4")


def menu(image: Image, old: str, new: str) -> None:
    assert old in GRUB_CFG
    image.put(GRUB, GRUB_CFG.replace(old, new))


def fstab(image: Image, text: str) -> None:
    image.put("/etc/fstab", text + "\n")


def builtin(image: Image, *names: str) -> None:
    image.put(f"/{MODULES}/modules.builtin", modules_of(names))


def remove_lists(image: Image) -> None:
    image.remove(f"/{MODULES}/modules.builtin", f"/{MODULES}/modules.dep")
    image.put(INITRD, initramfs([]))


def relabel(image: Image) -> None:
    image.put("/etc/selinux/config", "SELINUX=enforcing\n")
    image.put("/.autorelabel", "")


def move_core(image: Image) -> None:
    """Put GRUB's core into the root file system, as its installation by block list does."""
    content = image.path.read_bytes()
    place = image.disk.root + (12 << 20)
    core = bytearray(content[image.disk.core : image.disk.core + image.disk.core_room])
    _, count, segment = struct.unpack_from("<QHH", core, 500)
    struct.pack_into("<QHH", core, 500, place // 512 + 1, count, segment)
    image.write(place, bytes(core[: 512 * (count + 1)]))
    image.write(0x5C, struct.pack("<Q", place // 512))


FAULTS: dict[str, tuple[Callable[[Image], None], str, str]] = {
    # The disk
    "no boot code": (lambda it: it.write(0, bytes(440)), "failed", "no_loader"),
    "core zeroed": (lambda it: it.write(it.disk.core, bytes(it.disk.core_room)), "failed", "no_core"),
    "core in a file": (move_core, "notice", "block_list"),
    "other loader": (lambda it: it.write(0, b"\xeb\x3c" + b"LILO" * 109), "notice", "other_loader"),
    "GRUB legacy": (lambda it: it.write(0, b"\xeb\x48" + bytes(299) + b"GRUB " * 27), "notice", "grub_legacy"),
    "not active": (lambda it: it.write(446, b"\0"), "notice", "not_active"),
    # File systems
    "needs recovery": (lambda it: it.debugfs("feature needs_recovery"), "notice", "torn"),
    "errors": (lambda it: it.debugfs("set_super_value state 2"), "notice", "errors"),
    "inline_data": (lambda it: it.debugfs("feature inline_data"), "failed", "grub_features"),
    "casefold": (lambda it: it.debugfs("feature casefold"), "failed", "grub_features"),
    # Kernel, initramfs, modules
    "no kernel": (lambda it: it.remove(KERNEL), "failed", "kernel_missing"),
    "no kernel, no menu": (lambda it: it.remove(KERNEL, GRUB), "failed", "no_kernel"),
    "no initramfs": (lambda it: it.remove(INITRD), "failed", "initramfs_missing"),
    "other modules": (lambda it: it.put(KERNEL, kernel("6.1.0-99-cloud-amd64")), "failed", "no_modules"),
    "no xen-blkfront": (lambda it: it.put(INITRD, initramfs(["ext4"])), "failed", "no_xen_blkfront"),
    "no ext4": (lambda it: it.put(INITRD, initramfs(["xen-blkfront"])), "failed", "no_root_driver"),
    "no xen-netfront": (lambda it: builtin(it, "nvme"), "notice", "no_xen_netfront"),
    "no nvme": (lambda it: builtin(it, "xen-netfront"), "notice", "no_nitro"),
    "initramfs cut": (lambda it: it.put(INITRD, initramfs()[:-60]), "unknown", "unknown"),
    "initramfs in lz4": (lambda it: it.put(INITRD, b"\x02\x21\x4c\x18" + bytes(99)), "unknown", "unknown"),
    "no lists": (remove_lists, "unknown", "unknown"),
    # The menu
    "no menu": (lambda it: it.remove(GRUB), "notice", "no_grub_menu"),
    "empty menu": (lambda it: it.put(GRUB, "set default=0\n"), "unknown", "unknown"),
    "root= by another UUID": (
        lambda it: menu(it, f"root={ROOT}", f"root=UUID={OTHER_UUID}"),
        "failed",
        "root_argument",
    ),
    "root= by a label": (lambda it: menu(it, f"root={ROOT}", "root=LABEL=cloudimg"), "failed", "root_argument"),
    "root= by PARTUUID": (lambda it: menu(it, f"root={ROOT}", "root=PARTUUID=b0070001-02"), "failed", "root_argument"),
    "root= by a name": (lambda it: menu(it, f"root={ROOT}", "root=/dev/xvda1"), "notice", "device_name"),
    "root= made later": (lambda it: menu(it, f"root={ROOT}", "root=/dev/mapper/vg-root"), "unknown", "unknown"),
    "root= by a variable": (lambda it: menu(it, f"root={ROOT}", "root=$device"), "unknown", "unknown"),
    "search": (lambda it: menu(it, f"msdos1 {FIXED_UUID}", f"msdos1 {OTHER_UUID}"), "notice", "grub_search"),
    "no console": (lambda it: menu(it, "console=ttyS0,115200", ""), "notice", "no_console"),
    # fstab
    "/ by another UUID": (lambda it: fstab(it, FSTAB.replace(ROOT, f"UUID={OTHER_UUID}")), "failed", "fstab_root"),
    "/ by a name": (lambda it: fstab(it, FSTAB.replace(ROOT, "/dev/sda1")), "notice", "device_name"),
    "/boot/efi": (lambda it: fstab(it, FSTAB + "LABEL=UEFI /boot/efi vfat defaults 0 0"), "failed", "fstab_device"),
    "an ephemeral disk": (lambda it: fstab(it, FSTAB + "/dev/xvdb /mnt auto defaults 0 2"), "failed", "fstab_device"),
    "a volume by UUID": (lambda it: fstab(it, FSTAB + f"UUID={OTHER_UUID} /data xfs"), "failed", "fstab_device"),
    "LVM": (lambda it: fstab(it, FSTAB + "/dev/mapper/vg-data /data xfs defaults 0 0"), "unknown", "unknown"),
    "swap": (lambda it: fstab(it, FSTAB + "/dev/xvdc none swap sw 0 0"), "notice", "fstab_swap"),
    "nfs": (lambda it: fstab(it, FSTAB + "server:/home /home nfs defaults 0 0"), "notice", "fstab_network"),
    # The system
    "70-persistent-net": (
        lambda it: it.put("/etc/udev/rules.d/70-persistent-net.rules", 'SUBSYSTEM=="net", NAME="eth0"\n'),
        "notice",
        "network_names",
    ),
    "HWADDR": (
        lambda it: it.put("/etc/sysconfig/network-scripts/ifcfg-eth0", "DEVICE=eth0\nHWADDR=02:00:00:00:00:01\n"),
        "notice",
        "network_settings",
    ),
    "static address": (
        lambda it: it.put("/etc/network/interfaces", "iface lo inet loopback\niface eth0 inet static\n"),
        "notice",
        "network_settings",
    ),
    "macaddress": (
        lambda it: it.put("/etc/netplan/01.yaml", "network:\n  match:\n    macaddress: '02:00:00:00:00:01'\n"),
        "notice",
        "network_settings",
    ),
    "fixed address": (
        lambda it: it.put("/etc/netplan/01.yaml", "network:\n  addresses:\n    - 10.0.0.7/24\n"),
        "notice",
        "network_settings",
    ),
    "no cloud-init": (lambda it: it.remove("/usr/bin/cloud-init"), "notice", "no_cloud_init"),
    "machine-id": (lambda it: it.put("/etc/machine-id", "0" * 32), "notice", "identity.machine_id"),
    "host key": (lambda it: it.put("/etc/ssh/ssh_host_rsa_key", "key"), "notice", "identity.host_keys"),
    "authorized_keys": (
        lambda it: it.put("/home/admin/.ssh/authorized_keys", "ssh-rsa AAAA"),
        "notice",
        "identity.authorized_keys",
    ),
    "history": (lambda it: it.put("/root/.bash_history", "mysql -psesame"), "notice", "identity.histories"),
    "secret key": (lambda it: it.put("/home/admin/web.pem", "key"), "notice", "identity.secrets"),
    "AWS credentials": (lambda it: it.put("/root/.aws/credentials", "key"), "notice", "identity.secrets"),
    "cloud-init's state": (lambda it: it.put("/var/lib/cloud/instance", "i-1"), "notice", "identity.cloud_state"),
    "leases": (lambda it: it.put("/var/lib/dhcp/dhclient.eth0.leases", "lease {}"), "notice", "identity.leases"),
    "logs": (lambda it: it.put("/var/log/auth.log", "root logged in"), "notice", "identity.logs"),
    "no labels": (lambda it: it.put("/etc/selinux/config", "SELINUX=enforcing\n"), "notice", "selinux_labels"),
    "relabel": (relabel, "notice", "selinux_relabel"),
    "crypttab": (lambda it: it.put("/etc/crypttab", f"data UUID={OTHER_UUID} none luks\n"), "notice", "crypttab"),
    "mdadm.conf": (lambda it: it.put("/etc/mdadm/mdadm.conf", "ARRAY /dev/md0 UUID=1:2:3:4\n"), "notice", "mdadm"),
    "another processor": (lambda it: it.put("/usr/bin/dash", elf(183)), "failed", "architecture"),
    "32 bits": (lambda it: it.put("/usr/bin/dash", elf(3)), "notice", "architecture"),
    "no program": (lambda it: it.put("/usr/bin/dash", "#!/bin/true\n"), "unknown", "unknown"),
}
RIGHT: dict[str, Callable[[Image], None]] = {
    "nothing": lambda _: None,
    "nofail": lambda it: fstab(it, FSTAB + "/dev/xvdb /mnt auto defaults,nofail,comment=cloudconfig 0 2"),
    "noauto": lambda it: fstab(it, FSTAB + "/dev/sr0 /media/cdrom0 udf,iso9660 user,noauto 0 0"),
    "timeout": lambda it: fstab(it, FSTAB + "/dev/sdb /mnt ext4 x-systemd.device-timeout=5 0 0"),
    "bind, tmpfs": lambda it: fstab(it, FSTAB + "/home /srv none bind 0 0\ntmpfs /tmp tmpfs size=50% 0 0\n"),
    "_netdev": lambda it: fstab(it, FSTAB + "//server/share /srv cifs _netdev 0 0"),
    "PARTUUID": lambda it: menu(it, f"root={ROOT}", "root=PARTUUID=B0070001-01"),
    "by-uuid": lambda it: menu(it, f"root={ROOT}", f"root=/dev/disk/by-uuid/{FIXED_UUID}"),
    "saved entry": lambda it: menu(it, 'default="0"', 'default="${saved_entry}"'),
    "one kernel of two": lambda it: menu(it, "  initrd", f"  linux {KERNEL} root=LABEL=no console=ttyS0\n  initrd"),
    "gzip": lambda it: it.put(INITRD, gzip.compress(newc({f"{MODULES}/{each}.ko.xz": b"" for each in BOTH}))),
    "built in": lambda it: builtin(it, "nvme", "xen-netfront", *BOTH),
    "written by cloud-init": lambda it: it.put("/etc/netplan/50-cloud-init.yaml", "macaddress: '02:00:00:00:00:01'"),
    "name servers": lambda it: it.put(
        "/etc/netplan/1.yaml", "nameservers:\n  addresses: [1.1.1.1]\n  addresses:\n  - 9.9.9.9"
    ),
    "/dev/root": lambda it: fstab(it, FSTAB.replace(ROOT, "/dev/root")),
    "permissive": lambda it: it.put("/etc/selinux/config", "SELINUX=permissive\n# SELINUX=enforcing\n"),
}


@pytest.mark.parametrize(("spoil", "status", "code"), FAULTS.values(), ids=FAULTS)
def test_fault(image: Image, spoil: Callable[[Image], None], status: str, code: str) -> None:
    """The fault is found, with its level, and nothing else is."""
    spoil(image)
    assert image.findings() == [(status, f"boot.{code}")]


@pytest.mark.parametrize("change", RIGHT.values(), ids=RIGHT)
def test_no_false_alarm(image: Image, change: Callable[[Image], None]) -> None:
    """Nothing is found on the good disk, nor after changes that are right."""
    change(image)
    assert image.findings() == []


def test_gpt(tmp_path: Path) -> None:
    """A GPT disk with the layout of cloud images is good; grown, or cut, it is not."""
    path = good_disk(tmp_path, "gpt").path
    assert examine(path, X86) == []
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(size + (1 << 20))
        assert [code for _, code, _ in examine(path, X86)] == ["boot.table"]
        file.truncate(size - (1 << 20))
        assert ("failed", "boot.cut_short") in [(status, code) for status, code, _ in examine(path, X86)]


def test_bare_file_system(image: Image) -> None:
    """A file system without a table is a fault for hvm, unless the job puts a table before it."""
    data = image.path.read_bytes()
    image.path.write_bytes(data[image.disk.root : image.disk.root + image.disk.root_size])
    ((status, code, found),) = examine(image.path, X86)
    assert (status, code) == ("failed", "boot.bare_file_system")
    assert "ext4" in found
    assert examine(image.path, Wanted(architecture="x86_64", is_wrapped=True)) == []


def test_no_menu_needed(image: Image) -> None:
    """The GRUB that a job puts before a file system starts the newest kernel without a menu."""
    image.remove(GRUB)
    assert image.findings() == [("notice", "boot.no_grub_menu")]
    assert image.findings(Wanted(is_wrapped=True)) == []


def test_options(image: Image) -> None:
    """A driver is missed only if the AMI is to have its network."""
    image.put(f"/{MODULES}/modules.dep", modules_of(["ena"]))
    assert image.findings(Wanted(architecture="x86_64", ena=True)) == []
    assert image.findings(Wanted(architecture="x86_64", sriov=True)) == [("failed", "boot.no_ixgbevf")]
    assert image.findings(Wanted()) == []
    assert image.findings(Wanted(architecture="arm64")) == [("failed", "boot.no_efi"), ("failed", "boot.architecture")]


EBS = Wanted(architecture="x86_64", on_ebs=True)


def test_drivers_of_an_ami_on_ebs(image: Image) -> None:
    """An AMI on EBS needs a driver for disks of Xen or of the Nitro system; without the latter's there is a notice."""
    assert image.findings(EBS) == []
    builtin(image, "ext4")
    found = [("notice", "boot.no_nvme"), ("notice", "boot.no_ena_driver")]
    image.put(f"/{MODULES}/modules.dep", modules_of([]))
    assert image.findings(EBS) == found
    assert image.findings(replace(EBS, ena=True)) == [("notice", "boot.no_nvme"), ("failed", "boot.no_ena")]
    image.put(INITRD, initramfs(["ext4"]))
    assert image.findings(EBS) == [("failed", "boot.no_disk_driver"), ("notice", "boot.no_ena_driver")]
    builtin(image, "nvme")
    image.put(f"/{MODULES}/modules.dep", modules_of(["ena"]))
    assert image.findings(EBS) == []


def test_boot_mode_of_an_ami_on_ebs(image: Image) -> None:
    """The boot mode uefi needs an EFI system partition, and no boot code; any other mode needs boot code."""
    assert image.findings(replace(EBS, boot_mode="uefi")) == [("failed", "boot.no_efi")]
    image.write(0, bytes(440))
    assert image.findings(replace(EBS, boot_mode="uefi-preferred")) == [("failed", "boot.no_loader")]


def test_paravirtual(image: Image) -> None:
    """PV-GRUB reads menu.lst, and no boot loader is needed."""
    wanted = Wanted(architecture="x86_64", paravirtual=True)
    assert image.findings(wanted) == [("notice", "boot.no_menu_lst")]
    entry = f"default=0\ntitle Debian\nroot (hd0)\nkernel {KERNEL} root={ROOT} console=hvc0\ninitrd {INITRD}\n"
    for text, expected in {
        entry: [],
        entry.replace("console=hvc0", ""): [("notice", "boot.no_console")],
        entry.replace(VERSION, "2.6.32"): [("failed", "boot.kernel_missing")] * 2,
        entry.replace(ROOT, "/dev/sda1"): [("notice", "boot.device_name")],
        "default 0\n": [("failed", "boot.menu_lst")],
    }.items():
        image.put("/boot/grub/menu.lst", text)
        assert image.findings(wanted) == expected, text


def test_nothing_on_the_disk(tmp_path: Path) -> None:
    """Noise is no disk that boots, and costs one finding."""
    path = tmp_path / "noise"
    path.write_bytes(b"\x5a" * 100_000)
    assert [each[:2] for each in examine(path, X86)] == [("failed", "boot.no_table")]
    path.write_bytes(b"")
    assert [each[:2] for each in examine(path, X86)] == [("failed", "boot.no_table")]


def test_names_that_control_a_terminal(image: Image) -> None:
    """Text of the image is shown without characters that a terminal obeys, and not at length."""
    image.put("/etc/fstab", FSTAB + "LABEL=\x1b[2J\x07\\040x /data\x9b x\x1b[0m\n")
    image.put("/etc/crypttab", "a UUID=" + "\x1b" * 500 + "\n")
    found = [text for _, _, text in examine(image.path, X86)]
    assert len(found) == 2
    assert all(text.isprintable() and len(text) < 300 for text in found)
