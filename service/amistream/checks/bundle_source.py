"""Checks a bundle as the source of a conversion: manifest, key, signature, parts, and how its disk begins."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from amistream.bundles.beginning import read_beginning
from amistream.bundles.meter import Meter
from amistream.bundles.owner import Owner, find_owner
from amistream.bundles.parts import StoredPart
from amistream.bundles.place import BucketPlace, Bundle, find_bundle, open_place
from amistream.bundles.register import images_on
from amistream.bundles.results import difference_error
from amistream.bundles.survey import survey
from amistream.bundles.unlocked import Unlocked
from amistream.bundles.verify import signature_difference
from amistream.checks.conversion_context import ConversionContext
from amistream.checks.findings import Check, Observation, notice
from amistream.errors import RefusedError, StoreError
from amistream.keys import BundleKey
from amistream.location import DirectoryLocation, parse_manifest_address
from amistream.ports.registry import Ami
from amistream.reports import Difference, Signature
from amistream.request import TreeFields, option_of
from amistream.request.fields import Subject
from amistream.units import size_text

_OF_VOLUMES = (*(name for name in Subject.model_fields if name != "source"), *TreeFields.model_fields)
"""Fields of a request that say how a volume is read."""


class BundleChecks:
    """Finds the bundle that the source names, as `unbundle` does before it opens its target."""

    bundle: Bundle
    """Set by the check `bundle`."""
    owner: Owner
    key: BundleKey
    signature: Signature
    """All set by the check `keys`."""
    parts: tuple[StoredPart, ...]
    """Set by the check `parts`."""

    def __init__(self, context: ConversionContext) -> None:
        self._context = context
        self._request = context.request
        self.size = 0
        """Bytes of the image; set by the check `bundle`."""
        self.region = ""
        """That of the bucket, '' for a directory; set by the check `bundle`."""
        self.image: Ami | None = None
        """The AMI that is registered from it, if EC2 shows one; set by the check `image`."""
        self.beginning: bytes | None = None
        """The first bytes of the image, if they can be had; set by the check `beginning`."""

    def checks(self) -> list[Check]:
        why_key = "nothing of the bundle could be read"
        why_parts = "the snapshot would never be completed"
        why_image = "the AMI on EBS would lack what its forerunner has"
        of_image = [
            Check("image", why_image, self._find_image, ("bundle", "credentials")),
            Check("product_codes", why_image, self._look_at_product_codes, ("bundle",)),
        ]
        return [
            Check("bundle", "there would be nothing to convert", self._find),
            Check("keys", why_key, self._open_key, ("bundle",)),
            Check("parts", why_parts, self._survey, ("bundle", "keys")),
            Check("beginning", why_key, self._read_beginning, ("parts",)),
            *(of_image if self._request.registers else []),
        ]

    @property
    def address(self) -> str:
        """BUCKET/KEY of the manifest, or its path."""
        return self.bundle.place.image_location(self.bundle.manifest_name)

    @property
    def unlocked(self) -> Unlocked:
        """The bundle with all that was found, once the checks have passed."""
        return Unlocked(bundle=self.bundle, key=self.key, signature=self.signature, parts=self.parts)

    async def _find(self) -> str:
        context, request = self._context, self._request
        self._refuse_wishes()
        folder, name = parse_manifest_address(request.source or "")
        if context.roots is not None and isinstance(folder, DirectoryLocation):
            raise RefusedError(
                "source.bundle",
                f"cannot convert {request.source}: only root and the daemon's own user may convert one in a directory",
                hint="give the bundle's address in S3: s3://BUCKET/KEY/NAME.manifest.xml",
                field="source",
            )
        place = await open_place(
            folder, context.settings, context.aws, region=request.region or "", endpoint_url=context.endpoint_url
        )
        self.bundle, self.region = await find_bundle(place, name), place.region
        manifest = self.bundle.manifest
        self.size = manifest.size
        return f"{size_text(manifest.size)} image {manifest.name} by {manifest.bundler}, for {manifest.architecture}"

    def _refuse_wishes(self) -> None:
        request = self._request
        for name in _OF_VOLUMES:
            field = type(request).model_fields[name]
            if getattr(request, name) != field.default:
                raise RefusedError(
                    "source.bundle",
                    f"cannot apply {option_of(field).names} to a bundle: its image is converted as it is",
                    hint="leave it out; or `amistream unbundle` the bundle, and convert that image",
                    field=name,
                )

    async def _open_key(self) -> Observation | str:
        context, request = self._context, self._request
        certificate, private_key = (Path(each) if each else None for each in (request.certificate, request.private_key))
        self.owner = await asyncio.to_thread(find_owner, context.settings, certificate, private_key, context.roots)
        self.key = await asyncio.to_thread(self.owner.open_key, self.bundle.manifest)
        signature = await asyncio.to_thread(self.owner.check_signature, self.bundle.manifest)
        self.signature = signature
        self._refuse(signature_difference(signature))
        if signature is Signature.ABSENT:
            return notice("the manifest has no signature", why="a change would not be noticed")
        return f"the key is opened, signature: {signature}"

    async def _survey(self) -> str:
        surveyed = await survey(self.bundle, Meter(), read=False)
        self._refuse(surveyed.differences)
        self.parts = surveyed.parts
        return f"{len(self.parts)} of {size_text(self.bundle.manifest.bundled_size)} together"

    async def _read_beginning(self) -> str:
        self.beginning = await read_beginning(self.bundle, self.key, self.parts)
        return "is read" if self.beginning else "is not known before the whole is read"

    def _look_at_product_codes(self) -> Observation | str:
        codes = self.bundle.manifest.product_codes
        if not codes:
            return "none"
        return notice(
            f"an AMI on EBS does not get the product codes of the manifest: {', '.join(codes)}",
            why="RegisterImage takes none, and instances of the AMI have none",
        )

    async def _find_image(self) -> Observation | str:
        """Find the AMI on the bundle: it has what no manifest says."""
        place = self.bundle.place
        if not isinstance(place, BucketPlace):
            return Observation("no AMI is registered from a bundle in a directory")
        ec2 = await self._context.ec2(place.region)
        try:
            known, _ = await images_on(place, self.bundle.manifest_name, ec2, self._context.settings)
        except StoreError as error:
            return notice(
                f"the AMI of the bundle was not looked for: {error.message}",
                why="whether it has --ena and --sriov is not known",
                fix="give them where the AMI has them",
            )
        self.image = known[0] if known else None
        return f"{self.image.id} is registered from it" if self.image else "no AMI is registered from it"

    def _refuse(self, differences: Sequence[Difference]) -> None:
        if differences:
            error = difference_error(self.bundle.address, tuple(differences))
            raise error.reworded(message=error.message.replace("cannot unbundle", "cannot convert", 1))
