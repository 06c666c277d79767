"""Whose limits hold where workers run with different configurations: those of the worker that has read its configuration last.

Every worker tells the others, through Redis, the limits of its pools under its own number; a higher number started later. It counts
nothing against a limit (`worker.limits` does).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import redis.asyncio

from models.config import ProviderConfig
from worker.keys import KeyRing, PoolLimits, pool_limits
from worker.limits.server import TAG

log = logging.getLogger("truckllm.ruling")

_NAME = f"{TAG}:limits-of"


class Word(msgspec.Struct):
    """What one worker has said of a pool."""

    worker: int
    whole: dict[str, int]
    models: dict[str, dict[str, int]]


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
        self._worker_id = worker_id
        self._began: int | None = None
        self._told: dict[str, int] = {}

    async def refresh(self) -> None:
        """Says what isn't known to the others, and goes by the word of those that started later. Before the first call, and every
        few seconds."""
        known: dict[Any, Any] = await self._client.hgetall(_NAME)
        said = {pool.decode(): msgspec.msgpack.decode(word, type=Word) for pool, word in known.items()}
        if self._began is None:
            # That it was taken for dead since doesn't make its configuration younger. Whoever has spoken before started before,
            # though its number be higher: numbers begin anew with a new database, and this Redis may have seen an older one.
            self._began = max([self._worker_id(), *(word.worker + 1 for word in said.values())])
        new: dict[Any, Any] = {
            pool: msgspec.msgpack.encode(Word(self._began, limits.whole, limits.models))
            for pool, limits in self._mine.items()
            if pool not in said or said[pool].worker < self._began
        }
        if new:
            await self._client.hset(_NAME, mapping=new)
        ruled = {
            pool: PoolLimits(word.whole, word.models)
            for pool, word in said.items()
            if pool in self._mine and word.worker > self._began
        }
        ruled = {pool: limits for pool, limits in ruled.items() if limits != self._mine[pool]}
        for pool in ruled:
            if self._told.get(pool) != said[pool].worker:
                self._told[pool] = said[pool].worker
                log.warning(
                    "%s: worker %d started later with other limits; they hold here, too. Give all machines one configuration",
                    pool,
                    said[pool].worker,
                )
        for ring in self._rings:
            ring.rule(ruled)
