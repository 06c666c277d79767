"""ONE job, the main path: prepare → (reserved and announced by the runner) → send → read → judge → price → ending.

It claims nothing, limits nothing and stores nothing itself; `worker.runner` does that, around it.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import orjson
import redis.exceptions

from models.config import Config
from models.errors import StorageError, Untranslatable
from models.formats.simple import simple_input
from models.guesses import characters
from models.packing import Packer
from models.prices import charged, of_text, price
from models.request import SIMPLE, Failure, FailureKind, FailureScope, Request, Response
from models.states import EMPTY_ANSWER, WRONG_ENDPOINT, JobStatus, Outcome
from models.store import attempts as attempt_store
from models.store.claims import Claimed
from models.store.cooldowns import SHOWN_SECONDS
from models.store.endings import Answer, AttemptEnd, Ending
from worker import demise, first_token, routing, tracing
from worker.bookings import NOTHING_TAKEN, Bookings
from worker.candidates import Candidates, Pair
from worker.cooldowns import Cooldowns, named_by
from worker.day_waits import DayWaits
from worker.endpoint import Endpoint
from worker.experience import Cooling, Experience, Kind
from worker.failover import (
    About,
    Past,
    Situation,
    Verdict,
    before_that,
    decide,
    is_unbilled,
    outcome_of,
    provider_failed,
)
from worker.first_token import FIRST_TOKEN_TIMEOUT, FirstToken
from worker.http import SendError
from worker.in_flight import InFlight
from worker.keys import MOST_MODELS, QUOTA_SECONDS, KeyRing
from worker.limits.limiter import Charge, Grant, LimitedKey, Limiter, TooLarge, Want, believed
from worker.prepared import NoKey, Prepared
from worker.providers.base import Provider
from worker.providers.masks import masked, provider_secrets, without_secrets
from worker.recorder import INTERNAL_ERROR, Recorder
from worker.single_calls import one_call, then
from worker.stated import Stated
from worker.tracing import Trace

log = logging.getLogger("truckllm.engine")

_COUNTED: dict[FailureKind, Kind] = {
    FailureKind.SERVER: "bad",
    FailureKind.NETWORK: "bad",
    FailureKind.RATE_LIMIT: "limited",
}
_OF_THE_API = {
    FailureKind.RATE_LIMIT,
    FailureKind.QUOTA,
    FailureKind.MODEL,
    FailureKind.CONTEXT_LENGTH,
    FailureKind.CONTENT_FILTER,
}
"""Failures that no other server would report: the address is right."""
_OUTCOMES: dict[Kind, tuple[Outcome, ...]] = {
    "bad": (Outcome.FAILED, Outcome.UNKNOWN),
    "limited": (Outcome.RATE_LIMITED,),
}
LET_IN_SECONDS = 2.0
AFTERMATH_SECONDS = 60.0
"""How long after an outage a job's calls that went into it aren't held against it: who is just back may stumble."""


@dataclass(frozen=True, slots=True)
class Finished:
    """What a call came to: the job's ending, what the limits should have booked, and whether the provider was at fault."""

    ending: Ending
    actual: Charge | None
    provider_failed: bool | None
    """None: it was never asked, or was left while it was at work."""
    stuck: bool = False
    """The job has failed here, or before, and again, at no cost, and isn't given up."""


class Engine:
    """The main path of one provider in one process."""

    def __init__(
        self,
        config: Config,
        provider: Provider,
        ring: KeyRing,
        limiter: Limiter,
        recorder: Recorder,
        candidates: Candidates,
    ) -> None:
        self.config = config
        self._candidates = candidates
        self.provider = provider
        self.ring = ring
        self.bookings = Bookings(provider, ring)
        self._limiter = limiter
        self._recorder = recorder
        self._rng = random.Random()
        self._secrets = provider_secrets(provider.config)
        self._pack = Packer()
        self.shut: Callable[[], bool] = lambda: False
        """Whether the provider's breaker is open, as far as is known here."""
        self.alone = False
        """Whether this is the process of suspects."""
        self._shut_at = float("-inf")
        self.told_until = float("-inf")
        """Until when (time.monotonic) it has asked to be left alone, where it had failed."""
        self.endpoint = Endpoint(provider.name, ring.lists_models)
        self._experience = Experience()
        self._of_models: dict[str, Experience] = {}
        self._cooling = Cooling(self._rng)
        self.cooldowns = Cooldowns(provider.config, limiter, recorder, self._cooling)
        self.day_waits = DayWaits(recorder)
        self.in_flight = InFlight()
        self._stated = Stated(limiter)
        self.latency_ms: float | None = None
        """Mean latency of its answers, recent ones weighing more."""

    @property
    def name(self) -> str:
        return self.provider.name

    # Before the call

    async def take_over(self) -> None:
        """Takes over which keys are out of use and what cools down, and tells Redis. Raises redis errors, StorageError."""
        await self.ring.take_over()
        await self.cooldowns.take_over()

    async def refresh(self) -> None:
        """The same, and looks after quarantines whose time has come."""
        await self.ring.refresh()
        await self.cooldowns.take_over()

    @property
    def rests(self) -> bool:
        """Whether no call can be made here for any model: the address is wrong, or each key is out of use or cools down, as far as is
        stored."""
        if self.endpoint.wrong or self.ring.all_out:
            return True
        return self.cooldowns.seconds(self.ring.usable(""), "") > 0

    def cools(self, model: str) -> float:
        """Returns for how many seconds no key is worth asking for a call of this model: each cools down, as far as is stored, or has
        used up its day."""
        return max(self.cooldowns.seconds(self.ring.usable(model), model), self.day_waits.seconds(model))

    def may_take(self, model: str) -> bool:
        """Whether a key may be used now for the model or one of its fallbacks, as far as is known."""
        return not self.rests and any(
            self.ring.usable(one) and not self.cools(one) for one in self.ring.models_to_try(model)
        )

    def prepare(self, job: Claimed, since: float) -> Prepared | NoKey | Ending:
        """What to ask the limiter for, of a job claimed at `since`; or its ending, when what is known makes the call pointless."""
        asked = routing.model_for(self.config, job.lane, self.name, job.model)
        models = self._models(job, asked)
        if not models:
            gone = self.ring.model_gone(asked)
            return self._without_call(
                job,
                self._not_sent(gone) if gone else Failure(FailureKind.MODEL, "model_not_found", f"no model {asked!r}"),
            )
        if not self.ring.untried(job.id, models):
            self.ring.refusals.forget(job.id)
        model = next((one for one in models if self.ring.usable_for(job.id, one)), None)
        if model is None:
            refused = self.ring.refused_by_all(models[0])
            return self._without_call(job, self._not_sent(refused)) if refused else NoKey(job)
        try:
            source = simple_input(job.body) if job.dialect == SIMPLE else orjson.loads(job.body)
        except ValueError as error:
            return self._without_call(job, Failure(FailureKind.BAD_REQUEST, "unreadable_input", str(error)))
        body = None if job.dialect == SIMPLE else job.body
        request = Request(model, source, dialect=job.dialect, operation=job.operation, body=body)
        try:
            size = characters(source)
            keys = self.ring.usable_for(job.id, model)
            charge = self.bookings.charge(request, size, keys)
        except Exception as error:
            self._check_memory(error)
            log.exception("provider %s failed to tell what a call takes", self.name)
            message = f"the provider's plugin raised {type(error).__name__}"
            return self._without_call(job, Failure(FailureKind.BAD_REQUEST, "plugin_error", message))
        # the job's own id: whoever asks for it again goes on with the hold that it has
        return Prepared(job, request, size, Want(str(job.id), charge, keys, model), since)

    def _models(self, job: Claimed, asked: str) -> list[str]:
        """What the job may ask for here: its model and the fallbacks, unless its batch forbids those; without what is known to be gone."""
        return [model for model in self.ring.models_to_try(asked) if model == asked or not job.no_fallback]

    def _others(self, job: Claimed) -> list[str]:
        """The other providers that the job may still go to."""
        return [] if job.no_fallback else routing.others(self.config, job.lane, self.name, job.excluded)

    def _pairs(self, job: Claimed) -> list[Pair]:
        """Those with the models that the route asks them for."""
        return [(name, routing.model_for(self.config, job.lane, name, job.model)) for name in self._others(job)]

    def _left(self, job: Claimed) -> list[str]:
        """The providers of the job's route that it may not go to again."""
        gone = routing.excluded(job.excluded)
        return list(dict.fromkeys(name for name, _ in routing.candidates(self.config, job.lane) if name in gone))

    def elsewhere(self, prepared: Prepared, currency: str) -> str | None:
        """Returns the `excluded` with which a job goes to a candidate of its route that has a price in this currency; None if there is
        none. Where all of those have failed it already, they are tried again."""
        job = prepared.job
        priced = [] if job.no_fallback else routing.priced(self.config, job.lane, self.name, prepared.request, currency)
        if not priced:
            return None
        gone = set(routing.excluded(job.excluded))
        return routing.excluding("" if gone.issuperset(priced) else job.excluded, (self.name,))

    def unready(self, job: Claimed, error: Exception) -> Ending:
        """The ending of a job that made our code raise before its call. It fails for good: the next worker would raise as well. Raises
        MemoryError where that was behind it."""
        self._check_memory(error)
        message = f"its call could not be prepared ({type(error).__name__}); the worker's log tells where"
        failure = Failure(FailureKind.BAD_REQUEST, INTERNAL_ERROR, message)
        return self._ending(job, None, failure, Verdict(About.NOTHING, None))

    def may_launch(self, prepared: Prepared, key: LimitedKey) -> bool:
        """Whether a call that was granted some moments ago is still to go out: not on a key or to a model that has failed
        since, nor on a pool that cools."""
        model = prepared.request.model
        if self.endpoint.wrong or not self.cooldowns.may_launch(key.pool, model):
            return False
        return self.ring.serves(key.name, model)

    def stands(self, prepared: Prepared) -> bool:
        """Whether a prepared job would be prepared in the same way now."""
        model = prepared.request.model
        return (
            self.ring.model_gone(model) is None and self.ring.usable_for(prepared.job.id, model) == prepared.want.keys
        )

    def _not_sent(self, failure: Failure) -> Failure:
        """What was confirmed for other rows, as the failure of a row that isn't sent because of it."""
        return replace(failure, message=f"not sent: {self.name} refused the model for other rows: {failure.message}")

    def _without_call(self, job: Claimed, failure: Failure) -> Ending:
        """The ending of a job that needn't be sent to know how it goes. One that left a provider whose breaker is open goes back to it."""
        situation = Situation(
            provider=self.name,
            others=self._others(job),
            routed=bool(routing.candidates(self.config, job.lane)),
        )
        verdict = decide(failure, situation, self._rng)
        left = self._left(job)
        if verdict.fails and any(self._candidates.shut(name) for name in left):
            answering = [name for name in left if not self._candidates.shut(name)]
            verdict = Verdict(
                verdict.about, self._rng.uniform(5.0, 10.0), exclude=(self.name, *answering), forgive=True
            )
        return self._ending(job, None, failure, verdict)

    def too_large(self, job: Claimed, found: TooLarge) -> Ending:
        """Returns the ending of a job bigger than a whole minute, or a whole day, of every key."""
        span = "day" if found.by_day else "minute"
        unit = found.unit.replace("_", " ")
        message = f"needs {found.amount} {unit}, more than a whole {span}'s limit ({found.limit}) of any key"
        return self._elsewhere(job, Failure(FailureKind.TOO_LARGE, "too_large", message))

    def _elsewhere(self, job: Claimed, failure: Failure) -> Ending:
        """The ending of a job that this provider can never take: another of its route may."""
        others = self._others(job)
        verdict = Verdict(About.NOTHING, 0.0, exclude=(self.name,)) if others else Verdict(About.NOTHING, None)
        return self._ending(job, None, failure, verdict)

    # The call

    async def perform(self, prepared: Prepared, grant: Grant, attempt_id: int) -> Finished:
        """Sends one announced call and says what came of it; never raises for anything a server does."""
        if not prepared.job.traced:
            return await self._perform(prepared, grant, attempt_id, None)
        trace = Trace()
        finished = await self._perform(prepared, grant, attempt_id, trace)
        return replace(finished, ending=one_call(finished.ending, trace, self.provider.config, self._pack))

    async def _perform(self, prepared: Prepared, grant: Grant, attempt_id: int, trace: Trace | None) -> Finished:
        request = replace(prepared.request, api_key=self.ring.secret(grant.key.name))
        started = time.monotonic()
        # refusals come at once, answers may take minutes: who isn't refused soon has been let in
        let_in = asyncio.get_running_loop().call_later(
            LET_IN_SECONDS, self.cooldowns.answered, grant.key.pool, request.model, started
        )
        sent = self.bookings.sent(request, prepared.size, grant.key)
        response: Response | None = None
        try:
            with first_token.bounded(self._first_token(prepared.job)), tracing.into(trace):
                response = without_secrets(await self.provider.generate(request), self._secrets)
        except SendError as error:
            self._check_memory(error)
            lost = Response(b"", error.failure.http_status or 0, failure=error.failure)
            response = without_secrets(lost, self._secrets)
            if not error.sent:
                return await self._judge(prepared, grant, attempt_id, request, response, started, trace, left=False)
        except Untranslatable as error:
            failure = Failure(FailureKind.BAD_REQUEST, "untranslatable", masked(str(error), self._secrets))
            await self._forget(attempt_id)
            return Finished(self._elsewhere(prepared.job, failure), NOTHING_TAKEN, None)
        except Exception as error:
            self._check_memory(error)
            # a plugin's bug must not stop the others; its message may hold anything, so only its kind is told
            log.exception("provider %s failed to handle a call", self.name)
            failure = Failure(
                FailureKind.NETWORK, "plugin_error", f"the provider's plugin raised {type(error).__name__}"
            )
            response = Response(b"", 0, failure=failure)
        finally:
            let_in.cancel()
            self.bookings.ended(sent, response)
        return await self._judge(prepared, grant, attempt_id, request, response, started, trace, left=True)

    def _first_token(self, job: Claimed) -> FirstToken | None:
        """The bound on the time to the first token of this job's call; None where no other candidate is left."""
        seconds = self.provider.config.first_token_seconds
        if seconds is None or not (pairs := self._pairs(job)):
            return None

        async def may_leave() -> bool:
            return len(await self._candidates.busy(pairs, room=True)) < len(pairs)

        return FirstToken(seconds, may_leave)

    def _check_memory(self, error: Exception) -> None:
        """Raises MemoryError if that is what is behind it: it says nothing of the job or of the provider."""
        if demise.memory_is_short(error, alone=self.alone):
            raise error if isinstance(error, MemoryError) else MemoryError(type(error).__name__) from error

    def stumbled(self, job: Claimed, attempt_id: int, error: Exception) -> Ending:
        """The ending of a job whose call went out and whose reply made our code, or a plugin's, raise. What it used stays unknown.

        It fails for good: sent again, it would most likely be paid for again and end in the same way.
        """
        message = f"the reply could not be judged ({type(error).__name__}); the worker's log tells where"
        return Ending(
            job_id=job.id,
            batch_id=job.batch_id,
            epoch=job.epoch,
            status=JobStatus.FAILED,
            attempt=AttemptEnd(attempt_id, self.name, Outcome.UNKNOWN, finished_at=self._recorder.now()),
            error_code=INTERNAL_ERROR,
            error_message=message,
        )

    async def _forget(self, attempt_id: int) -> None:
        try:
            await self._recorder.insist(lambda connection: attempt_store.unsent(connection, [attempt_id]))
        except StorageError as error:
            log.warning("attempt %d could not be taken back: %s", attempt_id, error)

    # After the call

    async def _judge(
        self,
        prepared: Prepared,
        grant: Grant,
        attempt_id: int,
        request: Request,
        response: Response,
        started: float,
        trace: Trace | None,
        *,
        left: bool,
    ) -> Finished:
        job, failure, usage = prepared.job, response.failure, response.usage
        latency = response.latency_ms or int((time.monotonic() - started) * 1000)
        if trace is not None:
            trace.text = response.text
        pricing = self.provider.config.pricing(self.ring.key(grant.key.name), request.model)
        cost, counted_by = charged(usage, pricing) if usage else (None, None)
        if failure is None and response.empty:
            failure = self._empty(job, response)
        kept_empty = failure is None and response.empty
        outcome = outcome_of(failure) if left else Outcome.FAILED
        end = AttemptEnd(
            attempt_id=attempt_id,
            provider=self.name,
            outcome=outcome,
            http_status=response.http_code or None,
            error_code=failure.code[:100] if failure else EMPTY_ANSWER if kept_empty else None,
            served_model=(response.served_model or "")[:300] or None,
            usage=usage,
            cost_nanos=cost.nanos if cost else None,
            currency=cost.currency if cost else None,
            latency_ms=latency,
            finished_at=self._recorder.now(),
            price=counted_by,
            unbilled=not left or is_unbilled(response.failure, response.http_code),
            # without a price of ours for all of it; a cost that the provider reports has none
            least=price(of_text(usage), pricing) if usage and not (cost and cost.price) else None,
        )
        if left and (failure is None or failure.kind is not FailureKind.RATE_LIMIT):
            self.cooldowns.answered(grant.key.pool, request.model, started)
        if response.limits and grant.key.learns:
            await self._stated.take(grant.key, request.model, response.limits)
        actual = None
        if usage:
            self.bookings.learn(request, prepared.size, usage)
            actual = self.bookings.settled(grant.charge, usage, request, prepared.size)
        if failure is None:
            self.ring.answered(grant.key.name, request.model)
            self._lived_through("good", request.model)
            self.endpoint.answered()
            self.latency_ms = (
                latency if self.latency_ms is None else self.latency_ms + (latency - self.latency_ms) * 0.1
            )
            text = response.text
            answer = Answer(
                response=self._pack(response.raw_response),
                text=None if text is None else self._pack(text.encode("utf-8", "replace")),
                finish_reason=response.finish_reason[:64] if response.finish_reason else None,
                request_id=response.request_id[:200] if response.request_id else None,
                empty=kept_empty,
            )
            done = Ending(job.id, job.batch_id, job.epoch, JobStatus.SUCCEEDED, end, answer, excluded=job.excluded)
            return Finished(done, actual, False)
        empty = failure.code == EMPTY_ANSWER  # the provider has answered
        if failure.retry_after is not None:
            failure = replace(failure, retry_after=believed(failure.retry_after))
        if failure.kind in _OF_THE_API and failure.scope is not FailureScope.ENDPOINT:
            self.endpoint.answered()
        left_early = failure.code == FIRST_TOKEN_TIMEOUT
        if failure.kind in _COUNTED and failure.scope is not FailureScope.ENDPOINT and not left_early:
            self._lived_through("good" if empty else _COUNTED[failure.kind], request.model)
        try:
            past = await self._past(job)
        except StorageError:
            past = []
        verdict = await self._verdict(job, request, grant, attempt_id, failure, past)
        if verdict.about is About.PROVIDER and end.outcome is Outcome.REJECTED:
            end = replace(end, outcome=Outcome.FAILED)  # a key that the provider refused and yet accepts
        elif verdict.about is About.ENDPOINT:
            end = replace(end, outcome=Outcome.REJECTED, error_code=WRONG_ENDPOINT)
        if trace is not None:
            trace.failure, trace.next = failure, then(verdict)
        failed = verdict.about is About.PROVIDER and not empty
        if verdict.fails and (before := before_that(self.name, past)):
            failure = replace(failure, message=f"{failure.message} (before that {before})")
        if failed and failure.retry_after:
            self.told_until = max(self.told_until, time.monotonic() + failure.retry_after)
        stuck = failed and end.outcome is Outcome.FAILED and not verdict.fails and job.attempts > 0
        # neither a fault of the provider's nor an answer
        uncounted = left_early or verdict.about is About.ENDPOINT
        return Finished(self._ending(job, end, failure, verdict), actual, None if uncounted else failed, stuck)

    def _empty(self, job: Claimed, response: Response) -> Failure | None:
        """What an empty answer comes to by its batch's option, or else by the configuration; None where it is kept."""
        policy = job.empty_answers or self.config.worker.empty_answers
        if policy == "keep":
            return None
        kind = FailureKind.SERVER if policy == "retry" else FailureKind.BAD_REQUEST
        reason = (
            f"finish reason {masked(response.finish_reason, self._secrets)!r}"
            if response.finish_reason
            else "no reason"
        )
        message = f"the answer is whole and empty ({reason}); --empty-answers keep takes it as it is"
        return Failure(kind, EMPTY_ANSWER, message, response.http_code or None)

    async def _verdict(
        self, job: Claimed, request: Request, grant: Grant, attempt_id: int, failure: Failure, past: Sequence[Past]
    ) -> Verdict:
        """Asks `failover` what is next, and tells keys and limits what the failure means for others."""
        if failure.kind in (FailureKind.KEY_MODEL, FailureKind.MODEL):
            for one in past:  # also what another worker was answered
                if (one.provider, one.outcome, one.error_code) == (self.name, Outcome.REJECTED, failure.code):
                    self.ring.refusals.leave_out(job.id, f"{self.name}/{one.key_id}", one.model)
            await self.ring.model_refused(grant.key.name, request.model, failure, job.id)
        busy = await self._candidates.busy(self._pairs(job))
        situation = self._situation(job, request, past, failure, busy)
        if failure.scope is FailureScope.ENDPOINT:
            situation = replace(situation, doubted=await self.endpoint.doubted(failure, grant.key.name))
        verdict = decide(failure, situation, self._rng)
        try:
            if verdict.about is About.POOL:
                verdict = await self._refused(request, grant, attempt_id, failure, verdict)
            elif verdict.about is About.ACCOUNT and named_by(failure) == "model":
                wait = believed(QUOTA_SECONDS if failure.resets_in is None else failure.resets_in)
                await self.cooldowns.refused(grant.key, request.model, failure, wait)
            elif verdict.about is About.ACCOUNT:
                await self.ring.quarantine_pool(grant.key.name, failure)
            elif verdict.about is About.KEY and not await self.ring.confirm(
                grant.key.name, failure, job.id, self._alike(grant.key.name, failure, past)
            ):
                verdict = provider_failed(failure, situation, self._rng)
        except (redis.exceptions.RedisError, OSError, StorageError) as error:
            log.warning("%s: could not tell the other workers: %s", grant.key.name, type(error).__name__)
        return verdict

    def _alike(self, key: str, failure: Failure, past: Sequence[Past]) -> int:
        """Returns how often the job was refused so with this key before."""
        return sum(f"{one.provider}/{one.key_id}" == key and one.error_code == failure.code for one in past)

    async def _refused(
        self, request: Request, grant: Grant, attempt_id: int, failure: Failure, verdict: Verdict
    ) -> Verdict:
        """Takes in a 429. A job whose model cools down for long goes back to its lane: the limiter holds it there, and lets it go on another
        key, or when the cooldown is ended."""
        cools = await self.cooldowns.refused(
            grant.key,
            request.model,
            failure,
            failure.retry_after,
            sent=max(0.0, time.monotonic() - grant.start_at),
            refused=self.in_flight.refused(attempt_id, failure),
        )
        if cools and verdict.delay is not None and verdict.delay > SHOWN_SECONDS:
            return replace(verdict, delay=self._rng.uniform(1.0, 3.0))
        return verdict

    def _lived_through(self, kind: Kind, model: str) -> None:
        self._experience.add(kind)
        if model not in self._of_models and len(self._of_models) >= MOST_MODELS:
            del self._of_models[next(iter(self._of_models))]
        self._of_models.setdefault(model, Experience()).add(kind)

    async def _past(self, job: Claimed) -> list[Past]:
        rows = await self._recorder.call(lambda connection: attempt_store.history(connection, job.id))
        return [
            Past(
                row["provider"],
                row["requested_model"],
                row["key_id"],
                Outcome(row["outcome"]),
                row["error_code"],
                self._recorder.age(row["started_at"]),
            )
            for row in rows
            # a call whose worker died under it says nothing of the provider, and is no failure of the job's
            if row["epoch"] != job.epoch and (row["outcome"] != Outcome.UNKNOWN or row["error_code"] is not None)
        ]

    def _situation(
        self, job: Claimed, request: Request, past: Sequence[Past], failure: Failure, busy: Sequence[str]
    ) -> Situation:
        asked = routing.model_for(self.config, job.lane, self.name, job.model)
        kind = _COUNTED.get(failure.kind, "bad")
        alike = _OUTCOMES[kind]
        counted = [one for one in past if one.provider == self.name and one.error_code != FIRST_TOKEN_TIMEOUT]
        mine = [one for one in counted if one.outcome in alike]
        # limits are mostly a model's own: that others are answered says nothing of this one's
        experience = self._of_models.get(request.model, self._experience) if kind == "limited" else self._experience
        now = time.monotonic()
        if self.shut():
            self._shut_at = now
        return Situation(
            provider=self.name,
            past=past,
            others=self._others(job),
            busy=busy,
            left=self._left(job),
            larger=[] if job.no_fallback else routing.larger(self.config, job.lane, self.name, job.excluded),
            routed=bool(routing.candidates(self.config, job.lane)),
            another_key=bool(self.ring.usable_for(job.id, request.model)),
            another_model=bool(
                self.ring.untried(job.id, [one for one in self._models(job, asked) if one != request.model])
            ),
            others_succeed=bool(mine) and experience.answers_others(kind, max(one.age for one in mine), len(mine) + 1),
            outage=now - self._shut_at < AFTERMATH_SECONDS,
            shut=self._shut_at == now,
            retry_for=self.config.worker.retry_for,
            max_attempts=self.config.worker.max_attempts,
        )

    def _ending(self, job: Claimed, end: AttemptEnd | None, failure: Failure, verdict: Verdict) -> Ending:
        field = routing.excluding("" if verdict.forgive else job.excluded, verdict.exclude)
        snoozed = None if not verdict.delay else self._recorder.now() + verdict.delay
        return Ending(
            job_id=job.id,
            batch_id=job.batch_id,
            epoch=job.epoch,
            status=JobStatus.FAILED if verdict.fails else JobStatus.QUEUED,
            attempt=end,
            error_code=(verdict.code or failure.code)[:100],
            error_message=failure.message,
            not_before=snoozed,
            excluded=field,
        )
