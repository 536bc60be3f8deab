"""A job that would pass its checks, for a test to spoil."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from amistream.aws.session import Aws
from amistream.checks import preflight
from amistream.checks.destination import Destination
from amistream.errors import RefusedError
from jobs.work import open_files, request, settings

if TYPE_CHECKING:
    from amistream.checks.preflight import Ready
    from support.keys import KeyRing


@dataclass(kw_only=True)
class Scene:
    """A job that would be ready, for a test to spoil. `notices` are those of the last run of the checks.

    The notice on the certificate is left out, because these tests use another certificate than EC2's, and those on how
    the image boots, because it is no system.
    """

    image: Path
    keys: KeyRing
    tmp_path: Path
    notices: list[str] = field(default_factory=list)
    boot_notices: list[str] = field(default_factory=list)

    @asynccontextmanager
    async def ready(self, to: str | Path, **changes: Any) -> AsyncIterator[Ready]:
        """Check the job; prove at the end that no file of it is open."""
        chosen = settings(self.tmp_path, **changes.pop("settings", {}))
        roots = changes.pop("roots", None)
        asked = request(self.image, to, self.keys, **changes)
        self.notices.clear()
        self.boot_notices.clear()
        try:
            async with Aws(chosen) as aws:
                addresses = [
                    Destination(asked, chosen, aws, "token", n, roots=roots) for n in range(len(asked.destinations))
                ]
                ready = await preflight.check(addresses, self._note, numbers=range(len(addresses)))
                try:
                    yield ready
                finally:
                    await ready.close()
                    for destination in ready.destinations:
                        await destination.store.close()
        finally:
            assert asked.source not in open_files()

    async def refused(self, to: str | Path, **changes: Any) -> RefusedError:
        with pytest.raises(RefusedError) as caught:
            async with self.ready(to, **changes):
                pass
        return caught.value

    async def hint(self, to: str | Path, *, code: str, says: str, **changes: Any) -> str:
        """Prove how the spoiled job is refused; return the hint."""
        error = await self.refused(to, **changes)
        assert error.code == code, error
        assert error.message.startswith("cannot ")
        assert says in error.message
        assert error.hint
        return error.hint

    def _note(self, notice: str) -> None:
        if notice.startswith("cannot boot"):
            self.boot_notices.append(notice)
        elif "EC2 certificate" not in notice:
            self.notices.append(notice)

    @property
    def out(self) -> Path:
        return self.tmp_path / "out"
