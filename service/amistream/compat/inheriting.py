"""Adds facts of the instance's metadata to a request, as far as EC2 accepts them in a manifest. Explicit ones win."""

from __future__ import annotations

from typing import Any

from amistream.aws.metadata import inherited
from amistream.cli.output import put_note
from amistream.compat.session import run_old
from amistream.errors import RefusedError, UsageError
from amistream.request import ImageFields, parse_fields
from amistream.settings import Settings


def inherit(settings: Settings, values: dict[str, Any]) -> None:
    """Add mapping, kernel, RAM disk, product codes and ancestors of this instance to the values of a request.

    Raises `RefusedError` if the metadata service does not answer.
    """
    try:
        found = run_old(settings, None, lambda *_: inherited())
    except RefusedError as error:
        raise error.reworded(hint=error.hint.replace("leave out --inherit", "give --no-inherit")) from error
    given = values["block_device_mappings"]
    pairs = found.block_device_mappings.items()
    new = {virtual: device for virtual, device in pairs if virtual not in given and _accepted({virtual: device})}
    values["block_device_mappings"] = new | given
    for field, fact in (("kernel", found.kernel), ("ramdisk", found.ramdisk)):
        if fact and field not in values and _accepted(fact, field):
            values[field] = fact
            values["virtualization"] = "paravirtual"
    codes = [each for each in found.product_codes if _accepted([each], "product_codes")]
    values["product_codes"] = list(dict.fromkeys([*values["product_codes"], *codes]))
    values["ancestors"] = [each for each in found.ancestors if _accepted([each], "ancestors")]


def _accepted(fact: object, field: str = "block_device_mappings") -> bool:
    """True for a fact that EC2 takes in a manifest; a note names any other."""
    try:
        parse_fields(ImageFields, {field: fact, "virtualization": "paravirtual"})
    except UsageError as error:
        put_note(f"note: not inherited from this instance: {error.message.removeprefix('cannot take the request: ')}")
        return False
    return True
