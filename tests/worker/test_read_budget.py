"""Half-read replies share one budget of bytes; those that must wait for it all arrive.

It knows nothing of what else can go wrong on a wire.
"""

from __future__ import annotations

import asyncio

import pytest

from tests.worker.bad_server import (
    Writer,
    call,
    run,
    serving,
)
from worker.http import Clocks, HttpSender
from worker.providers.base import Reply
from worker.read_budget import ReadBudget


def test_replies_beyond_the_budget_wait_for_each_other_and_all_arrive() -> None:
    """40 replies of 200 kB, each half sent before any ends, through a budget of 500 kB."""
    size, calls = 200_000, 40

    async def main() -> tuple[list[Reply], int, int]:
        halves = asyncio.Barrier(calls)
        peak = 0

        async def script(head: bytes, writer: Writer) -> None:
            nonlocal peak
            writer.write(f"HTTP/1.1 200 OK\r\ncontent-length: {size}\r\n\r\n".encode() + b"x" * 20_000)
            await halves.wait()
            for _ in range(9):
                writer.write(b"x" * 20_000)
                await writer.drain()
                peak = max(peak, sender.bytes_being_read)

        async with serving(script) as server, HttpSender(read_budget_bytes=500_000) as sender:
            replies = await asyncio.gather(*(sender.send(call(server.url), Clocks(connect=60)) for _ in range(calls)))
            return list(replies), peak, sender.bytes_being_read

    replies, peak, left = run(main())
    assert [len(reply.body) for reply in replies] == [size] * calls
    assert left == 0
    # the few that may go on, and what each of the others had read before it was stopped
    assert peak < 500_000 + 8 * size + calls * 70_000 < calls * size


def test_a_waiting_reader_that_is_cancelled_leaves_no_trace() -> None:
    async def main() -> None:
        budget = ReadBudget(80)
        full = budget.reading()
        full.add(b"x" * 80)
        holders = [budget.reading() for _ in range(8)]
        for holder in holders:
            holder.add(b"x" * 10)
            await holder.room()
        late, later = budget.reading(), budget.reading()
        waits = [asyncio.create_task(reader.room()) for reader in (late, later)]
        await asyncio.sleep(0)
        assert not any(wait.done() for wait in waits)
        waits[0].cancel()
        holders[0].__exit__(None, None, None)
        await waits[1]
        with pytest.raises(asyncio.CancelledError):
            await waits[0]
        for reader in (full, late, later, *holders[1:]):
            reader.__exit__(None, None, None)
        assert budget.held == 0

    run(main())


def test_of_gigantic_replies_one_at_a_time_goes_far_beyond_the_budget_and_all_arrive() -> None:
    size, calls, limit = 2_000_000, 12, 160_000

    async def script(head: bytes, writer: Writer) -> None:
        writer.write(f"HTTP/1.1 200 OK\r\ncontent-length: {size}\r\n\r\n".encode())
        for _ in range(100):
            writer.write(b"x" * (size // 100))
            await writer.drain()

    async def main() -> tuple[list[Reply], int]:
        async with serving(script) as server, HttpSender(read_budget_bytes=limit) as sender:
            reading = asyncio.gather(*(sender.send(call(server.url), Clocks(connect=60)) for _ in range(calls)))
            peak = 0
            while not reading.done():
                peak = max(peak, sender.bytes_being_read)
                await asyncio.sleep(0)
            return list(await reading), peak

    replies, peak = run(main())
    assert [len(reply.body) for reply in replies] == [size] * calls
    # one whole reply, and of the others what they held when they were stopped
    assert size < peak < limit + size + calls * 150_000 < 8 * size


def test_a_reader_that_grows_large_beyond_the_budget_makes_way_for_a_small_one() -> None:
    async def main() -> None:
        budget = ReadBudget(80)
        large, growing, *small = [budget.reading() for _ in range(10)]
        large.add(b"x" * 100)
        await large.room()
        growing.add(b"x")
        await growing.room()
        for reader in small[:6]:
            reader.add(b"x")
            await reader.room()
        small[6].add(b"x")
        late = asyncio.create_task(small[6].room())
        await asyncio.sleep(0)
        assert not late.done(), "as many go on as may"
        growing.add(b"x" * 20)
        stopped = asyncio.create_task(growing.room())
        await late
        assert not stopped.done()
        large.__exit__(None, None, None)
        await stopped
        for reader in (growing, *small):
            reader.__exit__(None, None, None)
        assert budget.held == 0

    run(main())


def test_a_long_stream_is_held_packed() -> None:
    budget = ReadBudget(10**9)
    with budget.reading(pack=True) as reading:
        for number in range(10_000):
            reading.add(b'data: {"choices":[{"delta":{"content":"word %d"}}]}\n\n' % number)
        assert reading.held == budget.held < reading.size / 4
        assert len(reading.body()) == reading.size
    assert budget.held == 0
