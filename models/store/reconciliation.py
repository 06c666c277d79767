"""Reconciliation: whether a batch's lines, jobs, results and ledger say the same, by set queries over chunks of positions, and
whether each answer unpacks to its end.

It mends nothing and judges nobody's work: it only counts, and names the jobs that don't add up. Run it on a connection whose
statements all see the same moment (`Database.snapshot`); then it is right for a batch at work, too.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping
from sqlalchemy.exc import OperationalError

from models.packing import Unpacker
from models.states import BatchStatus, JobStatus, Outcome
from models.store import answers
from models.store import batches as batch_store
from models.store.books import Books, Calls, Difference
from models.store.contradictions import OF_ANSWERS, OF_CALLS, OF_JOBS, UNREADABLE, answer
from models.store.damage import Damaged, damaged
from models.tables import (
    attempts,
    batch_counts,
    budget_reservations,
    budgets,
    job_inputs,
    jobs,
    results,
)
from models.wording import counted

CHUNK = 20_000
"""Positions a query: small enough that whoever reconciles can show in between that it lives."""

NAMED = 5


_NO_NUMBER = (ValueError, TypeError, OverflowError)
"""What Python says of a column's value that isn't what the column is for."""

_UNSUMMABLE = Difference("damaged", "its rows hold numbers that can't be summed", 1)

_SUMS = ("calls", "input_tokens", "output_tokens", "cost_nanos")


class Reconciliation:
    """Of one batch: `begin`, `chunk` until it says that nothing is left, `end`. `unpacking`: reads all answers, too."""

    def __init__(self, batch_id: int, named: int = NAMED, *, unpacking: bool = True) -> None:
        self.batch_id = batch_id
        self._named = named
        self._next = 0
        self._first, self._last = 0, -1
        self._damaged = False
        self._jobs: Counter[str] = Counter()
        self._results = 0
        self._found: Counter[str] = Counter()
        self._names: dict[str, list[str]] = {}
        self._calls: dict[tuple[str, str], list[int]] = {}
        self._spent: dict[tuple[str, str], Counter[str]] = {}
        self._joined = 0
        self._unpack = Unpacker() if unpacking else None
        self._unread: deque[list[int]] = deque()

    def begin(self, connection: Connection) -> None:
        """Finds out how far the positions go."""
        bounds = sa.select(sa.func.min(jobs.c.position), sa.func.max(jobs.c.position))
        first, last = connection.execute(bounds.where(jobs.c.batch_id == self.batch_id)).one()
        if first is None:
            return
        try:
            self._first, self._last = int(first), int(last)
        except _NO_NUMBER:
            self._damaged = True
        self._next = self._first

    def chunk(self, connection: Connection) -> bool:
        """Reads the next jobs and calls, or some of their answers. Whether anything is left after these."""
        if self._damaged or not (self._unread or self._next <= self._last):
            return False
        try:
            if self._unpack and self._unread:
                self._read_answers(connection, self._unread.popleft(), self._unpack)
            else:
                self._read_rows(connection)
        except (*_NO_NUMBER, OperationalError) as error:
            _unless_damaged(error)
            self._damaged = True
        return not self._damaged and bool(self._unread or self._next <= self._last)

    def _read_rows(self, connection: Connection) -> None:
        end = min(self._next + CHUNK - 1, self._last)
        mine = (jobs.c.batch_id == self.batch_id, jobs.c.position.between(self._next, end))
        low, high = connection.execute(sa.select(sa.func.min(jobs.c.id), sa.func.max(jobs.c.id)).where(*mine)).one()
        if low is not None:
            self._read_jobs(connection, mine, low, high)
            self._read_calls(connection, mine, low, high)
            if self._unpack:
                self._unread.extend(answers.portions(connection, mine, low, high))
        # a gap of any size is one step
        behind = sa.select(sa.func.min(jobs.c.position)).where(jobs.c.batch_id == self.batch_id, jobs.c.position > end)
        following = connection.execute(behind).scalar_one_or_none()
        self._next = self._last + 1 if following is None else int(following)

    def _read_jobs(self, connection: Connection, mine: tuple[sa.ColumnElement[bool], ...], low: int, high: int) -> None:
        # the ids' range, too, so that no planner joins a chunk with whole tables
        source = (
            jobs.outerjoin(
                job_inputs, sa.and_(job_inputs.c.job_id == jobs.c.id, job_inputs.c.job_id.between(low, high))
            )
            .outerjoin(results, sa.and_(results.c.job_id == jobs.c.id, results.c.job_id.between(low, high)))
            .outerjoin(answer, sa.and_(answer.c.id == results.c.attempt_id, answer.c.job_id.between(low, high)))
        )
        query = (
            sa.select(
                jobs.c.status,
                sa.func.count(),
                sa.func.count(results.c.job_id),
                *(_number(condition) for condition, _, _ in OF_JOBS.values()),
            )
            .select_from(source)
            .where(*mine)
            .group_by(jobs.c.status)
        )
        for status, number, kept, *found in connection.execute(query).all():
            self._jobs[status] += number
            self._results += kept
            self._note(connection, OF_JOBS, found, source, mine)

    def _read_calls(
        self, connection: Connection, mine: tuple[sa.ColumnElement[bool], ...], low: int, high: int
    ) -> None:
        source = jobs.join(
            attempts, sa.and_(attempts.c.job_id == jobs.c.id, attempts.c.job_id.between(low, high))
        ).outerjoin(results, sa.and_(results.c.job_id == jobs.c.id, results.c.job_id.between(low, high)))
        currency = sa.func.coalesce(attempts.c.currency, "")
        query = (
            sa.select(
                attempts.c.provider,
                currency,
                attempts.c.outcome,
                sa.func.count(),
                _number(attempts.c.batch_id == jobs.c.batch_id),
                _number(results.c.attempt_id == attempts.c.id),
                *(_sum(attempts.c[name]) for name in ("booked_tokens", *_SUMS[1:])),
                *(_number(condition) for condition, _, _ in OF_CALLS.values()),
            )
            .select_from(source)
            .where(*mine)
            .group_by(attempts.c.provider, currency, attempts.c.outcome)
        )
        for row in connection.execute(query).all():
            provider, money, outcome, number, joined, kept, booked, tokens_in, tokens_out, nanos = row[:10]
            self._joined += joined
            sums = self._calls.setdefault((outcome, money), [0, 0, 0])
            for index, value in enumerate((number, booked, nanos)):
                sums[index] += int(value)
            if outcome != Outcome.UNKNOWN:
                values = (number, tokens_in, tokens_out, nanos)
                spent = self._spent.setdefault((provider, money), Counter())
                spent.update({"succeeded": kept, **dict(zip(_SUMS, map(int, values), strict=True))})
            self._note(connection, OF_CALLS, row[10:], source, mine)

    def _read_answers(self, connection: Connection, portion: list[int], unpack: Unpacker) -> None:
        found = answers.damaged(connection, portion, unpack)
        if not found:
            return
        self._found[UNREADABLE] += len(found)
        names = self._names.setdefault(UNREADABLE, [])
        query = sa.select(jobs.c.custom_id).where(jobs.c.id.in_(found)).order_by(jobs.c.position)
        names.extend(connection.execute(query.limit(self._named - len(names))).scalars())

    def _note(
        self,
        connection: Connection,
        checks: Mapping[str, tuple[sa.ColumnElement[bool], str, str]],
        found: Any,
        source: sa.FromClause,
        mine: tuple[sa.ColumnElement[bool], ...],
    ) -> None:
        for (check, (condition, _, _)), number in zip(checks.items(), found, strict=True):
            if not number:
                continue
            self._found[check] += int(number)
            names = self._names.setdefault(check, [])
            if len(names) < self._named:
                query = sa.select(jobs.c.custom_id).select_from(source).where(*mine, condition)
                query = query.order_by(jobs.c.position).limit(self._named + len(names))
                for custom_id in connection.execute(query).scalars():
                    if custom_id not in names and len(names) < self._named:
                        names.append(custom_id)

    def end(self, connection: Connection) -> Books:
        """Compares the sums. Raises NotFoundError.

        Where rows hold what no program of ours writes (SQLite takes text for a number), only these are told: nothing can be summed.
        """
        row = batch_store.get(connection, self.batch_id)
        if not self._damaged:
            try:
                return self._compared(connection, row)
            except (*_NO_NUMBER, OperationalError) as error:
                _unless_damaged(error)
        return self._books(row, tuple(map(_damage, damaged(connection, self.batch_id))) or (_UNSUMMABLE,))

    def _compared(self, connection: Connection, row: RowMapping) -> Books:
        found = [
            Difference(check, _told(self._found[check], one, many), self._found[check], tuple(self._names[check]))
            for checks in (OF_JOBS, OF_ANSWERS, OF_CALLS)
            for check, (*_, one, many) in checks.items()
            if self._found[check]
        ]
        books = self._books(row, ())
        found += self._in_the_batch(books, row["finished_at"])
        found += self._in_the_counters(connection)
        found += self._in_the_sums(connection)
        found += self._in_the_ledger(connection)
        found += self._in_the_budget(connection)
        return replace(books, differences=tuple(found))

    def _books(self, row: RowMapping, differences: tuple[Difference, ...]) -> Books:
        return Books(
            batch_id=self.batch_id,
            status=str(row["status"]),
            total=row["total"] if differences and not isinstance(row["total"], int) else int(row["total"]),
            jobs={
                **{status.value: self._jobs[status] for status in JobStatus if self._jobs[status]},
                **{str(status): number for status, number in self._jobs.items() if status not in tuple(JobStatus)},
            },
            results=self._results,
            calls=tuple(
                Calls(outcome, currency, number, booked, nanos)
                for (outcome, currency), (number, booked, nanos) in sorted(self._calls.items())
            ),
            differences=differences,
        )

    def _in_the_batch(self, books: Books, finished_at: float | None) -> list[Difference]:
        found = []
        if books.status not in tuple(BatchStatus):
            found.append(Difference("batch_state", f"the batch is {books.status!r}, and there is no such state", 1))
        there = sum(self._jobs.values())
        if there != books.total:
            found.append(
                Difference("total", f"the batch has {counted(there, 'job')} for {counted(books.total, 'line')}", 1)
            )
        if self._first != 0 or self._last + 1 != there:
            found.append(
                Difference("positions", f"the {there:,} positions don't go from 0 to {there - 1:,} without a gap", 1)
            )
        ended = finished_at is not None or books.status in (BatchStatus.COMPLETED, BatchStatus.FINALIZING)
        if ended and books.open:
            found.append(
                Difference("open_jobs", f"{counted(books.open, 'job')} of a batch that has ended haven't", books.open)
            )
        if books.status == BatchStatus.COMPLETED and finished_at is None:
            found.append(Difference("batch_end", "the batch is completed without a time", 1))
        return found

    def _in_the_counters(self, connection: Connection) -> list[Difference]:
        names = ("succeeded", "failed", "cancelled")
        query = sa.select(*(_sum(batch_counts.c[name]) for name in names)).where(
            batch_counts.c.batch_id == self.batch_id
        )
        return [
            Difference(
                "counters",
                f"{counted(value, 'job')} {'is' if value == 1 else 'are'} counted as {name}, {self._jobs[name]:,} in truth",
                abs(value - self._jobs[name]),
            )
            for name, value in zip(names, map(int, connection.execute(query).one()), strict=True)
            if value != self._jobs[name]
        ]

    def _in_the_sums(self, connection: Connection) -> list[Difference]:
        names = ("succeeded", *_SUMS)
        kept = {
            (row["provider"], row["currency"]): {name: int(row[name]) for name in names}
            for row in batch_store.spend(connection, self.batch_id)
        }
        found = []
        for provider, currency in sorted(kept.keys() | self._spent.keys()):
            running, ledger = kept.get((provider, currency), {}), self._spent.get((provider, currency), Counter())
            wrong = [
                f"{name.replace('_', ' ')} {running.get(name, 0):,} instead of {ledger[name]:,}"
                for name in names
                if running.get(name, 0) != ledger[name]
            ]
            if wrong:
                where = f"{provider} in {currency}" if currency else f"{provider} without a price"
                found.append(
                    Difference("sums", f"the running sums of {where} differ from its ledger: {', '.join(wrong)}", 1)
                )
        return found

    def _in_the_ledger(self, connection: Connection) -> list[Difference]:
        """Calls that are booked on this batch, and whose job isn't one of it."""
        booked = sa.select(sa.func.count()).select_from(attempts).where(attempts.c.batch_id == self.batch_id)
        missing = int(connection.execute(booked).scalar_one()) - self._joined
        if not missing:
            return []
        sentence = f"{_told(missing, 'call is', 'calls are')} booked on this batch without a job of it"
        return [Difference("orphan_call", sentence, missing)]

    def _in_the_budget(self, connection: Connection) -> list[Difference]:
        """A cap's `spent` is what ended calls cost; those whose cost nobody knows count with what was reserved for them."""
        query = sa.select(budgets).where(budgets.c.batch_id == self.batch_id)
        budget = connection.execute(query).mappings().one_or_none()
        if budget is None:
            return []
        found = []
        known = sum(sums["cost_nanos"] for (_, money), sums in self._spent.items() if money == budget["currency"])
        known += int(budget["assumed_nanos"] or 0)
        ended_unknown = sa.select(sa.func.count()).where(
            attempts.c.batch_id == self.batch_id,
            attempts.c.outcome == sa.literal_column("'unknown'"),
            attempts.c.finished_at.is_not(None),
        )
        maybe = int(connection.execute(ended_unknown).scalar_one())
        spent = int(budget["spent_nanos"])
        if spent < known or (spent > known and not maybe):
            found.append(
                Difference(
                    "budget_spent",
                    f"its cap counts {spent:,} nano-units as spent, the ledger (with what is assumed of unpriced calls) {known:,}",
                    1,
                )
            )
        reserved = connection.execute(
            sa.select(_sum(budget_reservations.c.nanos)).where(budget_reservations.c.batch_id == self.batch_id)
        ).scalar_one()
        if int(reserved) != int(budget["reserved_nanos"]):
            found.append(
                Difference(
                    "budget_reserved",
                    f"its cap counts {budget['reserved_nanos']:,} nano-units as reserved, its reservations {int(reserved):,}",
                    1,
                )
            )
        return found


def _unless_damaged(error: Exception) -> None:
    """Raises an error of the database again that says nothing of what is in the rows."""
    if isinstance(error, OperationalError) and "overflow" not in str(error.orig):
        raise error


def _damage(found: Damaged) -> Difference:
    sentence = f"{counted(found.number, 'row')} of {found.table} {'holds' if found.number == 1 else 'hold'} no {found.wanted} in {found.column}"
    return Difference("damaged", sentence, found.number, found.custom_ids)


def _number(condition: sa.ColumnElement[bool]) -> sa.ColumnElement[int]:
    return sa.func.coalesce(sa.func.sum(sa.case((condition, 1), else_=0)), 0)


def _sum(column: sa.ColumnElement[Any]) -> sa.ColumnElement[int]:
    return sa.func.coalesce(sa.func.sum(column), 0)


def _told(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"
