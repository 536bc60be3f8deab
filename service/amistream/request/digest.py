"""A digest of a request, by which hosts find that two requests under one name differ."""

from __future__ import annotations

import hashlib
import json

from pydantic import BaseModel

_LETTERS = 32


def digest_of(request: BaseModel) -> str:
    """Digest the request's kind and the fields that differ from their defaults: equal requests have equal digests.

    A later version, which knows more fields, comes to the same digest for a request without them. The label is only
    shown: a message that is sent again may have another one.
    """
    fields = request.model_dump(mode="json", exclude_defaults=True, exclude={"label"})
    fields["kind"] = str(getattr(request, "kind", ""))
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:_LETTERS]
