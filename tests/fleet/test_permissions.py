"""The rights of a message: those that the administrator lists, and never more than a member of the socket's group."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from amistream.errors import AccessDeniedError
from amistream.events import JobKind
from amistream.fleet.permissions import check_message_request, is_listed
from amistream.request import parse_request
from amistream.settings import Settings

BUNDLE: dict[str, Any] = {"source": "/srv/images/web.img", "destinations": ["s3://bundles/web"]}
VERIFY: dict[str, Any] = {"kind": "verify", "manifest": "s3://bundles/web/image.manifest.xml"}
CONVERT: dict[str, Any] = {"kind": "convert", "source": "snap-12345678", "ami_name": "web"}
MIGRATE: dict[str, Any] = {
    "kind": "migrate",
    "manifest": "s3://bundles/web/image.manifest.xml",
    "destinations": ["s3://copies/web"],
    "region": "eu-west-1",
    "private_key": "/srv/images/pk.pem",
}
ALL: dict[str, Any] = {
    "queue_sources": ("s3://", "/", "snap-"),
    "queue_destinations": ("s3://", "/"),
    "source_roots": (Path("/srv/images"),),
}


def refusal(request: dict[str, Any], **settings: Any) -> AccessDeniedError:
    with pytest.raises(AccessDeniedError) as caught:
        check_message_request(parse_request(request), Settings(**settings))
    return caught.value


@pytest.mark.parametrize("request_fields", [BUNDLE, VERIFY, CONVERT, MIGRATE])
def test_allowed(request_fields: dict[str, Any]) -> None:
    """A request passes whose kind, source and destinations are listed."""
    check_message_request(parse_request(request_fields), Settings(**ALL))


@pytest.mark.parametrize("request_fields", [VERIFY, CONVERT])
def test_no_roots_are_needed_without_files(request_fields: dict[str, Any]) -> None:
    """A request that names no file needs no source_roots."""
    check_message_request(parse_request(request_fields), Settings(**{**ALL, "source_roots": ()}))


@pytest.mark.parametrize(
    ("request_fields", "settings", "code", "field"),
    [
        (BUNDLE, {}, "access.queue_sources", "source"),
        (VERIFY, {}, "access.queue_sources", "source"),
        (CONVERT, {"queue_sources": ("snap-1234567a",)}, "access.queue_sources", "source"),
        (BUNDLE, {"queue_sources": ("/srv/images",)}, "access.queue_destinations", "destinations"),
        (BUNDLE, {**ALL, "queue_kinds": ("verify",)}, "access.queue_kind", "kind"),
        ({**BUNDLE, "source": "-", "image_size": 1}, ALL, "source.stream", "source"),
        (
            {**BUNDLE, "destinations": ["s3://bundles/web", "s3://other"]},
            {**ALL, "queue_destinations": ("s3://bundles",)},
            "access.queue_destinations",
            "destinations",
        ),
        ({**VERIFY, "endpoint_url": "http://192.0.2.1"}, ALL, "access.endpoint", "endpoint_url"),
        ({**VERIFY, "region": "cn-north-1"}, {**ALL, "region": "eu-west-1"}, "access.region", "region"),
        ({**MIGRATE, "source_profile": "root"}, ALL, "access.profile", "source_profile"),
        ({**MIGRATE, "source_endpoint_url": "http://192.0.2.1"}, ALL, "access.endpoint", "source_endpoint_url"),
        (MIGRATE, {**ALL, "queue_destinations": ("s3://bundles",)}, "access.queue_destinations", "destinations"),
        ({**VERIFY, "deep": True}, ALL, "access.private_key", "private_key"),
        ({**BUNDLE, "freeze": True}, ALL, "access.freeze", "freeze"),
        ({**BUNDLE, "memory_limit": "900GiB"}, ALL, "access.too_much", "memory_limit"),
    ],
)
def test_refused(request_fields: dict[str, Any], settings: dict[str, Any], code: str, field: str) -> None:
    """A wish that is not listed, or that no member may have, is refused with the setting or the input at fault."""
    error = refusal(request_fields, **settings)
    assert (error.code, error.field) == (code, field)
    assert error.hint


@pytest.mark.parametrize(
    ("address", "entries", "listed"),
    [
        ("s3://bundles/web", ("s3://bundles",), True),
        ("s3://bundles/web", ("s3://bundles/",), True),
        ("s3://bundles", ("s3://bundles/",), True),
        ("s3://bundles-of-others", ("s3://bundles",), False),
        ("s3://bundles/web2", ("s3://bundles/web",), False),
        ("s3://bundles/web/../../x", ("s3://bundles/web",), False),
        ("s3://any/x", ("s3://",), True),
        ("/srv/images/a", ("/srv/images",), True),
        ("/srv/images", ("/srv/images",), True),
        ("/srv/images2/a", ("/srv/images",), False),
        ("/srv/images/../secret", ("/srv/images",), False),
        ("/etc/shadow", ("s3://", "snap-"), False),
        ("snap-12345678", ("snap-",), True),
        ("snap-12345678", ("snap-12345678",), True),
        ("snap-12345678", ("s3://", "/"), False),
        ("snap-web", ("snap-",), False),
        ("", ("s3://", "/", "snap-"), False),
        ("s3://bundles", (), False),
    ],
)
def test_entries(address: str, entries: tuple[str, ...], listed: bool) -> None:
    """An entry allows itself and everything below it, step by step."""
    assert is_listed(address, entries) is listed


def test_all_kinds_are_allowed_at_first() -> None:
    """The setting knows every kind of job, and lists each by default."""
    assert Settings().queue_kinds == tuple(JobKind)


def test_entries_of_the_settings() -> None:
    """Lists are taken from variables too, and an entry that is none is refused."""
    assert Settings(queue_sources="s3://a, snap-,/srv").queue_sources == ("s3://a", "snap-", "/srv")
    with pytest.raises(ValueError, match="is none of s3://"):
        Settings(queue_sources=("bundles",))
    with pytest.raises(ValueError, match="is none of s3://"):
        Settings(queue_destinations=("/srv/../etc",))
