"""Counting anew, from jobs and ledger, what is only counted along: a batch's counters and running sums.

Nothing else of a batch is ever mended by a program; what differs otherwise is for a person to judge.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from models.states import EMPTY_ANSWER, TERMINAL, BatchStatus, JobStatus, Outcome
from models.store.batches import SHARDS
from models.tables import attempts, batch_counts, batch_spend, batches, budgets, jobs, results


def recount(connection: Connection, batch_id: int) -> None:
    """Sets a batch's counters and sums to what its rows say. A batch that was finalizing with jobs that haven't ended runs again."""
    # the batch first, as a rerun locks it; whoever ends a job or a call in between waits at the counters, and counts after us
    held = sa.select(batches.c.id).where(batches.c.id == batch_id).with_for_update(key_share=True)
    if connection.execute(held).first() is None:
        return
    there = set(
        connection.execute(sa.select(batch_counts.c.shard).where(batch_counts.c.batch_id == batch_id)).scalars()
    )
    if missing := [shard for shard in range(SHARDS) if shard not in there]:
        connection.execute(batch_counts.insert(), [{"batch_id": batch_id, "shard": shard} for shard in missing])
    for table in (batch_counts, batch_spend):
        query = sa.select(table.c.shard).where(table.c.batch_id == batch_id).order_by(*table.primary_key)
        connection.execute(query.with_for_update()).all()
    counted: dict[str, int] = {
        status: int(number)
        for status, number in connection.execute(
            sa.select(jobs.c.status, sa.func.count()).where(jobs.c.batch_id == batch_id).group_by(jobs.c.status)
        )
    }
    empty = connection.execute(
        sa.select(sa.func.count())
        .select_from(results.join(attempts, attempts.c.id == results.c.attempt_id))
        .where(attempts.c.batch_id == batch_id, attempts.c.error_code == EMPTY_ANSWER)
    ).scalar_one()
    # updated, not replaced: who waits for these rows must find them again
    for shard, numbers in ((0, counted), *((shard, {}) for shard in range(1, SHARDS))):
        connection.execute(
            batch_counts.update()
            .where(batch_counts.c.batch_id == batch_id, batch_counts.c.shard == shard)
            .values(
                succeeded=numbers.get(JobStatus.SUCCEEDED, 0),
                failed=numbers.get(JobStatus.FAILED, 0),
                cancelled=numbers.get(JobStatus.CANCELLED, 0),
                empty=int(empty) if shard == 0 else 0,
            )
        )
    connection.execute(batch_spend.delete().where(batch_spend.c.batch_id == batch_id))
    connection.execute(
        batch_spend.insert().from_select(
            [
                "batch_id",
                "shard",
                "provider",
                "currency",
                "succeeded",
                "calls",
                "input_tokens",
                "output_tokens",
                "cost_nanos",
            ],
            _ledger(batch_id),
        )
    )
    _recount_budget(connection, batch_id)
    if sum(number for status, number in counted.items() if status not in TERMINAL):
        connection.execute(
            batches.update()
            .where(batches.c.id == batch_id, batches.c.status == BatchStatus.FINALIZING)
            .values(status=BatchStatus.RUNNING, finalizer=None, checked_at=None, problem=None)
        )


def _recount_budget(connection: Connection, batch_id: int) -> None:
    """A cap's `spent` is what the ledger shows, and what is assumed of calls whose cost nobody knows; those that ended under older code may
    have cost more."""
    assumed = sa.func.coalesce(sa.func.max(budgets.c.assumed_nanos), 0)
    known = sa.func.coalesce(sa.func.sum(batch_spend.c.cost_nanos), 0) + assumed
    budget = sa.select(budgets.c.spent_nanos, known).join(
        batch_spend,
        sa.and_(batch_spend.c.batch_id == budgets.c.batch_id, batch_spend.c.currency == budgets.c.currency),
        isouter=True,
    )
    row = connection.execute(budget.where(budgets.c.batch_id == batch_id).group_by(budgets.c.spent_nanos)).one_or_none()
    if row is None:
        return
    lost = sa.select(attempts.c.id).where(
        attempts.c.batch_id == batch_id,
        sa.literal_column(f"outcome = '{Outcome.UNKNOWN}'"),  # literal, or the partial index isn't used
        attempts.c.finished_at.is_not(None),
    )
    maybe_more = connection.execute(lost.limit(1)).first() is not None
    spent = max(int(row[0]), int(row[1])) if maybe_more else int(row[1])
    connection.execute(budgets.update().where(budgets.c.batch_id == batch_id).values(spent_nanos=spent))


def _ledger(batch_id: int) -> sa.Select[tuple[int, int, str, str, int, int, int, int, int]]:
    currency = sa.func.coalesce(attempts.c.currency, "")
    return (
        sa.select(
            sa.literal(batch_id, sa.BigInteger),
            sa.literal(0, sa.Integer),
            attempts.c.provider,
            currency,
            sa.func.count(results.c.job_id),
            sa.func.count(),
            *(
                sa.cast(sa.func.coalesce(sa.func.sum(attempts.c[name]), 0), sa.BigInteger)
                for name in ("input_tokens", "output_tokens", "cost_nanos")
            ),
        )
        .select_from(
            attempts.outerjoin(
                results, sa.and_(results.c.job_id == attempts.c.job_id, results.c.attempt_id == attempts.c.id)
            )
        )
        .where(attempts.c.batch_id == batch_id, attempts.c.outcome != Outcome.UNKNOWN)
        .group_by(attempts.c.provider, currency)
    )
