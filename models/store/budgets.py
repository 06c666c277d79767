"""Budgets: a batch's cap on what it may cost, held by all workers together.

Before a call leaves, what it may cost is reserved in the transaction that announces it; when it ends, the reservation gives way to
what it did cost. A call whose end nobody knows keeps its reservation: it may have been billed. Batches without a cap have no row.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from models.money import format_money
from models.prices import Cost
from models.states import RUNNABLE, UNFINISHED, BatchStatus, JobStatus, Outcome
from models.tables import attempts, batch_counts, batch_spend, batches, budget_reservations, budgets, jobs

OF_ITS_CAP = "of its cap"
"""In the reason of a pause: the cap has to be raised before the batch can go on."""


class Reservable(Protocol):
    """A call about to leave, and what it may cost: None if nobody can say."""

    @property
    def attempt_id(self) -> int: ...
    @property
    def job_id(self) -> int: ...
    @property
    def batch_id(self) -> int: ...
    @property
    def may_cost(self) -> Callable[[], Cost | None]: ...


@dataclass(frozen=True, slots=True)
class Settled:
    """How a call ended for its budget: `cost_nanos` None when it is unknown or unpriced, then the reservation counts as spent."""

    attempt_id: int
    cost_nanos: int | None
    currency: str | None
    known: bool


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


def reserve(connection: Connection, calls: Sequence[Reservable]) -> set[int]:
    """Reserves what these calls may cost. The attempt ids of those that their batch can't afford now.

    A batch that can't afford its next call while none of its calls is under way is paused, with the reason.
    """
    capped = _held(connection, {call.batch_id for call in calls})
    refused: set[int] = set()
    for batch_id, budget in capped.items():
        free = budget["most_nanos"] - budget["spent_nanos"] - budget["reserved_nanos"]
        taken: list[tuple[int, int]] = []
        reason: str | None = None
        for call in calls:
            if call.batch_id != batch_id:
                continue
            cost = call.may_cost()
            if cost is None or cost.currency != budget["currency"]:
                reason = f"a call has no price in {budget['currency']}, so its cost can't be capped"
            elif cost.nanos > free:
                left = format_money(max(free, 0), budget["currency"])
                reason = reason or f"the next call may cost more than the {left} that are left {OF_ITS_CAP}"
            else:
                free -= cost.nanos
                taken.append((call.attempt_id, cost.nanos))
                continue
            refused.add(call.attempt_id)
        if taken:
            connection.execute(
                budget_reservations.insert(),
                [{"attempt_id": attempt, "batch_id": batch_id, "nanos": nanos} for attempt, nanos in taken],
            )
            connection.execute(
                budgets.update()
                .where(budgets.c.batch_id == batch_id)
                .values(reserved_nanos=budgets.c.reserved_nanos + sum(nanos for _, nanos in taken))
            )
        elif reason and not _under_way(connection, batch_id):
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
                .values(status=BatchStatus.PAUSED, paused_reason=f"{reason} (cap: {most})")
            )
    return refused


def _under_way(connection: Connection, batch_id: int) -> bool:
    """Whether a call of the batch has been announced and not ended, by a worker that still holds its job."""
    query = (
        sa.select(budget_reservations.c.attempt_id)
        .join(attempts, attempts.c.id == budget_reservations.c.attempt_id)
        .join(jobs, sa.and_(jobs.c.id == attempts.c.job_id, jobs.c.epoch == attempts.c.epoch))
        .where(budget_reservations.c.batch_id == batch_id, jobs.c.status == JobStatus.RUNNING)
        .limit(1)
    )
    return connection.execute(query).first() is not None


def settle(connection: Connection, ended: Sequence[Settled]) -> None:
    """Puts what calls did cost in the place of what was reserved for them."""
    found = _reserved(connection, [one.attempt_id for one in ended])
    by_id = {one.attempt_id: one for one in ended}
    batch_ids = sorted({row["batch_id"] for row in found})
    if not batch_ids:
        return
    currency_of = {batch_id: row["currency"] for batch_id, row in _held(connection, batch_ids).items()}
    for batch_id in batch_ids:
        mine = [row for row in found if row["batch_id"] == batch_id]
        cost = 0
        for row in mine:
            end = by_id[row["attempt_id"]]
            if not end.known:
                cost += row["nanos"]
            elif end.currency == currency_of[batch_id]:  # one that left before the cap may be priced in another
                cost += end.cost_nanos or 0
        _take(connection, batch_id, sum(row["nanos"] for row in mine), cost)
    _forget(connection, found)


def release(connection: Connection, attempt_ids: Sequence[int]) -> None:
    """Gives back what was reserved for calls that never left."""
    found = _reserved(connection, attempt_ids)
    _held(connection, {row["batch_id"] for row in found})
    for batch_id in sorted({row["batch_id"] for row in found}):
        _take(connection, batch_id, sum(row["nanos"] for row in found if row["batch_id"] == batch_id), 0)
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


def _take(connection: Connection, batch_id: int, reserved: int, cost: int) -> None:
    connection.execute(
        budgets.update()
        .where(budgets.c.batch_id == batch_id)
        .values(reserved_nanos=budgets.c.reserved_nanos - reserved, spent_nanos=budgets.c.spent_nanos + cost)
    )


def _forget(connection: Connection, rows: Sequence[RowMapping]) -> None:
    if rows:
        ids = [row["attempt_id"] for row in rows]
        connection.execute(budget_reservations.delete().where(budget_reservations.c.attempt_id.in_(ids)))
