"""Limits by day that are used up, in one process: when to ask the limiter again, and what people read of it.

The limiter enforces them. What is stored here is shown beside the waits that providers ask for, and holds nothing back.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Iterable

from models.days import used_up
from models.errors import StorageError
from models.store import cooldowns as cooldown_store
from models.store.cooldowns import Cooldown
from models.wording import utc
from worker.limits.question import DAY_SECONDS
from worker.limits.shapes import Grant, SpentDay, Wait
from worker.recorder import Recorder

log = logging.getLogger("truckllm.day_waits")

FIRST_SECONDS, MOST_SECONDS = 2.0, 60.0
"""A model is asked for again after so long, twice as long each time that none of its calls had room: smaller ones may fit into what is
left of a day's tokens, and a changed configuration may have raised the limit."""
MOVED_SECONDS = 60.0
"""A reset that moves by less is the same one."""
MOST_MODELS = 1024


class DayWaits:
    """Of one provider in one process."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._again: dict[str, tuple[float, float]] = {}  # by model: when (time.monotonic) to ask, and the pause before
        self._known: dict[tuple[str, str], Cooldown] = {}  # by pool and model, what is stored

    def hold(self, model: str, wait: Wait) -> None:
        """Notes that no call of the model has room today."""
        _, pause = self._again.get(model, (0.0, FIRST_SECONDS / 2))
        pause = min(2 * pause, MOST_SECONDS)
        if len(self._again) >= MOST_MODELS:
            self._again.clear()
        self._again[model] = time.monotonic() + min(pause, wait.seconds), pause

    def granted(self, grant: Grant, model: str) -> list[Cooldown]:
        """Notes that a call has room. Returns what is stored and isn't so any more, for `end`."""
        if not self._again and not self._known:
            return []
        self._again.pop(model, None)
        over = [
            known
            for what in ((grant.key.pool, ""), (grant.key.pool, model))
            if (known := self._known.get(what)) is not None and known.reason.startswith("limit_req")
        ]
        for one in over:
            del self._known[one.pool, one.model]
        return over

    def seconds(self, model: str) -> float:
        """Returns for how long nothing of the model is worth asking for; 0.0: it is."""
        until, _ = self._again.get(model, (0.0, 0.0))
        return max(0.0, until - time.monotonic())

    async def store(self, waits: Iterable[Wait], over: Iterable[Cooldown] = ()) -> None:
        """Stores and logs which days are used up, and removes what is over. A database that is away loses that."""
        try:
            for one in over:
                await self._recorder.call(
                    lambda connection, one=one: cooldown_store.over(connection, one.pool, one.model, one.until)  # type: ignore[misc]
                )
            for wait in waits:
                for spent in wait.spent:
                    await self._store(spent)
        except StorageError as error:
            log.info("limits by day that are used up were not stored: %s", type(error).__name__)

    async def _store(self, spent: SpentDay) -> None:
        bucket, now = spent.bucket, self._recorder.now()
        until = now + spent.seconds - DAY_SECONDS
        known = self._known.get((spent.key.pool, bucket.model))
        if known is not None and known.until > until - MOVED_SECONDS:
            return
        reason = used_up(bucket.unit, bucket.limit, bucket.zone)
        made = Cooldown(spent.key.pool, bucket.model, spent.key.name, reason, now, until, configured=True)
        self._known[made.pool, made.model] = made
        log.warning(
            "%s, %s: no call starts until %s: %s",
            made.pool,
            f"model {made.model}" if made.model else "all models",
            utc(until),
            reason,
        )
        await self._recorder.insist(functools.partial(cooldown_store.begin, one=made))
