"""Checks the user's key pair, which signs and opens the bundle, and the certificate of EC2, which reads it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Protocol

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA1

from amistream.aws.regions import find_ec2_certificate
from amistream.checks.destination import BundleContext
from amistream.checks.findings import Check, Observation, notice
from amistream.errors import RefusedError
from amistream.keys import CERTIFICATE_FILE, PRIVATE_KEY_FILE, UserIdentity, load_identity, own_identity


class KnowsRegion(Protocol):
    """Checks of a destination. `region` is known once their check `region` has run; '' if there is none."""

    @property
    def region(self) -> str: ...

    async def is_elsewhere(self) -> bool:
        """True for a cloud other than AWS, which has a certificate of its own."""


class IdentityChecks:
    """Loads the user's key pair and EC2's certificate. Without `create_keys` a missing key pair is only reported."""

    identity: UserIdentity
    """Set by the check `keys`."""
    certificate: x509.Certificate
    """EC2's; set by the check `ec2_certificate`."""

    def __init__(self, context: BundleContext, place: KnowsRegion, *, create_keys: bool) -> None:
        self._request = context.request
        self._roots = context.roots
        self._settings = context.settings
        self._place = place
        self._create_keys = create_keys

    def checks(self) -> list[Check]:
        pair = Check("keys", "the manifest could not be signed, nor the bundle opened again", self._load_pair)
        return [pair, self.ec2_check()]

    def ec2_check(self) -> Check:
        # A given certificate is read even if the region is not known.
        given = bool(self._request.ec2_certificate or "default" in self._settings.ec2_certificates)
        needs = () if given else ("region",)
        return Check("ec2_certificate", "EC2 could not open the bundle", self._find_certificate, needs, ("region",))

    def _load_pair(self) -> Observation:
        certificate = self._request.certificate or self._settings.certificate
        private_key = self._request.private_key or self._settings.private_key
        if certificate and private_key:
            # The administrator's own pair may lie outside the roots.
            roots = self._roots if self._request.certificate or self._request.private_key else None
            exposed_too = self._settings.allow_exposed_key
            self.identity = load_identity(Path(certificate), Path(private_key), roots, exposed_too=exposed_too)
            bits = self.identity.private_key.key_size
            return Observation(f"{certificate} and {private_key} are a pair, RSA {bits}")
        if certificate or private_key:
            raise RefusedError(
                "key.half",
                f"cannot sign the bundle: only a {'certificate' if certificate else 'private key'} was given",
                hint="give both --cert and --private-key, or neither to use this machine's key pair",
                field="private_key" if certificate else "certificate",
            )
        return self._own_pair()

    def _own_pair(self) -> Observation:
        folder = self._settings.state_dir
        why = "only it can open the bundle again"
        exists = (folder / CERTIFICATE_FILE).exists() and (folder / PRIVATE_KEY_FILE).exists()
        if not self._create_keys and not exists:
            return notice(
                f"no user certificate was given, so the first job will create a key pair in {folder}",
                why=why,
                fix="use your own with --cert and --private-key, or keep a copy of it",
            )
        self.identity, created = own_identity(folder)
        verb = "created" if created else "used"
        found = f"{verb} the key pair in {folder}, as no user certificate was given"
        return notice(found, why=why, fix="keep a copy of it")

    async def _find_certificate(self) -> Observation:
        region, explicit = self._place.region, self._request.ec2_certificate
        self.certificate, doubt = await asyncio.to_thread(
            find_ec2_certificate,
            region,
            explicit=Path(explicit) if explicit else None,
            configured=self._settings.ec2_certificates,
            roots=self._roots,
        )
        fingerprint = self.certificate.fingerprint(SHA1()).hex()  # noqa: S303 - a name, not a protection
        if doubt and await self._place.is_elsewhere():
            return Observation(f"SHA-1 fingerprint {fingerprint}, not one of AWS's")
        if doubt and region:
            found, _, why = doubt.partition("; ")
            return notice(f"{found} (SHA-1 fingerprint {fingerprint})", why=why)
        return Observation(f"SHA-1 fingerprint {fingerprint}" + (f", EC2's own in {region}" if region else ""))
