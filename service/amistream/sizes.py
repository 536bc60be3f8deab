"""The units of sizes. Nothing is imported here, so that short commands can have them, too."""

from __future__ import annotations

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB
