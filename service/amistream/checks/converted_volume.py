"""Checks the volume of a conversion. It has no size but that of EBS: `SnapshotChecks` compares it with the wish."""

from __future__ import annotations

from amistream.bundles.beginning import BEGINNING
from amistream.checks.conversion_context import ConversionContext
from amistream.checks.source import SourceChecks
from amistream.errors import SourceError
from amistream.ports.volume import Kind
from amistream.source.disk_reader import reader_of


class ConvertedVolumeChecks(SourceChecks):
    """The volume is known once the checks have passed."""

    why_size = "there would be nothing to convert"

    def __init__(self, context: ConversionContext) -> None:
        super().__init__(context)
        self.largest = None

    @property
    def size(self) -> int:
        """Bytes of the image; 0 until it is opened."""
        return self.volume.size if self.opened else 0

    @property
    def beginning(self) -> bytes | None:
        """The first bytes of the volume; None for a stream, and where they cannot be read. Blocks."""
        if self.volume.kind is Kind.STREAM:
            return None
        try:
            return reader_of(self.volume)(0, min(BEGINNING, self.volume.size))
        except SourceError:
            return None
