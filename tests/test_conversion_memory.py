"""The memory of conversions of bundles: that of their formula, with HTTPS and a link that takes nothing at first."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from amistream.ports.snapshots import BLOCK
from amistream.settings import conversion_ceiling
from amistream.values import KIB, MIB
from bundles.made import engine_bundle

if TYPE_CHECKING:
    from support.keys import KeyRing
    from support.tls import Authority

PUTS, WORKERS = 64, 2
SIZE = 96 * MIB
OF_S3 = 16 * MIB
"""Of the formula: the connections that read ranges. Here they come from a directory."""
ANSWER = b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n"
CONVERT = """
import asyncio, os, sys
from pathlib import Path
import uvloop
from amistream.aws.ebs import open_ebs
from amistream.aws.session import Aws
from amistream.bundles.blocks import BundleBlocks
from amistream.bundles.meter import Meter
from amistream.bundles.owner import find_owner
from amistream.bundles.place import find_bundle, open_place
from amistream.bundles.unlocked import unlock
from amistream.conversion import Conversion
from amistream.flow.retry import RetryPolicy
from amistream.location import parse_manifest_address
from amistream.conversion import ConversionPlan
from amistream.process import settle_memory
from amistream.settings import Settings
from aws.snapshots import KEYS
from support.daemons import peak_rss

async def say_when_full(buffers):
    while buffers.used() < 1:
        await asyncio.sleep(0.01)
    print("full", flush=True)

async def main(manifest, key, url, puts, workers):
    settings = Settings()
    async with Aws(settings, KEYS) as aws:
        writer = await open_ebs(aws, "eu-west-1", url, 60)
        folder, name = parse_manifest_address(manifest)
        bundle = await find_bundle(await open_place(folder, settings, aws), name)
        unlocked = await unlock(bundle, find_owner(settings, None, Path(key)), Meter(), print)
        plan = ConversionPlan(workers=int(workers), puts=int(puts))
        source = BundleBlocks(unlocked, Meter(), workers=plan.workers)
        retry = RetryPolicy(attempts=1, base_s=0, cap_s=0, stall_s=60)
        before = peak_rss(os.getpid())
        made = Conversion(plan, source, writer, "snap-0123456789abcdef0", retry=retry)
        telling = asyncio.create_task(say_when_full(made.buffers))
        converted = await made.run()
        await telling
        print(converted.blocks, peak_rss(os.getpid()) - before)

settle_memory()
uvloop.run(main(*sys.argv[1:]))
"""


class Held:
    """An endpoint that takes every block, but reads none until `let_go` is set."""

    def __init__(self) -> None:
        self.let_go = asyncio.Event()
        self.all_wait = asyncio.Event()
        self._waiting = 0

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                self._waiting += 1
                if self._waiting == PUTS:
                    self.all_wait.set()
                await self.let_go.wait()
                await reader.readexactly(BLOCK)
                writer.write(ANSWER)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


async def test_a_bundle_over_https(tls_authority: Authority, key_ring: KeyRing, tmp_path: Path) -> None:
    """With a block in each put and no buffer left, the memory is within the formula."""
    await engine_bundle(tmp_path / "bundle", key_ring, tmp_path, size=SIZE)
    held = Held()
    listening = socket.create_server(("127.0.0.1", 0), backlog=PUTS)
    # As on a network: with the loopback's segments of 64 KiB the kernel takes a whole block at once.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1460)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * KIB)
    server = await asyncio.start_server(held.accept, sock=listening, ssl=tls_authority.server_context(), limit=64 * KIB)
    async with server:
        converting = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", CONVERT, tmp_path / "bundle" / "image.manifest.xml", key_ring.user.key),
            *(f"https://127.0.0.1:{listening.getsockname()[1]}", str(PUTS), str(WORKERS)),
            stdout=asyncio.subprocess.PIPE,
            env={
                **os.environ,
                "PYTHONPATH": str(Path(__file__).parent),
                "AWS_CA_BUNDLE": str(tls_authority.ca_bundle),
            },
        )
        assert converting.stdout is not None
        assert await converting.stdout.readline() == b"full\n"
        await held.all_wait.wait()
        held.let_go.set()
        output, _ = await converting.communicate()
    blocks, grown = map(int, output.split())
    assert blocks == SIZE // BLOCK
    of_job = conversion_ceiling(workers=WORKERS, puts=PUTS, unpacks=True) - conversion_ceiling(
        workers=0, puts=0, jobs=0
    )
    assert grown < of_job - OF_S3
