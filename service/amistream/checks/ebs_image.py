"""Checks the AMI of a conversion: whether it can boot, its devices and name, and the right to register it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

from amistream.aws.ec2 import permitted
from amistream.bundles.place import Bundle
from amistream.checks.bundle_source import BundleChecks
from amistream.checks.conversion_context import ConversionContext
from amistream.checks.converted_volume import ConvertedVolumeChecks
from amistream.checks.disk_beginning import bare_file_system, has_boot_sector, has_table
from amistream.checks.findings import Check, Observation, notice
from amistream.checks.snapshot_order import SnapshotChecks
from amistream.errors import RefusedError
from amistream.flow.retry import with_retries
from amistream.ports.registry import BUNDLE_TAG, JOB_TAG, Ami, Registration, tag_of_bundle
from amistream.request.words import RESERVED_TAGS, ROOT_DEVICE_PATTERN

_MOST_TAGS = 50


class EbsImageChecks:
    """The registration is known once the checks have passed; that of an earlier run stays as it is."""

    def __init__(
        self, context: ConversionContext, source: BundleChecks | ConvertedVolumeChecks, snapshot: SnapshotChecks
    ) -> None:
        self._context = context
        self._request = context.request
        self._source = source
        self._snapshot = snapshot
        self._earlier = context.settled.registration if context.settled else None
        self._registered = False
        self._may_tag = True
        self._now = datetime.now(UTC)
        self._name = self._earlier.name if self._earlier else self._request.ami_name
        self._begins_with_table = False
        """Set by the check `bootable`."""

    def checks(self) -> list[Check]:
        if not self._request.registers:
            return []
        is_bundle = isinstance(self._source, BundleChecks)
        before = ("bundle", "beginning") if is_bundle else ("source",)
        why = "EC2 would refuse the registration after everything was stored"
        return [
            Check("bootable", "the AMI would not boot", self._check_beginning, (*before, "region")),
            Check(
                "nitro", "the AMI would not boot on most instance types", self._look_at_flags, ("bootable",), ("image",)
            ),
            Check("devices", why, self._check_devices, ("bootable",)),
            Check("ami_name", why, self._check_name, (before[0], "credentials", "region"), ("image",)),
            Check("registration", why, self._try_registration, ("ami_name", "devices", "volume_size"), ("image",)),
        ]

    @property
    def registration(self) -> Registration | None:
        """Without the snapshot, which does not exist yet."""
        if not self._request.registers:
            return None
        registration = self._earlier or self._new_registration()
        return registration if self._may_tag else registration.unmarked

    def _new_registration(self) -> Registration:
        request, hvm, image = self._request, self._is_hvm, self._image
        return Registration(
            name=self.name,
            architecture=self.architecture,
            virtualization="hvm" if hvm else "paravirtual",
            description=request.description or (image.description if image else ""),
            kernel="" if hvm else self._kernel("kernel"),
            ramdisk="" if hvm else self._kernel("ramdisk"),
            sriov=hvm and bool((image and image.sriov) if request.sriov is None else request.sriov),
            ena=hvm and self._ena,
            block_device_mappings=self._mappings,
            tags=self._tags,
            root_device=self.root_device,
            volume_size_gib=self._snapshot.volume_gib,
            volume_type=request.volume_type,
            boot_mode=request.boot_mode or "",
            imds_support=request.imds_support or "",
        )

    @property
    def name(self) -> str:
        context, image, bundle = self._context, self._image, self._bundle
        old = (image.name if image else "") or (bundle.manifest.name if bundle else "") or context.settings.prefix
        return self._name or context.default_image_name(old, self._now)

    @property
    def architecture(self) -> str:
        bundle = self._bundle
        given = self._request.architecture or (bundle.manifest.architecture if bundle else "")
        return given or self._context.settings.architecture

    @property
    def root_device(self) -> str:
        if self._request.root_device:
            return self._request.root_device
        if self._is_hvm:
            return "/dev/xvda"
        device = self._bundle.manifest.block_device_mappings.get("root", "") if self._bundle else ""
        device = f"/dev/{device.removeprefix('/dev/')}"
        if re.fullmatch(ROOT_DEVICE_PATTERN, device):
            return device
        return "/dev/sda" if self._begins_with_table else "/dev/sda1"

    @property
    def _bundle(self) -> Bundle | None:
        return self._source.bundle if isinstance(self._source, BundleChecks) else None

    @property
    def _image(self) -> Ami | None:
        return self._source.image if isinstance(self._source, BundleChecks) else None

    @property
    def _is_hvm(self) -> bool:
        request, bundle = self._request, self._bundle
        if request.virtualization is not None or request.kernel or bundle is None:
            return request.is_hvm
        return bundle.manifest.kind == "machine" and not bundle.manifest.kernel

    @property
    def _ena(self) -> bool:
        image = self._image
        return bool(image and image.ena) if self._request.ena is None else self._request.ena

    @property
    def _mappings(self) -> dict[str, str]:
        """Those of instance store volumes: the root is the snapshot's."""
        bundle = self._bundle
        given: Mapping[str, str] = self._request.block_device_mappings
        if not given and bundle is not None:
            given = bundle.manifest.block_device_mappings
        return {virtual: device for virtual, device in given.items() if virtual.startswith("ephemeral")}

    @property
    def _tags(self) -> dict[str, str]:
        image = self._image
        old = image.tags if image and self._request.copy_tags else {}
        kept = {key: value for key, value in old.items() if not key.startswith(RESERVED_TAGS)}
        made_of = {BUNDLE_TAG: tag_of_bundle(self._source.address)} if isinstance(self._source, BundleChecks) else {}
        return {**kept, **self._request.tags, **made_of, JOB_TAG: self._context.tag}

    def _kernel(self, what: str) -> str:
        """The kernel or the RAM disk of a paravirtual AMI. Raises `RefusedError` for one of another region."""
        given = self._request.kernel if what == "kernel" else self._request.ramdisk
        if self._bundle is None or given:
            return given or ""
        old = self._bundle.manifest.kernel if what == "kernel" else self._bundle.manifest.ramdisk
        if old and self._snapshot.region != self._bundle.place.region:
            where = self._bundle.place.region or "its own region"
            raise RefusedError(
                f"{what}.region",
                f"cannot register the {what} {old} of the manifest in {self._snapshot.region}: it is known in {where}",
                hint=f"name the same {what} of {self._snapshot.region} with --{what}, or --virtualization hvm for an "
                "image that boots by itself",
                field=what,
            )
        return old

    async def _check_beginning(self) -> Observation | str:
        """Refuse a bare file system for hvm: nothing starts it."""
        beginning = await asyncio.to_thread(lambda: self._source.beginning)
        self._begins_with_table = beginning is not None and has_table(beginning)
        if not self._is_hvm:
            if not self._kernel("kernel"):
                raise RefusedError(
                    "kernel.missing",
                    "cannot register a paravirtual AMI: its kernel is not known",
                    hint="give --kernel aki-ID, one of the PV-GRUB kernels of the region; or --virtualization hvm for "
                    "an image that boots by itself",
                    field="kernel",
                )
            return notice(
                "the AMI is paravirtual",
                why="only instance types of the first generations boot it: m1, m2, m3, c1, c3, t1",
            )
        if beginning is None:
            return Observation("how the disk begins is not known before it is read")
        kind = bare_file_system(beginning, self._source.size)
        if kind and has_boot_sector(beginning):
            return notice(
                f"it is a bare {kind} file system with a boot sector of its own",
                why="amistream cannot check that it finds its files",
                fix="--partition mbr puts a table and GRUB before an ext2, ext3 or ext4",
            )
        if kind:
            raise RefusedError(
                "boot.bare_file_system",
                f"cannot boot: it is a bare {kind} file system, and an AMI for hvm boots from the first sector of its "
                "disk",
                hint="; ".join(self._ways_to_boot(kind)),
                field="partition",
            )
        return (
            "it has a partition table"
            if self._begins_with_table
            else "it begins with neither a table nor a file system"
        )

    def _ways_to_boot(self, kind: str) -> Iterator[str]:
        if kind.startswith("ext"):
            first = "`amistream unbundle` it, and convert that image: " if self._bundle else ""
            yield f"{first}--partition mbr puts a table and GRUB before it"
        yield "--virtualization paravirtual with its --kernel aki-ID, for old instance types"
        yield "--no-register makes the snapshot alone"

    def _look_at_flags(self) -> list[Observation]:
        found: list[Observation] = []
        if self._is_hvm and not self._ena:
            found.append(
                notice(
                    "the AMI is registered without --ena",
                    why="instance types of the Nitro system refuse it",
                    fix="give --ena if the system has the driver",
                )
            )
        if self._bundle is not None and self._is_hvm:
            found.append(
                notice(
                    "the system in a bundle is not looked at",
                    why="one that was made for Xen may not boot on the Nitro system",
                    fix="`amistream inspect` of the unbundled image, or of the snapshot, names what to mend",
                )
            )
        return found or [Observation("nothing to say")]

    def _check_devices(self) -> str:
        own = [f"/dev/{device.removeprefix('/dev/')}" for device in self._mappings.values()]
        twice = sorted({device for device in own if own.count(device) > 1})
        if twice:
            raise RefusedError(
                "mapping.twice",
                f"cannot map two volumes to one device: {', '.join(twice)}",
                hint="give each ephemeral volume a device of its own: -B ephemeral0=sdb,ephemeral1=sdc",
                field="block_device_mappings",
            )
        if self.root_device in own:
            raise RefusedError(
                "mapping.root",
                f"cannot map an instance store volume to {self.root_device}: the root volume is there",
                hint="-B ephemeral0=sdb, or another --root-device",
                field="block_device_mappings",
            )
        if self.architecture == "arm64" and self._request.boot_mode not in (None, "uefi"):
            raise RefusedError(
                "boot_mode.arm64",
                f"cannot boot arm64 with the boot mode {self._request.boot_mode}: it boots by UEFI only",
                hint="--boot-mode uefi, or leave it out",
                field="boot_mode",
            )
        if len(self._tags) > _MOST_TAGS:
            raise RefusedError(
                "tags.many",
                f"cannot give the AMI {len(self._tags)} tags: EC2 takes {_MOST_TAGS}, two of which are amistream's",
                hint="leave --copy-tags out, or some --tag",
                field="tags",
            )
        names = [f"root={self.root_device}", *(f"{key}={value}" for key, value in sorted(self._mappings.items()))]
        return ", ".join(names)

    async def _check_name(self) -> str:
        ec2, name = await self._context.ec2(self._snapshot.region), self.name
        what = f"look for an AMI named {name!r}"
        taken = await with_retries(self._context.retry, what, lambda _: ec2.find(name))
        if taken is None:
            return f"{name!r} is free"
        earlier = self._earlier
        self._registered = earlier is not None and (taken.is_of(earlier) or taken.is_by_job_of(earlier))
        # Of a named job, an attempt on another host has registered it.
        self._registered |= bool(self._context.name) and taken.tags.get(JOB_TAG) == self._context.name
        if not self._registered:
            raise RefusedError(
                "ami_name.taken",
                f"cannot register the AMI name {name!r}: {taken.id} has it in {ec2.region}",
                hint=f"choose another --ami-name, or first: aws ec2 deregister-image --image-id {taken.id}",
                field="ami_name",
            )
        return f"{name!r} is {taken.id}, of this very job"

    async def _try_registration(self) -> str:
        registration = self.registration
        if self._registered or registration is None:
            return "registered already"
        ec2 = await self._context.ec2(self._snapshot.region)
        self._may_tag = JOB_TAG in (await permitted(ec2, registration, self._context.retry)).tags
        return f"EC2 would accept it in {ec2.region} (dry run, without the snapshot)"
