"""Buckets never let more through than their limit and burst allow, and let in whoever waited as told."""

import math
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from worker.sandbox.buckets import Bucket, DayCount, day_zone
from worker.sandbox.quotas import Pool
from worker.sandbox.settings import Limits

gaps = st.lists(st.floats(0, 3), min_size=1, max_size=200)


@given(st.integers(1, 6000), st.floats(0.1, 5), gaps)
def test_requests_let_in_over_any_window_never_exceed_limit_and_burst(
    limit: int, burst: float, steps: list[float]
) -> None:
    bucket = Bucket(limit, burst, 0.0)
    now, admitted = 0.0, []
    for step in steps:
        now += step
        for _ in range(3):
            if bucket.wait(1, now) == 0.0:
                bucket.take(1, now)
                admitted.append(now)
    for first in range(len(admitted)):
        for last in range(first, len(admitted)):
            window = admitted[last] - admitted[first]
            assert last - first + 1 <= limit * window / 60 + max(1.0, limit / 60 * burst) + 1e-3


@given(st.integers(100, 6000), gaps, st.lists(st.integers(1, 6000), min_size=200, max_size=200))
def test_tokens_let_in_over_any_window_never_exceed_limit_and_burst_or_one_large_job(
    limit: int, steps: list[float], costs: list[int]
) -> None:
    bucket = Bucket(limit, 1.0, 0.0)
    now, admitted = 0.0, []
    for step, cost in zip(steps, costs, strict=False):
        now += step
        if bucket.wait(cost, now) == 0.0:
            bucket.take(cost, now)
            admitted.append((now, cost))
    for first in range(len(admitted)):
        booked = 0
        for last in range(first, len(admitted)):
            booked += admitted[last][1]
            window = admitted[last][0] - admitted[first][0]
            # a job larger than the bucket leaves a debt, which holds back whatever comes after it
            burst = max(bucket.capacity, admitted[last][1])
            assert booked <= limit * window / 60 + burst + 1e-3


@given(st.integers(1, 6000), st.floats(0.1, 5), st.integers(1, 6000), st.integers(0, 4000))
def test_who_waits_as_long_as_told_is_let_in(limit: int, burst: float, cost: int, spent: int) -> None:
    bucket = Bucket(limit, burst, 5.0)
    bucket.take(spent, 5.0)
    wait = bucket.wait(cost, 5.0)
    assert (wait == math.inf) == (cost > limit)
    if wait != math.inf:
        assert bucket.wait(cost, 5.0 + wait) == 0.0


def test_a_job_larger_than_the_bucket_waits_until_it_is_full_and_leaves_a_debt() -> None:
    bucket = Bucket(600, 1.0, 0.0)
    bucket.take(5, 0.0)
    assert bucket.wait(100, 0.0) == 0.5
    assert bucket.wait(100, 0.5) == 0.0
    bucket.take(100, 0.5)
    assert bucket.level(0.5) == -90
    assert bucket.wait(1, 0.5) == 9.1


def test_a_refused_request_empties_a_bucket_but_never_indebts_it() -> None:
    bucket = Bucket(60, 1.0, 0.0)
    bucket.drain(1, 0.0)
    bucket.drain(1, 0.5)
    assert bucket.level(0.5) == 0.0
    assert bucket.wait(1, 0.5) == 1.0


def test_a_day_ends_at_midnight_of_its_zone() -> None:
    evening = datetime(2026, 3, 1, 23, 0, tzinfo=UTC).timestamp()
    day = DayCount(2, UTC)
    for _ in range(2):
        assert day.wait(evening) == 0.0
        day.take()
    assert day.wait(evening) == 3600
    assert day.wait(evening + 3600) == 0.0


def test_geminis_day_ends_at_midnight_pacific() -> None:
    morning = datetime(2026, 1, 5, 7, 59, tzinfo=UTC).timestamp()
    day = DayCount(1, day_zone("gemini"))
    day.wait(morning)
    day.take()
    assert day.wait(morning) == 60


def test_a_denied_call_charges_no_limit() -> None:
    pool = Pool(Limits(rpm=60, tpm=600), "openai", 0.0)
    assert pool.admit("m", 100, 0.0, 0.0) is None
    denial = pool.admit("m", 1, 1.0, 1.0)
    assert denial is not None
    assert denial.what == "tokens"
    standing = pool.standing("m", 1.0)
    assert standing.requests is not None
    assert standing.requests.remaining == 1


def test_a_model_with_limits_of_its_own_leaves_the_others_alone() -> None:
    pool = Pool(Limits(rpm=60, models={"big": {"rpm": 6}}), "openai", 0.0)  # type: ignore[dict-item]
    assert pool.admit("big", 1, 0.0, 0.0) is None
    denial = pool.admit("big", 1, 0.0, 0.0)
    assert denial is not None
    assert denial.wait == 10
    assert pool.admit("small", 1, 0.0, 0.0) is None
