"""The channel: in order, bounded; ended, broken and closed are told apart; a cancel loses no item and no turn."""

from __future__ import annotations

import asyncio

import pytest

from amistream.flow.channel import BrokenError, Channel, ClosedError, EndedError


async def turns() -> None:
    """Let every task that can go on do so."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_in_order_until_the_end() -> None:
    """Items come in their order, those sent before the end included; then the channel has ended."""
    channel = Channel[int]()
    for number in range(3):
        channel.send_nowait(number)
    channel.end()
    assert channel.waiting == 3
    assert [number async for number in channel] == [0, 1, 2]
    with pytest.raises(EndedError):
        await channel.receive()
    with pytest.raises(ClosedError):
        await channel.send(3)


async def test_bounded() -> None:
    """A full channel makes senders wait, in their order, until there is a place."""
    channel = Channel[int](2)
    sending = [asyncio.create_task(channel.send(number)) for number in range(5)]
    await turns()
    assert [task.done() for task in sending] == [True, True, False, False, False]
    with pytest.raises(asyncio.QueueFull):
        channel.send_nowait(9)
    assert channel.receive_nowait() == 0
    await turns()
    assert channel.waiting == 2
    assert [await channel.receive() for _ in range(4)] == [1, 2, 3, 4]
    with pytest.raises(asyncio.QueueEmpty):
        channel.receive_nowait()


async def test_the_end_reaches_all_receivers() -> None:
    """Each receiver that waits learns of the end, and a sender that waits cannot send behind it."""
    channel = Channel[int](1)
    receiving = [asyncio.create_task(channel.receive()) for _ in range(3)]
    await turns()
    await channel.send(1)
    channel.end()
    ends = await asyncio.gather(*receiving, return_exceptions=True)
    assert [type(end) for end in ends] == [int, EndedError, EndedError]
    full = Channel[int](1)
    full.send_nowait(1)
    late = asyncio.create_task(full.send(2))
    await turns()
    full.end()
    with pytest.raises(ClosedError):
        await late


async def test_the_receiver_leaves() -> None:
    """Once the receiver has closed it, the channel is broken for senders, also for those that wait."""
    channel = Channel[int](1)
    channel.send_nowait(1)
    waiting = asyncio.create_task(channel.send(2))
    await turns()
    channel.close()
    with pytest.raises(BrokenError):
        await waiting
    with pytest.raises(BrokenError):
        channel.send_nowait(3)
    with pytest.raises(ClosedError):
        await channel.receive()
    channel.end()
    assert channel.waiting == 0


@pytest.mark.parametrize("woken", [False, True])
async def test_cancelled_receiver(*, woken: bool) -> None:
    """A cancelled receiver takes nothing: the item goes to the next one, even if it was the first one's turn."""
    channel = Channel[int]()
    first, second = (asyncio.create_task(channel.receive()) for _ in range(2))
    await turns()
    if woken:
        channel.send_nowait(1)
    first.cancel()
    await turns()
    if not woken:
        channel.send_nowait(1)
    assert await second == 1
    assert first.cancelled()


@pytest.mark.parametrize("woken", [False, True])
async def test_cancelled_sender(*, woken: bool) -> None:
    """A cancelled sender has sent nothing, and its place goes to the next one."""
    channel = Channel[int](1)
    channel.send_nowait(0)
    first, second = (asyncio.create_task(channel.send(number)) for number in (1, 2))
    await turns()
    if woken:
        channel.receive_nowait()
    first.cancel()
    await turns()
    if not woken:
        channel.receive_nowait()
    await second
    assert first.cancelled()
    assert channel.receive_nowait() == 2
    assert channel.waiting == 0
