"""The shape of a line in the table of errors."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table, for one code and its synonyms. A code that ends in `.*` means a family.

    In `cause`, {said} is the message of AWS or the SDK, {where} the URL; in `fix`, BUCKET is the bucket.
    """

    codes: tuple[str, ...]
    cause: str
    fix: str = ""
    transient: bool = False
    """A repeat may help."""
    permission: bool = False
    """The fix is to allow the operation's permissions, see `NEEDS`."""
    field: str = ""
    """The input at fault."""
    shown_as: str = ""
    """The code to show where several rows share one."""
