"""Limits by day: no local day gets more, whatever the zone, the workers, the restarts and the clocks."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.days import day_at
from tests.worker.limits.conftest import Toolbox, World
from worker.limits.limiter import Bucket, Charge, Grant, LimitedKey, Limiter, Settlement, TooLarge, Wait
from worker.limits.shapes import put_off

ZONES = ["UTC", "America/Los_Angeles", "Asia/Kathmandu", "Africa/Cairo", "America/Havana", "Pacific/Auckland"]
DATES = ["2026-03-07", "2026-03-08", "2026-04-23", "2026-10-31", "2026-11-01", "2026-12-01"]
GUARD = 2.0


def moment(zone: str, text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


def limited(name: str, zone: str, *, model: str = "", pool: str | None = None, **limits: int) -> LimitedKey:
    pool = pool or name
    of = f"{pool}|{model}" if model else pool
    buckets = tuple(Bucket(f"{of}|{unit}|day|{zone}", unit, n, zone, model) for unit, n in limits.items())  # type: ignore[arg-type]
    return LimitedKey(name, pool, buckets)


class Ledger:
    """Every call with its start; seeds days as the table of attempts does. `lost` are amounts that it has and Redis may not."""

    def __init__(self) -> None:
        self.calls: list[tuple[float, str, Charge]] = []
        self.asked = 0

    def start(self, grant: Grant, at: float) -> None:
        self.calls.append((at, grant.key.pool, grant.charge))

    async def seed(self, wanted):
        self.asked += 1
        found = {}
        for name, start in wanted:
            day = day_at(name.rpartition("|day|")[2], start)
            pool, unit = name.split("|")[0], name.split("|")[-3]
            found[name, start] = sum(
                charge.of(unit)
                for at, of, charge in self.calls
                if of == pool and day.start - GUARD <= at < day.end + GUARD
            )
        return found

    def by_day(self, zone: str, unit: str = "requests") -> Counter[int]:
        found: Counter[int] = Counter()
        for at, _, charge in self.calls:
            found[day_at(zone, at).start] += charge.of(unit)  # type: ignore[arg-type]
        return found


async def a_limiter(world: World, ledger: Ledger | None = None) -> Limiter:
    return await world.limiter(
        wall=lambda: world.now, **({} if ledger is None else {"seed_days": ledger.seed, "seed": empty})
    )


async def empty(_):
    return {}


async def take(
    world: World, limiter: Limiter, key: LimitedKey, ledger: Ledger | None = None, **charge: int
) -> Grant | Wait | TooLarge:
    """Asks until the answer isn't that the ledger has to be read first."""
    for _ in range(20):
        (answer,) = await world.ask(limiter, world.want([key], **charge))
        if not (isinstance(answer, Wait) and answer.reason == "limit" and answer.seconds < 0.5):
            if isinstance(answer, Grant) and ledger is not None:
                ledger.start(answer, answer.start_at)
            return answer
        world.now += answer.seconds
    raise AssertionError(answer)


def test_a_day_gets_its_limit_and_the_rest_waits_for_the_next(virtual: Toolbox) -> None:
    async def story(world: World) -> None:
        zone = "America/Los_Angeles"
        world.now = moment(zone, "2026-12-01T09:00")
        one, limiter = limited("p/k", zone, requests=5), await a_limiter(world)
        answers = await world.ask(limiter, *(world.want([one]) for _ in range(8)))
        assert [type(answer) for answer in answers] == [Grant] * 5 + [Wait] * 3
        wait = answers[-1]
        assert isinstance(wait, Wait)
        assert wait.reason == "day"
        assert not wait.held
        left = moment(zone, "2026-12-02T00:00") - world.now
        assert 0.6 * left < wait.seconds <= left + GUARD
        (spent,) = wait.spent
        assert (spent.key, spent.bucket) == (one, one.buckets[0])
        assert spent.seconds == pytest.approx(left + GUARD)
        grant = await world.until_granted(limiter, world.want([one]), patience=20 * 3600)
        assert moment(zone, "2026-12-02T00:00") <= grant.start_at < moment(zone, "2026-12-02T00:00") + 60

    virtual.run(story)


@pytest.mark.parametrize(
    ("zone", "date", "hours"),
    [
        ("America/Los_Angeles", "2026-03-08", 23),
        ("America/Los_Angeles", "2026-11-01", 25),
        ("Africa/Cairo", "2026-04-24", 23),
        ("America/Havana", "2026-11-01", 25),
        ("UTC", "2026-11-01", 24),
    ],
)
def test_a_day_is_as_long_as_its_zone_makes_it(virtual: Toolbox, zone: str, date: str, hours: int) -> None:
    async def story(world: World) -> None:
        day = day_at(zone, moment(zone, f"{date}T12:00"))
        assert (day.end - day.start) / 3600 == hours
        one, limiter = limited("p/k", zone, requests=2), await a_limiter(world)
        world.now = day.start + 10.0
        for _ in range(2):
            assert isinstance(await take(world, limiter, one), Grant)
        for at in (day.start + 3600.0, day.end - 3600.0, day.end - 1.0, day.end + 0.5):
            world.now = at
            assert isinstance(await take(world, limiter, one), Wait)
        world.now = day.end + GUARD + 0.1
        assert isinstance(await take(world, limiter, one), Grant)

    virtual.run(story)


def test_a_call_near_midnight_counts_for_both_days(virtual: Toolbox) -> None:
    async def story(world: World) -> None:
        midnight = moment("UTC", "2026-12-02T00:00")
        one, limiter = limited("p/k", "UTC", requests=3), await a_limiter(world)
        world.now = midnight - 0.5
        grant = await take(world, limiter, one)
        assert isinstance(grant, Grant)
        assert len(grant.days) == 2
        world.now = midnight + 60
        granted = [await take(world, limiter, one) for _ in range(3)]
        assert [type(answer) for answer in granted] == [Grant, Grant, Wait]

    virtual.run(story)


def test_what_was_booked_too_much_comes_back_within_the_day(virtual: Toolbox) -> None:
    async def story(world: World) -> None:
        world.now = moment("UTC", "2026-12-02T12:00")
        one, limiter = limited("p/k", "UTC", tokens=100), await a_limiter(world)
        first = await take(world, limiter, one, tokens=90)
        assert isinstance(first, Grant)
        assert isinstance(await take(world, limiter, one, tokens=50), Wait)
        await limiter.settle([Settlement(one.buckets, first.slot, first.charge, Charge(1, 40), first.days)])
        second = await take(world, limiter, one, tokens=50)
        assert isinstance(second, Grant)
        await limiter.settle([Settlement(one.buckets, second.slot, second.charge, Charge(1, 60), second.days)])
        assert isinstance(await take(world, limiter, one, tokens=1), Wait)
        world.now += 86_400
        await limiter.settle([Settlement(one.buckets, first.slot, first.charge, Charge(0, 0), first.days)])
        assert isinstance(await take(world, limiter, one, tokens=100), Grant)
        assert isinstance(await take(world, limiter, one, tokens=1), Wait), "yesterday's correction is yesterday's"

    virtual.run(story)


def test_a_call_that_starts_late_stays_booked_in_its_days(virtual: Toolbox) -> None:
    async def story(world: World) -> None:
        world.now = moment("UTC", "2026-12-02T12:00")
        one, limiter = limited("p/k", "UTC", requests=2), await a_limiter(world)
        grant = await take(world, limiter, one)
        assert isinstance(grant, Grant)
        moved, settlements = put_off(grant, 0.9)
        await limiter.settle(settlements)
        assert moved.days == grant.days
        await limiter.settle([Settlement(one.buckets, moved.slot, moved.charge, Charge(0), moved.days)])
        assert [type(await take(world, limiter, one)) for _ in range(3)] == [Grant, Grant, Wait]

    virtual.run(story)


def test_a_day_of_one_model_leaves_the_others_alone(virtual: Toolbox) -> None:
    async def story(world: World) -> None:
        world.now = moment("UTC", "2026-12-02T12:00")
        limiter = await a_limiter(world)
        whole = limited("p/k", "UTC", requests=5).buckets
        big = replace(
            limited("p/k", "UTC", model="big", requests=1),
            buckets=(*whole, *limited("p/k", "UTC", model="big", requests=1).buckets),
        )
        small = LimitedKey("p/k", "p/k", whole)
        wants = [world.want([big], model="big") for _ in range(3)] + [
            world.want([small], model="small") for _ in range(5)
        ]
        answers = await world.ask(limiter, *wants)
        assert [type(answer) for answer in answers] == [Grant, Wait, Wait, Grant, Grant, Grant, Grant, Wait]
        assert [one.bucket.model for one in answers[1].spent] == ["", "big"]  # type: ignore[union-attr]

    virtual.run(story)


def test_another_key_goes_on_while_one_waits_for_its_day(virtual: Toolbox) -> None:
    async def story(world: World) -> None:
        world.now = moment("UTC", "2026-12-02T12:00")
        limiter = await a_limiter(world)
        keys = [limited("p/a", "UTC", requests=2), virtual.key("p/b", rank=1, requests=600)]
        wants = [world.want(keys) for _ in range(4)]
        answers = await world.ask(limiter, *wants)
        assert [answer.key.name for answer in answers if isinstance(answer, Grant)] == ["p/a", "p/a", "p/b", "p/b"]
        (answer,) = await world.ask(limiter, *[world.want([keys[0]])])
        assert isinstance(answer, Wait)
        assert answer.reason == "day"

    virtual.run(story)


def test_more_than_a_whole_day_is_too_large(virtual: Toolbox) -> None:
    async def story(world: World) -> None:
        limiter = await a_limiter(world)
        answer = await take(world, limiter, limited("p/k", "UTC", tokens=100), tokens=101)
        assert answer == TooLarge(answer.want_id, "tokens", 101, 100, by_day=True)

    virtual.run(story)


def test_a_day_that_is_used_up_keeps_no_bucket_for_a_big_call(virtual: Toolbox) -> None:
    async def story(world: World) -> None:
        world.now = moment("UTC", "2026-12-02T12:00")
        limiter = await a_limiter(world)
        minute = virtual.key("p/k", tokens=60_000)
        both = replace(minute, buckets=(*minute.buckets, *limited("p/k", "UTC", model="m", tokens=50_000).buckets))
        await world.until_granted(limiter, world.want([both], tokens=50_000))
        (big, small) = await world.ask(
            limiter, world.want([both], model="m", tokens=40_000), world.want([minute], tokens=1)
        )
        assert isinstance(big, Wait)
        assert (big.reason, big.held) == ("day", False)
        world.now += 60
        assert isinstance(await take(world, limiter, minute, tokens=1), Grant)

    virtual.run(story)


def test_quota_of_killed_workers_is_found_in_the_ledger(virtual: Toolbox) -> None:
    async def story(world: World) -> None:
        world.now = moment("UTC", "2026-12-02T12:00")
        ledger = Ledger()
        one, limiter = limited("p/k", "UTC", requests=50), await a_limiter(world, ledger)
        assert isinstance(await take(world, limiter, one, ledger), Grant)
        for _ in range(49):
            assert isinstance(
                await take(world, limiter, one), Grant
            )  # and then its worker is killed: nothing of that started
        assert isinstance(await take(world, limiter, one, ledger), Wait)
        world.now += 11
        assert isinstance(await take(world, limiter, one, ledger), Wait)
        granted = 0
        while isinstance(await take(world, limiter, one, ledger), Grant):
            granted += 1
        assert granted == 49
        asked = ledger.asked
        for _ in range(5):
            world.now += 60
            assert isinstance(await take(world, limiter, one, ledger), Wait)
        assert ledger.asked <= asked + 1, "a counter that is known to be right isn't made again"

    virtual.run(story)


def test_no_day_begins_while_the_ledger_cannot_be_read(virtual: Toolbox) -> None:
    async def story(world: World) -> None:
        world.now = moment("UTC", "2026-12-02T12:00")

        async def away(_):
            raise OSError

        limiter = await world.limiter(wall=lambda: world.now, seed=empty, seed_days=away)
        for _ in range(5):
            (answer,) = await world.ask(limiter, world.want([limited("p/k", "UTC", requests=50)]))
            assert isinstance(answer, Wait)
            world.now += 100

    virtual.run(story)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), zone=st.sampled_from(ZONES), date=st.sampled_from(DATES), workers=st.integers(1, 3))
def test_no_local_day_ever_gets_more_than_its_limit(
    virtual: Toolbox, seed: int, zone: str, date: str, workers: int
) -> None:
    """Drawn: zones and days (those of clock changes among them), limits, restarts of Redis, kills, late starts, settlements."""
    rng = random.Random(seed)
    requests, tokens = rng.randint(1, 30), rng.randint(20, 600)
    one = limited("p/a", zone, pool="shared", requests=requests, tokens=tokens)
    keys = [one, replace(one, name="q/b")][: rng.randint(1, 2)]

    async def story(world: World) -> None:
        world.now = moment(zone, f"{date}T12:00") + rng.uniform(0, 12 * 3600)
        ledger = Ledger()
        limiters = [await a_limiter(world, ledger) for _ in range(workers)]
        flying: list[Grant] = []
        for _ in range(120):
            limiter = rng.choice(limiters)
            for grant in [grant for grant in flying if grant.start_at <= world.now]:
                flying.remove(grant)
                ledger.start(grant, grant.start_at + rng.choice([0.0, 0.4, 0.99]))
                if rng.random() < 0.5:
                    real = Charge(1, rng.randint(0, grant.charge.tokens))
                    ledger.calls[-1] = (*ledger.calls[-1][:2], real)
                    await limiter.settle([Settlement(grant.key.buckets, grant.slot, grant.charge, real, grant.days)])
            match rng.randrange(20):
                case 0:  # Redis loses everything; before anything is granted again all that was granted has started
                    for grant in flying:
                        ledger.start(grant, grant.start_at)
                    flying = []
                    world.now += 3
                    await limiter._client.flushall()
                case 1:  # a worker is killed
                    flying = [grant for grant in flying if rng.random() < 0.5]
                case 2:
                    world.now = max(world.now, day_at(zone, world.now).end - rng.uniform(0, 6))
                case 3:
                    world.now += rng.uniform(0, 5 * 3600)
                case _:
                    wants = [world.want(keys, tokens=rng.randint(1, 20)) for _ in range(rng.randint(1, 12))]
                    flying += [answer for answer in await world.ask(limiter, *wants) if isinstance(answer, Grant)]
                    world.now += rng.choice([0.1, 0.6, 2.0, 30.0])
        for grant in flying:
            ledger.start(grant, grant.start_at)
        assert max(ledger.by_day(zone).values(), default=0) <= requests
        assert max(ledger.by_day(zone, "tokens").values(), default=0) <= tokens

    virtual.run(story)
