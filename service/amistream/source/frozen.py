"""A volume whose mounted file systems are frozen while it is read, and no longer."""

from __future__ import annotations

from amistream.errors import SourceError
from amistream.host.frozen import Frozen
from amistream.ports.volume import Volume
from amistream.values import Extent


class FrozenVolume:
    """The volume `inner`, which was opened after the freeze. Closing it thaws."""

    def __init__(self, inner: Volume, frozen: Frozen) -> None:
        self._inner = inner
        self._frozen = frozen
        self._all_read = False
        self.path, self.kind, self.size = inner.path, inner.kind, inner.size
        self.mtime, self.identity = inner.mtime, inner.identity

    def read_into(self, offset: int, buffer: memoryview) -> bool:
        self._frozen.check()
        return self._inner.read_into(offset, buffer)

    def will_need(self, offset: int, length: int) -> None:
        self._inner.will_need(offset, length)

    def extents(self) -> tuple[Extent, ...]:
        return self._inner.extents()

    def all_read(self) -> None:
        """Thaw, once nothing was written meanwhile: what the file systems do while parts are sent does not matter.

        Raises `SourceError` unless they were frozen until now.
        """
        if not self._all_read:
            self._inner.check_unchanged()
            self._frozen.release()
            self._all_read = True

    def check_unchanged(self) -> None:
        self.all_read()

    def interrupt(self) -> None:
        self._inner.interrupt()

    def rewind(self) -> None:
        if self._all_read:
            raise SourceError(
                "freeze.over",
                f"cannot start over with {self.path}: its file systems were thawed once all was read",
                hint="submit the job again: it begins anew, with a freeze of its own",
                field="freeze",
            )
        self._inner.rewind()

    def close(self) -> None:
        try:
            self._frozen.close()
        finally:
            self._inner.close()
