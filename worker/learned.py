"""Learned limits in one process: stored in SQL now and then, put back into a Redis that lost them, and forgotten by rule or by request.

The law that moves them is the limiter's (`worker.limits`, ceilings.lua); this only carries them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import redis.asyncio
from sqlalchemy.engine import Connection

from models.config import Config
from models.learning import fingerprints, learning_pools
from models.store import learned as learned_store
from models.store.learned import Learned, Reset
from models.wording import learned_limits
from worker.kept_counting import KeptCounting
from worker.limits.learned import MOST_LEARNED, Ceiling, exchange
from worker.recorder import Recorder

log = logging.getLogger("truckllm.learned")

STORE_SECONDS = 60.0
"""A worker stores what it has learned at most so often, and once at its end."""
CHANGED_SHARE = 0.05
"""A limit that changes by less isn't stored anew."""
USED_SECONDS = 12 * 3600.0
"""How old a stored limit may get that is used, before it is stored anew to show that."""

What = tuple[str, str]
"""A pool and a model."""


class LearnedLimits:
    """The learned limits of all pools of a configuration. `clock` is this process's own."""

    def __init__(
        self,
        config: Config,
        client: redis.asyncio.Redis,
        recorder: Recorder,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._marks = {pool: mark or "" for pool, mark in fingerprints(config.providers).items()}
        self._learning = learning_pools(config.providers)
        self._fixed = self._marks.keys() - self._learning
        self._client = client
        self._recorder = recorder
        self._clock = clock
        self._begun = False
        self._stored: dict[What, Learned] = {}
        self._written_at = float("-inf")
        self._followed: dict[What, float] = {}  # resets, and when they were made
        self._lock = asyncio.Lock()
        self.counting: KeptCounting | None = None
        """How the servers of this process's providers count tokens, which is kept beside."""

    async def take_over(self) -> None:
        """Takes over what is stored and puts it in place before anything starts. The first time, it forgets what was learned under another
        configuration. Raises redis errors, StorageError."""
        async with self._lock:
            self._followed = {}  # a server that was restarted may have read back what had been forgotten
            await self._carry(starting=True)
            await self._exchange_counting()

    async def refresh(self) -> None:
        """Follows resets, puts back what Redis has lost, and stores what has changed, at most once a minute. Raises redis errors,
        StorageError."""
        if self._begun and not self._learning:
            return
        async with self._lock:
            ceilings = await self._carry(starting=not self._begun)
            if self._clock() - self._written_at >= STORE_SECONDS:
                await self._store(ceilings)
            await self._exchange_counting()

    async def store(self) -> None:
        """Stores what has changed, at the end of this process. Raises redis errors, StorageError."""
        if not (self._begun and self._learning):
            return
        async with self._lock:
            await self._store(await self._carry(starting=False))
            await self._exchange_counting()

    async def _exchange_counting(self) -> None:
        if self.counting is not None:
            await self.counting.exchange()

    async def _carry(self, *, starting: bool) -> list[Ceiling]:
        """Makes Redis agree with SQL, and returns what it holds then. `starting`: all of SQL is read, not only its resets, and Redis drops
        what was learned under another configuration."""
        resets = await self._read(starting)
        new = [one for one in resets if self._followed.get((one.pool, one.model)) != one.at]
        ceilings = await exchange(
            self._client,
            list(self._learning),
            marks=self._marks if starting else None,
            forget=[*self._reset(new), *((pool, "") for pool in self._fixed if starting)],
        )
        self._begun = True
        for one in new:
            log.info("%s, %s: learned limits were reset", one.pool or "all pools", one.model or "all models")
        self._followed = {(one.pool, one.model): one.at for one in resets}
        if self._missing(ceilings, resets):
            if not starting:  # what this process remembers may have been reset, and the reset removed, since
                resets = await self._read(whole=True)
            if seeds := self._missing(ceilings, resets):
                ceilings = await exchange(self._client, list(self._learning), seeds=seeds)
                there = {(one.pool, one.model) for one in ceilings}
                for seed in seeds:
                    if (seed.pool, seed.model) in there:
                        limits = learned_limits(*seed.limits)
                        log.info("%s, model %s: starts with learned limits: %s", seed.pool, seed.model, limits)
                    else:  # the law takes no such entry: it isn't tried again
                        del self._stored[seed.pool, seed.model]
        return ceilings

    def _reset(self, resets: Iterable[Reset]) -> list[What]:
        """Returns what resets concern in Redis; pools that have left the configuration may still be there under their own name."""
        return [(pool, one.model) for one in resets for pool in ([one.pool] if one.pool else self._marks)]

    def _missing(self, ceilings: Sequence[Ceiling], resets: Sequence[Reset]) -> list[Ceiling]:
        """Returns the stored limits that Redis doesn't hold and should."""
        there = {(one.pool, one.model) for one in ceilings}
        number = Counter(one.pool for one in ceilings)
        return [
            Ceiling(one.pool, one.model, one.requests_per_min or 0.0, one.tokens_per_min or 0.0, one.in_flight or 0.0)
            for what, one in self._stored.items()
            if what not in there
            and one.pool in self._learning
            and one.configured == self._marks[one.pool]
            and any(one.limits)
            and number[one.pool] < MOST_LEARNED
            and not any(reset.covers(*what) for reset in resets)
        ]

    async def _read(self, whole: bool) -> list[Reset]:
        """Reads the resets that stand; and, if `whole`, what is stored. Removes what has had its time, and in the beginning what was learned
        under another configuration."""
        now, begun = self._recorder.now(), self._begun

        def read(connection: Connection) -> tuple[list[Reset], list[Learned]]:
            resets = learned_store.resets(connection)
            if begun and any(one.at < now - learned_store.RESET_SECONDS for one in resets):
                learned_store.sweep(connection, now)
            if not whole:
                return resets, []
            found = learned_store.everything(connection, now)
            if not begun:
                learned_store.remove(connection, [(one.pool, one.model) for one in found if self._is_of_another(one)])
                found = [one for one in found if not self._is_of_another(one)]
            return resets, found

        resets, found = await self._recorder.call(read)
        if whole:
            self._stored = {(one.pool, one.model): one for one in found}
        return resets

    def _is_of_another(self, one: Learned) -> bool:
        """Returns whether it was learned under another configuration of its pool than this process's."""
        return one.pool in self._marks and one.configured != self._marks[one.pool]

    async def _store(self, ceilings: Sequence[Ceiling]) -> None:
        """Stores what differs from what this process remembers of SQL, and still does from what is there."""
        now = self._recorder.now()
        if not self._changed(ceilings, self._stored, now):
            return

        def write(connection: Connection) -> dict[What, Learned]:
            learned_store.sweep(connection, now)
            stored = {(one.pool, one.model): one for one in learned_store.everything(connection, now)}
            kept = learned_store.keep(connection, self._changed(ceilings, stored, now), now)
            return stored | {(one.pool, one.model): one for one in kept}

        self._written_at = self._clock()
        self._stored = await self._recorder.call(write)

    def _changed(self, ceilings: Iterable[Ceiling], stored: Mapping[What, Learned], now: float) -> list[Learned]:
        """Returns what is to be stored of what Redis holds. Limits that are still searched for aren't; an entry without any limit takes the
        place of one that has been stored."""
        changed = []
        for one in ceilings:
            before = stored.get((one.pool, one.model))
            found = Learned(
                one.pool,
                one.model,
                one.requests_per_min or None,
                one.tokens_per_min or None,
                one.in_flight or None,
                configured=self._marks[one.pool],
                updated_at=now,
            )
            if not one.found or (before is None and not any(found.limits)):
                continue
            if before is None or _differ(before, found) or one.idle < USED_SECONDS < now - before.updated_at:
                changed.append(found)
        return changed


def _differ(before: Learned, found: Learned) -> bool:
    """Returns whether a limit has changed by so much that it is stored anew."""
    pairs = [(one or 0.0, other or 0.0) for one, other in zip(before.limits, found.limits, strict=True)]
    return before.configured != found.configured or any(
        abs(one - other) > CHANGED_SHARE * min(one, other) for one, other in pairs
    )
