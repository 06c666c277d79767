"""The bytes of half-read replies that a process holds: collected here, bounded for all calls together.

It does not read or wait on a socket; whoever reads asks it before going on.
"""

from __future__ import annotations

import asyncio
import zlib
from collections import deque
from types import TracebackType
from typing import Self

_PASSES = 8
"""So many readers go on beyond the budget, so that those who hold it all can finish; more than one, because one may be slow."""
_SHARE = 8
"""A reader beyond the budget that holds more than this part of it goes on alone among its like: eight replies of the largest size
would be ten times the budget."""
_BLOCK_BYTES = 16 * 1024


class ReadBudget:
    """`limit` bytes for all readers together; beyond it they pause, all but a few, until others are done."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0
        self._passes: set[Reading] = set()
        self._large: Reading | None = None
        self._waiting: deque[tuple[Reading, asyncio.Future[None]]] = deque()

    def reading(self, *, pack: bool = False) -> Reading:
        """A reader for one reply, as a context. `pack`: hold what comes compressed (streams repeat themselves a lot)."""
        return Reading(self, pack)

    def _goes_on(self, reading: Reading) -> bool:
        """Whether a reader may go on beyond the budget; if so, it is noted as one that does."""
        if reading.held > self.limit // _SHARE:
            if self._large not in (None, reading):
                if reading in self._passes:
                    self._passes.discard(reading)
                    self._wake()
                return False
            self._large = reading
        elif reading not in self._passes and len(self._passes) >= _PASSES:
            return False
        self._passes.add(reading)
        return True

    async def _room(self, reading: Reading) -> None:
        if self._goes_on(reading):
            return
        woken = asyncio.get_running_loop().create_future()
        self._waiting.append((reading, woken))
        await woken

    def _release(self, reading: Reading) -> None:
        self.held -= reading.held
        self._passes.discard(reading)
        if self._large is reading:
            self._large = None
        self._wake()

    def _wake(self) -> None:
        """Lets those go on that may, the longest waiting first; cancelled calls are forgotten."""
        waiting, self._waiting = self._waiting, deque()
        for waiter, woken in waiting:
            if woken.done():
                continue
            if self.held <= self.limit or self._goes_on(waiter):
                woken.set_result(None)
            else:
                self._waiting.append((waiter, woken))


class Reading:
    """What is read of one reply so far. `size` is the bytes that came, `held` those that it takes to keep them."""

    __slots__ = ("_budget", "_fresh", "_fresh_bytes", "_packed", "_packs", "held", "size")

    def __init__(self, budget: ReadBudget, packs: bool) -> None:
        self._budget = budget
        self._packs = packs
        self._packed: list[bytes] = []
        self._fresh: list[bytes] = []
        self._fresh_bytes = 0
        self.size = self.held = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._budget._release(self)

    def add(self, chunk: bytes) -> None:
        """Keeps a piece of the reply."""
        self._fresh.append(chunk)
        self._fresh_bytes += len(chunk)
        self.size += len(chunk)
        grown = len(chunk)
        if self._packs and self._fresh_bytes > _BLOCK_BYTES:
            block = zlib.compress(b"".join(self._fresh), 1)
            grown += len(block) - self._fresh_bytes
            self._packed.append(block)
            self._fresh.clear()
            self._fresh_bytes = 0
        self.held += grown
        self._budget.held += grown

    def body(self) -> bytes:
        """Everything read so far."""
        return b"".join([*(zlib.decompress(block) for block in self._packed), *self._fresh])

    async def room(self) -> None:
        """Returns when this reader may read on: at once while the budget holds."""
        budget = self._budget
        if budget.held > budget.limit:
            await budget._room(self)
