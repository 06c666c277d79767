"""How a bucket begins that Redis doesn't know: with what the ledger saw start in its last minute, once all that is in there.

It grants nothing. A server is known by its run: after a restart nothing it has kept is believed, so all its buckets begin anew.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Mapping, Sequence

import redis.asyncio

from worker.limits.server import RUN_DAYS, TAG, Script
from worker.limits.shapes import DayId, DaySeedFunction, OthersFunction, RestartFunction, SeedFunction

log = logging.getLogger("truckllm.limits")

AHEAD_SECONDS = 1.0  # calls are granted so long before they start
LATE_SECONDS = 0.3  # a call's start has been written down by then, also where the database is busy
SETTLING_SECONDS = AHEAD_SECONDS + LATE_SECONDS  # then all that is granted by now is in the ledger, or never will be
SEED_TIMEOUT = 3.0  # seconds the seed function may take
UNTOLD_SECONDS = 62.0  # a window, and the second that calls are granted ahead
SEED_LOCK = 5_000  # milliseconds; longer than SEED_TIMEOUT, so that two never seed at once
DAYS_TIMEOUT = 30.0  # seconds that counting the calls of a day may take
DAYS_LOCK = 40_000  # milliseconds
ASK_AGAIN = 0.25
ANEW_SECONDS = 10.0

_SEED = Script("bucket.lua", "seed.lua")
_SEED_DAYS = Script("bucket.lua", "days.lua", "seed_days.lua")

Now = Callable[[], tuple[float | bool, float | bool]]


class Beginnings:
    """One worker's part. `steady` is its clock, `now` what every script begins with; `seed`, `restarted` and `others` as the limiter
    was given them."""

    def __init__(
        self,
        client: redis.asyncio.Redis,
        *,
        seed: SeedFunction | None,
        seed_days: DaySeedFunction | None = None,
        restarted: RestartFunction,
        others: OthersFunction | None,
        steady: Callable[[], float],
        now: Now,
    ) -> None:
        self._client = client
        self._seed = seed
        self._seed_days = seed_days
        self._on_restart = restarted
        self._others = others
        self._steady = steady
        self._now = now
        self._run: str | None = None
        self._changed = float("-inf")
        self._asked: tuple[float, float] | None = None  # first and last meeting of buckets the server doesn't know
        self._name: str | None = None
        self._untold: dict[str, float] = {}  # buckets the ledger could not be asked about, and since when

    async def meet(self, name: str) -> None:
        """Says that the worker of this name holds no call that was granted by an earlier run of the server. Raises redis errors."""
        self._name = name
        await self._client.set(await self._met(name), b"", ex=86_400 * RUN_DAYS)

    async def notice(self, run: str) -> bool:
        """Whether the server has been started again since the last answer. It is told what it must know; what was granted just
        now, was granted without knowing."""
        if self._run in (None, run):
            self._run = run
            return False
        if await self._tell_anew():
            self._run = run
        return True

    async def _tell_anew(self) -> bool:
        """Tells a server that has lost what it knew. False if that failed: then it has to be told before anything starts."""
        self._changed = self._steady()
        try:
            await self._on_restart()
        except Exception as error:
            log.warning(
                "nothing starts: a Redis that came back could not be told what it must know (%s)", type(error).__name__
            )
            return False
        return True

    async def begin(self, unknown: Sequence[str], days: Sequence[DayId] = ()) -> float:
        """Tells Redis the last minute of buckets it has never seen, and what `days` have taken: 0.0 when they may be asked for now, else
        the seconds after which to try again: another worker is doing so just now, the ledger can't tell, or isn't complete yet."""
        if self._changed == float("-inf") and await self._forgotten():
            # emptied while it ran: as after a restart, what was granted before may not be in the ledger yet
            if not await self._tell_anew():
                self._changed = float("-inf")
                return ASK_AGAIN
            self._asked = self._changed, self._changed
        late = max(await self._late(), await self._client.pttl(f"{TAG}:limits-changed") / 1000)
        if late > 0:
            return max(late, ASK_AGAIN)
        if unknown and not await self._tell(unknown):
            return ASK_AGAIN
        return 0.0 if not days or await self._tell_days(days) else ASK_AGAIN

    async def _late(self) -> float:
        """Seconds until what an earlier run of the server granted is in the ledger or will never start: that is told just before the
        start, which lies up to a second ahead. Where nobody is about who could hold such a grant, nobody waits."""
        now = self._steady()
        if (late := self._changed + SETTLING_SECONDS - now) > 0:
            return late
        if self._changed > float("-inf"):
            self._changed = float("-inf")
            if self._name is not None:
                await self.meet(self._name)
        if self._asked is None or not (self._run or now - self._asked[1] < ANEW_SECONDS):
            # a server that doesn't tell its runs may have been started again whenever it knows nothing
            self._asked = now, now
        self._asked = self._asked[0], now
        if self._asked[0] + SETTLING_SECONDS <= now or not await self._grants_abroad():
            return 0.0
        return ASK_AGAIN

    async def _grants_abroad(self) -> bool:
        """Whether some worker may hold calls that an earlier run of the server granted."""
        if not self._run:
            return True
        if self._others is None:
            return False
        try:
            others = set(await self._others())
        except Exception as error:
            log.info("who else is at work could not be asked: %s", type(error).__name__)
            return True
        names = [await self._met(name) for name in others]
        return bool(names) and await self._client.exists(*names) < len(names)

    async def _forgotten(self) -> bool:
        """Whether the server doesn't know any more that it was met: whoever else it was told of, it has lost as well."""
        return self._name is not None and not await self._client.exists(await self._met(self._name))

    async def _met(self, name: str) -> str:
        run = await self._client.get(f"{TAG}:run")
        return f"{TAG}:met:{_text(run or b'')}:{name}"

    async def _tell(self, unknown: Sequence[str]) -> bool:
        """False if another worker is telling just now, or if the ledger can't. Where it couldn't for a minute, nothing has started
        in that minute, and the bucket begins empty."""
        assert self._seed is not None
        token = secrets.token_hex(8)
        if not await self._client.set(f"{TAG}:l:seed", token, nx=True, px=SEED_LOCK):
            return False
        # Another worker may have done it between the question and the lock.
        unknown = [id_ for id_ in unknown if not await self._client.exists(f"{TAG}:b:{id_}")]
        try:
            async with asyncio.timeout(SEED_TIMEOUT):
                past = await self._seed(unknown) if unknown else {}
        except Exception as error:
            now = self._steady()
            since = [self._untold.setdefault(id_, now) for id_ in unknown]
            if now - max(since) <= UNTOLD_SECONDS:
                log.warning(
                    "nothing starts: the ledger could not tell the limits' last minute (%s)", type(error).__name__
                )
                await _SEED.run(self._client, self._now(), [], [], "l:seed", token)
                return False
            past = {}
        for id_ in unknown:
            self._untold.pop(id_, None)
        flat = [[number for pair in past.get(id_, ()) for number in pair] for id_ in unknown]
        await _SEED.run(self._client, self._now(), unknown, flat, "l:seed", token)
        return True

    async def _tell_days(self, days: Sequence[DayId]) -> bool:
        """Counts what `days` have taken, in the ledger. Returns False if another worker does so just now, or if the ledger can't be read:
        a day never begins without it."""
        token = secrets.token_hex(8)
        if not await self._client.set(f"{TAG}:l:seed-days", token, nx=True, px=DAYS_LOCK):
            return False
        found: Mapping[DayId, int] = {}
        try:
            async with asyncio.timeout(DAYS_TIMEOUT):
                if self._seed_days is not None:
                    found = await self._seed_days(days)
        except Exception as error:
            log.warning("no call starts: the ledger could not be read for limits by day (%s)", type(error).__name__)
            await _SEED_DAYS.run(self._client, self._now(), [], [], [], "l:seed-days", token)
            return False
        ids, starts = zip(*days, strict=True)
        amounts = [found.get(day, 0) for day in days]
        await _SEED_DAYS.run(self._client, self._now(), ids, starts, amounts, "l:seed-days", token)
        return True


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
