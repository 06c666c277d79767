"""A provider in trouble: outages, flapping, refusals for too many calls. Nothing fails, nothing is hammered, all is back with it."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Sequence

import sqlalchemy as sa

from models.states import Outcome
from models.tables import attempts
from tests.chaos.door import Door
from tests.chaos.ground import Ground, Row
from tests.chaos.registry import scenario

RPM = 1200
LATENCY = 0.2
OPENING = 3.0
"""Seconds until everybody knows of an outage: the first failures, then what was granted a second ahead."""
PROBES, WINDOW = 3, 15.0
BACK = 5.6
"""Seconds from a provider's return to the first good call: one probe every five, its slot, and a loaded machine."""
SLACK = 0.3
"""Between the moment a probe was let go and its arrival."""
MOST_ATTEMPTS = 5


def calls_a_job(ground: Ground) -> Counter[int]:
    """How many jobs (values) needed how many calls (keys), by the ledger."""
    counted = sa.select(sa.func.count().label("n")).select_from(attempts).group_by(attempts.c.job_id)
    return Counter(row["n"] for row in ground.rows(counted))


def most_within(moments: Sequence[float], seconds: float) -> int:
    """The most of these moments, in order, that lie within so many seconds."""
    most = first = 0
    for last, moment in enumerate(moments):
        while moment - moments[first] >= seconds:
            first += 1
        most = max(most, last - first + 1)
    return most


def rate(calls: Sequence[Row], begin: float, end: float) -> float:
    """Good answers a second to calls that began in between."""
    return sum(begin <= call["at"] < end and call["status"] == 200 for call in calls) / (end - begin)


def settled(ground: Ground, seconds: float = 60.0) -> None:
    """Waits until the first rows have ended: everybody is at work."""
    ground.until(lambda: ground.ended() >= 20, "the work to be going", seconds)


def judge_outage(ground: Ground, began: float, ended: float, tried: Sequence[float]) -> None:
    """`tried`: when calls were tried while the provider was away."""
    calls = ground.log()
    probes = [moment for moment in tried if began + OPENING <= moment < ended]
    worst = most_within(probes, WINDOW - SLACK)
    ground.promise(worst <= PROBES, f"{worst} probes within {WINDOW:.0f} s, {PROBES} may be")
    first = min((call["at"] for call in calls if call["at"] >= ended and call["status"] == 200), default=float("inf"))
    ground.promise(first - ended <= BACK, f"the first good call came {first - ended:.1f} s after the provider was back")
    most = max(calls_a_job(ground))
    ground.promise(most <= MOST_ATTEMPTS, f"a job made {most} calls")
    full = rate(calls, ended + BACK, ended + BACK + 4)
    enough = ground.scale >= 1  # rows to be still at work then
    ground.promise(not enough or full >= 0.9 * RPM / 60, f"only {full:.1f} calls/s in the 4 s after these {BACK} s")
    ground.remarks.append(
        f"outage of {ended - began:.0f} s: {sum(began <= m < began + OPENING for m in tried)} calls until it was known, "
        f"{len(probes)} probes ({worst} in {WINDOW:.0f} s), first good call {first - ended:.1f} s after, "
        f"{full:.1f}/s from {BACK} s on; "
        f"calls a job: {dict(sorted(calls_a_job(ground).items()))}"
    )


@scenario("outage")
def outage(ground: Ground) -> None:
    """The only provider answers 503 for 60 s: no job fails, three workers send three probes in 15 s, and all is back in 5 s."""
    ground.start(latency=LATENCY, rpm=RPM, providers=("openai",))
    crew = 3 if ground.scale >= 1 else 2
    seconds = ground.some(60, least=5)
    ground.submit(ground.some(700))
    for _ in range(crew):
        ground.start_worker()
    settled(ground)
    began = time.time()
    ground.sandbox.faults({"kind": "overloaded", "until": seconds})
    ground.finish(seconds + 60)
    tried = [call["at"] for call in ground.log() if call["fault"]]
    judge_outage(ground, began, began + seconds, tried)


@scenario("unreachable")
def unreachable(ground: Ground) -> None:
    """The only provider refuses connections for 60 s and cuts those that are open: as an outage, and what was cut is `unknown`."""
    ground.start(latency=LATENCY, rpm=RPM, providers=("openai",))
    with Door(ground.sandbox.url) as door:
        text = ground.config_path.read_text().replace(ground.sandbox.url, door.url)
        ground.config_path.write_text(text)
        ground.config = ground.load()
        seconds = ground.some(60, least=8)
        ground.submit(ground.some(600, least=260))
        for _ in range(3):
            ground.start_worker()
        settled(ground)
        began = time.time()
        door.shut()
        ground.cuts.append(began)
        ground.quiet(seconds)
        door.open()
        ended = time.time()
        ground.finish(120)
        refused = ground.rows(sa.select(attempts.c.started_at).where(attempts.c.error_code == "connect_error"))
        judge_outage(ground, began, ended, sorted(row["started_at"] for row in refused))


@scenario("silent-provider")
def silent_provider(ground: Ground) -> None:
    """The only provider takes every call for 30 s and never answers: calls end at their timeout, and few are made."""
    timeout = 4
    ground.start(latency=LATENCY, rpm=RPM, providers=("openai",), settings={"openai": {"timeout_seconds": timeout}})
    ground.submit(ground.some(500, least=200))
    for _ in range(3):
        ground.start_worker()
    settled(ground)
    began = time.time()
    seconds = ground.some(30, least=10)
    ground.sandbox.faults({"kind": "hang", "until": seconds})
    ground.finish(seconds + 120)
    hung = [call["at"] for call in ground.log() if call["fault"]]
    late = [moment for moment in hung if moment >= began + timeout + OPENING]
    worst = most_within(late, WINDOW - SLACK)
    ground.promise(worst <= PROBES, f"{worst} probes within {WINDOW:.0f} s, {PROBES} may be")
    ground.promise(max(calls_a_job(ground)) <= MOST_ATTEMPTS, f"calls a job: {calls_a_job(ground)}")
    ground.remarks.append(f"{len(hung)} calls hung, {len(late)} of them probes")


@scenario("flapping")
def flapping(ground: Ground) -> None:
    """The only provider is up and down for 5 s each, six times: few calls go into the down times, a row fails only after five."""
    half, cycles = 5.0, ground.some(6, least=2)
    ground.start(latency=LATENCY, rpm=RPM, providers=("openai",))
    ground.submit(ground.some(1000, least=200))
    for _ in range(3):
        ground.start_worker()
    settled(ground)
    began = time.time()
    ground.sandbox.faults(
        *({"kind": "status", "status": 500, "after": n * 2 * half, "until": n * 2 * half + half} for n in range(cycles))
    )
    ground.finish(2 * half * cycles + 90)
    calls = ground.log()
    bad = [
        sum(began + n * 2 * half <= c["at"] < began + n * 2 * half + half and bool(c["fault"]) for c in calls)
        for n in range(cycles)
    ]
    good = [
        sum(began + (2 * n + 1) * half <= c["at"] < began + (2 * n + 2) * half for c in calls) for n in range(cycles)
    ]
    allowed = 0.75 * half * RPM / 60  # without a breaker all of it
    ground.promise(max(bad) <= allowed, f"calls into the down times: {bad}, {allowed:.0f} may be")
    made = calls_a_job(ground)
    ground.promise(max(made) <= MOST_ATTEMPTS, f"calls a job: {made}")
    ground.may_fail = min(made.get(MOST_ATTEMPTS, 0), sum(made.values()) // 100)
    ground.remarks.append(f"calls in down times {bad}, in up times {good}; a job: {dict(sorted(made.items()))}")


def judge_storm(ground: Ground, ended: float) -> None:
    """A storm of 429s that has ended then."""
    calls = ground.log()
    jobs_made = calls_a_job(ground)
    mean = sum(calls_made * number for calls_made, number in jobs_made.items()) / sum(jobs_made.values())
    ground.promise(mean <= 1.2, f"{mean:.3f} calls a job on average, 1.2 may be")
    pace = RPM / 60 * 0.985
    last = max(call["at"] for call in calls)
    starts = [ended + n / 2 for n in range(121) if ended + n / 2 + 5 <= last]
    back = next((start - ended for start in starts if rate(calls, start, start + 5) >= 0.95 * pace), None)
    ground.promise(back is not None, "throughput is not back at 95 % within 60 s of the storm's end")
    refused = sum(call["status"] == 429 for call in calls)
    told = "never" if back is None else f"{back:.1f} s after it"
    ground.remarks.append(f"{refused} calls refused, {mean:.3f} calls a job, 95 % of the limit again {told}")


@scenario("limit-storm")
def limit_storm(ground: Ground) -> None:
    """Every call is refused with 429 for 30 s, without a Retry-After: few are made, none fails, all is back within 60 s."""
    ground.start(latency=LATENCY, rpm=RPM, providers=("openai",))
    seconds = ground.some(30, least=6)
    ground.submit(ground.some(1200, least=400))
    for _ in range(3):
        ground.start_worker()
    settled(ground)
    began = time.time()
    ground.sandbox.faults({"kind": "rate_limit", "until": seconds})
    ground.finish(seconds + 150)
    judge_storm(ground, began + seconds)


@scenario("told-limit-storm")
def told_limit_storm(ground: Ground) -> None:
    """Every call is refused with 429 and a Retry-After of 2 s for 30 s: no retry comes earlier than told, nor all together."""
    ground.start(latency=LATENCY, rpm=RPM, providers=("openai",))
    seconds, wait = ground.some(30, least=6), 2.0
    ground.submit(ground.some(1200, least=400))
    for _ in range(3):
        ground.start_worker()
    settled(ground)
    began = time.time()
    ground.sandbox.faults({"kind": "rate_limit", "retry_after": wait, "until": seconds})
    ground.finish(seconds + 150)
    judge_storm(ground, began + seconds)
    by_prompt: dict[str, list[Row]] = {}
    for call in ground.log():
        by_prompt.setdefault(call["prompt_sha"], []).append(call)
    pauses = [
        again["at"] - refused["finished_at"]
        for calls in by_prompt.values()
        for refused, again in zip(calls, calls[1:], strict=False)
        if refused["status"] == 429
    ]
    ground.promise(min(pauses) >= wait, f"a call came again after {min(pauses):.2f} s, told was {wait:.0f}")
    spread = statistics.pstdev(pauses) if len(pauses) > 1 else 0.0
    ground.promise(spread >= 0.05, f"all come again together: the waits spread by {spread:.3f} s only")
    ground.remarks.append(f"{len(pauses)} waits of {min(pauses):.1f} to {max(pauses):.1f} s, spread {spread:.2f} s")


@scenario("lone-refusals")
def lone_refusals(ground: Ground) -> None:
    """One call in two hundred meets a 429: only its own job waits, the pool goes on at its limit."""
    ground.start(
        latency=LATENCY, rpm=RPM, providers=("openai",), sandbox={"faults": [{"kind": "rate_limit", "every": 200}]}
    )
    ground.submit(ground.some(900, least=450))
    for _ in range(2):
        ground.start_worker()
    ground.finish(150)
    calls = ground.log()
    begin, end = min(call["at"] for call in calls) + 2, max(call["at"] for call in calls) - 3
    pace = sum(begin <= call["at"] < end for call in calls) / (end - begin)
    refused = ground.number(
        sa.select(sa.func.count()).select_from(attempts).where(attempts.c.outcome == Outcome.RATE_LIMITED)
    )
    ground.promise(refused > 0, "no call was refused")
    ground.promise(pace >= 0.93 * RPM / 60, f"{pace:.1f} calls/s of {RPM / 60:.0f}")
    ground.remarks.append(f"{refused} refusals, {pace:.2f} calls/s of {RPM / 60:.0f}")
