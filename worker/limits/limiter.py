"""When a call may start and on which key, for all workers together: one Lua script on the Redis server's clock.

It knows neither jobs nor providers, sends nothing, and never gives booked quota back; it can only under-send.

Each bucket has two gates. *Pacing* lets `pace * limit / 60` units a second through, with a burst of half of
`limit - floor(60 * rate)` units (at least one), about half a second's worth, because providers slice their minutes. The *ring*
keeps what was booked in the last 60 s, in slots of half a second, at the slot the call starts in: whatever pacing thinks,
no 60 s ever get more than the limit. Settling corrects that slot, so real usage counts as soon as it is known.

A call too big for what is left of its bucket within the horizon *holds* it: nobody else is let in there, credit is saved up
to its amount, and it goes as soon as both gates let it. A hold lapses 2 s after its want last asked. Then the worker that
was kept out longest has its turn, so that neither big calls nor one worker can shut out the others.

Limits by day are counters beside the buckets, one for each local day, booked at the grant and corrected by settling. Which days count a call
is found here, by the ledger's clock: the script has no time zones. A call that could start near midnight counts for both days.
"""

from __future__ import annotations

import logging
import random
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import redis.asyncio

from models.clocks import awake_clock
from models.days import Day
from worker.limits.beginnings import AHEAD_SECONDS, Beginnings
from worker.limits.distant_clock import DistantClock
from worker.limits.question import Question
from worker.limits.server import Script, connect
from worker.limits.shapes import (
    SLOT_SECONDS,
    Bucket,
    BucketRoom,
    Charge,
    Cooldown,
    DaySeedFunction,
    Flying,
    Grant,
    KeyRoom,
    LimitedKey,
    OthersFunction,
    Place,
    Refused,
    RestartFunction,
    RuledFunction,
    SeedFunction,
    Settlement,
    SpentDay,
    TooLarge,
    Unit,
    Wait,
    Want,
    believed,
)

__all__ = [
    "Bucket",
    "BucketRoom",
    "Charge",
    "Cooldown",
    "Flying",
    "Grant",
    "KeyRoom",
    "LimitedKey",
    "Limiter",
    "Place",
    "Refused",
    "SeedFunction",
    "Settlement",
    "TooLarge",
    "Unit",
    "Wait",
    "Want",
    "believed",
    "connect",
]

log = logging.getLogger("truckllm.limits")

MOST_WANTS = 64
DECIDED, UNKNOWN, RULED = 0, 1, 2  # what reserve.lua's answer begins with
SEVERAL, SHARE, LONG_RETRY = (
    3,
    0.01,
    5.0,
)  # 429s in 10 s that cool a model or a pool, their share of its grants, a long Retry-After
TRIAL_SECONDS = 31.0
"""After a longer cooldown one call goes first, and the others wait for its answer. It is stored in SQL, too: who gets the answer
has to know of it."""
MOST_COOLDOWNS = 4096
"""So many are remembered for a Redis that loses them: users may name any models."""
REPORTED_SHARE = 0.25
"""A learned limit that changes by less is not logged again: it moves all the time."""
UNPLACED = (Place(), Place())
_LEARNED = (("requests a minute", "requests"), ("tokens a minute", "tokens"), ("calls in flight", ""))

Named = Literal["", "model", "pool"]
"""What a provider says its 429 is about: nothing, the one model, or all of the key's or the account's calls."""

LATE_ANSWER = 1.0
"""Seconds by which an answer may be late without any doubt about the day that its calls start in."""
FULL, FULL_SECONDS = -5, 0.25
"""reserve.lua's answer where calls in flight are at what was learned, and when to ask again unless one of ours ends before."""

_REASONS: dict[int, Literal["cooling", "model", "day"]] = {-1: "cooling", -3: "model", -4: "day"}

_RESERVE = Script("bucket.lua", "ceilings.lua", "days.lua", "reserve_days.lua", "reserve.lua")
_SETTLE_DAYS = Script("bucket.lua", "days.lua", "settle_days.lua")
_SETTLE = Script("bucket.lua", "settle.lua")
_COOL = Script("bucket.lua", "ceilings.lua", "law.lua", "cool.lua")
_FLYING = Script("bucket.lua", "ceilings.lua", "flying.lua")
_STATED = Script("bucket.lua", "ceilings.lua", "stated.lua")
_COOLDOWNS = Script("bucket.lua", "cooldowns.lua")
_BLOCK = Script("bucket.lua", "block.lua")
_DROP = Script("bucket.lua", "drop.lua")
_ROOM = Script("bucket.lua", "room.lua")


@dataclass(frozen=True, slots=True)
class _Report:
    """What a worker reports beside its wants, see `Limiter.reserve`."""

    flying: Sequence[Flying]
    pause: float | None


class Limiter:
    """The limiter of one worker process; all that share a Redis share the buckets.

    `seed` tells the last minute of buckets Redis has never seen, or not since its last restart (None: they start empty); while
    it can't, nothing starts on them. `restarted` is awaited after a restart of the server, before anything starts. `others` names
    the other workers alive, as they were told to `meet`; who isn't met may still hold calls granted before a restart. `ruled` is
    awaited when other limits hold than those of the keys asked for. `clock` is the caller's, on which `Grant.start_at` is told.
    `wall` is the clock of the ledger, in unix seconds, by which limits by day go; `seed_days` counts the calls of days in the ledger, as
    `seed` does those of the last minute. `server_time` replaces the server's clock, for tests in virtual time: production passes none.
    """

    def __init__(
        self,
        client: redis.asyncio.Redis,
        *,
        seed: SeedFunction | None = None,
        seed_days: DaySeedFunction | None = None,
        wall: Callable[[], float] = time.time,
        restarted: RestartFunction | None = None,
        others: OthersFunction | None = None,
        ruled: RuledFunction | None = None,
        pace: float = 0.985,
        horizon: float = AHEAD_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        server_time: Callable[[], float] | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._client = client
        self._seed = seed
        self._wall = wall
        self._restarted = restarted
        self._ruled = ruled
        self._pace = pace
        self._horizon = horizon
        self._clock = clock
        self._server_time = server_time
        self._rng = rng or random.Random()
        self._worker = secrets.token_hex(6)
        self._steady = clock if server_time is not None else awake_clock
        self._server_clock = DistantClock(self._steady)
        self._beginnings = Beginnings(
            client,
            seed=seed,
            seed_days=seed_days,
            restarted=self._tell_again,
            others=others,
            steady=self._steady,
            now=self._now,
        )
        self._reported: dict[tuple[str, str, str], float] = {}  # pool, model and limit: what was logged as learned
        self._cooling: dict[
            tuple[str, str], tuple[float, bool]
        ] = {}  # pool and model: until when (steady), whether named

    async def reserve(
        self, wants: Sequence[Want], flying: Sequence[Flying] = (), pause: float | None = 1.0
    ) -> list[Grant | Wait | TooLarge]:
        """Books what can start within the horizon, in the order of `wants` (at most 64): one answer each, same order.

        `flying` are this worker's calls in flight, for keys whose limits are learned. `pause` is how long the calls in flight are left as
        they are until more are tried, None while some take longer than calls did before.

        A want that has to wait for a hold must ask again before it lapses, or be given up by `drop_hold`. Redis errors are
        raised, and the call is never repeated: what it may have booked is lost, so nothing starts without an answer.
        """
        if len(wants) > MOST_WANTS:
            raise ValueError(f"{len(wants)} wants in one call; ask for at most {MOST_WANTS}")
        answers: dict[int, Grant | Wait | TooLarge] = {}
        question = Question()
        for place, want in enumerate(wants):
            if (hopeless := question.add(place, want)) is not None:
                answers[place] = hopeless
        if question.places:
            for place, answer in zip(
                question.places, await self._ask(question, wants, _Report(flying, pause)), strict=True
            ):
                answers[place] = answer
        return [answers[place] for place in range(len(wants))]

    async def stated(self, pool: str, model: str, requests: float, tokens: float) -> bool:
        """Takes over limits a minute that a reply states (0: none) for a model of a pool (all: ""), where nothing is learned yet. Returns
        whether that was so. Raises redis errors."""
        return bool(await _STATED.run(self._client, self._now(), pool, model, requests, tokens))

    async def report(self, provider: str, flying: Sequence[Flying]) -> None:
        """Reports this worker's calls in flight of a provider, where it asks for no others. Raises redis errors."""
        counts = [(one.pool, one.model, one.count) for one in flying]
        await _FLYING.run(self._client, self._now(), f"{self._worker}:{provider}", counts)

    async def meet(self, name: str) -> None:
        """Says that this worker starts anew: it holds no call that a server before this one granted. Raises redis errors."""
        await self._beginnings.meet(name)

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        """Corrects the slots of finished calls to what they really took, and pacing by as much, up to its burst; slots
        older than the ring are gone, so nothing old is refunded into the present. Days are corrected as well."""
        deltas: dict[tuple[str, int], int] = {}
        of_days: dict[tuple[str, int, int], int] = {}
        for one in settlements:
            for bucket in one.buckets:
                delta = one.actual.of(bucket.unit) - one.booked.of(bucket.unit)
                if bucket.zone:
                    for what in (day for day in one.days if delta and day[0] == bucket.id):
                        of_days[*what, one.slot] = of_days.get((*what, one.slot), 0) + delta
                else:
                    deltas[bucket.id, one.slot] = deltas.get((bucket.id, one.slot), 0) + delta
        changed = [(id_, slot, delta) for (id_, slot), delta in deltas.items() if delta]
        if changed:
            ids, slots, amounts = zip(*changed, strict=True)
            await _SETTLE.run(self._client, self._now(), ids, slots, amounts)
        if of_days:
            ids, days, slots = zip(*of_days, strict=True)
            await _SETTLE_DAYS.run(self._client, self._now(), ids, days, slots, list(of_days.values()))

    async def drop_hold(self, want_id: str, keys: Iterable[LimitedKey]) -> None:
        """Frees at once what `want_id` holds on the buckets of `keys`; for a want that will not ask again."""
        ids = list({bucket.id for key in keys for bucket in key.minutes})
        if ids:
            await _DROP.run(self._client, self._now(), want_id, ids)

    async def too_many(
        self,
        key: LimitedKey,
        retry_after: float | None,
        least: float | None = None,
        *,
        model: str = "",
        named: Named = "",
        answered: bool = False,
        sent: float = 0.0,
        more: Sequence[tuple[float, int]] = (),
        refused: Refused | None = None,
    ) -> list[Cooldown]:
        """Counts a 429 on `key`: it empties the pacing credit of the key's buckets and, unless it was a lone one (three or over 1 % of
        the model's grants on the pool in 10 s, or a Retry-After over 5 s), lets `model` cool down on the pool for `retry_after` seconds, or
        `least` (1 to 2 if None) if that is longer.

        The whole pool cools where the provider `named` it, where no model is given, and where a second model is refused while another
        cools, unless yet another one is `answered`. Returns what cools now, the model before the pool; empty for a lone 429.
        """
        least = self._rng.uniform(1.0, 2.0) if least is None else least
        seconds = believed(least if retry_after is None else max(retry_after, least))
        ids = [bucket.id for bucket in key.minutes]
        asked = retry_after is not None and retry_after > LONG_RETRY
        packed = await _COOL.run(
            self._client,
            self._now(),
            key.pool,
            model,
            ids,
            seconds,
            asked,
            SEVERAL,
            SHARE,
            LONG_RETRY,
            TRIAL_SECONDS,
            named,
            answered,
            sent,
            [number for pair in more for number in pair],
            *_taught(refused, named),
            self._caller(key),
            retry_after is not None,
            "tokens"
            if {bucket.unit for bucket in key.buckets}.isdisjoint({"requests"}) and key.buckets
            else "requests",
        )
        of_model, of_pool, *learned = map(float, msgspec.msgpack.decode(packed))
        self._report(key, model, learned)
        found = [
            *([Cooldown(key.pool, model, of_model, named == "model")] if of_model else []),
            *([Cooldown(key.pool, "", of_pool)] if of_pool else []),
        ]
        now = self._steady()
        if len(self._cooling) >= MOST_COOLDOWNS:
            self._cooling = {what: its for what, its in self._cooling.items() if its[0] > now}
        for one in found:
            self._cooling[one.pool, one.model] = now + one.seconds, one.named
        return found

    def _report(self, key: LimitedKey, model: str, learned: Sequence[float]) -> None:
        """Logs what was learned, where it isn't about what was logged before."""
        for (words, unit), value in zip(_LEARNED, learned, strict=True):
            what = key.pool, model, words
            before = self._reported.get(what)
            if not value or (before is not None and abs(value - before) < REPORTED_SHARE * before):
                continue
            if len(self._reported) >= MOST_COOLDOWNS:
                self._reported.clear()
            self._reported[what] = value
            configured = min((bucket.limit for bucket in key.minutes if bucket.unit == unit), default=None)
            if configured is None or value < configured:
                log.warning(
                    "%s, model %s: the server allows about %d %s, configured %s",
                    key.pool,
                    model,
                    round(value),
                    words,
                    "nothing" if configured is None else configured,
                )

    async def cool_down(self, cooldowns: Sequence[Cooldown]) -> None:
        """Puts cooldowns in place for all workers, where Redis has lost them; one that stands stays as it is."""
        if cooldowns:
            await self._tell_cooldowns(cooldowns, [])

    async def end_cooldown(self, pool: str, model: str) -> bool:
        """Ends a cooldown for all workers. False when there was none."""
        self._cooling.pop((pool, model), None)
        return bool(await _COOLDOWNS.run(self._client, self._now(), [], [(pool, model)]))

    async def _tell_cooldowns(self, begin: Sequence[Cooldown], end: Sequence[tuple[str, str]]) -> None:
        told = [
            (one.pool, one.model, believed(one.seconds), int(one.named), int(one.seconds > TRIAL_SECONDS))
            for one in begin
            if one.seconds > 0
        ]
        await _COOLDOWNS.run(self._client, self._now(), told, end)

    async def block(self, name: str, seconds: float | None) -> None:
        """Quarantines a key (by its `lock`) or a pool for all workers, for `seconds` or (None) until `unblock`."""
        await _BLOCK.run(self._client, self._now(), name, True if seconds is None else float(seconds))

    async def unblock(self, name: str) -> None:
        """Ends a quarantine; none is no error."""
        await _BLOCK.run(self._client, self._now(), name, False)

    async def room(self, keys: Sequence[LimitedKey]) -> list[KeyRoom]:
        """Returns how each key stands now, for showing: without its limits by day."""
        ids = list(dict.fromkeys(bucket.id for key in keys for bucket in key.minutes))
        names, pools = [key.lock for key in keys], [key.pool for key in keys]
        booked, cooling, blocked = msgspec.msgpack.decode(await _ROOM.run(self._client, self._now(), ids, names, pools))
        sums = dict(zip(ids, booked, strict=True))
        rooms = []
        for n, key in enumerate(keys):
            models = dict(zip(cooling[n][::2], map(float, cooling[n][1::2]), strict=True)) if cooling[n] else {}
            rooms.append(
                KeyRoom(
                    key=key,
                    buckets=tuple(BucketRoom(bucket, int(sums[bucket.id])) for bucket in key.minutes),
                    cooling=models.pop("", 0.0),
                    blocked=float("inf") if blocked[n] > 1e12 else float(blocked[n]),
                    models=models,
                )
            )
        return rooms

    async def _ask(
        self, question: Question, wants: Sequence[Want], report: _Report, *, again: bool = False
    ) -> list[Grant | Wait | TooLarge]:
        days: dict[str, list[Day]]
        decided, reply, days = await self._run(question, report, create=self._seed is None)
        if await self._beginnings.notice(reply[1]):
            return [self._wait(wants[place], 0, 0.25, 2) for place in question.places]
        if reply[0] == UNKNOWN:
            unseen = [
                (question.day_buckets[n - 1].id, int(day)) for n, day in zip(reply[4][::2], reply[4][1::2], strict=True)
            ]
            late = await self._beginnings.begin([question.bucket_ids[n - 1] for n in reply[3]], unseen)
            if late > 0:
                return [self._wait(wants[place], 0, late, 2) for place in question.places]
            decided, reply, days = await self._run(question, report, create=False)
        if reply[0] == RULED and self._ruled is not None:
            await self._ruled()
        if reply[0] != DECIDED:
            return [self._wait(wants[place], 0, 0.25, 2) for place in question.places]
        answers: list[Grant | Wait | TooLarge] = []
        behind = reply[3 + 3 * len(question.places) :]
        stood, spent = iter(behind[1 : 1 + behind[0]]), behind[1 + behind[0] :]
        places = {one[0]: (Place(*one[1:4]), Place(*one[4:])) for one in zip(*[stood] * 7, strict=True)}
        no_room = {question.day_buckets[n - 1].id: seconds for n, seconds in zip(spent[::2], spent[1::2], strict=True)}
        for n, place in enumerate(question.places):
            kind, seconds, extra = reply[3 * n + 3 : 3 * n + 6]
            want = wants[place]
            if kind >= 1:
                key = question.keys[kind - 1]
                slot, starts = int(extra), (decided or 0.0) + seconds
                into_slot = max(0.0, reply[2] + seconds - slot * SLOT_SECONDS)
                counted = tuple((one.id, day.start) for one in key.days for day in days[one.zone]) if days else ()
                answers.append(
                    Grant(want.id, key, starts, slot, want.charge, into_slot, counted, places.get(n + 1, UNPLACED))
                )
            else:
                answers.append(self._wait(want, kind, seconds, extra, no_room))
        if decided is not None:
            return answers
        # Granted for nobody knows when: given back, and asked for again now that the server's clock is known.
        granted = [one for one in answers if isinstance(one, Grant)]
        nothing = Charge(requests=0)
        await self.settle([Settlement(one.key.buckets, one.slot, one.charge, nothing, one.days) for one in granted])
        if granted and not again:
            return await self._ask(question, wants, report, again=True)
        return [Wait(one.want_id, 0.25, False, "limit") if isinstance(one, Grant) else one for one in answers]

    async def _run(
        self, question: Question, report: _Report, *, create: bool
    ) -> tuple[float | None, list[Any], dict[str, list[Day]]]:
        """What reserve.lua said, and when, on the caller's clock, if that can be told: an answer that was on its way for long grants
        starts that are over, and the caller leaves behind what is too late. Also the days that count what was granted, by zone: where the
        answer is so late that others might, its time can't be told either."""
        caller = self._caller(question.keys[0])
        asked = self._steady()
        days, counted = question.days(self._wall(), self._horizon)
        packed = await _RESERVE.run(
            self._client,
            self._now(),
            self._horizon,
            self._pace,
            create,
            question.rules,
            caller,
            *question.args(),
            days,
            [key.learns for key in question.keys],
            [key.use for key in question.keys],
            report.pause or False,
            [value for one in report.flying for value in (one.pool, one.model, one.count, one.too_many)],
        )
        reply: list[Any] = msgspec.msgpack.decode(packed)
        age = self._server_clock.age(float(reply[2]), asked)
        if counted and self._steady() - asked > LATE_ANSWER + (age or 0.0):
            age = None
        return None if age is None else self._clock() - age, reply, counted

    def _caller(self, key: LimitedKey) -> str:
        """Returns this worker's name for one provider: the drains of two providers in one process take turns like two workers, where they
        share a pool."""
        return f"{self._worker}:{key.name.partition('/')[0]}"

    async def _tell_again(self) -> None:
        """Tells a server that was started again which keys are out of use and which pools cool."""
        if self._restarted is not None:
            await self._restarted()
        now = self._steady()
        self._cooling = {what: (until, named) for what, (until, named) in self._cooling.items() if until > now}
        await self.cool_down([Cooldown(*what, until - now, named) for what, (until, named) in self._cooling.items()])

    def _wait(
        self, want: Want, kind: int, seconds: float, state: int, no_room: Mapping[str, float] | None = None
    ) -> Wait:
        """Turns the earliest start the script saw into the time to ask again, never after that start: what nobody asks for
        in time is lost, and asking early costs little."""
        spread = self._rng.uniform(0.8, 1.2)
        if kind == FULL:
            return Wait(want.id, FULL_SECONDS * spread, False, "in_flight")
        if kind == -2:
            return Wait(want.id, min(max(seconds, 0.05), 5.0) * spread, False, "blocked")
        if state == 1:
            pause = min(max(seconds - self._horizon / 2, 0.05), 1.0)
        elif state == 2:
            pause = min(max(seconds - self._horizon / 2, 0.2), 1.0)
        else:
            pause = max((seconds - self._horizon / 4) / 1.2, 0.05)
        spent: tuple[SpentDay, ...] = ()
        if no_room:
            spent = tuple(
                SpentDay(key, bucket, no_room[bucket.id])
                for key in want.keys
                for bucket in key.days
                if bucket.id in no_room
            )
        return Wait(want.id, pause * spread, state == 1, _REASONS.get(kind, "limit"), spent)

    def _now(self) -> tuple[float | bool, float | bool]:
        """What every script begins with: the time, if it isn't the server's own, and what it should be at the latest."""
        latest = self._server_clock.latest()
        expected = False if latest is None else latest
        return (False if self._server_time is None else self._server_time()), expected


def _taught(refused: Refused | None, named: Named) -> tuple[object, ...]:
    """Returns what cool.lua reads of a refusal: its limit, whether calls in flight are its guess, the call's place in calls, in tokens and
    among those in flight, its tokens, and this worker's calls in flight: of all models of the pool where the provider `named` that."""
    if refused is None:
        return False, False, False, False, False, 0, False
    whole = int(named == "pool")
    place, flying = refused.places[whole], refused.in_flight
    stood = (place.calls, place.tokens, place.in_flight) if place.calls else (False, False, False)
    return refused.about, refused.guessed, *stood, refused.tokens, False if flying is None else flying[whole]
