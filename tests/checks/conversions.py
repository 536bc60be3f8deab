"""Runs the checks of a conversion against the double of EBS."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from amistream.aws.session import Aws
from amistream.checks.conversion import ReadyConversion, check_conversion
from amistream.checks.conversion_context import ConversionContext, Settled
from amistream.errors import RefusedError
from amistream.request import parse_request
from amistream.request.convert import ConvertRequest
from amistream.roots import Roots
from jobs.work import settings

if TYPE_CHECKING:
    from support.ebs_endpoint import EbsEndpoint

JOB = "20260101-000000-5f3a9c"


@dataclass
class Desk:
    """Where requests are checked, and the notices."""

    tmp_path: Path
    endpoint: EbsEndpoint
    settings_changes: dict[str, Any] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)

    @asynccontextmanager
    async def ready(self, source: Path | str, **fields: Any) -> AsyncIterator[ReadyConversion]:
        """The conversion that passed. Beside the fields: `settled` by an earlier run, `roots` of a confined job."""
        settled: Settled | None = fields.pop("settled", None)
        roots: Roots | None = fields.pop("roots", None)
        chosen = settings(self.tmp_path, **{"endpoint_url": self.endpoint.url, **self.settings_changes})
        async with Aws(chosen) as aws:
            context = ConversionContext(request(source, **fields), chosen, aws, JOB, roots=roots, settled=settled)
            ready = await check_conversion(context, self.notices.append)
            try:
                yield ready
            finally:
                await ready.close()

    async def refused(self, source: Path | str, **fields: Any) -> RefusedError:
        """The refusal, which leaves nothing behind."""
        images = self.endpoint.images()
        with pytest.raises(RefusedError) as caught:
            async with self.ready(source, **fields):
                pass
        assert self.endpoint.requests("StartSnapshot") == []
        assert self.endpoint.images() == images
        return caught.value


def request(source: Path | str, **fields: Any) -> ConvertRequest:
    asked = parse_request({"kind": "convert", "source": str(source), **fields})
    assert isinstance(asked, ConvertRequest)
    return asked
