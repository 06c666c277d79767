"""What comes next for a job whose call failed: one pure function of the failure, the job's history and its lane.

It does nothing itself: no clock, no network, no database. Sending again is the queue's business, so this is the only retry rule.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from models.request import Failure, FailureKind, FailureScope
from models.states import NEVER_REACHED, WRONG_ENDPOINT, Outcome
from worker.first_token import FIRST_TOKEN_TIMEOUT

LONGEST_SNOOZE = 60.0
FIRST_SNOOZE = 15.0
"""Trebled each time, and never cut below half: so five attempts last longer than a minute's outage."""
RATE_LIMITS_IN_A_ROW = 10
RATE_LIMITS_BEFORE_ANOTHER = 3
"""The 429 in a row, at one provider, after which a job goes to another candidate of its route."""
DOUBT = (1.0, 2.0)
"""Seconds between two calls of a job to an address that may not be the API's."""
LONG_WAIT = 5.0
"""A provider that states a longer wait is left at once, where another candidate is free: its pool cools anyway."""
FAILURES_WHILE_OTHERS_SUCCEED = 3
IN_AN_OUTAGE = 6
"""So many times the attempts are allowed at a provider while it fails everybody: some job has to try whether that is over."""
MAYBE_BILLED_IN_AN_OUTAGE = 3
"""The same, for calls that may have to be paid for: those that broke off."""
NEVER_LEFT = NEVER_REACHED
"""Codes of calls that never reached the provider: they are no real attempts."""
SILENT = frozenset({"timeout", "stream_silent", FIRST_TOKEN_TIMEOUT})
"""Codes of calls that were given up because nothing came: repeated at the same provider, they would take as long again."""


class About(StrEnum):
    """What a failure tells about more than this one job."""

    NOTHING = "nothing"
    POOL = "pool"
    """A 429: the pool's pacing is emptied, several of them cool it."""
    ACCOUNT = "account"
    """The pool's money is used up: its keys are quarantined."""
    KEY = "key"
    """The key was refused: to be confirmed by the free model list."""
    KEY_MODEL = "key_model"
    """This key may not use this model; remembered for ten minutes."""
    MODEL = "model"
    """The provider doesn't have this model; remembered for ten minutes."""
    PROVIDER = "provider"
    """The provider is in trouble: counted by the breaker."""
    ENDPOINT = "endpoint"
    """What answers isn't the provider's API: its address is doubted, and the breaker counts nothing."""


@dataclass(frozen=True, slots=True)
class Past:
    """One earlier call of the job. `age` is seconds before now."""

    provider: str
    model: str
    key_id: str
    outcome: Outcome
    error_code: str | None
    age: float


@dataclass(frozen=True, slots=True)
class Situation:
    """Where the job stands.

    `others` are the route's providers that it may still go to; `busy` those of them that can't take it now, `larger` those whose
    context window is larger than the one that was too small, or unknown. `left` are those that it has been at and may not go to
    again. `another_key` and `another_model`: this provider has an
    untried key for the model, or a fallback for it. `others_succeed`: the provider answered nearly all other jobs since this one's
    first failure; `outage`: it fails them all, or did so within the last minute; `shut`: its breaker is open; `doubted`: what answers
    may not be its API. `past` is oldest first, without this call.
    """

    provider: str
    past: Sequence[Past] = ()
    others: Sequence[str] = ()
    busy: Sequence[str] = ()
    left: Sequence[str] = ()
    larger: Sequence[str] = ()
    routed: bool = False
    another_key: bool = False
    another_model: bool = False
    others_succeed: bool = False
    outage: bool = False
    shut: bool = False
    doubted: bool = False
    retry_for: float = 3600.0
    max_attempts: int = 5

    @property
    def another_free(self) -> bool:
        """Whether another provider of the route can take the job now."""
        return any(name not in self.busy for name in self.others)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do. `delay` None: the job fails with the failure's code (or `code`); else it waits so many seconds in its lane.

    `exclude` lists the providers of the route that it may not go to again; `forgive` starts the route anew, without those alone.
    """

    about: About
    delay: float | None
    exclude: tuple[str, ...] = ()
    forgive: bool = False
    code: str | None = None

    @property
    def fails(self) -> bool:
        return self.delay is None


def decide(failure: Failure, situation: Situation, rng: random.Random) -> Verdict:
    """The verdict of design §7 on one failed call."""
    here = (situation.provider,)
    if failure.scope is FailureScope.ENDPOINT:
        verdict = _elsewhere(About.ENDPOINT, situation, rng)
        if not verdict.fails:
            return verdict
        if situation.doubted:
            return Verdict(About.ENDPOINT, max(failure.retry_after or 0.0, rng.uniform(*DOUBT)), code=WRONG_ENDPOINT)
    match failure.kind:
        case FailureKind.RATE_LIMIT:
            return _rate_limited(failure, situation, rng)
        case FailureKind.QUOTA:
            return Verdict(About.ACCOUNT, 0.0)
        case FailureKind.AUTH:
            return Verdict(About.KEY, 0.0)
        case FailureKind.KEY_MODEL if failure.scope is FailureScope.REQUEST:
            # a 403 that names neither key nor model, such as a firewall's page: another provider may take the request
            return _elsewhere(About.NOTHING, situation, rng)
        case FailureKind.KEY_MODEL:
            if situation.another_key or situation.another_model:
                return Verdict(About.KEY_MODEL, 0.0)
            return _elsewhere(About.KEY_MODEL, situation, rng)
        case FailureKind.MODEL:
            if situation.another_model:
                return Verdict(About.MODEL, 0.0)
            return _elsewhere(About.MODEL, situation, rng)
        case FailureKind.SERVER | FailureKind.NETWORK:
            return provider_failed(failure, situation, rng)
        case FailureKind.CONTEXT_LENGTH:
            if situation.larger:
                smaller = [name for name in situation.others if name not in situation.larger]
                return Verdict(About.NOTHING, 0.0, exclude=(*here, *smaller))
            return Verdict(About.NOTHING, None)
        case FailureKind.BAD_REQUEST if failure.scope is FailureScope.MODEL:
            # the model lacks what the request needs, such as going on with a half-written answer; another may have it
            return _elsewhere(About.NOTHING, situation, rng)
        case _:
            return Verdict(About.NOTHING, None)


def _rate_limited(failure: Failure, situation: Situation, rng: random.Random) -> Verdict:
    in_a_row = here_in_a_row = 0
    for past in reversed(situation.past):
        if past.outcome is not Outcome.RATE_LIMITED:
            break
        here_in_a_row += past.provider == situation.provider and here_in_a_row == in_a_row
        in_a_row += 1
    if situation.another_free and (
        here_in_a_row + 1 >= RATE_LIMITS_BEFORE_ANOTHER or (failure.retry_after or 0.0) > LONG_WAIT
    ):
        return Verdict(About.POOL, 0.0, exclude=(situation.provider,))
    if in_a_row + 1 >= RATE_LIMITS_IN_A_ROW and situation.others_succeed and not situation.others:
        return Verdict(About.POOL, None)
    if failure.retry_after is not None:
        # never earlier than told; spread, so that those told the same don't come back together
        delay = failure.retry_after + rng.uniform(0.0, max(0.5, failure.retry_after * 0.2))
    else:
        delay = rng.uniform(0.5, min(LONGEST_SNOOZE, 2.0 ** min(in_a_row + 1, 9)))
    if situation.routed and not situation.others:
        return Verdict(About.POOL, delay, exclude=_refused_by(situation), forgive=True)
    return Verdict(About.POOL, delay)


def _elsewhere(about: About, situation: Situation, rng: random.Random) -> Verdict:
    """The job can't be done here: another candidate takes it, if need be one that it left because that was in trouble."""
    if situation.others:
        return Verdict(about, 0.0, exclude=(situation.provider,))
    broken = [past for past in situation.past if past.outcome in (Outcome.FAILED, Outcome.UNKNOWN)]
    refused = _refused_by(situation)
    in_time = not broken or max(past.age for past in broken) < situation.retry_for
    if set(situation.left) <= set(refused) or not in_time or len(broken) >= situation.max_attempts:
        return Verdict(about, None)
    return Verdict(about, _snooze(len(broken), rng), exclude=(situation.provider, *refused), forgive=True)


def _snooze(failures: int, rng: random.Random) -> float:
    longest = min(LONGEST_SNOOZE, FIRST_SNOOZE * 3.0 ** min(max(failures - 1, 0), 9))
    return rng.uniform(longest / 2, longest)


def _refused_by(situation: Situation) -> tuple[str, ...]:
    """Those that the job has left and whose last word on it was a refusal, or that were never asked: nothing has changed for them."""
    last = {past.provider: past.outcome for past in situation.past}
    return tuple(name for name in situation.left if last.get(name, Outcome.REJECTED) is Outcome.REJECTED)


def provider_failed(failure: Failure, situation: Situation, rng: random.Random) -> Verdict:
    """The provider is in trouble: one retry, the next of the route, else a snooze until time or attempts are used up.

    While another candidate is free there is no retry after a silence, nor by a probe of a provider whose breaker is open.
    """
    about = About.NOTHING if failure.code == FIRST_TOKEN_TIMEOUT else About.PROVIDER
    broken = [past for past in situation.past if past.outcome in (Outcome.FAILED, Outcome.UNKNOWN)]
    real = [past for past in broken if past.error_code not in NEVER_LEFT]
    now_real = failure.code not in NEVER_LEFT
    unclear = sum(past.outcome is Outcome.UNKNOWN for past in real)
    now_unclear = now_real and outcome_of(failure) is Outcome.UNKNOWN
    here = [past for past in broken if past.provider == situation.provider]
    if situation.another_free and (failure.code in SILENT or situation.shut):
        return Verdict(about, 0.0, exclude=(situation.provider,))
    if not here:
        return Verdict(about, max(failure.retry_after or 0.0, rng.uniform(0.2, 1.0)))
    if situation.others:
        return Verdict(about, 0.0, exclude=(situation.provider,))
    if max(past.age for past in broken) >= situation.retry_for:
        return Verdict(about, None)
    # in an outage of several providers each is asked as often, and none of it is the job's fault
    outage = situation.outage and failure.scope is not FailureScope.ENDPOINT
    counted = [past for past in real if past.provider == situation.provider] if outage else real
    if len(counted) + now_real >= situation.max_attempts * (IN_AN_OUTAGE if outage else 1):
        return Verdict(about, None)
    if unclear + now_unclear >= situation.max_attempts * MAYBE_BILLED_IN_AN_OUTAGE:
        return Verdict(about, None)
    if len(here) + 1 >= FAILURES_WHILE_OTHERS_SUCCEED and situation.others_succeed and not situation.routed:
        return Verdict(about, None)
    delay = max(failure.retry_after or 0.0, _snooze(len(broken), rng))
    if situation.routed:
        return Verdict(about, delay, exclude=_refused_by(situation), forgive=True)
    return Verdict(about, delay)


def before_that(provider: str, past: Sequence[Past]) -> str:
    """How the other providers of its route failed a job that fails now at `provider`, as the end of a sentence; empty if none did."""
    codes: dict[str, dict[str, None]] = {}
    for one in past:
        if one.provider != provider and one.outcome is not Outcome.SUCCEEDED:
            codes.setdefault(one.provider, {})[one.error_code or one.outcome] = None
    return "; ".join(f"{name}: {', '.join(its)}" for name, its in codes.items())


OUTCOMES = {
    FailureKind.RATE_LIMIT: Outcome.RATE_LIMITED,
    FailureKind.SERVER: Outcome.FAILED,
    FailureKind.NETWORK: Outcome.UNKNOWN,
}


def outcome_of(failure: Failure | None) -> Outcome:
    """How the ledger names a call that ended so."""
    if failure is None:
        return Outcome.SUCCEEDED
    return OUTCOMES.get(failure.kind, Outcome.REJECTED)


BEFORE_ANY_WORK = frozenset({FailureKind.RATE_LIMIT, FailureKind.QUOTA, FailureKind.AUTH})
"""A call refused for these has cost nothing, whatever status carries the refusal."""
GAVE_UP_WAITING = frozenset({408, 499, 504, 524})
"""Statuses of a gateway, or of the provider, that didn't wait for the model to finish: the model may have, and is billed then."""


def is_unbilled(failure: Failure | None, http_status: int) -> bool:
    """Returns whether a failed call is known not to be billed: vendors bill no request that they refuse or fail with an error status
    (Gemini docs: billing; OpenAI and Anthropic bill by the usage of answers). An error inside a reply of status 200 may come after
    paid work."""
    if failure is None:
        return False
    return failure.kind in BEFORE_ANY_WORK or (http_status >= 400 and http_status not in GAVE_UP_WAITING)
