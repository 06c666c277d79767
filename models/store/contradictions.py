"""What must not be, by job and by call: conditions, each with its sentence, that `models.store.reconciliation` counts.

It reads nothing itself.
"""

from __future__ import annotations

import sqlalchemy as sa

from models.states import TERMINAL, JobStatus, Outcome
from models.store.endings import UNSTORABLE
from models.tables import attempts, job_inputs, jobs, results

NUMBERS = (
    "booked_tokens",
    "input_tokens",
    "output_tokens",
    "cached_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
    "cost_nanos",
    "latency_ms",
)
"""What a call counts."""

_terminal = jobs.c.status.in_(TERMINAL)
answer = attempts.alias("answer")
_kept = results.c.job_id.is_not(None)

OF_JOBS: dict[str, tuple[sa.ColumnElement[bool], str, str]] = {
    "odd_state": (
        jobs.c.status.not_in(tuple(JobStatus)),
        "job is in a state that there is none of",
        "jobs are in states that there are none of",
    ),
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
                answer.c.id.is_(None),
                answer.c.job_id != jobs.c.id,
                answer.c.batch_id != jobs.c.batch_id,
                answer.c.outcome != Outcome.SUCCEEDED,
            ),
        ),
        "result isn't that of a call of its job that succeeded",
        "results aren't those of a call of their job that succeeded",
    ),
    "other_cost": (
        sa.and_(
            _kept,
            answer.c.id.is_not(None),
            sa.or_(
                *(
                    results.c[name].is_distinct_from(answer.c[name])
                    for name in ("input_tokens", "output_tokens", "cached_tokens", "cost_nanos", "currency")
                )
            ),
        ),
        "result has other tokens or another cost than its call",
        "results have other tokens or another cost than their calls",
    ),
}
"""What must not be, by job with its input, result and the result's call; in the singular and the plural."""

UNREADABLE = "unreadable"

OF_ANSWERS: dict[str, tuple[str, str]] = {
    UNREADABLE: ("answer is damaged: it can't be unpacked", "answers are damaged: they can't be unpacked"),
}
"""What must not be, by answer: no condition tells, they have to be read."""

OF_CALLS: dict[str, tuple[sa.ColumnElement[bool], str, str]] = {
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
    "odd_outcome": (
        attempts.c.outcome.not_in(tuple(Outcome)),
        "call has an outcome that there is none of",
        "calls have outcomes that there are none of",
    ),
    "negative": (
        sa.or_(*(attempts.c[name] < 0 for name in NUMBERS)),
        "call has used or cost less than nothing",
        "calls have used or cost less than nothing",
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
