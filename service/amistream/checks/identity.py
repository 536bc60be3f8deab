"""Checks of the keys: the user's pair, which signs and opens the bundle, and the certificate of EC2, which reads it."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import Protocol

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA1

from amistream.aws.regions import find_ec2_certificate
from amistream.checks.destination import Address
from amistream.checks.findings import Check, Observation, Status
from amistream.errors import RefusedError
from amistream.flow.cancel import finish_despite_cancel
from amistream.keys import CERTIFICATE_FILE, PRIVATE_KEY_FILE, UserIdentity, load_identity, own_identity


class Place(Protocol):
    """Who knows the region, once its check `region` has run; '' when it was not found."""

    @property
    def region(self) -> str: ...


class IdentityChecks:
    """What was found is known once the checks have run."""

    def __init__(self, address: Address, place: Place, *, make: bool) -> None:
        """`make`: a pair is made for a user who has none."""
        self._request = address.request
        self._roots = address.roots
        self._settings = address.settings
        self._place = place
        self._make = make
        self._identity: UserIdentity | None = None
        self._certificate: x509.Certificate | None = None

    def checks(self) -> list[Check]:
        pair = Check(
            name="keys", why="the manifest could not be signed, nor the bundle opened again", look=self._load_pair
        )
        return [pair, self.ec2_check()]

    def ec2_check(self) -> Check:
        # One that is given is read whatever becomes of the region.
        given = bool(self._request.ec2_certificate or "default" in self._settings.ec2_certificates)
        return Check(
            name="ec2_certificate",
            why="EC2 could not open the bundle",
            look=self._find_certificate,
            needs=() if given else ("region",),
            after=("region",),
        )

    @property
    def identity(self) -> UserIdentity:
        assert self._identity is not None  # noqa: S101 - for the type checker; the check loaded it
        return self._identity

    @property
    def certificate(self) -> x509.Certificate:
        """EC2's."""
        assert self._certificate is not None  # noqa: S101 - for the type checker; the check found it
        return self._certificate

    async def _load_pair(self) -> Observation:
        certificate = self._request.certificate or self._settings.certificate
        private_key = self._request.private_key or self._settings.private_key
        if certificate and private_key:
            # The administrator's own pair may lie anywhere.
            roots = self._roots if self._request.certificate or self._request.private_key else None
            exposed_too = self._settings.allow_exposed_key
            load = partial(load_identity, Path(certificate), Path(private_key), roots, exposed_too=exposed_too)
            self._identity = await finish_despite_cancel(asyncio.to_thread(load))
            bits = self._identity.private_key.key_size
            return Observation(f"{certificate} and {private_key} are a pair, RSA {bits}")
        if certificate or private_key:
            raise RefusedError(
                "key.half",
                f"cannot sign the bundle: a {'certificate' if certificate else 'private key'} was given alone",
                hint="give both --cert and --private-key, or neither to use a key pair made for this machine",
                field="private_key" if certificate else "certificate",
            )
        return await finish_despite_cancel(asyncio.to_thread(self._own_pair))

    def _own_pair(self) -> Observation:
        folder = self._settings.state_dir
        why = "only it can open the bundle again"
        if not self._make and not ((folder / CERTIFICATE_FILE).exists() and (folder / PRIVATE_KEY_FILE).exists()):
            return Observation(
                f"no user certificate was given, so the first job will make a key pair in {folder}",
                Status.NOTICE,
                why=why,
                fix="give your own with --cert and --private-key, or keep a copy of it",
            )
        self._identity, made = own_identity(folder)
        verb = "made" if made else "used"
        return Observation(
            f"{verb} the key pair in {folder}, as no user certificate was given",
            Status.NOTICE,
            why=why,
            fix="keep a copy of it",
        )

    async def _find_certificate(self) -> Observation:
        region, explicit = self._place.region, self._request.ec2_certificate
        certificate, notice = await finish_despite_cancel(
            asyncio.to_thread(
                find_ec2_certificate,
                region,
                explicit=Path(explicit) if explicit else None,
                configured=self._settings.ec2_certificates,
                roots=self._roots,
            )
        )
        self._certificate = certificate
        fingerprint = certificate.fingerprint(SHA1()).hex()  # noqa: S303 - a name, not a protection
        if notice and region:
            found, _, why = notice.partition("; ")
            return Observation(f"{found} (SHA-1 fingerprint {fingerprint})", Status.NOTICE, why=why)
        return Observation(f"SHA-1 fingerprint {fingerprint}" + (f", EC2's own in {region}" if region else ""))
