"""Budgets: a batch's cap on what it may cost, held by all workers together.

Before a call leaves, what it may cost is reserved in the transaction that announces it; when it ends, its cost replaces the reservation.
A call that may have been billed and whose cost is unknown keeps its reservation as spent. Batches without a cap have no row.

Estimates can be wrong, so `budget_estimates` holds what answers have shown, for each provider and model of a batch. An answer that costs
more than its estimate raises the estimates of all later calls, and the reservations of those under way. A server can also turn dear after
many answers, so the number of calls under way is bounded at all times by the number of answers that kept to their estimates.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from models.money import format_money
from models.prices import Cost
from models.states import RUNNABLE, UNFINISHED, BatchStatus, JobStatus, Outcome
from models.tables import (
    attempts,
    batch_counts,
    batch_spend,
    batches,
    budget_estimates,
    budget_reservations,
    budgets,
    jobs,
)

OF_ITS_CAP = "of its cap"
"""In the reason of a pause: the cap has to be raised before the batch can go on."""
NO_PRICE = "a call has no price in"
"""In the reason of a pause: the configuration needs a price before the batch can go on."""


FIRST_CALLS = 4
"""How many calls of a batch may be under way to models that have not answered yet."""
ANSWERS_A_CALL = 10
"""After so many answers in a row that kept to their estimates, one more call of their provider and model may be under way; any number
may for which the cap has room even if their answers are as long as can be. So if the server then turns dear, the calls that exceed
the cap are at most `FIRST_CALLS` and a tenth of the answers before them."""
FAR = 2
"""An answer that cost more than so many times the estimate makes the estimates unproven again; any other dearer one halves the count of
answers that kept to them."""
PROVEN_AFTER = 5
"""Answers in a row that have to keep to a model's estimates before those count as proven."""
FIRST_MODELS = 16
"""Where a batch asks more models than `FIRST_CALLS`, one call of each of so many may be under way before they answer: so a slow model
keeps no other from its first answer."""

Group = tuple[str, str]
"""Provider and model: what shares estimates within a batch."""


class Reservable(Protocol):
    """A call about to leave.

    `may_cost` returns its estimate by its own bound (None: it has no price), `most_cost` what it costs if the model writes as much as it is
    known to be able to (None: that isn't known), `longest_cost` what it costs with the longest answer that is known or else assumed, `learned_cost` what it costs if it writes as much as others without a bound (None: it has a
    bound, or too few have answered). `elsewhere` takes a currency and returns the providers that the job
    has to exclude to reach a candidate of its route with a price in it (None: there is none).
    """

    @property
    def attempt_id(self) -> int: ...
    @property
    def job_id(self) -> int: ...
    @property
    def batch_id(self) -> int: ...
    @property
    def provider(self) -> str: ...
    @property
    def requested_model(self) -> str: ...
    @property
    def may_cost(self) -> Callable[[], Cost | None]: ...
    @property
    def most_cost(self) -> Callable[[], Cost | None]: ...
    @property
    def longest_cost(self) -> Callable[[], Cost | None]: ...
    @property
    def learned_cost(self) -> Callable[[], Cost | None]: ...
    @property
    def elsewhere(self) -> Callable[[str], str | None]: ...


@dataclass(frozen=True, slots=True)
class Settled:
    """How a call ended for its budget.

    `cost_nanos` is None where its cost isn't known. `least` is what its tokens cost where that isn't all that was billed, also beside a
    `cost_nanos` that the provider reports (None: nothing is missing, or nothing is known). `lost`: no whole reply came; `unbilled`: the provider is known not to bill it; `answered`: the job has its answer.
    """

    attempt_id: int
    cost_nanos: int | None
    currency: str | None
    lost: bool = False
    unbilled: bool = False
    answered: bool = True
    least: Cost | None = None

    def cost_in(self, currency: str) -> int | None:
        """Its cost in this currency, or the part of it that is known; None if nothing is."""
        known = [cost for cost in (self._own(currency), self._least(currency)) if cost is not None]
        return max(known, default=None)

    def _own(self, currency: str) -> int | None:
        return self.cost_nanos if self.currency == currency else None

    def _least(self, currency: str) -> int | None:
        return self.least.nanos if self.least is not None and self.least.currency == currency else None

    def shows(self, currency: str) -> bool:
        """Returns whether its end shows how good its estimate was. An answer without a known cost does: it counts as its reservation, and so
        will the next."""
        return not self.lost and (self.answered or self.cost_in(currency) is not None)

    def counted(self, reserved: int, currency: str) -> tuple[int, int]:
        """Returns what to count as spent of a budget in this currency, and the part of it that is assumed."""
        known, own = self.cost_in(currency), self._own(currency)
        if own is not None and self.least is None and not self.lost:
            return own, 0
        if known is None and self.unbilled:
            return 0, 0
        # one that left before the cap came has nothing reserved
        spent = max(known or 0, reserved)
        return spent, spent if self.lost else spent - (own or 0)


def cap(connection: Connection, batch_id: int, most_nanos: int, currency: str) -> None:
    """Sets or changes a batch's cap. What it has cost so far counts, and so will what calls under way turn out to cost."""
    changed = connection.execute(
        budgets.update()
        .where(budgets.c.batch_id == batch_id, budgets.c.currency == currency)
        .values(most_nanos=most_nanos)
    )
    if changed.rowcount:
        return
    # whoever ends a call in between has added its cost already, or waits here and finds its reservation
    for table in (batch_counts, batch_spend):
        shards = sa.select(table.c.shard).where(table.c.batch_id == batch_id).order_by(*table.primary_key)
        connection.execute(shards.with_for_update()).all()
    spent = sa.select(sa.func.coalesce(sa.func.sum(batch_spend.c.cost_nanos), 0)).where(
        batch_spend.c.batch_id == batch_id, batch_spend.c.currency == currency
    )
    connection.execute(budgets.delete().where(budgets.c.batch_id == batch_id))
    connection.execute(
        budgets.insert().values(
            batch_id=batch_id,
            most_nanos=most_nanos,
            currency=currency,
            spent_nanos=int(connection.execute(spent).scalar_one()),
        )
    )
    under_way = sa.select(attempts.c.id, attempts.c.batch_id, sa.literal(0)).where(
        attempts.c.batch_id == batch_id,
        sa.literal_column(f"outcome = '{Outcome.UNKNOWN}'"),  # literal, or the partial index isn't used
        attempts.c.finished_at.is_(None),
    )
    columns = ["attempt_id", "batch_id", "nanos"]
    connection.execute(budget_reservations.insert().from_select(columns, under_way))


def get(connection: Connection, batch_id: int) -> RowMapping | None:
    """The batch's budget: most_nanos, currency, spent_nanos, reserved_nanos; None without a cap."""
    return connection.execute(sa.select(budgets).where(budgets.c.batch_id == batch_id)).mappings().one_or_none()


_LOCK = (
    sa.select(budgets)
    .where(budgets.c.batch_id.in_(sa.bindparam("ids", expanding=True)))
    .order_by(budgets.c.batch_id)
    .with_for_update()
)
_CAPPED = sa.select(budgets.c.batch_id).where(budgets.c.batch_id.in_(sa.bindparam("ids", expanding=True)))
_LOCK_ALL = (
    sa.select(budgets)
    .where(
        sa.or_(
            budgets.c.batch_id.in_(sa.bindparam("ids", expanding=True)),
            budgets.c.batch_id.in_(sa.select(batches.c.id).where(batches.c.status.in_(UNFINISHED))),
        )
    )
    .order_by(budgets.c.batch_id)
    .with_for_update()
)
_RESERVED = sa.select(budget_reservations).where(
    budget_reservations.c.attempt_id.in_(sa.bindparam("ids", expanding=True))
)


def reserve(connection: Connection, calls: Sequence[Reservable]) -> dict[int, str | None]:
    """Reserves what these calls may cost. Returns the attempt ids of those that may not leave now, each with None if its job has to
    wait, or with the job's new `excluded` if another candidate of its route is to take it.

    A batch that can't afford its next call while none of its calls is under way is paused, with the reason.
    """
    capped = _held(connection, {call.batch_id for call in calls})
    refused: dict[int, str | None] = {}
    for batch_id, budget in capped.items():
        room = _Room(connection, budget)
        for call in calls:
            if call.batch_id == batch_id and not room.takes(call):
                refused[call.attempt_id] = room.elsewhere.get(call.attempt_id)
        if room.taken:
            connection.execute(budget_reservations.insert(), room.taken)
            connection.execute(
                budgets.update()
                .where(budgets.c.batch_id == batch_id)
                .values(reserved_nanos=budgets.c.reserved_nanos + sum(row["nanos"] for row in room.taken))
            )
        elif room.reason and not room.under_way.total():
            most = format_money(budget["most_nanos"], budget["currency"])
            # batches are locked before budgets: whoever holds this one may wait for us, and the next call pauses it
            free_now = (
                sa.select(batches.c.id)
                .where(batches.c.id == batch_id)
                .with_for_update(skip_locked=True, key_share=True)
            )
            connection.execute(
                batches.update()
                .where(batches.c.id.in_(free_now.scalar_subquery()), batches.c.status.in_(RUNNABLE))
                .values(status=BatchStatus.PAUSED, paused_reason=f"{room.reason} (cap: {most})")
            )
    return refused


class _Room:
    """What a budget has left for calls that ask one after the other, within one transaction."""

    def __init__(self, connection: Connection, budget: RowMapping) -> None:
        self.taken: list[dict[str, int]] = []
        self.reason: str | None = None
        self.elsewhere: dict[int, str] = {}
        self._connection = connection
        self._budget = budget
        self._free = budget["most_nanos"] - budget["spent_nanos"] - budget["reserved_nanos"]
        self._estimates = _estimates(connection, budget["batch_id"])

    @cached_property
    def under_way(self) -> Counter[Group]:
        """The batch's calls under way, by provider and model, those taken here included."""
        return _number_under_way(self._connection, self._budget["batch_id"])

    def takes(self, call: Reservable) -> bool:
        """Reserves what a call may cost if it may leave now; False if not."""
        currency = self._budget["currency"]
        cost = call.may_cost()
        if cost is None or cost.currency != currency:
            if (excluded := call.elsewhere(currency)) is not None:
                self.elsewhere[call.attempt_id] = excluded
            else:
                self.reason = f"{NO_PRICE} {currency}, so its cost can't be capped"
            return False
        group = call.provider, call.requested_model
        kept, excess = self._estimates.get(group, (0, 0))
        if not _may_leave(group, self.under_way, self._estimates) and not (
            kept >= PROVEN_AFTER and self._covers_longest(call, excess)
        ):
            return False
        learned = call.learned_cost() if kept >= PROVEN_AFTER else None
        base = cost.nanos if learned is None or learned.currency != currency else learned.nanos
        needed = base + excess
        if kept < PROVEN_AFTER and (most := call.most_cost()) is not None and most.currency == currency:
            largest = max(needed, most.nanos)
            # where that is too much, a single call may try whether the server keeps to the request's bound
            needed = largest if largest <= self._free or self.under_way[group] else needed
        if needed > self._free:
            left = format_money(max(self._free, 0), currency)
            self.reason = self.reason or f"the next call may cost more than the {left} that are left {OF_ITS_CAP}"
            return False
        self._free -= needed
        self.under_way[group] += 1
        row = {"attempt_id": call.attempt_id, "batch_id": self._budget["batch_id"]}
        self.taken.append({**row, "nanos": needed, "base_nanos": base})
        return True

    def _covers_longest(self, call: Reservable, excess: int) -> bool:
        """Returns whether the cap holds even if this call and all that are under way end with the longest answers."""
        longest = call.longest_cost()
        if longest is None or longest.currency != self._budget["currency"]:
            return False
        free: int = self._free
        return (self.under_way.total() + 1) * (longest.nanos + excess) <= free


def _may_leave(group: Group, under_way: Mapping[Group, int], estimates: Mapping[Group, tuple[int, int]]) -> bool:
    """Returns whether one more call of a group may be under way, as far as its estimates are proven."""
    mine = under_way.get(group, 0)
    kept = estimates.get(group, (0, 0))[0]
    if kept > 0:
        return mine < FIRST_CALLS + kept // ANSWERS_A_CALL
    unproven = sum(number for one, number in under_way.items() if estimates.get(one, (0, 0))[0] == 0)
    return unproven < (FIRST_CALLS if mine else FIRST_MODELS)


def waits_for_answers(connection: Connection, batch_id: int) -> bool:
    """Returns whether calls of the batch wait until the first answers have proven its estimates."""
    if get(connection, batch_id) is None:
        return False
    under_way = _number_under_way(connection, batch_id)
    estimates = _estimates(connection, batch_id)
    return any(
        estimates.get(group, (0, 0))[0] < PROVEN_AFTER and not _may_leave(group, under_way, estimates)
        for group in under_way
    )


def _estimates(connection: Connection, batch_id: int) -> dict[Group, tuple[int, int]]:
    """What answers have shown, by provider and model: how many in a row kept to the estimate, and what to add to it."""
    rows = connection.execute(sa.select(budget_estimates).where(budget_estimates.c.batch_id == batch_id))
    return {(row.provider, row.model): (row.kept, row.excess_nanos) for row in rows}


def _of_calls_under_way(batch_id: int, *columns: sa.ColumnElement[Any]) -> sa.Select[Any]:
    """Selects from the reservations of calls that have been announced and not ended, by workers that still hold their jobs."""
    return (
        sa.select(*columns)
        .select_from(budget_reservations)
        .join(attempts, attempts.c.id == budget_reservations.c.attempt_id)
        .join(jobs, sa.and_(jobs.c.id == attempts.c.job_id, jobs.c.epoch == attempts.c.epoch))
        .where(budget_reservations.c.batch_id == batch_id, jobs.c.status == JobStatus.RUNNING)
    )


def _number_under_way(connection: Connection, batch_id: int) -> Counter[Group]:
    """Returns the number of a batch's calls under way, by provider and model."""
    group = attempts.c.provider, attempts.c.requested_model
    query = _of_calls_under_way(batch_id, *group, sa.func.count()).group_by(*group)
    return Counter({(provider, model): number for provider, model, number in connection.execute(query)})


def settle(connection: Connection, ended: Sequence[Settled]) -> None:
    """Replaces what was reserved for calls by what they cost, and learns from it."""
    ids = [one.attempt_id for one in ended]
    batch_ids = {row["batch_id"] for row in _reserved(connection, ids)}
    if not batch_ids:
        return
    budget_of = _held(connection, batch_ids)
    found = _reserved(connection, ids)  # again: until they were locked, another worker may have raised them
    by_id = {one.attempt_id: one for one in ended}
    for batch_id in sorted(batch_ids):
        mine = [(row, by_id[row["attempt_id"]]) for row in found if row["batch_id"] == batch_id]
        currency = budget_of[batch_id]["currency"]
        counted = [end.counted(row["nanos"], currency) for row, end in mine]
        reserved = sum(row["nanos"] for row, _ in mine)
        _take(connection, batch_id, reserved, sum(spent for spent, _ in counted), sum(part for _, part in counted))
        _forget(connection, [row for row, _ in mine])
        _learn(connection, batch_id, [(row, end.cost_in(currency)) for row, end in mine if end.shows(currency)])


def _learn(connection: Connection, batch_id: int, ended: Sequence[tuple[RowMapping, int | None]]) -> None:
    """Compares what answers cost (None: unknown) with their estimates. One that was dearer raises the estimates by a quarter more than it needed: so an
    ever dearer server is followed in few steps. It also lowers the number of calls that may be under way."""
    answers = [(row, cost) for row, cost in ended if row["base_nanos"] is not None]
    if not answers:
        return
    query = sa.select(attempts.c.id, attempts.c.provider, attempts.c.requested_model).where(
        attempts.c.id.in_([row["attempt_id"] for row, _ in answers])
    )
    group_of = {row.id: (row.provider, row.requested_model) for row in connection.execute(query)}
    before = _estimates(connection, batch_id)
    after = dict(before)
    for row, cost in answers:
        group = group_of[row["attempt_id"]]
        kept, excess = after.get(group, (0, 0))
        dearer = 0 if cost is None else cost - row["base_nanos"]
        if dearer <= excess:
            after[group] = kept + 1, excess
        else:
            left = 0 if row["base_nanos"] + dearer > FAR * (row["base_nanos"] + excess) else kept // 2
            after[group] = left, dearer + dearer // 4 + 1
    for group, (kept, excess) in after.items():
        if after[group] == before.get(group):
            continue
        values = {"kept": kept, "excess_nanos": excess}
        if group in before:
            this = budget_estimates.c.batch_id == batch_id, *_of(group)
            connection.execute(budget_estimates.update().where(*this).values(values))
        else:
            key = {"batch_id": batch_id, "provider": group[0], "model": group[1]}
            connection.execute(budget_estimates.insert().values({**key, **values}))
        if excess > before.get(group, (0, 0))[1]:
            _raise(connection, batch_id, group, excess)


def _of(group: Group) -> tuple[sa.ColumnElement[bool], ...]:
    return budget_estimates.c.provider == group[0], budget_estimates.c.model == group[1]


def _raise(connection: Connection, batch_id: int, group: Group, excess: int) -> None:
    """Raises the reservations of a group's calls under way to what their estimates are now."""
    reservation = budget_reservations.c
    raised = _of_calls_under_way(
        batch_id, reservation.attempt_id, reservation.base_nanos + excess - reservation.nanos
    ).where(
        attempts.c.provider == group[0],
        attempts.c.requested_model == group[1],
        reservation.base_nanos + excess > reservation.nanos,
    )
    total = 0
    for attempt_id, nanos in connection.execute(raised).all():
        total += nanos
        connection.execute(
            budget_reservations.update()
            .where(budget_reservations.c.attempt_id == attempt_id)
            .values(nanos=budget_reservations.c.nanos + nanos)
        )
    _take(connection, batch_id, -total, 0, 0)


def release(connection: Connection, attempt_ids: Sequence[int]) -> None:
    """Gives back what was reserved for calls that never left."""
    batch_ids = {row["batch_id"] for row in _reserved(connection, attempt_ids)}
    _held(connection, batch_ids)
    found = _reserved(connection, attempt_ids) if batch_ids else []
    for batch_id in sorted(batch_ids):
        _take(connection, batch_id, sum(row["nanos"] for row in found if row["batch_id"] == batch_id), 0, 0)
    _forget(connection, found)


def _held(connection: Connection, batch_ids: Collection[int]) -> dict[int, RowMapping]:
    """The budgets of these batches, locked. On PostgreSQL those of all unfinished ones with them: one transaction of a worker comes here
    several times, each time for other batches, and would meet those of other workers in a circle."""
    ids = {"ids": list(batch_ids)}
    if not batch_ids:
        return {}
    if connection.dialect.name == "sqlite":
        query = _LOCK
    elif connection.execute(_CAPPED, ids).first() is None:
        return {}
    else:
        query = _LOCK_ALL
    return {row["batch_id"]: row for row in connection.execute(query, ids).mappings() if row["batch_id"] in batch_ids}


def _reserved(connection: Connection, attempt_ids: Sequence[int]) -> list[RowMapping]:
    return list(connection.execute(_RESERVED, {"ids": list(attempt_ids)}).mappings())


def _take(connection: Connection, batch_id: int, reserved: int, spent: int, assumed: int) -> None:
    """Frees what was reserved and adds what was spent, of which `assumed` is no known cost."""
    connection.execute(
        budgets.update()
        .where(budgets.c.batch_id == batch_id)
        .values(
            reserved_nanos=budgets.c.reserved_nanos - reserved,
            spent_nanos=budgets.c.spent_nanos + spent,
            assumed_nanos=sa.func.coalesce(budgets.c.assumed_nanos, 0) + assumed,
        )
    )


def _forget(connection: Connection, rows: Sequence[RowMapping]) -> None:
    if rows:
        ids = [row["attempt_id"] for row in rows]
        connection.execute(budget_reservations.delete().where(budget_reservations.c.attempt_id.in_(ids)))
