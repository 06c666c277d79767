"""What a cap admits and how it learns, against servers that bill as they like: a simulation in SQL, without processes."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import pytest

from models.database import Database
from models.finalizing import reconcile
from models.prices import Cost
from models.states import BatchStatus, JobStatus, Outcome
from models.store import attempts, budgets, jobs
from models.store.attempts import Announcement
from models.store.budgets import ANSWERS_A_CALL, FIRST_CALLS, FIRST_MODELS, PROVEN_AFTER
from models.store.endings import record
from models.tables import budget_reservations
from tests.making import NOW, announcement, batch_status, claim, ending, make_batch, make_worker, prove

BASE = 100
"""What each call of a test is estimated at, in nano-units."""


def asks(
    database: Database,
    number: int,
    *,
    base: int = BASE,
    most: int | None = None,
    longest: int | None = None,
    learned: int | None = None,
    model: str = "m",
    provider: str = "openai",
    elsewhere: str | None = None,
    currency: str = "USD",
    passed_on: dict[int, str] | None = None,
) -> tuple[list[Announcement], set[int]]:
    """Claims so many jobs and announces their calls. Returns the calls, and the ids of those that may leave."""
    with database.write() as connection:
        jobs.wake(connection, ["openai"], NOW + 60)
    calls = [
        replace(
            announcement(job, provider=provider),
            requested_model=model,
            may_cost=lambda: Cost(base, currency),
            most_cost=lambda: None if most is None else Cost(most, currency),
            longest_cost=lambda: None if longest is None else Cost(longest, currency),
            learned_cost=lambda: None if learned is None else Cost(learned, currency),
            elsewhere=lambda _: elsewhere,
        )
        for job in claim(database, make_worker(database), most=number)
    ]
    with database.write() as connection:
        return calls, attempts.announce(connection, calls, NOW, passed_on)


def left(database: Database, number: int, **fields: int | str | None) -> list[Announcement]:
    """The calls of so many jobs that may leave."""
    calls, ids = asks(database, number, **fields)  # type: ignore[arg-type]
    return [call for call in calls if call.attempt_id in ids]


def ends(database: Database, *calls: Announcement, cost: int | None = BASE, **fields: object) -> None:
    status = fields.pop("status", JobStatus.SUCCEEDED)
    unbilled = bool(fields.pop("unbilled", False))
    usage = {} if cost is not None else {"usage": None}
    endings = [ending(call, status, cost_nanos=cost, **usage, **fields) for call in calls]  # type: ignore[arg-type]
    for number, one in enumerate(endings):
        assert one.attempt is not None
        currency = "USD" if cost is not None else None
        endings[number] = replace(one, attempt=replace(one.attempt, unbilled=unbilled, currency=currency))
    with database.write() as connection:
        record(connection, endings, 0, NOW)


def capped(database: Database, lines: int = 200, most: int = 10**6) -> int:
    batch = make_batch(database, lines)
    with database.write() as connection:
        budgets.cap(connection, batch, most, "USD")
    return batch


def sums(database: Database, batch: int) -> tuple[int, int, int]:
    """Spent, reserved, assumed."""
    with database.read() as connection:
        row = budgets.get(connection, batch)
    assert row is not None
    return row["spent_nanos"], row["reserved_nanos"], row["assumed_nanos"] or 0


def test_the_number_under_way_grows_with_the_answers(database: Database) -> None:
    batch = capped(database)
    under_way = left(database, 50)
    assert len(under_way) == FIRST_CALLS
    assert left(database, 50) == [], "other workers find the same calls under way"
    with database.read() as connection:
        assert budgets.waits_for_answers(connection, batch)
    answered = 0
    for _ in range(8):
        ends(database, *under_way)
        answered += len(under_way)
        under_way = left(database, 60)
        assert len(under_way) == FIRST_CALLS + answered // ANSWERS_A_CALL
    with database.read() as connection:
        assert not budgets.waits_for_answers(connection, batch), "estimates are proven by now"


def test_proven_calls_leave_at_once_where_the_cap_has_room_for_their_longest_answers(database: Database) -> None:
    batch = capped(database, most=100 * 1000)
    calls = left(database, 50, longest=1000)
    assert len(calls) == FIRST_CALLS, "nothing is proven yet"
    ends(database, *calls, *left(database, 1))
    ends(database, *left(database, PROVEN_AFTER - len(calls)))
    calls = left(database, 200, longest=1000)
    spent, reserved, _ = sums(database, batch)
    assert spent == PROVEN_AFTER * BASE
    assert reserved == len(calls) * BASE
    assert len(calls) == (100 * 1000 - spent + BASE) // (1000 + BASE)
    ends(database, *calls, cost=1000)
    assert 85 * 1000 < sums(database, batch)[0] <= 100 * 1000


def test_a_late_reply_of_a_worker_that_died_replaces_what_was_reserved_for_it(database: Database) -> None:
    batch = capped(database)
    call, *_ = left(database, 2)
    with database.write() as connection:
        jobs.rescue(connection, range(1, 1000))
    assert sums(database, batch) == (0, 2 * BASE, 0)
    ends(database, call, cost=70)
    assert sums(database, batch) == (70, BASE, 0)


def test_a_server_that_turns_dear_exceeds_the_cap_by_a_tenth_of_its_cheap_answers(database: Database) -> None:
    most = 200 * BASE
    batch = capped(database, most=most)
    answered = 0
    while answered < 40:
        calls = left(database, 40 - answered, longest=10_000 * BASE)
        ends(database, *calls)
        answered += len(calls)
    calls = left(database, 60, longest=10_000 * BASE)
    assert len(calls) == FIRST_CALLS + 40 // ANSWERS_A_CALL
    ends(database, calls[0], cost=1000 * BASE)
    assert left(database, 60) == [], "all workers find the estimate unproven, and the reservations raised"
    ends(database, *calls[1:], cost=1000 * BASE)
    assert sums(database, batch)[0] == 40 * BASE + len(calls) * 1000 * BASE
    assert left(database, 60) == []
    assert batch_status(database, batch) == BatchStatus.PAUSED


@pytest.mark.parametrize(("cost", "counted"), [(2 * BASE, 20), (2 * BASE + 1, 0)])
def test_an_answer_that_is_a_little_dearer_halves_the_count_and_one_far_dearer_begins_again(
    database: Database, cost: int, counted: int
) -> None:
    batch = capped(database)
    with database.write() as connection:
        prove(connection, batch, model="m", kept=40)
    ends(database, *left(database, 1), cost=cost)
    assert len(left(database, 60)) == FIRST_CALLS + counted // ANSWERS_A_CALL


def test_models_share_the_first_calls_and_each_may_have_one(database: Database) -> None:
    capped(database)
    assert len(left(database, 20, model="a")) == FIRST_CALLS
    others = [len(left(database, 5, model=f"model {number}")) for number in range(20)]
    assert others == [1] * (FIRST_MODELS - FIRST_CALLS) + [0] * (20 - FIRST_MODELS + FIRST_CALLS)


def test_a_dearer_answer_raises_later_estimates_and_the_reservations_under_way(database: Database) -> None:
    batch = capped(database, most=10_000)
    first, *others = left(database, 10)
    ends(database, first, cost=1100)
    raised = BASE + 1000 + 250 + 1
    assert sums(database, batch) == (1100, len(others) * raised, 0)
    assert left(database, 10) != [], "as many as have come back"
    ends(database, *others, cost=1100)
    more = left(database, 50)
    assert sums(database, batch)[0] == FIRST_CALLS * 1100
    assert len(more) == (10_000 - sums(database, batch)[0]) // raised - 1 or len(more) <= FIRST_CALLS + len(others)


def test_as_much_as_the_model_can_write_is_reserved_until_five_answers_kept_to_the_bound(database: Database) -> None:
    batch = capped(database, most=10**5)
    for done in range(PROVEN_AFTER):
        (call,) = left(database, 1, most=5000)
        assert sums(database, batch) == (done * BASE, 5000, 0)
        ends(database, call)
    left(database, 1, most=5000)
    assert sums(database, batch)[1] == BASE


def test_a_proven_estimate_without_a_bound_shrinks_to_what_was_learned(database: Database) -> None:
    batch = capped(database, most=PROVEN_AFTER * 5 + 3 * 20)
    for _ in range(PROVEN_AFTER):
        (call,) = left(database, 1, base=60, learned=20)
        ends(database, call, cost=5)
    calls = left(database, 9, base=60, learned=20)
    assert len(calls) == 3
    assert sums(database, batch)[1] == 60
    ends(database, calls[0], cost=40)
    assert sums(database, batch)[1] == 2 * (20 + 26), "20 more than was learned, a quarter and 1"


def test_where_the_longest_answer_does_not_fit_one_call_tries_the_bound(database: Database) -> None:
    batch = capped(database, most=1000)
    assert len(left(database, 9, most=5000)) == 1
    assert sums(database, batch)[1] == BASE
    assert batch_status(database, batch) != BatchStatus.PAUSED


@pytest.mark.parametrize(
    ("fields", "spent", "assumed"),
    [
        ({"cost": 30}, 30, 0),
        ({"cost": 30, "status": JobStatus.FAILED}, 30, 0),
        ({"cost": None}, BASE, BASE),
        ({"cost": None, "status": JobStatus.FAILED}, BASE, BASE),
        ({"cost": None, "status": JobStatus.FAILED, "unbilled": True}, 0, 0),
        ({"cost": None, "status": JobStatus.QUEUED, "outcome": Outcome.RATE_LIMITED, "unbilled": True}, 0, 0),
        ({"cost": None, "status": JobStatus.FAILED, "outcome": Outcome.UNKNOWN}, BASE, BASE),
        ({"cost": 900, "status": JobStatus.FAILED, "outcome": Outcome.UNKNOWN}, 900, 900),
    ],
)
def test_what_an_ended_call_counts_as(database: Database, fields: dict[str, object], spent: int, assumed: int) -> None:
    batch = capped(database)
    ends(database, *left(database, 1), **fields)  # type: ignore[arg-type]
    assert sums(database, batch) == (spent, 0, assumed)
    books = reconcile(database, batch)
    assert books is None or not books.differences


@pytest.mark.parametrize(
    ("least", "reported", "spent"),
    [(30, None, BASE), (5000, None, 5000), (30, 40, BASE), (5000, 40, 5000), (30, 5000, 5000)],
)
def test_a_call_that_is_not_wholly_priced_counts_at_least_as_its_reservation(
    database: Database, least: int, reported: int | None, spent: int
) -> None:
    batch = capped(database)
    (call,) = left(database, 1)
    end = ending(call, cost_nanos=reported, currency=None if reported is None else "USD")
    assert end.attempt is not None
    with database.write() as connection:
        record(connection, [replace(end, attempt=replace(end.attempt, least=Cost(least, "USD")))], 0, NOW)
    assert sums(database, batch) == (spent, 0, spent - (reported or 0))
    left(database, 1)
    assert sums(database, batch)[1] == (BASE if spent == BASE else 5000 + (5000 - BASE) // 4 + 1)
    books = reconcile(database, batch)
    assert books is None or not books.differences


def test_calls_that_a_dead_worker_left_do_not_fill_the_first_places(database: Database) -> None:
    batch = capped(database)
    left(database, 10)
    with database.write() as connection:
        jobs.rescue(connection, range(1, 1000))
    assert len(left(database, 10)) == FIRST_CALLS
    assert sums(database, batch)[1] == 2 * FIRST_CALLS * BASE, "they may have been billed"


def test_a_job_without_a_price_here_goes_to_the_candidate_that_has_one(database: Database) -> None:
    batch = capped(database, 1)
    passed_on: dict[int, str] = {}
    calls, ids = asks(database, 1, currency="EUR", elsewhere=",openai,", passed_on=passed_on)
    assert not ids
    assert passed_on == {calls[0].attempt_id: ",openai,"}
    assert batch_status(database, batch) != BatchStatus.PAUSED


def test_a_call_that_no_candidate_has_a_price_for_pauses_its_batch(database: Database) -> None:
    batch = capped(database)
    assert left(database, 1, currency="EUR") == []
    assert batch_status(database, batch) == BatchStatus.PAUSED


@dataclass
class Hostile:
    """A server of random habits: its answers are cheap, dear, ever dearer, or dear after many cheap ones; some report nothing, some
    are lost, some are refused."""

    rng: random.Random

    def __post_init__(self) -> None:
        self.habit = self.rng.choice(("cheap", "dear", "rising", "turning", "wild"))
        self.turn = self.rng.randrange(1, 40)
        self.silent, self.lost, self.refused = (self.rng.choice((0.0, 0.0, 0.2, 1.0)) for _ in range(3))
        self.refused = min(self.refused, 0.5)
        self.answers = 0

    def cost(self) -> int:
        self.answers += 1
        match self.habit:
            case "cheap":
                return self.rng.randrange(BASE + 1)
            case "dear":
                return BASE * 50
            case "rising":
                return BASE + self.answers * self.rng.randrange(20)
            case "turning":
                return BASE if self.answers < self.turn else BASE * 200
            case _:
                return round(BASE * self.rng.paretovariate(0.8))

    def answer(self, database: Database, call: Announcement) -> int:
        """Ends a call. Returns what it cost, as far as anybody can know."""
        at = self.rng.random()
        if at < self.refused:
            ends(database, call, cost=None, status=JobStatus.QUEUED, outcome=Outcome.RATE_LIMITED, unbilled=True)
            return 0
        if self.rng.random() < self.lost:
            ends(database, call, cost=None, status=JobStatus.FAILED, outcome=Outcome.UNKNOWN)
            return 0
        if self.rng.random() < self.silent:
            ends(database, call, cost=None)
            return 0
        cost = self.cost()
        ends(database, call, cost=cost)
        return cost


@pytest.mark.parametrize("seed", range(6))
def test_no_server_can_make_a_batch_exceed_its_cap_by_more_than_the_calls_under_way(
    database: Database, seed: int
) -> None:
    rng = random.Random(seed)
    most = rng.choice((500, 3000, 20_000))
    batch = capped(database, 80, most)
    servers = {model: Hostile(rng) for model in ("a", "b")[: rng.randrange(1, 3)]}
    under_way: list[Announcement] = []
    known, excess, most_under_way = 0, 0, 0
    for _ in range(20):
        if batch_status(database, batch) == BatchStatus.PAUSED and not under_way:
            break
        for model in servers:
            spent, reserved, _ = sums(database, batch)
            new = left(database, rng.randrange(1, 40), model=model)
            under_way += new
            if new:
                assert sum(sums(database, batch)[:2]) <= most, "nothing leaves that doesn't fit"
            if spent + reserved == 0:
                assert len(new) <= FIRST_CALLS
        most_under_way = max(most_under_way, len(under_way))
        rng.shuffle(under_way)
        for call in under_way[: rng.randrange(1, 1 + max(1, len(under_way)))]:
            under_way.remove(call)
            cost = servers[call.requested_model].answer(database, call)
            known += cost
            excess = max(excess, cost - BASE)
            spent, reserved, assumed = sums(database, batch)
            assert spent == known + assumed
            assert reserved == reservations(database, batch)
    spent = sums(database, batch)[0]
    assert spent <= most + most_under_way * excess
    books = reconcile(database, batch)
    assert books is None or not [one for one in books.differences if one.check.startswith("budget")]


def reservations(database: Database, batch: int) -> int:
    with database.read() as connection:
        rows = connection.execute(budget_reservations.select().where(budget_reservations.c.batch_id == batch))
        return sum(row.nanos for row in rows)
