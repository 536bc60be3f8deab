"""The contract of a registry: EC2, as far as registering an image needs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """What EC2 is asked to register. `location` is bucket/key of the manifest, without scheme or leading slash."""

    location: str
    name: str
    architecture: str
    virtualization: str
    description: str = ""
    kernel: str = ""
    ramdisk: str = ""
    sriov: bool = False
    ena: bool = False
    block_device_mappings: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image as EC2 describes it."""

    id: str
    location: str
    state: str
    reason: str = ""


class Registry(Protocol):
    """EC2, as far as this stage needs it. Every method raises `StoreError`."""

    async def register(self, registration: Registration) -> str: ...

    async def find(self, name: str) -> Image | None: ...

    async def look(self, image_id: str) -> Image | None: ...
