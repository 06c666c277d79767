"""Reconciliation: whether a batch's lines, jobs, results and ledger say the same, by set queries over chunks of positions.

It mends nothing and judges nobody's work: it only counts, and names the jobs that don't add up. Run it on a connection whose
statements all see the same moment (`Database.snapshot`); then it is right for a batch at work, too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from models.states import TERMINAL, BatchStatus, JobStatus, Outcome
from models.store import batches as batch_store
from models.store.endings import UNSTORABLE
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


@dataclass(frozen=True, slots=True)
class Difference:
    """Something that doesn't add up: `check` is its name for programs, `number` how often, `custom_ids` the first of the jobs."""

    check: str
    sentence: str
    number: int
    custom_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Calls:
    """The batch's calls of one outcome and currency ("" where no cost is known); `booked_tokens` by the limiter."""

    outcome: str
    currency: str
    calls: int
    booked_tokens: int
    cost_nanos: int


@dataclass(frozen=True, slots=True)
class Books:
    """What was found. `jobs` by state, `results` stored; it all adds up when there are no `differences`."""

    batch_id: int
    status: str
    total: int
    jobs: Mapping[str, int]
    results: int
    calls: tuple[Calls, ...]
    differences: tuple[Difference, ...]

    @property
    def open(self) -> int:
        """Jobs that haven't ended."""
        return sum(number for status, number in self.jobs.items() if status not in TERMINAL)

    @property
    def sentence(self) -> str:
        """All differences, for people; empty when there are none."""
        return "; ".join(difference.sentence for difference in self.differences)


_terminal = jobs.c.status.in_(TERMINAL)
_answer = attempts.alias("answer")
_kept = results.c.job_id.is_not(None)

_OF_JOBS: dict[str, tuple[sa.ColumnElement[bool], str, str]] = {
    "no_input": (job_inputs.c.job_id.is_(None), "job has no input", "jobs have no input"),
    "no_end": (
        sa.and_(_terminal, jobs.c.finished_at.is_(None)),
        "job has ended without a time",
        "jobs have ended without a time",
    ),
    "early_end": (
        sa.and_(sa.not_(_terminal), jobs.c.finished_at.is_not(None)),
        "open job has a time of its end",
        "open jobs have a time of their end",
    ),
    "no_reason": (
        sa.and_(jobs.c.status == JobStatus.FAILED, jobs.c.error_code.is_(None)),
        "job has failed without a reason",
        "jobs have failed without a reason",
    ),
    "no_result": (
        sa.and_(jobs.c.status == JobStatus.SUCCEEDED, results.c.job_id.is_(None)),
        "job has succeeded without a result",
        "jobs have succeeded without a result",
    ),
    "odd_result": (
        sa.and_(jobs.c.status != JobStatus.SUCCEEDED, _kept),
        "job has a result and hasn't succeeded",
        "jobs have a result and haven't succeeded",
    ),
    "wrong_call": (
        sa.and_(
            _kept,
            sa.or_(
                _answer.c.id.is_(None),
                _answer.c.job_id != jobs.c.id,
                _answer.c.batch_id != jobs.c.batch_id,
                _answer.c.outcome != Outcome.SUCCEEDED,
            ),
        ),
        "result isn't that of a call of its job that succeeded",
        "results aren't those of a call of their job that succeeded",
    ),
    "other_cost": (
        sa.and_(
            _kept,
            _answer.c.id.is_not(None),
            sa.or_(
                *(
                    results.c[name].is_distinct_from(_answer.c[name])
                    for name in ("input_tokens", "output_tokens", "cached_tokens", "cost_nanos", "currency")
                )
            ),
        ),
        "result has other tokens or another cost than its call",
        "results have other tokens or another cost than their calls",
    ),
}
"""What must not be, by job with its input, result and the result's call; in the singular and the plural."""

_OF_CALLS: dict[str, tuple[sa.ColumnElement[bool], str, str]] = {
    "future_call": (
        attempts.c.epoch > jobs.c.epoch,
        "call is of an epoch that its job hasn't reached",
        "calls are of epochs that their jobs haven't reached",
    ),
    "strange_call": (
        attempts.c.batch_id != jobs.c.batch_id,
        "call is booked on another batch than its job's",
        "calls are booked on other batches than their jobs'",
    ),
    "endless_call": (
        sa.and_(attempts.c.outcome != Outcome.UNKNOWN, attempts.c.finished_at.is_(None)),
        "call has an outcome and no time of its end",
        "calls have an outcome and no time of their end",
    ),
    "lost_answer": (
        sa.and_(
            attempts.c.outcome == Outcome.SUCCEEDED,
            results.c.attempt_id.is_distinct_from(attempts.c.id),
            attempts.c.epoch > jobs.c.rerun_epoch,  # else a person gave its answer up
            sa.func.coalesce(jobs.c.error_code, "") != UNSTORABLE,
        ),
        "call has succeeded and its answer isn't kept",
        "calls have succeeded and their answers aren't kept",
    ),
}
"""What must not be, by call with its job and the job's result."""

_SUMS = ("calls", "input_tokens", "output_tokens", "cost_nanos")


class Reconciliation:
    """Of one batch: `begin`, `chunk` until it says that nothing is left, `end`."""

    def __init__(self, batch_id: int, named: int = NAMED) -> None:
        self.batch_id = batch_id
        self._named = named
        self._next = 0
        self._last = -1
        self._jobs: Counter[str] = Counter()
        self._results = 0
        self._found: Counter[str] = Counter()
        self._names: dict[str, list[str]] = {}
        self._calls: dict[tuple[str, str], list[int]] = {}
        self._spent: dict[tuple[str, str], Counter[str]] = {}
        self._joined = 0

    def begin(self, connection: Connection) -> None:
        """Finds out how far the positions go."""
        last = sa.select(sa.func.max(jobs.c.position)).where(jobs.c.batch_id == self.batch_id)
        found = connection.execute(last).scalar_one_or_none()
        self._last = -1 if found is None else int(found)

    def chunk(self, connection: Connection) -> bool:
        """Reads the next jobs and calls. Whether any are left after these."""
        here = jobs.c.position.between(self._next, self._next + CHUNK - 1)
        self._next += CHUNK
        mine = (jobs.c.batch_id == self.batch_id, here)
        low, high = connection.execute(sa.select(sa.func.min(jobs.c.id), sa.func.max(jobs.c.id)).where(*mine)).one()
        if low is not None:
            self._read_jobs(connection, mine, low, high)
            self._read_calls(connection, mine, low, high)
        return self._next <= self._last

    def _read_jobs(self, connection: Connection, mine: tuple[sa.ColumnElement[bool], ...], low: int, high: int) -> None:
        # the ids' range, too, so that no planner joins a chunk with whole tables
        source = (
            jobs.outerjoin(
                job_inputs, sa.and_(job_inputs.c.job_id == jobs.c.id, job_inputs.c.job_id.between(low, high))
            )
            .outerjoin(results, sa.and_(results.c.job_id == jobs.c.id, results.c.job_id.between(low, high)))
            .outerjoin(_answer, sa.and_(_answer.c.id == results.c.attempt_id, _answer.c.job_id.between(low, high)))
        )
        query = (
            sa.select(
                jobs.c.status,
                sa.func.count(),
                sa.func.count(results.c.job_id),
                *(_number(condition) for condition, _, _ in _OF_JOBS.values()),
            )
            .select_from(source)
            .where(*mine)
            .group_by(jobs.c.status)
        )
        for status, number, kept, *found in connection.execute(query).all():
            self._jobs[status] += number
            self._results += kept
            self._note(connection, _OF_JOBS, found, source, mine)

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
                *(_number(condition) for condition, _, _ in _OF_CALLS.values()),
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
            self._note(connection, _OF_CALLS, row[10:], source, mine)

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
        """Compares the sums. Raises NotFoundError."""
        row = batch_store.get(connection, self.batch_id)
        found = [
            Difference(check, _told(self._found[check], one, many), self._found[check], tuple(self._names[check]))
            for checks in (_OF_JOBS, _OF_CALLS)
            for check, (_, one, many) in checks.items()
            if self._found[check]
        ]
        books = Books(
            batch_id=self.batch_id,
            status=str(row["status"]),
            total=int(row["total"]),
            jobs={status.value: self._jobs[status] for status in JobStatus if self._jobs[status]},
            results=self._results,
            calls=tuple(
                Calls(outcome, currency, number, booked, nanos)
                for (outcome, currency), (number, booked, nanos) in sorted(self._calls.items())
            ),
            differences=(),
        )
        found += self._in_the_batch(books, row["finished_at"])
        found += self._in_the_counters(connection)
        found += self._in_the_sums(connection)
        found += self._in_the_ledger(connection)
        found += self._in_the_budget(connection)
        return replace(books, differences=tuple(found))

    def _in_the_batch(self, books: Books, finished_at: float | None) -> list[Difference]:
        found = []
        there = sum(self._jobs.values())
        if there != books.total:
            found.append(
                Difference("total", f"the batch has {counted(there, 'job')} for {counted(books.total, 'line')}", 1)
            )
        if self._last + 1 != there:
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
        """A cap's `spent` is what ended calls cost; those whose end nobody knows count with what was reserved for them."""
        query = sa.select(budgets).where(budgets.c.batch_id == self.batch_id)
        budget = connection.execute(query).mappings().one_or_none()
        if budget is None:
            return []
        found = []
        known = sum(sums["cost_nanos"] for (_, money), sums in self._spent.items() if money == budget["currency"])
        ended_unknown = sa.select(sa.func.count()).where(
            attempts.c.batch_id == self.batch_id,
            attempts.c.outcome == sa.literal_column("'unknown'"),
            attempts.c.finished_at.is_not(None),
        )
        maybe = int(connection.execute(ended_unknown).scalar_one())
        spent = int(budget["spent_nanos"])
        if spent < known or (spent > known and not maybe):
            found.append(
                Difference("budget_spent", f"its cap counts {spent:,} nano-units as spent, the ledger {known:,}", 1)
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


def _number(condition: sa.ColumnElement[bool]) -> sa.ColumnElement[int]:
    return sa.func.coalesce(sa.func.sum(sa.case((condition, 1), else_=0)), 0)


def _sum(column: sa.ColumnElement[Any]) -> sa.ColumnElement[int]:
    return sa.func.coalesce(sa.func.sum(column), 0)


def _told(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"
