"""A provider's cooldowns in one process: begun by its 429s, kept in Redis for all workers, and in SQL where they last.

The limiter enforces them; whoever waits for long is left to it, not to a snooze, so that ending a cooldown ends the waiting too.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections import Counter
from collections.abc import Sequence

import redis.exceptions

from models.config import ProviderConfig
from models.errors import StorageError
from models.pools import pool_name
from models.request import Failure, FailureScope
from models.store import cooldowns as cooldown_store
from models.store.cooldowns import Cooldown
from models.wording import utc
from worker.experience import Cooling
from worker.limits.limiter import Limiter, Named
from worker.limits.shapes import BELIEVED_SECONDS, LONGEST_SECONDS, LimitedKey, Refused, believed
from worker.limits.shapes import Cooldown as Told
from worker.recorder import Recorder

log = logging.getLogger("truckllm.cooldowns")

WARM_SECONDS = 5.0
"""A call that was sent so soon after a cooldown began had been granted before, and its answer proves nothing."""
RENEWED_SHARE = 0.05
"""Of a wait: an end that moves by less isn't stored anew."""
ANSWERED_SECONDS = 10.0
"""A model that was answered in the last so many seconds shows that not all of its pool is refused."""
COUNTED_SECONDS = 60.0
"""The 429s of so many seconds are what a learned rate goes by."""
MOST_UNCOUNTED = 1024
"""Models on pools; users may name any models."""

_NAMED: dict[FailureScope, Named] = {
    FailureScope.MODEL: "model",
    FailureScope.KEY: "pool",
    FailureScope.POOL: "pool",
    FailureScope.PROVIDER: "pool",
}


def named_by(failure: Failure) -> Named:
    """Returns the scope that a refusal names: one model, the whole pool, or "" for none."""
    return "" if failure.scope is None else _NAMED.get(failure.scope, "")


class Cooldowns:
    """The cooldowns of one provider's pools. `cooling` is this process's own view, which is there before the others'."""

    def __init__(self, settings: ProviderConfig, limiter: Limiter, recorder: Recorder, cooling: Cooling) -> None:
        self.cooling = cooling
        self._pools = {pool_name(settings, key) for key in settings.keys}
        self._limiter = limiter
        self._recorder = recorder
        self._telling = asyncio.Lock()
        self._known: dict[tuple[str, str], Cooldown] = {}
        self._ended: dict[tuple[str, str], float] = {}  # by a person's word, which has been followed
        self._uncounted: dict[
            tuple[str, str], Counter[int]
        ] = {}  # by pool and model, 429s that came while those cooled, by second
        self._answered: dict[str, dict[str, float]] = {}  # by pool, models and when (time.monotonic)

    # A 429

    async def refused(
        self,
        key: LimitedKey,
        model: str,
        failure: Failure,
        wait: float | None,
        named: Named | None = None,
        sent: float = 0.0,
        refused: Refused | None = None,
    ) -> bool:
        """Takes in a 429: its model, or its pool, may have to cool down. True if the model does on this pool, by all that is known.

        One is told at a time: hundreds come at once, and when one cools the others are known. `sent` is how many seconds ago the call
        was sent, `refused` what is learned from it. Raises redis errors, StorageError.
        """
        named = named_by(failure) if named is None else named
        what = key.pool if named == "pool" else own(key.pool, model)
        async with self._telling:
            if self.cooling.cool(key.pool, wait or 0.0) or self.cooling.cool(what, wait or 0.0):
                if refused is not None:
                    self._leave_uncounted(key.pool, model, sent)
                return True
            seconds = self.cooling.seconds(what, told=wait is not None)
            found: list[Told] | None = None
            try:
                found = await self._limiter.too_many(
                    key,
                    wait,
                    seconds,
                    model=model,
                    named=named,
                    answered=self._others_answer(key.pool, model),
                    sent=sent,
                    more=self._uncounted_of(key.pool, model),
                    refused=refused,
                )
            finally:
                if found is None:  # Redis is away: the hundreds behind this one needn't each wait for it
                    self.cooling.cools(what, max(seconds, wait or 0.0))
            for one in found:
                self.cooling.cools(own(one.pool, one.model), one.seconds)
            await self._store(found, key, failure)
            return bool(found)

    def _leave_uncounted(self, pool: str, model: str, sent: float) -> None:
        """Keeps a 429 that Redis isn't told of now for the next time."""
        if len(self._uncounted) >= MOST_UNCOUNTED and (pool, model) not in self._uncounted:
            return
        self._uncounted.setdefault((pool, model), Counter())[int(time.monotonic() - sent)] += 1

    def _uncounted_of(self, pool: str, model: str) -> list[tuple[float, int]]:
        """Takes what was kept: how many seconds ago the calls were sent, and how many."""
        now = time.monotonic()
        kept = self._uncounted.pop((pool, model), Counter())
        return [(now - second, count) for second, count in kept.items() if now - second < COUNTED_SECONDS]

    async def _store(self, found: Sequence[Told], key: LimitedKey, failure: Failure) -> None:
        """Stores and logs cooldowns that last."""
        now = self._recorder.now()
        for one in found:
            known = self._known.get((one.pool, one.model))
            until = now + one.seconds
            if one.seconds <= cooldown_store.SHOWN_SECONDS:
                continue
            if known is not None and known.stands(now) and until - known.until < RENEWED_SHARE * one.seconds:
                continue  # calls that were under way are told the same
            reason = failure.message or failure.code
            made = Cooldown(one.pool, one.model, key.name, reason, now, until, one.named)
            self._known[one.pool, one.model] = made
            log.warning(
                "%s, %s: no call starts for %.0f s, until %s: %s; `truckllm keys enable %s` ends that",
                one.pool,
                f"model {one.model}" if one.model else "all models",
                one.seconds,
                utc(until),
                reason,
                key.name,
            )
            await self._recorder.insist(functools.partial(cooldown_store.begin, one=made))

    def _others_answer(self, pool: str, model: str) -> bool:
        since = time.monotonic() - ANSWERED_SECONDS
        return any(at >= since for other, at in self._answered.get(pool, {}).items() if other != model)

    # Answers

    def answered(self, pool: str, model: str, started: float) -> None:
        """A call of this model on this pool, sent at `started` (time.monotonic), wasn't refused."""
        self.cooling.answered(pool, started)
        self.cooling.answered(own(pool, model), started)
        models = self._answered.setdefault(pool, {})
        models.pop(model, None)
        models[model] = time.monotonic()
        if len(models) > 64:
            del models[next(iter(models))]
        if self._known:
            sent = self._recorder.now() - (time.monotonic() - started)
            for what in ((pool, ""), (pool, model)):
                known = self._known.get(what)
                if known is not None and known.lifted is None and sent > known.since + WARM_SECONDS:
                    del self._known[what]
                    asyncio.ensure_future(self._over(known))

    async def _over(self, known: Cooldown) -> None:
        """The call that found out whether a cooldown is over was answered: who waited for that may go."""
        try:
            await self._limiter.end_cooldown(known.pool, known.model)
            await self._recorder.insist(
                lambda connection: cooldown_store.over(connection, known.pool, known.model, known.until)
            )
        except (redis.exceptions.RedisError, OSError, TimeoutError, StorageError) as error:
            log.info("%s: the end of a cooldown was not stored: %s", known.pool, type(error).__name__)

    # What is known

    def may_launch(self, pool: str, model: str) -> bool:
        """Returns whether no cooldown that this process has seen holds a granted call back."""
        return not (self.cooling.cool(pool) or self.cooling.cool(own(pool, model)))

    def seconds(self, keys: Sequence[LimitedKey], model: str) -> float:
        """For how long each of these keys has a cooldown of the model, or of all models, that is stored; 0.0: one of them has none."""
        if not self._known or not keys:
            return 0.0
        now = self._recorder.now()
        return min(self._left(key.pool, model, now) for key in keys)

    def _left(self, pool: str, model: str, now: float) -> float:
        known = (self._known.get((pool, "")), self._known.get((pool, model)))
        return max((one.until - now for one in known if one is not None and one.stands(now)), default=0.0)

    async def take_over(self) -> None:
        """Takes over what all workers know, puts it back into a Redis that lost it, and follows a person's word that ended one. Raises
        redis errors, StorageError."""
        found = await self._recorder.call(lambda connection: cooldown_store.of_pools(connection, self._pools))
        now = self._recorder.now()
        young = {what: one for what, one in self._known.items() if now - one.since < WARM_SECONDS}
        self._known = young | {(one.pool, one.model): one for one in found}
        standing = [Told(one.pool, one.model, believed(one.until - now), one.named) for one in found if one.stands(now)]
        lifted = {(one.pool, one.model): one.lifted for one in found if one.lifted is not None}
        for what, at in lifted.items():
            if self._ended.get(what) != at:
                self.cooling.end(own(*what))
                await self._limiter.end_cooldown(*what)
                log.info("%s, %s: calls start again, by hand", what[0], what[1] or "all models")
        self._ended = lifted
        await self._limiter.cool_down(standing)
        if any(
            one.due(now, BELIEVED_SECONDS) for one in found
        ):  # a write transaction, which mostly finds nothing to do
            await self._recorder.call(
                lambda connection: cooldown_store.sweep(connection, now, BELIEVED_SECONDS, LONGEST_SECONDS)
            )


def own(pool: str, model: str) -> str:
    """Returns the name of a model's cooling on a pool in this process; for all models the pool's own name."""
    return f"{pool}|{model}" if model else pool
