"""Values that a column isn't for: text or infinity for a number, bytes for a text. Only SQLite takes such; a program of ours writes none.

It mends nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from models.tables import (
    attempts,
    batch_counts,
    batch_spend,
    batches,
    budget_estimates,
    budget_reservations,
    budgets,
    job_inputs,
    jobs,
    results,
)

NAMED = 5


@dataclass(frozen=True, slots=True)
class Damaged:
    """So many rows of a table in which a column holds no `wanted` (number, text). The first of the jobs, where they are rows of jobs."""

    table: str
    column: str
    wanted: str
    number: int
    custom_ids: tuple[str, ...] = ()


def damaged(connection: Connection, batch_id: int) -> list[Damaged]:
    """What is damaged among a batch's rows. Reads all of them."""
    if connection.dialect.name != "sqlite":
        return []
    of_batch = sa.select(jobs.c.id).where(jobs.c.batch_id == batch_id)
    mine: dict[sa.Table, sa.ColumnElement[bool]] = {
        batches: batches.c.id == batch_id,
        **{table: table.c.batch_id == batch_id for table in (batch_counts, batch_spend, jobs, attempts)},
        **{table: table.c.batch_id == batch_id for table in (budgets, budget_reservations, budget_estimates)},
        **{table: table.c.job_id.in_(of_batch) for table in (job_inputs, results)},
    }
    found = []
    for table, these in mine.items():
        odds = {column: _odd(column) for column in table.columns}
        query = sa.select(*(sa.func.count(sa.case((odd, 1))) for _, odd in odds.values())).where(these)
        numbers = connection.execute(query.select_from(table)).one()
        for (column, (wanted, odd)), number in zip(odds.items(), numbers, strict=True):
            if number:
                names: tuple[str, ...] = ()
                if table is jobs and column is not jobs.c.custom_id:
                    named = sa.select(jobs.c.custom_id).where(these, odd).order_by(jobs.c.id).limit(NAMED)
                    names = tuple(map(str, connection.execute(named).scalars()))
                found.append(Damaged(table.name, column.name, wanted, int(number), names))
    return found


def _odd(column: sa.Column[object]) -> tuple[str, sa.ColumnElement[bool]]:
    """What the column is for, and the condition that a row's value is something else."""
    kind = sa.func.typeof(column)
    if isinstance(column.type, sa.Integer):
        return "whole number", kind.not_in(("integer", "null"))
    if isinstance(column.type, (sa.Float, sa.Numeric)):  # Double, too; infinity is none
        finite = sa.cast(column, sa.Double).between(-1e300, 1e300)
        return "number", sa.or_(kind.not_in(("integer", "real", "null")), sa.not_(finite))
    if isinstance(column.type, sa.LargeBinary):
        return "bytes", kind.not_in(("blob", "null"))
    return "text", kind.not_in(("text", "null"))
