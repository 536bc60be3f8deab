"""Finds the EC2 certificate of a region. Nothing here uses the network.

The certificates belong to Amazon and are not shipped with this project. They have expired and are still in use.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA1

from amistream.errors import RefusedError
from amistream.keys import load_certificate
from amistream.roots import Roots


@dataclass(frozen=True, slots=True)
class KnownCertificate:
    """One of EC2's certificates: its customary file name and the SHA-1 fingerprint of its DER form."""

    file_name: str
    fingerprint: str


_DEFAULT = KnownCertificate("cert-ec2.pem", "d327baa0f8d3ee9cbb3cfbfe3b5265a840535d0d")
_GOV = KnownCertificate("cert-ec2-gov.pem", "89d9375a6fd090de28e163786dee5e7e196daab8")
_CHINA = KnownCertificate("cert-ec2-cn-north-1.pem", "1c936912a31842a572dde3e0b63bce66df77202f")

_BY_PREFIX = {
    "us-gov-": _GOV,
    "cn-": _CHINA,
    **dict.fromkeys(("us-", "eu-", "ap-", "sa-", "ca-", "me-", "af-", "il-", "mx-"), _DEFAULT),
}
_REGION_NAME = re.compile(r"[a-z]{2,5}(-[a-z]+)+-[0-9]+|aws-global")
AMI_TOOLS = "https://s3.amazonaws.com/ec2-downloads/ec2-ami-tools.zip"
FALLBACK_REGION = "us-east-1"
_ANY_REGION = {"aws-cn": "cn-north-1", "aws-us-gov": "us-gov-west-1"}
_FOLDERS = ("/etc/ec2/amitools", "/usr/share/euca2ools/certs")


@cache
def _partitions() -> tuple[Mapping[str, str], tuple[str, ...]]:
    """The partition of each region, and the domains of all partitions."""
    from botocore.loaders import create_loader

    found = create_loader().load_data("partitions")["partitions"]
    suffixes = [each["outputs"][name] for each in found for name in ("dnsSuffix", "dualStackDnsSuffix")]
    return {region: each["id"] for each in found for region in each["regions"]}, tuple(f".{each}" for each in suffixes)


def partition_of(region: str) -> str:
    """The AWS partition of a region (`aws`, `aws-cn`, ...), or '' for a region that the SDK does not know."""
    return _partitions()[0].get(region, "")


def on_aws(endpoint_url: str) -> bool:
    """True for an address of AWS's own; others are compatible endpoints, which may know less."""
    return (urlsplit(endpoint_url).hostname or "").endswith(_partitions()[1])


def region_of_role(arn: str) -> str:
    """A region of the partition to which a role belongs: its keys are known in none of another partition."""
    return _ANY_REGION.get("".join(arn.split(":")[1:2]), FALLBACK_REGION)


def check_region_name(region: str, endpoint_url: str) -> None:
    """Refuse a name that no region of AWS has, at an address of AWS; other clouds name theirs as they like."""
    if on_aws(endpoint_url) and not _REGION_NAME.fullmatch(region):
        raise RefusedError(
            "region.name",
            f"cannot use {region!r}: it is not a region's name, such as eu-west-1",
            hint="correct --region; for a region of another cloud give its endpoint: --endpoint-url, or the variables "
            "AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL_EC2 and AWS_ENDPOINT_URL_STS",
            field="region",
        )


def known_certificate(region: str) -> KnownCertificate | None:
    """The certificate of the region's partition, or None for an unknown partition."""
    longest_first = sorted(_BY_PREFIX, key=len, reverse=True)
    return next((_BY_PREFIX[prefix] for prefix in longest_first if region.startswith(prefix)), None)


def find_ec2_certificate(
    region: str, *, explicit: Path | None, configured: Mapping[str, Path], roots: Roots | None = None
) -> tuple[x509.Certificate, str]:
    """EC2's certificate for `region`, and a notice for the user or ''. Blocks on files.

    Search order: the explicit file, the configured one (per region, then 'default'),
    `$EC2_AMITOOL_HOME/etc/ec2/amitools`, `/etc/ec2/amitools`, `/usr/share/euca2ools/certs`. With `roots` an explicit
    file must lie within them. Raises `RefusedError` with all places searched.
    """
    known = known_certificate(region)
    chosen = explicit or configured.get(region) or configured.get("default")
    if chosen is not None:
        certificate = load_certificate(chosen, field="ec2_certificate", roots=roots if explicit else None)
        return certificate, _notice(certificate, chosen, region, known)
    if known is None:
        why = f"region {region} is in no known partition" if region else "no region is known"
        raise RefusedError(
            "ec2_certificate.unknown_region",
            f"cannot choose EC2's certificate: {why}",
            hint="give the certificate with --ec2-cert, or the region with --region",
            field="ec2_certificate",
        )
    home = os.environ.get("EC2_AMITOOL_HOME", "")
    folders = ([f"{home}/etc/ec2/amitools"] if home else []) + list(_FOLDERS)
    places = [Path(folder) / known.file_name for folder in folders]
    for place in places:
        if place.exists():
            certificate = load_certificate(place, field="ec2_certificate")
            return certificate, _notice(certificate, place, region, known)
    raise RefusedError(
        "ec2_certificate.missing",
        f"cannot find EC2's certificate for {region}: searched {', '.join(map(str, places))}",
        hint=f"get {known.file_name} with Amazon's ec2-ami-tools:\n"
        f"curl -O {AMI_TOOLS}\n"
        "unzip -j ec2-ami-tools.zip '*/etc/ec2/amitools/cert-ec2*.pem' -d /etc/ec2/amitools/\n"
        f"or `amistream init --region {region} --ami-tools ec2-ami-tools.zip`; in another place: --ec2-cert, or the "
        "setting ec2_certificates",
        field="ec2_certificate",
    )


def _notice(certificate: x509.Certificate, path: Path, region: str, known: KnownCertificate | None) -> str:
    fingerprint = certificate.fingerprint(SHA1()).hex()  # noqa: S303 - a name, not a protection
    if known is not None and fingerprint == known.fingerprint:
        return ""
    expected = f"{known.file_name}, which EC2 uses in {region}" if known else f"one known for {region or 'this region'}"
    return f"the EC2 certificate {path} is not {expected}; only the owner of its key can decrypt the bundle"
