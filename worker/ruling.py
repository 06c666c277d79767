"""Whose limits hold where workers run with different configurations: those of the worker that has read its configuration last.

Every worker tells the others, through Redis, the limits of its pools under its own number; a higher number started later. When other
limits hold, the mark of the rules changes, and the limiter grants nothing to who goes by an earlier one. It counts nothing against a limit
(`worker.limits` does).
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import msgspec
import redis.asyncio

from models.config import ProviderConfig
from worker.keys import KeyRing
from worker.limits.beginnings import SETTLING_SECONDS
from worker.limits.server import Script
from worker.pools import PoolLimits, key_pools, pool_limits

log = logging.getLogger("truckllm.ruling")

UNHEARD = "unheard"
"""The mark of the rules before the others have been heard, which is never one that stands: nothing is granted by it."""

_SCRIPT = Script("ruling.lua", folder=Path(__file__).parent)


class Word(msgspec.Struct, frozen=True):
    """What one worker has said of a pool. `worker` is the number it rules by, `of` its own number in the database, `keys` the
    "provider/key_id" that draw on the pool."""

    worker: int
    whole: dict[str, int]
    models: dict[str, dict[str, int]]
    of: int | None = None
    keys: tuple[str, ...] = ()
    days: dict[str, dict[str, int]] = {}

    @property
    def limits(self) -> PoolLimits:
        """The limits that it states."""
        return PoolLimits(self.whole, self.models, self.days)


class Ruling:
    """A worker's part: `worker_id` gives its present number. Redis errors are raised."""

    def __init__(
        self,
        client: redis.asyncio.Redis,
        providers: Sequence[ProviderConfig],
        rings: Sequence[KeyRing],
        worker_id: Callable[[], int],
    ) -> None:
        self._client = client
        self._rings = rings
        self._mine = pool_limits(providers)
        self._pools = key_pools(providers)
        self._worker_id = worker_id
        self._number = 0
        self._began: int | None = None
        self._said: dict[str, Word] = {}  # by all
        self._heard: dict[str, Word] = {}  # by those that started later
        self._told: dict[str, int] = {}
        for ring in rings:
            ring.rule({}, UNHEARD)

    def pools(self, name: str) -> set[str]:
        """The pools that a key, "provider/key_id", draws on: by this worker's configuration and those of the others that were heard."""
        mine = {self._pools[name]} if name in self._pools else set()
        return mine | {pool for pool, word in self._said.items() if name in word.keys}

    async def refresh(self) -> None:
        """Says what isn't known to the others, and goes by the word of those that started later. Before the first call, every
        few seconds, and whenever the limiter says that other rules hold."""
        if self._began is None:
            mark, said = await self._exchange({})
            # That it was taken for dead since doesn't make its configuration younger. Whoever has spoken before started before,
            # though its number be higher: numbers begin anew with a new database, and this Redis may have seen an older one.
            self._number = self._worker_id()
            self._began = max([self._number, *(word.worker + 1 for word in said.values())])
        # What others have said is said for them, too: a Redis that lost it must not bring older limits back meanwhile.
        mark, said = await self._exchange(self._words(self._began))
        higher = [word.worker for word in said.values() if word.of is not None and word.of < self._number]
        if max(higher, default=0) >= self._began:
            # An older worker's, which this one couldn't see when it began, because Redis had lost it.
            self._began = max(higher) + 1
            mark, said = await self._exchange(self._words(self._began))
        self._said |= said
        self._heard = {pool: word for pool, word in said.items() if word.worker > self._began}
        ruled = {
            pool: limits
            for pool, word in self._heard.items()
            if pool in self._mine and (limits := word.limits) != self._mine[pool]
        }
        for pool in ruled:
            if self._told.get(pool) != said[pool].worker:
                self._told[pool] = said[pool].worker
                log.warning(
                    "%s: worker %d started later with other limits; they hold here, too. Give all machines one configuration",
                    pool,
                    said[pool].worker,
                )
        for ring in self._rings:
            ring.rule(ruled, mark)

    def _words(self, began: int) -> Mapping[str, Word]:
        mine = {
            pool: Word(began, limits.whole, limits.models, self._number, self._keys_of(pool), limits.days)
            for pool, limits in self._mine.items()
        }
        return {**mine, **self._heard}

    def _keys_of(self, pool: str) -> tuple[str, ...]:
        return tuple(sorted(name for name, its in self._pools.items() if its == pool))

    async def _exchange(self, words: Mapping[str, Word]) -> tuple[str, dict[str, Word]]:
        """Says words where none younger stands. The mark and all words that stand then, by pool."""
        flat: Iterable[object] = (part for pool, word in words.items() for part in (pool, _packed(word)))
        mark, *found = await _SCRIPT.run(
            self._client, secrets.token_hex(8), list(self._mine), round(SETTLING_SECONDS * 1000), *flat
        )
        return mark.decode(), {
            pool.decode(): msgspec.msgpack.decode(word, type=Word)
            for pool, word in zip(found[::2], found[1::2], strict=True)
        }


def _packed(word: Word) -> msgspec.Raw:
    """The packed word as a MessagePack string: Lua's reader knows no other kind of bytes."""
    packed = msgspec.msgpack.encode(word)
    return msgspec.Raw(b"\xdb" + len(packed).to_bytes(4, "big") + packed)
