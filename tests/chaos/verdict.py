"""What came of a scenario, from the two that saw everything: the sandbox's own log and the database.

It neither waits nor asks the workers: by now every row has ended and no call is open.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Self

import sqlalchemy as sa

from models.finalizing import reconcile
from models.request import SIMPLE
from models.states import JobStatus, Outcome
from models.tables import attempts, batches, job_inputs, jobs, results
from tests.acceptance.truth import assert_ledger_is_the_log, prompt_of
from tests.chaos.figures import Figures
from tests.chaos.ground import NUMBERS, Ground, Row, Stop
from worker.sandbox.quotas import key_name
from worker.sandbox.replies import prompt_sha

NOTICED_SECONDS = 3.0
"""So long a starved sandbox may take to see that a connection is closed, or to send replies into it that were due."""
ANSWERED_SECONDS = 5.0
"""So long a worker on a starved machine may take to record a reply. One that is older and not recorded wasn't in flight: it was lost."""
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
    flying = in_flight(made, by_sha, Breaks.of(ground))
    shown = {sha: sum(row["outcome"] in SETTLED for row in rows) for sha, rows in by_sha.items()}
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
        in_flight=flying.total(),
        unexplained=unexplained(extra, flying),
        unseen=sum(max(0, count - shown.get(sha, 0)) for sha, count in extra.items()),
        ledger_difference=different,
        limit_overshoot=overshoot(ground, calls),
        token_overshoot=token_overshoot(ground, calls),
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


def unexplained(extra: Mapping[str, int], flying: Mapping[str, int]) -> int:
    """Extra calls of prompts beyond those of the very same prompt that were in flight: another row's makes up for none."""
    return sum(max(0, count - flying.get(sha, 0)) for sha, count in extra.items())


@dataclass(frozen=True, slots=True)
class Breaks:
    """When (unix seconds) workers were killed or stopped and connections cut, and which workers (by number) lived to the end."""

    kills: Sequence[float] = ()
    stops: Sequence[Stop] = ()
    cuts: Sequence[float] = ()
    living: Set[int] = frozenset()

    @classmethod
    def of(cls, ground: Ground) -> Self:
        return cls([kill.at for kill in ground.kills], ground.stops, ground.cuts, ground.living())


def in_flight(made: Mapping[str, Sequence[Row]], by_sha: Mapping[str, Sequence[Row]], breaks: Breaks) -> Counter[str]:
    """How many of each prompt's calls (`made`, none of them refused) were taken from their worker while they were open, or had been
    answered and were not recorded yet: because it was killed or stopped, or the connection was cut. `by_sha` are the ledger's rows.

    When a call began and ended is the sandbox's word. The ledger only says less: of calls at a kill those count that may
    be of a worker that is gone, at a stop those of that worker that are `fenced` or `unknown`, at a cut those that are `unknown`.
    """
    found: Counter[str] = Counter()
    for sha, calls in made.items():
        rows = by_sha.get(sha, ())
        whose = [int(row["id"]) // NUMBERS for row in rows]
        unknown = sum(row["outcome"] == Outcome.UNKNOWN for row in rows)
        recorded = sum((row["http_status"] or 500) < 400 for row in rows)
        unrecorded = max(0, sum(bool(call["sent_whole"]) for call in calls) - recorded)
        killed = min(lost_at(calls, breaks.kills, unrecorded), sum(one not in breaks.living for one in whose))
        cut = min(lost_at(calls, breaks.cuts, unrecorded), unknown)
        stopped = sum(
            min(
                sum(at_a_stop(call, stop.at) for call in calls),
                sum(row["outcome"] in SETTLED and int(row["id"]) // NUMBERS == stop.worker for row in rows),
            )
            for stop in breaks.stops
        )
        if number := min(killed + cut + stopped, len(calls)):
            found[sha] = number
    return found


def at_a_stop(call: Row, moment: float) -> bool:
    """Whether a call was open then, or answered and perhaps not read."""
    return bool(call["at"] <= moment + NOTICED_SECONDS and moment - ANSWERED_SECONDS <= call["finished_at"])


def lost_at(calls: Iterable[Row], moments: Sequence[float], unrecorded: int) -> int:
    """Calls of one prompt that broke at one of these moments, and, up to `unrecorded`, those whose whole reply went out around one."""
    broken = answered = 0
    for call in calls:
        at, end = call["at"], call["finished_at"]
        if call["sent_whole"]:
            answered += any(at <= k and k - ANSWERED_SECONDS <= end <= k + NOTICED_SECONDS for k in moments)
        else:
            broken += any(at <= k + NOTICED_SECONDS and k - 0.01 <= end <= k + NOTICED_SECONDS for k in moments)
    return broken + min(answered, unrecorded)


def overshoot(ground: Ground, calls: Iterable[Row]) -> int:
    """Calls beyond a key's limit of requests in its worst 60 s."""
    limits = limits_of(ground, "limit_req_per_min")
    starts: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for call in calls:
        if call["key_id"] in limits:
            starts[call["key_id"]].append((call["mono"], 1))
    return max([0, *(worst(found) - limits[key] for key, found in starts.items())])


def token_overshoot(ground: Ground, calls: Sequence[Row]) -> int:
    """Tokens beyond a key's limits in their worst 60 s, as the sandbox books them: a call's when it comes; of output that is limited
    apart when it has been produced."""
    most = 0
    for name in ("limit_tokens_per_min", "limit_input_tokens_per_min", "limit_output_tokens_per_min"):
        limits = limits_of(ground, name)
        booked: dict[str, list[tuple[float, int]]] = defaultdict(list)
        for call in calls:
            if call["key_id"] not in limits:
                continue
            if "output" not in name:
                booked[call["key_id"]].append((call["mono"], call["booked_tokens"]))
            elif call["billed"]:
                produced = call["mono"] + call["finished_at"] - call["at"]
                booked[call["key_id"]].append((produced, call["output_tokens"]))
        most = max([most, *(worst(found) - limits[key] for key, found in booked.items())])
    return most


def limits_of(ground: Ground, name: str) -> dict[str, int]:
    """A limit of all keys that have it, by the names that keys have in the sandbox's log."""
    return {
        key_name(key.secret.reveal()): int(limit)
        for provider in ground.config.providers
        for key in provider.keys
        if (limit := getattr(key, name, None))
    }


def worst(booked: Iterable[tuple[float, int]]) -> int:
    """The most that was booked (seconds, how much) within 60 s."""
    found = sorted(booked)
    most = held = first = 0
    for moment, units in found:
        held += units
        while moment - found[first][0] >= 60.0:
            held -= found[first][1]
            first += 1
        most = max(most, held)
    return most


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
