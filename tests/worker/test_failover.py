"""What comes next after a failed call: every row of design §7, and what must hold for any failure with any history."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.request import Failure, FailureKind, FailureScope
from models.states import Outcome
from worker.failover import LONGEST_SNOOZE, NEVER_LEFT, About, Past, Situation, Verdict, decide, is_unbilled, outcome_of

NAMES = ("alpha", "beta", "gamma")
REQUEST_CLASS = {
    FailureKind.BAD_REQUEST,
    FailureKind.CONTENT_FILTER,
    FailureKind.TOO_LARGE,
    FailureKind.CONTEXT_LENGTH,
    FailureKind.MODEL,
    FailureKind.KEY_MODEL,
}
WAITS = st.none() | st.floats(0, 100_000)

failures = st.builds(
    Failure,
    kind=st.sampled_from(FailureKind),
    code=st.sampled_from(["http_503", "timeout", "stream_silent", "first_token_timeout", "connect_error", "x"]),
    message=st.just("no"),
    http_status=st.none() | st.integers(400, 599),
    retry_after=WAITS,
    resets_in=WAITS,
    scope=st.none() | st.sampled_from(FailureScope),
)
pasts = st.builds(
    Past,
    provider=st.sampled_from(NAMES),
    model=st.just("m"),
    key_id=st.just("k"),
    outcome=st.sampled_from(Outcome),
    error_code=st.none() | st.sampled_from(["http_503", "connect_error"]),
    age=st.floats(-5, 1e6),
)


@st.composite
def situations(draw: st.DrawFn) -> Situation:
    here = draw(st.sampled_from(NAMES))
    routed = draw(st.booleans())
    elsewhere = [name for name in NAMES if name != here]
    others = draw(st.lists(st.sampled_from(elsewhere), unique=True)) if routed else []
    larger = draw(st.lists(st.sampled_from(others), unique=True)) if others else []
    busy = draw(st.lists(st.sampled_from(others), unique=True)) if others else []
    left = [name for name in elsewhere if name not in others] if routed else []
    # a long history costs no more than a short one: it is drawn short and repeated
    past = draw(st.lists(pasts, max_size=6)) * draw(st.sampled_from([1, 1, 1, 500]))
    return Situation(
        provider=here,
        past=past,
        others=others,
        larger=larger,
        busy=busy,
        left=left,
        routed=routed,
        another_key=draw(st.booleans()),
        another_model=draw(st.booleans()),
        others_succeed=draw(st.booleans()),
        outage=draw(st.booleans()),
        shut=draw(st.booleans()),
        doubted=draw(st.booleans()),
        retry_for=draw(st.sampled_from([0.0, 60.0, 3600.0])),
        max_attempts=draw(st.integers(1, 7)),
    )


# For anything


@given(failures, situations(), st.integers(0, 99))
@settings(max_examples=200, deadline=None)
def test_a_verdict_never_fails_a_job_for_what_is_not_its_own_fault_unless_everything_is_used_up(
    failure: Failure, situation: Situation, seed: int
) -> None:
    verdict = decide(failure, situation, random.Random(seed))
    if not verdict.fails or failure.kind in REQUEST_CLASS:
        return
    assert failure.kind not in (FailureKind.AUTH, FailureKind.QUOTA), "keys get other keys, or wait"
    if failure.kind is FailureKind.RATE_LIMIT:
        assert situation.others_succeed
        assert all(past.outcome is Outcome.RATE_LIMITED for past in situation.past[-9:])
        return
    assert not situation.others, "a candidate of the route is left"
    broken = [past for past in situation.past if past.outcome in (Outcome.FAILED, Outcome.UNKNOWN)]
    real = [past for past in broken if past.error_code not in NEVER_LEFT]
    in_time = max(past.age for past in broken) < situation.retry_for
    refused_alone = situation.others_succeed and len(broken) >= 2
    unclear = [past for past in real if past.outcome is Outcome.UNKNOWN]
    here = [past for past in real if past.provider == situation.provider]
    used_up = len(here if situation.outage else real) + 1 >= situation.max_attempts * (6 if situation.outage else 1)
    used_up |= len(unclear) + 1 >= situation.max_attempts * 3
    assert not in_time or used_up or refused_alone


@given(failures, situations(), st.integers(0, 99))
@settings(max_examples=200, deadline=None)
def test_a_wait_is_never_shorter_than_told_and_never_without_bound(
    failure: Failure, situation: Situation, seed: int
) -> None:
    verdict = decide(failure, situation, random.Random(seed))
    if verdict.fails:
        return
    assert verdict.delay is not None
    assert 0.0 <= verdict.delay <= LONGEST_SNOOZE + 1.2 * (failure.retry_after or 0.0)
    told = failure.kind in (FailureKind.RATE_LIMIT, FailureKind.SERVER, FailureKind.NETWORK)
    stays = situation.provider not in verdict.exclude
    if told and stays and failure.retry_after is not None:
        assert verdict.delay >= failure.retry_after


@given(failures, situations(), st.integers(0, 99))
@settings(max_examples=200, deadline=None)
def test_only_providers_of_the_route_are_excluded_and_always_one_is_left(
    failure: Failure, situation: Situation, seed: int
) -> None:
    verdict = decide(failure, situation, random.Random(seed))
    assert set(verdict.exclude) <= {situation.provider, *situation.others, *situation.left}
    if verdict.exclude or verdict.forgive:
        assert situation.routed
        open_again = situation.left if verdict.forgive else ()
        everyone = {situation.provider, *situation.others, *open_again}
        assert everyone - set(verdict.exclude), "one is left to take it"
    if verdict.forgive:
        assert not situation.others
        assert verdict.delay, "it starts anew after a wait"


# Until the end of a job


def play(
    failure_at: Sequence[Failure],
    seed: int,
    *,
    route: Sequence[str] = (),
    others_succeed: bool = False,
    outage: bool = False,
    most: int = 300,
) -> tuple[list[tuple[str, Verdict]], float]:
    """What becomes of a job whose n-th call fails with `failure_at[n % len]`: calls as (provider, verdict), seconds in all.

    Keys are used up one by one: of an auth or quota failure there can be two, then another one takes over for good.
    """
    rng = random.Random(seed)
    names = list(route) or ["alpha"]
    excluded: set[str] = set()
    calls: list[tuple[str, Verdict]] = []
    log: list[tuple[float, Past]] = []
    now = 0.0
    for number in range(most):
        failure = failure_at[number % len(failure_at)]
        here = next(name for name in names if name not in excluded)
        situation = Situation(
            provider=here,
            past=[Past(p.provider, p.model, p.key_id, p.outcome, p.error_code, now - at) for at, p in log],
            others=[name for name in names if name not in excluded and name != here] if route else [],
            left=[name for name in names if name in excluded],
            routed=bool(route),
            others_succeed=others_succeed,
            outage=outage,
        )
        verdict = decide(failure, situation, rng)
        calls.append((here, verdict))
        if verdict.delay is None:
            break
        log.append((now, Past(here, "m", "k", outcome_of(failure), failure.code, 0.0)))
        now += verdict.delay
        excluded = set(verdict.exclude) if verdict.forgive else excluded | set(verdict.exclude)
    return calls, now


def failed(kind: FailureKind, code: str = "c", retry_after: float | None = None) -> Failure:
    return Failure(kind, code, "no", retry_after=retry_after)


@given(
    st.lists(
        st.builds(
            failed,
            st.sampled_from([FailureKind.SERVER, FailureKind.NETWORK]),
            st.just("http_500"),
            st.none() | st.floats(0, 30),
        ),
        min_size=1,
        max_size=5,
    ),
    st.sampled_from([(), ("alpha", "beta"), NAMES]),
    st.booleans(),
    st.integers(0, 99),
)
@settings(max_examples=150, deadline=None)
def test_whatever_a_provider_does_wrong_a_job_makes_few_calls(
    failure_at: list[Failure], route: tuple[str, ...], others_succeed: bool, seed: int
) -> None:
    calls, seconds = play(failure_at, seed, route=route, others_succeed=others_succeed)
    assert calls[-1][1].fails
    assert len(calls) <= 5 + len(route)
    assert seconds < 3600 + LONGEST_SNOOZE + 30
    if route:
        assert {name for name, _ in calls} == set(route), "every candidate was tried before the job failed"


def test_waiting_for_rate_limits_costs_no_attempt_and_never_fails_while_nobody_gets_through() -> None:
    calls, _ = play([failed(FailureKind.RATE_LIMIT)], 1)
    assert len(calls) == 300
    assert not any(verdict.fails for _, verdict in calls)
    mixed = [failed(FailureKind.RATE_LIMIT)] * 8 + [failed(FailureKind.SERVER)]
    calls, _ = play(mixed, 1)
    assert len(calls) == 5 * 9, "only the five real failures count"


def test_a_job_that_is_limited_ten_times_in_a_row_while_others_get_through_fails() -> None:
    calls, _ = play([failed(FailureKind.RATE_LIMIT)], 1, others_succeed=True)
    assert len(calls) == 10
    calls, _ = play([failed(FailureKind.RATE_LIMIT)] * 9 + [failed(FailureKind.AUTH)], 1, others_succeed=True)
    assert len(calls) == 300, "not in a row"


def test_an_outage_of_a_minute_is_outlasted_and_one_of_the_network_by_an_hour() -> None:
    for seed in range(200):
        _, seconds = play([failed(FailureKind.SERVER)], seed)
        assert 60 <= seconds <= 240
        calls, seconds = play([failed(FailureKind.NETWORK, "connect_error")], seed)
        assert 3600 <= seconds <= 3700
        assert calls[-1][1].fails


def test_a_job_that_tries_whether_an_outage_is_over_has_six_times_the_attempts_and_three_where_each_may_be_billed() -> (
    None
):
    for seed in range(50):
        calls, seconds = play([failed(FailureKind.SERVER)], seed, outage=True)
        assert len(calls) == 30
        assert 900 <= seconds <= 1800
        calls, seconds = play([failed(FailureKind.NETWORK)], seed, outage=True)
        assert len(calls) == 15
        assert 400 <= seconds <= 900


def test_a_provider_that_answers_others_fails_a_job_the_third_time() -> None:
    calls, _ = play([failed(FailureKind.SERVER)], 1, others_succeed=True)
    assert len(calls) == 3


@pytest.mark.parametrize(
    ("failure", "outcome"),
    [
        (failed(FailureKind.RATE_LIMIT), Outcome.RATE_LIMITED),
        (failed(FailureKind.NETWORK, "connect_error"), Outcome.FAILED),
    ],
)
def test_a_very_long_history_is_no_trouble(failure: Failure, outcome: Outcome) -> None:
    long = [Past("a", "m", "k", outcome, "connect_error", 5.0)] * 5000
    verdict = decide(failure, Situation("a", past=long, retry_for=1e9), random.Random(1))
    assert verdict.delay is not None
    assert 0 < verdict.delay <= LONGEST_SNOOZE


def test_those_told_the_same_do_not_come_back_together() -> None:
    rng = random.Random(5)
    delays = [decide(failed(FailureKind.RATE_LIMIT, retry_after=2.0), Situation("a"), rng).delay for _ in range(50)]
    assert len(set(delays)) == 50
    assert min(filter(None, delays)) >= 2.0


# Row by row


def past(provider: str = "a", outcome: Outcome = Outcome.FAILED, age: float = 1.0, code: str = "http_503") -> Past:
    return Past(provider, "m", "k", outcome, code, age)


FAIL = "fail"
PAGE = Failure(FailureKind.NETWORK, "unreadable_reply", "a page", 200, scope=FailureScope.ENDPOINT)
PREFILL = Failure(
    FailureKind.BAD_REQUEST,
    "invalid_request_error",
    "does not support assistant message prefill",
    400,
    scope=FailureScope.MODEL,
)
ROWS: list[tuple[str, Failure, Situation, About, tuple[float, float] | str, tuple[str, ...], bool]] = [
    # what, failure, situation, about, delay between (or fail), excluded, route forgiven
    ("429", failed(FailureKind.RATE_LIMIT), Situation("a"), About.POOL, (0.5, 2.0), (), False),
    ("429 told", failed(FailureKind.RATE_LIMIT, retry_after=7), Situation("a"), About.POOL, (7.0, 8.4), (), False),
    ("quota", failed(FailureKind.QUOTA), Situation("a"), About.ACCOUNT, (0, 0), (), False),
    ("quota in a route", failed(FailureKind.QUOTA), Situation("a", others=["b"], routed=True), About.ACCOUNT, (0, 0), (), False),
    ("401", failed(FailureKind.AUTH), Situation("a"), About.KEY, (0, 0), (), False),
    ("403, another key", failed(FailureKind.KEY_MODEL), Situation("a", another_key=True), About.KEY_MODEL, (0, 0), (), False),
    ("403, a fallback", failed(FailureKind.KEY_MODEL), Situation("a", another_model=True), About.KEY_MODEL, (0, 0), (), False),
    ("403, a route", failed(FailureKind.KEY_MODEL), Situation("a", others=["b"], routed=True), About.KEY_MODEL, (0, 0), ("a",), False),
    ("403, nothing", failed(FailureKind.KEY_MODEL), Situation("a"), About.KEY_MODEL, FAIL, (), False),
    ("404, another key is no help", failed(FailureKind.MODEL), Situation("a", another_key=True), About.MODEL, FAIL, (), False),
    ("404, a fallback", failed(FailureKind.MODEL), Situation("a", another_model=True, others=["b"], routed=True), About.MODEL, (0, 0), (), False),
    ("404, a route", failed(FailureKind.MODEL), Situation("a", others=["b"], routed=True), About.MODEL, (0, 0), ("a",), False),
    ("404, nothing", failed(FailureKind.MODEL), Situation("a"), About.MODEL, FAIL, (), False),
    ("503, first", failed(FailureKind.SERVER), Situation("a", others=["b"], routed=True), About.PROVIDER, (0.2, 1.0), (), False),
    ("503, told", failed(FailureKind.SERVER, retry_after=9), Situation("a"), About.PROVIDER, (9, 9), (), False),
    ("503, failed elsewhere", failed(FailureKind.SERVER), Situation("a", past=[past("b")], routed=True), About.PROVIDER, (0.2, 1.0), (), False),
    ("503, again, a route", failed(FailureKind.SERVER), Situation("a", past=[past()], others=["b"], routed=True), About.PROVIDER, (0, 0), ("a",), False),
    ("503, again, route used up", failed(FailureKind.SERVER), Situation("a", past=[past()], routed=True), About.PROVIDER, (7.5, 15), (), True),
    ("503, again, no route", failed(FailureKind.SERVER), Situation("a", past=[past()]), About.PROVIDER, (7.5, 15), (), False),
    ("503, after a 429 only", failed(FailureKind.SERVER), Situation("a", past=[past(outcome=Outcome.RATE_LIMITED)]), About.PROVIDER, (0.2, 1.0), (), False),
    ("timeout, again", failed(FailureKind.NETWORK), Situation("a", past=[past(outcome=Outcome.UNKNOWN)]), About.PROVIDER, (7.5, 15), (), False),
    ("503, third", failed(FailureKind.SERVER), Situation("a", past=[past()] * 2), About.PROVIDER, (22.5, 45), (), False),
    ("503, fourth", failed(FailureKind.SERVER), Situation("a", past=[past()] * 3), About.PROVIDER, (30, 60), (), False),
    ("503, fifth", failed(FailureKind.SERVER), Situation("a", past=[past()] * 4), About.PROVIDER, FAIL, (), False),
    ("503, after an hour", failed(FailureKind.SERVER), Situation("a", past=[past(age=3600)]), About.PROVIDER, FAIL, (), False),
    ("503, fifth, a route", failed(FailureKind.SERVER), Situation("a", past=[past()] * 4, others=["b"], routed=True), About.PROVIDER, (0, 0), ("a",), False),
    ("503, third, others get answers", failed(FailureKind.SERVER), Situation("a", past=[past()] * 2, others_succeed=True), About.PROVIDER, FAIL, (), False),
    ("no connection, fifth", failed(FailureKind.NETWORK, "connect_error"), Situation("a", past=[past(code="connect_error")] * 4), About.PROVIDER, (30, 60), (), False),
    ("too long, a larger one", failed(FailureKind.CONTEXT_LENGTH), Situation("a", others=["b", "c"], larger=["c"], routed=True), About.NOTHING, (0, 0), ("a", "b"), False),
    ("too long, none larger", failed(FailureKind.CONTEXT_LENGTH), Situation("a", others=["b"], routed=True), About.NOTHING, FAIL, (), False),
    ("429, third, a route", failed(FailureKind.RATE_LIMIT), Situation("a", past=[past(outcome=Outcome.RATE_LIMITED)] * 2, others=["b"], routed=True), About.POOL, (0, 0), ("a",), False),
    ("429, second, a route", failed(FailureKind.RATE_LIMIT), Situation("a", past=[past(outcome=Outcome.RATE_LIMITED)], others=["b"], routed=True), About.POOL, (0.5, 4), (), False),
    ("429, third, not in a row", failed(FailureKind.RATE_LIMIT), Situation("a", past=[past(outcome=Outcome.RATE_LIMITED), past(), past(outcome=Outcome.RATE_LIMITED)], others=["b"], routed=True), About.POOL, (0.5, 4), (), False),
    ("429, third, the other is busy", failed(FailureKind.RATE_LIMIT), Situation("a", past=[past(outcome=Outcome.RATE_LIMITED)] * 2, others=["b"], busy=["b"], routed=True), About.POOL, (0.5, 8), (), False),
    ("429, a long wait, a route", failed(FailureKind.RATE_LIMIT, retry_after=60), Situation("a", others=["b"], routed=True), About.POOL, (0, 0), ("a",), False),
    ("429, route used up", failed(FailureKind.RATE_LIMIT), Situation("b", past=[past(outcome=Outcome.RATE_LIMITED)] * 3, left=["a"], routed=True), About.POOL, (0.5, 16), (), True),
    ("429, route used up, one refused", failed(FailureKind.RATE_LIMIT), Situation("b", past=[past(outcome=Outcome.REJECTED), past("c")], left=["a", "c"], routed=True), About.POOL, (0.5, 2), ("a",), True),
    ("silence, a route", failed(FailureKind.NETWORK, "timeout"), Situation("a", others=["b"], routed=True), About.PROVIDER, (0, 0), ("a",), False),
    ("silent stream, a route", failed(FailureKind.NETWORK, "stream_silent"), Situation("a", others=["b"], routed=True), About.PROVIDER, (0, 0), ("a",), False),
    ("silence, the other is busy", failed(FailureKind.NETWORK, "timeout"), Situation("a", others=["b"], busy=["b"], routed=True), About.PROVIDER, (0.2, 1.0), (), False),
    ("silence, no route", failed(FailureKind.NETWORK, "timeout"), Situation("a"), About.PROVIDER, (0.2, 1.0), (), False),
    ("slow first token", failed(FailureKind.NETWORK, "first_token_timeout"), Situation("a", others=["b"], routed=True), About.NOTHING, (0, 0), ("a",), False),
    ("a probe fails", failed(FailureKind.SERVER), Situation("a", others=["b"], routed=True, shut=True, outage=True), About.PROVIDER, (0, 0), ("a",), False),
    ("a probe fails, the other is busy", failed(FailureKind.SERVER), Situation("a", others=["b"], busy=["b"], routed=True, shut=True), About.PROVIDER, (0.2, 1.0), (), False),
    ("prefill, a further one", PREFILL, Situation("b", past=[past()] * 2, others=["c"], left=["a"], routed=True), About.NOTHING, (0, 0), ("b",), False),
    ("prefill, back to who was in trouble", PREFILL, Situation("b", past=[past()] * 2, left=["a"], routed=True), About.NOTHING, (22.5, 45), ("b",), True),
    ("prefill, the other refused too", PREFILL, Situation("b", past=[past(outcome=Outcome.REJECTED)], left=["a"], routed=True), About.NOTHING, FAIL, (), False),
    ("prefill, no route", PREFILL, Situation("b"), About.NOTHING, FAIL, (), False),
    ("a page, doubted", PAGE, Situation("a", doubted=True), About.ENDPOINT, (1, 2), (), False),
    ("a page, a route", PAGE, Situation("a", others=["b"], routed=True), About.ENDPOINT, (0, 0), ("a",), False),
    ("a page among answers", PAGE, Situation("a"), About.PROVIDER, (0.2, 1.0), (), False),
    ("a page among answers, fifth, in an outage", PAGE, Situation("a", past=[past()] * 4, outage=True), About.PROVIDER, FAIL, (), False),
    ("404, back to who was in trouble", failed(FailureKind.MODEL), Situation("b", past=[past()] * 2, left=["a"], routed=True), About.MODEL, (22.5, 45), ("b",), True),
    ("400", failed(FailureKind.BAD_REQUEST), Situation("a", others=["b"], routed=True, another_key=True), About.NOTHING, FAIL, (), False),
    ("413", failed(FailureKind.TOO_LARGE), Situation("a", others=["b"], routed=True), About.NOTHING, FAIL, (), False),
    ("filter", failed(FailureKind.CONTENT_FILTER), Situation("a", others=["b"], routed=True), About.NOTHING, FAIL, (), False),
]  # fmt: skip


@pytest.mark.parametrize(("failure", "situation", "about", "delay", "exclude", "forgive"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])  # fmt: skip
def test_the_table_of_the_design(
    failure: Failure,
    situation: Situation,
    about: About,
    delay: tuple[float, float] | str,
    exclude: tuple[str, ...],
    forgive: bool,
) -> None:
    for seed in range(30):
        verdict = decide(failure, situation, random.Random(seed))
        assert (verdict.about, verdict.exclude, verdict.forgive) == (about, exclude, forgive)
        assert verdict.fails == (delay == FAIL)
        if not isinstance(delay, str):
            assert verdict.delay is not None
            assert delay[0] <= verdict.delay <= delay[1]


@pytest.mark.parametrize("kind", list(FailureKind))
def test_every_kind_of_failure_has_its_name_in_the_ledger(kind: FailureKind) -> None:
    maybe_billed = kind is FailureKind.NETWORK
    assert (outcome_of(failed(kind)) is Outcome.UNKNOWN) == maybe_billed
    assert outcome_of(failed(kind)) is not Outcome.SUCCEEDED
    assert outcome_of(None) is Outcome.SUCCEEDED


@pytest.mark.parametrize(
    ("kind", "status", "unbilled"),
    [
        (FailureKind.RATE_LIMIT, 429, True),
        (FailureKind.RATE_LIMIT, 200, True),
        (FailureKind.QUOTA, 200, True),
        (FailureKind.AUTH, 401, True),
        (FailureKind.BAD_REQUEST, 422, True),
        (FailureKind.MODEL, 404, True),
        (FailureKind.SERVER, 503, True),
        (FailureKind.SERVER, 200, False),
        (FailureKind.SERVER, 504, False),
        (FailureKind.SERVER, 524, False),
        (FailureKind.SERVER, 408, False),
        (FailureKind.NETWORK, 0, False),
        (FailureKind.NETWORK, 200, False),
        (FailureKind.CONTENT_FILTER, 200, False),
        (FailureKind.CONTENT_FILTER, 400, True),
    ],
)
def test_only_refusals_and_errors_by_status_are_known_to_be_unbilled(
    kind: FailureKind, status: int, unbilled: bool
) -> None:
    assert is_unbilled(Failure(kind, "x", "x", status), status) is unbilled
    assert not is_unbilled(None, 200)
