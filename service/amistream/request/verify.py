"""The request of a verification: one bundle, compared with its manifest."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from amistream.events import JobKind
from amistream.request.fields import KeyFields, LabelField, Reach
from amistream.request.options import Option
from amistream.request.words import check_manifest

Manifest = Annotated[str, AfterValidator(check_manifest), Option("MANIFEST", "")]
MANIFEST = "Manifest of the bundle: s3://BUCKET/KEY/NAME.manifest.xml, or the absolute path of a file."


# pydantic takes the fields of the last base first.
class VerifyRequest(KeyFields, Reach, LabelField):
    """One bundle to compare with its manifest. Unknown fields are refused."""

    kind: Literal[JobKind.VERIFY] = Field(description="Work of the job.")
    manifest: Manifest = Field(description=MANIFEST)
    deep: Annotated[bool, Option("--deep", "")] = Field(
        False, description="Read, decrypt and unpack every part; needs the private key."
    )

    @property
    def source(self) -> str:
        """The bundle, as jobs are listed."""
        return self.manifest

    @property
    def destinations(self) -> tuple[str, ...]:
        """None: nothing is written."""
        return ()
