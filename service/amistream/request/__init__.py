"""The requests of clients: the bodies of `POST /v1/jobs`, which the commands send.

Values are validated here as far as possible without disk, keys and AWS; `checks` does the rest, and
`jobs/confinement.py` bounds what members of the socket's group may ask for. The models of other kinds than bundles are
in files of their own, which the first request of the kind loads (`model_of`).
"""

from amistream.request.bundle import BundleRequest, CheckRequest, ImageFields, StoreReach
from amistream.request.digest import digest_of
from amistream.request.fields import Identity, KeyFields, Reach, TreeFields, VolumeRequest
from amistream.request.options import DESTINATION, IMAGE, REGISTRATION, Option, option_of
from amistream.request.parse import (
    FIELD_HELP,
    JobRequest,
    model_of,
    parse_bundle_request,
    parse_check_request,
    parse_fields,
    parse_request,
    read_request,
)
from amistream.request.words import AMI_NAME_PATTERN, DEVICE_PATTERN, FSTAB_WORDS, PATTERN_WORDS, PREFIX_WORDS, Category

__all__ = [
    "AMI_NAME_PATTERN",
    "DESTINATION",
    "DEVICE_PATTERN",
    "FIELD_HELP",
    "FSTAB_WORDS",
    "IMAGE",
    "PATTERN_WORDS",
    "PREFIX_WORDS",
    "REGISTRATION",
    "BundleRequest",
    "Category",
    "CheckRequest",
    "Identity",
    "ImageFields",
    "JobRequest",
    "KeyFields",
    "Option",
    "Reach",
    "StoreReach",
    "TreeFields",
    "VolumeRequest",
    "digest_of",
    "model_of",
    "option_of",
    "parse_bundle_request",
    "parse_check_request",
    "parse_fields",
    "parse_request",
    "read_request",
]
