"""The success of a job in a few lines: what was made, then its size, time and speed, and what limited it."""

from __future__ import annotations

from amistream.cli.report_text import report_text
from amistream.cli.screen import limit_text
from amistream.cli.table import counted
from amistream.cli.terminal import painted
from amistream.cli.transfer_text import migrated_text
from amistream.events import BundleResult, ConversionResult, JobResult
from amistream.reports import Migrated, Report
from amistream.units import duration_text, rate_text, size_text

DONE = "done  "


def outcome_text(result: JobResult) -> str:
    """Format the result of a job that is done."""
    match result:
        case BundleResult():
            made = [
                _made(each.manifest, each.image_id, each.image_name, each.region) for each in result.places or [result]
            ]
            stored = f"{size_text(result.bundled_size)} in {counted(result.parts, 'part')}"
            return "\n".join([*made, _figures(result, stored)])
        case ConversionResult():
            from amistream.ports.snapshots import BLOCK

            stored = f"{size_text(result.blocks * BLOCK)} in {counted(result.blocks, 'block')}"
            made = [_made(result.snapshot_id, result.image_id, result.image_name, result.region)]
            return "\n".join([*made, _figures(result, stored)])
        case Report():
            return report_text(result)
        case Migrated():
            return migrated_text(result)


def paint_outcome(line: str) -> str:
    return painted(line[: len(DONE)], "good") + line[len(DONE) :] if line.startswith(DONE) else line


def _made(place: str, image_id: str | None, image_name: str | None, region: str | None) -> str:
    about = ", ".join(filter(None, (image_name if image_id else None, region)))
    return DONE + "  ".join(filter(None, (place, image_id, f"({about})" if about else "")))


def _figures(result: BundleResult | ConversionResult, stored: str) -> str:
    speed = f"{duration_text(result.elapsed_s)}, {rate_text(result.image_size, result.elapsed_s)}"
    text = f"{size_text(result.image_size)} -> {stored}, {speed}"
    return "; ".join(filter(None, (text, limit_text(result.bottleneck))))
