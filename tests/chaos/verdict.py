"""What came of a scenario, from the two that saw everything: the sandbox's own log and the database.

It neither waits nor asks the workers: by now every row has ended and no call is open.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

import sqlalchemy as sa

from models.finalizing import reconcile
from models.request import SIMPLE
from models.states import JobStatus, Outcome
from models.tables import attempts, batches, job_inputs, jobs, results
from tests.acceptance.truth import _prompt as prompt_of
from tests.acceptance.truth import assert_ledger_is_the_log
from tests.chaos.figures import Figures
from tests.chaos.ground import Ground, Kill, Row
from worker.sandbox.quotas import key_name
from worker.sandbox.replies import prompt_sha

NOTICED_SECONDS = 3.0
"""So long a starved sandbox may take to see that a connection is closed, or to send replies into it that were due."""
ANSWERED_SECONDS = 2.0
"""So long a starved worker may take to record a reply. One that is older and not recorded wasn't in flight: it was lost."""
SPOILT = {
    *("reset", "hang", "truncated", "rubbish", "empty", "error_in_200", "cut_stream", "stalled_stream", "no_done"),
    *("no_finish", "malformed_chunk", "gigantic"),
}
"""Faults of the sandbox after which nobody can know the answer."""
SETTLED = {Outcome.UNKNOWN, Outcome.FENCED}


def judge(ground: Ground) -> Figures:
    """The figures of a ground on which all is over."""
    calls = ground.log()
    ledger = ground.rows(sa.select(attempts))
    shas = {row["job_id"]: prompt_sha(prompt_of(row["body"], SIMPLE)) for row in ground.rows(sa.select(job_inputs))}
    by_sha: dict[str, list[Row]] = defaultdict(list)
    for row in ledger:
        by_sha[shas[row["job_id"]]].append(row)
    made: dict[str, list[Row]] = defaultdict(list)
    for call in calls:
        if not refused(call):
            made[call["prompt_sha"]].append(call)
    extra = {sha: len(rows) - 1 for sha, rows in made.items() if len(rows) > 1}
    shown = {sha: sum(row["outcome"] in SETTLED for row in rows) for sha, rows in by_sha.items()}
    recorded = {sha: sum(row["outcome"] != Outcome.UNKNOWN for row in rows) for sha, rows in by_sha.items()}
    different, told = difference(ground, Counter(row["outcome"] for row in ledger)[Outcome.UNKNOWN])
    ended = ground.rows(sa.select(jobs.c.status, sa.func.count().label("n")).group_by(jobs.c.status))
    states = {row["status"]: int(row["n"]) for row in ended}
    failed = states.get(JobStatus.FAILED, 0)
    broken = list(ground.broken)
    if failed > ground.may_fail:
        codes = ground.rows(sa.select(jobs.c.error_code, jobs.c.error_message).where(jobs.c.status == JobStatus.FAILED))
        broken.append(f"{failed} rows failed, {ground.may_fail} may: {codes[:3]}")
    broken += [f"a worker ended by itself: exit code {w.process.returncode}" for w in ground.unexpected()]
    return Figures(
        scenario=ground.name,
        database=ground.kind,
        seed=ground.seed,
        kills=len(ground.kills),
        strikes=len(ground.strikes),
        rows=ground.expected,
        lost=lost(ground, states),
        doubled=doubled(ground, ledger),
        extra=sum(extra.values()),
        allowed=ground.allowed,
        in_flight=in_flight(calls, ground.kills, recorded),
        unseen=sum(max(0, count - shown.get(sha, 0)) for sha, count in extra.items()),
        ledger_difference=different,
        limit_overshoot=overshoot(ground, calls),
        seconds=round(time.monotonic() - ground.began, 1),
        broken=tuple(broken),
        remarks=(*ground.remarks, *told),
    )


def refused(call: Row) -> bool:
    """Whether the provider said no and billed nothing, or spoilt its answer; a second call after that isn't one too many."""
    said_no = call["status"] is not None and call["status"] >= 400 and not call["billed"]
    return said_no or call["fault"] in SPOILT


def lost(ground: Ground, states: Mapping[str, int]) -> int:
    """Rows without an outcome, and successes without a result."""
    ended = sum(states.get(one, 0) for one in (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED))
    kept = ground.number(sa.select(sa.func.count()).select_from(results))
    return max(0, ground.expected - ended) + abs(states.get(JobStatus.SUCCEEDED, 0) - kept)


def doubled(ground: Ground, ledger: Iterable[Row]) -> int:
    """Rows whose outcome was won twice, or that are there twice."""
    won = Counter(row["job_id"] for row in ledger if row["outcome"] == Outcome.SUCCEEDED)
    twice = (
        sa.select(sa.func.count())
        .select_from(jobs)
        .group_by(jobs.c.batch_id, jobs.c.custom_id)
        .having(sa.func.count() > 1)
    )
    return sum(count > 1 for count in won.values()) + len(ground.rows(twice)) + max(0, total(ground) - ground.expected)


def total(ground: Ground) -> int:
    """Rows in the database."""
    return ground.number(sa.select(sa.func.count()).select_from(jobs))


def in_flight(calls: Iterable[Row], kills: Iterable[Kill], recorded: Mapping[str, int]) -> int:
    """Calls of killed workers that weren't recorded yet: their connection broke at a kill; or the whole reply went out around
    one, and of this prompt more replies went out than the ledger has `recorded`."""
    moments = [kill.at for kill in kills]
    count = 0
    whole: Counter[str] = Counter()
    answered: Counter[str] = Counter()
    for call in calls:
        if refused(call):
            continue
        at, end, sha = call["at"], call["finished_at"], call["prompt_sha"]
        if not call["sent_whole"]:
            count += any(at <= k + NOTICED_SECONDS and k - 0.01 <= end <= k + NOTICED_SECONDS for k in moments)
            continue
        whole[sha] += 1
        answered[sha] += any(at <= k and k - ANSWERED_SECONDS <= end <= k + NOTICED_SECONDS for k in moments)
    return count + sum(min(number, max(0, whole[sha] - recorded.get(sha, 0))) for sha, number in answered.items())


def overshoot(ground: Ground, calls: Iterable[Row]) -> int:
    """Calls beyond a key's limit of requests in its worst 60 s."""
    limits = {
        key_name(key.secret.reveal()): key.limit_req_per_min
        for provider in ground.config.providers
        for key in provider.keys
        if key.limit_req_per_min
    }
    starts: dict[str, list[float]] = defaultdict(list)
    for call in calls:
        if call["key_id"] in limits:
            starts[call["key_id"]].append(call["mono"])
    worst = 0
    for key, moments in starts.items():
        moments.sort()
        first = 0
        for last, moment in enumerate(moments):
            while moment - moments[first] >= 60.0:
                first += 1
            worst = max(worst, last - first + 1 - int(limits[key] or 0))
    return worst


def difference(ground: Ground, cut: int) -> tuple[int, list[str]]:
    """How many calls ledger and log disagree about, and what about; also what `verify` says of each batch."""
    told = []
    try:
        assert_ledger_is_the_log(ground.database, ground.sandbox, config=ground.config, cut=cut)
    except AssertionError as error:
        told.append(f"ledger: {str(error)[:600]}")
    for row in ground.rows(sa.select(batches.c.id, batches.c.status).where(batches.c.finished_at.is_not(None))):
        books = reconcile(ground.database, row["id"])
        assert books is not None
        if books.differences or books.open:
            told.append(f"verify {row['id']} ({row['status']}): {books.sentence}"[:600])
    return len(told), told
